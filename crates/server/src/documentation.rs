//! What the documentation names exists: metrics, refusals, keys of the configuration, commands, files. A page that
//! names what is gone fails here, with its line.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use tidegate_model::refusal;

use crate::cli::Cli;
use crate::config;
use crate::telemetry::METRICS;

/// Generated from the code itself, or history.
const NOT_CHECKED: [&str; 4] = ["docs/config.md", "docs/metrics.md", "docs/benchmarks.md", "CHANGELOG.md"];

/// The crates, whose names begin as those of metrics do.
const CRATES: [&str; 7] = [
    "tidegate_",
    "tidegate_model",
    "tidegate_wire",
    "tidegate_upstream",
    "tidegate_store",
    "tidegate_proxy",
    "tidegate_testkit",
];

/// Finds what is wrong with a line or a block; nothing if it is right.
type Rule = fn(&str) -> Vec<String>;

/// Rules for what stands between backticks in a line.
const OF_SPANS: [Rule; 5] = [metric, refusal_code, setting, command, file];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages, by their names below the root.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/adr", "docs/deploy", "docs/refusals", "examples"] {
        let entries = std::fs::read_dir(root().join(folder)).expect("the repository is there");
        for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "md"))
        {
            let name = Path::new(folder).join(entry.file_name()).display().to_string();
            if !NOT_CHECKED.contains(&name.as_str()) {
                pages.push((name, std::fs::read_to_string(entry.path()).expect("a page is text")));
            }
        }
    }
    pages.sort();
    pages
}

/// Every metric's name in the text, alone or in an expression.
fn metric(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let named = words.filter(|word| word.starts_with("tidegate_") && !CRATES.contains(word));
    let known = |word: &str| {
        let is = |name: &str| METRICS.iter().any(|metric| metric.name == name);
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| word.strip_suffix(part));
        is(word) || part.is_some_and(is)
    };
    named.filter(|word| !known(word)).map(|word| format!("there is no metric `{word}`")).collect()
}

fn refusal_code(span: &str) -> Vec<String> {
    let area = |code: &str| code.split('.').next().unwrap_or_default().to_owned();
    let is_code = span.split('.').count() == 2
        && !span.ends_with(".rs")
        && span.bytes().all(|byte| byte.is_ascii_lowercase() || b".-".contains(&byte));
    let ours = is_code && refusal::KINDS.iter().any(|kind| area(kind.code) == area(span));
    // `tenants.from` and its like are keys, in words.
    let wrong = ours && refusal::find(span).is_none();
    wrong.then(|| format!("there is no refusal `{span}`")).into_iter().collect()
}

/// `[table] key`, and `[table]` alone.
fn setting(span: &str) -> Vec<String> {
    let Some((table, key)) = span.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        return Vec::new();
    };
    let table = table.trim_start_matches('[');
    let key = key.trim_start_matches(']').trim().split([' ', '=']).next().unwrap_or_default();
    let is_table =
        !table.is_empty() && table.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._*".contains(&byte));
    if !is_table || table.starts_with("workspace") || table.starts_with(|first: char| first.is_ascii_digit())
    {
        return Vec::new();
    }
    let known = config::is_documented(table, key);
    (!known).then(|| format!("there is no `[{table}] {key}`")).into_iter().collect()
}

/// `tidegate …` and `cargo xtask …`.
fn command(span: &str) -> Vec<String> {
    if let Some(task) = span.strip_prefix("cargo xtask ").and_then(|rest| rest.split(' ').next()) {
        let tasks = std::fs::read_to_string(root().join("xtask/src/main.rs")).expect("it is there");
        let known = tasks.contains(&format!("\"{task}\""));
        return (!known).then(|| format!("there is no `cargo xtask {task}`")).into_iter().collect();
    }
    let span = span.strip_prefix("target/release/").unwrap_or(span);
    let Some(words) = span.strip_prefix("tidegate ") else { return Vec::new() };
    let words = words.split([' ', '[', ']', '\\', '|']).filter(|word| !word.is_empty());
    let mut command = &Cli::command();
    let mut wrong = Vec::new();
    for word in words.take_while(|word| !word.starts_with(['#', '…'])) {
        let is_flag = word.starts_with('-');
        let known = command.get_arguments().any(|flag| {
            flag.get_long().is_some_and(|long| word == format!("--{long}"))
                || flag.get_short().is_some_and(|short| word == format!("-{short}"))
        });
        match command.find_subcommand(word) {
            Some(next) => command = Box::leak(Box::new(next.clone())),
            None if is_flag && !known => wrong.push(format!("`{span}`: there is no `{word}`")),
            // Values come where a command takes any.
            None if !is_flag && command.has_subcommands() && command.get_arguments().next().is_none() => {
                wrong.push(format!("`{span}`: there is no `{word}`"));
            }
            None => {}
        }
    }
    wrong
}

/// Paths of sources.
fn file(span: &str) -> Vec<String> {
    let is_path =
        span.contains('/') && (span.ends_with(".rs") || span.ends_with(".toml") || span.ends_with(".md"));
    let there = [root(), root().join("crates")].iter().any(|folder| folder.join(span).exists());
    (is_path && !there && !span.contains([' ', '*']) && !span.contains("CODE"))
        .then(|| format!("there is no file `{span}`"))
        .into_iter()
        .collect()
}

/// What is wrong with a page, each with its line.
fn check(name: &str, page: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut block: Option<(usize, String, String)> = None;
    for (number, line) in page.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let mut tell = |at: usize, problems: Vec<String>| {
            wrong.extend(problems.into_iter().map(|problem| format!("{name}:{at}: {problem}")));
        };
        match (line.strip_prefix("```"), block.take()) {
            (Some(kind), None) => block = Some((number, kind.to_owned(), String::new())),
            (Some(_), Some((begun, kind, text))) if kind == "toml" => tell(begun, config::wrong_keys(&text)),
            (Some(_), Some(_)) => {}
            (None, Some((begun, kind, text))) => {
                tell(number, metric(line));
                tell(number, command(line.trim().trim_start_matches("$ ")));
                block = Some((begun, kind, text + line + "\n"));
            }
            (None, None) => {
                for span in line.split('`').skip(1).step_by(2) {
                    OF_SPANS.iter().for_each(|rule| tell(number, rule(span)));
                }
            }
        }
    }
    wrong
}

#[test]
fn what_the_documentation_names_exists() {
    let pages = pages();
    assert!(pages.len() > refusal::KINDS.len(), "the pages are found");
    let wrong: Vec<String> = pages.iter().flat_map(|(name, page)| check(name, page)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_does_not_exist_is_found() {
    for (page, count) in [
        ("`tidegate_nothing_total{code=\"x\"}`", 1),
        ("`tidegate_request_seconds_bucket` and `tidegate_requests_total`", 0),
        ("`limit.rate`, `limit.nothing`", 1),
        ("`[log] query`, `[log] quary`, `[upstream.app] health`, `[nothing]`", 2),
        ("`tidegate run --to HOST:PORT`, `tidegate walk`, `tidegate run --fast`", 2),
        ("`tidegate status drain UPSTREAM ADDRESS`, `cargo xtask nothing`", 1),
        ("`crates/proxy/src/lifecycle.rs`, `proxy/src/nothing.rs`", 1),
        ("```toml\n[log]\nquery = 1\nquary = true\n```", 2),
        ("```\ntidegate check --nothing\n```", 1),
    ] {
        assert_eq!(check("page", page).len(), count, "{page}: {:?}", check("page", page));
    }
}
