//! `metacdn reload`: has an edge read its configuration anew.

use clap::Args;

use super::{Options, explain, profile};
use crate::model::{Address, SiteName};
use crate::protocol::reload::Reloaded;

/// The arguments of `metacdn reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// The admin address of the edge [default: edge in [client] of the configuration, or 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    edge: Option<Address>,
}

/// Has an edge read its configuration anew, and prints what has changed.
///
/// # Errors
/// When the edge does not answer, or cannot use what it reads.
pub(super) async fn run(args: ReloadArgs, options: &Options) -> anyhow::Result<()> {
    let config = profile::profile(options)?.map(|path| profile::read(&path)).transpose()?;
    let address = explain::address(args.edge, config.as_ref())?;
    let ways = explain::ways(&address, config.as_ref())?;
    let reloaded = explain::ask(&ways, &address, async |peer| peer.reload().await).await?;
    if options.json {
        return options.output().answer(serde_json::to_string(&reloaded)?);
    }
    options.output().done(page(&address, &reloaded))
}

fn page(address: &Address, reloaded: &Reloaded) -> String {
    let Reloaded { changed, needs_restart, sites } = reloaded;
    let mut text = match changed.as_slice() {
        [] => format!("nothing has changed at the edge {address}"),
        changed => format!("the edge {address} has changed: {}", changed.join(", ")),
    };
    for (what, names) in [("added", &sites.added), ("changed", &sites.changed), ("removed", &sites.removed)] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(SiteName::as_str).collect();
            text.push_str(&format!("\nsites {what}: {}", names.join(", ")));
        }
    }
    if !needs_restart.is_empty() {
        text.push_str(&format!("\nneeds a restart: {}", needs_restart.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::reload::ChangedSites;

    #[test]
    fn what_has_changed_and_what_has_not_is_told() {
        let address = "127.0.0.1:8081".parse().unwrap();
        let nothing = page(&address, &Reloaded::default());
        assert_eq!(nothing, "nothing has changed at the edge 127.0.0.1:8081");
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let sites = ChangedSites { added: names(&["a", "b"]), changed: names(&[]), removed: names(&["c"]) };
        let reloaded =
            Reloaded { changed: vec!["edge.site".to_owned()], needs_restart: vec!["edge.listen".to_owned()], sites };
        let lines = "the edge 127.0.0.1:8081 has changed: edge.site\nsites added: a, b\nsites removed: c\n\
                     needs a restart: edge.listen";
        assert_eq!(page(&address, &reloaded), lines);
    }
}
