//! The old process's side: it starts its successor, and leaves what it has to it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use tidegate_model::tenant::spent::Ledger;
use tidegate_model::tick::Tick;
use tidegate_store::Location;
use tidegate_wire::clock;
use tidegate_wire::handover::{PASSED_MAX, Passed};
use tidegate_wire::link::{FILES_MAX, Link};
use tokio::sync::{Notify, mpsc};

use super::protocol::{Connection, ENVIRONMENT, Elder, Offer, PROTOCOL, Said, Shown, hear, say};
use super::sockets::Place;
use super::{ELDERS_MAX, Phase, state};
use crate::run::Process;
use crate::systemd;

/// How long clients of HTTP/2 are waited for that shall hear that this process ends, at most.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How long the old process stays in any case, for what has just come to its control API.
const STAY: Duration = Duration::from_secs(1);
/// How often is looked whether nobody needs the store any more.
const UNUSED_LOOK: Duration = Duration::from_millis(2);
/// How often is looked whether this process was told to stop while the new one starts.
const ENDING_LOOK: Duration = Duration::from_millis(100);
/// How often the successor is told what is left.
const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// How long answers of the control API are waited for that are under way.
const LAST_CONTROL: Duration = Duration::from_secs(5);
/// How long the cache's last answers on disk are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Why no other process has taken over. This one serves on.
#[derive(Debug, thiserror::Error)]
pub enum NotUpgraded {
    /// It would end the container.
    #[error(
        "this process has the id 1, and with it its container ends: replace the container instead (a rolling restart)"
    )]
    First,
    /// Another one is being started.
    #[error("an upgrade is under way")]
    Busy,
    /// It stops, or has handed over.
    #[error("this process ends, and has nothing to hand over any more")]
    Ending,
    /// Too many have not ended.
    #[error(
        "{0} processes of upgrades before have not ended: their connections would be cut if they were told to"
    )]
    Crowded(usize),
    /// The binary cannot be started.
    #[error("{} cannot be started: {source}", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new process ended.
    #[error("the new process ended before it served ({0}); why is in its log")]
    Ended(ExitStatus),
    /// It takes too long.
    #[error("the new process did not serve within {0:?} (`[upgrade] start`) and was ended")]
    Late(Duration),
    /// It speaks another protocol.
    #[error(
        "the new binary, version {version}, takes over by protocol {protocol} and this one hands over by {PROTOCOL}: restart instead"
    )]
    Protocol {
        /// Its.
        protocol: u32,
        /// Of the product.
        version: String,
    },
    /// It says something else than it should.
    #[error("the new process said something unexpected and was ended")]
    Unexpected,
    /// It cannot be spoken to.
    #[error("the new process cannot be spoken to: {0}")]
    Link(#[from] io::Error),
}

/// A process that has taken over.
#[derive(Debug)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    link: Link,
    taken: Vec<Place>,
    ledger: Mutex<Ledger>,
    child: Mutex<Option<Child>>,
    gone: AtomicBool,
    /// It has ended.
    ended: Notify,
}

/// Starts the binary that now stands where this one's did, and lets it take over. Tells its process id.
///
/// # Errors
/// [`NotUpgraded`]: nothing has changed.
pub async fn upgrade(process: &Arc<Process>) -> Result<u32, NotUpgraded> {
    begin(process)?;
    let starting = Arc::clone(process);
    let started = tokio::task::spawn_blocking(move || start(&starting)).await;
    let started = started.unwrap_or(Err(NotUpgraded::Unexpected));
    let generation = &process.generation;
    match started {
        Ok(successor) => {
            let (pid, successor) = (successor.pid, Arc::new(successor));
            *generation.phase.lock() = Phase::HandedOver(Arc::clone(&successor));
            if process.draining.load(Relaxed) {
                successor.stop_too();
                return Err(NotUpgraded::Ending);
            }
            tracing::info!(pid, "another process has taken over");
            generation.handed_over.notify_one();
            // Whoever is told of it and asks the control API again asks the new process.
            generation.control.send_replace(true);
            let by = clock::now().after(LAST_CONTROL);
            let _ = clock::timeout_at(by, generation.control.closed()).await;
            Ok(pid)
        }
        Err(error) => {
            *generation.phase.lock() = Phase::Serving;
            tracing::error!(%error, "no upgrade: this process serves on");
            systemd::notify("STATUS=The upgrade failed: the process before serves on");
            Err(error)
        }
    }
}

