use std::collections::HashSet;

use tidegate_testkit::{Gate, Origin, Reply, ask, ask_on, connect, until};

use super::{Switch, ask_in_turn, begin, endpoint, holding, named, one_core, shares};
use crate::{BINARY, gate};

#[test]
fn round_robin_goes_by_weight() {
    let (a, b) = (named("a"), named("b"));
    let lines = format!(
        "endpoints = [{{ address = \"{}\", weight = 3 }}, \"{}\"]\nbalance = \"round-robin\"",
        a.address, b.address
    );
    let gate = gate("round-robin", &super::found_by(&lines));
    assert_eq!(shares(&gate, 40, ["a", "b"]), [30, 10]);
    let order: String = ask_in_turn(&gate, 8, "GET /", "").iter().map(|answer| answer.body.clone()).collect();
    assert!(!order.contains("bb") && !order.contains("aaaaa"), "it is smooth: {order}");
}

#[test]
fn least_request_goes_round_the_busy_one() {
    let released = Switch::default();
    let (a, b) = (holding("a", &released), holding("b", &released));
    let gate = gate("least-request", &one_core(&[a.address, b.address], "balance = \"least-request\"", ""));
    let held = begin(&gate, "GET /held");
    until("it arrives", || a.recorded().len() + b.recorded().len() == 1);
    let busy_is_a = a.recorded().len() == 1;
    let expected = if busy_is_a { [0, 20] } else { [20, 0] };
    assert_eq!(shares(&gate, 20, ["a", "b"]), expected);
    released.set(true);
    assert_eq!(held.join().unwrap().body, if busy_is_a { "a" } else { "b" });
}

#[test]
fn peak_ewma_is_not_drawn_to_one_that_fails_fast() {
    let failing = Origin::start(|_| Reply::Status(500, String::new()));
    let slow = Origin::start(|_| Reply::After(std::time::Duration::from_millis(5)));
    let upstream = "balance = \"peak-ewma\"\noutlier = { consecutive = 0 }";
    let gate = gate("peak-ewma", &one_core(&[failing.address, slow.address], upstream, ""));
    // Until the other one is known too, either may be drawn; and one that stalls once for a second is as bad as one that
    // fails, for a while.
    until("once both are known, nobody goes to the failing one", || {
        ask_in_turn(&gate, 30, "GET /", "").iter().all(|answer| answer.status == 200)
    });
}

#[test]
fn random_uses_all() {
    let (a, b, c) = (named("a"), named("b"), named("c"));
    let config = one_core(&[a.address, b.address, c.address], "balance = \"random\"", "");
    let counts = shares(&gate("random", &config), 90, ["a", "b", "c"]);
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
}

/// Who answers a request with these headers, three times.
fn answering(gate: &Gate, headers: &str) -> String {
    let answers = ask_in_turn(gate, 3, "GET /", headers);
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let names: HashSet<String> = answers.into_iter().map(|answer| answer.body).collect();
    assert_eq!(names.len(), 1, "of {headers:?}: {names:?}");
    names.into_iter().next().unwrap()
}

/// Checks that each of many keys, sent as this header, has an endpoint of its own, and not all the same; whoever sends
/// another client's address is believed.
fn check_hashing(name: &str, hash_on: &str, header: &str, tenants: &str) {
    let origins = [named("a"), named("b"), named("c")];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let upstream = format!("balance = \"ring-hash\"\nhash_on = \"{hash_on}\"");
    let config = format!("{}{tenants}", crate::app(&addresses, &upstream, ""));
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let gate = Gate::start_listening(BINARY, name, listen, &config);
    let key = |number: u8| format!("{header}{}\r\n", header_value(header, number));
    // So many that each endpoint has some, whatever its port: but for one run in ten thousand millions.
    let first: Vec<String> = (0..60).map(|number| answering(&gate, &key(number))).collect();
    let again: Vec<String> = (0..60).map(|number| answering(&gate, &key(number))).collect();
    assert_eq!(first, again);
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3, "{first:?}");
}

