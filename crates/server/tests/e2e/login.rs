//! Logins of browsers by a provider that speaks OpenID Connect over real sockets: what they come to, and what is tried against them.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use tidegate_testkit::oidc::{Browser, CLIENT, Mood, OpenIdProvider, Signed};
use tidegate_testkit::{
    Gate, Origin, Reply, block_on, connect, h2_connect, h2_read, read_answer_or_end, until,
};

use crate::{control, gate};

const SESSION: &str = "__Host-tidegate-main";
const SECRET: &str = "\"0123456789abcdef0123456789abcdef\"";

fn app() -> Origin {
    Origin::start(|_| Reply::Status(200, "in".into()))
}

/// A configuration with a login, and with a route that has it.
fn config(provider: &OpenIdProvider, app: &Origin, oidc: &str, route: &str) -> String {
    let (client, secret) = CLIENT;
    format!(
        "workers = 1\n[upstream.app]\nendpoints = [\"{}\"]\n[oidc.main]\nissuer = \"{}\"\nclient_id = \"{client}\"\n\
         client_secret = \"{secret}\"\nsecret = {SECRET}\n{oidc}\n[[route]]\nname = \"all\"\nupstream = \"app\"\n\
         login = \"main\"\ndeadline = \"20s\"\n{route}\n",
        app.address,
        provider.issuer()
    )
}

fn protected(name: &str, provider: &OpenIdProvider, app: &Origin, oidc: &str, route: &str) -> Gate {
    let gate = gate(name, &config(provider, app, oidc, route));
    until("the provider is known", || Browser::default().open(gate.address, "/").status == 302);
    gate
}

fn last_head(app: &Origin) -> String {
    app.recorded().last().map(|one| one.head.to_ascii_lowercase()).unwrap_or_default()
}

const TOLD: &str =
    "tenant_claim = \"org\"\nheaders = { x-user = \"sub\", x-groups = \"groups\", remote-user = \"sub\" }";

#[test]
fn a_browser_logs_in_and_the_application_is_told_who_it_is() {
    let (provider, app) = (OpenIdProvider::start(), app());
    provider.says(json!({"org": "acme", "groups": ["a", "b"]}));
    let open = "[[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"app\"\nlogin = false";
    let gate = protected("login", &provider, &app, TOLD, open);
    let mut browser = Browser::default();
    let back = browser.log_in(&provider, gate.address, "/page?x=1");
    assert_eq!((back.status, back.header("location")), (302, "/page?x=1"), "{}\n{}", back.head, back.body);
    assert_eq!((back.header("cache-control"), back.header("referrer-policy")), ("no-store", "no-referrer"));
    assert!(browser.jar.keys().all(|name| !name.contains("-login-")), "the pending login is forgotten");
    let page = browser.ask(
        gate.address,
        "GET /page?x=1",
        "Cookie: own=1\r\nX-User: root\r\nX_Groups: all\r\nConnection: Remote-User\r\n",
        "",
    );
    assert_eq!((page.status, page.body.as_str()), (200, "in"), "{}", page.head);
    let head = last_head(&app);
    for line in ["x-user: u1", "remote-user: u1", "x-groups: a,b", "tidegate-tenant: acme", "cookie: own=1"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(!head.contains("root") && !head.contains("__host-") && !head.contains("x_groups"), "{head}");
    assert_eq!(browser.open(gate.address, "/open").status, 200);
    let head = last_head(&app);
    assert!(!head.contains("__host-") && !head.contains("x-user"), "no cookie of ours goes anywhere: {head}");
    // Told by log, metrics and explanation.
    let id = page.header("x-request-id").to_owned();
    until("it is explained", || control(&gate, &format!("/explain/{id}")).contains("login `main`: session"));
    until("it is counted", || {
        gate.metric("tidegate_logins_total{login=\"main\",outcome=\"logged-in\"}") == Some(1.0)
            && gate.metric("tidegate_login_provider_up{login=\"main\"}") == Some(1.0)
    });

    for fields in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "",
        "Origin: https://evil.example\r\n",
    ] {
        let refused = browser.ask(gate.address, "GET /_tidegate/oidc/main/logout", fields, "");
        assert_eq!(refused.status, 400, "{fields}");
    }
    assert_eq!(browser.open(gate.address, "/page").status, 200, "who is lured stays logged in");
    let out =
        browser.ask(gate.address, "GET /_tidegate/oidc/main/logout", "Sec-Fetch-Site: same-origin\r\n", "");
    let location = out.header("location").strip_prefix(&provider.issuer()).unwrap().to_owned();
    assert!(
        location.starts_with("/end?client_id=gate&post_logout_redirect_uri=http%3A%2F%2F127"),
        "{location}"
    );
    assert!(!browser.jar.contains_key(SESSION));
    Browser::default().open(provider.origin.address, &location);
    assert!(provider.ended()[0]["id_token_hint"].starts_with("ey"), "{:?}", provider.ended());
    assert_eq!(browser.open(gate.address, "/").status, 302);
    let own = format!("Origin: http://{}\r\nContent-Length: 0\r\n", gate.address);
    assert_eq!(browser.ask(gate.address, "POST /_tidegate/oidc/main/logout", &own, "").status, 302);
}

