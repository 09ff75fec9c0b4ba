//! `/canaries`: how the next versions of routes stand, and what becomes of them.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_model::canary::{Command, Phase, Side, State as CanaryState};
use tidegate_model::delivery::shown;
use tidegate_proxy::canary::{Canaries, Canary, Told};

use super::deliveries::now;
use super::{Control, Who, body, problem};
use crate::telemetry::{CANARY_PHASE, CANARY_REQUESTS, CANARY_ROLLBACKS, CANARY_SHARE, Exposition};

/// All canaries.
#[derive(JsonSchema, Serialize)]
pub struct CanariesTold {
    /// Each of them.
    canaries: Vec<CanaryTold>,
}

/// A route's canary.
#[derive(JsonSchema, Serialize)]
pub struct CanaryTold {
    /// The route.
    route: String,
    /// Its upstream.
    upstream: String,
    /// `waiting`, `running`, `paused`, `promoted`, `rolled-back`; `unknown`: the store was not asked yet.
    phase: &'static str,
    /// The share of requests that it gets, up to 1.
    share: f64,
    /// Its step, from 0.
    step_number: usize,
    /// All shares, one after the other.
    steps: Vec<f64>,
    /// Since when it stands so (RFC 3339).
    since: Option<String>,
    /// Why: who said so, or what was found.
    why: Option<String>,
    /// What came within the window.
    window: BothTold,
    /// What came since it stands so.
    step: BothTold,
}

/// Both versions.
#[derive(JsonSchema, Serialize)]
struct BothTold {
    /// The route's upstream.
    baseline: SideTold,
    /// The next version.
    canary: SideTold,
}

/// What a version has answered to this node.
#[derive(JsonSchema, Serialize)]
struct SideTold {
    /// Answers, errors included.
    answers: u64,
    /// 5xx, or no answer at all.
    errors: u64,
    /// Half of those that were no errors took less.
    p50_ms: Option<f64>,
    /// 99 in 100 did.
    p99_ms: Option<f64>,
}

/// What becomes of a canary.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryWanted {
    command: CanaryWord,
}

/// A command.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum CanaryWord {
    /// It begins with its first step; a paused one goes on.
    Start,
    /// It stays as large as it is.
    Pause,
    /// It gets all requests.
    Promote,
    /// It gets none.
    Rollback,
}

impl From<CanaryWord> for Command {
    fn from(word: CanaryWord) -> Command {
        match word {
            CanaryWord::Start => Command::Start,
            CanaryWord::Pause => Command::Pause,
            CanaryWord::Promote => Command::Promote,
            CanaryWord::Rollback => Command::Rollback,
        }
    }
}

pub async fn list(State(control): State<Control>) -> Response {
    let all = control.process.gate.standing.canaries.all();
    axum::Json(CanariesTold { canaries: all.iter().map(|canary| told(canary)).collect() }).into_response()
}

pub async fn show(State(control): State<Control>, Path(route): Path<String>) -> Response {
    match control.process.gate.standing.canaries.get(&route) {
        Some(canary) => axum::Json(told(&canary)).into_response(),
        None => none(&route),
    }
}

pub async fn change(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(route): Path<String>,
    sent: Body,
) -> Response {
    let wanted: CanaryWanted = match body::json(sent, body::BYTES_MAX, "control.body").await {
        Ok(wanted) => wanted,
        Err(refused) => return *refused,
    };
    let Some(canary) = control.process.gate.standing.canaries.get(&route) else { return none(&route) };
    let Told { state, settings, .. } = canary.told();
    let Some(state) = state else {
        let detail = "the store was not asked yet how this canary stands";
        return problem(StatusCode::SERVICE_UNAVAILABLE, "control.canary", detail);
    };
    let Some(next) = state.told(wanted.command.into(), &who, now()) else {
        let detail = format!("the canary is {}: this changes nothing", state.phase.name());
        return problem(StatusCode::CONFLICT, "control.canary", &detail);
    };
    tracing::info!(
        who,
        route,
        phase = next.phase.name(),
        share = next.share(&settings.plan),
        "control: canary"
    );
    canary.set(next, true);
    axum::Json(told(&canary)).into_response()
}

fn none(route: &str) -> Response {
    problem(StatusCode::NOT_FOUND, "control.no-canary", &format!("no route `{route}` has a canary"))
}

fn part(millionths: u32) -> f64 {
    f64::from(millionths) / f64::from(tidegate_model::mirror::WHOLE)
}

fn told(canary: &Canary) -> CanaryTold {
    let Told { settings, state, window, step, .. } = canary.told();
    let side = |side: &Side| {
        let millis = |share| side.latencies.quantile(share).map(|time| time.as_secs_f64() * 1e3);
        SideTold { answers: side.answers, errors: side.errors, p50_ms: millis(0.5), p99_ms: millis(0.99) }
    };
    CanaryTold {
        route: canary.route.to_string(),
        upstream: settings.upstream.to_string(),
        phase: state.as_ref().map_or("unknown", |state| state.phase.name()),
        share: part(canary.share()),
        step_number: state.as_ref().map_or(0, |state| state.step),
        steps: settings.plan.steps.iter().copied().map(part).collect(),
        since: state.as_ref().map(|state: &CanaryState| shown(state.since)),
        why: state.map(|state| state.why),
        window: BothTold { baseline: side(&window.baseline), canary: side(&window.canary) },
        step: BothTold { baseline: side(&step.baseline), canary: side(&step.canary) },
    }
}

/// The metrics of canaries.
pub fn write(out: &mut Exposition, canaries: &Canaries) {
    let all: Vec<_> = canaries.all().into_iter().map(|canary| (canary.told(), canary)).collect();
    if all.is_empty() {
        return;
    }
    out.family(&CANARY_SHARE);
    for (_, canary) in &all {
        out.sample(CANARY_SHARE.name, &[("route", &canary.route)], part(canary.share()));
    }
    out.family(&CANARY_PHASE);
    for (told, canary) in &all {
        for phase in Phase::ALL {
            let is = told.state.as_ref().is_some_and(|state| state.phase == phase);
            out.sample(
                CANARY_PHASE.name,
                &[("route", &canary.route), ("phase", phase.name())],
                u64::from(is),
            );
        }
    }
    out.family(&CANARY_REQUESTS);
    for (told, canary) in &all {
        for (name, side) in [("baseline", &told.sums.baseline), ("canary", &told.sums.canary)] {
            for (outcome, count) in
                [("good", side.answers.saturating_sub(side.errors)), ("error", side.errors)]
            {
                let labels = [("route", &*canary.route), ("side", name), ("outcome", outcome)];
                out.sample(CANARY_REQUESTS.name, &labels, count);
            }
        }
    }
    out.family(&CANARY_ROLLBACKS);
    for (told, canary) in &all {
        out.sample(CANARY_ROLLBACKS.name, &[("route", &canary.route)], told.rollbacks);
    }
}
