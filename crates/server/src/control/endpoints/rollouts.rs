//! From one service to another: mirrors.

use axum::routing::get;

use super::super::mirrors;
use super::super::openapi::{change, look, of};
use super::Endpoint;
use crate::config::Scope;

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
