//! What always holds, for whatever happens; and who goes first, and who goes, in small scenes.

use super::bench::{Bench, NOBODY, PATIENT, Step, TERMS, steps};
use super::reference::{Asking, Told};
use super::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_naive_list_does(steps in steps(4, 120)) {
        let mut bench = Bench::new(TERMS);
        for step in steps {
            bench.step(step);
        }
    }

    #[test]
    fn whoever_is_gone_has_left_nothing(steps in steps(12, 80)) {
        let mut bench = Bench::new(Terms { tenants_max: 3, ..TERMS });
        let mut woken = Vec::new();
        for step in steps {
            let now = bench.now;
            match step {
                Step::Pass { micros } => {
                    bench.now = now.after(Duration::from_micros(micros));
                    bench.fair.expire(bench.now, &mut woken);
                }
                Step::Ask { tenant, weight, class, bytes, .. } => {
                    let asking = Asking { tenant, weight, priority: Priority::ALL[class], bytes, ..NOBODY };
                    bench.ask(asking, &mut woken);
                }
                Step::Cancel { nth } | Step::Leave { nth, .. } => {
                    let key = bench.waiting.keys().copied().min_by_key(|key| key.index() ^ (nth & 7));
                    let key = key.or(bench.holding.get(nth).map(|held| held.0));
                    if let Some(key) = key {
                        bench.fair.cancel(key, now, &mut woken);
                        bench.fair.cancel(key, now, &mut woken);
                        bench.waiting.remove(&key);
                        bench.holding.retain(|&(held, ..)| held != key);
                    }
                }
                Step::Unkeyed { .. } | Step::Limit { .. } => {}
            }
            for Woken { key, outcome } in woken.drain(..) {
                let asking = bench.waiting.remove(&key).expect("who is woken waited");
                if outcome == Outcome::Entered {
                    bench.holding.push((key, asking, bench.now));
                }
            }
            bench.check();
        }
        let living: Vec<Key> = bench.holding.iter().map(|held| held.0).chain(bench.waiting.keys().copied()).collect();
        for key in living {
            bench.fair.cancel(key, bench.now, &mut woken);
        }
        bench.fair.expire(bench.now.after(flow::DEBT_MAX * 2), &mut woken);
        prop_assert_eq!(bench.fair.in_use(), 0);
        prop_assert_eq!(bench.fair.entries.sizes().1, 0);
        prop_assert_eq!(bench.fair.flows.len(), 0);
        prop_assert_eq!(bench.fair.flows.backlog(), (0, 0));
        prop_assert_eq!(bench.fair.waiting(), 0);
    }
}

/// Fills the one slot, lets these wait (tenant, importance), then one more ask. Whom that displaced (by order of asking,
/// from 0), and what it was told.
fn check(
    waiters_max: usize,
    waiting: &[(u8, Priority)],
    newcomer: (u8, Priority),
    displaced: &[usize],
    told: Told,
) {
    let mut bench = Bench::new(Terms { waiters_max, ..Terms::default() });
    let mut woken = Vec::new();
    bench.fair.set_limit(1, bench.now, &mut woken);
    let asking = |(tenant, priority)| Asking {
        tenant,
        priority,
        service: Duration::from_millis(10),
        deadline: Tick(1 << 60),
        ..NOBODY
    };
    bench.ask(asking((99, Priority::Default)), &mut woken);
    for (number, &one) in waiting.iter().enumerate() {
        let one = Asking { number: number as u64, ..asking(one) };
        assert_eq!(bench.ask(one, &mut woken), Told::Queued);
    }
    assert_eq!(bench.ask(asking(newcomer), &mut woken), told);
    let mut gone: Vec<usize> = woken.iter().map(|woken| bench.waiting[&woken.key].number as usize).collect();
    gone.sort_unstable();
    assert_eq!(gone, displaced, "{waiting:?} {newcomer:?}");
}

use Priority::{Critical, Default as Normal, Sheddable};

#[test]
fn a_full_list_refuses_one_of_the_tenant_that_asks_for_most() {
    check(3, &[(1, Normal), (1, Normal), (1, Normal)], (1, Normal), &[], Told::Refused(Reason::Full));
    check(3, &[(2, Normal), (1, Normal), (1, Normal)], (1, Normal), &[], Told::Refused(Reason::Full));
}

