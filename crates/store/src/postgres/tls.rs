//! TLS under PostgreSQL's protocol, as `tokio_postgres` wants it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_wire::session_tls::{SessionStream, SessionTls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

/// Speaks TLS to whatever host is connected to.
#[derive(Clone)]
pub(super) struct MakeTls(pub(super) SessionTls);

/// Speaks TLS to one host.
pub(super) struct ToHost {
    tls: SessionTls,
    host: String,
}

/// A connection within TLS.
pub(super) struct Secured(SessionStream<Socket>);

impl MakeTlsConnect<Socket> for MakeTls {
    type Stream = Secured;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<ToHost> {
        Ok(ToHost { tls: self.0.clone(), host: domain.to_owned() })
    }
}

impl TlsConnect<Socket> for ToHost {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>>>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { self.tls.connect(&self.host, stream).await.map(Secured) })
    }
}

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        // Whom to trust is known by the certificate.
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
