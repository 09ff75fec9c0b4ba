//! A provider of logins that speaks OpenID Connect: small, and real. It is found by discovery, takes a code once and for its own
//! verifier (PKCE), knows its client by a secret, rotates refresh tokens, and ends sessions. It can be told to forge, to refuse and
//! to be away. And a browser that keeps cookies.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{Origin, Visit, send};

/// Who its client is, and its secret: with a byte that stands otherwise in a form.
pub const CLIENT: (&str, &str) = ("gate", "secret/");

/// How it is disposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does what it is asked for.
    #[default]
    Willing,
    /// It answers nothing but errors.
    Broken,
    /// It answers with what is no JSON.
    Confused,
    /// It does not answer.
    Silent,
}

/// By what ID tokens are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signed {
    /// By its key.
    #[default]
    Well,
    /// By nothing: `none`.
    Nothing,
    /// By its public key, as if that were a secret: `HS256`.
    PublicKey,
    /// By a key that is not its own, under its key's name.
    Strange,
}

#[derive(Default)]
struct State {
    mood: Mood,
    signed: Signed,
    keys: Vec<Key>,
    claims: Value,
    expires_in: u64,
    /// What browsers are sent back with in place of a code.
    error: Option<String>,
    /// By code: what was asked with it. Empty: it was used.
    codes: HashMap<String, BTreeMap<String, String>>,
    refresh: String,
    refreshed: usize,
    revoked: bool,
    refused: Vec<String>,
    ended: Vec<BTreeMap<String, String>>,
}

struct Key {
    name: String,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(name: String) -> Key {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
        Key { name, pair }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.name,
               "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])})
    }

    fn sign(&self, said: &str) -> Vec<u8> {
        let signed = self.pair.sign(&SystemRandom::new(), said.as_bytes());
        signed.expect("what is short can be signed").as_ref().to_vec()
    }
}

/// A provider of logins.
pub struct OpenIdProvider {
    /// What it was asked.
    pub origin: Origin,
    state: Arc<Mutex<State>>,
}

impl OpenIdProvider {
    /// Starts one.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn start() -> OpenIdProvider {
        let state = State {
            keys: vec![Key::new("k0".to_owned())],
            claims: json!({}),
            expires_in: 3600,
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let origin = Origin::scripted(move |visit| {
            let body = String::from_utf8(visit.read_content()?).ok()?;
            let base = format!("http://{}", visit.field("host")?);
            let mood = shared.lock().mood;
            match mood {
                Mood::Willing => {
                    // A browser reads to the end of the connection.
                    let stays = !["/authorize", "/end"].iter().any(|path| visit.path().starts_with(path));
                    shared.lock().answer(visit, &base, &body).filter(|()| stays)
                }
                Mood::Broken => told(visit, 500, &json!({"error": "server_error"})),
                Mood::Confused => visit.say("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"),
                Mood::Silent => visit.until_left(),
            }
        });
        OpenIdProvider { origin, state }
    }

    /// Its `iss`.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("http://{}", self.origin.address)
    }

    /// From now on it is disposed like this.
    pub fn be(&self, mood: Mood) {
        self.state.lock().mood = mood;
    }

    /// ID tokens say this from now on, besides and instead of what they all say.
    pub fn says(&self, claims: Value) {
        self.state.lock().claims = claims;
    }

    /// They are signed so.
    pub fn signs(&self, signed: Signed) {
        self.state.lock().signed = signed;
    }

    /// Tokens are good for so many seconds.
    pub fn lasts(&self, seconds: u64) {
        self.state.lock().expires_in = seconds;
    }

    /// It signs with another key, which it has just published.
    pub fn rotate(&self) {
        let mut state = self.state.lock();
        let name = format!("k{}", state.keys.len());
        state.keys.push(Key::new(name));
    }

    /// Browsers are sent back with this error from now on.
    pub fn denies(&self, error: Option<&str>) {
        self.state.lock().error = error.map(str::to_owned);
    }

    /// No refresh token is good any more.
    pub fn revoke(&self) {
        self.state.lock().revoked = true;
    }

    /// How often refresh tokens were used.
    #[must_use]
    pub fn refreshed(&self) -> usize {
        self.state.lock().refreshed
    }

    /// What it was asked tokens with and gave none for.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.state.lock().refused.clone()
    }

    /// What it was told with of sessions that ended.
    #[must_use]
    pub fn ended(&self) -> Vec<BTreeMap<String, String>> {
        self.state.lock().ended.clone()
    }
}

