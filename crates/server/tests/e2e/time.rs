//! Time: how long things may take, who may shorten it, and who is told.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidegate_testkit::{Gate, Origin, Reply, ask, until};

use crate::upstreams::{Switch, ask_in_turn, begin, endpoint, holding, named, one_core, timeline};
use crate::{BINARY, gate};

/// An address that lets whoever connects wait: its backlog is full. The sockets are to be kept.
fn unresponsive() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        // Under way, or waiting for ever.
        let _ = client.connect(&address);
        held.push(client);
    }
    (address.as_socket().unwrap(), held)
}

/// A gate whose clients may send a deadline in `x-timeout-ms`.
fn with_deadlines(name: &str, endpoints: &[SocketAddr], upstream: &str, route: &str) -> Gate {
    let listen = "http = [\"127.0.0.1:0\"]\ndeadline_header = \"x-timeout-ms\"";
    Gate::start_listening(BINARY, name, listen, &one_core(endpoints, upstream, route))
}

/// The milliseconds that the upstream was told it has, of each request.
fn told_ms(origin: &Origin) -> Vec<u64> {
    let of = |head: &str| {
        let lower = head.to_ascii_lowercase();
        lower.lines().find_map(|line| line.strip_prefix("tidegate-deadline-ms: ")?.parse().ok())
    };
    origin.recorded().iter().map(|one| of(&one.head).expect("it is told")).collect()
}

#[test]
fn connecting_is_bounded() {
    let (address, _held) = unresponsive();
    let upstream = "connect_timeout = \"100ms\"";
    let gate =
        gate("connect-time", &one_core(&[address], upstream, "retry = { tries = 1 }\ndeadline = \"60s\""));
    let answer = ask(gate.address, "GET /", "");
    assert!(answer.body.contains("upstream.connect-timeout"), "{} {}", answer.status, answer.body);
    assert_eq!(endpoint(&gate, address)["failures"], 1);
}

#[test]
fn an_endpoint_that_does_not_take_the_connection_is_passed_over() {
    let (address, _held) = unresponsive();
    let good = named("good");
    let upstream = "connect_timeout = \"300ms\"\nbalance = \"round-robin\"";
    let gate = gate("connect-next", &one_core(&[address, good.address], upstream, ""));
    // Nothing was sent to the first: even what is not safe is tried on the other.
    for _ in 0..3 {
        assert_eq!(ask(gate.address, "POST /", "Content-Length: 0\r\n").body, "good");
    }
}

#[test]
fn one_try_is_bounded_and_another_endpoint_is_tried() {
    let (silent, good) = (Origin::start(|_| Reply::Never), named("good"));
    let upstream = "balance = \"round-robin\"\noutlier = { consecutive = 0 }\nretry_budget = \"100%\"\nretry_budget_min = 1000";
    // A server that stalls once is tried again.
    let route = "retry = { tries = 10, try_timeout = \"100ms\", backoff = \"1ms\" }\ndeadline = \"60s\"";
    let gate = gate("try-time", &one_core(&[silent.address, good.address], upstream, route));
    for _ in 0..2 {
        assert_eq!(ask(gate.address, "GET /", "").body, "good");
    }
    // The try that was given up is over for the upstream too.
    until("its call is cancelled", || silent.left() == silent.recorded().len());
    assert!(told_ms(&silent).iter().all(|told| *told <= 100), "it is told the time of the try");
}

#[test]
fn the_whole_exchange_is_bounded_tries_and_pauses_included() {
    let silent = Origin::start(|_| Reply::Never);
    let route = "retry = { tries = 10, try_timeout = \"150ms\", backoff = \"5ms\" }\ndeadline = \"1s\"";
    let gate = gate("whole-time", &one_core(&[silent.address], "", route));
    let answer = ask(gate.address, "GET /", "");
    assert_eq!((answer.status, answer.body.contains("deadline.exceeded")), (504, true), "{}", answer.body);
    let told = told_ms(&silent);
    assert!(told.len() <= 7, "ten tries would take longer: {}", timeline(&gate, &answer));
    assert!(told.iter().all(|told| *told <= 150), "{told:?}");
}