#[test]
fn what_is_no_page_is_told_401_and_goes_nowhere() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-401", &provider, &app, "", "");
    let mut browser = Browser::default();
    for (line, fields) in [
        ("GET /", "Accept: application/json\r\n"),
        ("POST /", "Accept: text/html\r\nContent-Length: 0\r\n"),
        ("GET /", "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n"),
        ("GET /", "Accept: text/html\r\nX-Requested-With: XMLHttpRequest\r\n"),
        ("GET /", "Accept: text/html\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"),
    ] {
        let answer = browser.ask(gate.address, line, fields, "");
        assert_eq!(answer.status, 401, "{line} {fields} {}", answer.head);
        assert_eq!(answer.header("www-authenticate"), "Session", "{fields}");
    }
    let answer = browser.ask(gate.address, "GET /", "Accept: application/json\r\n", "");
    assert!(answer.body.contains("login.required"), "{}", answer.body);
    assert!(browser.jar.is_empty() && app.recorded().is_empty());
    for (line, status) in [
        ("GET /_tidegate/oidc/none/callback", 404),
        ("GET /_tidegate/oidc/main/x", 404),
        ("POST /_tidegate/oidc/main/callback", 405),
        ("PUT /_tidegate/oidc/main/logout", 405),
    ] {
        assert_eq!(browser.ask(gate.address, line, "Content-Length: 0\r\n", "").status, status, "{line}");
    }
}

#[test]
fn a_session_that_was_changed_is_none_and_secrets_are_replaced_without_ending_any() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-forged", &provider, &app, "", "");
    let mut browser = Browser::default();
    browser.log_in(&provider, gate.address, "/");
    assert_eq!(browser.open(gate.address, "/").status, 200);
    let value = &browser.jar[SESSION];
    for at in [2, 10, value.len() / 2, value.len() - 1] {
        let mut forged = browser.clone();
        let other = if value.as_bytes()[at] == b'A' { "B" } else { "A" };
        forged.jar.get_mut(SESSION).unwrap().replace_range(at..=at, other);
        assert_eq!(forged.open(gate.address, "/").status, 302, "{at}");
    }
    // What was sealed for one purpose is nothing in the place of another.
    let mut pending = Browser::default();
    pending.open(gate.address, "/");
    let (_, sealed) = pending.jar.pop_first().unwrap();
    pending.jar.insert(SESSION.to_owned(), sealed);
    assert_eq!(pending.open(gate.address, "/").status, 302);
    // Another node with the same secret knows the session.
    let other = protected("login-node", &provider, &app, "", "");
    assert_eq!(browser.clone().open(other.address, "/").status, 200);
    // Another secret in its place opens nothing; beside it, all that was.
    let config = config(&provider, &app, "", "");
    let new = "\"fedcba9876543210fedcba9876543210\"";
    gate.rewrite(&config.replace(SECRET, &format!("[{new}, {SECRET}]")));
    gate.reload();
    assert_eq!(browser.open(gate.address, "/").status, 200);
    gate.rewrite(&config.replace(SECRET, new));
    gate.reload();
    assert_eq!(browser.open(gate.address, "/").status, 302);
}

