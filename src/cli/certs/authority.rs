//! The cluster's authority: the key that signs who is a node, an edge or a client.
//!
//! Works in memory; the command line keeps the files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::Principal;

/// How long certificates live unless the operator says otherwise.
pub const DAYS_DEFAULT: u32 = 365;
/// Ten years: longer than a cluster's machines, short enough to be renewed by someone who knows how.
const AUTHORITY_DAYS: u32 = 3653;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Machines' clocks differ; a certificate that is made now must be good on one that is behind.
const VALID_BEFORE: Duration = Duration::from_secs(60 * 60);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The making itself failed.
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
    /// No randomness for a serial number.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The authority's certificate is not readable.
    #[error("the authority's certificate cannot be read")]
    Certificate,
    /// The authority's key is not readable.
    #[error("the authority's key cannot be read")]
    Key(#[source] rcgen::Error),
    /// The authority's key and certificate are of different pairs.
    #[error("the authority's key does not belong to its certificate: restore both from one backup")]
    KeyMismatch,
    /// The authority itself is out of date.
    #[error("the authority's certificate has expired: make a new authority with `metacdn certs init`")]
    Expired,
    /// What should be signed is not a request.
    #[error("not a certificate request: use the .csr file that `metacdn certs request` made")]
    Request(#[source] rcgen::Error),
    /// Nobody could use the certificate.
    #[error("{0} has no certificate")]
    Nameless(Principal),
    /// A client is never called, so no host is its own.
    #[error("a client's certificate names no hosts: leave out --host")]
    ClientHost,
}

/// The text is not a host that a certificate may name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Neither kind of name.
    #[error("{0:?} is neither a DNS name nor an IP address (give it without a port)")]
    Malformed(String),
    /// The name would say who the holder is.
    #[error("{0:?} is a name that the authority itself gives: name a node, edge or client instead")]
    Reserved(String),
}

/// A host under which the holder of a certificate is reached: a DNS name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(SanType);

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self(SanType::IpAddress(address)));
        }
        if Principal::owns_dns_name(text) {
            return Err(HostError::Reserved(text.to_owned()));
        }
        let malformed = || HostError::Malformed(text.chars().take(300).collect());
        DnsName::try_from(text).map_err(|_| malformed())?;
        Ok(Self(SanType::DnsName(text.try_into().map_err(|_| malformed())?)))
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            SanType::DnsName(name) => f.write_str(name.as_str()),
            SanType::IpAddress(address) => address.fmt(f),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What a certificate shall say: decided by the operator, never by whoever asks for one.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Whose it is.
    pub principal: Principal,
    /// Where the holder is reached, beside the names that follow from who it is.
    pub hosts: Vec<Host>,
    /// How long it is valid.
    pub days: u32,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The authority of one cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    not_after: OffsetDateTime,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn create(now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(now, AUTHORITY_DAYS)?;
        // A name of its own, so that a foreign certificate is told from a forged one.
        let mark: String = random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("metacdn cluster authority {mark}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { not_after: params.not_after, issuer: Issuer::new(params, key), certificate })
    }

    /// Reads an authority back.
    ///
    /// # Errors
    /// When certificate or key cannot be read, or do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| AuthorityError::Certificate)?;
        if !parsed.is_ca() {
            return Err(AuthorityError::Certificate);
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::KeyMismatch);
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { issuer, certificate: certificate.to_owned(), not_after })
    }

    /// The authority's own certificate, in PEM: what every member trusts.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's private key, in PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// When the holder can have none, or the authority is out of date.
    pub fn issue(&self, holder: &Holder, now: SystemTime) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Issued { certificate: self.certify(holder, &key, now)?, key: key.serialize_pem() })
    }

    /// Makes a certificate for the key that a request proves to have; nothing else is taken from the request.
    ///
    /// # Errors
    /// When it is not a request, or as [`Authority::issue`].
    pub fn sign(&self, request: &str, holder: &Holder, now: SystemTime) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(AuthorityError::Request)?;
        self.certify(holder, &request.public_key, now)
    }

    fn certify(&self, holder: &Holder, key: &impl PublicKeyData, now: SystemTime) -> Result<String, AuthorityError> {
        let mut params = params(now, holder.days)?;
        if params.not_before >= self.not_after {
            return Err(AuthorityError::Expired);
        }
        params.not_after = params.not_after.min(self.not_after);
        params.distinguished_name.push(DnType::CommonName, holder.principal.to_string());
        params.subject_alt_names = names(holder)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !matches!(holder.principal, Principal::Client(_)) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// Makes a key and a request for a certificate; `hosts` are a wish that the authority's operator may grant.
///
/// # Errors
/// When the system gives no random numbers.
pub fn request(name: &str, hosts: &[Host]) -> Result<Issued, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = hosts.iter().map(|host| host.0.clone()).collect();
    Ok(Issued { certificate: params.serialize_request(&key)?.pem()?, key: key.serialize_pem() })
}