fn header_value(header: &str, number: u8) -> String {
    match header.starts_with("X-Forwarded-For") {
        true => format!("192.0.2.{number}"),
        false => format!("k{number}"),
    }
}

#[test]
fn ring_hash_keeps_a_tenant_at_its_endpoint() {
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    check_hashing("hash-tenant", "tenant", "X-Tenant: ", tenants);
}

#[test]
fn ring_hash_keeps_a_client_address_at_its_endpoint() {
    check_hashing("hash-client", "client-ip", "X-Forwarded-For: ", "");
}

#[test]
fn ring_hash_keeps_a_header_at_its_endpoint() {
    check_hashing("hash-header", "header:x-key", "X-Key: ", "");
}

#[test]
fn a_sticky_cookie_keeps_a_client_at_its_endpoint() {
    let origins = [named("a"), named("b"), named("c")];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let upstream = "balance = \"ring-hash\"\nhash_on = \"cookie:stick\"";
    let gate = gate("sticky", &crate::app(&addresses, upstream, ""));
    let mut seen = HashSet::new();
    // Each client that comes without a cookie gets one of its own.
    for _ in 0..40 {
        let first = ask(gate.address, "GET /", "");
        let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("stick="), "{}", first.head);
        for _ in 0..3 {
            let again = ask(gate.address, "GET /", &format!("Cookie: other=1; {cookie}\r\n"));
            assert_eq!((again.body.as_str(), again.header("set-cookie")), (first.body.as_str(), ""));
        }
        seen.insert(first.body);
    }
    assert!(seen.len() > 1, "{seen:?}");
}

#[test]
fn ring_hash_bounds_the_load_of_one_key() {
    let released = Switch::default();
    let (a, b) = (holding("a", &released), holding("b", &released));
    let gate = gate("bounded", &one_core(&[a.address, b.address], "balance = \"ring-hash\"", ""));
    let held: Vec<_> = (0..20).map(|_| begin(&gate, "GET /held")).collect();
    until("all arrive", || a.recorded().len() + b.recorded().len() == 20);
    let counts = [a.recorded().len(), b.recorded().len()];
    // A quarter more than its share at most, though all are of one tenant.
    assert!(counts.iter().all(|count| *count <= 13), "{counts:?}");
    released.set(true);
    assert!(held.into_iter().all(|one| one.join().unwrap().status == 200));
}

#[test]
fn an_endpoint_that_comes_back_starts_slowly() {
    let (a, b) = (named("a"), named("b"));
    let config = one_core(&[a.address, b.address], "balance = \"round-robin\"\nslow_start = \"600ms\"", "");
    let gate = gate("slow-start", &format!("{config}{}", super::endpoints::tokens()));
    let share = |address| endpoint(&gate, address)["share"].as_f64().unwrap();
    until("both have started", || share(a.address) >= 1.0 && share(b.address) >= 1.0);
    super::endpoints::set(&gate, a.address, "disabled");
    let mut stream = connect(gate.address);
    assert_eq!(ask_on(&mut stream, "GET /", "").body, "b");
    let shown = super::endpoints::set(&gate, a.address, "enabled");
    assert!(shown["share"].as_f64().unwrap() < 1.0, "{shown}");
    assert!(share(b.address) >= 1.0);
    until("it has started", || share(a.address) >= 1.0);
    assert_eq!(shares(&gate, 20, ["a", "b"]), [10, 10]);
}

#[test]
fn a_sticky_cookie_of_a_client_that_came_by_tls_is_for_tls_alone() {
    let config = crate::app(&[named("a").address], "balance = \"ring-hash\"\nhash_on = \"cookie:stick\"", "");
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let gate = Gate::start_listening(BINARY, "sticky-secure", listen, &config);
    for (headers, secure) in
        [("X-Forwarded-Proto: https\r\n", true), ("X-Forwarded-Proto: http\r\n", false), ("", false)]
    {
        let answer = ask(gate.address, "GET /", headers);
        assert_eq!(answer.header("set-cookie").contains("; secure"), secure, "{headers}: {}", answer.head);
    }
}
