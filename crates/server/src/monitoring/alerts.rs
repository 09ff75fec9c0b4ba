//! Alerts: what users notice, not what might be behind it. Each says what breaks and what to do, and has a test of its own in
//! Prometheus' form: series that it fires for.
//!
//! Errors alert by how fast they spend the error budget of a month (99.9 %), over a long window and a short one (Google's SRE
//! Workbook, chapter 5): a page comes soon when much is lost, and ends soon after it is over.

use std::fmt::Write as _;

/// What an alert asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody has to act now.
    Page,
    /// Somebody has to act within days.
    Ticket,
}

impl Severity {
    /// Its name, as the label has it.
    const fn name(self) -> &'static str {
        match self {
            Severity::Page => "page",
            Severity::Ticket => "ticket",
        }
    }
}

/// An alert.
#[derive(Clone, Copy, Debug)]
pub struct Alert {
    /// Its name.
    pub name: &'static str,
    /// When it fires.
    pub expr: &'static str,
    /// For how long that has to be so.
    pub wait: &'static str,
    /// What it asks for.
    pub severity: Severity,
    /// What is so, in a sentence.
    pub summary: &'static str,
    /// What breaks.
    pub breaks: &'static str,
    /// What to do.
    pub act: &'static str,
    /// Series for which it fires, in the notation of `promtool test rules`.
    pub fires: &'static [(&'static str, &'static str)],
    /// The same series, for which it does not.
    pub quiet: &'static [(&'static str, &'static str)],
    /// When it has fired.
    pub at: &'static str,
    /// The labels that it has then, beside its severity.
    pub labels: &'static [(&'static str, &'static str)],
}

/// A rule that others read.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The name of what it makes.
    pub name: &'static str,
    /// What it is made of.
    pub expr: &'static str,
}

macro_rules! error_ratios {
    ($($window:literal),*) => {
        /// The share of exchanges that were answered with 5xx, by window.
        pub const RECORDS: &[Record] = &[$(Record {
            name: concat!("tidegate:error_ratio:rate", $window),
            expr: concat!(
                "sum(rate(tidegate_requests_total{class=\"5xx\"}[", $window, "])) / sum(rate(tidegate_requests_total[", $window, "]))"
            ),
        }),*];
    };
}

error_ratios!("5m", "30m", "1h", "6h", "3d");

const FAILING: &[(&str, &str)] = &[
    ("tidegate_requests_total{route=\"api\",class=\"5xx\"}", "0+5x6000"),
    ("tidegate_requests_total{route=\"api\",class=\"2xx\"}", "0+95x6000"),
];
const SERVING: &[(&str, &str)] = &[
    ("tidegate_requests_total{route=\"api\",class=\"5xx\"}", "0+0x6000"),
    ("tidegate_requests_total{route=\"api\",class=\"2xx\"}", "0+95x6000"),
];

