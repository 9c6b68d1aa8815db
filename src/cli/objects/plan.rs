//! What an upload will send: which file becomes which object. Everything that can be wrong with it is found here,
//! before anything is sent.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::model::ObjectKey;

/// How many bad names an error lists.
const NAMES_SHOWN: usize = 10;

/// A file and the object that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) path: PathBuf,
    pub(super) key: ObjectKey,
    pub(super) size: u64,
}

/// What an upload will send.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In the order of their keys.
    pub(super) items: Vec<Item>,
    /// What lies in a folder but is no file, and why.
    pub(super) skipped: Vec<(PathBuf, &'static str)>,
    bad_names: Vec<String>,
}

/// Finds what lies at `paths`: a file becomes its base name, a folder its files' names relative to it, all below
/// `prefix`.
pub(super) fn plan(paths: &[PathBuf], prefix: &str) -> anyhow::Result<Plan> {
    let prefix = if prefix.is_empty() || prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
    let mut plan = Plan::default();
    for path in paths {
        let found = fs::metadata(path).with_context(|| cannot_read(path))?;
        if found.is_dir() {
            plan.add_folder(path, &prefix)?;
        } else if found.is_file() {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_str().map(|name| format!("{prefix}{name}"));
            plan.add_file(path.clone(), name, &found);
        } else {
            bail!("{path:?} is neither a file nor a folder");
        }
    }
    plan.check(paths)?;
    Ok(plan)
}

impl Plan {
    /// How many bytes all files have together.
    pub(super) fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.size).sum()
    }

    /// Adds what lies in `folder`, whose own name is `prefix`, and in the folders below it. It keeps a list of what is
    /// yet to be read instead of calling itself, so that no depth is too deep.
    fn add_folder(&mut self, folder: &Path, prefix: &str) -> anyhow::Result<()> {
        let mut folders = vec![(folder.to_owned(), Some(prefix.to_owned()))];
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| cannot_read(&folder))? {
                let entry = entry.with_context(|| cannot_read(&folder))?;
                let path = entry.path();
                let kind = entry.file_type().with_context(|| cannot_read(&path))?;
                // A name that is no text makes no key; the files below are named all the same.
                let name =
                    entry.file_name().to_str().zip(prefix.as_ref()).map(|(name, prefix)| format!("{prefix}{name}"));
                if kind.is_dir() {
                    folders.push((path, name.map(|name| format!("{name}/"))));
                    continue;
                }
                match fs::metadata(&path) {
                    Ok(found) if found.is_file() => self.add_file(path, name, &found),
                    Ok(found) if found.is_dir() => self.skipped.push((path, "a link to a folder")),
                    Ok(_) => self.skipped.push((path, "neither a file nor a folder")),
                    Err(_) if kind.is_symlink() => self.skipped.push((path, "a link to nothing")),
                    Err(error) => return Err(error).with_context(|| cannot_read(&path)),
                }
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: PathBuf, name: Option<String>, found: &Metadata) {
        let key = match name {
            Some(name) => name.parse::<ObjectKey>().map_err(|error| error.to_string()),
            None => Err("a key is UTF-8".to_owned()),
        };
        match key {
            Ok(key) => self.items.push(Item { path, key, size: found.len() }),
            Err(reason) => self.bad_names.push(format!("{path:?}: {reason}")),
        }
    }

    fn check(&mut self, paths: &[PathBuf]) -> anyhow::Result<()> {
        if !self.bad_names.is_empty() {
            self.bad_names.sort();
            let more = self.bad_names.len().saturating_sub(NAMES_SHOWN);
            let shown = self.bad_names[..self.bad_names.len() - more].join("; ");
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            bail!("these names cannot be keys, so nothing was sent: {shown}{more}");
        }
        if self.items.is_empty() {
            let names: Vec<_> = paths.iter().map(|path| format!("{path:?}")).collect();
            bail!("there are no files in {}", names.join(", "));
        }
        self.items.sort_by(|a, b| a.key.cmp(&b.key));
        self.skipped.sort();
        if let Some(pair) = self.items.windows(2).find(|pair| pair[0].key == pair[1].key) {
            bail!(
                "{:?} and {:?} would both become {}, so nothing was sent: use --prefix for one of them",
                pair[0].path,
                pair[1].path,
                pair[0].key
            );
        }
        Ok(())
    }
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {path:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn keys(plan: &Plan) -> Vec<&str> {
        plan.items.iter().map(|item| item.key.as_str()).collect()
    }

    fn write(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn files_take_their_base_name_and_folders_their_inner_paths() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        write(&at("site/b/c.txt"), b"12");
        write(&at("site/a.txt"), b"1");
        write(&at("elsewhere/d.txt"), b"123");
        let found = plan(&[at("site"), at("elsewhere/d.txt")], "").unwrap();
        assert_eq!(keys(&found), ["a.txt", "b/c.txt", "d.txt"]);
        assert_eq!(found.bytes(), 6);
        for prefix in ["p/q/", "p/q"] {
            assert_eq!(keys(&plan(&[at("site/b"), at("site/a.txt")], prefix).unwrap()), ["p/q/a.txt", "p/q/c.txt"]);
        }
    }

    #[test]
    fn links_to_files_are_followed_and_other_things_skipped() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        write(&at("site/a.txt"), b"1");
        write(&at("other/b.txt"), b"2");
        symlink(at("other/b.txt"), at("site/link.txt")).unwrap();
        symlink(at("other"), at("site/folder")).unwrap();
        symlink(at("nothing"), at("site/broken")).unwrap();
        let _socket = UnixListener::bind(at("site/socket")).unwrap();
        let found = plan(&[at("site")], "").unwrap();
        assert_eq!(keys(&found), ["a.txt", "link.txt"]);
        let why: Vec<_> =
            found.skipped.iter().map(|(path, why)| (path.file_name().unwrap().to_str().unwrap(), *why)).collect();
        assert_eq!(
            why,
            [
                ("broken", "a link to nothing"),
                ("folder", "a link to a folder"),
                ("socket", "neither a file nor a folder")
            ]
        );
        symlink(at("site"), at("top")).unwrap();
        assert_eq!(plan(&[at("top")], "").unwrap().items.len(), 2, "a link that was named is meant");
        assert!(plan(&[at("site/socket")], "").unwrap_err().to_string().contains("neither"));
    }

    #[test]
    fn what_cannot_be_published_is_named_before_anything_is_sent() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let error = |paths: &[PathBuf], prefix: &str| format!("{:#}", plan(paths, prefix).unwrap_err());
        write(&at("good/a.txt"), b"1");
        write(&at("twin/a.txt"), b"1");
        write(&at("bad/new\nline"), b"1");
        write(&root.path().join("bad").join(OsStr::from_bytes(b"\xff/x")), b"1");
        fs::create_dir(at("empty")).unwrap();
        let bad = error(&[at("bad")], "");
        assert!(bad.contains("new\\nline") && bad.contains("U+000A"), "{bad}");
        assert!(bad.contains("\\xFF/x") && bad.contains("UTF-8"), "{bad}");
        assert!(error(&[at("good")], "../").contains(". or .."));
        assert!(error(&[at("good")], ".metacdn").contains("the cluster's own"));
        let twins = error(&[at("good"), at("twin")], "");
        assert!(twins.contains("good/a.txt\" and ") && twins.contains("twin/a.txt"), "{twins}");
        assert!(error(&[at("none")], "").contains("No such file"));
        assert!(error(&[at("empty")], "").contains("no files in"));
    }
}
