//! Logins by OpenID Connect: what is asked of a provider, what its word must say, and what a session holds.
//!
//! The code flow with PKCE (RFC 7636, RFC 9700). What a browser holds of it is [`sealed`](super::sealed): the pending login, bound
//! to it, the session, and how often it has come back of late.

mod provider;
mod query;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

pub use provider::{Expected, Metadata, Tokens, Verified, subject};
pub use query::{encode, form, parameters, with};

/// Seconds that somebody may take to log in.
pub const PENDING_SECONDS_MAX: u64 = 600;
/// The most bytes of where somebody goes back to.
const TARGET_BYTES_MAX: usize = 2048;
/// The most bytes of a claim as a header.
const TEXT_BYTES_MAX: usize = 2048;
/// A browser that has come back so often, within so many seconds, and still has no session never will.
const AGAIN_MAX: u32 = 5;
/// Within so many seconds, that many times at most.
pub const AGAIN_SECONDS: u64 = 60;

/// A login that was begun, as its browser keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What the callback must bring.
    pub state: String,
    /// What the ID token must say.
    pub nonce: String,
    /// The secret of which the provider was told a digest.
    pub verifier: String,
    /// Where the browser wanted to go.
    pub target: String,
    /// When it was begun, in seconds of the civil clock.
    pub at: u64,
}

impl Pending {
    /// Begins one, with this chance.
    #[must_use]
    pub fn new(chance: &[u8; 80], target: &str, at: u64) -> Pending {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        Pending {
            state: text(&chance[..24]),
            nonce: text(&chance[24..48]),
            verifier: text(&chance[48..]),
            target: local(target).to_owned(),
            at,
        }
    }

    /// What the provider is told of the secret (RFC 7636 section 4.2, S256).
    #[must_use]
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier.as_bytes()))
    }

    /// Whether a callback with this state, now, is that of this login.
    #[must_use]
    pub fn is_answered_by(&self, state: &str, now: u64) -> bool {
        let same: bool = self.state.as_bytes().ct_eq(state.as_bytes()).into();
        same && now >= self.at.saturating_sub(60) && now < self.at.saturating_add(PENDING_SECONDS_MAX)
    }

    /// What tells the cookie of this login from those of others of the same browser.
    #[must_use]
    pub fn mark(state: &str) -> &str {
        state.get(..8).unwrap_or_default()
    }
}

/// Where to go back to: a path of ours, never another origin.
#[must_use]
pub fn local(target: &str) -> &str {
    let is_path = target.starts_with('/') && !target.starts_with("//") && !target.contains('\\');
    let is_sound = target.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path && is_sound && target.len() <= TARGET_BYTES_MAX { target } else { "/" }
}

/// A session, as its browser keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Who it is, to the provider.
    pub subject: String,
    /// The claims that the configuration names; `null`: there is none of that name.
    pub claims: Map<String, Value>,
    /// When it ends, in seconds of the civil clock.
    pub until: u64,
    /// From when on the provider is asked again.
    pub fresh_until: u64,
    /// What it is asked with.
    pub refresh: Option<String>,
    /// What the provider is reminded by of whom it logs out.
    pub id_token: Option<String>,
}

/// How often a browser has come back from its provider of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// So often.
    count: u32,
    /// The first time, in seconds of the civil clock.
    at: u64,
}

impl Again {
    /// It has come back now.
    #[must_use]
    pub fn after(before: Option<Again>, now: u64) -> Again {
        match before.filter(|before| before.is_recent(now)) {
            Some(before) => Again { count: before.count.saturating_add(1), ..before },
            None => Again { count: 1, at: now },
        }
    }

    fn is_recent(self, now: u64) -> bool {
        now >= self.at && now - self.at < AGAIN_SECONDS
    }

    /// Whether to send it there once more would go on for ever.
    #[must_use]
    pub fn is_loop(self, now: u64) -> bool {
        self.is_recent(now) && self.count >= AGAIN_MAX
    }
}

/// The claims of these names; `null`, where there is none.
#[must_use]
pub fn chosen<'a>(claims: &Value, names: impl Iterator<Item = &'a str>) -> Map<String, Value> {
    names.map(|name| (name.to_owned(), claims.get(name).cloned().unwrap_or_default())).collect()
}

