use super::*;
use std::sync::atomic::AtomicU64;

const SECOND: Duration = Duration::from_secs(1);

fn plan(limit: u64, burst: u64, concurrency: Option<u32>) -> Arc<Plan> {
    Arc::new(Plan {
        name: Arc::from("p"),
        rates: vec![Rate { name: Arc::from("r"), limit, window: SECOND, burst }],
        concurrency,
        body_bytes_max: None,
        request_bytes_per_second: None,
        response_bytes_per_second: None,
        weight: 1,
    })
}

fn no_limits() -> RouteLimits {
    RouteLimits { name: Arc::from("route"), rates: Vec::new(), concurrency: None }
}

fn route_rate(limit: u64) -> RouteLimits {
    let rate = Rate { name: Arc::from("route-rate"), limit, window: SECOND, burst: limit };
    RouteLimits { rates: vec![rate], ..no_limits() }
}

/// How many of `asked` exchanges pass at once.
fn check(
    tenants: &Tenants,
    id: &str,
    plan: &Arc<Plan>,
    route: &RouteLimits,
    asked: usize,
    now: Tick,
) -> usize {
    (0..asked).filter(|_| tenants.admit(tenants.find_or_add(id, plan, now), route, now).is_ok()).count()
}

#[test]
fn refuses_when_burst_is_spent_and_others_are_untouched() {
    let (tenants, plan) = (Tenants::new(10), plan(5, 5, None));
    assert_eq!(check(&tenants, "greedy", &plan, &no_limits(), 50, Tick(1)), 5);
    assert_eq!(check(&tenants, "calm", &plan, &no_limits(), 3, Tick(1)), 3);
    let refusal = tenants.admit(tenants.find("greedy").unwrap(), &no_limits(), Tick(1)).unwrap_err();
    assert_eq!((refusal.kind.code, refusal.retry_after), ("limit.rate", Some(SECOND / 5)));
}

#[test]
fn a_request_refused_by_the_route_spends_nothing_of_the_plan() {
    let (tenants, plan) = (Tenants::new(10), plan(10, 10, None));
    assert_eq!(check(&tenants, "a", &plan, &route_rate(2), 8, Tick(1)), 2);
    assert_eq!(check(&tenants, "a", &plan, &no_limits(), 20, Tick(1)), 8);
}

#[test]
fn holds_concurrency_until_the_permit_is_dropped() {
    let (tenants, plan) = (Tenants::new(10), plan(100, 100, Some(2)));
    let tenant = tenants.find_or_add("a", &plan, Tick(1));
    let first = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap();
    let _second = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap();
    let refusal = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap_err();
    assert_eq!(refusal.kind.code, "limit.concurrency");
    drop(first);
    assert!(tenants.admit(tenant.clone(), &no_limits(), Tick(1)).is_ok());
}

#[test]
fn a_flood_of_unlisted_tenants_neither_grows_the_table_nor_refills_anybody() {
    let (tenants, plan) = (Tenants::new(50), plan(1, 1, None));
    let first: usize =
        (0..50).map(|n| check(&tenants, &format!("t{n}"), &plan, &no_limits(), 1, Tick(1))).sum();
    assert_eq!(first, 50);
    // Nobody is full again: all further ones share the overflow's one request, and nobody gets a second one.
    let flood: usize =
        (0..1000).map(|n| check(&tenants, &format!("x{n}"), &plan, &no_limits(), 1, Tick(2))).sum();
    assert_eq!(flood, 1);
    assert_eq!(
        (0..50).map(|n| check(&tenants, &format!("t{n}"), &plan, &no_limits(), 1, Tick(3))).sum::<usize>(),
        0
    );
    assert_eq!(tenants.len(), 50);
    // A second later all are full again and make room.
    let later = Tick(1).after(SECOND * 2);
    let fresh: usize =
        (0..1000).map(|n| check(&tenants, &format!("y{n}"), &plan, &no_limits(), 1, later)).sum();
    assert_eq!(fresh, 51, "fifty new tenants and the overflow");
    assert!(tenants.len() <= 50);
}

