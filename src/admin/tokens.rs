//! Bearer tokens: a YAML file of SHA-256 digests with names, roles and limits. The secrets themselves are nowhere: they
//! are random, 256 bits, and shown once when they are minted, so a plain digest suffices. The file is read again when it
//! has changed; a broken new one leaves the old in force.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, rand};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;
use thiserror::Error;
use tracing::{error, info};

use super::api::Role;
use crate::switch::AppName;

/// The tokens in force.
pub struct Tokens {
    path: Option<PathBuf>,
    loaded: Mutex<Loaded>,
}

/// A token as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenEntry {
    /// Who holds it: the actor in the journal.
    pub name: String,
    /// The SHA-256 of the whole token, in hex.
    pub sha256: String,
    /// What its holder may do.
    pub role: Role,
    /// The apps it is limited to; all if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps: Option<BTreeSet<AppName>>,
    /// When it ends; never if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// What is wrong with a token file.
#[derive(Debug, Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something it should not.
    #[error("{}: {detail}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What, with line and column.
        detail: String,
    },
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotAccepted {
    /// No entry has its digest.
    Unknown,
    /// Its entry has run out.
    Expired {
        /// The entry's name.
        name: String,
    },
}

/// The SHA-256 of a token.
pub(super) type Digest = [u8; digest::SHA256_OUTPUT_LEN];

struct Loaded {
    entries: Arc<[Known]>,
    /// Which state of the file was looked at last, whether it was good or not.
    stamp: Option<Stamp>,
}

struct Known {
    digest: Digest,
    entry: TokenEntry,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Makes a token of 256 random bits. The secret is shown to its holder and forgotten; the entry belongs in the file.
pub fn mint(
    name: &str,
    role: Role,
    apps: Option<BTreeSet<AppName>>,
    expires: Option<Timestamp>,
) -> Result<(String, TokenEntry), aws_lc_rs::error::Unspecified> {
    let mut bits = [0_u8; 32];
    rand::fill(&mut bits)?;
    let secret = format!("tg_{}", BASE64_URL_SAFE_NO_PAD.encode(bits));
    let entry = TokenEntry { name: name.to_owned(), sha256: to_hex(&sha256(&secret)), role, apps, expires };
    Ok((secret, entry))
}

impl Tokens {
    /// Reads a token file.
    pub fn load(path: &Path) -> Result<Self, TokensError> {
        let (entries, stamp) = read(path)?;
        let loaded = Mutex::new(Loaded { entries: entries.into(), stamp: Some(stamp) });
        Ok(Self { path: Some(path.to_owned()), loaded })
    }

    /// Tokens that stand in no file, for the demo and for tests. An entry whose digest is no digest is left out.
    pub fn fixed(entries: impl IntoIterator<Item = TokenEntry>) -> Self {
        let known = |entry: TokenEntry| from_hex(&entry.sha256).map(|digest| Known { digest, entry });
        let loaded = Mutex::new(Loaded { entries: entries.into_iter().filter_map(known).collect(), stamp: None });
        Self { path: None, loaded }
    }

    /// Reads the file again. If that fails, the tokens stay as they are. Returns how many there are.
    pub fn reload(&self) -> Result<usize, TokensError> {
        let mut loaded = self.lock();
        if let Some(path) = &self.path {
            let (entries, stamp) = read(path)?;
            *loaded = Loaded { entries: entries.into(), stamp: Some(stamp) };
        }
        Ok(loaded.entries.len())
    }

    /// Whose token this is.
    pub(super) fn authenticate(&self, token: &str) -> Result<TokenEntry, NotAccepted> {
        self.holder(&sha256(token))
    }

    /// Whose token has this digest, by now. Every entry is compared, each in constant time, so that the time it takes
    /// tells nothing of the digests.
    pub(super) fn holder(&self, digest: &Digest) -> Result<TokenEntry, NotAccepted> {
        let entries = self.current();
        let mut found = None;
        for known in &*entries {
            if verify_slices_are_equal(&known.digest, digest).is_ok() {
                found = Some(&known.entry);
            }
        }
        let entry = found.ok_or(NotAccepted::Unknown)?;
        if entry.expires.is_some_and(|end| end <= Timestamp::now()) {
            return Err(NotAccepted::Expired { name: entry.name.clone() });
        }
        Ok(entry.clone())
    }

