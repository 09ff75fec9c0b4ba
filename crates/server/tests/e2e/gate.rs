//! The gate before an upstream: who goes in when it is full, who is shed, and what is told of it. Who was served is seen by
//! the origin, in its order; nothing is measured by how long it took.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_testkit::{Answer, Gate, Origin, Reply, ask, connect, until};

use crate::BINARY;
use crate::upstreams::{Switch, holding, timeline, told, upstream};

/// Whoever asks from here is believed which tenant it is.
const TRUSTING: &str = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";

/// One slot, and a waiting list in which nobody's time is over during a test.
const ONE: &str = "concurrency = 1\nwaiting = { wait = \"60s\" }";

/// A gate that believes `X-Tenant`, with these lines of the upstream and further ones.
fn gate(name: &str, origin: SocketAddr, upstream: &str, rest: &str) -> Gate {
    Gate::start_listening(BINARY, name, TRUSTING, &config(origin, upstream, rest))
}

fn config(origin: SocketAddr, upstream: &str, rest: &str) -> String {
    format!(
        "workers = 2\n[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n[defaults.route]\ndeadline = \"60s\"\n\
         [upstream.app]\nendpoints = [\"{origin}\"]\n{upstream}\n[[route]]\nname = \"all\"\nupstream = \"app\"\n{rest}"
    )
}

/// A request of a tenant that is under way when this returns.
fn send(gate: &Gate, tenant: &str, line: &'static str) -> JoinHandle<Answer> {
    let (address, headers) = (gate.address, format!("X-Tenant: {tenant}\r\n"));
    std::thread::spawn(move || ask(address, line, &headers))
}

fn until_waiting(gate: &Gate, count: usize) {
    until("they wait", || upstream(gate)["waiting"] == count);
}

/// So many requests of a tenant that wait, where so many wait already.
fn queue(
    gate: &Gate,
    tenant: &str,
    line: &'static str,
    count: usize,
    before: usize,
) -> Vec<JoinHandle<Answer>> {
    (1..=count)
        .map(|number| {
            let sent = send(gate, tenant, line);
            until_waiting(gate, before + number);
            sent
        })
        .collect()
}

/// The tenants whose requests came to the origin, in their order.
fn order(origin: &Origin) -> Vec<String> {
    let tenant = |head: &str| {
        let head = head.to_ascii_lowercase();
        head.lines().find_map(|line| line.strip_prefix("tidegate-tenant: ")).unwrap_or_default().to_owned()
    };
    origin.recorded().iter().map(|one| tenant(&one.head)).collect()
}

