//! What a command makes of a delivery.

use std::sync::Arc;

use bytes::Bytes;

use super::{Ms, Record, State, Token, rank};

/// What is asked of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Its time has come.
    Promote,
    /// One that it waited for is over, or its turn has come: it waits for so many fewer.
    Unblock {
        /// How many of those that it comes after are over.
        over: u32,
    },
    /// Somebody takes it.
    Start {
        /// For how long.
        until: Ms,
    },
    /// An attempt has ended. What that means was [judged](super::outcome::judge).
    Finish {
        /// Whose attempt.
        token: Token,
        /// What becomes of it.
        becomes: Becomes,
        /// Why, in words, where it did not go well.
        why: Option<Arc<str>>,
    },
    /// Whoever has it needs longer.
    Extend {
        /// Whose lease.
        token: Token,
        /// Until when.
        until: Ms,
        /// How far it has come: JSON.
        progress: Option<Bytes>,
    },
    /// Nobody wants it any more.
    Cancel {
        /// When it is forgotten.
        forgotten: Ms,
    },
    /// It is to be made again, as if it had just been accepted.
    Redrive {
        /// When.
        due: Ms,
        /// See [`rank`].
        aging: Ms,
    },
    /// It is too late for it.
    Expire {
        /// When it is forgotten.
        forgotten: Ms,
    },
}

/// What becomes of a delivery when an attempt has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// It is done.
    Delivered {
        /// When it is forgotten.
        forgotten: Ms,
    },
    /// Another attempt is made.
    Again {
        /// When.
        due: Ms,
    },
    /// Nothing has left this process: the attempt does not count.
    Unsent {
        /// When it is tried again.
        due: Ms,
    },
    /// It is given up.
    Dead {
        /// When it is forgotten.
        forgotten: Ms,
    },
}

/// What becomes of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is this from now on.
    Put(Box<Record>),
}

/// What whoever asked is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// It may be made.
    Started(Token),
    /// It is not so any more, or not yet: nothing was changed.
    Not(State),
    /// There is none: it was forgotten. [`step`] never says so.
    Gone,
}

/// What a command makes of a delivery.
#[must_use]
pub fn step(mut record: Record, command: Command, now: Ms) -> (Change, Told) {
    let before = record.state;
    let told = match (command, before) {
        (Command::Promote, State::Scheduled) if record.due <= now => {
            record.state = State::Ready;
            Told::Done
        }
        (Command::Unblock { over }, State::Blocked) => {
            record.waits_for = record.waits_for.saturating_sub(over);
            if record.waits_for == 0 {
                // What was to be made at once when it was accepted is not put off where the clock is behind that of who has
                // accepted it.
                let is_due = record.due <= now.max(record.created);
                record.state = if is_due { State::Ready } else { State::Scheduled };
            }
            Told::Done
        }
        (Command::Start { until }, State::Ready) if record.expires.is_none_or(|expires| now < expires) => {
            let token = Token(record.token.0 + 1);
            record.token = token;
            record.attempts += 1;
            record.state = State::Leased { token, until };
            Told::Started(token)
        }
        (Command::Finish { token, becomes, why }, State::Leased { token: held, .. }) if token == held => {
            finish(&mut record, becomes, why);
            Told::Done
        }
        (Command::Extend { token, until, progress }, State::Leased { token: held, .. }) if token == held => {
            record.state = State::Leased { token, until };
            if progress.is_some() {
                record.progress = progress;
            }
            Told::Done
        }
        (Command::Cancel { forgotten }, state) if !state.has_ended() => {
            record.state = State::Cancelled;
            record.forgotten = Some(forgotten);
            Told::Done
        }
        (Command::Expire { forgotten }, State::Blocked | State::Scheduled | State::Ready)
            if record.expires.is_some_and(|expires| expires <= now) =>
        {
            record.state = State::Dead;
            record.why = Some(Arc::from("it had expired before it could be begun"));
            record.forgotten = Some(forgotten);
            Told::Done
        }
        (Command::Redrive { due, aging }, State::Dead | State::Cancelled) => {
            record.attempts = 0;
            record.waits_for = 0;
            record.expires = None;
            record.forgotten = None;
            record.due = due;
            record.rank = rank(due, record.priority, aging);
            record.state = if due <= now { State::Ready } else { State::Scheduled };
            Told::Done
        }
        (_, state) => return (Change::None, Told::Not(state)),
    };
    (Change::Put(Box::new(record)), told)
}

