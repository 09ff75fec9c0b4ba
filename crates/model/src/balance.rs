//! Choosing an endpoint. Pure: what is known of the candidates goes in, and a word of chance; an index comes out.

use std::time::Duration;

use crate::tick::{Tick, nanos};

/// What a choice is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its share, slow start applied. Not negative.
    pub weight: f64,
    /// Calls under way.
    pub active: u32,
    /// Its latency as [`Ewma`] has it, in nanoseconds; 0: unknown.
    pub latency: f64,
}

/// By chance and weight.
#[must_use]
pub fn random(candidates: &[Candidate], chance: u64) -> Option<usize> {
    drawn(candidates, chance, |candidate| candidate.weight)
}

/// By chance, each with this share of it.
fn drawn(candidates: &[Candidate], chance: u64, share: impl Fn(&Candidate) -> f64) -> Option<usize> {
    let total: f64 = candidates.iter().map(&share).sum();
    if total <= 0.0 {
        return (!candidates.is_empty()).then(|| (chance % candidates.len() as u64) as usize);
    }
    let mut point = unit(chance) * total;
    for (index, candidate) in candidates.iter().enumerate() {
        point -= share(candidate);
        if point < 0.0 {
            return Some(index);
        }
    }
    Some(candidates.len() - 1)
}

/// The less busy of two drawn by chance (the power of two choices, Mitzenmacher 2001); of unequal weights, see
/// `by_cost`.
#[must_use]
pub fn least_request(candidates: &[Candidate], chance: u64) -> Option<usize> {
    by_cost(candidates, chance, |candidate| f64::from(candidate.active + 1))
}

/// The one of two drawn by chance with the lower latency times load; of unequal weights, see `by_cost`. One of unknown
/// latency counts as an average one, so that it is neither flooded nor starved.
#[must_use]
pub fn peak_ewma(candidates: &[Candidate], chance: u64) -> Option<usize> {
    let known = candidates.iter().filter(|candidate| candidate.latency > 0.0);
    let (count, sum) =
        known.fold((0u32, 0.0), |(count, sum), candidate| (count + 1, sum + candidate.latency));
    let average = if count == 0 { 1.0 } else { sum / f64::from(count) };
    by_cost(candidates, chance, |candidate| {
        let latency = if candidate.latency > 0.0 { candidate.latency } else { average };
        latency * f64::from(candidate.active + 1)
    })
}

/// The cheaper of two drawn by chance, where all weigh the same. Where they do not, one by chance, of which each has its
/// weight's share over its cost: were the weight a part of the cost, the lighter of two idle ones would get
/// nothing at all, and a slow start would be none.
fn by_cost(candidates: &[Candidate], chance: u64, cost: impl Fn(&Candidate) -> f64) -> Option<usize> {
    let weight = candidates.first()?.weight;
    match candidates.iter().all(|candidate| candidate.weight == weight) {
        true => better_of_two(candidates, chance, cost),
        false => drawn(candidates, chance, |candidate| candidate.weight / cost(candidate)),
    }
}

fn better_of_two(candidates: &[Candidate], chance: u64, cost: impl Fn(&Candidate) -> f64) -> Option<usize> {
    if candidates.len() < 2 {
        return (candidates.len() == 1).then_some(0);
    }
    let (first, second) = two_of(candidates.len(), chance);
    Some(if cost(&candidates[second]) < cost(&candidates[first]) { second } else { first })
}

/// Two different places of so many, at least two, by chance.
#[must_use]
pub fn two_of(count: usize, chance: u64) -> (usize, usize) {
    let count = count as u64;
    let first = (chance >> 32) % count;
    let second = (first + 1 + (chance & 0xffff_ffff) % (count - 1)) % count;
    (first as usize, second as usize)
}

/// Smooth weighted round robin: of weights 5, 1, 1 comes a a b a c a a, never a a a a a b c.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    credit: Vec<(u64, f64)>,
}

