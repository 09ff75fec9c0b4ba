//! Queues, schedules, and what routes put off.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tidegate_dispatch::webhook::QUEUE as WEBHOOKS;
use tidegate_dispatch::{Indivisible, PerKey, QueueSettings, Way};
use tidegate_model::delivery::outcome::{Backoff, Keep, Policy};
use tidegate_model::delivery::{KEY_BYTES_MAX, Ms};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_model::plan::Rate;
use tidegate_model::schedule::{Missed, Times, Wrong};
use tidegate_model::tenant::is_id;
use tidegate_proxy::settings::{Action, DeferSettings, DeliveriesSettings, RouteSettings};
use tidegate_store::deliveries::Room;

use super::Context;
use super::route::statuses;
use super::tenants::{name_problem, rates};
use crate::config::raw;
use crate::config::scalar::show_size;
use crate::config::settings::ScheduleSettings;
use crate::config::text::{Name, parse_name};
use crate::config::tree::Node;

/// The name of the route by which deliveries are told of: none in a file can be called so.
const DELIVERIES: &str = "tidegate:deliveries";
/// The most bytes of a result that is kept.
const RESULT_MAX: u64 = 10 << 20;
/// What is kept of the answers that routes put off without a word about their queue.
const DEFERRED_RESULT: usize = 1 << 20;
/// The most pauses that a backoff lists.
const PAUSES_MAX: usize = 100;

pub(super) fn queues(context: &mut Context<'_>, raw: &raw::Config) -> Vec<QueueSettings> {
    let all = context.entry("queue");
    if let Some((name, _)) = raw.queue.iter().next() {
        needs_store(context, all.at(name), "queues");
    }
    let made = raw.queue.iter().map(|(name, queue)| {
        let node = all.at(name);
        if let Err(message) = parse_name(name) {
            name_problem(context, node, message);
        }
        one(context, name, queue, node)
    });
    made.collect()
}

pub(super) fn needs_store(context: &mut Context<'_>, node: &Node, what: &str) {
    if context.root.get("store").is_none() {
        let help = "add [store] with url = \"sqlite:tidegate-data\"";
        context.tell_with(node, format!("there is no store to keep {what} in"), help);
    }
}

/// Tells a queue that cannot be divided among the shards of the store.
pub(super) fn divides(context: &mut Context<'_>, queue: &QueueSettings, node: &Node, help: &str) {
    let shards = context.shards;
    let what = match queue.indivisible(shards) {
        Some(Indivisible::Concurrency) => "`concurrency`",
        Some(Indivisible::Burst) => "what its `rate` lets begin at once",
        None => return,
    };
    let message = format!("{what} is less than one for each of the store's {shards} shards");
    context.tell_with(node, message, help);
}

fn one(context: &mut Context<'_>, name: &str, raw: &raw::Queue, node: &Node) -> QueueSettings {
    context.positive(node, "timeout", &raw.timeout);
    if raw.results.0 > RESULT_MAX {
        context.tell(node.at("results"), format!("`results` is at most {}", show_size(&RESULT_MAX)));
    }
    let results = usize::try_from(raw.results.0).ok().filter(|bytes| *bytes > 0);
    let per_key = node.at("per_key");
    if raw.per_key.ordered && raw.per_key.concurrency.is_some_and(|most| most > 1) {
        let message = "what is ordered is made one after the other: `concurrency` would be 1";
        context.tell(per_key.at("concurrency"), message);
    }
    let queue = QueueSettings {
        way: way(context, raw, node),
        method: raw.method.0.clone(),
        path: Arc::from(raw.path.0.as_str()),
        concurrency: raw.concurrency,
        tenant_concurrency: raw.tenant_concurrency,
        rate: rate(context, raw.rate.as_ref(), node.at("rate")),
        per_key: PerKey {
            ordered: raw.per_key.ordered,
            concurrency: raw.per_key.concurrency,
            rate: rate(context, raw.per_key.rate.as_ref(), per_key.at("rate")),
        },
        policy: Policy {
            attempts_max: raw.attempts,
            backoff: backoff(context, &raw.backoff, node.at("backoff")),
            never: statuses(&raw.never),
            keep: Keep {
                delivered: raw.keep.delivered.0,
                dead: raw.keep.dead.0,
                cancelled: raw.keep.cancelled.0,
            },
        },
        timeout: raw.timeout.0,
        aging: raw.aging.0,
        priority: priority(raw.priority),
        results,
        room: Room { waiting_max: raw.waiting.deliveries, bytes_max: raw.waiting.bytes.0 },
        ..QueueSettings::new(Arc::from(name), Way::Pull)
    };
    let (at, help) = match queue.indivisible(context.shards) {
        Some(Indivisible::Burst) => (node.at("rate"), "say a larger burst: { limit = \"…\", burst = … }"),
        _ => (node.at("concurrency"), "let more be made at once, or make the database with fewer shards"),
    };
    divides(context, &queue, at, help);
    queue
}

