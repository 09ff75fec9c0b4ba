//! `tidegate status`: the state of a running Tidegate, from its control API.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

mod audit;
mod remote;

pub use audit::{AuditArgs, audit};
pub use remote::{Remote, ask, ask_for, encoded, said, shown};

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
        elders(&state["process"]["draining"]),
        load(&state["load"]),
        format_args!(
            "{}{}{}",
            cached(&state["cache"]),
            disk(&state["cache"]["disk"]),
            certificates(&state["certificates"])
                + &redis(&state["redis"])
                + &cluster(&state["cluster"])
                + &shards(&state["store"]["shards"])
        ),
        aligned(&upstreams(state)),
        verdicts(state),
        aligned(&endpoints(state)),
        aligned(&plans(state)),
        aligned(&tenants(state)),
        maintenance(state) + &faults(state),
    )
}

/// Processes that another has taken over from and that have not ended, a line each.
fn elders(draining: &Value) -> String {
    let one = |elder: &Value| {
        format!(
            "process {}, of {}, was taken over from and finishes {} connections\n",
            elder["pid"],
            cell(&elder["since"]),
            elder["connections"]
        )
    };
    list(draining).map(one).collect()
}

/// How the process stands, on one line.
fn load(load: &Value) -> String {
    let shed = |by: &Value| by["shedding"].as_str().is_some_and(|stage| stage != "calm");
    let stage = |by: &Value| cell(&by["shedding"]);
    let mut told = format!(
        "load {}, memory {}, bodies {}, open files {}",
        cell(&load["level"]),
        of(mebibytes(&load["memory_bytes"]), mebibytes(&load["memory_limit"])),
        of(mebibytes(&load["held_bytes"]), mebibytes(&load["held_limit"])),
        of(cell(&load["open_files"]), cell(&load["open_files_limit"])),
    );
    let late = list(&load["cores"]).filter_map(|core| core["lag_ms"].as_f64()).fold(0.0, f64::max);
    if late >= 1.0 {
        told += &format!(", late by {late:.0} ms");
    }
    if shed(load) {
        told += &format!("\nshort of memory, refusing: {}", stage(load));
    }
    for (number, core) in list(&load["cores"]).enumerate().filter(|(_, core)| shed(core)) {
        told += &format!("\ncore {number} is short of time, refusing: {}", stage(core));
    }
    told + "\n"
}

/// Certificates that are ordered, on one line, and those that could not be; nothing where none are.
fn certificates(told: &Value) -> String {
    if told.is_null() {
        return String::new();
    }
    let mut lines = format!(
        "certificates {} configured, {} in memory, {} issued, {} orders failed\n",
        list(&told["configured"]).count(),
        told["in_memory"],
        told["orders"]["issued"],
        told["orders"]["failed"],
    );
    for one in list(&told["configured"]).filter(|one| one["failures"] != 0) {
        lines += &format!(
            "no new certificate for {} ({} until {}): {}\n",
            cell(&one["name"]),
            if one["not_after"].is_null() { "none" } else { "the old one serves" },
            cell(&one["not_after"]),
            cell(&one["error"]),
        );
    }
    lines
}

/// The cache's disk tier, on one line; nothing where there is none.
fn disk(disk: &Value) -> String {
    if disk.is_null() {
        return String::new();
    }
    let why = disk["error"].as_str().map(|_| format!(" ({})", cell(&disk["error"]))).unwrap_or_default();
    format!(
        "cache on disk {} {}{why}, {}, {} answers, {} hits, {} misses, {} dropped\n",
        cell(&disk["path"]),
        cell(&disk["state"]),
        of(mebibytes(&disk["bytes"]), mebibytes(&disk["size_limit"])),
        disk["answers"],
        disk["hits"],
        disk["misses"],
        disk["dropped"],
    )
}

/// What is cached, on one line; nothing, where nothing is.
fn cached(cache: &Value) -> String {
    if cache["answers"].as_u64().unwrap_or_default() == 0 {
        return String::new();
    }
    format!(
        "cache {} of {}, {} answers, {} evicted, {} purges\n",
        mebibytes(&cache["memory_bytes"]),
        mebibytes(&cache["memory_limit"]),
        cache["answers"],
        cache["evicted"],
        cache["purged"],
    )
}

/// The nodes that ask each other, on one line; nothing where they do not.
fn cluster(cluster: &Value) -> String {
    if cluster.is_null() {
        return String::new();
    }
    let nodes = || list(&cluster["nodes"]);
    let away: Vec<String> =
        nodes().filter(|node| node["state"] == "away").map(|node| cell(&node["name"])).collect();
    let away = if away.is_empty() { String::new() } else { format!(", away: {}", away.join(" ")) };
    let asked = &cluster["asked"];
    let in_vain: u64 = ["away", "late", "refused", "old"].iter().filter_map(|one| asked[*one].as_u64()).sum();
    format!(
        "cluster {} of {} nodes{away}, homes: asked {}, in vain {in_vain}, answered {}\n",
        cell(&cluster["self"]),
        nodes().count(),
        asked["answered"],
        cluster["answered"],
    )
}

