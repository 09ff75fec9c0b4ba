//! `tidegate demo`: two sample application servers, the gate before them, and a little traffic from three tenants, one of
//! them greedy. Real sockets, loopback only; nothing is installed and nothing is left behind.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};

use crate::config::Config;
use crate::run::{Signals, Source, Started, start, stop};

/// The keys of the three tenants: for this demo alone.
const KEYS: [(&str, &str); 3] = [("acme", "demo-acme"), ("globex", "demo-globex"), ("greedy", "demo-greedy")];
/// The pause between two requests of a tenant: the greedy one asks for fifty times as much as it may have.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(400), Duration::from_millis(4)];
/// A connection of a sample server.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one sample server at once.
const CONNECTIONS_MAX: u64 = 256;

/// The configuration of the demo, with its comments.
const CONFIG: &str = include_str!("../../../examples/demo.toml");

/// Runs the demo until Ctrl-C, or for so many seconds.
#[must_use]
pub fn demo(seconds: Option<u64>) -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.expect("the system has an event queue");
    let shown = runtime.block_on(show(seconds.map(Duration::from_secs)));
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn show(time: Option<Duration>) -> Result<(), String> {
    let first = sample_server("one").map_err(|error| format!("no port for a sample server: {error}"))?;
    let second = sample_server("two").map_err(|error| format!("no port for a sample server: {error}"))?;
    let mut text =
        CONFIG.replace("127.0.0.1:3001", &first.to_string()).replace("127.0.0.1:3002", &second.to_string());
    for (name, default) in [("listen", "127.0.0.1:8080"), ("control", "127.0.0.1:8090")] {
        if TcpListener::bind(default).is_err() {
            eprintln!("{default} is in use: the {name} address is another one");
            text = text.replace(default, "127.0.0.1:0");
        }
    }
    let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join("demo.toml");
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    let config = Config::load(&path).map_err(|problems| problems.to_string())?;
    say(&format!("sample servers at {first} and {second}; configuration in {}\n", path.display()));
    let mut signals = Signals::catch().map_err(|error| format!("signals cannot be received: {error}"))?;
    let Started { process, controls } = start(config, Source::File(path)).await?;
    let gate = process
        .gate
        .listening()
        .first()
        .map(|listening| listening.address)
        .ok_or("the gate listens nowhere")?;
    introduce(gate, controls.first().map_or("127.0.0.1:8090", String::as_str));
    let traffic = Traffic::start(gate);
    let ended = watch(&traffic, time, &mut signals).await;
    traffic.stop.store(true, Relaxed);
    stop(&process).await;
    let _ = std::fs::remove_dir_all(&folder);
    ended
}

/// Prints a line. Whether anybody reads yet: a pipe may have been closed.
fn say(line: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}

fn introduce(gate: SocketAddr, control: &str) {
    say(&format!(
        r#"
Three tenants send requests now: acme and globex a few a second, greedy 250 a second, of which its plan allows 5.
Try, in another terminal:

  curl -i http://{gate}/api/hello -H 'Authorization: Bearer demo-acme'     # served, with RateLimit fields
  curl -i http://{gate}/api/hello                                          # 401: no credential
  curl -i http://{gate}/api/hello -H 'Authorization: Bearer demo-greedy'   # 429 most of the time: greedy alone
  curl -i http://{gate}/api/slow -H 'Authorization: Bearer demo-acme'      # 504 after a second: the deadline
  curl -i http://{gate}/api/fail -H 'Authorization: Bearer demo-acme'      # a fixed answer: the ladder's last rung
  curl -N http://{gate}/api/events -H 'Authorization: Bearer demo-acme'    # server-sent events, as they happen

What happened to a request, by the X-Request-Id of its answer:

  curl -s "http://{control}/explain/$(curl -si http://{gate}/api/fail -H 'Authorization: Bearer demo-acme' | sed -n 's/^x-request-id: \([0-9a-f]*\).*/\1/p')?format=text"

  {program} status --control {control}     # endpoints, tenants, limits; --watch for more
  {program} explain limit.rate     # what a refusal means, and how to mend it

Ctrl-C ends it. What is happening:
"#,
        program = program()
    ));
}

/// How this program is called from here.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "tidegate".to_owned() };
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| path.strip_prefix(here).ok().map(PathBuf::from));
    short.unwrap_or(path).display().to_string()
}

