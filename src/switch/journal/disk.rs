//! The file system under the journal, behind a trait of the few things the writer asks of it, so that tests can make each
//! of them fail.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use atomic_write_file::AtomicWriteFile;

use super::JournalError;

/// What the writer stands on. After an error nothing is known but what each method says.
pub(super) trait Medium: Send {
    /// Opens the file anew, whichever is in place now, so that its very name is durable, and reads it from the start.
    fn reopen(&mut self) -> io::Result<Box<dyn BufRead + '_>>;
    /// Writes at an offset. After an error any part may have been written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes all that was written durable. After an error any part may not be, ever, unless written again.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Puts a new file in the place of the old, durably. After an error either may be there: [`Self::reopen`] tells.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A file of the file system.
pub(super) struct Disk {
    path: PathBuf,
    file: Option<File>,
}

impl Disk {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("the journal is not open"))
    }

    /// Removes what replacements that failed half-way have left beside the file.
    fn sweep(&self, dir: &Path) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let aside = format!(".{name}.");
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&aside) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Medium for Disk {
    fn reopen(&mut self) -> io::Result<Box<dyn BufRead + '_>> {
        self.file = None;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        self.sweep(dir)?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        sync_dir(dir)?;
        Ok(Box::new(BufReader::new(&*self.file.insert(file))))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file()?.set_len(len)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut aside = AtomicWriteFile::options().open(&self.path)?;
        aside.write_all(bytes)?;
        let file = aside.try_clone()?;
        aside.commit()?;
        self.file = Some(file);
        Ok(())
    }
}

/// Makes the directory, and its parents, for this user alone. One that is there is left as it is.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Takes the directory for this process, until the file that is answered is closed.
pub(super) fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|e| JournalError::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(JournalError::io(&path, e)),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
