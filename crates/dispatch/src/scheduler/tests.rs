use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use tidegate_model::delivery::{Id, Lane};
use tidegate_model::gate::Priority;
use tidegate_model::plan::Rate;

use super::*;
use crate::settings::{PerKey, QueueSettings};

/// A delivery that may be begun.
pub(crate) fn ready(queue: &str, tenant: &str, seq: u64, rank: i64) -> Ready {
    Ready {
        seq: Seq(seq),
        id: Id(u128::from(seq)),
        line: Line { queue: queue.into(), tenant: tenant.into() },
        lane: None,
        rank,
        priority: Priority::Default,
        due: 0,
        expires: None,
        attempts: 0,
        attempts_max: None,
        bytes: 100,
    }
}

fn keyed(tenant: &str, seq: u64, key: &str) -> Ready {
    let lane = Some(Lane { key: key.into(), ordered: false, open_max: u32::MAX });
    Ready { lane, ..ready("q", tenant, seq, seq as i64) }
}

fn rate(limit: u64, burst: u64) -> Rate {
    Rate { name: "r".into(), limit, window: Duration::from_secs(1), burst }
}

fn queue() -> QueueSettings {
    QueueSettings::new("q".into(), settings::Way::Push("app".into()))
}

const MS: Duration = Duration::from_millis(1);

/// Disk, upstream and clock as they could be.
struct World {
    scheduler: Scheduler,
    disk: BTreeMap<Line, BTreeMap<Place, Ready>>,
    weights: HashMap<&'static str, u32>,
    now: Tick,
    running: BTreeMap<(Tick, Seq), Ready>,
    begun: Vec<(Tick, Ready)>,
    expired: Vec<Seq>,
    /// How long an attempt of a tenant takes.
    takes: fn(&Ready) -> Duration,
    closed: bool,
}

impl World {
    fn new(settings: QueueSettings, bounds: Bounds) -> World {
        let mut scheduler = Scheduler::new(bounds);
        scheduler.configure(&[Arc::new(settings)]);
        scheduler.found_all();
        World {
            scheduler,
            disk: BTreeMap::new(),
            weights: HashMap::new(),
            now: Tick(1_000_000_000),
            running: BTreeMap::new(),
            begun: Vec::new(),
            expired: Vec::new(),
            takes: |_| MS,
            closed: false,
        }
    }

    fn of(settings: QueueSettings) -> World {
        World::new(settings, Bounds::default())
    }

    /// Puts it on disk, and tells of it.
    fn append(&mut self, ready: Ready) {
        self.disk.entry(ready.line.clone()).or_default().insert(place(&ready), ready.clone());
        let weights = &self.weights;
        self.scheduler.arrived(ready, |tenant| weights.get(tenant).copied().unwrap_or(1));
    }

    /// Puts them on disk; of a million appended in a night the news is "look".
    fn find(&mut self, all: impl Iterator<Item = Ready>) {
        for ready in all {
            self.disk.entry(ready.line.clone()).or_default().insert(place(&ready), ready);
        }
        self.look();
    }

    fn look(&mut self) {
        self.scheduler.look_anew();
        let weights = &self.weights;
        for (line, items) in &self.disk {
            if !items.is_empty() {
                self.scheduler.found(line, |tenant| weights.get(tenant).copied().unwrap_or(1));
            }
        }
        self.scheduler.found_all();
    }

    /// Does what is to be done now.
    fn turn(&mut self) {
        let mut actions = Vec::new();
        loop {
            self.scheduler.turn(self.now, 0, &mut actions);
            if actions.is_empty() {
                return;
            }
            for action in actions.drain(..) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Load(line, after, most) => {
                let found = self.disk.get(&line).into_iter().flatten();
                let found = found.filter(|(place, _)| after.is_none_or(|after| **place > after));
                let found = found.take(most).map(|(_, ready)| ready.clone()).collect();
                self.scheduler.loaded(&line, Some(found), most);
            }
            Action::Start(ready) => {
                let items = self.disk.entry(ready.line.clone()).or_default();
                if items.remove(&place(&ready)).is_none() {
                    self.scheduler.ended(ready.seq, Ended::NotBegun, self.now);
                    return;
                }
                self.begun.push((self.now, ready.clone()));
                self.running.insert((self.now.after((self.takes)(&ready)), ready.seq), ready);
            }
            Action::Expire(ready) => {
                self.disk.entry(ready.line.clone()).or_default().remove(&place(&ready));
                self.expired.push(ready.seq);
            }
        }
    }

