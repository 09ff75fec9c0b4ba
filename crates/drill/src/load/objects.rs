//! Which things clients ask for, where these are many: a pure decision of seed and request.

use crate::chance::{Chance, mix};

use super::{NAME_BITS, Source};

/// Which of many things clients ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objects {
    /// There is one.
    #[default]
    One,
    /// Of so many, some much more often than others, by Zipf's law: that of rank `r` in proportion to `1 / r^0.9`, which is what
    /// logs of web servers look like.
    Popular(u32),
    /// One after the other, none twice: a crawler.
    Each,
}

/// The exponent of Zipf's law.
const SKEW: f64 = 0.9;

/// The paths of a source's requests.
#[derive(Debug)]
pub(super) struct Paths {
    path: String,
    objects: Objects,
    seed: u64,
    /// What share of requests is for the most popular, the two most popular, and so on.
    shares: Vec<f64>,
}

impl Paths {
    pub(super) fn of(source: &Source, seed: u64) -> Paths {
        let shares = match source.objects {
            Objects::Popular(count) => shares(count),
            Objects::One | Objects::Each => Vec::new(),
        };
        Paths { path: source.path.clone(), objects: source.objects, seed, shares }
    }

    /// The path of the request of this name. A repeat has the same.
    pub(super) fn of_request(&self, name: u64) -> String {
        let own = name & ((1 << NAME_BITS) - 1);
        match self.objects {
            Objects::One => self.path.clone(),
            Objects::Popular(_) => {
                let chance = Chance::new(self.seed ^ mix(name), 0).unit();
                format!("{}{}", self.path, self.shares.partition_point(|share| *share <= chance))
            }
            Objects::Each => format!("{}{own}", self.path),
        }
    }
}

fn shares(count: u32) -> Vec<f64> {
    let weight = |rank: u32| f64::from(rank).powf(-SKEW);
    let all: f64 = (1..=count).map(weight).sum();
    let mut sum = 0.0;
    let mut shares: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += weight(rank) / all;
            sum
        })
        .collect();
    // Sums of fractions end beside one, and chance may come as close to one as it likes.
    if let Some(last) = shares.last_mut() {
        *last = 1.0;
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn paths(objects: Objects, seed: u64) -> Paths {
        Paths::of(&Source { path: "/a/".to_owned(), objects, ..Source::steady("a", 1.0) }, seed)
    }

    fn check(objects: Objects, expected: &[&str]) {
        let paths = paths(objects, 7);
        let first = (1..=expected.len() as u64).map(|own| paths.of_request((3 << NAME_BITS) + own));
        assert_eq!(first.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn one_thing_has_one_path_and_a_crawler_asks_for_nothing_twice() {
        check(Objects::One, &["/a/", "/a/"]);
        check(Objects::Each, &["/a/1", "/a/2", "/a/3"]);
        check(Objects::Popular(1), &["/a/0", "/a/0"]);
    }

    #[test]
    fn the_popular_are_asked_for_as_often_as_the_law_says() {
        const MANY: u64 = 50_000;
        let paths = paths(Objects::Popular(100), 7);
        let mut counts = BTreeMap::<String, u64>::new();
        for name in 0..MANY {
            *counts.entry(paths.of_request(name)).or_default() += 1;
        }
        let first = counts["/a/0"] as f64 / MANY as f64;
        assert!((first - paths.shares[0]).abs() < 0.01, "{first} {}", paths.shares[0]);
        assert!(counts["/a/0"] > counts["/a/9"] && counts["/a/9"] > counts["/a/99"]);
    }

    proptest! {
        #[test]
        fn nothing_is_asked_for_that_is_not_there(seed: u64, name: u64, count in 1u32..200) {
            let path = paths(Objects::Popular(count), seed).of_request(name);
            let number: u32 = path.strip_prefix("/a/").unwrap().parse().unwrap();
            prop_assert!(number < count);
        }
    }
}
