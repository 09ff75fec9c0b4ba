//! Active health checks: each endpoint is asked in its interval; a run of answers alike changes what is thought of it.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use tidegate_model::balance::mix;
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, Target};
use tidegate_wire::{clock, task};

use crate::endpoint::{Admin, Endpoint};
use crate::settings::HealthSettings;
use crate::upstreams::Upstream;

/// Checks an endpoint for as long as `wanted` says so.
pub(crate) fn watch(upstream: Arc<Upstream>, endpoint: Arc<Endpoint>, wanted: impl Fn() -> bool + 'static) {
    task::spawn(async move {
        let mut run = Run::default();
        let mut round = endpoint.id;
        while wanted() {
            let settings = upstream.settings();
            let Some(health) = &settings.health else { return };
            round = round.wrapping_add(1);
            clock::sleep(jittered(health.interval, mix(round))).await;
            if endpoint.admin() == Admin::Disabled {
                continue;
            }
            let by = clock::now().after(health.timeout);
            let found = match clock::timeout_at(by, Box::pin(check(&upstream, &endpoint, health))).await {
                Ok(found) => found,
                Err(_) => Err(format!("no answer within {:?}", health.timeout)),
            };
            let Some(healthy) = run.add(found.is_ok(), health) else { continue };
            let error = found.err();
            if endpoint.set_health(healthy, error.clone(), clock::now()) {
                let why = error.unwrap_or_default();
                tracing::warn!(upstream = %settings.name, endpoint = %endpoint.address, healthy, why, "health changed");
            }
        }
    });
}

/// Answers alike in a row.
#[derive(Debug, Default)]
struct Run {
    good: bool,
    length: u32,
}

impl Run {
    /// Adds an answer. What is thought now, once the run is long enough to tell.
    fn add(&mut self, good: bool, settings: &HealthSettings) -> Option<bool> {
        self.length = if self.good == good { self.length.saturating_add(1) } else { 1 };
        self.good = good;
        let enough = if good { settings.healthy } else { settings.unhealthy };
        (self.length >= enough).then_some(good)
    }
}

fn jittered(interval: Duration, chance: u64) -> Duration {
    // Nine to eleven tenths.
    interval.mul_f64(0.9 + 0.2 * (chance as f64 / u64::MAX as f64))
}

async fn check(upstream: &Upstream, endpoint: &Endpoint, health: &HealthSettings) -> Result<(), String> {
    let Some(path) = &health.path else {
        let connected = tokio::net::TcpStream::connect(endpoint.address).await;
        return connected.map(drop).map_err(|error| error.to_string());
    };
    let protocol = upstream.settings().protocol;
    let target = Target { address: endpoint.address, protocol, tls: upstream.tls() };
    let mut sender = client::connect(&target).await.map_err(|error| chain(&error))?;
    let host = health.host.clone().unwrap_or_else(|| endpoint.address.to_string());
    let mut request = Request::get(path.as_str()).header(header::USER_AGENT, "tidegate-health");
    if sender.try_clone().is_some() {
        let scheme = if upstream.is_tls() { "https" } else { "http" };
        request = Request::get(format!("{scheme}://{host}{path}"));
    } else {
        request = request.header(header::HOST, host);
    }
    let request = request.body(Body::Empty).map_err(|error| error.to_string())?;
    let response = sender.send(request).await.map_err(|error| chain(&error))?;
    let status = response.status().as_u16();
    let (least, most) = health.statuses;
    if (least..=most).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_run_to_change_what_is_thought() {
        let settings = HealthSettings {
            path: None,
            host: None,
            statuses: (200, 299),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
        };
        let mut run = Run::default();
        let told: Vec<_> = "bbgbbbggb".chars().map(|answer| run.add(answer == 'g', &settings)).collect();
        assert_eq!(told, [None, None, None, None, None, Some(false), None, Some(true), None]);
    }
}