#[test]
fn a_greedy_tenant_makes_nobody_else_wait_for_all_of_its_requests() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let gate = gate("fair", origin.address, ONE, "");
    let first = send(&gate, "greedy", "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    let mut sent = queue(&gate, "greedy", "GET /", 20, 0);
    sent.extend(queue(&gate, "victim", "GET /", 1, 20));
    assert_eq!(upstream(&gate)["in_use"], 1);
    released.set(true);
    assert_eq!(first.join().unwrap().status, 200);
    let answers: Vec<Answer> = sent.into_iter().map(|one| one.join().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let order = order(&origin);
    let place = order.iter().position(|tenant| tenant == "victim").expect("it was served");
    assert!(place <= 3, "{order:?}");
    let told = timeline(&gate, answers.last().unwrap());
    assert!(told.contains("waited "), "{told}");
    until("all slots are back", || upstream(&gate)["in_use"] == 0);
}

#[test]
fn the_noisy_neighbour_is_named_by_the_api_the_command_and_the_log() {
    let origin = Origin::start(|_| Reply::After(Duration::from_millis(5)));
    let config = config(origin.address, "concurrency = 1\nwaiting = { limit = 4, wait = \"60s\" }", "");
    let rest = "[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\nlevel = \"info\"";
    let gate =
        Gate::start_whole(BINARY, "verdict", &[], &format!("{config}\n[listen]\n{TRUSTING}\n{rest}\n"));
    assert_eq!(upstream(&gate)["verdict"], serde_json::Value::Null);
    let (done, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (address, done, refused) = (gate.address, Arc::clone(&done), Arc::clone(&refused));
            std::thread::spawn(move || {
                while !done.load(Relaxed) {
                    let answer = ask(address, "GET /", "X-Tenant: greedy\r\n");
                    refused.fetch_add(usize::from(answer.status == 503), Relaxed);
                }
            })
        })
        .collect();
    until("it is named", || {
        let seen = upstream(&gate);
        let heaviest = &seen["heaviest"][0];
        refused.load(Relaxed) > 0
            && seen["saturated_ms"].is_number()
            && (&heaviest["tenant"], &heaviest["route"]) == (&"greedy".into(), &"all".into())
            && heaviest["share"].as_f64().is_some_and(|share| share > 0.9)
    });
    // Whoever is held up with a slot by a machine that stalls has used it for so long, and asks for much for a while.
    until("nobody who asks for little is refused", || {
        let status = || ask(gate.address, "GET /", "X-Tenant: victim\r\n").status;
        let count = (0..20).filter(|_| status() == 503).count();
        refused.fetch_add(count, Relaxed);
        count == 0
    });
    let named = "tenant greedy used ";
    until("the log names it", || gate.said().contains(named));
    let mut command = std::process::Command::new(BINARY);
    let out = command.args(["status", "--control", &gate.control.to_string()]).output().unwrap();
    let listed = String::from_utf8(out.stdout).unwrap();
    assert!(listed.contains("app saturated for ") && listed.contains(named), "{listed}");
    done.store(true, Relaxed);
    load.into_iter().for_each(|one| one.join().unwrap());
    let seen = upstream(&gate);
    let by_reason = seen["gate_refused"].as_object().unwrap().values().filter_map(|count| count.as_u64());
    assert_eq!(by_reason.sum::<u64>() as usize, refused.load(Relaxed), "{seen}");
    let metric = |sample: &str| gate.metric(sample);
    assert_eq!(metric("tidegate_upstream_slots{upstream=\"app\"}"), Some(1.0));
    let full = metric("tidegate_upstream_gate_refused_total{upstream=\"app\",reason=\"full\"}");
    assert_eq!(full, seen["gate_refused"]["full"].as_f64(), "{}", told(&gate, "/metrics"));
    let verdict = &seen["verdict"];
    assert_eq!((&verdict["tenant"], &verdict["route"]), (&"greedy".into(), &"all".into()));
    assert_eq!(verdict["refused"].as_u64(), Some(refused.load(Relaxed) as u64), "{verdict}");
    let count = |key: &str| verdict[key].as_u64().unwrap();
    assert!(count("queued") > count("tenant_queued") && count("tenant_queued") > 0, "{verdict}");
    assert!(count("waited_max_ms") >= 5, "{verdict}");
}

#[test]
fn tenants_get_slots_by_the_weights_of_their_plans() {
    let released = Switch::default();
    let held = released.clone();
    let origin = Origin::start(move |path| {
        if path == "/held" {
            held.wait();
        }
        Reply::After(Duration::from_millis(4))
    });
    let plans = "[plan.heavy]\nweight = 6\n[tenant.heavy]\nplan = \"heavy\"\n";
    let gate = gate("weights", origin.address, ONE, plans);
    let round = || {
        released.set(false);
        let before = origin.recorded().len();
        let first = send(&gate, "other", "GET /held");
        until("it arrives", || origin.recorded().len() == before + 1);
        let mut sent = queue(&gate, "light", "GET /", 14, 0);
        sent.extend(queue(&gate, "heavy", "GET /", 14, 14));
        released.set(true);
        for one in sent.into_iter().chain([first]) {
            assert_eq!(one.join().unwrap().status, 200);
        }
        order(&origin).split_off(before + 1)
    };
    // Twelve of fourteen by the weights; what a request takes here differs by much, and who is held up by a machine that
    // stalls has used its slot for so long: most of some rounds are as they should be.
    let rounds: Vec<Vec<String>> = (0..5).map(|_| round()).collect();
    let heavy = |round: &&Vec<String>| {
        (9..=13).contains(&round[..14].iter().filter(|tenant| *tenant == "heavy").count())
    };
    assert!(rounds.iter().filter(heavy).count() >= 3, "{rounds:?}");
}

