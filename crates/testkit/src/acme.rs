//! A certificate authority that speaks ACME (RFC 8555): small, and real. It verifies signatures and nonces, looks by itself whether
//! a name is its client's (HTTP-01, TLS-ALPN-01), signs what is asked for, and says when to renew (RFC 9773). It can be told to
//! refuse, to want to hear nothing for a while, and to be away.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::tls::{shown, tls_connect};
use crate::{PATIENCE, connect, until};

/// A certificate authority.
pub struct Authority {
    /// Where its directory is.
    pub directory: String,
    /// Who vouches for its server.
    pub ca: PathBuf,
    state: Arc<State>,
}

/// How it is disposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It does what it is asked for.
    Willing,
    /// It never finds that a name is its client's.
    Refusing,
    /// It wants to hear of orders in so many seconds again.
    Busy(u32),
    /// It closes each connection without a word.
    Away,
}

/// An order that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// For this name.
    pub name: String,
    /// In place of this certificate.
    pub replaces: Option<String>,
    /// How it was shown that the name is the client's.
    pub way: Option<&'static str>,
    /// It was issued.
    pub issued: bool,
}

struct State {
    base: String,
    issuer: Issuer<'static, KeyPair>,
    tls: Arc<ServerConfig>,
    mood: Mutex<Mood>,
    /// Where it looks: by HTTP, and by a handshake.
    looks: Mutex<Option<[SocketAddr; 2]>>,
    /// How long what it issues lasts, in seconds.
    lifetime: AtomicU64,
    nonces: Mutex<HashSet<String>>,
    numbers: AtomicU64,
    /// Public keys, by the account's number.
    accounts: Mutex<BTreeMap<u64, Account>>,
    orders: Mutex<BTreeMap<u64, Order>>,
    /// Serial numbers of what should be renewed at once.
    renewals: Mutex<HashSet<String>>,
}

#[derive(Clone)]
struct Account {
    point: Vec<u8>,
    thumbprint: String,
}

#[derive(Clone)]
struct Order {
    account: u64,
    ordered: Ordered,
    token: String,
    /// Of the authorization: `pending`, `valid`, `invalid`.
    shown: &'static str,
    /// Serial number and chain.
    certificate: Option<(String, String)>,
}

impl Authority {
    /// Starts one, which keeps the certificate of its server's authority in this folder.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn start(folder: &Path) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "testkit's authority");
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a certificate");
        let ca = folder.join("authority.pem");
        std::fs::write(&ca, root.pem()).expect("a file can be written");
        let issuer = Issuer::new(params, key);
        let own_key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let own = own.signed_by(&own_key, &issuer).expect("a certificate");
        let tls = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default protocol versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![own.der().clone()],
                PrivateKeyDer::try_from(own_key.serialize_der()).expect("a key"),
            )
            .expect("a certificate with its key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let base = format!("https://{}", listener.local_addr().expect("it is bound"));
        let state = Arc::new(State {
            base: base.clone(),
            issuer,
            tls: Arc::new(tls),
            mood: Mutex::new(Mood::Willing),
            looks: Mutex::default(),
            lifetime: AtomicU64::new(90 * 24 * 3600),
            nonces: Mutex::default(),
            numbers: AtomicU64::new(1),
            accounts: Mutex::default(),
            orders: Mutex::default(),
            renewals: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                std::thread::spawn(move || serve(&state, stream));
            }
        });
        Authority { directory: format!("{base}/directory"), ca, state }
    }

    /// Whether names are its client's it finds out here: by HTTP, and by a handshake. It waits with that until it is told.
    pub fn looks_at(&self, http: SocketAddr, https: SocketAddr) {
        *self.state.looks.lock() = Some([http, https]);
    }

    /// From now on it is disposed like this.
    pub fn be(&self, mood: Mood) {
        *self.state.mood.lock() = mood;
    }

    /// What it issues lasts so many seconds.
    pub fn lasts(&self, seconds: u64) {
        self.state.lifetime.store(seconds, Relaxed);
    }

    /// All that it has issued so far should be renewed at once.
    pub fn renew_all(&self) {
        let orders = self.state.orders.lock();
        let issued = orders.values().filter_map(|order| order.certificate.clone());
        self.state.renewals.lock().extend(issued.map(|(serial, _)| serial));
    }

    /// The orders that it was given.
    #[must_use]
    pub fn orders(&self) -> Vec<Ordered> {
        self.state.orders.lock().values().map(|order| order.ordered.clone()).collect()
    }

    /// How many accounts it has.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.state.accounts.lock().len()
    }
}

