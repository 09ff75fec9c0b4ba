//! HTTP/2 with a library's manners: a client, and an application server.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::PATIENCE;

/// A client's connection.
pub type H2Client = h2::client::SendRequest<Bytes>;

/// Runs a test's asynchronous part, within [`PATIENCE`].
///
/// # Panics
/// If it does not end in time.
pub fn block_on<T>(play: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, play).await.expect("the test hangs") })
}

/// What a server that speaks WebSocket answers to a key (RFC 6455 section 1.3).
#[must_use]
pub fn websocket_accept(key: &str) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes()))
}

/// Runs beside the test.
pub fn beside(future: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "a test has no core of the product's")]
    drop(tokio::spawn(future));
}

/// Connects by prior knowledge.
///
/// # Panics
/// If nobody listens, or it is not HTTP/2 that is spoken there.
pub async fn h2_connect(address: SocketAddr) -> H2Client {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the gate listens");
    h2_over(stream).await
}

/// Speaks HTTP/2 over this stream.
///
/// # Panics
/// If the other side does not.
pub async fn h2_over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> H2Client {
    let (client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
    beside(async move { drop(connection.await) });
    client.ready().await.expect("it takes requests")
}

/// Reads a body whole, and its trailers.
///
/// # Panics
/// If it breaks off.
pub async fn h2_read(body: &mut h2::RecvStream) -> (Vec<u8>, Option<http::HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("the body is whole");
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    (bytes, body.trailers().await.expect("the trailers are whole"))
}

/// A request to an HTTP/2 application server.
pub struct H2Call {
    /// Its head.
    pub head: http::request::Parts,
    /// Its body.
    pub body: h2::RecvStream,
    /// To answer.
    pub respond: h2::server::SendResponse<Bytes>,
}

/// A recording application server that speaks HTTP/2 by prior knowledge.
pub struct H2Origin {
    /// Where it listens.
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl H2Origin {
    /// Starts a server that does with each request what it is told.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start<F>(answer: impl Fn(H2Call) -> F + Send + 'static) -> H2Origin
    where
        F: Future<Output = ()> + Send + 'static,
    {
        H2Origin::taking(100, answer)
    }

    /// The same, and it takes WebSockets (RFC 8441).
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn with_websockets<F>(answer: impl Fn(H2Call) -> F + Send + 'static) -> H2Origin
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        H2Origin::built(builder, answer)
    }

    /// The same, and it takes so many streams at once on one connection.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn taking<F>(streams: u32, answer: impl Fn(H2Call) -> F + Send + 'static) -> H2Origin
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(streams);
        H2Origin::built(builder, answer)
    }

    fn built<F>(builder: h2::server::Builder, answer: impl Fn(H2Call) -> F + Send + 'static) -> H2Origin
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be told");
        let address = listener.local_addr().expect("it is bound");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let records = Arc::clone(&heads);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(accept(
                listener,
                builder,
                Arc::new(Mutex::new(answer)),
                records,
            ));
        });
        H2Origin { address, heads }
    }

    /// The heads of what it was asked.
    #[must_use]
    pub fn recorded(&self) -> Vec<String> {
        self.heads.lock().clone()
    }
}

async fn accept<F>(
    listener: TcpListener,
    builder: h2::server::Builder,
    answer: Arc<Mutex<impl Fn(H2Call) -> F + Send + 'static>>,
    records: Arc<Mutex<Vec<String>>>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let (builder, answer, records) = (builder.clone(), Arc::clone(&answer), Arc::clone(&records));
        beside(async move {
            let shaken = builder.handshake(stream).await;
            let Ok(mut connection) = shaken else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let (head, body) = request.into_parts();
                records.lock().push(format!("{head:?}"));
                let told = (answer.lock())(H2Call { head, body, respond });
                beside(told);
            }
        });
    }
}
