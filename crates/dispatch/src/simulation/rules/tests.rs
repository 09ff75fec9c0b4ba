//! Each rule sees what it is there for, and leaves alone what is right.

use std::time::Duration;

use tidegate_model::delivery::outcome::Policy;
use tidegate_model::delivery::{Lane, rank};
use tidegate_model::gate::Priority;

use super::super::history::Asked;
use super::*;
use crate::settings::{PerKey, QueueSettings, Way};

const ID: Id = Id(1);
const OTHER: Id = Id(2);

fn line(queue: &str) -> Line {
    Line { queue: queue.into(), tenant: "ant".into() }
}

fn queues() -> Vec<QueueSettings> {
    let queue = |name: &str, way| QueueSettings { concurrency: 1, ..QueueSettings::new(name.into(), way) };
    let mut plain = queue("plain", Way::Push("app".into()));
    plain.policy.attempts_max = 2;
    plain.rate = Some(Rate { name: "r".into(), limit: 1, window: Duration::from_secs(10), burst: 1 });
    let mut ordered = queue("ordered", Way::Push("app".into()));
    ordered.concurrency = 9;
    ordered.per_key = PerKey { ordered: true, ..PerKey::default() };
    vec![plain, ordered, queue("pulled", Way::Pull)]
}

fn record(id: Id, queue: &str, state: State, attempts: u32) -> Record {
    Record {
        id,
        seq: seq(id),
        queue: queue.into(),
        tenant: "ant".into(),
        lane: (queue == "ordered").then(|| Lane { key: "x".into(), ordered: true, open_max: 1 }),
        priority: Priority::Default,
        rank: rank(0, Priority::Default, 0),
        created: 0,
        due: 0,
        expires: None,
        state,
        attempts,
        attempts_max: None,
        waits_for: 0,
        token: Token(0),
        progress: None,
        why: None,
        forgotten: None,
    }
}

fn seq(id: Id) -> Seq {
    Seq(id.0 as u64)
}

fn began(id: Id, queue: &str, attempt: u32) -> What {
    let key = (queue == "ordered").then(|| "x".into());
    What::Began { id, seq: seq(id), attempt, line: line(queue), key }
}

fn ended(id: Id, attempt: u32, went: Went) -> What {
    What::Ended { id, attempt, went }
}

fn claimed(id: Id, token: u64, least: Ms) -> What {
    let (seq, token, line) = (seq(id), Token(token), line("pulled"));
    What::Claimed { id, seq, token, attempt: 1, line, key: None, least }
}

fn told(id: Id, token: u64, held: Held) -> What {
    What::Told { id, seq: seq(id), token: Token(token), how: How::Done, held }
}

/// One after the other, a second between two.
fn history(events: &[What], records: &[Record]) -> History {
    let event = |(place, what): (usize, &What)| {
        let at = place as Ms * 1_000;
        Event { at, wall: at, process: 0, what: what.clone() }
    };
    History {
        events: events.iter().enumerate().map(event).collect(),
        records: records.to_vec(),
        queues: queues(),
        latency: 100,
        ..History::default()
    }
}

/// What a rule says of a history: nothing, or something.
fn check(rule: Rule, events: &[What], records: &[Record], is_broken: bool) {
    check_history(rule, &history(events, records), is_broken);
}

fn check_history(rule: Rule, history: &History, is_broken: bool) {
    let wrong = rule(history);
    assert_eq!(!wrong.is_empty(), is_broken, "{wrong:?} of {:?}", history.events);
}

#[test]
fn what_is_gone_or_has_not_ended_is_seen() {
    let delivered = record(ID, "plain", State::Delivered, 1);
    check(accepted_ends, &[What::Accepted(ID)], &[delivered], false);
    check(accepted_ends, &[What::Accepted(ID)], &[], true);
    for state in [State::Blocked, State::Scheduled, State::Ready, State::Leased { token: Token(1), until: 0 }]
    {
        check(accepted_ends, &[What::Accepted(ID)], &[record(ID, "plain", state, 1)], true);
    }
}

fn asked(id: Id) -> Asked {
    Asked {
        id,
        due: None,
        expires: None,
        attempts_max: None,
        is_unique: false,
        after: Vec::new(),
        callback: None,
    }
}

