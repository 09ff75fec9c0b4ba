//! Tenants: how one is recognised, who is refused, and the table that nobody fills.

use std::process::Command;

use serde_json::Value;
use tidegate_model::credential::Digest;
use tidegate_testkit::{Answer, Gate, Origin, Reply, ask, ask_on, connect};

use crate::{BINARY, app, control};

/// A listener whose peers on loopback are trusted proxies.
const TRUSTING: &str = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.0/8\"]";
const PLAIN: &str = "http = [\"127.0.0.1:0\"]";

fn sha256(key: &str) -> String {
    Digest::of(key.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat()
}

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, String::new()))
}

/// The code of a refusal; of an answer its status.
fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    body["code"].as_str().map_or_else(|| answer.status.to_string(), str::to_owned)
}

/// A gate before an origin, and who the origin was told that each request is for.
struct Scene {
    origin: Origin,
    gate: Gate,
}

impl Scene {
    fn new(name: &str, listen: &str, config: &str) -> Scene {
        let origin = ok();
        let gate = Gate::start_listening(
            BINARY,
            name,
            listen,
            &format!("{}{config}", app(&[origin.address], "", "")),
        );
        Scene { origin, gate }
    }

    fn ask(&self, headers: &str) -> Answer {
        ask(self.gate.address, "GET /", headers)
    }

    /// The head of the last request that the origin got.
    fn seen(&self) -> String {
        self.origin.recorded().pop().map(|request| request.head.to_ascii_lowercase()).unwrap_or_default()
    }

    /// Whom a request with these headers is for, as the application is told; or the refusal's code.
    fn check(&self, headers: &str, expected: &str) {
        let answer = self.ask(headers);
        let who = match answer.status {
            200 => {
                let head = self.seen();
                let line = head.lines().find_map(|line| line.strip_prefix("tidegate-tenant: "));
                line.unwrap_or("nobody").to_owned()
            }
            _ => code(&answer),
        };
        assert_eq!(who, expected, "{headers:?}");
    }
}

#[test]
fn a_tenant_is_known_by_each_of_its_keys_wherever_it_stands() {
    let made = Command::new(BINARY).args(["key", "new", "--id", "made"]).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let line =
        |start: &str| made.lines().map(str::trim).find(|line| line.starts_with(start)).unwrap().to_owned();
    let (key, keys) = (line("tg_"), line("keys = "));
    let config = format!(
        "[tenants]\nfrom = [{{ api_key = \"bearer\" }}, {{ api_key = \"header:x-api-key\" }}]\nunknown = \"refuse\"\n\
         [tenant.made]\n{keys}\n\
         [tenant.acme]\nkeys = [{{ id = \"a\", sha256 = \"{}\" }}, {{ id = \"b\", sha256 = \"{}\", expires = \"2999-01-01\" }}, \
         {{ id = \"old\", sha256 = \"{}\", expires = \"2020-01-01\" }}]\n",
        sha256("first"),
        sha256("second"),
        sha256("third")
    );
    let scene = Scene::new("keys", PLAIN, &config);
    scene.check(&format!("Authorization: Bearer {key}\r\n"), "made");
    scene.check("Authorization: bearer first\r\n", "acme");
    assert!(!scene.seen().contains("authorization"), "our key is not the application's");
    scene.check("X-API-Key: second\r\n", "acme");
    assert!(!scene.seen().contains("x-api-key"));
    scene.check("Authorization: Bearer first\r\nX-Api-Key: second\r\n", "acme");
    assert!(!scene.seen().contains("second"), "nor is the one that was not needed");
    scene.check("Authorization: Basic dXNlcjpwYXNz\r\nX-Api-Key: second\r\n", "acme");
    assert!(scene.seen().contains("basic"), "the application's own credential is left to it");
    scene.check("Authorization: Bearer third\r\n", "credential.expired");
    for invalid in [
        "Authorization: Bearer fourth\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer first\r\nAuthorization: Bearer first\r\n",
        "Authorization: Bearer first second\r\n",
        "X-Api-Key: \r\n",
        "X-Api-Key: first\r\nX-Api-Key: second\r\n",
        "Authorization: Bearer fourth\r\nX-Api-Key: first\r\n",
        "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.\r\n",
    ] {
        scene.check(invalid, "credential.invalid");
    }
    let missing = scene.ask("");
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, "bearer"));
}

