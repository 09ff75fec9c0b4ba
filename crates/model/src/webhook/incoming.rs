//! Requests from others' servers: who sent it, and which one it is.
//!
//! | scheme | signed | signature | id |
//! | --- | --- | --- | --- |
//! | `standard` | `ID.TIMESTAMP.BODY` | `webhook-signature` | `webhook-id` |
//! | `stripe` | `TIMESTAMP.BODY` | `Stripe-Signature: t=…,v1=…,v1=…` | `id` in the body |
//! | `github` | `BODY` | `X-Hub-Signature-256: sha256=…` | `X-GitHub-Delivery` |
//! | `slack` | `v0:TIMESTAMP:BODY` | `X-Slack-Signature: v0=…` | `event_id` in the body |
//!
//! A sender repeats what was not answered in time: the id says that it is the same, so that it is taken once. What has none
//! (Slack's commands) has the digest of its signed bytes for one. GitHub signs neither id nor time: who has seen a request
//! may send it again under another id.
//!
//! What always holds: nothing of a body is read before its signature was found good.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::signing::{self, SecretError, Unverified, Verifier};
use crate::fields::Fields;
use crate::hmac;

/// Bytes of an id.
pub const ID_BYTES_MAX: usize = 200;
/// Secrets of one source: the new and the old ones while they are replaced.
pub const SECRETS_MAX: usize = 8;
/// Signatures of one request that are looked at.
const SIGNATURES_MAX: usize = 16;

const STRIPE_SIGNATURE: &str = "stripe-signature";
const GITHUB_SIGNATURE: &str = "x-hub-signature-256";
const GITHUB_DELIVERY: &str = "x-github-delivery";
const SLACK_SIGNATURE: &str = "x-slack-signature";
const SLACK_TIMESTAMP: &str = "x-slack-request-timestamp";

/// How a sender signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Standard Webhooks 1.0.
    Standard,
    /// Stripe.
    Stripe,
    /// GitHub.
    Github,
    /// Slack.
    Slack,
}

/// A sender: its scheme and the secrets that it may sign with.
#[derive(Clone, Debug)]
pub struct Source {
    keys: Keys,
    /// How far its clock and ours may be apart, in seconds.
    tolerance: u64,
}

#[derive(Clone, Debug)]
enum Keys {
    Standard(Vec<Verifier>),
    Stripe(Vec<hmac::Secret>),
    Github(Vec<hmac::Secret>),
    Slack(Vec<hmac::Secret>),
}

/// Why a source cannot be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no secret, or too many.
    #[error("a source has 1 to {SECRETS_MAX} secrets")]
    Count,
    /// A secret is empty: anybody could sign with it.
    #[error("a secret is empty")]
    Empty,
    /// A secret is not of the form that Standard Webhooks has.
    #[error(transparent)]
    Standard(#[from] SecretError),
}

/// A request that was sent by who it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genuine {
    /// What it is known by: of two with the same, one is a repeat.
    pub id: String,
    /// What is to be answered, where the sender only asks whether somebody is there.
    pub challenge: Option<String>,
}

