//! REACHING ENDPOINTS: the one way a connection to an endpoint is opened, for requests and for probes alike, so that a probe
//! finds out what a request would. What the app's owner asks for comes with the endpoint's [`Destination`]: TCP or a Unix
//! socket, the client's address said first (PROXY protocol), TLS on top.

mod proxy_header;
mod socket;
mod trust;

use std::{io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use rustls::{AlertDescription, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use self::trust::Trust;
pub use self::trust::{Prepared, TrustError};
pub(crate) use self::{
    proxy_header::Origin,
    socket::{Socket, poll_write},
};
use crate::switch::{Address, Desired, Destination, UpstreamTls};

/// Why a connection could not be opened.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    /// There is nothing to talk to.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The endpoint's certificate is not good, or not for the name it was asked for.
    #[error("its certificate is not accepted: {0}")]
    Certificate(rustls::Error),
    /// The endpoint broke the handshake off, and said why.
    #[error("it refused the TLS handshake: {0:?}")]
    Alert(AlertDescription),
    /// There was no handshake: it speaks no TLS, or none that we do, or left.
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// Nothing to check its certificate against.
    #[error("its certificate cannot be checked: {0}")]
    Unprepared(&'static str),
}

/// Opens connections to endpoints. Its clones are one.
#[derive(Clone, Default)]
pub struct Connector {
    trust: Arc<Trust>,
    /// A socket that nobody gets to through us.
    private: Option<Arc<Path>>,
}

impl Connector {
    /// One that never connects to this socket: whoever may name endpoints, or is a client, has no business with our own
    /// admin API, and there we would pass for its owner.
    pub fn sparing(private: Option<&Path>) -> Self {
        Self { private: private.map(Arc::from), ..Self::default() }
    }

    /// Reads whatever reaching the endpoints of these apps takes, certificates and keys, or says what is wrong with it.
    pub async fn prepare(&self, desired: &Desired) -> Result<Prepared, TrustError> {
        self.trust.prepare(desired).await
    }

    /// Puts in service what was prepared. To be done before the switch hears of these apps.
    pub fn adopt(&self, prepared: Prepared) {
        self.trust.adopt(prepared);
    }

    /// Puts certificates and keys in service as their files change, for ever.
    pub async fn follow_files(self) {
        self.trust.follow_files().await;
    }

    /// Opens a connection, ready for the first octet of a request from `origin`; `None` is our own, as of a probe. There is
    /// no deadline in here.
    pub(crate) async fn connect(&self, to: &Destination, origin: Option<Origin>) -> Result<Socket, ConnectError> {
        self.open(to, origin, None).await
    }

    /// The same for a request that is written for HTTP/1 already: the endpoint may choose nothing else.
    pub(crate) async fn connect_http1(&self, to: &Destination, origin: Option<Origin>) -> Result<Socket, ConnectError> {
        self.open(to, origin, Some(b"http/1.1")).await
    }

    /// Opens a connection, on which TLS offers to speak what its transport wants, or `only` this.
    async fn open(
        &self,
        to: &Destination,
        origin: Option<Origin>,
        only: Option<&[u8]>,
    ) -> Result<Socket, ConnectError> {
        let greeting = to.transport.proxy_protocol.map(|version| proxy_header::write(version, origin));
        match &to.address {
            Address::Ip(address) => {
                let mut socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                greet(&mut socket, greeting).await?;
                match &to.transport.tls {
                    None => Ok(Socket::Tcp(socket)),
                    Some(tls) => Ok(Socket::Tls(Box::new(self.secure(socket, to, tls, only).await?))),
                }
            }
            Address::Unix(path) => {
                if self.private.as_ref().is_some_and(|private| is_same_file(private, path)) {
                    let kind = io::ErrorKind::PermissionDenied;
                    return Err(io::Error::new(kind, "this is the socket of our own admin API").into());
                }
                let mut socket = UnixStream::connect(path).await?;
                greet(&mut socket, greeting).await?;
                match &to.transport.tls {
                    None => Ok(Socket::Unix(socket)),
                    Some(tls) => Ok(Socket::TlsUnix(Box::new(self.secure(socket, to, tls, only).await?))),
                }
            }
        }
    }

    async fn secure<IO>(
        &self,
        io: IO,
        to: &Destination,
        tls: &UpstreamTls,
        only: Option<&[u8]>,
    ) -> Result<TlsStream<IO>, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let unprepared = ConnectError::Unprepared("its app's TLS settings have not been read");
        let settings = self.trust.settings(&to.transport, &to.address).ok_or(unprepared)?;
        let name = server_name(to, tls)
            .ok_or(ConnectError::Unprepared("no name to check it against; set `upstream.tls.server_name`"))?;
        let connector = TlsConnector::from(settings);
        match only {
            None => connector.connect(name, io).await.map_err(why),
            Some(only) => connector.with_alpn(vec![only.to_vec()]).connect(name, io).await.map_err(why),
        }
    }
}

async fn greet(socket: &mut (impl AsyncWrite + Unpin), greeting: Option<Vec<u8>>) -> io::Result<()> {
    match greeting {
        Some(greeting) => socket.write_all(&greeting).await,
        None => Ok(()),
    }
}

/// Whether both lead to one file, by whatever names.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let facts = |path| std::fs::metadata(path).map(|facts| (facts.dev(), facts.ino())).ok();
    facts(one).is_some_and(|one| facts(other) == Some(one))
}

/// The name a certificate must be for: the one set, or the one that the endpoint is given by, or its address.
fn server_name(to: &Destination, tls: &UpstreamTls) -> Option<ServerName<'static>> {
    let given = to.name.as_ref().map(|name| name.host().trim_end_matches('.'));
    match tls.server_name.as_deref().or(given) {
        Some(name) => ServerName::try_from(name.to_owned()).ok(),
        None => to.address.ip().map(|address| ServerName::IpAddress(address.ip().into())),
    }
}

/// What broke a handshake off.
fn why(error: io::Error) -> ConnectError {
    match error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>()) {
        Some(source @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
            ConnectError::Certificate(source.clone())
        }
        Some(rustls::Error::AlertReceived(alert)) => ConnectError::Alert(*alert),
        _ => ConnectError::Handshake(error),
    }
}

#[cfg(test)]
mod tests;
