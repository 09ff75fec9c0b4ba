//! Canaries: looked at each second, their states kept in the store, and asked and told by `tidegate canary`.
//!
//! A state is a document of the store, so that a restart goes on where it was and nodes have the same one: whoever finds that a
//! canary is worse says so there, and the others read it within seconds. Each node judges by what it sees itself. Of two states
//! that were not told to each other the later one stands, but no step that a node takes by itself undoes a rollback. Without a store a state is this process's own. While the store cannot
//! be asked for a state that is not known yet, the canary gets nothing.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_model::canary::State;
use tidegate_model::delivery::Ms;
use tidegate_proxy::canary::Canary;
use tidegate_store::documents::{Expect, Place, Room, Write, Written};
use tidegate_store::{Store, Unavailable};
use tidegate_wire::{clock, task};

use crate::control::now;
use crate::status::{Remote, ask, cell, encoded, in_columns, list, millis, said, shown};
use crate::wiring::Gate;

/// How long the state of a canary is kept that is in nobody's configuration any more.
const KEPT_MS: Ms = 30 * DAY_MS;
/// How often that begins anew while it is in somebody's.
const DAY_MS: Ms = 24 * 60 * 60 * 1000;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// What a state is in the store.
pub const KIND: &str = "canary";
/// What is kept of canaries takes no more than this.
const ROOM: Room = Room { count: 10_000, bytes: 16 << 20 };

/// What the store has of a canary.
#[derive(Deserialize, Serialize)]
struct Kept {
    /// Another one is another canary.
    upstream: String,
    state: State,
    /// When it is removed, unless it is written again.
    #[serde(default)]
    until: Ms,
}

/// What is known of what the store has of a canary.
#[derive(Debug, Default)]
struct Known {
    version: Option<u64>,
    until: Ms,
}

impl Known {
    /// Whether it is to be written again, by whoever is the first of all nodes, since it is not to be removed.
    fn is_due(&self, now: Ms) -> bool {
        self.until < now + KEPT_MS - DAY_MS
    }
}

/// Follows the canaries of the configuration in force. Must be called on the control runtime.
pub fn drive(gate: Arc<Gate>) {
    task::spawn(async move {
        let mut known: HashMap<Arc<str>, Known> = HashMap::new();
        loop {
            let all = gate.standing.canaries.all();
            known.retain(|route, _| all.iter().any(|canary| canary.route == *route));
            let store = gate.standing.idempotency.store();
            for canary in all {
                let known = known.entry(Arc::clone(&canary.route)).or_default();
                if let Err(error) = follow(&canary, store.as_deref(), known).await {
                    // It is tried again with the next look.
                    tracing::warn!(route = &*canary.route, %error, "a canary's state was not kept");
                }
            }
            clock::sleep(LOOK).await;
        }
    });
}

/// Reads what the store has of it, looks at what it answers, and writes what is new.
async fn follow(canary: &Canary, store: Option<&Store>, known: &mut Known) -> Result<(), Unavailable> {
    let read = match store {
        Some(store) => read(canary, store, known).await,
        None => Ok(()),
    };
    let told = canary.told();
    if told.state.is_none() && read.is_ok() {
        canary.set(State::begun(&told.settings.plan, now()), true);
    }
    // What is worse is taken back whether the store can be asked or not.
    if let Some(state) = canary.look(now()) {
        let (route, phase) = (&*canary.route, state.phase.name());
        if state.share(&told.settings.plan) == 0 {
            tracing::warn!(route, phase, why = state.why, "canary rolled back");
        } else {
            tracing::info!(route, phase, step = state.step, why = state.why, "canary goes on");
        }
    }
    read?;
    let is_due = canary.is_unsaved() || known.is_due(now());
    let (Some(store), true) = (store, is_due) else { return Ok(()) };
    write(canary, store, known).await
}

fn place(canary: &Canary) -> Place {
    Place { kind: KIND, tenant: "".into(), name: Arc::clone(&canary.route) }
}

async fn read(canary: &Canary, store: &Store, known: &mut Known) -> Result<(), Unavailable> {
    let found = store.document(place(canary)).await?;
    let there = found.as_ref().map(|found| found.version);
    let told = canary.told();
    if there == known.version && told.state.is_some() {
        return Ok(());
    }
    *known = Known { version: there, until: 0 };
    let kept = found.and_then(|found| serde_json::from_slice::<Kept>(&found.body).ok());
    let Some(Kept { upstream, state, until }) = kept else { return Ok(()) };
    known.until = until;
    if *upstream != *told.settings.upstream {
        return Ok(());
    }
    if told.state.as_ref() == Some(&state) {
        // Written again, that it is not removed: nothing of it is new.
        canary.saved(&state);
    } else if told.state.is_none_or(|ours| !canary.is_unsaved() || ours.gives_way_to(&state)) {
        canary.set(state, false);
    }
    Ok(())
}

