//! What the socket tests stand on. Everything listens on a port the system chose, ends when dropped, and waits for nothing
//! without a limit.

// Each instrument is whole, whichever of its parts the tests of the day use.
#![allow(dead_code, unreachable_pub)]

pub mod admin;
pub mod backend;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod frames;
pub mod h2_backend;
pub mod lanes;
pub mod load;
pub mod outlet;
pub mod process;
pub mod proxy;
pub mod raw_backend;
pub mod rollouts;
pub mod setup;
pub mod shell;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

/// The header that tells a request from all others, at the client and at the upstream.
pub const TEST_ID: &str = "x-test-id";
/// The header that tells which upstream answered.
pub const COLOUR: &str = "x-colour";

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Any body, of a request or an answer.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Waits for what must come soon; a test that hangs says what it hung on.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within 20 s"),
    }
}

/// Asks again and again until the answer is yes.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
