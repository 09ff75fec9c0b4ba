//! `tidegate mirror`: what a running Tidegate found of its mirrors, through its control API.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::status::{Remote, ask, cell, encoded, in_columns, list, millis, said, shown};

/// Which report.
#[derive(Debug, Args)]
pub struct MirrorArgs {
    #[command(flatten)]
    remote: Remote,
    /// The route; without it: all that have a mirror
    route: Option<String>,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Begin to count anew
    #[arg(long, requires = "route")]
    reset: bool,
}

/// Tells what was found. Exit code 0 even where a route may not be moved: that is an answer.
#[must_use]
pub fn mirror(args: &MirrorArgs) -> ExitCode {
    let method = if args.reset { "DELETE" } else { "GET" };
    let path = args.route.as_ref().map_or_else(String::new, |route| format!("/{}", encoded(route)));
    let answer = ask(&args.remote, method, &format!("/mirrors{path}"), "");
    said(answer.and_then(|answer| {
        shown(answer, args.json, |told| match args.route {
            Some(_) => report(told),
            None => table(list(&told["mirrors"])),
        })
    }))
}

fn table<'a>(mirrors: impl Iterator<Item = &'a Value>) -> String {
    let heads =
        ["ROUTE", "MIRROR", "SHARE", "COMPARED", "EQUAL", "DIFFERENT", "FAILED", "P99", "MIRROR'S", "READY"];
    let row = |one: &Value| {
        vec![
            cell(&one["route"]),
            cell(&one["upstream"]),
            percent(&one["share"]),
            cell(&one["compared"]),
            cell(&one["equal"]),
            cell(&one["different"]),
            cell(&one["failed"]),
            millis(&one["upstream_latency"]["p99_ms"]),
            millis(&one["mirror_latency"]["p99_ms"]),
            verdict(&one["verdict"]),
        ]
    };
    in_columns(
        &std::iter::once(heads.map(str::to_owned).to_vec()).chain(mirrors.map(row)).collect::<Vec<_>>(),
    )
}

fn percent(share: &Value) -> String {
    format!("{} %", (share.as_f64().unwrap_or_default() * 1e6).round() / 1e4)
}

fn verdict(verdict: &Value) -> String {
    match verdict["ready"].as_bool() {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => "-".to_owned(),
    }
}

/// All of one mirror.
fn report(told: &Value) -> String {
    let mut out = table(std::iter::once(told));
    let verdict = &told["verdict"];
    match verdict["ready"].as_bool() {
        Some(true) => {
            out += &format!(
                "\nready to move: {} compared since {}, {} differed, below {} for sure\n",
                told["compared"],
                cell(&told["since"]),
                percent(&verdict["differing"]),
                percent(&verdict["bound"])
            );
        }
        Some(false) => {
            out += &format!("\nnot ready, since {}:\n", cell(&told["since"]));
            list(&verdict["missing"]).for_each(|missing| out += &format!("  {}\n", cell(missing)));
        }
        None => out += "\nanswers are not compared: `compare` is not on\n",
    }
    for (name, key) in [("not comparable", "uncompared"), ("left out", "skipped")] {
        let counts: Vec<String> = told[key]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(why, count)| format!("{why} {count}"))
            .collect();
        if !counts.is_empty() {
            out += &format!("{name}: {}\n", counts.join(", "));
        }
    }
    let mut classes = list(&told["classes"]).peekable();
    if classes.peek().is_some() {
        let heads = ["ANSWERS", "IN", "PLACE"].map(str::to_owned).to_vec();
        let row = |one: &Value| vec![cell(&one["count"]), cell(&one["kind"]), cell(&one["place"])];
        out += "\n";
        out += &in_columns(&std::iter::once(heads).chain(classes.map(row)).collect::<Vec<_>>());
    }
    for sample in list(&told["samples"]).take(SAMPLES_SHOWN) {
        out += &format!(
            "\n{} {} {} tenant {} request {}\n",
            cell(&sample["at"]),
            cell(&sample["method"]),
            cell(&sample["path"]),
            cell(&sample["tenant"]),
            cell(&sample["request_id"])
        );
        if !sample["failed"].is_null() {
            out += &format!("  no answer: {}\n", cell(&sample["failed"]));
        }
        for one in list(&sample["differences"]) {
            out += &format!(
                "  {} {}: {} | {}\n",
                cell(&one["kind"]),
                cell(&one["place"]),
                cell(&one["upstream"]),
                cell(&one["mirror"])
            );
        }
    }
    out
}

/// Samples that a terminal is shown; `--json` tells all.
const SAMPLES_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(told: &Value, expected: &[&str]) {
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = report(told).lines().map(squeezed).filter(|line| !line.is_empty()).collect();
        for line in expected {
            assert!(lines.iter().any(|told| told == line), "{line}: {lines:#?}");
        }
    }

    #[test]
    fn a_report_tells_the_verdict_its_reasons_classes_and_samples() {
        let mut told = json!({
            "route": "orders", "upstream": "next", "share": 0.005, "compared": 10, "equal": 7, "different": 2, "failed": 1,
            "since": "2027-01-01T00:00:00Z", "upstream_latency": {"p50_ms": 1.0, "p99_ms": 2.0},
            "mirror_latency": {"p50_ms": 1.0, "p99_ms": null}, "uncompared": {"large": 3}, "skipped": {"busy": 4},
            "verdict": {"ready": false, "differing": 0.3, "bound": 0.55, "missing": ["10 of 1000 were compared"]},
            "classes": [{"kind": "body", "place": "/items/*", "count": 2}],
            "samples": [
                {"at": "t", "method": "GET", "path": "/\u{1b}x", "tenant": "acme", "request_id": "r", "failed": null,
                 "differences": [{"kind": "body", "place": "/items/*", "upstream": "1", "mirror": null}]},
                {"at": "t", "method": "GET", "path": "/y", "tenant": "acme", "request_id": "s",
                 "failed": "upstream.connect", "differences": []},
            ],
        });
        check(
            &told,
            &[
                "orders next 0.5 % 10 7 2 1 2.0 ms - no",
                "not ready, since 2027-01-01T00:00:00Z:",
                "10 of 1000 were compared",
                "not comparable: large 3",
                "left out: busy 4",
                "2 body /items/*",
                "t GET /\\u{1b}x tenant acme request r",
                "body /items/*: 1 | -",
                "no answer: upstream.connect",
            ],
        );
        told["verdict"] = json!({"ready": true, "differing": 0.001, "bound": 0.0045, "missing": []});
        check(
            &told,
            &["ready to move: 10 compared since 2027-01-01T00:00:00Z, 0.1 % differed, below 0.45 % for sure"],
        );
    }
}