impl State {
    fn answer(&mut self, visit: &mut Visit, base: &str, body: &str) -> Option<()> {
        let target = visit.path().to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/.well-known/openid-configuration" => {
                let metadata = json!({
                    "issuer": base, "authorization_endpoint": format!("{base}/authorize?tenant=x"),
                    "token_endpoint": format!("{base}/token"), "jwks_uri": format!("{base}/keys"),
                    "end_session_endpoint": format!("{base}/end"),
                    "authorization_response_iss_parameter_supported": true,
                });
                told(visit, 200, &metadata)
            }
            "/keys" => {
                let keys: Vec<Value> = self.keys.iter().map(Key::public).collect();
                told(visit, 200, &json!({ "keys": keys }))
            }
            "/authorize" => self.authorize(visit, base, parameters(query)),
            "/token" => self.token(visit, base, body),
            "/end" => {
                self.ended.push(parameters(query));
                told(visit, 200, &json!({}))
            }
            _ => told(visit, 404, &json!({})),
        }
    }

    /// Whoever comes is logged in at once.
    fn authorize(&mut self, visit: &mut Visit, base: &str, asked: BTreeMap<String, String>) -> Option<()> {
        let said = |name: &str| asked.get(name).map_or("", String::as_str);
        let known = said("redirect_uri").ends_with("/_tidegate/oidc/main/callback");
        let right = said("response_type") == "code" && said("client_id") == CLIENT.0 && said("tenant") == "x";
        let proved = said("code_challenge_method") == "S256" && said("code_challenge").len() == 43;
        let fresh = said("state").len() >= 22 && said("nonce").len() >= 22;
        if !(known && right && proved && fresh && said("scope").split(' ').any(|scope| scope == "openid")) {
            return told(visit, 400, &json!({"error": "invalid_request", "asked": asked}));
        }
        let (name, what) = match &self.error {
            Some(error) => ("error", error.clone()),
            None => ("code", format!("code-{}", self.codes.len())),
        };
        let back = format!(
            "{}?{name}={what}&state={}&iss={}",
            said("redirect_uri"),
            said("state"),
            base.replace(':', "%3A").replace('/', "%2F")
        );
        if name == "code" {
            self.codes.insert(what, asked);
        }
        visit.say(format!("HTTP/1.1 302 Found\r\nLocation: {back}\r\nContent-Length: 0\r\n\r\n"))
    }

    fn token(&mut self, visit: &mut Visit, base: &str, body: &str) -> Option<()> {
        let both =
            format!("Authorization: Basic {}", BASE64_STANDARD.encode("gate:secret%2F")).to_ascii_lowercase();
        if !visit.head.to_ascii_lowercase().contains(&format!("\r\n{both}\r\n")) {
            self.refused.push(visit.head.clone());
            return told(visit, 401, &json!({"error": "invalid_client"}));
        }
        let Some(nonce) = self.redeem(&parameters(body)) else {
            self.refused.push(body.to_owned());
            return told(visit, 400, &json!({"error": "invalid_grant"}));
        };
        let access = format!("access-{}", self.refreshed);
        let half = BASE64.encode(&digest(&SHA256, access.as_bytes()).as_ref()[..16]);
        let now = now();
        let mut claims = json!({
            "iss": base, "aud": CLIENT.0, "sub": "u1", "exp": now + 600, "iat": now, "at_hash": half,
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        for (name, value) in self.claims.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.refresh = format!("refresh-{}", self.refreshed);
        let tokens = json!({
            "id_token": self.signed(&claims), "refresh_token": self.refresh, "expires_in": self.expires_in,
            "token_type": "Bearer", "access_token": access,
        });
        told(visit, 200, &tokens)
    }

    /// The nonce that the ID token is to say, if the code or the refresh token is good. Each is good once.
    fn redeem(&mut self, said: &BTreeMap<String, String>) -> Option<Option<String>> {
        if said.get("grant_type")? == "refresh_token" {
            let good = *said.get("refresh_token")? == self.refresh && !self.revoked;
            self.refreshed += usize::from(good);
            return good.then_some(None);
        }
        let asked = self.codes.insert(said.get("code")?.clone(), BTreeMap::new())?;
        let challenge = BASE64.encode(digest(&SHA256, said.get("code_verifier")?.as_bytes()).as_ref());
        let good = *asked.get("code_challenge")? == challenge
            && asked.get("redirect_uri") == said.get("redirect_uri");
        good.then(|| asked.get("nonce").cloned())
    }

    fn signed(&self, claims: &Value) -> String {
        let key = self.keys.last().expect("it has a key");
        let algorithm = match self.signed {
            Signed::Well | Signed::Strange => "ES256",
            Signed::Nothing => "none",
            Signed::PublicKey => "HS256",
        };
        let header = json!({"alg": algorithm, "kid": key.name, "typ": "JWT"});
        let said = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let seal = match self.signed {
            Signed::Well => key.sign(&said),
            Signed::Strange => Key::new(String::new()).sign(&said),
            Signed::Nothing => Vec::new(),
            Signed::PublicKey => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, key.pair.public_key().as_ref());
                hmac::sign(&secret, said.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{said}.{}", BASE64.encode(seal))
    }
}

fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of the product's")]
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn told(visit: &mut Visit, status: u16, json: &Value) -> Option<()> {
    let body = json.to_string();
    visit.say(format!(
        "HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// The parameters of a query or a form.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| {
        let mut parts = text.split('%');
        let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            out.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
            out.extend_from_slice(&part.as_bytes()[2..]);
        }
        String::from_utf8(out).expect("UTF-8")
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// What somebody got to see.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its status.
    pub status: u16,
    /// Its head.
    pub head: String,
    /// What it shows.
    pub body: String,
}

impl Page {
    /// The value of a header, in the letters in which it came; empty: it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(held, _)| held.eq_ignore_ascii_case(name));
        values.next().map_or("", |(_, value)| value)
    }
}

/// A browser: it keeps cookies as it is told, and follows no redirect by itself.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// Its cookies.
    pub jar: BTreeMap<String, String>,
}

impl Browser {
    /// Opens a page.
    pub fn open(&mut self, address: SocketAddr, target: &str) -> Page {
        self.ask(address, &format!("GET {target}"), "Accept: text/html\r\n", "")
    }

    /// Makes a request with these fields and this content.
    ///
    /// # Panics
    /// If the answer is not HTTP, or sets a cookie that others could read or set.
    pub fn ask(&mut self, address: SocketAddr, line: &str, fields: &str, content: &str) -> Page {
        let cookie =
            if self.jar.is_empty() { String::new() } else { format!("Cookie: {}\r\n", self.cookies()) };
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{cookie}{fields}\r\n{content}"
        );
        let answer = send(address, request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        for (_, set) in lines.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            let (name, value) =
                set.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            let guarded = set.contains("; Path=/; Secure; HttpOnly; SameSite=Lax") && !set.contains("Domain");
            assert!(!name.starts_with("__Host-") || guarded, "{set}");
            match set.contains("; Max-Age=0;") {
                true => self.jar.remove(name),
                false => self.jar.insert(name.to_owned(), value.to_owned()),
            };
        }
        Page {
            status: head[9..12].parse().expect("three digits"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Its cookies, as it sends them.
    #[must_use]
    pub fn cookies(&self) -> String {
        let jar: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        jar.join("; ")
    }

    /// Goes where this page sends it, to log in. Where the provider sends it back to.
    ///
    /// # Panics
    /// If it is sent elsewhere.
    #[must_use]
    pub fn at(&self, provider: &OpenIdProvider, address: SocketAddr, sent: &Page) -> String {
        let url =
            sent.header("location").strip_prefix(&provider.issuer()).expect("to the provider").to_owned();
        let back = Browser::default().open(provider.origin.address, &url);
        let own = format!("http://{address}");
        let target = back
            .header("location")
            .strip_prefix(&own)
            .unwrap_or_else(|| panic!("{}\n{}", back.head, back.body));
        target.to_owned()
    }

    /// Goes through the login that this page sends to. The page that the callback is answered with.
    ///
    /// # Panics
    /// If it is sent to no login.
    pub fn log_in(&mut self, provider: &OpenIdProvider, address: SocketAddr, target: &str) -> Page {
        let sent = self.open(address, target);
        assert_eq!(sent.status, 302, "{}\n{}", sent.head, sent.body);
        let callback = self.at(provider, address, &sent);
        self.open(address, &callback)
    }
}
