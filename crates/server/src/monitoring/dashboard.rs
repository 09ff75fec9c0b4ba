//! The dashboard, as Grafana imports it: from what users notice, at the top, to what the process is made of, at the bottom.

use serde_json::{Value, json};

/// Panels that stand together.
pub struct Row {
    /// Its title.
    title: &'static str,
    /// Them.
    pub panels: Vec<Panel>,
}

/// A graph.
pub struct Panel {
    title: &'static str,
    /// As Grafana calls it.
    unit: &'static str,
    /// What each line is called, and what is drawn.
    pub lines: Vec<(&'static str, &'static str)>,
}

/// All of them, as the table beside this says.
///
/// # Panics
/// If that is none: a test reads it.
pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let paragraphs = include_str!("dashboard.txt").split("\n\n");
    for paragraph in paragraphs.filter(|paragraph| !paragraph.starts_with('#')) {
        let (head, lines) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        if let Some(title) = head.strip_prefix("== ") {
            rows.push(Row { title, panels: Vec::new() });
            continue;
        }
        let named = head.strip_suffix(']').and_then(|head| head.split_once(" ["));
        let (title, unit) = named.unwrap_or_else(|| panic!("a title and a unit: {head}"));
        let lines = lines.lines().map(|line| line.split_once(": ").expect("a name and an expression"));
        let panel = Panel { title, unit, lines: lines.collect() };
        rows.last_mut().expect("a row comes first").panels.push(panel);
    }
    rows
}

/// Graphs beside each other, and how large each is on Grafana's grid of 24 columns.
const BESIDE: usize = 3;
const WIDTH: usize = 8;
const HEIGHT: usize = 8;

/// The dashboard.
pub fn json() -> String {
    let (mut panels, mut id, mut top) = (Vec::new(), 0, 0);
    for row in rows() {
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
        .map(|(number, (legend, expr))| {
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