    /// Goes on to whatever is next. `false`: nothing is.
    fn step(&mut self) -> bool {
        self.turn();
        if self.scheduler.has_room_again() && self.scheduler.rotate() {
            self.look();
            self.turn();
        }
        let ends = self.running.first_key_value().map(|(&(at, _), _)| at);
        let Some(next) = [ends, self.scheduler.wakes()].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.running.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let ready = entry.remove();
            if self.closed {
                self.disk.entry(ready.line.clone()).or_default().insert(place(&ready), ready.clone());
                self.scheduler.ended(ready.seq, Ended::Unsent(Duration::from_secs(1)), self.now);
                self.scheduler.arrived(ready, |_| 1);
            } else {
                self.scheduler.ended(ready.seq, Ended::Made, self.now);
            }
        }
        true
    }

    fn run(&mut self, most: Duration) {
        let until = self.now.after(most);
        while self.now < until && self.step() {}
    }

    fn begun_of(&self, tenant: &str) -> usize {
        self.begun.iter().filter(|(_, ready)| &*ready.line.tenant == tenant).count()
    }

    fn left(&self) -> usize {
        self.disk.values().map(BTreeMap::len).sum()
    }
}

#[test]
fn tenants_share_slot_time_by_weight_whatever_their_attempts_take() {
    let mut world = World::of(QueueSettings { concurrency: 8, ..queue() });
    world.weights = [("one", 1), ("three", 3)].into();
    world.takes = |ready| if &*ready.line.tenant == "one" { 5 * MS } else { 2 * MS };
    world
        .find((0..20_000).map(|seq| ready("q", if seq % 2 == 0 { "one" } else { "three" }, seq, seq as i64)));
    world.run(Duration::from_secs(2));
    let (one, three) = (world.begun_of("one") * 5, world.begun_of("three") * 2);
    let ratio = three as f64 / one as f64;
    assert!((2.85..3.15).contains(&ratio), "{ratio}");
}

#[test]
fn who_sends_one_waits_no_longer_than_what_is_under_way() {
    let mut world = World::of(QueueSettings { concurrency: 4, ..queue() });
    world.takes = |_| 10 * MS;
    world.find((0..100_000).map(|seq| ready("q", "many", seq, seq as i64)));
    world.run(Duration::from_secs(2));
    assert!(world.left() > 90_000);
    let (before, sent) = (world.begun.len(), world.now);
    world.append(ready("q", "few", 200_000, i64::MAX));
    while world.begun_of("few") == 0 {
        assert!(world.step());
    }
    assert!(world.now.since(sent) <= 10 * MS, "{:?}", world.now.since(sent));
    // One of those whose slots were free before it came.
    let passed = world.begun[before..].iter().take_while(|(_, ready)| &*ready.line.tenant == "many").count();
    assert!(passed <= 1, "{passed}");
}

#[test]
fn hanging_attempts_are_charged_while_they_hang() {
    let mut world = World::of(QueueSettings { concurrency: 4, ..queue() });
    world.takes = |ready| match &*ready.line.tenant {
        "hangs" if ready.seq.0 > 100 => Duration::from_secs(30),
        _ => MS,
    };
    world.find((0..100).map(|seq| ready("q", "hangs", seq, seq as i64)));
    world.run(Duration::from_secs(1));
    world.find((101..200).map(|seq| ready("q", "hangs", seq, seq as i64)));
    world.find((1_000..60_000).map(|seq| ready("q", "quick", seq, seq as i64)));
    world.run(Duration::from_secs(20));
    // What it has in the end is half at most, though each of its attempts was thought to take a millisecond.
    assert!(world.begun_of("hangs") <= 100 + 4 && world.begun_of("quick") > 10_000);
}

#[test]
fn who_was_charged_too_much_does_not_step_back_before_who_came_since() {
    let mut world = World::of(QueueSettings { concurrency: 1, ..queue() });
    world.takes = |ready| if ready.seq.0 == 0 { 1_400 * MS } else { MS };
    world.find((0..1_000).map(|seq| ready("q", "many", seq, seq as i64)));
    world.turn();
    // While it hangs it is charged what it outruns, and a little more.
    for passed in [1, 3, 10, 900] {
        world.now = world.now.after(passed * MS);
        world.turn();
    }
    world.append(ready("q", "few", 5_000, 0));
    while world.begun_of("few") == 0 {
        assert!(world.step());
    }
    assert_eq!(world.begun_of("many"), 1, "who came since is next");
}