/// A request as it came.
struct Asked {
    method: String,
    path: String,
    body: Vec<u8>,
}

/// What is answered.
struct Said {
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Said {
    fn json(status: u16, value: &Value) -> Said {
        Said {
            status,
            fields: vec![("Content-Type", "application/json".to_owned())],
            body: value.to_string().into(),
        }
    }

    fn with(mut self, name: &'static str, value: String) -> Said {
        self.fields.push((name, value));
        self
    }
}

fn problem(status: u16, kind: &str, detail: &str) -> Said {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    Said::json(status, &json!({ "type": kind, "detail": detail, "status": status }))
}

fn serve(state: &Arc<State>, stream: TcpStream) {
    if *state.mood.lock() == Mood::Away {
        return;
    }
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let Ok(connection) = ServerConnection::new(Arc::clone(&state.tls)) else { return };
    let mut stream = StreamOwned::new(connection, stream);
    let Some(asked) = read(&mut stream) else { return };
    let said = answer(state, &asked);
    let nonce = format!("nonce-{}", state.numbers.fetch_add(1, Relaxed));
    state.nonces.lock().insert(nonce.clone());
    let mut head = format!(
        "HTTP/1.1 {} Said\r\nContent-Length: {}\r\nConnection: close\r\nReplay-Nonce: {nonce}\r\n",
        said.status,
        said.body.len()
    );
    for (name, value) in said.fields {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let _ = stream.write_all(head.as_bytes());
    if asked.method != "HEAD" {
        let _ = stream.write_all(&said.body);
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn read(stream: &mut impl std::io::Read) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Asked { method, path, body })
}

fn answer(state: &Arc<State>, asked: &Asked) -> Said {
    let at = |path: &str| format!("{}{path}", state.base);
    match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/directory") => {
            let directory = json!({
                "newNonce": at("/nonce"), "newAccount": at("/account"), "newOrder": at("/order"),
                "revokeCert": at("/revoke"), "keyChange": at("/key"), "renewalInfo": at("/renewal"),
                "meta": { "termsOfService": at("/terms") },
            });
            return Said::json(200, &directory);
        }
        ("HEAD", "/nonce") => return Said { status: 200, fields: Vec::new(), body: Vec::new() },
        ("GET", path) if path.starts_with("/renewal/") => return renewal(state, path),
        ("POST", _) => {}
        _ => return problem(404, "malformed", "there is nothing here"),
    }
    let (account, payload) = match verified(state, asked) {
        Ok(verified) => verified,
        Err(said) => return said,
    };
    let number = |path: &str| path.rsplit('/').next().and_then(|text| text.parse::<u64>().ok());
    let path = asked.path.as_str();
    let order = number(path).and_then(|number| Some((number, state.orders.lock().get(&number)?.clone())));
    let order = order.filter(|(_, order)| order.account == account);
    match (path.split('/').nth(1).unwrap_or_default(), order) {
        ("account", _) => Said::json(201, &json!({ "status": "valid" }))
            .with("Location", at(&format!("/account/{account}"))),
        ("order", None) => new_order(state, account, &payload),
        ("order", Some((number, order))) => told(state, number, &order),
        ("authz", Some((number, order))) => authorization(state, number, &order),
        ("http-01", Some((number, _))) => look(state, number, "http-01"),
        ("tls-alpn-01", Some((number, _))) => look(state, number, "tls-alpn-01"),
        ("finalize", Some((number, _))) => finalize(state, number, &payload),
        ("certificate", Some((_, Order { certificate: Some((_, chain)), .. }))) => Said {
            status: 200,
            fields: vec![("Content-Type", "application/pem-certificate-chain".to_owned())],
            body: chain.into_bytes(),
        },
        _ => problem(404, "malformed", "there is no such thing"),
    }
}

fn decoded(value: &Value) -> Option<Vec<u8>> {
    BASE64.decode(value.as_str()?).ok()
}

