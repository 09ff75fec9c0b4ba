//! What is shown: made of the last two samples, by the differences between them. Pure.

use std::collections::BTreeMap;

use serde_json::Value;
use tidegate_model::refusal;

use super::sample::{Sample, label};
use crate::status::{cell, list, mebibytes, millis, of};

/// Tables, in the order of their tabs.
pub const TABLES: [&str; 6] = ["Tenants", "Routes", "Upstreams", "Endpoints", "Queues", "Refusals"];

/// Lines above the tables.
pub const HEAD_LINES: usize = 4;

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The lines above, the worst marked.
    pub head: Vec<Line>,
    /// One table for each of [`TABLES`].
    pub tables: Vec<Table>,
}

/// A line above the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// It.
    pub text: String,
    /// Somebody should look.
    pub bad: bool,
}

/// A table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub head: &'static str,
    /// Numbers stand to the right.
    pub number: bool,
}

/// A row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// A cell for each column.
    pub cells: Vec<Cell>,
    /// What may be done with it.
    pub target: Target,
    /// Somebody should look.
    pub bad: bool,
}

/// A cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// What it is sorted by, where it is a number.
    pub number: Option<f64>,
}

/// What a row is, for whoever wants to change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Nothing can be done with it.
    #[default]
    Nothing,
    /// An endpoint of an upstream.
    Endpoint {
        /// The upstream.
        upstream: String,
        /// Its address.
        address: String,
    },
    /// A tenant.
    Tenant(String),
    /// A queue.
    Queue(String),
}

impl View {
    /// What is seen in the second sample; the first tells how fast counters grow.
    #[must_use]
    pub fn of(before: Option<&Sample>, now: &Sample) -> View {
        let rates = Rates::new(before, now);
        View {
            head: head(&rates),
            tables: vec![
                tenants(&rates),
                routes(&rates),
                upstreams(&rates),
                endpoints(&rates),
                queues(&rates),
                refusals(&rates),
            ],
        }
    }
}

/// How fast what is counted grows.
struct Rates<'a> {
    before: Option<&'a Sample>,
    now: &'a Sample,
    seconds: f64,
}

/// Sums by a label's value.
type Sums = BTreeMap<String, f64>;

impl<'a> Rates<'a> {
    fn new(before: Option<&'a Sample>, now: &'a Sample) -> Rates<'a> {
        let seconds = before.map_or(0.0, |before| now.at.since(before.at).as_secs_f64());
        Rates { before: before.filter(|_| seconds > 0.0), now, seconds }
    }

    /// A metric's sums by the value of a label, of those samples that have these labels.
    fn sums(sample: &Sample, name: &str, by: &str, having: &str) -> Sums {
        let mut sums = Sums::new();
        for (labels, value) in sample.metrics.samples(name).filter(|(labels, _)| labels.contains(having)) {
            if let Some(key) = label(labels, by) {
                *sums.entry(key).or_default() += value;
            }
        }
        sums
    }

    /// By how much a metric grew each second, by the value of a label. What has begun anew counts from zero.
    fn by(&self, name: &str, by: &str, having: &str) -> Sums {
        let Some(before) = self.before else { return Sums::new() };
        let earlier = Self::sums(before, name, by, having);
        let grown = |(key, value): (String, f64)| {
            let was = earlier.get(&key).copied().filter(|was| *was <= value).unwrap_or(0.0);
            let rate = (value - was) / self.seconds;
            (key, rate)
        };
        Self::sums(self.now, name, by, having).into_iter().map(grown).collect()
    }

    /// By how much a number in the status grew each second.
    fn of(&self, now: &Value, before: &Value) -> Option<f64> {
        self.before?;
        let (now, before) = (now.as_f64()?, before.as_f64().unwrap_or(0.0));
        Some(if before <= now { (now - before) / self.seconds } else { now / self.seconds })
    }

    /// The time under which this part of the requests of a route stayed of late, in milliseconds; of all where none is named.
    fn quantile(&self, route: Option<&str>, part: f64) -> Option<f64> {
        let having = route.map(|route| format!("route=\"{route}\"")).unwrap_or_default();
        let buckets = self.by("tidegate_request_seconds_bucket", "le", &having);
        let mut bounds: Vec<(f64, f64)> =
            buckets.into_iter().filter_map(|(bound, rate)| Some((bound.parse().ok()?, rate))).collect();
        bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let all = bounds.last().map(|(_, rate)| *rate).filter(|all| *all > 0.0)?;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, upto) in bounds {
            if upto >= all * part {
                // Within a bucket they are taken to lie evenly; in the last one there is no other end.
                let upper = if bound.is_finite() { bound } else { lower };
                let share = if upto > below { (all * part - below) / (upto - below) } else { 1.0 };
                return Some((lower + (upper - lower) * share) * 1e3);
            }
            (lower, below) = (bound, upto);
        }
        None
    }
}

