//! Tries after the first: retries, hedges, breakers, and the fallback ladder.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use tidegate_testkit::{Origin, Reply, ask, ask_on, connect, nobody, until};

use crate::upstreams::{
    Switch, ailing, ask_in_turn, begin, endpoint, holding, named, one_core, timeline, told, upstream,
};
use crate::{app, gate};

/// Keeps breakers and ejection out of a test that is not of them.
const PATIENT: &str = "outlier = { consecutive = 0 }\nbalance = \"round-robin\"";

#[test]
fn an_answer_that_is_worth_it_is_tried_again_elsewhere_after_a_pause() {
    let (bad, good) = (Origin::start(|_| Reply::Status(503, String::new())), named("good"));
    let route = "retry = { tries = 2, backoff = \"20ms\" }";
    let gate = gate("elsewhere", &one_core(&[bad.address, good.address], PATIENT, route));
    let answers = ask_in_turn(&gate, 10, "GET /", "");
    assert!(answers.iter().all(|answer| answer.body == "good"), "{answers:?}");
    let retried: Vec<String> = answers
        .iter()
        .map(|answer| timeline(&gate, answer))
        .filter(|steps| steps.contains("try 2 to"))
        .collect();
    assert!(!retried.is_empty() && retried.len() == bad.recorded().len());
    let pauses: std::collections::HashSet<&str> = retried
        .iter()
        .map(|steps| steps.split("another try after ").nth(1).unwrap().lines().next().unwrap())
        .collect();
    // Twenty milliseconds told to the microsecond: two in five may once agree by chance, three never do.
    assert!(pauses.len() + 1 >= retried.len(), "they come spread, not in step: {pauses:?}");
    assert_eq!(endpoint(&gate, bad.address)["connects"], 1, "its connection was kept");
}

#[test]
fn other_answers_are_not_tried_again() {
    for status in [500, 404, 429] {
        let origin = Origin::start(move |_| Reply::Status(status, String::new()));
        let gate = gate(&format!("final-{status}"), &one_core(&[origin.address], PATIENT, ""));
        assert_eq!(ask(gate.address, "GET /", "").status, status);
        assert_eq!(origin.recorded().len(), 1);
    }
}

#[test]
fn a_spent_budget_allows_no_more_retries() {
    let bad = Origin::start(|_| Reply::Status(503, String::new()));
    let lines = format!("{PATIENT}\nretry_budget = \"50%\"\nretry_budget_min = 0");
    let route = "retry = { tries = 10, backoff = \"1ms\" }";
    let gate = gate("budget", &one_core(&[bad.address], &lines, route));
    let answers = ask_in_turn(&gate, 10, "GET /", "");
    // Ten first tries earn five; what is earned is forgotten slowly, and on a slow machine some of it is.
    assert!((11..=15).contains(&bad.recorded().len()), "{}", bad.recorded().len());
    assert!(timeline(&gate, &answers[0]).contains("no further try: budget"));
}

#[test]
fn an_unsafe_request_is_repeated_where_the_route_says_so_with_its_body() {
    let (bad, good) = (Origin::start(|_| Reply::Status(503, String::new())), named("good"));
    let post = |gate: &tidegate_testkit::Gate, length: usize| {
        let mut stream = connect(gate.address);
        let body = "x".repeat(length);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).unwrap();
        tidegate_testkit::read_answer(&mut stream).status
    };
    let plain = gate("unsafe-plain", &one_core(&[bad.address], PATIENT, "retry = { tries = 3 }"));
    assert_eq!((post(&plain, 3), bad.recorded().len()), (503, 1));
    let route = "retry = { tries = 2, backoff = \"1ms\", idempotent = true, body = \"1KiB\" }";
    let gate = gate("unsafe-idempotent", &one_core(&[bad.address, good.address], PATIENT, route));
    let statuses: Vec<u16> = (0..4).map(|_| post(&gate, 900)).collect();
    assert_eq!(statuses, [200; 4]);
    assert!(good.recorded().iter().all(|one| one.length == 900));
    // A longer body is sent once, whole.
    let statuses: Vec<u16> = (0..4).map(|_| post(&gate, 50_000)).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 2, "{statuses:?}");
    assert!(good.recorded().iter().skip(4).all(|one| one.length == 50_000));
}