/// All alerts, in the order of the page.
pub const ALERTS: &[Alert] = &[
    Alert {
        name: "TidegateErrorBudgetBurnsFast",
        expr: "tidegate:error_ratio:rate1h > 14.4 * 0.001 and tidegate:error_ratio:rate5m > 14.4 * 0.001",
        wait: "2m",
        severity: Severity::Page,
        summary: "So many requests are answered with 5xx that a month's error budget is gone in two days",
        breaks: "Clients are told errors that are not theirs: at least 1.4 % of all over the last hour, and still.",
        act: "Look which refusals there are (`topk(5, sum by (code) (rate(tidegate_refusals_total[5m])))`), then `tidegate explain CODE`. `upstream.saturated` and `server.…`: there is more load than can be borne. `upstream.…` else: it fails or cannot be reached, see its endpoints in `tidegate status`. Answers that the application gave have no refusal: its own log says why.",
        fires: FAILING,
        quiet: SERVING,
        at: "2h",
        labels: &[],
    },
    Alert {
        name: "TidegateErrorBudgetBurns",
        expr: "tidegate:error_ratio:rate6h > 6 * 0.001 and tidegate:error_ratio:rate30m > 6 * 0.001",
        wait: "15m",
        severity: Severity::Page,
        summary: "So many requests are answered with 5xx that a month's error budget is gone in five days",
        breaks: "Clients are told errors that are not theirs: at least 0.6 % of all over the last six hours, and still.",
        act: "As for `TidegateErrorBudgetBurnsFast`; look by route, too: `sum by (route) (rate(tidegate_requests_total{class=\"5xx\"}[30m]))`.",
        fires: FAILING,
        quiet: SERVING,
        at: "8h",
        labels: &[],
    },
    Alert {
        name: "TidegateErrorBudgetBurnsSlowly",
        expr: "tidegate:error_ratio:rate3d > 0.001 and tidegate:error_ratio:rate6h > 0.001",
        wait: "1h",
        severity: Severity::Ticket,
        summary: "More requests are answered with 5xx than the error budget allows in the long run",
        breaks: "Over three days more than 0.1 % of all requests were told errors that are not their clients'.",
        act: "Look for the route and the refusal that make up most of it; traces of failed requests are all kept where `[otlp]` is configured.",
        fires: FAILING,
        quiet: SERVING,
        at: "8h",
        labels: &[],
    },
    Alert {
        name: "TidegateRouteFails",
        expr: "sum by (route) (rate(tidegate_requests_total{class=\"5xx\"}[10m])) / sum by (route) (rate(tidegate_requests_total[10m])) > 0.25 and sum by (route) (rate(tidegate_requests_total[10m])) > 0.1",
        wait: "10m",
        severity: Severity::Page,
        summary: "A quarter of one route's requests is answered with 5xx",
        breaks: "What this route serves does not work for many, though it may be too little of all traffic to burn the error budget.",
        act: "`tidegate status` tells the state of its upstream; `GET /explain/REQUEST_ID` tells of one failed request, step by step, with an id out of the access log.",
        fires: &[
            ("tidegate_requests_total{route=\"api\",class=\"5xx\"}", "0+60x60"),
            ("tidegate_requests_total{route=\"api\",class=\"2xx\"}", "0+60x60"),
        ],
        quiet: SERVING,
        at: "40m",
        labels: &[("route", "api")],
    },
    Alert {
        name: "TidegateRouteSlow",
        expr: "histogram_quantile(0.99, sum by (le, route) (rate(tidegate_request_seconds_bucket[10m]))) > 2.5 and sum by (route) (rate(tidegate_request_seconds_count[10m])) > 0.1",
        wait: "15m",
        severity: Severity::Ticket,
        summary: "One in a hundred requests of a route takes longer than 2.5 seconds",
        breaks: "Users wait. Routes that stream, or that carry WebSockets, are slow by design: leave them out in your own copy of this rule.",
        act: "Compare `tidegate_endpoint_latency_seconds` with it: if the upstream is fast, requests wait at the gate (`tidegate_upstream_waiting`) or clients read slowly. Exemplars of the histogram lead to traces.",
        fires: &[
            ("tidegate_request_seconds_bucket{route=\"api\",le=\"2.5\"}", "0+0x60"),
            ("tidegate_request_seconds_bucket{route=\"api\",le=\"5\"}", "0+60x60"),
            ("tidegate_request_seconds_bucket{route=\"api\",le=\"+Inf\"}", "0+60x60"),
            ("tidegate_request_seconds_count{route=\"api\"}", "0+60x60"),
        ],
        quiet: &[
            ("tidegate_request_seconds_bucket{route=\"api\",le=\"2.5\"}", "0+60x60"),
            ("tidegate_request_seconds_bucket{route=\"api\",le=\"5\"}", "0+60x60"),
            ("tidegate_request_seconds_bucket{route=\"api\",le=\"+Inf\"}", "0+60x60"),
            ("tidegate_request_seconds_count{route=\"api\"}", "0+60x60"),
        ],
        at: "45m",
        labels: &[("route", "api")],
    },
    Alert {
        name: "TidegateAbsent",
        expr: "absent(tidegate_build_info)",
        wait: "5m",
        severity: Severity::Page,
        summary: "No Tidegate is scraped",
        breaks: "It is down, or Prometheus does not reach its control API; then no other alert can come either.",
        act: "Look whether the process runs and what it said last; then whether `[control] listen` is where Prometheus looks.",
        fires: &[("up{job=\"tidegate\"}", "0x60")],
        quiet: &[("tidegate_build_info{version=\"1\"}", "1x60")],
        at: "20m",
        labels: &[],
    },
    Alert {
        name: "TidegateUpstreamDown",
        expr: "max by (instance, upstream) (tidegate_endpoint_up) == 0",
        wait: "1m",
        severity: Severity::Page,
        summary: "No endpoint of an upstream is up",
        breaks: "Whatever goes to this upstream is refused, or answered by its fallback.",
        act: "`tidegate status` tells why each endpoint is out: health check, ejected, disabled by hand. Look at the application's own servers.",
        fires: &[
            ("tidegate_endpoint_up{instance=\"a\",upstream=\"app\",endpoint=\"1\"}", "0x60"),
            ("tidegate_endpoint_up{instance=\"a\",upstream=\"app\",endpoint=\"2\"}", "0x60"),
        ],
        quiet: &[
            ("tidegate_endpoint_up{instance=\"a\",upstream=\"app\",endpoint=\"1\"}", "0x60"),
            ("tidegate_endpoint_up{instance=\"a\",upstream=\"app\",endpoint=\"2\"}", "1x60"),
        ],
        at: "10m",
        labels: &[("instance", "a"), ("upstream", "app")],
    },
    Alert {
        name: "TidegateEndpointDown",
        expr: "tidegate_endpoint_up == 0",
        wait: "15m",
        severity: Severity::Ticket,
        summary: "An endpoint has been out for a quarter of an hour",
        breaks: "Nothing yet: the others carry its load, and there is less to spare.",
        act: "Look at that server. If it is to stay out, take it out of the configuration, or out of the DNS name that it comes from.",
        fires: &[("tidegate_endpoint_up{upstream=\"app\",endpoint=\"1\"}", "0x60")],
        quiet: &[("tidegate_endpoint_up{upstream=\"app\",endpoint=\"1\"}", "1x60")],
        at: "30m",
        labels: &[("upstream", "app"), ("endpoint", "1")],
    },
    Alert {
        name: "TidegateBreakerOpen",
        expr: "tidegate_upstream_breaker_open == 1",
        wait: "2m",
        severity: Severity::Page,
        summary: "The circuit breaker of an upstream is open",
        breaks: "Requests to this upstream are refused at once, or answered by their fallback.",
        act: "The upstream failed several times in a row, and each probe since. It closes by itself when the upstream answers again.",
        fires: &[("tidegate_upstream_breaker_open{upstream=\"app\"}", "1x60")],
        quiet: &[("tidegate_upstream_breaker_open{upstream=\"app\"}", "0x60")],
        at: "10m",
        labels: &[("upstream", "app")],
    },
    Alert {
        name: "TidegateUpstreamSaturated",
        expr: "sum by (upstream) (rate(tidegate_upstream_gate_refused_total[5m])) > 0 and sum by (upstream) (tidegate_upstream_waiting) > 0",
        wait: "5m",
        severity: Severity::Page,
        summary: "An upstream's gate refuses requests since it is full",
        breaks: "There is more for this upstream than it can do: requests wait, and some are refused.",
        act: "Add servers, or find out who asks for so much: `topk(5, rate(tidegate_tenant_requests_total[5m]))`. Whether the limit is too low, `tidegate_upstream_slots` beside the servers' own load says.",
        fires: &[
            ("tidegate_upstream_gate_refused_total{upstream=\"app\",reason=\"full\"}", "0+10x60"),
            ("tidegate_upstream_waiting{upstream=\"app\"}", "7x60"),
        ],
        quiet: &[
            ("tidegate_upstream_gate_refused_total{upstream=\"app\",reason=\"full\"}", "0x60"),
            ("tidegate_upstream_waiting{upstream=\"app\"}", "7x60"),
        ],
        at: "20m",
        labels: &[("upstream", "app")],
    },
    Alert {
        name: "TidegateShedding",
        expr: "max by (instance, cause) (tidegate_shedding) >= 2",
        wait: "2m",
        severity: Severity::Page,
        summary: "The process refuses requests to save itself",
        breaks: "It runs short of memory or of time (`cause`): requests of low priority are refused, and more if that is not enough.",
        act: "`docs/overload.md` says what is refused at which stage. For `time`: more cores or nodes. For `memory`: who holds it, `tidegate_held_bytes`, `tidegate_cache_bytes` and `tidegate_connections`.",
        fires: &[("tidegate_shedding{instance=\"a\",cause=\"memory\"}", "2x60")],
        quiet: &[("tidegate_shedding{instance=\"a\",cause=\"memory\"}", "1x60")],
        at: "10m",
        labels: &[("instance", "a"), ("cause", "memory")],
    },
    Alert {
        name: "TidegateTenantRefused",
        expr: "sum by (tenant) (rate(tidegate_tenant_refused_total[15m])) / (sum by (tenant) (rate(tidegate_tenant_refused_total[15m])) + sum by (tenant) (rate(tidegate_tenant_requests_total[15m]))) > 0.5 and sum by (tenant) (rate(tidegate_tenant_refused_total[15m])) > 0.1",
        wait: "30m",
        severity: Severity::Ticket,
        summary: "More than half of a tenant's requests are refused by its limits",
        breaks: "This tenant's integration does not work as it wants to. Others are not touched: that is what the limits are for.",
        act: "Either its plan is too small, or its client does not heed `Retry-After`: tell it, or change its plan.",
        fires: &[
            ("tidegate_tenant_refused_total{tenant=\"acme\"}", "0+60x120"),
            ("tidegate_tenant_requests_total{tenant=\"acme\"}", "0+20x120"),
        ],
        quiet: &[
            ("tidegate_tenant_refused_total{tenant=\"acme\"}", "0+20x120"),
            ("tidegate_tenant_requests_total{tenant=\"acme\"}", "0+60x120"),
        ],
        at: "90m",
        labels: &[("tenant", "acme")],
    },
    Alert {
        name: "TidegateDeliveriesLate",
        expr: "max by (queue) (tidegate_queue_oldest_seconds) > 300 unless max by (queue) (tidegate_queue_paused) == 1",
        wait: "5m",
        severity: Severity::Page,
        summary: "A delivery that may be begun has waited for more than five minutes",
        breaks: "What was promised to be made is not made in time: its upstream is away, or the queue gets more than its `concurrency` can make.",
        act: "`tidegate queue list` tells what waits, and whether the queue is parked (its upstream is away). If attempts are fast and slots all in use, raise `concurrency`.",
        fires: &[
            ("tidegate_queue_oldest_seconds{queue=\"emails\"}", "0+60x60"),
            ("tidegate_queue_paused{queue=\"emails\"}", "0x60"),
        ],
        quiet: &[
            ("tidegate_queue_oldest_seconds{queue=\"emails\"}", "0+60x60"),
            ("tidegate_queue_paused{queue=\"emails\"}", "1x60"),
        ],
        at: "30m",
        labels: &[("queue", "emails")],
    },
    Alert {
        name: "TidegateDeadLetters",
        expr: "sum by (queue) (increase(tidegate_queue_attempts_total{outcome=\"dead\"}[30m])) > 0",
        wait: "0m",
        severity: Severity::Ticket,
        summary: "Deliveries are dead: no further attempt is made",
        breaks: "What they were to bring about has not happened. They are kept, and may be made again.",
        act: "`tidegate delivery list --state dead` tells which and why. When the reason is gone: `tidegate delivery redrive`.",
        fires: &[("tidegate_queue_attempts_total{queue=\"emails\",outcome=\"dead\"}", "0x10 1+0x50")],
        quiet: &[("tidegate_queue_attempts_total{queue=\"emails\",outcome=\"dead\"}", "1x60")],
        at: "20m",
        labels: &[("queue", "emails")],
    },
    Alert {
        name: "TidegateStoreDown",
        expr: "min by (instance) (tidegate_store_up) == 0",
        wait: "1m",
        severity: Severity::Page,
        summary: "The store takes nothing",
        breaks: "Nothing can be promised: requests with an idempotency key, deferred ones and webhooks are refused; deliveries are not begun.",
        act: "`tidegate status` and the log say why: the disk is full or failed, or PostgreSQL is away. After a failed fsync the process has to be started again; what was acknowledged is on disk.",
        fires: &[("tidegate_store_up{instance=\"a\"}", "0x60")],
        quiet: &[("tidegate_store_up{instance=\"a\"}", "1x60")],
        at: "10m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateCertificateExpires",
        expr: "min by (instance, name) (tidegate_certificate_expiry_timestamp_seconds) - time() < 7 * 86400",
        wait: "1h",
        severity: Severity::Ticket,
        summary: "A certificate ends within a week, or there is none yet",
        breaks: "When it has ended, browsers refuse the connection. One that is renewed by itself should have been weeks ago.",
        act: "Where it is automatic, the log says why it was not renewed. Where it is a file, replace the file: it is read again by itself.",
        fires: &[(
            "tidegate_certificate_expiry_timestamp_seconds{instance=\"a\",name=\"shop.example\"}",
            "86400x200",
        )],
        quiet: &[(
            "tidegate_certificate_expiry_timestamp_seconds{instance=\"a\",name=\"shop.example\"}",
            "8640000x200",
        )],
        at: "2h",
        labels: &[("instance", "a"), ("name", "shop.example")],
    },
    Alert {
        name: "TidegateStoreFull",
        expr: "max by (instance) (tidegate_store_bytes / tidegate_store_limit_bytes) > 0.85",
        wait: "15m",
        severity: Severity::Ticket,
        summary: "The store is nearly as large as it may be",
        breaks: "When it is full, nothing more is accepted until something has ended.",
        act: "Look what it holds: `tidegate_queue_deliveries`. Make deliveries faster, keep what has ended for less long, or raise `[store] size` where the disk has room.",
        fires: &[
            ("tidegate_store_bytes{instance=\"a\"}", "90x60"),
            ("tidegate_store_limit_bytes{instance=\"a\"}", "100x60"),
        ],
        quiet: &[
            ("tidegate_store_bytes{instance=\"a\"}", "50x60"),
            ("tidegate_store_limit_bytes{instance=\"a\"}", "100x60"),
        ],
        at: "30m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateCacheDiskDown",
        expr: "min by (instance) (tidegate_cache_disk_up) == 0",
        wait: "10m",
        severity: Severity::Ticket,
        summary: "The cache's disk tier is not written",
        breaks: "Upstreams are asked for what the disk would have had.",
        act: "`tidegate status` says why: the disk is full, failed, or another process has the directory.",
        fires: &[("tidegate_cache_disk_up{instance=\"a\"}", "0x60")],
        quiet: &[("tidegate_cache_disk_up{instance=\"a\"}", "1x60")],
        at: "20m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateRedisDown",
        expr: "min by (instance) (tidegate_redis_up) == 0",
        wait: "5m",
        severity: Severity::Ticket,
        summary: "A node has no Redis",
        breaks: "Purges of other nodes do not reach it; when it is back, what it cannot know to be good is stale.",
        act: "Look at Redis, and at the network between. Traffic goes on.",
        fires: &[("tidegate_redis_up{instance=\"a\"}", "0x60")],
        quiet: &[("tidegate_redis_up{instance=\"a\"}", "1x60")],
        at: "20m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateReloadRefused",
        expr: "sum by (instance) (increase(tidegate_config_reloads_total{outcome=\"refused\"}[15m])) > 0",
        wait: "0m",
        severity: Severity::Ticket,
        summary: "A configuration was refused",
        breaks: "The one before stays in force: what somebody changed has no effect, and a new process would not start with it.",
        act: "`tidegate check -c FILE` tells all that is wrong with it.",
        fires: &[("tidegate_config_reloads_total{instance=\"a\",outcome=\"refused\"}", "0x10 1+0x50")],
        quiet: &[("tidegate_config_reloads_total{instance=\"a\",outcome=\"refused\"}", "1x60")],
        at: "15m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateFilesShort",
        expr: "max by (instance) (tidegate_open_files / tidegate_open_files_limit) > 0.8",
        wait: "10m",
        severity: Severity::Ticket,
        summary: "The process has nearly as many files open as it may",
        breaks: "At the limit no further client is accepted.",
        act: "Raise `LimitNOFILE` of its unit, or lower `[limits] connections`.",
        fires: &[
            ("tidegate_open_files{instance=\"a\"}", "900x60"),
            ("tidegate_open_files_limit{instance=\"a\"}", "1000x60"),
        ],
        quiet: &[
            ("tidegate_open_files{instance=\"a\"}", "100x60"),
            ("tidegate_open_files_limit{instance=\"a\"}", "1000x60"),
        ],
        at: "30m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateConnectionsRefused",
        expr: "sum by (instance) (increase(tidegate_connections_refused_total[5m])) > 0 or sum by (instance) (increase(tidegate_accept_failures_total[5m])) > 0",
        wait: "5m",
        severity: Severity::Page,
        summary: "Clients are not let in",
        breaks: "Connections are closed as there are as many as may be, or as there are no file descriptors.",
        act: "If this is traffic that is meant to be served, raise `[limits] connections` and the process' file limit, or add nodes. If not: one address may hold its share alone, see `connections_per_address`.",
        fires: &[("tidegate_connections_refused_total{instance=\"a\"}", "0+10x60")],
        quiet: &[("tidegate_connections_refused_total{instance=\"a\"}", "10x60")],
        at: "20m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateTelemetryLost",
        expr: "sum by (instance) (increase(tidegate_access_log_dropped_total[15m])) > 0 or sum by (instance) (increase(tidegate_otlp_exchanges_total{outcome=\"queue\"}[15m])) > 0",
        wait: "0m",
        severity: Severity::Ticket,
        summary: "Lines of the access log or traces were dropped",
        breaks: "What happened is not all told; traffic was not held up by it.",
        act: "The disk or the reader of the log is too slow, or the collector is away: `tidegate_otlp_up`.",
        fires: &[("tidegate_access_log_dropped_total{instance=\"a\"}", "0x10 50+0x50")],
        quiet: &[("tidegate_access_log_dropped_total{instance=\"a\"}", "50x60")],
        at: "15m",
        labels: &[("instance", "a")],
    },
    Alert {
        name: "TidegateCollectorDown",
        expr: "min by (instance, signal) (tidegate_otlp_up) == 0",
        wait: "15m",
        severity: Severity::Ticket,
        summary: "The collector does not take what it is sent",
        breaks: "There are no new traces, or no metrics by OTLP.",
        act: "The log says what the collector answers. A wrong token or path is answered with 401 or 404.",
        fires: &[("tidegate_otlp_up{instance=\"a\",signal=\"traces\"}", "0x60")],
        quiet: &[("tidegate_otlp_up{instance=\"a\",signal=\"traces\"}", "1x60")],
        at: "30m",
        labels: &[("instance", "a"), ("signal", "traces")],
    },
];

