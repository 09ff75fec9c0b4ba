//! Open-loop load: who asks for what, when, and how patient they are.
//!
//! Arrivals are drawn from a seed before anything runs, so that two runs get the same requests at the same times; none waits
//! for another's answer. A latency counts from the moment at which its request should have been sent, over all tries of
//! its client. What is without an answer when a run ends has none: it counts as that.
//!
//! What always holds: no more than [`ARRIVALS_MAX`] requests in a run, no more than [`UNDER_WAY_MAX`] at once (what comes
//! beyond fails, and is counted), and this side's own lateness is counted, so that it can be told from the service's.

mod hostile;
mod objects;
mod record;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, RETRY_AFTER};
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;
use tidegate_model::message::{Request, Response};
use tidegate_model::tick::Tick;
use tidegate_wire::body::Body;
use tidegate_wire::client::{Reply, Sender, Target, connect};
use tidegate_wire::clock;
use tidegate_wire::settings::Protocol;
use tidegate_wire::task;

use crate::chance::Chance;
pub use hostile::{Harm, Hostile, Kind};
pub use objects::Objects;
pub(crate) use record::quantile;
pub use record::{Asked, Driven, End};

/// Requests in a run.
pub const ARRIVALS_MAX: usize = 200_000;
/// Requests under way at once.
pub const UNDER_WAY_MAX: usize = 4096;
/// A request that is sent later than this was sent late by this side.
const LATE: Duration = Duration::from_millis(50);

/// Clients of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// What they are called in reports.
    pub name: String,
    /// Their tenant, said in `X-Tenant`.
    pub tenant: Option<String>,
    /// What they ask for.
    pub path: String,
    /// Whether that is one thing, or many: the number of one is put behind the path.
    pub objects: Objects,
    /// Whether they change it, by a `POST`, and do not only look at it.
    pub writes: bool,
    /// Bytes of what they send along.
    pub bytes: usize,
    /// Whether each request says by a key which one it is, the same with each try.
    pub keys: bool,
    /// Whether they ask the same once more, so long after they were answered well.
    pub again: Option<Duration>,
    /// From when on they ask how often: seconds, and requests per second.
    pub rates: Vec<(f64, f64)>,
    /// How long they wait for an answer.
    pub timeout: Duration,
    /// How often they try, in all.
    pub tries: u32,
    /// How long they wait before they try again, if the answer says nothing of it.
    pub pause: Duration,
    /// Whether they heed `Retry-After`.
    pub heeds: bool,
    /// Whether each request comes on a connection of its own.
    pub fresh: bool,
}

impl Source {
    /// Clients that ask so often, wait a second or two, and take no for an answer.
    #[must_use]
    pub fn steady(name: &str, rate: f64) -> Source {
        Source {
            name: name.to_owned(),
            tenant: None,
            path: "/".to_owned(),
            objects: Objects::One,
            writes: false,
            bytes: 0,
            keys: false,
            again: None,
            rates: vec![(0.0, rate)],
            timeout: Duration::from_secs(2),
            tries: 1,
            pause: Duration::ZERO,
            heeds: false,
            fresh: false,
        }
    }

    /// The same for a tenant.
    #[must_use]
    pub fn of(self, tenant: &str) -> Source {
        Source { tenant: Some(tenant.to_owned()), ..self }
    }
}

/// When which source asks, in order: from the start of the run, and its number.
#[must_use]
pub fn arrivals(sources: &[Source], length: Duration, seed: u64) -> Vec<(Duration, usize)> {
    let mut all = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut chance = Chance::new(seed, index as u64);
        for (place, (from, rate)) in source.rates.iter().enumerate() {
            let end = source.rates.get(place + 1).map_or(length.as_secs_f64(), |next| next.0);
            let end = end.min(length.as_secs_f64());
            let mut at = *from;
            while *rate > 0.0 && all.len() < ARRIVALS_MAX {
                at += chance.exponential() / rate;
                if at >= end {
                    break;
                }
                all.push((Duration::from_secs_f64(at), index));
            }
        }
    }
    all.sort();
    all
}

