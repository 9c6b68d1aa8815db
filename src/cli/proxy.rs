//! `metacdn proxy`: one edge, by the reference's words for what requests are routed by.

use std::net::SocketAddr;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use tracing::warn;

use crate::cli::roles::Ports;
use crate::cli::run;
use crate::cli::server::IdentityArgs;
use crate::config::Draft;
use crate::model::Address;
use crate::route::Policy;
use crate::telemetry;

/// Run one edge (the reference's proxy) in front of the cluster: the section "edge" of the configuration, or what the options say.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What requests are routed by.
    #[command(flatten)]
    policy: PolicyArgs,
    /// Where users are answered [default: 127.0.0.1:8080, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where health, readiness, metrics and routes are served [default: 127.0.0.1:8081, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// The address of a node of the cluster; may be repeated [default: those of the configuration]
    #[arg(long = "seed", value_name = "HOST:PORT")]
    seeds: Vec<Address>,
    /// A host name that it serves besides its own addresses and localhost; may be repeated
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Single files of the identity.
    #[command(flatten)]
    identity: IdentityArgs,
}

/// A policy by its words: which of them needs a beta cannot be said by types of single arguments.
#[derive(Debug, Clone, PartialEq)]
struct PolicyArgs {
    policy: Policy,
    unused_beta: Option<String>,
}

