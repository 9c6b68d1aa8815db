//! Whether HTTP/3 can be spoken with a server here: a handshake, and an answer to a request that nobody has to be asked for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;

use super::super::Certificates;
use super::super::certificates::ALPN_HTTP_3;
use super::super::streams::Calm;
use super::quic::Connection;

/// The head of the answer has some fields.
const HEAD_BYTES_MAX: u64 = 16 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The system has no socket, or no randomness.
    #[error("the system refuses")]
    System(#[from] std::io::Error),
    /// The connection cannot be begun.
    #[error("the connection cannot be begun")]
    Begin(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It failed, or nothing came.
    #[error("the connection failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came in time.
    #[error("nothing came in time")]
    Late,
}

/// Asks the server at `at` for an answer of any kind, by HTTP/3, within `patience`. It has to show one of `certificates`.
///
/// # Errors
/// When there is none.
pub async fn probe(at: SocketAddr, certificates: &Arc<Certificates>, patience: Duration) -> Result<(), ProbeError> {
    let any: SocketAddr = if at.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let endpoint = Endpoint::client(any)?;
    let asked = timeout(patience, ask(&endpoint, at, certificates)).await;
    endpoint.close(quinn::VarInt::from_u32(0x100), b"");
    asked.unwrap_or(Err(ProbeError::Late))
}

async fn ask(endpoint: &Endpoint, at: SocketAddr, certificates: &Arc<Certificates>) -> Result<(), ProbeError> {
    let begin = |error: Box<dyn std::error::Error + Send + Sync>| ProbeError::Begin(error);
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| ProbeError::Connection(error);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(OwnAlone { certificates: certificates.clone(), provider: provider.clone() });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_HTTP_3.to_vec()];
    let tls = QuicClientConfig::try_from(tls).map_err(|error| begin(error.into()))?;
    let name = certificates.some_host();
    let connecting = endpoint.connect_with(ClientConfig::new(Arc::new(tls)), at, &name);
    let connection = connecting.map_err(|error| begin(error.into()))?.await.map_err(|error| failed(error.into()))?;
    let codec = h3::client::new(Connection::new(connection, HEAD_BYTES_MAX, Arc::new(Calm::new()))).await;
    let (mut codec, mut requests) = codec.map_err(|error| failed(error.into()))?;
    // No server here passes this on, or looks anything up for it.
    let host = if name.contains(':') { format!("[{name}]") } else { name };
    let request = Request::builder().method(Method::TRACE).uri(format!("https://{host}/")).body(());
    let request = request.map_err(|error| begin(error.into()))?;
    let answered = async {
        let mut stream = requests.send_request(request).await?;
        stream.finish().await?;
        stream.recv_response().await
    };
    tokio::select! {
        answered = answered => answered.map(drop).map_err(|error| failed(error.into())),
        ended = codec.wait_idle() => Err(failed(ended.into())),
    }
}

/// Believes a server that shows a certificate of its own, whoever has signed it and for how long: the question is whether
/// the way is free.
#[derive(Debug)]
struct OwnAlone {
    certificates: Arc<Certificates>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnAlone {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.has(certificate) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