#[test]
fn a_callback_that_is_not_there_is_seen() {
    let mut all = history(&[], &[record(ID, "plain", State::Delivered, 1)]);
    all.asked = vec![Asked { callback: Some(OTHER), ..asked(ID) }];
    check_history(accepted_ends, &all, true);
    all.records.push(record(OTHER, "plain", State::Delivered, 1));
    check_history(accepted_ends, &all, false);
}

#[test]
fn an_end_without_a_reason_is_seen() {
    let well = ended(ID, 1, Went::Well);
    let badly = ended(ID, 1, Went::Badly);
    for (state, attempts, what, is_broken) in [
        (State::Delivered, 1, well.clone(), false),
        (State::Delivered, 1, badly.clone(), true),
        (State::Cancelled, 1, What::Cancelling(ID), false),
        (State::Cancelled, 1, well, true),
        (State::Dead, 2, badly.clone(), false),
        (State::Dead, 1, badly, true),
        (State::Dead, 1, ended(ID, 1, Went::Never), false),
    ] {
        let events = [began(ID, "plain", 1), what];
        check(ends_have_reasons, &events, &[record(ID, "plain", state, attempts)], is_broken);
    }
}

#[test]
fn a_repeat_without_a_reason_is_seen() {
    let (first, second) = (began(ID, "plain", 1), began(ID, "plain", 2));
    let (well, badly) = (ended(ID, 1, Went::Well), ended(ID, 1, Went::Badly));
    let gone = |drained| What::Gone { drained };
    let leased = What::WasLeased(ID, Token(1));
    let records = [record(ID, "plain", State::Delivered, 2)];
    for (between, is_broken) in [
        (vec![badly.clone()], false),
        (vec![well.clone()], true),
        (vec![], true),
        (vec![well.clone(), gone(false), leased.clone()], false),
        (vec![well.clone(), gone(false)], true),
        (vec![well.clone(), What::Fenced], false),
        (vec![badly, gone(true), leased], true),
    ] {
        let events = [&[first.clone()][..], &between, std::slice::from_ref(&second)].concat();
        check(repeats_have_reasons, &events, &records, is_broken);
    }
    let pulled = [record(ID, "pulled", State::Delivered, 2)];
    check(
        repeats_have_reasons,
        &[claimed(ID, 1, 0), told(ID, 1, Held::Done), claimed(ID, 2, 0)],
        &pulled,
        true,
    );
    check(
        repeats_have_reasons,
        &[claimed(ID, 1, 0), told(ID, 1, Held::Lost), claimed(ID, 2, 0)],
        &pulled,
        false,
    );
}

#[test]
fn an_attempt_too_many_is_seen() {
    let attempts = |numbers: &[u32]| numbers.iter().map(|&one| began(ID, "plain", one)).collect::<Vec<_>>();
    for (numbers, counted, is_broken) in
        [(&[1, 2][..], 2, false), (&[1, 2, 3], 3, true), (&[1, 1], 2, true), (&[1, 2], 1, true)]
    {
        let records = [record(ID, "plain", State::Dead, counted)];
        check(attempts_are_counted, &attempts(numbers), &records, is_broken);
    }
}

#[test]
fn what_is_not_configured_for_a_while_may_have_as_many_attempts_as_any_queue() {
    let history = History { queues: queues(), unconfigured: vec!["plain".into()], ..History::default() };
    let most = Policy::default().attempts_max;
    assert_eq!((history.attempts_max("plain"), history.attempts_max("none")), (Some(most), None));
    let history = History { unconfigured: vec!["ordered".into()], ..history };
    assert_eq!(history.attempts_max("plain"), Some(2));
}

#[test]
fn an_order_that_is_not_kept_is_seen() {
    let records = [record(ID, "ordered", State::Delivered, 2), record(OTHER, "ordered", State::Delivered, 1)];
    let (first, again) = (began(ID, "ordered", 1), began(ID, "ordered", 2));
    let (other, badly, well) =
        (began(OTHER, "ordered", 1), ended(ID, 1, Went::Badly), ended(ID, 2, Went::Well));
    let right = [first.clone(), badly.clone(), again.clone(), well.clone(), other.clone()];
    check(order_is_kept, &right, &records, false);
    check(order_is_kept, &[first.clone(), badly, other.clone(), again.clone(), well.clone()], &records, true);
    check(order_is_kept, &[other, first, again, well], &records, true);
}

