//! `/status`: the whole state that an operator asks for first, as JSON.

use serde_json::{Value, json};

use tidegate_model::tenant::Standing;
use tidegate_wire::clock;

use crate::control::metrics::busiest;
use crate::run::Process;

/// The state.
pub fn status(process: &Process) -> Value {
    let gate = &process.gate;
    let (top, others) = busiest(process);
    let now = clock::now();
    let tenants: Vec<Value> = top
        .iter()
        .map(|one| {
            let tenant = gate.standing.tenants.find(&one.id);
            let plan = tenant.as_ref().map(|tenant| tenant.plan());
            let rates = tenant.map(|tenant| tenant.standings(now)).unwrap_or_default();
            json!({
                "id": one.id,
                "plan": plan.as_ref().map(|plan| &plan.name),
                "admitted": one.admitted,
                "refused": one.refused,
                "in_flight": one.in_flight,
                "concurrency": plan.and_then(|plan| plan.concurrency),
                "rates": rates.iter().map(rate).collect::<Vec<_>>(),
            })
        })
        .collect();
    let listeners: Vec<Value> = gate
        .listening()
        .iter()
        .map(|one| json!({"address": one.address.to_string(), "tls": one.settings.tls, "proxy_protocol": one.settings.proxy_protocol}))
        .collect();
    let loaded = process.loaded_at.lock().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": {
            "loaded_at": format!("{}Z", crate::telemetry::rfc3339(loaded)),
            "reloads": gate.counts.reloads.load(std::sync::atomic::Ordering::Relaxed),
            "reloads_refused": gate.counts.reloads_refused.load(std::sync::atomic::Ordering::Relaxed),
            "last_error": *process.reload_error.lock(),
        },
        "connections": gate.census.open(),
        "listeners": listeners,
        "upstreams": gate.standing.upstreams.status(),
        "tenants": {
            "tracked": gate.standing.tenants.len(),
            "busiest": tenants,
            "others": {"admitted": others.0, "refused": others.1},
        },
    })
}

fn rate(standing: &Standing) -> Value {
    let Standing { name, limit, window, remaining, reset } = standing;
    json!({
        "name": name,
        "limit": limit,
        "window_ms": window.as_millis() as u64,
        "remaining": remaining,
        "reset_ms": reset.as_millis() as u64,
    })
}
