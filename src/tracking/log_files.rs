//! The folder of the logs of hits. Each process writes logs of its own and holds a lock on them; a log without a
//! lock was left by a process that is dead, and whoever finds it reads it to its end.
//!
//! `NAME.new` is being made, `NAME.hits` is a log, `NAME.done` is read to its end and its position may be
//! forgotten: a log must never come back without its position, or its hits would be written twice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::log::{HEADER_BYTES, header};

const NEW: &str = "new";
const HITS: &str = "hits";
const DONE: &str = "done";
/// Logs hold addresses: only their owner reads them.
const MODE: u32 = 0o600;
/// Tries to make a file that another process takes for one left behind.
const TRIES: u32 = 5;

/// One log, locked by this process.
#[derive(Debug)]
pub(super) struct Log {
    /// Its name in `hit_log`: that of the file.
    pub name: String,
    /// The folder it lies in.
    folder: PathBuf,
    file: File,
    /// Bytes up to here are on the disk.
    pub end: AtomicU64,
    /// Nothing is added any more.
    pub sealed: AtomicBool,
    /// This process wrote it.
    pub own: bool,
    /// Read to its end before, by a process that did not come to remove it.
    pub done: bool,
}

impl Log {
    /// Adds bytes; they are in the hands of the system, and on the disk after [`Log::sync`].
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)
    }

    /// Waits for the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Takes back what was added behind `end`.
    pub fn cut(&self, end: u64) -> io::Result<()> {
        self.file.set_len(end)
    }

    /// Up to `limit` bytes from `position` on, not beyond the end.
    pub fn read(&self, position: u64, limit: usize) -> io::Result<Vec<u8>> {
        let left = self.end.load(Ordering::Acquire).saturating_sub(position);
        let mut bytes = vec![0; limit.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }

    /// Says that it is read to its end; on the disk when this returns.
    pub fn mark_done(&self) -> io::Result<()> {
        if !self.done {
            fs::rename(self.path(HITS), self.path(DONE))?;
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Removes it, once its position is forgotten.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_file(self.path(DONE))
    }
}

/// Makes a new log: its name is there only once it is locked.
pub(super) fn create(folder: &Path, database: i64, name: &str) -> io::Result<Log> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{name}.{NEW}"));
    for _ in 0..TRIES {
        let mut file = OpenOptions::new().create_new(true).read(true).append(true).mode(MODE).open(&path)?;
        if file.try_lock().is_err() || !is_still(&file, &path) {
            continue;
        }
        file.write_all(&header(database))?;
        file.sync_all()?;
        fs::rename(&path, folder.join(format!("{name}.{HITS}")))?;
        sync_folder(folder)?;
        let (end, sealed) = (AtomicU64::new(HEADER_BYTES as u64), AtomicBool::new(false));
        return Ok(Log { name: name.to_owned(), folder: folder.to_owned(), file, end, sealed, own: true, done: false });
    }
    Err(io::Error::other("another process removes the file again and again"))
}

/// Whether logs can be made in a folder, which is made where it is not there.
pub(super) fn probe(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // Another process that starts now may take it for one that was left behind, and remove it.
    let path = folder.join(format!("probe-{}.{NEW}", std::process::id()));
    let written =
        OpenOptions::new().create(true).write(true).truncate(true).mode(MODE).open(&path).and_then(|mut file| file.write_all(b"."));
    match fs::remove_file(&path) {
        Err(error) if written.is_ok() && error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => written,
    }
}

/// The logs of this database that nobody holds, locked now.
pub(super) fn adopt(folder: &Path, database: i64) -> io::Result<Vec<Log>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let (Some(name), Some(ending)) = (path.file_stem().and_then(|name| name.to_str()), path.extension()) else { continue };
        if ![NEW, HITS, DONE].iter().any(|known| ending == *known) {
            continue;
        }
        // It may be gone by now: its process has removed it.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
        if file.try_lock().is_err() || !is_still(&file, &path) {
            continue;
        }
        if ending == NEW {
            fs::remove_file(&path)?;
            continue;
        }
        let mut start = [0; HEADER_BYTES];
        if file.read_exact_at(&mut start, 0).is_err() || start != header(database) {
            continue;
        }
        let end = AtomicU64::new(file.metadata()?.len());
        let (name, done) = (name.to_owned(), ending == DONE);
        found.push(Log { name, folder: folder.to_owned(), file, end, sealed: AtomicBool::new(true), own: false, done });
    }
    Ok(found)
}

/// Whether the name still leads to this file: it may have been renamed or removed before we had the lock.
fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