/// Whether each of these claims is, or holds, one of the values.
#[must_use]
pub fn satisfies(claims: &Map<String, Value>, require: &BTreeMap<String, Vec<String>>) -> bool {
    require.iter().all(|(name, wanted)| {
        let is = |value: &Value| text(value).is_some_and(|text| wanted.contains(&text));
        match claims.get(name) {
            Some(Value::Array(held)) => held.iter().any(is),
            Some(value) => is(value),
            None => false,
        }
    })
}

/// A claim as a header says it. `None`: it is no text, number or truth, or a list of those, or cannot be said: one of a list that has a
/// comma in it would be taken for two.
#[must_use]
pub fn header(value: &Value) -> Option<http::HeaderValue> {
    let said = match value {
        Value::Array(all) => {
            let one = |value| text(value).filter(|text| !text.contains(','));
            all.iter().map(one).collect::<Option<Vec<String>>>()?.join(",")
        }
        one => text(one)?,
    };
    (said.len() <= TEXT_BYTES_MAX).then(|| http::HeaderValue::from_bytes(said.as_bytes()).ok()).flatten()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_login_is_answered_by_its_own_state_in_time() {
        let pending = Pending::new(&[7; 80], "/a?b", 1_000);
        assert!(pending.is_answered_by(&pending.state, 1_599));
        assert!(!pending.is_answered_by(&pending.state, 1_600));
        assert!(!pending.is_answered_by(&pending.state, 900), "the clock was set back");
        assert!(!pending.is_answered_by("", 1_000));
        assert!(pending.verifier.len() >= 43, "RFC 7636 section 4.1");
        // RFC 7636 appendix B.
        let known = Pending { verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into(), ..pending };
        assert_eq!(known.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn nobody_is_sent_back_to_another_origin() {
        for (target, expected) in [
            ("/a?b=c", "/a?b=c"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("", "/"),
        ] {
            assert_eq!(local(target), expected, "{target:?}");
        }
        assert_eq!(local(&format!("/{}", "x".repeat(4000))), "/");
    }

    #[test]
    fn claims_are_required_and_told() {
        let claims = chosen(
            &json!({"groups": ["a", "b"], "n": 5, "x": {}, "more": 1}),
            ["groups", "n", "x"].into_iter(),
        );
        let require = |name: &str, values: &[&str]| {
            BTreeMap::from([(name.to_owned(), values.iter().map(|&value| value.to_owned()).collect())])
        };
        assert!(satisfies(&claims, &BTreeMap::new()));
        assert!(satisfies(&claims, &require("groups", &["z", "b"])));
        assert!(satisfies(&claims, &require("n", &["5"])));
        for not in [
            require("groups", &["z"]),
            require("more", &["1"]),
            require("x", &[""]),
            require("groups", &["a,b"]),
        ] {
            assert!(!satisfies(&claims, &not), "{not:?}");
        }
        assert_eq!(header(&claims["groups"]).unwrap(), "a,b");
        assert_eq!(header(&json!("a\nb")), None);
        assert_eq!(header(&json!("a,b")).unwrap(), "a,b");
        assert_eq!(header(&json!(["staff,admins"])), None, "one group is not two");
        assert_eq!(header(&claims["x"]), None);
        let none = chosen(&json!({}), ["gone"].into_iter());
        assert!(none.contains_key("gone") && !satisfies(&none, &require("gone", &["null", ""])));
        assert_eq!(header(&none["gone"]), None);
    }

    #[test]
    fn who_comes_back_again_and_again_is_sent_no_more_for_a_while() {
        let mut again = None;
        for n in 0..u64::from(AGAIN_MAX) {
            assert!(!again.is_some_and(|again: Again| again.is_loop(1000 + n)), "{n}");
            again = Some(Again::after(again, 1000 + n));
        }
        let again = again.unwrap();
        assert!(again.is_loop(1010) && !again.is_loop(1000 + AGAIN_SECONDS) && !again.is_loop(999));
        assert_eq!(Again::after(Some(again), 1000 + AGAIN_SECONDS).count, 1);
    }
}
