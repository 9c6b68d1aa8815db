//! A disk in memory that keeps through a crash only what was synced; what was not, survives or not as a coin falls, each
//! piece of a file and each change of a name for itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::random::Random;
use crate::store::{Disk, DiskFile, Space};

/// The size of the disk, in bytes; how full it is, is a switch.
const TOTAL_BYTES: u64 = 1 << 30;

/// A disk; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of it.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    number: usize,
}

#[derive(Debug, Clone)]
struct State {
    random: Random,
    files: Vec<Content>,
    /// The names, as the system shows them.
    names: BTreeMap<String, Name>,
    /// The names that are on the platter.
    durable: BTreeMap<String, Name>,
    /// What happened to names since their folders were synced.
    pending: Vec<Change>,
    /// How many more calls it takes until the power fails.
    fuse: Option<u32>,
    is_off: bool,
    is_full: bool,
    failures_per_mille: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Folder,
    File(usize),
}

#[derive(Debug, Clone)]
struct Change {
    path: String,
    to: Option<Name>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

/// A part of a file that was not synced.
#[derive(Debug, Clone)]
struct Piece {
    start: usize,
    /// A sync of it failed: the system takes it for clean, and it never gets to the platter.
    is_lost: bool,
}

impl SimDisk {
    /// A disk with an empty data folder, whose failures come from `random`.
    pub fn new(random: Random) -> Self {
        let names: BTreeMap<_, _> = ["/", "/data"].map(|path| (path.to_owned(), Name::Folder)).into();
        let state = State {
            random,
            files: Vec::new(),
            durable: names.clone(),
            names,
            pending: Vec::new(),
            fuse: None,
            is_off: false,
            is_full: false,
            failures_per_mille: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// A copy with all that the system shows, as a backup has it.
    pub fn copy(&self) -> Self {
        let mut state = self.state().clone();
        for file in &mut state.files {
            file.pieces.clear();
        }
        state.durable = state.names.clone();
        state.pending.clear();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The power fails at the `calls`-th call from now.
    pub fn light_fuse(&self, calls: u32) {
        self.state().fuse = Some(calls);
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// The power fails.
    pub fn cut_power(&self) {
        self.state().is_off = true;
    }

    /// The power comes back; what is there is what survived.
    pub fn power_on(&self) {
        let mut state = self.state();
        state.is_off = false;
        state.fuse = None;
        for change in std::mem::take(&mut state.pending) {
            if state.random.happens(500) {
                set(&mut state.durable, change);
            }
        }
        let mut names = state.durable.clone();
        // In the order of the text a folder comes before what is in it.
        names = names.iter().fold(BTreeMap::new(), |mut kept, (path, name)| {
            if path == "/" || kept.contains_key(parent(path)) {
                kept.insert(path.clone(), *name);
            }
            kept
        });
        state.durable = names.clone();
        state.names = names;
        let State { files, random, .. } = &mut *state;
        files.iter_mut().for_each(|file| file.survive(random));
    }

    /// The call that a commit of the catalogue is: it comes about or it fails.
    ///
    /// # Errors
    /// When the power or the disk fails, or it is full and the catalogue has to grow.
    pub fn touch(&self) -> Result<()> {
        let mut state = self.call()?;
        if state.is_full && state.random.happens(300) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Nothing fails any more.
    pub fn end_troubles(&self) {
        self.set_trouble(false, 0);
        self.state().fuse = None;
    }

    /// Whether there is space, and how often calls fail.
    pub fn set_trouble(&self, is_full: bool, failures_per_mille: u64) {
        let mut state = self.state();
        state.is_full = is_full;
        state.failures_per_mille = failures_per_mille;
    }

    /// The names of all files two levels below `root`.
    pub fn files(&self, root: &str) -> Vec<String> {
        let state = self.state();
        let below = |path: &str| parent(parent(path)) == root;
        let files = state.names.iter().filter(|(path, name)| matches!(name, Name::File(_)) && below(path));
        files.map(|(path, _)| path[parent(path).len() + 1..].to_owned()).collect()
    }

    /// Whether the file of this name would be there, with all its bytes, after a crash now.
    pub fn would_survive(&self, path: &str) -> bool {
        let state = self.state();
        let folders = std::iter::successors(Some(parent(path)), |path| (*path != "/").then(|| parent(path)));
        let is_synced = |number: &usize| state.files[*number].pieces.is_empty();
        folders.into_iter().all(|folder| state.durable.get(folder) == Some(&Name::Folder))
            && matches!(state.durable.get(path), Some(Name::File(number)) if is_synced(number))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call that changes something, unless the power or the disk fails.
    fn call(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match state.fuse {
            Some(0) => state.is_off = true,
            Some(calls) => state.fuse = Some(calls - 1),
            None => {}
        }
        if state.is_off {
            return Err(Error::other("the power has failed"));
        }
        let State { random, failures_per_mille, .. } = &mut *state;
        if *failures_per_mille > 0 && random.happens(*failures_per_mille) {
            return Err(Error::other("input/output error"));
        }
        Ok(state)
    }
}

impl Content {
    /// What is left after a crash: pieces that were lost are zeros, and at the end nothing.
    fn survive(&mut self, random: &mut Random) {
        let Self { bytes, pieces } = self;
        let mut end = bytes.len();
        let mut is_tail = true;
        for piece in std::mem::take(pieces).into_iter().rev() {
            if piece.is_lost || random.happens(500) {
                if is_tail && random.happens(500) {
                    bytes.truncate(piece.start);
                } else {
                    let until = end.min(bytes.len());
                    bytes[piece.start..until].fill(0);
                    is_tail = false;
                }
            } else {
                is_tail = false;
            }
            end = piece.start;
        }
    }
}

fn set(names: &mut BTreeMap<String, Name>, Change { path, to }: Change) {
    match to {
        Some(name) => drop(names.insert(path, name)),
        None => drop(names.remove(&path)),
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(end) => &path[..end],
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("the simulation names files in ASCII").to_owned()
}

impl State {
    fn change(&mut self, path: String, to: Option<Name>) {
        set(&mut self.names, Change { path: path.clone(), to });
        self.pending.push(Change { path, to });
    }

    fn file(&self, path: &str) -> Result<usize> {
        match self.names.get(path) {
            Some(Name::File(number)) => Ok(*number),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn require_folder(&self, path: &str) -> Result<()> {
        if self.names.get(path) == Some(&Name::Folder) { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn require_space(&self) -> Result<()> {
        if self.is_full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn create(&self, path: &Path) -> Result<SimFile> {
        let path = text(path);
        let mut state = self.call()?;
        state.require_space()?;
        state.require_folder(parent(&path))?;
        if state.names.contains_key(&path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let number = state.files.len();
        state.files.push(Content::default());
        state.change(path, Some(Name::File(number)));
        Ok(SimFile { disk: self.clone(), number })
    }

    fn reopen(&self, path: &Path) -> Result<SimFile> {
        self.open(path)
    }

    fn open(&self, path: &Path) -> Result<SimFile> {
        let number = self.state().file(&text(path))?;
        Ok(SimFile { disk: self.clone(), number })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let (from, to) = (text(from), text(to));
        let mut state = self.call()?;
        let number = state.file(&from)?;
        state.require_folder(parent(&to))?;
        state.change(to, Some(Name::File(number)));
        state.change(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let path = text(path);
        let mut state = self.call()?;
        state.file(&path)?;
        state.change(path, None);
        Ok(())
    }

    fn make_folder(&self, path: &Path) -> Result<()> {
        let path = text(path);
        let mut state = self.call()?;
        if state.names.contains_key(&path) {
            return Ok(());
        }
        state.require_space()?;
        let mut missing: Vec<_> = std::iter::successors(Some(path.as_str()), |path| Some(parent(path)))
            .take_while(|path| !state.names.contains_key(*path))
            .map(str::to_owned)
            .collect();
        while let Some(folder) = missing.pop() {
            state.change(folder, Some(Name::Folder));
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> Result<()> {
        let path = text(path);
        let mut state = self.call()?;
        state.require_folder(&path)?;
        let State { pending, durable, .. } = &mut *state;
        for change in pending.extract_if(.., |change| parent(&change.path) == path) {
            set(durable, change);
        }
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<OsString>> {
        let folder = text(folder);
        let state = self.state();
        state.require_folder(&folder)?;
        let inside = state.names.keys().filter(|path| *path != "/" && parent(path) == folder);
        Ok(inside.map(|path| path[folder.len()..].trim_start_matches('/').into()).collect())
    }

    fn space(&self, _: &Path) -> Result<Space> {
        let free_bytes = if self.state().is_full { 0 } else { TOTAL_BYTES / 2 };
        Ok(Space { total_bytes: TOTAL_BYTES, free_bytes })
    }
}

impl DiskFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut state = self.disk.call()?;
        let is_full = state.is_full;
        let written = if is_full { &bytes[..bytes.len() / 2] } else { bytes };
        let file = &mut state.files[self.number];
        // A write of nothing leaves nothing to be synced.
        if !written.is_empty() {
            file.pieces.push(Piece { start: file.bytes.len(), is_lost: false });
            file.bytes.extend_from_slice(written);
        }
        if is_full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        match self.disk.call() {
            Ok(mut state) => {
                state.files[self.number].pieces.retain(|piece| piece.is_lost);
                Ok(())
            }
            Err(error) => {
                let mut state = self.disk.state();
                if !state.is_off {
                    state.files[self.number].pieces.iter_mut().for_each(|piece| piece.is_lost = true);
                }
                Err(error)
            }
        }
    }

    fn size(&self) -> Result<u64> {
        Ok(self.disk.state().files[self.number].bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let state = self.disk.state();
        let bytes = &state.files[self.number].bytes;
        let rest = &bytes[(offset as usize).min(bytes.len())..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}
