//! TLS towards clients: which certificate for which name, which certificates clients must show, and replacing all of that
//! while serving. Files are read and keys are parsed off the workers; what is served is replaced whole, and only by what is
//! sound: a broken new file leaves the old ones in service.
//!
//! **Session tickets** need no store: they are encrypted by keys made at random, shared by all workers and listeners of the
//! process, and replaced every 6 hours; a ticket is good for 12 at most. Another process, or the next one, takes none of
//! them: its clients shake hands in full once. What a resumed session never does is to look at the client's certificate
//! again, or to ask for one. So a listener that wants certificates has ticket keys of its own, made anew whenever its files
//! or settings change: no ticket of another listener opens it, nor one from before a revocation. 0-RTT is off.

use std::{
    collections::HashMap,
    fmt,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, VerifierBuilderError,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{CertificateFiles, ClientAuth, ClientAuthMode, TlsOptions, TlsVersion};

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
    #[error("{} holds no certificate; give PEM, of a chain the leaf first", path.display())]
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
    /// An authority for client certificates cannot be used.
    #[error("{} holds a certificate that cannot be an authority: {source}; give the roots of the clients' certificates", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The file holds no list of revoked certificates.
    #[error("{} holds no revocation list in PEM; give each authority's own, or leave `crl` out", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
    },
    /// The lists of revoked client certificates cannot be used.
    #[error("client certificates cannot be verified: {0}; give each authority's own list, signed by it")]
    ClientAuth(#[from] VerifierBuilderError),
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

/// The TLS of one listener, in service; replaced whole.
pub(super) struct Certificates {
    current: RwLock<Arc<Loaded>>,
    tickets: Arc<dyn ProducesTickets>,
    /// Files that were found broken, as they were: they are reported once.
    broken: Mutex<Vec<FileState>>,
}

/// All that the options and their files make.
pub(super) struct Loaded {
    options: TlsOptions,
    /// As the files were when they were read.
    state: Vec<FileState>,
    names: Arc<Names>,
    settings: Arc<ServerConfig>,
}

/// Which certificate for which name.
#[derive(Debug, Default)]
struct Names {
    /// When the certificate of each pair of files ends, in the order of the options.
    ends: Vec<Timestamp>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the first label, with its dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

/// Which file it is, when it was changed last, and how long it is.
type FileState = Option<(u64, SystemTime, u64)>;

/// What tickets are encrypted by where nothing else is said: made once for a process.
pub(super) fn shared_tickets() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    aws_lc_rs::Ticketer::new()
}

impl Certificates {
    /// With this in service; `tickets` is what all listeners share.
    pub(super) fn new(loaded: Loaded, tickets: Arc<dyn ProducesTickets>) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Arc::new(loaded)), tickets, broken: Mutex::default() })
    }

    /// Puts this in service.
    pub(super) fn put(&self, loaded: Loaded) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    /// Whether what is in service is what these options and their files would make. To be called where one may block.
    pub(super) fn is_made_of(&self, options: &TlsOptions) -> bool {
        let current = self.current();
        current.options == *options && current.state == state_of(options)
    }

    /// Reads the files anew if one has changed, and puts them in service. Whether it did; on error, what is in service
    /// stays. To be called where one may block.
    pub(super) fn refresh(&self) -> Result<bool, CertificateError> {
        let current = self.current();
        let state = state_of(&current.options);
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if state == current.state || state == *broken {
            return Ok(false);
        }
        match Loaded::load(current.options.clone(), &self.tickets) {
            Ok(loaded) => {
                self.put(loaded);
                Ok(true)
            }
            Err(error) => {
                *broken = state;
                Err(error)
            }
        }
    }

    /// The protocol's settings, for a handshake that begins now.
    pub(super) fn settings(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().settings)
    }

    /// What is in service, said to be that of `listener`.
    pub(super) fn facts(&self, listener: &str) -> Vec<CertificateFacts> {
        let current = self.current();
        let fact = |(files, ends): (&CertificateFiles, &Timestamp)| CertificateFacts {
            listener: listener.to_owned(),
            file: files.cert.clone(),
            ends: *ends,
        };
        current.options.certificates.iter().zip(&current.names.ends).map(fact).collect()
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Loaded {
    /// Reads the files. To be called where one may block.
    pub(super) fn load(options: TlsOptions, shared: &Arc<dyn ProducesTickets>) -> Result<Self, CertificateError> {
        let state = state_of(&options);
        let names = Arc::new(Names::load(&options.certificates)?);
        let versions: &[_] = match options.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let (builder, tickets) = match &options.client_auth {
            Some(auth) => (builder.with_client_cert_verifier(verifier(auth)?), aws_lc_rs::Ticketer::new()?),
            None => (builder.with_no_client_auth(), Arc::clone(shared)),
        };
        let mut settings = builder.with_cert_resolver(Arc::clone(&names) as Arc<dyn ResolvesServerCert>);
        settings.alpn_protocols = options.alpn.iter().map(|protocol| protocol.id().to_vec()).collect();
        settings.ticketer = tickets;
        // A client that opens many connections at once may use one for all of them.
        settings.send_tls13_tickets = 1;
        settings.session_storage = Arc::new(NoServerSessionStorage {});
        // RFC 8446 §8: what comes early may be replayed.
        settings.max_early_data_size = 0;
        Ok(Self { options, state, names, settings: Arc::new(settings) })
    }
}

/// Judges client certificates by the roots, and the lists of what was revoked.
fn verifier(auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(&auth.roots)? {
        roots.add(root).map_err(|source| CertificateError::NoAuthority { path: auth.roots.clone(), source })?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if let Some(path) = &auth.crl {
        let lists = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let lists = lists.map_err(unreadable(path))?;
        // Without any, nothing would be looked up.
        if lists.is_empty() {
            return Err(CertificateError::NoList { path: path.clone() });
        }
        verifier = verifier.with_crls(lists);
    }
    if auth.mode == ClientAuthMode::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    Ok(verifier.build()?)
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("options", &self.current().options).finish()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

impl Names {
    fn load(files: &[CertificateFiles]) -> Result<Self, CertificateError> {
        let mut names = Self::default();
        for files in files {
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
    let chain = certificates(&files.cert)?;
    let leaf = chain.first().ok_or_else(|| CertificateError::Empty { path: files.cert.clone() })?;
    let (names, ends) = facts_of(leaf).ok_or_else(|| CertificateError::Unparsable { path: files.cert.clone() })?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    let mismatch = |source| CertificateError::Mismatch { cert: files.cert.clone(), key: files.key.clone(), source };
    // `from_der` also compares the public keys.
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(mismatch)?;
    Ok((Arc::new(certified), names, ends))
}

/// The certificates in a file: one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found.map_err(unreadable(path))? {
        none if none.is_empty() => Err(CertificateError::Empty { path: path.to_owned() }),
        some => Ok(some),
    }
}

fn unreadable(path: &Path) -> impl FnOnce(rustls_pki_types::pem::Error) -> CertificateError {
    let path = path.to_owned();
    |source| CertificateError::Unreadable { path, source }
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

fn state_of(options: &TlsOptions) -> Vec<FileState> {
    let state = |path: &PathBuf| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.ino(), facts.modified().ok()?, facts.len()))
    };
    options.files().map(state).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::proxy::Alpn;

    fn made(directory: &TempDir, name: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let file = |kind: &str| directory.path().join(format!("{name}.{kind}"));
        std::fs::write(file("crt"), made.cert.pem()).expect("a file");
        std::fs::write(file("key"), made.signing_key.serialize_pem()).expect("a file");
        CertificateFiles { cert: file("crt"), key: file("key") }
    }

    fn serving(files: &[&CertificateFiles]) -> Arc<Certificates> {
        let tickets = shared_tickets().expect("randomness");
        let certificates = files.iter().copied().cloned().collect();
        let options = TlsOptions {
            certificates,
            min_version: TlsVersion::default(),
            alpn: Alpn::ALL.to_vec(),
            client_auth: None,
        };
        Certificates::new(Loaded::load(options, &tickets).expect("all sound"), tickets)
    }

    fn served(certificates: &Certificates, name: Option<&str>) -> Vec<u8> {
        certificates.current().names.find(name).expect("a certificate").cert[0].to_vec()
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
