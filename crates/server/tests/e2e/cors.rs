//! What browsers are told: which origins' scripts may call an application, and to be careful with its answers.

use tidegate_testkit::{Answer, Gate, Origin, ask};

use crate::gate;

const PAGE: &str = "Origin: https://app.example.com\r\n";
const OTHER: &str = "Origin: https://evil.example\r\n";

fn behind(name: &str, app: &Origin, route: &str) -> Gate {
    gate(
        name,
        &format!(
            "workers = 1\n[upstream.app]\nendpoints = [\"{}\"]\n[tenants]\nfrom = [{{ api_key = \"bearer\" }}]\n\
             [[route]]\nname = \"all\"\nupstream = \"app\"\ndeadline = \"20s\"\n{route}\n",
            app.address
        ),
    )
}

fn app() -> Origin {
    Origin::scripted(|visit| {
        visit.say("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nX-Frame-Options: DENY\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nin")
    })
}

fn preflight(gate: &Gate, origin: &str, method: &str, headers: &str) -> Answer {
    let fields = format!(
        "{origin}Access-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: {headers}\r\n"
    );
    ask(gate.address, "OPTIONS /x", &fields)
}

#[test]
fn a_preflight_is_answered_without_credentials_and_a_refusal_can_be_read() {
    let app = app();
    let gate = behind(
        "cors",
        &app,
        "methods = [\"GET\", \"PUT\"]\ncors = { origins = [\"https://app.example.com\"], credentials = true }",
    );
    let yes = preflight(&gate, PAGE, "PUT", "content-type");
    assert_eq!(yes.status, 204, "{}", yes.head);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "get, put"),
        ("access-control-allow-headers", "content-type"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(yes.header(name), value, "{}", yes.head);
    }
    for (origin, method) in [(OTHER, "PUT"), (PAGE, "DELETE")] {
        let no = preflight(&gate, origin, method, "content-type");
        // A method that the route does not have is no request of the route at all.
        let code = if method == "PUT" { (403, "cors.denied") } else { (405, "route.method-not-allowed") };
        assert_eq!((no.status, no.body.contains(code.1)), (code.0, true), "{}", no.body);
        assert_eq!(no.header("access-control-allow-methods"), "");
    }
    let refused = ask(gate.address, "GET /x", PAGE);
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example.com");
    assert!(refused.header("access-control-expose-headers").contains("x-request-id"));
    assert_eq!(ask(gate.address, "GET /x", OTHER).header("access-control-allow-origin"), "");
    assert!(app.recorded().is_empty());
    // What is no preflight is a request as any other.
    assert_eq!(ask(gate.address, "OPTIONS /x", PAGE).status, 405);
}

#[test]
fn what_the_application_says_is_replaced_and_what_is_stored_is_for_each_origin_what_it_is_to_it() {
    let app = app();
    let gate = gate(
        "cors-cache",
        &format!(
            "workers = 1\n[upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nname = \"all\"\nupstream = \"app\"\ndeadline = \"20s\"\n\
             cache = {{}}\ncors = {{ origins = [\"https://*.example.com\"] }}\n\
             [[route]]\nname = \"kept\"\npath = \"/kept\"\nupstream = \"app\"\ndeadline = \"20s\"\ncors = {{ origins = [\"https://a.example\"], keep = true }}\n\
             [[route]]\nname = \"open\"\npath = \"/open\"\nupstream = \"app\"\ndeadline = \"20s\"\ncors = {{ origins = [\"*\"] }}\n",
            app.address
        ),
    );
    for (origin, told) in [(PAGE, "https://app.example.com"), (OTHER, ""), ("", "")] {
        let answer = ask(gate.address, "GET /x", origin);
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (200, told),
            "{}",
            answer.head
        );
        assert_eq!(answer.header("vary"), "origin");
    }
    assert_eq!(app.recorded().len(), 1, "the origin is in no key: the answer is the same");
    assert_eq!(ask(gate.address, "GET /kept", OTHER).header("access-control-allow-origin"), "*");
    let open = ask(gate.address, "GET /open", OTHER);
    assert_eq!((open.header("access-control-allow-origin"), open.header("vary")), ("*", ""));
}

#[test]
fn browsers_are_told_to_be_careful_beside_what_the_application_says() {
    let app = app();
    let gate = Gate::start_listening(
        crate::BINARY,
        "security-headers",
        "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.0/8\"]",
        &format!(
            "workers = 1\n[upstream.app]\nendpoints = [\"{}\"]\n\
             [defaults.route]\ndeadline = \"20s\"\nsecurity_headers = {{}}\n\
             [[route]]\nname = \"all\"\nupstream = \"app\"\n\
             [[route]]\nname = \"own\"\npath = \"/own\"\nupstream = \"app\"\nsecurity_headers = {{ replace = true, referrer_policy = \"no-referrer\", permissions_policy = false }}\n\
             [[route]]\nname = \"off\"\npath = \"/off\"\nupstream = \"app\"\nsecurity_headers = false\n\
             [[route]]\nname = \"denied\"\npath = \"/denied\"\nupstream = \"app\"\ndeny = [\"127.0.0.1/32\"]\n",
            app.address
        ),
    );
    let usual = ask(gate.address, "GET /", "");
    for (name, value) in [
        ("x-frame-options", "deny"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
        ("cross-origin-opener-policy", "same-origin-allow-popups"),
        ("content-security-policy", "frame-ancestors 'self'"),
        ("strict-transport-security", ""),
    ] {
        assert_eq!(usual.header(name), value, "{}", usual.head);
    }
    let tls = ask(gate.address, "GET /", "X-Forwarded-Proto: https\r\n");
    assert_eq!(tls.header("strict-transport-security"), "max-age=31536000");
    let own = ask(gate.address, "GET /own", "");
    assert_eq!((own.header("x-frame-options"), own.header("referrer-policy")), ("sameorigin", "no-referrer"));
    assert_eq!(own.header("permissions-policy"), "");
    assert_eq!(ask(gate.address, "GET /off", "").header("x-content-type-options"), "");
    let page = ask(gate.address, "GET /denied", "Accept: text/html\r\n");
    assert!(
        page.header("content-security-policy").contains("default-src 'none'"),
        "a page of ours is stricter"
    );
    assert_eq!(page.header("referrer-policy"), "strict-origin-when-cross-origin");
}
