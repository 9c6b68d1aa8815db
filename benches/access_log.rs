//! What a line of the access log costs: in the thread where an answer has ended, and as a part of hits over a socket. What the
//! writer does in its own thread is not counted, and lines with which it does not keep up are dropped as ever. Figures are the
//! time that the thread had a core, so that they mean something on a machine that has other work.

use std::convert::Infallible;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use http_body_util::Full;
use metacdn::edge::access_log::{AccessLog, Config, Counts, Format};
use metacdn::http1::{Block, Extra};
use metacdn::serve::http1::{Caller, Handlers, Hot, HotAnswer, HotBody, HotRequest, HotSent, serve};
use metacdn::serve::{self, AskedFor, Ended, Left, Transport, Witness};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";

/// How many requests are sent at once, so that the calls of the system are a small part of each.
const PIPELINED: usize = 16;

/// How long this thread had a core until now.
fn cpu_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    Duration::from_nanos(told.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
}

/// The same of so many times `run`.
fn cpu_time_of(count: u64, mut run: impl FnMut()) -> Duration {
    let begin = cpu_time();
    (0..count).for_each(|_| run());
    cpu_time().saturating_sub(begin)
}

/// Samples of 150 ms: that time is counted in ticks of the system, of up to 4 ms.
fn configure(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sampling_mode(SamplingMode::Flat).sample_size(60).measurement_time(Duration::from_secs(9));
}

fn log(format: Format) -> (AccessLog, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = Config { path: Some(folder.path().join("log")), format, ..Config::default() };
    // The disk of a machine that measures is not filled.
    let config = Config { rotate_bytes: std::num::NonZeroU64::new(64 << 20), ..config };
    let log = AccessLog::start(&config, Counts::default()).expect("it opens").expect("there is a path");
    (log, folder)
}

fn line(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("access_log");
    configure(&mut group);
    for (name, format) in [("json", Format::Json), ("combined", Format::Combined)] {
        let _runtime = runtime.enter();
        let (log, _folder) = log(format);
        let witness = log.witness(NonZeroUsize::MIN);
        let begun = Instant::now();
        let asked = AskedFor {
            method: b"GET",
            host: b"shop.example.org",
            target: b"/assets/app-3f2a9c.js?v=20",
            range: b"",
            referer: b"https://shop.example.org/cart",
            user_agent: AGENT.as_bytes(),
        };
        let ended = Ended {
            asked,
            version: Version::HTTP_11,
            secured: false,
            client: "203.0.113.77:5000".parse().expect("an address"),
            begun,
            first_byte: Some(Duration::from_micros(12)),
            whole: Duration::from_micros(12),
            status: Some(StatusCode::OK),
            body_bytes: 1024,
            complete: true,
            left: Left::Nothing,
        };
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| cpu_time_of(count, || witness.ended(black_box(&ended))));
        });
    }
    group.finish();
}

struct Kept(Block, Bytes);

impl Hot for Kept {
    type Receipt = ();

    fn answer(&self, _: &HotRequest<'_>, _: &Caller) -> Option<HotAnswer<()>> {
        let body = HotBody::Memory(self.1.clone());
        Some(HotAnswer { block: self.0.clone(), extra: Extra::new(), body, receipt: () })
    }

    fn sent(&self, (): (), _: HotSent) {}
}

/// A server of hits in a thread of this runtime, and a connection to it.
async fn connected(witness: Option<Arc<dyn Witness>>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(1024));
    let hot = Arc::new(Kept(Block::new(StatusCode::OK, &headers), Bytes::from(vec![b'x'; 1024])));
    let http = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) });
    let handlers = Handlers { http, hot, witness };
    tokio::spawn(serve(listener, Transport::Plain, serve::Config::default(), handlers, CancellationToken::new()));
    TcpStream::connect(at).await.expect("it listens")
}

fn hits(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let request = format!(
        "GET /assets/app-3f2a9c.js?v=20 HTTP/1.1\r\nHost: shop.example.org\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\n\
         Referer: https://shop.example.org/cart\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: de\r\n\r\n"
    );
    let requests = request.repeat(PIPELINED).into_bytes();
    let mut group = criterion.benchmark_group("hits");
    group.throughput(Throughput::Elements(PIPELINED as u64));
    configure(&mut group);
    let mut measure = |name: &str, witness: Option<Arc<dyn Witness>>| {
        let mut stream = runtime.block_on(connected(witness));
        let mut answers = Vec::new();
        let mut exchange = || {
            runtime.block_on(async {
                stream.write_all(&requests).await.expect("it takes them");
                // The first round tells how long an answer is.
                let until = if answers.is_empty() { 1 } else { answers.len() };
                if until == 1 {
                    while answers.windows(4).filter(|end| end == b"\r\n\r\n").count() < PIPELINED
                        || !answers.ends_with(&[b'x'; 1024])
                    {
                        stream.read_buf(&mut answers).await.expect("answers");
                    }
                } else {
                    stream.read_exact(&mut answers).await.expect("answers");
                }
            });
        };
        group.bench_function(name, |bencher| bencher.iter_custom(|count| cpu_time_of(count, &mut exchange)));
    };
    measure("without a log", None);
    let entered = runtime.enter();
    let (log, _folder) = log(Format::Json);
    let witness = log.witness(NonZeroUsize::MIN);
    drop(entered);
    measure("with a log", Some(witness));
    group.finish();
}

criterion_group!(benches, line, hits);
criterion_main!(benches);
