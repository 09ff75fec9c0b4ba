//! A service that is asked which requests may go on: yes, no, for how long that counts, and what becomes of requests when it
//! fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tidegate_testkit::{Answer, Gate, Origin, Reply, ask, h2_connect, send, until};

use crate::{control, gate};

/// An authorizer that lets the token `good` in as `me`, keeps `out` out, sends `nobody` to a login, and fails at `broken`.
fn authorizer(cache: &'static str) -> Origin {
    Origin::scripted(move |visit| {
        let token = visit.field("authorization").unwrap_or_default();
        let answer = match token.trim_start_matches("bearer ") {
            "good" => format!("200 OK\r\nX-User: me\r\nX-Secret: s\r\nSet-Cookie: seen=1\r\n{cache}Content-Length: 0\r\n\r\n"),
            "cached" => format!("204 No Content\r\nX-User: cached\r\n{cache}\r\n"),
            "out" => format!("403 Forbidden\r\nX-Why: banned\r\n{cache}Content-Length: 5\r\n\r\ngo on"),
            "" => "302 Found\r\nLocation: https://login.example/\r\nSet-Cookie: try=1\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "large" => format!("403 Forbidden\r\nContent-Length: {}\r\n\r\n{}", 100_000, "x".repeat(100_000)),
            _ => "500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        visit.say(format!("HTTP/1.1 {answer}"))
    })
}

/// An application that is protected by this authorizer, as the route says further.
fn protected(name: &str, auth: &Origin, app: &Origin, authorize: &str, route: &str) -> Gate {
    gate(
        name,
        &format!(
            "workers = 1\n[upstream.auth]\nendpoints = [\"{}\"]\n[upstream.app]\nendpoints = [\"{}\"]\n\
             [defaults.route]\ndeadline = \"20s\"\n[[route]]\nname = \"all\"\nupstream = \"app\"\n{route}\n\
             [route.authorize]\nupstream = \"auth\"\npath = \"/check?x=1\"\ntimeout = \"20s\"\n{authorize}\n",
            auth.address, app.address
        ),
    )
}

fn app() -> Origin {
    Origin::start(|_| Reply::Status(200, "in".into()))
}

fn with(gate: &Gate, token: &str, fields: &str) -> Answer {
    ask(gate.address, "GET /a?b=c", &format!("Authorization: Bearer {token}\r\n{fields}"))
}

#[test]
fn yes_goes_on_with_what_is_said_beside_it_and_no_is_what_the_client_gets() {
    let (auth, app) = (authorizer(""), app());
    let gate =
        protected("authorize", &auth, &app, "to_upstream = [\"x-user\"]\nto_client = [\"set-cookie\"]", "");
    let yes = with(&gate, "good", "X-User: root\r\nX_User: root\r\nX-Other: o\r\n");
    assert_eq!((yes.status, yes.body.as_str()), (200, "in"));
    assert_eq!((yes.header("set-cookie"), yes.header("cache-control")), ("seen=1", "no-store"));
    assert!(!yes.head.contains("x-secret"), "{}", yes.head);
    let asked = auth.recorded()[0].head.to_ascii_lowercase();
    for line in [
        "get /check?x=1 http/1.1",
        "host: test",
        "authorization: bearer good",
        "x-forwarded-method: get",
        "x-forwarded-uri: /a?b=c",
        "x-forwarded-for: 127.0.0.1",
        "tidegate-tenant: anonymous",
    ] {
        assert!(asked.contains(line), "{line}: {asked}");
    }
    assert!(
        !asked.contains("x-other") && !asked.contains("x-user"),
        "it is told what it is to be told: {asked}"
    );
    let forwarded = app.recorded()[0].head.to_ascii_lowercase();
    assert!(forwarded.contains("\r\nx-user: me\r\n") && forwarded.contains("x-other: o"), "{forwarded}");
    assert!(!forwarded.contains("root"), "none of a client passes: {forwarded}");

    let no = with(&gate, "out", "");
    assert_eq!((no.status, no.body.as_str(), no.header("x-why")), (403, "go on", "banned"));
    assert_eq!(no.header("cache-control"), "no-store");
    let elsewhere = ask(gate.address, "GET /", "");
    assert_eq!((elsewhere.status, elsewhere.header("location")), (302, "https://login.example/"));
    assert_eq!(elsewhere.header("set-cookie"), "try=1");
    let head = ask(gate.address, "HEAD /", "Authorization: Bearer out\r\n");
    assert_eq!((head.status, head.body.as_str()), (403, ""));
    assert_eq!(app.recorded().len(), 1);
    assert_eq!(gate.metric("tidegate_authorize_total{outcome=\"denied\"}"), Some(3.0));
}

#[test]
fn when_it_fails_nobody_is_let_in_unless_the_operator_wants_it() {
    let (auth, app) = (authorizer(""), app());
    let gate = protected("authorize-closed", &auth, &app, "to_upstream = [\"x-user\"]", "");
    for token in ["broken", "large"] {
        let answer = with(&gate, token, "");
        assert_eq!(answer.status, 503, "{token}");
        assert!(answer.body.contains("authorize.unavailable"), "{}", answer.body);
        let told = explained(&gate, &answer);
        assert!(told.contains("authorizer: failed: "), "{told}");
    }
    assert!(app.recorded().is_empty());
    drop(gate);
    let gate =
        protected("authorize-open", &auth, &app, "to_upstream = [\"x-user\"]\non_failure = \"allow\"", "");
    assert_eq!(with(&gate, "broken", "X-User: root\r\n").status, 200);
    assert!(!app.recorded()[0].head.to_ascii_lowercase().contains("x-user"), "nor is a client believed then");
    assert_eq!(with(&gate, "out", "").status, 403, "no is no");
    drop(gate);
    let away = app_that_has_stopped();
    let gate = protected("authorize-away", &away, &app, "", "");
    assert_eq!(with(&gate, "good", "").status, 503);
}

fn app_that_has_stopped() -> Origin {
    let away = app();
    away.stop();
    away
}

/// What `/explain` tells of an answer, once it is settled.
fn explained(gate: &Gate, answer: &Answer) -> String {
    let path = format!("/explain/{}", answer.header("x-request-id"));
    let mut told = String::new();
    until("the receipt is settled", || {
        told = control(gate, &path);
        told.starts_with("HTTP/1.0 200")
    });
    told
}

#[test]
fn an_answer_counts_as_long_as_it_says_for_the_same_question_alone() {
    let (auth, app) = (authorizer("Cache-Control: max-age=600\r\n"), app());
    let gate = protected("authorize-cache", &auth, &app, "to_upstream = [\"x-user\"]", "");
    let asked = || auth.recorded().len();
    for _ in 0..3 {
        assert_eq!(with(&gate, "cached", "").status, 200);
        assert_eq!(with(&gate, "out", "").status, 403);
    }
    assert_eq!(asked(), 2, "yes and no both count");
    let last = app.recorded().last().unwrap().head.to_ascii_lowercase();
    assert!(last.contains("x-user: cached"), "{last}");
    assert_eq!(with(&gate, "cached", "X-Any: thing\r\n").status, 200);
    assert_eq!(asked(), 2, "what it is not told makes no other question");
    assert_eq!(with(&gate, "cached", "Cookie: a=b\r\n").status, 200);
    assert_eq!(asked(), 3, "what it is told does");
    for other in ["PUT /a?b=c", "GET /b?b=c", "GET /a?b=d"] {
        let _ = ask(gate.address, other, "Authorization: Bearer cached\r\nContent-Length: 0\r\n");
    }
    assert_eq!(asked(), 6);
    assert_eq!(with(&gate, "good", "").status, 200);
    assert_eq!(with(&gate, "good", "").status, 200);
    assert_eq!(asked(), 8, "what sets a cookie counts once");
    gate.reload();
    assert_eq!(with(&gate, "cached", "").status, 200);
    assert_eq!(asked(), 8, "it outlives a reload");
}

#[test]
fn who_asks_the_same_at_once_waits_for_one_question() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let app = app();
    let (go, asked) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&waiting));
    let open = Arc::clone(&go);
    let auth = Origin::scripted(move |visit| {
        asked.fetch_add(1, Relaxed);
        until("it may answer", || open.load(Relaxed) > 0);
        visit.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n")
    });
    let gate = protected("authorize-once", &auth, &app, "", "");
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| with(&gate, "good", "").status)).collect();
        until("one asks", || waiting.load(Relaxed) == 1);
        until("all are there", || gate.metric("tidegate_connections") == Some(8.0));
        go.store(1, Relaxed);
        for one in all {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    assert_eq!(waiting.load(Relaxed), 1);
}

