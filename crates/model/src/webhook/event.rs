//! Events: what the application says has happened, and the catalogue of what may happen.
//!
//! An event belongs to a tenant, has a type of the catalogue and a payload in JSON. Its id is what receivers tell
//! repeats by: it is the publisher's own, or drawn, and never holds a dot ([`super::signing`]).
//!
//! The payload is kept as it came, to the byte: nothing rewrites its numbers on the way.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of an event type's name.
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of an event's id.
pub const ID_BYTES_MAX: usize = 64;
/// Bytes of a payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Channels of one event.
pub const CHANNELS_MAX: usize = 10;
/// Types of a catalogue.
pub const TYPES_MAX: usize = 1000;
/// Bytes of a type's schema.
pub const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// What begins all ids that are drawn.
const DRAWN: &str = "msg_";
/// The type of the event that tries out a destination.
pub const TEST: &str = "tidegate.test";
/// The type of the event that says that a destination was disabled.
pub const DISABLED: &str = "tidegate.destination.disabled";

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its type.
    pub kind: String,
    /// The channels that it is told on.
    pub channels: Vec<String>,
    /// What it is about, as CloudEvents' `subject`.
    pub subject: Option<String>,
    /// When it was published, in seconds since the Unix epoch.
    pub at: u64,
    /// What has happened, in JSON.
    pub payload: Bytes,
}

/// A type of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventType {
    /// Its name, `order.created`.
    pub name: String,
    /// What it means, for who receives it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What its payload looks like: a JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Whether it is published no more: it stays known for what was published.
    #[serde(default)]
    pub archived: bool,
}

/// Whether a text may name an event type: words of letters, digits, `_` and `-`, with dots between them.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(word)
}

/// Whether a text may be an event's id.
#[must_use]
pub fn is_id(id: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(byte)
}

/// An id made of chance.
#[must_use]
pub fn draw_id(chance: u128) -> String {
    drawn(DRAWN, chance)
}

/// A name made of chance, behind a prefix that says what it names: Crockford's base 32, as it is read aloud.
#[must_use]
pub fn drawn(prefix: &str, chance: u128) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut text = String::with_capacity(prefix.len() + 26);
    text.push_str(prefix);
    text.extend((0..26).rev().map(|place| char::from(DIGITS[(chance >> (place * 5)) as usize & 31])));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(name: &str, expected: bool) {
        assert_eq!(is_name(name), expected, "{name}");
    }

    #[test]
    fn names_are_words_with_dots_between() {
        for good in ["order", "order.created", "a_1.B-2.c", TEST, DISABLED] {
            check(good, true);
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "é", "a/b", &"a".repeat(129)] {
            check(bad, false);
        }
    }

    proptest! {
        #[test]
        fn what_is_drawn_is_an_id_and_differs_where_its_chance_does(one: u128, other: u128) {
            let id = draw_id(one);
            prop_assert!(is_id(&id) && !id.contains('.') && id.len() == 30);
            prop_assert_eq!(id == draw_id(other), one == other);
        }
    }
}
