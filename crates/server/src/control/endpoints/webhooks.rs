//! The endpoints of webhooks.

use axum::routing::{get, post};

use super::super::openapi::{Operation, Shape, change, look, of};
use super::super::told::webhooks as told;
use super::super::webhooks;
use super::Endpoint;
use crate::config::Scope;

/// Parameters of a listing.
const PAGE: &[(&str, &str)] = &[
    ("cursor", "where the page begins: `next` of the one before"),
    ("limit", "entries, 1 to 1000; else 100"),
];
/// The same, of events.
const SINCE: &[(&str, &str)] = &[
    ("cursor", "where the page begins: `next` of the one before"),
    ("limit", "entries, 1 to 1000; else 100"),
    ("since", "published from then on, in milliseconds since the Unix epoch"),
];

const fn write(summary: &'static str, body: Shape, answer: Shape) -> Operation {
    change(summary, Scope::Write, Some(body), answer)
}

const fn deliver(summary: &'static str, body: Shape, answer: Shape) -> Operation {
    change(summary, Scope::Deliver, Some(body), answer).status(202)
}

/// Those of destinations.
pub fn destinations() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/webhooks/destinations/{tenant}",
            get(webhooks::destinations).post(webhooks::create),
            const {
                &[
                    look("A tenant's destinations", of::<told::PageTold<told::DestinationTold>>())
                        .query(PAGE),
                    write("Makes a destination", of::<told::NewDestination>(), of::<told::DestinationTold>())
                        .status(201),
                ]
            },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}",
            get(webhooks::destination).put(webhooks::change).delete(webhooks::remove),
            const {
                &[
                    look("A destination", of::<told::DestinationTold>()),
                    write("Changes a destination", of::<told::Wanted>(), of::<told::DestinationTold>())
                        .by("put"),
                    change("Removes a destination", Scope::Write, None, of::<told::Deleted>()).by("delete"),
                ]
            },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/state",
            post(webhooks::enable),
            const {
                &[write(
                    "Enables or disables a destination",
                    of::<told::Enable>(),
                    of::<told::DestinationTold>(),
                )]
            },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/secret",
            get(webhooks::secrets).post(webhooks::rotate),
            const {
                &[
                    change("What a destination verifies by", Scope::Write, None, of::<told::SecretsTold>())
                        .by("get"),
                    write("Replaces a destination's secret", of::<told::Rotate>(), of::<told::SecretsTold>()),
                ]
            },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/certificate",
            post(webhooks::certificate),
            const {
                &[write(
                    "Changes the certificate that a destination is shown",
                    of::<told::CertificateShown>(),
                    of::<told::DestinationTold>(),
                )]
            },
        ),
    ]
}

/// Those of what is sent to destinations.
pub fn sent() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/outcomes",
            get(webhooks::outcomes),
            const {
                &[look("What became of events at a destination", of::<told::PageTold<told::OutcomeTold>>())
                    .query(PAGE)]
            },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/test",
            post(webhooks::test),
            const {
                &[change("Tries out a destination", Scope::Deliver, None, of::<told::EventNamed>())
                    .status(202)]
            },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/resend",
            post(webhooks::resend),
            const { &[deliver("Sends an event again", of::<told::EventNamed>(), of::<told::EventNamed>())] },
        ),
        endpoint(
            "/webhooks/destinations/{tenant}/{id}/recover",
            post(webhooks::recover),
            const {
                &[deliver(
                    "Sends again what failed, or what never went there",
                    of::<told::Recover>(),
                    of::<told::Recovered>(),
                )]
            },
        ),
    ]
}

/// Those of events and their types.
pub fn published() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/webhooks/events/{tenant}",
            get(webhooks::events).post(webhooks::publish),
            const {
                &[
                    look("A tenant's events", of::<told::PageTold<told::EventTold>>()).query(SINCE),
                    deliver(
                        "Publishes an event, or several",
                        of::<told::NewEvents>(),
                        of::<told::PublishedAll>(),
                    ),
                ]
            },
        ),
        endpoint(
            "/webhooks/events/{tenant}/{id}",
            get(webhooks::event),
            const { &[look("An event", of::<told::EventTold>())] },
        ),
        endpoint(
            "/webhooks/types",
            get(webhooks::types),
            const {
                &[look("The catalogue of event types", of::<told::PageTold<told::EventTypeTold>>())
                    .query(PAGE)]
            },
        ),
        endpoint(
            "/webhooks/types/{name}",
            get(webhooks::event_type).put(webhooks::put_type).delete(webhooks::remove_type),
            const {
                &[
                    look("An event type", of::<told::EventTypeTold>()),
                    write(
                        "Makes or changes an event type",
                        of::<told::EventTypeTold>(),
                        of::<told::EventTypeTold>(),
                    )
                    .by("put"),
                    change("Removes an event type", Scope::Write, None, of::<told::Deleted>()).by("delete"),
                ]
            },
        ),
    ]
}