const HEAD: &str =
    "# Generated by `cargo xtask gen` from crates/server/src/monitoring/alerts.rs; do not edit.\n";
const PAGES: &str = "docs/alerts.md";

/// A text as YAML has it: its double quotes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn annotations(alert: &Alert) -> [(&'static str, String); 3] {
    [
        ("summary", alert.summary.to_owned()),
        ("description", format!("{} {}", alert.breaks, alert.act)),
        ("runbook", format!("{PAGES}#{}", alert.name.to_lowercase())),
    ]
}

/// The rules, as Prometheus reads them.
pub fn rules() -> String {
    let mut out = format!("{HEAD}groups:\n  - name: tidegate-records\n    rules:\n");
    // Writing into a string cannot fail.
    for Record { name, expr } in RECORDS {
        let _ = writeln!(out, "      - record: {name}\n        expr: {}", quoted(expr));
    }
    out += "  - name: tidegate-alerts\n    rules:\n";
    for alert in ALERTS {
        let Alert { name, expr, wait, severity, .. } = alert;
        let _ = writeln!(out, "      - alert: {name}\n        expr: {}\n        for: {wait}", quoted(expr));
        let _ = writeln!(out, "        labels:\n          severity: {}", severity.name());
        out += "        annotations:\n";
        for (name, text) in annotations(alert) {
            let _ = writeln!(out, "          {name}: {}", quoted(&text));
        }
    }
    out
}

