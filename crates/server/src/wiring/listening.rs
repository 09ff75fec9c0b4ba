//! Where it listens: what is wanted is bound before anything is changed, and each core gets sockets of its own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_wire::listen::{bind, widen};
use tidegate_wire::settings::ListenerSettings;

use super::cores::Command;
use super::{Gate, WiringError};
use crate::config::Config;
use crate::upgrade::{Place, Sockets};

/// Who comes in by a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Clients.
    Clients,
    /// Other nodes of the cluster.
    Nodes,
}

impl Listening {
    /// What a process that takes over finds it by.
    #[must_use]
    pub fn place(&self) -> Place {
        let ListenerSettings { address: asked, tls, .. } = self.settings;
        Place::Listener { side: self.side, asked, got: self.address, tls }
    }
}

/// An address that is listened on.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Its sockets, to be given to a process that takes over.
    pub sockets: Arc<Vec<TcpListener>>,
    /// For whom.
    pub side: Side,
    /// What was asked for.
    pub settings: ListenerSettings,
    /// What the kernel gave.
    pub address: SocketAddr,
}

impl Gate {
    /// Listens where the configuration says, and no longer elsewhere. These are the sockets of new addresses.
    pub(super) fn listen(&self, mut sockets: Bound) {
        let mut wanted = listeners(&self.config());
        let mut listening = self.listening.lock();
        let mut kept = Vec::new();
        // Those that have not changed first: with port 0 several may have the same address.
        let is =
            |held: &Listening, (settings, side): &Wanted| held.settings == *settings && held.side == *side;
        wanted.retain(|wanted| match listening.iter().position(|held| is(held, wanted)) {
            Some(place) => {
                kept.push(listening.swap_remove(place));
                false
            }
            None => true,
        });
        for (settings, side) in wanted {
            // An address with other settings goes on listening: the next connections are held to those.
            let at = |held: &Listening| held.settings.address == settings.address && held.side == side;
            if let Some(place) = listening.iter().position(at) {
                let Listening { address, sockets, .. } = listening.swap_remove(place);
                self.cores
                    .iter()
                    .for_each(|core| core.tell(Command::Adjust(address, settings.clone(), side)));
                kept.push(Listening { sockets, side, settings, address });
                continue;
            }
            let is = |(bound, _): &((ListenerSettings, Side), _)| bound.0 == settings && bound.1 == side;
            let Some(place) = sockets.iter().position(is) else { continue };
            let (_, sockets) = sockets.swap_remove(place);
            let address = sockets.first().and_then(|one| one.local_addr().ok()).unwrap_or(settings.address);
            let sockets = self.spread(address, sockets, &settings, side);
            kept.push(Listening { sockets, side, settings, address });
        }
        for gone in listening.drain(..) {
            self.cores.iter().for_each(|core| core.tell(Command::Close(gone.address, gone.side)));
        }
        *listening = kept;
    }

    /// Gives each core its sockets of an address. What is left here of them is for a process that takes over.
    fn spread(
        &self,
        address: SocketAddr,
        sockets: Vec<TcpListener>,
        settings: &ListenerSettings,
        side: Side,
    ) -> Arc<Vec<TcpListener>> {
        let sockets = widen(address, sockets, self.cores.len()).unwrap_or_else(|error| {
            tracing::error!(%address, %error, "there is not a socket for each core");
            Vec::new()
        });
        let copies: Result<Vec<_>, _> = sockets.iter().map(TcpListener::try_clone).collect();
        let copies = copies.unwrap_or_else(|error| {
            tracing::error!(%address, %error, "no process can take this listener over");
            Vec::new()
        });
        let mut shares: Vec<Vec<TcpListener>> = self.cores.iter().map(|_| Vec::new()).collect();
        for (place, socket) in sockets.into_iter().enumerate() {
            shares[place % self.cores.len()].push(socket);
        }
        for (core, share) in self.cores.iter().zip(shares) {
            core.tell(Command::Listen(share, settings.clone(), side));
        }
        Arc::new(copies)
    }
}

/// A listener that is wanted, and for whom.
pub(super) type Wanted = (ListenerSettings, Side);

/// Listeners that are new, each with a socket for every core.
pub(super) type Bound = Vec<(Wanted, Vec<TcpListener>)>;

/// All listeners of a configuration.
pub(super) fn listeners(config: &Config) -> Vec<Wanted> {
    let clients = config.listeners.iter().map(|settings| (settings.clone(), Side::Clients));
    clients.chain(config.cluster.iter().map(|cluster| (cluster.listener.clone(), Side::Nodes))).collect()
}

/// Binds what is not listened on yet. Every address that cannot be had is told.
pub(super) fn bind_new(
    wanted: &[Wanted],
    listening: &[Listening],
    cores: usize,
    legacy: &mut Sockets,
) -> Result<Bound, WiringError> {
    let mut held: Vec<_> = listening.iter().map(|one| (one.settings.address, one.side)).collect();
    let (mut bound, mut errors) = (Vec::new(), Vec::new());
    for (settings, side) in wanted {
        // With port 0 several have one address: each takes the place of one.
        if let Some(place) = held.iter().position(|held| *held == (settings.address, *side)) {
            held.swap_remove(place);
            continue;
        }
        if let Some(sockets) = legacy.take_listener(*side, settings) {
            bound.push(((settings.clone(), *side), sockets));
            continue;
        }
        match bind(settings.address, cores) {
            Ok(sockets) => bound.push(((settings.clone(), *side), sockets)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(WiringError::Bind(errors)) }
}
