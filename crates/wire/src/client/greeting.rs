//! What an HTTP/2 server says first: its SETTINGS, and in them how many streams it takes at once, and whether WebSockets.
//!
//! hyper starts to send before they have come, and tells what they say only to whoever asks its connection. So the task
//! that drives the connection is woken when the first bytes come, looks, and keeps the limit where senders see it. A
//! later change of the limit is seen with the next request.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::body::Body;
use crate::task::LocalExecutor;

/// Whether the server has said anything, and whom to wake when it does.
#[derive(Debug, Default)]
pub(super) struct First {
    heard: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A stream that notices the first bytes that come.
#[derive(Debug)]
pub(super) struct Greeted<I> {
    stream: I,
    first: Rc<First>,
}

impl<I> Greeted<I> {
    pub(super) fn new(stream: I, first: &Rc<First>) -> Greeted<I> {
        Greeted { stream, first: Rc::clone(first) }
    }
}

/// The streams that a server takes at once, as far as is known, and whether one may be a WebSocket (RFC 8441).
#[derive(Clone, Debug, Default)]
pub struct StreamLimit(Rc<(Cell<usize>, Cell<bool>)>);

impl StreamLimit {
    /// The most streams at once.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.0.get()
    }

    /// Whether it takes WebSockets.
    #[must_use]
    pub fn takes_websockets(&self) -> bool {
        self.0.1.get()
    }
}

/// Drives a connection to its end, keeps the limit, and tells when the server has said its first word.
pub(super) async fn drive<I>(
    mut connection: http2::Connection<TokioIo<Greeted<I>>, Body, LocalExecutor>,
    first: Rc<First>,
    limit: StreamLimit,
    greeted: oneshot::Sender<()>,
) -> Result<(), hyper::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut greeted = Some(greeted);
    poll_fn(|context| {
        if greeted.is_some() {
            first.waker.replace(Some(context.waker().clone()));
        }
        let polled = Pin::new(&mut connection).poll(context);
        limit.0.0.set(connection.current_max_send_streams());
        limit.0.1.set(connection.is_extended_connect_protocol_enabled());
        if polled.is_pending()
            && first.heard.get()
            && let Some(greeted) = greeted.take()
        {
            // Nobody may wait any more.
            let _ = greeted.send(());
        }
        polled
    })
    .await
}

impl<I: AsyncRead + Unpin> AsyncRead for Greeted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if !self.first.heard.get() && buffer.filled().len() > before {
            self.first.heard.set(true);
            if let Some(waker) = self.first.waker.take() {
                waker.wake();
            }
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Greeted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
