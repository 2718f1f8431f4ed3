//! REACHING ENDPOINTS: the one way a connection to an endpoint is opened, for requests and for probes alike, so that a probe
//! finds out what a request would.

mod socket;

use std::io;

use tokio::net::{TcpStream, UnixStream};

pub(crate) use self::socket::Socket;
use crate::switch::{Address, Destination};

/// Opens connections to endpoints. Its clones are one.
#[derive(Clone, Default)]
pub struct Connector {}

impl Connector {
    /// Opens a connection, ready for the first octet of a request. There is no deadline in here.
    pub(crate) async fn connect(&self, to: &Destination) -> io::Result<Socket> {
        match &to.address {
            Address::Ip(address) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
        }
    }
}