/// The hosts that a request wishes for.
///
/// # Errors
/// When it is not a request.
pub fn wishes(request: &str) -> Result<Vec<Host>, AuthorityError> {
    let request = CertificateSigningRequestParams::from_pem(request).map_err(AuthorityError::Request)?;
    Ok(request.params.subject_alt_names.into_iter().map(Host).collect())
}

fn names(holder: &Holder) -> Result<Vec<SanType>, AuthorityError> {
    let name = holder.principal.dns_name().ok_or_else(|| AuthorityError::Nameless(holder.principal.clone()))?;
    let mut names = vec![SanType::DnsName(name.try_into()?)];
    match holder.principal {
        Principal::Client(_) if !holder.hosts.is_empty() => return Err(AuthorityError::ClientHost),
        Principal::Client(_) => return Ok(names),
        Principal::Node(_) => names.push(SanType::DnsName(Principal::ANY_NODE.try_into()?)),
        Principal::Edge(_) => names.push(SanType::DnsName(Principal::ANY_EDGE.try_into()?)),
        _ => {}
    }
    names.push(SanType::DnsName("localhost".try_into()?));
    names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    names.push(SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
    for host in &holder.hosts {
        if !names.contains(&host.0) {
            names.push(host.0.clone());
        }
    }
    Ok(names)
}

fn params(now: SystemTime, days: u32) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = calendar(now - VALID_BEFORE);
    params.not_after = calendar(now + DAY * days);
    let mut serial = random::<16>()?;
    // RFC 5280 section 4.1.2.2: positive, so the top bit is clear; a set bit below it keeps the length fixed.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(AuthorityError::Random)?;
    Ok(bytes)
}

