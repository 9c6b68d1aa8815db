//! `metacdn certs`: the cluster's authority, and who gets a certificate of it.
//!
//! A key is made on the machine that uses it (`request`, then `sign` on the authority's machine), or, for machines
//! that share one owner, beside the authority (`issue`, then `export`).

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::Output;
use crate::config::IdentityFiles;
use crate::model::{CallerName, Principal};
use authority::{Authority, DAYS_DEFAULT, Holder, Host};

pub mod authority;
pub(super) mod files;
mod show;

/// The file names that belong to the authority, so that nobody else may be called that.
const AUTHORITY: &str = "authority";

/// Make, sign, show and hand over certificates.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make the authority of a new cluster.
    Init {
        /// Where the files lie.
        #[command(flatten)]
        place: Place,
    },
    /// Make a key and its certificate here, beside the authority.
    Issue {
        /// Whose certificate it is.
        #[command(flatten)]
        holder: HolderArgs,
        /// Where the files lie.
        #[command(flatten)]
        place: Place,
    },
    /// Make a key where it will be used, and a request to take to the authority.
    Request {
        /// The name: 1 to 63 letters, digits and hyphens.
        name: CallerName,
        /// A host it shall be reached under; the authority's operator decides. May be repeated.
        #[arg(long)]
        host: Vec<Host>,
        /// Where the files lie.
        #[command(flatten)]
        place: Place,
    },
    /// Sign a request, on the authority's machine; the name and hosts given here count, not those in the request.
    Sign {
        /// The request, as `metacdn certs request` made it.
        csr: PathBuf,
        /// Whose certificate it is.
        #[command(flatten)]
        holder: HolderArgs,
        /// Where the files lie.
        #[command(flatten)]
        place: Place,
    },
    /// Show whose certificates lie here and how long they are valid.
    Show {
        /// A file or folder; the folder of certificates if left out.
        path: Option<PathBuf>,
    },
    /// Write key, certificate and authority into one file, to take to another machine.
    Export {
        /// The name it was issued under.
        name: CallerName,
        /// The file to write; it will hold the key.
        #[arg(long)]
        to: PathBuf,
        /// Where the files lie.
        #[command(flatten)]
        place: Place,
    },
}

/// Where the files lie.
#[derive(Debug, Args)]
pub struct Place {
    /// The folder of certificates.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Overwrite files that are there; a key that is overwritten is lost.
    #[arg(long)]
    force: bool,
}

/// Whose certificate it is.
#[derive(Debug, Args)]
pub struct HolderArgs {
    /// What the holder is.
    role: Role,
    /// Its name: 1 to 63 letters, digits and hyphens.
    name: CallerName,
    /// A further host it is reached under, a DNS name or an IP address. May be repeated.
    #[arg(long)]
    host: Vec<Host>,
    /// How many days the certificate is valid.
    #[arg(long, default_value_t = DAYS_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
}

/// What the holder of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A machine that keeps objects.
    Node,
    /// A machine that answers users.
    Edge,
    /// A user or program that publishes.
    Client,
}

/// Does what `command` says, in `home`/certs unless it names another folder.
///
/// # Errors
/// With what was wrong and what to do about it.
pub fn run(command: Command, home: &Path, output: Output) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let default = home.join("certs");
    let folder = |place: &Place| place.dir.clone().unwrap_or_else(|| default.clone());
    let report = match command {
        Command::Show { path } => return show::show(&path.unwrap_or(default), output, now),
        Command::Init { place } => init(&folder(&place), place.force, now),
        Command::Issue { holder, place } => issue(holder, &folder(&place), place.force, now),
        Command::Request { name, host, place } => request(&name, &host, &folder(&place), place.force),
        Command::Sign { csr, holder, place } => sign(&csr, holder, &folder(&place), place.force, now),
        Command::Export { name, to, place } => export(&name, &to, &folder(&place), place.force, now),
    }?;
    if output.is_json() {
        return output.answer_json(&json!({ "written": report.written, "next": report.next }));
    }
    for path in &report.written {
        output.done(format_args!("wrote {}", path.display()))?;
    }
    output.done(report.next)
}

/// What a command did, and what its user does next.
struct Report {
    written: Vec<PathBuf>,
    next: String,
}