#[test]
fn retry_after_is_honoured() {
    let asks = |seconds: &'static str| {
        Origin::scripted(move |visit| {
            visit.say(format!("HTTP/1.1 503 No\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n"))
        })
    };
    let (far, soon) = (asks("30"), asks("1"));
    let too_far = gate("retry-after-far", &one_core(&[far.address], PATIENT, ""));
    let answer = ask(too_far.address, "GET /", "");
    assert_eq!((answer.status, answer.header("retry-after"), far.recorded().len()), (503, "30", 1));
    assert!(timeline(&too_far, &answer).contains("no further try: deadline"));
    let gate = gate("retry-after-soon", &one_core(&[soon.address], PATIENT, ""));
    let answer = ask(gate.address, "GET /", "");
    assert_eq!((answer.status, soon.recorded().len()), (503, 2));
    let steps = timeline(&gate, &answer);
    let pause: f64 =
        steps.split("another try after ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(pause >= 1000.0, "{steps}");
}

#[test]
fn nothing_is_tried_again_after_the_first_byte_of_an_answer() {
    let seen = Switch::default();
    let told = seen.clone();
    let origin = Origin::scripted(move |visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")?;
        told.wait();
        None
    });
    let gate = gate("first-byte", &one_core(&[origin.address], PATIENT, "retry = { tries = 5 }"));
    let mut stream = connect(gate.address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"12345") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    assert!(got.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&got));
    seen.set(true);
    let mut rest = Vec::new();
    // It is closed before its end: by a FIN or by a reset.
    let _ = stream.read_to_end(&mut rest);
    assert_eq!((rest.len(), origin.recorded().len()), (0, 1));
    until("it counts as a failure", || endpoint(&gate, origin.address)["failures"] == 1);
}

/// Servers of which the first falls silent when the switch is on, and a gate that hedges, and has seen both be quick.
fn hedging(name: &str, lines: &str, deadline: &str) -> (tidegate_testkit::Gate, Origin, Origin, Switch) {
    let silent = Switch::default();
    let told = silent.clone();
    let a = Origin::start(move |_| match told.is_on() {
        true => Reply::Never,
        false => Reply::Status(200, "a".into()),
    });
    let b = named("b");
    let route = format!(
        "hedge = {{ quantile = \"50%\", min = \"20ms\" }}\nretry = {{ tries = 1 }}\ndeadline = \"{deadline}\""
    );
    let gate = gate(name, &one_core(&[a.address, b.address], &format!("{PATIENT}\n{lines}"), &route));
    until("it has seen enough", || {
        ask_in_turn(&gate, 30, "GET /", "").iter().all(|answer| answer.status == 200)
    });
    silent.set(true);
    (gate, a, b, silent)
}

#[test]
fn a_slow_first_try_is_hedged_elsewhere_the_winner_answers_and_the_loser_is_cancelled() {
    let (gate, a, b, _silent) = hedging("hedge", "", "20s");
    let answers = ask_in_turn(&gate, 2, "GET /", "");
    assert!(answers.iter().all(|answer| answer.body == "b"), "{answers:?}");
    until("the loser is cancelled", || a.left() > 0);
    let hedged: Vec<serde_json::Value> = answers
        .iter()
        .map(|answer| told(&gate, &format!("/explain/{}", answer.header("x-request-id"))))
        .map(|text| serde_json::from_str(&text).unwrap())
        .filter(|one: &serde_json::Value| one["tries"] == 2)
        .collect();
    // Of both, if the other one was slow for once.
    assert!(!hedged.is_empty());
    for one in hedged {
        let [upstream, whole] = ["upstream_ms", "duration_ms"].map(|key| one[key].as_f64().unwrap());
        assert!(
            upstream <= whole,
            "two tries beside each other take no longer than they take: {upstream} of {whole}"
        );
        assert!(upstream >= 20.0, "the time before the hedge counts: {upstream}");
        assert_eq!(one["endpoint"], b.address.to_string());
    }
    until("nothing is under way", || endpoint(&gate, a.address)["active"] == 0);
    assert!(
        endpoint(&gate, a.address)["latency_ms"].as_f64().unwrap() >= 15.0,
        "the loser is known to be slow"
    );
}