/// Their tests, as `promtool test rules` reads them: each alert fires for its series, and does not for others.
pub fn tests() -> String {
    let mut out = format!("{HEAD}rule_files:\n  - tidegate.rules.yml\nevaluation_interval: 1m\ntests:\n");
    for alert in ALERTS {
        for (series, fires) in [(alert.fires, true), (alert.quiet, false)] {
            let _ = writeln!(out, "  - name: {}\n    interval: 1m\n    input_series:", quoted(alert.name));
            for (series, values) in series {
                let _ =
                    writeln!(out, "      - series: {}\n        values: {}", quoted(series), quoted(values));
            }
            let _ = writeln!(
                out,
                "    alert_rule_test:\n      - eval_time: {}\n        alertname: {}",
                alert.at, alert.name
            );
            if !fires {
                out += "        exp_alerts: []\n";
                continue;
            }
            let _ = writeln!(
                out,
                "        exp_alerts:\n          - exp_labels:\n              severity: {}",
                alert.severity.name()
            );
            for (label, value) in alert.labels {
                let _ = writeln!(out, "              {label}: {}", quoted(value));
            }
            out += "            exp_annotations:\n";
            for (name, text) in annotations(alert) {
                let _ = writeln!(out, "              {name}: {}", quoted(&text));
            }
        }
    }
    out
}