#[test]
fn the_deadline_is_carried_to_the_upstream_and_shrinks() {
    let origin = Origin::start(|path| match path {
        "/fail" => Reply::Status(503, String::new()),
        _ => Reply::Status(200, String::new()),
    });
    let route = "retry = { tries = 2, backoff = \"1ms\" }\ndeadline = \"20s\"";
    let gate = with_deadlines("carried", &[origin.address], "outlier = { consecutive = 0 }", route);
    assert_eq!(ask(gate.address, "GET /fail", "").status, 503);
    let told = told_ms(&origin);
    assert!(told.len() == 2 && told[1] <= told[0] && told[0] <= 20_000, "{told:?}");
    // The client's own is carried on where it is shorter, and counts for nothing where it is longer.
    assert_eq!(ask(gate.address, "GET /", "X-Timeout-Ms: 15000\r\n").status, 200);
    assert_eq!(ask(gate.address, "GET /", "X-Timeout-Ms: 60000\r\n").status, 200);
    assert_eq!(ask(gate.address, "GET /", "grpc-timeout: 10S\r\n").status, 200);
    assert_eq!(ask(gate.address, "GET /", "grpc-timeout: 1H\r\n").status, 200);
    assert_eq!(ask(gate.address, "GET /", "Tidegate-Deadline-Ms: 1\r\n").status, 200);
    let told = &told_ms(&origin)[2..];
    // The last one forged a deadline of a millisecond.
    for (told, most) in told.iter().zip([15_000, 20_000, 10_000, 20_000, 20_000]) {
        assert!((2..=most).contains(told), "{told} of {most}");
    }
    let grpc: Vec<String> = origin
        .recorded()
        .iter()
        .filter_map(|one| Some(one.head.split_once("grpc-timeout: ")?.1.into()))
        .collect();
    assert_eq!(grpc.len(), 2, "only who sent one");
    assert!(grpc.iter().all(|rest| !rest.starts_with("10S") && !rest.starts_with("1H")), "{grpc:?}");
}

#[test]
fn a_client_may_shorten_its_deadline() {
    let origin = Origin::start(|_| Reply::Never);
    let gate = with_deadlines("shorter", &[origin.address], "", "deadline = \"60s\"");
    for header in ["X-Timeout-Ms: 100\r\n", "grpc-timeout: 100m\r\n"] {
        let before = origin.recorded().len();
        // On a machine that stalls, the time may be over before the upstream is asked.
        until("one comes to the upstream", || {
            let answer = ask(gate.address, "GET /", header);
            let late = answer.body.contains("deadline.exceeded");
            assert_eq!((answer.status, late), (504, true), "{}", answer.body);
            origin.recorded().len() > before
        });
    }
    until("the calls are cancelled", || origin.left() == origin.recorded().len());
}

#[test]
fn what_can_no_longer_be_answered_in_time_is_not_sent() {
    let origin = Origin::start(|_| Reply::After(Duration::from_millis(60)));
    let gate = with_deadlines("unreachable", &[origin.address], "", "");
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..5).map(|_| scope.spawn(|| ask_in_turn(&gate, 5, "GET /", ""))).collect();
        asked
            .into_iter()
            .for_each(|one| assert!(one.join().unwrap().iter().all(|answer| answer.status == 200)));
    });
    let before = origin.recorded().len();
    for header in ["X-Timeout-Ms: 10\r\n", "grpc-timeout: 10m\r\n", "X-Timeout-Ms: 0\r\n"] {
        let answer = ask(gate.address, "GET /", header);
        assert_eq!(
            (answer.status, answer.body.contains("deadline.unreachable")),
            (504, true),
            "{}",
            answer.body
        );
    }
    assert_eq!(origin.recorded().len(), before);
    assert_eq!(ask(gate.address, "GET /", "X-Timeout-Ms: 20000\r\n").status, 200);
}

#[test]
fn what_waited_too_long_for_a_slot_is_not_sent() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let upstream = "concurrency = 1\nwaiting = { limit = 10, wait = \"10s\" }";
    let gate = with_deadlines("waited", &[origin.address], upstream, "retry = { tries = 1 }");
    let held = begin(&gate, "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    let answer = ask(gate.address, "GET /", "X-Timeout-Ms: 50\r\n");
    assert!(answer.status >= 500, "{} {}", answer.status, answer.body);
    assert_eq!(origin.recorded().len(), 1);
    released.set(true);
    assert_eq!(held.join().unwrap().status, 200);
}

#[test]
fn clients_in_a_hurry_open_no_breaker_for_the_others() {
    let origin = Origin::start(|_| Reply::After(Duration::from_millis(150)));
    let upstream = "breaker = { consecutive = 3, cooldown = \"60s\" }\noutlier = { consecutive = 3, max_ejected = \"100%\" }";
    let gate = with_deadlines("hurry", &[origin.address], upstream, "retry = { tries = 1 }");
    for _ in 0..6 {
        assert_eq!(ask(gate.address, "GET /", "X-Timeout-Ms: 20\r\n").status, 504);
    }
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    let seen = endpoint(&gate, origin.address);
    assert_eq!((&seen["failures"], &seen["ejections"]), (&0.into(), &0.into()));
}
