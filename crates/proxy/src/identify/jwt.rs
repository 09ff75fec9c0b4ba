//! JSON Web Tokens: verified under RFC 8725, with keys that rotate without stalling traffic.
//!
//! Each key has its algorithms pinned by its own type: a public key never verifies an HMAC. Keys come from a secret, a file
//! or a URL; whoever drives [`Verifiers`] fetches them in the background, and a token with an unknown `kid` asks for a
//! fetch, at most every ten seconds. While the answer is awaited such a token is not called invalid, since it may
//! be good: `credential.unavailable` asks its client to come back. No other token waits for anything.
//!
//! A verified token is remembered until it expires, so that a client that sends it with every request costs one
//! signature. It is remembered *by the set of keys* that verified it: a key that is gone vouches for nothing any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::Value;
use tidegate_model::access::login::Verified;
use tidegate_model::credential::Digest;
use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::clock;
use tokio::sync::Notify;

use crate::remembered::Remembered;
use crate::settings::{JwtKeys, JwtSettings};

/// Keys of one set.
const KEYS_MAX: usize = 64;
/// Half of the tokens that a set of keys remembers.
const REMEMBERED_HALF: usize = 8 * 1024;
/// Between two fetches that unknown keys ask for.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Verifies the tokens of one issuer.
pub struct Verifier {
    settings: Arc<JwtSettings>,
    keys: ArcSwapOption<KeySet>,
    asked_at: AtomicU64,
    /// How often keys were asked for, and of these how often the answer has come.
    questions: AtomicU64,
    answers: AtomicU64,
    /// Tells the driver that a key is missing.
    pub asked: Notify,
}

/// The keys of one moment, and what they verified.
struct KeySet {
    keys: Vec<Key>,
    /// What they were made of.
    json: Vec<u8>,
    /// The tenant of a token that was verified, and until when the token holds.
    remembered: Remembered<(Arc<str>, u64)>,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Verifier {
    pub(crate) fn new(settings: Arc<JwtSettings>) -> Verifier {
        let keys = match &settings.keys {
            JwtKeys::Secret(secret) => {
                let algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
                let key = Key { id: None, algorithms, key: DecodingKey::from_secret(secret) };
                Some(Arc::new(KeySet::new(vec![key], Vec::new())))
            }
            JwtKeys::File(_) | JwtKeys::Url { .. } => None,
        };
        Verifier {
            settings,
            keys: ArcSwapOption::new(keys),
            asked_at: AtomicU64::new(0),
            questions: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            asked: Notify::new(),
        }
    }

    /// How it was configured.
    #[must_use]
    pub fn settings(&self) -> &Arc<JwtSettings> {
        &self.settings
    }

    /// Takes a JSON Web Key Set. Keys that cannot be used are left out; the number of those that can is returned.
    ///
    /// # Errors
    /// Not a key set, or none of its keys can be used: the keys that there are stay.
    pub fn take_keys(&self, json: &[u8]) -> Result<usize, String> {
        if let Some(held) = self.keys.load().as_ref().filter(|held| held.json == json) {
            return Ok(held.keys.len());
        }
        let set: JwkSet =
            serde_json::from_slice(json).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let keys: Vec<Key> = set.keys.iter().filter_map(usable).take(KEYS_MAX).collect();
        if keys.is_empty() {
            return Err("no key in the set can be used".to_owned());
        }
        let count = keys.len();
        self.keys.store(Some(Arc::new(KeySet::new(keys, json.to_vec()))));
        // The pause between two questions is for keys that nobody has. These are news: one may ask on at once.
        self.asked_at.store(0, Relaxed);
        Ok(count)
    }

    /// How often keys were asked for until now. To be told to [`Verifier::answered`] when keys come that were looked
    /// for from now on.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.questions.load(Relaxed)
    }

    /// Keys have come that were looked for after so many questions.
    pub fn answered(&self, questions: u64) {
        self.answers.fetch_max(questions, Relaxed);
    }

    /// Keys were asked for, and none have come since. While nobody can fetch them that stays so.
    fn is_pending(&self) -> bool {
        self.questions() > self.answers.load(Relaxed)
    }

    /// Whether a token says that it is of this issuer. Nothing of it is verified yet.
    #[must_use]
    pub fn is_issuer(&self, token: &str) -> bool {
        let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let claims: Option<Value> = payload.and_then(|json| serde_json::from_slice(&json).ok());
        let issuer = claims.as_ref().and_then(|claims| claims.get("iss")?.as_str());
        self.settings.issuer.as_deref().is_none_or(|own| issuer == Some(own))
    }

