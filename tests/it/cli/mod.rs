//! The commands that a person types, run as the real program against real nodes.

mod admin;
mod dump;
mod explain;
mod load;
mod members;
mod objects;
mod packets;
mod repair;
mod upload;
mod verify;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use metacdn::model::{Address, Principal};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;

/// A user of a cluster: a home folder, with a configuration.
pub struct User {
    home: TempDir,
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// The lines of JSON that it printed, and nothing else.
    fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

impl User {
    /// A user who knows all nodes of `cluster`.
    pub fn of(cluster: &Cluster, names: &[&str]) -> Self {
        Self::with_seeds(cluster, &names.iter().map(|name| cluster.address(name)).collect::<Vec<_>>())
    }

    fn with_seeds(cluster: &Cluster, seeds: &[Address]) -> Self {
        let user = Self { home: tempfile::tempdir().unwrap() };
        let (certificate, key) = cluster.pem(Principal::Client("me".parse().unwrap()));
        let profile = user.home.path().join("demo");
        fs::create_dir(&profile).unwrap();
        fs::write(profile.join("authority.pem"), cluster.authority_pem()).unwrap();
        fs::write(profile.join("me.pem"), certificate).unwrap();
        fs::write(profile.join("me.key"), key).unwrap();
        fs::set_permissions(profile.join("me.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let seeds: Vec<_> = seeds.iter().map(|seed| format!("{:?}", seed.to_string())).collect();
        let text = format!(
            "[identity]\nauthority = 'authority.pem'\ncertificate = 'me.pem'\nkey = 'me.key'\n\n[client]\nseeds = [{}]\n",
            seeds.join(", ")
        );
        fs::write(profile.join("client.toml"), text).unwrap();
        user
    }

    /// Has the user's configuration name an edge.
    fn configure_edge(&self, admin: SocketAddr) {
        let path = self.home.path().join("demo/client.toml");
        let text = fs::read_to_string(&path).unwrap() + &format!("edge = '{admin}'\n");
        fs::write(path, text).unwrap();
    }

    /// A path in the user's folder, below which the folders are made.
    fn path(&self, name: &str) -> PathBuf {
        let path = self.home.path().join("work").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metacdn"));
        command.args(args).stdin(Stdio::null()).current_dir(self.home.path());
        command.env_remove("METACDN_CONFIG").env("METACDN_HOME", self.home.path()).env("TZ", "UTC");
        command
    }

    /// Runs the program to its end.
    pub async fn run(&self, args: &[&str]) -> Ended {
        self.run_seeing(args, |_| {}).await
    }

    /// Runs the program to its end; `see` gets each line of its standard error when it comes.
    async fn run_seeing(&self, args: &[&str], mut see: impl FnMut(&str) + Send + 'static) -> Ended {
        let mut command = self.command(args);
        let run = move || {
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut from = child.stdout.take().unwrap();
            let reading = std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            });
            let mut stderr = String::new();
            for line in BufReader::new(child.stderr.take().unwrap()).lines() {
                let line = line.unwrap();
                see(&line);
                stderr += &line;
                stderr.push('\n');
            }
            Ended { code: child.wait().unwrap().code().unwrap(), stdout: reading.join().unwrap(), stderr }
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

/// Bytes that are alike nowhere.
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn below(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { below(&path, into) } else { into.push(path) }
    }
}