impl Source {
    /// A source with these secrets.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn new(scheme: Scheme, secrets: &[&str], tolerance: u64) -> Result<Source, SourceError> {
        if secrets.is_empty() || secrets.len() > SECRETS_MAX {
            return Err(SourceError::Count);
        }
        if secrets.iter().any(|secret| secret.is_empty()) {
            return Err(SourceError::Empty);
        }
        let shared = || secrets.iter().map(|secret| hmac::Secret::new(secret.as_bytes())).collect();
        let keys = match scheme {
            Scheme::Standard => {
                Keys::Standard(secrets.iter().map(|secret| Verifier::read(secret)).collect::<Result<_, _>>()?)
            }
            Scheme::Stripe => Keys::Stripe(shared()),
            Scheme::Github => Keys::Github(shared()),
            Scheme::Slack => Keys::Slack(shared()),
        };
        Ok(Source { keys, tolerance })
    }

    /// Whether it is this source's request, and which one.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn verify(&self, fields: &Fields, body: &[u8], now: u64) -> Result<Genuine, Unverified> {
        let genuine = |id: Option<String>, stamp: &str| Genuine {
            id: id.filter(|id| is_id(id)).unwrap_or_else(|| digest(stamp, body)),
            challenge: None,
        };
        match &self.keys {
            Keys::Standard(keys) => {
                let named = (
                    one(fields, signing::WEBHOOK_ID)?,
                    one(fields, signing::WEBHOOK_TIMESTAMP)?,
                    one(fields, signing::WEBHOOK_SIGNATURE)?,
                );
                signing::verify(keys, named, body, self.tolerance, now)?;
                Ok(genuine(Some(named.0.to_owned()), named.1))
            }
            Keys::Stripe(keys) => {
                let stamp = self.stripe(keys, one(fields, STRIPE_SIGNATURE)?, body, now)?;
                Ok(genuine(text_at(body, "id"), stamp))
            }
            Keys::Github(keys) => {
                let given = one(fields, GITHUB_SIGNATURE)?;
                let hex = given.strip_prefix("sha256=").ok_or(Unverified::Malformed(GITHUB_SIGNATURE))?;
                signed(keys, &[hex], &[body])?;
                Ok(genuine(Some(one(fields, GITHUB_DELIVERY)?.to_owned()), ""))
            }
            Keys::Slack(keys) => {
                let stamp = one(fields, SLACK_TIMESTAMP)?;
                self.timely(stamp, SLACK_TIMESTAMP, now)?;
                let given = one(fields, SLACK_SIGNATURE)?;
                let hex = given.strip_prefix("v0=").ok_or(Unverified::Malformed(SLACK_SIGNATURE))?;
                signed(keys, &[hex], &[b"v0:", stamp.as_bytes(), b":", body])?;
                let asks = text_at(body, "type").is_some_and(|kind| kind == "url_verification");
                let challenge = if asks { text_at(body, "challenge") } else { None };
                Ok(Genuine { challenge, ..genuine(text_at(body, "event_id"), stamp) })
            }
        }
    }

    /// `t=TIMESTAMP,v1=HEX,v1=HEX,v0=…`: the timestamp, if one of the `v1` is good.
    fn stripe<'a>(
        &self,
        keys: &[hmac::Secret],
        given: &'a str,
        body: &[u8],
        now: u64,
    ) -> Result<&'a str, Unverified> {
        let all = |name: &'static str| {
            let parts = given.split(',').filter_map(|part| part.trim().split_once('='));
            parts.filter(move |(said, _)| *said == name).map(|(_, value)| value)
        };
        let mut stamps = all("t");
        let (Some(stamp), None) = (stamps.next(), stamps.next()) else {
            return Err(Unverified::Malformed(STRIPE_SIGNATURE));
        };
        self.timely(stamp, STRIPE_SIGNATURE, now)?;
        let signatures: Vec<&str> = all("v1").take(SIGNATURES_MAX).collect();
        signed(keys, &signatures, &[stamp.as_bytes(), b".", body])?;
        Ok(stamp)
    }

    fn timely(&self, stamp: &str, field: &'static str, now: u64) -> Result<(), Unverified> {
        let timely = signing::timely(stamp, self.tolerance, now);
        timely.map(drop).map_err(|why| why.unwrap_or(Unverified::Malformed(field)))
    }
}

/// The value of a field that stands once: of two, each reader may take another.
fn one<'a>(fields: &'a Fields, name: &'static str) -> Result<&'a str, Unverified> {
    let mut all = fields.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Unverified::Malformed(name)),
        (None, _) => Err(Unverified::Missing(name)),
        (Some(_), Some(_)) => Err(Unverified::Malformed(name)),
    }
}

/// Whether one of these signatures in hexadecimal is by one of these keys. All are looked at, whatever is found.
fn signed(keys: &[hmac::Secret], signatures: &[&str], parts: &[&[u8]]) -> Result<(), Unverified> {
    let tags: Vec<[u8; hmac::TAG_BYTES]> = signatures.iter().filter_map(|hex| of_hex(hex)).collect();
    let found = keys
        .iter()
        .fold(false, |found, key| tags.iter().fold(found, |found, tag| key.is_tag(tag, parts) | found));
    if found { Ok(()) } else { Err(Unverified::Forged) }
}

fn of_hex(hex: &str) -> Option<[u8; hmac::TAG_BYTES]> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != hmac::TAG_BYTES {
        return None;
    }
    let mut tag = [0; hmac::TAG_BYTES];
    for (byte, pair) in tag.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(tag)
}