#[test]
fn a_tenant_with_something_in_flight_stays() {
    let (tenants, plan) = (Tenants::new(1), plan(1, 1, None));
    let tenant = tenants.find_or_add("held", &plan, Tick(1));
    let permit = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap();
    let later = Tick(1).after(SECOND * 5);
    let other = tenants.find_or_add("other", &plan, later);
    assert_eq!((&**other.id(), other.is_overflow()), ("other", true), "it keeps its id");
    drop(permit);
    assert!(!tenants.find_or_add("other", &plan, later).is_overflow());
}

#[test]
fn whoever_holds_an_evicted_tenant_is_admitted_as_the_one_in_the_table() {
    let (tenants, plan) = (Tenants::new(1), plan(1, 1, None));
    let evicted = tenants.find_or_add("a", &plan, Tick(1));
    let _other = tenants.find_or_add("b", &plan, Tick(1));
    let later = Tick(1).after(SECOND * 5);
    let (permit, _) = tenants.admit(evicted.clone(), &no_limits(), later).unwrap();
    assert!(!Arc::ptr_eq(permit.tenant(), &evicted));
    assert!(tenants.admit(evicted.clone(), &no_limits(), later).is_err(), "the table's own limit counts");
}

#[test]
fn a_plan_without_a_pace_stands_for_what_it_let_in() {
    let tenants = Tenants::new(10);
    let (id, free) = (Arc::from("a"), plan(9, 9, None));
    let paced = Arc::new(Plan { response_bytes_per_second: std::num::NonZeroU64::new(7), ..(*free).clone() });
    let permit = || tenants.admit(tenants.find("a").unwrap(), &no_limits(), Tick(1)).unwrap().0;
    let pace = |permit: &Permit| {
        [Direction::Request, Direction::Response].map(|way| permit.pace(way).map(u64::from))
    };
    tenants.apply([(&id, &free)], None);
    let before = permit();
    tenants.apply([(&id, &paced)], None);
    let after = permit();
    assert_eq!([pace(&before), pace(&after)], [[None, None], [None, Some(7)]]);
    assert_eq!(pace(&before.on_behalf().unwrap()), [None, Some(7)], "what begins later asks again");
    tenants.apply([(&id, &free)], None);
    assert_eq!(pace(&after), [None, None], "a pace that is taken away is");
}

#[test]
fn a_reload_keeps_what_was_spent_by_name() {
    let tenants = Tenants::new(10);
    let (id, small, large) = (Arc::from("a"), plan(2, 2, None), plan(4, 4, None));
    tenants.apply([(&id, &small)], None);
    assert_eq!(check(&tenants, "a", &small, &no_limits(), 9, Tick(1)), 2);
    tenants.apply([(&id, &large)], None);
    // A second's worth is spent: of the larger plan too.
    assert_eq!(check(&tenants, "a", &large, &no_limits(), 9, Tick(1)), 0);
    assert_eq!(check(&tenants, "a", &large, &no_limits(), 9, Tick(1).after(SECOND)), 4);
}

