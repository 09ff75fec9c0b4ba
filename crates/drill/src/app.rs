//! A faulty application server: what stands behind the gate in a drill.
//!
//! It speaks HTTP/1.1 on a loopback port of its own and does what real application servers do when things go wrong: it has
//! so many workers and a line before them that nobody bounds, works on for clients that have left, grows slow, fails now
//! and then, hangs, dies with all its connections, or is felled by one tenant's request. How it behaves is changed while it
//! runs, through [`App::change`] and the verbs beside it.
//!
//! It is written on bare sockets and not on `tidegate_wire`'s server, so that what is examined and what examines share no
//! code. Service is time that passes, not work that is done: a drill needs no more of the machine than its gate does.
//!
//! What always holds: an application has a thread and a runtime of its own; its port is its own from start to end, also
//! while nothing listens there; the same seed and the same `Drill-Request` numbers give the same service times.
//!
//! What it does not do: read bodies into memory, HTTP/2, TLS.

mod behaviour;
mod connection;
mod counts;
mod head;
mod slots;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_wire::clock;
use tidegate_wire::task;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

pub use behaviour::{ANSWER_BYTES_MAX, Answer, Behaviour, Gray, Harm, Poison, Service};
pub use counts::{Counts, Visits};

use counts::Seen;
use slots::Slots;

/// Connections that wait to be accepted, as the kernel counts them.
const BACKLOG: u32 = 1024;
/// Open connections; one more is closed at once.
const CONNECTIONS_MAX: u64 = 8192;

/// A running application server. It ends when this is dropped.
pub struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the server's tasks and its handle share.
struct Shared {
    seed: u64,
    state: Mutex<State>,
    posture: watch::Sender<Posture>,
}

struct State {
    behaviour: Behaviour,
    slots: Slots,
    counts: Counts,
    seen: Seen,
}

/// Whether the process is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Posture {
    /// Which life of the process this is. A crash begins the next one, and whatever belongs to the last is gone.
    life: u64,
    listening: bool,
    hung: bool,
    ended: bool,
}

impl App {
    /// Starts a server at a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port, no thread, no runtime.
    pub fn start(seed: u64, behaviour: Behaviour) -> io::Result<App> {
        let posture = Posture { life: 0, listening: true, hung: false, ended: false };
        let state =
            State { behaviour, slots: Slots::default(), counts: Counts::default(), seen: Seen::default() };
        let shared =
            Arc::new(Shared { seed, state: Mutex::new(state), posture: watch::Sender::new(posture) });
        let (tell, told) = sync_channel(1);
        let own = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("drill-app".to_owned()).spawn(move || run(&own, &tell))?;
        let address = told.recv().map_err(|_| io::Error::other("the server's thread ended"))??;
        Ok(App { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Behaves otherwise from now on. More slots are taken by who waits at once; fewer when they come free.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.state.lock().behaviour);
        slots::fill(&self.shared);
    }

    /// Dies: the port is closed, and every connection reset with what is under way on it.
    pub fn crash(&self) {
        self.shared.crash();
    }

    /// Ends in good order: nothing new is accepted, idle connections are closed, what is under way is finished.
    pub fn stop(&self) {
        self.shared.set(|posture| posture.listening = false);
    }

    /// Comes back after [`App::crash`] or [`App::stop`], at the same port.
    pub fn restart(&self) {
        self.shared.set(|posture| (posture.listening, posture.hung) = (true, false));
    }

    /// Accepts from now on and answers nothing.
    pub fn hang(&self) {
        self.shared.set(|posture| posture.hung = true);
    }

    /// Goes on where it hung.
    pub fn resume(&self) {
        self.shared.set(|posture| posture.hung = false);
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.shared.state.lock();
        Counts { busy: state.slots.busy, waiting: state.slots.waiting.len(), ..state.counts.clone() }
    }

    /// What has become so far of each request that said its number.
    #[must_use]
    pub fn visits(&self) -> HashMap<u64, Visits> {
        self.shared.state.lock().seen.all()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shared.set(|posture| posture.ended = true);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, and then has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn set(&self, change: impl FnOnce(&mut Posture)) {
        self.posture.send_modify(change);
    }

    fn crash(&self) {
        self.state.lock().counts.crashes += 1;
        self.set(|posture| {
            *posture = Posture { life: posture.life + 1, listening: false, hung: false, ..*posture };
        });
    }

    /// What a poisonous request does to the whole process. It mends by itself, as a supervised process does.
    fn suffer(self: &Arc<Shared>, harm: Harm) {
        let (wait, life) = match harm {
            Harm::Hang(wait) => {
                self.set(|posture| posture.hung = true);
                (wait, self.posture.borrow().life)
            }
            Harm::Crash(wait) => {
                self.crash();
                (wait, self.posture.borrow().life)
            }
        };
        let shared = Arc::clone(self);
        task::spawn(async move {
            clock::sleep(wait).await;
            shared.set(|posture| {
                if posture.life == life {
                    (posture.listening, posture.hung) = (true, false);
                }
            });
        });
    }
}

/// The server's thread.
fn run(shared: &Arc<Shared>, tell: &SyncSender<io::Result<SocketAddr>>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(error))),
    };
    runtime.block_on(async {
        let held = hold(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        match held.and_then(|socket| Ok((socket.local_addr()?, socket))) {
            Ok((address, socket)) => {
                // Listening before it is told where: whoever knows the address is never refused.
                let listener = socket.listen(BACKLOG);
                let _ = tell.send(listener.as_ref().map(|_| address).map_err(|error| error.kind().into()));
                if let Ok(listener) = listener {
                    live(shared, address, listener).await;
                }
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    });
}

/// Takes a port without listening: who connects is refused, and nobody else can have it.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Listens whenever the process is there, until it is dropped.
async fn live(shared: &Arc<Shared>, address: SocketAddr, mut listener: TcpListener) {
    /// Between two tries to take the port again. Only a socket that is still being closed can be in the way.
    const PORT_PAUSE: Duration = Duration::from_millis(5);
    let mut posture = shared.posture.subscribe();
    loop {
        accept(shared, &listener).await;
        drop(listener);
        if posture.borrow().ended {
            return;
        }
        let held = hold(address);
        let back = posture.wait_for(|posture| posture.listening || posture.ended).await;
        if back.map_or(true, |posture| posture.ended) {
            return;
        }
        let mut again = held.and_then(|socket| socket.listen(BACKLOG));
        listener = loop {
            match again {
                Ok(listener) => break listener,
                Err(_) => clock::sleep(PORT_PAUSE).await,
            }
            again = hold(address).and_then(|socket| socket.listen(BACKLOG));
        };
    }
}

/// Accepts until the process is to be away.
async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut posture = shared.posture.subscribe();
    loop {
        tokio::select! {
            // First of all: whoever comes after a crash is not let into the next life by a door that closes late.
            biased;
            _ = posture.wait_for(|posture| !posture.listening || posture.ended) => return,
            accepted = listener.accept() => {
                // A client that left before it was accepted is none.
                let Ok((stream, _)) = accepted else { continue };
                if shared.state.lock().counts.connected(CONNECTIONS_MAX) {
                    let shared = Arc::clone(shared);
                    task::spawn(async move { connection::serve(&shared, stream).await });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