fn init(folder: &Path, force: bool, now: SystemTime) -> anyhow::Result<Report> {
    let IdentityFiles { authority, .. } = IdentityFiles::in_folder(folder, AUTHORITY);
    let key = folder.join("authority.key");
    files::create_folder(folder)?;
    files::refuse_existing(&[&authority, &key], force)?;
    let made = Authority::create(now)?;
    files::write_secret(&key, &made.key(), force)?;
    files::write_public(&authority, made.certificate(), force)?;
    let next = "keep authority.key on this machine and back it up; issue certificates with `metacdn certs issue`";
    Ok(Report { written: vec![key, authority], next: next.to_owned() })
}

fn issue(holder: HolderArgs, folder: &Path, force: bool, now: SystemTime) -> anyhow::Result<Report> {
    let files = files_of(folder, &holder.name)?;
    let name = holder.name.clone();
    files::refuse_existing(&[&files.key, &files.certificate], force)?;
    let issued = open_authority(folder)?.issue(&holder.into_holder()?, now)?;
    files::write_secret(&files.key, &issued.key, force)?;
    files::write_public(&files.certificate, &issued.certificate, force)?;
    let next = format!("to use it on another machine: `metacdn certs export {name} --to FILE`");
    Ok(Report { written: vec![files.key, files.certificate], next })
}

fn request(name: &CallerName, hosts: &[Host], folder: &Path, force: bool) -> anyhow::Result<Report> {
    let files = files_of(folder, name)?;
    let request = folder.join(format!("{name}.csr"));
    files::create_folder(folder)?;
    files::refuse_existing(&[&files.key, &request], force)?;
    let made = authority::request(name.as_str(), hosts)?;
    files::write_secret(&files.key, &made.key, force)?;
    files::write_public(&request, &made.certificate, force)?;
    let hosts: String = hosts.iter().map(|host| format!(" --host {host}")).collect();
    let next = format!(
        "take {name}.csr to the authority's machine, run there `metacdn certs sign {name}.csr ROLE {name}{hosts}` \
         (ROLE is node, edge or client), and bring {name}.pem and authority.pem back into {}",
        folder.display()
    );
    Ok(Report { written: vec![files.key, request], next })
}

fn sign(csr: &Path, holder: HolderArgs, folder: &Path, force: bool, now: SystemTime) -> anyhow::Result<Report> {
    let files = files_of(folder, &holder.name)?;
    files::refuse_existing(&[&files.certificate], force)?;
    let request = files::read_text(csr)?;
    let in_file = || format!("cannot sign {}", csr.display());
    let wishes = authority::wishes(&request).with_context(in_file)?;
    let refused: Vec<_> = wishes
        .iter()
        .filter(|wish| !holder.host.contains(wish))
        .map(|wish| wish.to_string().escape_default().to_string())
        .collect();
    let name = holder.name.clone();
    let certificate = open_authority(folder)?.sign(&request, &holder.into_holder()?, now).with_context(in_file)?;
    files::write_public(&files.certificate, &certificate, force)?;
    let mut next = format!("take {name}.pem and authority.pem to the machine that made the request");
    if !refused.is_empty() {
        next += &format!("; it also asked for {}, which --host would grant", refused.join(", "));
    }
    Ok(Report { written: vec![files.certificate], next })
}

fn export(name: &CallerName, to: &Path, folder: &Path, force: bool, now: SystemTime) -> anyhow::Result<Report> {
    let files = files_of(folder, name)?;
    let identity = files.load(now)?;
    let parts = [&files.key, &files.certificate, &files.authority].map(|path| files::read_text(path));
    let mut bundle = String::new();
    for part in parts {
        let part = part?;
        bundle += part.trim_end();
        bundle.push('\n');
    }
    files::write_secret(to, &bundle, force)?;
    let next = format!("it holds the key of {}: move it safely and delete this copy", identity.principal());
    Ok(Report { written: vec![to.to_owned()], next })
}

impl HolderArgs {
    fn into_holder(self) -> anyhow::Result<Holder> {
        let principal = match self.role {
            Role::Node => Principal::Node(self.name.as_str().parse()?),
            Role::Edge => Principal::Edge(self.name),
            Role::Client => Principal::Client(self.name),
        };
        Ok(Holder { principal, hosts: self.host, days: self.days })
    }
}

fn files_of(folder: &Path, name: &CallerName) -> anyhow::Result<IdentityFiles> {
    anyhow::ensure!(
        !name.as_str().eq_ignore_ascii_case(AUTHORITY),
        "the name {name} is the authority's own: choose another"
    );
    Ok(IdentityFiles::in_folder(folder, name.as_str()))
}