fn begin(process: &Process) -> Result<(), NotUpgraded> {
    if std::process::id() == 1 {
        return Err(NotUpgraded::First);
    }
    let elders = process.generation.elders().len();
    if elders >= ELDERS_MAX {
        return Err(NotUpgraded::Crowded(elders));
    }
    let mut phase = process.generation.phase.lock();
    match *phase {
        Phase::HandedOver(_) => Err(NotUpgraded::Ending),
        _ if process.draining.load(Relaxed) => Err(NotUpgraded::Ending),
        Phase::Starting => Err(NotUpgraded::Busy),
        Phase::Serving => {
            *phase = Phase::Starting;
            Ok(())
        }
    }
}

/// Starts it, and returns once it serves. If it does not, it has ended.
fn start(process: &Process) -> Result<Successor, NotUpgraded> {
    let (link, far) = Link::pair()?;
    let (path, arguments) = command();
    let mut command = Command::new(&path);
    command.args(arguments).env(ENVIRONMENT, PROTOCOL.to_string()).stdin(Stdio::from(far));
    // What systemd has said to this process alone.
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|source| NotUpgraded::Program { path, source })?;
    // It has the only other end: when the process ends, so does the link.
    drop(command);
    tracing::info!(pid = child.id(), "an upgrade begins");
    match lead(process, &link, child.id()) {
        Ok((taken, ledger)) => Ok(Successor {
            pid: child.id(),
            link,
            taken,
            ledger: Mutex::new(ledger),
            child: Mutex::new(Some(child)),
            gone: AtomicBool::new(false),
            ended: Notify::new(),
        }),
        Err(error) => {
            // One that has ended by itself cannot be ended: its status is its own.
            let _ = child.kill();
            match (error, child.wait()) {
                (NotUpgraded::Ended(_), Ok(status)) => Err(NotUpgraded::Ended(status)),
                (error, _) => Err(error),
            }
        }
    }
}

/// Leads it to where it serves.
fn lead(process: &Process, link: &Link, pid: u32) -> Result<(Vec<Place>, Ledger), NotUpgraded> {
    let most = process.gate.config().upgrade.start;
    let heard = Heard { link, most, by: clock::now().after(most) };
    // Whoever is told to stop meanwhile gives nothing away.
    let is_ending = || process.draining.load(Relaxed);
    match heard.next(is_ending)? {
        Said::Hello { protocol: PROTOCOL, .. } => {}
        Said::Hello { protocol, version } => {
            let error = NotUpgraded::Protocol { protocol, version };
            // It may have gone.
            let _ = say(link, &Said::Refused { why: error.to_string() }, &[]);
            return Err(error);
        }
        _ => return Err(NotUpgraded::Unexpected),
    }
    offer(process, link)?;
    let Said::Ready = heard.next(is_ending)? else { return Err(NotUpgraded::Unexpected) };
    let ledger = Mutex::new(Ledger::default());
    state::tell(link, &process.gate, &ledger, &Said::Begin)?;
    // From here on it may have clients: it is not ended, but told to end.
    let Said::Serving { taken } = heard.next(|| false)? else { return Err(NotUpgraded::Unexpected) };
    tracing::debug!(pid, "the new process serves");
    link.patience(Some(ALIVE_EVERY))?;
    Ok((taken, ledger.into_inner()))
}

/// What it says, in time.
struct Heard<'a> {
    link: &'a Link,
    most: Duration,
    by: Tick,
}

impl Heard<'_> {
    fn next(&self, is_ending: impl Fn() -> bool) -> Result<Said, NotUpgraded> {
        loop {
            let left = self.by.since(clock::now());
            if left.is_zero() {
                return Err(NotUpgraded::Late(self.most));
            }
            self.link.patience(Some(left.min(ENDING_LOOK)))?;
            let heard = hear(self.link);
            if is_ending() {
                // It may have gone.
                let _ = say(self.link, &Said::Refused { why: NotUpgraded::Ending.to_string() }, &[]);
                return Err(NotUpgraded::Ending);
            }
            match heard {
                Ok(Some((said, _))) => return Ok(said),
                // What it ended with is found out by whoever started it.
                Ok(None) => return Err(NotUpgraded::Ended(ExitStatus::default())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(NotUpgraded::Link(error)),
            }
        }
    }
}