    /// The tenant that a token names.
    ///
    /// # Errors
    /// `credential.invalid`, `credential.expired`; `credential.unavailable` while there are no keys yet.
    pub fn verify(&self, token: &str) -> Result<Arc<str>, Refusal> {
        let held = self.keys.load();
        let Some(set) = held.as_ref() else {
            self.ask();
            return Err(unavailable("the keys to verify tokens are not there yet"));
        };
        let digest = Digest::of(token.as_bytes()).0;
        let now = clock::latest_wall().0;
        if let Some((tenant, until)) = set.remembered.find(&digest) {
            return if until > now { Ok(tenant) } else { Err(expired()) };
        }
        let (tenant, until) = self.verify_signature(set, token)?;
        set.remembered.keep(digest, (Arc::clone(&tenant), until));
        Ok(tenant)
    }

    /// What a token says that holds now, whatever it names.
    ///
    /// # Errors
    /// As [`Verifier::verify`] has them.
    pub(crate) fn verified_claims(&self, token: &str) -> Result<Verified, Refusal> {
        let held = self.keys.load();
        let Some(set) = held.as_ref() else {
            self.ask();
            return Err(unavailable("the keys to verify tokens are not there yet"));
        };
        self.verified(set, token)
    }

    /// Begins with the keys that another one has.
    pub(crate) fn take_keys_of(&self, other: &Verifier) {
        if let Some(set) = other.keys.load().as_ref() {
            // What it has verified was verified for another issuer, audience or claim.
            self.keys.store(Some(Arc::new(KeySet::new(set.keys.clone(), set.json.clone()))));
        }
    }

    fn verify_signature(&self, set: &KeySet, token: &str) -> Result<(Arc<str>, u64), Refusal> {
        self.claims(&self.verified(set, token)?.claims)
    }

    fn verified(&self, set: &KeySet, token: &str) -> Result<Verified, Refusal> {
        let header = decode_header(token).map_err(|_| invalid("the token is malformed"))?;
        let named = |key: &&Key| key.id.is_none() || header.kid.is_none() || key.id == header.kid;
        let mut candidates = set.keys.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            self.ask();
            return Err(match self.is_pending() {
                true => unavailable("the token's key is not known yet and is being looked for"),
                false => invalid("the token's key is not known"),
            });
        }
        let mut last = invalid("no key fits the token's algorithm");
        for key in candidates.filter(|key| key.algorithms.contains(&header.alg)) {
            match decode::<Value>(token, &key.key, &self.validation(key)) {
                Ok(data) => {
                    return Ok(Verified { claims: data.claims, algorithm: format!("{:?}", data.header.alg) });
                }
                Err(error) => last = reason(&error),
            }
        }
        Err(last)
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithms[0]);
        validation.algorithms.clone_from(&key.algorithms);
        validation.leeway = self.settings.clock_skew.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &self.settings.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    /// The tenant, and until when the token holds.
    fn claims(&self, claims: &Value) -> Result<(Arc<str>, u64), Refusal> {
        let tenant = claims.get(&self.settings.tenant_claim).and_then(Value::as_str);
        let tenant =
            tenant.filter(|tenant| !tenant.is_empty()).ok_or_else(|| invalid("the token names no tenant"))?;
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        Ok((Arc::from(tenant), (expires as u64).saturating_add(self.settings.clock_skew.as_secs())))
    }

    fn ask(&self) {
        let now = clock::now().0;
        let before = self.asked_at.load(Relaxed);
        let due = before == 0 || now.saturating_sub(before) > tidegate_model::tick::nanos(ASK_INTERVAL);
        if due && self.asked_at.compare_exchange(before, now, Relaxed, Relaxed).is_ok() {
            self.questions.fetch_add(1, Relaxed);
            self.asked.notify_one();
        }
    }
}

impl KeySet {
    fn new(keys: Vec<Key>, json: Vec<u8>) -> KeySet {
        KeySet { keys, json, remembered: Remembered::new(REMEMBERED_HALF) }
    }
}

/// The verifiers of the process, kept by name over a reload.
#[derive(Default)]
pub struct Verifiers {
    held: Mutex<HashMap<Arc<str>, Arc<Verifier>>>,
    /// Tells the driver that there is a new one.
    pub added: Notify,
}

impl Verifiers {
    /// The verifier with these settings: the one there is, if they have not changed. If they have, but not where the keys
    /// come from, the new one begins with the keys of the one before: a reload makes no token wait for a fetch.
    pub fn of(&self, settings: &Arc<JwtSettings>) -> Arc<Verifier> {
        let mut held = self.held.lock();
        let before = held.get(&settings.name);
        if let Some(verifier) = before.filter(|verifier| verifier.settings == *settings) {
            return Arc::clone(verifier);
        }
        let verifier = Verifier::new(Arc::clone(settings));
        if let Some(before) = before.filter(|verifier| verifier.settings.keys == settings.keys) {
            verifier.take_keys_of(before);
        }
        let verifier = Arc::new(verifier);
        held.insert(Arc::clone(&settings.name), Arc::clone(&verifier));
        self.added.notify_one();
        verifier
    }

