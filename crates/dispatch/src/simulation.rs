//! The whole engine under simulated time and chance: a real store on a real disk, an application that fails, an operator that
//! interferes, and a process that dies at any moment that matters.
//!
//! ```text
//! a seed --> a plan --> processes, one after the other over one disk --> a history --> rules
//! ```
//!
//! The disk is a folder with SQLite in it, or a PostgreSQL, with connections that are lost and processes that only stand still
//! beside ([`server`]). The plan is the same on both, and so are the rules.
//!
//! A *moment* that matters is before a batch is written, after it and before anybody is told, between an attempt's start and
//! what the application sees of it, between that and what is told of it, and all of these while the process drains. At some of them,
//! by the seed, the process dies: nothing that it does afterwards is seen by anybody, and the next one finds what was on
//! disk. Time is tokio's paused clock, on both of the product's clocks; the store's writing is done by its own code, by
//! hand. One thread at a time, one stream of chance: a seed gives the same history each time.
//!
//! `cargo xtask sim` runs thousands of seeds, some hundred of them on PostgreSQL; `cargo xtask sim --seed S` one, and prints what
//! happened.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tidegate_upstream::Upstreams;

use self::disk::{Disk, On};
use self::history::History;
use self::plan::{Act, Plan};
use self::scene::{Sabotage, Scene};
use crate::chance::Chance;

mod disk;
mod history;
mod leases;
mod plan;
mod rules;
mod scene;
mod server;
mod workers;
mod world;

/// Plays a seed. What has happened, and how many moments there were.
fn play(on: On, seed: u64, sabotage: Sabotage, change: impl FnOnce(&mut Plan)) -> (History, u64) {
    let chance = Chance::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7469_6465);
    let mut plan = Plan::of(&chance);
    change(&mut plan);
    let scene = Scene::new(plan, chance, sabotage, Disk::new(on, seed, sabotage));
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
fn judge(
    on: On,
    seed: u64,
    sabotage: Sabotage,
    change: impl FnOnce(&mut Plan),
    is_told: bool,
) -> Vec<String> {
    let (history, moments) = play(on, seed, sabotage, change);
    if is_told {
        history.events.iter().for_each(|event| println!("{event:?}"));
        history.records.iter().for_each(|record| println!("{record:?}"));
        println!("{moments} moments, digest {:016x}", history.digest());
    }
    rules::broken(&history)
}

fn check(on: On, seeds: Range<u64>) {
    for seed in seeds {
        let broken = judge(on, seed, Sabotage::None, |_| (), false);
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}\nalone: {}", alone(on, seed));
    }
}

/// What plays this seed alone, and tells what happened.
fn alone(on: On, seed: u64) -> String {
    let store = match on {
        On::Sqlite => "sqlite",
        On::Postgres => "postgres",
    };
    format!("cargo xtask sim --store {store} --seed {seed}")
}

#[test]
fn nothing_is_lost_whatever_happens() {
    check(On::Sqlite, 0..10);
}

#[test]
fn nothing_is_lost_whatever_else_happens() {
    check(On::Sqlite, 10..20);
}

