//! What a delivery is found by: an id that nobody can guess, and that lies beside those that were drawn just before it.
//!
//! All of its 128 bits are chance. Were each id anywhere among all others, though, each delivery would change a page of its own
//! in whatever a store finds it by, which is written twice, to the log and back; and with millions of them, it would read
//! that page from disk before. So the first bits are drawn once for some hundred ids, which then share a page. Who
//! knows one of them knows those bits of its neighbours, and has the rest to guess: 104, where a random UUID has 122 in all.
//!
//! They say nothing of when they were drawn, nor in which order.

use std::fmt;

use crate::receipt::{RequestId, digits_as_text};

/// Ids that share their first bits: as many as have room on a page, so that those of one commit change one or two.
const TOGETHER: u16 = 128;
/// The bits that they share. So few that others know nothing of use, so many that strangers seldom come between.
const SHARED: u128 = 0xff_ffff << 104;

/// What a delivery is found by: 128 random bits, as 32 hexadecimal digits.
///
/// Packed, as a [request's id](crate::receipt::RequestId) is: receipts hold it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct Id(pub u128);

impl Id {
    /// The id that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Id> {
        let digits = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Id)).flatten()
    }

    /// The first bits, which those share that were drawn beside it.
    #[must_use]
    pub fn shared(self) -> u32 {
        (self.0 >> SHARED.trailing_zeros()) as u32
    }

    /// The first and the last id that may have been drawn beside it.
    #[must_use]
    pub fn neighbourhood(self) -> (Id, Id) {
        (Id(self.0 & SHARED), Id(self.0 | !SHARED))
    }

    /// The 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> [u8; 32] {
        RequestId(self.0).hex()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(digits_as_text(&self.hex()))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Makes ids of chance, those that are made one after the other beside each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawing {
    shared: u128,
    left: u16,
}

impl Drawing {
    /// One that has made none.
    #[must_use]
    pub const fn new() -> Drawing {
        Drawing { shared: 0, left: 0 }
    }

    /// The id that these random bits are, but for those that it shares with the one before.
    #[must_use]
    pub fn id(&mut self, chance: u128) -> Id {
        if self.left == 0 {
            (self.shared, self.left) = (chance & SHARED, TOGETHER);
        }
        self.left -= 1;
        Id(self.shared | chance & !SHARED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for id in [Id(0), Id(1), Id(u128::MAX), Id(0x0123_4567_89ab_cdef)] {
            assert_eq!(Id::parse(&id.to_string()), Some(id));
        }
        for text in ["", "0", "+0000000000000000000000000000001", "0123456789ABCDEF0123456789ABCDEF"] {
            assert_eq!(Id::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn ids_lie_beside_each_other_for_a_while_and_then_elsewhere() {
        // Each bit is another's in each draw.
        let chance = |draw: u16| if draw.is_multiple_of(2) { u128::MAX / 3 } else { !(u128::MAX / 3) };
        let (mut drawing, first) = (Drawing::new(), chance(0));
        for draw in 0..TOGETHER {
            assert_eq!({ drawing.id(chance(draw)).0 }, first & SHARED | chance(draw) & !SHARED);
        }
        assert_eq!({ drawing.id(!first).0 }, !first);
    }
}
