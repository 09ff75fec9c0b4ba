//! Webhooks out and in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tidegate_dispatch::webhook::{QUEUE, WebhookSettings};
use tidegate_dispatch::{QueueSettings, Way};
use tidegate_model::delivery::BODY_BYTES_MAX;
use tidegate_model::delivery::outcome::{Backoff, Policy};
use tidegate_model::gate::Priority;
use tidegate_model::webhook::destination::{ATTEMPTS_MAX, is_schedule};
use tidegate_model::webhook::incoming::{Scheme, Source, SourceError};
use tidegate_model::webhook::reach::Reach;
use tidegate_proxy::incoming::IncomingSettings;
use tidegate_proxy::settings::Action;
use tidegate_upstream::dial::DialSettings;
use tidegate_upstream::settings::BreakerSettings;
use tidegate_wire::settings::ClientTlsSettings;

use super::Context;
use super::queue::needs_store;
use crate::config::raw;
use crate::config::scalar::show_size;
use crate::config::settings::WebhookPlan;
use crate::config::tree::Node;

/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// What an attempt takes beside the call: to read what is to be sent, and to keep what came of it.
const TIMEOUT_MORE: Duration = Duration::from_secs(30);

pub(super) fn webhook(context: &mut Context<'_>, raw: &raw::Config) -> Option<WebhookPlan> {
    let whole = raw;
    let raw = whole.webhook.as_ref()?;
    let node = context.entry("webhook");
    needs_store(context, node, "webhooks");
    for (key, time) in [
        ("connect_timeout", &raw.connect_timeout),
        ("timeout", &raw.timeout),
        ("retention", &raw.retention),
        ("disable_after", &raw.disable_after),
    ] {
        context.positive(node, key, time);
    }
    let host = raw.source.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    if host.is_none() {
        context.tell(node.at("source"), "the source of events is a URL with a host");
    }
    let schedule: Vec<u64> = raw.schedule.iter().map(|pause| pause.0.as_secs()).collect();
    let fractions = raw.schedule.iter().any(|pause| pause.0.subsec_nanos() != 0);
    if !is_schedule(&schedule) || fractions {
        let message = "a schedule has at most 29 pauses, each of whole seconds, 1s to 7d";
        context.tell(node.at("schedule"), message);
    }
    if whole.queue.contains_key(QUEUE) {
        context.tell(context.entry("queue").at(QUEUE), "the queue of this name is that of `[webhook]`");
    }
    if let Some(place) = raw.ports.iter().position(|port| *port == 0) {
        context.tell(node.at("ports").nth(place), "no server has port 0");
    }
    let callback = raw.callback.as_deref().and_then(|text| callback(context, text, whole, node));
    let settings = WebhookSettings { callback, ..settings(context, raw, node, schedule, host) };
    let per_tenant = raw.per_tenant.unwrap_or(raw.concurrency.div_ceil(2));
    Some(WebhookPlan { concurrency: raw.concurrency, per_tenant, settings })
}

/// Where receivers call back: what stands before the path.
fn callback(context: &mut Context<'_>, text: &str, whole: &raw::Config, node: &Node) -> Option<Arc<str>> {
    let at = node.at("callback");
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        let scheme = uri.scheme_str().is_some_and(|scheme| scheme == "https" || scheme == "http");
        scheme && uri.host().is_some() && uri.path_and_query().is_none_or(|path| path == "/")
    });
    if uri.is_none() {
        context.tell(at, "a callback is `https://HOST`, without a path");
        return None;
    }
    if *whole.tenants.unknown.0 == *"refuse" {
        let message = "who calls back has no credentials, and `[tenants] unknown` refuses it";
        context.tell_with(at, message, "give `unknown` a plan, or leave out `callback`");
    }
    Some(text.trim_end_matches('/').into())
}

/// The queue that events wait in. When an attempt is made again, and whether, is said with what came of the last.
pub(super) fn queue(plan: &WebhookPlan) -> QueueSettings {
    let policy = Policy {
        attempts_max: ATTEMPTS_MAX as u32,
        backoff: Backoff::Schedule(Vec::new()),
        ..Policy::default()
    };
    let dial = &plan.settings.dial;
    QueueSettings {
        concurrency: plan.concurrency,
        tenant_concurrency: Some(plan.per_tenant),
        policy,
        timeout: dial.timeout + TIMEOUT_MORE,
        ..QueueSettings::new(QUEUE.into(), Way::Webhooks)
    }
}

