//! The control plane: a real etcd and a real API server on loopback ports, and who may speak to it.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Request;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{patiently, program::Program};
use crate::support::{
    certs::Authority,
    client::{self, Protocol},
    full,
    setup::free,
};

/// Who issues the tokens of service accounts, and for whom.
const ISSUER: &str = "https://kubernetes.default.svc";

/// A running control plane.
pub struct Plane {
    pub etcd: Program,
    pub api_server: Program,
    /// May do everything.
    pub admin: Client,
    /// The kubeconfig of one who may do everything.
    pub admin_config: PathBuf,
    api: SocketAddr,
    etcd_api: SocketAddr,
    authority: Authority,
    signer: KeyPair,
    written: AtomicUsize,
    dir: TempDir,
}

/// How a client shows who it is.
pub enum Proof<'a> {
    /// A certificate for this user in this group.
    Certificate { user: &'a str, group: &'a str },
    /// This token.
    Token(&'a str),
    /// The token in this file, read again as it changes.
    TokenFile(&'a PathBuf),
}

impl Plane {
    /// Starts it, and waits until it is ready.
    pub async fn start() -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let dir = TempDir::new().expect("a directory");
        let [api, etcd_api, peers] = [(); 3].map(|()| free());
        let authority = Authority::new();
        let signer = KeyPair::generate().expect("a key");
        let etcd = start_etcd(&dir, etcd_api, peers);
        let api_server = start_api_server(&dir, &authority, &signer, api, etcd_api);
        let proof = Proof::Certificate { user: "admin", group: "system:masters" };
        let admin_config = dir.path().join("admin.kubeconfig");
        fs::write(&admin_config, kubeconfig(api, &authority, &proof).to_string()).expect("a file");
        let admin = client(&admin_config).await;
        let written = AtomicUsize::new(0);
        let mut plane = Self { etcd, api_server, admin, admin_config, api, etcd_api, authority, signer, written, dir };
        plane.is_ready().await;
        plane
    }

    /// Starts the API server once more, and waits until it is ready.
    pub async fn start_api_server_again(&mut self) {
        self.api_server.start_again();
        self.is_ready().await;
    }

    /// Waits until the API server says that it is ready.
    pub async fn is_ready(&mut self) {
        patiently("the API server to be ready", async || {
            self.etcd.assert_running();
            self.api_server.assert_running();
            let request = Request::get("/readyz").body(Vec::new()).expect("a request");
            self.admin.request_text(request).await.is_ok_and(|text| text == "ok")
        })
        .await;
    }

    /// Throws away all that etcd remembers of the past: whoever wants to go on from there has to begin anew.
    pub async fn forget_the_past(&self) {
        let now = self.ask_etcd("/v3/kv/range", json!({ "key": "AA==" })).await;
        let revision = &now["header"]["revision"];
        self.ask_etcd("/v3/kv/compaction", json!({ "revision": revision, "physical": true })).await;
    }

    /// Writes a kubeconfig for somebody, and answers where it lies.
    pub fn kubeconfig(&self, proof: &Proof<'_>) -> PathBuf {
        let path = self.path(&format!("{}.kubeconfig", self.written.fetch_add(1, Relaxed)));
        fs::write(&path, kubeconfig(self.api, &self.authority, proof).to_string()).expect("a file");
        path
    }

    /// A token of a service account that is there, valid for so long. The API server believes what it has verified for
    /// ten more seconds.
    pub async fn token(&self, namespace: &str, account: &str, valid: Duration) -> String {
        let accounts = Api::<ServiceAccount>::namespaced(self.admin.clone(), namespace);
        let uid = accounts.get(account).await.expect("the account").metadata.uid;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let claims = json!({
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "iat": now.as_secs(),
            "nbf": now.as_secs(),
            "exp": (now + valid).as_secs(),
            "kubernetes.io": { "namespace": namespace, "serviceaccount": { "name": account, "uid": uid } },
        });
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "ES256", "typ": "JWT" })), part(&claims));
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.signer.serialize_der());
        let signature = pair.expect("a key").sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Where the API server listens.
    pub fn url(&self) -> String {
        format!("https://{}", self.api)
    }

    /// The certificate of who signed that of the API server.
    pub fn roots(&self) -> PathBuf {
        self.authority.roots()
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn ask_etcd(&self, path: &str, question: Value) -> Value {
        let mut etcd = client::Client::connect(Protocol::H1, self.etcd_api).await.expect("etcd accepts");
        let request = etcd.request("POST", path).body(full(question.to_string())).expect("a request");
        let answer = etcd.fetch(request).await.expect("etcd answers");
        assert!(answer.status.is_success(), "{path}: {}: {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}

/// A client by this kubeconfig.
pub async fn client(kubeconfig: &PathBuf) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

fn kubeconfig(api: SocketAddr, authority: &Authority, proof: &Proof<'_>) -> Value {
    let user = match proof {
        Proof::Certificate { user, group } => {
            let leaf = authority.sign_client(group, user);
            json!({ "client-certificate": leaf.cert, "client-key": leaf.key })
        }
        Proof::Token(token) => json!({ "token": token }),
        Proof::TokenFile(file) => json!({ "tokenFile": file }),
    };
    let cluster = json!({ "server": format!("https://{api}"), "certificate-authority": authority.roots() });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "me", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "me" } }],
        "current-context": "test",
    })
}

fn start_etcd(dir: &TempDir, api: SocketAddr, peers: SocketAddr) -> Program {
    let (api, peers) = (format!("http://{api}"), format!("http://{peers}"));
    let args = [
        format!("--data-dir={}", dir.path().join("etcd").display()),
        format!("--listen-client-urls={api}"),
        format!("--advertise-client-urls={api}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // What these tests lose at a power cut is no loss.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    Program::start("etcd", dir.path(), &args)
}

fn start_api_server(
    dir: &TempDir,
    authority: &Authority,
    signer: &KeyPair,
    api: SocketAddr,
    etcd: SocketAddr,
) -> Program {
    let leaf = authority.sign("api-server", &["127.0.0.1", "localhost"]);
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let args = [
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", api.ip()),
        format!("--secure-port={}", api.port()),
        // It wants one that is not loopback; nobody is told of it.
        "--advertise-address=10.77.0.1".to_owned(),
        format!("--tls-cert-file={}", leaf.cert.display()),
        format!("--tls-private-key-file={}", leaf.key.display()),
        format!("--client-ca-file={}", authority.roots().display()),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-signing-key-file={}", file("signer.pem", signer.serialize_pem())),
        format!("--service-account-key-file={}", file("signer.pub", signer.public_key_pem())),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24,fd00:10::/112".to_owned(),
        // Nobody makes the accounts that Pods would run as.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        // Nor has the API server an address that its own Service could lead to.
        "--endpoint-reconciler-type=none".to_owned(),
    ];
    Program::start("kube-apiserver", dir.path(), &args)
}
