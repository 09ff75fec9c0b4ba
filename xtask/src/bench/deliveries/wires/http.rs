//! Those that are spoken to in HTTP: Tidegate by a route that defers, or its control API for a batch; Restate by its ingress.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Client, Consumer, Producer, Queue};
use crate::bench::client::{Answer, Connection};

/// Fields of requests.
const JSON: &str = "Content-Type: application/json\r\nX-Tenant: bench\r\n";
const BYTES: &str = "Content-Type: application/octet-stream\r\n";
/// Those of changes over Tidegate's control API; its configuration has the digest of the token.
pub const TOKEN: &str = "Content-Type: application/json\r\nAuthorization: Bearer bench-token\r\n";

/// Tidegate: `POST /rest` and `POST /work` are routes with `defer = "always"`.
pub struct Tidegate {
    pub public: SocketAddr,
    pub control: SocketAddr,
}

/// Restate: a service for each queue.
pub struct Restate {
    pub ingress: SocketAddr,
}

/// Where a delivery goes to, and how it is written there.
struct Offering {
    connection: Connection,
    target: Target,
    request: Vec<u8>,
}

enum Target {
    /// One a request.
    Tidegate(Queue),
    /// Several a request, which says when each is due.
    Batch(Queue),
    Restate(Queue),
}

impl Client for Tidegate {
    /// Its queues are in its configuration.
    fn prepare(&self) -> Result<(), String> {
        let answer = get(&mut Connection::open(self.control)?, "/readyz")?;
        if answer.is_good() { Ok(()) } else { Err(format!("it is not ready: {}", answer.status)) }
    }

    fn producer(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        Ok(Box::new(Offering::to(self.public, Target::Tidegate(queue))?))
    }

    fn batches(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        Ok(Box::new(Offering::to(self.control, Target::Batch(queue))?))
    }

    fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String> {
        Ok(None)
    }
}

impl Client for Restate {
    fn prepare(&self) -> Result<(), String> {
        Ok(())
    }

    fn producer(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        Ok(Box::new(Offering::to(self.ingress, Target::Restate(queue))?))
    }

    fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String> {
        Ok(None)
    }
}

impl Offering {
    fn to(address: SocketAddr, target: Target) -> Result<Offering, String> {
        Ok(Offering { connection: Connection::open(address)?, target, request: Vec::new() })
    }

    fn post(&mut self, path: &str, fields: &str, body: &[u8]) -> Result<(), String> {
        post(&mut self.connection, &mut self.request, path, fields, body)
    }
}

/// Asks the control API, which looks at the Host.
pub fn get(connection: &mut Connection, path: &str) -> Result<Answer, String> {
    connection.exchange(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
}

/// Sends a request with these fields, and wants to hear that all is well.
pub fn post(
    connection: &mut Connection,
    request: &mut Vec<u8>,
    path: &str,
    fields: &str,
    body: &[u8],
) -> Result<(), String> {
    request.clear();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    request.extend_from_slice(head.as_bytes());
    request.extend_from_slice(body);
    let answer = connection.exchange(request)?;
    if answer.is_good() {
        return Ok(());
    }
    Err(format!("{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

impl Producer for Offering {
    fn offer(&mut self, payloads: &[Vec<u8>], delay: Option<Duration>) -> Result<(), String> {
        match self.target {
            Target::Batch(queue) => {
                let path = format!("/queues/{}/deliveries", queue.name());
                self.post(&path, TOKEN, batch("bench", payloads, delay).as_bytes())
            }
            Target::Tidegate(queue) => payloads
                .iter()
                .try_for_each(|payload| self.post(&format!("/{}", queue.name()), JSON, payload)),
            Target::Restate(queue) => {
                // Nothing rests there but by a delay.
                let delay = delay.or((queue == Queue::Rest).then_some(Duration::from_secs(3600)));
                let delay = delay.map(|delay| format!("?delay={}s", delay.as_secs())).unwrap_or_default();
                let path = format!("/work/handle/send{delay}");
                payloads.iter().try_for_each(|payload| self.post(&path, BYTES, payload))
            }
        }
    }
}

/// A tenant's deliveries, as Tidegate's control API takes them. The payloads are JSON with no byte in them that a JSON string would
/// have to escape but the quotes.
pub fn batch(tenant: &str, payloads: &[Vec<u8>], delay: Option<Duration>) -> String {
    let delay = delay.map(|delay| format!(",\"delay\":\"{}s\"", delay.as_secs())).unwrap_or_default();
    let mut text = String::from("[");
    for (number, payload) in payloads.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let body = String::from_utf8_lossy(payload).replace('"', "\\\"");
        let _ = write!(text, "{comma}{{\"tenant\":\"{tenant}\",\"body\":\"{body}\"{delay}}}");
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_list_of_bodies() {
        let payloads = [br#"{"a":1}"#.to_vec(), b"2".to_vec()];
        let two = r#"[{"tenant":"t","body":"{\"a\":1}"},{"tenant":"t","body":"2"}]"#;
        assert_eq!(batch("t", &payloads, None), two);
        let late = r#"[{"tenant":"t","body":"2","delay":"60s"}]"#;
        assert_eq!(batch("t", &payloads[1..], Some(Duration::from_secs(60))), late);
    }
}
