use std::time::Duration;

use http::StatusCode as Http;
use tidegate_model::receipt::{RequestId, Target};

use super::*;

const OFFSET: u64 = 1_000_000;

fn receipt(steps: Vec<(u64, Step)>) -> Receipt {
    let address = "127.0.0.1:8080".parse().unwrap();
    let mut receipt = Receipt::open(RequestId(9), Tick(100), "192.0.2.1".parse().unwrap(), address);
    receipt.target = Target::from(&"/orders/7?token=secret".parse::<http::Uri>().unwrap());
    receipt.route = Some("orders".into());
    receipt.upstream = Some("app".into());
    receipt.status = Some(Http::OK);
    (receipt.ended, receipt.answered, receipt.end) = (Tick(900), Some(Tick(800)), End::Complete);
    receipt.trace = Some(Box::new(Trace::begin(5, 6, Share::of(1.0))));
    steps.into_iter().for_each(|(at, step)| receipt.note(Tick(at), step));
    receipt
}

fn a_try(number: u32) -> Step {
    Step::Try { number, endpoint: "127.0.0.1:3000".parse().unwrap(), because: "random" }
}

/// Name, kind, start, end and `error.type` of each span; that they are of one trace and below the first.
fn check(receipt: &Receipt, expected: &[(&str, SpanKind, u64, u64, &str)]) -> Vec<Span> {
    let spans = of(receipt, OFFSET);
    let seen: Vec<_> = spans
        .iter()
        .map(|span| {
            let (start, end) = (span.start_time_unix_nano - OFFSET, span.end_time_unix_nano - OFFSET);
            assert_eq!(span.status.is_some(), !value(span, "error.type").is_empty());
            (span.name.as_str(), span.kind, start, end, value(span, "error.type"))
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, kind, start, end, error)| (*name, *kind as i32, *start, *end, (*error).to_owned()))
        .collect();
    assert_eq!(seen, expected);
    for below in &spans[1..] {
        assert_eq!((&below.trace_id, &below.parent_span_id), (&spans[0].trace_id, &spans[0].span_id));
    }
    spans
}