/// How long the origin worked for each of three tenants, and on how many requests in all.
#[derive(Default)]
struct Worked {
    time: [Duration; 3],
    requests: usize,
}

fn now() -> std::time::Instant {
    #[expect(clippy::disallowed_methods, reason = "the origin's own work, by a clock that is not the gate's")]
    std::time::Instant::now()
}

#[test]
fn saturating_tenants_get_slot_time_as_one_to_three_to_six() {
    // What comes before every line stands is not counted.
    const BEFORE: usize = 60;
    const COUNTED: usize = 240;
    // So many wait always, if what they wait for are slots.
    const CLIENTS: usize = 36;
    const TENANTS: [(&str, &str); 3] = [("GET /a", "a"), ("GET /b", "b"), ("GET /c", "c")];
    let (worked, service_ms) = (Arc::new(Mutex::new(Worked::default())), Arc::new(AtomicU64::new(4)));
    let (seen, service) = (Arc::clone(&worked), Arc::clone(&service_ms));
    let origin = Origin::start(move |path| {
        let began = now();
        std::thread::sleep(Duration::from_millis(service.load(Relaxed)));
        let mut seen = seen.lock().unwrap();
        if seen.requests >= BEFORE {
            let tenant = TENANTS.iter().position(|(line, _)| line.ends_with(path)).unwrap();
            seen.time[tenant] += began.elapsed();
        }
        seen.requests += 1;
        Reply::Status(200, String::new())
    });
    let plans = "[plan.a]\nweight = 1\n[plan.b]\nweight = 3\n[plan.c]\nweight = 6\n\
                 [tenant.a]\nplan = \"a\"\n[tenant.b]\nplan = \"b\"\n[tenant.c]\nplan = \"c\"\n";
    let slots = "concurrency = 8\nwaiting = { wait = \"60s\" }";
    let gate = gate("shares", origin.address, slots, plans);
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (address, done, (line, tenant)) = (gate.address, Arc::clone(&done), TENANTS[number % 3]);
            std::thread::spawn(move || {
                let (mut stream, tenant) = (connect(address), format!("X-Tenant: {tenant}\r\n"));
                while !done.load(Relaxed) {
                    assert_eq!(tidegate_testkit::ask_on(&mut stream, line, &tenant).status, 200);
                }
            })
        })
        .collect();
    // A machine that stalls gives and takes some hundredths, the less the longer one looks; what is unfair stays so.
    // Where it is so slow that slots are not what is short, the work becomes longer.
    let mut since = now();
    until("each has its share of the time, within ten hundredths", || {
        let mut worked = worked.lock().unwrap();
        let enough = worked.requests >= BEFORE + COUNTED;
        if enough && since.elapsed() > Duration::from_secs(2) {
            service_ms.fetch_add(service_ms.load(Relaxed), Relaxed);
            (*worked, since) = (Worked::default(), now());
        }
        let all: Duration = worked.time.iter().sum();
        let is_fair = |(time, weight): (&Duration, f64)| {
            (0.9..=1.1).contains(&(time.as_secs_f64() / all.as_secs_f64() / weight * 10.0))
        };
        enough && worked.time.iter().zip([1.0, 3.0, 6.0]).all(is_fair)
    });
    done.store(true, Relaxed);
    load.into_iter().for_each(|one| one.join().unwrap());
}

