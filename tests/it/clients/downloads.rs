//! Downloads: curl, wget, aria2c and rclone.

use std::path::Path;

use super::{Exchange, Files, Site, files};
use crate::cli::noise;

/// The answers to requests for a part.
fn parts(exchanges: &[Exchange]) -> Vec<&Exchange> {
    exchanges.iter().filter(|exchange| exchange.status == 206).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_wholes_and_parts_directly_and_by_proxy() {
    let site = Site::start().await;
    let bytes = noise(3_000_000, 1);
    site.write("www/a folder/ä.bin", &bytes);
    site.publish().await;
    let curl = async |arguments: &[&str]| {
        let common = ["--silent", "--show-error", "--fail"];
        site.run("curl", &[&common, arguments].concat()).await.stdout
    };
    let path = "a%20folder/%C3%A4.bin?query=ignored";
    let (direct, named) = (site.url(path), format!("http://site.metacdn.internal/{path}"));
    let proxy = site.proxy();
    for (reach, url) in [(&[][..], direct.as_str()), (&["--proxy", &proxy], &named)] {
        site.tap.forget();
        let get = async |arguments: &[&str]| curl(&[reach, arguments, &[url]].concat()).await;
        assert_eq!(get(&[]).await, bytes);
        for (range, part) in [("0-0", &bytes[..1]), ("1000-1999999", &bytes[1_000..2_000_000])] {
            assert_eq!(get(&["--range", range]).await, part, "{range}");
        }
        assert_eq!(get(&["--range", "-5"]).await, &bytes[2_999_995..]);
        let several = get(&["--range", "0-4,2999995-"]).await;
        let holds = |part: &[u8]| several.windows(part.len()).any(|window| window == part);
        assert!(holds(&bytes[..5]) && holds(&bytes[2_999_995..]), "{}", String::from_utf8_lossy(&several));
        let head = get(&["--head"]).await;
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\ncontent-length: 3000000\r\n"), "{head}");

        site.write("part", &bytes[..1_234_567]);
        get(&["--continue-at", "-", "--output", "part"]).await;
        assert_eq!(site.read("part"), bytes);
        get(&["--etag-save", "etag", "--output", "whole"]).await;
        get(&["--etag-compare", "etag", "--output", "unchanged"]).await;
        assert!(site.read("whole") == bytes && !site.path("unchanged").exists());

        // The one with several parts is compared above.
        let exchanges = site.tap.exchanges();
        let (several, others): (Vec<_>, Vec<_>) =
            exchanges.into_iter().partition(|one| one.answered("content-type").starts_with("multipart/"));
        assert_eq!(several.len(), 1);
        others.iter().for_each(|exchange| site.compare(exchange));
        assert!(parts(&others).iter().any(|part| part.asked("range") == "bytes=1234567-"), "{:?}", parts(&others));
        assert_eq!(others.last().unwrap().status, 304);
        let form = if reach.is_empty() { "/a%20folder/" } else { "http://site.metacdn.internal/a%20folder/" };
        assert!(others.iter().all(|exchange| exchange.target.starts_with(form)));
    }
}

/// A small site whose pages lead to all of its files.
fn write_pages(site: &Site) {
    for (name, text) in [
        (
            "index.html",
            r#"<link rel="stylesheet" href="style/page.css"><a href="docs/">docs</a> <a href="a.bin">a</a>"#,
        ),
        ("docs/index.html", r#"<a href="../">up</a> <a href="a%20page.html">next</a> <img src="../images/b.bin">"#),
        // `still` is a folder: the edge sends the client there.
        ("docs/a page.html", r#"<a href="deeper/still">a folder</a> <a href="%C3%A4/%E6%97%A5.txt">umlaut</a>"#),
        (
            "docs/deeper/still/index.html",
            r#"<img src="../../../images/b.bin"><a href="../../../empty.txt">the end</a>"#,
        ),
        ("docs/ä/日.txt", "text"),
        ("style/page.css", r#"body { background: url("../images/c.bin"); }"#),
        ("empty.txt", ""),
    ] {
        site.write(&format!("www/{name}"), text);
    }
    for (seed, name) in [(1, "a.bin"), (2, "images/b.bin"), (3, "images/c.bin")] {
        site.write(&format!("www/{name}"), noise(200_000, seed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wget_gets_resumes_and_mirrors_directly_and_by_proxy() {
    let site = Site::start().await;
    write_pages(&site);
    site.publish().await;
    let wget = async |arguments: &[&str]| {
        let common = ["--no-verbose", "--tries=1"];
        site.run("wget", &[&common, arguments].concat()).await
    };
    let published = files(&site.path("www"));
    let a = &published[Path::new("a.bin")];

    wget(&["--output-document=whole", &site.url("a.bin")]).await;
    assert_eq!(&site.read("whole"), a);
    site.write("a.bin", &a[..77_777]);
    wget(&["--continue", &site.url("a.bin")]).await;
    assert_eq!(&site.read("a.bin"), a);
    let exchanges = site.exchanges();
    assert_eq!(parts(&exchanges).iter().map(|part| part.asked("range")).collect::<Vec<_>>(), ["bytes=77777-"]);

    let mirror = ["--mirror", "--no-host-directories", "--restrict-file-names=nocontrol", "--trust-server-names"];
    wget(&[&mirror[..], &["--directory-prefix=mirror", &site.url("")]].concat()).await;
    assert_same(&files(&site.path("mirror")), &published);
    // What did not change is not sent again.
    site.tap.forget();
    wget(&[&mirror[..], &["--directory-prefix=mirror", &site.url("")]].concat()).await;
    assert_same(&files(&site.path("mirror")), &published);
    assert_eq!(statuses(&site.exchanges()), [("/", 304)]);

    site.tap.forget();
    let proxy = ["-e", "use_proxy=yes", "-e", &format!("http_proxy={}", site.proxy())];
    let named = ["--directory-prefix=by proxy", "http://site.metacdn.internal/"];
    wget(&[&mirror[..], &proxy, &named].concat()).await;
    assert_same(&files(&site.path("by proxy")), &published);
    let exchanges = site.exchanges();
    assert!(exchanges.iter().all(|exchange| exchange.target.starts_with("http://site.metacdn.internal/")));
}

#[track_caller]
fn assert_same(got: &Files, published: &Files) {
    assert_eq!(got.keys().collect::<Vec<_>>(), published.keys().collect::<Vec<_>>());
    assert!(got == published, "bytes differ");
}

fn statuses(exchanges: &[Exchange]) -> Vec<(&str, u16)> {
    exchanges.iter().map(|exchange| (exchange.target.as_str(), exchange.status)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn aria2c_gets_one_file_over_eight_connections() {
    let site = Site::start().await;
    // No multiple of the pieces.
    let bytes = noise((25 << 20) + 12_345, 1);
    site.write("www/large.bin", &bytes);
    site.publish().await;
    let eight = ["--max-connection-per-server=8", "--split=8", "--min-split-size=1M"];
    // Slow enough that the first connection does not have it all before the others have begun.
    let others = ["--max-overall-download-limit=20M", "--no-conf", "--file-allocation=none", "--out=large.bin"];
    site.run("aria2c", &[&eight[..], &others, &[&site.url("large.bin")]].concat()).await;
    assert!(site.read("large.bin") == bytes);
    let exchanges = site.exchanges();
    assert!(parts(&exchanges).len() >= 7, "{:?}", statuses(&exchanges));
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_copies_a_folder_by_its_pages() {
    let site = Site::start().await;
    let mut expected = Files::new();
    for (seed, name) in ["a.bin", "with space.bin", "sub/b.bin", "sub/sub/日本.bin"].into_iter().enumerate() {
        let bytes = noise(300_000 + seed, seed as u64);
        site.write(&format!("www/files/{name}"), &bytes);
        expected.insert(name.into(), bytes);
    }
    for (folder, links) in [
        ("", r#"<a href="a.bin">a.bin</a> <a href="with%20space.bin">with space.bin</a> <a href="sub/">sub/</a>"#),
        ("sub/", r#"<a href="../">..</a> <a href="b.bin">b.bin</a> <a href="sub/">sub/</a>"#),
        ("sub/sub/", r#"<a href="../">..</a> <a href="%E6%97%A5%E6%9C%AC.bin">日本.bin</a>"#),
    ] {
        site.write(
            &format!("www/files/{folder}index.html"),
            format!("<!doctype html><html><body>{links}</body></html>"),
        );
    }
    site.publish().await;
    let url = site.url("files/");
    let rclone = async |arguments: &[&str]| {
        site.run("rclone", &[arguments, &["--config=/dev/null", "--http-url", &url, "--retries=1"]].concat()).await
    };
    rclone(&["copy", ":http:", "copy"]).await;
    assert_same(&files(&site.path("copy")), &expected);
    rclone(&["check", "--download", ":http:", "copy"]).await;
    assert!(site.exchanges().iter().all(|exchange| exchange.status == 200));
}