#[test]
fn nothing_is_lost_on_a_server_either() {
    check(On::Postgres, 0..5);
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
fn die_at_each(on: On, seed: u64, every: usize) {
    let (_, moments) = play(on, seed, Sabotage::None, small);
    assert!(moments > 20, "there is something to be interrupted");
    for moment in (1..=moments).step_by(every) {
        let dies = |plan: &mut Plan| {
            small(plan);
            plan.deaths = BTreeSet::from([moment]);
        };
        let broken = judge(on, seed, Sabotage::None, dies, false);
        assert!(broken.is_empty(), "seed {seed}, death at {moment}: {broken:#?}");
    }
}

#[test]
fn a_death_at_any_moment_loses_nothing() {
    die_at_each(On::Sqlite, 2, 11);
}

#[test]
fn a_death_at_any_moment_loses_nothing_on_a_server_either() {
    die_at_each(On::Postgres, 2, 53);
}

#[test]
#[ignore = "cargo xtask sim runs it"]
fn a_death_at_each_moment_of_some_seeds_loses_nothing() {
    match asked_for() {
        On::Sqlite => (0..10).for_each(|seed| die_at_each(On::Sqlite, seed, 1)),
        On::Postgres => (0..10).for_each(|seed| die_at_each(On::Postgres, seed, 29)),
    }
}

#[test]
fn a_seed_gives_the_same_history_each_time() {
    for on in [On::Sqlite, On::Postgres] {
        let digests = [0; 2].map(|_| play(on, 3, Sabotage::None, |_| ()).0.digest());
        assert_eq!(digests[0], digests[1], "{on:?}");
    }
}

/// What is done wrong on purpose is seen in the history of one of these seeds.
fn sees_in(on: On, seeds: Range<u64>, sabotage: Sabotage, change: fn(&mut Plan), rule: &str) {
    let seen = |seed| judge(on, seed, sabotage, change, false).iter().any(|what| what.starts_with(rule));
    assert!(seeds.into_iter().any(seen), "{sabotage:?} breaks no rule of this name: {rule}");
}

/// The same, of the first seeds, as they are.
fn sees(on: On, sabotage: Sabotage, rule: &str) {
    sees_in(on, 0..40, sabotage, |_| (), rule);
}

#[test]
fn a_disk_that_loses_commits_is_seen() {
    sees(On::Sqlite, Sabotage::LosesCommits(30), "what is accepted comes to its end");
}

#[test]
fn what_is_ahead_of_the_tables_and_lost_is_seen() {
    // It is there for moments: the next round brings most of it into the tables.
    let dies_often = |plan: &mut Plan| plan.deaths = (1..20).map(|nth| nth * 40).collect();
    sees_in(On::Sqlite, 10..40, Sabotage::LosesAhead, dies_often, "what is accepted comes to its end");
}

#[test]
fn a_server_that_undoes_what_it_tells_to_be_committed_is_seen() {
    sees(On::Postgres, Sabotage::LosesCommits(10), "what is accepted comes to its end");
}

#[test]
fn a_fence_that_lets_who_stood_still_write_is_seen() {
    // Now and then one stands still where it dies.
    let dies_often = |plan: &mut Plan| plan.deaths = (1..9).map(|nth| nth * 90).collect();
    sees_in(On::Postgres, 7..40, Sabotage::IgnoresFence, dies_often, "what is accepted comes to its end");
}

#[test]
fn a_commit_that_is_forgotten_with_its_connection_is_seen() {
    sees_in(On::Postgres, 9..40, Sabotage::ForgetsDoubt, |_| (), "what is accepted comes to its end");
}

#[test]
fn pauses_that_reach_nobody_are_seen() {
    sees(On::Sqlite, Sabotage::IgnoresPauses, "what is paused is left alone");
}

#[test]
fn attempts_that_are_made_twice_are_seen() {
    sees(On::Sqlite, Sabotage::AsksTwice, "nothing is made again that need not be");
}

#[test]
fn what_is_begun_ahead_and_forgotten_is_seen() {
    // Of some twenty seeds one shows it.
    sees_in(On::Sqlite, 50..90, Sabotage::ForgetsBegun, |_| (), "what is accepted comes to its end");
}

/// The store that `cargo xtask sim` asks for.
fn asked_for() -> On {
    match std::env::var("TIDEGATE_SIM_STORE").as_deref() {
        Ok("postgres") => On::Postgres,
        _ => On::Sqlite,
    }
}

/// What `cargo xtask sim` runs: a seed for each core at a time.
#[test]
#[ignore = "cargo xtask sim runs it"]
fn seeds_that_are_asked_for() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) =
        (number("TIDEGATE_SIM_FIRST").unwrap_or(0), number("TIDEGATE_SIM_SEEDS").unwrap_or(1));
    let on = asked_for();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= count {
                        return;
                    }
                    let broken = judge(on, first + number, Sabotage::None, |_| (), count == 1);
                    if !broken.is_empty() {
                        let seed = first + number;
                        println!("seed {seed}: {broken:#?}\nalone: {}", alone(on, seed));
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
