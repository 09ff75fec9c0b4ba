//! What is told as a table, a row for each.

use serde_json::Value;

use super::{cell, list, millis};

/// What is in maintenance; nothing, if nothing is.
pub(super) fn maintenance(state: &Value) -> String {
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

/// The injected faults, so that nobody looks for what is a rehearsal; nothing, if there are none.
pub(super) fn faults(state: &Value) -> String {
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

pub(super) fn upstreams(state: &Value) -> Rows {
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
pub(super) fn verdicts(state: &Value) -> String {
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

pub(super) fn endpoints(state: &Value) -> Rows {
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

pub(super) fn plans(state: &Value) -> Rows {
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

pub(super) fn tenants(state: &Value) -> Rows {
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

/// Rows of equally many cells, the heads first.
pub(super) struct Rows(Vec<Vec<String>>);

impl Rows {
    fn of<const COLUMNS: usize>(heads: [&str; COLUMNS]) -> Rows {
        Rows(vec![heads.map(str::to_owned).to_vec()])
    }

    fn push<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.0.push(cells.to_vec());
    }
}

pub(super) fn aligned(Rows(rows): &Rows) -> String {
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