fn calendar(time: SystemTime) -> OffsetDateTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    // RFC 5280 section 4.1.2.5 ends at the year 9999; the operator's days may point beyond it.
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::certificate::{CertificateError, Part, certificates, hosts_of};
    use crate::protocol::identity::{Identity, IdentityError};

    fn node(name: &str) -> Holder {
        Holder { principal: Principal::Node(name.parse().unwrap()), hosts: Vec::new(), days: DAYS_DEFAULT }
    }

    fn identity(authority: &Authority, own: &Issued, now: SystemTime) -> Result<Identity, IdentityError> {
        Identity::from_pem(authority.certificate().as_bytes(), own.certificate.as_bytes(), own.key.as_bytes(), now)
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn issued_certificate_is_an_identity() {
        let authority = Authority::create(now()).unwrap();
        let mut holder = node("AWS");
        holder.hosts = vec!["cdn.example.org".parse().unwrap(), "10.0.0.7".parse().unwrap(), "[::1]".parse().unwrap()];
        let own = authority.issue(&holder, now()).unwrap();
        let identity = identity(&authority, &own, now()).unwrap();
        assert_eq!(identity.principal(), &holder.principal);
        assert_eq!(identity.expires_at(), now() + DAY * DAYS_DEFAULT);
        let certificate = &certificates(Part::Certificate, own.certificate.as_bytes()).unwrap()[0];
        assert_eq!(hosts_of(certificate).unwrap(), ["localhost", "127.0.0.1", "::1", "cdn.example.org", "10.0.0.7"]);
        let debug = format!("{identity:?}");
        assert!(debug.contains("AWS") && !debug.to_lowercase().contains("key"), "{debug}");
    }

    #[test]
    fn one_bundle_serves_as_all_three_parts() {
        let authority = Authority::create(now()).unwrap();
        let own = authority.issue(&node("AWS"), now()).unwrap();
        let bundle = [own.key.as_str(), &own.certificate, authority.certificate()].concat();
        let identity = Identity::from_pem(bundle.as_bytes(), bundle.as_bytes(), bundle.as_bytes(), now()).unwrap();
        assert_eq!(identity.principal().to_string(), "node AWS");
    }

    #[test]
    fn authority_reads_back_and_refuses_another_key() {
        let first = Authority::create(now()).unwrap();
        let second = Authority::create(now()).unwrap();
        let read = Authority::from_pem(first.certificate(), &first.key()).unwrap();
        let own = read.issue(&node("GC"), now()).unwrap();
        assert!(identity(&first, &own, now()).is_ok());
        let mixed = Authority::from_pem(first.certificate(), &second.key());
        assert!(matches!(mixed, Err(AuthorityError::KeyMismatch)));
        let leaf = Authority::from_pem(&own.certificate, &own.key);
        assert!(matches!(leaf, Err(AuthorityError::Certificate)));
    }

    #[test]
    fn every_fault_of_an_identity_has_its_own_error() {
        let authority = Authority::create(now()).unwrap();
        let foreign = Authority::create(now()).unwrap();
        let own = authority.issue(&node("AWS"), now()).unwrap();
        let other = authority.issue(&node("GC"), now()).unwrap();
        let fault = |result: Result<Identity, IdentityError>| result.unwrap_err();
        let certificate = |result| match fault(result) {
            IdentityError::Certificate(error) => error,
            error => panic!("{error}"),
        };

        assert!(matches!(certificate(identity(&foreign, &own, now())), CertificateError::Foreign));
        let late = certificate(identity(&authority, &own, now() + DAY * 400));
        assert!(matches!(late, CertificateError::Expired { part: Part::Certificate, .. }));
        assert!(late.to_string().starts_with("the certificate expired at 2028-01-15T08:00:00Z"), "{late}");
        let early = certificate(identity(&authority, &own, now() - DAY));
        assert!(matches!(early, CertificateError::NotYetValid { part: Part::Authority, .. }));
        let dead = certificate(identity(&authority, &own, now() + DAY * 5000));
        assert!(matches!(dead, CertificateError::Expired { part: Part::Authority, .. }));

        let mixed = Issued { certificate: own.certificate.clone(), key: other.key };
        assert!(matches!(fault(identity(&authority, &mixed, now())), IdentityError::KeyMismatch));
        let keyless = Issued { certificate: own.certificate.clone(), key: "no key".to_owned() };
        assert!(matches!(certificate(identity(&authority, &keyless, now())), CertificateError::Missing(Part::Key)));
        let broken = own.certificate.replace("-----END CERTIFICATE-----", "");
        let broken = Issued { certificate: broken, key: own.key.clone() };
        let broken = certificate(identity(&authority, &broken, now()));
        assert!(matches!(broken, CertificateError::Pem { part: Part::Certificate, .. }));
        let swapped = own.certificate.as_bytes();
        let swapped = certificate(Identity::from_pem(swapped, swapped, own.key.as_bytes(), now()));
        assert!(matches!(swapped, CertificateError::NotAnAuthority));
    }

    #[test]
    fn the_operator_decides_what_a_request_gets() {
        let authority = Authority::create(now()).unwrap();
        let wish: Host = "wished.example.org".parse().unwrap();
        let request = request("whatever", std::slice::from_ref(&wish)).unwrap();
        assert_eq!(wishes(&request.certificate).unwrap(), [wish]);
        let certificate = authority.sign(&request.certificate, &node("AWS"), now()).unwrap();
        let own = Issued { certificate, key: request.key };
        assert_eq!(identity(&authority, &own, now()).unwrap().principal().to_string(), "node AWS");
        let certificate = &certificates(Part::Certificate, own.certificate.as_bytes()).unwrap()[0];
        assert!(!hosts_of(certificate).unwrap().iter().any(|host| host.contains("wished")));
        assert!(matches!(authority.sign("nonsense", &node("AWS"), now()), Err(AuthorityError::Request(_))));
    }

    #[test]
    fn only_sensible_holders_get_certificates() {
        let authority = Authority::create(now()).unwrap();
        let holder = |principal| Holder { principal, hosts: vec!["a.org".parse().unwrap()], days: 1 };
        let client = authority.issue(&holder(Principal::Client("Ann".parse().unwrap())), now());
        assert!(matches!(client, Err(AuthorityError::ClientHost)));
        assert!(matches!(authority.issue(&holder(Principal::Operator), now()), Err(AuthorityError::Nameless(_))));
        assert!(matches!(authority.issue(&node("A"), now() + DAY * 5000), Err(AuthorityError::Expired)));
        for bad in ["GC.node.metacdn.internal", "METACDN.internal"] {
            assert!(matches!(bad.parse::<Host>(), Err(HostError::Reserved(_))), "{bad}");
        }
        for bad in ["", "a b", "a:80", "*.a.org", "1.2.3.4.5:9"] {
            assert!(matches!(bad.parse::<Host>(), Err(HostError::Malformed(_))), "{bad}");
        }
    }
}