    /// The entries, from the file as it is now: a token that was struck out is refused at once.
    fn current(&self) -> Arc<[Known]> {
        let mut loaded = self.lock();
        let Some(path) = &self.path else { return Arc::clone(&loaded.entries) };
        let stamp = std::fs::metadata(path).map(|found| Stamp::of(&found)).ok();
        if stamp != loaded.stamp {
            loaded.stamp = stamp;
            match read(path) {
                Ok((entries, stamp)) => {
                    info!(path = %path.display(), tokens = entries.len(), "the token file has changed and was read again");
                    *loaded = Loaded { entries: entries.into(), stamp: Some(stamp) };
                }
                Err(error) => {
                    error!(%error, "the token file has changed and cannot be used; the tokens stay as they were");
                }
            }
        }
        Arc::clone(&loaded.entries)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The SHA-256 of a token.
pub(super) fn sha256(token: &str) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

impl Stamp {
    fn of(found: &std::fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The most octets a token file may have.
const MAX_FILE: u64 = 1024 * 1024;

/// The file's tokens, and which state of the file that was. The stamp is taken from the open file, before reading: a
/// later change shows as another stamp.
fn read(path: &Path) -> Result<(Vec<Known>, Stamp), TokensError> {
    let io = |source| TokensError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let stamp = Stamp::of(&file.metadata().map_err(io)?);
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(io)?;
    let content = |detail| TokensError::Content { path: path.to_owned(), detail };
    if text.len() as u64 > MAX_FILE {
        return Err(content(format!("it has more than {MAX_FILE} octets")));
    }
    Ok((parse(&text).map_err(content)?, stamp))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    tokens: Vec<WrittenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    name: Spanned<String>,
    sha256: Spanned<String>,
    role: Role,
    apps: Option<Spanned<BTreeSet<AppName>>>,
    expires: Option<Timestamp>,
}

/// Reads the entries. What it says of a mistake never quotes the file: a secret may stand where its digest belongs.
fn parse(text: &str) -> Result<Vec<Known>, String> {
    let written: WrittenFile = serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())?;
    let mut known: Vec<Known> = Vec::with_capacity(written.tokens.len());
    for entry in written.tokens {
        let name = &entry.name.value;
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return Err(at(&entry.name, "a name has 1 to 128 characters, none of them a control character"));
        }
        let Some(digest) = from_hex(&entry.sha256.value) else {
            return Err(at(&entry.sha256, "sha256 is the digest of the token in 64 hex digits, not the token itself"));
        };
        if known.iter().any(|k| k.entry.name == *name) {
            return Err(at(&entry.name, &format!("the name {name:?} is taken by an entry above")));
        }
        if known.iter().any(|k| k.digest == digest) {
            return Err(at(&entry.sha256, "this digest is another entry's above; every token has its own"));
        }
        if let Some(apps) = entry.apps.as_ref().filter(|apps| apps.value.is_empty()) {
            return Err(at(apps, "apps is empty; leave it out to allow all apps"));
        }
        known.push(Known {
            digest,
            entry: TokenEntry {
                name: entry.name.value,
                sha256: to_hex(&digest),
                role: entry.role,
                apps: entry.apps.map(|apps| apps.value),
                expires: entry.expires,
            },
        });
    }
    Ok(known)
}

fn at<T>(place: &Spanned<T>, what: &str) -> String {
    format!("line {}, column {}: {what}", place.referenced.line(), place.referenced.column())
}

fn to_hex(digest: &Digest) -> String {
    digest.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (octet, i) in digest.iter_mut().zip((0..text.len()).step_by(2)) {
        *octet = u8::from_str_radix(&text[i..i + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted(name: &str, expires: Option<Timestamp>) -> (String, TokenEntry) {
        mint(name, Role::Operator, None, expires).unwrap()
    }

    fn yaml(entries: &[&TokenEntry]) -> String {
        serde_saphyr::to_string(&std::collections::BTreeMap::from([("tokens", entries)])).unwrap()
    }

    #[test]
    fn a_minted_token_is_known_by_the_entry_as_it_is_printed() {
        let apps = Some(BTreeSet::from(["shop".parse().unwrap()]));
        let (secret, entry) = mint("ann", Role::Operator, apps, Some(Timestamp::MAX)).unwrap();
        assert!(secret.starts_with("tg_") && secret.len() == 46, "{secret}");
        let known = parse(&yaml(&[&entry])).unwrap();
        assert_eq!(known[0].entry, entry);
        assert_eq!(Tokens::fixed([entry.clone()]).authenticate(&secret), Ok(entry));
    }

    #[test]
    fn only_the_whole_unexpired_token_is_accepted() {
        let (secret, entry) = minted("ann", None);
        let (old, expired) = minted("bob", Some(Timestamp::UNIX_EPOCH));
        let tokens = Tokens::fixed([entry, expired]);
        assert_eq!(tokens.authenticate(&secret).unwrap().name, "ann");
        assert_eq!(tokens.authenticate(&old), Err(NotAccepted::Expired { name: "bob".into() }));
        for wrong in ["", "tg_", &secret[1..], &format!("{secret} ")] {
            assert_eq!(tokens.authenticate(wrong), Err(NotAccepted::Unknown));
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_named_with_its_line_and_never_quoted() {
        let hex = "ab".repeat(32);
        let cases = [
            (format!("tokens:\n  - name: ann\n    sha256: {hex}\n    roll: admin\n"), "line 4", "roll"),
            (format!("tokens:\n  - name: ann\n    sha256: {hex}\n    role: king\n"), "line 4", "king"),
            ("tokens:\n  - name: ann\n    sha256: tg_secret\n    role: admin\n".into(), "line 3", "64 hex"),
            (
                format!(
                    "tokens:\n  - {{ name: a, sha256: {hex}, role: admin }}\n  - {{ name: a, sha256: {hex}, role: admin }}\n"
                ),
                "line 3",
                "taken",
            ),
            (format!("tokens:\n  - {{ name: a, sha256: {hex}, role: admin, apps: [] }}\n"), "line 2", "empty"),
            (format!("tokens:\n  - name: a\n    sha256: {hex}\n    role: admin\n    expires: soon\n"), "line 5", ""),
        ];
        for (text, line, word) in cases {
            let Err(said) = parse(&text) else { panic!("accepted: {text}") };
            assert!(said.contains(line) && said.contains(word), "{text}{said}");
            assert!(!said.contains("tg_secret"), "{said}");
        }
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.yaml");
        let replace = |text: &str| {
            std::fs::write(path.with_extension("new"), text).unwrap();
            std::fs::rename(path.with_extension("new"), &path).unwrap();
        };
        let ((anns, ann), (bobs, bob)) = (minted("ann", None), minted("bob", None));
        replace(&yaml(&[&ann]));
        let tokens = Tokens::load(&path).unwrap();
        assert!(tokens.authenticate(&anns).is_ok());
        assert!(tokens.authenticate(&bobs).is_err());

        replace(&yaml(&[&bob]));
        assert!(tokens.authenticate(&anns).is_err());
        assert!(tokens.authenticate(&bobs).is_ok());

        replace("tokens: {");
        assert!(tokens.authenticate(&bobs).is_ok());
        assert!(tokens.reload().unwrap_err().to_string().contains("tokens.yaml"));

        std::fs::remove_file(&path).unwrap();
        assert!(tokens.authenticate(&bobs).is_ok());
        replace(&yaml(&[&ann, &bob]));
        assert_eq!(tokens.reload().unwrap(), 2);
        assert!(tokens.authenticate(&anns).is_ok());
    }
}
