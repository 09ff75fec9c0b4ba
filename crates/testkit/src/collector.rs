//! An OTLP collector: it speaks OTLP over HTTP (protobuf), keeps what it is sent, and answers as it is told.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;

use crate::Origin;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is kept.
    Take,
    /// It is refused with this status, these further header lines and this body.
    Refuse(u16, String, Vec<u8>),
    /// It is not answered.
    Hang,
}

/// A collector.
pub struct Collector {
    /// The server.
    pub origin: Origin,
    taken: Arc<Taken>,
}

#[derive(Default)]
struct Taken {
    verdict: Mutex<Option<Verdict>>,
    traces: Mutex<Vec<ExportTraceServiceRequest>>,
    metrics: Mutex<Vec<ExportMetricsServiceRequest>>,
}

impl Collector {
    /// Starts one that takes everything.
    #[must_use]
    pub fn start() -> Collector {
        let taken = Arc::<Taken>::default();
        let held = Arc::clone(&taken);
        let origin = Origin::scripted(move |visit| {
            let content = visit.read_content()?;
            let verdict = held.verdict.lock().clone().unwrap_or(Verdict::Take);
            let typed = visit.field("content-type").is_some_and(|kind| kind == "application/x-protobuf");
            match verdict {
                Verdict::Hang => return visit.until_left(),
                Verdict::Refuse(status, more, body) => {
                    visit.say(format!(
                        "HTTP/1.1 {status} No\r\n{more}Content-Length: {}\r\n\r\n",
                        body.len()
                    ))?;
                    return visit.say(body);
                }
                Verdict::Take if typed && visit.path() == "/v1/traces" => {
                    held.traces.lock().push(ExportTraceServiceRequest::decode(&content[..]).ok()?);
                }
                Verdict::Take if typed && visit.path() == "/v1/metrics" => {
                    held.metrics.lock().push(ExportMetricsServiceRequest::decode(&content[..]).ok()?);
                }
                Verdict::Take => return visit.say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            }
            visit.say("HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
        });
        Collector { origin, taken }
    }

    /// Answers so from now on.
    pub fn answer(&self, verdict: Verdict) {
        *self.taken.verdict.lock() = Some(verdict);
    }

    /// All spans that it has taken.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let all = self.taken.traces.lock();
        let resources = all.iter().flat_map(|one| &one.resource_spans);
        resources.flat_map(|one| &one.scope_spans).flat_map(|one| &one.spans).cloned().collect()
    }

    /// The metrics that it was told last.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let all = self.taken.metrics.lock();
        let resources = all.last().into_iter().flat_map(|one| &one.resource_metrics);
        resources.flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics).cloned().collect()
    }

    /// What was said of who sends traces.
    #[must_use]
    pub fn resource(&self) -> Vec<KeyValue> {
        let all = self.taken.traces.lock();
        let resources = all.iter().flat_map(|one| &one.resource_spans);
        resources.filter_map(|one| one.resource.as_ref()).flat_map(|one| one.attributes.clone()).collect()
    }
}

/// An answer's bytes.
#[must_use]
pub fn bytes(answer: &impl prost::Message) -> Vec<u8> {
    answer.encode_to_vec()
}

/// What is said under this name, as text.
#[must_use]
pub fn said(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}
