//! Hot answers and nothing else, to be measured: `cargo run --release --example hits -- 127.0.0.1:8090 [WORKERS]`. With
//! `TLS_ADDRESS CERTIFICATE KEY` behind that they are given over TLS, too, by HTTP/1.1 and HTTP/2.
//!
//! `/m/BYTES` is answered from memory, `/f/BYTES` from a file, up to 100 MiB.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use metacdn::http1::{Block, Extra};
use metacdn::protocol::site_certificate::SiteCertificate;
use metacdn::serve::http1::{
    Caller, Handlers, Hot, HotAnswer, HotBody, HotFile, HotFiles, HotRequest, HotSent, Workers,
};
use metacdn::serve::{Certificates, Config, Proxies, Shown, Transport};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::service_fn;

const SIZES: [usize; 7] = [0, 1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20, 100 << 20];

struct Kept {
    answers: HashMap<String, (Block, HotBody)>,
    sent: AtomicU64,
}

impl Kept {
    fn new() -> anyhow::Result<Self> {
        let mut answers = HashMap::new();
        for size in SIZES {
            let bytes = Bytes::from(vec![b'x'; size]);
            let path = std::env::temp_dir().join(format!("hits-{}-{size}", std::process::id()));
            let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            file.write_all(&bytes)?;
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            headers.insert(header::ETAG, HeaderValue::from_static("\"0123456789abcdef\""));
            headers.insert(header::LAST_MODIFIED, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            let block = Block::new(StatusCode::OK, &headers);
            let file = HotFile { file: Arc::new(file), offset: 0, length: size as u64 };
            let file = HotBody::Files(HotFiles::new([file]));
            answers.insert(format!("/f/{size}"), (block.clone(), file));
            answers.insert(format!("/m/{size}"), (block, HotBody::Memory(bytes)));
        }
        Ok(Self { answers, sent: AtomicU64::new(0) })
    }
}

impl Hot for Kept {
    type Receipt = ();

    fn answer(&self, request: &HotRequest<'_>, _: &Caller) -> Option<HotAnswer<()>> {
        let (block, body) = self.answers.get(request.path_and_query())?;
        let mut extra = Extra::new();
        extra.push_number(&header::AGE, 1).ok()?;
        Some(HotAnswer { block: block.clone(), extra, body: body.clone(), receipt: () })
    }

    fn sent(&self, (): (), sent: HotSent) {
        self.sent.fetch_add(sent.body_bytes, Ordering::Relaxed);
    }
}

fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).context("an address to listen on")?;
    let kept = Arc::new(Kept::new()?);
    let http = service_fn(|_| async {
        let mut answer = Response::new(Full::new(Bytes::from_static(b"nothing is here\n")));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        Ok::<_, Infallible>(answer)
    });
    let workers: NonZeroUsize = std::env::args().nth(2).map_or(Ok(NonZeroUsize::MIN), |count| count.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut doors = vec![(TcpListener::bind(&address).await?, Transport::Plain)];
        if let [Some(address), Some(certificate), Some(key)] = [3, 4, 5].map(|place| std::env::args().nth(place)) {
            let (certificate, key) = (std::fs::read(certificate)?, std::fs::read(key)?);
            let certificate = SiteCertificate::from_pem(&certificate, &key, &[])?;
            let certificates = Certificates::new(vec![Shown { certificate, default: true }])?;
            doors.push((TcpListener::bind(&address).await?, Transport::Public(Arc::new(certificates))));
        }
        let config = Config { connections_max: 20_000, ..Config::default() };
        let handlers = Handlers { http, hot: kept, witness: None };
        let shutdown = CancellationToken::new();
        let mut workers = Workers::start(doors, Proxies::default(), workers, config, handlers, &shutdown)?;
        workers.drained().await?;
        Ok(())
    })
}
