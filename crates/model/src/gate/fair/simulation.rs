//! The list in simulated time, before an upstream whose requests take as long as they do: who gets how much of it, and how
//! long one waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// Who asks, how often and for what.
#[derive(Clone, Copy, Debug)]
struct Client {
    weight: u32,
    /// Requests a second, at times of chance (Poisson).
    rate: f64,
    /// Slot time, in milliseconds: the mean of an exponential, or always the same.
    service_ms: f64,
    steady: bool,
}

const CLIENT: Client = Client { weight: 1, rate: 100.0, service_ms: 20.0, steady: false };

/// What became of a client's requests.
#[derive(Clone, Debug, Default)]
struct Result {
    asked: usize,
    entered: usize,
    refused: usize,
    slot_ms: f64,
    waits_ms: Vec<f64>,
}

impl Result {
    fn wait_ms(&self, quantile: f64) -> f64 {
        let mut waits = self.waits_ms.clone();
        waits.sort_by(f64::total_cmp);
        waits.get((waits.len() as f64 * quantile) as usize).copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks(usize),
    Done(Key, usize, u64),
    Late,
}

struct World {
    fair: Fair,
    chance: u64,
    clients: Vec<(Client, Arc<str>)>,
    route: Arc<str>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    waiting: Vec<Option<(usize, u64)>>,
    results: Vec<Result>,
    number: u64,
    /// What is asked before this is not counted.
    warm: u64,
}

/// Lets clients ask for this many milliseconds, of which the first tenth is not counted.
fn run(terms: Terms, slots: usize, clients: &[Client], ms: u64, seed: u64) -> Vec<Result> {
    let mut world = World {
        fair: Fair::new(terms, slots, seed),
        chance: seed,
        clients: clients
            .iter()
            .enumerate()
            .map(|(n, &client)| (client, Arc::from(format!("t{n}"))))
            .collect(),
        route: Arc::from("r"),
        events: BinaryHeap::new(),
        waiting: Vec::new(),
        results: vec![Result::default(); clients.len()],
        number: 0,
        warm: ms * MS / 10,
    };
    for client in 0..clients.len() {
        world.asks_next(client, 1);
    }
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > ms * MS {
            break;
        }
        world.take(event, at);
    }
    world.results
}

