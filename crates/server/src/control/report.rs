//! `/status`: the whole state that an operator asks for first, as JSON.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::{Value, json};

use tidegate_model::cache::Wall;
use tidegate_model::plan::Plan;
use tidegate_model::tenant::{RouteLimits, Standing, Tenant};
use tidegate_model::tick::Tick;
use tidegate_proxy::cache::Cache;
use tidegate_proxy::cache::disk::Standing as DiskStanding;
use tidegate_proxy::cache::shield::Outcome;
use tidegate_store::State;
use tidegate_store::deliveries::{Leader, Who};
use tidegate_wire::{clock, files};

use crate::control::metrics::busiest;
use crate::control::{domains, faults, maintenance};
use crate::protect;
use crate::run::Process;
use crate::wiring::{Gate, Side};

/// The state.
pub fn status(process: &Process) -> Value {
    let gate = &process.gate;
    let (top, others) = busiest(process);
    let now = clock::now();
    let site = gate.config();
    let limited: Vec<RouteLimits> =
        site.proxy.routes.iter().map(|route| route.limits()).filter(|limits| !limits.is_empty()).collect();
    let mut shown = HashMap::new();
    let mut plans = BTreeMap::new();
    gate.standing.tenants.each(|tenant| {
        let plan = tenant.plan();
        let sum: &mut PlanSum = plans.entry(Arc::clone(&plan.name)).or_default();
        sum.tenants += 1;
        sum.in_flight += tenant.in_flight();
        if top.iter().any(|one| one.id == *tenant.id()) {
            shown.insert(Arc::clone(tenant.id()), limits(tenant, &plan, &limited, now));
        }
    });
    let tenants: Vec<Value> = top
        .iter()
        .map(|one| {
            let mut told = shown.remove(&one.id).unwrap_or_else(|| json!({}));
            told["id"] = json!(one.id);
            told["admitted"] = json!(one.admitted);
            told["refused"] = json!(one.refused);
            told["in_flight"] = json!(one.in_flight);
            told
        })
        .collect();
    let by_name: BTreeMap<&Arc<str>, &Arc<Plan>> = site.proxy.tenants.plans.iter().collect();
    let plans: Vec<Value> = by_name
        .into_values()
        .map(|plan| self::plan(plan, plans.get(&plan.name).copied().unwrap_or_default()))
        .collect();
    let listeners: Vec<Value> = gate
        .listening()
        .iter()
        .filter(|one| one.side == Side::Clients)
        .map(|one| json!({"address": one.address.to_string(), "tls": one.settings.tls, "proxy_protocol": one.settings.proxy_protocol}))
        .collect();
    let loaded = Wall::of(*process.loaded_at.lock()).0;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": {
            "loaded_at": format!("{}Z", crate::telemetry::rfc3339(loaded)),
            "reloads": gate.counts.reloads.load(std::sync::atomic::Ordering::Relaxed),
            "reloads_refused": gate.counts.reloads_refused.load(std::sync::atomic::Ordering::Relaxed),
            "last_error": *process.reload_error.lock(),
        },
        "process": process.generation.status(),
        "connections": gate.census.open(),
        "load": load(process),
        "listeners": listeners,
        "redis": gate.redis.status(),
        "store": store(process),
        "cluster": cluster(gate),
        "certificates": certificates(gate),
        "cache": cache(&gate.standing.cache),
        "upstreams": gate.standing.upstreams.status(),
        "plans": plans,
        "faults": faults::told(&gate.standing.faults),
        "maintenance": maintenance::told(gate),
        "tenants": {
            "tracked": gate.standing.tenants.len(),
            "busiest": tenants,
            "others": {"admitted": others.0, "refused": others.1},
        },
    })
}

/// What must survive a crash, and what is under way under a key; null: there is no store.
fn store(process: &Process) -> Value {
    let idempotency = &process.gate.standing.idempotency;
    let Some(store) = idempotency.store() else { return Value::Null };
    let told = store.standing();
    let error = match &told.state {
        State::Failing(why) | State::Stopped(why) => Some(why),
        State::Serving | State::Full | State::Closed => None,
    };
    let (under_way, waiting_for_them) = idempotency.under_way();
    json!({
        "path": store.settings().location.to_string(),
        "state": told.state.name(),
        "error": error,
        "records": told.records,
        "bytes": told.bytes,
        "size_limit": told.bytes_max,
        "waiting": told.waiting,
        "commits": told.commits,
        "commands": {"done": told.done, "failed": told.failed},
        "keys": {"under_way": under_way, "awaited_by": waiting_for_them},
        "shards": shards(&process.gate),
    })
}

/// Who makes the deliveries of which shard; null: none are made here.
fn shards(gate: &Gate) -> Value {
    let Some(dispatcher) = gate.dispatcher() else { return Value::Null };
    let one = |leader: Leader| {
        let (here, node) = match &leader.who {
            Who::Here => (true, None),
            Who::Elsewhere(name) => (false, Some(&**name)),
            Who::Nobody => (false, None),
        };
        json!({"shard": leader.shard, "epoch": leader.epoch, "here": here, "node": node})
    };
    dispatcher.leaders().into_iter().map(one).collect()
}

/// Certificates that are ordered; null: none are.
fn certificates(gate: &Gate) -> Value {
    let Some(in_memory) = gate.acme.held() else { return Value::Null };
    let counts = gate.acme.counts();
    let count = |count: &AtomicU64| count.load(Relaxed);
    json!({
        "in_memory": in_memory,
        "orders": {"issued": count(&counts.issued), "failed": count(&counts.failed)},
        "configured": gate.acme.told().iter().map(domains::certificate).collect::<Vec<_>>(),
    })
}