fn text(value: impl Into<String>) -> Cell {
    Cell { text: value.into(), number: None }
}

fn shown(value: &Value) -> Cell {
    Cell { text: cell(value), number: value.as_f64() }
}

fn rate(rate: Option<f64>) -> Cell {
    let told = match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 0.05 => "0".to_owned(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    };
    Cell { text: told, number: Some(rate.unwrap_or(0.0)) }
}

fn time(millis: Option<f64>) -> Cell {
    let told = match millis {
        None => "-".to_owned(),
        Some(millis) if millis < 10.0 => format!("{millis:.2} ms"),
        Some(millis) => format!("{millis:.0} ms"),
    };
    Cell { text: told, number: millis }
}

fn columns<const COUNT: usize>(heads: [(&'static str, bool); COUNT]) -> Vec<Column> {
    heads.map(|(head, number)| Column { head, number }).to_vec()
}

fn head(rates: &Rates<'_>) -> Vec<Line> {
    let status = &rates.now.status;
    let load = &status["load"];
    let plain = |text: String| Line { text, bad: false };
    let classes = rates.by("tidegate_requests_total", "class", "");
    let all: f64 = classes.values().sum();
    let errors = classes.get("5xx").copied().unwrap_or(0.0);
    let refused: f64 = rates.by("tidegate_refusals_total", "code", "").values().sum();
    let level = load["level"].as_u64().unwrap_or(0);
    let late = list(&load["cores"]).filter_map(|core| core["lag_ms"].as_f64()).fold(0.0, f64::max);
    let share = if all > 0.0 { errors / all * 100.0 } else { 0.0 };
    let mut lines = vec![
        Line {
            text: format!(
                "{} requests/s  {} 5xx/s ({share:.1} %)  {} refused/s  p50 {}  p99 {}",
                rate(rates.before.map(|_| all)).text,
                rate(rates.before.map(|_| errors)).text,
                rate(rates.before.map(|_| refused)).text,
                time(rates.quantile(None, 0.5)).text,
                time(rates.quantile(None, 0.99)).text,
            ),
            bad: share >= 1.0,
        },
        Line {
            text: format!(
                "load {level}  {} connections  files {}  late {late:.0} ms",
                cell(&status["connections"]),
                of(cell(&load["open_files"]), cell(&load["open_files_limit"])),
            ),
            bad: level > 0,
        },
        plain(format!(
            "memory {}  bodies {}",
            of(mebibytes(&load["memory_bytes"]), mebibytes(&load["memory_limit"])),
            of(mebibytes(&load["held_bytes"]), mebibytes(&load["held_limit"])),
        )),
    ];
    lines.extend(alarms(status).into_iter().next().map(|text| Line { text, bad: true }));
    lines.resize_with(HEAD_LINES, || plain(String::new()));
    lines
}

/// What somebody should know at once, the most pressing first.
fn alarms(status: &Value) -> Vec<String> {
    let mut alarms = Vec::new();
    if let Some(stage) = status["load"]["shedding"].as_str().filter(|stage| *stage != "calm") {
        alarms.push(format!("short of memory, refusing: {stage}"));
    }
    for (number, core) in list(&status["load"]["cores"]).enumerate() {
        if let Some(stage) = core["shedding"].as_str().filter(|stage| *stage != "calm") {
            alarms.push(format!("core {number} is short of time, refusing: {stage}"));
        }
    }
    let saturated = list(&status["upstreams"]).filter(|one| one["saturated_ms"].is_number());
    alarms.extend(
        saturated
            .filter(|one| one["verdict"].is_object())
            .map(|one| format!("{}: {}", cell(&one["name"]), cell(&one["verdict"]["text"]))),
    );
    if let Some(state) = status["store"]["state"].as_str().filter(|state| *state != "serving") {
        alarms.push(format!("the store is {state}: {}", cell(&status["store"]["error"])));
    }
    if status["redis"]["state"] == "away" {
        alarms.push(format!("Redis is away: {}", cell(&status["redis"]["error"])));
    }
    if let Value::String(error) = &status["config"]["last_error"] {
        let first = error.lines().next().unwrap_or_default();
        alarms.push(format!("the last reload was refused: {}", cell(&Value::String(first.to_owned()))));
    }
    alarms
}

fn tenants(rates: &Rates<'_>) -> Table {
    let columns = columns([
        ("TENANT", false),
        ("PLAN", false),
        ("REQ/S", true),
        ("REFUSED/S", true),
        ("IN FLIGHT", true),
        ("LEFT", true),
        ("STATE", false),
    ]);
    let paused: Vec<String> =
        list(&rates.now.queues["paused_tenants"]).map(|one| tenant_of(one).to_owned()).collect();
    let before = rates.before.map(|before| &before.status["tenants"]["busiest"]);
    let rows = list(&rates.now.status["tenants"]["busiest"]).map(|one| {
        let id = one["id"].as_str().unwrap_or_default();
        let earlier = before.and_then(|list_| list(list_).find(|was| was["id"] == one["id"]));
        let grown = |key: &str| earlier.and_then(|was| rates.of(&one[key], &was[key]));
        let limits = list(&one["rates"]).chain(list(&one["routes"]).flat_map(|route| list(&route["rates"])));
        let left = limits.filter_map(|rate| rate["remaining"].as_f64()).reduce(f64::min);
        let (refused, is_paused) = (grown("refused"), paused.iter().any(|paused| paused == id));
        let in_flight = of(cell(&one["in_flight"]), cell(&one["concurrency"]));
        let state = if is_paused { "paused" } else { "" };
        Row {
            cells: vec![
                shown(&one["id"]),
                shown(&one["plan"]),
                rate(grown("admitted")),
                rate(refused),
                Cell { text: in_flight, number: one["in_flight"].as_f64() },
                Cell { text: left.map_or_else(|| "-".to_owned(), |left| format!("{left:.0}")), number: left },
                text(state),
            ],
            target: Target::Tenant(id.to_owned()),
            bad: is_paused || refused.is_some_and(|refused| refused >= 0.05),
        }
    });
    Table { columns, rows: rows.collect() }
}

/// The tenant of a pause: its name, or an object that has it.
fn tenant_of(pause: &Value) -> &str {
    pause.as_str().or_else(|| pause["tenant"].as_str()).unwrap_or_default()
}

fn routes(rates: &Rates<'_>) -> Table {
    let columns = columns([
        ("ROUTE", false),
        ("REQ/S", true),
        ("4XX/S", true),
        ("5XX/S", true),
        ("P50", true),
        ("P99", true),
        ("CACHED", true),
    ]);
    let name = "tidegate_requests_total";
    let of_class = |class: &str| rates.by(name, "route", &format!("class=\"{class}\""));
    let (bad, worse) = (of_class("4xx"), of_class("5xx"));
    let cached = ["hit", "stale"]
        .map(|outcome| rates.by("tidegate_cache_requests_total", "route", &format!("outcome=\"{outcome}\"")));
    let asked = rates.by("tidegate_cache_requests_total", "route", "");
    let known = Rates::sums(rates.now, name, "route", "");
    let all = rates.by(name, "route", "");
    let rows = known.into_keys().map(|route| {
        let at = |sums: &Sums| sums.get(&route).copied();
        let errors = at(&worse).unwrap_or(0.0);
        let hits: f64 = cached.iter().filter_map(at).sum();
        let share = at(&asked).filter(|asked| *asked > 0.0).map(|asked| hits / asked * 100.0);
        Row {
            cells: vec![
                shown(&Value::String(if route.is_empty() { "(none)".to_owned() } else { route.clone() })),
                rate(at(&all)),
                rate(rates.before.map(|_| at(&bad).unwrap_or(0.0))),
                rate(rates.before.map(|_| errors)),
                time(rates.quantile(Some(&route), 0.5)),
                time(rates.quantile(Some(&route), 0.99)),
                Cell {
                    text: share.map_or_else(|| "-".to_owned(), |share| format!("{share:.0} %")),
                    number: share,
                },
            ],
            target: Target::Nothing,
            bad: errors >= 0.05,
        }
    });
    Table { columns, rows: rows.collect() }
}

fn upstreams(rates: &Rates<'_>) -> Table {
    let columns = columns([
        ("UPSTREAM", false),
        ("BREAKER", false),
        ("LOAD", true),
        ("SLOTS", true),
        ("WAITING", true),
        ("P50", true),
        ("P99", true),
        ("UP", true),
        ("DISCOVERY", false),
    ]);
    let rows = list(&rates.now.status["upstreams"]).map(|one| {
        let all = list(&one["endpoints"]).count();
        let up =
            list(&one["endpoints"]).filter(|one| one["state"] == "up" && one["admin"] == "enabled").count();
        let failing = if one["discovery_error"].is_null() { "" } else { " (failing)" };
        let directory = one["files"].is_object();
        Row {
            cells: vec![
                shown(&one["name"]),
                shown(&one["breaker"]),
                shown(&one["load"]),
                Cell {
                    text: of(cell(&one["in_use"]), cell(&one["concurrency"])),
                    number: one["in_use"].as_f64(),
                },
                shown(&one["waiting"]),
                Cell { text: millis(&one["p50_ms"]), number: one["p50_ms"].as_f64() },
                Cell { text: millis(&one["p99_ms"]), number: one["p99_ms"].as_f64() },
                Cell {
                    text: if directory { "-".to_owned() } else { format!("{up} of {all}") },
                    number: Some(up as f64),
                },
                text(format!("{}{failing}", cell(&one["discovery"]))),
            ],
            target: Target::Nothing,
            bad: one["breaker"] != "closed" && !one["breaker"].is_null()
                || one["load"].as_u64().unwrap_or(0) > 0
                || !directory && up < all,
        }
    });
    Table { columns, rows: rows.collect() }
}

fn endpoints(rates: &Rates<'_>) -> Table {
    let columns = columns([
        ("ENDPOINT", false),
        ("UPSTREAM", false),
        ("STATE", false),
        ("ADMIN", false),
        ("REQ/S", true),
        ("FAIL/S", true),
        ("LATENCY", true),
        ("ACTIVE", true),
        ("CONNS", true),
    ]);
    let mut rows = Vec::new();
    for upstream in list(&rates.now.status["upstreams"]) {
        let before = rates
            .before
            .and_then(|before| list(&before.status["upstreams"]).find(|was| was["name"] == upstream["name"]));
        for one in list(&upstream["endpoints"]) {
            let earlier =
                before.and_then(|was| list(&was["endpoints"]).find(|was| was["address"] == one["address"]));
            let grown = |key: &str| earlier.and_then(|was| rates.of(&one[key], &was[key]));
            let raw = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            rows.push(Row {
                cells: vec![
                    shown(&one["address"]),
                    shown(&upstream["name"]),
                    shown(&one["state"]),
                    shown(&one["admin"]),
                    rate(grown("requests")),
                    rate(grown("failures")),
                    Cell { text: millis(&one["latency_ms"]), number: one["latency_ms"].as_f64() },
                    shown(&one["active"]),
                    shown(&one["connections"]),
                ],
                target: Target::Endpoint { upstream: raw(&upstream["name"]), address: raw(&one["address"]) },
                bad: one["state"] != "up" || one["admin"] != "enabled",
            });
        }
    }
    Table { columns, rows }
}

fn queues(rates: &Rates<'_>) -> Table {
    let columns = columns([
        ("QUEUE", false),
        ("READY", true),
        ("SCHEDULED", true),
        ("BLOCKED", true),
        ("LEASED", true),
        ("DEAD", true),
        ("DONE/S", true),
        ("OLDEST", true),
        ("STATE", false),
    ]);
    let done = rates.by("tidegate_queue_attempts_total", "queue", "outcome=\"delivered\"");
    let oldest = Rates::sums(rates.now, "tidegate_queue_oldest_seconds", "queue", "");
    let rows = list(&rates.now.queues["queues"]).map(|one| {
        let name = one["name"].as_str().unwrap_or_default();
        let (paused, parked) = (one["paused"] == true, one["parked"] == true);
        let parts = list(&one["paused_parts"]).count();
        let state = match (paused, parked, parts) {
            (true, ..) => "paused".to_owned(),
            (_, true, _) => "parked".to_owned(),
            (_, _, 0) => String::new(),
            (.., parts) => format!("{parts} paused in it"),
        };
        let age = oldest.get(name).copied();
        let counts = &one["counts"];
        Row {
            cells: vec![
                shown(&one["name"]),
                shown(&counts["ready"]),
                shown(&counts["scheduled"]),
                shown(&counts["blocked"]),
                shown(&counts["leased"]),
                shown(&counts["dead"]),
                rate(rates.before.map(|_| done.get(name).copied().unwrap_or(0.0))),
                Cell { text: age.map_or_else(|| "-".to_owned(), |age| format!("{age:.0} s")), number: age },
                text(state),
            ],
            target: Target::Queue(name.to_owned()),
            bad: paused || parked || counts["dead"].as_u64().unwrap_or(0) > 0,
        }
    });
    Table { columns, rows: rows.collect() }
}

fn refusals(rates: &Rates<'_>) -> Table {
    let columns =
        columns([("CODE", false), ("/S", true), ("EVER", true), ("STATUS", true), ("MEANING", false)]);
    let growing = rates.by("tidegate_refusals_total", "code", "");
    let all = Rates::sums(rates.now, "tidegate_refusals_total", "code", "");
    let rows = all.into_iter().filter(|(_, ever)| *ever > 0.0).map(|(code, ever)| {
        let now = growing.get(&code).copied();
        let kind = refusal::find(&code);
        Row {
            cells: vec![
                text(code),
                rate(now),
                Cell { text: format!("{ever:.0}"), number: Some(ever) },
                kind.map_or_else(Cell::default, |kind| shown(&Value::from(kind.status))),
                text(kind.map_or("", |kind| kind.title)),
            ],
            target: Target::Nothing,
            bad: now.is_some_and(|now| now >= 0.05),
        }
    });
    Table { columns, rows: rows.collect() }
}
