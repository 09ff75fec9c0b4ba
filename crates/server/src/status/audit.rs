//! `tidegate audit`: what was changed in a running Tidegate, and by whom.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::{Remote, ask};
use crate::audit::Entry;

/// What to tell.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    remote: Remote,
    /// So many entries at most, the newest
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Each as a line of JSON, as the file has it
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Entry>,
    next: Option<String>,
}

/// Tells it, the oldest first.
#[must_use]
pub fn audit(args: &AuditArgs) -> ExitCode {
    let lines = match read(args) {
        Ok(entries) => entries.iter().rev().map(|entry| line(entry, args.json)).collect::<String>(),
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    // Whoever reads through a pipe may have enough before the end.
    let _ = std::io::stdout().write_all(lines.as_bytes());
    ExitCode::SUCCESS
}

fn read(args: &AuditArgs) -> Result<Vec<Entry>, String> {
    let (mut entries, mut cursor) = (Vec::new(), String::new());
    while entries.len() < args.limit {
        let path = format!("/audit?limit={}&cursor={cursor}", args.limit - entries.len());
        let told = ask(&args.remote, "GET", &path, "")?;
        let page: Page =
            serde_json::from_str(&told).map_err(|error| format!("tidegate: not an audit: {error}"))?;
        entries.extend(page.entries);
        match page.next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    Ok(entries)
}

fn line(entry: &Entry, json: bool) -> String {
    if json {
        return serde_json::to_string(entry).unwrap_or_default() + "\n";
    }
    let change = &entry.change;
    let mut line = format!("{:>6} {} {}", entry.number, entry.time, change.who);
    let status = change.status.map(|status| status.to_string());
    let from = (!change.from.is_empty()).then(|| format!("({})", change.from));
    let path = (!change.path.is_empty()).then(|| change.path.clone());
    let method = match &path {
        // The path says what the action's would.
        Some(_) => change.action.split(' ').next().unwrap_or_default().to_owned(),
        None => change.action.clone(),
    };
    let states = change.after.as_ref().map(|after| match &change.before {
        Some(before) => format!("{before} -> {after}"),
        None => after.clone(),
    });
    for part in [from, Some(method), path, status, change.code.clone(), states].into_iter().flatten() {
        line.push(' ');
        line.push_str(&part);
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Change;

    #[test]
    fn an_entry_is_a_line() {
        let change = Change {
            who: "ops".to_owned(),
            from: "127.0.0.1:9".to_owned(),
            action: "POST /upstreams/{name}/endpoints/{address}".to_owned(),
            path: "/upstreams/app/endpoints/127.0.0.1:1".to_owned(),
            status: Some(200),
            before: Some("enabled".to_owned()),
            after: Some("draining".to_owned()),
            ..Change::default()
        };
        let mut entry = Entry { number: 7, time: "2026-11-22T01:02:03Z".to_owned(), change };
        let expected = "     7 2026-11-22T01:02:03Z ops (127.0.0.1:9) POST /upstreams/app/endpoints/127.0.0.1:1 200 enabled -> draining\n";
        assert_eq!(line(&entry, false), expected);
        entry.change = Change { who: "process".to_owned(), action: "stop".to_owned(), ..Change::default() };
        assert_eq!(line(&entry, false), "     7 2026-11-22T01:02:03Z process stop\n");
    }
}
