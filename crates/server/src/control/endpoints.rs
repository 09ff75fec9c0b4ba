//! All that the control API answers: each path with what may be asked for there, by whom, and who answers it.
//! `docs/control.md` has a section for each, `docs/openapi.json` is made of this table.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::routing::{MethodRouter, delete, get, post};

use super::administer::{ChangeOfMany, ChangedMany, EditOfRequest, PurgeOfMany, PurgedMany};
use super::deliveries::{Paused, PausedTold, TenantPaused};
use super::openapi::{Document, Operation, Shape, change, look, of};
use super::pull::{Endings, Extensions, HeldAll, NewClaim};
use super::shapes::{Accepted, AcceptedAll, OneOrMany};
use super::{
    Control, administer, audit, cache, deliveries as made, faults, maintenance, pull, schedules, store, told,
};
use crate::config::Scope;
use tidegate_upstream::UpstreamStatus;

mod domains;
mod rollouts;
mod webhooks;

/// A path, and what may be asked for there.
pub struct Endpoint {
    /// The path, `{name}` standing for a part of it.
    pub path: &'static str,
    /// Who answers.
    pub handler: MethodRouter<Control>,
    /// What may be asked for.
    pub operations: &'static [Operation],
}

/// All there is.
pub fn all() -> Vec<Endpoint> {
    let mut all = watching();
    all.extend(steering());
    all.extend(disturbing());
    all.extend(rollouts::mirrors());
    all.extend(rollouts::canaries());
    all.extend(deliveries());
    all.extend(pulling());
    all.extend(administering());
    all.extend(domains::all());
    all.extend(webhooks::destinations());
    all.extend(webhooks::sent());
    all.extend(webhooks::published());
    all
}

/// What may be asked for, by path.
static OPERATIONS: LazyLock<HashMap<&'static str, &'static [Operation]>> =
    LazyLock::new(|| all().into_iter().map(|endpoint| (endpoint.path, endpoint.operations)).collect());

/// What is asked for at a path by a method, where there is that.
pub fn operation(path: &str, method: &str) -> Option<&'static Operation> {
    let method = if method == "HEAD" { "GET" } else { method };
    OPERATIONS.get(path)?.iter().find(|one| one.method.eq_ignore_ascii_case(method))
}

const TEXT: Shape = Shape::Media("text/plain");

fn watching() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/healthz",
            get(|| async { "ok\n" }),
            const { &[look("Whether the process answers", TEXT).open()] },
        ),
        endpoint(
            "/readyz",
            get(super::ready),
            const { &[look("Whether it takes requests, or drains", TEXT).open()] },
        ),
        endpoint(
            "/metrics",
            get(super::scrape),
            const { &[look("Metrics, as Prometheus reads them", TEXT).open()] },
        ),
        endpoint(
            "/status",
            get(super::status),
            const { &[look("The whole state", of::<told::status::StatusTold>())] },
        ),
        endpoint(
            "/config",
            get(super::config),
            const { &[look("The configuration in force, secrets hidden", Shape::Media("application/toml"))] },
        ),
        endpoint(
            "/audit",
            get(audit::list),
            const {
                &[look("What was changed, by whom, the newest first", of::<audit::AuditTold>()).query(&[
                    ("limit", "so many at most, up to 500; 50 if nothing is said"),
                    ("cursor", "`next` of the page before"),
                ])]
            },
        ),
        endpoint("/openapi.json", get(super::openapi), const { &[look("This document", of::<Document>())] }),
        endpoint(
            "/explain/{id}",
            get(super::explain),
            const {
                &[look("What happened to a recent exchange", of::<told::status::ExplanationTold>())
                    .query(&[("format", "`text`: lines for a terminal")])]
            },
        ),
        endpoint(
            "/cache/inspect",
            get(cache::inspect),
            const {
                &[look("What is cached for a URL", of::<told::cache::InspectedTold>()).query(&[
                    ("url", "the URL"),
                    ("tenant", "who asks"),
                    ("header", "a field of the request that counts, `NAME: VALUE`; as often as needed"),
                ])]
            },
        ),
        endpoint(
            "/upstreams/{name}/shards/{tenant}",
            get(super::shard),
            const { &[look("The endpoints that serve a tenant", of::<super::ShardTold>())] },
        ),
    ]
}

