//! What a provider of logins says: of itself, of a code, and of whoever has logged in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;

/// The longest URL of a provider.
const URL_BYTES_MAX: usize = 2048;

/// What a provider says to a code or a refresh token (RFC 6749 section 5.1).
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Tokens {
    /// Who it is; needed with a code.
    pub id_token: Option<String>,
    /// What the ID token may vouch for. It is asked nothing with it.
    pub access_token: Option<String>,
    /// For further questions.
    pub refresh_token: Option<String>,
    /// For so many seconds.
    pub expires_in: Option<u64>,
}

/// What is read of a provider's metadata (OpenID Connect Discovery section 3).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    /// Itself.
    pub issuer: String,
    /// Where browsers are sent.
    pub authorization_endpoint: String,
    /// Where codes are taken.
    pub token_endpoint: String,
    /// Where its keys are.
    pub jwks_uri: String,
    /// Where browsers are sent to log out.
    pub end_session_endpoint: Option<String>,
    /// How clients say who they are.
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// Whether it says in callbacks who it is (RFC 9207).
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

impl Metadata {
    /// Reads it.
    ///
    /// # Errors
    /// It is malformed, of another issuer, or wants to be spoken to in the clear where its issuer does not.
    pub fn parse(json: &[u8], issuer: &str) -> Result<Metadata, String> {
        let read: Metadata =
            serde_json::from_slice(json).map_err(|error| format!("not a provider's metadata: {error}"))?;
        if read.issuer != issuer {
            return Err(format!("it is of the issuer {:?}, not {issuer:?}", read.issuer));
        }
        let clear = issuer.starts_with("http://");
        let is_url = |url: &str| {
            let known = url.starts_with("https://") || clear && url.starts_with("http://");
            known
                && url.len() <= URL_BYTES_MAX
                && url.bytes().all(|byte| byte.is_ascii_graphic())
                && !url.contains('#')
        };
        let own = [&read.authorization_endpoint, &read.token_endpoint, &read.jwks_uri];
        let wrong = own.into_iter().chain(&read.end_session_endpoint).find(|url| !is_url(url));
        match wrong.map(|url| url.chars().take(100).collect::<String>()) {
            Some(url) => Err(format!("{url:?} is no URL, or not with https as its issuer")),
            None => Ok(read),
        }
    }
}

/// An ID token whose signature, issuer, audience and time are right.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it says.
    pub claims: Value,
    /// By which algorithm it was signed, as the token calls it: `RS256`.
    pub algorithm: String,
}

/// What must be so of an ID token besides.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Whom it is made for.
    pub client_id: &'a str,
    /// The login that it is of; `None`: it comes of a refresh, which has none.
    pub nonce: Option<&'a str>,
    /// The access token that came with it.
    pub access_token: Option<&'a str>,
    /// What time it is, in seconds of the civil clock.
    pub now: u64,
    /// How far the clocks may be apart.
    pub skew: u64,
}

/// Who it is, by an ID token (OpenID Connect Core section 3.1.3.7): it says this nonce, was made for us, and not in the future, and the
/// access token beside it is the one that it is about.
///
/// # Errors
/// Why it is not so.
pub fn subject(token: &Verified, expected: Expected<'_>) -> Result<String, &'static str> {
    let claims = &token.claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if let Some(nonce) = expected.nonce {
        let said = text("nonce").ok_or("the ID token has no nonce")?;
        if !bool::from(said.as_bytes().ct_eq(nonce.as_bytes())) {
            return Err("the ID token is of another login");
        }
    }
    let several = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
    match text("azp") {
        Some(party) if party != expected.client_id => {
            return Err("the ID token was made for another client");
        }
        None if several => return Err("the ID token does not say which client it was made for"),
        _ => {}
    }
    let made =
        claims.get("iat").and_then(Value::as_f64).ok_or("the ID token does not say when it was made")?;
    if made > expected.now.saturating_add(expected.skew) as f64 {
        return Err("the ID token was made in the future");
    }
    if let (Some(hash), Some(access)) = (claims.get("at_hash"), expected.access_token)
        && hash.as_str().map(str::as_bytes)
            != half_hash(&token.algorithm, access).as_deref().map(str::as_bytes)
    {
        return Err("the ID token is about another access token");
    }
    text("sub").filter(|subject| !subject.is_empty()).map(str::to_owned).ok_or("the ID token names nobody")
}

/// The left half of a token's hash (OpenID Connect Core section 3.1.3.6).
fn half_hash(algorithm: &str, token: &str) -> Option<String> {
    let hash = match algorithm {
        "EdDSA" => Sha512::digest(token).to_vec(),
        other if other.ends_with("256") => Sha256::digest(token).to_vec(),
        other if other.ends_with("384") => Sha384::digest(token).to_vec(),
        other if other.ends_with("512") => Sha512::digest(token).to_vec(),
        _ => return None,
    };
    Some(URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is wrong with an ID token with these changes.
    fn check(changes: Value, expected: Option<&str>) {
        let mut claims = json!({"sub": "s", "nonce": "n", "aud": "me", "iat": 1000});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let token = Verified { claims, algorithm: "RS256".to_owned() };
        let asked = Expected {
            client_id: "me",
            nonce: Some("n"),
            access_token: Some("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"),
            now: 990,
            skew: 10,
        };
        let found = subject(&token, asked).err();
        assert_eq!(found.is_some(), expected.is_some(), "{changes}: {found:?}");
        assert!(expected.is_none_or(|word| found.is_some_and(|why| why.contains(word))), "{found:?}");
    }

    #[test]
    fn an_id_token_is_of_this_login_for_this_client_and_about_this_access_token() {
        check(json!({}), None);
        check(json!({"aud": ["me", "you"], "azp": "me"}), None);
        check(json!({"aud": ["me", "you"]}), Some("which client"));
        check(json!({"azp": "you"}), Some("another client"));
        check(json!({"nonce": "m"}), Some("another login"));
        check(json!({"nonce": null}), Some("no nonce"));
        check(json!({"sub": ""}), Some("nobody"));
        check(json!({"iat": 1001}), Some("future"));
        check(json!({"iat": "now"}), Some("when"));
        // The example of OpenID Connect Core appendix A.3.
        check(json!({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"}), None);
        check(json!({"at_hash": "77QmUPtjPfzWtF2AnpK9RR"}), Some("access token"));
        check(json!({"at_hash": 5}), Some("access token"));
    }

    #[test]
    fn metadata_is_of_its_own_issuer_and_as_safe() {
        let parse = |json: &Value, issuer| Metadata::parse(json.to_string().as_bytes(), issuer);
        let good = json!({"issuer": "https://i", "authorization_endpoint": "https://i/a", "token_endpoint": "https://i/t", "jwks_uri": "https://i/k"});
        assert!(parse(&good, "https://i").is_ok());
        assert!(parse(&good, "https://j").is_err());
        for (name, url) in [
            ("authorization_endpoint", "javascript:alert(1)"),
            ("token_endpoint", "http://i/t"),
            ("jwks_uri", "https://i/k\r\nx: y"),
            ("end_session_endpoint", "https://i/#x"),
        ] {
            let mut bad = good.clone();
            bad[name] = json!(url);
            assert!(parse(&bad, "https://i").is_err(), "{name} {url}");
        }
        assert!(Metadata::parse(b"{}", "https://i").is_err());
    }
}
