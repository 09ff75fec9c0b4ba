//! Where the control API listens: addresses and unix sockets, bound before anything else is changed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use super::door::Door;
use super::guard::{Owner, Peer};
use super::{Control, router};
use crate::config::{ControlAddress, ControlSettings, Failure, Spot};
use crate::run::Process;
use crate::upgrade::{Sockets, shown};

/// A control API that is bound and not served yet.
pub struct Bound {
    settings: Arc<ControlSettings>,
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<UnixListener>,
    /// The same, by what the configuration says, for a process that takes over.
    pub copies: Vec<(String, OwnedFd)>,
    /// Where it is, in words: `ADDRESS:PORT` or `unix:PATH`.
    pub addresses: Vec<String>,
}

/// Binds each of the addresses, but for those that are open already.
///
/// # Errors
/// Every address that cannot be listened on.
pub fn bind(settings: &ControlSettings, legacy: &mut Sockets) -> Result<Bound, Vec<Failure>> {
    let settings = Arc::new(settings.clone());
    let (tcp, unix, copies, addresses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bound = Bound { settings: Arc::clone(&settings), tcp, unix, copies, addresses };
    let mut failures = Vec::new();
    for address in &settings.listen {
        let done = bound.add(address, legacy.take_control(address));
        failures.extend(done.err().map(|error| unbound(address, &error)));
    }
    if failures.is_empty() { Ok(bound) } else { Err(failures) }
}

fn unbound(address: &ControlAddress, error: &io::Error) -> Failure {
    let shown = shown(address);
    let in_use = error.kind() == io::ErrorKind::AddrInUse;
    let why = if in_use { "it is in use by another process".to_owned() } else { error.to_string() };
    let failure = Failure::new(
        Spot::Control(address.clone()),
        format!("the control API cannot listen on {shown}: {why}"),
    );
    if in_use {
        failure.help("give it another address: [control] listen = [\"127.0.0.1:8091\"]")
    } else {
        failure
    }
}

impl Bound {
    /// One more address, for which there may be a socket already.
    fn add(&mut self, address: &ControlAddress, held: Option<OwnedFd>) -> io::Result<()> {
        let copy = match address {
            ControlAddress::Tcp(at) => {
                let listener = match held {
                    Some(held) => std::net::TcpListener::from(held),
                    None => std::net::TcpListener::bind(at)?,
                };
                listener.set_nonblocking(true)?;
                self.addresses.push(listener.local_addr()?.to_string());
                let copy = listener.try_clone()?.into();
                self.tcp.push(listener);
                copy
            }
            ControlAddress::Unix(path) => {
                let listener = match held {
                    Some(held) => std::os::unix::net::UnixListener::from(held),
                    None => bind_unix(path)?,
                };
                listener.set_nonblocking(true)?;
                self.addresses.push(shown(address));
                let copy = listener.try_clone()?.into();
                self.unix.push(UnixListener::from_std(listener)?);
                copy
            }
        };
        self.copies.push((shown(address), copy));
        Ok(())
    }

    /// Serves it from now on. Must be called on the control runtime.
    ///
    /// # Errors
    /// The system has no room for a socket in its event queue.
    pub fn serve(self, process: &Arc<Process>) -> io::Result<()> {
        let router = router(Control { process: Arc::clone(process), settings: self.settings });
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = router.clone().layer(middleware::from_fn(as_tcp));
            let service = service.into_make_service_with_connect_info::<Peer>();
            let listener = Door::new(listener, process);
            tidegate_wire::task::spawn(async move { ended(axum::serve(listener, service).await) });
        }
        for listener in self.unix {
            let service = router.clone().layer(middleware::from_fn(as_unix));
            let listener = Door::new(listener, process);
            let service = service.into_make_service_with_connect_info::<Owner>();
            tidegate_wire::task::spawn(async move { ended(axum::serve(listener, service).await) });
        }
        Ok(())
    }
}

fn ended(served: io::Result<()>) {
    if let Err(error) = served {
        tracing::error!(%error, "the control API ended");
    }
}

/// Whoever may open the socket may change everything: that is the owner alone.
fn bind_unix(path: &PathBuf) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        // A socket that nobody listens on is left over from a process that was killed. Anything else stays.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            std::fs::remove_file(path)?;
        }
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn as_tcp(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(peer);
    next.run(request).await
}

impl Connected<IncomingStream<'_, Door<UnixListener>>> for Owner {
    fn connect_info(stream: IncomingStream<'_, Door<UnixListener>>) -> Owner {
        Owner(stream.io().peer_cred().ok().map(|owner| owner.uid()))
    }
}

async fn as_unix(ConnectInfo(owner): ConnectInfo<Owner>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Peer::Unix);
    request.extensions_mut().insert(owner);
    next.run(request).await
}
