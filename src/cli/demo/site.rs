//! What the demonstration publishes: the site that ships with the binary, or the files of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;

use crate::model::ObjectKey;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../demo/site/", $name)).as_slice())),+]
    };
}

/// The site: pages about metacdn, to be looked at in a browser.
const SITE: &[(&str, &[u8])] = &files![
    "index.html",
    "how-it-spreads.html",
    "how-it-chooses.html",
    "how-it-fits.html",
    "404.html",
    "style.css",
    "images/logo.svg",
    "images/cluster.svg",
    "images/feed.svg",
    "images/beta.svg",
    "notes/words.txt",
];

/// A file that is large enough to show how fast bytes move.
const LARGE_NAME: &str = "downloads/eight-megabytes.bin";
const LARGE_BYTES: usize = 8_000_000;

/// The picture by which is shown what different links get.
const PHOTOGRAPH_NAME: &str = "images/photograph.jpg";
const PHOTOGRAPH: &[u8] = include_bytes!("../../../demo/site/images/photograph.jpg");

/// Where both lie if the site is somebody else's.
const PROPS_FOLDER: &str = "metacdn-demo/";

/// How many files are published while a node is away.
const JOURNAL_PAGES: usize = 12;

/// A file to publish.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: ObjectKey,
    pub(super) size: u64,
    pub(super) source: Source,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Memory(Bytes),
    File(PathBuf),
}

impl Item {
    fn in_memory(key: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let key = key.parse().expect("names in this file are keys");
        Self { key, size: bytes.len() as u64, source: Source::Memory(bytes) }
    }
}

/// Files to publish.
#[derive(Debug)]
pub(super) struct Tree {
    /// In the order of their keys.
    pub(super) items: Vec<Item>,
    /// What is left out, and why.
    pub(super) skipped: Vec<String>,
    /// What is published while a node is away.
    pub(super) later: Vec<Item>,
    /// A large file among all of these.
    pub(super) large: ObjectKey,
    /// A photograph among all of these.
    pub(super) photograph: ObjectKey,
}

impl Tree {
    /// The bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.size).sum()
    }
}

/// The site that ships with the binary, and one large file.
pub(super) fn built_in() -> Tree {
    let mut items: Vec<_> = SITE.iter().map(|(name, bytes)| Item::in_memory(name, *bytes)).collect();
    let [large, photograph] = props("");
    let (large_key, photograph_key) = (large.key.clone(), photograph.key.clone());
    items.extend([large, photograph]);
    items.sort_by(|a, b| a.key.cmp(&b.key));
    Tree { items, skipped: Vec::new(), later: journal(), large: large_key, photograph: photograph_key }
}

/// The large file and the photograph, in `folder`.
fn props(folder: &str) -> [Item; 2] {
    // Random enough that nothing on the way could make it smaller, and the same in every run.
    let mut large = vec![0; LARGE_BYTES];
    blake3::Hasher::new_derive_key("metacdn demo: a large file").finalize_xof().fill(&mut large);
    let large = Item::in_memory(&format!("{folder}{LARGE_NAME}"), large);
    [large, Item::in_memory(&format!("{folder}{PHOTOGRAPH_NAME}"), PHOTOGRAPH)]
}

fn journal() -> Vec<Item> {
    let page = |number: usize| {
        let text = format!("Page {number} of {JOURNAL_PAGES}, published while a node was away.\n");
        Item::in_memory(&format!("journal/page-{number:02}.txt"), text)
    };
    (1..=JOURNAL_PAGES).map(page).collect()
}

/// All files below `folder`; what the show needs besides is published later. Links to files are followed, links to folders are not: they may lead in a circle.
///
/// # Errors
/// When a folder cannot be read, or there is no file at all.
pub(super) fn below(folder: &Path) -> anyhow::Result<Tree> {
    let props = props(PROPS_FOLDER);
    let [large, photograph] = props.each_ref().map(|item| item.key.clone());
    let later = journal().into_iter().chain(props).collect();
    let mut tree = Tree { items: Vec::new(), skipped: Vec::new(), later, large, photograph };
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("cannot read the folder {}", next.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read the folder {}", next.display()))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
                continue;
            }
            match item(folder, &path) {
                Ok(item) => tree.items.push(item),
                Err(error) => tree.skipped.push(format!("{path:?}: {error:#}")),
            }
        }
    }
    ensure!(!tree.items.is_empty(), "there is no file to publish in {}", folder.display());
    tree.items.sort_by(|a, b| a.key.cmp(&b.key));
    tree.skipped.sort();
    Ok(tree)
}

fn item(folder: &Path, path: &Path) -> anyhow::Result<Item> {
    let name = path.strip_prefix(folder)?.to_str().context("the name is not UTF-8")?;
    let meta = fs::metadata(path)?;
    ensure!(meta.is_file(), "not a file");
    Ok(Item { key: name.parse()?, size: meta.len(), source: Source::File(path.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_site_is_whole() {
        let tree = built_in();
        assert_eq!(tree.items.len(), SITE.len() + 2);
        assert!(tree.bytes() > LARGE_BYTES as u64);
        let names: Vec<_> = tree.items.iter().map(|item| item.key.as_str()).collect();
        let mut links = 0;
        for (name, bytes) in SITE.iter().filter(|(name, _)| name.ends_with(".html")) {
            let text = std::str::from_utf8(bytes).unwrap();
            for attribute in ["href=\"/", "src=\"/"] {
                for target in text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                    let target = if target.is_empty() { "index.html" } else { target };
                    assert!(names.contains(&target), "{name} links to {target}");
                    links += 1;
                }
            }
        }
        assert!(links > 10, "links were looked at");
    }

    #[test]
    fn a_folder_is_published_under_relative_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a b%.txt", "deep/er/ä.html", "empty"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name.trim_start_matches("empty")).unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), folder.path().join("deep/circle")).unwrap();
        fs::write(folder.path().join("line\nbreak"), "").unwrap();
        let tree = below(folder.path()).unwrap();
        let names: Vec<_> = tree.items.iter().map(|item| item.key.as_str()).collect();
        assert_eq!(names, ["a b%.txt", "deep/er/ä.html", "empty"]);
        assert_eq!(tree.skipped.len(), 2, "{:?}", tree.skipped);
        assert!(below(&folder.path().join("deep/circle/nowhere")).is_err());
    }
}