fn way(context: &mut Context<'_>, raw: &raw::Queue, node: &Node) -> Way {
    match (&raw.upstream, raw.pull) {
        (Some(_), true) => {
            context.tell(node.at("pull"), "a queue has an `upstream`, or is pulled: not both");
            Way::Pull
        }
        (None, false) => {
            let help = "add upstream = \"…\", or pull = true";
            context.tell_with(node, "nobody takes the deliveries of this queue", help);
            Way::Pull
        }
        (None, true) => Way::Pull,
        (Some(name), false) => {
            context.exists("upstream", &name.0, node.at("upstream"));
            Way::Push(Arc::from(name.0.as_str()))
        }
    }
}

/// One rate: a queue has no use for several.
fn rate(context: &mut Context<'_>, raw: Option<&raw::Rates>, node: &Node) -> Option<Rate> {
    let mut all = rates(context, raw, "default", node);
    if all.len() > 1 {
        context.tell(node, "there is one rate here");
    }
    all.pop()
}

fn backoff(context: &mut Context<'_>, raw: &raw::Backoff, node: &Node) -> Backoff {
    match raw {
        raw::Backoff::Doubling(raw) => {
            context.positive(node, "first", &raw.first);
            if raw.first.0 > raw.max.0 {
                context.tell(node.at("first"), "`first` is longer than `max`");
            }
            Backoff::Exponential { first: raw.first.0, max: raw.max.0 }
        }
        raw::Backoff::Pauses(pauses) => {
            if pauses.is_empty() || pauses.len() > PAUSES_MAX {
                context.tell(node, format!("a backoff lists 1 to {PAUSES_MAX} pauses"));
            }
            Backoff::Schedule(pauses.iter().map(|pause| pause.0).collect())
        }
    }
}

fn priority(raw: raw::Priority) -> Priority {
    match raw {
        raw::Priority::Critical => Priority::Critical,
        raw::Priority::Default => Priority::Default,
        raw::Priority::Sheddable => Priority::Sheddable,
    }
}

fn ms(time: Duration) -> Ms {
    Ms::try_from(time.as_millis()).unwrap_or(Ms::MAX)
}

/// The route by which deliveries are told of. It inherits what every route does.
pub(super) fn told(
    context: &mut Context<'_>,
    raw: &raw::Config,
    queues: &[QueueSettings],
) -> Option<Arc<RouteSettings>> {
    if queues.is_empty() {
        return None;
    }
    let defaults = raw.defaults.route.clone();
    let own = raw::Route {
        name: Some(Name(DELIVERIES.to_owned())),
        respond: Some(raw::Respond::default()),
        deadline: defaults.deadline,
        limits: defaults.limits,
        priority: defaults.priority,
        allow: defaults.allow,
        deny: defaults.deny,
        response_headers: defaults.response_headers,
        ..raw::Route::default()
    };
    let node = context.entry("defaults").at("route");
    let settings = super::route::one(context, &mut Vec::new(), &own, node)?;
    let kept = queues.iter().map(|queue| (Arc::clone(&queue.name), ms(queue.policy.keep.cancelled)));
    let action = Action::Deliveries(DeliveriesSettings { cancelled_for: kept.collect() });
    Some(Arc::new(RouteSettings { action, ..settings }))
}

