//! The demonstration, as a program: it holds what it claims, and two of them do not disturb each other.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

/// Far beyond what a demonstration takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A demonstration; it is killed when it is dropped.
struct Demo {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Demo {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
        command.arg("demo").args(arguments).env("METACDN_HOME", home).env("HOME", home).env_remove("METACDN_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    /// All lines up to and with one that has `text`.
    fn read_until(&self, text: &str) -> String {
        let mut all = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error} before {text}: {all}"));
            all += &line;
            all += "\n";
            if line.contains(text) {
                return all;
            }
        }
    }

    /// The document of a demonstration that was started with `--json`.
    fn document(&self) -> Value {
        let mut text = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            text += &line;
            // The document is printed with its brackets in the first column.
            if line == "}" {
                return serde_json::from_str(&text).unwrap();
            }
        }
        panic!("no document but {text:?} and {:?}", self.errors.iter().collect::<Vec<_>>());
    }

    /// Whether it ended with success, and what it complained of.
    fn end(self) -> (bool, String) {
        let (code, errors) = self.end_code();
        (code == Some(0), errors)
    }

    /// The exit code, and what it complained of.
    fn end_code(mut self) -> (Option<i32>, String) {
        // Both ends of the pipes are closed when it is over.
        let rest = |lines: &Receiver<String>| {
            let mut text = String::new();
            loop {
                match lines.recv_timeout(PATIENCE) {
                    Ok(line) => text += &line,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return text,
                    Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end: {text}"),
                }
            }
        };
        rest(&self.lines);
        let errors = rest(&self.errors);
        (self.child.wait().unwrap().code(), errors)
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
    receiver
}