/// Which shards' deliveries are made here and by whom the others', on one line; nothing where all are made here.
fn shards(shards: &Value) -> String {
    let all = || list(shards);
    let here: Vec<String> = all().filter(|one| one["here"] == true).map(|one| cell(&one["shard"])).collect();
    if here.len() == all().count() {
        return String::new();
    }
    let mut told = format!("shards {} of {} here", here.len(), all().count());
    let others: BTreeSet<String> =
        all().filter(|one| one["here"] != true).map(|one| cell(&one["node"])).collect();
    for node in others {
        let its = all().filter(|one| one["here"] != true && cell(&one["node"]) == node);
        let its: Vec<String> = its.map(|one| cell(&one["shard"])).collect();
        let who = if node == "-" { "nobody" } else { &node };
        told += &format!("; {who} has {}", its.join(" "));
    }
    told + "\n"
}

/// Where nodes meet, on one line; nothing where they do not.
fn redis(redis: &Value) -> String {
    if redis.is_null() {
        return String::new();
    }
    let why = redis["error"].as_str().map(|_| format!(" ({})", cell(&redis["error"]))).unwrap_or_default();
    let purges = &redis["purges"];
    format!(
        "redis {} {}{why}, purges: {} sent, {} read, {} waiting\n",
        cell(&redis["address"]),
        cell(&redis["state"]),
        purges["sent"],
        purges["read"],
        purges["waiting"],
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

/// The injected faults, so that nobody looks for what is a rehearsal; nothing, if there are none.
fn maintenance(state: &Value) -> String {
    let mut rows = Rows::of(["IN MAINTENANCE", "TENANT", "ROUTE", "UNTIL", "BY"]);
    let mut all = list(&state["maintenance"]).peekable();
    if all.peek().is_none() {
        return String::new();
    }
    for one in all {
        rows.push(["name", "tenant", "route", "until", "by"].map(|key| cell(&one[key])));
    }
    format!("\n{}", aligned(&rows))
}

fn faults(state: &Value) -> String {
    let mut rows = Rows::of(["INJECTED FAULT", "WHAT", "TENANT", "ROUTE", "SHARE", "BY", "UNTIL", "STRUCK"]);
    let mut all = list(&state["faults"]).peekable();
    if all.peek().is_none() {
        return String::new();
    }
    for one in all {
        let kinds = tidegate_model::fault::Kind::NAMES.into_iter();
        let what =
            kinds.filter(|kind| !one[*kind].is_null()).map(|kind| format!("{kind} {}", cell(&one[kind])));
        rows.push([
            cell(&one["name"]),
            what.collect(),
            cell(&one["tenant"]),
            cell(&one["route"]),
            format!("{:.0} %", one["share"].as_f64().unwrap_or_default() * 100.0),
            cell(&one["by"]),
            cell(&one["until"]),
            cell(&one["struck"]),
        ]);
    }
    format!("\n{}", aligned(&rows))
}

fn upstreams(state: &Value) -> Rows {
    let mut rows = Rows::of(["UPSTREAM", "BREAKER", "LOAD", "SLOTS", "WAITING", "P50", "P99", "DISCOVERY"]);
    for one in list(&state["upstreams"]) {
        let slots = match &one["concurrency"] {
            Value::Null => "-".to_owned(),
            limit if one["adaptive"] == true => format!("{} of {limit} (adaptive)", one["in_use"]),
            limit => format!("{} of {limit}", one["in_use"]),
        };
        let mut found = cell(&one["discovery"]);
        if let Value::String(error) = &one["discovery_error"] {
            found = format!("{found} (failing: {error})");
        }
        if let Value::Number(size) = &one["shard"]["size"] {
            found = format!("{found}, {size} of {} a tenant", list(&one["endpoints"]).count());
        }
        rows.push([
            cell(&one["name"]),
            cell(&one["breaker"]),
            cell(&one["load"]),
            slots,
            waiting(one),
            millis(&one["p50_ms"]),
            millis(&one["p99_ms"]),
            found,
        ]);
    }
    rows
}

/// Of each upstream that is or was saturated: by whom, since when, and what was done.
fn verdicts(state: &Value) -> String {
    let told = list(&state["upstreams"]).filter(|one| one["verdict"].is_object());
    told.map(|one| format!("{} {}\n", cell(&one["name"]), cell(&one["verdict"]["text"]))).collect()
}

/// How many wait, and who uses most of what they wait for.
fn waiting(upstream: &Value) -> String {
    let waiting = cell(&upstream["waiting"]);
    match (&upstream["saturated_ms"], list(&upstream["heaviest"]).next()) {
        (Value::Number(since), Some(heaviest)) => format!(
            "{waiting} for {:.0} s ({} on {}: {:.0} %)",
            since.as_f64().unwrap_or_default() / 1e3,
            cell(&heaviest["tenant"]),
            cell(&heaviest["route"]),
            heaviest["share"].as_f64().unwrap_or_default() * 100.0,
        ),
        _ => waiting,
    }
}

fn endpoints(state: &Value) -> Rows {
    let mut rows = Rows::of([
        "ENDPOINT", "UPSTREAM", "STATE", "ADMIN", "ACTIVE", "CONNS", "REQUESTS", "FAILED", "LATENCY",
    ]);
    for upstream in list(&state["upstreams"]) {
        let files = &upstream["files"];
        if files.is_object() {
            let state = if upstream["discovery_error"].is_null() { "up" } else { "failing" };
            let mut row = ["files", "", state, "-", "", "-", "", "", "-"].map(str::to_owned);
            row[1] = cell(&upstream["name"]);
            for (place, key) in [(4, "active"), (6, "requests"), (7, "failures")] {
                row[place] = cell(&files[key]);
            }
            rows.push(row);
        }
        for one in list(&upstream["endpoints"]) {
            rows.push([
                cell(&one["address"]),
                cell(&upstream["name"]),
                cell(&one["state"]),
                cell(&one["admin"]),
                cell(&one["active"]),
                cell(&one["connections"]),
                cell(&one["requests"]),
                cell(&one["failures"]),
                millis(&one["latency_ms"]),
            ]);
        }
    }
    rows
}

fn plans(state: &Value) -> Rows {
    let mut rows =
        Rows::of(["PLAN", "TENANTS", "IN FLIGHT", "AT ONCE", "BODY", "BYTES IN/S", "BYTES OUT/S", "RATES"]);
    for one in list(&state["plans"]) {
        let rates: Vec<String> = list(&one["rates"])
            .map(|rate| format!("{}: {}, {} at once", cell(&rate["name"]), allowance(rate), rate["burst"]))
            .collect();
        rows.push([
            cell(&one["name"]),
            cell(&one["tenants"]),
            cell(&one["in_flight"]),
            cell(&one["concurrency"]),
            cell(&one["body_bytes"]),
            cell(&one["request_bytes_per_second"]),
            cell(&one["response_bytes_per_second"]),
            if rates.is_empty() { "-".to_owned() } else { rates.join("; ") },
        ]);
    }
    rows
}

fn tenants(state: &Value) -> Rows {
    let mut rows = Rows::of(["TENANT", "PLAN", "ADMITTED", "REFUSED", "IN FLIGHT", "RATES"]);
    let told = &state["tenants"];
    for one in list(&told["busiest"]) {
        let in_flight = match &one["concurrency"] {
            Value::Null => cell(&one["in_flight"]),
            limit => format!("{} of {limit}", one["in_flight"]),
        };
        let own = list(&one["rates"]).map(rate);
        // A route's single rate is called as the route is.
        let on_routes = list(&one["routes"]).flat_map(|route| {
            let places = route["concurrency"]
                .as_u64()
                .map(|most| format!("{}: {} of {most} in flight", cell(&route["name"]), route["in_flight"]));
            list(&route["rates"]).map(rate).chain(places)
        });
        let rates: Vec<String> = own.chain(on_routes).collect();
        let rates = if rates.is_empty() { "-".to_owned() } else { rates.join("; ") };
        rows.push([
            cell(&one["id"]),
            cell(&one["plan"]),
            cell(&one["admitted"]),
            cell(&one["refused"]),
            in_flight,
            rates,
        ]);
    }
    let shown = list(&told["busiest"]).count() as u64;
    let others = told["tracked"].as_u64().unwrap_or_default().saturating_sub(shown);
    if others > 0 {
        let sums = &told["others"];
        let dash = || "-".to_owned();
        rows.push([
            format!("({others} others)"),
            dash(),
            cell(&sums["admitted"]),
            cell(&sums["refused"]),
            dash(),
            dash(),
        ]);
    }
    rows
}

/// `default: 3 left, 5 in 1 s`.
fn rate(rate: &Value) -> String {
    format!("{}: {} left, {}", cell(&rate["name"]), rate["remaining"], allowance(rate))
}

/// `5 in 1 s`.
fn allowance(rate: &Value) -> String {
    format!("{} in {} s", rate["limit"], rate["window_ms"].as_f64().unwrap_or_default() / 1e3)
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

/// Rows of equally many cells, the heads first.
struct Rows(Vec<Vec<String>>);

impl Rows {
    fn of<const COLUMNS: usize>(heads: [&str; COLUMNS]) -> Rows {
        Rows(vec![heads.map(str::to_owned).to_vec()])
    }

    fn push<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.0.push(cells.to_vec());
    }
}

fn aligned(Rows(rows): &Rows) -> String {
    in_columns(rows)
}

/// Cells in columns of their own widths, all rows with as many.
pub fn in_columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
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
