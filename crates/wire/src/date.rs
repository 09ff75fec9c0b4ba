//! The value of `Date`, made once a second on each core.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use tidegate_model::cache::Wall;

use crate::clock;

/// An IMF-fixdate (RFC 9110 section 5.6.7) is as long as that.
const LENGTH: usize = 29;

thread_local! {
    /// The last second that was written, and how; at first, none.
    static WRITTEN: Cell<(Wall, [u8; LENGTH])> = const { Cell::new((Wall(u64::MAX), [0; LENGTH])) };
}

/// What a response made in this turn has for `Date`.
pub(crate) fn now() -> [u8; LENGTH] {
    let second = clock::latest_wall();
    let (of, written) = WRITTEN.get();
    if of == second {
        return written;
    }
    let written = write(second);
    WRITTEN.set((second, written));
    written
}

fn write(second: Wall) -> [u8; LENGTH] {
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second.0));
    text.as_bytes().try_into().expect("an IMF-fixdate has one length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_this_second() {
        let (second, text) = (clock::latest_wall(), now());
        let told = httpdate::parse_http_date(std::str::from_utf8(&text).unwrap()).unwrap();
        assert_eq!(Wall::of(told), second);
        assert_eq!(now(), text, "and stays so in this turn");
        assert_eq!(&write(Wall(0)), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