/// A request's name: its source, and below so many bits which of the source's it is.
const NAME_BITS: u32 = 32;

/// By which number an application knows each of these arrivals. A source's requests have the same whoever asks beside it: an
/// application's service times follow from them, so that runs with and without the others can be compared request by request.
fn names(arrivals: &[(Duration, usize)], sources: usize) -> Vec<u64> {
    let mut next: Vec<u64> = (0..sources as u64).map(|source| source << NAME_BITS).collect();
    let name = |(_, source): &(Duration, usize)| {
        next[*source] += 1;
        next[*source]
    };
    arrivals.iter().map(name).collect()
}

/// Something that is done at a time of the run.
pub type Act = (Duration, Box<dyn FnOnce()>);

/// One load.
pub struct Load {
    /// Whom to ask: where it is now.
    pub address: Rc<Cell<SocketAddr>>,
    /// Who asks.
    pub sources: Vec<Source>,
    /// Who means harm.
    pub hostile: Vec<Hostile>,
    /// What is done when: faults.
    pub acts: Vec<Act>,
    /// How long.
    pub length: Duration,
    /// What chance begins with.
    pub seed: u64,
}

struct Shared {
    address: Rc<Cell<SocketAddr>>,
    sources: Vec<Source>,
    begin: Tick,
    asked: RefCell<Vec<Asked>>,
    /// What each source asks for.
    paths: Vec<objects::Paths>,
    under_way: Cell<usize>,
    idle: RefCell<Vec<Sender>>,
    hostile: RefCell<hostile::Harm>,
}

impl Load {
    /// Drives it to its end.
    pub async fn drive(self) -> Driven {
        /// So that everything is set up when the first request is due.
        const AHEAD: Duration = Duration::from_millis(50);
        let begin = clock::now().after(AHEAD);
        let schedule = arrivals(&self.sources, self.length, self.seed);
        let names = names(&schedule, self.sources.len());
        let shared = Rc::new(Shared {
            address: Rc::clone(&self.address),
            asked: RefCell::new(
                schedule
                    .iter()
                    .zip(&names)
                    .map(|((due, source), name)| Asked::new(*due, *source, *name))
                    .collect(),
            ),
            paths: self.sources.iter().map(|source| objects::Paths::of(source, self.seed)).collect(),
            sources: self.sources,
            begin,
            under_way: Cell::new(0),
            idle: RefCell::default(),
            hostile: RefCell::default(),
        });
        let end = begin.after(self.length);
        for (at, act) in self.acts {
            task::spawn(async move {
                clock::sleep_until(begin.after(at)).await;
                act();
            });
        }
        for hostile in self.hostile {
            let (shared, address) = (Rc::clone(&shared), self.address.get());
            task::spawn(async move { hostile.attack(address, begin, &shared.hostile).await });
        }
        let mut late = 0;
        for (number, (due, _)) in schedule.iter().enumerate() {
            let due = begin.after(*due);
            clock::sleep_until(due).await;
            late += usize::from(clock::now().since(due) > LATE);
            if shared.under_way.get() >= UNDER_WAY_MAX {
                shared.asked.borrow_mut()[number].end = End::Failed;
                continue;
            }
            shared.under_way.set(shared.under_way.get() + 1);
            let shared = Rc::clone(&shared);
            task::spawn(async move {
                shared.one(number).await;
                shared.under_way.set(shared.under_way.get() - 1);
            });
        }
        clock::sleep_until(end).await;
        let hostile = shared.hostile.borrow().clone();
        Driven {
            sources: shared.sources.iter().map(|source| source.name.clone()).collect(),
            asked: shared.asked.borrow().clone(),
            begin,
            length: self.length,
            late,
            hostile,
        }
    }
}

