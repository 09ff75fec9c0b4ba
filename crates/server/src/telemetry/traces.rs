//! Which receipts are told as traces. It is decided when an exchange has ended and all is known of it: what failed and what was slow
//! is told, of the rest a share. What is told waits, within a bound, until the exporter takes it; nobody waits for the exporter.

use std::sync::Arc;
use std::time::Duration;

use tidegate_model::limit::{Verdict, Word};
use tidegate_model::plan::Rate;
use tidegate_model::receipt::{End, Receipt};
use tidegate_model::trace::{Tail, Why};
use tidegate_wire::clock;
use tokio::sync::Notify;

use super::families::Exemplar;

/// What becomes of an exchange or attempt that is to be told.
pub const TRACE_OUTCOMES: [&str; 5] = ["error", "slow", "share", "bound", "queue"];
const BOUND: usize = 3;
const QUEUE: usize = 4;

/// Which are told, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// Which.
    pub tail: Tail,
    /// How many at most that failed or were slow, over all cores.
    pub most: Rate,
    /// How many may wait of one core.
    pub queue: usize,
}

/// What of one core is told.
pub(super) struct Kept {
    pub(super) settings: TraceSettings,
    /// What was spent of `most`: all cores spend of it.
    spent: Arc<Word>,
    /// Rung when the exporter should not wait any longer.
    due: Arc<Notify>,
    waiting: Vec<Receipt>,
}

impl Kept {
    pub(super) fn new(settings: TraceSettings, spent: Arc<Word>, due: Arc<Notify>) -> Kept {
        Kept { settings, spent, due, waiting: Vec::new() }
    }

    /// Keeps what is to be told. What it is an example of, if it is.
    pub(super) fn look(&mut self, receipt: &Receipt, outcomes: &mut [u64; 5]) -> Option<Exemplar> {
        let tail = &self.settings.tail;
        let (trace, id) = (receipt.trace.as_deref(), receipt.request_id);
        let why = tail.keeps(trace, id, has_failed(receipt), to_head(receipt))?;
        let over = why != Why::Share
            && matches!(self.spent.take(&self.settings.most, receipt.ended), Verdict::Refused { .. });
        // The share is bounded by being one.
        let why = match over {
            true => tail.keeps(trace, id, false, Duration::ZERO),
            false => Some(why),
        };
        let Some(why) = why else {
            outcomes[BOUND] += 1;
            return None;
        };
        if self.waiting.len() >= self.settings.queue {
            outcomes[QUEUE] += 1;
            return None;
        }
        self.waiting.push(receipt.clone());
        if self.waiting.len() == self.settings.queue.div_ceil(2) {
            self.due.notify_one();
        }
        outcomes[why as usize] += 1;
        let seconds = receipt.ended.since(receipt.started).as_secs_f64();
        let (trace, span) =
            receipt.trace.as_ref().map_or((id.0, id.0 as u64), |own| (own.id(), own.span.get()));
        Some(Exemplar { trace, span, value: seconds, at: clock::wall() })
    }

    /// Takes so many of what waits, the oldest first.
    pub(super) fn take(&mut self, most: usize) -> impl Iterator<Item = Receipt> {
        self.waiting.drain(..self.waiting.len().min(most))
    }
}

/// Whether it failed for a reason that is not its client's: what an operator looks at.
pub fn has_failed(receipt: &Receipt) -> bool {
    let status = receipt.status.map_or(0, |status| status.as_u16());
    let broken = matches!(receipt.end, End::UpstreamBroke | End::Panicked);
    // An application that does not take a delivery has failed to, whatever it says.
    broken || status >= 500 || receipt.delivery.is_some() && !(200..400).contains(&status)
}

/// How long the answer's head took: how long a body takes says more of the client, and a tunnel may last for days.
fn to_head(receipt: &Receipt) -> Duration {
    receipt.answered.unwrap_or(receipt.ended).since(receipt.started)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tidegate_model::receipt::RequestId;
    use tidegate_model::tick::Tick;
    use tidegate_model::trace::Share;

    use super::*;

    fn kept(share: f64, burst: u64, queue: usize) -> Kept {
        let tail = Tail { share: Share::of(share), errors: true, slow: Duration::from_secs(1) };
        let most = Rate { name: "traces".into(), limit: burst, window: Duration::from_secs(1), burst };
        Kept::new(TraceSettings { tail, most, queue }, Arc::default(), Arc::default())
    }

    /// Of so many that came to this, how many are told, and what is counted.
    fn check(kept: &mut Kept, count: u64, status: u16, took: Duration, expected: [u64; 5]) {
        let mut outcomes = [0; 5];
        for number in 0..count {
            let address = "127.0.0.1:1".parse().unwrap();
            let id = RequestId(u128::from(number));
            let mut receipt = Receipt::open(id, Tick(1), "127.0.0.1".parse().unwrap(), address);
            receipt.status = StatusCode::from_u16(status).ok();
            receipt.ended = Tick(1).after(took);
            receipt.end = End::Complete;
            kept.look(&receipt, &mut outcomes);
        }
        assert_eq!(outcomes, expected, "{count} with {status} after {took:?}");
    }

    #[test]
    fn what_failed_or_was_slow_is_told_within_a_bound_and_the_rest_by_its_share() {
        let (fast, slow) = (Duration::ZERO, Duration::from_secs(2));
        check(&mut kept(0.0, 5, 100), 8, 503, fast, [5, 0, 0, 3, 0]);
        check(&mut kept(0.0, 5, 100), 8, 200, slow, [0, 5, 0, 3, 0]);
        check(&mut kept(0.0, 5, 100), 8, 200, fast, [0; 5]);
        check(&mut kept(0.0, 5, 100), 8, 404, fast, [0; 5]);
        check(&mut kept(1.0, 5, 100), 8, 200, fast, [0, 0, 8, 0, 0]);
        check(&mut kept(1.0, 5, 100), 8, 503, fast, [5, 0, 3, 0, 0]);
    }

    #[test]
    fn no_more_waits_than_may_and_what_is_too_much_is_counted() {
        let mut kept = kept(1.0, 100, 3);
        check(&mut kept, 5, 200, Duration::ZERO, [0, 0, 3, 0, 2]);
        assert_eq!(kept.take(2).count(), 2);
        check(&mut kept, 5, 200, Duration::ZERO, [0, 0, 2, 0, 3]);
        assert_eq!(kept.take(10).count(), 3);
    }
}
