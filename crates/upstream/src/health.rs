//! Active health checks: each endpoint is asked in its interval; the model decides what its answers come to.
//!
//! Each check makes a connection of its own: that an endpoint still accepts connections is part of the question. The
//! first check of an endpoint comes at once. Checks run on the control runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, header};
use tidegate_model::balance::mix;
use tidegate_model::health::{State, Terms};
use tidegate_model::tick::Tick;
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, Target};
use tidegate_wire::clock;
use tokio::sync::watch;

use crate::discovery::{Leash, leashed};
use crate::endpoint::{Admin, Endpoint};
use crate::settings::HealthSettings;
use crate::upstreams::Upstream;

/// No endpoint is asked more often than this, nor more seldom, whatever the configuration says.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));

/// Checks all endpoints of an upstream for as long as it is there.
pub(crate) async fn supervise(upstream: Arc<Upstream>) {
    let mut changes = upstream.changes();
    let mut watched: HashMap<u64, Leash> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let set = upstream.endpoints();
        if upstream.settings().health.is_some() {
            watched.retain(|id, _| set.endpoints.iter().any(|endpoint| endpoint.id == *id));
            for endpoint in &set.endpoints {
                watched
                    .entry(endpoint.id)
                    .or_insert_with(|| leashed(watch(Arc::clone(&upstream), Arc::clone(endpoint))));
            }
        } else {
            watched.clear();
            set.endpoints.iter().for_each(|endpoint| endpoint.forget_checks(clock::now()));
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Checks an endpoint until its leash is dropped.
async fn watch(upstream: Arc<Upstream>, endpoint: Arc<Endpoint>) {
    let mut changes = upstream.changes();
    let mut round = endpoint.id;
    // The first checks of a hundred endpoints need not fall on one moment, but traffic waits for what they find.
    let mut began = clock::now();
    let spread = |health: &HealthSettings| health.interval.min(Duration::from_millis(50));
    let mut due = upstream
        .settings()
        .health
        .as_ref()
        .map(spread)
        .map_or(began, |spread| began.after(spread.mul_f64(fraction(mix(round)))));
    loop {
        wait(&upstream, &mut changes, began, &mut due).await;
        let settings = upstream.settings();
        let Some(health) = &settings.health else { return };
        began = clock::now();
        round = mix(round);
        due = began.after(jittered(health.interval, round));
        // One that is not used is not bothered; coming back, it is checked within an interval.
        if endpoint.admin() == Admin::Disabled {
            continue;
        }
        let by = began.after(health.timeout);
        let found = match clock::timeout_at(by, Box::pin(check(&upstream, &endpoint, health))).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer within {:?}", health.timeout)),
        };
        let why = found.as_ref().err().cloned().unwrap_or_default();
        let terms = Terms { healthy: health.healthy, unhealthy: health.unhealthy };
        let Some(transition) = endpoint.checked(found, terms, clock::now()) else { continue };
        let (from, to) = (transition.from.name(), transition.to.name());
        if transition.to == State::Unhealthy {
            tracing::warn!(upstream = %settings.name, endpoint = %endpoint.address, from, to, after = ?transition.after, why, "health changed");
        } else {
            tracing::info!(upstream = %settings.name, endpoint = %endpoint.address, from, to, after = ?transition.after, "health changed");
        }
    }
}

/// Waits for the next check. A reload that shortens the interval brings it forward.
async fn wait(upstream: &Upstream, changes: &mut watch::Receiver<u64>, began: Tick, due: &mut Tick) {
    while clock::timeout_at(*due, changes.changed()).await.is_ok() {
        let Some(health) = &upstream.settings().health else { return };
        *due = began.after(health.interval).min(*due);
    }
}

fn fraction(chance: u64) -> f64 {
    chance as f64 / u64::MAX as f64
}

/// Nine to eleven tenths.
fn jittered(interval: Duration, chance: u64) -> Duration {
    interval.clamp(INTERVAL.0, INTERVAL.1).mul_f64(0.9 + 0.2 * fraction(chance))
}

async fn check(upstream: &Upstream, endpoint: &Endpoint, health: &HealthSettings) -> Result<(), String> {
    let Some(path) = &health.path else {
        let connected = tokio::net::TcpStream::connect(endpoint.address).await;
        return connected.map(drop).map_err(|error| error.to_string());
    };
    let protocol = upstream.settings().protocol;
    let target = Target { address: endpoint.address, protocol, tls: upstream.tls() };
    let sender = client::connect(&target).await.map_err(|error| chain(&error))?;
    let host = health.host.clone().unwrap_or_else(|| endpoint.address.to_string());
    let mut request = Request::get(path.as_str()).header(header::USER_AGENT, "tidegate-health");
    if sender.is_http2() {
        let scheme = if upstream.is_tls() { "https" } else { "http" };
        request = request.uri(format!("{scheme}://{host}{path}"));
    } else {
        request = request.header(header::HOST, host);
    }
    let mut request = request.body(Body::Empty).map_err(|error| error.to_string())?.into();
    let response = sender.send(&mut request, Tick::MAX).await.map_err(|error| chain(&error))?;
    let status = response.status().as_u16();
    let (least, most) = health.statuses;
    if (least..=most).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