impl Shared {
    /// One request with all its tries; and then once more, with all tries, if its client does that.
    async fn one(&self, number: usize) {
        let source = &self.sources[self.asked.borrow()[number].source];
        let first = |asked: &mut Asked, end, at| (asked.end, asked.ended) = (end, Some(at));
        if !self.tries(number, source, first).await {
            return;
        }
        let Some(pause) = source.again else { return };
        clock::sleep(pause).await;
        self.tries(number, source, |asked, end, _| asked.again = Some(end)).await;
    }

    /// Tries until it is answered well, or it was tried often enough. Whether it was; how each try ended is noted.
    async fn tries(&self, number: usize, source: &Source, note: impl Fn(&mut Asked, End, Duration)) -> bool {
        for _ in 0..source.tries.max(1) {
            let at = clock::now();
            self.asked.borrow_mut()[number].sent.push(at.since(self.begin));
            let by = at.after(source.timeout);
            let told = clock::timeout_at(by, self.ask(number, source, by)).await;
            let (end, after) = told.unwrap_or((End::Failed, None));
            note(&mut self.asked.borrow_mut()[number], end, clock::now().since(self.begin));
            if end == End::Good {
                return true;
            }
            let pause = after.filter(|_| source.heeds).unwrap_or(source.pause);
            clock::sleep(pause).await;
        }
        false
    }

    /// One try. How it ended, and when it may be repeated.
    async fn ask(&self, number: usize, source: &Source, by: Tick) -> (End, Option<Duration>) {
        const FAILED: (End, Option<Duration>) = (End::Failed, None);
        let Some(response) = self.send(number, source, by).await else { return FAILED };
        let (head, mut reply) = response.into_parts();
        while let Some(frame) = reply.frame().await {
            if frame.is_err() {
                return FAILED;
            }
        }
        if let Some(sender) = reply.into_sender().filter(|_| !source.fresh) {
            self.idle.borrow_mut().push(sender);
        }
        let after = head.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        let after = after.map(Duration::from_secs);
        match head.status.as_u16() {
            200..=399 => (End::Good, None),
            429 | 503 => (End::Refused, after),
            _ => (End::Failed, after),
        }
    }

    /// Sends on a connection that was kept, or on a new one.
    async fn send(&self, number: usize, source: &Source, by: Tick) -> Option<Response<Reply>> {
        let name = self.asked.borrow()[number].name;
        let path = self.paths[(name >> NAME_BITS) as usize].of_request(name);
        let request = http::Request::builder()
            .method(if source.writes { Method::POST } else { Method::GET })
            .uri(path)
            .header(HOST, "drill")
            .header("drill-request", name)
            .body(Body::full(vec![b'x'; source.bytes]))
            .ok()?;
        let mut request = Request::from(request);
        if let Some(tenant) = &source.tenant {
            request.headers_mut().insert("x-tenant", HeaderValue::from_str(tenant).ok()?);
        }
        if source.keys {
            request.headers_mut().insert("idempotency-key", HeaderValue::from(name));
        }
        let kept = self.idle.borrow_mut().pop().filter(|_| !source.fresh);
        if let Some(mut kept) = kept
            && !kept.is_closed()
        {
            match kept.send(&mut request, by).await {
                // It was closed at the very moment: nothing was sent, and another is made.
                Err(error) if !error.sent => {}
                answered => return answered.ok(),
            }
        }
        let target = Target { address: self.address.get(), protocol: Protocol::Http1, tls: None };
        connect(&target).await.ok()?.send(&mut request, by).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::app::{App, Behaviour, Service};

    /// Longer than any test.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn check(load: Load) -> Driven {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(load.drive())
    }

    fn load(app: &App, source: Source, length: Duration) -> Load {
        Load {
            address: Rc::new(Cell::new(app.address())),
            sources: vec![source],
            hostile: Vec::new(),
            acts: Vec::new(),
            length,
            seed: 1,
        }
    }

    fn quick() -> App {
        let service = Service::Constant(Duration::from_millis(1));
        App::start(1, Behaviour { service, ..Behaviour::default() }).unwrap()
    }