fn steering() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/purge",
            post(cache::purge),
            const {
                &[change(
                    "Takes away what is cached",
                    Scope::Purge,
                    Some(of::<cache::Order>()),
                    of::<told::cache::PurgedTold>(),
                )]
            },
        ),
        endpoint(
            "/store/backup",
            post(store::backup),
            const {
                &[change(
                    "Copies the store",
                    Scope::Write,
                    Some(of::<store::Wanted>()),
                    of::<store::Copied>(),
                )]
            },
        ),
        endpoint(
            "/reload",
            post(super::reload),
            const { &[change("Reads the configuration again", Scope::Write, None, of::<super::Reloaded>())] },
        ),
        endpoint(
            "/upgrade",
            post(super::upgrade),
            const { &[change("Lets a new binary take over", Scope::Write, None, of::<super::Upgraded>())] },
        ),
        endpoint(
            "/upstreams/{name}/endpoints/{address}",
            post(super::set_endpoint),
            const {
                &[change(
                    "Changes what becomes of an endpoint",
                    Scope::Write,
                    Some(of::<super::EndpointChange>()),
                    of::<UpstreamStatus>(),
                )]
            },
        ),
    ]
}

/// What is taken out of service or disturbed for a while.
fn disturbing() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/maintenance",
            get(maintenance::list).post(maintenance::begin),
            const {
                &[
                    look("What is in maintenance", of::<maintenance::WindowsTold>()),
                    change(
                        "Begins maintenance",
                        Scope::Write,
                        Some(of::<maintenance::NewWindow>()),
                        of::<maintenance::WindowTold>(),
                    )
                    .status(201),
                ]
            },
        ),
        endpoint(
            "/maintenance/{name}",
            delete(maintenance::end),
            const {
                &[change("Ends maintenance", Scope::Write, None, of::<maintenance::WindowTold>())
                    .by("delete")]
            },
        ),
        endpoint(
            "/faults",
            get(faults::list).post(faults::begin),
            const {
                &[
                    look("The faults that are injected", of::<told::FaultsTold>()),
                    change(
                        "Injects a fault",
                        Scope::Faults,
                        Some(of::<told::NewFault>()),
                        of::<told::FaultTold>(),
                    )
                    .status(201),
                ]
            },
        ),
        endpoint(
            "/faults/{name}",
            delete(faults::end),
            const { &[change("Ends a fault", Scope::Faults, None, of::<told::FaultTold>()).by("delete")] },
        ),
    ]
}

fn deliveries() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint("/queues", get(made::queues), const { &[look("The queues", of::<told::QueuesTold>())] }),
        endpoint("/queues/{name}", get(made::queue), const { &[look("A queue", of::<told::QueueTold>())] }),
        endpoint(
            "/queues/{name}/deliveries",
            post(made::hand_in),
            const {
                &[change(
                    "Hands in a delivery, or a list of them",
                    Scope::Deliver,
                    Some(of::<OneOrMany>()),
                    of::<Accepted>(),
                )
                .status(202)
                .or(200, of::<AcceptedAll>())]
            },
        ),
        endpoint(
            "/queues/{name}/pause",
            post(made::pause),
            const {
                &[change(
                    "Begins nothing more of a queue, of a tenant of it, or of a key",
                    Scope::Write,
                    Some(of::<Paused>()),
                    of::<PausedTold>(),
                )]
            },
        ),
        endpoint(
            "/queues/{name}/resume",
            post(made::resume),
            const { &[change("Lets it go on", Scope::Write, Some(of::<Paused>()), of::<PausedTold>())] },
        ),
        endpoint(
            "/deliveries/{id}",
            get(made::show).patch(administer::edit).delete(made::cancel),
            const {
                &[
                    look("All that is known of a delivery", of::<told::DeliveryTold>()),
                    change(
                        "Edits the request of a delivery that has not begun, or is dead",
                        Scope::Write,
                        Some(of::<EditOfRequest>()),
                        of::<told::DeliveryTold>(),
                    )
                    .by("patch"),
                    change("Cancels a delivery", Scope::Write, None, of::<told::DeliveryTold>()).by("delete"),
                ]
            },
        ),
        endpoint(
            "/deliveries/{id}/redrive",
            post(made::redrive),
            const {
                &[change(
                    "Makes a dead or cancelled delivery again",
                    Scope::Write,
                    None,
                    of::<told::DeliveryTold>(),
                )]
            },
        ),
        endpoint(
            "/schedules",
            get(schedules::list),
            const { &[look("What is made again and again", of::<told::SchedulesTold>())] },
        ),
        endpoint(
            "/schedules/{name}/run",
            post(schedules::run),
            const { &[change("Makes a run now", Scope::Write, None, of::<Accepted>()).status(202)] },
        ),
    ]
}