#[test]
fn a_callback_is_taken_once_of_the_browser_that_began_and_of_the_provider_that_was_asked() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-callback", &provider, &app, "[tenants]\nfailures = \"1000/s\"", "");
    let mut browser = Browser::default();
    let sent = browser.open(gate.address, "/a");
    assert_eq!(sent.header("cache-control"), "no-store");
    let callback = browser.at(&provider, gate.address, &sent);
    let other = Browser::default().open(gate.address, &callback);
    assert!(other.status == 400 && other.body.contains("login.invalid"), "another browser: {}", other.body);
    // Another browser that has a login of its own under way.
    let mut other = Browser::default();
    other.open(gate.address, "/b");
    assert_eq!(other.open(gate.address, &callback).status, 400);
    for (from, to, status) in [
        ("state=", "state=x", 400),
        ("iss=", "iss=x", 400),
        ("iss=", "was=", 400),
        ("code=", "code=other", 400),
        ("code=", "error=access_denied&x=", 403),
        ("code=", "error=temporarily_unavailable&x=", 503),
        ("code=", "error=invalid_scope&x=", 400),
    ] {
        let mut copy = browser.clone();
        let answer = copy.open(gate.address, &callback.replace(from, to));
        assert_eq!(answer.status, status, "{to}: {}", answer.body);
        assert!(!copy.jar.contains_key(SESSION), "{to}");
    }
    assert_eq!(browser.clone().open(gate.address, &callback).status, 302);
    let again = browser.open(gate.address, &callback);
    assert_eq!(again.status, 400, "a code is good once");
    assert!(!browser.jar.contains_key(SESSION));
}

#[test]
fn an_id_token_of_another_login_client_issuer_time_or_key_is_none() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-tokens", &provider, &app, "[tenants]\nfailures = \"1000/s\"", "");
    let refused = |what: &str| {
        let mut browser = Browser::default();
        let answer = browser.log_in(&provider, gate.address, "/");
        assert_eq!(answer.status, 400, "{what}: {}", answer.head);
        assert!(answer.body.contains("login.invalid"), "{what}");
        assert!(!browser.jar.contains_key(SESSION), "{what}");
    };
    for wrong in [
        json!({"nonce": "other"}),
        json!({"nonce": null}),
        json!({"aud": "other"}),
        json!({"aud": ["gate", "other"]}),
        json!({"azp": "other"}),
        json!({"iss": "https://other.example"}),
        json!({"exp": 1_600_000_000}),
        json!({"iat": 4_000_000_000_u64}),
        json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
        json!({"sub": ""}),
    ] {
        provider.says(wrong.clone());
        refused(&wrong.to_string());
    }
    provider.says(json!({}));
    for wrong in [Signed::Nothing, Signed::PublicKey, Signed::Strange] {
        provider.signs(wrong);
        refused(&format!("{wrong:?}"));
    }
    provider.signs(Signed::Well);
    assert!(app.recorded().is_empty());
    // A key that nobody has heard of yet is looked for, and the login waits for it.
    provider.rotate();
    assert_eq!(Browser::default().log_in(&provider, gate.address, "/").status, 302);
}

#[test]
fn claims_may_be_required_of_all_logins_and_of_a_route() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let admin = "[[route]]\nname = \"admin\"\npath = \"/admin\"\nupstream = \"app\"\n\
                 login = { by = \"main\", require = { role = [\"admin\"] } }";
    let gate = protected("login-require", &provider, &app, "require = { groups = [\"ops\"] }", admin);
    provider.says(json!({"groups": ["dev"]}));
    let mut browser = Browser::default();
    let answer = browser.log_in(&provider, gate.address, "/");
    assert_eq!((answer.status, answer.body.contains("login.forbidden")), (403, true));
    provider.says(json!({"groups": ["dev", "ops"], "role": "user"}));
    assert_eq!(browser.log_in(&provider, gate.address, "/").status, 302);
    assert_eq!(browser.open(gate.address, "/").status, 200);
    let answer = browser.open(gate.address, "/admin/x");
    assert_eq!((answer.status, answer.body.contains("login.forbidden")), (403, true));
    provider.says(json!({"groups": "ops", "role": ["admin", "user"]}));
    let mut admin = Browser::default();
    assert_eq!(admin.log_in(&provider, gate.address, "/admin").status, 302);
    assert_eq!(admin.open(gate.address, "/admin").status, 200);
    // Without a tenant where one is to be said, nobody is anybody.
    let gate = protected("login-tenant", &provider, &app, "tenant_claim = \"org\"", "");
    for (org, status) in [(Value::Null, 403), (json!("no tenant's id"), 403), (json!("acme"), 200)] {
        provider.says(json!({ "org": org }));
        let mut browser = Browser::default();
        browser.log_in(&provider, gate.address, "/");
        assert_eq!(browser.open(gate.address, "/").status, status, "{org}");
    }
}

