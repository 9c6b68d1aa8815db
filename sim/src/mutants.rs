//! The mutation check: each file of `mutants/` plants one bug in the sources of metacdn, and the simulation has to find
//! it. A bug that it does not find, or whose place in the sources is gone, fails the check.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Instant;

/// The sources that the simulation is made of, besides its own.
const SOURCES: [&str; 3] = ["src/model", "src/replicate", "src/store"];

/// What of the simulation is copied.
const OWN: [&str; 4] = ["Cargo.toml", "Cargo.lock", "build.rs", "src"];

/// Within how many seeds a bug has to be found.
const SEEDS: &str = "10000";

/// How many mutants are built and run at a time; each run takes all processors, each build one or two.
const PARALLEL: usize = 2;

/// A planted bug.
#[derive(Debug, Clone)]
struct Mutant {
    name: String,
    /// What is wrong with it.
    what: String,
    /// In which file.
    file: PathBuf,
    /// Which promises it may break first.
    breaks: Vec<String>,
    old: String,
    new: String,
}

/// Why a mutant was not found.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("a file cannot be read or written, or a program not be run: {0}")]
    Io(#[from] io::Error),
    #[error("the file does not have the form of a mutant")]
    Form,
    #[error("what it replaces stands {0} times in {1}, and not once")]
    Place(usize, PathBuf),
    #[error("it does not build:\n{0}")]
    Build(String),
    #[error("it SURVIVES: {0}")]
    Survives(String),
    #[error("it breaks something else: {0}")]
    Other(String),
}

/// Plants all bugs whose name contains `filter`, one after the other.
pub fn run(filter: &str) -> ExitCode {
    let started = Instant::now();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut mutants: Vec<_> = match read_all(&root.join("mutants")) {
        Ok(mutants) => mutants,
        Err(error) => {
            eprintln!("the mutants cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    mutants.retain(|mutant| mutant.name.contains(filter));
    if mutants.is_empty() {
        eprintln!("there is no mutant with {filter:?} in its name");
        return ExitCode::FAILURE;
    }
    let count = mutants.len();
    mutants.reverse();
    let (waiting, failed) = (Mutex::new(mutants), Mutex::new(0));
    std::thread::scope(|scope| {
        for worker in 0..PARALLEL {
            let (waiting, failed) = (&waiting, &failed);
            scope.spawn(move || {
                let work = root.join("target/mutants").join(worker.to_string());
                while let Some(mutant) = next(waiting) {
                    let begun = Instant::now();
                    match find(root, &work, &mutant) {
                        Ok(found) => println!("{}: {found}, {:.0} s", mutant.name, begun.elapsed().as_secs_f64()),
                        Err(failure) => {
                            println!("{}: {failure}\n  ({})", mutant.name, mutant.what);
                            *failed.lock().expect("no thread panics with it") += 1;
                        }
                    }
                }
            });
        }
    });
    let failed = *failed.lock().expect("no thread panics with it");
    println!("{count} mutants, {failed} not found, in {} s", started.elapsed().as_secs());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn next(waiting: &Mutex<Vec<Mutant>>) -> Option<Mutant> {
    waiting.lock().expect("no thread panics with it").pop()
}

fn read_all(folder: &Path) -> Result<Vec<Mutant>, Failure> {
    let mut paths: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "mutant"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Mutant, Failure> {
    let text = fs::read_to_string(path)?;
    let parts = || {
        let (head, change) = text.split_once("<<<<\n")?;
        let (old, new) = change.strip_suffix(">>>>\n")?.split_once("====\n")?;
        let mut head = head.lines();
        let what = head.next()?.to_owned();
        let file = head.next()?.strip_prefix("file: ")?.into();
        let breaks = head.next()?.strip_prefix("breaks: ")?.split(", ").map(str::to_owned).collect();
        let name = path.file_stem()?.to_str()?.to_owned();
        let line = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
        Some(Mutant { name, what, file, breaks, old: line(old), new: line(new) })
    };
    parts().ok_or(Failure::Form)
}

/// Plants `mutant` in a copy of the sources in `work`, and answers what the simulation found.
fn find(root: &Path, work: &Path, mutant: &Mutant) -> Result<String, Failure> {
    let repository = root.parent().ok_or(Failure::Form)?;
    for source in SOURCES {
        copy(&repository.join(source), &work.join(source))?;
    }
    fs::create_dir_all(work.join("sim"))?;
    for own in OWN {
        copy(&root.join(own), &work.join("sim").join(own))?;
    }
    let source = fs::read_to_string(repository.join(&mutant.file))?;
    let places = source.matches(&mutant.old).count();
    if places != 1 {
        return Err(Failure::Place(places, mutant.file.clone()));
    }
    fs::write(work.join(&mutant.file), source.replacen(&mutant.old, &mutant.new, 1))?;
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--profile", "mutant", "--target-dir"])
        .arg(work.join("target"))
        .current_dir(work.join("sim"))
        .env("RUSTFLAGS", "-Awarnings")
        .output()?;
    if !built.status.success() {
        return Err(Failure::Build(String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    let program = work.join("target/mutant/metacdn-sim");
    let ran = Command::new(program).args(["--seeds", SEEDS]).stderr(Stdio::null()).output()?;
    let told = String::from_utf8_lossy(&ran.stdout);
    let found = told.lines().find(|line| line.starts_with("seed "));
    let Some((seed, broken)) = found.and_then(|line| line.split_once(" breaks ")) else {
        return Err(Failure::Survives(told.lines().next().unwrap_or_default().to_owned()));
    };
    if !mutant.breaks.iter().any(|invariant| broken.starts_with(&format!("{invariant}:"))) {
        return Err(Failure::Other(broken.to_owned()));
    }
    let invariant = broken.split(':').next().unwrap_or_default();
    Ok(format!("{seed} breaks {invariant}"))
}

/// Makes `to` like `from`; what is like it already keeps its time, so that it is not built again.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    let bytes = fs::read(from)?;
    if fs::read(to).ok().as_ref() != Some(&bytes) {
        fs::write(to, bytes)?;
    }
    Ok(())
}
