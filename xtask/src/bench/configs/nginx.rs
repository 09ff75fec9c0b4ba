//! nginx: one worker, kept-alive HTTP/1.1 to the origin (which it does not do by itself before 1.29).

use std::fmt::Write as _;

use super::{Paths, RATE_HIGH, SEEN_BURST, Setup, Tenants, Written};
use crate::bench::requests;

pub fn files(setup: &Setup, paths: Paths<'_>, port: u16) -> Vec<Written> {
    let folder = paths.folder.display();
    let servers: String = setup.origins().map(|origin| format!("    server {origin};\n")).collect();
    let (zone, limit) = tenants(setup, paths);
    let text = format!(
        "# Tidegate's benchmark writes this file.
worker_processes {workers};
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
{log}  keepalive_requests 1000000000;
  # Else a body of 16 KiB may be written to a file first.
  client_body_buffer_size 32k;
{zone}  upstream origin {{
{servers}    keepalive 4096;
    keepalive_requests 1000000000;
  }}
  server {{
{listen}{limit}{locations}  }}
}}
",
        workers = setup.workers,
        files = setup.connections + 4096,
        log = if setup.tenants == Tenants::Keyed { "" } else { "  access_log off;\n" },
        listen = listen(setup, paths, port),
        locations = locations(setup),
    );
    vec![("nginx.conf", text)]
}

fn listen(setup: &Setup, paths: Paths<'_>, port: u16) -> String {
    if !setup.tls {
        return format!("    listen 127.0.0.1:{port} backlog=4096;\n");
    }
    format!(
        "    listen 127.0.0.1:{port} ssl http2 backlog=4096;
    ssl_certificate {};
    ssl_certificate_key {};
    ssl_protocols TLSv1.2 TLSv1.3;
    http2_max_concurrent_streams 128;
",
        paths.cert.display(),
        paths.key.display()
    )
}

fn locations(setup: &Setup) -> String {
    let request_id =
        if setup.tenants == Tenants::Keyed { " proxy_set_header X-Request-Id $request_id;" } else { "" };
    let mut text = String::new();
    for route in 0..setup.routes {
        let path = if setup.routes == 1 { "/".to_owned() } else { requests::route_path(route) };
        let _ = writeln!(
            text,
            "    location {path} {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \
             \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For \
             $proxy_add_x_forwarded_for;{request_id} }}"
        );
    }
    text
}

/// What stands before the server, and what in it.
fn tenants(setup: &Setup, paths: Paths<'_>) -> (String, String) {
    match setup.tenants {
        Tenants::Off => (String::new(), String::new()),
        Tenants::Keyed => {
            let mut zone = String::from(
                "  map_hash_bucket_size 128;\n  map $http_x_api_key $tenant {\n    default \"\";\n",
            );
            for tenant in 0..requests::KEYS {
                let _ = writeln!(zone, "    \"{}\" t{tenant};", requests::key(tenant));
            }
            let _ = writeln!(
                zone,
                "  }}
  limit_req_zone $tenant zone=tenants:10m rate={RATE_HIGH}r/s;
  limit_req_status 429;
  log_format receipts escape=json '{{\"time\":\"$time_iso8601\",\"id\":\"$request_id\",\"tenant\":\"$tenant\",\
                 \"client\":\"$remote_addr\",\"method\":\"$request_method\",\"host\":\"$host\",\"path\":\"$uri\",\
                 \"status\":$status,\"bytes\":$body_bytes_sent,\"seconds\":$request_time,\
                 \"upstream\":\"$upstream_addr\",\"upstream_seconds\":\"$upstream_response_time\",\
                 \"agent\":\"$http_user_agent\"}}';
  access_log {}/access.log receipts buffer=64k flush=1s;",
                paths.folder.display()
            );
            let limit = format!(
                "    if ($tenant = \"\") {{ return 401; }}\n    limit_req zone=tenants burst={RATE_HIGH} nodelay;\n"
            );
            (zone, limit)
        }
        Tenants::Seen => (
            format!(
                "  # A state takes 128 bytes here.
  limit_req_zone $http_x_tenant zone=tenants:{}m rate=1r/m;
  limit_req_status 429;
",
                (super::SEEN_MAX * 136) >> 20
            ),
            format!("    limit_req zone=tenants burst={SEEN_BURST} nodelay;\n"),
        ),
    }
}