#[test]
fn within_a_line_the_rank_decides() {
    let mut world = World::of(QueueSettings { concurrency: 1, ..queue() });
    for (seq, rank) in [(1, 50), (2, 10), (3, 30)] {
        world.append(ready("q", "t", seq, rank));
    }
    world.run(Duration::from_secs(1));
    let order: Vec<u64> = world.begun.iter().map(|(_, ready)| ready.seq.0).collect();
    assert_eq!(order, [2, 3, 1]);
}

#[test]
fn no_more_is_begun_than_the_rates_of_queue_and_key_allow() {
    let mut world = World::of(QueueSettings { concurrency: 100, rate: Some(rate(50, 5)), ..queue() });
    world.find((0..1_000).map(|seq| ready("q", "t", seq, seq as i64)));
    world.run(Duration::from_secs(4));
    assert!((200..=206).contains(&world.begun.len()), "{}", world.begun.len());

    let per_key = PerKey { rate: Some(rate(10, 1)), ..PerKey::default() };
    let mut world = World::of(QueueSettings { concurrency: 100, per_key, ..queue() });
    (0..100).for_each(|seq| world.append(keyed("t", seq, "slow")));
    (100..110).for_each(|seq| world.append(keyed("t", seq, &format!("k{seq}"))));
    world.turn();
    // The first of each key: who waits for its rate is in nobody's way.
    assert_eq!(world.begun.len(), 1 + 10);
    world.run(Duration::from_secs(2));
    assert!((30..=32).contains(&world.begun.len()), "{}", world.begun.len());
    world.run(Duration::from_secs(60));
    assert_eq!((world.begun.len(), world.left()), (110, 0));
}

#[test]
fn a_parked_queue_begins_nothing_and_one_attempt_finds_out() {
    let mut world = World::of(QueueSettings { concurrency: 10, ..queue() });
    world.closed = true;
    (0..1_000).for_each(|seq| world.append(ready("q", "t", seq, seq as i64)));
    world.run(Duration::from_millis(500));
    let raced = world.begun.len();
    assert_eq!(raced, 10, "what was under way when it closed");
    world.run(Duration::from_secs(10));
    assert!(world.begun.len() - raced <= 12, "one a second: {}", world.begun.len() - raced);
    world.closed = false;
    world.run(Duration::from_secs(5));
    assert_eq!(world.left(), 0);
}

#[test]
fn what_is_paused_waits_and_nothing_waits_for_it() {
    let line = |tenant: &str| Line { queue: "q".into(), tenant: tenant.into() };
    for pause in [Pause::Tenant("a".into()), Pause::Line(line("a"))] {
        let mut world = World::of(queue());
        world.scheduler.pause(pause.clone());
        (0..50).for_each(|seq| world.append(ready("q", if seq % 2 == 0 { "a" } else { "b" }, seq, 0)));
        world.run(Duration::from_secs(1));
        assert_eq!((world.begun_of("a"), world.begun_of("b")), (0, 25));
        world.scheduler.resume(&pause);
        world.run(Duration::from_secs(1));
        assert_eq!(world.begun_of("a"), 25);
    }
    let mut world = World::of(queue());
    world.scheduler.pause(Pause::Queue("q".into()));
    world.append(ready("q", "a", 1, 0));
    world.run(Duration::from_secs(1));
    assert_eq!(world.begun.len(), 0);
}

#[test]
fn memory_is_bounded_whatever_there_is_on_disk() {
    let bounds = Bounds { lines: 20, items: 100, window: 16, loads: 4, ..Bounds::default() };
    let mut world = World::new(QueueSettings { concurrency: 3, ..queue() }, bounds);
    world.find((0..3_000).map(|seq| ready("q", &format!("t{}", seq % 100), seq, seq as i64)));
    for _ in 0..10_000 {
        let (items, lines) = world.scheduler.size();
        assert!(items <= 2 * 100 && lines <= 20, "{items} {lines}");
        if !world.step() {
            break;
        }
    }
    // Those for which there was no room had their turn, too.
    assert_eq!((world.begun.len(), world.left(), world.scheduler.size()), (3_000, 0, (0, 0)));
}

