//! The closed-loop load: wrk for HTTP/1.1, h2load for HTTP/2, new connections and idle ones.
//!
//! Both are asked how many answers were good; a round in which one was not is no figure. Clients offer X25519 and
//! AES-128-GCM alone, so that all servers do the same cryptography.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::now;

/// Connections of wrk.
const CONNECTIONS: u32 = 32;
/// New connections that are opened together, again and again.
const BURST: u32 = 64;

/// How load is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Kept-alive HTTP/1.1.
    KeepAlive,
    /// HTTP/2, by ALPN where there is TLS.
    Http2 { connections: u32, streams: u32 },
    /// HTTP/1.1 over TLS, a connection and a full handshake per request.
    NewConnections,
}

/// What a load generator counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    pub good: u64,
    /// Answers that were not 2xx.
    pub refused: u64,
    /// Connections that failed, and requests without an answer.
    pub broken: u64,
    pub seconds: f64,
}

impl Counted {
    /// Whether this counts.
    ///
    /// # Errors
    /// How many answers were not 2xx, or never came.
    pub fn check(&self) -> Result<(), String> {
        let Self { good, refused, broken, .. } = self;
        if *refused > 0 || *broken > 0 {
            return Err(format!(
                "{refused} answers were not 2xx and {broken} never came, beside {good} good ones"
            ));
        }
        if *good == 0 { Err("no answer".to_owned()) } else { Ok(()) }
    }
}

/// The load of one round.
pub struct Load<'a> {
    pub shape: Shape,
    pub url: &'a str,
    /// What wrk sends.
    pub script: &'a Path,
    /// The ciphers that clients offer.
    pub openssl: &'a Path,
    pub time: Duration,
}

impl Load<'_> {
    /// Runs it to its end.
    pub fn run(&self) -> Result<Counted, String> {
        match self.shape {
            Shape::KeepAlive => self.wrk(),
            Shape::Http2 { connections, streams } => {
                let seconds = self.seconds();
                let mut counted = self.h2load(&[
                    format!("-c{connections}"),
                    format!("-m{streams}"),
                    format!("-D{seconds}"),
                ])?;
                counted.seconds = seconds as f64;
                Ok(counted)
            }
            Shape::NewConnections => self.new_connections(),
        }
    }

    /// A few requests, to see that they are answered well.
    pub fn warm(&self) -> Result<Counted, String> {
        let protocol = if matches!(self.shape, Shape::Http2 { .. }) { "--npn-list=h2" } else { "--h1" };
        self.h2load(&[protocol.to_owned(), "-c8".to_owned(), "-n64".to_owned()])
    }

    /// Both tools take whole seconds alone.
    fn seconds(&self) -> u64 {
        self.time.as_secs().max(1)
    }

    fn wrk(&self) -> Result<Counted, String> {
        let output = Command::new("wrk")
            .args([
                "-t1",
                &format!("-c{CONNECTIONS}"),
                &format!("-d{}", self.seconds()),
                "--timeout",
                "5",
                "-s",
            ])
            .arg(self.script)
            .arg(self.url)
            .env("OPENSSL_CONF", self.openssl)
            .output()
            .map_err(|error| format!("wrk: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        read_wrk(&text).ok_or_else(|| format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    fn h2load(&self, arguments: &[String]) -> Result<Counted, String> {
        let output = Command::new("h2load")
            .args(arguments)
            .arg(self.url)
            .env("OPENSSL_CONF", self.openssl)
            .output()
            .map_err(|error| format!("h2load: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        read_h2load(&text).ok_or_else(|| format!("h2load: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// wrk resumes its TLS sessions, h2load never does: so one request per client, and then new clients.
    fn new_connections(&self) -> Result<Counted, String> {
        let start = now();
        let mut all = Counted::default();
        while start.elapsed() < self.time {
            let some = self.h2load(&["--h1".to_owned(), format!("-c{BURST}"), format!("-n{BURST}")])?;
            all.good += some.good;
            all.refused += some.refused;
            all.broken += some.broken;
        }
        all.seconds = start.elapsed().as_secs_f64();
        Ok(all)
    }
}

/// Connections that make one request each and then stay, until this is dropped.
pub struct Idle {
    child: Child,
}

impl Idle {
    pub fn open(url: &str, connections: usize, openssl: &Path) -> Result<Self, String> {
        // Two requests per connection, the second one long after all of this is over.
        let child = Command::new("h2load")
            .args([
                "--h1",
                "-r2500",
                "--rps=0.005",
                &format!("-c{connections}"),
                &format!("-n{}", 2 * connections),
            ])
            .arg(url)
            .env("OPENSSL_CONF", openssl)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("h2load: {error}"))?;
        Ok(Self { child })
    }

    /// Whether the connections are gone before their time.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_wrk(text: &str) -> Option<Counted> {
    let summary = text.lines().find(|line| line.contains(" requests in "))?;
    let mut words = summary.split_whitespace();
    let all: u64 = words.next()?.parse().ok()?;
    let seconds = seconds_of(words.nth(2)?.trim_end_matches(','))?;
    let refused = number_after(text, "Non-2xx or 3xx responses:").unwrap_or(0);
    let broken = ["connect ", "read ", "write ", "timeout "]
        .iter()
        .filter_map(|kind| number_after(text.lines().find(|line| line.contains("Socket errors:"))?, kind))
        .sum();
    Some(Counted { good: all.saturating_sub(refused), refused, broken, seconds })
}

fn read_h2load(text: &str) -> Option<Counted> {
    let requests = text.lines().find(|line| line.starts_with("requests: "))?;
    let codes = text.lines().find(|line| line.starts_with("status codes: "))?;
    let of = |line: &str, kind: &str| -> Option<u64> {
        let part = line.split([',', ':']).find(|part| part.trim_end().ends_with(kind))?;
        part.split_whitespace().next()?.parse().ok()
    };
    Some(Counted {
        good: of(codes, "2xx")?,
        refused: of(codes, "3xx")? + of(codes, "4xx")? + of(codes, "5xx")?,
        broken: of(requests, "errored")? + of(requests, "timeout")?,
        seconds: 0.0,
    })
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let (_, after) = text.split_once(name)?;
    after.trim_start().split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// wrk says `2.00s`, or `1.00m`.
fn seconds_of(text: &str) -> Option<f64> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => match text.strip_suffix('m') {
            Some(number) => (number, 60.0),
            None => (text.trim_end_matches('s'), 1.0),
        },
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(read: Option<Counted>, good: u64, refused: u64, broken: u64, seconds: f64) {
        assert_eq!(read, Some(Counted { good, refused, broken, seconds }));
    }

    #[test]
    fn reads_what_wrk_counted() {
        check(read_wrk("  60264 requests in 2.10s, 8.04MB read\nRequests/sec:  28697\n"), 60264, 0, 0, 2.1);
        let troubled = "  100 requests in 1.00m, 8.04MB read\n  Socket errors: connect 1, read 2, write 0, timeout 3\n  \
                        Non-2xx or 3xx responses: 40\n";
        check(read_wrk(troubled), 60, 40, 6, 60.0);
        assert_eq!(read_wrk("unable to connect"), None);
    }

    #[test]
    fn reads_what_h2load_counted() {
        let text = "finished in 1.00s, 90 req/s, 1MB/s\n\
                    requests: 100 total, 99 started, 98 done, 90 succeeded, 8 failed, 1 errored, 2 timeout\n\
                    status codes: 90 2xx, 1 3xx, 3 4xx, 4 5xx\n";
        check(read_h2load(text), 90, 8, 3, 0.0);
        assert_eq!(read_h2load("could not resolve"), None);
    }
}
