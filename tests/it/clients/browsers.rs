//! Real browsers whose HTTP proxy is the edge: they show a published page, and nothing of anybody else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tokio::sync::Semaphore;

use super::{Exchange, Printed, Site, files};

/// Where the page is: behind a host that only this proxy knows.
const PAGE: &str = "http://site.metacdn.internal/";

/// The pictures of the page with what ffmpeg draws in them, where they are to be seen, and by how much a pixel may be off
/// in the mean: decoders of lossy formats round as they like.
const PICTURES: [(&str, &str, (usize, usize), f64); 4] = [
    ("a.png", "testsrc2=size=240x180:rate=1", (0, 0), 0.0),
    ("b.jpg", "mandelbrot=size=240x180:rate=1", (240, 0), 2.0),
    ("c.webp", "colorspectrum=size=240x180:rate=1:type=all", (480, 0), 3.0),
    ("d.png", "smptehdbars=size=240x180:rate=1", (0, 180), 0.0),
];

/// What the script makes of the data that it fetches, and where.
const SCRIPTED: ([u8; 3], (usize, usize)) = ([200, 60, 20], (240, 180));

const PICTURE_SIZE: (usize, usize) = (240, 180);

/// A browser takes all processors there are.
pub(super) static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// Pixels in rows, three bytes each.
struct Pixels {
    width: usize,
    bytes: Vec<u8>,
}

impl Pixels {
    async fn of(site: &Site, picture: &str) -> Self {
        let size = ["-v", "error", "-show_entries", "stream=width", "-of", "csv=p=0", picture];
        let width = site.run("ffprobe", &size).await.text().parse().unwrap();
        let decode = ["-nostdin", "-v", "error", "-i", picture, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"];
        Self { width, bytes: site.run("ffmpeg", &decode).await.stdout }
    }

    /// A part of the size of the page's pictures.
    fn part(&self, (left, top): (usize, usize)) -> Vec<u8> {
        let rows = (top..top + PICTURE_SIZE.1).map(|row| (row * self.width + left) * 3);
        rows.flat_map(|start| &self.bytes[start..start + PICTURE_SIZE.0 * 3]).copied().collect()
    }
}

/// By how much these bytes differ in the mean.
fn difference(one: &[u8], other: &[u8]) -> f64 {
    assert_eq!(one.len(), other.len());
    let all: u64 = one.iter().zip(other).map(|(one, other)| u64::from(one.abs_diff(*other))).sum();
    all as f64 / one.len() as f64
}

async fn publish_page(site: &Site) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clients/page");
    for (name, bytes) in files(&page) {
        site.write(&format!("www/{}", name.display()), bytes);
    }
    site.make_folder("www/pictures");
    for (name, source, ..) in PICTURES {
        let to = format!("www/pictures/{name}");
        let quality = ["-frames:v", "1", "-q:v", "2", &to];
        site.run("ffmpeg", &[&["-nostdin", "-v", "error", "-f", "lavfi", "-i", source], &quality[..]].concat()).await;
    }
    site.write("www/seen/3-images.txt", "seen");
    site.publish().await;
}

/// Runs a browser under strace, which tells to whom it connects.
async fn browse(site: &Site, program: &str, arguments: &[&str]) -> Printed {
    // If it is missing, this says so better than strace does.
    site.run(program, &["--version"]).await;
    let trace = ["--follow-forks", "--seccomp-bpf", "--quiet=all", "-yy", "--trace=connect", "--signal=none"];
    let to = ["--output=connects", program];
    site.run("strace", &[&trace[..], &to, arguments].concat()).await
}

