//! Tenants named by tokens (JWT): every algorithm, every way to forge one, and keys that rotate.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::{Condvar, Mutex};
use rcgen::{KeyPair, RsaKeySize};
use serde_json::{Value, json};
use tidegate_testkit::{Answer, Gate, TlsOrigin, ask, tls, until};

use crate::{BINARY, gate};

const SECRET: &str = "a shared secret of more than sixty-four bytes, as long as the longest of the hashes is";

/// A key that signs, and how it is published.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    signs: EncodingKey,
    public: Value,
    pair: KeyPair,
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm) -> Key {
        let made = match algorithm {
            Algorithm::ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Algorithm::ES384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Algorithm::EdDSA => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            _ => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        let pair = made.unwrap();
        let pem = pair.serialize_pem();
        let signs = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let signs = signs.unwrap();
        let mut public = match algorithm {
            Algorithm::EdDSA => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(pair.public_key_raw())})
            }
            _ => serde_json::to_value(Jwk::from_encoding_key(&signs, algorithm).unwrap()).unwrap(),
        };
        public["kid"] = json!(id);
        Key { id, algorithm, signs, public, pair }
    }

    /// A token of this key, with these changes to its claims.
    fn token(&self, changes: Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, &claims(changes), &self.signs).unwrap()
    }
}

fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of the product's")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that hold, with these changes; `null` leaves one out.
fn claims(changes: Value) -> Value {
    let mut claims =
        json!({"org": "acme", "iss": "https://id.example.com", "aud": "api", "exp": now() + 600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn set(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| &key.public).collect::<Vec<_>>()}).to_string()
}

/// A gate that answers every tenant, whose tokens are verified so.
fn verifying(name: &str, keys: &str) -> Gate {
    gate(name, &config(keys, "api"))
}

fn config(keys: &str, audience: &str) -> String {
    format!(
        "[jwt.main]\n{keys}\nissuer = \"https://id.example.com\"\naudience = \"{audience}\"\ntenant_claim = \"org\"\nclock_skew = \"30s\"\n\
         [tenants]\nfrom = [{{ jwt = \"main\" }}]\nfailures = \"100000/s\"\n[[route]]\nname = \"all\"\nrespond = {{ body = \"in\" }}\n"
    )
}

fn with(gate: &Gate, token: &str) -> Answer {
    ask(gate.address, "GET /", &format!("Authorization: Bearer {token}\r\n"))
}

/// The status, or the code of the refusal.
fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    body["code"].as_str().map_or_else(|| answer.status.to_string(), str::to_owned)
}

#[test]
fn every_algorithm_is_verified_with_keys_from_a_file_and_a_changed_file_is_read_again() {
    use Algorithm::{ES256, ES384, EdDSA, PS384, RS256, RS512};
    let keys: Vec<Key> =
        [("r1", RS256), ("r2", RS512), ("p", PS384), ("e1", ES256), ("e2", ES384), ("d", EdDSA)]
            .map(|(id, algorithm)| Key::new(id, algorithm))
            .into();
    let file = Gate::folder("jwks-file").join("jwks.json");
    std::fs::write(&file, set(&keys.iter().collect::<Vec<_>>())).unwrap();
    let gate = verifying("jwks-file", &format!("jwks = \"{}\"", file.display()));
    until("the keys are there", || code(&with(&gate, &keys[5].token(json!({})))) == "200");
    for key in &keys {
        assert_eq!(code(&with(&gate, &key.token(json!({})))), "200", "{}", key.id);
    }
    let new = Key::new("new", EdDSA);
    std::fs::write(&file, set(&[&new])).unwrap();
    until("the new key counts", || code(&with(&gate, &new.token(json!({})))) == "200");
    // It is looked for once more before that is said.
    let old = keys[5].token(json!({}));
    until("a token whose key is gone is refused", || code(&with(&gate, &old)) == "credential.invalid");
}

#[test]
fn a_shared_secret_verifies_all_three_hashes_and_nothing_else() {
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let gate = verifying("jwt-secret", &format!("secret = \"{SECRET}\""));
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(algorithm), &claims(json!({})), &secret).unwrap();
        assert_eq!(code(&with(&gate, &token)), "200", "{algorithm:?}");
    }
    let key = Key::new("r", Algorithm::RS256);
    assert_eq!(code(&with(&gate, &key.token(json!({})))), "credential.invalid");
}

