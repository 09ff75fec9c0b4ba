//! `/mirrors`: what mirrors answer beside what upstreams do, and whether a route may be moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_model::delivery::shown;
use tidegate_model::histogram::Histogram;
use tidegate_model::mirror::compare::Kind;
use tidegate_model::mirror::tally::{Class, Sample, Tally, Verdict};
use tidegate_proxy::mirror::{Mirror, Mirrors, Skipped, Told};

use super::deliveries::now;
use super::{Control, Who, problem};
use crate::telemetry::{
    Exposition, Histogram as Spread, MIRROR_ACTIVE, MIRROR_DIFFERENCES, MIRROR_SECONDS, MIRROR_SKIPPED,
    MIRRORED,
};

/// All mirrors.
#[derive(JsonSchema, Serialize)]
pub struct MirrorsTold {
    /// Each of them, without its samples.
    mirrors: Vec<MirrorTold>,
}

/// A route's mirror.
#[derive(JsonSchema, Serialize)]
pub struct MirrorTold {
    /// The route.
    route: String,
    /// The upstream that gets the copies.
    upstream: String,
    /// The share of requests that are copied, up to 1.
    share: f64,
    /// Copies that are under way.
    under_way: u32,
    /// Since when it is counted (RFC 3339): but for `skipped`, all that follows.
    since: String,
    /// Requests of which it is known whether both answers are the same: the sum of the next three.
    compared: u64,
    /// They are.
    equal: u64,
    /// They are not.
    different: u64,
    /// The mirror gave no answer.
    failed: u64,
    /// Answered by both, and not comparable, by reason.
    uncompared: BTreeMap<String, u64>,
    /// Drawn and left out since the process began, by reason.
    skipped: BTreeMap<String, u64>,
    /// Differences alike, the most frequent first.
    classes: Vec<ClassTold>,
    /// Differences of further classes.
    further_classes: u64,
    /// To the head of the upstream's answer.
    upstream_latency: LatencyTold,
    /// To the head of the mirror's.
    mirror_latency: LatencyTold,
    /// Whether the route may be moved; where answers are compared.
    verdict: Option<VerdictTold>,
    /// The last answers that differed, the newest first; where one route is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Vec<SampleTold>>,
}

/// Differences alike.
#[derive(JsonSchema, Serialize)]
struct ClassTold {
    /// `status`, `header`, `body`, or `failed`.
    kind: &'static str,
    /// Two statuses, a header, a place in JSON (elements of arrays are `*`), `bytes`, or the code of a refusal.
    place: String,
    /// Answers.
    count: u64,
}

/// Latencies.
#[derive(JsonSchema, Serialize)]
struct LatencyTold {
    /// Half of them took less.
    p50_ms: Option<f64>,
    /// 99 in 100 did.
    p99_ms: Option<f64>,
}

/// Whether a route may be moved.
#[derive(JsonSchema, Serialize)]
struct VerdictTold {
    /// It may.
    ready: bool,
    /// The share that differed, or was missing.
    differing: f64,
    /// What that share is below, with 95 % confidence.
    bound: f64,
    /// What is missing, in words.
    missing: Vec<String>,
}

/// A request whose answers differed.
#[derive(JsonSchema, Serialize)]
struct SampleTold {
    /// When (RFC 3339).
    at: String,
    /// The exchange.
    request_id: String,
    /// The method.
    method: String,
    /// The path that the mirror was asked for, without its query.
    path: String,
    /// Whose request it was.
    tenant: String,
    /// The code of the refusal that there was instead of the mirror's answer.
    failed: Option<&'static str>,
    /// In what they differed.
    differences: Vec<DifferenceTold>,
}

/// Where two answers differ.
#[derive(JsonSchema, Serialize)]
struct DifferenceTold {
    /// `status`, `header` or `body`.
    kind: &'static str,
    /// Where.
    place: String,
    /// What the upstream's answer has there, shortened; nothing, if it has nothing. Credentials are hidden.
    upstream: Option<String>,
    /// What the mirror's has.
    mirror: Option<String>,
}

pub async fn list(State(control): State<Control>) -> Response {
    let all = control.process.gate.standing.mirrors.all();
    let mirrors = all.iter().map(|mirror| MirrorTold { samples: None, ..told(mirror) }).collect();
    axum::Json(MirrorsTold { mirrors }).into_response()
}

pub async fn show(State(control): State<Control>, Path(route): Path<String>) -> Response {
    match control.process.gate.standing.mirrors.get(&route) {
        Some(mirror) => axum::Json(told(&mirror)).into_response(),
        None => none(&route),
    }
}

pub async fn reset(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(route): Path<String>,
) -> Response {
    match control.process.gate.standing.mirrors.get(&route) {
        Some(mirror) => {
            mirror.reset();
            tracing::info!(who, route, "control: a mirror's report begins anew");
            axum::Json(told(&mirror)).into_response()
        }
        None => none(&route),
    }
}