fn open_authority(folder: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = (folder.join("authority.pem"), folder.join("authority.key"));
    anyhow::ensure!(
        key.exists(),
        "no authority in {}: make one with `metacdn certs init`, or name its folder with --dir",
        folder.display()
    );
    let read = Authority::from_pem(&files::read_text(&certificate)?, &files::read_text(&key)?);
    read.with_context(|| format!("cannot use the authority in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    fn certs(home: &Path, line: &str) -> anyhow::Result<()> {
        let line = Line::try_parse_from(std::iter::once("certs").chain(line.split_whitespace()))?;
        run(line.command, home, Output::new(true, false))
    }

    fn load(folder: &Path, name: &str) -> anyhow::Result<String> {
        let identity = IdentityFiles::in_folder(folder, name).load(SystemTime::now())?;
        Ok(identity.principal().to_string())
    }

    #[test]
    fn a_cluster_gets_its_certificates() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("certs");
        certs(home.path(), "init").unwrap();
        certs(home.path(), "issue node AWS --host aws.example.org --days 30").unwrap();
        certs(home.path(), "issue client Ann").unwrap();
        assert_eq!(load(&folder, "AWS").unwrap(), "node AWS");
        assert_eq!(load(&folder, "Ann").unwrap(), "client Ann");
        for key in ["authority.key", "AWS.key", "Ann.key"] {
            let mode = std::fs::metadata(folder.join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        certs(home.path(), "show").unwrap();

        let kept = std::fs::read(folder.join("AWS.key")).unwrap();
        assert!(certs(home.path(), "issue node AWS").unwrap_err().to_string().contains("--force"));
        assert!(certs(home.path(), "init").unwrap_err().to_string().contains("--force"));
        assert_eq!(std::fs::read(folder.join("AWS.key")).unwrap(), kept);
        certs(home.path(), "issue node AWS --force").unwrap();
        assert_ne!(std::fs::read(folder.join("AWS.key")).unwrap(), kept);
    }

    #[test]
    fn a_key_stays_where_it_was_made() {
        let (office, machine) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        certs(office.path(), "init").unwrap();
        certs(machine.path(), "request GC --host gc.example.org").unwrap();
        let csr = machine.path().join("certs/GC.csr");
        certs(office.path(), &format!("sign {} node GC", csr.display())).unwrap();
        assert!(!office.path().join("certs/GC.key").exists());
        for file in ["GC.pem", "authority.pem"] {
            std::fs::copy(office.path().join("certs").join(file), machine.path().join("certs").join(file)).unwrap();
        }
        assert_eq!(load(&machine.path().join("certs"), "GC").unwrap(), "node GC");

        let bundle = machine.path().join("gc-bundle.pem");
        certs(machine.path(), &format!("export GC --to {}", bundle.display())).unwrap();
        assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
        let files = IdentityFiles { authority: bundle.clone(), certificate: bundle.clone(), key: bundle };
        assert_eq!(files.load(SystemTime::now()).unwrap().principal().to_string(), "node GC");
    }

    #[test]
    fn help_describes_the_commands() {
        let commands = <Line as clap::CommandFactory>::command();
        for (name, start) in [("init", "Make the authority"), ("sign", "Sign a request"), ("export", "Write key")] {
            let about = commands.find_subcommand(name).unwrap().get_about().unwrap().to_string();
            assert!(about.starts_with(start), "{name}: {about}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        let home = tempfile::tempdir().unwrap();
        let error = |line: &str| format!("{:#}", certs(home.path(), line).unwrap_err());
        assert!(error("issue node AWS").contains("certs init"));
        assert!(error("export AWS --to x").contains("AWS.pem") || error("export AWS --to x").contains("authority.pem"));
        certs(home.path(), "init").unwrap();
        assert!(error("issue node authority").contains("the authority's own"));
        assert!(error("issue node a/b").contains("letters, digits and hyphens"));
        assert!(error("issue node A --host GC.node.metacdn.internal").contains("authority itself gives"));
        assert!(error("issue client A --host a.org").contains("--host"));
        assert!(error("issue node A --days 0").contains("days"));
        let pem = home.path().join("certs/authority.pem");
        assert!(error(&format!("sign {} node A", pem.display())).contains("certs request"));
        assert!(!home.path().join("certs/A.key").exists(), "a refused issue leaves nothing");
    }
}
