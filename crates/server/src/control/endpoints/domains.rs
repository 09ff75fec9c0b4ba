//! The endpoints of tenants' own hosts, and of certificates.

use axum::routing::get;

use super::super::domains;
use super::super::openapi::{change, look, of};
use super::super::told::domains as told;
use super::super::told::webhooks::{Deleted, PageTold};
use super::Endpoint;
use crate::config::Scope;

/// Those of tenants' own hosts, and of certificates.
pub fn all() -> Vec<Endpoint> {
    let endpoint = |path, handler, operations| Endpoint { path, handler, operations };
    vec![
        endpoint(
            "/certificates",
            get(domains::certificates),
            const { &[look("How it stands with certificates that are ordered", of::<told::CertificatesTold>())] },
        ),
        endpoint(
            "/tenants/{tenant}/domains",
            get(domains::list),
            const {
                &[look("The hosts that a tenant has of its own", of::<PageTold<told::DomainTold>>()).query(
                    &[
                        ("cursor", "where the page begins: `next` of the one before"),
                        ("limit", "entries, 1 to 1000; else 100"),
                    ],
                )]
            },
        ),
        endpoint(
            "/tenants/{tenant}/domains/{domain}",
            get(domains::show).put(domains::put).delete(domains::remove),
            const {
                &[
                    look("A host that a tenant has of its own", of::<told::DomainTold>()),
                    change(
                        "Registers a host as a tenant's own",
                        Scope::Write,
                        None,
                        of::<told::DomainTold>(),
                    )
                    .by("put"),
                    change("Gives a host back", Scope::Write, None, of::<Deleted>()).by("delete"),
                ]
            },
        ),
    ]
}