#[test]
fn no_slot_is_idle_while_the_only_tenant_waits() {
    const SLOTS: usize = 4;
    const ALL: usize = 12;
    let (came, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(ALL);
    let (comes, ended, seen) = (Arc::clone(&came), Mutex::new(ended), Arc::clone(&most));
    let inside = AtomicUsize::new(0);
    let origin = Origin::start(move |_| {
        seen.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
        comes.fetch_add(1, Relaxed);
        // Each word ends one of those inside.
        let _ = ended.lock().unwrap().recv();
        inside.fetch_sub(1, Relaxed);
        Reply::Status(200, String::new())
    });
    let slots = format!("concurrency = {SLOTS}\nwaiting = {{ wait = \"60s\" }}");
    let plans = "[plan.heavy]\nweight = 100\n[tenant.heavy]\nplan = \"heavy\"\n";
    let gate = gate("lone", origin.address, &slots, plans);
    let sent: Vec<_> = (0..ALL).map(|_| send(&gate, "light", "GET /")).collect();
    until_waiting(&gate, ALL - SLOTS);
    for done in 0..ALL {
        until("all slots are at work", || came.load(Relaxed) == ALL.min(done + SLOTS));
        assert_eq!(upstream(&gate)["waiting"], ALL.saturating_sub(done + SLOTS));
        end.send(()).unwrap();
    }
    assert!(sent.into_iter().all(|one| one.join().unwrap().status == 200));
    assert_eq!(most.load(Relaxed), SLOTS);
}

#[test]
fn the_less_important_is_shed_first() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let routes = "[[route]]\nname = \"critical\"\npath = \"/critical\"\nupstream = \"app\"\npriority = \"critical\"\n\
                  [[route]]\nname = \"sheddable\"\npath = \"/sheddable\"\nupstream = \"app\"\npriority = \"sheddable\"\n";
    let gate = gate(
        "priorities",
        origin.address,
        "concurrency = 1\nwaiting = { limit = 1, wait = \"60s\" }",
        routes,
    );
    let first = send(&gate, "a", "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    let sheddable = queue(&gate, "a", "GET /sheddable", 1, 0).remove(0);
    let default = send(&gate, "b", "GET /");
    let shed = sheddable.join().unwrap();
    assert_eq!((shed.status, shed.body.contains("a more important request")), (503, true), "{}", shed.body);
    assert!(shed.header("retry-after").parse::<u64>().is_ok_and(|wait| wait > 0), "{}", shed.head);
    let told = timeline(&gate, &shed);
    assert!(told.contains("waited ") && told.contains("upstream.saturated"), "{told}");
    let critical = send(&gate, "a", "GET /critical");
    let shed = default.join().unwrap();
    assert!(shed.body.contains("a more important request"), "{}", shed.body);
    // Nobody makes room for one that is less important, or as important and of a tenant that asks for as much.
    for line in ["GET /sheddable", "GET /"] {
        let refused = ask(gate.address, line, "X-Tenant: b\r\n");
        assert!(refused.body.contains("the waiting list is full"), "{}", refused.body);
    }
    released.set(true);
    assert_eq!([first, critical].map(|one| one.join().unwrap().status), [200, 200]);
    assert_eq!(upstream(&gate)["gate_refused"]["displaced"], 2);
}

#[test]
fn one_that_leaves_gives_its_place_to_another() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let gate = gate("leaves", origin.address, "concurrency = 1\nwaiting = { limit = 1, wait = \"60s\" }", "");
    let first = send(&gate, "a", "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: a\r\n\r\n").unwrap();
    until_waiting(&gate, 1);
    drop(stream);
    until_waiting(&gate, 0);
    let second = queue(&gate, "b", "GET /", 1, 0).remove(0);
    released.set(true);
    assert_eq!([first, second].map(|one| one.join().unwrap().status), [200, 200]);
    until("nothing is held", || upstream(&gate)["in_use"] == 0 && upstream(&gate)["waiting"] == 0);
    assert_eq!(order(&origin), ["a", "b"]);
}