/// Whose request it is, and what it says, if its signature, its nonce and its URL are right (RFC 8555 section 6).
fn verified(state: &State, asked: &Asked) -> Result<(u64, Value), Said> {
    let malformed = || problem(400, "malformed", "this is no signed request");
    let jws: Value = serde_json::from_slice(&asked.body).map_err(|_| malformed())?;
    let protected = decoded(&jws["protected"]).ok_or_else(malformed)?;
    let header: Value = serde_json::from_slice(&protected).map_err(|_| malformed())?;
    let nonce = header["nonce"].as_str().unwrap_or_default();
    if !state.nonces.lock().remove(nonce) {
        return Err(problem(400, "badNonce", "this nonce is not known"));
    }
    if header["url"] != format!("{}{}", state.base, asked.path) || header["alg"] != "ES256" {
        return Err(problem(401, "unauthorized", "this was signed for something else"));
    }
    let (number, account) = if let Some(kid) = header["kid"].as_str() {
        let number = kid.rsplit('/').next().and_then(|text| text.parse().ok()).unwrap_or_default();
        let known = state.accounts.lock().get(&number).cloned();
        (number, known.ok_or_else(|| problem(400, "accountDoesNotExist", "who is that?"))?)
    } else {
        let (x, y) = (&header["jwk"]["x"], &header["jwk"]["y"]);
        let (Some(left), Some(right)) = (decoded(x), decoded(y)) else { return Err(malformed()) };
        // RFC 7638: these members, in this order, without spaces.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{x},"y":{y}}}"#);
        let thumbprint = BASE64.encode(digest(&SHA256, canonical.as_bytes()));
        let account = Account { point: [&[4][..], &left, &right].concat(), thumbprint };
        (state.numbers.fetch_add(1, Relaxed), account)
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let signed = format!("{}.{}", text(&jws["protected"]), text(&jws["payload"]));
    let signature = decoded(&jws["signature"]).ok_or_else(malformed)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &account.point)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| problem(401, "unauthorized", "the signature is wrong"))?;
    if header["kid"].is_null() {
        if asked.path != "/account" {
            return Err(malformed());
        }
        state.accounts.lock().insert(number, account);
    }
    let payload = decoded(&jws["payload"]).ok_or_else(malformed)?;
    let payload = if payload.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&payload).map_err(|_| malformed())?
    };
    if asked.path == "/account" && payload["termsOfServiceAgreed"] != true {
        return Err(problem(403, "userActionRequired", "the terms were not agreed to"));
    }
    Ok((number, payload))
}

fn new_order(state: &State, account: u64, payload: &Value) -> Said {
    if let Mood::Busy(seconds) = *state.mood.lock() {
        return problem(429, "rateLimited", "later").with("Retry-After", seconds.to_string());
    }
    let number = state.numbers.fetch_add(1, Relaxed);
    let name = payload["identifiers"][0]["value"].as_str().unwrap_or_default().to_owned();
    let replaces = payload["replaces"].as_str().map(str::to_owned);
    let ordered = Ordered { name, replaces, way: None, issued: false };
    let token = format!("token-{number}_of-testkit");
    let order = Order { account, ordered, token, shown: "pending", certificate: None };
    let said = told(state, number, &order);
    state.orders.lock().insert(number, order);
    Said { status: 201, ..said }.with("Location", format!("{}/order/{number}", state.base))
}

fn told(state: &State, number: u64, order: &Order) -> Said {
    let at = |path: &str| format!("{}/{path}/{number}", state.base);
    let status = match (order.shown, &order.certificate) {
        (_, Some(_)) => "valid",
        ("valid", None) => "ready",
        (other, None) => other,
    };
    let mut told = json!({
        "status": status, "authorizations": [at("authz")], "finalize": at("finalize"),
        "identifiers": [{ "type": "dns", "value": order.ordered.name }],
    });
    if order.certificate.is_some() {
        told["certificate"] = at("certificate").into();
    }
    if let Some(replaces) = &order.ordered.replaces {
        told["replaces"] = replaces.clone().into();
    }
    Said::json(200, &told)
}

fn challenge(state: &State, number: u64, order: &Order, kind: &str) -> Value {
    let mut told = json!({
        "type": kind, "url": format!("{}/{kind}/{number}", state.base), "token": order.token, "status": order.shown,
    });
    if order.shown == "invalid" {
        told["error"] = json!({
            "type": "urn:ietf:params:acme:error:unauthorized", "detail": "it was not found there", "status": 403,
        });
    }
    told
}

