//! The engine with a real store and real applications, in one process.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::delivery::outcome::Backoff;
use tidegate_model::delivery::{Command, Id, Kind, Told};
use tidegate_model::plan::Plan;
use tidegate_model::receipt::Receipt;
use tidegate_model::tenant::Tenants;
use tidegate_store::deliveries::{Appended, Line, Pause};
use tidegate_store::{Location, Store, StoreSettings};
use tidegate_testkit::{Origin, Port, Reply, until};
use tidegate_upstream::Upstreams;
use tidegate_upstream::settings::{
    Balance, BreakerSettings, Discovery, EndpointSettings, HostHeader, OutlierSettings, UpstreamSettings,
    WaitingSettings,
};
use tidegate_wire::settings::Protocol;

use super::*;

/// Deliveries of one queue, to one application.
struct World {
    folder: tempfile::TempDir,
    settings: QueueSettings,
    upstreams: Arc<Upstreams>,
    store: Arc<Store>,
    dispatcher: Arc<Dispatcher>,
    receipts: Arc<Mutex<Vec<Receipt>>>,
    runtime: tokio::runtime::Runtime,
}

fn queue() -> QueueSettings {
    let mut queue = QueueSettings::new("jobs".into(), Way::Push("app".into()));
    let pause = Duration::from_millis(1);
    queue.policy.backoff = Backoff::Exponential { first: pause, max: pause };
    queue
}

fn upstream(origin: &Origin, breaker: Option<BreakerSettings>) -> UpstreamSettings {
    upstream_at(origin.address, breaker)
}

pub(crate) fn upstream_at(address: SocketAddr, breaker: Option<BreakerSettings>) -> UpstreamSettings {
    let second = Duration::from_secs(1);
    UpstreamSettings {
        name: "app".into(),
        discovery: Discovery::Static(vec![EndpointSettings { address, weight: 1 }]),
        protocol: Protocol::Http1,
        tls: None,
        host: HostHeader::Client,
        balance: Balance::RoundRobin,
        shard: None,
        slow_start: Duration::ZERO,
        health: None,
        outlier: OutlierSettings { consecutive: 0, base: second, max: second, max_percent: 50 },
        panic_threshold: 50,
        concurrency: None,
        waiting: WaitingSettings { limit: 10, tenant_limit: 10, bytes: 1 << 20, wait: second },
        breaker,
        retry_budget_percent: 20,
        retry_budget_min_per_second: 10,
        connect_timeout: second,
        connections_max: 100,
        idle_max: 100,
        idle_timeout: 60 * second,
        lifetime_max: 600 * second,
        body_idle: 30 * second,
    }
}

fn open(folder: &tempfile::TempDir) -> Arc<Store> {
    let location = Location::Directory(folder.path().to_owned());
    let settings = StoreSettings { location, bytes_max: 1 << 30, tenant_bytes_max: 1 << 30 };
    Arc::new(Store::open(settings).expect("a store"))
}

fn start(
    store: &Arc<Store>,
    upstreams: &Arc<Upstreams>,
    settings: &QueueSettings,
    receipts: &Arc<Mutex<Vec<Receipt>>>,
) -> Arc<Dispatcher> {
    let plan = Plan {
        name: "p".into(),
        rates: Vec::new(),
        concurrency: None,
        body_bytes_max: None,
        request_bytes_per_second: None,
        response_bytes_per_second: None,
        weight: 1,
    };
    let parts = Parts {
        store: Arc::clone(store),
        upstreams: Arc::clone(upstreams),
        tenants: Arc::new(Tenants::new(1_000)),
        unknown: Arc::new(plan),
        webhooks: Arc::default(),
        cores: 1,
        seed: 7,
    };
    let receipts = Arc::clone(receipts);
    let dispatcher = Dispatcher::start(parts, move || {
        Rc::new(move |receipt| receipts.lock().push(receipt.borrow().clone()))
    });
    dispatcher.configure(vec![settings.clone()]);
    dispatcher
}

