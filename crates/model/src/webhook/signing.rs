//! Signatures as Standard Webhooks 1.0 has them: `v1` by a secret that both sides have, `v1a` by a pair of keys.
//!
//! Signed is `ID.TIMESTAMP.BODY`: no id holds a dot, so nobody can move a byte from one part to the next. The id stays the
//! same over all attempts, the timestamp is the attempt's. While a secret is being replaced, whatever is sent is
//! signed by both, one signature after the other, until the old one's time is over.
//!
//! What always holds: seals are compared in constant time; a secret is never shown by `Debug`; of the secrets of a
//! destination there are never more than [`SECRETS_MAX`], and always one that does not end.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::hmac;

/// The field with an event's id, the same in all attempts.
pub const WEBHOOK_ID: &str = "webhook-id";
/// The field with the attempt's time, in seconds since the Unix epoch.
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// The field with the signatures, separated by spaces.
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
/// How far sender and receiver may be apart, as the libraries have it.
pub const TOLERANCE_SECONDS: u64 = 300;
/// Secrets that a destination may have at once.
pub const SECRETS_MAX: usize = 4;
/// Signatures of one request that are looked at.
const SIGNATURES_MAX: usize = 16;
/// Bytes of a shared secret.
const SHARED_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of the seed that an ed25519 pair is made of, and of its public half.
const SEED_BYTES: usize = 32;

const SHARED: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// A secret to sign with.
pub struct Secret {
    text: String,
    key: SigningKey,
}

enum SigningKey {
    Shared(hmac::Secret),
    Pair(Ed25519KeyPair),
}

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It begins with none of the known prefixes.
    #[error("a secret begins with `whsec_` or `whsk_`, a public key with `whpk_`")]
    Prefix,
    /// What follows is not base64.
    #[error("what follows the prefix is not base64")]
    Base64,
    /// It is shorter or longer than it may be.
    #[error("`whsec_` has 24 to 64 bytes, `whsk_` 32 or 64, `whpk_` 32")]
    Length,
    /// The public half of a `whsk_` is not that of its private half.
    #[error("the two halves of the key do not belong together")]
    Pair,
}

/// Which kind of signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `v1`: HMAC-SHA256.
    #[default]
    V1,
    /// `v1a`: ed25519.
    V1a,
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The event's id.
    pub id: &'a str,
    /// When it is sent.
    pub timestamp: u64,
    /// The body, to the byte.
    pub body: &'a [u8],
}

impl Secret {
    /// Reads `whsec_…` or `whsk_…`.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(text: &str) -> Result<Secret, SecretError> {
        let key = if let Some(encoded) = text.strip_prefix(SHARED) {
            SigningKey::Shared(hmac::Secret::new(&shared(encoded)?))
        } else if let Some(encoded) = text.strip_prefix(PRIVATE) {
            SigningKey::Pair(pair(encoded)?)
        } else {
            return Err(SecretError::Prefix);
        };
        Ok(Secret { text: text.to_owned(), key })
    }

    /// A secret made of chance.
    #[must_use]
    pub fn draw(kind: Kind, chance: [u8; SEED_BYTES]) -> Secret {
        let prefix = match kind {
            Kind::V1 => SHARED,
            Kind::V1a => PRIVATE,
        };
        let text = format!("{prefix}{}", STANDARD.encode(chance));
        Secret::read(&text).expect("thirty-two bytes are a secret of either kind")
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Which signatures it makes.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.key {
            SigningKey::Shared(_) => Kind::V1,
            SigningKey::Pair(_) => Kind::V1a,
        }
    }

    /// What a receiver verifies by: the public half of a pair, or the shared secret itself.
    #[must_use]
    pub fn verifier_text(&self) -> String {
        match &self.key {
            SigningKey::Shared(_) => self.text.clone(),
            SigningKey::Pair(pair) => format!("{PUBLIC}{}", STANDARD.encode(pair.public_key().as_ref())),
        }
    }

    /// The signature of a message, with its version.
    #[must_use]
    pub fn sign(&self, message: Message<'_>) -> String {
        let head = head(message.id, &message.timestamp.to_string());
        match &self.key {
            SigningKey::Shared(secret) => {
                format!("v1,{}", STANDARD.encode(secret.tag(&[head.as_bytes(), message.body])))
            }
            SigningKey::Pair(pair) => {
                let signed = [head.as_bytes(), message.body].concat();
                format!("v1a,{}", STANDARD.encode(pair.sign(&signed)))
            }
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Secret({:?}, hidden)", self.kind())
    }
}

fn shared(encoded: &str) -> Result<Vec<u8>, SecretError> {
    let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
    if SHARED_BYTES.contains(&bytes.len()) { Ok(bytes) } else { Err(SecretError::Length) }
}