#[test]
fn what_is_not_safe_is_not_hedged_nor_is_anything_without_budget() {
    let (gate_a, a, b, _silent) = hedging("hedge-unsafe", "", "1s");
    let statuses: Vec<u16> =
        (0..2).map(|_| ask(gate_a.address, "POST /", "Content-Length: 0\r\n").status).collect();
    assert!(statuses.contains(&504), "{statuses:?}");
    let posts = |origin: &Origin| origin.recorded().iter().filter(|one| one.head.starts_with("POST")).count();
    assert_eq!((posts(&a), posts(&b)), (1, 1), "each went to one alone");
    let (gate_b, ..) = hedging("hedge-budget", "retry_budget = \"0%\"\nretry_budget_min = 0", "1s");
    let statuses: Vec<u16> =
        ask_in_turn(&gate_b, 2, "GET /", "").iter().map(|answer| answer.status).collect();
    assert!(statuses.contains(&504), "{statuses:?}");
}

#[test]
fn a_hedge_takes_only_a_free_slot() {
    let (gate, ..) = hedging("hedge-slot", "concurrency = 1", "1s");
    let statuses: Vec<u16> = ask_in_turn(&gate, 2, "GET /", "").iter().map(|answer| answer.status).collect();
    assert!(statuses.contains(&504), "{statuses:?}");
}

/// A breaker that opens at once.
fn breaker(cooldown: &str) -> String {
    format!("{PATIENT}\nbreaker = {{ consecutive = 3, cooldown = \"{cooldown}\" }}")
}

#[test]
fn a_breaker_opens_lets_a_probe_through_and_closes() {
    let well = Switch::default();
    let origin = ailing("a", &well);
    let gate = gate("breaker-cycle", &app(&[origin.address], &breaker("100ms"), "retry = { tries = 1 }"));
    let statuses: Vec<u16> = (0..3).map(|_| ask(gate.address, "GET /", "").status).collect();
    assert_eq!(statuses, [500; 3]);
    // Whoever comes late enough is the probe.
    let mut refused = ask(gate.address, "GET /", "");
    until("it is open", || {
        refused = ask(gate.address, "GET /", "");
        refused.body.contains("upstream.breaker-open")
    });
    assert!(refused.header("retry-after").parse::<u64>().is_ok(), "{}", refused.head);
    until("it is half-open", || upstream(&gate)["breaker"] == "half-open");
    let opened = upstream(&gate)["breaker_opened"].as_u64().unwrap();
    assert_eq!(ask(gate.address, "GET /", "").status, 500, "the probe");
    assert_eq!(upstream(&gate)["breaker_opened"], opened + 1, "its failure opens it again");
    well.set(true);
    until("a probe goes well", || ask(gate.address, "GET /", "").status == 200);
    assert_eq!(upstream(&gate)["breaker"], "closed");
    assert_eq!(gate.metric("tidegate_upstream_breaker_open{upstream=\"app\"}"), Some(0.0));
}

#[test]
fn one_probe_alone_is_let_through_and_one_whose_client_leaves_is_replaced() {
    let (well, silent) = (Switch::default(), Switch::default());
    let (is_well, is_silent) = (well.clone(), silent.clone());
    let origin = Origin::start(move |_| match (is_well.is_on(), is_silent.is_on()) {
        (_, true) => Reply::Never,
        (true, false) => Reply::Status(200, String::new()),
        (false, false) => Reply::Status(500, String::new()),
    });
    let gate = gate(
        "breaker-probe",
        &app(&[origin.address], &breaker("50ms"), "retry = { tries = 1 }\ndeadline = \"60s\""),
    );
    (0..3).for_each(|_| drop(ask(gate.address, "GET /", "")));
    until("it is half-open", || upstream(&gate)["breaker"] == "half-open");
    silent.set(true);
    let mut probe = connect(gate.address);
    probe.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the probe arrives", || origin.recorded().len() == 4);
    for _ in 0..3 {
        assert!(ask(gate.address, "GET /", "").body.contains("upstream.breaker-open"));
    }
    silent.set(false);
    well.set(true);
    socket2::SockRef::from(&probe).set_linger(Some(Duration::ZERO)).unwrap();
    drop(probe);
    until("another probe closes it", || ask(gate.address, "GET /", "").status == 200);
    assert_eq!(upstream(&gate)["breaker"], "closed");
}

