//! `metacdn servers`, `prices`, `status` and `certs`.

use metacdn::resize::CODECS;

use super::User;
use crate::cluster::{Cluster, put, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_status_show_all_nodes() {
    let mut cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    put(&cluster.client("AWS"), "a", b"123".to_vec()).await;
    let gc = cluster.client("GC");
    wait_until("GC has it", async || gc.status().await.unwrap().objects == 1).await;
    let table = user.run(&["servers"]).await.ok();
    let rows: Vec<Vec<_>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "PROVIDER", "ADDRESS", "LIVENESS", "STATE", "BEHIND"]);
    let address = cluster.address("AWS").to_string();
    assert_eq!((rows.len(), &rows[1][..3]), (3, &["AWS", "AWS", address.as_str()][..]));
    let listed = user.run(&["servers", "--json"]).await.ok().json();
    assert_eq!((&listed[1]["id"], &listed[1]["liveness"]), (&"GC".into(), &"alive".into()));

    let status = user.run(&["status", "--json"]).await.ok().json();
    assert_eq!((status.len(), &status[0]["objects"], &status[1]["bytes"]), (2, &1.into(), &3.into()));
    cluster.stop("GC").await;
    let table = user.run(&["status"]).await.ok();
    assert!(table.stdout.contains("3 B"), "{table:?}");
    assert!(table.stderr.contains("warning: cannot reach") && table.stderr.contains("refused"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_set_apart_and_taken_back() {
    let cluster = Cluster::start(&["AWS", "GC"]).await;
    let user = User::of(&cluster, &["AWS", "GC"]);
    let state_of_gc = async || user.run(&["servers", "--json"]).await.ok().json()[1]["state"].clone();
    assert_eq!(state_of_gc().await, "active");
    let said = user.run(&["maintenance", "GC"]).await.ok();
    assert!(said.stdout.contains("metacdn resume GC"), "{said:?}");
    assert_eq!(state_of_gc().await, "maintenance");
    let file = user.file("a.txt", "text");
    let gc = cluster.client("GC");
    wait_until("GC knows", async || gc.servers().await.unwrap().servers[1].state != Default::default()).await;
    user.run(&["upload", &file, "GC"]).await.failed(1, &["GC is in maintenance", "use another node"]);
    user.run(&["resume", "GC"]).await.ok();
    assert_eq!(state_of_gc().await, "active");
    for what in ["maintenance", "resume"] {
        user.run(&[what, "Azure"]).await.failed(1, &["there is no node Azure: use AWS, GC"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_are_set_loaded_and_removed() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    let prices = async || {
        let lines = user.run(&["prices", "--json"]).await.ok().json();
        let text = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_owned();
        let row = |line| [text(line, "provider"), text(line, "server_hour"), text(line, "network_hour")].join(" ");
        lines.iter().map(row).collect::<Vec<_>>()
    };
    user.run(&["prices", "set", "AWS", "--server-hour", ".30"]).await.failed(2, &["give --network-hour, too"]);
    user.run(&["prices", "set", "AWS"]).await.failed(2, &["--server-hour .30"]);
    user.run(&["prices", "set", "AWS", "--server-hour", "1e3"]).await.failed(2, &["1e3", "decimal number"]);
    let set = user.run(&["prices", "set", "AWS", "--server-hour", ".30", "--network-hour", ".10"]).await.ok();
    assert_eq!(set.stdout, "AWS: server 0.30 $/h, network 0.10 $/h\n");
    wait_until("the price is known", async || prices().await == ["AWS 0.30 0.10"]).await;
    user.run(&["prices", "set", "AWS", "--network-hour", "2"]).await.ok();
    wait_until("the half is known", async || prices().await == ["AWS 0.30 2.00"]).await;

    let row = |name: &str, cost: &str| {
        format!(r#"{{"provider": "{name}", "server_hourly_cost": "{cost}", "network_hourly_cost": ".20"}}"#)
    };
    let good =
        user.file("priceInf.json", format!(r#"{{"price": [{}, {}]}}"#, row("GC", ".10"), row("Program", ".114")));
    let bad = user.file("bad.json", format!(r#"{{"price": [{}, {}]}}"#, row("Azure", ".10"), row("Program", "-1")));
    user.run(&["prices", "load", &bad]).await.failed(1, &["bad.json", "server_hourly_cost of Program"]);
    user.run(&["prices", "load", &good]).await.ok();
    user.run(&["prices", "remove", "AWS"]).await.ok();
    wait_until("the file is known", async || prices().await == ["GC 0.10 0.20", "Program 0.114 0.20"]).await;
    user.run(&["prices", "remove", "AWS"]).await.failed(1, &["cannot remove the prices of AWS", "404"]);
    let table = user.run(&["prices"]).await.ok();
    assert!(table.stdout.contains("PROVIDER") && table.stdout.contains("0.114"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tariffs_are_published_exported_and_loaded() {
    let cluster = Cluster::start(&["AWS"]).await;
    let user = User::of(&cluster, &["AWS"]);
    user.run(&["prices", "set", "AWS", "--published", "asw"]).await.failed(2, &["\"asw\"", "aws, azure, backblaze"]);
    let set = user.run(&["prices", "set", "AWS", "--published", "aws", "--server-hour", ".05"]).await.ok();
    assert_eq!(set.stdout, "AWS: server 0.05 $/h, network 0.00 $/h, 0.09 to 0.05 USD a GB\n");
    // Hours alone leave the rest.
    user.run(&["prices", "set", "AWS", "--network-hour", ".01"]).await.ok();
    let exported = user.run(&["prices", "export"]).await.ok().stdout;
    assert!(exported.contains("network_hour = \"0.01\"") && exported.contains("free_gb = 100"), "{exported}");
    let file = user.file("tariffs.toml", exported.replace("AWS", "GC"));
    user.run(&["prices", "load", &file]).await.ok();
    let bad = user.file("bad.toml", exported.replace("up_to_gb = 50000", "up_to_gb = 10000"));
    user.run(&["prices", "load", &bad])
        .await
        .failed(1, &["bad.toml", "AWS: rates.egress.tiers[1].up_to_gb: 10000 is not above"]);
    let table = user.run(&["prices"]).await.ok().stdout;
    let row = |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(row("GC").contains("100 GB") && row("GC").contains("0.09 to 0.05 USD"), "{table}");
    // A file says all of it: what it leaves out goes.
    let hours = user.file("hours.toml", "[GC]\ninstance_hour = 1\n");
    user.run(&["prices", "load", &hours]).await.ok();
    let gc = user.run(&["prices", "--json"]).await.ok().json().swap_remove(1);
    assert!(gc["provider"] == "GC" && gc["server_hour"] == "1.00" && gc["rates"].is_null(), "{gc}");
    user.run(&["prices", "remove", "GC"]).await.ok();
    let lines = user.run(&["prices", "--json"]).await.ok().json();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["rates"]["egress"]["tiers"][0]["price_per_gb"], "0.09");
    let published = user.run(&["prices", "published"]).await.ok().stdout;
    assert!(published.contains("[hetzner.rates") && published.contains("EUR"), "{published}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certs_lie_in_the_users_folder() {
    let cluster = Cluster::start(&[]).await;
    let user = User::with_seeds(&cluster, &["127.0.0.1:1".parse().unwrap()]);
    let made = user.run(&["certs", "init"]).await.ok();
    assert!(made.stdout.contains("authority.key"), "{made:?}");
    assert!(user.home.path().join("certs/authority.key").exists());
    let quiet = user.run(&["certs", "issue", "node", "AWS", "--quiet"]).await.ok();
    assert_eq!(quiet.stdout, "");
    let shown = user.run(&["certs", "show"]).await.ok();
    assert!(shown.stdout.contains("node AWS"), "{shown:?}");
    user.run(&["certs", "init"]).await.failed(1, &["--force"]);
    user.run(&["certs", "issue", "king", "AWS"]).await.failed(2, &["node, edge, client"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_version_are_answers() {
    let cluster = Cluster::start(&[]).await;
    let user = User::with_seeds(&cluster, &["127.0.0.1:1".parse().unwrap()]);
    let help = user.run(&["--help"]).await.ok();
    for command in [
        "upload", "get", "list", "stat", "delete", "servers", "drain", "forget", "prices", "status", "verify",
        "withheld", "dump", "load", "repair", "explain", "certs",
    ] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {help:?}");
    }
    let version = user.run(&["-V"]).await.ok().stdout;
    assert!(version.starts_with("metacdn ") && version.lines().count() == 1, "{version}");
    assert_eq!(user.run(&["--version"]).await.ok().stdout, format!("{version}{CODECS}\n"));
    user.run(&[]).await.failed(2, &["Usage: metacdn"]);
    user.run(&["server"]).await.failed(2, &["the node has no name"]);
    user.run(&["uplod"]).await.failed(2, &["similar", "upload"]);
}