#[test]
fn a_credential_that_is_present_and_invalid_is_never_passed_over_for_a_weaker_one() {
    let config = "[jwt.main]\nsecret = \"a shared secret of thirty-two bytes and more\"\n\
         [tenants]\nfrom = [{ jwt = \"main\" }, { address = \"client\" }]\n";
    let scene = Scene::new("weaker", PLAIN, config);
    scene.check("", "ip:127.0.0.1");
    scene.check("Authorization: Bearer garbage\r\n", "credential.invalid");
    scene.check("Authorization: Bearer ey.ey.ey\r\n", "credential.invalid");
    scene.check("Authorization: Basic whatever\r\n", "ip:127.0.0.1");
}

#[test]
fn a_tenant_header_counts_from_trusted_proxies_only() {
    let config = "[tenants]\nfrom = [{ header = \"x-tenant\" }, { address = \"client\" }]\n[tenant.acme]\n";
    let scene = Scene::new("header", TRUSTING, config);
    scene.check("X-Tenant: acme\r\n", "acme");
    scene.check("X-Tenant: other\r\n", "other");
    let long = format!("X-Tenant: {}\r\n", "a".repeat(200));
    for invalid in [
        "X-Tenant: \r\n",
        "X-Tenant: a b\r\n",
        "X-Tenant: overflow\r\n",
        "X-Tenant: ip:127.0.0.1\r\n",
        "X-Tenant: a\r\nX-Tenant: b\r\n",
        "X-Tenant: \u{e9}\r\n",
        &long,
    ] {
        scene.check(invalid, "credential.invalid");
    }
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"192.0.2.0/24\"]";
    let untrusting = Scene::new("header-untrusted", listen, config);
    untrusting.check("X-Tenant: acme\r\n", "ip:127.0.0.1");
    assert!(!untrusting.seen().contains("x-tenant"), "the application might believe it");
}

#[test]
fn hosts_and_addresses_name_those_who_bring_no_credential() {
    let config = "[tenants]\nfrom = [{ host = \"{tenant}.example.com\" }, { address = \"client\" }]\n\
         [plan.default]\nrate = \"2/h\"\n";
    let scene = Scene::new("hosts", TRUSTING, config);
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let host = |name: &str| {
        let mut stream = connect(scene.gate.address);
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n{}\r\n", from("192.0.2.99"));
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let answer = tidegate_testkit::read_answer(&mut stream);
        assert!([200, 401].contains(&answer.status), "{}", answer.body);
        let head = scene.seen();
        head.lines().find_map(|line| line.strip_prefix("tidegate-tenant: ")).unwrap_or_default().to_owned()
    };
    assert_eq!(host("Shop.Example.com:80"), "shop");
    assert_eq!(host("a.b.example.com"), "ip:192.0.2.99");
    assert_eq!(host("overflow.example.com"), "ip:192.0.2.99", "refused: the last one is seen");
    // Each address has its own two; an IPv6 client cannot get more by changing within its network.
    for (address, who) in [
        ("192.0.2.1", "ip:192.0.2.1"),
        ("192.0.2.1", "ip:192.0.2.1"),
        ("::ffff:192.0.2.1", "limit.rate"),
        ("192.0.2.2", "ip:192.0.2.2"),
        ("2001:db8::1", "ip:2001:db8::"),
        ("2001:db8::2", "ip:2001:db8::"),
        ("2001:db8::3", "limit.rate"),
        ("2001:db8:0:1::1", "ip:2001:db8:0:1::"),
    ] {
        scene.check(&from(address), who);
    }
}

