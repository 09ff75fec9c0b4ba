//! Tests of the record of a key.

use http::{HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::fields::Fields;

const FIRST: Fingerprint = [1; 32];
const OTHER: Fingerprint = [2; 32];

fn claim(fingerprint: Fingerprint, claim: u64) -> Command {
    Command::Claim { fingerprint, claim, again: false, records_max: 10, until: 100 }
}

fn finish(claim: u64, kept: Kept) -> Command {
    Command::Finish { fingerprint: FIRST, claim, kept, until: 200 }
}

fn whole(body: &'static str) -> Kept {
    Kept::Whole(Answer {
        status: 201,
        fields: Bytes::new(),
        body: Bytes::from_static(body.as_bytes()),
        told_to: FIRST,
    })
}

/// Gives these commands one after another at these times; what each is told.
fn check(commands: &[(u64, Command)], expected: &[Told]) {
    let mut record = None;
    for ((now, command), expected) in commands.iter().zip(expected) {
        let records = u64::from(record.is_some());
        let (change, told) = step(record.clone(), command.clone(), records, *now);
        assert_eq!(told, *expected, "{command:?} at {now}, of {record:?}");
        match change {
            Change::None | Change::Leave => {}
            Change::Put(put) => record = Some(put),
            Change::Remove => record = None,
        }
    }
    assert_eq!(commands.len(), expected.len());
}

/// What a command to a record that is held is told, by who holds it.
fn check_among(command: &Command, expected: [Told; 3]) {
    let held = Record { fingerprint: FIRST, claim: 1, until: 100, state: State::Held };
    for (holder, expected) in [Holder::Asking, Holder::Another, Holder::Nobody].into_iter().zip(expected) {
        let (change, told) = step_among(Some(held.clone()), holder, command.clone(), 1, 50);
        assert_eq!(told, expected, "{command:?}, held by {holder:?}");
        let changes = matches!(told, Told::Claimed | Told::Done);
        assert_eq!(change != Change::None, changes, "{command:?}, held by {holder:?}");
        // What has come to its end is nobody's.
        let (_, ended) = step_among(Some(held.clone()), holder, command.clone(), 1, 100);
        assert_eq!(ended, step(None, command.clone(), 0, 100).1, "{command:?}, held by {holder:?}");
    }
}

#[test]
fn nobody_takes_up_what_another_node_may_be_working_on() {
    let again = Command::Claim { fingerprint: FIRST, claim: 3, again: true, records_max: 10, until: 200 };
    check_among(&claim(FIRST, 2), [Told::Unknown, Told::Elsewhere, Told::Unknown]);
    check_among(&again, [Told::Claimed, Told::Elsewhere, Told::Claimed]);
    check_among(&claim(OTHER, 2), [Told::Mismatch, Told::Mismatch, Told::Mismatch]);
}

#[test]
fn nobody_ends_what_is_not_its_own_though_the_number_is_the_same() {
    for command in [finish(1, whole("a")), Command::Release { claim: 1 }, Command::Leave { claim: 1 }] {
        check_among(&command, [Told::Done, Told::Lost, Told::Lost]);
    }
}

#[test]
fn what_was_carried_out_before_is_told_again() {
    let record = |state| Record { fingerprint: FIRST, claim: 1, until: 100, state };
    let (held, answered) = (record(State::Held), record(State::Answered(whole("a"))));
    assert_eq!(already(&held, &claim(FIRST, 1)), Some(Told::Claimed));
    assert_eq!(already(&held, &claim(FIRST, 2)), None);
    assert_eq!(already(&held, &finish(1, whole("a"))), None);
    assert_eq!(already(&answered, &finish(1, whole("a"))), Some(Told::Done));
    assert_eq!(already(&answered, &finish(2, whole("a"))), None);
    assert_eq!(already(&answered, &claim(FIRST, 1)), None);
}

#[test]
fn what_was_answered_is_told_again_until_its_end() {
    let answered = || Told::Answered(whole("a"));
    check(
        &[
            (0, claim(FIRST, 1)),
            (50, finish(1, whole("a"))),
            (60, claim(FIRST, 2)),
            (60, claim(OTHER, 3)),
            (199, claim(FIRST, 4)),
            (200, claim(OTHER, 5)),
        ],
        &[Told::Claimed, Told::Done, answered(), Told::Mismatch, answered(), Told::Claimed],
    );
}

#[test]
fn what_was_begun_and_not_ended_is_unknown_unless_it_may_be_made_again() {
    let again = Command::Claim { fingerprint: FIRST, claim: 3, again: true, records_max: 10, until: 100 };
    check(
        &[
            (0, claim(FIRST, 1)),
            (1, claim(FIRST, 2)),
            (1, claim(OTHER, 2)),
            (2, again),
            (3, finish(1, whole("late"))),
        ],
        &[Told::Claimed, Told::Unknown, Told::Mismatch, Told::Claimed, Told::Lost],
    );
}

#[test]
fn what_had_no_effect_is_free_again() {
    check(
        &[
            (0, claim(FIRST, 1)),
            (1, Command::Release { claim: 7 }),
            (1, Command::Release { claim: 1 }),
            (2, claim(OTHER, 2)),
            (3, Command::Release { claim: 1 }),
        ],
        &[Told::Claimed, Told::Lost, Told::Done, Told::Claimed, Told::Lost],
    );
}

#[test]
fn an_answer_that_came_after_its_records_end_is_kept() {
    check(
        &[(0, claim(FIRST, 1)), (150, finish(1, whole("late"))), (160, claim(FIRST, 2))],
        &[Told::Claimed, Told::Done, Told::Answered(whole("late"))],
    );
}

#[test]
fn a_tenant_has_no_more_records_than_it_may() {
    let told = |record: Option<Record>, records, now| step(record, claim(FIRST, 9), records, now).1;
    assert_eq!(told(None, 9, 0), Told::Claimed);
    assert_eq!(told(None, 10, 0), Told::Full);
    let old = Record { fingerprint: OTHER, claim: 1, until: 5, state: State::Held };
    assert_eq!(told(Some(old.clone()), 10, 5), Told::Claimed, "it takes the place of one that has ended");
    assert_eq!(told(Some(old), 11, 5), Told::Full);
}

#[test]
fn what_does_not_fit_is_its_status() {
    assert_eq!(whole("four").within(4), whole("four"));
    assert_eq!(whole("four").within(3), Kept::Status(201));
}

#[test]
fn an_error_is_an_answer_and_what_was_not_sent_is_none() {
    let release = [StatusCode::TOO_MANY_REQUESTS];
    for (ended, expected) in [
        (Ended::Answered(StatusCode::CREATED), Becomes::Answered),
        (Ended::Answered(StatusCode::INTERNAL_SERVER_ERROR), Becomes::Answered),
        (Ended::Answered(StatusCode::TOO_MANY_REQUESTS), Becomes::Free),
        (Ended::Unsent, Becomes::Free),
        (Ended::Unanswered, Becomes::Unknown),
    ] {
        assert_eq!(becomes(ended, &release), expected, "{ended:?}");
    }
}

#[test]
fn a_key_is_a_text_in_quotes_or_without() {
    let long = "k".repeat(256);
    let most = format!("\"{}\"", "k".repeat(255));
    for (value, expected) in [
        ("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", Ok("8e03978e-40d5-43dd-bc93-6894a57f9324")),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", Ok("8e03978e-40d5-43dd-bc93-6894a57f9324")),
        (" \"a b\" ", Ok("a b")),
        ("\"a\\\"b\"", Ok("a\"b")),
        ("\"a\";p=1", Ok("a")),
        (&most, Ok(&most[1..256])),
        ("", Err(Malformed::Length)),
        ("\"\"", Err(Malformed::Length)),
        (&long, Err(Malformed::Length)),
        ("\"a", Err(Malformed::Syntax)),
        ("a b", Err(Malformed::Syntax)),
        ("a,b", Err(Malformed::Syntax)),
        ("\"a\", \"b\"", Err(Malformed::Syntax)),
        ("ä", Err(Malformed::Syntax)),
    ] {
        let parsed = Key::parse(value.as_bytes());
        assert_eq!(parsed.as_ref().map(Key::as_str), expected.as_ref().copied(), "{value}");
    }
}

#[test]
fn there_is_one_key_or_none() {
    let mut fields = Fields::default();
    assert_eq!(Key::of(&fields), Ok(None));
    fields.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
    assert_eq!(Key::of(&fields).unwrap().unwrap().as_str(), "a");
    fields.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
    assert_eq!(Key::of(&fields), Err(Malformed::Twice));
}

#[test]
fn fingerprints_differ_wherever_requests_do() {
    let requests = [
        ("POST", "h", "/a", "b"),
        ("PUT", "h", "/a", "b"),
        ("POST", "i", "/a", "b"),
        ("POST", "h", "/ab", ""),
        ("POST", "h", "/a?", "b"),
        ("POST", "h/a", "", "b"),
        ("POST", "h", "/a", "b "),
    ];
    let all: std::collections::HashSet<Fingerprint> = requests
        .iter()
        .map(|(method, host, target, body)| {
            fingerprint(&method.parse().unwrap(), host, target, body.as_bytes())
        })
        .collect();
    assert_eq!(all.len(), requests.len());
}

proptest! {
    /// Whoever has claimed, and neither released nor come to the end of its record, has claimed alone.
    #[test]
    fn one_request_has_one_effect(given in proptest::collection::vec((0u8..3, 0u64..4, 0u64..30), 1..60)) {
        let mut record: Option<Record> = None;
        let (mut now, mut number) = (0, 0);
        let mut claims: Vec<u64> = Vec::new();
        for (what, which, later) in given {
            now += later;
            let held = record.as_ref().filter(|one| one.until > now).map(|one| one.claim);
            let chosen = claims.get(which as usize).copied().unwrap_or(number);
            let command = match what {
                0 => {
                    number += 1;
                    Command::Claim { fingerprint: FIRST, claim: number, again: false, records_max: 9, until: now + 40 }
                }
                1 => Command::Finish { fingerprint: FIRST, claim: chosen, kept: Kept::Status(200), until: now + 40 },
                _ => Command::Release { claim: chosen },
            };
            let (change, told) = step(record.clone(), command, u64::from(record.is_some()), now);
            if told == Told::Claimed {
                prop_assert_eq!(held, None, "another one holds it");
                claims.push(number);
            }
            if let (Some(before), Change::Put(after)) = (held, &change) {
                prop_assert_eq!(before, after.claim, "nobody ends what another has begun");
            }
            match change {
                Change::None | Change::Leave => {}
                Change::Put(put) => record = Some(put),
                Change::Remove => {
                    prop_assert_eq!(held, Some(chosen));
                    record = None;
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_key_or_none(value in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(key) = Key::parse(&value) {
            let text = key.as_str();
            prop_assert!((1..=KEY_BYTES_MAX).contains(&text.len()));
            prop_assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }
}