#[test]
fn nothing_is_served_or_done_before_it_has_said_yes() {
    let (auth, app) = (authorizer(""), app());
    let gate = protected(
        "authorize-before",
        &auth,
        &app,
        "to_upstream = [\"x-user\"]\nheaders = [\"authorization\"]",
        "cache = { default_ttl = \"60s\", public = true }",
    );
    let first = with(&gate, "good", "");
    assert_eq!(first.status, 200);
    assert_eq!(with(&gate, "out", "").status, 403, "though it is stored");
    // Another one's answer is another one's, as the application was told who it is.
    assert_eq!(with(&gate, "cached", "").status, 200);
    assert_eq!(app.recorded().len(), 2);
    drop(gate);
    let gate = protected("authorize-body", &auth, &app, "", "");
    let refused = ask(gate.address, "POST /", "Authorization: Bearer out\r\nContent-Length: 3\r\n");
    assert_eq!(refused.status, 403, "its content is not waited for");
}

#[test]
fn it_is_asked_of_http_2_and_of_upgrades_too() {
    let (auth, app) = (authorizer(""), Origin::start(|_| Reply::Echo));
    let gate = protected("authorize-h2", &auth, &app, "", "");
    let upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n";
    assert_eq!(with(&gate, "out", upgrade).status, 403);
    assert_eq!(with(&gate, "good", upgrade).status, 101);
    assert!(!auth.recorded()[1].head.to_ascii_lowercase().contains("upgrade"), "the question is a plain one");
    tidegate_testkit::block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request =
            http::Request::get("http://test/").header("authorization", "Bearer out").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 403);
    });
}

