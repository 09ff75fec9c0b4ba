//! The order of eviction at work: how often it hits beside two others, what a scan costs, what a neighbour can do.
//!
//! Everything has one size and is asked for by a power law (Zipf), as objects behind a CDN are. One seed, one result.

use std::collections::{BTreeMap, HashMap};

use super::shelf::Shelf;
use crate::balance::mix;

/// Objects, of which a tenth has room.
const NAMES: usize = 3_000;
const ROOM: usize = NAMES / 10;
const ASKS: u64 = 24_000;

/// Names by a power law: the nth is asked for in proportion to `1 / n^exponent`.
struct Zipf {
    /// The chance of a name or one before it.
    up_to: Vec<f64>,
}

impl Zipf {
    fn new(exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let mut up_to: Vec<f64> = (1..=NAMES)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        up_to.iter_mut().for_each(|chance| *chance /= sum);
        Zipf { up_to }
    }

    fn name(&self, turn: u64) -> u64 {
        let uniform = (mix(turn ^ 0x51ed) >> 11) as f64 / (1u64 << 53) as f64;
        let rank = self.up_to.partition_point(|chance| *chance < uniform) as u64;
        // A name's number tells nothing of its rank.
        mix(rank) >> 30
    }
}

/// Names in the order in which they were last asked for.
#[derive(Default)]
struct Recent {
    at: HashMap<u64, u64>,
    names: BTreeMap<u64, u64>,
    turn: u64,
}

impl Recent {
    fn touch(&mut self, name: u64) {
        self.turn += 1;
        if let Some(before) = self.at.insert(name, self.turn) {
            self.names.remove(&before);
        }
        self.names.insert(self.turn, name);
    }

    fn holds(&self, name: u64) -> bool {
        self.at.contains_key(&name)
    }

    fn oldest(&self) -> Option<u64> {
        self.names.values().next().copied()
    }

    fn remove(&mut self, name: u64) {
        if let Some(at) = self.at.remove(&name) {
            self.names.remove(&at);
        }
    }

    fn len(&self) -> usize {
        self.at.len()
    }
}

/// A cache that is asked for names.
trait Policy {
    /// Whether it was there; it may be from now on.
    fn ask(&mut self, name: u64) -> bool;
}

impl Policy for Shelf {
    fn ask(&mut self, name: u64) -> bool {
        Shelf::ask(self, 1, name, 10)
    }
}

/// The least recently used goes.
#[derive(Default)]
struct Lru(Recent);

impl Policy for Lru {
    fn ask(&mut self, name: u64) -> bool {
        let hit = self.0.holds(name);
        self.0.touch(name);
        if self.0.len() > ROOM
            && let Some(oldest) = self.0.oldest()
        {
            self.0.remove(oldest);
        }
        hit
    }
}

/// W-TinyLFU (Einziger, Friedman, Manes 2017): a window of a hundredth, a main part that admits who is asked for more often
/// than whoever would go, with exact counts that are halved now and then.
#[derive(Default)]
struct TinyLfu {
    window: Recent,
    probation: Recent,
    protected: Recent,
    counts: HashMap<u64, u8>,
    counted: usize,
}

impl TinyLfu {
    const WINDOW: usize = ROOM / 100;
    const PROTECTED: usize = (ROOM - TinyLfu::WINDOW) * 8 / 10;

    fn count(&mut self, name: u64) {
        let count = self.counts.entry(name).or_default();
        *count = (*count + 1).min(15);
        self.counted += 1;
        if self.counted == 10 * ROOM {
            self.counts.values_mut().for_each(|count| *count /= 2);
            self.counts.retain(|_, count| *count > 0);
            self.counted /= 2;
        }
    }

    fn often(&self, name: u64) -> u8 {
        self.counts.get(&name).copied().unwrap_or(0)
    }

    fn admit(&mut self, name: u64) {
        if self.probation.len() + self.protected.len() < ROOM - TinyLfu::WINDOW {
            self.probation.touch(name);
        } else if let Some(victim) = self.probation.oldest()
            && self.often(name) > self.often(victim)
        {
            self.probation.remove(victim);
            self.probation.touch(name);
        }
    }
}

