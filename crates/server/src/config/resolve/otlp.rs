//! Where traces and metrics are sent.

use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue};
use tidegate_model::fields::Fields;
use tidegate_model::plan::Rate;
use tidegate_model::trace::{Heed, Share, Tail, Tracing};

use super::Context;
use crate::config::raw;
use crate::config::settings::OtlpSettings;
use crate::config::tree::Node;
use crate::otlp::place;
use crate::telemetry::TraceSettings;

/// Fields that are ours to say.
const OWN: [HeaderName; 8] =
    [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE];
/// Metrics are not sent more often than they change in a way that somebody could see.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

pub(super) fn otlp(context: &mut Context<'_>, raw: &raw::Config) -> Option<OtlpSettings> {
    let raw = raw.otlp.as_ref()?;
    let node = context.entry("otlp");
    context.positive(node, "timeout", &raw.timeout);
    let endpoint = place(&raw.endpoint);
    if let Err(why) = &endpoint {
        let help = "write endpoint = \"http://127.0.0.1:4318\"";
        context.tell_with(node.at("endpoint"), format!("this is no collector's URL: {why}"), help);
    }
    let ca = raw.ca.as_ref().map(|file| {
        context.name_file(&file.0);
        file.0.clone()
    });
    let fields = fields(context, raw, node);
    let traces = raw.traces.on().map(|traces| {
        let node = node.at("traces");
        context.positive(node, "slow", &traces.slow);
        let (limit, window) = traces.most.0;
        let tail = Tail { share: share(&traces), errors: traces.errors, slow: traces.slow.0 };
        let most = Rate { name: "traces".into(), limit, window, burst: limit };
        TraceSettings { tail, most, queue: traces.queue as usize }
    });
    let metrics = raw.metrics.on().map(|metrics| {
        if metrics.interval.0 < INTERVAL_MIN {
            context.tell(node.at("metrics").at("interval"), "`interval` must be at least 100ms");
        }
        metrics.interval.0
    });
    if traces.is_none() && metrics.is_none() {
        context.tell_with(node, "nothing is sent: neither traces nor metrics", "leave [otlp] out");
    }
    let resource = raw.resource.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Some(OtlpSettings {
        place: endpoint.ok()?,
        fields,
        ca,
        timeout: raw.timeout.0,
        resource,
        traces,
        metrics,
    })
}

/// What is decided of traces when an exchange begins.
pub(super) fn tracing(raw: &raw::Config) -> Option<Tracing> {
    let traces = raw.otlp.as_ref()?.traces.on()?;
    let heed = match traces.parents {
        raw::Parents::Trusted => Heed::Trusted,
        raw::Parents::All => Heed::All,
        raw::Parents::None => Heed::None,
    };
    Some(Tracing { share: share(&traces), heed })
}

fn share(traces: &raw::OtlpTraces) -> Share {
    Share::of(f64::from(traces.share.0) / 1e6)
}

fn fields(context: &mut Context<'_>, raw: &raw::Otlp, node: &Node) -> Fields {
    let node = node.at("headers");
    let mut fields = Fields::default();
    for (name, secret) in &raw.headers {
        let at = node.at(name);
        let secret = context.secret(secret, at);
        let parsed = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !OWN.contains(name));
        let value = HeaderValue::from_bytes(&secret).ok();
        match (parsed, value) {
            (Some(name), Some(value)) => fields.insert(&name, &value),
            (None, _) => context.tell(at, format!("`{name}` is no field that may be added to a request")),
            (_, None) => context.tell(at, "its value cannot stand in a header"),
        }
    }
    fields
}
