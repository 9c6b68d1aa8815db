//! The files of a whole cluster: authority, certificates, and a configuration for each part of it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;

use super::cluster::{MACHINES, Place};
use super::report::Credentials;

use crate::cli::certs::authority::{Authority, Holder};
use crate::cli::certs::files::{create_folder, write_public, write_secret};
use crate::config::IdentityFiles;
use crate::model::Principal;

/// Names of the two that are no nodes; they are also the names of their files.
pub(super) const PROXY: &str = "proxy";
pub(super) const CLIENT: &str = "client";

/// Beyond it a forgotten demonstration should not be usable.
const DAYS: u32 = 30;

/// Makes the authority and a certificate for everyone in `folder`/certs.
///
/// # Errors
/// When the disk or the system's randomness fails.
pub(super) fn create(folder: &Path, now: SystemTime) -> anyhow::Result<()> {
    let folder = certificates(folder);
    create_folder(&folder)?;
    let authority = Authority::create(now)?;
    write_secret(&folder.join("authority.key"), &authority.key(), false)?;
    write_public(&folder.join("authority.pem"), authority.certificate(), false)?;
    let mut holders = vec![(PROXY, Principal::Edge(PROXY.parse()?)), (CLIENT, Principal::Client(CLIENT.parse()?))];
    for machine in &MACHINES {
        holders.push((machine.name, Principal::Node(machine.name.parse()?)));
    }
    for (name, principal) in holders {
        // So that programs which know nothing of metacdn's names can check a node by its address.
        let hosts = match principal {
            Principal::Node(_) => {
                ["127.0.0.1", "localhost"].iter().map(|host| host.parse()).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let issued = authority.issue(&Holder { principal, hosts, days: DAYS }, now)?;
        let files = IdentityFiles::in_folder(&folder, name);
        write_secret(&files.key, &issued.key, false)?;
        write_public(&files.certificate, &issued.certificate, false)?;
    }
    Ok(())
}

fn certificates(folder: &Path) -> PathBuf {
    folder.join("certs")
}

/// Where the identity of `name` lies.
pub(super) fn identity_files(folder: &Path, name: &str) -> IdentityFiles {
    IdentityFiles::in_folder(&certificates(folder), name)
}

/// Where the configuration of `name` lies.
pub(super) fn config_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.toml", name.to_ascii_lowercase()))
}

/// Where the client's credentials lie.
pub(super) fn client_credentials(folder: &Path) -> Credentials {
    let IdentityFiles { authority, certificate, key } = identity_files(folder, CLIENT);
    Credentials { config: config_file(folder, CLIENT), authority, certificate, key }
}

/// Writes the configurations of a cluster whose nodes are at `places`: what a real one would start from, and the
/// profile of the client.
///
/// # Errors
/// When the disk fails.
pub(super) fn write_configs(folder: &Path, places: &[Place], proxy: Place) -> anyhow::Result<()> {
    let seeds = |but: Option<usize>| {
        let others = places.iter().enumerate().filter(|(index, _)| Some(*index) != but);
        let quoted: Vec<_> = others.map(|(_, place)| format!("\"{}\"", place.api)).collect();
        format!("[{}]", quoted.join(", "))
    };
    let client = format!(
        "# The profile by which the commands of a person find the cluster: metacdn --config FILE list\n\n\
         {}\n[client]\nseeds = {}\n# Who says why a node is chosen: metacdn explain KEY\nedge = \"{}\"\n",
        identity(CLIENT),
        seeds(None),
        proxy.download,
    );
    write(folder, CLIENT, &client)?;
    for (index, (machine, place)) in MACHINES.iter().zip(places).enumerate() {
        let name = machine.name;
        let mut text = format!("# What the machine of {name} would start from: metacdn run --config FILE\n\n");
        write!(
            text,
            "{}\n[node]\nid = \"{name}\"\nprovider = \"{name}\"\ndata = \"{name}\"\nlisten = \"{}\"\n\
             download_listen = \"{}\"\nprice_listen = \"{}\"\nseeds = {}\n\
             # Both are for a loopback: anyone who reaches the ports may send packets and download.\n\
             packets = \"open\"\npublic_downloads = true\n\
             # Smaller variants of images are made when a client's link asks for one.\nimages = \"dynamic\"\n",
            identity(name),
            place.api,
            place.download,
            place.price,
            seeds(Some(index)),
        )?;
        write(folder, name, &text)?;
    }
    let edge = format!(
        "# What the machine of the proxy would start from: metacdn run --config FILE\n\n\
         {}\n[edge]\nlisten = \"{}\"\nadmin_listen = \"{}\"\nseeds = {}\n\
         # These clients may choose a policy for a request by the header metacdn-policy.\n\
         trusted = [\"127.0.0.1\"]\n\n[edge.route]\npolicy = \"n\"\n",
        identity(PROXY),
        proxy.api,
        proxy.download,
        seeds(None),
    );
    write(folder, PROXY, &edge)
}

fn identity(name: &str) -> String {
    format!(
        "[identity]\nauthority = \"certs/authority.pem\"\ncertificate = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n"
    )
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = config_file(folder, name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Draft;

    #[test]
    fn the_configurations_are_ones() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), SystemTime::now()).unwrap();
        let at = |port| -> std::net::SocketAddr { format!("127.0.0.1:{port}").parse().unwrap() };
        let place = |port| Place { api: at(port), download: at(port + 1), price: at(port + 2) };
        write_configs(folder.path(), &[place(1), place(4), place(7)], place(10)).unwrap();
        for (name, principal) in [
            ("AWS", "node AWS"),
            ("GC", "node GC"),
            ("Program", "node Program"),
            (PROXY, "edge proxy"),
            (CLIENT, "client client"),
        ] {
            let effective = Draft::read(&config_file(folder.path(), name)).unwrap().build().unwrap();
            let config = effective.config.clone();
            let identity = config.load_identity(SystemTime::now()).unwrap();
            assert_eq!(identity.principal().to_string(), principal);
            if name != CLIENT {
                assert_eq!(effective.verify(SystemTime::now()).unwrap().warnings.len(), 0, "{name}");
            }
            let seeds = match (config.client, config.node, config.edge) {
                (Some(client), None, None) => {
                    assert_eq!(client.edge, Some(at(11).into()));
                    client.seeds.len() - 1
                }
                (None, Some(node), None) => {
                    assert_eq!(node.data, folder.path().join(name));
                    node.seeds.len()
                }
                (None, None, Some(edge)) => edge.seeds.len() - 1,
                other => panic!("{name} configures {other:?}"),
            };
            assert_eq!(seeds, 2, "{name}");
        }
    }
}
