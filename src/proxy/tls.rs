//! TLS towards clients: which certificate for which name, and replacing them while serving. Files are read and keys are
//! parsed off the workers; what is served is replaced whole, and only by what is sound: a broken new certificate leaves the
//! old one in service.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use jiff::Timestamp;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{CertificateFiles, TlsVersion};

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read, or holds no such PEM.
    #[error("cannot read {}: {source}; it must be PEM and readable by this user", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no certificate; give the chain, leaf first", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key is of no use with the certificate.
    #[error("{} does not go with {}: {source}; give the key the certificate was made for", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate cannot be parsed.
    #[error("{} holds a certificate that cannot be parsed; give X.509 in PEM", path.display())]
    Unparsable {
        /// The file.
        path: PathBuf,
    },
    /// The protocol cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// A certificate in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The listener that uses it.
    pub listener: String,
    /// The file it was read from.
    pub file: PathBuf,
    /// When its validity ends.
    pub ends: Timestamp,
}

/// The certificates of one listener, in service; replaced whole.
pub(super) struct Certificates {
    current: RwLock<Arc<Names>>,
    ticketer: Arc<dyn ProducesTickets>,
    /// Files that were found broken, as they were: they are reported once.
    broken: Mutex<Vec<FileState>>,
}

/// Which certificate for which name.
#[derive(Default)]
pub(super) struct Names {
    files: Vec<CertificateFiles>,
    /// When the certificate of each ends.
    ends: Vec<Timestamp>,
    /// As the files were when they were read.
    state: Vec<FileState>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the first label, with its dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

/// When a file was changed last, and how long it is.
type FileState = Option<(SystemTime, u64)>;

impl Certificates {
    /// None yet; tickets are told from others by keys made now.
    pub(super) fn new() -> Result<Arc<Self>, CertificateError> {
        let ticketer = aws_lc_rs::Ticketer::new()?;
        Ok(Arc::new(Self { current: RwLock::default(), ticketer, broken: Mutex::default() }))
    }

    /// Puts these in service.
    pub(super) fn put(&self, names: Names) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    /// Reads the files anew if one has changed, and puts them in service. Whether it did; on error, what is in service
    /// stays. To be called where one may block.
    pub(super) fn refresh(&self) -> Result<bool, CertificateError> {
        let names = self.names();
        let state = state_of(&names.files);
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if state == names.state || state == *broken {
            return Ok(false);
        }
        match Names::load(names.files.clone()) {
            Ok(names) => {
                self.put(names);
                Ok(true)
            }
            Err(error) => {
                *broken = state;
                Err(error)
            }
        }
    }

    /// What is in service, said to be that of `listener`.
    pub(super) fn facts(&self, listener: &str) -> Vec<CertificateFacts> {
        let names = self.names();
        let fact = |(files, ends): (&CertificateFiles, &Timestamp)| CertificateFacts {
            listener: listener.to_owned(),
            file: files.cert.clone(),
            ends: *ends,
        };
        names.files.iter().zip(&names.ends).map(fact).collect()
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The protocol's settings. They share the certificates and the tickets with all others of this listener, so replacing
    /// them costs no client its resumption.
    pub(super) fn settings(self: &Arc<Self>, oldest: TlsVersion) -> Result<Arc<ServerConfig>, CertificateError> {
        let versions: &[_] = match oldest {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let mut settings =
            builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        settings.ticketer = Arc::clone(&self.ticketer);
        settings.send_tls13_tickets = 1;
        // RFC 8446 §8: what comes early may be replayed.
        settings.max_early_data_size = 0;
        Ok(Arc::new(settings))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.names().files).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.names().find(hello.server_name())
    }
}

impl Names {
    /// Reads the files. To be called where one may block.
    pub(super) fn load(files: Vec<CertificateFiles>) -> Result<Self, CertificateError> {
        let mut names = Self { state: state_of(&files), ..Self::default() };
        for files in &files {
            let (key, dns_names, ends) = read(files)?;
            names.ends.push(ends);
            for name in dns_names {
                // The first that names it has it.
                match name.strip_prefix('*') {
                    Some(rest) => names.wildcard.entry(rest.to_owned()).or_insert_with(|| Arc::clone(&key)),
                    None => names.exact.entry(name).or_insert_with(|| Arc::clone(&key)),
                };
            }
            names.default.get_or_insert(key);
        }
        names.files = files;
        Ok(names)
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            // rustls gives the name in lower case. A wildcard stands for one label (RFC 6125 §6.4.3).
            let wildcard = || name.find('.').and_then(|dot| self.wildcard.get(&name[dot..]));
            self.exact.get(name).or_else(wildcard)
        });
        named.or(self.default.as_ref()).cloned()
    }
}

