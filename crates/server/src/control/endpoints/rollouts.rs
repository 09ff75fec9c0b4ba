//! From one service to another: mirrors and canaries.

use axum::routing::get;

use super::super::openapi::{change, look, of};
use super::super::{canaries, mirrors};
use super::Endpoint;
use crate::config::Scope;

pub fn canaries() -> Vec<Endpoint> {
    vec![
        Endpoint {
            path: "/canaries",
            handler: get(canaries::list),
            operations: const { &[look("How the next versions of routes stand", of::<canaries::CanariesTold>())] },
        },
        Endpoint {
            path: "/canaries/{route}",
            handler: get(canaries::show).post(canaries::change),
            operations: const {
                &[
                    look("How the next version of a route stands", of::<canaries::CanaryTold>()),
                    change(
                        "Starts, pauses, promotes it or rolls it back",
                        Scope::Write,
                        Some(of::<canaries::CanaryWanted>()),
                        of::<canaries::CanaryTold>(),
                    ),
                ]
            },
        },
    ]
}

pub fn mirrors() -> Vec<Endpoint> {
    vec![
        Endpoint {
            path: "/mirrors",
            handler: get(mirrors::list),
            operations: const { &[look("What mirrors answer beside upstreams", of::<mirrors::MirrorsTold>())] },
        },
        Endpoint {
            path: "/mirrors/{route}",
            handler: get(mirrors::show).delete(mirrors::reset),
            operations: const {
                &[
                    look("What the mirror of a route answers, with samples", of::<mirrors::MirrorTold>()),
                    change("Begins its report anew", Scope::Write, None, of::<mirrors::MirrorTold>())
                        .by("delete"),
                ]
            },
        },
    ]
}
