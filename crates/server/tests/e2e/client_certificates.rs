//! Clients that show a certificate, upstreams that want one, and sessions that nodes go on with for each other.

mod authority;
mod between;
mod changes;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use authority::{Authority, Client};
use tidegate_testkit::tls::{TlsClient, Visitor, certificate};
use tidegate_testkit::{Gate, Origin, Reply, block_on, connect, read_answer, until};

use crate::{BINARY, app, control};

const LISTEN: &str = "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]";
const BY_CERTIFICATE: &str =
    "[tenants]\nfrom = [{ certificate = \"subject:CN\" }, { address = \"client\" }]\n";

/// `[[tls]]` for this name, with this further line.
fn served(folder: &Path, name: &str, more: &str) -> String {
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    if !cert.exists() {
        let _ = certificate(&[name], &cert, &key);
    }
    format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n{more}\n", cert.display(), key.display())
}

/// `client` of a `[[tls]]`, with these further keys.
fn wanted(authority: &Authority, more: &str) -> String {
    format!("client = {{ ca = \"{}\"{more} }}", authority.ca.display())
}

fn origin() -> Origin {
    Origin::start(|_| Reply::Status(200, "hello".into()))
}

/// The head of the last request that came there, lower case.
fn seen(origin: &Origin) -> String {
    origin.recorded().pop().unwrap().head.to_ascii_lowercase()
}

fn visitor(client: &Client) -> Visitor {
    Visitor::new(&["http/1.1"], Some((&client.cert, &client.key)))
}

fn nobody() -> Visitor {
    Visitor::new(&["http/1.1"], None)
}

/// What a host answers on this connection, the head in lower case; nothing, where the server ends it.
fn answer(client: &mut TlsClient, host: &str, fields: &str) -> String {
    let _ = client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes());
    let (mut got, mut byte) = (Vec::new(), [0]);
    while !got.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|length| length == 1) {
        got.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&got).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    let _ = client.read_exact(&mut body);
    head + &String::from_utf8_lossy(&body)
}

/// What a host answers on a connection of its own.
fn asked(visitor: &Visitor, address: SocketAddr, host: &str) -> String {
    visitor.connect(address, host).map(|mut client| answer(&mut client, host, "")).unwrap_or_default()
}

fn is_ok(told: &str) -> bool {
    told.starts_with("http/1.1 200 ")
}

#[test]
fn who_shows_a_good_certificate_is_its_tenant_and_the_application_is_told() {
    let folder = Gate::folder("mtls");
    let clients = Authority::new(&folder, "ours");
    let acme = clients.between().client("acme", |_| {});
    let origin = origin();
    let config = format!(
        "{}\n{BY_CERTIFICATE}{}{}",
        app(&[origin.address], "", ""),
        served(&folder, "open.test", ""),
        served(&folder, "m.test", &wanted(&clients, ""))
    );
    let gate = Gate::start_listening(BINARY, "mtls", LISTEN, &config);
    let [http, https] = [gate.listeners[0], gate.listeners[1]];
    let forged = "Client-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\n";
    let mut known = visitor(&acme).connect(https, "m.test").unwrap();
    assert!(is_ok(&answer(&mut known, "m.test", forged)));
    let told = seen(&origin);
    assert!(told.contains("\r\nclient-cert: :mii") && told.contains("\r\nclient-cert-chain: :mii"), "{told}");
    assert!(told.contains("\r\ntidegate-tenant: acme\r\n") && !told.contains(":aaaa:"), "{told}");
    // For a host that wants none it says nothing.
    assert!(is_ok(&answer(&mut known, "open.test", "")));
    let told = seen(&origin);
    assert!(!told.contains("client-cert") && told.contains("tidegate-tenant: ip:"), "{told}");
    // What a client says of itself is worth nothing.
    let mut unknown = nobody().connect(https, "open.test").unwrap();
    assert!(is_ok(&answer(&mut unknown, "open.test", forged)));
    let told = seen(&origin);
    assert!(!told.contains("client-cert") && told.contains("tidegate-tenant: ip:"), "{told}");
    // Nor does a handshake for one host open another, nor does a listener without TLS.
    let told = answer(&mut unknown, "m.test", "");
    assert!(told.starts_with("http/1.1 421 ") && told.contains("route.misdirected"), "{told}");
    assert!(told.contains("connection: close"), "{told}");
    let mut stream = connect(http);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: m.test\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 421);
    assert_eq!(origin.recorded().len(), 3);
}

