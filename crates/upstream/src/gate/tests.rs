use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{join_all, poll_immediate};
use proptest::prelude::*;
use std::rc::Rc;
use tidegate_model::gate::{Priority, adaptive};
use tidegate_model::plan::Plan;
use tidegate_model::refusal::Refusal;
use tidegate_model::tenant::{Tenant, Tenants};

use super::*;

const WAITING: WaitingSettings =
    WaitingSettings { limit: 8, tenant_limit: 8, bytes: 1 << 20, wait: Duration::from_secs(60) };

/// A gate, one core's door to it, and tenants of equal weight.
struct Scene {
    gate: Arc<Gate>,
    door: Rc<Door>,
    tenants: Vec<Arc<Tenant>>,
    route: Arc<str>,
}

type Entering<'a> = Pin<Box<dyn Future<Output = Result<Slot, Refusal>> + 'a>>;

fn fixed(limit: u32) -> Option<Concurrency> {
    Some(Concurrency::Fixed(limit))
}

pub(super) fn plan(weight: u32) -> Arc<Plan> {
    Arc::new(Plan {
        name: "p".into(),
        rates: Vec::new(),
        concurrency: None,
        body_bytes_max: None,
        request_bytes_per_second: None,
        response_bytes_per_second: None,
        weight,
    })
}

impl Scene {
    fn new(limit: u32, waiting: &WaitingSettings) -> Scene {
        Scene::of(Gate::new(fixed(limit), waiting, clock::now()))
    }

    fn of(gate: Gate) -> Scene {
        let (gate, all) = (Arc::new(gate), Tenants::new(100));
        let tenants = ["a", "b", "c"].map(|id| all.find_or_add(id, &plan(1), Tick(1)));
        Scene { door: Rc::new(Door::new(&gate)), gate, tenants: tenants.into(), route: "r".into() }
    }

    fn try_enter(&self) -> Option<Slot> {
        self.door.try_enter(true, &self.tenants[0], &self.route, clock::now())
    }

    fn enter_as(&self, tenant: usize, priority: Priority, asked_at: Tick) -> Entering<'_> {
        Box::pin(async move {
            let want = Want {
                tenant: &self.tenants[tenant],
                route: &self.route,
                priority,
                asked_at,
                deadline: clock::now().after(Duration::from_secs(3600)),
                service: Duration::from_millis(1),
                bytes: 100,
            };
            self.door.enter(&want).await.0
        })
    }

    fn enter(&self, tenant: usize) -> Entering<'_> {
        self.enter_as(tenant, Priority::Default, clock::now())
    }

    /// One that waits.
    async fn waiter(&self, tenant: usize) -> Entering<'_> {
        let mut waiter = self.enter(tenant);
        assert!(poll_immediate(waiter.as_mut()).await.is_none(), "it waits");
        waiter
    }

    fn check(&self, in_use: usize, waiting: usize) {
        let status = self.gate.status(clock::now());
        assert_eq!((status.in_use, status.waiting), (in_use, waiting));
        assert_eq!(self.gate.in_use(), in_use);
    }
}

#[tokio::test(flavor = "local")]
async fn the_list_of_who_waits_is_bounded_and_one_who_leaves_makes_room() {
    let scene = Scene::new(1, &WaitingSettings { limit: 2, ..WAITING });
    let slot = scene.try_enter();
    let (first, second) = (scene.waiter(0).await, scene.waiter(0).await);
    let refused = scene.enter(0).await.unwrap_err();
    assert_eq!(refused.kind.code, "upstream.saturated");
    assert!(refused.retry_after.is_some());
    drop(second);
    scene.check(1, 1);
    let third = scene.waiter(0).await;
    drop(slot);
    drop(first.await.unwrap());
    drop(third.await.unwrap());
    scene.check(0, 0);
}

#[tokio::test(flavor = "local")]
async fn who_waits_gets_the_slots_of_a_larger_limit_and_of_none() {
    for limit in [fixed(3), None] {
        let scene = Scene::new(1, &WAITING);
        let _slot = scene.try_enter();
        let waiters = [scene.waiter(0).await, scene.waiter(1).await];
        scene.gate.resize(limit, &WAITING, clock::now());
        for waiter in waiters {
            assert!(waiter.await.is_ok(), "{limit:?}");
        }
    }
}