#[test]
fn too_many_at_once_are_seen() {
    let (first, other) = (began(ID, "plain", 1), began(OTHER, "plain", 1));
    check(concurrency_is_kept, &[first.clone(), ended(ID, 1, Went::Well), other.clone()], &[], false);
    check(concurrency_is_kept, &[first, other], &[], true);
    // A key has its own bound.
    check(concurrency_is_kept, &[began(ID, "ordered", 1), began(OTHER, "ordered", 1)], &[], true);
    check(concurrency_is_kept, &[claimed(ID, 1, 9_000), claimed(OTHER, 1, 9_000)], &[], true);
    check(concurrency_is_kept, &[claimed(ID, 1, 500), claimed(OTHER, 1, 9_000)], &[], false);
}

#[test]
fn too_fast_is_seen() {
    let many =
        |count: u32| (0..count).map(|number| began(Id(u128::from(number)), "plain", 1)).collect::<Vec<_>>();
    check(rates_are_kept, &many(1), &[], false);
    check(rates_are_kept, &many(2), &[], true);
    let mut slow = history(&many(3), &[]);
    slow.events.iter_mut().for_each(|event| event.at *= 10);
    check_history(rates_are_kept, &slow, false);
}

#[test]
fn an_old_lease_that_does_something_is_seen() {
    let (first, second) = (claimed(ID, 1, 9_000), claimed(ID, 2, 9_000));
    check(leases_fence, &[first.clone(), second.clone(), told(ID, 2, Held::Done)], &[], false);
    check(leases_fence, &[first.clone(), second.clone(), told(ID, 1, Held::Lost)], &[], false);
    check(leases_fence, &[first.clone(), second.clone(), told(ID, 1, Held::Done)], &[], true);
    check(leases_fence, &[first.clone(), told(ID, 1, Held::Done), told(ID, 1, Held::Done)], &[], true);
    check(leases_fence, &[second, first.clone()], &[], true);
    check(leases_fence, &[first, told(ID, 1, Held::Lost)], &[], true);
}

#[test]
fn what_is_begun_in_a_pause_is_seen() {
    let others = [Pause::Tenant("bee".into()), Pause::Queue("pulled".into())];
    for pause in [Pause::Queue("plain".into()), Pause::Tenant("ant".into()), Pause::Line(line("plain"))] {
        let (paused, resuming) = (What::Paused(pause.clone()), What::Resuming(pause));
        check(pauses_are_kept, &[paused.clone(), began(ID, "plain", 1)], &[], true);
        check(pauses_are_kept, &[paused, resuming, began(ID, "plain", 1)], &[], false);
    }
    for pause in others {
        check(pauses_are_kept, &[What::Paused(pause), began(ID, "plain", 1)], &[], false);
    }
    let key = |key: &str| What::Paused(Pause::Key(line("ordered"), key.into()));
    check(pauses_are_kept, &[key("x"), began(ID, "ordered", 1)], &[], true);
    check(pauses_are_kept, &[key("y"), began(ID, "ordered", 1)], &[], false);
}

#[test]
fn what_comes_at_the_wrong_time_is_seen() {
    for (due, expires, is_broken) in
        [(Some(0), Some(5), false), (Some(1), None, true), (None, Some(5), false)]
    {
        let mut all = history(&[began(ID, "plain", 1)], &[]);
        all.asked = vec![Asked { due, expires, ..asked(ID) }];
        check_history(times_are_kept, &all, is_broken);
    }
    let mut late = history(&[What::Configured, began(ID, "plain", 1)], &[]);
    late.asked = vec![Asked { expires: Some(5), ..asked(ID) }];
    check_history(times_are_kept, &late, true);
}

#[test]
fn what_does_not_wait_for_what_it_comes_after_is_seen() {
    let (well, badly, next) = (ended(ID, 1, Went::Well), ended(ID, 1, Went::Badly), began(OTHER, "plain", 1));
    for (first, is_broken) in [(well, false), (badly, true)] {
        let mut all = history(&[first, next.clone()], &[]);
        all.asked = vec![Asked { after: vec![ID], ..asked(OTHER) }];
        check_history(afters_are_kept, &all, is_broken);
    }
}

#[test]
fn what_the_store_finds_is_told() {
    let mut all = history(&[], &[]);
    assert_eq!(broken(&all), Vec::<String>::new());
    all.audit = vec!["a lease has no end: 7".to_owned()];
    assert_eq!(broken(&all), ["the store is sound: a lease has no end: 7"]);
}
