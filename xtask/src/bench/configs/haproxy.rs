//! HAProxy: one thread; its log goes line by line to standard output, which is a file.

use std::fmt::Write as _;

use super::{Paths, RATE_HIGH, SEEN_BURST, SEEN_MAX, Setup, Tenants, Written};
use crate::bench::requests;

pub fn files(setup: &Setup, paths: Paths<'_>, port: u16) -> Vec<Written> {
    let bind = if setup.tls {
        format!("bind 127.0.0.1:{port} backlog 4096 ssl crt {} alpn h2,http/1.1", paths.pair.display())
    } else {
        format!("bind 127.0.0.1:{port} backlog 4096")
    };
    let servers: String = setup
        .origins()
        .enumerate()
        .map(|(number, origin)| format!("  server s{number} {origin}\n"))
        .collect();
    let (rules, table) = tenants(setup, paths);
    let routes = if setup.routes == 1 {
        "  default_backend origin\n".to_owned()
    } else {
        format!("  use_backend %[path,map_beg({}/routes.map)]\n", paths.folder.display())
    };
    let text = format!(
        "# Tidegate's benchmark writes this file.
global
  nbthread {workers}
  maxconn {connections}
  # It would want two file descriptors for each client; its connections to the origin are few.
  no strict-limits
  tune.h2.max-concurrent-streams 128
  # Else it asks for 2048 bits of Diffie-Hellman at each start; nobody here uses them.
  tune.ssl.default-dh-param 2048
defaults
  mode http
  timeout connect 1s
  timeout client 75s
  timeout server 30s
  timeout http-keep-alive 75s
  http-reuse always
  option forwardfor
frontend front
  {bind}
{rules}{routes}
{table}backend origin
  balance roundrobin
{servers}",
        workers = setup.workers,
        connections = setup.connections + 500,
    );
    let mut files = vec![("haproxy.cfg", text), ("keys.map", keys())];
    if setup.routes > 1 {
        let mut map = String::new();
        for route in 0..setup.routes {
            let _ = writeln!(map, "{} origin", requests::route_path(route));
        }
        files.push(("routes.map", map));
    }
    files
}

fn keys() -> String {
    let mut map = String::new();
    for tenant in 0..requests::KEYS {
        let _ = writeln!(map, "{} t{tenant}", requests::key(tenant));
    }
    map
}

/// The frontend's rules, and the table that they count in.
fn tenants(setup: &Setup, paths: Paths<'_>) -> (String, String) {
    match setup.tenants {
        Tenants::Off => (String::new(), String::new()),
        Tenants::Keyed => (
            format!(
                "  log stdout format raw local0
  log-format '{{\"time\":\"%Tl\",\"id\":\"%ID\",\"tenant\":\"%[var(txn.tenant)]\",\"client\":\"%ci\",\"method\":\"%HM\",\
                 \"host\":\"%[capture.req.hdr(0)]\",\"path\":\"%HPO\",\"status\":%ST,\"bytes\":%B,\"ms\":%Ta,\
                 \"upstream\":\"%si:%sp\",\"upstream_ms\":%Tr,\"agent\":\"%[capture.req.hdr(1)]\"}}'
  capture request header Host len 64
  capture request header User-Agent len 64
  unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid
  unique-id-header X-Request-Id
  http-request set-var(txn.tenant) req.hdr(x-api-key),map_str({}/keys.map)
  http-request deny deny_status 401 unless {{ var(txn.tenant) -m found }}
  http-request track-sc0 var(txn.tenant) table tenants
  http-request deny deny_status 429 if {{ sc_http_req_rate(0,tenants) gt {RATE_HIGH} }}
",
                paths.folder.display()
            ),
            "backend tenants\n  stick-table type string len 32 size 100k expire 1h store http_req_rate(1s)\n"
                .to_owned(),
        ),
        Tenants::Seen => (
            format!(
                "  http-request track-sc0 req.hdr(x-tenant) table tenants
  http-request deny deny_status 429 if {{ sc_http_req_rate(0,tenants) gt {SEEN_BURST} }}
"
            ),
            format!(
                "backend tenants\n  stick-table type string len 16 size {SEEN_MAX} expire 1h store http_req_rate(1h)\n"
            ),
        ),
    }
}
