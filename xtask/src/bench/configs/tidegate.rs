//! Tidegate: what is not said here is as it is by default, metrics and explanations on in every row.

use std::fmt::Write as _;

use super::{Paths, RATE_HIGH, SEEN_BURST, SEEN_MAX, Setup, Tenants, Written};
use crate::bench::requests;

/// `digests` are the SHA-256 of the keys, in their order.
pub fn files(setup: &Setup, paths: Paths<'_>, port: u16, digests: &[String]) -> Vec<Written> {
    let origins: Vec<String> = setup.origins().map(|origin| format!("{origin:?}")).collect();
    let text = format!(
        "# Tidegate's benchmark writes this file.
workers = {workers}
[listen]
{scheme} = [\"127.0.0.1:{port}\"]
# In the growth rows a header names the tenant.
trusted_proxies = [\"127.0.0.0/8\"]
[limits]
requests = 1000000000                    # no peer closes a connection by count
h2_streams = 128
[control]
listen = [\"127.0.0.1:0\"]
[log]
access = {log}
{tls}{tenants}[upstream.origin]
endpoints = [{origins}]
balance = \"round-robin\"
{routes}",
        workers = setup.workers,
        scheme = if setup.tls { "https" } else { "http" },
        log = if setup.tenants == Tenants::Keyed {
            format!("{:?}", paths.folder.join("access.log"))
        } else {
            "\"off\"".to_owned()
        },
        tls = if setup.tls {
            format!("[[tls]]\ncert = {:?}\nkey = {:?}\n", paths.cert, paths.key)
        } else {
            String::new()
        },
        tenants = tenants(setup, digests),
        origins = origins.join(", "),
        routes = routes(setup),
    );
    vec![("tidegate.toml", text)]
}

fn routes(setup: &Setup) -> String {
    let mut text = String::new();
    for route in 0..setup.routes {
        let path = if setup.routes == 1 { "/".to_owned() } else { requests::route_path(route) };
        let _ = writeln!(text, "[[route]]\nname = \"r{route:04}\"\npath = \"{path}\"\nupstream = \"origin\"");
    }
    text
}

fn tenants(setup: &Setup, digests: &[String]) -> String {
    match setup.tenants {
        Tenants::Off => String::new(),
        Tenants::Keyed => {
            let mut text = format!(
                "[tenants]\nfrom = [{{ api_key = \"header:x-api-key\" }}]\nunknown = \"refuse\"\n[plan.default]\nrate = \
                 \"{RATE_HIGH}/s\"\n"
            );
            for (tenant, digest) in digests.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "[tenant.t{tenant}]\nkeys = [{{ id = \"bench\", sha256 = \"{digest}\" }}]"
                );
            }
            text
        }
        Tenants::Seen => format!(
            "[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\ntracked = {SEEN_MAX}\n[plan.default]\n# Nobody's limit is \
             full again within a round, so that nobody may be forgotten.\nrate = {{ limit = \"1/h\", burst = \
             {SEEN_BURST} }}\n"
        ),
    }
}
