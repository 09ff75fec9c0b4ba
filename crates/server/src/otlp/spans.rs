//! Spans, made of receipts after their exchanges have ended. The attributes are those of OpenTelemetry's semantic conventions for
//! HTTP and messaging; what these have no word for is called `tidegate.…`, as in the access log.
//!
//! ```text
//! GET orders                       SERVER     the exchange; or CONSUMER: an attempt of a delivery
//! ├─ wait app                      INTERNAL   for a slot at the upstream's gate
//! ├─ GET                           CLIENT     each try, until its answer's head
//! └─ send emails                   PRODUCER   what it accepted to be made later: attempts are below it, and linked to it
//! ```
//!
//! What else a receipt knows is an event of the first. No query, no field and no body is told: they may hold secrets.

use bytes::Bytes;
use http::{Method, Version};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use tidegate_model::delivery::Id;
use tidegate_model::receipt::{End, Receipt, Step};
use tidegate_model::tick::{Tick, nanos};
use tidegate_model::trace::{Share, Trace};

use super::{attribute, number, text};
use crate::control::in_words;
use crate::telemetry::has_failed;

/// Which conventions the attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";
/// In a span's or a link's flags: it is known whether its parent is of another process, and it is.
const REMOTE: u32 = 0x300;
/// What the route of an attempt's receipt begins with.
const OF_QUEUE: &str = "queue:";

/// The request that tells of these receipts, and of how many spans it tells. `offset` makes ticks nanoseconds since the epoch.
pub fn request(
    receipts: &[Receipt],
    (resource, scope): (Resource, InstrumentationScope),
    offset: u64,
) -> (Bytes, u64) {
    let spans: Vec<Span> = receipts.iter().flat_map(|receipt| of(receipt, offset)).collect();
    let count = spans.len() as u64;
    let schema_url = SCHEMA.to_owned();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: schema_url.clone() }];
    let all = ResourceSpans { resource: Some(resource), scope_spans, schema_url };
    (ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec().into(), count)
}

/// The spans of a receipt, its own first.
fn of(receipt: &Receipt, offset: u64) -> Vec<Span> {
    let id = receipt.request_id.0;
    let trace = receipt.trace.as_deref().copied().unwrap_or_else(|| Trace::begin(id, id as u64, Share::NONE));
    let making = Making { receipt, trace, offset };
    let mut spans = vec![making.own()];
    spans.extend(making.tries());
    let mut waits = 0;
    for event in &receipt.events {
        match &event.step {
            Step::Waited(wait) => {
                waits += 1;
                let begun = Tick(event.at.0.saturating_sub(nanos(*wait)));
                let upstream = receipt.upstream.as_deref().unwrap_or_default();
                let mut span = making.below(trace.of_wait(waits).get(), begun, event.at);
                span.name = format!("wait {upstream}");
                span.kind = SpanKind::Internal as i32;
                span.attributes = vec![text("tidegate.upstream", upstream)];
                spans.push(span);
            }
            Step::Deferred(id) => spans.push(making.promise(*id, event.at)),
            _ => {}
        }
    }
    spans
}

/// What the spans of one receipt are made of.
struct Making<'a> {
    receipt: &'a Receipt,
    trace: Trace,
    offset: u64,
}

