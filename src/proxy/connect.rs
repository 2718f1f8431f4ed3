//! Opening a connection to an endpoint on behalf of a request: in time, and with a reason the client can be told.

use std::time::Duration;

use tokio::time::{error::Elapsed, timeout};

use super::error::ProxyError;
pub(super) use crate::connector::{Connector, Origin, Socket, poll_write};
use crate::{connector::ConnectError, switch::Endpoint};

/// Opens a connection to an endpoint, the way its app's owner wants it reached, for `origin`: whose it is, where the
/// endpoint is told. The TLS handshake is part of `within`.
pub(super) async fn connect(
    connector: &Connector,
    endpoint: &Endpoint,
    origin: Option<Origin>,
    within: Duration,
) -> Result<Socket, ProxyError> {
    outcome(timeout(within, connector.connect(endpoint.destination(), origin)).await)
}

/// The same for a request that is written for HTTP/1 already.
pub(super) async fn connect_http1(
    connector: &Connector,
    endpoint: &Endpoint,
    origin: Option<Origin>,
    within: Duration,
) -> Result<Socket, ProxyError> {
    outcome(timeout(within, connector.connect_http1(endpoint.destination(), origin)).await)
}

fn outcome(opened: Result<Result<Socket, ConnectError>, Elapsed>) -> Result<Socket, ProxyError> {
    opened.map_err(|_| ProxyError::ConnectionTimeout)?.map_err(|error| match error {
        ConnectError::Io(error) => error.into(),
        ConnectError::Certificate(error) => ProxyError::TlsCertificateError(error),
        ConnectError::Alert(alert) => ProxyError::TlsAlertReceived(alert),
        ConnectError::Handshake(error) => ProxyError::TlsProtocolError(error),
        unprepared @ ConnectError::Unprepared(_) => ProxyError::TlsProtocolError(std::io::Error::other(unprepared)),
    })
}
