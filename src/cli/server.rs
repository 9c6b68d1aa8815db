//! `metacdn server`: one node, from a configuration or from flags alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::failure::UsageError;
use crate::cli::roles::Ports;
use crate::cli::run;
use crate::config::{Draft, IdentityFiles};
use crate::model::{Address, NodeId, Provider};
use crate::telemetry;

/// Run one node: the section "node" of the configuration, or what the options say.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is done with images for slow links: nothing, smaller ones made when they arrive, or when they are asked for
    #[arg(value_parser = ["off", "static", "dynamic"])]
    images: Option<String>,
    /// The node's name, the one in its certificate
    #[arg(long)]
    name: Option<NodeId>,
    /// The cloud it runs on [default: its name]
    #[arg(long)]
    provider: Option<Provider>,
    /// The folder of its objects and catalogue [default: nodes/NAME in metacdn's folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where packets and the node API are served [default: 127.0.0.1:22222, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where others reach that, if it is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<Address>,
    /// Where the server list and the download API are served [default: 127.0.0.1:8871, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    download_listen: Option<SocketAddr>,
    /// Where others reach that, if it is not where it listens
    #[arg(long, value_name = "HOST:PORT")]
    download_advertise: Option<Address>,
    /// Where the price API is served [default: 127.0.0.1:8700, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    price_listen: Option<SocketAddr>,
    /// The address of a node of the cluster to join; may be repeated
    #[arg(long = "seed", value_name = "HOST:PORT")]
    seeds: Vec<Address>,
    /// Who may send packets: those with a certificate of the cluster, or everyone who reaches the port
    #[arg(long, value_parser = ["closed", "open"])]
    packets: Option<String>,
    /// The folder of certificates, as `metacdn certs` keeps it [default: certs in metacdn's folder]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["authority", "certificate", "key"])]
    identity_dir: Option<PathBuf>,
    /// Single files of the identity.
    #[command(flatten)]
    identity: IdentityArgs,
}

/// The files of the identity, one by one.
#[derive(Debug, clap::Args)]
pub struct IdentityArgs {
    /// The certificate of the cluster's authority
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
    /// The own certificate
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The own key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Runs one node until a signal.
///
/// # Errors
/// When what is said about it cannot be used, or the node fails.
pub async fn run(args: Args, config: Option<&Path>, home: &Path) -> anyhow::Result<()> {
    let (config, home) = (config.map(Path::to_owned), home.to_owned());
    let read = move || Ok(draft(&args, run::draft(config.as_deref())?, &home)?.build()?);
    let effective = read()?;
    telemetry::start(&effective.config.log)?;
    run::serve(&effective, read, Ports::NextFree).await
}

/// The flags on top of what the file and the environment say, and then the defaults of this command.
fn draft(args: &Args, mut draft: Draft, home: &Path) -> anyhow::Result<Draft> {
    draft.remove_section("edge");
    let text = |value: &Option<PathBuf>| value.as_ref().map(|path| path.to_string_lossy().into_owned());
    for (field, value, flag) in [
        ("node.images", args.images.clone(), "[IMAGES]"),
        ("node.id", args.name.as_ref().map(ToString::to_string), "--name"),
        ("node.provider", args.provider.as_ref().map(ToString::to_string), "--provider"),
        ("node.data", text(&args.data), "--data"),
        ("node.listen", args.listen.map(|at| at.to_string()), "--listen"),
        ("node.advertise", args.advertise.as_ref().map(ToString::to_string), "--advertise"),
        ("node.download_listen", args.download_listen.map(|at| at.to_string()), "--download-listen"),
        ("node.download_advertise", args.download_advertise.as_ref().map(ToString::to_string), "--download-advertise"),
        ("node.price_listen", args.price_listen.map(|at| at.to_string()), "--price-listen"),
        ("node.packets", args.packets.clone(), "--packets"),
    ] {
        if let Some(value) = value {
            draft.set(field, value, flag);
        }
    }
    if !args.seeds.is_empty() {
        draft.set("node.seeds", args.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), "--seed");
    }
    args.identity.set(&mut draft);
    let Some(name) = draft.text("node.id").map(str::to_owned) else {
        let reason = "the node has no name: give it one with --name, or name a configuration with --config";
        return Err(UsageError(reason.to_owned()).into());
    };
    draft.set_default("node.data", home.join("nodes").join(&name).to_string_lossy());
    if let Some(folder) = &args.identity_dir {
        set_identity(&IdentityFiles::in_folder(folder, &name), |field, path| draft.set(field, path, "--identity-dir"));
    } else if !draft.has_section("identity") {
        let files = IdentityFiles::in_folder(&home.join("certs"), &name);
        set_identity(&files, |field, path| draft.set_default(field, path));
    }
    Ok(draft)
}

