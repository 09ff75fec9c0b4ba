//! One load, held for a while: open-loop, so that a service which slows down is not asked less.
//!
//! Requests come at seeded Poisson times, whatever became of those before; a latency counts from the moment at which
//! its request should have been sent. What is still without an answer when the time is over counts with the time it
//! has waited so far: nothing that is slow is left out because it is slow.
//!
//! What always holds: never more than [`IN_FLIGHT_MAX`] requests at once, nothing goes on after `Probe::hold` has
//! come back but the closing of connections, and a service that breaks is let go before the time is over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use tidegate_model::message::{Request, Response};
use tidegate_model::tick::Tick;
use tidegate_wire::body::Body;
use tidegate_wire::client::{Reply, Sender, Target, connect};
use tidegate_wire::clock;
use tidegate_wire::task;

use super::ramp::Step;
use super::watch::Watch;
use crate::chance::Chance;

/// Requests under way at once; more, and the service is broken enough to stop.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Requests of one load.
const REQUESTS_MAX: usize = 1 << 20;
/// A request that is sent later than this was sent late by this side.
const LATE: Duration = Duration::from_millis(10);
/// Before the time that counts: connections are made, and a line has formed if one is going to.
const SETTLE: Duration = Duration::from_millis(500);
/// After it, what is under way may end, so that the next load begins on a service at rest.
const REST: Duration = Duration::from_secs(2);

/// Whom to ask, and what.
pub struct Probe {
    /// Where to connect.
    pub target: Target,
    /// The request, which has no body.
    pub request: Request<()>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long a load is held.
    pub time: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Good,
    Refused,
    Failed,
}

/// One load while it lasts.
#[derive(Default)]
struct Tally {
    /// When what counts begins. Until it has, nothing does.
    from: Cell<Option<Tick>>,
    /// When each request under way was due, by its number.
    under_way: RefCell<std::collections::BTreeMap<usize, Tick>>,
    /// Of requests that ended since `from`.
    latencies: RefCell<Vec<Duration>>,
    good: Cell<usize>,
    refused: Cell<usize>,
    failed: Cell<usize>,
    status: Cell<Option<u16>>,
    /// Requests under way times time, in seconds, and when it was last added to.
    area: Cell<f64>,
    looked: Cell<Tick>,
    idle: RefCell<Vec<Sender>>,
}

impl Probe {
    /// Holds a load of so many requests per second; `watch` sees what happens beside it in the time that counts.
    pub(super) async fn hold(self: &Rc<Probe>, rate: f64, seed: u64, watch: &Watch) -> Step {
        let tally = Rc::new(Tally { looked: Cell::new(clock::now()), ..Tally::default() });
        let begin = clock::now();
        let (from, end) = (begin.after(SETTLE), begin.after(SETTLE + self.time));
        let mut chance = Chance::new(seed, 0);
        let (mut due, mut sent, mut late, mut counted) = (begin, 0usize, 0usize, 0usize);
        let (mut before, mut cut) = (None, false);
        loop {
            due = due.after(Duration::from_secs_f64(chance.exponential() / rate).min(self.time));
            if due >= from && before.is_none() {
                clock::sleep_until(from).await;
                before = Some(tally.begin(from));
                watch.begin();
            }
            if due >= end || sent >= REQUESTS_MAX {
                break;
            }
            clock::sleep_until(due).await;
            let now = clock::now();
            if now >= end {
                // This side stood still for so long that the time is over.
                late += 1;
                break;
            }
            if due >= from {
                counted += 1;
                late += usize::from(now.since(due) > LATE);
            }
            if tally.is_breaking() {
                cut = true;
                break;
            }
            tally.started(sent, due);
            let (probe, own, number) = (Rc::clone(self), Rc::clone(&tally), sent);
            task::spawn(async move {
                let by = due.after(probe.timeout);
                let ended = clock::timeout_at(by, probe.ask(&own, by)).await.unwrap_or(End::Failed);
                own.ended(number, ended);
            });
            sent += 1;
        }
        if !cut {
            clock::sleep_until(end).await;
        }
        watch.end();
        let before = before.unwrap_or(0);
        let step = tally.step(Counted { begin: from, sent: counted, late, before, cut });
        self.rest(&tally).await;
        step
    }

    /// Lets what is under way end. What does not is left to its own timeout, and counts no more.
    async fn rest(&self, tally: &Tally) {
        /// Between two looks.
        const LOOK: Duration = Duration::from_millis(20);
        let until = clock::now().after(REST.min(self.timeout));
        while !tally.under_way.borrow().is_empty() && clock::now() < until {
            clock::sleep(LOOK).await;
        }
    }

    /// Sends on a connection that was kept, or on a new one.
    async fn send(&self, tally: &Tally, by: Tick) -> Option<Response<Reply>> {
        let (head, ()) = self.request.clone().into_parts();
        let mut request = Request::from_parts(head, Body::default());
        let kept = tally.idle.borrow_mut().pop();
        if let Some(mut kept) = kept
            && !kept.is_closed()
        {
            match kept.send(&mut request, by).await {
                // It was closed at the very moment: nothing was sent, and another is made.
                Err(error) if !error.sent => {}
                answered => return answered.ok(),
            }
        }
        connect(&self.target).await.ok()?.send(&mut request, by).await.ok()
    }

