//! Certificates for tests: an authority made for the day, and leaves signed by it, as files.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde::Serialize;
use tempfile::TempDir;

/// An authority and the directory its leaves lie in.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key, as PEM files; as JSON it is an entry of `certificates`.
#[derive(Clone, Debug, Serialize)]
pub struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Leaf {
    /// A server's settings with this certificate.
    pub fn server(&self) -> ServerConfig {
        self.serve(None)
    }

    /// The same, for clients of this authority alone.
    pub fn server_for(&self, clients: &Authority) -> ServerConfig {
        self.serve(Some(clients))
    }

    fn serve(&self, clients: Option<&Authority>) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => {
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.store()), Arc::clone(&provider))
                    .build()
                    .expect("roots")
            }
        };
        let chain = vec![CertificateDer::from_pem_file(&self.cert).expect("a certificate")];
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&self.key).expect("a key"))
            .expect("a key of its certificate")
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Self { issuer, dir: TempDir::new().expect("a directory") }
    }

    /// Signs a certificate for these names, in files named after `label`; signing again under the same label replaces them,
    /// as a renewal does.
    pub fn sign(&self, label: &str, names: &[&str]) -> Leaf {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let leaf = Leaf {
            cert: self.dir.path().join(format!("{label}.crt")),
            key: self.dir.path().join(format!("{label}.key")),
        };
        fs::write(&leaf.cert, cert.pem()).expect("a file");
        fs::write(&leaf.key, key.serialize_pem()).expect("a file");
        leaf
    }

    /// Its own certificate, as a PEM file.
    pub fn roots(&self) -> PathBuf {
        let file = self.dir.path().join("roots.pem");
        if !file.exists() {
            fs::write(&file, self.issuer.pem()).expect("a file");
        }
        file
    }

    /// A client's settings that trust this authority and no other.
    pub fn trusted(&self) -> ClientConfig {
        self.trusted_in(rustls::DEFAULT_VERSIONS)
    }

    /// The same, for these versions of TLS alone.
    pub fn trusted_in(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.store())
            .with_no_client_auth()
    }

    fn store(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        roots
    }
}
