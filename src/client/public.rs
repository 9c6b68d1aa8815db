//! TLS to servers that are none of the cluster's: whom the system trusts, or a given authority has certified.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// How to call servers that the system's authorities have certified, or those in the PEM file `further`.
///
/// # Errors
/// When the system has none and no others are given, or the file cannot be read or holds no certificate.
pub fn public_tls(further: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = further {
        let invalid = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        };
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| invalid(&error))? {
            roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
        }
        if roots.len() == before {
            return Err(invalid(&"it holds no certificate"));
        }
    }
    if roots.is_empty() {
        let words = "the system has none: install ca-certificates, or set edge.origin_authority";
        return Err(io::Error::new(io::ErrorKind::NotFound, words));
    }
    Ok(tls_of_authorities(roots))
}

/// How to call servers that one of `roots` has certified: TLS 1.2 or 1.3, without a certificate of our own.
pub fn tls_of_authorities(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