#[test]
fn one_of_a_tenant_that_asks_for_less_displaces_the_last_of_the_one_that_asks_for_most() {
    check(3, &[(1, Normal), (1, Normal), (1, Normal)], (2, Normal), &[2], Told::Queued);
    check(3, &[(2, Normal), (1, Normal), (1, Normal)], (3, Normal), &[2], Told::Queued);
    check(3, &[(1, Normal), (2, Normal), (3, Normal)], (4, Normal), &[], Told::Refused(Reason::Full));
}

#[test]
fn one_that_asks_for_little_finds_room_even_while_nothing_is_known_of_how_long_a_slot_is_used() {
    let mut bench = Bench::new(Terms { waiters_max: 4, ..Terms::default() });
    let woken = &mut Vec::new();
    bench.fair.set_limit(1, bench.now, woken);
    let asking = Asking { service: Duration::ZERO, ..PATIENT };
    for number in 0..5 {
        bench.now = Tick(bench.now.0 + 1_000_000);
        bench.ask(Asking { number, tenant: 1, asked_at: bench.now, ..asking }, woken);
    }
    // Five requests of 7 ms: what is known after that is far from right.
    for number in 5..10 {
        bench.now = Tick(bench.now.0 + 7_000_000);
        let (key, ..) = bench.holding.remove(0);
        bench.fair.leave(key, Duration::from_millis(7), bench.now, woken);
        told(&mut bench, woken);
        bench.ask(Asking { number, tenant: 1, asked_at: bench.now, ..asking }, woken);
        let newcomer = Asking { number: 100 + number, tenant: 2 + number as u8, ..asking };
        let service = Duration::from_millis(5);
        assert_eq!(bench.ask(Asking { service, ..newcomer }, woken), Told::Queued, "{number}");
        assert!(told(&mut bench, woken).iter().all(|told| told.1 == Told::Refused(Reason::Displaced)));
        let of_newcomer = bench.waiting.iter().find(|one| one.1.number == 100 + number);
        let key = *of_newcomer.expect("it waits").0;
        bench.waiting.remove(&key);
        bench.fair.cancel(key, bench.now, woken);
    }
}

#[test]
fn the_least_important_goes_first_whosoever_it_is() {
    check(3, &[(1, Normal), (1, Normal), (2, Sheddable)], (1, Normal), &[2], Told::Queued);
    check(3, &[(1, Sheddable), (2, Normal), (1, Sheddable)], (3, Critical), &[2], Told::Queued);
    check(2, &[(1, Critical), (1, Critical)], (2, Normal), &[], Told::Refused(Reason::Full));
    check(2, &[(1, Critical), (1, Normal)], (2, Sheddable), &[], Told::Refused(Reason::Full));
}

#[test]
fn who_cannot_be_answered_in_time_is_refused_at_once() {
    let mut bench = Bench::new(TERMS);
    let (service, woken) = (Duration::from_millis(20), &mut Vec::new());
    let deadline = bench.now.after(service);
    let told = bench.ask(Asking { deadline, service, ..NOBODY }, woken);
    assert_eq!(told, Told::Refused(Reason::Deadline));
    let told = bench.ask(Asking { deadline: Tick(deadline.0 + 1), service, ..NOBODY }, woken);
    assert_eq!(told, Told::Entered);
}

#[test]
fn who_comes_too_late_in_its_tenants_line_is_refused_at_once() {
    let mut bench = Bench::new(Terms { wait: Duration::from_secs(1), ..Terms::default() });
    let woken = &mut Vec::new();
    bench.now = Tick(1);
    bench.fair.set_limit(1, bench.now, woken);
    // Each takes 20 ms, and must have a slot within 30 ms.
    let asking =
        Asking { asked_at: bench.now, deadline: bench.now.after(Duration::from_millis(50)), ..PATIENT };
    assert_eq!(bench.ask(Asking { tenant: 9, ..PATIENT }, woken), Told::Entered);
    for told in [Told::Queued, Told::Queued, Told::Refused(Reason::Deadline)] {
        assert_eq!(bench.ask(asking, woken), told);
    }
    // Its own line is what it waits for: another tenant has its turn before that, as has what is more important, or a retry.
    assert_eq!(bench.ask(Asking { tenant: 2, ..asking }, woken), Told::Queued);
    assert_eq!(bench.ask(Asking { priority: Critical, ..asking }, woken), Told::Queued);
    assert_eq!(bench.ask(Asking { asked_at: Tick(0), ..asking }, woken), Told::Queued);
    assert_eq!(bench.ask(Asking { deadline: Tick(1 << 60), ..asking }, woken), Told::Queued);
}

