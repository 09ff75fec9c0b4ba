//! How long a client is waited for in the middle of a request's body.
//!
//! Only time in which the client is really waited for counts against it: while the upstream is slow, or the tenant's
//! pace holds the body back, nobody reads, and the client cannot send.

use std::time::Duration;

use tidegate_model::refusal;
use tidegate_model::tick::Tick;

use crate::request_head::Violation;
use crate::settings::ConnectionLimits;

/// The patience with one body.
#[derive(Debug)]
pub struct Patience {
    idle: Duration,
    rate_min: u64,
    grace: Duration,
    bytes: u64,
    /// Waited for the client, in total.
    waited: Duration,
    /// Since when it is waited for now.
    since: Option<Tick>,
}

impl Patience {
    /// The patience that these limits have with a body that begins now.
    #[must_use]
    pub fn new(limits: &ConnectionLimits) -> Patience {
        let (idle, rate_min, grace) = (limits.body_idle, limits.body_rate_min, limits.body_grace);
        Patience { idle, rate_min, grace, bytes: 0, waited: Duration::ZERO, since: None }
    }

    /// Nothing has come: until when the client is waited for.
    pub fn wait(&mut self, now: Tick) -> Tick {
        let since = *self.since.get_or_insert(now);
        since.after(self.idle).min(since.after(self.allowed().saturating_sub(self.waited)))
    }

    /// Bytes have come.
    ///
    /// # Errors
    /// They were waited for too long.
    pub fn came(&mut self, bytes: u64, now: Tick) -> Result<(), Violation> {
        let waited = self.since.take().map_or(Duration::ZERO, |since| now.since(since));
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if waited > self.idle || self.waited > self.allowed() { Err(self.violation(waited)) } else { Ok(()) }
    }

    /// What the client did wrong that let the time pass that [`Patience::wait`] told.
    #[must_use]
    pub fn over(&self, now: Tick) -> Violation {
        self.violation(self.since.map_or(Duration::ZERO, |since| now.since(since)))
    }

    fn violation(&self, waited: Duration) -> Violation {
        let why = match waited >= self.idle {
            true => "the body made no progress",
            false => "the body comes too slowly",
        };
        Violation { kind: &refusal::REQUEST_TIMEOUT, why }
    }

    /// The wait that so many bytes may take in total.
    fn allowed(&self) -> Duration {
        match self.bytes.saturating_mul(1_000_000).checked_div(self.rate_min) {
            Some(micros) => self.grace.max(Duration::from_micros(micros)),
            None => Duration::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn patience(rate_min: u64) -> Patience {
        Patience::new(&ConnectionLimits {
            body_idle: 5 * SECOND,
            body_rate_min: rate_min,
            body_grace: 2 * SECOND,
            ..ConnectionLimits::default()
        })
    }

    /// Waits so many seconds for each part of a body; why that is refused, if it is.
    fn check(rate_min: u64, parts: &[(u64, u64)], expected: Option<&str>) {
        let (mut patience, mut now) = (patience(rate_min), Tick(1));
        let mut why = None;
        for (seconds, bytes) in parts {
            let until = patience.wait(now);
            now = now.after(SECOND * u32::try_from(*seconds).unwrap());
            let came = patience.came(*bytes, now);
            // The timer would have told the same before the bytes came, but for the bytes themselves.
            assert!(came.is_ok() || now > until);
            why = why.or(came.err().map(|violation| violation.why));
        }
        assert_eq!(why, expected, "{parts:?}");
    }

    #[test]
    fn a_body_must_make_progress_and_keep_its_rate() {
        check(0, &[(4, 1), (5, 1), (5, 1)], None);
        check(0, &[(4, 1), (6, 1)], Some("the body made no progress"));
        check(10, &[(1, 1), (1, 1)], None);
        check(10, &[(1, 1), (2, 1)], Some("the body comes too slowly"));
        check(10, &[(1, 100), (4, 0), (4, 0)], None);
        check(10, &[(1, 100), (4, 0), (4, 0), (2, 0)], Some("the body comes too slowly"));
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let mut patience = patience(10);
        patience.wait(Tick(1));
        assert!(patience.came(1, Tick(1).after(SECOND)).is_ok());
        // The upstream is slow for an hour.
        let later = Tick(1).after(3600 * SECOND);
        assert_eq!(patience.wait(later), later.after(SECOND));
        assert_eq!(
            patience.wait(later.after(SECOND)),
            later.after(SECOND),
            "asking again gives no more time"
        );
        assert_eq!(patience.over(later.after(SECOND)).why, "the body comes too slowly");
    }
}
