//! `/explain/REQUEST_ID`: what happened to a recent exchange, step by step, and which rule decided.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_model::fault::Kind;
use tidegate_model::receipt::{Receipt, Step};
use tidegate_model::tick::Tick;

/// The timeline as JSON.
pub fn json(receipt: &Receipt) -> Value {
    let steps: Vec<Value> = receipt
        .events
        .iter()
        .map(|event| json!({"at_ms": millis(receipt, event.at), "what": in_words(receipt, &event.step)}))
        .collect();
    json!({
        "request_id": receipt.request_id.to_string(),
        "method": receipt.method.as_str(),
        "host": receipt.host,
        "path": receipt.target.path(),
        "client": receipt.client,
        "route": receipt.route,
        "tenant": receipt.tenant,
        "upstream": receipt.upstream,
        "endpoint": receipt.endpoint,
        "status": receipt.status.map(|status| status.as_u16()),
        "code": receipt.refusal.map(|kind| kind.code),
        "blame": receipt.refusal.map(|kind| format!("{:?}", kind.blame).to_lowercase()),
        "tries": receipt.tries,
        "gate_ms": in_millis(receipt.gate_wait),
        "upstream_ms": in_millis(receipt.upstream_time),
        "duration_ms": millis(receipt, receipt.ended),
        "end": receipt.end.name(),
        "idempotency": receipt.idempotency,
        "fault": receipt.fault,
        "steps": steps,
        "steps_dropped": receipt.events_dropped,
    })
}

/// The timeline for a terminal.
pub fn text(receipt: &Receipt) -> String {
    let mut out = format!(
        "{} {} {} from {}\n",
        receipt.request_id,
        receipt.method,
        receipt.target.path(),
        receipt.client
    );
    for event in &receipt.events {
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{:>10.3} ms  {}", millis(receipt, event.at), in_words(receipt, &event.step));
    }
    let _ = writeln!(out, "{:>10.3} ms  ended: {}", millis(receipt, receipt.ended), receipt.end.name());
    if let Some(kind) = receipt.refusal {
        let _ = writeln!(out, "\nrefused with {}: see `tidegate explain {}`", kind.code, kind.code);
    }
    out
}

fn millis(receipt: &Receipt, at: Tick) -> f64 {
    in_millis(at.since(receipt.started))
}

/// To the microsecond.
fn in_millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

fn fault(kind: &Kind) -> String {
    match kind {
        Kind::Delay(wait) => format!("a delay of {:.3} ms", wait.as_secs_f64() * 1e3),
        Kind::Abort(status) => format!("status {} instead of the first upstream's answer", status.as_u16()),
        Kind::Reset => "the connection ends without an answer".to_owned(),
        Kind::Throttle(pace) => format!("a body of {pace} bytes a second"),
        Kind::Truncate(bytes) => format!("a body that breaks off after {bytes} bytes"),
    }
}

/// What became of an idempotency key, as in [`Receipt::idempotency`].
fn key(outcome: &str) -> &str {
    match outcome {
        "first" => "claimed, on disk: the request is made",
        "replayed" => "the request was made before, and its answer is told again",
        "joined" => "the first request was awaited, and its answer is told again",
        "released" => "the request had no effect, and the key is free again",
        "unkept" => "the answer is passed on and not kept",
        "unknown" => "the request was sent and not answered: nobody knows whether it had an effect",
        "unrecorded" => "the store could not be told what became of the request",
        other => other,
    }
}

/// What happened, in a sentence.
#[must_use]
pub fn in_words(receipt: &Receipt, step: &Step) -> String {
    match step {
        Step::Routed => format!("matched route `{}`", receipt.route.as_deref().unwrap_or_default()),
        Step::Identified(by) => {
            format!("identified as tenant `{}` by {by}", receipt.tenant.as_deref().unwrap_or_default())
        }
        Step::Login(by, outcome) => format!("login `{by}`: {outcome}"),
        Step::Preflight => "answered a preflight: no script's request was made".to_owned(),
        Step::Authorized { outcome, because: "" } => format!("authorizer: {outcome}"),
        Step::Authorized { outcome, because } => format!("authorizer: {outcome}: {because}"),
        Step::Limited { limit, remaining } => format!("let through by limit `{limit}`: {remaining} left"),
        Step::Waited(wait) => format!("waited {:.3} ms at the upstream's gate", wait.as_secs_f64() * 1e3),
        Step::Faulted(name, kind) => format!("the injected fault `{name}` struck: {}", fault(kind)),
        Step::Sharded(endpoints) => {
            let told: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            format!("the tenant's shard is {}", told.join(", "))
        }
        Step::Try { number, endpoint, because } => format!("try {number} to {endpoint}, chosen by {because}"),
        Step::Connected(wait) => {
            format!("connected in {:.3} ms: no idle connection was there", wait.as_secs_f64() * 1e3)
        }
        Step::Cause(cause) => format!("what went wrong: {cause}"),
        Step::TryFailed(number, code) => format!("try {number} failed: {code}"),
        Step::TryAnswered(number, status) => format!("try {number} was answered with {}", status.as_u16()),
        Step::FileRead { what, coding: None, from } => format!("found {what}, in {from}"),
        Step::FileRead { what, coding: Some(coding), from } => {
            format!("found {what}, its sibling in {coding}, in {from}")
        }
        Step::FileMissing(why) => format!("no file: {why}"),
        Step::Backoff(wait) => format!("another try after {:.3} ms", wait.as_secs_f64() * 1e3),
        Step::Degraded(what, level) => format!("load {level}: the route does without its {what}"),
        Step::NoRetry(why) => format!("no further try: {why}"),
        Step::Hedged => "a second try was sent beside the slow first one".to_owned(),
        Step::Refreshes(request) => format!("refreshes what is stored, on behalf of request {request}"),
        Step::AskedHome { node, outcome, because } if because.is_empty() => format!("home {node}: {outcome}"),
        Step::AskedHome { node, outcome, because } => format!("home {node}: {outcome}: {because}"),
        Step::PassedOn(status) => format!("passed on an interim {}", status.as_u16()),
        Step::Cached { outcome, because: "" } => format!("cache: {outcome}"),
        Step::Cached { outcome: "hit", because: tier } => format!("cache: hit, from {tier}"),
        Step::Cached { outcome, because } => format!("cache: {outcome}, because of {because}"),
        Step::Compressed(coding, false) => format!("compressed its answer in {coding}"),
        Step::Compressed(coding, true) => format!("answered with what the cache keeps in {coding}"),
        Step::Decoded(coding) => format!("its content comes in {coding}, and is decoded"),
        Step::Idempotent(outcome) => format!("idempotency key: {}", key(outcome)),
        Step::Deferred(id) => format!("accepted, to be made later: delivery {id}"),
        Step::Fallback(rung) => format!("took the ladder's next rung: {rung}"),
        Step::Exceeded(limit) => format!("limit `{limit}` has nothing left"),
        Step::Refused(code, why) if why.is_empty() => format!("refused: {code}"),
        Step::Refused(code, why) => format!("refused: {code}: {why}"),
        Step::Answered(status) => format!("told the client {}", status.as_u16()),
    }
}
