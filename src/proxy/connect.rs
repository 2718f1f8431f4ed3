//! Opening a connection to an endpoint on behalf of a request: in time, and with a reason the client can be told.

use std::time::Duration;

use tokio::time::timeout;

use super::error::ProxyError;
pub(super) use crate::connector::{Connector, Socket};
use crate::switch::Endpoint;

/// Opens a connection to an endpoint, the way its app's owner wants it reached. What TLS takes is part of `within`.
pub(super) async fn connect(
    connector: &Connector,
    endpoint: &Endpoint,
    within: Duration,
) -> Result<Socket, ProxyError> {
    let opened = timeout(within, connector.connect(endpoint.destination())).await;
    Ok(opened.map_err(|_| ProxyError::ConnectionTimeout)??)
}
