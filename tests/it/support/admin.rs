//! The admin API over its Unix socket, as JSON.

use std::path::PathBuf;

use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{Body, BoxError, full, within};

/// A client of the admin API; each call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Admin {
    pub socket: PathBuf,
}

impl Admin {
    /// The app's state.
    pub async fn status(&self, app: &str) -> Value {
        self.done("GET", &format!("/apps/{app}"), None).await
    }

    /// Promotes the preview, and answers the receipt.
    pub async fn promote(&self, app: &str) -> Value {
        self.done("POST", &format!("/apps/{app}/promote"), Some(json!({}))).await
    }

    /// Returns to the previous revision, and answers the receipt.
    pub async fn rollback(&self, app: &str) -> Value {
        self.done("POST", &format!("/apps/{app}/rollback"), Some(json!({}))).await
    }

    /// Makes a revision the candidate.
    pub async fn deploy(&self, app: &str, revision: &str, endpoints: &[std::net::SocketAddr]) -> Value {
        let endpoints: Vec<_> = endpoints.iter().map(|address| json!({ "address": address })).collect();
        self.done("PUT", &format!("/apps/{app}/revisions/{revision}"), Some(json!({ "endpoints": endpoints }))).await
    }

    /// Makes a call, whatever its outcome.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        self.try_call(method, path, body).await.expect("an answer")
    }

    /// Makes a call that may find nobody, or lose him.
    pub async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), BoxError> {
        within(&format!("{method} {path}"), self.exchange(method, path, body)).await
    }

    async fn done(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status.is_success(), "{method} {path}: {status}: {answer:#}");
        answer
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Value>) -> Result<(StatusCode, Value), BoxError> {
        let stream = TokioIo::new(UnixStream::connect(&self.socket).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(stream).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(full(body.map_or_else(String::new, |body| body.to_string())))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let answer = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        Ok((head.status, answer))
    }
}