/// The certificate with its key, the names it is for, in lower case, and when it ends.
fn read(files: &CertificateFiles) -> Result<(Arc<CertifiedKey>, Vec<String>, Timestamp), CertificateError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        |source| CertificateError::Unreadable { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(unreadable(&files.cert))?;
    let leaf = chain.first().ok_or_else(|| CertificateError::Empty { path: files.cert.clone() })?;
    let (names, ends) = facts_of(leaf).ok_or_else(|| CertificateError::Unparsable { path: files.cert.clone() })?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    let mismatch = |source| CertificateError::Mismatch { cert: files.cert.clone(), key: files.key.clone(), source };
    // `from_der` also compares the public keys.
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(mismatch)?;
    Ok((Arc::new(certified), names, ends))
}

fn facts_of(leaf: &CertificateDer<'_>) -> Option<(Vec<String>, Timestamp)> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let alternatives = leaf.subject_alternative_name().ok()?;
    let names = alternatives.into_iter().flat_map(|names| &names.value.general_names);
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let ends = Timestamp::from_second(leaf.validity().not_after.timestamp()).ok()?;
    Some((dns.collect(), ends))
}

fn state_of(files: &[CertificateFiles]) -> Vec<FileState> {
    let state = |path: &PathBuf| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.modified().ok()?, facts.len()))
    };
    files.iter().flat_map(|files| [&files.cert, &files.key]).map(state).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn made(directory: &TempDir, name: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let file = |kind: &str| directory.path().join(format!("{name}.{kind}"));
        std::fs::write(file("crt"), made.cert.pem()).expect("a file");
        std::fs::write(file("key"), made.signing_key.serialize_pem()).expect("a file");
        CertificateFiles { cert: file("crt"), key: file("key") }
    }

    fn serving(files: &[&CertificateFiles]) -> Arc<Certificates> {
        let certificates = Certificates::new().expect("randomness");
        certificates.put(Names::load(files.iter().copied().cloned().collect()).expect("all sound"));
        certificates
    }

    fn served(certificates: &Certificates, name: Option<&str>) -> Vec<u8> {
        certificates.names().find(name).expect("a certificate").cert[0].to_vec()
    }

    fn in_file(files: &CertificateFiles) -> Vec<u8> {
        CertificateDer::from_pem_file(&files.cert).expect("a certificate").to_vec()
    }

    #[test]
    fn a_certificate_is_found_by_name_then_wildcard_then_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = made(&directory, "first", &["First.test"]);
        let wild = made(&directory, "wild", &["*.shop.test"]);
        let exact = made(&directory, "exact", &["a.shop.test"]);
        let certificates = serving(&[&first, &wild, &exact]);
        for (name, files) in [
            (Some("first.test"), &first),
            (Some("a.shop.test"), &exact),
            (Some("b.shop.test"), &wild),
            (Some("c.b.shop.test"), &first),
            (Some("shop.test"), &first),
            (Some("elsewhere"), &first),
            (None, &first),
        ] {
            assert_eq!(served(&certificates, name), in_file(files), "{name:?}");
        }
    }

    #[test]
    fn a_broken_new_certificate_leaves_the_old_one_in_service() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = made(&directory, "live", &["shop.test"]);
        let certificates = serving(&[&files]);
        let before = in_file(&files);
        assert!(!certificates.refresh().expect("nothing has changed"));
        assert!(certificates.facts("live")[0].ends > Timestamp::now());

        std::fs::write(&files.cert, "no PEM").expect("a file");
        let error = certificates.refresh().expect_err("broken").to_string();
        assert!(error.contains("live.crt"), "{error}");
        assert_eq!(served(&certificates, None), before);

        let other = made(&directory, "other", &["shop.test"]);
        std::fs::copy(&other.cert, &files.cert).expect("a copy");
        let error = certificates.refresh().expect_err("the key is another's").to_string();
        assert!(error.contains("live.key does not go with"), "{error}");
        assert_eq!(served(&certificates, None), before);

        std::fs::copy(&other.key, &files.key).expect("a copy");
        assert!(certificates.refresh().expect("sound again"));
        assert_eq!(served(&certificates, None), in_file(&other));
    }
}