fn value(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[test]
fn an_exchange_is_a_span_with_its_waits_and_tries_below() {
    let mut receipt = receipt(vec![
        (110, Step::Routed),
        (200, Step::Waited(Duration::from_nanos(80))),
        (210, a_try(1)),
        (300, Step::TryFailed(1, "upstream.reset")),
        (310, Step::Backoff(Duration::from_nanos(90))),
        (400, a_try(2)),
        (700, Step::TryAnswered(2, Http::OK)),
    ]);
    receipt.tries = 2;
    let spans = check(
        &receipt,
        &[
            ("GET orders", SpanKind::Server, 100, 900, ""),
            ("GET", SpanKind::Client, 210, 300, "upstream.reset"),
            ("GET", SpanKind::Client, 400, 700, ""),
            ("wait app", SpanKind::Internal, 120, 200, ""),
        ],
    );
    let events: Vec<&str> = spans[0].events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(events, ["routed", "backoff"]);
    let trace = *receipt.trace.unwrap();
    assert_eq!(spans[2].span_id, trace.of_try(2).get().to_be_bytes(), "the one that the upstream was told");
    assert_eq!(value(&spans[2], "http.request.resend_count"), "1");
    assert_eq!(value(&spans[0], "url.path"), "/orders/7");
    assert!(!format!("{spans:?}").contains("secret"), "no query is told");
}

#[test]
fn whom_it_was_asked_by_is_its_parent() {
    let mut receipt = receipt(Vec::new());
    receipt.trace = receipt.trace.map(|trace| Box::new(trace.below(77)));
    let spans = check(&receipt, &[("GET orders", SpanKind::Server, 100, 900, "")]);
    assert_eq!((&spans[0].parent_span_id[..], spans[0].flags), (&6u64.to_be_bytes()[..], REMOTE | 1));
}

#[test]
fn what_failed_says_why_and_what_its_client_did_wrong_has_not_failed() {
    let mut receipt = receipt(Vec::new());
    for (status, refusal, end, expected) in [
        (503, Some(&tidegate_model::refusal::UPSTREAM_BREAKER), End::Complete, "upstream.breaker-open"),
        (502, None, End::Complete, "502"),
        (200, None, End::UpstreamBroke, "upstream-broke"),
        (429, Some(&tidegate_model::refusal::LIMIT_RATE), End::Complete, ""),
        (200, None, End::ClientGone, ""),
    ] {
        (receipt.status, receipt.refusal, receipt.end) = (Http::from_u16(status).ok(), refusal, end);
        check(&receipt, &[("GET orders", SpanKind::Server, 100, 900, expected)]);
    }
}

#[test]
fn a_promise_is_what_its_attempts_are_below_and_linked_to() {
    let id = Id(3);
    let accepted = receipt(vec![(500, Step::Deferred(id))]);
    let promised = check(
        &accepted,
        &[("GET orders", SpanKind::Server, 100, 900, ""), ("send orders", SpanKind::Producer, 100, 500, "")],
    );
    let trace = **accepted.trace.as_ref().unwrap();
    let told = trace.traceparent(trace.of_promise());
    let mut attempt = receipt(vec![(210, a_try(1)), (300, Step::TryAnswered(1, Http::NOT_FOUND))]);
    attempt.trace = Trace::follow(&told, 44, Share::NONE, true).map(Box::new);
    (attempt.delivery, attempt.route) = (Some((id, 2)), Some("queue:emails".into()));
    attempt.status = Some(Http::NOT_FOUND);
    let made = check(
        &attempt,
        &[
            ("process emails", SpanKind::Consumer, 100, 900, "404"),
            ("GET", SpanKind::Client, 210, 300, "404"),
        ],
    );
    let (promise, made) = (&promised[1], &made[0]);
    assert_eq!((&made.trace_id, &made.parent_span_id), (&promise.trace_id, &promise.span_id));
    assert_eq!((&made.links[0].trace_id, &made.links[0].span_id), (&promise.trace_id, &promise.span_id));
    assert_eq!(value(made, "messaging.message.id"), value(promise, "messaging.message.id"));
    assert_eq!([value(made, "tidegate.attempt"), value(made, "messaging.destination.name")], ["2", "emails"]);
}

#[test]
fn a_try_that_nobody_waited_for_ends_with_the_answers_head() {
    let hedged = receipt(vec![
        (200, a_try(1)),
        (300, Step::Hedged),
        (300, a_try(2)),
        (400, Step::TryAnswered(2, Http::OK)),
    ]);
    check(
        &hedged,
        &[
            ("GET orders", SpanKind::Server, 100, 900, ""),
            ("GET", SpanKind::Client, 200, 800, ""),
            ("GET", SpanKind::Client, 300, 400, ""),
        ],
    );
}

#[test]
fn what_became_of_tries_beside_each_other_is_told_of_each() {
    let hedged = receipt(vec![
        (200, a_try(1)),
        (300, Step::Hedged),
        (300, a_try(2)),
        (350, Step::TryFailed(2, "upstream.reset")),
        (400, Step::TryAnswered(1, Http::OK)),
    ]);
    let expected = [
        ("GET orders", SpanKind::Server, 100, 900, ""),
        ("GET", SpanKind::Client, 200, 400, ""),
        ("GET", SpanKind::Client, 300, 350, "upstream.reset"),
    ];
    let spans = check(&hedged, &expected);
    assert_eq!(value(&spans[1], "http.response.status_code"), "200");
    let first = receipt(vec![
        (200, a_try(1)),
        (300, Step::Hedged),
        (300, a_try(2)),
        (400, Step::TryAnswered(1, Http::OK)),
    ]);
    let spans = check(&first, &[expected[0], expected[1], ("GET", SpanKind::Client, 300, 800, "")]);
    assert_eq!(value(&spans[2], "http.response.status_code"), "", "the later one was not answered");
}

#[test]
fn what_never_became_a_request_is_a_trace_of_its_own() {
    let mut receipt = receipt(Vec::new());
    (receipt.trace, receipt.route) = (None, None);
    receipt.method = http::Method::from_bytes(b"FROB").unwrap();
    let spans = check(&receipt, &[("HTTP", SpanKind::Server, 100, 900, "")]);
    assert_eq!(spans[0].trace_id, 9u128.to_be_bytes());
    assert_eq!(value(&spans[0], "http.request.method"), "_OTHER");
    assert_eq!(value(&spans[0], "http.request.method_original"), "FROB");
}
