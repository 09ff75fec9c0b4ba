//! How many connections there are: in the process, and of one core.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tidegate_model::tick::Tick;
use tokio::sync::Notify;

use crate::crowd::{Client, Crowd};
use crate::files::OfClient;
use crate::tls::HandshakeFailure;

/// How often it is said that connections cannot be accepted, and that a client's certificate was refused.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Connections of the whole process.
#[derive(Debug, Default)]
pub struct Census {
    open: AtomicUsize,
    refused: AtomicUsize,
    failed: AtomicUsize,
    resting: AtomicUsize,
    complained_at: AtomicU64,
    handshakes_failed: [AtomicUsize; HandshakeFailure::ALL.len()],
    complained_of_client_at: AtomicU64,
    crowd: Crowd,
}

impl Census {
    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections refused because there were too many.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// Connections that have been between two requests for a while, and take little memory.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.resting.load(Relaxed)
    }

    /// How often a connection could not be accepted, mostly because the process had no file descriptor left.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failed.load(Relaxed)
    }

    /// Counts a connection that was refused.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Counts a connection that could not be accepted. `true`: it may be said, as nobody has of late.
    pub(crate) fn fail(&self, now: Tick) -> bool {
        self.failed.fetch_add(1, Relaxed);
        may_complain(&self.complained_at, now)
    }

    /// Handshakes that failed so.
    #[must_use]
    pub fn handshakes_failed(&self, why: HandshakeFailure) -> usize {
        self.handshakes_failed[why as usize].load(Relaxed)
    }

    /// Counts a handshake that failed.
    pub(crate) fn fail_handshake(&self, why: HandshakeFailure) {
        self.handshakes_failed[why as usize].fetch_add(1, Relaxed);
    }

    /// Whether it may be said that a client's certificate was refused, as nobody has of late.
    pub(crate) fn may_complain_of_clients(&self, now: Tick) -> bool {
        may_complain(&self.complained_of_client_at, now)
    }
}

fn may_complain(complained_at: &AtomicU64, now: Tick) -> bool {
    let last = complained_at.load(Relaxed);
    let due = last == 0 || Tick(last).after(COMPLAINT) <= now;
    due && complained_at.compare_exchange(last, now.0, Relaxed, Relaxed).is_ok()
}

/// A connection that rests, while it is counted.
pub(crate) struct Rest<'a>(&'a Census);

impl Rest<'_> {
    pub(crate) fn begin(census: &Census) -> Rest<'_> {
        census.resting.fetch_add(1, Relaxed);
        Rest(census)
    }
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.resting.fetch_sub(1, Relaxed);
    }
}

/// The connections of one core.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    left: Notify,
}

impl Seats {
    /// Ends when all have left.
    pub(crate) async fn all_left(&self) {
        while self.taken.load(Relaxed) > 0 {
            self.left.notified().await;
        }
    }
}

/// A connection's place: among those that there may be, and among those whose end a drain waits for. It goes with the
/// socket, also after an Upgrade.
#[derive(Debug)]
pub(crate) struct Seat {
    census: Arc<Census>,
    seats: Arc<Seats>,
    client: Option<Client>,
    _file: OfClient,
}

/// Whether there is a place for a connection that has come.
#[derive(Debug)]
pub(crate) struct Room {
    /// Places that are taken besides, in the process.
    pub others: usize,
    /// Whether the connection takes no file descriptor that is kept for something else.
    pub file: bool,
}

impl Seat {
    /// Takes a place, whether there is one or not, and tells that.
    pub(crate) fn take(census: &Arc<Census>, seats: &Arc<Seats>) -> (Seat, Room) {
        let others = census.open.fetch_add(1, Relaxed);
        seats.taken.fetch_add(1, Relaxed);
        let (_file, file) = OfClient::take();
        let (census, seats) = (Arc::clone(census), Arc::clone(seats));
        (Seat { census, seats, client: None, _file }, Room { others, file })
    }

    /// Counts it as one of this client's, once it is known who that is. Whether the client may have it: if it has no
    /// more than `per_address`, and no more than its share when few of the `most` places are left.
    pub(crate) fn is_for(&mut self, address: IpAddr, per_address: Option<usize>, most: usize) -> bool {
        let client = Client::at(address);
        let others = self.census.crowd.enter(client);
        if let Some(before) = self.client.replace(client) {
            self.census.crowd.leave(before);
        }
        // What comes from this machine is a proxy, or a test: its share is all there is.
        let share = self
            .census
            .crowd
            .share(self.census.open().saturating_sub(1), most)
            .filter(|_| !address.is_loopback());
        others < per_address.unwrap_or(usize::MAX).min(share.unwrap_or(usize::MAX))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.census.crowd.leave(client);
        }
        self.census.open.fetch_sub(1, Relaxed);
        self.seats.taken.fetch_sub(1, Relaxed);
        self.seats.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_to_accept_is_counted_each_time_and_said_once_a_second() {
        let census = Census::default();
        let millis = |millis| Tick(0).after(Duration::from_millis(millis));
        let said = [10_000, 10_100, 10_999, 11_000, 11_500].map(|at| census.fail(millis(at)));
        assert_eq!(said, [true, false, false, true, false]);
        assert_eq!(census.failed(), 5);
    }
}