/// A text at the top of a body that is JSON.
fn text_at(body: &[u8], name: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.get(name)?.as_str().map(str::to_owned)
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What stands for an id where there is none.
fn digest(stamp: &str, body: &[u8]) -> String {
    let hash = Sha256::new_with_prefix(stamp).chain_update(b".").chain_update(body).finalize();
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::signing::{Message, Secret};
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    /// The example of Slack's documentation.
    const SLACK_BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SLACK_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const SLACK_TAG: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    const SLACK_TIME: u64 = 1_531_420_618;
    /// The example of GitHub's documentation.
    const GITHUB_SECRET: &str = "It's a Secret to Everybody";
    const GITHUB_TAG: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    /// As `openssl dgst -sha256 -hmac whsec_test_secret` has it of `1492774577.` and the body: Stripe publishes no tag.
    const STRIPE_SECRET: &str = "whsec_test_secret";
    const STRIPE_BODY: &str = r#"{"id":"evt_1","object":"event"}"#;
    const STRIPE_TAG: &str = "654b43d3508ecadb3f8cefc4bc7d3d2bdc5ba9e03bf2c89b2d0657a8e24e4543";
    const STRIPE_TIME: u64 = 1_492_774_577;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            let name = HeaderName::try_from(*name).expect("a name");
            fields.append(&name, HeaderValue::from_str(value).expect("a value"));
        }
        fields
    }

    fn source(scheme: Scheme, secret: &str) -> Source {
        Source::new(
            scheme,
            &["another secret that is not it", secret][usize::from(scheme == Scheme::Standard)..],
            300,
        )
        .unwrap()
    }

    fn check(
        source: &Source,
        lines: &[(&str, &str)],
        body: &str,
        now: u64,
        expected: Result<&str, Unverified>,
    ) {
        let found = source.verify(&fields(lines), body.as_bytes(), now);
        assert_eq!(
            found.as_ref().map(|genuine| genuine.id.as_str()).map_err(|why| *why),
            expected,
            "{lines:?}"
        );
    }

    #[test]
    fn knows_stripes_requests() {
        let (source, now) = (source(Scheme::Stripe, STRIPE_SECRET), STRIPE_TIME + 10);
        let good = format!("t={STRIPE_TIME},v1={STRIPE_TAG},v0=abc");
        let old = format!("t={STRIPE_TIME},v1={},v1={STRIPE_TAG}", "0".repeat(64));
        check(&source, &[("Stripe-Signature", &good)], STRIPE_BODY, now, Ok("evt_1"));
        check(&source, &[("Stripe-Signature", &old)], STRIPE_BODY, now, Ok("evt_1"));
        let forged = Err(Unverified::Forged);
        check(&source, &[("Stripe-Signature", &good)], r#"{"id":"evt_2"}"#, now, forged);
        check(&source, &[("Stripe-Signature", &good.replace("v1=", "v0="))], STRIPE_BODY, now, forged);
        check(&source, &[("Stripe-Signature", &good)], STRIPE_BODY, now + 1000, Err(Unverified::Old));
        let malformed = Err(Unverified::Malformed("stripe-signature"));
        check(&source, &[("Stripe-Signature", &format!("t=1,{good}"))], STRIPE_BODY, now, malformed);
        check(&source, &[("Stripe-Signature", "t=x")], STRIPE_BODY, now, malformed);
        check(&source, &[("Stripe-Signature", good.as_str()); 2], STRIPE_BODY, now, malformed);
        check(&source, &[], STRIPE_BODY, now, Err(Unverified::Missing("stripe-signature")));
    }

    #[test]
    fn knows_githubs_requests() {
        let source = source(Scheme::Github, GITHUB_SECRET);
        let id = ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        let (tag, body) = (("X-Hub-Signature-256", GITHUB_TAG), "Hello, World!");
        check(&source, &[id, tag], body, 0, Ok(id.1));
        check(&source, &[id, tag], "Hello, World?", 0, Err(Unverified::Forged));
        check(&source, &[tag], body, 0, Err(Unverified::Missing("x-github-delivery")));
        check(&source, &[id], body, 0, Err(Unverified::Missing("x-hub-signature-256")));
        let sha1 = ("X-Hub-Signature-256", "sha1=7571");
        check(&source, &[id, sha1], body, 0, Err(Unverified::Malformed("x-hub-signature-256")));
    }

    #[test]
    fn knows_slacks_requests() {
        let source = source(Scheme::Slack, SLACK_SECRET);
        let stamp = SLACK_TIME.to_string();
        let lines = [("X-Slack-Request-Timestamp", &*stamp), ("X-Slack-Signature", SLACK_TAG)];
        let command = digest(&stamp, SLACK_BODY.as_bytes());
        check(&source, &lines, SLACK_BODY, SLACK_TIME + 300, Ok(&command));
        check(&source, &lines, SLACK_BODY, SLACK_TIME + 301, Err(Unverified::Old));
        check(&source, &lines, SLACK_BODY, SLACK_TIME - 301, Err(Unverified::Early));
        check(&source, &lines, "token=x", SLACK_TIME, Err(Unverified::Forged));
        let later = [("X-Slack-Request-Timestamp", "1531420619"), lines[1]];
        check(&source, &later, SLACK_BODY, SLACK_TIME, Err(Unverified::Forged));
    }

    /// Slack's signature of a body.
    fn slack(body: &str) -> Genuine {
        let tag = hmac::Secret::new(SLACK_SECRET.as_bytes()).tag(&[b"v0:100:", body.as_bytes()]);
        let hex = tag.iter().fold("v0=".to_owned(), |text, byte| text + &format!("{byte:02X}"));
        let lines = [("X-Slack-Request-Timestamp", "100"), ("X-Slack-Signature", &*hex)];
        source(Scheme::Slack, SLACK_SECRET).verify(&fields(&lines), body.as_bytes(), 100).unwrap()
    }

    #[test]
    fn slacks_events_have_an_id_and_its_challenge_is_answered() {
        assert_eq!(slack(r#"{"type":"event_callback","event_id":"Ev08MFMKH6"}"#).id, "Ev08MFMKH6");
        let asked = slack(r#"{"type":"url_verification","challenge":"3eZbrw1aBm2rZgRNFdxV"}"#);
        assert_eq!(asked.challenge.as_deref(), Some("3eZbrw1aBm2rZgRNFdxV"));
        assert!(slack(r#"{"type":"event_callback","challenge":"x"}"#).challenge.is_none());
        assert!(slack(r#"{"event_id":"with space"}"#).id.starts_with("sha256:"));
    }

    #[test]
    fn knows_standard_webhooks() {
        let text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let message = Message { id: "msg_1", timestamp: 1000, body: b"{}" };
        let signature = Secret::read(text).unwrap().sign(message);
        let lines =
            [("webhook-id", "msg_1"), ("webhook-timestamp", "1000"), ("webhook-signature", &*signature)];
        check(&source(Scheme::Standard, text), &lines, "{}", 1000, Ok("msg_1"));
        check(&source(Scheme::Standard, text), &lines, "{ }", 1000, Err(Unverified::Forged));
        check(
            &source(Scheme::Standard, text),
            &lines[1..],
            "{}",
            1000,
            Err(Unverified::Missing("webhook-id")),
        );
    }

    #[test]
    fn refuses_a_source_that_anybody_could_sign_for() {
        let refused = |scheme, secrets: &[&str]| Source::new(scheme, secrets, 300).unwrap_err();
        assert_eq!(refused(Scheme::Github, &[]), SourceError::Count);
        assert_eq!(refused(Scheme::Github, &["a"; 9]), SourceError::Count);
        assert_eq!(refused(Scheme::Stripe, &["good", ""]), SourceError::Empty);
        assert_eq!(refused(Scheme::Standard, &["whsec_"]), SourceError::Standard(SecretError::Length));
    }

    proptest! {
        #[test]
        fn foreign_bytes_break_nothing(values in prop::collection::vec("[ -~]{0,120}", 4), body: Vec<u8>, now: u64) {
            let names = [STRIPE_SIGNATURE, GITHUB_SIGNATURE, SLACK_SIGNATURE, SLACK_TIMESTAMP];
            let lines: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            for scheme in [Scheme::Stripe, Scheme::Github, Scheme::Slack] {
                prop_assert!(source(scheme, "secret").verify(&fields(&lines), &body, now).is_err());
            }
        }
    }
}
