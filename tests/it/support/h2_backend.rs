//! An upstream that speaks HTTP/2 and does with each stream what the test says, on the crate the proxy's own side stands on.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// A running upstream. Dropped, it accepts no more.
pub struct H2Backend {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl H2Backend {
    /// Serves each stream as `serve` says, which is told the number of its connection, from 1.
    pub async fn spawn<S, F>(builder: Builder, serve: S) -> Self
    where
        S: Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::accepting(move |number, stream| {
            let (builder, serve) = (builder.clone(), serve.clone());
            async move { connection(stream, &builder, |request, respond| serve(number, request, respond)).await }
        })
        .await
    }

    async fn accepting<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Probes connect and leave.
                if matches!(stream.peek(&mut [0]).await, Ok(1)) {
                    tokio::spawn(serve(count.fetch_add(1, SeqCst) + 1, stream));
                }
            }
        });
        Self { address, accepted, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// Gives each request its body back, and closes each connection in good order after so many.
    pub async fn closing_after(requests: usize) -> Self {
        Self::accepting(move |_, stream| async move {
            let Ok(mut connection) = Builder::new().handshake::<_, Bytes>(stream).await else { return };
            let mut served = 0;
            while let Some(Ok((mut request, respond))) = connection.accept().await {
                served += 1;
                tokio::spawn(async move {
                    if let Ok((body, _)) = whole(request.body_mut()).await {
                        answer(respond, body);
                    }
                });
                if served == requests {
                    connection.graceful_shutdown();
                }
            }
        })
        .await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far, probes left out.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

async fn connection<F>(
    stream: TcpStream,
    builder: &Builder,
    serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve(request, respond));
    }
}

/// The whole of a body, and its trailers.
pub async fn whole(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut octets = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        octets.extend_from_slice(&data);
    }
    Ok((octets, body.trailers().await?))
}

/// Answers 200 with this body. Whoever has left does not mind.
pub fn answer(mut respond: SendResponse<Bytes>, body: impl Into<Bytes>) {
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        stream.send_data(body.into(), true).ok();
    }
}