#[test]
fn a_tenant_has_no_more_under_way_than_it_may_and_large_ones_go_one_by_one() {
    let settings = QueueSettings { concurrency: 10, tenant_concurrency: Some(2), ..queue() };
    let mut world = World::of(settings);
    (0..20).for_each(|seq| world.append(ready("q", "a", seq, 0)));
    world.append(ready("q", "b", 100, 0));
    world.turn();
    assert_eq!((world.begun_of("a"), world.begun_of("b")), (2, 1));

    let mut world = World::new(queue(), Bounds { bytes: 1_000, ..Bounds::default() });
    (0..5).for_each(|seq| world.append(Ready { bytes: 2_000, ..ready("q", "a", seq, 0) }));
    world.turn();
    assert_eq!(world.begun.len(), 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.begun.len(), 5);
}

#[test]
fn what_has_expired_is_not_begun_and_what_is_gone_neither() {
    let mut world = World::of(queue());
    world.scheduler.pause(Pause::Queue("q".into()));
    world.append(Ready { expires: Some(5), ..ready("q", "a", 1, 0) });
    world.append(ready("q", "a", 2, 0));
    let gone = ready("q", "a", 2, 0);
    assert!(!world.scheduler.gone(Seq(2), &gone.line));
    world.scheduler.resume(&Pause::Queue("q".into()));
    let mut actions = Vec::new();
    world.scheduler.turn(world.now, 5, &mut actions);
    let told: Vec<bool> = actions.iter().map(|action| matches!(action, Action::Start(_))).collect();
    assert_eq!(told, [false], "{actions:?}");
}

const FIVE: Most = Most { count: 5, bytes: u64::MAX, first_any: true };

#[test]
fn what_is_pulled_is_taken_by_whoever_asks_for_its_tenant() {
    let settings = QueueSettings { way: settings::Way::Pull, concurrency: 5, ..queue() };
    let mut world = World::of(settings);
    (0..10).for_each(|seq| world.append(ready("q", if seq < 8 { "a" } else { "b" }, seq, 0)));
    world.turn();
    assert_eq!(world.begun.len(), 0);
    let mut actions = Vec::new();
    let queue: Arc<str> = "q".into();
    assert_eq!(world.scheduler.claim(&queue, &["b".into()], FIVE, world.now, 0, &mut actions), 2);
    assert_eq!(world.scheduler.claim(&queue, &[], FIVE, world.now, 0, &mut actions), 3);
    assert_eq!(world.scheduler.claim(&queue, &[], FIVE, world.now, 0, &mut actions), 0, "as many as may be");
}