impl clap::Args for PolicyArgs {
    fn augment_args(command: Command) -> Command {
        let policy = Arg::new("policy")
            .required(true)
            .value_parser(["p", "n", "c", "d"])
            .help("What requests are routed by: p (price), n or d (time), or c (both)");
        let beta = Arg::new("beta")
            .allow_negative_numbers(true)
            .help("For c: how much price weighs, from 0 (time alone) to 1 (price alone)");
        command.arg(policy).arg(beta)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PolicyArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let word = |name| matches.get_one::<String>(name).map(String::as_str);
        let (policy, beta) = (word("policy").unwrap_or_default(), word("beta"));
        match Policy::from_words(policy, beta) {
            Ok(policy) if policy.uses_beta() => Ok(Self { policy, unused_beta: None }),
            Ok(policy) => Ok(Self { policy, unused_beta: beta.map(str::to_owned) }),
            Err(error) => {
                // Left to itself, clap would show the usage of the whole program.
                let mut command = <Args as clap::Args>::augment_args(Command::new("metacdn proxy"));
                Err(command.error(ErrorKind::ValueValidation, error))
            }
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs one edge until a signal.
///
/// # Errors
/// When what is said about it cannot be used, or the edge fails.
pub async fn run(args: Args, config: Option<&Path>, home: &Path) -> anyhow::Result<()> {
    let profile = home.join(super::profile::DEMO_PROFILE);
    let file = config.or_else(|| profile.exists().then_some(&*profile));
    let file = file.map(Path::to_owned);
    let unused = args.policy.unused_beta.clone().map(|beta| (beta, args.policy.policy));
    let read = move || Ok(draft(&args, run::draft(file.as_deref())?)?.build()?);
    let effective = read()?;
    telemetry::start(&effective.config.log)?;
    if let Some((beta, policy)) = unused {
        warn!(beta, %policy, "beta is not used, only policy c weighs by it");
    }
    run::serve(&effective, read, Ports::NextFree).await
}

/// The flags on top of what the file and the environment say, and then the defaults of this command.
fn draft(args: &Args, mut draft: Draft) -> anyhow::Result<Draft> {
    draft.remove_section("node");
    draft.set("edge.route.policy", args.policy.policy.to_string(), "<POLICY>");
    if let Some(listen) = args.listen {
        draft.set("edge.listen", listen.to_string(), "--listen");
    }
    if let Some(listen) = args.admin_listen {
        draft.set("edge.admin_listen", listen.to_string(), "--admin-listen");
    }
    if !args.seeds.is_empty() {
        draft.set("edge.seeds", args.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), "--seed");
    }
    if !args.hosts.is_empty() {
        draft.set("edge.hosts", args.hosts.clone(), "--host");
    }
    args.identity.set(&mut draft);
    draft.fall_back("edge.seeds", "client.seeds");
    anyhow::ensure!(
        draft.has_section("identity") && draft.has("edge.seeds"),
        "no cluster is known: run `metacdn demo` once, or name a configuration with --config that has [identity] and \
         the seeds of [edge] or [client]"
    );
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(name = "metacdn")]
    enum Line {
        Proxy(Args),
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = ["metacdn", "proxy"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|Line::Proxy(args)| args)
    }

    fn profile(text: &str) -> Draft {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        let identity = "[identity]\nauthority = 'a'\ncertificate = 'c'\nkey = 'k'\n";
        std::fs::write(&path, format!("{identity}{text}")).unwrap();
        Draft::read(&path).unwrap()
    }

    fn config(line: &str, text: &str) -> Config {
        draft(&parse(line).unwrap(), profile(text)).unwrap().build().unwrap().config
    }

    #[test]
    fn the_references_words_are_understood() {
        for (line, policy, unused) in [
            ("p", "p", None),
            ("n", "n", None),
            ("d", "n", None),
            ("c 0.3", "c 0.3", None),
            ("c .5", "c 0.5", None),
            ("p 0.3", "p", Some("0.3")),
        ] {
            let PolicyArgs { policy: found, unused_beta } = parse(line).unwrap().policy;
            assert_eq!((found.to_string().as_str(), unused_beta.as_deref()), (policy, unused), "{line}");
        }
    }

    #[test]
    fn other_words_end_with_the_usage() {
        for (line, reason, advice) in [
            ("c", "needs a beta", "Usage: metacdn proxy [OPTIONS] <policy> [beta]"),
            ("c 1.5", "1.5", "Usage: metacdn proxy"),
            ("c -0.1", "-0.1", "Usage: metacdn proxy"),
            ("c x", "\"x\"", "Usage: metacdn proxy"),
            ("", "<policy>", "Usage: metacdn proxy"),
            ("x", "'x'", "p, n, c, d"),
        ] {
            let error = parse(line).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(text.contains(reason) && text.contains(advice), "{line}: {text}");
        }
    }

    #[test]
    fn a_clients_profile_is_enough() {
        let config = config("c 0.25", "[client]\nseeds = ['a:1', 'b:2']\n");
        let edge = config.edge.unwrap();
        assert_eq!((edge.seeds.len(), edge.route.policy.to_string()), (2, "c 0.25".to_owned()));
        assert_eq!(edge.listen.port(), 8080);
        let nothing = draft(&parse("p").unwrap(), Draft::default()).unwrap_err();
        assert!(nothing.to_string().contains("metacdn demo"));
    }

    #[test]
    fn flags_override_the_file() {
        let text = "[edge]\nseeds = ['a:1']\nlisten = '[::1]:9'\nroute.policy = 'n'\nroute.band_per_mille = 7\n\
                    [client]\nseeds = ['c:1', 'c:2', 'c:3']\n[node]\nid = 'A'\n";
        let edge = config("p", text).edge.unwrap();
        assert_eq!((edge.listen.port(), edge.seeds.len(), edge.route.band_per_mille), (9, 1, 7));
        assert_eq!(edge.route.policy, Policy::Price);
        let line = "n --listen [::1]:1 --admin-listen [::1]:2 --seed b:1 --seed b:2 --host cdn.example.org --key x";
        let config = config(line, text);
        let edge = config.edge.unwrap();
        assert_eq!((edge.listen.port(), edge.admin_listen.port(), edge.seeds.len()), (1, 2, 2));
        assert_eq!((edge.hosts, config.identity.unwrap().key), (vec!["cdn.example.org".to_owned()], "x".into()));
        assert!(config.node.is_none());
    }
}
