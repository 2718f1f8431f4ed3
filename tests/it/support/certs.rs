//! Certificates for tests: an authority made for the day, and leaves signed by it, as files.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, date_time_ymd,
};
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
    #[serde(skip)]
    serial: u64,
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
        self.issue(label, CertificateParams::new(names).expect("names"))
    }

    /// Signs a client's certificate, which names it by these two.
    pub fn sign_client(&self, organization: &str, name: &str) -> Leaf {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        self.issue(name, params)
    }

    fn issue(&self, label: &str, mut params: CertificateParams) -> Leaf {
        let serial = fastrand::u64(1..=i64::MAX as u64);
        params.serial_number = Some(serial.into());
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let leaf = Leaf { cert: self.path(&format!("{label}.crt")), key: self.path(&format!("{label}.key")), serial };
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

    /// Its own certificate, as text.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its list of what it has revoked, as text.
    pub fn revocations(&self, revoked: &[&Leaf]) -> String {
        let (revocation_time, reason_code, invalidity_date) = (date_time_ymd(2025, 1, 1), None, None);
        let revoked = revoked.iter().map(|leaf| leaf.serial.into()).map(|serial_number| RevokedCertParams {
            serial_number,
            revocation_time,
            reason_code,
            invalidity_date,
        });
        let list = CertificateRevocationListParams {
            this_update: revocation_time,
            next_update: date_time_ymd(2025, 2, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a list")
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The settings of a client that shows this certificate.
    pub fn trusted_with(&self, leaf: &Leaf, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let cert = CertificateDer::from_pem_file(&leaf.cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key");
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert], key)
            .expect("a certificate with its key")
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
