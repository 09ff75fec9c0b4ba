//! Consent that a receiver of CloudEvents gives later: it was asked by OPTIONS, and calls back (`WebHook-Request-Callback`).
//!
//! What was asked is a document, found by a key that the receiver alone was told: whoever knows it may consent. It is for one
//! URL: whoever is called by another one is asked anew.

use serde::{Deserialize, Serialize};

/// Where receivers call back, on every listener for clients; the key follows.
pub const PATH: &str = "/_tidegate/webhooks/consent/";
/// The kind of such documents.
pub const KIND: &str = "webhook.consent";
/// How long it is remembered what was asked, and what was said to it, in milliseconds.
pub const KEPT_MS: u64 = 366 * 86_400_000;

/// What a receiver was asked, and what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Where events would go.
    pub url: String,
    /// So many requests a minute were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// It consents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
}

/// That a receiver consents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// So many requests a minute, at most; `None`: as many as there are.
    pub rate: Option<u64>,
}

/// Whether a text may be such a key: what is drawn is written so.
#[must_use]
pub fn is_key(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::event::drawn;

    fn check(text: &str, expected: bool) {
        assert_eq!(is_key(text), expected, "{text}");
    }

    #[test]
    fn a_key_is_what_was_drawn() {
        check(&drawn("", 0), true);
        check(&drawn("", u128::MAX), true);
        for other in ["", "x", "../0123456789abcdefghjkmnp", &drawn("k", 7)] {
            check(other, false);
        }
    }
}