fn pair(encoded: &str) -> Result<Ed25519KeyPair, SecretError> {
    let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
    let (seed, public) = match bytes.len() {
        SEED_BYTES => (&bytes[..], None),
        // As some libraries write it: both halves.
        64 => (&bytes[..SEED_BYTES], Some(&bytes[SEED_BYTES..])),
        _ => return Err(SecretError::Length),
    };
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SecretError::Pair)?;
    match public {
        Some(public) if public != pair.public_key().as_ref() => Err(SecretError::Pair),
        _ => Ok(pair),
    }
}

/// What stands before the body in what is signed.
fn head(id: &str, timestamp: &str) -> String {
    format!("{id}.{timestamp}.")
}

/// The secrets of a destination, the newest first. The first has no end.
#[derive(Debug)]
pub struct Secrets(Vec<Held>);

#[derive(Debug)]
struct Held {
    secret: Secret,
    /// It signs until then.
    until: Option<u64>,
}

/// A secret as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// As it is written.
    pub secret: String,
    /// It signs until then, in seconds since the Unix epoch; `None`: until it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Written(hidden, until {:?})", self.until)
    }
}

impl Secrets {
    /// One secret.
    #[must_use]
    pub fn one(secret: Secret) -> Secrets {
        Secrets(vec![Held { secret, until: None }])
    }

    /// Reads those that were kept. `None`: there are none, or too many, or the first one ends.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(written: &[Written]) -> Result<Option<Secrets>, SecretError> {
        let held = written
            .iter()
            .map(|one| Ok(Held { secret: Secret::read(&one.secret)?, until: one.until }))
            .collect::<Result<Vec<_>, SecretError>>()?;
        let sound = held.len() <= SECRETS_MAX && held.first().is_some_and(|first| first.until.is_none());
        Ok(sound.then_some(Secrets(held)))
    }

    /// As they are kept.
    #[must_use]
    pub fn written(&self) -> Vec<Written> {
        self.0.iter().map(|held| Written { secret: held.secret.text.clone(), until: held.until }).collect()
    }

    /// The one that does not end.
    #[must_use]
    pub fn newest(&self) -> &Secret {
        &self.0[0].secret
    }

    /// Replaces the newest by another. What it replaces signs for `overlap` seconds more; those whose time is over go, and
    /// where there are too many, the oldest.
    pub fn rotate(&mut self, secret: Secret, overlap: u64, now: u64) {
        let until = now.saturating_add(overlap);
        for held in &mut self.0 {
            held.until = Some(held.until.map_or(until, |known| known.min(until)));
        }
        self.0.insert(0, Held { secret, until: None });
        self.0.retain(|held| held.until.is_none_or(|until| until > now));
        self.0.truncate(SECRETS_MAX);
    }

    /// The value of [`WEBHOOK_SIGNATURE`]: a signature of each secret whose time is not over.
    #[must_use]
    pub fn sign(&self, message: Message<'_>) -> String {
        let valid = self.0.iter().filter(|held| held.until.is_none_or(|until| until > message.timestamp));
        let signatures: Vec<String> = valid.map(|held| held.secret.sign(message)).collect();
        signatures.join(" ")
    }
}

/// What signatures are verified by.
#[derive(Clone, Debug)]
pub struct Verifier(VerifyingKey);

#[derive(Clone, Debug)]
enum VerifyingKey {
    Shared(hmac::Secret),
    Public([u8; SEED_BYTES]),
}

/// Why a message is not taken for genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// A field is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field is not what it should be.
    #[error("`{0}` is malformed")]
    Malformed(&'static str),
    /// It is older than is taken.
    #[error("it is older than is accepted")]
    Old,
    /// It claims to come from the future.
    #[error("it is dated later than is accepted")]
    Early,
    /// None of its signatures is by a known key.
    #[error("no signature is by a known key")]
    Forged,
}