fn authorization(state: &State, number: u64, order: &Order) -> Said {
    let challenges = ["http-01", "tls-alpn-01"].map(|kind| challenge(state, number, order, kind));
    Said::json(
        200,
        &json!({
            "status": order.shown, "identifier": { "type": "dns", "value": order.ordered.name },
            "challenges": challenges,
        }),
    )
}

/// Looks, beside the answer, whether the name is the client's.
fn look(state: &Arc<State>, number: u64, kind: &'static str) -> Said {
    let Some(order) = state.orders.lock().get(&number).cloned() else {
        return problem(404, "malformed", "there is no such order");
    };
    let looking = Arc::clone(state);
    let told = challenge(state, number, &order, kind);
    std::thread::spawn(move || {
        until("it is told where to look", || looking.looks.lock().is_some());
        let thumbprint = looking.accounts.lock()[&order.account].thumbprint.clone();
        let authorization = format!("{}.{thumbprint}", order.token);
        let [http, https] = looking.looks.lock().expect("it was told");
        let is_shown = *looking.mood.lock() != Mood::Refusing
            && match kind {
                "http-01" => by_http(http, &order, &authorization),
                _ => by_handshake(https, &order, &authorization),
            };
        if let Some(order) = looking.orders.lock().get_mut(&number) {
            order.shown = if is_shown { "valid" } else { "invalid" };
            order.ordered.way = Some(kind);
        }
    });
    Said::json(200, &told)
}

/// RFC 8555 section 8.3.
fn by_http(address: SocketAddr, order: &Order, authorization: &str) -> bool {
    let mut stream = connect(address);
    let request = format!(
        "GET /.well-known/acme-challenge/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        order.token, order.ordered.name
    );
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim_end());
    answer.starts_with("HTTP/1.1 200 ") && body == Some(authorization)
}

/// RFC 8737 section 3: the protocol, the name, and the digest in a critical extension.
fn by_handshake(address: SocketAddr, order: &Order, authorization: &str) -> bool {
    let Ok(client) = tls_connect(address, &order.ordered.name, &["acme-tls/1"]) else { return false };
    let certificate = shown(&client);
    let mut extension = vec![6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff, 4, 0x22, 4, 0x20];
    extension.extend_from_slice(digest(&SHA256, authorization.as_bytes()).as_ref());
    let has = |bytes: &[u8]| certificate.windows(bytes.len()).any(|part| part == bytes);
    client.conn.alpn_protocol() == Some(b"acme-tls/1")
        && has(&extension)
        && has(order.ordered.name.as_bytes())
}

fn finalize(state: &State, number: u64, payload: &Value) -> Said {
    let mut orders = state.orders.lock();
    let Some(order) = orders.get_mut(&number).filter(|order| order.shown == "valid") else {
        return problem(403, "orderNotReady", "the order is not ready");
    };
    let request =
        decoded(&payload["csr"]).and_then(|der| CertificateSigningRequestParams::from_der(&der.into()).ok());
    let Some(mut request) = request else { return problem(400, "badCSR", "this is no request") };
    #[expect(clippy::disallowed_methods, reason = "an authority has no clock of the product's")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_secs();
    let epoch = date_time_ymd(1970, 1, 1);
    let serial = state.numbers.fetch_add(1, Relaxed);
    request.params.not_before = epoch + Duration::from_secs(now);
    request.params.not_after = epoch + Duration::from_secs(now + state.lifetime.load(Relaxed));
    request.params.serial_number = Some(SerialNumber::from(serial));
    request.params.use_authority_key_identifier_extension = true;
    let Ok(made) = request.signed_by(&state.issuer) else {
        return problem(400, "badCSR", "it cannot be signed");
    };
    let shortest: Vec<u8> = serial.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    order.certificate = Some((BASE64.encode(shortest), made.pem()));
    order.ordered.issued = true;
    let order = order.clone();
    drop(orders);
    told(state, number, &order)
}

/// When a certificate should be renewed: at once, or not for long.
fn renewal(state: &State, path: &str) -> Said {
    let serial = path.rsplit('.').next().unwrap_or_default();
    let (start, end) = match state.renewals.lock().contains(serial) {
        true => ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"),
        false => ("2099-01-01T00:00:00Z", "2099-01-02T00:00:00Z"),
    };
    Said::json(200, &json!({ "suggestedWindow": { "start": start, "end": end } }))
        .with("Retry-After", "1".to_owned())
}