impl World {
    /// A number above 0, to 1.
    fn chance(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(1);
        ((mix(self.chance) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn asks_next(&mut self, client: usize, now: u64) {
        let pause = -self.chance().ln() / self.clients[client].0.rate;
        self.at(now + (pause * 1e9) as u64, Event::Asks(client));
    }

    fn take(&mut self, event: Event, now: u64) {
        let woken = &mut Vec::new();
        match event {
            Event::Late => self.fair.expire(Tick(now), woken),
            Event::Done(key, client, service) => {
                if now > self.warm {
                    self.results[client].slot_ms += service as f64 / MS as f64;
                }
                self.fair.leave(key, Duration::from_nanos(service), Tick(now), woken);
            }
            Event::Asks(number) => {
                self.asks_next(number, now);
                let (client, tenant) = self.clients[number].clone();
                let ask = Ask {
                    who: Who { tenant: &tenant, route: &self.route, weight: client.weight },
                    priority: Priority::Default,
                    asked_at: Tick(now),
                    deadline: Tick::MAX,
                    // What the upstream as a whole would have taught.
                    service: Duration::from_millis(20),
                    bytes: 1,
                };
                let counted = now > self.warm;
                self.results[number].asked += usize::from(counted);
                match self.fair.ask(&ask, Tick(now), woken) {
                    Asked::Entered(key) => self.enters(key, number, now, now),
                    Asked::Refused(_) => self.results[number].refused += usize::from(counted),
                    Asked::Queued { key, by } => {
                        self.waiting.resize(self.waiting.len().max(key.index() + 1), None);
                        self.waiting[key.index()] = Some((number, now));
                        self.at(by.0, Event::Late);
                    }
                }
            }
        }
        for Woken { key, outcome } in std::mem::take(woken) {
            let (client, since) = self.waiting[key.index()].take().expect("who is woken waited");
            match outcome {
                Outcome::Entered => self.enters(key, client, since, now),
                Outcome::Refused(_) => self.results[client].refused += usize::from(since > self.warm),
            }
        }
        assert!(self.fair.nobody_waits() || self.fair.in_use() >= self.fair.limit());
    }

    fn enters(&mut self, key: Key, number: usize, since: u64, now: u64) {
        let client = self.clients[number].0;
        let share = if client.steady { 1.0 } else { -self.chance().ln() };
        let service = (client.service_ms * share * MS as f64) as u64 + 1;
        self.at(now + service, Event::Done(key, number, service));
        if since > self.warm {
            self.results[number].entered += 1;
            self.results[number].waits_ms.push((now - since) as f64 / MS as f64);
        }
    }
}

/// How much of all slot time that was used each got.
fn shares(results: &[Result]) -> Vec<f64> {
    let total: f64 = results.iter().map(|result| result.slot_ms).sum();
    results.iter().map(|result| result.slot_ms / total).collect()
}

/// How much of what the slots could do was done.
fn utilisation(results: &[Result], slots: usize, ms: u64) -> f64 {
    results.iter().map(|result| result.slot_ms).sum::<f64>() / (slots as f64 * ms as f64 * 0.9)
}

/// A long wait, so that nothing but the list decides.
const PATIENT: Terms = Terms {
    waiters_max: 200,
    tenant_waiters_max: 200,
    bytes_max: 1 << 30,
    wait: Duration::from_secs(60),
    tenants_max: 1_000,
};

#[test]
fn weights_give_shares_of_slot_time() {
    let clients = [1, 3, 6].map(|weight| Client { weight, rate: 600.0, ..CLIENT });
    let shares = shares(&run(Terms::default(), 8, &clients, 8_000, 1));
    for (share, expected) in shares.iter().zip([0.1, 0.3, 0.6]) {
        assert!((share - expected).abs() <= 0.05 * expected, "{shares:?}");
    }
}

#[test]
fn ten_times_slower_requests_get_a_tenth_of_the_number() {
    let clients = [10.0, 100.0].map(|service_ms| Client { service_ms, rate: 4_000.0 / service_ms, ..CLIENT });
    let results = run(PATIENT, 8, &clients, 15_000, 2);
    let number = results[0].entered as f64 / results[1].entered as f64;
    assert!((8.5..11.5).contains(&number), "{number}");
    assert!((shares(&results)[0] - 0.5).abs() < 0.04, "{:?}", shares(&results));
}

#[test]
fn a_greedy_tenant_makes_others_wait_hardly_longer_than_alone() {
    let victim = Client { rate: 40.0, ..CLIENT };
    // A hundred times the victim's load, ten times what the upstream can do.
    let greedy = Client { rate: 4_000.0, ..CLIENT };
    let alone = run(Terms::default(), 8, &[victim], 6_000, 3);
    let both = run(Terms::default(), 8, &[victim, greedy], 6_000, 3);
    assert_eq!(both[0].refused, 0, "{}", both[0].asked);
    // A slot becomes free each 2.5 ms: it waits for one of the next, not behind the greedy. At the worst, for two of its
    // own that came at once, a service time.
    assert!(both[0].wait_ms(0.5) <= alone[0].wait_ms(0.5) + 5.0, "{}", both[0].wait_ms(0.5));
    assert!(both[0].wait_ms(0.99) <= alone[0].wait_ms(0.99) + 25.0, "{}", both[0].wait_ms(0.99));
    assert!(utilisation(&both, 8, 6_000) > 0.97, "{}", utilisation(&both, 8, 6_000));
}

#[test]
fn one_tenant_alone_uses_all_there_is() {
    for (rate, service_ms, ms) in [(600.0, 20.0, 4_000), (6_000.0, 2.0, 500), (30.0, 800.0, 120_000)] {
        let client = Client { rate, service_ms, ..CLIENT };
        let results = run(Terms::default(), 8, &[client], ms, 4);
        let used = utilisation(&results, 8, ms);
        assert!(used > 0.95, "{rate} {service_ms} {used}");
    }
}

#[test]
fn a_tenant_whose_requests_hang_takes_no_more_than_its_share_for_long() {
    // They take a hundred times as long as the upstream has taught.
    let hanging = Client { rate: 500.0, service_ms: 2_000.0, steady: true, ..CLIENT };
    let results = run(PATIENT, 8, &[hanging, Client { rate: 400.0, ..CLIENT }], 20_000, 5);
    let shares = shares(&results);
    assert!(shares[0] < 0.6, "{shares:?}");
}

#[test]
fn a_full_list_leaves_room_for_who_asks_for_little() {
    let terms = Terms { waiters_max: 20, tenant_waiters_max: 20, ..Terms::default() };
    let results =
        run(terms, 4, &[Client { rate: 20.0, ..CLIENT }, Client { rate: 4_000.0, ..CLIENT }], 5_000, 6);
    assert_eq!(results[0].refused, 0);
    assert!(results[1].refused > 10_000, "{}", results[1].refused);
}

#[test]
fn among_tenants_too_many_to_be_known_a_greedy_one_takes_its_buckets_alone() {
    let terms = Terms { tenants_max: 2, waiters_max: 400, ..PATIENT };
    let mut clients = vec![Client { rate: 6.0, ..CLIENT }; 40];
    clients.push(Client { rate: 2_000.0, ..CLIENT });
    let results = run(terms, 8, &clients, 4_000, 7);
    let (small, greedy) = results.split_at(40);
    let hurt = small.iter().filter(|result| result.wait_ms(0.9) > 30.0).count();
    assert!(hurt <= 4, "{hurt} of 40 wait long");
    assert!(greedy[0].refused > 1_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, ..ProptestConfig::default() })]

    #[test]
    fn shares_follow_weights_whatever_the_requests_take(
        clients in proptest::collection::vec((1u32..6, 5.0f64..80.0, any::<bool>()), 2..5),
        slots in 2usize..12, seed in any::<u64>(),
    ) {
        let weights: u32 = clients.iter().map(|client| client.0).sum();
        // Each asks for twice what all slots could do.
        let clients: Vec<Client> = clients.into_iter().map(|(weight, service_ms, steady)| {
            Client { weight, service_ms, steady, rate: 2_000.0 * slots as f64 / service_ms }
        }).collect();
        let ms = 32_000 / slots as u64;
        let results = run(PATIENT, slots, &clients, ms, seed);
        prop_assert!(utilisation(&results, slots, ms) > 0.95);
        for (share, client) in shares(&results).iter().zip(&clients) {
            let expected = f64::from(client.weight) / f64::from(weights);
            prop_assert!((share - expected).abs() < 0.05, "{share} of {expected}: {clients:?}");
        }
    }
}
