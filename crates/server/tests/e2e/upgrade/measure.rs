//! What `cargo xtask bench upgrade` measures: 1,000 requests a second, open-loop, through ten upgrades in a row.
//!
//! Each request is due at a time of its own, whatever became of those before; its latency counts from there. No request may fail.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_testkit::tls::{certificate, tls_connect, tls_connect_h2};
use tidegate_testkit::{Gate, H2Client, Origin, connect, h2_read};

use super::load::exchange;
use super::own_binary;
use crate::deferred::Data;

const UPGRADES: usize = 10;
/// Requests a second of a client.
const PACE: u32 = 50;
/// Before the first upgrade, between two, and after the last.
const BETWEEN: Duration = Duration::from_secs(4);
/// How long after an upgrade was asked for it counts as one that is under way.
const AROUND: Duration = Duration::from_secs(2);
/// Cores of the processes one after another.
const WORKERS: [usize; UPGRADES] = [2, 3, 1, 2, 2, 4, 1, 2, 3, 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    New,
    Kept,
    Tls,
    H2,
    Key,
    KeyTls,
}

/// Each kind, and so many clients of it: 20 clients in all.
const KINDS: [(Kind, &str, usize); 6] = [
    (Kind::New, "HTTP/1.1, a connection each", 4),
    (Kind::Kept, "HTTP/1.1, kept", 4),
    (Kind::Tls, "HTTP/1.1 over TLS, kept", 4),
    (Kind::H2, "HTTP/2 over TLS", 4),
    (Kind::Key, "POST under a key, kept", 2),
    (Kind::KeyTls, "POST under a key over TLS, kept", 2),
];

/// What became of a request: when it was due, how long after that it was answered, or why not.
struct Outcome {
    due: Instant,
    took: Result<Duration, String>,
}

struct Clients {
    http: SocketAddr,
    https: SocketAddr,
    began: Instant,
    stop: AtomicBool,
}

impl Clients {
    fn request(kind: Kind, name: &str) -> Vec<u8> {
        match kind {
            Kind::Key | Kind::KeyTls => super::stored::post("/pay", name),
            _ => b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
        }
    }

    /// Makes requests at their times until it is told to stop.
    fn run(&self, kind: Kind, client: usize) -> Vec<Outcome> {
        if kind == Kind::H2 {
            return self.run_h2(client);
        }
        let (mut plain, mut secure) = (None, None);
        self.paced(client, |number| {
            let request = Clients::request(kind, &format!("{kind:?}-{client}-{number}"));
            let expected = if matches!(kind, Kind::Key | Kind::KeyTls) { 201 } else { 200 };
            let done = if matches!(kind, Kind::Tls | Kind::KeyTls) {
                if secure.is_none() {
                    let made = tls_connect(self.https, "a.test", &["http/1.1"]);
                    secure = Some(made.map_err(|error| format!("no handshake: {error}"))?);
                }
                exchange(secure.as_mut().expect("just made"), &request)
            } else {
                exchange(plain.get_or_insert_with(|| connect(self.http)), &request)
            };
            if kind == Kind::New || !matches!(done, Ok((_, true))) {
                (plain, secure) = (None, None);
            }
            match done? {
                (status, _) if status == expected => Ok(()),
                (status, _) => Err(format!("status {status}")),
            }
        })
    }

    fn run_h2(&self, client: usize) -> Vec<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut held: Option<H2Client> = None;
        self.paced(client, |_| {
            runtime.block_on(async {
                // What is told to go away before it is heard is asked again, once, as every client does.
                for _ in 0..2 {
                    let client = match held.take() {
                        Some(client) => client,
                        None => tls_connect_h2(self.https, "a.test").await,
                    };
                    let Ok(mut client) = client.ready().await else { continue };
                    let request = http::Request::get("https://a.test/").body(()).expect("a request");
                    let Ok((response, _)) = client.send_request(request, true) else { continue };
                    match response.await {
                        Ok(response) if response.status() == 200 => {
                            h2_read(&mut response.into_body()).await;
                            held = Some(client);
                            return Ok(());
                        }
                        Ok(response) => return Err(format!("status {}", response.status())),
                        Err(error) if error.is_go_away() && error.is_remote() => {}
                        Err(error) => return Err(format!("h2: {error}")),
                    }
                }
                Err("told to go away twice".to_owned())
            })
        })
    }

    #[expect(clippy::disallowed_methods, reason = "a measure has a clock of its own")]
    fn paced(&self, client: usize, mut one: impl FnMut(usize) -> Result<(), String>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        // Not all at one moment.
        let offset = Duration::from_micros(997) * u32::try_from(client).expect("few");
        for number in 0.. {
            let due =
                self.began + offset + Duration::from_secs(1) * u32::try_from(number).expect("few") / PACE;
            if self.stop.load(Relaxed) {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let took = one(number).map(|()| due.elapsed());
            outcomes.push(Outcome { due, took });
        }
        outcomes
    }
}