fn pulling() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/queues/{name}/claim",
            post(pull::claim),
            const {
                &[change(
                    "Takes deliveries of a queue that is pulled",
                    Scope::Deliver,
                    Some(of::<NewClaim>()),
                    of::<told::ClaimTold>(),
                )]
            },
        ),
        endpoint(
            "/queues/{name}/ack",
            post(pull::ack),
            const { &[change("They went well", Scope::Deliver, Some(of::<Endings>()), of::<HeldAll>())] },
        ),
        endpoint(
            "/queues/{name}/nack",
            post(pull::nack),
            const { &[change("They did not go well", Scope::Deliver, Some(of::<Endings>()), of::<HeldAll>())] },
        ),
        endpoint(
            "/queues/{name}/extend",
            post(pull::extend),
            const { &[change("They are held longer", Scope::Deliver, Some(of::<Extensions>()), of::<HeldAll>())] },
        ),
    ]
}

fn administering() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/deliveries",
            get(administer::list),
            const {
                &[look("Deliveries, the newest first, in pages", of::<told::DeliveriesTold>()).query(&[
                    ("queue", "of this queue"),
                    ("tenant", "of this tenant"),
                    ("state", "in this state"),
                    ("key", "of this key"),
                    ("since", "accepted from this time on (RFC 3339)"),
                    ("before", "accepted before this time (RFC 3339)"),
                    ("limit", "so many at most, up to 500; 50 if nothing is said"),
                    ("cursor", "`next` of the page before"),
                ])]
            },
        ),
        endpoint(
            "/deliveries/cancel",
            post(administer::cancel_many),
            const {
                &[change(
                    "Cancels all that are meant",
                    Scope::Write,
                    Some(of::<ChangeOfMany>()),
                    of::<ChangedMany>(),
                )]
            },
        ),
        endpoint(
            "/deliveries/purge",
            post(administer::purge),
            const {
                &[change(
                    "Forgets all that are meant: what has ended and, where that is said, what has not begun",
                    Scope::Write,
                    Some(of::<PurgeOfMany>()),
                    of::<PurgedMany>(),
                )]
            },
        ),
        endpoint(
            "/tenants/{tenant}/pause",
            post(made::pause_tenant),
            const {
                &[change(
                    "Begins nothing more of a tenant, in whatever queue",
                    Scope::Write,
                    None,
                    of::<TenantPaused>(),
                )]
            },
        ),
        endpoint(
            "/tenants/{tenant}/resume",
            post(made::resume_tenant),
            const { &[change("Lets a tenant go on", Scope::Write, None, of::<TenantPaused>())] },
        ),
        endpoint(
            "/deliveries/redrive",
            post(administer::redrive_many),
            const {
                &[change(
                    "Makes all that are meant again, at a rate",
                    Scope::Write,
                    Some(of::<ChangeOfMany>()),
                    of::<ChangedMany>(),
                )]
            },
        ),
    ]
}