#[test]
fn whoever_is_not_listed_takes_the_default_plan_or_is_refused() {
    let from = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    let plans =
        "[plan.default]\nrate = \"1/h\"\n[plan.large]\nrate = \"3/h\"\n[tenant.acme]\nplan = \"large\"\n";
    let passed = |scene: &Scene, tenant: &str| {
        let ask = |_: &u32| scene.ask(&format!("X-Tenant: {tenant}\r\n")).status == 200;
        (0..5).filter(ask).count()
    };
    let open = Scene::new("unknown-default", TRUSTING, &format!("{from}{plans}"));
    assert_eq!((passed(&open, "acme"), passed(&open, "other")), (3, 1));
    let named = Scene::new("unknown-plan", TRUSTING, &format!("{from}unknown = \"large\"\n{plans}"));
    assert_eq!(passed(&named, "other"), 3);
    let closed = Scene::new("unknown-refuse", TRUSTING, &format!("{from}unknown = \"refuse\"\n{plans}"));
    closed.check("X-Tenant: other\r\n", "tenant.unknown");
    closed.check("X-Tenant: acme\r\n", "acme");
}

#[test]
fn an_address_that_fails_too_often_is_refused_unread_and_no_other() {
    let config = format!(
        "[tenants]\nfrom = [{{ api_key = \"bearer\" }}]\nunknown = \"refuse\"\nfailures = \"5/h\"\n\
         [tenant.acme]\nkeys = [{{ id = \"a\", sha256 = \"{}\" }}]\n",
        sha256("good")
    );
    let scene = Scene::new("throttled", TRUSTING, &config);
    let with =
        |address: &str, key: &str| format!("X-Forwarded-For: {address}\r\nAuthorization: Bearer {key}\r\n");
    for guess in 0..5 {
        scene.check(&with("192.0.2.1", &guess.to_string()), "credential.invalid");
        scene.check(&with("192.0.2.1", "good"), if guess < 4 { "acme" } else { "credential.throttled" });
    }
    let refused = scene.ask(&with("192.0.2.1", "good"));
    let wait = refused.header("retry-after").parse::<u64>().unwrap();
    assert!((refused.status, (600..=830).contains(&wait)) == (429, true), "{}", refused.head);
    scene.check(&with("192.0.2.2", "good"), "acme");
    scene.check("X-Forwarded-For: 192.0.2.1\r\n", "credential.missing");
    // Who brings no credential guesses nothing.
    for _ in 0..10 {
        scene.check("X-Forwarded-For: 192.0.2.3\r\n", "credential.missing");
    }
    scene.check(&with("192.0.2.3", "good"), "acme");
    // The whole network of an IPv6 client is held.
    for guess in 0..5 {
        scene.check(&with(&format!("2001:db8::{guess}"), "bad"), "credential.invalid");
    }
    scene.check(&with("2001:db8::ffff", "good"), "credential.throttled");
    scene.check(&with("2001:db8:0:1::1", "good"), "acme");
}

#[test]
fn more_tenants_than_the_table_holds_neither_grow_it_nor_refill_anybody() {
    let config = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\ntracked = 40\n\
         [plan.default]\nrate = \"1/h\"\n";
    let scene = Scene::new("table", TRUSTING, config);
    let mut stream = connect(scene.gate.address);
    let mut ask = |tenant: &str| ask_on(&mut stream, "GET /", &format!("X-Tenant: {tenant}\r\n")).status;
    let early: Vec<String> = (0..20).map(|n| format!("early-{n}")).collect();
    assert!(early.iter().all(|tenant| ask(tenant) == 200));
    let before = scene.gate.memory();
    let passed = (0..600).filter(|n| ask(&format!("late-{n}")) == 200).count();
    // Twenty places were left; all others share one request an hour.
    assert_eq!(passed, 21);
    assert!(early.iter().all(|tenant| ask(tenant) == 429), "nobody was refilled");
    let grown = scene.gate.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
    let state = control(&scene.gate, "/status");
    let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(state["tenants"]["tracked"], 40);
    // Those without room are still themselves to the application.
    let told: Vec<String> = scene.origin.recorded().into_iter().map(|request| request.head).collect();
    assert_eq!(told.len(), 41);
    assert!(
        told.iter()
            .all(|head| head.contains("tidegate-tenant: early-") || head.contains("tidegate-tenant: late-"))
    );
}