impl Verifier {
    /// Reads `whsec_…` or `whpk_…`; of a `whsk_…` it takes the public half.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(text: &str) -> Result<Verifier, SecretError> {
        let public =
            |bytes: &[u8]| bytes.try_into().map(VerifyingKey::Public).map_err(|_| SecretError::Length);
        let key = if let Some(encoded) = text.strip_prefix(SHARED) {
            VerifyingKey::Shared(hmac::Secret::new(&shared(encoded)?))
        } else if let Some(encoded) = text.strip_prefix(PUBLIC) {
            public(&STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?)?
        } else if let Some(encoded) = text.strip_prefix(PRIVATE) {
            public(pair(encoded)?.public_key().as_ref())?
        } else {
            return Err(SecretError::Prefix);
        };
        Ok(Verifier(key))
    }

    /// Whether one of these signatures is by this key.
    fn made(&self, head: &str, body: &[u8], signatures: &str) -> bool {
        let of = |version: &'static str| {
            let signatures = signatures.split(' ').take(SIGNATURES_MAX);
            signatures.filter_map(move |one| {
                let (said, encoded) = one.split_once(',')?;
                (said == version).then(|| STANDARD.decode(encoded).ok())?
            })
        };
        match &self.0 {
            VerifyingKey::Shared(secret) => {
                // All are looked at: which one it was is nobody's business.
                of("v1").fold(false, |found, tag| secret.is_tag(&tag, &[head.as_bytes(), body]) | found)
            }
            VerifyingKey::Public(key) => {
                let signed = [head.as_bytes(), body].concat();
                let key = UnparsedPublicKey::new(&ED25519, key);
                of("v1a").any(|signature| key.verify(&signed, &signature).is_ok())
            }
        }
    }
}

/// Whether a message is by one of these keys, and was signed about now. `timestamp` and `signatures` are the fields'
/// values.
///
/// # Errors
/// [`Unverified`].
pub fn verify(
    keys: &[Verifier],
    (id, timestamp, signatures): (&str, &str, &str),
    body: &[u8],
    tolerance: u64,
    now: u64,
) -> Result<(), Unverified> {
    if id.is_empty() || id.contains('.') {
        return Err(Unverified::Malformed(WEBHOOK_ID));
    }
    timely(timestamp, tolerance, now)
        .map_err(|why| why.unwrap_or(Unverified::Malformed(WEBHOOK_TIMESTAMP)))?;
    let head = head(id, timestamp);
    let found = keys.iter().fold(false, |found, key| key.made(&head, body, signatures) | found);
    if found { Ok(()) } else { Err(Unverified::Forged) }
}