/// The nodes that ask each other before the upstream; null without a cluster.
fn cluster(gate: &Gate) -> Value {
    let site = gate.site();
    let Some(homes) = &site.homes else { return Value::Null };
    let now = clock::now();
    let nodes: Vec<Value> = homes
        .standing(now)
        .map(|(name, up)| json!({"name": &**name, "state": up.map_or("self", |up| if up { "up" } else { "away" })}))
        .collect();
    let listen =
        gate.listening().iter().find(|one| one.side == Side::Nodes).map(|one| one.address.to_string());
    let peering = &gate.standing.cache.peering;
    let (counts, orders) = (peering.counts(), peering.orders.counts());
    let asked: serde_json::Map<String, Value> = Outcome::ALL
        .iter()
        .zip(counts.asked)
        .map(|(one, count)| (one.name().to_owned(), count.into()))
        .collect();
    json!({
        "self": &**homes.me(),
        "listen": listen,
        "nodes": nodes,
        "asked": asked,
        "answered": counts.answered,
        "unanswered": counts.unanswered,
        "strangers": counts.strangers,
        "purges": {"waiting": orders.waiting, "told": orders.told, "heard": orders.heard},
    })
}

/// What the cache keeps, in memory and on disk.
fn cache(cache: &Cache) -> Value {
    let disk = cache.memory.disk().map(|disk| {
        let told = disk.told();
        let (state, error) = match told.standing {
            DiskStanding::Opening => ("opening", None),
            DiskStanding::Serving => ("serving", None),
            DiskStanding::Failing(why) => ("failing", Some(why)),
            DiskStanding::Away(why) => ("away", Some(why)),
        };
        json!({
            "path": told.path.display().to_string(),
            "state": state,
            "error": error,
            "size_bytes": told.size,
            "size_limit": told.size_max,
            "bytes": told.bytes,
            "answers": told.answers,
            "hits": told.hits,
            "misses": told.misses,
            "dropped": told.dropped,
        })
    });
    let mut told = super::cache::standing(&cache.standing());
    told["disk"] = json!(disk);
    let slices = cache.slices.counts();
    told["slices"] = json!({
        "kept": slices.kept,
        "dropped": slices.dropped,
        "read": slices.read,
        "asked": slices.asked,
        "changed": slices.changed,
        "broken": slices.broken,
    });
    told
}

/// How overloaded the process is, and by what.
fn load(process: &Process) -> Value {
    let shield = &process.gate.shield;
    let readings = *process.gate.readings.lock();
    let (held, held_max) = shield.held();
    let (connections, connections_max) = files::of_connections();
    let none_is = |most: u64| Some(most).filter(|most| *most > 0);
    let cores = shield.cores().iter().map(|core| {
        json!({
            "lag_ms": core.lag().as_secs_f64() * 1e3,
            "backlog": core.backlog(),
            "shedding": core.stage().name(),
        })
    });
    json!({
        "level": shield.level(),
        "shedding": shield.memory().name(),
        "memory_bytes": readings.memory,
        "memory_limit": none_is(readings.memory_limit),
        "held_bytes": held,
        "held_limit": none_is(held_max),
        "open_files": protect::open_files(),
        "open_files_limit": none_is(readings.files_limit as u64),
        "connections_open": connections,
        "connections_limit": Some(connections_max).filter(|most| *most < usize::MAX),
        "cores": cores.collect::<Vec<_>>(),
    })
}

/// What the tenants of a plan come to together.
#[derive(Clone, Copy, Default)]
struct PlanSum {
    tenants: u64,
    in_flight: u32,
}

fn plan(plan: &Plan, sum: PlanSum) -> Value {
    let rates: Vec<Value> = plan
        .rates
        .iter()
        .map(|rate| {
            let window_ms = rate.window.as_millis() as u64;
            json!({"name": rate.name, "limit": rate.limit, "window_ms": window_ms, "burst": rate.burst})
        })
        .collect();
    json!({
        "name": plan.name,
        "rates": rates,
        "concurrency": plan.concurrency,
        "body_bytes": plan.body_bytes_max,
        "request_bytes_per_second": plan.request_bytes_per_second,
        "response_bytes_per_second": plan.response_bytes_per_second,
        "tenants": sum.tenants,
        "in_flight": sum.in_flight,
    })
}

/// How a tenant stands with its plan, and with the routes where it has spent something.
fn limits(tenant: &Tenant, plan: &Plan, limited: &[RouteLimits], now: Tick) -> Value {
    let rates = |standings: &[Standing]| standings.iter().map(rate).collect::<Vec<_>>();
    let routes: Vec<Value> = limited
        .iter()
        .filter_map(|limits| {
            let (standings, in_flight) = tenant.standings_on(limits, now);
            let spent = in_flight > 0 || standings.iter().any(|one| !one.reset.is_zero());
            spent.then(|| {
                json!({
                    "name": limits.name,
                    "rates": rates(&standings),
                    "in_flight": in_flight,
                    "concurrency": limits.concurrency,
                })
            })
        })
        .collect();
    json!({
        "plan": plan.name,
        "concurrency": plan.concurrency,
        "held_bytes": tenant.held(),
        "rates": rates(&tenant.standings(now)),
        "routes": routes,
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
