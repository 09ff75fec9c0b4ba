use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::alerts::{ALERTS, RECORDS};
use super::dashboard::rows;
use crate::telemetry::METRICS;

/// What Prometheus itself adds to a sample, and histograms and sums have.
const OTHER_LABELS: [&str; 5] = ["instance", "job", "le", "sum", "severity"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_:".contains(&byte)
}

/// What is wrong with the names in an expression: metrics, records, and the labels that are asked of them or grouped by.
fn wrong(expr: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<&str> = OTHER_LABELS.into_iter().collect();
    let mut rest = expr;
    let mut groups = Vec::new();
    while let Some(start) = rest.bytes().position(is_word) {
        let end = rest[start..].bytes().position(|byte| !is_word(byte)).map_or(rest.len(), |end| start + end);
        let (word, after) = (&rest[start..end], &rest[end..]);
        rest = after;
        if matches!(word, "by" | "without" | "on" | "ignoring") {
            let (list, behind) = after.trim_start().trim_start_matches('(').split_once(')').expect("a list");
            groups.extend(list.split(',').map(str::trim).filter(|label| !label.is_empty()));
            rest = behind;
        }
        if !word.starts_with("tidegate") {
            continue;
        }
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| word.strip_suffix(part));
        let is = |name: &str| METRICS.iter().find(|metric| metric.name == name);
        let of_histogram = || base.and_then(is).filter(|metric| metric.kind == "histogram");
        let labels = match is(word).filter(|metric| metric.kind != "histogram").or_else(of_histogram) {
            Some(metric) => metric.labels,
            None if RECORDS.iter().any(|record| record.name == word) => &[],
            None => {
                wrong.push(format!("there is no metric `{word}`"));
                continue;
            }
        };
        known.extend(labels);
        if let Some((matchers, behind)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            for matcher in matchers.split("\",") {
                let label = matcher.split(['=', '!']).next().unwrap_or_default().trim();
                if !labels.contains(&label) && !OTHER_LABELS.contains(&label) {
                    wrong.push(format!("`{word}` has no label `{label}`"));
                }
            }
            rest = behind;
        }
    }
    let strange = groups.into_iter().filter(|label| !known.contains(label));
    wrong.extend(strange.map(|label| format!("nothing in it has a label `{label}`")));
    wrong
}

#[test]
fn an_expression_that_names_what_is_not_there_is_found() {
    for (expr, expected) in [
        ("sum by (route) (rate(tidegate_requests_total{class=\"5xx\"}[5m]))", 0),
        ("tidegate:error_ratio:rate5m > 1", 0),
        ("rate(tidegate_request_seconds_bucket{le=\"1\"}[5m])", 0),
        ("tidegate_requests > 0", 1),
        ("tidegate_request_seconds > 0", 1),
        ("tidegate_requests_total{clas=\"5xx\"}", 1),
        ("sum by (tenant) (tidegate_requests_total)", 1),
        ("tidegate:error_ratio:rate9m", 1),
    ] {
        assert_eq!(wrong(expr).len(), expected, "{expr}: {:?}", wrong(expr));
    }
}

#[test]
fn alerts_and_panels_name_metrics_and_labels_that_there_are() {
    let alerts = ALERTS.iter().flat_map(|alert| {
        let series = alert.fires.iter().chain(alert.quiet).map(|(series, _)| *series);
        series.filter(|series| !series.starts_with("up{")).chain([alert.expr])
    });
    let rows = rows();
    let panels = rows.iter().flat_map(|row| &row.panels).flat_map(|panel| &panel.lines).map(|line| line.1);
    let records = RECORDS.iter().map(|record| record.expr);
    let all: Vec<String> = alerts.chain(panels).chain(records).flat_map(wrong).collect();
    assert!(all.is_empty(), "{all:#?}");
    let names: BTreeSet<&str> = ALERTS.iter().map(|alert| alert.name).collect();
    assert_eq!(names.len(), ALERTS.len(), "each has a name of its own");
}

#[test]
fn what_is_packaged_is_that_of_this_code() {
    for (name, text) in super::generated() {
        let there = std::fs::read_to_string(root().join("docs").join(name)).unwrap_or_default();
        assert!(there == text, "docs/{name} is stale: `cargo xtask gen` writes it anew");
    }
}

#[test]
fn no_two_panels_share_a_place() {
    let board: serde_json::Value = serde_json::from_str(&super::dashboard::json()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && cells.insert((x, y)), "{panel}");
        }
    }
}

/// Prometheus' own tool (`cargo xtask test` installs it where it may).
#[test]
fn prometheus_itself_takes_the_rules_and_each_alert_fires_when_it_should() {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let there = Command::new(&promtool).arg("--version").output();
    assert!(
        there.is_ok(),
        "`{promtool}` cannot be run: `apt-get install prometheus` brings it, as `cargo xtask test` does; PROMTOOL names another"
    );
    let run = |folder: &Path, arguments: &[&str]| {
        let out = Command::new(&promtool).args(arguments).current_dir(folder).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {said}");
    };
    let packaged = root().join("packaging/prometheus");
    run(&packaged, &["check", "rules", "tidegate.rules.yml"]);
    run(&packaged, &["test", "rules", "tidegate.test.yml"]);
    // What panels draw, as rules: so they are parsed, too.
    let folder = std::env::temp_dir().join(format!("tidegate-panels-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let rows = rows();
    let lines = rows.iter().flat_map(|row| &row.panels).flat_map(|panel| &panel.lines);
    let rules = lines.enumerate().map(|(number, (_, expr))| {
        let expr = serde_json::Value::from(expr.replace("$__rate_interval", "5m"));
        format!("      - record: panel:{number}\n        expr: {expr}\n")
    });
    let text = format!("groups:\n  - name: panels\n    rules:\n{}", rules.collect::<String>());
    std::fs::write(folder.join("panels.yml"), text).unwrap();
    run(&folder, &["check", "rules", "panels.yml"]);
    std::fs::remove_dir_all(folder).unwrap();
}
