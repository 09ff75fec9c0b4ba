//! All that the control API answers: each path with what may be asked for there, by whom, and who answers it.
//! `docs/control.md` has a section for each, `docs/openapi.json` is made of this table.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::routing::{MethodRouter, delete, get, post};

use super::openapi::{Operation, Shape, any, change, look, of};
use super::{Control, cache, faults};
use crate::config::Scope;

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
        endpoint("/status", get(super::status), const { &[look("The whole state", any())] }),
        endpoint(
            "/config",
            get(super::config),
            const { &[look("The configuration in force, secrets hidden", Shape::Media("application/toml"))] },
        ),
        endpoint("/openapi.json", get(super::openapi), const { &[look("This document", any())] }),
        endpoint(
            "/explain/{id}",
            get(super::explain),
            const {
                &[look("What happened to a recent exchange", any())
                    .query(&[("format", "`text`: lines for a terminal")])]
            },
        ),
        endpoint(
            "/cache/inspect",
            get(cache::inspect),
            const {
                &[look("What is cached for a URL", any()).query(&[
                    ("url", "the URL"),
                    ("tenant", "who asks"),
                    ("header", "a field of the request that counts, `NAME: VALUE`; as often as needed"),
                ])]
            },
        ),
        endpoint(
            "/upstreams/{name}/shards/{tenant}",
            get(super::shard),
            const { &[look("The endpoints that serve a tenant", any())] },
        ),
    ]
}

fn steering() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/purge",
            post(cache::purge),
            const { &[change("Takes away what is cached", Scope::Purge, Some(any()), any())] },
        ),
        endpoint(
            "/reload",
            post(super::reload),
            const { &[change("Reads the configuration again", Scope::Write, None, of::<super::Reloaded>())] },
        ),
        endpoint(
            "/upstreams/{name}/endpoints/{address}",
            post(super::set_endpoint),
            const { &[change("Changes what becomes of an endpoint", Scope::Write, Some(any()), any())] },
        ),
        endpoint(
            "/faults",
            get(faults::list).post(faults::begin),
            const {
                &[
                    look("The faults that are injected", any()),
                    change("Injects a fault", Scope::Faults, Some(any()), any()).status(201),
                ]
            },
        ),
        endpoint(
            "/faults/{name}",
            delete(faults::end),
            const { &[change("Ends a fault", Scope::Faults, None, any()).by("delete")] },
        ),
    ]
}
