//! TLS towards endpoints: whom to trust, who we are, and replacing both while serving. Each way to reach endpoints has its
//! settings once, whatever becomes of the snapshots, so that sessions are resumed. Files are read and keys are parsed off the
//! workers; a file that has become useless leaves in service what was read before.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls_platform_verifier::BuilderVerifierExt;
use thiserror::Error;
use tokio::{task::spawn_blocking, time::interval};

use crate::switch::{Address, Desired, Protocol, Roots, TlsVersion, Transport, UpstreamTls};

/// How often the files are looked at for changes.
const INTERVAL: Duration = Duration::from_secs(2);
/// The most addresses whose sessions are kept; where addresses come and go, all are then forgotten.
const MOST_ADDRESSES: usize = 4096;
/// The names whose sessions are kept for one address: there is one, unless it is set anew.
const SESSIONS: usize = 2;

/// Why endpoints cannot be reached over TLS as they should.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file cannot be read, or holds no such PEM.
    #[error("cannot read {}: {source}; it must be PEM and readable by this user", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// The file of roots holds no certificate, or one that cannot be a root.
    #[error("{} holds no certificate that can be trusted; give X.509 certificates of authorities in PEM", path.display())]
    NoRoots {
        /// The file.
        path: PathBuf,
    },
    /// The client certificate is of no use with its key.
    #[error("{} does not go with {}: {source}; give the key the certificate was made for", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The system trusts nobody, or cannot be asked.
    #[error("the system's trusted roots cannot be had: {0}; install them (ca-certificates), or name a file as `roots`")]
    NoSystemRoots(rustls::Error),
    /// The protocol cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The settings of every way in which endpoints are reached over TLS.
#[derive(Default)]
pub(super) struct Trust {
    in_service: RwLock<ByTransport>,
}

type ByTransport = HashMap<Arc<Transport>, InService>;

#[derive(Clone)]
struct InService {
    settings: Arc<Settings>,
    /// The last state does not ask for it any more, only the one before. Requests may still be on their way by that one.
    is_old: bool,
}

/// What reaching the endpoints of a state takes, all of it read and not in service yet.
pub struct Prepared(ByTransport);

/// The settings of one way to reach endpoints.
struct Settings {
    tls: UpstreamTls,
    alpn: Vec<Vec<u8>>,
    current: RwLock<Current>,
    /// The files as they were when they were last looked at; what is broken is reported once.
    seen: Mutex<Vec<FileState>>,
}

/// What is in service: the settings, and a copy of them for each address. rustls keeps sessions by the server's name, which
/// all endpoints of an app may share, and a session of one is worth nothing to another.
struct Current {
    settings: ClientConfig,
    by_address: HashMap<Address, Arc<ClientConfig>>,
}

/// When a file was changed last, and how long it is.
type FileState = Option<(SystemTime, u64)>;

impl Trust {
    /// Reads whatever the apps need, or says what is wrong with it.
    pub(super) async fn prepare(&self, desired: &Desired) -> Result<Prepared, TrustError> {
        let before = self.in_service.read().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = desired.policies().map(|policy| Arc::clone(&policy.transport));
        let wanted: Vec<_> = wanted.filter(|transport| transport.tls.is_some()).collect();
        let prepared = spawn_blocking(move || {
            let mut next = HashMap::new();
            for transport in wanted {
                if next.contains_key(&transport) {
                    continue;
                }
                let settings = match before.get(&transport) {
                    Some(same) => {
                        same.settings.refresh()?;
                        Arc::clone(&same.settings)
                    }
                    None => Arc::new(Settings::load(&transport)?),
                };
                next.insert(transport, InService { settings, is_old: false });
            }
            for (transport, last) in before.into_iter().filter(|(_, last)| !last.is_old) {
                next.entry(transport).or_insert(InService { is_old: true, ..last });
            }
            Ok(Prepared(next))
        });
        // The task fails with the whole runtime only, when nothing is reached any more.
        prepared.await.unwrap_or_else(|_| Ok(Prepared(HashMap::new())))
    }