impl RoundRobin {
    /// The next of the candidates, each named by a key that stays its own.
    pub fn next(&mut self, candidates: &[(u64, f64)]) -> Option<usize> {
        if self.credit.len() != candidates.len()
            || self.credit.iter().zip(candidates).any(|(held, now)| held.0 != now.0)
        {
            let before = std::mem::take(&mut self.credit);
            let kept = |key: u64| before.iter().find(|held| held.0 == key).map_or(0.0, |held| held.1);
            self.credit = candidates.iter().map(|&(key, _)| (key, kept(key))).collect();
        }
        let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
        let mut best = None;
        for (index, (held, &(_, weight))) in self.credit.iter_mut().zip(candidates).enumerate() {
            held.1 += weight;
            if best.is_none_or(|(_, most)| held.1 > most) {
                best = Some((index, held.1));
            }
        }
        let (index, _) = best?;
        self.credit[index].1 -= total;
        Some(index)
    }
}

/// Smooth weighted round robin over parts of one list, each time another. All parts share what is owed to whom, so that
/// the whole list is in turn too: who was chosen in one part has to wait in all others.
#[derive(Clone, Debug, Default)]
pub struct PartRobin {
    credit: Vec<f64>,
}

impl PartRobin {
    /// The next of a part of a list of so many: each named by its place there, with its weight.
    pub fn next(&mut self, count: usize, part: &[(u64, f64)]) -> Option<usize> {
        if self.credit.len() != count {
            self.credit.clear();
            self.credit.resize(count, 0.0);
        }
        let total: f64 = part.iter().map(|&(_, weight)| weight).sum();
        let mut best: Option<(usize, f64)> = None;
        for (index, &(place, weight)) in part.iter().enumerate() {
            let credit = self.credit.get_mut(place as usize)?;
            *credit += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        self.credit[part[index].0 as usize] -= total;
        Some(index)
    }
}

/// Consistent hashing with bounded load (Mirrokni, Thorup, Zadimoghaddam 2016): rendezvous order, and whoever has more
/// than its share of the calls under way is passed over. Taking an endpoint away moves its keys alone.
#[must_use]
pub fn consistent(candidates: &[(u64, Candidate)], key: u64) -> Option<usize> {
    const LOAD_FACTOR: f64 = 1.25;
    // Fewer calls than this are no load: a client that makes two at once keeps its endpoint, and its session.
    const LOAD_MIN: f64 = 8.0;
    let active: u32 = candidates.iter().map(|(_, candidate)| candidate.active).sum();
    let total: f64 = candidates.iter().map(|(_, candidate)| candidate.weight).sum();
    let fits = |candidate: &Candidate| {
        let share = candidate.weight / total.max(1e-9);
        f64::from(candidate.active) < (f64::from(active + 1) * share * LOAD_FACTOR).ceil().max(LOAD_MIN)
    };
    // Weighted rendezvous: the larger -weight / ln(h) wins, h in (0, 1).
    let score = |id: u64, candidate: &Candidate| {
        let hashed = unit(mix(key ^ mix(id))).clamp(1e-18, 1.0 - 1e-16);
        -candidate.weight / hashed.ln()
    };
    let best = |only_fitting: bool| {
        candidates
            .iter()
            .enumerate()
            .filter(|(_, (_, candidate))| !only_fitting || fits(candidate))
            .max_by(|(_, a), (_, b)| score(a.0, &a.1).total_cmp(&score(b.0, &b.1)))
            .map(|(index, _)| index)
    };
    best(true).or_else(|| best(false))
}

/// How much of its weight an endpoint gets that began to serve so long ago.
#[must_use]
pub fn slow_start(since: Duration, window: Duration) -> f64 {
    if since >= window {
        return 1.0;
    }
    (since.as_secs_f64() / window.as_secs_f64()).max(0.1)
}

/// A latency average that jumps to peaks at once and forgets them slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ewma {
    /// Nanoseconds; 0: unknown.
    pub value: f64,
    /// When it was updated.
    pub at: Tick,
}

