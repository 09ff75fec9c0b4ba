//! Traces and metrics for a collector, by OTLP over HTTP (protobuf).
//!
//! Two tasks of the control runtime, one a signal: a collector that hangs keeps neither the other signal nor any exchange. Traces
//! wait within their bound ([`crate::telemetry::TraceSettings`]) while a batch is tried again, for a minute at most; metrics are
//! cumulative, so that what one request did not bring the next one does, and nothing is tried again. The messages are those of
//! `opentelemetry-proto`; they travel by the way that webhooks have ([`tidegate_upstream::dial`]), to the operator's own URL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tidegate_model::address::{AddressSet, Network};
use tidegate_model::webhook::reach::{Place, Reach, Unreachable};
use tidegate_wire::{clock, task};
use tokio::sync::{mpsc, oneshot};

use crate::config::OtlpSettings;
use crate::control;
use crate::run::Process;

use self::send::{Courier, Sent};

mod points;
mod send;
mod spans;

/// How long spans wait for others.
const GATHER: Duration = Duration::from_secs(1);
/// Receipts that one request tells of.
const BATCH: usize = 256;
/// How often it is looked whether metrics are to be sent, while they are not.
const LOOK: Duration = Duration::from_secs(1);

/// What was sent, and whether the collector is there.
pub struct Handle {
    /// Of spans.
    pub traces: Arc<Counts>,
    /// Of points.
    pub metrics: Arc<Counts>,
    /// Whoever waits there is told when all has been sent.
    flush: [mpsc::Sender<oneshot::Sender<()>>; 2],
}

/// What became of what was to be sent.
#[derive(Debug)]
pub struct Counts {
    /// The collector has it.
    pub sent: AtomicU64,
    /// The collector did not want it.
    pub rejected: AtomicU64,
    /// It did not get there.
    pub lost: AtomicU64,
    /// The last request went well, or there was none yet.
    pub up: AtomicBool,
}

impl Default for Counts {
    fn default() -> Counts {
        let [sent, rejected, lost] = Default::default();
        Counts { sent, rejected, lost, up: AtomicBool::new(true) }
    }
}

/// The two tasks, before they run.
pub struct Exporters {
    traces: Exporter,
    metrics: Exporter,
}

struct Exporter {
    counts: Arc<Counts>,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Handle {
    /// The handle, and what it is a handle of.
    #[must_use]
    pub fn new() -> (Handle, Exporters) {
        let (first, traces) = mpsc::channel(1);
        let (second, metrics) = mpsc::channel(1);
        let handle = Handle { traces: Arc::default(), metrics: Arc::default(), flush: [first, second] };
        let traces = Exporter { counts: Arc::clone(&handle.traces), asked: traces };
        let metrics = Exporter { counts: Arc::clone(&handle.metrics), asked: metrics };
        (handle, Exporters { traces, metrics })
    }

    /// Has all sent that is there, within that time.
    pub async fn finish(&self, most: Duration) {
        let by = clock::now().after(most);
        let told = self.flush.each_ref().map(|flush| {
            let (done, told) = oneshot::channel();
            flush.try_send(done).is_ok().then_some(told)
        });
        for told in told.into_iter().flatten() {
            if clock::timeout_at(by, told).await.is_err() {
                tracing::warn!("the collector did not take the last traces and metrics in time");
            }
        }
    }
}

impl Exporters {
    /// Sends from now on. Must be called on the control runtime.
    pub fn drive(self, process: &Arc<Process>) {
        let Exporters { traces, metrics } = self;
        let held = Arc::clone(process);
        task::spawn(async move { traces.send_traces(&held).await });
        let held = Arc::clone(process);
        task::spawn(async move { metrics.send_metrics(&held).await });
    }
}

impl Exporter {
    async fn send_traces(mut self, process: &Process) {
        let telemetry = &process.gate.telemetry;
        let mut courier = Courier::new("/v1/traces");
        let mut last: Option<oneshot::Sender<()>> = None;
        loop {
            let until = clock::now().after(GATHER);
            tokio::select! {
                asked = self.asked.recv() => last = asked,
                () = telemetry.traces_due.notified() => {}
                () = clock::sleep_until(until) => {}
            }
            loop {
                let receipts = telemetry.take_traces(BATCH);
                let config = process.gate.config();
                let Some(settings) = config.otlp.as_ref().filter(|_| !receipts.is_empty()) else { break };
                let (bytes, count) = spans::request(&receipts, whole(settings), offset());
                let counts = &self.counts;
                let heard = |sent: &Sent| counts.hear(settings, "traces", sent);
                let sent = courier.send(settings, bytes, &mut self.asked, &mut last, heard).await;
                counts.count(count, &sent);
            }
            // Whoever asked may have stopped waiting.
            let _ = last.take().map(|done| done.send(()));
        }
    }

