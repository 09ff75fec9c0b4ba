//! What is measured.

use std::time::Duration;

use super::drive::Plan;
use super::wires::Queue;

/// A row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As the command line names it.
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The most that is accepted, by so many who offer so many at once.
    Accept { producers: usize, batch: usize },
    /// The most that is accepted, attempted and acknowledged; then how long that takes at half of it.
    EndToEnd,
    /// What memory takes so many that are due in an hour.
    Delayed { count: u64 },
    /// Tidegate alone: how many of another tenant's begin before the one of who comes late.
    Fair,
    /// Tidegate alone: how two tenants share whose weights are as one to three.
    Shared,
    /// Tidegate alone: group commits for a request with an idempotency key.
    Key,
}

impl Kind {
    /// Whether it says how many there are a second: what changes with the machine's day.
    pub fn has_rate(self) -> bool {
        matches!(self, Kind::Accept { .. } | Kind::EndToEnd)
    }
}

/// How many take, each one at a time.
pub const CONSUMERS: usize = 64;
/// How many offer, where it is not the row's subject.
const PRODUCERS: usize = 64;
/// How far those who offer may be ahead of those who take: what waits is no part of the figure.
const AHEAD_MAX: u64 = 1000;
/// Deliveries in a batch.
pub const BATCH: usize = 100;
/// How long delayed deliveries are delayed: longer than any run.
const DELAY: Duration = Duration::from_secs(3600);
/// How long peers may take to be given the delayed ones; what they were given until then is told.
const DELAYED_MAX: Duration = Duration::from_secs(20);
/// How long Tidegate may: all of them are its target.
const DELAYED_OWN_MAX: Duration = Duration::from_secs(120);

pub const ROWS: [Row; 9] = [
    Row { name: "accept-1", title: "accepted, one producer", kind: Kind::Accept { producers: 1, batch: 1 } },
    Row {
        name: "accept-16",
        title: "accepted, 16 producers",
        kind: Kind::Accept { producers: 16, batch: 1 },
    },
    Row {
        name: "accept-256",
        title: "accepted, 256 producers",
        kind: Kind::Accept { producers: 256, batch: 1 },
    },
    Row {
        name: "batch",
        title: "accepted, 16 producers with batches of 100",
        kind: Kind::Accept { producers: 16, batch: BATCH },
    },
    Row {
        name: "end-to-end",
        title: "accepted, attempted and acknowledged, 64 consumers with one each",
        kind: Kind::EndToEnd,
    },
    Row {
        name: "delayed",
        title: "memory with a million that are due in an hour",
        kind: Kind::Delayed { count: 1_000_000 },
    },
    Row { name: "fair", title: "one tenant has 100,000 waiting, another sends one", kind: Kind::Fair },
    Row { name: "shared", title: "two tenants with the weights 1 and 3", kind: Kind::Shared },
    Row { name: "key", title: "a POST with an idempotency key", kind: Kind::Key },
];

/// What all plans begin from.
const PLAN: Plan = Plan {
    queue: Queue::Rest,
    producers: 0,
    consumers: 0,
    batch: 1,
    rate: None,
    delay: None,
    warm: Duration::from_millis(500),
    window: Duration::from_millis(1000),
    windows: 3,
    ahead_max: None,
    count_max: None,
};
/// Nothing is done with this queue yet, nor with the other.
pub const REST: Plan = PLAN;
pub const WORK: Plan = Plan { queue: Queue::Work, ..PLAN };

pub fn accept(producers: usize, batch: usize) -> Plan {
    Plan { producers, batch, ..REST }
}

pub fn end_to_end() -> Plan {
    Plan {
        producers: PRODUCERS,
        consumers: CONSUMERS,
        warm: Duration::from_secs(1),
        ahead_max: Some(AHEAD_MAX),
        ..WORK
    }
}

/// So many a second, whatever becomes of them.
pub fn at_rate(rate: f64) -> Plan {
    Plan { rate: Some(rate), ahead_max: None, warm: Duration::from_secs(2), ..end_to_end() }
}

/// `batches`: whether it has any; who has none is offered one by one, by more.
pub fn delayed(count: u64, batches: bool, own: bool) -> Plan {
    Plan {
        producers: if batches { 16 } else { 256 },
        batch: if batches { BATCH } else { 1 },
        delay: Some(DELAY),
        warm: Duration::ZERO,
        window: if own { DELAYED_OWN_MAX } else { DELAYED_MAX },
        windows: 1,
        count_max: Some(count),
        ..WORK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_of_all_peers_are_over_in_minutes() {
        let row = |row: &Row| match row.kind {
            Kind::Accept { producers, batch } => accept(producers, batch).time(),
            Kind::EndToEnd => end_to_end().time() + at_rate(1.0).time(),
            Kind::Delayed { count } => delayed(count, true, false).time(),
            // Tidegate alone has these.
            Kind::Fair | Kind::Shared | Kind::Key => Duration::ZERO,
        };
        // Each is started once a round, within seconds.
        let peer: Duration = ROWS.iter().map(row).sum::<Duration>() + Duration::from_secs(10);
        assert!(peer * 9 + DELAYED_OWN_MAX * 2 < Duration::from_secs(720), "{peer:?}");
        let rates = ROWS.iter().filter(|row| row.kind.has_rate());
        let again = rates.map(row).sum::<Duration>() + Duration::from_secs(10);
        assert!(again * 9 < Duration::from_secs(400), "{again:?}");
    }
}