impl Making<'_> {
    fn at(&self, tick: Tick) -> u64 {
        tick.0.saturating_add(self.offset)
    }

    fn span(&self, id: u64, begun: Tick, ended: Tick) -> Span {
        Span {
            trace_id: self.trace.id().to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            flags: u32::from(self.trace.is_sampled()),
            start_time_unix_nano: self.at(begun),
            end_time_unix_nano: self.at(ended.max(begun)),
            ..Span::default()
        }
    }

    /// A span below the receipt's own.
    fn below(&self, id: u64, begun: Tick, ended: Tick) -> Span {
        let parent_span_id = self.trace.span.get().to_be_bytes().to_vec();
        Span { parent_span_id, ..self.span(id, begun, ended) }
    }

    /// The exchange's own span, or the attempt's.
    fn own(&self) -> Span {
        let Making { receipt, trace, .. } = self;
        let mut span = self.span(trace.span.get(), receipt.started, receipt.ended);
        if trace.parent != 0 {
            span.parent_span_id = trace.parent.to_be_bytes().to_vec();
            span.flags |= REMOTE;
        }
        span.attributes = told(receipt);
        match receipt.delivery {
            None => {
                let (method, _) = known(&receipt.method);
                let route = receipt.route.as_deref().map(|route| format!(" {route}"));
                span.name = format!("{method}{}", route.unwrap_or_default());
                span.kind = SpanKind::Server as i32;
                http(receipt, &mut span.attributes);
            }
            Some((id, attempt)) => {
                let queue = queue(receipt);
                span.name = format!("process {queue}");
                span.kind = SpanKind::Consumer as i32;
                message(&mut span.attributes, "process", queue, id);
                span.attributes.push(number("tidegate.attempt", attempt.into()));
                span.attributes.push(number("messaging.message.body.size", receipt.request_bytes));
                span.links.extend((trace.parent != 0).then(|| Link {
                    trace_id: span.trace_id.clone(),
                    span_id: trace.parent.to_be_bytes().to_vec(),
                    flags: REMOTE,
                    ..Link::default()
                }));
            }
        }
        if has_failed(receipt) {
            let why = match (receipt.refusal, receipt.status) {
                (Some(kind), _) => kind.code.to_owned(),
                (None, Some(status)) if receipt.end == End::Complete => status.as_str().to_owned(),
                _ => receipt.end.name().to_owned(),
            };
            span.attributes.push(text("error.type", why));
            span.status = Some(Status { code: StatusCode::Error as i32, message: String::new() });
        }
        span.events = receipt
            .events
            .iter()
            .filter_map(|event| {
                let attributes = vec![text("tidegate.what", in_words(receipt, &event.step))];
                let (name, time_unix_nano) = (name(&event.step)?.to_owned(), self.at(event.at));
                Some(Event { time_unix_nano, name, attributes, dropped_attributes_count: 0 })
            })
            .collect();
        span.dropped_events_count = receipt.events_dropped;
        span
    }

    /// What was accepted to be made later. What is made later says that it was asked for by this.
    fn promise(&self, id: Id, at: Tick) -> Span {
        let mut span = self.below(self.trace.of_promise().get(), self.receipt.started, at);
        let route = self.receipt.route.as_deref().unwrap_or_default();
        span.name = format!("send {route}");
        span.kind = SpanKind::Producer as i32;
        message(&mut span.attributes, "send", route, id);
        span
    }

    /// A span for each try. Of two that ran beside each other the one that nobody waited for ends with the answer's head.
    fn tries(&self) -> Vec<Span> {
        let receipt = self.receipt;
        let last = receipt.answered.unwrap_or(receipt.ended);
        let mut tries: Vec<(u32, Span)> = Vec::new();
        for event in &receipt.events {
            match &event.step {
                Step::Try { number: count, endpoint, because } => {
                    let mut span = self.below(self.trace.of_try(*count).get(), event.at, last);
                    let (method, _) = known(&receipt.method);
                    span.name = method.to_owned();
                    span.kind = SpanKind::Client as i32;
                    span.attributes = vec![
                        text("http.request.method", method),
                        text("server.address", endpoint.ip().to_string()),
                        number("server.port", endpoint.port().into()),
                        text("tidegate.because", *because),
                    ];
                    if *count > 1 {
                        span.attributes.push(number("http.request.resend_count", u64::from(*count) - 1));
                    }
                    tries.push((*count, span));
                }
                Step::TryAnswered(count, status) => {
                    if let Some(span) = numbered(&mut tries, *count) {
                        span.end_time_unix_nano = self.at(event.at);
                        span.attributes.push(number("http.response.status_code", status.as_u16().into()));
                        if status.is_client_error() || status.is_server_error() {
                            failed(span, status.as_str());
                        }
                    }
                }
                Step::TryFailed(count, code) => {
                    if let Some(span) = numbered(&mut tries, *count) {
                        span.end_time_unix_nano = self.at(event.at);
                        failed(span, code);
                    }
                }
                _ => {}
            }
        }
        tries.into_iter().map(|(_, span)| span).collect()
    }
}

/// The span of the try with this number: an exchange has few.
fn numbered(tries: &mut [(u32, Span)], number: u32) -> Option<&mut Span> {
    tries.iter_mut().find(|(count, _)| *count == number).map(|(_, span)| span)
}

fn failed(span: &mut Span, why: &str) {
    span.attributes.push(text("error.type", why));
    span.status = Some(Status { code: StatusCode::Error as i32, message: String::new() });
}

/// The method, if it is one that everybody knows: names of spans are few. `false`: it is not.
fn known(method: &Method) -> (&str, bool) {
    const KNOWN: [Method; 9] = [
        Method::CONNECT,
        Method::DELETE,
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ];
    if KNOWN.contains(method) { (method.as_str(), true) } else { ("HTTP", false) }
}

