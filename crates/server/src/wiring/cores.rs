//! A core: a thread with a runtime of its own, which is told by commands what to do.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tidegate_model::tick::Tick;
use tidegate_proxy::cache::shield::home::Home;
use tidegate_proxy::{Entropy, Guard, Proxy, Shield, Site};
use tidegate_upstream::Caller;
use tidegate_wire::handover::{Heir, Passed};
use tidegate_wire::server::{Census, Server};
use tidegate_wire::settings::ListenerSettings;
use tidegate_wire::task;
use tidegate_wire::tls::Certificates;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use super::{Side, seed};
use crate::protect;
use crate::telemetry::Telemetry;

/// Commands that may wait for a core.
const COMMANDS_MAX: usize = 64;

/// A core, as the others see it.
pub(super) struct Core {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// What all cores are made of.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) site: Arc<Site>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) census: Arc<Census>,
    pub(super) tls: Arc<Certificates>,
    pub(super) node_tls: Arc<Certificates>,
    pub(super) shield: Arc<Shield>,
}

/// What a core is told.
pub(super) enum Command {
    Site(Arc<Site>),
    Listen(Vec<TcpListener>, ListenerSettings, Side),
    Adjust(SocketAddr, ListenerSettings, Side),
    Close(SocketAddr, Side),
    /// All before this has been done.
    Reached(oneshot::Sender<()>),
    /// Another process goes on with what is between two requests, and has the sockets.
    HandOver(Heir),
    /// No client of HTTP/2 begins anything here any more, or it is this late.
    Settled(Tick, oneshot::Sender<()>),
    /// A connection of the process before.
    Adopt(Box<Passed>),
    Drain,
}

impl Core {
    /// Starts its thread.
    pub(super) fn start(number: usize, cores: usize, parts: &Parts) -> Core {
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        let Parts { site, telemetry, census, tls, node_tls, shield } = parts.clone();
        let run = move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .expect("the system has an event queue for each core");
            runtime.block_on(async move {
                let caller = Caller::new(cores, seed());
                caller.sweep();
                crate::memory::give_back();
                let guard = Guard::new(&shield, number);
                let (recorder, entropy) = (telemetry.recorder(number), Entropy::seeded(seed()));
                let proxy = Rc::new(Proxy::new(site, caller, recorder, entropy, Rc::clone(&guard)));
                let server = Server::new(Rc::clone(&proxy), tls, Arc::clone(&census));
                let nodes = Server::new(Home::new(Rc::clone(&proxy)), node_tls, census);
                protect::watch_core(&server, &guard);
                serve(&proxy, &server, &nodes, waiting).await;
            });
        };
        let thread = std::thread::Builder::new().name(format!("core-{number}")).spawn(run);
        Core { commands, thread: Mutex::new(Some(thread.expect("a thread can be started"))) }
    }

    /// Tells it something, which it does in its turn.
    pub(super) fn tell(&self, command: Command) {
        // A full channel is a core that hangs, a closed one has drained: neither may stop a reload for the others.
        if self.commands.try_send(command).is_err() {
            tracing::error!("a core took no command");
        }
    }
}

async fn serve(
    proxy: &Rc<Proxy>,
    server: &Rc<Server<Proxy>>,
    nodes: &Rc<Server<Home>>,
    mut commands: mpsc::Receiver<Command>,
) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Site(site) => proxy.swap(site),
            Command::Listen(sockets, settings, side) => {
                for socket in sockets {
                    let listens = match side {
                        Side::Clients => server.listen(socket, settings.clone()),
                        Side::Nodes => nodes.listen(socket, settings.clone()),
                    };
                    if let Err(error) = listens {
                        tracing::error!(%error, "a core cannot listen");
                    }
                }
            }
            Command::Adjust(address, settings, Side::Clients) => server.adjust(address, settings),
            Command::Adjust(address, settings, Side::Nodes) => nodes.adjust(address, settings),
            Command::Close(address, Side::Clients) => server.close(address),
            Command::Close(address, Side::Nodes) => nodes.close(address),
            // Whoever asked may have given up.
            Command::Reached(done) => drop(done.send(())),
            Command::HandOver(heir) => {
                server.hand_over(heir);
                // What other nodes ask comes again by another connection: none is given away.
                nodes.hand_over(mpsc::channel(1).0);
            }
            Command::Settled(by, done) => {
                let server = Rc::clone(server);
                task::spawn(async move {
                    server.settled(by).await;
                    // Whoever asked may have given up.
                    let _ = done.send(());
                });
            }
            Command::Adopt(passed) => {
                if let Err(error) = server.adopt(*passed) {
                    tracing::warn!(%error, "a connection of the process before cannot be gone on with");
                }
            }
            // The other nodes ask the upstream as soon as nobody listens here.
            Command::Drain => {
                tokio::join!(server.drain(), nodes.drain());
                // What was begun under a key is finished, though its client may have left.
                return proxy.finished().await;
            }
        }
    }
}