#[test]
fn tokens_that_have_run_out_are_asked_for_anew_once_and_a_session_that_the_provider_ended_has_ended() {
    let (provider, app) = (OpenIdProvider::start(), app());
    provider.lasts(1);
    let gate = protected("login-refresh", &provider, &app, "headers = { x-level = \"level\" }", "");
    let mut browser = Browser::default();
    browser.log_in(&provider, gate.address, "/");
    // From now on tokens last, so that what was asked for anew is not asked for again.
    provider.lasts(3600);
    provider.says(json!({"level": 2}));
    until("the tokens have run out", || {
        let all: Vec<_> = std::thread::scope(|scope| {
            let ask = |_| scope.spawn(|| browser.clone().open(gate.address, "/").status);
            (0..4).map(ask).collect::<Vec<_>>().into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(all.iter().all(|status| *status == 200), "{all:?}");
        provider.refreshed() > 0
    });
    let page = browser.open(gate.address, "/");
    assert_eq!(
        (page.status, page.header("cache-control")),
        (200, "no-store"),
        "it brings a session of its own"
    );
    assert_eq!(provider.refreshed(), 1, "by whoever came first alone");
    assert!(provider.refused().is_empty(), "{:?}", provider.refused());
    assert!(last_head(&app).contains("x-level: 2"));
    // One whose provider will not go on with it.
    provider.lasts(1);
    let mut ended = Browser::default();
    ended.log_in(&provider, gate.address, "/");
    provider.revoke();
    until("its tokens have run out", || ended.open(gate.address, "/").status == 302);
    until("it is counted", || {
        gate.metric("tidegate_logins_total{login=\"main\",outcome=\"ended\"}")
            .is_some_and(|count| count >= 1.0)
    });
}

#[test]
fn a_session_lasts_as_long_as_is_said_and_not_a_second_longer() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-ends", &provider, &app, "session = \"2s\"", "");
    let mut browser = Browser::default();
    browser.log_in(&provider, gate.address, "/");
    let kept = browser.clone();
    until("it has ended", || kept.clone().open(gate.address, "/").status == 302);
    assert_eq!(provider.refreshed(), 0);
}

#[test]
fn a_provider_that_is_away_or_confused_ends_no_session_and_lets_nobody_in() {
    let (provider, app) = (OpenIdProvider::start(), app());
    provider.lasts(1);
    let gate = protected("login-away", &provider, &app, "", "");
    let mut browser = Browser::default();
    browser.log_in(&provider, gate.address, "/");
    for mood in [Mood::Broken, Mood::Confused] {
        let mut other = Browser::default();
        let sent = other.open(gate.address, "/");
        provider.be(Mood::Willing);
        let callback = other.at(&provider, gate.address, &sent);
        provider.be(mood);
        let answer = other.open(gate.address, &callback);
        assert_eq!((answer.status, answer.body.contains("login.unavailable")), (503, true), "{mood:?}");
        assert!(!answer.header("retry-after").is_empty() && !other.jar.contains_key(SESSION));
    }
    // The tokens of the session that there is run out: it goes on for a while all the same, whatever the provider does.
    let kept = || gate.metric("tidegate_logins_total{login=\"main\",outcome=\"kept\"}").unwrap_or_default();
    until("it is kept", || {
        assert_eq!(browser.open(gate.address, "/").status, 200);
        kept() > 0.0
    });
    provider.be(Mood::Willing);
    until("it is asked again", || {
        assert_eq!(browser.open(gate.address, "/").status, 200);
        provider.refreshed() > 0
    });
    // One that was never heard of.
    provider.be(Mood::Confused);
    let config = config(&provider, &app, "", "");
    let cold = crate::gate("login-cold", &config);
    let answer = Browser::default().open(cold.address, "/");
    assert_eq!((answer.status, answer.body.contains("login.unavailable")), (503, true), "{}", answer.body);
    until("it is told", || cold.metric("tidegate_login_provider_up{login=\"main\"}") == Some(0.0));
    provider.be(Mood::Willing);
    until("it is heard of", || Browser::default().open(cold.address, "/").status == 302);
    // One that says nothing at all is not waited for as long as it takes.
    provider.be(Mood::Silent);
    let before = kept();
    until("it is kept again", || {
        assert_eq!(browser.open(gate.address, "/").status, 200);
        kept() > before
    });
}