/// What a route puts off. A queue that is called as the route and stands nowhere is made.
pub(super) fn defer(
    context: &mut Context<'_>,
    queues: &mut Vec<QueueSettings>,
    raw: &raw::Route,
    node: &Node,
    action: &Action,
) -> Option<DeferSettings> {
    if raw.defer == raw::Defer::Never {
        if raw.queue.is_some() {
            let help = "add defer = \"on-request\" or \"always\"";
            context.tell_with(node.at("queue"), "this route puts nothing off", help);
        }
        return None;
    }
    // Inherited, it means nothing where nothing is forwarded.
    let Action::Forward(split) = action else { return None };
    let at = node.at("defer");
    needs_store(context, at, "deliveries");
    let Some(route) = &raw.name else {
        let message = "a route with `defer` needs a name: its deliveries are found by it";
        context.tell_with(at, message, "add name = \"…\", and never change it");
        return None;
    };
    let name = match &raw.queue {
        Some(queue) => {
            if !context.exists("queue", &queue.0, node.at("queue")) {
                return None;
            }
            &queue.0
        }
        None if *route.0 == *WEBHOOKS => {
            let message = "the queue of this name is that of `[webhook]`";
            context.tell_with(at, message, "give the route another name, or a `queue`");
            return None;
        }
        None => &route.0,
    };
    if !queues.iter().any(|queue| *queue.name == **name) {
        let [(upstream, _)] = split.to.as_slice() else {
            let message = "what is put off goes to one upstream, and this route has several";
            context.tell_with(at, message, format!("add [queue.{name}] with its upstream"));
            return None;
        };
        queues.push(QueueSettings {
            results: Some(DEFERRED_RESULT),
            priority: priority(raw.priority),
            ..QueueSettings::new(Arc::from(name.as_str()), Way::Push(Arc::clone(upstream)))
        });
        if let Some(queue) = queues.last() {
            divides(context, queue, at, &format!("add [queue.{name}] with a larger `concurrency`"));
        }
    }
    let queue = queues.iter().find(|queue| *queue.name == **name)?;
    let idempotency = raw.idempotency.on().unwrap_or_default();
    Some(DeferSettings {
        always: raw.defer == raw::Defer::Always,
        queue: Arc::clone(&queue.name),
        priority: queue.priority,
        aging: ms(queue.aging),
        room: queue.room,
        unique_for: ms(idempotency.ttl.0),
        key_required: idempotency.required,
    })
}

pub(super) fn schedules(context: &mut Context<'_>, raw: &raw::Config) -> Vec<ScheduleSettings> {
    let all = context.entry("schedule");
    if let Some((name, _)) = raw.schedule.iter().next() {
        needs_store(context, all.at(name), "schedules");
    }
    let made = raw.schedule.iter().filter_map(|(name, raw)| schedule(context, name, raw, all.at(name)));
    made.collect()
}

fn schedule(
    context: &mut Context<'_>,
    name: &str,
    raw: &raw::Schedule,
    node: &Node,
) -> Option<ScheduleSettings> {
    if let Err(message) = parse_name(name) {
        name_problem(context, node, message);
    }
    context.exists("queue", &raw.queue.0, node.at("queue"));
    if !is_id(&raw.tenant) {
        context.tell(node.at("tenant"), "a tenant's id has 1 to 128 printable characters without spaces");
    }
    if raw.key.as_ref().is_some_and(|key| !(1..=KEY_BYTES_MAX).contains(&key.len())) {
        context.tell(node.at("key"), format!("a key has 1 to {KEY_BYTES_MAX} bytes"));
    }
    if raw.body.len() as u64 > RESULT_MAX {
        context.tell(node.at("body"), format!("`body` is at most {}", show_size(&RESULT_MAX)));
    }
    let mut fields = Fields::default();
    for (header, value) in &raw.headers {
        match HeaderName::from_bytes(header.as_bytes()) {
            Ok(header) => fields.append(header, value.0.clone()),
            Err(_) => {
                name_problem(
                    context,
                    node.at("headers").at(header),
                    format!("`{header}` is no name of a header"),
                );
            }
        }
    }
    let times = match Times::parse(&raw.cron, &raw.zone) {
        Ok(times) => times,
        Err(wrong) => {
            let key = if matches!(wrong, Wrong::Zone(_)) { "zone" } else { "cron" };
            context.tell(node.at(key), wrong.to_string());
            return None;
        }
    };
    Some(ScheduleSettings {
        name: Arc::from(name),
        times,
        cron: Arc::from(raw.cron.as_str()),
        zone: Arc::from(raw.zone.as_str()),
        missed: match raw.missed {
            raw::Missed::Skip => Missed::Skip,
            raw::Missed::Once => Missed::Once,
            raw::Missed::All => Missed::All,
        },
        queue: Arc::from(raw.queue.0.as_str()),
        tenant: Arc::from(raw.tenant.as_str()),
        key: raw.key.as_deref().map(Arc::from),
        method: raw.method.as_ref().map(|method| method.0.clone()),
        target: raw.path.as_ref().map(|path| Arc::from(path.0.as_str())),
        fields,
        body: raw.body.clone().into(),
        paused: raw.paused,
    })
}