impl Ewma {
    /// How fast an old value is forgotten.
    const DECAY: f64 = 10e9;
    /// What a failure counts as, at least: an endpoint that fails fast must not look fast.
    pub const FAILURE: Duration = Duration::from_secs(1);

    /// What it has come to by now: one that is not asked is forgotten too, or it would never be asked again. Within a
    /// hundredth of the decay, that is nothing.
    #[must_use]
    pub fn now(self, now: Tick) -> f64 {
        let since = nanos(now.since(self.at)) as f64;
        if since < Ewma::DECAY / 100.0 { self.value } else { self.value * (-since / Ewma::DECAY).exp() }
    }

    /// The average after one more sample.
    #[must_use]
    pub fn after(self, sample: Duration, failed: bool, now: Tick) -> Ewma {
        let sample = nanos(if failed { sample.max(Ewma::FAILURE) } else { sample }) as f64;
        let value = if sample > self.value {
            sample
        } else {
            let keep = (-(nanos(now.since(self.at)) as f64) / Ewma::DECAY).exp();
            // At least a little of each sample counts, however many come at once.
            let keep = keep.min(0.99);
            self.value * keep + sample * (1.0 - keep)
        };
        Ewma { value, at: now }
    }
}

/// A word as a number from 0 to 1, 1 excluded.
pub(crate) fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's finisher: each bit of the word changes half of the bits.
#[must_use]
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(weight: f64, active: u32, latency_ms: f64) -> Candidate {
        Candidate { weight, active, latency: latency_ms * 1e6 }
    }

    #[test]
    fn round_robin_is_smooth_and_exact() {
        let mut robin = RoundRobin::default();
        let order: Vec<usize> =
            (0..14).map(|_| robin.next(&[(1, 5.0), (2, 1.0), (3, 1.0)]).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn round_robin_over_parts_is_fair_in_each_and_in_the_whole() {
        let (mut robin, mut whole) = (PartRobin::default(), [0u32; 4]);
        let parts = [[0u64, 1], [1, 2], [2, 3], [3, 0]].map(|part| part.map(|place| (place, 1.0)));
        for step in 0..4_000u64 {
            let part = &parts[(mix(step) % 4) as usize];
            whole[part[robin.next(4, part).unwrap()].0 as usize] += 1;
        }
        assert!(whole.iter().all(|count| (990..=1010).contains(count)), "{whole:?}");
        let turns: Vec<usize> = (0..6).map(|_| robin.next(4, &parts[0]).unwrap()).collect();
        assert!(turns.windows(2).skip(2).all(|two| two[0] != two[1]), "{turns:?}");
        assert_eq!(robin.next(4, &[]), None);
        let mut robin = PartRobin::default();
        let heavy: usize = (0..8).filter_map(|_| robin.next(9, &[(4, 1.0), (8, 3.0)])).sum();
        assert_eq!(heavy, 6, "three of four go to the one that weighs three");
    }

    #[test]
    fn least_request_avoids_the_busy() {
        let candidates = [candidate(1.0, 50, 0.0), candidate(1.0, 0, 0.0)];
        assert!((0..100).all(|chance| least_request(&candidates, mix(chance)) == Some(1)));
    }

    #[test]
    fn an_endpoint_that_fails_fast_draws_no_traffic() {
        let mut ewma = [Ewma::default(); 3];
        let mut counts = [0u32; 3];
        for step in 0..3_000u64 {
            let now = Tick(step * 1_000_000);
            let candidates: Vec<_> =
                ewma.iter().map(|e| Candidate { weight: 1.0, active: 0, latency: e.value }).collect();
            let chosen = peak_ewma(&candidates, mix(step)).unwrap();
            counts[chosen] += 1;
            // The first answers 503 within a tenth of a millisecond; the others work for twenty.
            let (sample, failed) = if chosen == 0 { (100, true) } else { (20_000, false) };
            ewma[chosen] = ewma[chosen].after(Duration::from_micros(sample), failed, now);
        }
        assert!(counts[0] < 100, "{counts:?}");
        assert!(counts[1].abs_diff(counts[2]) < 600, "{counts:?}");
    }

    #[test]
    fn an_endpoint_that_was_bad_once_is_tried_again_in_time() {
        let bad = Ewma::default().after(Duration::from_millis(1), true, Tick(0));
        assert_eq!(bad.now(Tick(50_000_000)), 1e9);
        let good = candidate(1.0, 0, 1.0);
        let picked = |seconds: u64| {
            let latency = bad.now(Tick(0).after(Duration::from_secs(seconds)));
            peak_ewma(&[Candidate { latency, ..good }, good], 0) == Some(0)
        };
        assert!(!picked(10) && picked(100));
    }

    #[test]
    fn consistent_hashing_bounds_the_load() {
        let mut candidates: Vec<_> = (0..4).map(|id| (id, candidate(1.0, 0, 0.0))).collect();
        for _ in 0..100 {
            // All of one key: a quarter of it may be anywhere, and a quarter more on the key's own.
            let chosen = consistent(&candidates, 42).unwrap();
            candidates[chosen].1.active += 1;
        }
        assert!(candidates.iter().all(|(_, c)| c.active <= 32), "{candidates:?}");
    }

    #[test]
    fn a_client_that_makes_a_few_calls_at_once_keeps_its_endpoint() {
        let mut candidates: Vec<_> = (0..4).map(|id| (id, candidate(1.0, 0, 0.0))).collect();
        let chosen: Vec<_> = (0..8)
            .map(|_| {
                let chosen = consistent(&candidates, 42).unwrap();
                candidates[chosen].1.active += 1;
                chosen
            })
            .collect();
        assert!(chosen.iter().all(|one| *one == chosen[0]), "{chosen:?}");
    }

    proptest! {
        #[test]
        fn taking_an_endpoint_away_moves_its_keys_alone(keys in proptest::collection::vec(any::<u64>(), 50), gone in 0usize..6) {
            let all: Vec<_> = (10..16).map(|id| (id, candidate(1.0, 0, 0.0))).collect();
            let mut rest = all.clone();
            rest.remove(gone);
            for key in keys {
                let before = all[consistent(&all, key).unwrap()].0;
                let after = rest[consistent(&rest, key).unwrap()].0;
                prop_assert!(before == all[gone].0 || before == after);
            }
        }

        #[test]
        fn an_idle_endpoint_gets_its_share_however_light_it_is(seed in any::<u64>()) {
            let candidates = [candidate(1.0, 0, 5.0), candidate(9.0, 0, 5.0)];
            for choose in [least_request, peak_ewma] {
                let count = (0..4_000)
                    .filter(|step| choose(&candidates, mix(seed.wrapping_add(*step))) == Some(0))
                    .count();
                prop_assert!((300..500).contains(&count), "{} of 4000", count);
            }
        }

        #[test]
        fn what_is_busy_slow_or_failing_gets_little_whatever_it_weighs(seed in any::<u64>()) {
            let candidates = [candidate(3.0, 20, 1000.0), candidate(1.0, 0, 5.0)];
            let counted = |choose: fn(&[Candidate], u64) -> Option<usize>| {
                (0..1_000).filter(|step| choose(&candidates, mix(seed.wrapping_add(*step))) == Some(0)).count()
            };
            prop_assert!(counted(least_request) < 200);
            prop_assert!(counted(peak_ewma) < 10);
        }

        #[test]
        fn chance_follows_weight(seed in any::<u64>()) {
            let candidates = [candidate(1.0, 0, 0.0), candidate(3.0, 0, 0.0), candidate(0.0, 0, 0.0)];
            let mut counts = [0u32; 3];
            for step in 0..4_000 {
                counts[random(&candidates, mix(seed.wrapping_add(step))).unwrap()] += 1;
            }
            prop_assert_eq!(counts[2], 0);
            prop_assert!((850..1150).contains(&counts[0]), "{:?}", counts);
        }
    }
}