#[test]
fn nobody_is_sent_to_another_origin_and_pages_may_send_to_log_in() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-return", &provider, &app, "", "");
    for (wanted, goes) in [
        ("/a%3Fb%3D1", "/a?b=1"),
        ("//evil.example", "/"),
        ("%2F%2Fevil.example", "/"),
        ("/%5Cevil.example", "/"),
        ("https://evil.example/", "/"),
        ("/a%0D%0ASet-Cookie:%20x=1", "/"),
        ("/%09/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ] {
        let mut browser = Browser::default();
        let back = browser.log_in(
            &provider,
            gate.address,
            &format!("/_tidegate/oidc/main/login?return_to={wanted}"),
        );
        assert_eq!((back.status, back.header("location")), (302, goes), "{wanted}");
    }
    let mut browser = Browser::default();
    assert_eq!(browser.log_in(&provider, gate.address, "//evil.example/x").header("location"), "/");
}

#[test]
fn logins_of_parallel_tabs_work_and_are_bounded_and_nobody_is_sent_in_a_circle() {
    let (provider, app) = (OpenIdProvider::start(), app());
    let gate = protected("login-tabs", &provider, &app, "", "");
    let mut browser = Browser::default();
    let tabs: Vec<String> = (0..4)
        .map(|tab| {
            let sent = browser.open(gate.address, &format!("/tab{tab}"));
            browser.at(&provider, gate.address, &sent)
        })
        .collect();
    for (tab, callback) in tabs.iter().enumerate().rev() {
        let back = browser.open(gate.address, callback);
        assert_eq!((back.status, back.header("location")), (302, format!("/tab{tab}").as_str()));
    }
    let mut many = Browser::default();
    let long = "x".repeat(1500);
    for tab in 0..12 {
        assert_eq!(many.open(gate.address, &format!("/tab{tab}/{long}")).status, 302);
        assert!(many.jar.len() <= 5 && many.cookies().len() < 8 * 1024, "{}", many.cookies().len());
    }
    // A browser that loses its session is not sent round and round.
    let mut lossy = Browser::default();
    for _ in 0..5 {
        assert_eq!(lossy.log_in(&provider, gate.address, "/").status, 302);
        lossy.jar.remove(SESSION).unwrap();
    }
    let answer = lossy.open(gate.address, "/");
    assert_eq!((answer.status, answer.body.contains("login.invalid")), (400, true), "{}", answer.body);
}

#[test]
fn what_is_cached_is_for_those_who_are_logged_in_and_for_each_his_own() {
    let provider = OpenIdProvider::start();
    let app = Origin::scripted(|visit| {
        let user = visit.field("x-user").unwrap_or_default();
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {}\r\n\r\n{user}",
            user.len()
        ))
    });
    let gate = protected("login-cache", &provider, &app, "headers = { x-user = \"sub\" }", "cache = {}");
    let mut browsers = Vec::new();
    for user in ["ada", "bob"] {
        provider.says(json!({ "sub": user }));
        let mut browser = Browser::default();
        browser.log_in(&provider, gate.address, "/");
        browsers.push((user, browser));
    }
    for _ in 0..2 {
        for (user, browser) in &mut browsers {
            assert_eq!(browser.open(gate.address, "/").body, *user);
        }
    }
    assert_eq!(app.recorded().len(), 2, "each once; the session's cookie is in no key");
    assert_eq!(Browser::default().open(gate.address, "/").status, 302);
    let nobody = Browser::default().ask(gate.address, "GET /", "X-User: ada\r\n", "");
    assert_eq!(nobody.status, 401);
}