/// The metrics of mirrors.
pub fn write(out: &mut Exposition, mirrors: &Mirrors) {
    let all: Vec<(Arc<Mirror>, Told)> =
        mirrors.all().into_iter().map(|mirror| (Arc::clone(&mirror), mirror.told())).collect();
    if all.is_empty() {
        return;
    }
    out.family(&MIRRORED);
    for (mirror, Told { ever, .. }) in &all {
        let outcomes = [
            ("equal", ever.equal),
            ("different", ever.different),
            ("uncompared", ever.unknown),
            ("failed", ever.failed),
        ];
        for (outcome, count) in outcomes {
            out.sample(MIRRORED.name, &[("route", &mirror.route), ("outcome", outcome)], count);
        }
    }
    out.family(&MIRROR_SKIPPED);
    for (mirror, told) in &all {
        for ((_, reason), count) in Skipped::ALL.iter().zip(told.skipped) {
            out.sample(MIRROR_SKIPPED.name, &[("route", &mirror.route), ("reason", reason)], count);
        }
    }
    out.family(&MIRROR_DIFFERENCES);
    for (mirror, told) in &all {
        for (kind, count) in Kind::ALL.iter().zip(told.ever.kinds) {
            out.sample(MIRROR_DIFFERENCES.name, &[("route", &mirror.route), ("kind", kind.name())], count);
        }
    }
    out.family(&MIRROR_SECONDS);
    for (mirror, told) in &all {
        for (side, histogram) in [("upstream", &told.ever.ours), ("mirror", &told.ever.theirs)] {
            seconds(out, &[("route", &mirror.route), ("side", side)], histogram);
        }
    }
    out.family(&MIRROR_ACTIVE);
    for (mirror, told) in &all {
        out.sample(MIRROR_ACTIVE.name, &[("route", &mirror.route)], told.under_way);
    }
}

fn seconds(out: &mut Exposition, labels: &[(&str, &str)], histogram: &Histogram) {
    /// Powers of two in microseconds: 1 ms to 17 s, about.
    const POWERS: std::ops::RangeInclusive<u32> = 10..=24;
    let mut counts: Vec<u64> =
        POWERS.map(|power| histogram.below(power)).chain([histogram.total()]).collect();
    // What is below a bound is below the next one too; here each is told once.
    (1..counts.len()).rev().for_each(|place| counts[place] = counts[place].saturating_sub(counts[place - 1]));
    let bounds = POWERS.map(|power| Duration::from_micros(1 << power).as_secs_f64()).collect();
    let sum = histogram.sum().as_secs_f64();
    let spread = Spread { bounds, counts, sum, exemplars: Vec::new() };
    out.histogram(&MIRROR_SECONDS, labels, spread);
}

fn none(route: &str) -> Response {
    problem(StatusCode::NOT_FOUND, "control.no-mirror", &format!("no route `{route}` has a mirror"))
}

fn told(mirror: &Mirror) -> MirrorTold {
    let Told { settings, tally, skipped, under_way, .. } = mirror.told();
    let verdict = settings.compare.as_ref().map(|compare| tally.verdict(&compare.ready, now()));
    let counted = |name: &str, count: u64| (count > 0).then(|| (name.to_owned(), count));
    MirrorTold {
        route: mirror.route.to_string(),
        upstream: settings.upstream.to_string(),
        share: f64::from(settings.share) / f64::from(tidegate_model::mirror::WHOLE),
        under_way,
        since: shown(tally.since),
        compared: tally.compared(),
        equal: tally.equal,
        different: tally.different,
        failed: tally.failed,
        uncompared: tally.unknown.iter().filter_map(|(why, count)| counted(why, *count)).collect(),
        skipped: Skipped::ALL
            .iter()
            .zip(skipped)
            .filter_map(|((_, name), count)| counted(name, count))
            .collect(),
        classes: classes(&tally),
        further_classes: tally.others,
        upstream_latency: latency(&tally.ours),
        mirror_latency: latency(&tally.theirs),
        verdict: verdict.map(|Verdict { ready, differing, bound, missing }| VerdictTold {
            ready,
            differing,
            bound,
            missing,
        }),
        samples: Some(tally.samples.iter().rev().map(sample).collect()),
    }
}

fn classes(tally: &Tally) -> Vec<ClassTold> {
    let one = |(class, count): (&Class, &u64)| {
        let (kind, place) = match class {
            Class::Different(kind, place) => (kind.name(), place.clone()),
            Class::Failed(code) => ("failed", (*code).to_owned()),
        };
        ClassTold { kind, place, count: *count }
    };
    let mut classes: Vec<ClassTold> = tally.classes.iter().map(one).collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.count));
    classes
}

fn latency(histogram: &Histogram) -> LatencyTold {
    let millis = |share| histogram.quantile(share).map(|time: Duration| time.as_secs_f64() * 1e3);
    LatencyTold { p50_ms: millis(0.5), p99_ms: millis(0.99) }
}

fn sample(sample: &Sample) -> SampleTold {
    let Sample { subject, differences, failed } = sample;
    let differences = differences.iter().map(|one| DifferenceTold {
        kind: one.kind.name(),
        place: one.place.clone(),
        upstream: one.ours.clone(),
        mirror: one.theirs.clone(),
    });
    SampleTold {
        at: shown(subject.at),
        request_id: subject.request_id.to_string(),
        method: subject.method.to_string(),
        path: subject.path.to_string(),
        tenant: subject.tenant.to_string(),
        failed: *failed,
        differences: differences.collect(),
    }
}