    /// What is found in a load that is long enough for it: a machine that stalls may lose the whole of a short one.
    fn find<T>(what: &str, in_one_of: impl FnMut(Duration) -> Option<T>) -> T {
        let lengths = [300, 1_000, 4_000, 16_000].map(Duration::from_millis);
        lengths.into_iter().find_map(in_one_of).unwrap_or_else(|| panic!("never: {what}"))
    }

    #[test]
    fn a_client_that_is_refused_tries_again_as_often_as_it_may_and_says_which_request_it_is() {
        let app = App::start(1, Behaviour { slots: 0, waiting_max: 0, ..Behaviour::default() }).unwrap();
        let source = Source { tries: 3, timeout: PATIENCE, ..Source::steady("all", 100.0) };
        // The last try of one that was under way at the end may not have come to the server.
        let answered =
            |asked: &Asked| asked.ended.zip(asked.sent.get(2)).is_some_and(|(end, third)| end > *third);
        let done = find("one whose third try was answered", |length| {
            let driven = check(load(&app, source.clone(), length));
            assert!(driven.asked.iter().all(|asked| asked.sent.len() <= 3), "{driven:?}");
            let done: Vec<_> = driven.asked.into_iter().filter(answered).collect();
            (!done.is_empty()).then_some(done)
        });
        assert!(done.iter().all(|asked| asked.end == End::Refused), "{done:?}");
        assert!(app.counts().repeats as usize >= 2 * done.len(), "{:?}", app.counts());
    }

    #[test]
    fn acts_happen_and_good_answers_count_from_when_they_were_due() {
        let app = quick();
        let driven = find("an act, and a good answer", |length| {
            let acted = Rc::new(Cell::new(false));
            let act = Rc::clone(&acted);
            let mut load = load(&app, Source::steady("all", 200.0).of("acme"), length);
            load.acts.push((Duration::from_millis(100), Box::new(move || act.set(true))));
            let driven = check(load);
            let good = driven.asked.iter().filter(|asked| asked.end == End::Good).count();
            assert!(app.counts().served >= good as u64);
            (acted.get() && good > 0).then_some(driven)
        });
        assert!(driven.asked.iter().filter_map(Asked::latency).all(|time| time >= Duration::from_millis(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_same_seed_gives_the_same_arrivals_and_as_many_as_were_asked_for(seed: u64, rate in 50.0f64..500.0) {
            let rates = vec![(0.0, rate), (5.0, 0.0), (8.0, 2.0 * rate)];
            let sources = [Source { rates, ..Source::steady("a", 0.0) }, Source::steady("b", rate)];
            let length = Duration::from_secs(10);
            let all = arrivals(&sources, length, seed);
            prop_assert_eq!(&all, &arrivals(&sources, length, seed));
            prop_assert!(all.is_sorted() && all.iter().all(|(at, _)| *at < length));
            let count = |index| all.iter().filter(|(_, source)| *source == index).count() as f64;
            let quiet = all.iter().filter(|(at, source)| *source == 0 && at.as_secs() >= 5 && at.as_secs() < 8);
            prop_assert_eq!(quiet.count(), 0);
            prop_assert!((count(0) / (9.0 * rate) - 1.0).abs() < 0.3, "{}", count(0));
            prop_assert!((count(1) / (10.0 * rate) - 1.0).abs() < 0.3, "{}", count(1));
        }

        #[test]
        fn a_source_asks_for_the_same_whoever_asks_beside_it(seed: u64, rate in 50.0f64..500.0) {
            let length = Duration::from_secs(2);
            let of_second = |first: f64| {
                let all = arrivals(&[Source::steady("a", first), Source::steady("b", 50.0)], length, seed);
                let named = names(&all, 2).into_iter().zip(all);
                named.filter(|(_, (_, source))| *source == 1).collect::<Vec<_>>()
            };
            prop_assert_eq!(of_second(rate), of_second(0.0));
        }
    }
}
