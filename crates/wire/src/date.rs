//! The value of `Date`, made once a second on each core.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tidegate_model::tick::Tick;

use crate::clock;

/// An IMF-fixdate (RFC 9110 section 5.6.7) is as long as that.
const LENGTH: usize = 29;
const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// Until when it is so, and how it is written.
    static WRITTEN: Cell<(Tick, [u8; LENGTH])> = const { Cell::new((Tick(0), [0; LENGTH])) };
}

/// What a response made in this turn has for `Date`.
pub(crate) fn now() -> [u8; LENGTH] {
    let tick = clock::latest();
    let (until, written) = WRITTEN.get();
    if tick < until {
        return written;
    }
    let wall = clock::wall();
    let into = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let written = write(wall);
    WRITTEN.set((tick.after(SECOND - Duration::from_nanos(u64::from(into))), written));
    written
}

fn write(wall: SystemTime) -> [u8; LENGTH] {
    let text = httpdate::fmt_http_date(wall);
    text.as_bytes().try_into().expect("an IMF-fixdate has one length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_this_second() {
        let (before, text, after) = (clock::wall(), now(), clock::wall());
        let told = httpdate::parse_http_date(std::str::from_utf8(&text).unwrap()).unwrap();
        assert!(told + SECOND > before && told <= after, "{told:?} is not between {before:?} and {after:?}");
        assert_eq!(now().len(), LENGTH);
        assert_eq!(&write(SystemTime::UNIX_EPOCH), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