fn assert_all_held(document: &Value) {
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.len() > 15, "{checks:?}");
    let failed: Vec<_> = checks.iter().filter(|check| check["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(document["ok"], true);
}

/// Whether the download whose node was killed came whole, half from that node and half from another one.
fn assert_the_loss_was_not_noticed(document: &Value) {
    let loss = &document["loss"];
    assert_eq!((&loss["hash_equal"], loss["bytes"].as_u64()), (&Value::Bool(true), Some(8_000_000)), "{loss}");
    let killed = &loss["killed"];
    let went_on = loss["went_on"].as_array().unwrap();
    assert!(!went_on.is_empty() && went_on.iter().all(|share| share["node"] != killed["node"]), "{loss}");
    let (killed, went_on) =
        (killed["bytes"].as_u64().unwrap(), went_on.iter().map(|share| share["bytes"].as_u64().unwrap()).sum::<u64>());
    assert_eq!(killed + went_on, 8_000_000, "{loss}");
    // What is on its way when the node dies may still arrive.
    assert!(killed >= 4_000_000 && went_on > 2_000_000, "{loss}");
    let [lost, longest, usual] =
        ["lost_seconds", "gap_max_seconds", "gap_usual_seconds"].map(|name| loss[name].as_f64().unwrap());
    assert!(lost > 0.0 && (longest - usual - lost).abs() < 1e-6, "{loss}");
}

/// Whether each link got its variant, and the smaller ones the sooner the slower the link is.
fn assert_the_photograph_fits(document: &Value) {
    let photograph = &document["photograph"];
    let deliveries = photograph["deliveries"].as_array().unwrap();
    let variants: Vec<_> = deliveries.iter().map(|delivery| delivery["variant"].as_str().unwrap()).collect();
    assert_eq!(variants, ["original", "medium", "low"]);
    let bytes: Vec<_> = deliveries.iter().map(|delivery| delivery["bytes"].as_u64().unwrap()).collect();
    assert!(bytes[0] > bytes[1] && bytes[1] > bytes[2] && bytes[2] > 1_000, "{bytes:?}");
    assert!(deliveries.iter().all(|delivery| delivery["original_bytes"] == bytes[0]), "{photograph}");
    // A link of 250 kB/s is an emulated one: it may be slower, never faster than that by more than its buffers.
    let slowest = &deliveries[2];
    assert_eq!(slowest["bytes_per_second"], 250_000);
    assert!(slowest["original_seconds"].as_f64().unwrap() > 0.5 * bytes[0] as f64 / 250_000.0, "{slowest}");
}

/// Whether each provider's cost is its hours at work at its price, and the total their sum.
fn assert_the_costs_add_up(document: &Value) {
    let costs = &document["costs"];
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap();
    let mut total = 0;
    let providers = costs["providers"].as_array().unwrap();
    for (provider, (name, hour)) in
        providers.iter().zip([("AWS", 400_000_000), ("GC", 300_000_000), ("Program", 864_000_000)])
    {
        assert_eq!((provider["provider"].as_str(), number(provider, "hour_nano_dollars")), (Some(name), hour));
        let exact = hour as f64 * number(provider, "microseconds") as f64 / 3.6e9;
        let cost = number(provider, "nano_dollars");
        assert!((cost as f64 - exact).abs() <= 0.500_001, "{provider}");
        total += cost;
    }
    assert_eq!((providers.len(), number(costs, "total_nano_dollars")), (3, total));
    assert!(total > 0, "{costs}");
    let sent: u64 = providers.iter().map(|provider| number(provider, "bytes")).sum();
    assert!(sent > 8_000_000, "the download alone is that much: {costs}");
}

fn ports(document: &Value) -> BTreeSet<u64> {
    let mut ports: BTreeSet<_> =
        ["port", "admin_port"].iter().map(|name| document["proxy"][name].as_u64().unwrap()).collect();
    for node in document["nodes"].as_array().unwrap() {
        ports.extend(["port", "download_port", "price_port"].iter().map(|name| node[name].as_u64().unwrap()));
    }
    ports.extend(document["lines"].as_array().unwrap().iter().map(|line| line["port"].as_u64().unwrap()));
    assert_eq!(ports.len(), 14);
    ports
}

#[test]
fn demonstrations_at_a_time_hold_what_they_claim() {
    let home = tempfile::tempdir().unwrap();
    let demos = [Demo::start(home.path(), &["--exit", "--json"]), Demo::start(home.path(), &["--exit", "--json"])];
    let documents = demos.each_ref().map(Demo::document);
    for document in &documents {
        assert_all_held(document);
        assert_the_loss_was_not_noticed(document);
        assert_the_photograph_fits(document);
        assert_the_costs_add_up(document);
        let chosen: Vec<_> = document["routes"].as_array().unwrap().iter().map(|route| &route["node"]).collect();
        assert_eq!(chosen.len(), 5);
        assert_eq!(chosen[0], "GC", "the cheapest");
        for name in ["config", "authority", "certificate", "key"] {
            assert!(Path::new(document["credentials"][name].as_str().unwrap()).is_file(), "{name}");
        }
    }
    let [first, second] = documents;
    assert_ne!(first["folder"], second["folder"]);
    assert!(ports(&first).is_disjoint(&ports(&second)));
    for demo in demos {
        let (success, errors) = demo.end();
        assert!(success, "{errors}");
    }
}

/// About three hundred files with names that a path, a query or a shell could stumble over.
fn plant(folder: &Path) -> usize {
    let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for number in 0..292_u32 {
        let name = format!("part-{}/file {number}.txt", number % 7);
        files.push((name.into(), format!("text {number}").repeat(number as usize).into_bytes()));
    }
    for name in
        ["100% sure.html", "a?b=c&d#e+f", "%2e%2e", "ünï/cödé 日本.txt", "quote'\"", "back\\slash", "empty", "~.tilde"]
    {
        files.push((name.into(), if name == "empty" { Vec::new() } else { name.into() }));
    }
    let large = (0..5_000_000_u32).map(|number| (number ^ number >> 9) as u8).collect();
    files.push(("five megabytes".into(), large));
    for (name, bytes) in &files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    files.len()
}

#[test]
fn a_folder_of_odd_names_reaches_everyone() {
    let (home, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = plant(tree.path());
    let demo = Demo::start(home.path(), &["--exit", "--json", "--publish", tree.path().to_str().unwrap()]);
    let document = demo.document();
    assert_all_held(&document);
    assert_the_loss_was_not_noticed(&document);
    assert_the_photograph_fits(&document);
    assert_eq!(document["photograph"]["key"], "metacdn-demo/images/photograph.jpg");
    assert_eq!(document["published"]["files"], files);
    assert_eq!(document["published"]["skipped"], Value::Array(Vec::new()));
    let away = document["published"]["files_while_away"].as_u64().unwrap();
    assert_eq!(document["published"]["objects"], files as u64 + away);
    assert!(demo.end().0);
}

#[test]
fn what_cannot_be_published_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let earlier = home.path().join("demo/client.toml");
    fs::create_dir(home.path().join("demo")).unwrap();
    fs::write(home.path().join("demo/.metacdn-demo"), "").unwrap();
    fs::write(&earlier, "").unwrap();
    let (success, errors) = Demo::start(home.path(), &["--exit", "--publish", "/nowhere/at/all"]).end();
    assert!(!success);
    assert!(errors.contains("/nowhere/at/all"), "{errors}");
    assert!(earlier.exists(), "what an earlier demonstration left is emptied only for a new one");
}

#[test]
fn what_ends_it_before_the_end_is_told() {
    let home = tempfile::tempdir().unwrap();
    let demo = Demo::start(home.path(), &["--exit"]);
    demo.read_until("2  Three nodes");
    demo.terminate();
    let (code, errors) = demo.end_code();
    assert_eq!(code, Some(143), "{errors}");
    assert!(errors.contains("the show is not over: interrupted"), "{errors}");
}

#[test]
fn a_document_that_nobody_reads_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
    command.args(["demo", "--exit", "--json", "--quiet"]).env("METACDN_HOME", home.path());
    let ended = command.stdin(Stdio::null()).stdout(std::io::pipe().unwrap().1).output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn it_stays_up_until_it_is_told_to_end() {
    let home = tempfile::tempdir().unwrap();
    let demo = Demo::start(home.path(), &[]);
    let shown = demo.read_until("Ctrl-C");
    assert!(!shown.contains('\x1b'), "no colours where there is no terminal");
    let long: Vec<_> = shown.lines().filter(|line| line.chars().count() > 80 && !line.contains("export")).collect();
    assert!(long.is_empty(), "too wide for a terminal: {long:#?}");
    demo.terminate();
    let (success, errors) = demo.end();
    assert!(success, "{errors}");
}

#[test]
fn the_commands_that_it_prints_work() {
    let (home, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let demo = Demo::start(home.path(), &["--json"]);
    let document = demo.document();
    let commands: Vec<_> = document["commands"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert!(commands.len() > 12, "{commands:?}");
    let script = commands.join("\n").replace("curl ", "curl --fail-with-body -sS ");
    let output = Command::new("sh").args(["-ec", &script]).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("Hello, clouds").count(), 5, "{said}");
    assert_eq!(said.matches("metacdn-route: node=").count(), 3, "{said}");
    let sizes = said.lines().filter_map(|line| line.strip_suffix(" bytes")?.parse::<u64>().ok());
    let [photograph, slow, low] = sizes.collect::<Vec<_>>()[..] else { panic!("three photographs: {said}") };
    assert_eq!(slow, low, "{said}");
    assert!(photograph > low, "{said}");
    demo.terminate();
    assert!(demo.end().0);
}