#[test]
fn a_call_from_before_neither_closes_an_open_breaker_nor_prolongs_it() {
    let released = Switch::default();
    let origin = {
        let released = released.clone();
        Origin::start(move |path| match path {
            "/held" => {
                released.wait();
                Reply::Status(200, String::new())
            }
            "/ok" => Reply::Status(200, String::new()),
            _ => Reply::Status(500, String::new()),
        })
    };
    let gate = gate("breaker-before", &app(&[origin.address], &breaker("60s"), "retry = { tries = 1 }"));
    let held = begin(&gate, "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    (0..3).for_each(|_| drop(ask(gate.address, "GET /", "")));
    assert_eq!(upstream(&gate)["breaker"], "open");
    released.set(true);
    assert_eq!(held.join().unwrap().status, 200);
    assert_eq!(upstream(&gate)["breaker"], "open");
    assert!(ask(gate.address, "GET /ok", "").body.contains("upstream.breaker-open"));
}

#[test]
fn an_open_breaker_ends_the_tries_of_a_call() {
    let origin = Origin::start(|_| Reply::Status(503, String::new()));
    let route = "retry = { tries = 10, backoff = \"1ms\" }";
    let gate = gate("breaker-tries", &app(&[origin.address], &breaker("60s"), route));
    let answer = ask(gate.address, "GET /", "");
    assert_eq!((answer.status, origin.recorded().len()), (503, 3));
    assert!(timeline(&gate, &answer).contains("no further try: breaker"));
}

/// A gate with a second upstream, and what stands under its route.
fn laddered(
    name: &str,
    first: std::net::SocketAddr,
    second: std::net::SocketAddr,
    route: &str,
) -> tidegate_testkit::Gate {
    let route = format!("retry = {{ tries = 1 }}\n{route}");
    let config = app(&[first], PATIENT, &route);
    gate(name, &format!("{config}[upstream.spare]\nendpoints = [\"{second}\"]\n"))
}

#[test]
fn another_upstream_answers_when_the_first_cannot() {
    let spare = named("spare");
    let bad = Origin::start(|path| Reply::Status(if path == "/500" { 500 } else { 503 }, "bad".into()));
    let fallback = "fallback = [{ upstream = \"spare\" }]";
    for (name, first) in [("ladder-refused", nobody()), ("ladder-status", bad.address)] {
        let gate = laddered(name, first, spare.address, fallback);
        let answer = ask(gate.address, "GET /", "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "spare"), "{name}");
        assert!(timeline(&gate, &answer).contains("next rung: spare"));
    }
    let gate = laddered("ladder-other", bad.address, spare.address, fallback);
    assert_eq!(ask(gate.address, "GET /500", "").status, 500, "not one of those that count as failed");
    // What is not safe and may have been done is not done again elsewhere.
    let before = spare.recorded().len();
    assert_eq!(ask(gate.address, "POST /", "Content-Length: 0\r\n").status, 503);
    assert_eq!(spare.recorded().len(), before);
}

/// Sends a body of three bytes.
fn post(address: std::net::SocketAddr) -> tidegate_testkit::Answer {
    let mut stream = connect(address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc").unwrap();
    tidegate_testkit::read_answer(&mut stream)
}

#[test]
fn another_upstream_gets_even_what_is_not_safe_if_nothing_was_sent() {
    let (bad, spare) = (Origin::start(|_| Reply::Status(500, String::new())), named("spare"));
    let gate = laddered("ladder-unsent", nobody(), spare.address, "fallback = [{ upstream = \"spare\" }]");
    assert_eq!(post(gate.address).body, "spare");
    assert_eq!(spare.recorded()[0].length, 3, "with its body");
    let route = "retry = { tries = 1 }\nfallback = [{ upstream = \"spare\" }]";
    let config = app(&[bad.address], &breaker("60s"), route);
    let open = crate::gate(
        "ladder-open",
        &format!("{config}[upstream.spare]\nendpoints = [\"{}\"]\n", spare.address),
    );
    let statuses: Vec<u16> = (0..4).map(|_| post(open.address).status).collect();
    assert_eq!(statuses, [500, 500, 500, 200]);
    assert_eq!((bad.recorded().len(), spare.recorded().len()), (3, 2));
}

#[test]
fn another_upstream_sees_the_request_as_it_came() {
    let first = tidegate_testkit::H2Origin::start(async |mut call: tidegate_testkit::H2Call| {
        let response = http::Response::builder().status(503).body(()).unwrap();
        drop(call.respond.send_response(response, true));
    });
    let spare = named("spare");
    for (name, host) in [("ladder-h2", ""), ("ladder-host", "host = \"fixed.test\"")] {
        let lines = format!("{PATIENT}\nprotocol = \"h2\"\n{host}");
        let config = app(&[first.address], &lines, "fallback = [{ upstream = \"spare\" }]");
        let gate = gate(name, &format!("{config}[upstream.spare]\nendpoints = [\"{}\"]\n", spare.address));
        assert_eq!(ask(gate.address, "GET /path?q", "").body, "spare");
        let head = spare.recorded().last().unwrap().head.to_ascii_lowercase();
        assert!(head.starts_with("get /path?q http/1.1\r\n"), "{head}");
        assert_eq!(
            (head.matches("\r\nhost: ").count(), head.contains("\r\nhost: test\r\n")),
            (1, true),
            "{head}"
        );
    }
    assert!(first.recorded().iter().any(|head| head.contains("fixed.test")));
}

#[test]
fn the_statuses_that_count_as_failed_are_configured() {
    let (bad, spare) = (Origin::start(|_| Reply::Status(500, String::new())), named("spare"));
    let route = "fallback = [{ upstream = \"spare\" }]\nfallback_on = [500]";
    let gate = laddered("ladder-on", bad.address, spare.address, route);
    assert_eq!(ask(gate.address, "GET /", "").body, "spare");
}

#[test]
fn the_ladder_is_climbed_to_its_end() {
    let route = "fallback = [{ upstream = \"spare\" }, { respond = { status = 203, body = \"a break\", headers = { x-rung = \"last\" } } }]";
    let gate = laddered("ladder-end", nobody(), nobody(), route);
    for line in ["GET /", "POST /"] {
        let answer = ask(gate.address, line, "Content-Length: 0\r\n");
        assert_eq!((answer.status, answer.body.as_str(), answer.header("x-rung")), (203, "a break", "last"));
    }
    let bad = Origin::start(|_| Reply::Status(502, "the first's".into()));
    let gate = laddered("ladder-none", bad.address, nobody(), "fallback = [{ upstream = \"spare\" }]");
    let answer = ask(gate.address, "GET /", "");
    assert_eq!((answer.status, answer.body.as_str()), (502, "the first's"), "an answer is better than none");
    let closes = Origin::start(|_| Reply::Close);
    let gate = laddered("ladder-first", nobody(), closes.address, "fallback = [{ upstream = \"spare\" }]");
    let answer = ask(gate.address, "GET /", "");
    assert!(answer.body.contains("upstream.connect"), "the first refusal is told: {}", answer.body);
    let worse = Origin::start(|_| Reply::Status(503, String::new()));
    let route = "fallback = [{ upstream = \"spare\" }, { respond = { status = 203 } }]";
    let gate = laddered("ladder-second", bad.address, worse.address, route);
    assert_eq!(ask(gate.address, "GET /", "").status, 203, "a rung that fails is no end");
}

#[test]
fn a_ladder_answers_while_the_breaker_is_open() {
    let (bad, released) = (Origin::start(|_| Reply::Status(500, String::new())), Switch::default());
    let spare = holding("spare", &released);
    let route = "retry = { tries = 1 }\nfallback = [{ upstream = \"spare\" }]";
    let config = app(&[bad.address], &breaker("60s"), route);
    let gate =
        gate("ladder-breaker", &format!("{config}[upstream.spare]\nendpoints = [\"{}\"]\n", spare.address));
    let mut stream = connect(gate.address);
    let statuses: Vec<u16> = (0..5).map(|_| ask_on(&mut stream, "GET /", "").status).collect();
    assert_eq!(statuses, [500, 500, 500, 200, 200]);
}