#[tokio::test(flavor = "local")]
async fn slots_above_a_smaller_limit_are_gone_as_they_come_back() {
    let scene = Scene::new(3, &WAITING);
    let mut slots: Vec<_> = (0..3).map(|_| scene.try_enter().expect("three are free")).collect();
    scene.gate.resize(fixed(1), &WAITING, clock::now());
    for _ in 0..2 {
        slots.pop();
        assert!(scene.try_enter().is_none());
    }
    slots.pop();
    assert!(scene.try_enter().is_some());
}

#[tokio::test(flavor = "local")]
async fn a_slot_given_to_one_that_leaves_just_then_goes_to_the_next() {
    let scene = Scene::new(1, &WAITING);
    let slot = scene.try_enter();
    let (first, second) = (scene.waiter(0).await, scene.waiter(0).await);
    drop(slot);
    // It has the slot, and has not heard of it.
    scene.check(1, 1);
    drop(first);
    let slot = second.await.unwrap();
    scene.check(1, 0);
    drop(slot);
    scene.check(0, 0);
}

#[tokio::test(flavor = "local")]
async fn nobody_waits_for_longer_than_is_configured_nor_past_a_deadline() {
    let scene = Scene::new(1, &WaitingSettings { wait: Duration::from_millis(5), ..WAITING });
    let _slot = scene.try_enter();
    let refused = scene.enter(0).await.unwrap_err();
    assert!(refused.detail.contains("no slot becomes free in time"), "{refused:?}");
    let want = Want {
        tenant: &scene.tenants[0],
        route: &scene.route,
        priority: Priority::Default,
        asked_at: clock::now(),
        deadline: clock::now().after(Duration::from_millis(10)),
        service: Duration::from_secs(1),
        bytes: 1,
    };
    assert_eq!(scene.door.enter(&want).await.0.unwrap_err().kind.code, "deadline.unreachable");
    let refused = scene.gate.status(clock::now()).gate_refused;
    assert_eq!((refused["wait"], refused["deadline"]), (1, 1));
}

/// Lets the waiters in one after another, each for a moment; the order they came in.
async fn order(slot: Option<Slot>, mut waiters: Vec<(&'static str, Entering<'_>)>) -> Vec<&'static str> {
    let (mut held, mut order) = (slot, Vec::new());
    while !waiters.is_empty() {
        drop(held.take());
        let mut entered = None;
        for (index, (_, waiter)) in waiters.iter_mut().enumerate() {
            if let Some(result) = poll_immediate(waiter.as_mut()).await {
                entered = Some((index, result));
                break;
            }
        }
        let (index, result) = entered.expect("a free slot is somebody's");
        order.push(waiters.remove(index).0);
        held = Some(result.unwrap());
    }
    order
}

#[tokio::test(flavor = "local")]
async fn a_tenant_that_waits_with_many_does_not_make_another_wait_for_all_of_them() {
    let scene = Scene::new(1, &WAITING);
    let slot = scene.try_enter();
    let mut waiters = Vec::new();
    for _ in 0..6 {
        waiters.push(("a", scene.waiter(0).await));
    }
    waiters.push(("b", scene.waiter(1).await));
    let order = order(slot, waiters).await;
    let place = order.iter().position(|&one| one == "b").unwrap();
    assert!(place <= 1, "{order:?}");
}

#[tokio::test(flavor = "local")]
async fn a_retry_waits_at_the_place_of_its_first_try() {
    let scene = Scene::new(1, &WAITING);
    let slot = scene.try_enter();
    let long_ago = Tick(clock::now().0.saturating_sub(1_000_000_000));
    let first = scene.waiter(0).await;
    let mut retry = scene.enter_as(0, Priority::Default, long_ago);
    assert!(poll_immediate(retry.as_mut()).await.is_none());
    assert_eq!(order(slot, vec![("first", first), ("retry", retry)]).await, ["retry", "first"]);
}

#[tokio::test(flavor = "local")]
async fn the_less_important_makes_room() {
    let scene = Scene::new(1, &WaitingSettings { limit: 1, ..WAITING });
    let slot = scene.try_enter();
    let mut sheddable = scene.enter_as(0, Priority::Sheddable, clock::now());
    assert!(poll_immediate(sheddable.as_mut()).await.is_none());
    let mut critical = scene.enter_as(1, Priority::Critical, clock::now());
    assert!(poll_immediate(critical.as_mut()).await.is_none());
    assert!(sheddable.await.unwrap_err().detail.contains("a more important request"));
    assert!(scene.enter(2).await.unwrap_err().detail.contains("list is full"));
    drop(slot);
    assert!(critical.await.is_ok());
}

