//! What a tenant is held to: rates, concurrency, bytes. None of it is measured by how fast the machine is: what must not
//! pass is counted, and what must take time is never asserted to take little.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_testkit::{Answer, Gate, Origin, Reply, ask, ask_on, connect, read_answer, until};

use crate::{app, gate};

const KIB: usize = 1024;

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, String::new()))
}

/// The code of a refusal; of an answer its status.
fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    body["code"].as_str().map_or_else(|| answer.status.to_string(), str::to_owned)
}

fn get(gate: &Gate, path: &str) -> Answer {
    ask(gate.address, &format!("GET {path}"), "")
}

fn passed(gate: &Gate, path: &str, asked: usize) -> usize {
    (0..asked).filter(|_| get(gate, path).status == 200).count()
}

#[test]
fn all_cores_share_one_rate_exactly() {
    let origin = ok();
    let config = app(&[origin.address], "", "").replace("workers = 2", "workers = 4");
    let gate = gate("exact", &format!("{config}[plan.default]\nrate = {{ limit = \"1/h\", burst = 100 }}\n"));
    let passed: usize = std::thread::scope(|scope| {
        let load = || {
            // Four connections each, so that every core has some.
            let mut streams: Vec<TcpStream> = (0..4).map(|_| connect(gate.address)).collect();
            let ask = |n: usize| ask_on(&mut streams[n % 4], "GET /", "").status == 200;
            (0..40).map(ask).filter(|passed| *passed).count()
        };
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!((passed, origin.recorded().len()), (100, 100));
}

#[test]
fn no_more_passes_than_burst_and_rate_allow_and_the_burst_does() {
    let origin = ok();
    let gate = gate(
        "rate",
        &format!(
            "{}[plan.default]\nrate = {{ limit = \"50/s\", burst = 20 }}\n",
            app(&[origin.address], "", "")
        ),
    );
    let began = began();
    let passed: usize = std::thread::scope(|scope| {
        let load = || {
            let mut stream = connect(gate.address);
            (0..150).filter(|_| ask_on(&mut stream, "GET /", "").status == 200).count()
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(load)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let most = 20.0 + 50.0 * began.elapsed().as_secs_f64() + 1.0;
    assert!(passed >= 20 && passed as f64 <= most, "{passed} of at most {most}");
}

fn began() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of the product's")]
    Instant::now()
}

#[test]
fn several_rates_hold_at_once_and_are_told_as_the_draft_has_it() {
    let origin = ok();
    let plan = "[plan.default]\nrate = [{ name = \"hour\", limit = \"3/h\" }, { name = \"day\", limit = \"10/d\", burst = 4 }]\n";
    let gate = gate("several", &format!("{}{plan}", app(&[origin.address], "", "")));
    let check = |remaining: u64, seconds: u64| {
        let answer = get(&gate, "/");
        assert_eq!(answer.header("ratelimit-policy"), "\"hour\";q=3;w=3600, \"day\";q=10;w=86400");
        assert_eq!((answer.status, answer.header("retry-after")), (200, ""));
        let told = answer.header("ratelimit");
        let left = told.strip_prefix(&format!("\"hour\";r={remaining};t=")).expect(told);
        // On a slow machine some seconds have gone by since the first request.
        assert!(left.parse().is_ok_and(|left: u64| left <= seconds && left + 60 > seconds), "{told}");
    };
    // What remains never lasts shorter than the rate needs to earn it: two of three an hour, forty minutes.
    check(2, 2400);
    check(1, 2400);
    check(0, 3600);
    let refused = get(&gate, "/");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1100..=1400).contains(&wait), "{}", refused.head);
    assert_eq!((refused.status, code(&refused).as_str()), (429, "limit.rate"));
    assert_eq!(refused.header("ratelimit-policy"), "\"hour\";q=3;w=3600");
    assert_eq!(refused.header("ratelimit"), format!("\"hour\";r=0;t={wait}"));
    let problem: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(problem["violated-policies"], serde_json::json!(["hour"]));
    assert_eq!((problem["blame"].as_str(), problem["retry_after"].as_u64()), (Some("tenant"), Some(wait)));
    assert_eq!(origin.recorded().len(), 3);
    let explained =
        crate::control(&gate, &format!("/explain/{}?format=text", refused.header("x-request-id")));
    assert!(explained.contains("limit `hour` has nothing left"), "{explained}");
}

#[test]
fn a_route_may_hold_each_tenant_to_less() {
    let origin = ok();
    let routes = "limits = { rate = \"1000/h\" }\n[[route]]\nname = \"search\"\npath = \"/search\"\nupstream = \"app\"\n\
         limits = { rate = \"2/h\" }\n";
    let gate = gate(
        "route-limits",
        &format!("{}[plan.default]\nrate = \"5/h\"\n", app(&[origin.address], "", routes)),
    );
    let answer = get(&gate, "/search");
    assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=5;w=3600, \"search\";q=2;w=3600");
    assert_eq!(answer.header("ratelimit"), "\"search\";r=1;t=1800");
    assert_eq!(passed(&gate, "/search", 10), 1);
    // What the route refused was not spent of the plan.
    assert_eq!(passed(&gate, "/", 10), 3);
    assert_eq!(passed(&gate, "/search", 1), 0);
}

/// An origin whose answers are larger than all buffers between it and the client.
fn large() -> Origin {
    Origin::scripted(|visit| {
        let size = if visit.path() == "/large" { 32 * KIB * KIB } else { 0 };
        visit.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"))?;
        visit.say(vec![b'x'; size])
    })
}

fn begin(gate: &Gate, path: &str) -> TcpStream {
    let mut stream = connect(gate.address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[test]
fn concurrency_is_held_until_the_last_byte_and_given_back_when_a_client_vanishes() {
    let origin = large();
    let route =
        "[[route]]\nname = \"one\"\npath = \"/one\"\nupstream = \"app\"\nlimits = { concurrency = 1 }\n";
    let config = format!("{}[plan.default]\nconcurrency = 2\n", app(&[origin.address], "", route));
    let gate = gate("concurrency", &config);
    let [first, mut second] = ["/large", "/large"].map(|path| begin(&gate, path));
    let refused = get(&gate, "/");
    assert_eq!((refused.status, code(&refused).as_str()), (429, "limit.concurrency"));
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|wait| (1..=2).contains(&wait)));
    // One is gone, the other is read to its end.
    drop(first);
    until("a place is given back", || get(&gate, "/").status == 200);
    let third = begin(&gate, "/large");
    assert_eq!(code(&get(&gate, "/")), "limit.concurrency");
    std::io::copy(&mut (&mut second).take(32 * (KIB * KIB) as u64), &mut std::io::sink()).unwrap();
    until("a place is given back", || get(&gate, "/").status == 200);
    drop(third);
}

#[test]
fn a_tunnel_holds_its_place_and_a_routes_places_are_its_own() {
    let origin = Origin::start(|path| match path {
        "/ws" => Reply::Echo,
        _ => Reply::Status(200, String::new()),
    });
    let gate = gate(
        "tunnel-place",
        &app(
            &[origin.address],
            "",
            "limits = { concurrency = 1 }\n[[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"app\"\n",
        ),
    );
    let mut tunnel = connect(gate.address);
    tunnel.write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut tunnel).status, 101);
    assert_eq!(code(&get(&gate, "/")), "limit.concurrency");
    assert_eq!(get(&gate, "/other").status, 200);
    drop(tunnel);
    until("the place is given back", || get(&gate, "/").status == 200);
}