#[test]
fn a_retry_stands_where_its_exchange_stood() {
    let (first_try, held) = (Switch::default(), Switch::default());
    let switches = (first_try.clone(), held.clone());
    let origin = Origin::start(move |path| match path {
        "/retried" if !switches.0.is_on() => {
            switches.0.wait();
            Reply::Status(503, String::new())
        }
        "/held" => {
            switches.1.wait();
            Reply::Status(200, String::new())
        }
        _ => Reply::Status(200, String::new()),
    });
    let upstream = format!("{ONE}\noutlier = {{ consecutive = 0 }}");
    let retry = "retry = { tries = 2, backoff = \"1ms\" }\n";
    let gate = gate("place", origin.address, &upstream, retry);
    let retried = send(&gate, "a", "GET /retried");
    until("it arrives", || origin.recorded().len() == 1);
    let mut sent = queue(&gate, "a", "GET /held", 1, 0);
    sent.extend(queue(&gate, "a", "GET /later", 1, 1));
    first_try.set(true);
    // Its slot went to the next in line, and it waits again, with the one that came later.
    until("the held one arrives", || paths(&origin).len() == 2);
    until_waiting(&gate, 2);
    held.set(true);
    for one in sent.into_iter().chain([retried]) {
        assert_eq!(one.join().unwrap().status, 200);
    }
    assert_eq!(paths(&origin), ["/retried", "/held", "/retried", "/later"]);
}

/// What the origin was asked for, in its order.
fn paths(origin: &Origin) -> Vec<String> {
    let path = |head: &str| head.split(' ').nth(1).unwrap_or_default().to_owned();
    origin.recorded().iter().map(|one| path(&one.head)).collect()
}

#[test]
fn who_reads_slowly_keeps_nobody_out() {
    let origin = Origin::start(|path| match path {
        "/large" => Reply::Status(200, "x".repeat(16 << 20)),
        _ => Reply::Status(200, String::new()),
    });
    let gate = gate("reader", origin.address, ONE, "");
    let mut reader = connect(gate.address);
    std::io::Write::write_all(&mut reader, b"GET /large HTTP/1.1\r\nHost: a\r\nX-Tenant: a\r\n\r\n").unwrap();
    until("it arrives", || origin.recorded().len() == 1);
    assert_eq!(ask(gate.address, "GET /", "X-Tenant: b\r\n").status, 200);
    assert_eq!(upstream(&gate)["in_use"], 0);
    // It gets all of it all the same.
    let mut read = Vec::new();
    reader.shutdown(std::net::Shutdown::Write).unwrap();
    std::io::Read::read_to_end(&mut reader, &mut read).unwrap();
    assert!(read.len() > 16 << 20, "{}", read.len());
}

#[test]
fn an_adaptive_limit_is_found_between_its_ends() {
    let origin = Origin::start(|_| Reply::After(Duration::from_millis(2)));
    let limits = "concurrency = { min = 2, max = 6, initial = 2 }\nwaiting = { wait = \"60s\" }";
    let gate = gate("adaptive", origin.address, limits, "");
    assert_eq!((&upstream(&gate)["concurrency"], &upstream(&gate)["adaptive"]), (&2.into(), &true.into()));
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..12)
        .map(|_| {
            let (address, done) = (gate.address, Arc::clone(&done));
            std::thread::spawn(move || {
                let mut stream = connect(address);
                while !done.load(Relaxed) {
                    assert_eq!(tidegate_testkit::ask_on(&mut stream, "GET /", "X-Tenant: a\r\n").status, 200);
                }
            })
        })
        .collect();
    let mut most = 0;
    until("it grows while the upstream answers more", || {
        let seen = upstream(&gate)["concurrency"].as_u64().unwrap();
        most = most.max(seen);
        assert!((2..=6).contains(&seen), "{seen}");
        seen >= 4
    });
    done.store(true, Relaxed);
    load.into_iter().for_each(|one| one.join().unwrap());
    assert!(upstream(&gate)["waiting"] == 0);
}