/// Offers it all that is listened on.
fn offer(process: &Process, link: &Link) -> Result<(), NotUpgraded> {
    let listening = process.gate.listening();
    let of_listeners = listening.iter().flat_map(|one| {
        let place = one.place();
        one.sockets.iter().map(move |socket| (place.clone(), socket.as_fd()))
    });
    let of_control =
        process.control_sockets.iter().map(|(asked, socket)| (Place::Control(asked.clone()), socket.as_fd()));
    let all: Vec<(Place, BorrowedFd<'_>)> = of_listeners.chain(of_control).collect();
    let store = process.gate.config().store.as_ref().map(|settings| settings.location.clone());
    let store = store.filter(|location| matches!(location, Location::Directory(_)));
    let offer = Offer {
        generation: process.generation.number,
        pid: std::process::id(),
        store: store.map(|location| location.to_string()),
        sockets: all.len(),
    };
    say(link, &Said::Offer(offer), &[])?;
    for some in all.chunks(FILES_MAX) {
        let places = some.iter().map(|(place, _)| place.clone()).collect();
        let files: Vec<BorrowedFd<'_>> = some.iter().map(|(_, file)| *file).collect();
        say(link, &Said::Sockets { places }, &files)?;
    }
    Ok(())
}

/// The binary that now stands where this process's did, and the arguments that this one was given.
fn command() -> (PathBuf, impl Iterator<Item = OsString>) {
    let mut arguments = std::env::args_os();
    let own = arguments.next().map(PathBuf::from).unwrap_or_default();
    // As it was called, not what the kernel has resolved that to: a link to the version in use is followed anew.
    let found = if own.components().count() > 1 { Some(own) } else { in_path(&own) };
    let path = found.or_else(|| std::env::current_exe().ok()).unwrap_or_default();
    (path, arguments)
}

fn in_path(name: &Path) -> Option<PathBuf> {
    let all = std::env::var_os("PATH")?;
    std::env::split_paths(&all).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Leaves all to the successor. Ends when nothing is under way here any more, or it was for so long as it may.
pub async fn leave(process: &Arc<Process>, successor: &Arc<Successor>) {
    systemd::notify(&format!("MAINPID={}", successor.pid));
    let stay_until = clock::now().after(STAY);
    process.draining.store(true, Relaxed);
    let (gate, settings) = (&process.gate, process.gate.config());
    let (heir, passed) = mpsc::channel(PASSED_MAX);
    Successor::watch(successor, process, passed);
    gate.hand_over(&heir, |one| successor.taken.contains(&one.place())).await;
    drop(heir);
    successor.tell_spent(process);
    gate.standing.idempotency.drain();
    let alone = settings.store.as_ref().is_some_and(|store| matches!(store.location, Location::Directory(_)));
    // Where the store is shared, nobody waits for it.
    let deliveries = if alone { settings.upgrade.deliveries } else { settings.drain };
    let (by, delivered_by) = (clock::now().after(SETTLE_MAX), clock::now().after(deliveries));
    let delivered = || gate.dispatcher().is_none_or(|dispatcher| dispatcher.drain());
    // From here on no attempt is begun.
    let _ = delivered();
    gate.settled(by).await;
    successor.tell_spent(process);
    let unused_by = clock::now().after(settings.drain);
    while !delivered() && clock::now() < delivered_by
        || !gate.standing.idempotency.is_unused() && clock::now() < unused_by
    {
        clock::sleep(UNUSED_LOOK).await;
    }
    let letting = Arc::clone(process);
    // It fails only if closing panicked, which has been told.
    let _ = tokio::task::spawn_blocking(move || {
        if let Some(store) = letting.gate.standing.idempotency.store() {
            store.close();
        }
        letting.gate.standing.cache.close(LAST_ANSWERS);
        letting.gate.standing.cache.forget();
    })
    .await;
    successor.tell(&Said::Free);
    // Those before this one shall not take its end for the service's. Not sooner: what they say of the store is for this one.
    for (pid, link) in &*process.generation.links.lock() {
        let _ = say(&successor.link, &Said::Elder { pid: *pid }, &[link.as_fd()]);
    }
    finish(process, successor, stay_until).await;
}

/// Waits for what is under way.
async fn finish(process: &Arc<Process>, successor: &Arc<Successor>, stay_until: Tick) {
    let settings = process.gate.config();
    let (gate, most) = (Arc::clone(&process.gate), settings.upgrade.connections);
    let ended = tokio::task::spawn_blocking(move || gate.ended(most));
    // Without a successor nobody takes connections any more: it is as any other end.
    let alone = async {
        successor.ended().await;
        clock::sleep(settings.drain).await;
        false
    };
    let ended = tokio::select! {
        ended = ended => ended.unwrap_or(false),
        ended = alone => ended,
    };
    // Whoever asked for the upgrade is told of it; and what came to the control API just before is answered.
    let by = clock::now().after(LAST_CONTROL);
    clock::sleep_until(stay_until).await;
    while !process.generation.is_unasked() && clock::now() < by {
        clock::sleep(UNUSED_LOOK).await;
    }
    if !ended {
        tracing::warn!("some connections did not end in time and were cut");
    }
}

impl Successor {
    /// Watches whether it is there, tells it what is left here, and gives it the connections that come.
    fn watch(this: &Arc<Successor>, process: &Arc<Process>, mut passed: mpsc::Receiver<Passed>) {
        let (own, about) = (Arc::clone(this), Arc::downgrade(process));
        let watch = move || {
            while let Some(process) = about.upgrade() {
                own.tell(&Said::Alive { elders: process.generation.with_elders(process.gate.census.open()) });
                drop(process);
                if let Some(child) = &mut *own.child.lock() {
                    // One that has handed over and ended is asked how, so that nothing is left of it.
                    let _ = child.try_wait();
                }
                match hear(&own.link) {
                    // It has nothing to say any more.
                    Ok(Some(_)) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(None) | Err(_) => break,
                }
            }
            own.gone.store(true, Relaxed);
            own.ended.notify_waiters();
            if let Some(mut child) = own.child.lock().take() {
                // How it ended is told by its own log.
                let _ = child.wait();
            }
        };
        let own = Arc::clone(this);
        let give = move || {
            while let Some(passed) = passed.blocking_recv() {
                if own.give(&passed).is_err() {
                    // From here on connections end as in any drain.
                    return;
                }
            }
        };
        for (name, run) in
            [("successor", Box::new(watch) as Box<dyn FnOnce() + Send>), ("give-away", Box::new(give))]
        {
            let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            if let Err(error) = started {
                tracing::error!(%error, "connections cannot be given away");
            }
        }
    }

    fn give(&self, passed: &Passed) -> io::Result<()> {
        let Passed { stream, peer, listener, tls, server_name, client, begun, last, read } = passed;
        let (peer, listener, tls, begun, last) = (*peer, *listener, *tls, *begun, *last);
        let (server_name, read) = (server_name.clone(), STANDARD.encode(read));
        let client = client.as_deref().map(|client| Shown {
            rule: client.rule,
            chain: client.chain.iter().map(|one| STANDARD.encode(one)).collect(),
        });
        let connection = Connection { peer, listener, tls, server_name, client, begun, last, read };
        match say(&self.link, &Said::Connection(connection), &[stream.as_fd()]) {
            // More was read of it than a message holds: its client finds it closed.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            done => done,
        }
    }

    fn tell(&self, said: &Said) {
        // Whether it is there is watched elsewhere.
        let _ = say(&self.link, said, &[]);
    }

    fn tell_spent(&self, process: &Process) {
        if let Err(error) = state::tell(&self.link, &process.gate, &self.ledger, &Said::Spent) {
            tracing::warn!(%error, "what was spent of limits last is not known to the new process");
        }
    }

    /// This process was told to stop when nobody knew of that one yet: both end.
    pub fn stop_too(&self) {
        tracing::info!(pid = self.pid, "told to stop: so is the process that was to take over");
        self.tell(&Said::Stop);
    }

    /// Returns when it has ended.
    async fn ended(&self) {
        let ended = self.ended.notified();
        if !self.gone.load(Relaxed) {
            ended.await;
        }
    }
}

impl super::Generation {
    /// This process and those before it, as its successor is told.
    fn with_elders(&self, connections: usize) -> Vec<Elder> {
        let own =
            Elder { pid: std::process::id(), generation: self.number, since: self.since.0, connections };
        std::iter::once(own).chain(self.elders()).take(ELDERS_MAX).collect()
    }
}