/// Sends, reads all of the answer, and tells the bytes of its body.
fn whole(gate: &Gate, request: &[u8]) -> usize {
    let mut stream = connect(gate.address);
    stream.write_all(request).unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body.len()
}

fn took_at_least(least: Duration, work: impl FnOnce()) {
    let began = began();
    work();
    assert!(began.elapsed() >= least, "{:?} is faster than the pace", began.elapsed());
}

#[test]
fn bytes_of_responses_are_held_to_their_pace_long_and_short_ones_alike() {
    let origin = Origin::start(|path| Reply::Status(200, "x".repeat(path[1..].parse().unwrap())));
    let plan = "[plan.default]\nresponse_bytes_per_second = \"400KiB\"\n";
    let gate = gate("response-pace", &format!("{}{plan}", app(&[origin.address], "", "")));
    let fetch = |size: usize| {
        let request = format!("GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(whole(&gate, request.as_bytes()), size);
    };
    // Of 160 KiB a tenth of a second's worth is ahead, and as much is the last piece: 80 at 400 a second must wait.
    let least = Duration::from_millis(190);
    took_at_least(least, || fetch(160 * KIB));
    took_at_least(least, || (0..16).for_each(|_| fetch(10 * KIB)));
    took_at_least(least, || {
        std::thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| fetch(40 * KIB))));
        });
    });
}

#[test]
fn bytes_of_requests_are_held_to_their_pace() {
    let origin = ok();
    let plan = "[plan.default]\nrequest_bytes_per_second = \"400KiB\"\n";
    let gate = gate("request-pace", &format!("{}{plan}", app(&[origin.address], "", "")));
    let mut request =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 160 * KIB).into_bytes();
    request.resize(request.len() + 160 * KIB, b'x');
    took_at_least(Duration::from_millis(190), || assert_eq!(whole(&gate, &request), 0));
    assert_eq!(origin.recorded()[0].length, 160 * KIB as u64, "delayed, and whole");
}