#[test]
fn no_more_bytes_are_taken_at_once_than_asked_for_but_one_whatever_it_has() {
    let settings = QueueSettings { way: settings::Way::Pull, ..queue() };
    let mut world = World::of(settings);
    let sizes = [900, 40, 40, 40];
    (0..).zip(sizes).for_each(|(seq, bytes)| world.append(Ready { bytes, ..ready("q", "a", seq, 0) }));
    let (mut actions, queue) = (Vec::new(), Arc::<str>::from("q"));
    let mut claim = |first_any| {
        let most = Most { count: 10, bytes: 100, first_any };
        world.scheduler.claim(&queue, &[], most, world.now, 0, &mut actions)
    };
    assert_eq!([false, true, true, true, true].map(&mut claim), [0, 1, 2, 1, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn each_is_begun_once_in_the_end(
        steps in proptest::collection::vec((0..8_u8, 0..5_usize, -50..50_i64), 1..150),
        concurrency in 1..5_u32,
    ) {
        let bounds = Bounds { lines: 3, items: 12, window: 4, bytes: 500, loads: 2 };
        let per_key = PerKey { rate: Some(rate(100, 1)), ..PerKey::default() };
        let mut world = World::new(QueueSettings { concurrency, per_key, ..queue() }, bounds);
        let mut next = 0;
        for (step, tenant, rank) in steps {
            next += 1;
            let tenant = ["a", "b", "c", "d", "e"][tenant];
            let lane = (rank > 30).then(|| Lane { key: "k".into(), ordered: false, open_max: 9 });
            let one = Ready { lane, ..ready("q", tenant, next, rank) };
            match step {
                0..=2 => world.append(one),
                // The news of it is lost, and that is told.
                3 => world.find(std::iter::once(one)),
                4 => world.closed = !world.closed,
                5 => world.scheduler.pause(Pause::Tenant(tenant.into())),
                6 => world.scheduler.resume(&Pause::Tenant(tenant.into())),
                _ => drop(world.step()),
            }
            prop_assert!(world.running.len() <= concurrency as usize);
        }
        world.closed = false;
        ["a", "b", "c", "d", "e"].iter().for_each(|tenant| world.scheduler.resume(&Pause::Tenant((*tenant).into())));
        // Who found no room while others were paused is looked for once in a while.
        for _ in 0..300 {
            world.scheduler.rotate();
            world.look();
            world.run(Duration::from_secs(1));
        }
        prop_assert_eq!(world.left(), 0);
        prop_assert_eq!(world.scheduler.size(), (0, 0));
    }
}

#[test]
fn slots_that_are_given_away_count_as_taken() {
    let mut world = World::of(QueueSettings { concurrency: 3, ..queue() });
    assert!(world.scheduler.takes_whatever_comes("q"));
    assert_eq!(world.scheduler.spare("q"), 3);
    world.scheduler.set_aside("q", 2);
    assert_eq!(world.scheduler.spare("q"), 1);
    (1..=3).for_each(|seq| world.append(ready("q", "a", seq, 0)));
    assert!(!world.scheduler.takes_whatever_comes("q"), "something waits");
    world.turn();
    assert_eq!((world.begun.len(), world.scheduler.spare("q")), (1, 0));
    world.scheduler.set_aside("q", 0);
    world.turn();
    assert_eq!(world.begun.len(), 3);
}

#[test]
fn slots_are_given_away_only_where_nothing_else_bounds_what_is_begun() {
    let takes = |settings| World::of(settings).scheduler.takes_whatever_comes("q");
    assert!(takes(queue()));
    assert!(!takes(QueueSettings { rate: Some(rate(1, 1)), ..queue() }));
    assert!(!takes(QueueSettings { tenant_concurrency: Some(1), ..queue() }));
    assert!(!takes(QueueSettings { way: settings::Way::Pull, ..queue() }));
    let mut world = World::of(queue());
    world.scheduler.pause(Pause::Tenant("b".into()));
    assert!(!world.scheduler.takes_whatever_comes("q"));
    world.scheduler.set_pauses(Vec::new());
    world.scheduler.park("q", world.now.after(MS));
    assert!(!world.scheduler.takes_whatever_comes("q"));
    let mut world = World::of(queue());
    world.scheduler.look_anew();
    assert!(!world.scheduler.takes_whatever_comes("q"), "nobody knows what is on disk");
}

#[test]
fn slots_that_are_given_away_leave_room_for_what_waits() {
    let bytes = 40 * AHEAD_BYTES_MAX;
    let mut world =
        World::new(QueueSettings { concurrency: 1_000, ..queue() }, Bounds { bytes, ..Bounds::default() });
    assert_eq!(world.scheduler.spare("q"), 10);
    world.scheduler.set_aside("q", 10);
    world.append(Ready { bytes: 30 * AHEAD_BYTES_MAX, ..ready("q", "a", 1, 0) });
    world.turn();
    assert_eq!(world.begun.len(), 1);
}

#[test]
fn who_was_begun_ahead_owes_no_more_than_who_had_a_turn() {
    let mut world = World::of(QueueSettings { concurrency: 2, ..queue() });
    // It has something under way all the time.
    world.scheduler.begun(&ready("q", "a", 0, 0), world.now, |_| 1);
    for seq in 1..=1_000 {
        world.scheduler.begun(&ready("q", "a", seq, 0), world.now, |_| 1);
        world.now = world.now.after(MS);
        world.scheduler.ended(Seq(seq - 1), Ended::Made, world.now);
    }
    for seq in 0..100 {
        world.append(ready("q", "a", 2_000 + seq, 0));
        world.append(ready("q", "b", 3_000 + seq, 0));
    }
    world.scheduler.ended(Seq(1_000), Ended::Made, world.now);
    world.run(20 * MS);
    let (of_a, of_b) = (world.begun_of("a"), world.begun_of("b"));
    assert!(of_a.abs_diff(of_b) <= 4, "{of_a} and {of_b}");
}