fn finish(record: &mut Record, becomes: Becomes, why: Option<Arc<str>>) {
    record.why = why;
    match becomes {
        Becomes::Delivered { forgotten } => {
            record.state = State::Delivered;
            record.forgotten = Some(forgotten);
        }
        Becomes::Again { due } => {
            record.due = due;
            record.state = State::Scheduled;
        }
        Becomes::Unsent { due } => {
            record.attempts = record.attempts.saturating_sub(1);
            record.due = due;
            record.state = State::Scheduled;
        }
        Becomes::Dead { forgotten } => {
            record.state = State::Dead;
            record.forgotten = Some(forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::{Id, Seq};

    fn ready() -> Record {
        Record { rank: 0, ..Record::new(Id(1), Seq(1), "mails".into(), "acme".into(), 0) }
    }

    fn after(record: &Record, command: Command, now: Ms) -> Record {
        match step(record.clone(), command, now) {
            (Change::Put(record), _) => *record,
            (Change::None, told) => panic!("nothing became of it: {told:?}"),
        }
    }

    fn check(record: &Record, command: Command, now: Ms, expected: State) {
        assert_eq!(after(record, command, now).state, expected);
    }

    fn refused(record: &Record, command: Command, now: Ms) {
        assert_eq!(step(record.clone(), command, now), (Change::None, Told::Not(record.state)));
    }

    #[test]
    fn an_attempt_is_spent_when_it_begins() {
        let leased = after(&ready(), Command::Start { until: 50 }, 10);
        assert_eq!(leased.state, State::Leased { token: Token(1), until: 50 });
        assert_eq!(leased.attempts, 1);
    }

    #[test]
    fn only_who_holds_the_lease_ends_it() {
        let leased = after(&ready(), Command::Start { until: 50 }, 10);
        let finish =
            |token| Command::Finish { token, becomes: Becomes::Delivered { forgotten: 99 }, why: None };
        refused(&leased, finish(Token(0)), 20);
        refused(&leased, finish(Token(2)), 20);
        // Its time is over, but nobody else has taken it.
        check(&leased, finish(Token(1)), 60, State::Delivered);
    }

    #[test]
    fn a_lease_that_was_lost_ends_nothing() {
        let first = after(&ready(), Command::Start { until: 50 }, 10);
        let again = Command::Finish { token: Token(1), becomes: Becomes::Again { due: 60 }, why: None };
        let second = after(
            &after(&after(&first, again.clone(), 50), Command::Promote, 60),
            Command::Start { until: 90 },
            60,
        );
        assert_eq!((second.token, second.attempts), (Token(2), 2));
        refused(&second, again, 70);
        refused(&second, Command::Extend { token: Token(1), until: 200, progress: None }, 70);
    }

    #[test]
    fn what_was_not_sent_costs_no_attempt() {
        let leased = after(&ready(), Command::Start { until: 50 }, 10);
        let unsent = Command::Finish { token: Token(1), becomes: Becomes::Unsent { due: 30 }, why: None };
        let scheduled = after(&leased, unsent, 20);
        assert_eq!((scheduled.state, scheduled.attempts, scheduled.due), (State::Scheduled, 0, 30));
        refused(&scheduled, Command::Promote, 29);
        check(&scheduled, Command::Promote, 30, State::Ready);
    }

    #[test]
    fn what_has_expired_is_not_begun() {
        let record = Record { expires: Some(20), ..ready() };
        refused(&record, Command::Start { until: 50 }, 20);
        refused(&record, Command::Expire { forgotten: 99 }, 19);
        check(&record, Command::Expire { forgotten: 99 }, 20, State::Dead);
    }

    #[test]
    fn what_waits_for_several_waits_for_all() {
        let record = Record { state: State::Blocked, waits_for: 2, due: 5, ..ready() };
        let one = after(&record, Command::Unblock { over: 1 }, 10);
        assert_eq!((one.state, one.waits_for), (State::Blocked, 1));
        check(&one, Command::Unblock { over: 1 }, 10, State::Ready);
        check(&one, Command::Unblock { over: 1 }, 4, State::Scheduled);
    }

    #[test]
    fn what_is_to_be_made_at_once_is_not_put_off_by_a_clock_that_is_behind() {
        let blocked = |due| Record { state: State::Blocked, waits_for: 1, created: 1_000, due, ..ready() };
        check(&blocked(1_000), Command::Unblock { over: 1 }, 10, State::Ready);
        check(&blocked(1_001), Command::Unblock { over: 1 }, 10, State::Scheduled);
        check(&blocked(1_001), Command::Unblock { over: 1 }, 1_001, State::Ready);
    }

    #[test]
    fn what_is_redriven_begins_anew() {
        let dead = Record { state: State::Dead, attempts: 5, forgotten: Some(9), token: Token(5), ..ready() };
        let again = after(&dead, Command::Redrive { due: 10, aging: 0 }, 10);
        assert_eq!((again.state, again.attempts, again.forgotten), (State::Ready, 0, None));
        // Who held it before is still told from who holds it next.
        assert_eq!(again.token, Token(5));
        refused(&ready(), Command::Redrive { due: 10, aging: 0 }, 10);
    }

    fn command() -> impl Strategy<Value = Command> {
        let token = (0..4_u64).prop_map(Token);
        let becomes = prop_oneof![
            (0..99_u64).prop_map(|forgotten| Becomes::Delivered { forgotten }),
            (0..99_u64).prop_map(|due| Becomes::Again { due }),
            (0..99_u64).prop_map(|due| Becomes::Unsent { due }),
            (0..99_u64).prop_map(|forgotten| Becomes::Dead { forgotten }),
        ];
        prop_oneof![
            Just(Command::Promote),
            (0..3_u32).prop_map(|over| Command::Unblock { over }),
            (0..99_u64).prop_map(|until| Command::Start { until }),
            (token.clone(), becomes).prop_map(|(token, becomes)| Command::Finish {
                token,
                becomes,
                why: None
            }),
            (token, 0..99_u64).prop_map(|(token, until)| Command::Extend { token, until, progress: None }),
            (0..99_u64).prop_map(|forgotten| Command::Cancel { forgotten }),
            (0..99_u64).prop_map(|due| Command::Redrive { due, aging: 0 }),
            (0..99_u64).prop_map(|forgotten| Command::Expire { forgotten }),
        ]
    }

    proptest! {
        #[test]
        fn tokens_only_grow_and_what_has_ended_is_forgotten_some_time(
            commands in proptest::collection::vec((command(), 0..100_u64), 0..60),
        ) {
            let mut record = ready();
            for (command, now) in commands {
                let (before, redrive) = (record.clone(), matches!(command, Command::Redrive { .. }));
                let (change, told) = step(before.clone(), command, now);
                match change {
                    Change::None => prop_assert_eq!(told, Told::Not(before.state)),
                    Change::Put(after) => {
                        prop_assert!(after.token >= before.token);
                        prop_assert_eq!(matches!(told, Told::Started(_)), after.token > before.token);
                        prop_assert!(redrive || !before.state.has_ended());
                        prop_assert_eq!(after.state.has_ended(), after.forgotten.is_some());
                        record = *after;
                    }
                }
            }
        }
    }
}