#[test]
fn a_body_larger_than_plan_or_route_allow_is_413() {
    let origin = ok();
    let routes =
        "[[route]]\nname = \"small\"\npath = \"/small\"\nupstream = \"app\"\nlimits = { body = \"100B\" }\n";
    let config = format!("{}[plan.default]\nbody = \"1KiB\"\n", app(&[origin.address], "", routes));
    let gate = gate("body", &config);
    let announced = |path: &str, size: usize| {
        let body = "x".repeat(size);
        let mut stream = connect(gate.address);
        write!(stream, "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{body}").unwrap();
        code(&read_answer(&mut stream))
    };
    assert_eq!(announced("/", KIB), "200");
    assert_eq!(announced("/", KIB + 1), "limit.body");
    assert_eq!(announced("/small", 100), "200");
    assert_eq!(announced("/small", 101), "request.body-too-large");
    assert_eq!(origin.recorded().len(), 2, "the upstream was not asked");
    let chunked = |path: &str, chunks: usize| {
        let mut stream = connect(gate.address);
        write!(stream, "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for _ in 0..chunks {
            write!(stream, "40\r\n{}\r\n", "x".repeat(64)).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        let answer = read_answer(&mut stream);
        assert!(answer.status == 200 || answer.status == 413, "{}", answer.head);
        code(&answer)
    };
    assert_eq!(chunked("/", 16), "200");
    assert_eq!(chunked("/", 17), "limit.body");
    assert_eq!(chunked("/small", 2), "request.body-too-large");
}

#[test]
fn what_is_spent_stays_spent_over_a_reload_and_a_changed_plan_counts_at_once() {
    let origin = ok();
    let route =
        "limits = { rate = \"3/h\" }\n[[route]]\nname = \"free\"\npath = \"/free\"\nupstream = \"app\"\n";
    let config =
        |plan: &str, route: &str| format!("{}[plan.default]\n{plan}\n", app(&[origin.address], "", route));
    let gate = gate("reload-state", &config("rate = \"5/h\"", route));
    let reload = |plan: &str, route: &str| {
        gate.rewrite(&config(plan, route));
        gate.reload();
    };
    assert_eq!(passed(&gate, "/", 10), 3);
    reload("rate = \"5/h\"\nconcurrency = 9", route);
    assert_eq!(passed(&gate, "/", 1), 0, "spent stays spent");
    reload("rate = \"10/h\"\nconcurrency = 9", route);
    assert_eq!(
        passed(&gate, "/free", 20),
        4,
        "three fifths of an hour's worth are spent, of the larger plan too"
    );
    // Whoever had to wait for most of an hour and is now entitled to much more does not wait for that.
    reload("rate = \"1000/s\"", route);
    until("the new plan counts", || get(&gate, "/free").status == 200);
    assert_eq!(passed(&gate, "/", 1), 0, "the route's own are still spent");
    reload("", "[[route]]\nname = \"free\"\npath = \"/free\"\nupstream = \"app\"\n");
    assert_eq!(passed(&gate, "/", 5), 5);
}

#[test]
fn a_body_that_stalls_or_drips_is_the_clients_fault_and_a_slow_upstream_is_not() {
    let origin = Origin::scripted(|visit| {
        if visit.path() == "/slow" {
            std::thread::sleep(Duration::from_millis(1_300));
        }
        visit.read_body()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let limits = "[limits]\nbody_idle = \"1s\"\nbody_rate_min = \"10MiB\"\nbody_grace = \"1s\"\n";
    let ladder = "fallback = [{ respond = { status = 203 } }]";
    let gate = gate("patience", &format!("{}{limits}", app(&[origin.address], "", ladder)));
    let begin = |path: &str, size: usize, sent: usize| {
        let mut stream = connect(gate.address);
        let mut bytes =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + sent, b'x');
        stream.write_all(&bytes).unwrap();
        stream
    };
    let told = |stream: &mut TcpStream| {
        let answer = read_answer(stream);
        (answer.status, code(&answer))
    };
    let stalled = || {
        // No rung of the ladder: none would mend it.
        assert_eq!(told(&mut begin("/", 1000, 1)), (408, "request.timeout".to_owned()));
    };
    let dripping = || {
        let (mut stream, mut answer) = (begin("/", 1000, 1), Vec::new());
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        until("a dripping body is refused", || {
            let _ = stream.write_all(b"x");
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).unwrap_or(0);
            answer.extend_from_slice(&buffer[..length]);
            String::from_utf8_lossy(&answer).contains("request.timeout")
        });
    };
    // The upstream reads nothing for longer than there is patience with the client: but nobody waits for the client.
    let slow = || {
        let size = 8 * KIB * KIB;
        assert_eq!(told(&mut begin("/slow", size, size)).0, 200);
    };
    std::thread::scope(|scope| {
        let waits: [&(dyn Fn() + Sync); 3] = [&stalled, &dripping, &slow];
        waits.iter().for_each(|wait| drop(scope.spawn(*wait)));
    });
    let mut malformed = connect(gate.address);
    malformed
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n")
        .unwrap();
    assert_eq!(told(&mut malformed).0, 400);
}

#[test]
fn status_tells_what_is_left_of_each_limit() {
    let origin = large();
    let route = "[[route]]\nname = \"search\"\npath = \"/search\"\nupstream = \"app\"\nlimits = { rate = \"2/h\", concurrency = 3 }\n";
    let plan = "[plan.default]\nrate = { limit = \"5/h\", burst = 4 }\nconcurrency = 7\n[plan.other]\nbody = \"1KiB\"\n";
    let gate = gate("status-limits", &format!("{}{plan}", app(&[origin.address], "", route)));
    assert_eq!(passed(&gate, "/search", 3), 2);
    let held = begin(&gate, "/large");
    let state = crate::control(&gate, "/status");
    let state: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
    let tenant = &state["tenants"]["busiest"][0];
    let (rate, route) = (&tenant["rates"][0], &tenant["routes"][0]);
    assert_eq!((rate["name"].as_str(), rate["limit"].as_u64()), (Some("default"), Some(5)));
    assert_eq!(rate["remaining"], 1, "two of the search and one under way are spent of four");
    assert_eq!((route["name"].as_str(), route["rates"][0]["remaining"].as_u64()), (Some("search"), Some(0)));
    assert_eq!((route["in_flight"].as_u64(), route["concurrency"].as_u64()), (Some(0), Some(3)));
    assert_eq!((tenant["in_flight"].as_u64(), tenant["concurrency"].as_u64()), (Some(1), Some(7)));
    let plans = &state["plans"];
    assert_eq!((plans[0]["name"].as_str(), plans[0]["tenants"].as_u64()), (Some("default"), Some(1)));
    assert_eq!((plans[0]["in_flight"].as_u64(), plans[0]["rates"][0]["burst"].as_u64()), (Some(1), Some(4)));
    assert_eq!((plans[1]["name"].as_str(), plans[1]["body_bytes"].as_u64()), (Some("other"), Some(1024)));
    drop(held);
    let shown = std::process::Command::new(crate::BINARY)
        .args(["status", "--control", &gate.control.to_string()])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("default: 1 left, 5 in 3600 s; search: 0 left, 2 in 3600 s"), "{shown}");
}

