//! Latency at a fixed rate, from when each request *should* have started.
//!
//! A closed loop asks less of a server that stalls, and so hides the stall. Here request k is due at `k / rate`,
//! whatever became of those before it; one that could not be sent because its connection was still waiting counts its
//! waiting. Each connection is a thread with every n-th request, and all are made, however late.

use std::net::SocketAddr;
use std::time::Duration;

use super::client::Connection;
use super::now;
use super::requests::Requests;

/// What is sent, and how fast.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub address: SocketAddr,
    pub requests: &'a Requests,
    pub connections: usize,
    /// Requests per second over all connections.
    pub rate: u32,
    /// Requests in all.
    pub count: usize,
}

/// The latencies of all requests, in order of length.
#[derive(Debug, Default)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// Answers that were not 2xx, and connections that broke.
    pub failed: usize,
}

impl Latencies {
    /// The latency that a share of the requests did not exceed (nearest rank).
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = (share * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1)).copied()
    }
}

/// Sends as planned, and comes back when the last answer is there.
pub fn run(plan: Plan<'_>) -> Latencies {
    let mut all = Latencies::default();
    let start = now() + Duration::from_millis(20);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.connections)
            .map(|first| scope.spawn(move || one_connection(plan, start, first)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => {
                    all.sorted.extend(part.sorted);
                    all.failed += part.failed;
                }
                Err(_) => all.failed += 1,
            }
        }
    });
    all.sorted.sort_unstable();
    all
}

fn one_connection(plan: Plan<'_>, start: std::time::Instant, first: usize) -> Latencies {
    wake_exactly();
    let mut own = Latencies::default();
    let mut connection = None;
    for number in (first..plan.count).step_by(plan.connections) {
        let due = start + Duration::from_secs_f64(number as f64 / f64::from(plan.rate));
        std::thread::sleep(due.saturating_duration_since(now()));
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(plan.address),
        };
        let done = open.and_then(|mut open| {
            let answer = open.exchange(&plan.requests.nth(number))?;
            if answer.is_good() { Ok(open) } else { Err(format!("status {}", answer.status)) }
        });
        match done {
            Ok(open) => connection = Some(open),
            Err(_) => own.failed += 1,
        }
        own.sorted.push(now().saturating_duration_since(due));
    }
    own
}

/// Asks the kernel not to batch this thread's timers, which it does within 50 microseconds: as long as a proxy takes.
fn wake_exactly() {
    let thread = std::fs::read_link("/proc/thread-self");
    if let Some(id) = thread.ok().and_then(|path| path.file_name().map(std::ffi::OsStr::to_owned)) {
        // Where this cannot be set, all latencies are longer by the same.
        let _ = std::fs::write(std::path::Path::new("/proc").join(id).join("timerslack_ns"), "1");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers everything on one connection, the first time after a silence.
    fn serve(listener: &TcpListener, connections: usize, silence: Duration) {
        std::thread::scope(|scope| {
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                scope.spawn(move || {
                    let mut bytes = [0; 4096];
                    let mut silence = Some(silence);
                    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                        std::thread::sleep(silence.take().unwrap_or_default());
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn counts_every_request_that_was_due_while_the_server_was_frozen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let requests = Requests::list(["GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()]);
        let plan = Plan {
            address: listener.local_addr().unwrap(),
            requests: &requests,
            connections: 4,
            rate: 200,
            count: 120,
        };
        let latencies = std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener, 4, Duration::from_millis(300)));
            run(plan)
        });
        assert_eq!((latencies.sorted.len(), latencies.failed), (120, 0));
        // Each connection was silent for 300 ms in which 15 requests were due, ten of them at least 100 ms before its
        // end. A closed loop would have seen four slow requests in all.
        let slow = latencies.sorted.iter().filter(|latency| **latency >= Duration::from_millis(100)).count();
        assert!(slow >= 40, "{slow} slow requests");
    }

    #[test]
    fn takes_quantiles_by_nearest_rank() {
        let sorted = (1..=100).map(Duration::from_micros).collect();
        let latencies = Latencies { sorted, failed: 0 };
        assert_eq!(latencies.quantile(0.5), Some(Duration::from_micros(50)));
        assert_eq!(latencies.quantile(0.99), Some(Duration::from_micros(99)));
        assert_eq!(Latencies::default().quantile(0.5), None);
    }
}