impl World {
    fn new(settings: QueueSettings, upstream: UpstreamSettings) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, upstreams) = (open(&folder), Arc::<Upstreams>::default());
        upstreams.apply(vec![upstream]).expect("an upstream");
        let receipts = Arc::default();
        let dispatcher = start(&store, &upstreams, &settings, &receipts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        World { folder, settings, upstreams, store, dispatcher, receipts, runtime }
    }

    fn append(&self, offers: Vec<Offer>) -> Vec<Id> {
        let told = self.runtime.block_on(self.dispatcher.append("jobs", offers)).expect("a store");
        let id = |told| match told {
            Ok(Appended::Accepted(id)) => id,
            other => panic!("{other:?}"),
        };
        told.into_iter().map(id).collect()
    }

    fn state(&self, id: Id) -> Kind {
        self.whole(id).record.state.kind()
    }

    fn whole(&self, id: Id) -> tidegate_store::deliveries::Whole {
        self.runtime.block_on(self.store.read(None, id)).expect("a store").expect("it is there")
    }

    fn becomes(&self, id: Id, state: Kind) {
        until(state.name(), || self.state(id) == state);
    }

    fn drain(&self) {
        until("it has drained", || self.dispatcher.drain());
    }

    /// The process dies and begins anew. Nothing that was under way is told of.
    fn restart(&mut self) {
        self.store.close();
        self.dispatcher.drain();
        self.store = open(&self.folder);
        self.dispatcher = start(&self.store, &self.upstreams, &self.settings, &self.receipts);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.dispatcher.drain();
    }
}

fn offer(tenant: &str) -> Offer {
    Offer { tenant: tenant.into(), body: "work".into(), ..Offer::default() }
}

fn ok() -> Reply {
    Reply::Status(200, "done".to_owned())
}

fn fields(origin: &Origin, name: &str) -> Vec<String> {
    let heads = origin.recorded().into_iter().map(|one| one.head);
    let find = |head: String| {
        let line =
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
        line.unwrap_or_default()
    };
    heads.map(find).collect()
}

#[test]
fn what_fails_is_made_again_and_says_which_attempt_it_is() {
    let calls = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match calls.fetch_add(1, SeqCst) {
        0 => Reply::Status(500, "no".to_owned()),
        1 => Reply::Close,
        _ => ok(),
    });
    let mut settings = queue();
    settings.results = Some(100);
    let world = World::new(settings, upstream(&origin, None));
    let id = world.append(vec![offer("acme")])[0];
    world.becomes(id, Kind::Delivered);
    assert_eq!(fields(&origin, "tidegate-attempt"), ["1", "2", "3"]);
    assert_eq!(fields(&origin, "tidegate-delivery-id"), vec![id.to_string(); 3]);
    assert_eq!(fields(&origin, "idempotency-key"), vec![id.to_string(); 3]);
    assert_eq!(fields(&origin, "tidegate-tenant"), ["acme"; 3]);
    let whole = world.whole(id);
    let statuses: Vec<_> = whole.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(500), None, Some(200)]);
    assert_eq!(whole.result.map(|kept| (kept.status, kept.body)), Some((200, "done".into())));
    let receipts = world.receipts.lock();
    let told: Vec<_> = receipts.iter().map(|receipt| receipt.delivery).collect();
    assert_eq!(told, [Some((id, 1)), Some((id, 2)), Some((id, 3))]);
    assert!(receipts.iter().all(|receipt| receipt.route.as_deref() == Some("queue:jobs")));
}

#[test]
fn what_no_repeat_helps_is_dead_and_so_is_what_failed_too_often() {
    let origin = Origin::start(|path| Reply::Status(if path == "/never" { 400 } else { 503 }, String::new()));
    let mut settings = queue();
    settings.policy.attempts_max = 3;
    let world = World::new(settings, upstream(&origin, None));
    let never = Offer { target: Some("/never".into()), ..offer("a") };
    let ids = world.append(vec![never, offer("a")]);
    ids.iter().for_each(|&id| world.becomes(id, Kind::Dead));
    let attempts: Vec<u32> = ids.iter().map(|&id| world.whole(id).record.attempts).collect();
    assert_eq!(attempts, [1, 3]);
}