impl Policy for TinyLfu {
    fn ask(&mut self, name: u64) -> bool {
        self.count(name);
        if self.window.holds(name) {
            self.window.touch(name);
        } else if self.protected.holds(name) {
            self.protected.touch(name);
        } else if self.probation.holds(name) {
            self.probation.remove(name);
            self.protected.touch(name);
            if self.protected.len() > TinyLfu::PROTECTED
                && let Some(oldest) = self.protected.oldest()
            {
                self.protected.remove(oldest);
                self.probation.touch(oldest);
            }
        } else {
            self.window.touch(name);
            if self.window.len() > TinyLfu::WINDOW
                && let Some(oldest) = self.window.oldest()
            {
                self.window.remove(oldest);
                self.admit(oldest);
            }
            return false;
        }
        true
    }
}

fn shelf() -> Shelf {
    Shelf::new(10 * ROOM as u64, 10 * ROOM as u64)
}

/// The hundredths of asks that hit, once it has filled. `scanned` names that are asked for once come between any two.
fn hits(policy: &mut dyn Policy, exponent: f64, scanned: u64) -> f64 {
    let zipf = Zipf::new(exponent);
    let (mut hits, mut counted, mut scan) = (0u32, 0u32, 1 << 40);
    for turn in 0..ASKS {
        let hit = policy.ask(zipf.name(turn));
        if turn >= ASKS / 4 {
            hits += u32::from(hit);
            counted += 1;
        }
        for _ in 0..scanned {
            scan += 1;
            policy.ask(scan);
        }
    }
    f64::from(hits) * 100.0 / f64::from(counted)
}

#[test]
fn hits_more_often_than_the_least_recently_used_and_about_as_often_as_w_tinylfu() {
    for exponent in [0.8, 0.9, 1.0] {
        let own = hits(&mut shelf(), exponent, 0);
        let lru = hits(&mut Lru::default(), exponent, 0);
        let tiny = hits(&mut TinyLfu::default(), exponent, 0);
        println!("Zipf {exponent}: S3-FIFO {own:.1} %, LRU {lru:.1} %, W-TinyLFU {tiny:.1} %");
        assert!(own > lru + 3.0, "Zipf {exponent}: {own:.1} % against {lru:.1} %");
        assert!(own > tiny - 3.0, "Zipf {exponent}: {own:.1} % against {tiny:.1} %");
    }
}

#[test]
fn a_scan_takes_little_from_what_is_asked_for_and_half_from_the_least_recently_used() {
    let (own, alone) = (hits(&mut shelf(), 0.9, 1), hits(&mut shelf(), 0.9, 0));
    let (lru, lru_alone) = (hits(&mut Lru::default(), 0.9, 1), hits(&mut Lru::default(), 0.9, 0));
    println!(
        "one scanned between any two: S3-FIFO {alone:.1} to {own:.1} %, LRU {lru_alone:.1} to {lru:.1} %"
    );
    assert!(own > alone - 5.0, "{alone:.1} to {own:.1} %");
    assert!(
        alone - own < lru_alone - lru,
        "less than the least recently used loses: {lru_alone:.1} to {lru:.1} %"
    );
}

/// The hits of a tenant whose things fit into half of the room, while another one asks for so many new things between any
/// two of its asks.
fn beside(flood: u64) -> f64 {
    let (zipf, mut shelf) = (Zipf::new(0.9), shelf());
    let (mut hits, mut name) = (0u32, 1 << 40);
    for turn in 0..ASKS / 4 {
        hits += u32::from(shelf.ask(1, zipf.name(turn) % (ROOM as u64 / 2 - 20), 10));
        for _ in 0..flood {
            name += 1;
            shelf.ask(2, name, 10);
        }
    }
    f64::from(hits) * 400.0 / ASKS as f64
}

#[test]
fn a_tenant_that_floods_the_cache_takes_nothing_from_one_within_its_share() {
    let (alone, beside) = (beside(0), beside(10));
    assert!(alone > 95.0, "what it asks for has room: {alone:.1} %");
    assert!(beside > alone - 0.1, "{alone:.1} to {beside:.1} %");
}
