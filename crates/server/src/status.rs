//! `tidegate status`: the state of a running Tidegate, from its control API.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::tables::{aligned, endpoints};

mod audit;
mod lines;
mod remote;
mod tables;

pub use audit::{AuditArgs, audit};
pub use remote::{Remote, ask, ask_for, encoded, said, shown};
pub use tables::in_columns;

/// What to tell, and of whom.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
    /// The whole state as JSON
    #[arg(long)]
    json: bool,
    /// Again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Let an endpoint finish what it has and give it nothing new
    Drain(EndpointArgs),
    /// Use an endpoint again
    Enable(EndpointArgs),
    /// Do not use an endpoint
    Disable(EndpointArgs),
    /// Tell whether it takes traffic; the exit code is 1 where it does not. For health checks of containers
    Ready,
    /// Tell which endpoints of an upstream serve a tenant
    Shard(ShardArgs),
}

#[derive(Debug, Args)]
struct ShardArgs {
    /// The upstream's name
    upstream: String,
    /// The tenant's id
    tenant: String,
}

#[derive(Debug, Args)]
struct EndpointArgs {
    /// The upstream's name
    upstream: String,
    /// The endpoint's ADDRESS:PORT
    address: String,
}

/// Tells or changes the state.
#[must_use]
pub fn status(args: &StatusArgs) -> ExitCode {
    let told = match &args.change {
        Some(Change::Drain(endpoint)) => change(args, endpoint, "draining"),
        Some(Change::Enable(endpoint)) => change(args, endpoint, "enabled"),
        Some(Change::Disable(endpoint)) => change(args, endpoint, "disabled"),
        Some(Change::Ready) => tell_ready(args),
        Some(Change::Shard(shard)) => tell_shard(args, shard),
        None => tell(args),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn change(args: &StatusArgs, endpoint: &EndpointArgs, state: &str) -> Result<(), String> {
    let path = format!("/upstreams/{}/endpoints/{}", endpoint.upstream, endpoint.address);
    ask(&args.remote, "POST", &path, &format!("{{\"state\": \"{state}\"}}"))?;
    // It is done, whether anybody reads it or not.
    let _ = writeln!(std::io::stdout(), "{} of {} is {state}", endpoint.address, endpoint.upstream);
    Ok(())
}

fn tell_ready(args: &StatusArgs) -> Result<(), String> {
    let answer = ask(&args.remote, "GET", "/readyz", "").map_err(|why| format!("not ready\n{why}"))?;
    let _ = writeln!(std::io::stdout(), "{}", answer.trim_end());
    Ok(())
}

fn tell_shard(args: &StatusArgs, asked: &ShardArgs) -> Result<(), String> {
    let tenant: String = asked.tenant.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = ask(&args.remote, "GET", &format!("/upstreams/{}/shards/{tenant}", asked.upstream), "")?;
    let text = if args.json {
        answer + "\n"
    } else {
        let shard: Value =
            serde_json::from_str(&answer).map_err(|error| format!("tidegate: not a shard: {error}"))?;
        let upstream = json!({"name": shard["upstream"], "endpoints": shard["endpoints"]});
        aligned(&endpoints(&json!({"upstreams": [upstream]})))
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn tell(args: &StatusArgs) -> Result<(), String> {
    loop {
        let answer = ask(&args.remote, "GET", "/status", "")?;
        let text = if args.json {
            answer + "\n"
        } else {
            let state: Value =
                serde_json::from_str(&answer).map_err(|error| format!("tidegate: not a status: {error}"))?;
            let clear = if args.watch { "\x1b[2J\x1b[H" } else { "" };
            format!("{clear}{}", table(&state))
        };
        let mut out = std::io::stdout().lock();
        let read = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok();
        // Whoever reads through a pipe may have enough.
        if !args.watch || !read {
            return Ok(());
        }
        drop(out);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The state as tables for a terminal.
fn table(state: &Value) -> String {
    let error = match &state["config"]["last_error"] {
        Value::String(error) => {
            format!(
                "\nThe last reload was refused, the configuration before is in force:\n{}\n",
                indented(error)
            )
        }
        _ => String::new(),
    };
    format!(
        "tidegate {}, configuration of {}, {} connections\n{}{}{}\n{}{}\n{}\n{}\n{}{}{error}",
        cell(&state["version"]),
        cell(&state["config"]["loaded_at"]),
        state["connections"],
        lines::elders(&state["process"]["draining"]),
        lines::load(&state["load"]),
        format_args!(
            "{}{}{}",
            lines::cached(&state["cache"]),
            lines::disk(&state["cache"]["disk"]),
            lines::certificates(&state["certificates"])
                + &lines::redis(&state["redis"])
                + &lines::cluster(&state["cluster"])
                + &lines::shards(&state["store"]["shards"])
        ),
        aligned(&tables::upstreams(state)),
        tables::verdicts(state),
        aligned(&endpoints(state)),
        aligned(&tables::plans(state)),
        aligned(&tables::tenants(state)),
        tables::maintenance(state) + &tables::faults(state),
    )
}

/// `5 of 9`, or `5`.
pub fn of(used: String, most: String) -> String {
    if most == "-" { used } else { format!("{used} of {most}") }
}

/// A number of bytes for people.
pub fn mebibytes(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |bytes| format!("{:.0} MiB", bytes / f64::from(1 << 20)))
}

/// What is in an array; nothing, if it is none.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Names are the configuration's and tenants' own: what a terminal would obey is shown, not sent.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().flat_map(visible).collect(),
        value => value.to_string(),
    }
}

fn visible(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

/// Milliseconds with their unit.
pub fn millis(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1} ms"))
}

fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  {line}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The lines of the tables, their columns a single space apart.
    fn check(state: &Value, expected: &[&str]) {
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = table(state).lines().map(squeezed).filter(|line| !line.is_empty()).collect();
        for line in expected {
            assert!(lines.iter().any(|told| told == line), "{line}: {lines:#?}");
        }
    }

    #[test]
    fn tells_upstreams_endpoints_tenants_and_limits() {
        let state = json!({
            "version": "0.1.0",
            "connections": 3,
            "load": {
                "level": 2, "shedding": "greedy", "memory_bytes": 5 << 20, "memory_limit": 9 << 20, "held_bytes": 1 << 20,
                "held_limit": null, "open_files": 12, "open_files_limit": 100,
                "cores": [{"lag_ms": 0.1, "shedding": "calm"}, {"lag_ms": 250.4, "shedding": "sheddable"}],
            },
            "config": {"loaded_at": "2026-01-01T00:00:00Z", "last_error": "error: a\n --> b"},
            "redis": {
                "address": "h:1", "state": "away", "error": "refused",
                "purges": {"sent": 3, "read": 4, "waiting": 5},
            },
            "cluster": {
                "self": "a:1", "nodes": [{"name": "a:1", "state": "self"}, {"name": "b:1", "state": "away"}],
                "asked": {"answered": 3, "away": 1, "late": 1, "refused": 0, "old": 0}, "answered": 7,
            },
            "store": {"shards": [
                {"shard": 0, "here": true, "node": null}, {"shard": 1, "here": false, "node": "b:1"},
                {"shard": 2, "here": false, "node": null}, {"shard": 3, "here": false, "node": "b:1"},
            ]},
            "cache": {"disk": {
                "path": "/var/c", "state": "away", "error": "another process has this directory", "bytes": 5 << 20,
                "size_limit": 9 << 20, "answers": 1, "hits": 2, "misses": 3, "dropped": 4,
            }},
            "upstreams": [{
                "name": "app", "breaker": "open", "load": 1, "concurrency": 8, "adaptive": true, "in_use": 2,
                "waiting": 1, "saturated_ms": 2100, "p50_ms": 1.24,
                "heaviest": [{"tenant": "acme", "route": "search", "share": 0.914, "waiting": 1, "refused": 0}],
                "verdict": {"text": "saturated for 2.1 s: tenant acme\u{1b} used 91 %"},
                "p99_ms": null, "discovery": "dns app.internal", "discovery_error": "no answer",
                "endpoints": [{
                    "address": "127.0.0.1:1", "state": "up", "admin": "draining", "active": 1, "connections": 2,
                    "requests": 3, "failures": 4, "latency_ms": 0.5,
                }],
            }],
            "plans": [{
                "name": "small", "tenants": 3, "in_flight": 7, "concurrency": 10, "body_bytes": 1024,
                "request_bytes_per_second": null, "response_bytes_per_second": 2048,
                "rates": [{"name": "default", "limit": 5, "window_ms": 1500, "burst": 6}],
            }],
            "tenants": {
                "tracked": 9,
                "busiest": [{
                    "id": "acme\u{1b}[2J", "plan": "small", "admitted": 5, "refused": 6, "in_flight": 7,
                    "concurrency": 10,
                    "rates": [{"name": "default", "limit": 5, "window_ms": 1500, "remaining": 2, "reset_ms": 1}],
                    "routes": [{
                        "name": "search", "in_flight": 1, "concurrency": 4,
                        "rates": [{"name": "search", "limit": 3, "window_ms": 1000, "remaining": 0, "reset_ms": 1}],
                    }],
                }],
                "others": {"admitted": 11, "refused": 12},
            },
        });
        check(
            &state,
            &[
                "tidegate 0.1.0, configuration of 2026-01-01T00:00:00Z, 3 connections",
                "shards 1 of 4 here; nobody has 2; b:1 has 1 3",
                "load 2, memory 5 MiB of 9 MiB, bodies 1 MiB, open files 12 of 100, late by 250 ms",
                "short of memory, refusing: greedy",
                "redis h:1 away (refused), purges: 3 sent, 4 read, 5 waiting",
                "cluster a:1 of 2 nodes, away: b:1, homes: asked 3, in vain 2, answered 7",
                "cache on disk /var/c away (another process has this directory), 5 MiB of 9 MiB, 1 answers, 2 hits, 3 misses, 4 dropped",
                "core 1 is short of time, refusing: sheddable",
                "app open 1 2 of 8 (adaptive) 1 for 2 s (acme on search: 91 %) 1.2 ms - dns app.internal (failing: no answer)",
                "app saturated for 2.1 s: tenant acme\\u{1b} used 91 %",
                "127.0.0.1:1 app up draining 1 2 3 4 0.5 ms",
                "small 3 7 10 1024 - 2048 default: 5 in 1.5 s, 6 at once",
                "acme\\u{1b}[2J small 5 6 7 of 10 default: 2 left, 5 in 1.5 s; search: 0 left, 3 in 1 s; search: 1 of 4 in flight",
                "(8 others) - 11 12 - -",
                "error: a",
                "--> b",
            ],
        );
    }
}