/// The queue that an attempt is of.
fn queue(receipt: &Receipt) -> &str {
    let route = receipt.route.as_deref().unwrap_or_default();
    route.strip_prefix(OF_QUEUE).unwrap_or(route)
}

fn message(attributes: &mut Vec<KeyValue>, what: &str, queue: &str, id: Id) {
    attributes.extend([
        text("messaging.system", "tidegate"),
        text("messaging.operation.name", what),
        text("messaging.operation.type", what),
        text("messaging.destination.name", queue),
        text("messaging.message.id", id.to_string()),
    ]);
}

/// What HTTP's conventions have a word for.
fn http(receipt: &Receipt, attributes: &mut Vec<KeyValue>) {
    let (method, is_known) = known(&receipt.method);
    attributes.push(text("http.request.method", if is_known { method } else { "_OTHER" }));
    if !is_known {
        attributes.push(text("http.request.method_original", receipt.method.as_str()));
    }
    let version = match receipt.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    attributes.extend([
        text("url.scheme", if receipt.tls { "https" } else { "http" }),
        text("url.path", receipt.target.path()),
        text("network.protocol.version", version),
        text("client.address", receipt.client.to_string()),
        number("server.port", receipt.listener.port().into()),
        number("http.request.body.size", receipt.request_bytes),
        number("http.response.body.size", receipt.response_bytes),
    ]);
    if !receipt.host.is_empty() {
        attributes.push(text("server.address", &*receipt.host));
    }
}

/// What only we have words for.
fn told(receipt: &Receipt) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("tidegate.request_id", receipt.request_id.to_string()),
        text("tidegate.end", receipt.end.name()),
    ];
    if let Some(status) = receipt.status {
        attributes.push(number("http.response.status_code", status.as_u16().into()));
    }
    let names = [
        ("tidegate.tenant", &receipt.tenant),
        ("tidegate.upstream", &receipt.upstream),
        ("tidegate.fault", &receipt.fault),
    ];
    for (name, value) in names {
        attributes.extend(value.as_deref().map(|value| text(name, value)));
    }
    if receipt.delivery.is_none() {
        attributes.extend(receipt.route.as_deref().map(|route| text("tidegate.route", route)));
    }
    let outcomes = [
        ("tidegate.cache", receipt.cache),
        ("tidegate.idempotency", receipt.idempotency),
        ("tidegate.home", receipt.home),
        ("tidegate.code", receipt.refusal.map(|kind| kind.code)),
    ];
    for (name, value) in outcomes {
        attributes.extend(value.map(|value| text(name, value)));
    }
    if receipt.tries > 0 {
        attributes.push(number("tidegate.tries", receipt.tries.into()));
        attributes
            .push(attribute("tidegate.gate_ms", Value::DoubleValue(receipt.gate_wait.as_secs_f64() * 1e3)));
    }
    if receipt.load > 0 {
        attributes.push(number("tidegate.load", receipt.load.into()));
    }
    attributes
}

/// The name of what is told as an event; `None`: a span tells it, or nobody needs it.
fn name(step: &Step) -> Option<&'static str> {
    Some(match step {
        Step::Try { .. } | Step::TryFailed(..) | Step::TryAnswered(..) | Step::Waited(_) => return None,
        Step::Routed => "routed",
        Step::Identified(_) => "identified",
        Step::Limited { .. } => "limited",
        Step::Faulted(..) => "faulted",
        Step::Sharded(_) => "sharded",
        Step::Connected(_) => "connected",
        Step::Cause(_) => "cause",
        Step::FileRead { .. } => "file.read",
        Step::FileMissing(_) => "file.missing",
        Step::Backoff(_) => "backoff",
        Step::NoRetry(_) => "no_retry",
        Step::Hedged => "hedged",
        Step::Refreshes(_) => "refreshes",
        Step::AskedHome { .. } => "home",
        Step::PassedOn(_) => "interim",
        Step::Cached { .. } => "cache",
        Step::Login(..) => "login",
        Step::Preflight => "preflight",
        Step::Authorized { .. } => "authorized",
        Step::Compressed(..) => "compressed",
        Step::Decoded(_) => "decoded",
        Step::Idempotent(_) => "idempotency",
        Step::Deferred(_) => "deferred",
        Step::Fallback(_) => "fallback",
        Step::Degraded(..) => "degraded",
        Step::Exceeded(_) => "exceeded",
        Step::Refused(..) => "refused",
        Step::Answered(_) => "answered",
    })
}

#[cfg(test)]
mod tests;