#[test]
fn a_token_that_does_not_hold_in_every_respect_is_refused() {
    let (key, other) = (Key::new("k", Algorithm::RS256), Key::new("k", Algorithm::RS256));
    let file = Gate::folder("jwt-forged").join("jwks.json");
    std::fs::write(&file, set(&[&key])).unwrap();
    let gate = verifying("jwt-forged", &format!("jwks = \"{}\"", file.display()));
    until("the keys are there", || code(&with(&gate, &key.token(json!({})))) == "200");
    let check = |changes: Value, expected: &str| {
        assert_eq!(code(&with(&gate, &key.token(changes.clone()))), expected, "{changes}");
    };
    check(json!({"exp": now() - 10}), "200");
    check(json!({"exp": now() - 60}), "credential.expired");
    check(json!({"exp": null}), "credential.invalid");
    check(json!({"exp": "never"}), "credential.invalid");
    check(json!({"nbf": now() + 10}), "200");
    check(json!({"nbf": now() + 600}), "credential.invalid");
    check(json!({"iss": "https://evil.example.com"}), "credential.invalid");
    check(json!({"iss": null}), "credential.invalid");
    check(json!({"aud": "other"}), "credential.invalid");
    check(json!({"aud": ["other", "api"]}), "200");
    check(json!({"aud": null}), "credential.invalid");
    for org in
        [json!(null), json!(""), json!(7), json!("a b"), json!("overflow"), json!("ip:192.0.2.1"), json!("é")]
    {
        check(json!({"org": org}), "credential.invalid");
    }

    let parts: Vec<String> = key.token(json!({})).split('.').map(str::to_owned).collect();
    let part = |value: Value| BASE64.encode(value.to_string());
    let signed_by = |secret: &[u8]| {
        let header = Header { kid: Some("k".into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(json!({})), &EncodingKey::from_secret(secret)).unwrap()
    };
    let pem = key.pair.public_key_pem();
    let forged = [
        other.token(json!({})),
        format!("{}.{}.", part(json!({"alg": "none", "kid": "k"})), part(claims(json!({})))),
        format!("{}.{}.{}", part(json!({"alg": "none", "kid": "k"})), parts[1], parts[2]),
        format!("{}.{}.{}", part(json!({"alg": "NoNe"})), parts[1], parts[2]),
        // The public key, which everybody has, as the secret of an HMAC (CVE-2015-9235).
        signed_by(pem.as_bytes()),
        signed_by(pem.trim_end().as_bytes()),
        signed_by(key.pair.public_key_raw()),
        signed_by(&BASE64.decode(key.public["n"].as_str().unwrap()).unwrap()),
        signed_by(b""),
        // Its own key brought along (CVE-2018-0114).
        format!(
            "{}.{}.{}",
            part(json!({"alg": "RS256", "kid": "k", "jwk": other.public})),
            parts[1],
            other.token(json!({})).rsplit('.').next().unwrap()
        ),
        format!("{}.{}.{}", parts[0], part(claims(json!({"org": "other"}))), parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 2]),
        format!("{}.{}.{}.", parts[0], parts[1], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        "garbage".to_owned(),
        String::new(),
    ];
    for token in forged {
        assert_eq!(code(&with(&gate, &token)), "credential.invalid", "{token}");
    }
    assert_eq!(code(&ask(gate.address, "GET /", "")), "credential.missing");
}

/// A server of keys that can be down, frozen, or have others.
struct Keys {
    said: Mutex<String>,
    frozen: Mutex<bool>,
    thawed: Condvar,
    asked: Mutex<usize>,
}

impl Keys {
    fn serve(listener: TcpListener, said: String) -> Arc<Keys> {
        let keys = Arc::new(Keys {
            said: Mutex::new(said),
            frozen: Mutex::new(false),
            thawed: Condvar::new(),
            asked: Mutex::new(0),
        });
        let served = Arc::clone(&keys);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let keys = Arc::clone(&served);
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    *keys.asked.lock() += 1;
                    let mut frozen = keys.frozen.lock();
                    keys.thawed.wait_while(&mut frozen, |frozen| *frozen);
                    let said = keys.said.lock().clone();
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
                });
            }
        });
        keys
    }

    fn freeze(&self, frozen: bool) {
        *self.frozen.lock() = frozen;
        self.thawed.notify_all();
    }
}

fn from_url(name: &str, address: SocketAddr) -> Gate {
    verifying(name, &format!("jwks = \"http://{address}/keys?v=1\""))
}

#[test]
fn a_rotated_key_is_fetched_without_a_restart_and_old_tokens_never_wait_for_it() {
    let (old, new) = (Key::new("old", Algorithm::ES256), Key::new("new", Algorithm::EdDSA));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let keys = Keys::serve(listener, set(&[&old]));
    let gate = from_url("rotation", address);
    until("the keys are there", || code(&with(&gate, &old.token(json!({})))) == "200");

    keys.freeze(true);
    *keys.said.lock() = set(&[&old, &new]);
    let (before, token) = (*keys.asked.lock(), new.token(json!({})));
    until("it may well be good", || code(&with(&gate, &token)) == "credential.unavailable");
    until("the keys are asked for", || *keys.asked.lock() > before);
    for n in 0..20 {
        // Each is verified anew: none is remembered.
        assert_eq!(code(&with(&gate, &old.token(json!({"jti": n})))), "200");
        assert_eq!(code(&with(&gate, &token)), "credential.unavailable");
    }
    assert_eq!(*keys.asked.lock(), before + 1, "one question is enough");
    keys.freeze(false);
    until("the new key is there", || code(&with(&gate, &token)) == "200");
    assert_eq!(code(&with(&gate, &old.token(json!({})))), "200");

    *keys.said.lock() = set(&[&new]);
    let stranger = Key::new("stranger", Algorithm::EdDSA);
    until("a stranger's key is looked for in vain", || {
        code(&with(&gate, &stranger.token(json!({})))) == "credential.invalid"
    });
    // The keys may have been read just before they changed, for the last that asked. Strangers ask again then, each
    // while at a time: nobody asks for a key that is known.
    let old = old.token(json!({"jti": 1}));
    until("its key is gone", || {
        let _ = with(&gate, &stranger.token(json!({})));
        code(&with(&gate, &old)) == "credential.invalid"
    });
    assert_eq!(code(&with(&gate, &token)), "200");
}