#[test]
fn a_failing_head_holds_up_its_key_alone_and_order_is_kept() {
    let open = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&open);
    let origin = Origin::start(move |path| match path == "/k/0" && !told.load(SeqCst) {
        true => Reply::Status(500, String::new()),
        false => ok(),
    });
    let mut settings = queue();
    settings.per_key.ordered = true;
    settings.policy.attempts_max = 1_000_000;
    let world = World::new(settings, upstream(&origin, None));
    let keyed = |key: &str, number: usize| Offer {
        key: Some(key.into()),
        target: Some(format!("/{key}/{number}").into()),
        ..offer("a")
    };
    let held = world.append((0..5).map(|number| keyed("k", number)).collect());
    let free = world.append((0..5).map(|number| keyed("free", number)).collect());
    free.iter().for_each(|&id| world.becomes(id, Kind::Delivered));
    until("its head is tried again", || {
        origin.recorded().iter().filter(|one| one.head.contains("/k/0 ")).count() > 1
    });
    assert!(held[1..].iter().all(|&id| world.state(id) == Kind::Blocked));
    open.store(true, SeqCst);
    held.iter().for_each(|&id| world.becomes(id, Kind::Delivered));
    for key in ["k", "free"] {
        let heads = origin.recorded();
        let mut order: Vec<String> = (heads.iter())
            .filter_map(|one| one.head.split(' ').nth(1).filter(|path| path.starts_with(&format!("/{key}/"))))
            .map(str::to_owned)
            .collect();
        order.dedup();
        assert_eq!(order, (0..5).map(|number| format!("/{key}/{number}")).collect::<Vec<_>>());
    }
}

#[test]
fn an_open_breaker_parks_the_queue_and_burns_no_attempts() {
    let up = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&up);
    let origin =
        Origin::start(move |_| if told.load(SeqCst) { ok() } else { Reply::Status(500, String::new()) });
    let breaker = BreakerSettings { consecutive: 3, cooldown: Duration::from_millis(20) };
    let settings = QueueSettings { concurrency: 1, ..queue() };
    let world = World::new(settings, upstream(&origin, Some(breaker)));
    let ids = world.append((0..200).map(|_| offer("a")).collect());
    until("it is parked", || world.dispatcher.counts().values().any(|counts| counts.parked.is_some()));
    until("it was tried now and then", || origin.recorded().len() >= 6);
    up.store(true, SeqCst);
    ids.iter().for_each(|&id| world.becomes(id, Kind::Delivered));
    // What was spent are the failures that the application has seen, and nothing beside.
    let spent: u32 = ids.iter().map(|&id| world.whole(id).record.attempts).sum();
    assert_eq!(spent as usize, origin.recorded().len());
    assert!(spent < 2 * 200, "{spent}");
}

#[test]
fn probes_that_find_nobody_cost_no_attempts() {
    let port = Port::take();
    let breaker = BreakerSettings { consecutive: 3, cooldown: Duration::from_millis(1) };
    let mut settings = QueueSettings { concurrency: 1, ..queue() };
    settings.policy.attempts_max = 3;
    let nobody = EndpointSettings { address: port.address, weight: 1 };
    let origin = Origin::start(|_| ok());
    let mut upstream = upstream(&origin, Some(breaker));
    upstream.discovery = Discovery::Static(vec![nobody]);
    let world = World::new(settings, upstream.clone());
    let ids = world.append((0..2).map(|_| offer("a")).collect());
    let spent = || ids.iter().map(|&id| world.whole(id).record.attempts).sum::<u32>();
    let probes = || world.receipts.lock().len();
    until("it was tried far more often than there are attempts", || probes() > 12);
    // Those before the breaker opened; the third opened it. One that is under way counts until it is told.
    until("no more than two are spent", || spent() == 2);
    upstream.discovery = Discovery::Static(vec![EndpointSettings { address: origin.address, weight: 1 }]);
    world.upstreams.apply(vec![upstream]).expect("it can be applied");
    ids.iter().for_each(|&id| world.becomes(id, Kind::Delivered));
    assert_eq!(spent(), 4);
}

#[test]
fn who_sends_one_does_not_wait_for_the_many_of_another() {
    let gate = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&gate);
    let origin = Origin::start(move |_| {
        until("it is let through", || told.load(SeqCst) > 0);
        told.fetch_sub(1, SeqCst);
        ok()
    });
    let settings = QueueSettings { concurrency: 1, ..queue() };
    let world = World::new(settings, upstream(&origin, None));
    world.append((0..3_000).map(|_| offer("many")).collect());
    until("the first is under way", || origin.recorded().len() == 1);
    let one = world.append(vec![offer("few")])[0];
    // Whoever is acknowledged is among those of whom the next is chosen.
    gate.store(2, SeqCst);
    world.becomes(one, Kind::Delivered);
    assert_eq!(fields(&origin, "tidegate-tenant")[..2], ["many", "few"]);
    gate.store(usize::MAX / 2, SeqCst);
}

