//! Notices when the configuration file, or a file it names, has changed. The kernel's word (inotify) is only a hint to
//! look: what counts is whether the contents differ from those last seen, so nothing is reported that is no change, and
//! nothing is missed for good.
//!
//! Directories are watched, not files: an editor renames a new file over the old one, and a ConfigMap swaps the `..data`
//! link that its files go through; in both cases a watch on the file would stay with what is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::Notify,
    task::spawn_blocking,
    time::{Instant, timeout},
};

/// How long there must be quiet before the files are read, so that a burst of writes is one change.
const QUIET: Duration = Duration::from_millis(250);

/// The longest wait for quiet: in a directory where something is always written there is none.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the files are read although nothing was heard: some file systems (network, overlay) do not tell.
const SAFETY_NET: Duration = Duration::from_secs(30);

/// How often they are read while some directory cannot be watched.
const POLL: Duration = Duration::from_secs(2);

/// Watches the configuration file and those it names.
pub struct FileWatch {
    /// The configuration file, and then those it names.
    files: Vec<PathBuf>,
    seen: Fingerprints,
    /// Rung by the watcher's thread.
    stir: Arc<Notify>,
    /// `None` if the system gives us none.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// Whether there is a directory that ought to be watched and is not.
    blind: bool,
    /// Whether something was heard, or the time was up, and the files have not been read since.
    look: bool,
}

/// A digest of each file's contents; `None` while it cannot be read.
type Fingerprints = BTreeMap<PathBuf, Option<u64>>;

impl FileWatch {
    /// Begins to watch this file, as it is now: start before reading it, and no change goes unnoticed.
    pub fn start(path: &Path) -> Self {
        let stir = Arc::new(Notify::new());
        let watcher = watcher(Arc::clone(&stir)).inspect_err(
            |error| tracing::warn!(%error, "no file notifications; reading the files every {POLL:?} instead"),
        );
        Self::with(path, stir, watcher.ok())
    }

    fn with(path: &Path, stir: Arc<Notify>, watcher: Option<RecommendedWatcher>) -> Self {
        let blind = watcher.is_none();
        let files = vec![path.to_owned()];
        let mut watch =
            Self { files, seen: BTreeMap::new(), stir, watcher, watched: BTreeSet::new(), blind, look: false };
        watch.watch_directories();
        watch.seen = fingerprints(&watch.files);
        watch
    }

    /// Watches these files as well, in place of those named before: certificates, keys, tokens.
    pub fn follow(&mut self, files: Vec<PathBuf>) {
        self.files.truncate(1);
        self.files.extend(files);
        self.watch_directories();
        // What was followed already keeps what was seen of it, lest a change since then be lost.
        let before = std::mem::replace(&mut self.seen, fingerprints(&self.files));
        for (file, print) in before {
            self.seen.entry(file).and_modify(|seen| *seen = print);
        }
    }

    /// Waits until some of the files have other contents than when they were last seen (or are gone, or back), and gives
    /// their names. Dropping the future and calling again loses nothing.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            if !self.look {
                let period = if self.blind { POLL } else { SAFETY_NET };
                // Heard or not: it is time to look.
                let _ = timeout(period, self.stir.notified()).await;
                self.look = true;
            }
            self.quiet().await;
            self.watch_directories();
            let files = self.files.clone();
            let Ok(found) = spawn_blocking(move || fingerprints(&files)).await else { continue };
            self.look = false;
            let differs =
                |(file, print): (&PathBuf, &Option<u64>)| (self.seen.get(file) != Some(print)).then(|| file.clone());
            let changed: Vec<PathBuf> = found.iter().filter_map(differs).collect();
            self.seen = found;
            if !changed.is_empty() {
                return changed;
            }
        }
    }

    async fn quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && timeout(QUIET, self.stir.notified()).await.is_ok() {}
    }

    /// Watches the directories of all files. To be called again and again: a directory that was removed and made anew, or
    /// to which a link leads only now, is another one.
    fn watch_directories(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = self.files.iter().flat_map(|file| directories(file)).collect();
        for gone in self.watched.difference(&wanted) {
            // It may have been removed, and its watch with it.
            let _ = watcher.unwatch(gone);
        }
        let mut blind = false;
        for directory in &wanted {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                blind = true;
                if !self.blind {
                    let directory = directory.display();
                    tracing::warn!(%directory, %error, "cannot watch; reading the files every {POLL:?} instead");
                }
            }
        }
        self.blind = blind;
        self.watched = wanted;
    }
}

fn watcher(stir: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is no change; we do it ourselves, and would never come to rest.
        let read_only = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
        if !read_only {
            stir.notify_one();
        }
    })
}

/// The directory the file is named in, and the one it really is in.
fn directories(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let named = std::path::absolute(file).ok();
    let real = file.canonicalize().ok();
    [named, real].into_iter().flatten().filter_map(|path| Some(path.parent()?.to_owned()))
}

