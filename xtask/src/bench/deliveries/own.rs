//! What Tidegate alone is held to: that tenants share a queue fairly, and what an idempotency key costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::journey::{Desk, Journey, micros};
use super::wires::http::{TOKEN, batch, get, post};
use crate::bench::client::Connection;
use crate::bench::now;

/// What the tenant with much has waiting.
const FLOOD: u64 = 100_000;
/// What each of the two with different weights has.
const EACH: u64 = 20_000;
/// So many go into one request of the control API.
const AT_ONCE: u64 = 500;
/// How much of the flood is attempted before the other tenant comes each time.
const BEGUN: u64 = 1000;
/// How often it comes. The flood outlasts that.
const ONES: u64 = 9;
/// Over how many attempts the weights are looked at; both have to have some left.
const SHARED: u64 = 10_000;
/// Requests with a key.
const KEYS: u64 = 200;
/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Tidegate, by its control API and its door for clients.
#[derive(Clone, Copy)]
pub struct Own {
    pub public: SocketAddr,
    pub control: SocketAddr,
}

/// One tenant has much waiting, another sends one: how many of the first one's attempts began between that one's acceptance
/// and its attempt. The median of some that come one after the other, as what is on its way at once may arrive in any order.
pub fn behind(own: Own, desk: &Desk, run: u16) -> Result<f64, String> {
    let (flood, ones) = (Journey::new(run, FLOOD as usize), Journey::new(run + 1, ONES as usize));
    desk.set(&[&flood, &ones]);
    let mut control = Control::open(own)?;
    control.steer("fair", "pause")?;
    control.fill("fair", "flood", &flood, FLOOD)?;
    control.steer("fair", "resume")?;
    let mut before = Vec::new();
    for number in 0..ONES {
        let begun = flood.attempted();
        wait(|| flood.attempted() >= begun + BEGUN)?;
        control.post("/queues/fair/deliveries", &batch("one", &[ones.payload(number)], None))?;
        let accepted = micros();
        wait(|| ones.attempted() > number)?;
        let attempted = ones.attempted_at(number).unwrap_or_default();
        before.push(flood.attempted_between(accepted, attempted));
    }
    control.steer("fair", "pause")?;
    before.sort_unstable();
    Ok(before[before.len() / 2] as f64)
}

/// How much more of the heavy tenant is attempted than of the light one.
pub fn share(own: Own, desk: &Desk, run: u16) -> Result<f64, String> {
    let (light, heavy) = (Journey::new(run, 0), Journey::new(run + 1, 0));
    desk.set(&[&light, &heavy]);
    let mut control = Control::open(own)?;
    control.steer("shared", "pause")?;
    control.fill("shared", "light", &light, EACH)?;
    control.fill("shared", "heavy", &heavy, EACH)?;
    control.steer("shared", "resume")?;
    wait(|| light.attempted() >= 100)?;
    let before = counts(&light, &heavy);
    wait(|| light.attempted() + heavy.attempted() >= before.0 + before.1 + SHARED)?;
    let after = counts(&light, &heavy);
    control.steer("shared", "pause")?;
    if after.1 >= EACH {
        return Err(format!("all {EACH} of the heavy tenant were attempted meanwhile"));
    }
    Ok((after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64)
}

fn counts(light: &Arc<Journey>, heavy: &Arc<Journey>) -> (u64, u64) {
    (light.attempted(), heavy.attempted())
}

/// Group commits that a POST with an idempotency key takes, one after the other.
pub fn commits(own: Own) -> Result<f64, String> {
    let mut connection = Connection::open(own.public)?;
    let mut control = Control::open(own)?;
    let (mut request, run) = (Vec::new(), micros());
    let before = control.metric("tidegate_store_commits_total")?;
    for number in 0..KEYS {
        let key = format!("X-Tenant: bench\r\nIdempotency-Key: \"{run}-{number}\"\r\n");
        post(&mut connection, &mut request, "/pay", &key, b"{}")?;
    }
    Ok((control.metric("tidegate_store_commits_total")? - before) / KEYS as f64)
}

struct Control {
    connection: Connection,
    request: Vec<u8>,
}

impl Control {
    fn open(own: Own) -> Result<Control, String> {
        Ok(Control { connection: Connection::open(own.control)?, request: Vec::new() })
    }

    fn post(&mut self, path: &str, body: &str) -> Result<(), String> {
        post(&mut self.connection, &mut self.request, path, TOKEN, body.as_bytes())
    }

    fn steer(&mut self, queue: &str, what: &str) -> Result<(), String> {
        self.post(&format!("/queues/{queue}/{what}"), "{}")
    }

    fn fill(&mut self, queue: &str, tenant: &str, journey: &Journey, count: u64) -> Result<(), String> {
        let path = format!("/queues/{queue}/deliveries");
        for first in (0..count).step_by(AT_ONCE as usize) {
            let payloads: Vec<Vec<u8>> =
                (first..(first + AT_ONCE).min(count)).map(|number| journey.payload(number)).collect();
            self.post(&path, &batch(tenant, &payloads, None))?;
        }
        Ok(())
    }

    fn metric(&mut self, name: &str) -> Result<f64, String> {
        let answer = get(&mut self.connection, "/metrics")?;
        value(&String::from_utf8_lossy(&answer.body), name)
            .ok_or_else(|| format!("there is no metric {name}"))
    }
}

/// The value of a metric without labels.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn wait(is_so: impl Fn() -> bool) -> Result<(), String> {
    let until: Instant = now() + PATIENCE;
    while !is_so() {
        if now() > until {
            return Err("nothing is attempted any more".to_owned());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_metric_without_labels() {
        let metrics = "# TYPE a counter\na_total{x=\"1\"} 5\na_total 7\nab 9\n";
        assert_eq!(
            (value(metrics, "a_total"), value(metrics, "ab"), value(metrics, "b")),
            (Some(7.0), Some(9.0), None)
        );
    }
}