/// Whether a timestamp is about now. `Err(None)`: it is none.
pub(super) fn timely(timestamp: &str, tolerance: u64, now: u64) -> Result<u64, Option<Unverified>> {
    let digits = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let at: u64 = digits.then(|| timestamp.parse().ok()).flatten().ok_or(None)?;
    match at {
        at if now.saturating_sub(at) > tolerance => Err(Some(Unverified::Old)),
        at if at.saturating_sub(now) > tolerance => Err(Some(Unverified::Early)),
        at => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The vectors of the published libraries.
    const SHARED_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const PAIR: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const MESSAGE: Message<'static> = Message {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp: 1_614_265_330,
        body: br#"{"test": 2432232314}"#,
    };

    fn check(secret: &str, message: Message<'_>, expected: &str) {
        let secret = Secret::read(secret).unwrap();
        assert_eq!(secret.sign(message), expected);
        let key = Verifier::read(&secret.verifier_text()).unwrap();
        assert_eq!(verified(&[key], message, expected, message.timestamp), Ok(()));
    }

    fn verified(
        keys: &[Verifier],
        message: Message<'_>,
        signatures: &str,
        now: u64,
    ) -> Result<(), Unverified> {
        let timestamp = message.timestamp.to_string();
        verify(keys, (message.id, &timestamp, signatures), message.body, TOLERANCE_SECONDS, now)
    }

    #[test]
    fn signs_as_the_published_libraries_do() {
        check(SHARED_SECRET, MESSAGE, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        check(
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            Message {
                id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                timestamp: 1_649_367_553,
                body: br#"{"email":"test@example.com","username":"test_user"}"#,
            },
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        );
        check(
            PAIR,
            MESSAGE,
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        );
    }

    #[test]
    fn refuses_what_is_no_secret() {
        let refused = |text: &str| (Secret::read(text).unwrap_err(), Verifier::read(text).unwrap_err());
        for (text, expected) in [
            ("", SecretError::Prefix),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Prefix),
            ("whsec_", SecretError::Length),
            ("whsec_%%%", SecretError::Base64),
            ("whsec_c2hvcnQ=", SecretError::Length),
            ("whsk_c2hvcnQ=", SecretError::Length),
        ] {
            assert_eq!(refused(text), (expected, expected), "{text}");
        }
        let mixed = PAIR.replace("Kvg==", "Kvw==");
        assert_eq!(refused(&mixed), (SecretError::Pair, SecretError::Pair));
        assert!(!format!("{:?}", Secret::read(PAIR)).contains("6Xb"));
    }

    #[test]
    fn a_secret_that_was_replaced_signs_until_its_overlap_ends() {
        let (old, new) = (Secret::draw(Kind::V1, [1; 32]), Secret::draw(Kind::V1a, [2; 32]));
        let keys = [&old, &new].map(|secret| Verifier::read(&secret.verifier_text()).unwrap());
        let mut secrets = Secrets::one(old);
        secrets.rotate(new, 100, 1000);
        let signed = |timestamp| {
            let message = Message { timestamp, ..MESSAGE };
            let signatures = secrets.sign(message);
            keys.each_ref()
                .map(|key| verified(std::slice::from_ref(key), message, &signatures, timestamp).is_ok())
        };
        assert_eq!((signed(1000), signed(1099)), ([true, true], [true, true]));
        assert_eq!(signed(1100), [false, true]);
        assert_eq!(Secrets::read(&secrets.written()).unwrap().unwrap().written(), secrets.written());
    }

    #[test]
    fn there_are_never_more_secrets_than_may_be_and_the_newest_never_ends() {
        let mut secrets = Secrets::one(Secret::draw(Kind::V1, [0; 32]));
        for number in 1..20 {
            secrets.rotate(Secret::draw(Kind::V1, [number; 32]), 1000, 10);
            assert!(secrets.0.len() <= SECRETS_MAX && secrets.0[0].until.is_none());
            assert_eq!(secrets.newest().text(), Secret::draw(Kind::V1, [number; 32]).text());
        }
        let ending = [Written { secret: SHARED_SECRET.to_owned(), until: Some(1) }];
        assert!(Secrets::read(&ending).unwrap().is_none() && Secrets::read(&[]).unwrap().is_none());
    }

    #[test]
    fn refuses_what_is_not_of_now() {
        let key = [Verifier::read(SHARED_SECRET).unwrap()];
        let signatures = Secret::read(SHARED_SECRET).unwrap().sign(MESSAGE);
        let at = |now: u64| verified(&key, MESSAGE, &signatures, now);
        let sent = MESSAGE.timestamp;
        assert_eq!((at(sent + 300), at(sent + 301)), (Ok(()), Err(Unverified::Old)));
        assert_eq!((at(sent - 300), at(sent - 301)), (Ok(()), Err(Unverified::Early)));
        for timestamp in ["", "-1", "+1614265330", "1614265330.0", "99999999999999999999"] {
            let why = verify(&key, (MESSAGE.id, timestamp, &signatures), MESSAGE.body, 300, sent);
            assert_eq!(why, Err(Unverified::Malformed(WEBHOOK_TIMESTAMP)), "{timestamp}");
        }
        let dotted = verify(&key, ("a.b", "1614265330", &signatures), MESSAGE.body, 300, sent);
        assert_eq!(dotted, Err(Unverified::Malformed(WEBHOOK_ID)));
    }

    #[test]
    fn one_good_signature_among_others_is_enough_and_another_version_is_none() {
        let key = [Verifier::read(SHARED_SECRET).unwrap()];
        let good = Secret::read(SHARED_SECRET).unwrap().sign(MESSAGE);
        let check = |signatures: &str, genuine: bool| {
            assert_eq!(
                verified(&key, MESSAGE, signatures, MESSAGE.timestamp).is_ok(),
                genuine,
                "{signatures}"
            );
        };
        check(&format!("v1,AAAA v2,zzz {good}"), true);
        check(&good.replace("v1,", "v2,"), false);
        check(&good.replace("v1,", "v1a,"), false);
        check("", false);
        check("v1, v1a, , v1", false);
    }

    proptest! {
        #[test]
        fn what_was_changed_is_not_genuine(seed: [u8; 32], v1a: bool, at in 0usize..200, bit in 0u8..8, body: Vec<u8>) {
            let secret = Secret::draw(if v1a { Kind::V1a } else { Kind::V1 }, seed);
            let key = [Verifier::read(&secret.verifier_text()).unwrap()];
            let message = Message { body: &body, ..MESSAGE };
            let signature = secret.sign(message);
            prop_assert_eq!(verified(&key, message, &signature, MESSAGE.timestamp), Ok(()));
            let mut changed = body.clone();
            if changed.is_empty() { changed.push(0) } else { let at = at % changed.len(); changed[at] ^= 1 << bit }
            let message = Message { body: &changed, ..MESSAGE };
            prop_assert_eq!(verified(&key, message, &signature, MESSAGE.timestamp), Err(Unverified::Forged));
        }

        #[test]
        fn foreign_bytes_break_nothing(id in ".{0,40}", timestamp in ".{0,20}", signatures in ".{0,200}", now: u64) {
            let keys = [Verifier::read(SHARED_SECRET).unwrap(), Verifier::read(PAIR).unwrap()];
            let _ = verify(&keys, (&id, &timestamp, &signatures), b"x", 300, now);
            let _ = (Secret::read(&signatures), Verifier::read(&format!("whpk_{signatures}")));
        }
    }
}
