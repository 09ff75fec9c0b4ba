//! The new process's side: it takes what the one before has.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_wire::handover::Passed;
use tidegate_wire::link::Link;
use tidegate_wire::tls::TlsClient;

use super::protocol::{Connection, ENVIRONMENT, Offer, PROTOCOL, Said, Shown, hear, say};
use super::sockets::Sockets;
use super::state::State;
use super::{ELDERS_MAX, Legacy};
use crate::run::Process;
use crate::systemd;

/// How long the process before is waited for while it only has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The process before, that lets this one take over.
#[derive(Debug)]
pub struct Met {
    link: Link,
    offer: Offer,
    free: SyncSender<()>,
}

/// Meets the process before, if there is one, and takes what it offers; or what systemd has opened.
///
/// # Errors
/// It is there and cannot be understood, in words.
pub fn meet() -> Result<(Legacy, Option<Met>), String> {
    let Some(protocol) = std::env::var_os(ENVIRONMENT) else {
        return Ok((Legacy { sockets: Sockets::activated(), ..Legacy::default() }, None));
    };
    if protocol.to_str() != Some(&PROTOCOL.to_string()) {
        let theirs = protocol.to_string_lossy();
        return Err(format!(
            "the process before hands over by protocol {theirs}, and this one takes over by {PROTOCOL}: restart instead"
        ));
    }
    take().map_err(|error| format!("what the process before offers cannot be taken: {error}"))
}

fn take() -> io::Result<(Legacy, Option<Met>)> {
    let link = Link::of_stdin()?;
    link.patience(Some(ANSWER_MAX))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    say(&link, &Said::Hello { protocol: PROTOCOL, version }, &[])?;
    let offer = match heard(&link)? {
        (Said::Offer(offer), _) => offer,
        (said, _) => return Err(unexpected(said)),
    };
    let mut sockets = Sockets::default();
    let mut got = 0;
    while got < offer.sockets {
        match heard(&link)? {
            (Said::Sockets { places }, files) if !files.is_empty() && places.len() == files.len() => {
                got += files.len();
                places.into_iter().zip(files).for_each(|(place, file)| sockets.add(place, file));
            }
            (said, _) => return Err(unexpected(said)),
        }
    }
    let (free, is_free) = std::sync::mpsc::sync_channel(1);
    let store = offer.store.clone().map(|place| (place, is_free));
    Ok((Legacy { sockets, store }, Some(Met { link, offer, free })))
}

fn heard(link: &Link) -> io::Result<(Said, Vec<OwnedFd>)> {
    hear(link)?.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it is gone"))
}

fn unexpected(said: Said) -> io::Error {
    match said {
        Said::Refused { why } => io::Error::other(why),
        said => io::Error::other(format!("it says {said:?}")),
    }
}

impl Met {
    /// The number of the process before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.offer.generation
    }

    /// Says that this process could serve, and hears what is known.
    ///
    /// # Errors
    /// The process before is gone, or does not want any more.
    pub fn ready(&self) -> io::Result<State> {
        say(&self.link, &Said::Ready, &[])?;
        match heard(&self.link)? {
            (Said::Begin, files) => State::read(files),
            (said, _) => Err(unexpected(said)),
        }
    }

    /// Says that it does serve, and goes on with what the process before gives away.
    ///
    /// # Errors
    /// The process before is gone, or there is no thread.
    pub fn serving(self, process: &Arc<Process>, legacy: Legacy) -> io::Result<()> {
        let taken = legacy.sockets.taken().to_vec();
        say(&self.link, &Said::Serving { taken }, &[])?;
        self.link.patience(None)?;
        // Its own sockets that are wanted no more are the process before's to close.
        drop(legacy);
        follow(Followed { link: self.link, pid: self.offer.pid, free: Some(self.free) }, process)
    }
}

/// A process before this one, while it has not ended.
struct Followed {
    link: Link,
    pid: u32,
    /// To say that the store is free; dropped, it is so too.
    free: Option<SyncSender<()>>,
}

/// Goes on with what a process before gives away, on a thread of its own.
fn follow(elder: Followed, process: &Arc<Process>) -> io::Result<()> {
    process.generation.links.lock().push((elder.pid, elder.link.try_clone()?));
    let process = Arc::clone(process);
    let run = move || {
        elder.follow(&process);
        let Followed { pid, .. } = elder;
        process.generation.links.lock().retain(|(one, _)| *one != pid);
        process.generation.elders.lock().remove(&pid);
        tracing::info!(pid, "a process before has ended");
    };
    std::thread::Builder::new().name("predecessor".to_owned()).spawn(run).map(drop)
}

impl Followed {
    /// Until it has ended.
    fn follow(&self, process: &Arc<Process>) {
        let mut told = false;
        loop {
            let (said, files) = match hear(&self.link) {
                Ok(Some(heard)) => heard,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "what a process before says is not understood");
                    match error.kind() {
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => continue,
                        _ => return,
                    }
                }
            };
            match said {
                Said::Connection(connection) => match passed(connection, files) {
                    Some(passed) => process.gate.adopt(passed),
                    None => {
                        tracing::warn!("a connection of a process before came without what belongs to it")
                    }
                },
                Said::Spent => {
                    spend(process, files);
                    // From here on systemd takes this process for the service's.
                    if !std::mem::replace(&mut told, true) {
                        systemd::notify("READY=1\nSTATUS=Serving");
                    }
                }
                // It is told once, and nobody may wait.
                Said::Free => drop(self.free.as_ref().map(|free| free.try_send(()))),
                Said::Stop => process.generation.told_to_stop.notify_one(),
                Said::Elder { pid } => {
                    let link = files.into_iter().next().map(Link::from);
                    let followed = link.map(|link| follow(Followed { link, pid, free: None }, process));
                    if !matches!(followed, Some(Ok(()))) {
                        tracing::warn!(pid, "a process before cannot be followed");
                    }
                }
                Said::Alive { mut elders } => {
                    elders.truncate(ELDERS_MAX);
                    process.generation.elders.lock().insert(self.pid, elders);
                }
                said => tracing::warn!(?said, "a process before said something unexpected"),
            }
        }
    }
}

fn spend(process: &Process, files: Vec<OwnedFd>) {
    match State::read(files) {
        Ok(state) => state.apply(&process.gate),
        Err(error) => tracing::warn!(%error, "what was spent of limits last is not known"),
    }
}

fn passed(told: Connection, files: Vec<OwnedFd>) -> Option<Passed> {
    let stream = files.into_iter().next()?.into();
    let Connection { peer, listener, tls, server_name, client, begun, last, read } = told;
    let read = STANDARD.decode(read).ok()?;
    let client = client.and_then(|Shown { rule, chain }| {
        let chain = chain.iter().map(|one| STANDARD.decode(one).ok()).collect::<Option<Vec<_>>>()?;
        TlsClient::new(rule, chain).map(Arc::new)
    });
    Some(Passed { stream, peer, listener, tls, server_name, client, begun, last, read })
}