#[test]
fn a_key_set_is_fetched_by_https_from_whom_the_configured_authority_vouches_for() {
    let key = Key::new("k", Algorithm::ES256);
    let folder = Gate::folder("jwks-https-certs");
    let [ours, other] = ["ours", "other"].map(|name| {
        let [cert, private] = ["pem", "key"].map(|end| folder.join(format!("{name}.{end}")));
        let _ = tls::certificate(&["localhost"], &cert, &private);
        (cert, private)
    });
    let server = TlsOrigin::saying(&ours.0, &ours.1, &set(&[&key]));
    let keys = |ca: &Path| {
        let (port, ca) = (server.address.port(), ca.display());
        format!("jwks = \"https://localhost:{port}/keys\"\nca = \"{ca}\"")
    };
    let token = key.token(json!({}));
    let trusting = verifying("jwks-https", &keys(&ours.0));
    until("the keys are there", || code(&with(&trusting, &token)) == "200");
    let wary = format!(
        "{}[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\n",
        config(&keys(&other.0), "api")
    );
    let wary = Gate::start_whole(BINARY, "jwks-https-wary", &[], &wary);
    until("it says why it does not take them", || wary.said().contains("keys not taken"));
    assert_eq!(code(&with(&wary, &token)), "credential.unavailable");
    assert!(wary.said().contains("certificate"), "{}", wary.said());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn keys_that_cannot_be_had_at_the_start_are_waited_for() {
    // Bound, but not listening: connections are refused, and nobody else can take the port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let key = Key::new("k", Algorithm::ES256);
    let gate = from_url("keys-down", address);
    let refused = with(&gate, &key.token(json!({})));
    assert_eq!((refused.status, code(&refused).as_str()), (503, "credential.unavailable"));
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|wait| wait >= 1), "{}", refused.head);
    socket.listen(16).unwrap();
    let _keys = Keys::serve(socket.into(), set(&[&key]));
    until("the keys are there", || code(&with(&gate, &key.token(json!({})))) == "200");
    // No failure was counted of those who had to wait.
    assert_eq!(gate.metric("tidegate_refusals_total{code=\"credential.throttled\"}"), None);
}

#[test]
fn of_several_issuers_the_one_that_a_token_names_verifies_it() {
    let [one, two] = ["one", "two"].map(|id| Key::new(id, Algorithm::EdDSA));
    let folder = Gate::folder("issuers");
    let jwt = |key: &Key| {
        let file = folder.join(key.id);
        std::fs::write(&file, set(&[key])).unwrap();
        format!(
            "[jwt.{}]\njwks = \"{}\"\nissuer = \"{}\"\ntenant_claim = \"org\"\n",
            key.id,
            file.display(),
            key.id
        )
    };
    let config = format!(
        "{}{}[tenants]\nfrom = [{{ jwt = \"one\" }}, {{ jwt = \"two\" }}, {{ address = \"client\" }}]\nfailures = \"1000/s\"\n\
         [[route]]\nname = \"all\"\nrespond = {{ body = \"in\" }}\n",
        jwt(&one),
        jwt(&two)
    );
    let gate = gate("issuers", &config);
    for key in [&one, &two] {
        until("the keys are there", || code(&with(&gate, &key.token(json!({"iss": key.id})))) == "200");
    }
    let code_of = |key: &Key, issuer: &str| code(&with(&gate, &key.token(json!({"iss": issuer}))));
    // Neither may speak for the other, and nobody for a third one.
    until("a key of the other issuer is looked for in vain", || code_of(&one, "two") == "credential.invalid");
    until("a key of the other issuer is looked for in vain", || code_of(&two, "one") == "credential.invalid");
    assert_eq!(code_of(&one, "three"), "credential.invalid");
}

#[test]
fn a_reload_makes_no_token_wait_for_keys_that_are_there() {
    let key = Key::new("k", Algorithm::EdDSA);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let keys = Keys::serve(listener, set(&[&key]));
    let gate = from_url("jwt-reload", address);
    let [before, after] = ["api", "other"].map(|audience| key.token(json!({"aud": audience})));
    until("the keys are there", || code(&with(&gate, &before)) == "200");
    assert_eq!(code(&with(&gate, &after)), "credential.invalid");
    // From here on no key can be fetched.
    keys.freeze(true);
    gate.rewrite(&config(&format!("jwks = \"http://{address}/keys?v=1\""), "other"));
    gate.signal("-HUP");
    until("the reload", || code(&with(&gate, &after)) == "200");
    until("the old audience is no more, on all cores", || {
        (0..8).all(|_| code(&with(&gate, &before)) == "credential.invalid")
    });
    keys.freeze(false);
}