#[test]
fn what_only_the_authorizer_or_a_trusted_proxy_may_say_follows_no_content_of_a_client() {
    let auth = authorizer("");
    let (told, trailers) = std::sync::mpsc::sync_channel(8);
    let app = Origin::scripted(move |visit| {
        told.send(visit.read_body()?.1).ok()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nin")
    });
    let gate = protected("authorize-trailers", &auth, &app, "to_upstream = [\"x-user\"]", "");
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\nTrailer: X-User, X_User, X-Check\r\n\
                   Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-User: root\r\nX_User: root\r\nX-Check: 7\r\n\r\n";
    let answer = send(gate.address, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let followed: Vec<String> =
        trailers.recv().unwrap().iter().map(|line| line.to_ascii_lowercase()).collect();
    assert_eq!(followed, ["x-check: 7"]);

    let (told, trailers) = std::sync::mpsc::sync_channel(8);
    let app = Origin::scripted(move |visit| {
        told.send(visit.read_body()?.1).ok()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nin")
    });
    let gate = Gate::start_listening(
        crate::BINARY,
        "tenant-trailers",
        "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"10.0.0.0/8\"]",
        &format!(
            "[upstream.app]\nendpoints = [\"{}\"]\n[tenants]\nfrom = [{{ header = \"x-tenant\" }}, {{ address = \"client\" }}]\n\
             [[route]]\npath = \"/\"\nupstream = \"app\"\n",
            app.address
        ),
    );
    let request = request.replace("X-User", "X-Tenant").replace("X_User", "X_Tenant");
    let answer = send(gate.address, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let followed: Vec<String> =
        trailers.recv().unwrap().iter().map(|line| line.to_ascii_lowercase()).collect();
    assert_eq!(followed, ["x-check: 7"]);
}
