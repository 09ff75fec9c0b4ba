//! JSON Web Tokens: verified under RFC 8725, with keys that rotate without stalling traffic.
//!
//! Each key has its algorithms pinned by its own type: a public key never verifies an HMAC. Keys come from a secret, a file
//! or a URL; whoever drives [`Verifiers`] fetches them in the background, and a token with an unknown `kid` asks for a
//! fetch, at most every ten seconds. A verified token is remembered until it expires, so that a client that sends it
//! with every request costs one signature.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::Value;
use tidegate_model::credential::Digest;
use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::clock;
use tokio::sync::Notify;

use crate::settings::{JwtKeys, JwtSettings};

/// Verified tokens remembered by one verifier.
const REMEMBERED_MAX: usize = 16_384;
/// Keys of one set.
const KEYS_MAX: usize = 64;
/// Between two fetches that unknown keys ask for.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// Verifies the tokens of one issuer.
pub struct Verifier {
    settings: Arc<JwtSettings>,
    keys: ArcSwapOption<Vec<Key>>,
    remembered: papaya::HashMap<[u8; 32], (Arc<str>, u64)>,
    asked_at: AtomicU64,
    /// Tells the driver that a key is missing.
    pub asked: Notify,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl Verifier {
    fn new(settings: Arc<JwtSettings>) -> Verifier {
        let keys = match &settings.keys {
            JwtKeys::Secret(secret) => Some(Arc::new(vec![Key {
                id: None,
                algorithms: vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
                key: DecodingKey::from_secret(secret),
            }])),
            JwtKeys::File(_) | JwtKeys::Url(_) => None,
        };
        Verifier {
            settings,
            keys: ArcSwapOption::new(keys),
            remembered: papaya::HashMap::new(),
            asked_at: AtomicU64::new(0),
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
        let set: JwkSet =
            serde_json::from_slice(json).map_err(|error| format!("not a JSON Web Key Set: {error}"))?;
        let keys: Vec<Key> = set.keys.iter().take(KEYS_MAX).filter_map(usable).collect();
        if keys.is_empty() {
            return Err("no key in the set can be used".to_owned());
        }
        let count = keys.len();
        self.keys.store(Some(Arc::new(keys)));
        // What a key verified that is gone must be verified again.
        self.remembered.pin().clear();
        Ok(count)
    }

    /// The tenant that a token names.
    ///
    /// # Errors
    /// `credential.invalid`, `credential.expired`; `credential.unavailable` while there are no keys yet.
    pub fn verify(&self, token: &str) -> Result<Arc<str>, Refusal> {
        let digest = Digest::of(token.as_bytes()).0;
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some((tenant, until)) = self.remembered.pin().get(&digest) {
            return if *until > now { Ok(Arc::clone(tenant)) } else { Err(expired()) };
        }
        let (tenant, until) = self.verify_signature(token)?;
        let remembered = self.remembered.pin();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, (Arc::clone(&tenant), until));
        Ok(tenant)
    }

    fn verify_signature(&self, token: &str) -> Result<(Arc<str>, u64), Refusal> {
        let header = decode_header(token).map_err(|_| invalid("the token is malformed"))?;
        let keys = self.keys.load();
        let Some(keys) = keys.as_ref() else {
            self.ask();
            return Err(Refusal::new(
                &refusal::CREDENTIAL_UNAVAILABLE,
                "the keys to verify tokens are not there yet",
            )
            .retry_after(Duration::from_secs(1)));
        };
        let fits = |key: &&Key| key.id.is_none() || header.kid.is_none() || key.id == header.kid;
        let mut candidates =
            keys.iter().filter(fits).filter(|key| key.algorithms.contains(&header.alg)).peekable();
        if candidates.peek().is_none() {
            self.ask();
            return Err(invalid("no key fits the token"));
        }
        let mut last = invalid("the token's signature is wrong");
        for key in candidates {
            match decode::<Value>(token, &key.key, &self.validation(key)) {
                Ok(data) => return self.claims(&data.claims),
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
            self.asked.notify_one();
        }
    }
}

/// The verifiers of the process, kept by name over a reload.
#[derive(Default)]
pub struct Verifiers(Mutex<HashMap<Arc<str>, Arc<Verifier>>>);

impl Verifiers {
    /// The verifier with these settings: the one there is, if they have not changed.
    pub fn of(&self, settings: &Arc<JwtSettings>) -> Arc<Verifier> {
        let mut held = self.0.lock();
        if let Some(verifier) = held.get(&settings.name).filter(|verifier| verifier.settings == *settings) {
            return Arc::clone(verifier);
        }
        let verifier = Arc::new(Verifier::new(Arc::clone(settings)));
        held.insert(Arc::clone(&settings.name), Arc::clone(&verifier));
        verifier
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Verifier>> {
        self.0.lock().values().cloned().collect()
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
    use base64::Engine as _;
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
        clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs()
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
        let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let claims = json!({"tenant": "acme", "iss": "me", "aud": "you", "exp": now() + 60}).to_string();
        let none = format!("{}.{}.", base64.encode(r#"{"alg":"none","typ":"JWT"}"#), base64.encode(claims));
        assert_eq!(check(&none), "credential.invalid");
    }

    #[test]
    fn a_remembered_token_still_expires() {
        let verifier = verifier();
        let short = token(json!({"exp": now() - 29}));
        assert!(verifier.verify(&short).is_ok());
        verifier
            .remembered
            .pin()
            .update(Digest::of(short.as_bytes()).0, |(tenant, _)| (Arc::clone(tenant), now()));
        assert_eq!(verifier.verify(&short).unwrap_err().kind.code, "credential.expired");
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