fn set_identity(files: &IdentityFiles, mut set: impl FnMut(&'static str, String)) {
    for (field, path) in [
        ("identity.authority", &files.authority),
        ("identity.certificate", &files.certificate),
        ("identity.key", &files.key),
    ] {
        set(field, path.to_string_lossy().into_owned());
    }
}

impl IdentityArgs {
    /// Puts on top of `draft` what was given.
    pub(super) fn set(&self, draft: &mut Draft) {
        for (field, path, flag) in [
            ("identity.authority", &self.authority, "--authority"),
            ("identity.certificate", &self.certificate, "--certificate"),
            ("identity.key", &self.key, "--key"),
        ] {
            if let Some(path) = path {
                draft.set(field, path.to_string_lossy(), flag);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};
    use crate::model::ImageMode;
    use crate::node::Packets;
    use clap::Parser;
    use clap::error::ErrorKind;

    #[derive(Parser)]
    #[command(name = "metacdn server")]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once("server").chain(line.split_whitespace())).map(|line| line.args)
    }

    fn config(line: &str) -> Config {
        draft(&parse(line).unwrap(), Draft::default(), Path::new("/home")).unwrap().build().unwrap().config
    }

    #[test]
    fn a_name_is_enough() {
        let config = config("--name AWS");
        assert_eq!(config.identity, Some(IdentityFiles::in_folder(Path::new("/home/certs"), "AWS")));
        let node = config.node.unwrap();
        assert_eq!((node.data.as_path(), node.images), (Path::new("/home/nodes/AWS"), ImageMode::Off));
        assert_eq!(node.listen.port(), 22222);
    }

    #[test]
    fn every_option_has_its_effect() {
        let config = config(
            "dynamic --name A --provider GC --data d --listen [::1]:1 --advertise a:1 --download-listen [::1]:2 \
             --download-advertise a:2 --price-listen [::1]:3 --seed b:1 --seed c:1 --packets open --identity-dir i",
        );
        assert_eq!(config.identity.as_ref().unwrap().key, Path::new("i/A.key"));
        let node = config.node.unwrap();
        assert_eq!(node.provider.unwrap().as_str(), "GC");
        assert_eq!([node.listen.port(), node.download_listen.port(), node.price_listen.port()], [1, 2, 3]);
        assert_eq!((node.advertise.unwrap().port(), node.download_advertise.unwrap().port()), (1, 2));
        assert_eq!((node.seeds.len(), node.packets, node.images), (2, Packets::Open, ImageMode::Dynamic));
        assert_eq!(node.data, Path::new("d"));
    }

    #[test]
    fn the_file_gives_what_flags_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metacdn.toml");
        let text = "[identity]\nauthority = 'a'\ncertificate = 'c'\nkey = 'k'\n[node]\nid = 'GC'\ndata = 'd'\n\
                    images = 'static'\n[edge]\nlisten = '127.0.0.1:22222'\n";
        std::fs::write(&path, text).unwrap();
        let args = parse("off --key other.key").unwrap();
        let effective = draft(&args, Draft::read(&path).unwrap(), Path::new("/home")).unwrap().build().unwrap();
        let node = effective.config.node.as_ref().unwrap();
        assert_eq!((node.id.as_str(), node.images), ("GC", ImageMode::Off));
        assert_eq!(node.data, folder.path().join("d"));
        assert_eq!(effective.config.identity.as_ref().unwrap().key, Path::new("other.key"));
        assert_eq!(effective.config.identity.as_ref().unwrap().authority, folder.path().join("a"));
        assert!(effective.config.edge.is_none(), "its faults do not count either");
        assert_eq!(*effective.source("node.images"), Source::Flag("[IMAGES]"));
    }

    #[test]
    fn mistakes_are_explained() {
        let error = parse("statik --name A").unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::InvalidValue, 2));
        let text = error.to_string();
        assert!(["off", "static", "dynamic"].iter().all(|word| text.contains(word)), "{text}");
        assert!(parse("--name a.b").unwrap_err().to_string().contains("letters, digits and hyphens"));
        assert!(parse("--identity-dir i --key k").is_err());
        let nameless = draft(&parse("").unwrap(), Draft::default(), Path::new("/home")).unwrap_err();
        assert!(nameless.is::<UsageError>() && nameless.to_string().contains("--name"));
    }
}