#[test]
fn sessions_hold_over_http2_and_for_what_becomes_another_protocol_and_no_claim_follows_content() {
    let provider = OpenIdProvider::start();
    let (told, trailers) = std::sync::mpsc::sync_channel(8);
    let app = Origin::scripted(move |visit| {
        if visit.field("upgrade").is_some() {
            visit.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")?;
            return visit.echo();
        }
        told.send(visit.read_body()?.1).ok()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nin")
    });
    let gate = protected("login-h2", &provider, &app, "headers = { x-user = \"sub\" }", "");
    let mut browser = Browser::default();
    browser.log_in(&provider, gate.address, "/");
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        // Cookies come one by one over HTTP/2 (RFC 9113 section 8.2.3).
        let mut request =
            http::Request::get(format!("http://{}/", gate.address)).header("accept", "text/html");
        for (name, value) in &browser.jar {
            request = request.header("cookie", format!("{name}={value}"));
        }
        let request = request.header("cookie", "own=1").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(h2_read(&mut response.into_body()).await.0, b"in");
        let request = http::Request::get(format!("http://{}/", gate.address)).header("accept", "text/html");
        let response = client.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["cache-control"]),
            (302, &"no-store".parse().unwrap())
        );
        assert!(
            response.headers()["set-cookie"].to_str().unwrap().starts_with("__Host-tidegate-main-login-")
        );
    });
    trailers.recv().unwrap();
    let head = last_head(&app);
    assert!(head.contains("\r\ncookie: own=1\r\n") && head.contains("x-user: u1"), "{head}");
    let chunked = "Trailer: X-User, X-Check\r\nTransfer-Encoding: chunked\r\n";
    let content = "1\r\na\r\n0\r\nX-User: root\r\nX-Check: 7\r\n\r\n";
    assert_eq!(browser.ask(gate.address, "POST /", chunked, content).status, 200);
    let followed: Vec<String> =
        trailers.recv().unwrap().iter().map(|line| line.to_ascii_lowercase()).collect();
    assert_eq!(followed, ["x-check: 7"]);
    let mut stream = connect(gate.address);
    let upgrade = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\nCookie: {}\r\n\r\n",
        browser.cookies()
    );
    stream.write_all(upgrade.as_bytes()).unwrap();
    let head = String::from_utf8(read_answer_or_end(&mut stream)).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"ping").unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"ping");
}

#[test]
fn a_login_that_cannot_work_is_told_before_it_is_tried() {
    for (oidc, route, expected) in [
        ("issuer = \"http://id.example\"", "login = \"main\"", "an issuer is a URL with https"),
        ("secret = \"short\"", "login = \"main\"", "at least 32 bytes"),
        ("scopes = [\"email\"]", "login = \"main\"", "`openid`"),
        ("origin = \"https://a.example/x\"", "login = \"main\"", "without a path"),
        ("headers = { host = \"sub\" }", "login = \"main\"", "Tidegate's to write"),
        ("session = \"0s\"", "login = \"main\"", "at least a second"),
        ("require = { groups = [] }", "login = \"main\"", "nobody may use it"),
        ("", "login = \"other\"", "there is no oidc `other`"),
        ("", "login = true", "by whose logins?"),
        ("", "login = { by = \"main\", requires = {} }", "requires"),
        ("", "login = \"main\"\nbasic = { users = [{ name = \"a\", hash = \"b\" }] }", "not for both"),
    ] {
        let mut lines = vec![
            "issuer = \"https://id.example\"".to_owned(),
            "client_id = \"gate\"".to_owned(),
            format!("secret = {SECRET}"),
        ];
        if let Some((key, _)) = oidc.split_once(" = ") {
            lines.retain(|line| !line.starts_with(&format!("{key} = ")));
            lines.push(oidc.to_owned());
        }
        let config = format!(
            "[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[oidc.main]\n{}\n[[route]]\npath = \"/\"\nupstream = \"app\"\n{route}\n",
            lines.join("\n")
        );
        let file = Gate::folder("login-check").join("tidegate.toml");
        std::fs::write(&file, config).unwrap();
        let said =
            std::process::Command::new(crate::BINARY).args(["check", "-c"]).arg(&file).output().unwrap();
        let text =
            String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
        assert_eq!(said.status.code(), Some(2), "{oidc} {route}: {text}");
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let _ = std::fs::remove_dir_all(Gate::folder("login-check"));
}