#[test]
fn a_tunnels_bytes_are_held_to_the_pace_too() {
    let origin = Origin::start(|_| Reply::Echo);
    let plan = "[plan.default]\nrequest_bytes_per_second = \"400KiB\"\n";
    let gate = gate("tunnel-pace", &format!("{}{plan}", app(&[origin.address], "", "")));
    let mut tunnel = connect(gate.address);
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut tunnel).status, 101);
    took_at_least(Duration::from_millis(190), || {
        tunnel.write_all(&vec![b'x'; 160 * KIB]).unwrap();
        tunnel.read_exact(&mut vec![0; 160 * KIB]).unwrap();
    });
}

#[test]
fn clients_that_never_end_their_bodies_open_no_breaker_for_others() {
    let origin = ok();
    let breaker = "breaker = { consecutive = 2, cooldown = \"60s\" }\noutlier = { consecutive = 2, max_ejected = \"100%\" }";
    let patient = "[[route]]\nname = \"patient\"\npath = \"/patient\"\nupstream = \"app\"\n";
    let config = app(&[origin.address], breaker, &format!("deadline = \"300ms\"\n{patient}"));
    let plan = "[plan.default]\nrequest_bytes_per_second = \"10KiB\"\n";
    let gate = gate("bodies", &format!("{config}{plan}"));
    for _ in 0..2 {
        let mut stream = connect(gate.address);
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx").unwrap();
        let answer = read_answer(&mut stream);
        assert_eq!((answer.status, code(&answer).as_str()), (408, "request.timeout"));
        // One of unknown length may be waiting for the answer: it is not told to be the client's fault.
        let mut stream = connect(gate.address);
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            .unwrap();
        assert_eq!(code(&read_answer(&mut stream)), "deadline.exceeded");
        // Nor is it the upstream's fault that a tenant's pace holds back what has come.
        let mut stream = connect(gate.address);
        let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 20_000, b'x');
        stream.write_all(&bytes).unwrap();
        assert_eq!(read_answer(&mut stream).status, 408);
    }
    assert_eq!(get(&gate, "/patient").status, 200);
}