    async fn send_metrics(mut self, process: &Process) {
        let mut courier = Courier::new("/v1/metrics");
        let begun = nanos(clock::wall());
        let mut due = clock::now().after(LOOK);
        loop {
            let mut last = None;
            tokio::select! {
                asked = self.asked.recv() => last = asked,
                () = clock::sleep_until(due) => {}
            }
            let config = process.gate.config();
            let interval = config.otlp.as_ref().and_then(|settings| Some((settings, settings.metrics?)));
            due = clock::now().after(interval.map_or(LOOK, |(_, interval)| interval));
            if let Some((settings, _)) = interval {
                let all = control::read_metrics(process).await;
                let (bytes, count) =
                    points::request(all.families(), whole(settings), begun, nanos(clock::wall()));
                let sent = courier.send_once(settings, bytes).await;
                if let Sent::Later { pause: Some(pause), .. } = &sent {
                    due = due.max(clock::now().after(*pause));
                }
                self.counts.hear(settings, "metrics", &sent);
                self.counts.count(count, &sent);
            }
            let _ = last.take().map(|done: oneshot::Sender<()>| done.send(()));
        }
    }
}

impl Counts {
    /// Notes whether the collector is there. What has changed is told once.
    fn hear(&self, settings: &OtlpSettings, signal: &str, sent: &Sent) {
        let collector = &settings.place.authority;
        let was_up = self.up.swap(matches!(sent, Sent::Taken { .. }), Relaxed);
        match sent {
            Sent::Taken { rejected, why } if *rejected > 0 || !why.is_empty() => {
                tracing::warn!(signal, collector, rejected, why, "the collector says");
            }
            Sent::Taken { .. } if !was_up => {
                tracing::info!(signal, collector, "the collector takes what it is sent");
            }
            Sent::Taken { .. } => {}
            Sent::Never(why) | Sent::Later { why, .. } if was_up => {
                tracing::warn!(signal, collector, why, "the collector takes nothing");
            }
            Sent::Never(why) | Sent::Later { why, .. } => {
                tracing::debug!(signal, collector, why, "the collector takes nothing");
            }
        }
    }

    /// Counts what became of so many.
    fn count(&self, count: u64, sent: &Sent) {
        match sent {
            Sent::Taken { rejected, .. } => {
                let few = (*rejected).min(count);
                self.sent.fetch_add(count - few, Relaxed);
                self.rejected.fetch_add(few, Relaxed);
            }
            Sent::Never(_) | Sent::Later { .. } => {
                self.lost.fetch_add(count, Relaxed);
            }
        }
    }
}

/// Where a collector's URL leads.
///
/// # Errors
/// It leads nowhere.
pub fn place(url: &str) -> Result<Place, Unreachable> {
    let mut place = reach().place(url)?;
    match place.path.contains('?') {
        true => Err(Unreachable::Url),
        false => {
            place.path.truncate(place.path.trim_end_matches('/').len());
            Ok(place)
        }
    }
}

/// The operator's own URL may lead anywhere.
fn reach() -> Reach {
    let all = ["0.0.0.0/0", "::/0"].map(|network| network.parse::<Network>());
    let allow: AddressSet = all.into_iter().flatten().collect();
    Reach { allow, plaintext: true, ..Reach::default() }
}

/// Who tells.
fn whole(settings: &OtlpSettings) -> (Resource, InstrumentationScope) {
    let own = [
        ("service.name", "tidegate".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance().to_owned()),
    ];
    let said = |name: &str| settings.resource.iter().any(|(given, _)| given == name);
    let mut attributes: Vec<KeyValue> =
        own.into_iter().filter(|(name, _)| !said(name)).map(|(name, value)| text(name, value)).collect();
    attributes.push(number("process.pid", std::process::id().into()));
    attributes.extend(settings.resource.iter().map(|(name, value)| text(name, value.clone())));
    let scope = InstrumentationScope {
        name: "tidegate".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    (Resource { attributes, ..Resource::default() }, scope)
}

/// What tells this process from others that run at the same place: counters begin at zero with it.
fn instance() -> &'static str {
    static INSTANCE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    INSTANCE.get_or_init(|| {
        let word = || getrandom::u64().unwrap_or_else(|_| clock::now().0);
        format!("{:016x}{:016x}", word(), word())
    })
}

/// What a tick has to be moved by to be nanoseconds since the epoch.
fn offset() -> u64 {
    nanos(clock::wall()).saturating_sub(clock::now().0)
}

fn nanos(at: SystemTime) -> u64 {
    tidegate_model::tick::nanos(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, Value::StringValue(value.into()))
}

fn number(name: &str, value: u64) -> KeyValue {
    attribute(name, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_may_be_anywhere_and_signals_stand_below_its_path() {
        for (url, expected) in [
            ("http://127.0.0.1:4318", Some("/v1/traces")),
            ("http://127.0.0.1:4318/", Some("/v1/traces")),
            ("http://collector:4318/base", Some("/base/v1/traces")),
            ("https://otlp.example.com/", Some("/v1/traces")),
            ("http://[::1]:4318", Some("/v1/traces")),
            ("ftp://127.0.0.1", None),
            ("http://user:password@127.0.0.1:4318", None),
            ("http://127.0.0.1:4318/?key=1", None),
            ("127.0.0.1:4318", None),
        ] {
            let path = place(url).ok().map(|place| format!("{}/v1/traces", place.path));
            assert_eq!(path.as_deref(), expected, "{url}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"] {
            assert_eq!(reach().address(address.parse().unwrap()), Ok(()), "{address}");
        }
    }
}