/// What passed of a tenant that asks four times as often as it may.
#[expect(clippy::disallowed_methods, reason = "a measure has a clock of its own")]
fn limited(clients: &Clients) -> (usize, f64) {
    let mut stream = connect(clients.http);
    let (mut passed, began) = (0, Instant::now());
    while !clients.stop.load(Relaxed) {
        match exchange(&mut stream, b"GET /limited HTTP/1.1\r\nHost: a.test\r\n\r\n") {
            Ok((200, _)) => passed += 1,
            Ok(_) => {}
            Err(_) => stream = connect(clients.http),
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    (passed, began.elapsed().as_secs_f64())
}

fn config(data: &Data, origin: &Origin, folder: &std::path::Path, workers: usize) -> String {
    format!(
        "workers = {workers}\n[store]\nurl = \"sqlite:{}\"\n[tenants]\nfrom = [{{ address = \"client\" }}]\n\
         [defaults.route]\ndeadline = \"20s\"\n[upstream.app]\nendpoints = [\"{}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"app\"\n\
         [[route]]\nname = \"limited\"\npath = \"/limited\"\nupstream = \"app\"\nlimits = {{ rate = {{ limit = \"10/s\", burst = 10 }} }}\n\
         [[route]]\nname = \"pay\"\npath = \"/pay\"\nupstream = \"app\"\nidempotency = {{ ttl = \"1h\" }}\n\
         [[tls]]\ncert = \"{}\"\nkey = \"{}\"\n",
        data.0.display(),
        origin.address,
        folder.join("a.pem").display(),
        folder.join("a.key").display()
    )
}

/// The latency that so many of them are below.
fn quantile(of: &mut [Duration], share: f64) -> String {
    of.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
    let place = ((of.len() as f64 * share) as usize).min(of.len().saturating_sub(1));
    of.get(place).map_or("-".to_owned(), |took| format!("{:.1} ms", took.as_secs_f64() * 1e3))
}

/// What became of them, as a table, and why some failed.
fn table(outcomes: &[Vec<Outcome>], upgrades: &[(Instant, Duration)]) -> (String, Vec<String>) {
    let mut told = String::from(
        "| | requests | failed | p50 | p99 | p99 around an upgrade | longest |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut failures = Vec::new();
    for ((_, title, _), outcomes) in KINDS.iter().zip(outcomes) {
        let (mut calm, mut around) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            let near = |(asked, _): &(Instant, Duration)| {
                outcome.due + AROUND > *asked && outcome.due < *asked + AROUND
            };
            match &outcome.took {
                Ok(took) if upgrades.iter().any(near) => around.push(*took),
                Ok(took) => calm.push(*took),
                Err(why) => failures.push(format!("{title}: {why}")),
            }
        }
        let failed = outcomes.len() - calm.len() - around.len();
        let longest = around.iter().chain(&calm).max().copied().unwrap_or_default();
        let _ = writeln!(
            told,
            "| {title} | {} | {failed} | {} | {} | {} | {:.1} ms |",
            outcomes.len(),
            quantile(&mut calm, 0.5),
            quantile(&mut calm, 0.99),
            quantile(&mut around, 0.99),
            longest.as_secs_f64() * 1e3
        );
    }
    (told, failures)
}

#[test]
#[ignore = "a measure of a minute: cargo xtask bench upgrade"]
#[expect(clippy::disallowed_methods, reason = "a measure has a clock of its own")]
fn ten_upgrades_in_a_row_under_a_thousand_requests_a_second() {
    let effects = Arc::<Mutex<HashMap<String, usize>>>::default();
    let counted = Arc::clone(&effects);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        match visit.field("x-name") {
            Some(name) => {
                *counted.lock().entry(name).or_default() += 1;
                visit.say("HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nmade")
            }
            None => visit.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere"),
        }
    });
    let data = Data::new("upgrade-measure");
    let folder = Gate::folder("upgrade-measure");
    let _ = certificate(&["a.test"], &folder.join("a.pem"), &folder.join("a.key"));
    let listen = "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]";
    let binary = own_binary("upgrade-measure");
    let first = config(&data, &origin, &folder, 2);
    let mut gate = Gate::start_listening(binary.to_str().expect("a path"), "upgrade-measure", listen, &first);
    let (http, https) = (gate.listeners[0], gate.listeners[1]);
    let clients = Clients { http, https, began: Instant::now(), stop: AtomicBool::new(false) };
    let mut upgrades: Vec<(Instant, Duration)> = Vec::new();
    let (outcomes, limited) = std::thread::scope(|scope| {
        let clients = &clients;
        let limited = scope.spawn(|| limited(clients));
        let mut running = Vec::new();
        for (place, (kind, _, count)) in KINDS.into_iter().enumerate() {
            for _ in 0..count {
                let number = running.len();
                running.push((place, scope.spawn(move || clients.run(kind, number))));
            }
        }
        std::thread::sleep(BETWEEN);
        for workers in WORKERS {
            gate.rewrite(&config(&data, &origin, &folder, workers));
            let asked = Instant::now();
            gate.upgrade().unwrap_or_else(|why| panic!("{why} {}", gate.said()));
            upgrades.push((asked, asked.elapsed()));
            std::thread::sleep(BETWEEN);
        }
        clients.stop.store(true, Relaxed);
        let mut outcomes: Vec<Vec<Outcome>> = KINDS.iter().map(|_| Vec::new()).collect();
        for (place, client) in running {
            outcomes[place].extend(client.join().expect("a client does not panic"));
        }
        (outcomes, limited.join().expect("a client does not panic"))
    });
    let (mut told, failures) = table(&outcomes, &upgrades);
    let twice = effects.lock().values().filter(|count| **count != 1).count();
    let (passed, seconds) = limited;
    let mut took: Vec<Duration> = upgrades.iter().map(|(_, took)| *took).collect();
    let _ = writeln!(
        told,
        "\n{UPGRADES} upgrades, from {WORKERS:?} cores to the next; from the command to the new process serving {} (median), {} (longest). \
         Effects of keys: {}, of which not exactly once: {twice}. A tenant that asked four times as often as its 10 a second was let \
         through {passed} times in {seconds:.1} s, where {:.0} are allowed.",
        quantile(&mut took.clone(), 0.5),
        quantile(&mut took, 1.0),
        effects.lock().len(),
        10.0 + 10.0 * seconds
    );
    println!("measured\n{told}end of what was measured");
    assert_eq!((failures, twice), (Vec::new(), 0));
    assert!((passed as f64) <= 11.0 + 10.0 * seconds, "{passed} in {seconds} s");
}
