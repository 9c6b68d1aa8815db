//! Programs and their sources from published folders: git, apt and pip.

use std::fs;
use std::path::Path;
use std::time::Duration;

use http::Method;

use super::{Site, files};
use crate::cli::noise;
use crate::cluster::wait_until;
use crate::edge::{ask, text};

impl Site {
    async fn git(&self, folder: &str, arguments: &[&str]) -> String {
        let who = ["-C", folder, "-c", "user.name=Ada", "-c", "user.email=ada@example.org"];
        self.run("git", &[&who, arguments].concat()).await.text().to_owned()
    }

    async fn commit(&self, name: &str, bytes: &[u8]) {
        self.write(&format!("source/{name}"), bytes);
        self.git("source", &["add", "--all"]).await;
        self.git("source", &["commit", "--quiet", "--message", name]).await;
    }

    async fn sha256(&self, name: &str) -> String {
        self.run("sha256sum", &[name]).await.text().split(' ').next().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn git_clones_and_pulls_a_published_repository() {
    let site = Site::start().await;
    site.make_folder("source");
    site.git(".", &["init", "--quiet", "--initial-branch=main", "--template=", "source"]).await;
    for (seed, name) in ["a.txt", "b/ä ö.bin", "c.bin"].into_iter().enumerate() {
        site.commit(name, &noise(100_000, seed as u64)).await;
    }
    site.git("source", &["tag", "--annotate", "--message=one", "v1"]).await;
    site.git(".", &["clone", "--quiet", "--bare", "--template=", "source", "www/code.git"]).await;
    // A pack, and beside it objects of their own.
    site.git("www/code.git", &["repack", "-a", "-d", "--quiet"]).await;
    site.commit("loose.txt", b"loose").await;
    site.git("source", &["push", "--quiet", "../www/code.git", "main"]).await;
    site.git("www/code.git", &["update-server-info"]).await;
    site.publish().await;

    let url = site.url("code.git");
    site.git(".", &["clone", "--quiet", &url, "clone"]).await;
    site.git("clone", &["fsck", "--strict", "--full"]).await;
    let head = ["rev-parse", "HEAD", "v1"];
    assert_eq!(site.git("clone", &head).await, site.git("source", &head).await);
    let worktree = |name: &str| {
        let mut found = files(&site.path(name));
        found.retain(|path, _| !path.starts_with(".git"));
        found
    };
    assert!(worktree("clone") == worktree("source") && worktree("clone").len() == 4);
    let exchanges = site.exchanges();
    assert_eq!(exchanges[0].target, "/code.git/info/refs?service=git-upload-pack");
    assert!(exchanges.iter().any(|exchange| exchange.target.ends_with(".pack") && exchange.status == 200));
    assert!(
        exchanges.iter().any(|exchange| exchange.target.starts_with("/code.git/objects/") && exchange.status == 404)
    );

    site.commit("later.txt", b"later").await;
    site.git("source", &["push", "--quiet", "../www/code.git", "main"]).await;
    site.git("www/code.git", &["update-server-info"]).await;
    site.publish().await;
    let newest = site.git("source", &["rev-parse", "HEAD"]).await;
    wait_until("the new commit comes", async || {
        site.git("clone", &["pull", "--quiet", "--ff-only"]).await;
        site.git("clone", &["rev-parse", "HEAD"]).await == newest
    })
    .await;
    assert!(worktree("clone") == worktree("source") && worktree("clone").len() == 5);
}

/// Packages of Debian in one folder with their list, as `Packages` and `Release` describe it.
async fn publish_debian_packages(site: &Site) {
    let mut list = String::new();
    for (seed, name) in ["greeting", "greeting-data"].into_iter().enumerate() {
        let depends = if seed == 0 { "Depends: greeting-data\n" } else { "" };
        let control = format!(
            "Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Ada <ada@example.org>\n{depends}\
             Description: bytes to compare\n"
        );
        site.write(&format!("{name}/DEBIAN/control"), &control);
        site.write(&format!("{name}/usr/share/{name}/bytes"), noise(400_000, seed as u64));
        let package = format!("www/apt/pool/{name}_1.0-1_all.deb");
        site.path(&package);
        site.run("dpkg-deb", &["--root-owner-group", "--build", name, &package]).await;
        let (size, hash) = (site.read(&package).len(), site.sha256(&package).await);
        list += &format!("{control}Filename: pool/{name}_1.0-1_all.deb\nSize: {size}\nSHA256: {hash}\n\n");
    }
    site.write("www/apt/Packages", &list);
    let hash = site.sha256("www/apt/Packages").await;
    site.write(
        "www/apt/Release",
        format!("Date: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n {hash} {} Packages\n", list.len()),
    );
    site.publish().await;
}

/// What makes apt keep to the visitor's folder; the last line lets it run where there is no user `_apt`.
fn configure_apt(site: &Site) {
    for name in ["apt/state/lists/partial", "apt/cache/archives/partial", "apt/etc/parts"] {
        site.make_folder(name);
    }
    site.write("apt/state/status", "");
    let folder = site.path("apt");
    let folder = folder.display();
    site.write(
        "apt.conf",
        format!(
            "Dir::State \"{folder}/state\";\nDir::State::status \"{folder}/state/status\";\nDir::Cache \"{folder}/cache\";\n\
             Dir::Log \"{folder}\";\nDir::Etc \"{folder}/etc\";\nDir::Etc::parts \"{folder}/etc/parts\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"0\";\nAPT::Sandbox::User \"root\";\n"
        ),
    );
    site.write("apt/etc/sources.list", format!("deb [trusted=yes] {} ./\n", site.url("apt/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn apt_updates_downloads_and_resumes_from_a_published_folder() {
    let site = Site::start().await;
    configure_apt(&site);
    publish_debian_packages(&site).await;
    let package = |name: &str| site.read(&format!("www/apt/pool/{name}_1.0-1_all.deb"));

    let updated = site.run("apt-get", &["update"]).await;
    assert!(!updated.stderr.contains("W:") && !updated.stderr.contains("E:"), "{}", updated.stderr);
    assert!(site.run("apt-cache", &["policy", "greeting"]).await.text().contains("Candidate: 1.0-1"));
    // Of an earlier download the rest is asked for. What is of another time may be of another package.
    let head = ask(site.tap.address, Method::HEAD, "/apt/pool/greeting_1.0-1_all.deb", &[]).await;
    let published = httpdate::parse_http_date(&text(head.headers(), "last-modified")).unwrap();
    for (name, modified) in [("greeting", published), ("greeting-data", published - Duration::from_secs(60))] {
        let partial = format!("apt/cache/archives/partial/{name}_1.0-1_all.deb");
        site.write(&partial, &package(name)[..150_000]);
        fs::File::options().append(true).open(site.path(&partial)).unwrap().set_modified(modified).unwrap();
    }
    site.run("apt-get", &["install", "--download-only", "--yes", "greeting"]).await;
    for name in ["greeting", "greeting-data"] {
        let got = site.read(&format!("apt/cache/archives/{name}_1.0-1_all.deb"));
        assert!(got == package(name), "{name}");
    }
    let exchanges = site.exchanges();
    let ranges = exchanges.iter().filter(|one| one.method == "GET" && !one.asked("range").is_empty());
    let mut ranges: Vec<_> = ranges.map(|one| (one.path(), one.asked("range"), one.status)).collect();
    ranges.sort_unstable();
    let pool = ["/apt/pool/greeting-data_1.0-1_all.deb", "/apt/pool/greeting_1.0-1_all.deb"];
    assert_eq!(ranges, [(pool[0], "bytes=150000-", 200), (pool[1], "bytes=150000-", 206)]);
    // The list has not changed.
    site.tap.forget();
    site.run("apt-get", &["update"]).await;
    let exchanges = site.exchanges();
    assert!(exchanges.iter().any(|one| one.path() == "/apt/./Release" && one.status == 304), "{exchanges:?}");
}

/// A wheel with one module, and a page that links to it, as PyPI has them.
async fn publish_wheel(site: &Site, python: &str) -> String {
    let wheel = "greeting-1.0-py3-none-any.whl";
    let info = "greeting-1.0.dist-info";
    site.write("wheel/greeting/__init__.py", "WORD = 'hello'\n");
    site.write("wheel/greeting/noise.bin", noise(400_000, 1));
    site.write(&format!("wheel/{info}/METADATA"), "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n");
    site.write(&format!("wheel/{info}/WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n");
    let names = ["greeting/__init__.py", "greeting/noise.bin"].map(str::to_owned);
    let names = names.into_iter().chain(["METADATA", "WHEEL", "RECORD"].map(|name| format!("{info}/{name}")));
    site.write(&format!("wheel/{info}/RECORD"), names.map(|name| name + ",,\n").collect::<String>());
    let path = format!("www/pypi/packages/{wheel}");
    site.path(&path);
    site.run(python, &["-m", "zipfile", "-c", &path, "wheel/greeting", &format!("wheel/{info}")]).await;
    let hash = site.sha256(&path).await;
    let link = format!(
        "<!doctype html><html><body><a href=\"../../packages/{wheel}#sha256={hash}\">{wheel}</a></body></html>"
    );
    site.write("www/pypi/simple/greeting/index.html", link);
    site.write(
        "www/pypi/packages/index.html",
        format!("<!doctype html><html><body><a href=\"{wheel}\">{wheel}</a></body></html>"),
    );
    site.publish().await;
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn pip_downloads_and_installs_from_a_published_index() {
    let site = Site::start().await;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python/bin/python");
    let python = python.to_str().unwrap();
    let path = publish_wheel(&site, python).await;
    let pip = async |arguments: &[&str]| {
        let common = ["-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "--trusted-host=127.0.0.1"];
        site.run(python, &[&common, arguments].concat()).await
    };
    let (index, links) = (site.url("pypi/simple/"), site.url("pypi/packages/"));
    pip(&["download", "--no-deps", "--dest=by-index", "--index-url", &index, "greeting"]).await;
    pip(&["download", "--no-deps", "--dest=by-links", "--no-index", "--find-links", &links, "greeting"]).await;
    let wheel = site.read(&path);
    for folder in ["by-index", "by-links"] {
        let got = files(&site.path(folder));
        assert!(got.len() == 1 && got.values().all(|bytes| *bytes == wheel), "{folder}");
    }
    pip(&["install", "--target=installed", "--index-url", &index, "greeting==1.0"]).await;
    assert!(fs::read(site.path("installed/greeting/noise.bin")).unwrap() == noise(400_000, 1));
    assert!(site.exchanges().iter().all(|exchange| exchange.status == 200));
}
