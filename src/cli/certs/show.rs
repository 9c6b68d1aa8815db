//! `metacdn certs show`: whose certificates lie here, and how long they last.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use comfy_table::{ContentArrangement, Table, presets};
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::files;
use crate::cli::Output;
use crate::protocol::certificate::{
    CertificateError, Part, TrustedAuthority, Validity, certificates, hosts_of, is_authority, principal_of,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Time enough to notice, and to renew without haste.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Valid,
    ExpiresSoon,
    Expired,
    NotYetValid,
    Foreign,
    Unusable,
}

/// What is shown of one certificate.
#[derive(Debug, Serialize)]
struct Line {
    file: PathBuf,
    who: String,
    hosts: Vec<String>,
    valid_until: Option<String>,
    days_left: Option<i64>,
    state: State,
    problem: Option<String>,
}

/// Prints the certificates of a file or folder.
pub(super) fn show(path: &Path, output: Output, now: SystemTime) -> anyhow::Result<()> {
    let lines = inspect(path, now)?;
    if output.is_json() {
        return output.answer(serde_json::to_string_pretty(&lines)?);
    }
    output.answer(table(&lines))?;
    for line in &lines {
        if let Some(problem) = &line.problem {
            eprintln!("warning: {}: {problem}", line.file.display());
        }
    }
    Ok(())
}

fn inspect(path: &Path, now: SystemTime) -> anyhow::Result<Vec<Line>> {
    let found = fs::metadata(path).with_context(|| {
        format!("cannot read {}: make an authority with `metacdn certs init`, or name a file", path.display())
    })?;
    let (folder, paths) = if found.is_dir() {
        (path, pem_files(path)?)
    } else {
        (path.parent().unwrap_or(Path::new(".")), vec![path.to_owned()])
    };
    if paths.is_empty() {
        bail!("no certificates in {}: make an authority with `metacdn certs init`", path.display());
    }
    // Without the authority beside it nothing can be called foreign; dates and names are shown all the same.
    let authority = match fs::read(folder.join("authority.pem")) {
        Ok(pem) => TrustedAuthority::from_pem(&pem, now).ok(),
        Err(_) => None,
    };
    paths.iter().map(|path| Ok(line(path, &files::read(path)?, authority.as_ref(), now))).collect()
}

fn pem_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn line(path: &Path, pem: &[u8], authority: Option<&TrustedAuthority>, now: SystemTime) -> Line {
    let mut line = Line {
        file: path.to_owned(),
        who: "?".to_owned(),
        hosts: Vec::new(),
        valid_until: None,
        days_left: None,
        state: State::Valid,
        problem: None,
    };
    let judged = certificates(Part::Certificate, pem).and_then(|found| {
        // Exported bundles and chains begin with the holder's own certificate.
        describe(&mut line, &found[0], now)?;
        if is_authority(&found[0])? {
            return TrustedAuthority::from_pem(pem, now).map(|_| ());
        }
        line.who = principal_of(&found[0])?.to_string();
        authority.map_or_else(
            || Validity::of(Part::Certificate, &found[0])?.check(Part::Certificate, now),
            |authority| authority.check(&found[0], now),
        )
    });
    match judged {
        Ok(()) => {
            if let Some(days) = line.days_left.filter(|_| line.state == State::ExpiresSoon) {
                line.problem = Some(format!("expires in {days} days: issue a new one in time"));
            }
        }
        Err(error) => {
            line.state = match error {
                CertificateError::Expired { .. } => State::Expired,
                CertificateError::NotYetValid { .. } => State::NotYetValid,
                CertificateError::Foreign => State::Foreign,
                _ => State::Unusable,
            };
            line.problem = Some(error.to_string());
        }
    }
    line
}

fn describe(line: &mut Line, certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(), CertificateError> {
    if is_authority(certificate)? {
        line.who = "authority".to_owned();
    }
    line.hosts = hosts_of(certificate)?;
    let end = Validity::of(Part::Certificate, certificate)?.not_after;
    line.valid_until = jiff::Timestamp::try_from(end).ok().map(|end| end.to_string());
    let days = |duration: Duration| i64::try_from(duration.as_secs() / DAY.as_secs()).unwrap_or(i64::MAX);
    line.days_left = Some(match end.duration_since(now) {
        Ok(left) => days(left),
        Err(past) => -days(past.duration()),
    });
    if end < now + SOON {
        line.state = State::ExpiresSoon;
    }
    Ok(())
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["FILE", "WHO", "HOSTS", "VALID UNTIL", "DAYS LEFT", "STATE"]);
    for line in lines {
        let name = line
            .file
            .file_name()
            .map_or_else(|| line.file.display().to_string(), |name| name.to_string_lossy().into_owned());
        let state = match line.state {
            State::Valid => "valid",
            State::ExpiresSoon => "expires soon",
            State::Expired => "expired",
            State::NotYetValid => "not yet valid",
            State::Foreign => "foreign",
            State::Unusable => "unusable",
        };
        table.add_row([
            name,
            line.who.clone(),
            line.hosts.join(" "),
            line.valid_until.clone().unwrap_or_default(),
            line.days_left.map(|days| days.to_string()).unwrap_or_default(),
            state.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::certs::authority::{Authority, Holder};
    use crate::model::Principal;

    fn certificate(authority: &Authority, name: &str, days: u32, now: SystemTime) -> String {
        let principal = Principal::Node(name.parse().unwrap());
        authority.issue(&Holder { principal, hosts: Vec::new(), days }, now).unwrap().certificate
    }

    #[test]
    fn every_certificate_is_shown_with_its_state() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(now - DAY * 20).unwrap();
        let foreign = Authority::create(now).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("authority.pem", authority.certificate());
        write("a-good.pem", &certificate(&authority, "A", 100, now));
        write("b-soon.pem", &certificate(&authority, "B", 29, now));
        write("c-old.pem", &certificate(&authority, "C", 2, now - DAY * 10));
        write("d-foreign.pem", &certificate(&foreign, "D", 100, now));
        write("e-broken.pem", "nothing");
        write("a-good.key", "not shown");

        let lines = inspect(folder.path(), now).unwrap();
        let shown: Vec<_> = lines.iter().map(|line| (line.who.as_str(), line.days_left, line.state)).collect();
        let expected = [
            ("node A", Some(100), State::Valid),
            ("authority", Some(3633), State::Valid),
            ("node B", Some(29), State::ExpiresSoon),
            ("node C", Some(-8), State::Expired),
            ("node D", Some(100), State::Foreign),
            ("?", None, State::Unusable),
        ];
        assert_eq!(shown, expected);
        assert!(lines.iter().all(|line| line.problem.is_some() == (line.state != State::Valid)));
        let text = table(&lines).to_string();
        assert!(text.contains("d-foreign.pem") && text.contains("expires soon"), "{text}");

        let alone = inspect(&folder.path().join("c-old.pem"), now).unwrap();
        assert_eq!(alone[0].state, State::Expired);
        fs::remove_file(folder.path().join("authority.pem")).unwrap();
        let unjudged = inspect(&folder.path().join("c-old.pem"), now).unwrap();
        assert_eq!(unjudged[0].state, State::Expired, "dates are judged without an authority too");
    }

    #[test]
    fn an_empty_folder_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = inspect(folder.path(), SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().contains("certs init"), "{error}");
    }
}