#[test]
fn a_retry_stands_where_its_exchange_stood() {
    let mut bench = Bench::new(TERMS);
    let woken = &mut Vec::new();
    bench.now = Tick(50_000_000);
    for number in 1..=4 {
        bench.ask(Asking { number, asked_at: bench.now, ..NOBODY }, woken);
    }
    bench.ask(Asking { number: 5, asked_at: Tick(10_000_000), ..NOBODY }, woken);
    let first = bench.holding[0].0;
    bench.fair.leave(first, Duration::from_millis(1), bench.now, woken);
    assert_eq!(bench.waiting[&woken[0].key].number, 5);
}

/// What became of those that waited, by order of asking.
fn told(bench: &mut Bench, woken: &mut Vec<Woken>) -> Vec<(u64, Told)> {
    let tell = |Woken { key, outcome }| match (bench.waiting.remove(&key), outcome) {
        (Some(asking), Outcome::Entered) => {
            bench.holding.push((key, asking, bench.now));
            (asking.number, Told::Entered)
        }
        (Some(asking), Outcome::Refused(refused)) => (asking.number, Told::Refused(refused.reason)),
        (None, _) => panic!("who is woken waited"),
    };
    woken.drain(..).map(tell).collect()
}

/// One slot, held for 20 ms by each, and one more of tenant 1 each 4 ms.
fn standing_line() -> (Bench, Vec<(u64, Told)>) {
    let mut bench = Bench::new(Terms {
        waiters_max: 100,
        tenant_waiters_max: 100,
        wait: Duration::from_millis(200),
        ..TERMS
    });
    let (mut woken, mut all) = (Vec::new(), Vec::new());
    bench.fair.set_limit(1, bench.now, &mut woken);
    for number in 0..60 {
        bench.now = Tick(number * 4_000_000 + 1);
        bench.ask(Asking { number, tenant: 1, asked_at: bench.now, ..PATIENT }, &mut woken);
        if number % 5 == 4 {
            let (key, ..) = bench.holding.remove(0);
            bench.fair.leave(key, Duration::from_millis(20), bench.now, &mut woken);
        }
        all.extend(told(&mut bench, &mut woken));
    }
    (bench, all)
}

#[test]
fn while_a_line_stands_its_newest_go_first_and_its_stale_are_dropped() {
    let (_, told) = standing_line();
    let entered: Vec<u64> = told.iter().filter(|told| told.1 == Told::Entered).map(|told| told.0).collect();
    // It stands once its oldest has waited more than 20 ms for 100 ms. Until then the first go first.
    assert_eq!(entered[..5], [1, 2, 3, 4, 5]);
    assert_eq!(entered[8..], [44, 49, 54, 59]);
    let dropped: Vec<u64> = told.iter().filter(|told| told.1 != Told::Entered).map(|told| told.0).collect();
    assert!(
        told.iter().all(|told| matches!(told.1, Told::Entered | Told::Refused(Reason::Overloaded))),
        "{told:?}"
    );
    // Whoever has waited more than 40 ms when one is served. The last is, at 236 ms.
    assert!(dropped.contains(&40) && !dropped.iter().any(|&number| number >= 49), "{dropped:?}");
}

#[test]
fn a_line_that_stands_is_no_concern_of_other_tenants() {
    let (mut bench, _) = standing_line();
    let woken = &mut Vec::new();
    for number in 100..103 {
        bench.ask(Asking { number, tenant: 2, asked_at: bench.now, ..PATIENT }, woken);
    }
    let mut others = Vec::new();
    for _ in 0..5 {
        bench.now = bench.now.after(Duration::from_millis(20));
        let (key, ..) = bench.holding.remove(0);
        bench.fair.leave(key, Duration::from_millis(20), bench.now, woken);
        others.extend(told(&mut bench, woken).into_iter().filter(|told| told.0 >= 100));
    }
    assert_eq!(others, [100, 101, 102].map(|number| (number, Told::Entered)), "each second turn, in order");
}

#[test]
fn that_the_less_important_wait_is_no_overload_of_the_more_important() {
    let (mut bench, _) = standing_line();
    let woken = &mut Vec::new();
    let important = |number| Asking { number, tenant: 1, priority: Critical, ..PATIENT };
    for number in 100..104 {
        bench.ask(Asking { asked_at: bench.now, ..important(number) }, woken);
    }
    let mut told_of = Vec::new();
    for _ in 0..4 {
        bench.now = bench.now.after(Duration::from_millis(20));
        let (key, ..) = bench.holding.remove(0);
        bench.fair.leave(key, Duration::from_millis(20), bench.now, woken);
        told_of.extend(told(&mut bench, woken).into_iter().filter(|told| told.0 >= 100));
    }
    // The last has waited 80 ms, and whoever waits longer than 40 ms in a line that stands is dropped.
    let in_order = [100, 101, 102, 103].map(|number| (number, Told::Entered));
    assert_eq!(told_of, in_order);
}

