//! Listening sockets that are open already: those of the process before, or those that systemd has opened. Each is found by what
//! the configuration says of it: the address that was asked for, not the one that the kernel gave.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use serde::{Deserialize, Serialize};
use tidegate_wire::settings::ListenerSettings;

use crate::config::ControlAddress;
use crate::wiring::Side;

/// What a listening socket is for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A listener.
    Listener {
        /// For whom.
        side: Side,
        /// Its address in the configuration.
        asked: SocketAddr,
        /// The address that the kernel gave: with port 0 several may ask for the same.
        got: SocketAddr,
        /// Whether TLS is spoken there.
        tls: bool,
    },
    /// The control API, at this address in the configuration.
    Control(String),
}

/// Sockets that are open already.
#[derive(Debug, Default)]
pub struct Sockets {
    named: Vec<(Place, OwnedFd)>,
    /// Those that systemd has opened: found by the address that they have.
    activated: Vec<OwnedFd>,
    /// What was found.
    taken: Vec<Place>,
}

impl Sockets {
    /// What systemd has opened for this process (`LISTEN_FDS`). To be asked once, before there are threads.
    #[must_use]
    pub fn activated() -> Sockets {
        let mut told = listenfd::ListenFd::from_env();
        let count = told.len();
        let take = |place| match told.take_tcp_listener(place) {
            Ok(socket) => socket.map(OwnedFd::from),
            Err(_) => match told.take_unix_listener(place) {
                Ok(socket) => socket.map(OwnedFd::from),
                Err(error) => {
                    tracing::warn!(place, %error, "a socket that was handed in is none that could be listened on");
                    None
                }
            },
        };
        let activated = (0..count).filter_map(take).collect();
        Sockets { activated, ..Sockets::default() }
    }

    /// One more, of the process before.
    pub fn add(&mut self, place: Place, socket: OwnedFd) {
        self.named.push((place, socket));
    }

    /// What was taken so far.
    #[must_use]
    pub fn taken(&self) -> &[Place] {
        &self.taken
    }

    /// All of an address, if there are any.
    pub fn take_listener(&mut self, side: Side, wanted: &ListenerSettings) -> Option<Vec<TcpListener>> {
        let asked = wanted.address;
        let place = self.place(side, wanted).cloned();
        let sockets: Vec<OwnedFd> = self
            .named
            .extract_if(.., |(one, _)| Some(&*one) == place.as_ref())
            .map(|(_, socket)| socket)
            .chain(self.activated.extract_if(.., |socket| address(socket) == Some(asked)))
            .collect();
        let sockets: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
        if sockets.is_empty() {
            return None;
        }
        self.taken.extend(place);
        Some(sockets)
    }

    /// The listener before that this one goes on for. With port 0 it must speak the same; an address of its own may begin with TLS.
    fn place(&self, side: Side, wanted: &ListenerSettings) -> Option<&Place> {
        let same = |place: &&Place| match place {
            Place::Listener { side: other, asked, tls, .. } => {
                *other == side && *asked == wanted.address && (asked.port() != 0 || *tls == wanted.tls)
            }
            Place::Control(_) => false,
        };
        self.named.iter().map(|(place, _)| place).find(same)
    }

    /// That of an address of the control API.
    pub fn take_control(&mut self, asked: &ControlAddress) -> Option<OwnedFd> {
        let place = Place::Control(shown(asked));
        let of_unix = |socket: &OwnedFd| match asked {
            ControlAddress::Tcp(asked) => address(socket) == Some(*asked),
            ControlAddress::Unix(path) => {
                let listener = socket.try_clone().map(UnixListener::from);
                listener
                    .and_then(|listener| listener.local_addr())
                    .is_ok_and(|at| at.as_pathname() == Some(path))
            }
        };
        let named = self.named.extract_if(.., |(one, _)| *one == place).map(|(_, socket)| socket).next();
        let found = named.or_else(|| self.activated.extract_if(.., |socket| of_unix(socket)).next())?;
        self.taken.push(place);
        Some(found)
    }
}

/// An address of the control API, as it is told.
#[must_use]
pub fn shown(address: &ControlAddress) -> String {
    match address {
        ControlAddress::Tcp(address) => address.to_string(),
        ControlAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn address(socket: &OwnedFd) -> Option<SocketAddr> {
    let socket = TcpListener::from(socket.as_fd().try_clone_to_owned().ok()?);
    socket.local_addr().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn wanted(address: SocketAddr) -> ListenerSettings {
        ListenerSettings { address, tls: false, proxy_protocol: false, limits: Arc::default() }
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("a port")
    }

    #[test]
    fn sockets_of_the_process_before_are_found_by_what_was_asked_for() {
        let asked: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut sockets = Sockets::default();
        let (plain, tls) = (listener(), listener());
        let at = |socket: &TcpListener| socket.local_addr().expect("bound");
        let place = |socket, tls| Place::Listener { side: Side::Clients, asked, got: at(socket), tls };
        let (of_plain, of_tls) = (place(&plain, false), place(&tls, true));
        sockets.add(of_tls, tls.into());
        sockets.add(of_plain.clone(), plain.try_clone().expect("a copy").into());
        sockets.add(of_plain.clone(), plain.into());
        let wanted = wanted(asked);
        sockets.add(Place::Control("127.0.0.1:0".to_owned()), listener().into());
        assert!(sockets.take_listener(Side::Nodes, &wanted).is_none());
        assert_eq!(sockets.take_listener(Side::Clients, &wanted).map(|sockets| sockets.len()), Some(2));
        assert!(sockets.take_listener(Side::Clients, &wanted).is_none());
        assert!(sockets.take_control(&ControlAddress::Tcp(asked)).is_some());
        assert_eq!(sockets.taken(), [of_plain, Place::Control("127.0.0.1:0".to_owned())]);
    }

    #[test]
    fn sockets_that_somebody_else_has_opened_are_found_by_their_address() {
        let (one, other) = (listener(), listener());
        let at = one.local_addr().expect("bound");
        let mut sockets = Sockets { activated: vec![other.into(), one.into()], ..Sockets::default() };
        let found = sockets.take_listener(Side::Clients, &wanted(at)).expect("it is there");
        assert_eq!((found.len(), found[0].local_addr().expect("bound")), (1, at));
        assert_eq!(sockets.activated.len(), 1);
    }
}