/// Requests of the tenants, and how they were answered.
struct Traffic {
    stop: Arc<AtomicBool>,
    counts: Vec<Arc<Counts>>,
}

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Traffic {
    fn start(gate: SocketAddr) -> Traffic {
        let traffic =
            Traffic { stop: Arc::default(), counts: (0..KEYS.len()).map(|_| Arc::default()).collect() };
        for ((counts, (_, key)), pause) in traffic.counts.iter().zip(KEYS).zip(PAUSES) {
            let (stop, counts) = (Arc::clone(&traffic.stop), Arc::clone(counts));
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    match ask(gate, key) {
                        Ok(200) => counts.served.fetch_add(1, Relaxed),
                        Ok(429) => counts.refused.fetch_add(1, Relaxed),
                        Ok(_) | Err(_) => counts.failed.fetch_add(1, Relaxed),
                    };
                    std::thread::sleep(pause);
                }
            });
        }
        traffic
    }
}

/// One request. Its status.
fn ask(gate: SocketAddr, key: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&gate, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!(
        "GET /api/hello HTTP/1.1\r\nHost: demo\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    answer
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Tells every two seconds what the tenants got, until Ctrl-C or the time is over.
async fn watch(traffic: &Traffic, time: Option<Duration>, signals: &mut Signals) -> Result<(), String> {
    const EVERY: Duration = Duration::from_secs(2);
    let end = time.map_or(tidegate_model::tick::Tick::MAX, |time| clock::now().after(time));
    say(&format!("{:>8}  {:>20}  {:>20}  {:>20}", "", "acme", "globex", "greedy"));
    let begun = clock::now();
    loop {
        let next = clock::now().after(EVERY).min(end);
        tokio::select! {
            () = clock::sleep_until(next) => {}
            () = signals.stopped() => return Ok(()),
        }
        let cells = traffic.counts.iter().map(|counts| {
            let (served, refused) = (counts.served.load(Relaxed), counts.refused.load(Relaxed));
            format!("{:>20}", format!("{served} ok, {refused} refused"))
        });
        let seconds = clock::now().since(begun).as_secs();
        let read = say(&format!("{:>6} s  {}", seconds, cells.collect::<Vec<_>>().join("  ")));
        if !read {
            return Ok(());
        }
        if clock::now() >= end {
            let failed: u64 = traffic.counts.iter().map(|counts| counts.failed.load(Relaxed)).sum();
            return if failed == 0 { Ok(()) } else { Err(format!("{failed} requests failed")) };
        }
    }
}

/// Starts a sample application server: what a SaaS's own server might be.
fn sample_server(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let open = Arc::<AtomicU64>::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Relaxed) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Relaxed);
                continue;
            }
            let open = Arc::clone(&open);
            std::thread::spawn(move || {
                // A client that has gone is no failure of the server.
                let _ = serve(stream, name);
                open.fetch_sub(1, Relaxed);
            });
        }
    });
    Ok(address)
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.by_ref().take(8 * 1024).read_line(&mut line)? == 0 || head.len() > 100 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let field = |wanted: &str| {
            let fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
            fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
        };
        let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("/").to_owned();
        let tenant = field("tidegate-tenant").unwrap_or("nobody").to_owned();
        answer(&mut stream, name, &path, &tenant)?;
    }
}

fn answer(stream: &mut TcpStream, name: &str, path: &str, tenant: &str) -> std::io::Result<()> {
    match path.split('?').next().unwrap_or(path) {
        "/events" => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
            )?;
            for number in 0..30 {
                // In one piece: so it is one event on the wire, too.
                stream.write_all(format!("data: event {number} of server {name}\n\n").as_bytes())?;
                std::thread::sleep(Duration::from_secs(1));
            }
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        "/slow" => {
            std::thread::sleep(Duration::from_secs(3));
            json(stream, "200 OK", &serde_json::json!({"server": name, "slept_seconds": 3}))
        }
        "/fail" => json(
            stream,
            "503 Service Unavailable",
            &serde_json::json!({"server": name, "error": "the sample fails"}),
        ),
        path => json(stream, "200 OK", &serde_json::json!({"server": name, "path": path, "tenant": tenant})),
    }
}

fn json(stream: &mut TcpStream, status: &str, body: &serde_json::Value) -> std::io::Result<()> {
    let body = format!("{body}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::credential::Digest;

    #[test]
    fn the_configuration_holds_the_keys_that_the_traffic_uses() {
        for (tenant, key) in KEYS {
            let digest: String =
                Digest::of(key.as_bytes()).0.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(CONFIG.contains(&digest), "{tenant}: {digest}");
        }
    }
}
