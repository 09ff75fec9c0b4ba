//! Runs, as those see them who bring and read them.

use super::*;
use std::task::Poll::{Pending, Ready};

const GRID: Grid = Grid { whole: 1_000, slice: 10 };
const WHOLE: Part = Part { from: 0, to: 1_000 };

fn runs() -> Arc<Runs> {
    let runs = Arc::<Runs>::default();
    runs.bound(1_000);
    runs
}

fn brings(lead: Lead, part: Part, keeps: bool) -> Bringer {
    let bringer = lead.come(part, false);
    if !keeps {
        bringer.keeps_no_more();
    }
    bringer
}

/// One who leads, with its seat.
fn leads(runs: &Arc<Runs>, at: u64, part: Part) -> (Lead, Seat) {
    match runs.join(1, GRID, at, part, false) {
        Role::Lead(lead, seat) => (lead, seat),
        _ => panic!("nobody leads"),
    }
}

fn follows(runs: &Arc<Runs>, at: u64) -> Option<Seat> {
    match runs.join(1, GRID, at, WHOLE, false) {
        Role::Follow(seat) => Some(seat),
        _ => None,
    }
}

fn poll<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    poll(&mut Context::from_waker(Waker::noop()))
}

fn check(seat: &Seat, at: u64, expected: Poll<Read>) {
    assert_eq!(poll(|context| seat.poll_read(at, context)), expected, "at {at}");
}

fn room(bringer: &Bringer) -> Poll<bool> {
    poll(|context| bringer.poll_room(context))
}

fn piece(bytes: &[u8]) -> Poll<Read> {
    Ready(Read::Piece(Bytes::copy_from_slice(bytes)))
}

#[test]
fn all_who_want_the_same_read_one_run() {
    let runs = runs();
    let (lead, seat) = leads(&runs, 5, WHOLE);
    let other = follows(&runs, 0).expect("it is on its way");
    check(&seat, 5, Pending);
    let bringer = lead.come(WHOLE, false);
    bringer.push(Bytes::from_static(b"0123456789"));
    check(&seat, 5, piece(b"56789"));
    check(&other, 0, piece(b"0123456789"));
    bringer.end(Over::Whole);
    check(&seat, 10, Ready(Read::Over(Over::Whole)));
    assert_eq!((runs.under_way(), runs.held()), (0, 50), "who reads has the window still");
    drop((seat, other, bringer));
    assert_eq!(runs.held(), 0);
}

#[test]
fn what_is_kept_is_let_go_and_who_was_slow_reads_it_elsewhere() {
    let runs = runs();
    let (lead, fast) = leads(&runs, 0, WHOLE);
    let slow = follows(&runs, 0).expect("it is on its way");
    let bringer = brings(lead, WHOLE, true);
    bringer.push(Bytes::from_static(&[1; 45]));
    check(&fast, 45, Pending);
    assert_eq!(room(&bringer), Pending, "one is slow, and nothing is kept");
    bringer.push(Bytes::from_static(&[2; 5]));
    (0..4).for_each(|slice| bringer.kept(GRID.part_of(slice)));
    assert_eq!(room(&bringer), Pending, "a piece goes when all of it is kept");
    bringer.kept(GRID.part_of(4));
    assert_eq!(room(&bringer), Ready(true));
    check(&slow, 0, Ready(Read::Behind));
    check(&fast, 45, piece(&[2; 5]));
}

#[test]
fn what_is_to_be_kept_stays_until_it_is_whoever_has_read_it() {
    let runs = runs();
    let (lead, seat) = leads(&runs, 0, WHOLE);
    let bringer = brings(lead, WHOLE, true);
    bringer.push(Bytes::from_static(&[1; 10]));
    check(&seat, 10, Pending);
    assert_eq!(room(&bringer), Ready(true));
    check(&follows(&runs, 0).expect("it is in no tier yet"), 0, piece(&[1; 10]));
    bringer.kept(GRID.part_of(0));
    assert_eq!(room(&bringer), Ready(true));
    assert!(follows(&runs, 0).is_none(), "it is in a tier");
}

