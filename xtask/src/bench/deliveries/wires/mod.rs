//! What is spoken to each peer: enough of its protocol to offer deliveries, and to take them.
//!
//! Blocking sockets and a thread for each producer and consumer, alike for all who are spoken to from here, so that none has
//! a better client than another.

use std::fmt::Display;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub mod amqp;
pub mod http;
pub mod nats;
pub mod resp;

/// Longer than anything that a peer may take for an answer.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Where deliveries are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Nobody takes what is in it.
    Rest,
    /// Its deliveries are taken.
    Work,
}

impl Queue {
    pub fn name(self) -> &'static str {
        match self {
            Queue::Rest => "rest",
            Queue::Work => "work",
        }
    }
}

/// A way to a peer.
pub trait Client: Sync {
    /// Makes its queues.
    fn prepare(&self) -> Result<(), String>;

    /// A connection of a producer's own.
    fn producer(&self, queue: Queue) -> Result<Box<dyn Producer>, String>;

    /// A connection of a producer's own that offers many at once.
    fn batches(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        self.producer(queue)
    }

    /// A connection of a consumer's own; none where the peer itself calls whoever is to have a delivery.
    fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String>;
}

pub trait Producer: Send {
    /// Offers these, and comes back when all of them have been accepted.
    fn offer(&mut self, payloads: &[Vec<u8>], delay: Option<Duration>) -> Result<(), String>;
}

pub trait Consumer: Send {
    /// Takes the next delivery, tells it, and acknowledges it; or comes back after a while in which there was none.
    fn next(&mut self, heard: &mut dyn FnMut(&[u8])) -> Result<(), String>;
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&address, SILENCE_MAX).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(text)?;
    stream.set_write_timeout(Some(SILENCE_MAX)).map_err(text)?;
    Ok(stream)
}

fn text(error: impl Display) -> String {
    error.to_string()
}