const PAGE_HEAD: &str = "\
# Alerts

Generated by `cargo xtask gen` from the alerts of this version; do not edit.

`packaging/prometheus/tidegate.rules.yml` holds them for Prometheus, with two kinds of `severity`: `page` (somebody has to act
now) and `ticket` (within days). They are about what users notice. `packaging/prometheus/tidegate.test.yml` holds their tests:
`promtool test rules tidegate.test.yml`.

```yaml
# prometheus.yml
rule_files:
  - tidegate.rules.yml
scrape_configs:
  - job_name: tidegate
    static_configs:
      - targets: [\"127.0.0.1:8090\"]
```

Errors alert by how fast they spend an error budget of 0.1 %. If you promise another one, replace `0.001` in your copy.
`packaging/grafana/tidegate.json` is a dashboard for Grafana (Dashboards, New, Import) over the same metrics.

| alert | severity | comes when |
| --- | --- | --- |
";

/// The page that says what to do.
pub fn page() -> String {
    let mut out = PAGE_HEAD.to_owned();
    for Alert { name, severity, summary, .. } in ALERTS {
        let _ = writeln!(out, "| [`{name}`](#{}) | {} | {summary} |", name.to_lowercase(), severity.name());
    }
    for Alert { name, expr, wait, severity, breaks, act, .. } in ALERTS {
        let _ = write!(out, "\n## {name}\n\n{breaks}\n\n**What to do.** {act}\n\n");
        let _ = writeln!(out, "It is a {}. For {wait}:\n\n```\n{expr}\n```", severity.name());
    }
    out
}