#[test]
fn a_stream_of_new_tenants_starves_nobody() {
    let mut bench = Bench::new(Terms { waiters_max: 100, tenants_max: 1_000, ..Terms::default() });
    let woken = &mut Vec::new();
    let asking = |number: u64, tenant| Asking { number, tenant, ..PATIENT };
    for number in 0..4 {
        bench.ask(asking(number, 0), woken);
    }
    // Two slots are held for 20 ms each, and two more of tenant 0 wait; each 10 ms a new tenant comes, and one is served.
    let mut entered = Vec::new();
    for number in 4..20 {
        bench.now = bench.now.after(Duration::from_millis(10));
        bench.ask(asking(number, number as u8), woken);
        let (key, ..) = bench.holding.remove(0);
        bench.fair.leave(key, Duration::from_millis(20), bench.now, woken);
        entered.extend(told(&mut bench, woken).into_iter().map(|told| told.0));
    }
    assert!(entered[..3].contains(&2) && entered[..12].contains(&3), "{entered:?}");
}

#[test]
fn the_more_important_of_a_tenant_go_first() {
    let mut bench = Bench::new(Terms::default());
    let woken = &mut Vec::new();
    for (number, priority) in [Normal, Normal, Sheddable, Normal, Critical].into_iter().enumerate() {
        bench.ask(Asking { number: number as u64, priority, deadline: Tick(1 << 60), ..NOBODY }, woken);
    }
    let mut entered = Vec::new();
    for _ in 0..3 {
        let (key, ..) = bench.holding.remove(0);
        bench.fair.leave(key, Duration::from_millis(1), bench.now, woken);
        entered.extend(told(&mut bench, woken).into_iter().map(|told| told.0));
    }
    assert_eq!(entered, [4, 3, 2]);
}

#[test]
fn tells_those_whose_time_is_over_why() {
    let mut bench = Bench::new(TERMS);
    let woken = &mut Vec::new();
    for (number, deadline_ms) in [(0, 900), (1, 900), (2, 900), (3, 45)] {
        let deadline = bench.now.after(Duration::from_millis(deadline_ms));
        bench.ask(Asking { number, deadline, service: Duration::from_millis(5), ..NOBODY }, woken);
    }
    assert_eq!(bench.fair.expires_at(), Some(bench.now.after(Duration::from_millis(40))));
    bench.fair.expire(bench.now.after(Duration::from_millis(39)), woken);
    assert!(woken.is_empty());
    bench.fair.expire(bench.now.after(Duration::from_millis(60)), woken);
    let told = told(&mut bench, woken);
    assert_eq!(told, [(3, Told::Refused(Reason::Deadline)), (2, Told::Refused(Reason::Wait))]);
    assert_eq!(bench.fair.refusals()[Reason::Wait.index()], 1);
}

#[test]
fn where_nobody_may_wait_who_finds_no_slot_is_refused_at_once() {
    let mut bench = Bench::new(Terms { wait: Duration::ZERO, ..TERMS });
    let told = [1, 2, 3].map(|number| bench.ask(Asking { number, ..PATIENT }, &mut Vec::new()));
    assert_eq!(told, [Told::Entered, Told::Entered, Told::Refused(Reason::Wait)]);
}

#[test]
fn who_is_refused_next_has_waited_so_much_of_its_time() {
    let mut fair = Fair::new(Terms { wait: Duration::from_millis(200), ..Terms::default() }, 1, 7);
    let at = |millis: u64| Tick(millis * 1_000_000);
    let names: [Arc<str>; 2] = ["t".into(), "r".into()];
    let who = Who { tenant: &names[0], route: &names[1], weight: 1 };
    let ask = |millis: u64| Ask {
        who,
        priority: Priority::Default,
        asked_at: at(millis),
        deadline: at(60_000),
        service: Duration::ZERO,
        bytes: 0,
    };
    let mut woken = Vec::new();
    for millis in [1_000, 1_000, 1_150] {
        fair.ask(&ask(millis), at(millis), &mut woken);
    }
    assert_eq!([fair.waited(at(1_000)), fair.waited(at(1_150)), fair.waited(at(9_000))], [0.0, 0.75, 1.0]);
    fair.expire(at(1_200), &mut woken);
    assert_eq!(fair.waited(at(1_250)), 0.5);
    fair.expire(at(1_350), &mut woken);
    assert_eq!(fair.waited(at(1_400)), 0.0, "nobody waits");
}

