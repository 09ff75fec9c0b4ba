//! What two processes say to each other while one takes over: JSON, a message each.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use tidegate_wire::link::Link;

use super::sockets::Place;

/// The version of all this. Another one is refused before anything is given away.
pub const PROTOCOL: u32 = 1;
/// Set for a process that is to take over: its standard input is the link.
pub const ENVIRONMENT: &str = "TIDEGATE_TAKE_OVER";

/// A process that finishes what it has.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Elder {
    /// Its process id.
    pub pid: u32,
    /// Its number.
    pub generation: u64,
    /// Since when it ran, in seconds since the epoch.
    pub since: u64,
    /// Connections that it has.
    pub connections: usize,
}

/// What the old process offers.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Its number.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// Where its store is, if it is one that a single process has at a time.
    pub store: Option<String>,
    /// Sockets that follow, in messages of [`Said::Sockets`].
    pub sockets: usize,
}

/// A message.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", tag = "say")]
pub enum Said {
    /// New: that is what I speak.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Of the product.
        version: String,
    },
    /// Old: we do not understand each other, or I do not want to any more.
    Refused {
        /// Why.
        why: String,
    },
    /// Old: this is what there is.
    Offer(Offer),
    /// Old: these, one with each file that comes along.
    Sockets {
        /// What they are.
        places: Vec<Place>,
    },
    /// New: I could serve now.
    Ready,
    /// Old: do. A file with what is known comes along.
    Begin,
    /// New: I do. These sockets I have taken.
    Serving {
        /// What they are.
        taken: Vec<Place>,
    },
    /// Old: so much more was spent of limits. A file comes along.
    Spent,
    /// Old: a connection. Its socket comes along.
    Connection(Connection),
    /// Old: the store is free.
    Free,
    /// Old: I was told to stop before you served: so are you.
    Stop,
    /// Old: this one was before me, and has not ended. Its link comes along.
    Elder {
        /// Its process id.
        pid: u32,
    },
    /// Old: this is what I still have, and those before me.
    Alive {
        /// The latest first.
        elders: Vec<Elder>,
    },
}

/// A connection that is given away.
#[derive(Debug, Deserialize, Serialize)]
pub struct Connection {
    pub peer: std::net::SocketAddr,
    pub listener: std::net::SocketAddr,
    pub tls: bool,
    pub server_name: Option<String>,
    /// Its client, where that has shown a certificate.
    #[serde(default)]
    pub client: Option<Shown>,
    pub begun: bool,
    pub last: bool,
    /// What was read of it, in Base64.
    pub read: String,
}

/// What a client has shown to the process that decrypts.
#[derive(Debug, Deserialize, Serialize)]
pub struct Shown {
    /// By which rule it was found good.
    pub rule: [u8; 32],
    /// The certificates, the leaf first, in Base64.
    pub chain: Vec<String>,
}

/// Says it.
///
/// # Errors
/// The other process is gone.
pub fn say(link: &Link, said: &Said, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    link.send(&serde_json::to_vec(said)?, files)
}

/// Hears what is said next. `None`: the other process is gone.
///
/// # Errors
/// Nothing came in time, or nothing that is understood.
pub fn hear(link: &Link) -> io::Result<Option<(Said, Vec<OwnedFd>)>> {
    let Some(message) = link.receive()? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&message.bytes)?, message.files)))
}