#[test]
fn what_was_under_way_when_the_process_died_is_made_again_and_nothing_else_twice() {
    let hang = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&hang);
    let origin = Origin::start(move |_| if told.load(SeqCst) { Reply::Never } else { ok() });
    let settings = QueueSettings { concurrency: 2, ..queue() };
    let mut world = World::new(settings, upstream(&origin, None));
    let ids = world.append((0..20).map(|_| offer("a")).collect());
    until("two are under way", || origin.recorded().len() == 2);
    hang.store(false, SeqCst);
    world.restart();
    ids.iter().for_each(|&id| world.becomes(id, Kind::Delivered));
    let mut attempts: Vec<u32> = ids.iter().map(|&id| world.whole(id).record.attempts).collect();
    attempts.sort_unstable();
    assert_eq!((attempts[..18].to_vec(), attempts[18..].to_vec()), (vec![1; 18], vec![2; 2]));
    assert_eq!(origin.recorded().len(), 20 + 2);
}

#[test]
fn an_engine_that_panics_begins_anew_with_what_is_on_disk() {
    let hang = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&hang);
    let origin = Origin::start(move |_| if told.load(SeqCst) { Reply::Never } else { ok() });
    let world = World::new(QueueSettings { concurrency: 1, ..queue() }, upstream(&origin, None));
    let ids = world.append((0..3).map(|_| offer("a")).collect());
    until("one is under way", || origin.recorded().len() == 1);
    hang.store(false, SeqCst);
    world.runtime.block_on(world.dispatcher.panic());
    ids.iter().for_each(|&id| world.becomes(id, Kind::Delivered));
    let attempts = ids.iter().map(|&id| world.whole(id).record.attempts).collect::<Vec<_>>();
    assert_eq!((attempts, origin.recorded().len()), (vec![2, 1, 1], 4));
    world.drain();
}

#[test]
fn what_kills_the_process_is_given_up_some_time() {
    let origin = Origin::start(|_| Reply::Never);
    let mut settings = queue();
    settings.policy.attempts_max = 2;
    let mut world = World::new(settings, upstream(&origin, None));
    let id = world.append(vec![offer("a")])[0];
    for attempts in 1..=2 {
        until("it is under way", || origin.recorded().len() == attempts);
        world.restart();
    }
    world.becomes(id, Kind::Dead);
    assert_eq!((world.whole(id).record.attempts, origin.recorded().len()), (2, 2));
}

#[test]
fn what_is_paused_is_not_made_and_a_drain_finishes_what_is_under_way() {
    let origin = Origin::start(|_| ok());
    let mut world = World::new(queue(), upstream(&origin, None));
    let pauses = [Pause::Tenant("a".into()), Pause::Line(Line { queue: "jobs".into(), tenant: "b".into() })];
    for pause in &pauses {
        assert!(world.runtime.block_on(world.dispatcher.pause(pause.clone())).unwrap());
    }
    let ids = world.append(vec![offer("a"), offer("b"), offer("c")]);
    world.becomes(ids[2], Kind::Delivered);
    assert_eq!(fields(&origin, "tidegate-tenant"), ["c"]);
    world.restart();
    world.becomes(world.append(vec![offer("c")])[0], Kind::Delivered);
    assert_eq!(fields(&origin, "tidegate-tenant"), ["c", "c"], "a pause outlives the process");
    for pause in pauses {
        world.runtime.block_on(world.dispatcher.resume(pause)).unwrap();
    }
    world.becomes(ids[0], Kind::Delivered);
    world.becomes(ids[1], Kind::Delivered);
    world.drain();
}

#[test]
fn a_cancelled_one_is_broken_off_and_another_has_its_slot() {
    let origin = Origin::start(|_| Reply::Never);
    let world = World::new(QueueSettings { concurrency: 1, ..queue() }, upstream(&origin, None));
    let ids = world.append(vec![offer("a"), offer("a")]);
    until("the first is under way", || origin.recorded().len() == 1);
    let first = ids.iter().find(|&&id| world.state(id) == Kind::Leased).copied().unwrap();
    let cancel = Command::Cancel { forgotten: u64::MAX / 2 };
    let told = world.runtime.block_on(world.store.change(None, first, cancel, world.dispatcher.now()));
    assert_eq!(told, Ok(Some(Told::Done)));
    until("the application is left alone", || origin.left() == 1);
    until("the other has its slot", || origin.recorded().len() == 2);
    assert_eq!(world.state(first), Kind::Cancelled);
}