    /// Puts it in service.
    pub(super) fn adopt(&self, Prepared(next): Prepared) {
        *self.in_service.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// The settings for reaching this address in this way, if they have been made ready.
    pub(super) fn settings(&self, transport: &Arc<Transport>, address: &Address) -> Option<Arc<ClientConfig>> {
        let in_service = self.in_service.read().unwrap_or_else(PoisonError::into_inner);
        in_service.get(transport).map(|ready| ready.settings.of(address))
    }

    /// Puts changed files in service as they change, for ever.
    pub(super) async fn follow_files(&self) {
        let mut looks = interval(INTERVAL);
        loop {
            looks.tick().await;
            let all: Vec<_> = self
                .in_service
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
                .map(|ready| Arc::clone(&ready.settings))
                .collect();
            for settings in all {
                match spawn_blocking(move || settings.refresh()).await {
                    Ok(Ok(true)) => tracing::info!("new files for TLS towards endpoints are in service"),
                    Ok(Err(error)) => tracing::error!(%error, "TLS towards endpoints goes on with the files of before"),
                    Ok(Ok(false)) | Err(_) => {}
                }
            }
        }
    }
}

impl Settings {
    fn load(transport: &Transport) -> Result<Self, TrustError> {
        let tls = transport.tls.clone().unwrap_or_default();
        let alpn = alpn(transport);
        let seen = state_of(&tls);
        let current = RwLock::new(Current::new(build(&tls, &alpn)?));
        Ok(Self { tls, alpn, current, seen: Mutex::new(seen) })
    }

