//! What makes two requests one for the cache, besides what the RFC says: hosts that the operator declares to be one.

use serde_json::Value;
use tidegate_testkit::{Answer, Gate, Origin, until};

use crate::cache::{HIT, MISS, origin, say, status, steered_with};
use crate::upstreams::told;

const ALIASES: &str = "host_aliases = { \"www.shop.example\" = \"Shop.example\" }";

/// An application that tells how often it was asked.
fn counting() -> Origin {
    origin(|_, count| ("Cache-Control: max-age=60\r\n".to_owned(), format!("answer {count}")))
}

/// What this host answers to `acme`.
fn ask(gate: &Gate, line: &str, host: &str) -> Answer {
    use std::io::Write as _;
    let mut stream = tidegate_testkit::connect(gate.address);
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nX-Tenant: acme\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it can be sent");
    tidegate_testkit::read_answer(&mut stream)
}

fn check(gate: &Gate, host: &str, body: &str, begins: &str) {
    let answer = ask(gate, "GET /a", host);
    assert!(status(&answer).starts_with(begins), "{host}: {}", answer.head);
    assert_eq!(answer.body, body, "{host}: {}", answer.head);
}

/// Waits until this host is answered from the cache.
fn kept(gate: &Gate, host: &str) {
    until("it is kept", || status(&ask(gate, "GET /a", host)).starts_with(HIT));
}

#[test]
fn hosts_that_are_declared_one_are_answered_as_one_and_no_others_are() {
    let origin = counting();
    let gate = steered_with("aliases", &origin, ALIASES);
    check(&gate, "www.shop.example", "answer 0", MISS);
    kept(&gate, "shop.example");
    check(&gate, "WWW.SHOP.example", "answer 0", HIT);
    assert_eq!(origin.recorded().len(), 1);
    for (count, other) in ["www2.shop.example", "a.www.shop.example", "shop.example:8080"].iter().enumerate()
    {
        check(&gate, other, &format!("answer {}", count + 1), MISS);
    }
    let heard = origin.recorded()[0].head.to_ascii_lowercase();
    assert!(heard.contains("\r\nhost: www.shop.example\r\n"), "the application hears the client's: {heard}");
}

#[test]
fn what_is_one_is_purged_written_to_and_looked_at_by_any_of_its_names() {
    let origin = counting();
    let gate = steered_with("aliases-purge", &origin, ALIASES);
    let names = ["www.shop.example", "shop.example"];
    let mut count = 0;
    for name in names {
        for order in [
            format!(r#"{{"url": "http://{name}/a"}}"#),
            format!(r#"{{"host": "{name}"}}"#),
            format!(r#"{{"prefix": "http://{name}/", "tenant": "acme"}}"#),
        ] {
            check(&gate, names[0], &format!("answer {count}"), MISS);
            kept(&gate, names[1]);
            assert_eq!(say(&gate, "purge", "POST /purge", &order).0, 200, "{order}");
            count += 1;
        }
        check(&gate, names[1], &format!("answer {count}"), MISS);
        kept(&gate, names[0]);
        let shown = told(&gate, &format!("/cache/inspect?url=http%3A%2F%2F{name}%2Fa&tenant=acme"));
        let shown: Value = serde_json::from_str(&shown).expect("it is JSON");
        assert_eq!(shown["stored"], true, "{name}: {shown}");
        assert_eq!(ask(&gate, "DELETE /a", name).body, format!("answer {}", count + 1));
        count += 2;
    }
    check(&gate, names[0], &format!("answer {count}"), MISS);
}