#[test]
fn retry_after_grows_with_what_waits_and_is_jittered() {
    let retry_after = |waiting: u64, seed: u64| {
        let mut fair = Fair::new(Terms { waiters_max: waiting as usize, ..Terms::default() }, 2, seed);
        let (tenant, route, woken) = (Bench::tenant(1), Arc::from("r"), &mut Vec::new());
        let ask = Ask {
            who: Who { tenant: &tenant, route: &route, weight: 1 },
            priority: Normal,
            asked_at: Tick(0),
            deadline: Tick::MAX,
            service: Duration::from_millis(20),
            bytes: 0,
        };
        (0..waiting + 2).for_each(|_| {
            fair.ask(&ask, Tick(1), woken);
        });
        match fair.ask(&ask, Tick(1), woken) {
            Asked::Refused(refused) => refused.retry_after,
            other => panic!("{other:?}"),
        }
    };
    let expected = Duration::from_millis(100 * 20 / 2 + 10);
    for seed in 0..20 {
        let told = retry_after(100, seed);
        assert!(told >= expected && told <= expected * 3 / 2, "{told:?}");
    }
    assert!(retry_after(10, 1) < retry_after(100, 1));
    assert_ne!(retry_after(100, 1), retry_after(100, 2));
}

#[test]
fn tells_who_saturates_it_and_since_when() {
    let mut bench = Bench::new(TERMS);
    let woken = &mut Vec::new();
    let at = |ms: u64| Tick(ms * 1_000_000);
    bench.now = at(1_000);
    assert_eq!(bench.fair.picture(bench.now).episode, None);
    for tenant in [1, 1, 1, 2] {
        bench.ask(Asking { tenant, ..NOBODY }, woken);
    }
    let (first, second) = (bench.holding[0].0, bench.holding[1].0);
    bench.fair.leave(first, Duration::from_millis(30), at(1_030), woken);
    bench.fair.leave(second, Duration::from_millis(30), at(1_030), woken);
    let picture = bench.fair.picture(at(1_040));
    assert!(picture.saturated);
    assert_eq!((&*picture.shares[0].tenant, &*picture.shares[0].route), ("t1", "r"));
    assert!(picture.shares[0].slot_time > 0.99, "{picture:?}");
    // Once it is over, it is told as it was.
    for later in [3_000, 3_600_000] {
        let after = bench.fair.picture(at(later));
        assert_eq!((after.saturated, &after.shares), (false, &picture.shares));
        let episode = after.episode.expect("it was saturated");
        assert_eq!((episode.began, episode.last), (at(1_000), at(1_030)));
        assert_eq!((episode.queued, episode.waited_max), (2, Duration::from_millis(30)));
    }
}

#[test]
fn a_time_of_saturation_ends_when_nobody_has_waited_for_a_second_and_the_next_is_counted_anew() {
    let mut bench = Bench::new(Terms { waiters_max: 1, ..Terms::default() });
    let woken = &mut Vec::new();
    bench.fair.set_limit(1, Tick(0), woken);
    let mut crowd = |ms: u64| {
        bench.now = Tick(ms * 1_000_000);
        for _ in 0..3 {
            bench.ask(Asking { tenant: 1, asked_at: bench.now, ..NOBODY }, woken);
        }
        let keys: Vec<Key> =
            bench.holding.drain(..).map(|one| one.0).chain(bench.waiting.keys().copied()).collect();
        for key in keys {
            bench.fair.cancel(key, Tick(bench.now.0 + 1_000_000), woken);
        }
        bench.waiting.clear();
        woken.clear();
        let picture = bench.fair.picture(Tick(bench.now.0 + 2_000_000));
        let episode = picture.episode.expect("one waited");
        let share = &picture.shares[0];
        (episode.began.0 / 1_000_000, (episode.queued, episode.refused), (share.queued, share.refused))
    };
    // What was refused before it had used anything is not counted as its own.
    assert_eq!(crowd(1_000), (1_000, (1, 1), (0, 0)));
    assert_eq!(crowd(1_900), (1_000, (2, 2), (1, 1)));
    assert_eq!(crowd(3_000), (3_000, (1, 1), (1, 1)));
}