    fn of(&self, address: &Address) -> Arc<ClientConfig> {
        let known = |current: &Current| current.by_address.get(address).map(Arc::clone);
        let found = known(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        found.unwrap_or_else(|| self.current.write().unwrap_or_else(PoisonError::into_inner).of(address))
    }

    /// Reads the files anew if one has changed, and puts them in service. Whether it did; on error, what is in service
    /// stays, and the same files are not complained of again.
    fn refresh(&self) -> Result<bool, TrustError> {
        let state = state_of(&self.tls);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if state == *seen {
            return Ok(false);
        }
        *seen = state;
        let built = Current::new(build(&self.tls, &self.alpn)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = built;
        Ok(true)
    }
}

impl Current {
    fn new(settings: ClientConfig) -> Self {
        Self { settings, by_address: HashMap::new() }
    }

    fn of(&mut self, address: &Address) -> Arc<ClientConfig> {
        if self.by_address.len() >= MOST_ADDRESSES {
            self.by_address.clear();
        }
        let copy = || {
            let mut copy = self.settings.clone();
            copy.resumption = Resumption::in_memory_sessions(SESSIONS);
            Arc::new(copy)
        };
        Arc::clone(self.by_address.entry(address.clone()).or_insert_with(copy))
    }
}

/// What we offer to speak, the dearest first.
fn alpn(transport: &Transport) -> Vec<Vec<u8>> {
    let offered: &[&[u8]] = match transport.protocol {
        Protocol::Http1 => &[b"http/1.1"],
        Protocol::H2 => &[b"h2"],
        Protocol::Auto => &[b"h2", b"http/1.1"],
    };
    offered.iter().map(|protocol| protocol.to_vec()).collect()
}

fn build(tls: &UpstreamTls, alpn: &[Vec<u8>]) -> Result<ClientConfig, TrustError> {
    let versions: &[_] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(versions)?;
    let builder = match &tls.roots {
        Roots::System => builder.with_platform_verifier().map_err(TrustError::NoSystemRoots)?,
        Roots::File(path) => builder.with_root_certificates(roots(path)?),
    };
    let mut settings = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (cert, key) = (&identity.cert, &identity.key);
            let chain = certificates(cert)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
            let mismatch = |source| TrustError::Mismatch { cert: cert.clone(), key: key.clone(), source };
            // It also compares the public keys.
            builder.with_client_auth_cert(chain, secret).map_err(mismatch)?
        }
    };
    settings.alpn_protocols = alpn.to_vec();
    Ok(settings)
}

fn roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 || ignored > 0 {
        return Err(TrustError::NoRoots { path: path.to_owned() });
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(rustls_pki_types::pem::Error) -> TrustError {
    let path = path.to_owned();
    |source| TrustError::Unreadable { path, source }
}

fn state_of(tls: &UpstreamTls) -> Vec<FileState> {
    let state = |path: &PathBuf| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.modified().ok()?, facts.len()))
    };
    tls.files().map(state).collect()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::switch::{ClientIdentity, Matching, Policy, Wanted};

    fn address() -> Address {
        Address::Ip("10.0.0.1:443".parse().unwrap())
    }

    struct Files {
        dir: TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { dir: tempfile::tempdir().unwrap() };
            files.make("roots");
            files.make("client");
            files
        }

        /// Makes `NAME.crt` and `NAME.key` anew.
        fn make(&self, name: &str) {
            let made = rcgen::generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
            std::fs::write(self.path(&format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(self.path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn transport(&self) -> Arc<Transport> {
            let identity = ClientIdentity { cert: self.path("client.crt"), key: self.path("client.key") };
            let tls = UpstreamTls {
                roots: Roots::File(self.path("roots.crt")),
                identity: Some(identity),
                ..UpstreamTls::default()
            };
            Arc::new(Transport { tls: Some(tls), ..Transport::default() })
        }
    }

    fn desired(transports: &[Arc<Transport>]) -> Desired {
        let wanted = |transport: &Arc<Transport>| Wanted {
            matching: Matching::default(),
            revisions: [("blue".parse().unwrap(), Vec::new())].into(),
            active: "blue".parse().unwrap(),
            preview: None,
            policy: Arc::new(Policy { transport: Arc::clone(transport), ..Policy::default() }),
        };
        let named = |(n, transport)| (format!("app-{n}").parse().unwrap(), wanted(transport));
        Desired { apps: transports.iter().enumerate().map(named).collect(), ..Desired::default() }
    }

    async fn prepare(trust: &Trust, transports: &[Arc<Transport>]) -> Result<(), TrustError> {
        trust.adopt(trust.prepare(&desired(transports)).await?);
        Ok(())
    }

    #[tokio::test]
    async fn the_settings_stay_the_same_from_one_state_to_the_next() {
        let (files, trust) = (Files::new(), Trust::default());
        prepare(&trust, &[files.transport()]).await.unwrap();
        let before = trust.settings(&files.transport(), &address()).unwrap();
        prepare(&trust, &[files.transport(), files.transport()]).await.unwrap();
        assert!(
            Arc::ptr_eq(&before, &trust.settings(&files.transport(), &address()).unwrap()),
            "or no session is resumed"
        );
        prepare(&trust, &[]).await.unwrap();
        assert!(trust.settings(&files.transport(), &address()).is_some(), "requests may still be on their way");
        prepare(&trust, &[]).await.unwrap();
        assert!(trust.settings(&files.transport(), &address()).is_none());
    }

    #[tokio::test]
    async fn changed_files_are_put_in_service_and_broken_ones_are_not() {
        let (files, trust) = (Files::new(), Trust::default());
        prepare(&trust, &[files.transport()]).await.unwrap();
        let settings = || trust.settings(&files.transport(), &address()).unwrap();
        let before = settings();
        for (file, text) in [("roots.crt", "no PEM"), ("client.key", "no key"), ("client.crt", "")] {
            let sound = std::fs::read(files.path(file)).unwrap();
            std::fs::write(files.path(file), text).unwrap();
            let error = prepare(&trust, &[files.transport()]).await.unwrap_err().to_string();
            assert!(error.contains("roots.crt") || error.contains("client."), "{error}");
            assert!(Arc::ptr_eq(&before, &settings()));
            std::fs::write(files.path(file), sound).unwrap();
        }
        files.make("client");
        prepare(&trust, &[files.transport()]).await.unwrap();
        assert!(!Arc::ptr_eq(&before, &settings()));
    }

    #[test]
    fn a_key_that_is_another_certificates_is_said_so() {
        let files = Files::new();
        std::fs::copy(files.path("roots.key"), files.path("client.key")).unwrap();
        let error = Settings::load(&files.transport()).err().unwrap().to_string();
        assert!(error.contains("client.key does not go with") && error.contains("client.crt"), "{error}");
    }
}