fn settings(
    context: &mut Context<'_>,
    raw: &raw::Webhook,
    node: &Node,
    schedule: Vec<u64>,
    host: Option<String>,
) -> WebhookSettings {
    let resolver = raw.resolver.as_deref().and_then(|text| match text.parse::<SocketAddr>() {
        Ok(address) => Some(address),
        Err(_) => {
            context.tell(node.at("resolver"), "a name server is `ADDRESS:PORT`");
            None
        }
    });
    let ca = raw.ca.as_ref().map(|file| {
        context.name_file(&file.0);
        file.0.clone()
    });
    let tls = ClientTlsSettings { ca, ..ClientTlsSettings::default() };
    if let Err(error) = tidegate_wire::client_tls::ClientTls::new(&tls, None)
        && tls.ca.is_some()
    {
        context.tell(node.at("ca"), error.to_string());
    }
    WebhookSettings {
        source: raw.source.clone(),
        origin: host.unwrap_or_default(),
        callback: None,
        schedule,
        retention: raw.retention.0,
        disable_after: raw.disable_after.0,
        overlap: raw.overlap.0,
        destinations_max: raw.destinations.into(),
        events_bytes_max: raw.events.0,
        strict: raw.strict,
        per_destination: raw.per_destination as usize,
        dial: DialSettings {
            reach: Reach {
                allow: raw.allow.iter().map(|network| network.0).collect(),
                deny: raw.deny.iter().map(|network| network.0).collect(),
                ports: raw.ports.clone(),
                plaintext: raw.plaintext,
            },
            resolver,
            tls,
            connect_timeout: raw.connect_timeout.0,
            timeout: raw.timeout.0,
            answer_bytes_max: ANSWER_BYTES_MAX,
            calls_max: raw.concurrency as usize,
            breaker: BreakerSettings { consecutive: 5, cooldown: Duration::from_secs(30) },
        },
    }
}

/// What a route takes.
pub(super) fn incoming(
    context: &mut Context<'_>,
    queues: &[QueueSettings],
    raw: &raw::Incoming,
    route: &raw::Route,
    node: &Node,
) -> Option<Action> {
    let at = node.at("incoming");
    needs_store(context, at, "webhooks");
    if route.name.is_none() {
        let message = "a route with `incoming` needs a name: repeats are known by it";
        context.tell_with(at, message, "add name = \"…\", and never change it");
    }
    if raw.body.0 > BODY_BYTES_MAX as u64 {
        context.tell(at.at("body"), format!("`body` is at most {}", show_size(&(BODY_BYTES_MAX as u64))));
    }
    context.positive(at, "remember", &raw.remember);
    // Whoever has seen a request may send it again for as long as its time is taken for good: before and after our own.
    if raw.remember.0 < raw.tolerance.0.saturating_mul(2) {
        let help = "give `remember` at least twice `tolerance`";
        context.tell_with(at.at("remember"), "a request could be sent again once it is forgotten", help);
    }
    let secrets = match &raw.secret {
        raw::Secrets::One(secret) => vec![context.secret(secret, at.at("secret"))],
        raw::Secrets::Many(secrets) => {
            let all = secrets.iter().enumerate();
            all.map(|(index, secret)| context.secret(secret, at.at("secret").nth(index))).collect()
        }
    };
    let source = source(context, raw, &secrets, at);
    if !context.exists("queue", &raw.queue.0, at.at("queue")) {
        return None;
    }
    let queue = queues.iter().find(|queue| *queue.name == *raw.queue.0)?;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Some(Action::Incoming(Arc::new(IncomingSettings {
        source: source?,
        queue: Arc::clone(&queue.name),
        path: raw.path.as_ref().map(|path| Arc::from(path.0.as_str())),
        remember: ms(raw.remember.0),
        body_bytes_max: raw.body.0,
        priority: match route.priority {
            raw::Priority::Critical => Priority::Critical,
            raw::Priority::Default => Priority::Default,
            raw::Priority::Sheddable => Priority::Sheddable,
        },
        aging: ms(queue.aging),
        room: queue.room,
    })))
}

fn source(context: &mut Context<'_>, raw: &raw::Incoming, secrets: &[Vec<u8>], at: &Node) -> Option<Source> {
    let scheme = match raw.scheme {
        raw::Scheme::Standard => Scheme::Standard,
        raw::Scheme::Stripe => Scheme::Stripe,
        raw::Scheme::Github => Scheme::Github,
        raw::Scheme::Slack => Scheme::Slack,
    };
    let texts: Result<Vec<&str>, _> = secrets.iter().map(|secret| std::str::from_utf8(secret)).collect();
    let Ok(texts) = texts else {
        context.tell(at.at("secret"), "a secret is text");
        return None;
    };
    match Source::new(scheme, &texts, raw.tolerance.0.as_secs()) {
        Ok(source) => Some(source),
        // A secret that could not be read was told already.
        Err(SourceError::Empty) if texts.iter().any(|text| text.is_empty()) => None,
        Err(error) => {
            context.tell(at.at("secret"), error.to_string());
            None
        }
    }
}