async fn write(canary: &Canary, store: &Store, known: &mut Known) -> Result<(), Unavailable> {
    let told = canary.told();
    let Some(state) = told.state else { return Ok(()) };
    let until = now() + KEPT_MS;
    let kept = Kept { upstream: told.settings.upstream.to_string(), state, until };
    let body = serde_json::to_vec(&kept).unwrap_or_default().into();
    let expect = known.version.map_or(Expect::Absent, Expect::Version);
    let (place, at) = (place(canary), kept.state.since);
    let put = Write::Put { place, expect, at, until: Some(until), body, room: ROOM };
    match store.write(vec![put]).await? {
        Written::Done(versions) => {
            *known = Known { version: versions.first().copied(), until };
            canary.saved(&kept.state);
        }
        // Another node was first: what it says is read with the next look.
        Written::Unexpected(..) => {}
        Written::Full(_) => {
            tracing::error!(route = &*canary.route, "the store has no room for a canary's state")
        }
    }
    Ok(())
}

/// Which canary, and what becomes of it.
#[derive(Debug, Args)]
pub struct CanaryArgs {
    #[command(flatten)]
    remote: Remote,
    /// The route; without it: all that have a canary
    route: Option<String>,
    /// What becomes of it
    #[arg(requires = "route")]
    command: Option<Wanted>,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// What becomes of a canary.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
    /// It begins with its first step; a paused one goes on
    Start,
    /// It stays as large as it is
    Pause,
    /// It gets all requests
    Promote,
    /// It gets none
    Rollback,
}

/// Tells how canaries stand, or changes one.
#[must_use]
pub fn canary(args: &CanaryArgs) -> ExitCode {
    let path = args.route.as_ref().map_or_else(String::new, |route| format!("/{}", encoded(route)));
    let (method, body) = match args.command {
        Some(wanted) => {
            let name = wanted.to_possible_value().map(|value| value.get_name().to_owned());
            ("POST", json!({ "command": name }).to_string())
        }
        None => ("GET", String::new()),
    };
    let answer = ask(&args.remote, method, &format!("/canaries{path}"), &body);
    said(answer.and_then(|answer| {
        shown(answer, args.json, |told| match args.route {
            Some(_) => table(std::iter::once(told)) + &format!("\n{}\n", cell(&told["why"])),
            None => table(list(&told["canaries"])),
        })
    }))
}

fn table<'a>(canaries: impl Iterator<Item = &'a Value>) -> String {
    let heads = ["ROUTE", "CANARY", "PHASE", "SHARE", "SINCE", "SIDE", "ANSWERS", "ERRORS", "P50", "P99"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for one in canaries {
        for (side, first) in [("baseline", true), ("canary", false)] {
            let told = &one["step"][side];
            let once = |value: String| if first { value } else { String::new() };
            rows.push(vec![
                once(cell(&one["route"])),
                once(cell(&one["upstream"])),
                once(cell(&one["phase"])),
                once(format!("{} %", one["share"].as_f64().unwrap_or_default() * 100.0)),
                once(cell(&one["since"])),
                side.to_owned(),
                cell(&told["answers"]),
                cell(&told["errors"]),
                millis(&told["p50_ms"]),
                millis(&told["p99_ms"]),
            ]);
        }
    }
    in_columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_written_again_once_a_day_for_as_long_as_there_is_its_canary() {
        let began = 1_800_000_000_000;
        let written = Known { version: Some(1), until: began + KEPT_MS };
        for (after, expected) in [(0, false), (DAY_MS, false), (DAY_MS + 1, true), (2 * KEPT_MS, true)] {
            assert_eq!(written.is_due(began + after), expected, "{after} ms later");
        }
        assert!(Known::default().is_due(began), "what nobody has is written");
    }

    #[test]
    fn a_state_of_an_earlier_version_is_read_and_written_with_an_end() {
        let body = br#"{"upstream": "next", "state": {"phase": "rolled-back", "step": 0, "since": 7, "why": "errors"}}"#;
        let kept: Kept = serde_json::from_slice(body).expect("it is read");
        assert!(Known { version: Some(1), until: kept.until }.is_due(1_800_000_000_000));
    }
}