#[test]
fn what_a_trusted_proxy_says_of_its_client_stays() {
    let folder = Gate::folder("mtls-trusted");
    let clients = Authority::new(&folder, "ours");
    let acme = clients.client("acme", |_| {});
    let origin = origin();
    let tls = served(&folder, "open.test", "") + &served(&folder, "m.test", &wanted(&clients, ""));
    let listen = format!("{LISTEN}\ntrusted_proxies = [\"127.0.0.1\"]");
    let config = format!("{}\n{tls}", app(&[origin.address], "", ""));
    let gate = Gate::start_listening(BINARY, "mtls-trusted", &listen, &config);
    let mut proxy = visitor(&acme).connect(gate.listeners[1], "m.test").unwrap();
    assert!(is_ok(&answer(&mut proxy, "open.test", "Client-Cert: :AAAA:\r\n")));
    assert!(seen(&origin).contains("\r\nclient-cert: :aaaa:\r\n"));
    // Where a certificate is looked at here, it is that one.
    assert!(is_ok(&answer(&mut proxy, "m.test", "Client-Cert: :AAAA:\r\n")));
    assert!(!seen(&origin).contains(":aaaa:"));
}

#[test]
fn a_bad_certificate_ends_the_handshake_is_counted_by_its_reason_and_said() {
    let folder = Gate::folder("mtls-bad");
    let (clients, others) = (Authority::new(&folder, "ours"), Authority::new(&folder, "theirs"));
    let good = clients.client("good", |_| {});
    let gone = clients.client("gone", |params| params.serial_number = Some(3_u64.into()));
    let old = clients.client("old", |params| {
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    });
    let (stranger, unpinned) = (others.client("good", |_| {}), clients.client("unpinned", |_| {}));
    let revoked = clients.revoke(3);
    let pinned = [&good, &gone, &old, &stranger].map(|one| format!("\"{}\"", one.pin)).join(", ");
    let rule = wanted(&clients, &format!(", pins = [{pinned}], crl = \"{}\"", revoked.display()));
    let origin = origin();
    let config = format!("{}\n{}", app(&[origin.address], "", ""), served(&folder, "m.test", &rule));
    // With a log that says more than errors.
    let rest =
        format!("[listen]\n{LISTEN}\n[control]\nlisten = [\"127.0.0.1:0\"]\n[protect]\nlag = \"0s\"\n");
    let gate = Gate::start_whole(BINARY, "mtls-bad", &[], &format!("{config}\n{rest}"));
    let https = gate.listeners[1];
    let failures = |reason: &str| {
        gate.metric(&format!("tidegate_tls_handshake_failures_total{{reason=\"{reason}\"}}")).unwrap()
    };
    assert_eq!(asked(&nobody(), https, "m.test"), "");
    until("it is counted", || failures("certificate-missing") == 1.0);
    let said = || {
        gate.said()
            .lines()
            .find(|line| line.contains("a client's certificate was refused"))
            .map(str::to_owned)
    };
    until("it is said", || said().is_some());
    let line = said().unwrap();
    let told = ["m.test", "127.0.0.1", "certificate-missing"];
    assert!(told.iter().all(|one| line.contains(one)), "{line}");
    for (who, reason) in [
        (&gone, "certificate-revoked"),
        (&old, "certificate-expired"),
        (&stranger, "certificate-untrusted"),
        (&unpinned, "certificate-unpinned"),
    ] {
        assert_eq!(asked(&visitor(who), https, "m.test"), "", "{reason}");
        until(reason, || failures(reason) == 1.0);
    }
    assert!(is_ok(&asked(&visitor(&good), https, "m.test")));
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn a_certificate_may_be_left_out_where_none_is_required_but_not_be_bad() {
    let folder = Gate::folder("mtls-maybe");
    let (clients, others) = (Authority::new(&folder, "ours"), Authority::new(&folder, "theirs"));
    let (acme, stranger) = (clients.client("acme", |_| {}), others.client("acme", |_| {}));
    let origin = origin();
    let rule = wanted(&clients, ", required = false");
    let config =
        format!("{}\n{BY_CERTIFICATE}{}", app(&[origin.address], "", ""), served(&folder, "m.test", &rule));
    let gate = Gate::start_listening(BINARY, "mtls-maybe", LISTEN, &config);
    let https = gate.listeners[1];
    assert!(is_ok(&asked(&nobody(), https, "m.test")));
    assert!(!seen(&origin).contains("client-cert") && seen(&origin).contains("tidegate-tenant: ip:"));
    assert!(is_ok(&asked(&visitor(&acme), https, "m.test")));
    assert!(
        seen(&origin).contains("client-cert: :mii") && seen(&origin).contains("tidegate-tenant: acme\r\n")
    );
    assert_eq!(asked(&visitor(&stranger), https, "m.test"), "");
}

#[test]
fn a_tenant_is_named_by_any_part_of_a_certificate_but_only_by_one() {
    let folder = Gate::folder("mtls-names");
    let clients = Authority::new(&folder, "ours");
    let uri = |name: &str| rcgen::SanType::URI(format!("spiffe://x.test/t/{name}").try_into().unwrap());
    let by_uri = clients.client("any", |params| params.subject_alt_names = vec![uri("acme")]);
    let by_two = clients.client("any", |params| params.subject_alt_names = vec![uri("acme"), uri("other")]);
    let listed = clients.client("listed", |_| {});
    let origin = origin();
    let config = |from: &str| {
        format!(
            "{}\n[tenants]\nfrom = [{{ certificate = \"{from}\" }}]\n[tenant.known]\ncertificates = [\"{}\"]\n{}",
            app(&[origin.address], "", ""),
            listed.fingerprint,
            served(&folder, "m.test", &wanted(&clients, ""))
        )
    };
    let gate =
        Gate::start_listening(BINARY, "mtls-names", LISTEN, &config("san:uri:spiffe://x.test/t/{tenant}"));
    let https = gate.listeners[1];
    assert!(is_ok(&asked(&visitor(&by_uri), https, "m.test")));
    assert!(seen(&origin).contains("\r\ntidegate-tenant: acme\r\n"));
    for who in [&by_two, &listed] {
        let told = asked(&visitor(who), https, "m.test");
        assert!(told.starts_with("http/1.1 401 ") && told.contains("credential.invalid"), "{told}");
    }
    gate.rewrite(&config("fingerprint"));
    gate.reload();
    assert!(is_ok(&asked(&visitor(&listed), https, "m.test")));
    assert!(seen(&origin).contains("\r\ntidegate-tenant: known\r\n"));
    assert!(asked(&visitor(&by_uri), https, "m.test").starts_with("http/1.1 401 "));
    assert!(control(&gate, "/metrics").contains("tidegate_refusals_total{code=\"credential.invalid\"}"));
}

#[test]
fn one_connection_of_http_2_is_for_each_host_what_its_certificate_is_there() {
    let folder = Gate::folder("mtls-h2");
    let (clients, others) = (Authority::new(&folder, "ours"), Authority::new(&folder, "theirs"));
    let acme = clients.client("acme", |_| {});
    let origin = origin();
    let tls = [
        served(&folder, "a.test", &wanted(&clients, "")),
        served(&folder, "same.test", &wanted(&clients, ", required = false")),
        served(&folder, "other.test", &wanted(&others, "")),
    ];
    let config = format!("{}\n{BY_CERTIFICATE}{}", app(&[origin.address], "", ""), tls.concat());
    let gate = Gate::start_listening(BINARY, "mtls-h2", LISTEN, &config);
    let known = Visitor::new(&["h2"], Some((&acme.cert, &acme.key)));
    block_on(async {
        let client = known.connect_h2(gate.listeners[1], "a.test").await;
        // The first certificate is for hosts that no certificate names.
        for (host, expected) in
            [("a.test", 200), ("same.test", 200), ("other.test", 421), ("unnamed.test", 200)]
        {
            let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
            let mut client = client.clone().ready().await.unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), expected, "{host}");
        }
    });
    let told = seen(&origin);
    assert!(told.contains("client-cert: :mii") && told.contains("tidegate-tenant: acme\r\n"), "{told}");
    assert_eq!(origin.recorded().len(), 3);
}