    async fn ask(&self, tally: &Tally, by: Tick) -> End {
        let answered = self.send(tally, by).await;
        let Some(response) = answered else { return End::Failed };
        let (head, mut reply) = response.into_parts();
        while let Some(frame) = reply.frame().await {
            if frame.is_err() {
                return End::Failed;
            }
        }
        if let Some(sender) = reply.into_sender() {
            tally.idle.borrow_mut().push(sender);
        }
        let status = head.status.as_u16();
        if (200..400).contains(&status) {
            return End::Good;
        }
        tally.status.set(Some(status));
        if matches!(status, 429 | 503) { End::Refused } else { End::Failed }
    }
}

/// What the sending side knows of a load.
struct Counted {
    begin: Tick,
    sent: usize,
    late: usize,
    /// Requests under way when it began.
    before: usize,
    cut: bool,
}

impl Tally {
    /// What counts begins. How many requests are under way.
    fn begin(&self, from: Tick) -> usize {
        self.look();
        self.area.set(0.0);
        self.from.set(Some(from));
        self.under_way.borrow().len()
    }

    /// Adds up how many were under way since it was last looked.
    fn look(&self) {
        let now = clock::now();
        let passed = now.since(self.looked.replace(now)).as_secs_f64();
        self.area.set(self.area.get() + passed * self.under_way.borrow().len() as f64);
    }

    fn started(&self, number: usize, due: Tick) {
        self.look();
        self.under_way.borrow_mut().insert(number, due);
    }

    fn ended(&self, number: usize, end: End) {
        self.look();
        let Some(due) = self.under_way.borrow_mut().remove(&number) else { return };
        if self.from.get().is_none() {
            return;
        }
        let count = match end {
            End::Good => &self.good,
            End::Refused => &self.refused,
            End::Failed => &self.failed,
        };
        count.set(count.get() + 1);
        if end == End::Good {
            self.latencies.borrow_mut().push(clock::now().since(due));
        }
    }

    /// Whether to go on would only do harm.
    fn is_breaking(&self) -> bool {
        /// Failures of which nobody says "by chance".
        const FAILURES: usize = 20;
        let ended = self.good.get() + self.refused.get() + self.failed.get();
        self.under_way.borrow().len() >= IN_FLIGHT_MAX
            || self.failed.get() > FAILURES && self.failed.get() * 4 > ended
    }

    /// What came of it.
    fn step(&self, counted: Counted) -> Step {
        self.look();
        let now = clock::now();
        let seconds = now.since(counted.begin).as_secs_f64().max(1e-3);
        let (good, refused, failed) = (self.good.get(), self.refused.get(), self.failed.get());
        let ended = (good + refused + failed).max(1) as f64;
        let mut latencies = self.latencies.borrow().clone();
        let waiting = self.under_way.borrow();
        latencies.extend(waiting.values().map(|due| now.since(*due)));
        latencies.sort_unstable();
        // A line that grows: what is under way now and was not before, a handful aside that chance may bring.
        let grown = waiting.len().saturating_sub(counted.before + 5);
        Step {
            offered: counted.sent as f64 / seconds,
            good: good as f64 / seconds,
            behind: grown as f64 / counted.sent.max(1) as f64,
            refused: refused as f64 / ended,
            failed: failed as f64 / ended,
            p50: quantile(&latencies, 0.5),
            p99: quantile(&latencies, 0.99),
            concurrency: self.area.get() / seconds,
            late: counted.late as f64 / counted.sent.max(1) as f64,
            status: self.status.get(),
            cut: counted.cut,
        }
    }
}

/// The latency that this share did not exceed (nearest rank).
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tidegate_wire::settings::Protocol;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::app::{App, Behaviour};
    use crate::capacity::seen::{Service, Usage};

    fn check(app: &App, rate: f64, (timeout, time): (Duration, Duration)) -> (Step, Usage) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let target = Target { address: app.address(), protocol: Protocol::Http1, tls: None };
        let request = http::Request::builder().uri("/").header("host", "app").body(()).unwrap().into();
        let probe = Rc::new(Probe { target, request, timeout, time });
        runtime.block_on(async {
            let watch = Watch::start(Service::at(app.address().port()), None);
            let step = probe.hold(rate, 3, &watch).await;
            (step, watch.saw().usage)
        })
    }

    #[test]
    fn counts_what_a_service_answers_and_how_many_are_under_way() {
        let service = crate::app::Service::Constant(Duration::from_millis(5));
        let app = App::start(1, Behaviour { slots: 64, service, ..Behaviour::default() }).unwrap();
        // A machine that stalls may lose the whole of a short one.
        let held = [400, 1_600, 6_400].map(Duration::from_millis);
        let held = held.map(|time| (Duration::from_secs(60), time));
        let counted =
            held.into_iter().map(|times| check(&app, 100.0, times)).find(|(step, _)| step.good > 0.0);
        let (step, usage) = counted.expect("an answer that came in time to be counted");
        // It listens in this very process.
        assert!(usage.service.is_some(), "{usage:?}");
        assert_eq!((step.failed, step.refused, step.cut), (0.0, 0.0, false));
        assert!(step.p50 >= Duration::from_millis(5) && step.p99 >= step.p50, "{step:?}");
        assert!(step.concurrency > 0.0, "{step:?}");
        assert!(app.counts().served > 0 && app.counts().turned_away == 0);
    }

    #[test]
    fn a_service_that_answers_nothing_is_let_go_when_too_many_wait() {
        let app = App::start(1, Behaviour::default()).unwrap();
        app.hang();
        let (step, _) = check(&app, 500.0, (Duration::from_millis(100), Duration::from_secs(5)));
        assert!(step.cut && step.failed > 0.9 && step.good == 0.0, "{step:?}");
    }
}