    /// Forgets all but those that the configuration in force names. Their driver notices.
    pub fn retain(&self, settings: &[&Arc<JwtSettings>]) {
        self.held.lock().retain(|_, verifier| settings.iter().any(|wanted| **wanted == verifier.settings));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Verifier>> {
        self.held.lock().values().cloned().collect()
    }
}

/// The key with the algorithms that its type allows.
fn usable(jwk: &Jwk) -> Option<Key> {
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
            vec![RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
        // A shared secret has no place among keys that anybody may fetch.
        _ => return None,
    };
    let signs = |uses: &PublicKeyUse| *uses == PublicKeyUse::Signature;
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    if !jwk.common.public_key_use.as_ref().is_none_or(signs)
        || !jwk.common.key_operations.as_ref().is_none_or(verifies)
    {
        return None;
    }
    let own = jwk.common.key_algorithm.and_then(|algorithm| Algorithm::try_from(algorithm).ok());
    let algorithms = match own {
        Some(own) if by_type.contains(&own) => vec![own],
        Some(_) => return None,
        None => by_type,
    };
    Some(Key { id: jwk.common.key_id.clone(), algorithms, key: DecodingKey::from_jwk(jwk).ok()? })
}

fn invalid(why: &'static str) -> Refusal {
    Refusal::new(&refusal::CREDENTIAL_INVALID, why)
}

fn unavailable(why: &'static str) -> Refusal {
    Refusal::new(&refusal::CREDENTIAL_UNAVAILABLE, why).retry_after(Duration::from_secs(1))
}

fn expired() -> Refusal {
    Refusal::new(&refusal::CREDENTIAL_EXPIRED, "the token has expired")
}

fn reason(error: &jsonwebtoken::errors::Error) -> Refusal {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::ExpiredSignature => expired(),
        ErrorKind::ImmatureSignature => invalid("the token is not valid yet"),
        ErrorKind::InvalidIssuer => invalid("the token is of another issuer"),
        ErrorKind::InvalidAudience => invalid("the token is for another audience"),
        ErrorKind::MissingRequiredClaim(_) => invalid("the token lacks a claim that is required"),
        _ => invalid("the token's signature is wrong"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

    fn verifier() -> Verifier {
        Verifier::new(Arc::new(JwtSettings {
            name: Arc::from("main"),
            keys: JwtKeys::Secret(bytes::Bytes::from_static(SECRET)),
            issuer: Some("me".into()),
            audience: Some("you".into()),
            tenant_claim: "tenant".into(),
            clock_skew: Duration::from_secs(30),
            refresh: Duration::from_secs(300),
        }))
    }

    fn now() -> u64 {
        clock::latest_wall().0
    }

    fn token(changes: Value) -> String {
        let mut claims = json!({"tenant": "acme", "iss": "me", "aud": "you", "exp": now() + 60});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
    }

    fn check(token: &str) -> String {
        match verifier().verify(token) {
            Ok(tenant) => tenant.to_string(),
            Err(refusal) => refusal.kind.code.to_owned(),
        }
    }

    #[test]
    fn takes_a_good_token_and_refuses_all_others() {
        assert_eq!(check(&token(json!({}))), "acme");
        assert_eq!(check(&token(json!({"exp": now() - 10}))), "acme", "within the clock skew");
        assert_eq!(check(&token(json!({"exp": now() - 60}))), "credential.expired");
        for bad in [
            json!({"iss": "other"}),
            json!({"aud": "other"}),
            json!({"nbf": now() + 600}),
            json!({"tenant": ""}),
            json!({"tenant": 5}),
        ] {
            assert_eq!(check(&token(bad.clone())), "credential.invalid", "{bad}");
        }
        let mut forged = token(json!({}));
        forged.replace_range(forged.len() - 4.., "AAAA");
        assert_eq!(check(&forged), "credential.invalid");
        assert_eq!(check("ey.ey.ey"), "credential.invalid");
    }

    #[test]
    fn refuses_a_token_without_signature() {
        let base64 = URL_SAFE_NO_PAD;
        let claims = json!({"tenant": "acme", "iss": "me", "aud": "you", "exp": now() + 60}).to_string();
        let none = format!("{}.{}.", base64.encode(r#"{"alg":"none","typ":"JWT"}"#), base64.encode(claims));
        assert_eq!(check(&none), "credential.invalid");
    }

    #[test]
    fn a_remembered_token_still_expires() {
        let verifier = verifier();
        let short = token(json!({"exp": now() - 29}));
        assert!(verifier.verify(&short).is_ok());
        let digest = Digest::of(short.as_bytes()).0;
        verifier.keys.load().as_ref().unwrap().remembered.keep(digest, (Arc::from("acme"), now()));
        assert_eq!(verifier.verify(&short).unwrap_err().kind.code, "credential.expired");
    }

    /// A verifier whose keys come from elsewhere, a key that signs, and the set that has it.
    fn published(kid: &str) -> (Verifier, EncodingKey, Vec<u8>) {
        let settings =
            JwtSettings { keys: JwtKeys::File("jwks.json".into()), ..(*verifier().settings).clone() };
        let (key, jwk) = ed25519(kid);
        (Verifier::new(Arc::new(settings)), key, json!({"keys": [jwk]}).to_string().into_bytes())
    }

    fn ed25519(kid: &str) -> (EncodingKey, Value) {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": x});
        (EncodingKey::from_ed_der(&pair.serialize_der()), jwk)
    }

    fn signed(key: &EncodingKey, kid: Option<&str>) -> String {
        let claims = json!({"tenant": "acme", "iss": "me", "aud": "you", "exp": now() + 60});
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        encode(&header, &claims, key).unwrap()
    }

    fn code(verified: Result<Arc<str>, Refusal>) -> String {
        verified.map_or_else(|refusal| refusal.kind.code.to_owned(), |tenant| tenant.to_string())
    }

    #[test]
    fn an_unknown_key_is_looked_for_before_its_token_is_called_invalid() {
        let (verifier, key, set) = published("new");
        let (_, old) = ed25519("old");
        let token = signed(&key, Some("new"));
        assert_eq!(code(verifier.verify(&token)), "credential.unavailable", "there are no keys yet");
        let before = verifier.questions();
        assert!(verifier.take_keys(json!({"keys": [old]}).to_string().as_bytes()).is_ok());
        assert_eq!(code(verifier.verify(&token)), "credential.unavailable", "asked, and not answered");
        verifier.answered(before);
        assert_eq!(code(verifier.verify(&token)), "credential.unavailable", "that was an earlier question");
        verifier.answered(verifier.questions());
        assert_eq!(code(verifier.verify(&token)), "credential.invalid", "answered, and it is not there");
        verifier.take_keys(&set).unwrap();
        assert_eq!(code(verifier.verify(&token)), "acme");
        assert_eq!(code(verifier.verify(&signed(&key, None))), "acme", "a token need not name its key");
    }

    #[test]
    fn a_key_that_is_gone_vouches_for_nothing_any_more() {
        let (verifier, key, set) = published("a");
        verifier.take_keys(&set).unwrap();
        let token = signed(&key, Some("a"));
        assert_eq!(code(verifier.verify(&token)), "acme");
        let remembered = |verifier: &Verifier| verifier.keys.load().as_ref().unwrap().remembered.len();
        verifier.take_keys(&set).unwrap();
        assert_eq!(remembered(&verifier), 1, "the same set changes nothing");
        let (_, other) = ed25519("a");
        verifier.take_keys(json!({"keys": [other]}).to_string().as_bytes()).unwrap();
        assert_eq!(remembered(&verifier), 0);
        assert_eq!(code(verifier.verify(&token)), "credential.invalid");
    }

    #[test]
    fn keys_for_other_uses_verify_nothing() {
        let (verifier, _, _) = published("a");
        for (member, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("alg", json!("RS256")),
            ("alg", json!("HS256")),
        ] {
            let (_, mut jwk) = ed25519("a");
            jwk[member] = value;
            let set = json!({"keys": [jwk]}).to_string();
            assert!(verifier.take_keys(set.as_bytes()).is_err(), "{set}");
        }
    }

    #[test]
    fn a_moment_that_is_no_number_is_refused() {
        for claims in
            [json!({"exp": "tomorrow"}), json!({"exp": null}), json!({"nbf": "x"}), json!({"exp": -1})]
        {
            let verified = verifier().verify(&token(claims.clone()));
            assert!(verified.is_err(), "{claims}: {verified:?}");
        }
    }

    #[test]
    fn says_that_keys_are_not_there_yet_and_asks_for_them_once() {
        let settings =
            JwtSettings { keys: JwtKeys::File("jwks.json".into()), ..(*verifier().settings).clone() };
        let verifier = Verifier::new(Arc::new(settings));
        assert_eq!(verifier.verify(&token(json!({}))).unwrap_err().kind.code, "credential.unavailable");
        assert!(
            verifier.take_keys(br#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#).is_err(),
            "a shared secret in a public set"
        );
        assert!(verifier.take_keys(b"<html>").is_err());
    }
}
