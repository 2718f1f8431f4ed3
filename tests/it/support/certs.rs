//! Certificates for tests: an authority made for the day, and leaves signed by it, as files.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs};
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
    pub fn root(&self) -> PathBuf {
        let path = self.dir.path().join("root.pem");
        fs::write(&path, self.issuer.pem()).expect("a file");
        path
    }

    /// A client's settings that trust this authority and no other.
    pub fn trusted(&self) -> ClientConfig {
        self.trusted_in(rustls::DEFAULT_VERSIONS)
    }

    /// The same, for these versions of TLS alone.
    pub fn trusted_in(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}
