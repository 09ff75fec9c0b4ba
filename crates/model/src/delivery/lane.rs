//! A lane: how many deliveries of one key are not blocked at a time, and who is next.
//!
//! Who has a *place* in a lane either *holds* one of its turns, or *asks* for one and is blocked. An ordered one asks when it
//! is accepted and holds until it has ended: a retry keeps its place, and one that is due later keeps those behind it waiting. Of
//! the others only what may be begun or has begun holds a turn: what waits for its time does not keep others waiting.
//!
//! [`settle`] is called with each change of a delivery, in the transaction that writes it. A turn that is given back goes to
//! whoever asks first: of the ordered the oldest, of the others the one with the smallest rank.

use super::{Record, State};

/// What a delivery has of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Place {
    /// It waits for a turn: one of those that [`Record::waits_for`] counts.
    Asks = 1,
    /// It has one.
    Holds = 2,
}

impl Place {
    /// The one with this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Place> {
        [Place::Asks, Place::Holds].into_iter().find(|place| *place as u8 == number)
    }
}

/// What a delivery that is as it is now has of its lane, where it had `place`, `open` turns are held and the key may be
/// paused. One that may be begun and gets no turn becomes blocked.
#[must_use]
pub fn settle(record: &mut Record, place: Option<Place>, open: u32, paused: bool) -> Option<Place> {
    let lane = record.lane.as_ref()?;
    let room = !paused && open < lane.open_max;
    match (record.state, place) {
        (state, _) if state.has_ended() => None,
        (State::Ready, Some(Place::Holds)) if paused => Some(ask(record)),
        (State::Scheduled, Some(Place::Holds)) if !lane.ordered => None,
        (_, Some(place)) => Some(place),
        (state, None) if lane.ordered || state == State::Ready => {
            Some(if room { Place::Holds } else { ask(record) })
        }
        (_, None) => None,
    }
}

fn ask(record: &mut Record) -> Place {
    record.state = State::Blocked;
    record.waits_for += 1;
    Place::Asks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Id, Lane, Seq, Token};

    const LEASED: State = State::Leased { token: Token(1), until: 9 };

    fn record(state: State, ordered: bool, open_max: u32) -> Record {
        let lane = Some(Lane { key: "k".into(), ordered, open_max });
        Record { lane, rank: 0, state, ..Record::new(Id(1), Seq(1), "mails".into(), "acme".into(), 0) }
    }

    /// What becomes of a delivery in this state, with this place, in a lane with so many turns of which so many are held.
    fn check(ordered: bool, open: u32, before: (State, Option<Place>), after: (State, Option<Place>)) {
        let open_max = if ordered { 1 } else { 2 };
        let mut record = record(before.0, ordered, open_max);
        let place = settle(&mut record, before.1, open, false);
        assert_eq!((record.state, place), after, "{before:?}");
        let asks_anew = place == Some(Place::Asks) && before.1 != place;
        assert_eq!(record.waits_for, u32::from(asks_anew));
    }

    #[test]
    fn of_a_key_whose_order_counts_one_alone_has_the_turn_until_it_has_ended() {
        check(true, 0, (State::Ready, None), (State::Ready, Some(Place::Holds)));
        check(true, 1, (State::Ready, None), (State::Blocked, Some(Place::Asks)));
        check(true, 1, (State::Scheduled, None), (State::Blocked, Some(Place::Asks)));
        check(true, 1, (State::Scheduled, Some(Place::Holds)), (State::Scheduled, Some(Place::Holds)));
        check(true, 1, (LEASED, Some(Place::Holds)), (LEASED, Some(Place::Holds)));
        check(true, 1, (State::Dead, Some(Place::Holds)), (State::Dead, None));
    }

    #[test]
    fn where_order_does_not_count_what_waits_for_its_time_keeps_nobody_waiting() {
        check(false, 1, (State::Ready, None), (State::Ready, Some(Place::Holds)));
        check(false, 2, (State::Ready, None), (State::Blocked, Some(Place::Asks)));
        check(false, 0, (State::Scheduled, None), (State::Scheduled, None));
        check(false, 1, (State::Scheduled, Some(Place::Holds)), (State::Scheduled, None));
        check(false, 0, (State::Blocked, None), (State::Blocked, None));
        check(false, 2, (State::Delivered, Some(Place::Holds)), (State::Delivered, None));
    }

    #[test]
    fn what_has_begun_goes_on_when_its_key_is_paused_and_nothing_else_begins() {
        let paused = |state, place| {
            let mut record = record(state, true, 1);
            let place = settle(&mut record, place, 0, true);
            (record.state, place)
        };
        assert_eq!(paused(LEASED, Some(Place::Holds)), (LEASED, Some(Place::Holds)));
        assert_eq!(paused(State::Ready, Some(Place::Holds)), (State::Blocked, Some(Place::Asks)));
        assert_eq!(paused(State::Ready, None), (State::Blocked, Some(Place::Asks)));
    }

    #[test]
    fn what_has_no_key_has_no_place() {
        let mut record = Record { lane: None, ..record(State::Ready, true, 1) };
        assert_eq!(settle(&mut record, None, 7, true), None);
        assert_eq!(record.state, State::Ready);
    }
}