#[tokio::test(flavor = "local")]
async fn a_hedge_takes_no_slot_that_somebody_waits_for() {
    let scene = Scene::new(1, &WAITING);
    let slot = scene.try_enter();
    let waiter = scene.waiter(0).await;
    drop(slot);
    assert!(scene.try_enter().is_none());
    drop(waiter);
    assert!(scene.try_enter().is_some());
}

#[tokio::test(flavor = "local")]
async fn a_lent_slot_is_taken_back_after_a_while_and_only_once() {
    let scene = Scene::new(2, &WAITING);
    let now = clock::now();
    let lend = || scene.try_enter().and_then(|slot| slot.lend(now)).expect("one is free");
    let (read, unread) = (lend(), lend());
    read.waits_for_reader(None);
    let later = |ms| now.after(Duration::from_millis(ms));
    scene.door.sweep("app", later(99));
    scene.check(2, 0);
    scene.door.sweep("app", later(100));
    scene.check(1, 0);
    drop(unread);
    scene.check(1, 0);
    // The upstream takes its time; then the reader does.
    scene.door.sweep("app", later(4_000));
    scene.check(1, 0);
    read.waits_for_reader(Some(later(4_000)));
    scene.door.sweep("app", later(4_100));
    scene.check(0, 0);
    drop(read);
    scene.check(0, 0);
    let stream = lend();
    stream.waits_for_reader(None);
    scene.door.sweep("app", later(5_000));
    scene.check(0, 0);
    assert!(Slot::default().lend(now).is_none());
}

#[tokio::test(flavor = "local")]
async fn who_would_wait_gets_the_slot_of_a_body_that_nobody_reads() {
    let scene = Scene::new(1, &WAITING);
    let long_ago = Tick(clock::now().0.saturating_sub(1_000_000_000));
    let unread = scene.try_enter().and_then(|slot| slot.lend(long_ago)).expect("one is free");
    drop(scene.enter(0).await.unwrap());
    drop(unread);
    scene.check(0, 0);
}

#[tokio::test(flavor = "local")]
async fn an_adaptive_limit_grows_while_the_upstream_answers_more_and_stays_between_its_ends() {
    let terms = adaptive::Terms { min: 2, max: 40, initial: 4 };
    let now = Tick(1_000_000_000);
    let scene = Scene::of(Gate::new(Some(Concurrency::Adaptive(terms)), &WAITING, now));
    let limit = || scene.gate.status(now).concurrency.unwrap();
    assert_eq!((limit(), scene.door.at_once()), (4, Some(0)));
    let mut now = now;
    for _ in 0..4_000 {
        // As many answers as there are slots, in ten milliseconds each.
        let slots = limit();
        for _ in 0..slots {
            scene.door.sample(slots as usize, Duration::from_millis(10), true, now);
        }
        now = now.after(Duration::from_millis(10));
    }
    assert!((20..=40).contains(&limit()), "{}", limit());
    // Another process begins where this one was, within its own ends.
    let other = Gate::new(Some(Concurrency::Adaptive(terms)), &WAITING, now);
    for (found, expected) in [(limit(), limit()), (1_000, 40), (0, 2)] {
        other.go_on_from(found, now);
        assert_eq!(other.status(now).concurrency, Some(expected));
    }
    let number = Gate::new(fixed(7), &WAITING, now);
    number.go_on_from(30, now);
    assert_eq!(number.status(now).concurrency, Some(7));
    let lower = adaptive::Terms { max: 3, ..terms };
    scene.gate.resize(Some(Concurrency::Adaptive(lower)), &WAITING, now);
    assert_eq!(limit(), 3);
    scene.gate.resize(fixed(7), &WAITING, now);
    assert_eq!((limit(), scene.door.at_once()), (7, None));
}

