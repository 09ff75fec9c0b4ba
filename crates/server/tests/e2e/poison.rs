//! Nobody can make the cache serve to others what he alone was meant to get, or what he made the application say: one test for
//! each class of attack that has been published.

use tidegate_testkit::{Answer, Gate, Origin, Visit, ask, connect, read_answer};

use crate::{app, gate};

/// An application whose answers tell, for a minute, what it made of the request.
fn origin(told: impl Fn(&mut Visit) -> Option<String> + Send + Sync + 'static) -> Origin {
    Origin::scripted(move |visit| {
        visit.read_body()?;
        let body = told(visit)?;
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    })
}

fn cached(name: &str, origin: &Origin) -> Gate {
    gate(name, &app(&[origin.address], "", "cache = {}"))
}

/// Sends exactly this.
fn send(gate: &Gate, request: &str) -> Answer {
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("it can be sent");
    read_answer(&mut stream)
}

/// The attacker's request is answered first; whoever asks as anybody would must get what he gets without it.
fn check(name: &str, field: &'static str, attack: &str) {
    let origin = origin(move |visit| Some(visit.field(field).unwrap_or_else(|| "nothing".to_owned())));
    let gate = cached(name, &origin);
    let clean = ask(gate.address, "GET /other", "").body;
    let _ = ask(gate.address, "GET /a", attack);
    let victim = ask(gate.address, "GET /a", "");
    assert_eq!((victim.status, &victim.body), (200, &clean), "{attack}: {}", victim.head);
}

#[test]
fn unkeyed_headers_that_name_a_host_scheme_port_or_path() {
    for (number, name) in [
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-scheme",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-server",
        "x-host",
        "x-original-url",
        "x-rewrite-url",
        "x-original-host",
    ]
    .into_iter()
    .enumerate()
    {
        check(&format!("poison-steer-{number}"), name, &format!("{name}: evil.example\r\n"));
    }
}

#[test]
fn headers_that_override_the_method() {
    for (number, name) in
        ["x-http-method-override", "x-http-method", "x-method-override"].into_iter().enumerate()
    {
        check(&format!("poison-method-{number}"), name, &format!("{name}: DELETE\r\n"));
    }
}

#[test]
fn a_port_in_the_host() {
    let origin = origin(|visit| visit.field("host"));
    let gate = cached("poison-port", &origin);
    let of = |host: &str| send(&gate, &format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(of("shop.example:1337").body, "shop.example:1337");
    let victim = of("shop.example");
    assert_eq!((&*victim.body, victim.header("cache-status").contains("hit")), ("shop.example", false));
}

#[test]
fn a_host_in_other_letters_is_the_same_and_another_one_is_not() {
    let origin = origin(|visit| visit.field("host"));
    let gate = cached("poison-host", &origin);
    let of = |host: &str| send(&gate, &format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(of("shop.example").body, "shop.example");
    assert!(of("SHOP.example").header("cache-status").contains("hit"));
    assert_eq!(of("evil.example").body, "evil.example");
    assert_eq!(of("shop.example").body, "shop.example");
}

#[test]
fn the_body_of_a_get() {
    let origin = Origin::scripted(|visit| {
        let (length, _) = visit.read_body()?;
        let body = format!("{length} bytes");
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    });
    let gate = cached("poison-fat-get", &origin);
    let fat = send(&gate, "GET /a HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nq=evil");
    assert_eq!((&*fat.body, fat.header("cache-status")), ("6 bytes", "tidegate; fwd=bypass; fwd-status=200"));
    assert_eq!(ask(gate.address, "GET /a", "").body, "0 bytes");
    let fat = send(&gate, "GET /a HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nq=evil");
    assert_eq!(fat.body, "6 bytes", "nor is it answered with what others get");
}

#[test]
fn a_header_that_only_the_application_finds_too_large_or_odd() {
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        let status = if visit.field("x-oversized").is_some() { "400 Bad Request" } else { "200 OK" };
        visit.say(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nETag: \"a\"\r\n\r\n"))
    });
    let gate = gate(
        "poison-oversize",
        &app(&[origin.address], "", "cache = { default_ttl = \"1m\", error_ttl = \"1m\" }"),
    );
    let attack = format!("X-Oversized: {}\r\n", "x".repeat(12_000));
    assert_eq!(ask(gate.address, "GET /a", &attack).status, 400);
    assert_eq!(ask(gate.address, "GET /a", "").status, 200);
    assert_eq!(
        ask(gate.address, "GET /a", "X-Oversized: \u{1}\r\n").status,
        400,
        "ours: it is not forwarded"
    );
    assert_eq!(ask(gate.address, "GET /a", "").status, 200);
}

#[test]
fn paths_that_the_application_reads_otherwise() {
    let origin = origin(|visit| Some(visit.path().to_owned()));
    let gate = cached("poison-paths", &origin);
    for (attack, path) in [
        ("/a/../admin", "/admin"),
        ("/%61", "/a"),
        ("/a%2fb", "/a/b"),
        ("/a;x=1", "/a"),
        ("/a%00", "/a"),
        ("/a%0d%0aX:1", "/a"),
        ("//a", "/a"),
        ("/a/.", "/a/"),
        ("/a?x=1%26y=2", "/a?x=1&y=2"),
        ("/a#b", "/a"),
        ("/A", "/a"),
    ] {
        let _ = ask(gate.address, &format!("GET {attack}"), "");
        let victim = ask(gate.address, &format!("GET {path}"), "");
        // What is stored for a path is what the application says to exactly that path.
        assert_eq!(victim.body, path, "{attack}");
    }
}

