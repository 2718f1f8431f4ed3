//! The addresses that names had when they were last found, kept as JSON in the state directory. Losing the file costs
//! nothing but a start without DNS, so nobody waits for the disk, and what cannot be read or written is only logged.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use atomic_write_file::AtomicWriteFile;
use tokio::{sync::Notify, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use crate::switch::HostPort;

/// The file's name in the state directory.
const FILE: &str = "names.json";
/// The most names that are kept; with more, some are forgotten.
const MOST: usize = 65_536;

/// What was found last. Its clones are one.
#[derive(Clone)]
pub(super) struct LastFound {
    found: Arc<Found>,
    /// Writes what changes; ends with the last clone.
    _writer: Option<Arc<AbortOnDropHandle<()>>>,
}

#[derive(Default)]
struct Found {
    by_name: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
    changed: Notify,
}

impl LastFound {
    /// What the file in this directory says. Without a directory nothing is kept.
    pub(super) async fn read(directory: Option<PathBuf>) -> Self {
        let Some(file) = directory.map(|directory| directory.join(FILE)) else {
            return Self { found: Arc::default(), _writer: None };
        };
        let path = file.clone();
        let by_name = spawn_blocking(move || read(&path)).await.unwrap_or_default();
        let found = Arc::new(Found { by_name: Mutex::new(by_name), changed: Notify::new() });
        let writer = AbortOnDropHandle::new(tokio::spawn(write_changes(Arc::clone(&found), file)));
        Self { found, _writer: Some(Arc::new(writer)) }
    }

    /// The addresses this name had.
    pub(super) fn of(&self, name: &HostPort) -> Option<Vec<SocketAddr>> {
        self.found.lock().get(&name.to_string()).cloned()
    }

    /// Takes note of what was found, and has it written soon.
    pub(super) fn note(&self, name: &HostPort, addresses: &[SocketAddr]) {
        let mut by_name = self.found.lock();
        let before = by_name.insert(name.to_string(), addresses.to_vec());
        if by_name.len() > MOST {
            by_name.pop_first();
        }
        if before.as_deref() != Some(addresses) {
            self.found.changed.notify_one();
        }
    }
}

impl Found {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<SocketAddr>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> BTreeMap<String, Vec<SocketAddr>> {
    let read = std::fs::read(file).and_then(|octets| Ok(serde_json::from_slice(&octets)?));
    match read {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the addresses that names had cannot be read");
            BTreeMap::new()
        }
    }
}

async fn write_changes(found: Arc<Found>, file: PathBuf) {
    loop {
        found.changed.notified().await;
        let by_name = found.lock().clone();
        let path = file.clone();
        if let Ok(Err(error)) = spawn_blocking(move || write(&path, &by_name)).await {
            tracing::warn!(%error, file = %file.display(), "the addresses that names have cannot be written");
        }
    }
}

fn write(file: &Path, by_name: &BTreeMap<String, Vec<SocketAddr>>) -> io::Result<()> {
    let mut aside = AtomicWriteFile::open(file)?;
    aside.write_all(&serde_json::to_vec_pretty(by_name)?)?;
    aside.commit()
}
