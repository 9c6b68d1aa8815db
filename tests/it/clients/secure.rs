//! Downloads over TLS and QUIC: curl by HTTP/1.1 and HTTP/2, libcurl as browsers build it by HTTP/3, aioquic, and Chromium.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use super::CLIENT_TIME_MAX;
#[cfg(feature = "http3")]
use super::browsers::ONE_AT_A_TIME;
use crate::cli::noise;
use crate::cluster::{Cluster, put};
use crate::protocols::Secure;

async fn run(program: &str, arguments: &[&str]) -> Output {
    let running = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let ran = timeout(CLIENT_TIME_MAX, running).await.expect("it ends");
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}: run ./test.sh setup"));
    assert!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_files_over_whatever_protocol_they_choose() {
    let cluster = Cluster::start(&["AWS"]).await;
    let bytes = noise(3_000_000, 3);
    put(&cluster.client("AWS"), "folder/a.bin", bytes.clone()).await;
    let secure = Secure::in_front_of(&cluster, |_| {}).await;
    let (authority, url) = (secure.path("authority.pem"), format!("https://{}/folder/a.bin", secure.tls));
    let authority = authority.to_str().unwrap();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--tls-max=1.2", "2")] {
        let flag = flag.split_once('=').map_or(vec![flag], |(flag, value)| vec![flag, value]);
        let common =
            ["--silent", "--show-error", "--fail", "--cacert", authority, "--write-out", "%{stderr}%{http_version}"];
        let got = run("curl", &[&common[..], &flag, &[&url]].concat()).await;
        assert_eq!((got.stdout == bytes, String::from_utf8_lossy(&got.stderr).as_ref()), (true, version), "{flag:?}");
        let part = run("curl", &[&common[..], &flag, &["--range", "1000-1999999", &url]].concat()).await;
        assert!(part.stdout == bytes[1_000..2_000_000], "{flag:?}");
    }
    if cfg!(feature = "http3") {
        for program in ["tests/python/http3_curl.py", "tests/python/http3_aioquic.py"] {
            for (range, expected) in [("", &bytes[..]), ("bytes=1000-1999999", &bytes[1_000..2_000_000])] {
                let got = run(".tools/python/bin/python", &[program, &url, authority, range]).await;
                assert!(got.stdout == expected, "{program} {range}: {} bytes", got.stdout.len());
            }
        }
    }
}

/// What a browser is shown: by which protocol it came itself, and the script before it, and the sum of what that has.
#[cfg(feature = "http3")]
const PAGE: &str = "<!doctype html><script src='numbers.js'></script><script>
const came = kind => performance.getEntriesByType(kind).map(entry => entry.nextHopProtocol).join();
document.title = `${came('navigation')} ${came('resource')} ${numbers.reduce((sum, number) => sum + number)}`;
</script>";

/// The key of a certificate as Chromium wants it named: what it is shown by it, it takes.
#[cfg(feature = "http3")]
fn key_hash(pem: &[u8]) -> String {
    use base64::Engine as _;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).unwrap();
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let hash = suite.common.hash_provider.hash(pem.parse_x509().unwrap().tbs_certificate.subject_pki.raw);
    base64::engine::general_purpose::STANDARD.encode(hash.as_ref())
}

#[cfg(feature = "http3")]
#[tokio::test(flavor = "multi_thread")]
async fn chromium_shows_a_page_by_http3() {
    let cluster = Cluster::start(&["AWS"]).await;
    let numbers: Vec<u32> = (0..200_000).map(|number| number * 7 % 1000).collect();
    put(&cluster.client("AWS"), "page.html", PAGE).await;
    put(&cluster.client("AWS"), "numbers.js", format!("const numbers = {numbers:?};").into_bytes()).await;
    let secure = Secure::in_front_of(&cluster, |_| {}).await;
    let host = format!("localhost:{}", secure.tls.port());
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--headless".to_owned(),
        // As root in a container it has no sandbox, and no large shared memory.
        "--no-sandbox".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--disable-gpu".to_owned(),
        format!("--user-data-dir={}", folder.path().display()),
        // It has nothing to tell its maker.
        "--no-first-run".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        "--disable-domain-reliability".to_owned(),
        "--disable-sync".to_owned(),
        format!(
            "--ignore-certificate-errors-spki-list={}",
            key_hash(&std::fs::read(secure.path("usual.pem")).unwrap())
        ),
        format!("--origin-to-force-quic-on={host}"),
        "--host-resolver-rules=MAP localhost 127.0.0.1".to_owned(),
        "--dump-dom".to_owned(),
        format!("https://{host}/page.html"),
    ];
    let _alone = ONE_AT_A_TIME.acquire().await.unwrap();
    let shown = run("chromium", &arguments.each_ref().map(String::as_str)).await;
    let dom = String::from_utf8_lossy(&shown.stdout);
    let expected = format!("<title>h3 h3 {}</title>", numbers.iter().sum::<u32>());
    assert!(dom.contains(&expected), "{dom}");
}