#[test]
fn what_is_not_kept_goes_at_the_pace_of_the_slowest() {
    let runs = runs();
    let (lead, fast) = leads(&runs, 0, WHOLE);
    let slow = follows(&runs, 0).expect("it is on its way");
    let bringer = brings(lead, WHOLE, false);
    bringer.push(Bytes::from_static(&[1; 45]));
    check(&fast, 45, Pending);
    assert_eq!(room(&bringer), Pending);
    check(&slow, 0, piece(&[1; 45]));
    check(&slow, 45, Pending);
    assert_eq!(room(&bringer), Ready(true));
}

#[test]
fn a_run_is_ahead_by_some_slices_and_waits_for_the_fastest() {
    let runs = runs();
    let (lead, seat) = leads(&runs, 0, WHOLE);
    let bringer = brings(lead, WHOLE, true);
    for slice in 0..AHEAD {
        assert_eq!(room(&bringer), Ready(true), "{slice}");
        bringer.push(Bytes::from_static(&[0; 10]));
        bringer.kept(GRID.part_of(slice));
    }
    assert_eq!(room(&bringer), Pending);
    check(&seat, 10, Ready(Read::Behind));
    assert_eq!(room(&bringer), Ready(true));
    assert!(follows(&runs, 500).is_none(), "it would wait for long");
}

#[test]
fn what_nobody_reads_ends_with_its_slice() {
    let runs = runs();
    let (lead, seat) = leads(&runs, 0, WHOLE);
    let bringer = lead.come(WHOLE, false);
    bringer.push(Bytes::from_static(&[0; 15]));
    drop(seat);
    assert_eq!(room(&bringer), Ready(true), "in the middle of a slice");
    bringer.push(Bytes::from_static(&[0; 6]));
    assert_eq!(room(&bringer), Ready(false), "one has ended since");
    bringer.push(Bytes::from_static(&[0; 969]));
    assert_eq!(room(&bringer), Ready(true), "it is nearly done");
}

#[test]
fn an_upstream_that_answers_with_the_whole_brings_it_from_the_beginning() {
    let runs = runs();
    let (lead, seat) = leads(&runs, 500, Part { from: 500, to: 510 });
    assert_eq!(lead.part(), Part { from: 500, to: 510 });
    let bringer = lead.come(WHOLE, true);
    bringer.keeps_no_more();
    bringer.push(Bytes::from_static(&[0; 400]));
    assert_eq!(room(&bringer), Ready(true), "nobody wants these");
    check(&seat, 500, Pending);
    assert!(follows(&runs, 900).is_some(), "it comes there, however far that is");
    assert!(runs.follow(1, 300).is_none(), "it has passed there");
}

#[test]
fn who_waits_is_told_why_nothing_comes() {
    let runs = runs();
    let (lead, seat) = leads(&runs, 0, WHOLE);
    drop(lead);
    check(&seat, 0, Ready(Read::Over(Over::Refused)));
    let (lead, seat) = leads(&runs, 0, WHOLE);
    let bringer = lead.come(WHOLE, false);
    bringer.push(Bytes::from_static(b"01"));
    drop(bringer);
    check(&seat, 0, piece(b"01"));
    check(&seat, 2, Ready(Read::Over(Over::Broken)));
    assert_eq!(runs.under_way(), 0);
}

#[test]
fn there_are_as_many_as_there_is_memory_for_and_who_is_in_the_middle_goes_on() {
    let runs = runs();
    runs.bound(60);
    let _held = leads(&runs, 0, WHOLE);
    assert!(matches!(runs.join(2, GRID, 0, WHOLE, false), Role::Full));
    assert!(matches!(runs.join(2, GRID, 0, WHOLE, true), Role::Lead(..)));
}
