//! File descriptors: how many the process may have, and how many of them connections may take.
//!
//! When the last one is gone nothing can be accepted, no upstream be reached, and nobody look at the process. So a part is
//! set aside for what is not a connection (the control API, logs, names, health checks), and of the rest clients
//! get three quarters at most: whoever was let in finds a descriptor for the connection to its upstream.
//!
//! A process has one table of descriptors: hence the statics. Without [`share_out`] nothing is bounded here.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The part of all descriptors that no connection takes.
const ASIDE_PART: usize = 16;
/// It is at least so many.
const ASIDE_MIN: usize = 16;
/// It need not be more.
const ASIDE_MAX: usize = 512;

/// What connections may take together.
static FOR_CONNECTIONS: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Connections of clients.
static CLIENTS: AtomicUsize = AtomicUsize::new(0);
/// Connections to upstreams.
static UPSTREAMS: AtomicUsize = AtomicUsize::new(0);

/// Raises the limit of open files to what the system allows at most. What it is then; `None`: it is not known.
#[must_use]
pub fn raise_limit() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes one `rlimit` to where it is told to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return None;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: it reads one `rlimit`.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    Some(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Shares out a limit of which so many are taken already by what is not a connection.
pub fn share_out(limit: usize, taken: usize) {
    FOR_CONNECTIONS.store(for_connections(limit, taken), Relaxed);
}

fn for_connections(limit: usize, taken: usize) -> usize {
    let aside = (limit / ASIDE_PART).clamp(ASIDE_MIN, ASIDE_MAX);
    // However few there are: with none nobody could be served.
    limit.saturating_sub(taken).saturating_sub(aside).max(4)
}

/// What connections have of the limit, and how many there may be.
#[must_use]
pub fn of_connections() -> (usize, usize) {
    (CLIENTS.load(Relaxed) + UPSTREAMS.load(Relaxed), FOR_CONNECTIONS.load(Relaxed))
}

/// Whether no further connection can be made to an upstream: idle ones are better closed.
#[must_use]
pub fn are_short() -> bool {
    let (open, most) = of_connections();
    open >= most
}

/// A client's connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OfClient(());

impl OfClient {
    /// Counts one, whether there may be one more or not, and tells that.
    pub(crate) fn take() -> (OfClient, bool) {
        let others = CLIENTS.fetch_add(1, Relaxed);
        (OfClient(()), others < of_clients_max() && !are_short())
    }
}

impl Drop for OfClient {
    fn drop(&mut self) {
        CLIENTS.fetch_sub(1, Relaxed);
    }
}

/// How many connections clients may have.
pub(crate) fn of_clients_max() -> usize {
    clients_max(FOR_CONNECTIONS.load(Relaxed))
}

/// How many connections clients may have within a limit of open files, where little else is open.
#[must_use]
pub fn clients_within(limit: usize) -> usize {
    clients_max(for_connections(limit, ASIDE_MIN))
}

fn clients_max(most: usize) -> usize {
    most - most / 4
}

/// A connection to an upstream, counted until it is dropped.
#[derive(Debug)]
pub struct OfUpstream(());

impl OfUpstream {
    /// Counts one, if there may be one more.
    #[must_use]
    pub fn take() -> Option<OfUpstream> {
        let most = FOR_CONNECTIONS.load(Relaxed).saturating_sub(CLIENTS.load(Relaxed));
        let more = |open: usize| (open < most).then_some(open + 1);
        UPSTREAMS.fetch_update(Relaxed, Relaxed, more).ok().map(|_| OfUpstream(()))
    }
}

impl Drop for OfUpstream {
    fn drop(&mut self) {
        UPSTREAMS.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_set_aside_and_another_kept_for_upstreams() {
        for (limit, taken, connections, clients) in [
            (1_048_576, 30, 1_048_034, 786_026),
            (1_024, 24, 936, 702),
            (80, 24, 40, 30),
            (20, 20, 4, 3),
            (0, 0, 4, 3),
        ] {
            assert_eq!(for_connections(limit, taken), connections, "{limit}");
            assert_eq!(clients_max(connections), clients, "{limit}");
        }
    }

    #[test]
    fn the_limit_is_what_the_system_says_and_stays_when_asked_again() {
        let limit = raise_limit();
        assert!(limit.is_some_and(|limit| limit > 2), "{limit:?}");
        assert_eq!(raise_limit(), limit);
    }
}