fn fingerprints(files: &[PathBuf]) -> Fingerprints {
    let print = |file: &PathBuf| {
        let contents = std::fs::read(file).ok()?;
        let mut hasher = DefaultHasher::new();
        contents.hash(&mut hasher);
        Some(hasher.finish())
    };
    files.iter().map(|file| (file.clone(), print(file))).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    struct Place {
        dir: TempDir,
        watch: FileWatch,
    }

    impl Place {
        /// A directory with a file `c.yaml`, watched.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("c.yaml"), "one").unwrap();
            let watch = FileWatch::start(&dir.path().join("c.yaml"));
            assert!(!watch.blind, "the test needs inotify");
            Self { dir, watch }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// The names of what changes next; well before the safety net, so it is the kernel's word that was heard.
        async fn changes(&mut self) -> Vec<String> {
            let changed = timeout(SAFETY_NET / 2, self.watch.changed()).await.expect("the change was not noticed");
            changed.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
        }
    }

    #[tokio::test]
    async fn a_write_in_place_is_noticed() {
        let mut place = Place::new();
        fs::write(place.path("c.yaml"), "two").unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
        fs::write(place.path("c.yaml"), "three").unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
    }

    #[tokio::test]
    async fn a_rename_over_the_file_is_noticed_again_and_again() {
        let mut place = Place::new();
        for round in 0..3 {
            fs::write(place.path(".c.yaml.tmp"), format!("round {round}")).unwrap();
            fs::rename(place.path(".c.yaml.tmp"), place.path("c.yaml")).unwrap();
            assert_eq!(place.changes().await, ["c.yaml"]);
        }
    }

    #[tokio::test]
    async fn a_config_map_swap_is_noticed_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let publish = |version: &str| {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("c.yaml"), version).unwrap();
            symlink(version, path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        publish("..v0");
        symlink("..data/c.yaml", path("c.yaml")).unwrap();
        let watch = FileWatch::start(&path("c.yaml"));
        let mut place = Place { dir: tempfile::tempdir().unwrap(), watch };
        for (old, new) in [("..v0", "..v1"), ("..v1", "..v2")] {
            publish(new);
            fs::remove_dir_all(path(old)).unwrap();
            assert_eq!(place.changes().await, ["c.yaml"]);
        }
    }

    #[tokio::test]
    async fn the_file_behind_a_link_is_watched_too() {
        let (elsewhere, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("real.yaml"), "one").unwrap();
        symlink(elsewhere.path().join("real.yaml"), here.path().join("c.yaml")).unwrap();
        let mut place = Place { watch: FileWatch::start(&here.path().join("c.yaml")), dir: here };
        fs::write(elsewhere.path().join("real.yaml"), "two").unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
    }

    #[tokio::test]
    async fn deletion_and_return_are_noticed() {
        let mut place = Place::new();
        fs::remove_file(place.path("c.yaml")).unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
        fs::write(place.path("c.yaml"), "one").unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
    }

    #[tokio::test]
    async fn a_directory_made_anew_is_watched_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("c.yaml"), "one").unwrap();
        let mut place = Place { watch: FileWatch::start(&dir.join("c.yaml")), dir: root };
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("c.yaml"), "two").unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
        fs::write(dir.join("c.yaml"), "three").unwrap();
        assert_eq!(place.changes().await, ["c.yaml"]);
    }

    #[tokio::test]
    async fn only_followed_files_count_and_only_what_changed_is_named() {
        let mut place = Place::new();
        for name in ["a.crt", "b.key", "stranger"] {
            fs::write(place.path(name), "one").unwrap();
        }
        place.watch.follow(vec![place.path("a.crt"), place.path("b.key")]);
        fs::write(place.path("stranger"), "two").unwrap();
        fs::write(place.path("c.yaml"), "one").unwrap();
        fs::write(place.path("b.key"), "two").unwrap();
        assert_eq!(place.changes().await, ["b.key"]);
        // What changed before a new list is named is not forgotten, unless the list leaves it out.
        fs::write(place.path("c.yaml"), "two").unwrap();
        fs::write(place.path("b.key"), "three").unwrap();
        place.watch.follow(vec![place.path("a.crt")]);
        assert_eq!(place.changes().await, ["c.yaml"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_contents_are_no_change_however_often_they_are_written() {
        let mut place = Place::new();
        for _ in 0..3 {
            fs::write(place.path("c.yaml"), "one").unwrap();
            fs::write(place.path("stranger"), "x").unwrap();
            assert!(timeout(10 * SAFETY_NET, place.watch.changed()).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_notifications_the_files_are_read_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        fs::write(&path, "one").unwrap();
        let mut watch = FileWatch::with(&path, Arc::new(Notify::new()), None);
        fs::write(&path, "two").unwrap();
        let begin = Instant::now();
        assert_eq!(watch.changed().await, [path]);
        assert!(begin.elapsed() <= POLL + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_told_is_found_by_the_safety_net() {
        let mut place = Place::new();
        let path = place.path("c.yaml");
        // A watcher that hears nothing, as on a network file system.
        place.watch.watcher = place.watch.watcher.take().map(|mut watcher| {
            watcher.unwatch(place.dir.path()).unwrap();
            watcher
        });
        fs::write(&path, "two").unwrap();
        assert_eq!(timeout(SAFETY_NET + PATIENCE, place.watch.changed()).await.unwrap(), [path]);
    }

    #[tokio::test]
    async fn dropping_the_wait_loses_no_change() {
        let mut place = Place::new();
        fs::write(place.path("c.yaml"), "two").unwrap();
        // Dropped after it has heard of the change and before it has read the file.
        while !place.watch.look {
            let _ = timeout(QUIET / 10, place.watch.changed()).await;
        }
        assert_eq!(place.changes().await, ["c.yaml"]);
    }
}
