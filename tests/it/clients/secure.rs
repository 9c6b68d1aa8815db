//! Downloads over TLS and QUIC: curl by HTTP/1.1 and HTTP/2, libcurl as browsers build it by HTTP/3, and aioquic.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tokio::time::timeout;

use super::CLIENT_TIME_MAX;
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
