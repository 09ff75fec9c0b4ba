//! The dashboard, as Grafana imports it: from what users notice, at the top, to what the process is made of, at the bottom.

use serde_json::{Value, json};

/// Panels that stand together.
pub struct Row {
    /// Its title.
    pub title: &'static str,
    /// Them.
    pub panels: &'static [Panel],
}

/// A graph.
pub struct Panel {
    title: &'static str,
    /// As Grafana calls it.
    unit: &'static str,
    /// What is drawn, and what each line is called.
    pub lines: &'static [(&'static str, &'static str)],
}

const fn panel(
    title: &'static str,
    unit: &'static str,
    lines: &'static [(&'static str, &'static str)],
) -> Panel {
    Panel { title, unit, lines }
}

/// All of them. `$__rate_interval` and `$instance` are Grafana's to fill in.
pub const ROWS: &[Row] = &[
    Row {
        title: "What clients notice",
        panels: &[
            panel(
                "Requests",
                "reqps",
                &[(
                    r#"sum by (class) (rate(tidegate_requests_total{instance=~"$instance",route=~"$route"}[$__rate_interval]))"#,
                    "{{class}}",
                )],
            ),
            panel(
                "Share of 5xx",
                "percentunit",
                &[(
                    r#"sum(rate(tidegate_requests_total{instance=~"$instance",route=~"$route",class="5xx"}[$__rate_interval])) / sum(rate(tidegate_requests_total{instance=~"$instance",route=~"$route"}[$__rate_interval]))"#,
                    "5xx",
                )],
            ),
            panel(
                "Time to the last byte",
                "s",
                &[
                    (
                        r#"histogram_quantile(0.5, sum by (le) (rate(tidegate_request_seconds_bucket{instance=~"$instance",route=~"$route"}[$__rate_interval])))"#,
                        "p50",
                    ),
                    (
                        r#"histogram_quantile(0.99, sum by (le) (rate(tidegate_request_seconds_bucket{instance=~"$instance",route=~"$route"}[$__rate_interval])))"#,
                        "p99",
                    ),
                ],
            ),
            panel(
                "p99 by route",
                "s",
                &[(
                    r#"histogram_quantile(0.99, sum by (le, route) (rate(tidegate_request_seconds_bucket{instance=~"$instance",route=~"$route"}[$__rate_interval])))"#,
                    "{{route}}",
                )],
            ),
            panel(
                "Refusals",
                "reqps",
                &[(
                    r#"topk(10, sum by (code) (rate(tidegate_refusals_total{instance=~"$instance"}[$__rate_interval])))"#,
                    "{{code}}",
                )],
            ),
            panel(
                "Clients that left",
                "reqps",
                &[(
                    r#"sum by (route) (rate(tidegate_client_gone_total{instance=~"$instance",route=~"$route"}[$__rate_interval]))"#,
                    "{{route}}",
                )],
            ),
            panel(
                "Bytes",
                "Bps",
                &[
                    (
                        r#"sum(rate(tidegate_request_body_bytes_total{instance=~"$instance",route=~"$route"}[$__rate_interval]))"#,
                        "received",
                    ),
                    (
                        r#"sum(rate(tidegate_response_body_bytes_total{instance=~"$instance",route=~"$route"}[$__rate_interval]))"#,
                        "sent",
                    ),
                ],
            ),
        ],
    },
    Row {
        title: "Tenants",
        panels: &[
            panel(
                "Busiest",
                "reqps",
                &[(
                    r#"topk(10, sum by (tenant) (rate(tidegate_tenant_requests_total{instance=~"$instance"}[$__rate_interval])))"#,
                    "{{tenant}}",
                )],
            ),
            panel(
                "Refused by their limits",
                "reqps",
                &[(
                    r#"topk(10, sum by (tenant) (rate(tidegate_tenant_refused_total{instance=~"$instance"}[$__rate_interval])))"#,
                    "{{tenant}}",
                )],
            ),
            panel(
                "Deliveries that wait",
                "short",
                &[(
                    r#"topk(10, max by (tenant) (tidegate_tenant_deliveries_waiting{instance=~"$instance"}))"#,
                    "{{tenant}}",
                )],
            ),
        ],
    },
    Row {
        title: "Upstreams",
        panels: &[
            panel(
                "Endpoints up",
                "short",
                &[(r#"sum by (upstream) (tidegate_endpoint_up{instance=~"$instance"})"#, "{{upstream}}")],
            ),
            panel(
                "Latency of endpoints",
                "s",
                &[(
                    r#"max by (upstream, endpoint) (tidegate_endpoint_latency_seconds{instance=~"$instance"})"#,
                    "{{upstream}} {{endpoint}}",
                )],
            ),
            panel(
                "Failures of endpoints",
                "reqps",
                &[(
                    r#"sum by (upstream, endpoint) (rate(tidegate_endpoint_failures_total{instance=~"$instance"}[$__rate_interval]))"#,
                    "{{upstream}} {{endpoint}}",
                )],
            ),
            panel(
                "Tries for a request",
                "short",
                &[(
                    r#"sum(rate(tidegate_upstream_tries_total{instance=~"$instance"}[$__rate_interval])) / sum(rate(tidegate_requests_total{instance=~"$instance"}[$__rate_interval]))"#,
                    "tries",
                )],
            ),
            panel(
                "Slots in use",
                "short",
                &[
                    (
                        r#"sum by (upstream) (tidegate_upstream_slots_used{instance=~"$instance"})"#,
                        "{{upstream}} used",
                    ),
                    (
                        r#"sum by (upstream) (tidegate_upstream_slots{instance=~"$instance"})"#,
                        "{{upstream}} limit",
                    ),
                ],
            ),
            panel(
                "Waiting for a slot",
                "short",
                &[(
                    r#"sum by (upstream) (tidegate_upstream_waiting{instance=~"$instance"})"#,
                    "{{upstream}}",
                )],
            ),
            panel(
                "Refused at the gate",
                "reqps",
                &[(
                    r#"sum by (upstream, reason) (rate(tidegate_upstream_gate_refused_total{instance=~"$instance"}[$__rate_interval]))"#,
                    "{{upstream}} {{reason}}",
                )],
            ),
            panel(
                "Breakers open",
                "short",
                &[(
                    r#"max by (upstream) (tidegate_upstream_breaker_open{instance=~"$instance"})"#,
                    "{{upstream}}",
                )],
            ),
        ],
    },
    Row {
        title: "Cache",
        panels: &[
            panel(
                "What the cache did",
                "reqps",
                &[(
                    r#"sum by (outcome) (rate(tidegate_cache_requests_total{instance=~"$instance",route=~"$route"}[$__rate_interval]))"#,
                    "{{outcome}}",
                )],
            ),
            panel(
                "Memory of answers",
                "bytes",
                &[
                    (r#"sum(tidegate_cache_bytes{instance=~"$instance"})"#, "stored"),
                    (r#"sum(tidegate_cache_limit_bytes{instance=~"$instance"})"#, "limit"),
                ],
            ),
            panel(
                "Evicted",
                "ops",
                &[
                    (
                        r#"sum(rate(tidegate_cache_evicted_total{instance=~"$instance"}[$__rate_interval]))"#,
                        "memory",
                    ),
                    (
                        r#"sum(rate(tidegate_cache_disk_evicted_total{instance=~"$instance"}[$__rate_interval]))"#,
                        "disk",
                    ),
                ],
            ),
        ],
    },
    Row {
        title: "Deliveries and store",
        panels: &[
            panel(
                "Deliveries by state",
                "short",
                &[(
                    r#"max by (queue, state) (tidegate_queue_deliveries{instance=~"$instance"})"#,
                    "{{queue}} {{state}}",
                )],
            ),
            panel(
                "The oldest that waits",
                "s",
                &[(r#"max by (queue) (tidegate_queue_oldest_seconds{instance=~"$instance"})"#, "{{queue}}")],
            ),
            panel(
                "Attempts",
                "ops",
                &[(
                    r#"sum by (queue, outcome) (rate(tidegate_queue_attempts_total{instance=~"$instance"}[$__rate_interval]))"#,
                    "{{queue}} {{outcome}}",
                )],
            ),
            panel(
                "p99 of attempts",
                "s",
                &[(
                    r#"histogram_quantile(0.99, sum by (le, queue) (rate(tidegate_queue_attempt_seconds_bucket{instance=~"$instance"}[$__rate_interval])))"#,
                    "{{queue}}",
                )],
            ),
            panel(
                "Size of the store",
                "bytes",
                &[
                    (r#"max(tidegate_store_bytes{instance=~"$instance"})"#, "used"),
                    (r#"max(tidegate_store_limit_bytes{instance=~"$instance"})"#, "limit"),
                ],
            ),
            panel(
                "Commits and commands",
                "ops",
                &[
                    (
                        r#"sum(rate(tidegate_store_commits_total{instance=~"$instance"}[$__rate_interval]))"#,
                        "commits",
                    ),
                    (
                        r#"sum by (outcome) (rate(tidegate_store_commands_total{instance=~"$instance"}[$__rate_interval]))"#,
                        "{{outcome}}",
                    ),
                ],
            ),
        ],
    },
    Row {
        title: "Process",
        panels: &[
            panel(
                "Connections",
                "short",
                &[(r#"sum by (instance) (tidegate_connections{instance=~"$instance"})"#, "{{instance}}")],
            ),
            panel(
                "Memory",
                "bytes",
                &[
                    (r#"max by (instance) (tidegate_memory_bytes{instance=~"$instance"})"#, "{{instance}}"),
                    (
                        r#"max by (instance) (tidegate_memory_limit_bytes{instance=~"$instance"})"#,
                        "{{instance}} limit",
                    ),
                ],
            ),
            panel(
                "Lateness of cores",
                "s",
                &[(r#"max by (instance) (tidegate_lag_seconds{instance=~"$instance"})"#, "{{instance}}")],
            ),
            panel(
                "Load and shedding",
                "short",
                &[
                    (
                        r#"max by (instance) (tidegate_load_level{instance=~"$instance"})"#,
                        "{{instance}} load",
                    ),
                    (
                        r#"max by (instance, cause) (tidegate_shedding{instance=~"$instance"})"#,
                        "{{instance}} shedding for {{cause}}",
                    ),
                ],
            ),
            panel(
                "Open files",
                "short",
                &[(r#"max by (instance) (tidegate_open_files{instance=~"$instance"})"#, "{{instance}}")],
            ),
            panel(
                "Telemetry lost",
                "ops",
                &[
                    (
                        r#"sum(rate(tidegate_access_log_dropped_total{instance=~"$instance"}[$__rate_interval]))"#,
                        "lines of the log",
                    ),
                    (
                        r#"sum by (signal) (rate(tidegate_otlp_items_total{instance=~"$instance",outcome="lost"}[$__rate_interval]))"#,
                        "{{signal}}",
                    ),
                    (
                        r#"sum(rate(tidegate_otlp_exchanges_total{instance=~"$instance",outcome="queue"}[$__rate_interval]))"#,
                        "traces that did not fit",
                    ),
                ],
            ),
        ],
    },
];

/// Graphs beside each other, and how large each is on Grafana's grid of 24 columns.
const BESIDE: usize = 3;
const WIDTH: usize = 8;
const HEIGHT: usize = 8;

/// The dashboard.
pub fn json() -> String {
    let (mut panels, mut id, mut top) = (Vec::new(), 0, 0);
    for row in ROWS {
        id += 1;
        let place = json!({"x": 0, "y": top, "w": BESIDE * WIDTH, "h": 1});
        panels.push(json!({"id": id, "type": "row", "title": row.title, "gridPos": place, "collapsed": false, "panels": []}));
        top += 1;
        for (number, panel) in row.panels.iter().enumerate() {
            id += 1;
            let (x, y) = (number % BESIDE * WIDTH, top + number / BESIDE * HEIGHT);
            panels.push(graph(panel, id, &json!({"x": x, "y": y, "w": WIDTH, "h": HEIGHT})));
        }
        top += row.panels.len().div_ceil(BESIDE) * HEIGHT;
    }
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let variable = |name: &str, query: &str| {
        json!({
            "name": name, "type": "query", "datasource": source, "query": {"query": query, "refId": name}, "definition": query,
            "includeAll": true, "multi": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "refresh": 2, "sort": 1,
        })
    };
    let board = json!({
        "uid": "tidegate", "title": "Tidegate", "tags": ["tidegate"], "schemaVersion": 39, "version": 1, "editable": true,
        "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "graphTooltip": 1,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            variable("instance", "label_values(tidegate_build_info, instance)"),
            variable("route", "label_values(tidegate_requests_total, route)"),
        ]},
        "annotations": {"list": []},
        "panels": panels,
    });
    serde_json::to_string_pretty(&board).unwrap_or_default() + "\n"
}

fn graph(panel: &Panel, id: usize, place: &Value) -> Value {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let targets: Vec<Value> = panel
        .lines
        .iter()
        .enumerate()
        .map(|(number, (expr, legend))| {
            let letter = char::from(b'A' + u8::try_from(number).unwrap_or(0)).to_string();
            let exemplar = expr.contains("tidegate_request_seconds_bucket");
            json!({"refId": letter, "datasource": source, "expr": expr, "legendFormat": legend, "range": true, "exemplar": exemplar})
        })
        .collect();
    json!({
        "id": id, "type": "timeseries", "title": panel.title, "gridPos": place, "datasource": source, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": true}, "tooltip": {"mode": "multi", "sort": "desc"}},
    })
}
