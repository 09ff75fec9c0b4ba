//! Routing, and what is done to requests and responses on their way.

use std::io::Write as _;
use std::net::SocketAddr;

use tidegate_testkit::{Answer, Gate, Origin, Reply, ask, ask_on, connect, read_answer};

use crate::{BINARY, app, gate};

/// A listener whose peers on loopback are trusted proxies.
const TRUSTING: &str = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.0/8\"]";

/// A request for this host on a connection of its own.
fn ask_host(address: SocketAddr, host: &str, request_line: &str, headers: &str) -> Answer {
    let mut stream = connect(address);
    write!(stream, "{request_line} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n").unwrap();
    read_answer(&mut stream)
}

/// A route that answers with its own name.
fn named(name: &str, matches: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nrespond = {{ body = \"{name}\" }}\n{matches}\n")
}

#[test]
fn the_most_specific_route_decides_whatever_the_order_in_the_file() {
    let config: String = [
        ("web", "path = \"/\""),
        ("api", "host = \"api.example.com\"\npath = \"/v1\""),
        ("orders", "host = \"api.example.com\"\npath = \"/v1/orders/\"\nmethods = [\"GET\"]"),
        (
            "beta",
            "host = \"api.example.com\"\npath = \"/v1/orders\"\nmethods = [\"GET\"]\nheaders = { x-beta = true }",
        ),
        (
            "blue",
            "host = \"api.example.com\"\npath = \"/v1/orders\"\nmethods = [\"GET\"]\n\
             headers = { x-beta = true, lane = \"blue\", x-old = false }",
        ),
        ("status", "host = \"api.example.com\"\npath = \"= /v1/status\""),
        ("shops", "host = \"*.example.com\""),
        ("deep", "host = \"*.eu.example.com\""),
    ]
    .iter()
    .map(|(name, matches)| named(name, matches))
    .collect();
    let gate = gate("routes", &config);
    let check = |host: &str, line: &str, headers: &str, expected: &str| {
        let answer = ask_host(gate.address, host, line, headers);
        assert_eq!((answer.status, answer.body.as_str()), (200, expected), "{host} {line} {headers}");
    };
    let api = "api.example.com";
    check(api, "GET /v1/orders/7", "", "orders");
    check("API.Example.com.:80", "GET /v1/orders", "", "orders");
    check(api, "GET /v1/ordersx", "", "api");
    check(api, "GET /%76%31/./x/../orders", "", "orders");
    check(api, "GET /v1/orders/7", "X-Beta: 1\r\n", "beta");
    check(api, "GET /v1/orders/7", "X-Beta: 1\r\nLane: blue\r\n", "blue");
    check(api, "GET /v1/orders/7", "X-Beta: 1\r\nLane: red\r\n", "beta");
    check(api, "GET /v1/orders/7", "X-Beta: 1\r\nLane: blue\r\nLane: blue\r\n", "beta");
    check(api, "GET /v1/orders/7", "X-Beta: 1\r\nLane: blue\r\nX-Old: \r\n", "beta");
    check(api, "GET /v1/status", "", "status");
    check(api, "GET /v1/status/", "", "api");
    check(api, "GET /about", "", "shops");
    check("a.b.example.com", "GET /v1", "", "shops");
    check("a.eu.example.com", "GET /v1", "", "deep");
    check("example.com", "GET /v1", "", "web");
    check("[::1]", "GET /v1", "", "web");
}

#[test]
fn a_path_without_its_method_is_405_and_tells_which_there_are() {
    let config = [
        named("read", "path = \"/v1\"\nmethods = [\"GET\", \"PUT\"]"),
        named("write", "path = \"/v1\"\nmethods = [\"POST\"]\nheaders = { x-beta = true }"),
        named("all", "path = \"/\""),
    ];
    let gate = gate("methods", &config.concat());
    let refused = |headers: &str| {
        let answer = ask(gate.address, "DELETE /v1/x", headers);
        assert!(answer.body.contains("\"route.method-not-allowed\""), "{}", answer.body);
        assert_eq!(answer.status, 405);
        let mut methods: Vec<String> = answer.header("allow").split(", ").map(str::to_owned).collect();
        methods.sort();
        methods.join(" ")
    };
    assert_eq!(refused(""), "get head put");
    assert_eq!(refused("X-Beta: 1\r\n"), "get head post put");
    let head = {
        let mut stream = connect(gate.address);
        stream.write_all(b"HEAD /v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut all = String::new();
        std::io::Read::read_to_string(&mut stream, &mut all).unwrap();
        all
    };
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(ask(gate.address, "DELETE /v2", "").body, "all");
}

#[test]
fn a_split_gives_its_shares_and_each_tenant_stays_where_it_is() {
    let [first, second] = ["first", "second"].map(|name| Origin::start(|_| Reply::Status(200, name.into())));
    let config = |weights: [u32; 2]| {
        format!(
            "[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n[upstream.first]\nendpoints = [\"{}\"]\n\
             [upstream.second]\nendpoints = [\"{}\"]\n[[route]]\nname = \"split\"\n\
             to = [{{ upstream = \"first\", weight = {} }}, {{ upstream = \"second\", weight = {} }}]\n",
            first.address, second.address, weights[0], weights[1]
        )
    };
    let gate = Gate::start_listening(BINARY, "split", TRUSTING, &config([4, 1]));
    let places = || -> Vec<String> {
        let mut stream = connect(gate.address);
        (0..400).map(|n| ask_on(&mut stream, "GET /", &format!("X-Tenant: t{n}\r\n")).body).collect()
    };
    let before = places();
    let share = |places: &[String]| places.iter().filter(|place| *place == "second").count();
    assert!((50..=115).contains(&share(&before)), "a fifth of 400, not {}", share(&before));
    assert_eq!(before, places(), "each tenant stays");
    gate.rewrite(&config([4, 4]));
    gate.reload();
    let after = places();
    assert!((150..=250).contains(&share(&after)), "half of 400, not {}", share(&after));
    let back = before.iter().zip(&after).filter(|(was, is)| *was == "second" && *is == "first").count();
    assert_eq!(back, 0, "who is on the canary stays on it while it grows");
}

#[test]
fn redirects_and_fixed_responses_need_no_upstream() {
    let config = "[[route]]\nname = \"short\"\npath = \"/old\"\nredirect = \"https://new.example.com{path}\"\n\
         [[route]]\nname = \"long\"\npath = \"/found\"\nredirect = { to = \"https://{host}/x\", status = 302 }\n\
         [[route]]\nname = \"open\"\npath = \"/\"\nredirect = { to = \"{path}\", status = 307 }\n\
         [[route]]\nname = \"fixed\"\npath = \"= /teapot\"\n\
         respond = { status = 418, headers = { x-made-by = \"hand\" }, body = \"short and stout\" }\n";
    let gate = gate("redirects", config);
    let check = |line: &str, status: u16, location: &str| {
        let answer = ask(gate.address, line, "");
        assert_eq!((answer.status, answer.header("location")), (status, location), "{line}");
    };
    check("GET /old/a?b=%20c", 308, "https://new.example.com/old/a?b=%20c");
    check("POST /found", 302, "https://test/x");
    check("GET //evil.example/", 307, "/evil.example/");
    let teapot = ask(gate.address, "GET /teapot", "");
    assert_eq!((teapot.status, teapot.header("x-made-by")), (418, "hand"));
    assert_eq!(teapot.body, "short and stout");
}

#[test]
fn paths_are_rewritten_and_headers_changed_in_both_directions() {
    let origin = Origin::scripted(|visit| {
        visit.say(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret\r\nX-Kept: 1\r\nX-Set: old\r\nX-Added: a\r\n\
             Connection: Hop\r\nHop: gone\r\nKeep-Alive: timeout=5\r\n\r\nok",
        )
    });
    let route = "path = \"/v1\"\nrewrite = \"/api\"\n\
         request_headers = { remove = [\"cookie\"], set = { x-set = \"new\", x-forwarded-host = \"fixed\" }, add = { x-added = [\"b\", \"c\"] } }\n\
         response_headers = { remove = [\"server\"], set = { x-set = \"new\" }, add = { x-added = \"b\" } }";
    let gate = gate("changes", &app(&[origin.address], "", route));
    let sent = "Cookie: a=b\r\nX-Set: old\r\nX-Set: older\r\nX-Added: a\r\nConnection: Hop\r\nHop: gone\r\n";
    let answer = ask(gate.address, "GET /v1/a%20b?c=/v1", sent);
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    let asked = origin.recorded()[0].head.to_ascii_lowercase();
    assert!(asked.starts_with("get /api/a%20b?c=/v1 http/1.1\r\n"), "{asked}");
    let lines = |head: &str, name: &str| -> Vec<String> {
        head.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    };
    assert_eq!(lines(&asked, "x-set"), ["x-set: new"]);
    assert_eq!(lines(&asked, "x-added"), ["x-added: a", "x-added: b", "x-added: c"]);
    assert_eq!(lines(&asked, "x-forwarded-host"), ["x-forwarded-host: fixed"]);
    assert_eq!(lines(&asked, "cookie").len() + lines(&asked, "hop").len(), 0, "{asked}");
    assert_eq!(lines(&answer.head, "x-set"), ["x-set: new"]);
    assert_eq!(lines(&answer.head, "x-added"), ["x-added: a", "x-added: b"]);
    assert_eq!(lines(&answer.head, "x-kept"), ["x-kept: 1"]);
    for gone in ["server", "hop", "keep-alive"] {
        assert_eq!(lines(&answer.head, gone).len(), 0, "{gone}: {}", answer.head);
    }
}

#[test]
fn a_trusted_proxy_tells_the_clients_address_and_nobody_else_does() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let forged = "X-Forwarded-For: 9.9.9.9, 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
         Forwarded: for=9.9.9.9\r\nTidegate-Tenant: forged\r\ntidegate_tenant: forged\r\nTidegate-Anything: x\r\n\
         X-Forwarded_For: 9.9.9.9\r\n";
    let check = |name: &str, listen: &str, headers: &str, there: &[&str], gone: &[&str]| {
        let config = app(&[origin.address], "", "");
        let gate = Gate::start_listening(BINARY, name, listen, &config);
        assert_eq!(ask(gate.address, "GET /", headers).status, 200);
        let head = origin.recorded().pop().unwrap().head.to_ascii_lowercase();
        for line in there {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        for text in gone {
            assert!(!head.contains(text), "{text} in {head}");
        }
    };
    let own = "tidegate-tenant: anonymous";
    let plain = "http = [\"127.0.0.1:0\"]";
    check(
        "untrusted",
        plain,
        forged,
        &[
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: test",
            "forwarded: for=127.0.0.1;proto=http;host=test",
            own,
        ],
        &["9.9.9.9", "evil", "forged", "tidegate-anything", "https"],
    );
    check(
        "trusted",
        TRUSTING,
        forged,
        &[
            "x-forwarded-for: 9.9.9.9, 198.51.100.7, 127.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: evil",
            own,
        ],
        &["forged", "tidegate-anything"],
    );
}

#[test]
fn lists_of_addresses_go_by_the_clients_real_address() {
    let route = "path = \"/\"\nallow = [\"198.51.100.0/24\", \"2001:db8::/32\"]\ndeny = [\"198.51.100.66\"]";
    let config = named("lists", route);
    let check = |gate: &Gate, headers: &str, status: u16| {
        let answer = ask(gate.address, "GET /", headers);
        assert_eq!(answer.status, status, "{headers}");
        assert_eq!(answer.body.contains("route.address-denied"), status == 403, "{}", answer.body);
    };
    let trusting = Gate::start_listening(BINARY, "lists", TRUSTING, &config);
    check(&trusting, "X-Forwarded-For: 198.51.100.7\r\n", 200);
    check(&trusting, "X-Forwarded-For: ::ffff:198.51.100.7\r\n", 200);
    check(&trusting, "X-Forwarded-For: 198.51.100.66\r\n", 403);
    check(&trusting, "X-Forwarded-For: 198.51.100.7, 203.0.113.1\r\n", 403);
    check(&trusting, "X-Forwarded-For: 203.0.113.1, 198.51.100.7, 127.0.0.9\r\n", 200);
    check(&trusting, "X-Forwarded-For: 198.51.100.7, what\r\n", 403);
    check(&trusting, "Forwarded: for=192.0.2.1, for=\"[2001:db8::1]:80\";proto=https\r\n", 200);
    check(&trusting, "", 403);
    // Nobody is trusted: what the client writes about itself means nothing.
    let untrusting = gate("lists-untrusting", &config);
    check(&untrusting, "X-Forwarded-For: 198.51.100.7\r\nForwarded: for=198.51.100.7\r\n", 403);
}
