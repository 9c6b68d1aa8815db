//! Where users come in: plain connections, TLS, and QUIC; and what TLS needs while the edge runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use tokio::net::TcpListener;

use super::certificates::{self, CertificateFileError};
use super::{Core, Listeners};
use crate::serve::{Certificates, Transport};

/// The open sockets for users who come by TLS.
#[derive(Debug)]
pub struct TlsListeners {
    /// For TLS.
    pub tcp: TcpListener,
    /// For HTTP/3, at the same address; without it that is not spoken.
    pub udp: Option<UdpSocket>,
}

/// The ways in.
pub(super) struct Doors {
    /// Those by TCP.
    pub(super) tcp: Vec<(TcpListener, Transport)>,
    /// That by UDP.
    pub(super) udp: Option<UdpSocket>,
    /// What TLS and QUIC show.
    pub(super) certificates: Option<Arc<Certificates>>,
}

impl Doors {
    /// Makes the ways in out of the sockets for users; with those for operators and for other edges, which are another
    /// matter.
    pub(super) fn new(
        core: &Core,
        listeners: Listeners,
    ) -> Result<(Self, TcpListener, Option<TcpListener>), CertificateFileError> {
        let Listeners { public, admin, tls, shield } = listeners;
        let mut doors = Self { tcp: vec![(public, Transport::Plain)], udp: None, certificates: None };
        if let Some(TlsListeners { tcp, udp }) = tls {
            let all = certificates::read(&core.config.certificate)?;
            certificates::note_expiry(core, &core.config.certificate, &all);
            let certificates = Arc::new(Certificates::new(all)?);
            doors.tcp.push((tcp, Transport::Public(certificates.clone())));
            doors.udp = udp;
            doors.certificates = Some(certificates);
        }
        Ok((doors, admin, shield))
    }
}

/// Where a socket that is bound so is reached from this machine.
#[cfg_attr(not(feature = "http3"), expect(dead_code, reason = "only HTTP/3 is tried from here"))]
fn reached_at(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(feature = "http3")]
pub(super) use quic::{Quic, serve};

#[cfg(feature = "http3")]
mod quic {
    use std::convert::Infallible;
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::Arc;
    use std::time::Duration;

    use http::{Request, Response};
    use tokio::task::JoinSet;
    use tracing::{info, warn};

    use super::super::Core;
    use super::super::body::ProxyBody;
    use super::reached_at;
    use crate::serve::http1::{Handlers, Hot};
    use crate::serve::{Certificates, RequestBody, http3};

    /// How long a test may take: loopback is fast, a machine under load is not.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// How often HTTP/3 is tried while it works, and how often until it does.
    const PERIOD: Duration = Duration::from_secs(60);
    const PERIOD_UNTIL_IT_WORKS: Duration = Duration::from_secs(2);

    /// The way in by QUIC.
    pub(in crate::edge) struct Quic {
        pub(in crate::edge) socket: UdpSocket,
        pub(in crate::edge) certificates: Arc<Certificates>,
    }

    /// Serves HTTP/3, and offers it to users while a test of it succeeds.
    pub(in crate::edge) fn serve<S, H>(
        core: &Arc<Core>,
        quic: Quic,
        users: Handlers<S, H>,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<()>
    where
        S: tower::Service<Request<RequestBody>, Response = Response<ProxyBody>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        H: Hot,
    {
        let Quic { socket, certificates } = quic;
        let at = socket.local_addr()?;
        let (limits, stop) = (core.config.serve.clone(), core.stop.clone());
        let serving = http3::serve(socket, certificates.clone(), limits, users, stop);
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                panic!("HTTP/3 is not served, although it should be: {error}");
            }
        });
        tasks.spawn(offer(core.clone(), certificates, at));
        Ok(())
    }

    async fn offer(core: Arc<Core>, certificates: Arc<Certificates>, at: SocketAddr) {
        let mut works = None;
        let trying = async {
            loop {
                match (http3::probe(reached_at(at), &certificates, PATIENCE).await, works) {
                    (Ok(()), before) => {
                        core.alt_svc.offer(at.port());
                        if before != Some(true) {
                            info!(address = %at, "HTTP/3 works and is offered");
                        }
                        works = Some(true);
                    }
                    (Err(_), Some(false)) => {}
                    (Err(error), _) => {
                        core.alt_svc.withdraw();
                        let error: &dyn std::error::Error = &error;
                        warn!(address = %at, error, "HTTP/3 does not work and is not offered");
                        works = Some(false);
                    }
                }
                tokio::time::sleep(if works == Some(true) { PERIOD } else { PERIOD_UNTIL_IT_WORKS }).await;
            }
        };
        core.stop.run_until_cancelled(trying).await;
    }
}
