//! Reading certificates and judging them: whose they are, until when, and whether the cluster's authority signed them.
//!
//! Works on bytes; where they lie, and the keys that belong to them, are the caller's.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::{Principal, PrincipalError};

/// The part of an identity that an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificate of the cluster's authority.
    Authority,
    /// The holder's own certificate.
    Certificate,
    /// The holder's private key.
    Key,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority => "the authority's certificate",
            Self::Certificate => "the certificate",
            Self::Key => "the key",
        })
    }
}

/// What is wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It has the form of PEM, but is broken.
    #[error("{part} is not valid PEM: copy the whole file, its BEGIN and END lines included")]
    Pem {
        /// Which part.
        part: Part,
        /// Where reading failed.
        source: pem::Error,
    },
    /// There is no PEM section of the kind that is needed.
    #[error("{0} is missing: no such section between BEGIN and END lines")]
    Missing(Part),
    /// The PEM section does not hold a certificate.
    #[error("{0} cannot be read: it is not an X.509 certificate")]
    Malformed(Part),
    /// The file that should hold the authority holds other certificates only.
    #[error(
        "the authority's file holds no certificate of an authority: use authority.pem as `metacdn certs init` made it"
    )]
    NotAnAuthority,
    /// Another authority signed it.
    #[error("the certificate was not signed by this cluster's authority: have it signed with `metacdn certs sign`")]
    Foreign,
    /// Its time is over.
    #[error("{part} expired at {}: issue a new one with `metacdn certs`", instant(.since))]
    Expired {
        /// Which part.
        part: Part,
        /// The end of its validity.
        since: SystemTime,
    },
    /// Its time has not begun.
    #[error("{part} is valid only from {}: compare the clocks of both machines", instant(.from))]
    NotYetValid {
        /// Which part.
        part: Part,
        /// The begin of its validity.
        from: SystemTime,
    },
    /// It does not say who its holder is.
    #[error("the certificate does not say whose it is: {0}")]
    Principal(#[from] PrincipalError),
    /// It breaks another rule of certificates.
    #[error("the certificate cannot be used")]
    Unusable(#[source] webpki::Error),
}

fn instant(time: &SystemTime) -> String {
    jiff::Timestamp::try_from(*time).map_or_else(|_| "a time beyond the calendar".to_owned(), |time| time.to_string())
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// The validity that `certificate` states.
    ///
    /// # Errors
    /// When it is not a certificate.
    pub fn of(part: Part, certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let parsed = parse(part, certificate)?;
        let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = parsed.validity();
        Ok(Self { not_before: time(validity.not_before.timestamp()), not_after: time(validity.not_after.timestamp()) })
    }

    /// Checks that `now` lies within.
    ///
    /// # Errors
    /// With the end that is crossed.
    pub fn check(self, part: Part, now: SystemTime) -> Result<(), CertificateError> {
        if now > self.not_after {
            return Err(CertificateError::Expired { part, since: self.not_after });
        }
        if now < self.not_before {
            return Err(CertificateError::NotYetValid { part, from: self.not_before });
        }
        Ok(())
    }
}

/// The certificates by which a cluster's members know each other: normally one, two while the authority is renewed.
#[derive(Debug, Clone)]
pub struct TrustedAuthority(Vec<CertificateDer<'static>>);

impl TrustedAuthority {
    /// Reads the authority out of PEM, passing over certificates that are not an authority's and those out of date.
    ///
    /// # Errors
    /// When no usable authority is left.
    pub fn from_pem(pem: &[u8], now: SystemTime) -> Result<Self, CertificateError> {
        let mut usable = Vec::new();
        let mut problem = CertificateError::NotAnAuthority;
        for certificate in certificates(Part::Authority, pem)? {
            if !parse(Part::Authority, &certificate)?.is_ca() {
                continue;
            }
            match Validity::of(Part::Authority, &certificate)?.check(Part::Authority, now) {
                Ok(()) => usable.push(certificate),
                Err(error) => problem = error,
            }
        }
        if usable.is_empty() { Err(problem) } else { Ok(Self(usable)) }
    }

    /// The certificates as roots of trust.
    ///
    /// # Errors
    /// When one of them breaks a rule of certificates.
    pub fn roots(&self) -> Result<RootCertStore, CertificateError> {
        let anchors = self.0.iter().map(|certificate| {
            webpki::anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(CertificateError::Unusable)
        });
        Ok(RootCertStore { roots: anchors.collect::<Result<_, _>>()? })
    }

    /// Checks that this authority signed `certificate` and that it is valid `now`.
    ///
    /// # Errors
    /// With the first rule it breaks.
    pub fn check(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(), CertificateError> {
        Validity::of(Part::Certificate, certificate)?.check(Part::Certificate, now)?;
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let parsed = EndEntityCert::try_from(certificate).map_err(CertificateError::Unusable)?;
        let roots = self.roots()?;
        // Every certificate of ours may act as a client, so this one usage serves all roles.
        let verified = parsed.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &roots.roots,
            &[],
            UnixTime::since_unix_epoch(since_epoch),
            KeyUsage::client_auth(),
            None,
            None,
        );
        match verified {
            Ok(_) => Ok(()),
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                Err(CertificateError::Foreign)
            }
            Err(error) => Err(CertificateError::Unusable(error)),
        }
    }
}

/// The caller that a certificate speaks for; whether it may be believed is [`TrustedAuthority::check`]'s.
///
/// # Errors
/// When it is not a certificate, or speaks for nobody or for several.
pub fn principal_of(certificate: &CertificateDer<'_>) -> Result<Principal, CertificateError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(CertificateError::Unusable)?;
    Ok(Principal::from_dns_names(parsed.valid_dns_names())?)
}

/// The further hosts a certificate is good for: DNS names outside our own domain, and IP addresses.
///
/// # Errors
/// When it is not a certificate.
pub fn hosts_of(certificate: &CertificateDer<'_>) -> Result<Vec<String>, CertificateError> {
    Ok(names_of(certificate)?.into_iter().filter(|name| !Principal::owns_dns_name(name)).collect())
}

/// The hosts that a certificate names, in small letters: DNS names, some with `*` for their first label, and IP addresses.
///
/// # Errors
/// When it is not a certificate.
pub fn names_of(certificate: &CertificateDer<'_>) -> Result<Vec<String>, CertificateError> {
    let parsed = parse(Part::Certificate, certificate)?;
    let names = parsed.subject_alternative_name().map_err(|_| CertificateError::Malformed(Part::Certificate))?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    Ok(names.filter_map(host).collect())
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// All certificates in a PEM text, in its order, at least one.
///
/// # Errors
/// When the PEM is broken or holds none.
pub fn certificates(part: Part, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| CertificateError::Pem { part, source })?;
    if found.is_empty() { Err(CertificateError::Missing(part)) } else { Ok(found) }
}

/// Whether a certificate is an authority's.
///
/// # Errors
/// When it is not a certificate.
pub fn is_authority(certificate: &CertificateDer<'_>) -> Result<bool, CertificateError> {
    Ok(parse(Part::Certificate, certificate)?.is_ca())
}

fn parse<'a>(part: Part, certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CertificateError::Malformed(part)),
    }
}