#[test]
fn cores_share_the_slots_and_lose_none() {
    let gate = Arc::new(Gate::new(
        fixed(3),
        &WaitingSettings { limit: 1000, tenant_limit: 1000, ..WAITING },
        clock::now(),
    ));
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let core = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (all, route): (_, Arc<str>) = (Tenants::new(100), "r".into());
        let tenants = ["a", "b"].map(|id| all.find_or_add(id, &plan(1), Tick(1)));
        let door = Rc::new(Door::new(&gate));
        runtime.block_on(join_all((0..8).map(|number| {
            let (door, route, tenant) = (&door, &route, &tenants[number % 2]);
            let (inside, most) = (&inside, &most);
            async move {
                for _ in 0..100 {
                    let slot = match door.try_enter(true, tenant, route, clock::now()) {
                        Some(slot) => slot,
                        None => {
                            let want = Want {
                                tenant,
                                route,
                                priority: Priority::Default,
                                asked_at: clock::now(),
                                deadline: clock::now().after(Duration::from_secs(3600)),
                                service: Duration::ZERO,
                                bytes: 1,
                            };
                            door.enter(&want).await.0.unwrap()
                        }
                    };
                    most.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Relaxed);
                    drop(slot);
                }
            }
        })));
    };
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(core))));
    assert!(most.load(Relaxed) <= 3, "{most:?}");
    assert_eq!((gate.in_use(), gate.status(clock::now()).waiting), (0, 0));
}

/// What may happen to a gate.
#[derive(Clone, Debug)]
enum Event {
    Enter(usize, Priority),
    Poll(prop::sample::Index),
    Leave(prop::sample::Index),
    GiveUp(prop::sample::Index),
    Resize(u32),
    Lend(prop::sample::Index),
    Sweep,
}

fn event() -> impl Strategy<Value = Event> {
    let priority = prop::sample::select(Priority::ALL.to_vec());
    prop_oneof![
        6 => (0..3usize, priority).prop_map(|(tenant, priority)| Event::Enter(tenant, priority)),
        3 => any::<prop::sample::Index>().prop_map(Event::Poll),
        3 => any::<prop::sample::Index>().prop_map(Event::Leave),
        2 => any::<prop::sample::Index>().prop_map(Event::GiveUp),
        1 => (1..6u32).prop_map(Event::Resize),
        1 => any::<prop::sample::Index>().prop_map(Event::Lend),
        1 => Just(Event::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_slot_is_lost_or_idle_whoever_comes_and_goes(events in prop::collection::vec(event(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let scene = Scene::new(2, &WAITING);
        let mut context = Context::from_waker(Waker::noop());
        let (mut slots, mut waiters, mut lent) = (Vec::new(), Vec::<Entering<'_>>::new(), Vec::new());
        let mut limit_max = 2;
        for event in events {
            match event {
                Event::Enter(tenant, priority) => match scene.try_enter() {
                    Some(slot) => slots.push(slot),
                    None => {
                        let mut waiter = scene.enter_as(tenant, priority, clock::now());
                        match waiter.as_mut().poll(&mut context) {
                            Poll::Ready(Ok(slot)) => slots.push(slot),
                            Poll::Ready(Err(_)) => {}
                            Poll::Pending => waiters.push(waiter),
                        }
                    }
                },
                Event::Poll(index) if !waiters.is_empty() => {
                    let index = index.index(waiters.len());
                    if let Poll::Ready(result) = waiters[index].as_mut().poll(&mut context) {
                        drop(waiters.remove(index));
                        slots.extend(result);
                    }
                }
                Event::Leave(index) if !slots.is_empty() => drop(slots.remove(index.index(slots.len()))),
                Event::GiveUp(index) if !waiters.is_empty() => {
                    drop(waiters.remove(index.index(waiters.len())));
                }
                Event::Resize(limit) => {
                    limit_max = limit_max.max(limit);
                    scene.gate.resize(fixed(limit), &WAITING, clock::now());
                }
                Event::Lend(index) if !slots.is_empty() => {
                    lent.extend(slots.remove(index.index(slots.len())).lend(clock::now()));
                }
                Event::Sweep => scene.door.sweep("app", clock::now().after(Duration::from_secs(60))),
                _ => {}
            }
            let status = scene.gate.status(clock::now());
            prop_assert!(status.in_use >= slots.len() && status.in_use <= limit_max as usize);
            prop_assert!(status.waiting == 0 || status.in_use >= status.concurrency.unwrap() as usize);
            prop_assert!(status.waiting <= waiters.len());
        }
        drop((slots, waiters, lent));
        prop_assert_eq!((scene.gate.in_use(), scene.gate.status(clock::now()).waiting), (0, 0));
        scene.gate.resize(fixed(2), &WAITING, clock::now());
        let all = [scene.try_enter(), scene.try_enter(), scene.try_enter()];
        prop_assert_eq!(all.map(|slot| slot.is_some()), [true, true, false]);
    }
}