#[test]
fn a_queue_that_is_gone_keeps_its_deliveries() {
    let origin = Origin::start(|_| ok());
    let world = World::new(queue(), upstream(&origin, None));
    world.dispatcher.configure(vec![QueueSettings { name: "other".into(), ..queue() }]);
    let late = world.settings.promise(offer("a"), Id(7), world.dispatcher.now()).unwrap();
    let told =
        world.runtime.block_on(world.store.append(vec![late], world.settings.room, world.dispatcher.now()));
    assert_eq!(told, Ok(vec![Appended::Accepted(Id(7))]));
    let refused = world.runtime.block_on(world.dispatcher.append("jobs", vec![offer("a")]));
    assert_eq!(refused, Ok(vec![Err(Unacceptable::Queue("jobs".into()))]));
    world.dispatcher.configure(vec![world.settings.clone()]);
    world.becomes(Id(7), Kind::Delivered);
}

#[test]
fn a_lease_that_ended_ends_nothing_and_what_it_held_is_taken_again() {
    let origin = Origin::start(|_| ok());
    let mut settings = QueueSettings { way: Way::Pull, ..queue() };
    settings.timeout = Duration::from_secs(1);
    let world = World::new(settings, upstream(&origin, None));
    let claim = |wait| Claim {
        queue: "jobs".into(),
        tenants: Vec::new(),
        most: 10,
        bytes_max: u64::MAX,
        first_any: true,
        lease: None,
        wait: Duration::from_secs(wait),
    };
    let claimed = |wait| world.runtime.block_on(world.dispatcher.claim(claim(wait))).unwrap();
    assert_eq!(claimed(0).len(), 0);
    let ids = world.append(vec![offer("a"), offer("b")]);
    let first = claimed(20);
    assert_eq!(first.len(), 2);
    let end = |grip, how| {
        let ending = Ending { grip, how, why: None, result: None };
        world.runtime.block_on(world.dispatcher.end(vec![ending])).remove(0).unwrap()
    };
    assert_eq!(end(first[0].grip, How::Done), Held::Done);
    assert_eq!(end(first[0].grip, How::Done), Held::Lost, "once is enough");
    // The other one's lease is over, and it comes again.
    let second = claimed(20);
    assert_eq!((second[0].id, second[0].attempt), (first[1].id, 2));
    assert_eq!(end(first[1].grip, How::Done), Held::Lost, "its token is an old one");
    let extension =
        Extension { grip: second[0].grip, lease: Some(Duration::from_secs(60)), progress: Some("1".into()) };
    let told = world.runtime.block_on(world.dispatcher.extend(vec![extension])).remove(0);
    assert_eq!(told, Ok(Held::Done));
    assert_eq!(end(second[0].grip, How::Never), Held::Done);
    let states: Vec<Kind> = [first[0].id, second[0].id].map(|id| world.state(id)).to_vec();
    assert_eq!(states, [Kind::Delivered, Kind::Dead]);
    assert!(ids.contains(&second[0].id));
}

#[test]
fn a_lease_outlives_the_process_that_gave_it() {
    let origin = Origin::start(|_| ok());
    let settings = QueueSettings { way: Way::Pull, ..queue() };
    let mut world = World::new(settings, upstream(&origin, None));
    let id = world.append(vec![offer("a")])[0];
    let claim = Claim {
        queue: "jobs".into(),
        tenants: vec!["a".into()],
        most: 1,
        bytes_max: u64::MAX,
        first_any: true,
        lease: Some(Duration::from_secs(600)),
        wait: Duration::from_secs(20),
    };
    let claimed = world.runtime.block_on(world.dispatcher.claim(claim)).unwrap();
    world.restart();
    let ending = Ending { grip: claimed[0].grip, how: How::Done, why: None, result: None };
    // It is there once the engine has found it.
    until("its holder is known", || {
        world.runtime.block_on(world.dispatcher.end(vec![ending.clone()])) == [Ok(Held::Done)]
    });
    world.becomes(id, Kind::Delivered);
}