#[test]
fn parameters_that_count_for_the_application_alone() {
    let origin = origin(|visit| Some(visit.path().to_owned()));
    let gate = gate("poison-query", &app(&[origin.address], "", "cache = { query_ignore = [\"utm_*\"] }"));
    // Which separator the application knows is not known: what hides behind one stays a part of what is not ignored.
    for attack in ["/a?utm_x=1;callback=evil", "/a?callback=evil", "/a?utm%5Fx=1", "/a?%75tm_x=evil"] {
        let _ = ask(gate.address, &format!("GET {attack}"), "");
        assert!(!ask(gate.address, "GET /a", "").body.contains("callback"), "{attack}");
        assert!(!ask(gate.address, "GET /a", "").body.contains("evil"), "{attack}");
    }
}

#[test]
fn a_private_page_under_the_name_of_a_static_file() {
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        let who = visit.field("cookie").unwrap_or_default();
        let own = if visit.path().starts_with("/private") { "Cache-Control: private\r\n" } else { "" };
        visit.say(format!(
            "HTTP/1.1 200 OK\r\n{own}Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n{who}",
            who.len()
        ))
    });
    let gate = gate("poison-deception", &app(&[origin.address], "", "cache = { default_ttl = \"1m\" }"));
    for path in ["/account/x.css", "/account;x.js", "/account%2fx.png", "/private/x.css"] {
        let victim = ask(gate.address, &format!("GET {path}"), "Cookie: session=victim\r\n");
        assert!(victim.header("cache-status").ends_with(if path.starts_with("/private") {
            "private"
        } else {
            "cookie"
        }));
        let attacker = ask(gate.address, &format!("GET {path}"), "Cookie: session=attacker\r\n");
        assert_eq!(attacker.body, "session=attacker", "{path}");
        assert_eq!(ask(gate.address, &format!("GET {path}"), "").body, "", "{path}");
    }
}

#[test]
fn an_answer_in_an_answer() {
    // The application puts what it is asked for into a field, unescaped: it is asked nothing that could end a line.
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        let to = visit.path().to_owned();
        visit.say(format!(
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"
        ))
    });
    let gate = cached("poison-splitting", &origin);
    let attack = "/a%0d%0aContent-Length:%200%0d%0a%0d%0aHTTP/1.1%20200%20OK";
    let split = ask(gate.address, &format!("GET {attack}"), "");
    assert!(matches!(split.status, 302 | 400), "{}", split.head);
    // What an upstream sends beyond its answer is no answer to anybody else.
    let smuggling = Origin::scripted(|visit| {
        visit.read_body()?;
        let length = if visit.path() == "/attack" { 0 } else { 4 };
        let body = if length == 4 { "good" } else { "" };
        let beyond = if length == 0 {
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nevil"
        } else {
            ""
        };
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n{body}{beyond}"
        ))
    });
    let gate = cached("poison-smuggling", &smuggling);
    for number in 0..5 {
        let _ = ask(gate.address, "GET /attack", "Cache-Control: no-cache\r\n");
        assert_eq!(ask(gate.address, &format!("GET /page{number}"), "").body, "good");
    }
}

#[test]
fn two_framings_of_one_request() {
    let origin = origin(|visit| Some(visit.path().to_owned()));
    let gate = cached("poison-framing", &origin);
    let attack = "GET /a HTTP/1.1\r\nHost: test\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: test\r\n\r\n";
    assert_eq!(send(&gate, attack).status, 400);
    assert_eq!(ask(gate.address, "GET /a", "").body, "/a");
}

#[test]
fn a_tenant_that_claims_to_be_another() {
    let origin = origin(|visit| visit.field("tidegate-tenant"));
    let config = app(&[origin.address], "", "cache = { public = false }");
    let gate = gate("poison-tenant", &config);
    let own = ask(gate.address, "GET /a", "").body;
    let claimed = ask(gate.address, "GET /a", "Tidegate-Tenant: acme\r\n");
    assert_eq!(claimed.body, own);
}

#[test]
fn an_answer_that_varies_with_what_tidegate_itself_says() {
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        visit.say("HTTP/1.1 200 OK\r\nVary: Tidegate-Tenant\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n")
    });
    let gate = gate("poison-vary", &app(&[origin.address], "", "cache = { public = true }"));
    for _ in 0..2 {
        let answer = ask(gate.address, "GET /a", "");
        assert!(answer.header("cache-status").ends_with("; detail=vary-any"), "{}", answer.head);
    }
}

#[test]
fn the_content_of_a_query_that_is_framed_twice_or_means_another_method() {
    let origin = origin(|visit| Some(visit.head.split(' ').next()?.to_owned()));
    let gate = cached("poison-query", &origin);
    let twice = "QUERY /a HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd";
    assert_eq!(send(&gate, twice).status, 400);
    let both =
        "QUERY /a HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(send(&gate, both).status, 400);
    assert!(origin.recorded().is_empty());
    for (method, field) in [("QUERY", "X-HTTP-Method-Override: GET"), ("POST", "X-HTTP-Method: QUERY")] {
        let request = format!("{method} /a HTTP/1.1\r\nHost: test\r\n{field}\r\nContent-Length: 0\r\n\r\n");
        let answer = send(&gate, &request);
        assert!(!answer.header("cache-status").contains("stored"), "{}", answer.head);
        let victim = send(&gate, "QUERY /a HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((&*victim.body, ask(gate.address, "GET /a", "").body.as_str()), ("QUERY", "GET"));
    }
}
