//! The whole engine under simulated time and chance: a real store on a real disk, an application that fails, an operator that
//! interferes, and a process that dies at any moment that matters.
//!
//! ```text
//! a seed --> a plan --> processes, one after the other over one disk --> a history --> rules
//! ```
//!
//! A *moment* that matters is before a batch is written, after it and before anybody is told, between an attempt's start and
//! what the application sees of it, between that and what is told of it, and all of these while the process drains. At some of them,
//! by the seed, the process dies: nothing that it does afterwards is seen by anybody, and the next one finds what was on
//! disk. Time is tokio's paused clock, on both of the product's clocks; the store's writing is done by its own code, by
//! hand. One thread, one stream of chance: a seed gives the same history each time.
//!
//! `cargo xtask sim` runs thousands of seeds; `cargo xtask sim --seed S` one, and prints what happened.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tidegate_upstream::Upstreams;

use self::history::History;
use self::plan::{Act, Plan};
use self::scene::{Sabotage, Scene};
use crate::chance::Chance;

mod history;
mod plan;
mod rules;
mod scene;
mod workers;
mod world;

/// Plays a seed. What has happened, and how many moments there were.
fn play(seed: u64, sabotage: Sabotage, change: impl FnOnce(&mut Plan)) -> (History, u64) {
    let chance = Chance::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7469_6465);
    let mut plan = Plan::of(&chance);
    change(&mut plan);
    // Where there is memory to be had as a disk: what is synced is not the point.
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a folder");
    let scene = Scene::new(plan, chance, sabotage, folder.path());
    let upstreams = Arc::<Upstreams>::default();
    upstreams.apply(vec![crate::tests::upstream_at(([127, 0, 0, 1], 9).into(), None)]).expect("an upstream");
    world::play(&scene, &upstreams);
    let moments = scene.moments();
    (
        Rc::try_unwrap(scene)
            .map_or_else(|scene| scene.history.borrow().clone(), |scene| scene.history.into_inner()),
        moments,
    )
}

/// What is wrong with a seed's history. Printed, if asked for.
fn judge(seed: u64, sabotage: Sabotage, change: impl FnOnce(&mut Plan), is_told: bool) -> Vec<String> {
    let (history, moments) = play(seed, sabotage, change);
    if is_told {
        history.events.iter().for_each(|event| println!("{event:?}"));
        history.records.iter().for_each(|record| println!("{record:?}"));
        println!("{moments} moments, digest {:016x}", history.digest());
    }
    rules::broken(&history)
}

fn check(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let broken = judge(seed, Sabotage::None, |_| (), false);
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}\nalone: cargo xtask sim --seed {seed}");
    }
}

#[test]
fn nothing_is_lost_whatever_happens() {
    check(0..10);
}

#[test]
fn nothing_is_lost_whatever_else_happens() {
    check(10..20);
}

/// A small plan, so that each of its moments can be the last.
fn small(plan: &mut Plan) {
    plan.batches.truncate(3);
    plan.batches.iter_mut().for_each(|batch| batch.offers.truncate(3));
    // What is paused has to go on.
    plan.acts.retain(|(_, act)| !matches!(act, Act::Pause(_) | Act::Resume(_)));
    plan.acts.truncate(2);
    plan.deaths.clear();
}

/// A death at each of the moments, every so many.
fn die_at_each(seed: u64, every: usize) {
    let (_, moments) = play(seed, Sabotage::None, small);
    assert!(moments > 20, "there is something to be interrupted");
    for moment in (1..=moments).step_by(every) {
        let dies = |plan: &mut Plan| {
            small(plan);
            plan.deaths = BTreeSet::from([moment]);
        };
        let broken = judge(seed, Sabotage::None, dies, false);
        assert!(broken.is_empty(), "seed {seed}, death at {moment}: {broken:#?}");
    }
}

#[test]
fn a_death_at_any_moment_loses_nothing() {
    die_at_each(2, 11);
}

#[test]
#[ignore = "cargo xtask sim runs it"]
fn a_death_at_each_moment_of_some_seeds_loses_nothing() {
    (0..10).for_each(|seed| die_at_each(seed, 1));
}

#[test]
fn a_seed_gives_the_same_history_each_time() {
    let digests = [0; 2].map(|_| play(3, Sabotage::None, |_| ()).0.digest());
    assert_eq!(digests[0], digests[1]);
}

/// What is done wrong on purpose is seen in the history of one of the first seeds.
fn sees(sabotage: Sabotage, rule: &str) {
    let seen = |seed| judge(seed, sabotage, |_| (), false).iter().any(|what| what.starts_with(rule));
    assert!((0..40).any(seen), "{sabotage:?} breaks no rule of this name: {rule}");
}

#[test]
fn a_disk_that_loses_commits_is_seen() {
    sees(Sabotage::LosesCommits(30), "what is accepted comes to its end");
}

#[test]
fn pauses_that_reach_nobody_are_seen() {
    sees(Sabotage::IgnoresPauses, "what is paused is left alone");
}

#[test]
fn attempts_that_are_made_twice_are_seen() {
    sees(Sabotage::AsksTwice, "nothing is made again that need not be");
}

#[test]
fn what_is_begun_ahead_and_forgotten_is_seen() {
    sees(Sabotage::ForgetsBegun, "what is accepted comes to its end");
}

/// What `cargo xtask sim` runs: a seed for each core at a time.
#[test]
#[ignore = "cargo xtask sim runs it"]
fn seeds_that_are_asked_for() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) =
        (number("TIDEGATE_SIM_FIRST").unwrap_or(0), number("TIDEGATE_SIM_SEEDS").unwrap_or(1));
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return;
                    }
                    let broken = judge(first + number, Sabotage::None, |_| (), count == 1);
                    if !broken.is_empty() {
                        let seed = first + number;
                        println!("seed {seed}: {broken:#?}\nalone: cargo xtask sim --seed {seed}");
                        failed.lock().push(seed);
                    }
                    if (number + 1).is_multiple_of(500) {
                        println!("{} of {count} seeds", number + 1);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "{} of {count} seeds fail: {failed:?}", failed.len());
}