#[test]
fn each_rate_keeps_what_was_spent_of_it_wherever_a_plan_names_it() {
    let named = |names: &str| {
        let rate = |name: &str| Rate { name: Arc::from(name), limit: 100, window: SECOND, burst: 100 };
        let rates = names.split_whitespace().map(rate).collect();
        Arc::new(Plan { rates, ..Plan::clone(&plan(1, 1, None)) })
    };
    let tenants = Tenants::new(10);
    let id = Arc::from("a");
    let mut spent = std::collections::HashMap::from([("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0)]);
    for names in ["a b c d", "d a", "e d b", "", "c e a d", "d c a e"] {
        let plan = named(names);
        tenants.apply([(&id, &plan)], None);
        // What a plan does not name is forgotten.
        spent.iter_mut().filter(|(name, _)| !names.contains(**name)).for_each(|(_, spent)| *spent = 0);
        assert_eq!(check(&tenants, "a", &plan, &no_limits(), 3, Tick(1)), 3);
        names.split_whitespace().for_each(|name| *spent.get_mut(name).unwrap() += 3);
        for standing in tenants.find("a").unwrap().standings(Tick(1)) {
            assert_eq!(standing.remaining, 100 - spent[&*standing.name], "{} of {names:?}", standing.name);
        }
    }
}

#[test]
fn tenants_that_are_entitled_to_the_same_share_that_after_a_reload_too() {
    let (tenants, old, new) = (Tenants::new(10), plan(1, 1, None), plan(2, 2, None));
    tenants.apply([], Some(&old));
    let both = ["a", "b"].map(|id| tenants.find_or_add(id, &old, Tick(1)));
    for plan in [old, new] {
        tenants.apply([], Some(&plan));
        let [first, second] = both.each_ref().map(|tenant| tenant.entitlement.load_full());
        assert!(Arc::ptr_eq(&first, &second) && first.plan == plan);
    }
}

#[test]
fn what_all_requests_need_of_a_tenant_lies_together() {
    // Two counts of references come first.
    let end = std::mem::offset_of!(Tenant, words) + size_of::<[Word; RATES_MAX]>();
    assert_eq!(2 * size_of::<usize>() + end, 128);
}

#[test]
fn a_tenant_no_longer_listed_may_leave() {
    let (tenants, plan) = (Tenants::new(1), plan(1, 1, None));
    tenants.apply([(&Arc::from("a"), &plan)], Some(&plan));
    tenants.apply([], Some(&plan));
    assert_eq!(&**tenants.find_or_add("b", &plan, Tick(1)).id(), "b");
    assert!(tenants.find("a").is_none());
}

#[test]
fn threads_never_pass_more_than_the_rate_together_while_tenants_come_and_go() {
    let (tenants, plan) = (Tenants::new(4), plan(1_000, 10, None));
    let clock = AtomicU64::new(1);
    let passed: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|thread| {
                let (tenants, plan, clock) = (&tenants, &plan, &clock);
                scope.spawn(move || {
                    (0..2_000)
                        .filter(|n| {
                            let now = Tick(clock.fetch_add(50_000, Relaxed));
                            let _ =
                                check(tenants, &format!("noise-{thread}-{n}"), plan, &no_limits(), 1, now);
                            check(tenants, "shared", plan, &no_limits(), 1, now) == 1
                        })
                        .count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    // 8,000 steps of 50 microseconds are 0.4 s: 400 by rate and 10 by burst, and the overflow's as many while it is there.
    assert!(passed <= 2 * 410, "{passed}");
}

#[test]
fn no_exchange_is_told_twice_or_lost_when_tenants_leave() {
    let (tenants, plan) = (Tenants::new(10), plan(1, 1, None));
    let mut told = (0, 0);
    for round in 0..20 {
        let now = Tick(1).after(2 * SECOND * round);
        for n in 0..30 {
            check(&tenants, &format!("{round}-{n}"), &plan, &no_limits(), 2, now);
        }
        let mut add = |(admitted, refused)| told = (told.0 + admitted, told.1 + refused);
        tenants.each(|tenant| add(tenant.untold()));
        add(tenants.untold_of_evicted());
        assert_eq!(told.0 + told.1, 60 * (round as u64 + 1));
    }
}

#[test]
fn invented_names_never_crowd_out_those_that_are_vouched_for() {
    let (tenants, plan) = (Tenants::new(8), plan(1, 1, None));
    let spend = |tenant: &Arc<Tenant>| tenants.admit(tenant.clone(), &no_limits(), Tick(1)).is_ok();
    let claimed: Vec<bool> = (0..20)
        .map(|n| tenants.find_or_add_claimed(&format!("c{n}"), &plan, Tick(1)))
        .map(|tenant| spend(&tenant) && !tenant.is_overflow())
        .collect();
    assert_eq!(claimed.iter().filter(|own| **own).count(), 6, "three quarters of the table");
    assert!((0..2).all(|n| !tenants.find_or_add(&format!("v{n}"), &plan, Tick(1)).is_overflow()));
    assert_eq!(tenants.len(), 8);
}

#[test]
fn those_without_room_keep_their_ids_and_share_their_limits() {
    let (tenants, plan) = (Tenants::new(1), plan(2, 2, Some(1)));
    let held = tenants.find_or_add("held", &plan, Tick(1));
    let _held = tenants.admit(held.clone(), &no_limits(), Tick(1)).unwrap();
    let [one, two] = ["one", "two"].map(|id| tenants.find_or_add(id, &plan, Tick(1)));
    let (permit, _) = tenants.admit(one.clone(), &no_limits(), Tick(1)).unwrap();
    assert_eq!(&**permit.tenant().id(), "one");
    let refusal = tenants.admit(two.clone(), &no_limits(), Tick(1)).unwrap_err();
    assert_eq!(refusal.kind.code, "limit.concurrency");
    drop(permit);
    assert!(tenants.admit(two.clone(), &no_limits(), Tick(1)).is_ok());
    assert!(tenants.admit(one.clone(), &no_limits(), Tick(1)).is_err(), "both share two requests");
    let mut shared = Vec::new();
    tenants.each(|tenant| shared.push((tenant.id().to_string(), tenant.counts())));
    assert!(shared.contains(&(OVERFLOW.to_owned(), (2, 2))), "{shared:?}");
}

#[test]
fn an_exchange_refused_by_one_limit_takes_nothing_of_another_one() {
    let (tenants, plan) = (Tenants::new(10), plan(10, 10, None));
    let route = route_rate(1);
    assert_eq!(check(&tenants, "a", &plan, &route, 1, Tick(1)), 1);
    let tenant = tenants.find("a").unwrap();
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| check(&tenants, "a", &plan, &route, 20_000, Tick(1)));
        // Nine are left of the plan, whatever the route refuses meanwhile.
        for _ in 0..9 {
            assert!(tenants.admit(tenant.clone(), &no_limits(), Tick(1)).is_ok());
        }
        assert_eq!(refused.join().unwrap(), 0);
    });
}

#[test]
fn exchanges_refused_for_concurrency_take_nobodys_place() {
    let (tenants, plan) = (Tenants::new(10), plan(1_000_000, 1_000_000, Some(2)));
    let tenant = tenants.find_or_add("a", &plan, Tick(1));
    let _held = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap();
    let most = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let permit = tenants.admit(tenant.clone(), &no_limits(), Tick(1));
                    most.fetch_max(u64::from(tenant.in_flight()), Relaxed);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!((most.load(Relaxed), tenant.in_flight()), (2, 1));
}

#[test]
fn tells_the_limit_that_refuses_for_longest() {
    let tenants = Tenants::new(10);
    let mut both = (*plan(10, 2, None)).clone();
    both.rates.push(Rate { name: Arc::from("hourly"), limit: 3, window: 3600 * SECOND, burst: 2 });
    let both = Arc::new(both);
    let tenant = tenants.find_or_add("a", &both, Tick(1));
    let (_, standing) = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap();
    assert_eq!(standing.map(|one| (one.name.to_string(), one.remaining)), Some(("r".to_owned(), 1)));
    assert!(tenants.admit(tenant.clone(), &no_limits(), Tick(1)).is_ok());
    let refusal = tenants.admit(tenant.clone(), &no_limits(), Tick(1)).unwrap_err();
    assert_eq!(refusal.retry_after, Some(1200 * SECOND));
    assert_eq!(&*refusal.violated.as_ref().unwrap().name, "hourly");
}

#[test]
fn reloads_leave_no_tenant_twice_and_no_old_plan() {
    let (tenants, old, new) = (Tenants::new(1), plan(1, 1, None), plan(9, 9, None));
    tenants.apply([(&Arc::from("a"), &old)], None);
    for _ in 0..5 {
        tenants.apply([], None);
    }
    // Were it in the queue more than once, there would be no room for another one after it has left.
    let later = Tick(1).after(SECOND * 5);
    assert!(!tenants.find_or_add("b", &old, later).is_overflow());
    tenants.apply([], Some(&new));
    assert_eq!(tenants.find("b").unwrap().plan(), new);
    tenants.bound(2);
    // An exchange that began before the reload still asks with the old plan.
    assert_eq!(tenants.find_or_add("c", &old, later).plan(), new);
    assert!(!tenants.find_or_add("c", &old, later).is_overflow());
}

#[test]
fn routes_that_are_no_more_are_forgotten_when_their_limits_are_full() {
    let (tenants, plan) = (Tenants::new(10), plan(10, 10, None));
    let limits = route_rate(2);
    assert_eq!(check(&tenants, "a", &plan, &limits, 2, Tick(1)), 2);
    let spent = |now| tenants.find("a").unwrap().standings_on(&limits, now).0[0].remaining;
    tenants.forget_routes(|_| false, Tick(1));
    assert_eq!(spent(Tick(1)), 0, "what is spent is kept");
    let later = Tick(1).after(2 * SECOND);
    tenants.forget_routes(|_| false, later);
    assert_eq!(spent(later), 2);
    assert!(tenants.find("a").unwrap().routes.get().unwrap().is_empty());
}

#[test]
fn one_that_was_listed_meanwhile_is_not_evicted() {
    let (tenants, plan) = (Tenants::new(1), plan(1, 1, None));
    let held = tenants.find_or_add("a", &plan, Tick(1));
    tenants.apply([(&Arc::from("a"), &plan)], Some(&plan));
    let later = Tick(1).after(SECOND * 5);
    assert!(!tenants.find_or_add("b", &plan, later).is_overflow(), "the listed one takes no room");
    assert!(Arc::ptr_eq(&tenants.find("a").unwrap(), &held));
    for _ in 0..3 {
        tenants.apply([], Some(&plan));
        tenants.apply([(&Arc::from("a"), &plan)], Some(&plan));
    }
    tenants.apply([], Some(&plan));
    // Two stand in the queue for one place: both leave, each once.
    assert!(!tenants.find_or_add("c", &plan, later).is_overflow());
    assert!(tenants.find("a").is_none() && tenants.find("b").is_none());
    assert_eq!(tenants.len(), 1);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever comes and goes: who is in the table passes exactly as if the table had room for all.
    #[test]
    fn coming_and_going_changes_nothing_for_those_in_the_table(
        steps in proptest::collection::vec((0u8..12, 0u64..400, proptest::bool::ANY), 1..300),
    ) {
        let (tenants, plan) = (Tenants::new(4), plan(5, 2, None));
        let mut own: std::collections::HashMap<u8, Word> = std::collections::HashMap::new();
        let mut now = Tick(1);
        for (id, millis, claimed) in steps {
            now = now.after(Duration::from_millis(millis));
            let name = format!("t{id}");
            let tenant = match claimed {
                true => tenants.find_or_add_claimed(&name, &plan, now),
                false => tenants.find_or_add(&name, &plan, now),
            };
            proptest::prop_assert_eq!(&**tenant.id(), name.as_str());
            let passed = tenants.admit(tenant.clone(), &no_limits(), now).is_ok();
            if !tenant.is_overflow() {
                let word = own.entry(id).or_default();
                let expected = matches!(word.take(&plan.rates[0], now), Verdict::Passed { .. });
                proptest::prop_assert_eq!(passed, expected);
            }
            proptest::prop_assert!(tenants.len() <= 4);
        }
    }
}