/// The browser connected to its proxy alone, by whatever protocol.
fn check_connects(site: &Site) {
    let trace = String::from_utf8_lossy(&site.read("connects")).into_owned();
    let proxy = format!("sin_port=htons({}), sin_addr=inet_addr(\"127.0.0.1\")", site.tap.address.port());
    let connects = trace.lines().filter(|line| line.contains("sa_family=AF_INET"));
    let (to_proxy, others): (Vec<_>, Vec<_>) = connects.partition(|line| line.contains(&proxy));
    assert!(!to_proxy.is_empty(), "{trace}");
    // Chromium asks the system for a route to this address, by a socket through which it sends nothing.
    let asks_for_route = |line: &&str| line.contains("<UDPv6:") && line.contains("\"2001:4860:4860::8888\"");
    let others: Vec<_> = others.into_iter().filter(|line| !asks_for_route(line)).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// What the browser asked for, and that it got the page whole and nothing from elsewhere.
fn check_exchanges(site: &Site) {
    let (own, foreign): (Vec<_>, Vec<_>) =
        site.tap.exchanges().into_iter().partition(|one| one.target.starts_with(PAGE));
    let mut asked: Vec<_> = own.iter().map(|one| (one.method.as_str(), one.path(), one.status)).collect();
    asked.sort_unstable();
    let expected = [
        "/",
        "/data.json",
        "/page.js",
        "/pictures/a.png",
        "/pictures/b.jpg",
        "/pictures/c.webp",
        "/pictures/d.png",
        "/seen/3-images.txt",
        "/style/page.css",
    ];
    assert_eq!(asked, expected.map(|path| ("GET", path, 200)));
    for exchange in &own {
        assert!(exchange.complete(), "{exchange:?}");
        site.compare(exchange);
    }
    let refused = |one: &Exchange| match (one.method.as_str(), one.status) {
        // When it ends it does not wait for what is still to come.
        (_, 0) => true,
        ("CONNECT", status) => status == 405,
        (_, status) => status == 403,
    };
    assert!(foreign.iter().all(refused), "{foreign:?}");
    for (method, target) in [("GET", "http://elsewhere.example/"), ("CONNECT", "elsewhere.example:443")] {
        let sent = foreign.iter().any(|one| one.method == method && one.target == target && one.status != 0);
        assert!(sent, "{method} {target}: {foreign:?}");
    }
}

/// The page shows in the screenshot, every picture at its place. It is kept for people to look at.
async fn check_screenshot(site: &Site, browser: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    fs::create_dir_all(&kept).unwrap();
    fs::copy(site.path("screenshot.png"), kept.join(format!("{browser}.png"))).unwrap();
    let shown = Pixels::of(site, "screenshot.png").await;
    for (name, _, place, difference_max) in PICTURES {
        let published = Pixels::of(site, &format!("www/pictures/{name}")).await;
        let difference = difference(&shown.part(place), &published.bytes);
        assert!(difference <= difference_max, "{browser} shows {name} another way, by {difference}");
    }
    let (colour, place) = SCRIPTED;
    assert!(shown.part(place).chunks(3).all(|pixel| pixel == colour), "{browser} shows another colour");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_shows_a_page_by_its_proxy() {
    let site = Site::start().await;
    publish_page(&site).await;
    let _alone = ONE_AT_A_TIME.acquire().await.unwrap();
    let proxy = format!("--proxy-server={}", site.proxy());
    let shown = browse(
        &site,
        "chromium",
        &[
            "--headless",
            // As root in a container it has no sandbox, and no large shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--user-data-dir=chromium",
            "--window-size=720,600",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            &proxy,
            // Loopback is no exception.
            "--proxy-bypass-list=<-loopback>",
            // It has nothing to tell its maker.
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-domain-reliability",
            "--disable-sync",
            "--disable-features=NetworkTimeServiceQuerying",
            "--screenshot=screenshot.png",
            "--dump-dom",
            PAGE,
        ],
    )
    .await;
    let dom = String::from_utf8(shown.stdout).unwrap();
    // An answer that says no is an answer; that no tunnel is opened is an error.
    assert!(dom.contains("<title>3 images; http answered, https failed</title>"), "{dom}");
    check_exchanges(&site);
    check_connects(&site);
    check_screenshot(&site, "chromium").await;
}

/// What makes Firefox ask the proxy at `proxy` for everything, and keep to what it is told to show.
fn firefox_settings(proxy: SocketAddr) -> String {
    let (host, port) = (proxy.ip(), proxy.port());
    let proxies = ["http", "ssl"].map(|kind| {
        format!("user_pref(\"network.proxy.{kind}\", \"{host}\");\nuser_pref(\"network.proxy.{kind}_port\", {port});\n")
    });
    let settings = [
        ("network.proxy.type", "1"),
        ("network.proxy.no_proxies_on", "\"\""),
        ("network.proxy.allow_hijacking_localhost", "true"),
        // Its own services go around a proxy that refuses them, unless they are told not to.
        ("network.proxy.allow_bypass", "false"),
        ("network.proxy.failover_direct", "false"),
        ("network.trr.mode", "5"),
        ("network.dns.disablePrefetch", "true"),
        ("network.captive-portal-service.enabled", "false"),
        ("network.connectivity-service.enabled", "false"),
        ("app.normandy.enabled", "false"),
        ("app.update.enabled", "false"),
        ("browser.region.network.url", "\"\""),
        ("browser.safebrowsing.update.enabled", "false"),
        ("datareporting.policy.dataSubmissionEnabled", "false"),
        ("dom.push.connection.enabled", "false"),
        ("extensions.systemAddon.update.enabled", "false"),
        ("extensions.update.enabled", "false"),
        ("toolkit.telemetry.enabled", "false"),
        // Else it asks for the page by `https` first.
        ("dom.security.https_first", "false"),
        ("gfx.color_management.mode", "0"),
    ];
    let settings = settings.map(|(name, value)| format!("user_pref(\"{name}\", {value});\n"));
    proxies.concat() + &settings.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_shows_a_page_by_its_proxy() {
    let site = Site::start().await;
    publish_page(&site).await;
    let _alone = ONE_AT_A_TIME.acquire().await.unwrap();
    site.write("firefox/user.js", firefox_settings(site.tap.address));
    let (profile, screenshot) = (site.path("firefox"), site.path("screenshot.png"));
    browse(
        &site,
        "firefox-esr",
        &[
            "--headless",
            "--no-remote",
            "--profile",
            profile.to_str().unwrap(),
            "--window-size=720,600",
            "--screenshot",
            screenshot.to_str().unwrap(),
            PAGE,
        ],
    )
    .await;
    check_exchanges(&site);
    check_connects(&site);
    check_screenshot(&site, "firefox").await;
}
