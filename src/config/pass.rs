//! One pass over the file's values: reads each by its notation, variables put in, and gathers what is wrong instead of
//! stopping at it. What cannot be read leaves its default in place, and the pass goes on; the outcome is thrown away then.

use std::{
    collections::HashSet,
    fs::File,
    hash::Hash,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};
use serde_saphyr::Location;

use super::{
    environment::{Environment, expand},
    error::{Document, Findings, Wrong, quoted},
    node::{Given, Placed, Text},
    notation::Notation,
};

/// The largest file that is read besides the configuration, in octets: a certificate, a key, a token file.
const LARGEST_FILE: usize = 1 << 20;

/// The largest page that stands for an error, in octets.
const LARGEST_PAGE: usize = 256 << 10;

/// The pass, with what it found wrong so far.
pub(super) struct Pass<'a> {
    pub(super) document: Document<'a>,
    pub(super) environment: Environment<'a>,
    /// Whether the files that are named must be there, and be what they should.
    pub(super) open_files: bool,
    pub(super) findings: Findings,
    /// The files that hold secrets.
    pub(super) secret_files: Vec<PathBuf>,
}

/// What a file that the configuration names is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum FileKind {
    Certificate,
    Key,
    RevocationList,
    Tokens,
    /// Of an error; [`LARGEST_PAGE`] at most.
    Page,
}

impl Pass<'_> {
    /// Takes note that something is wrong at this place.
    pub(super) fn wrong(&mut self, place: Location, wrong: Wrong) {
        self.findings.add(|| self.document.wrong_at(place, wrong));
    }

    /// The value, or `None` after taking note of what is wrong with it.
    pub(super) fn read<T: Notation>(&mut self, Placed { value, place }: &Placed<Text<T>>) -> Option<T> {
        let read = expand(&value.written, self.environment).and_then(|text| T::read(&text));
        read.map_err(|wrong| self.wrong(*place, wrong)).ok()
    }

    /// Puts the value, if there is one, in place of the default.
    pub(super) fn set<T: Notation + Into<U>, U>(&mut self, target: &mut U, given: &Given<Text<T>>) {
        if let Some(value) = given.get().and_then(|placed| self.read(placed)) {
            *target = value.into();
        }
    }

    /// The values of a list with their places. An empty list is an error, since leaving it out means "all", and the one
    /// looks like the opposite of the other.
    pub(super) fn read_all<T: Notation + Clone + Eq + Hash>(
        &mut self,
        given: &Given<Vec<Placed<Text<T>>>>,
    ) -> Vec<(T, Location)> {
        let Some(list) = given.get() else { return Vec::new() };
        let (mut values, mut seen) = (Vec::with_capacity(list.value.len()), HashSet::new());
        if list.value.is_empty() {
            self.wrong(list.place, Wrong::new("this list is empty").hint("leave the key out, or name at least one"));
        }
        for item in &list.value {
            let Some(value) = self.read(item) else { continue };
            if !seen.insert(value.clone()) {
                self.wrong(item.place, Wrong::new(format!("{} is given twice", quoted(&item.value.written))));
                continue;
            }
            values.push((value, item.place));
        }
        values
    }

    /// A path as the program uses it: a relative one starts at the configuration's directory.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.document.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// A page that answers are made of, with its path; empty where files are not opened.
    pub(super) fn page(&mut self, written: &Placed<Text<PathBuf>>) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.file(written, FileKind::Page)?;
        if !self.open_files {
            return Some((path, Vec::new()));
        }
        // It was just looked at; what is wrong with it has been said.
        let octets = read_file(&path).ok()?;
        Some((path, octets))
    }

    /// The path of a file that must be there.
    pub(super) fn file(&mut self, written: &Placed<Text<PathBuf>>, kind: FileKind) -> Option<PathBuf> {
        let path = self.read(written)?;
        Some(self.checked(&path, written.place, kind))
    }

    /// The same, of a path that was read already.
    pub(super) fn checked(&mut self, path: &Path, place: Location, kind: FileKind) -> PathBuf {
        let path = self.path(path);
        if self.open_files
            && let Err(wrong) = kind.check(&path)
        {
            self.wrong(place, wrong);
        }
        path
    }
}

impl FileKind {
    fn check(self, path: &Path) -> Result<(), Wrong> {
        let shown = path.display();
        let octets = read_file(path).map_err(|error| Wrong::new(format!("cannot read {shown}: {error}")))?;
        let lacking = |what| Wrong::new(format!("{shown} holds no {what} in PEM form"));
        match self {
            Self::Certificate => match CertificateDer::pem_slice_iter(&octets).next() {
                Some(Ok(_)) => Ok(()),
                Some(Err(_)) | None => Err(lacking("certificate")),
            },
            Self::Key => PrivateKeyDer::from_pem_slice(&octets).map(|_| ()).map_err(|_| lacking("private key")),
            Self::RevocationList => match CertificateRevocationListDer::pem_slice_iter(&octets).next() {
                Some(Ok(_)) => Ok(()),
                Some(Err(_)) | None => Err(lacking("revocation list")),
            },
            Self::Tokens => Ok(()),
            Self::Page if octets.len() <= LARGEST_PAGE => Ok(()),
            Self::Page => {
                Err(Wrong::new(format!("{shown} is larger than 256KiB")).hint("such pages are kept in memory"))
            }
        }
    }
}

/// The whole of a file that the configuration names, if it is not larger than [`LARGEST_FILE`].
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, LARGEST_FILE)
}

/// The whole file, if it has no more octets than `most`, which are so many MiB.
pub(super) fn read_up_to(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut octets)?;
    if octets.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {}MiB", most >> 20)));
    }
    Ok(octets)
}
