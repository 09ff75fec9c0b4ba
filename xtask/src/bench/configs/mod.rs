//! What each proxy is configured for, and each one's own way to say it.
//!
//! Equal features: the same endpoints chosen in turn, HTTP/1.1 kept alive to them, the client's address added, no limit
//! on requests per connection; in the product row an API key that names the tenant, a rate per tenant that is never
//! reached, request ids and a JSON access log with the same fields in a file.

use std::path::Path;

pub mod envoy;
pub mod haproxy;
pub mod nginx;
pub mod tidegate;

/// The origin's ports: `ENDPOINTS_MAX` from here on.
pub const ORIGIN: u16 = 21_100;
pub const ENDPOINTS_MAX: u16 = 100;
/// Where the origin tells how many requests it has seen.
pub const ORIGIN_STATUS: &str = "/origin-status";
/// A rate that no round reaches, per tenant and second.
const RATE_HIGH: u32 = 1_000_000;
/// Where tenants are counted and not limited: so many requests until the first is refused...
const SEEN_BURST: u32 = 50_000;
/// ...and so many distinct tenants may be held, in all proxies.
const SEEN_MAX: usize = 2_000_000;

/// Who a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// Nobody asks.
    Off,
    /// The product row: known by their API keys, limited, logged.
    Keyed,
    /// Growth: any number of them, named by a header and limited each.
    Seen,
}

/// What is measured, apart from the load.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub tls: bool,
    pub workers: usize,
    pub endpoints: u16,
    pub routes: usize,
    pub tenants: Tenants,
    /// Client connections that must fit.
    pub connections: usize,
}

impl Setup {
    pub const PLAIN: Self =
        Self { tls: false, workers: 1, endpoints: 1, routes: 1, tenants: Tenants::Off, connections: 10_000 };

    fn origins(&self) -> impl Iterator<Item = String> + use<> {
        (ORIGIN..ORIGIN + self.endpoints).map(|port| format!("127.0.0.1:{port}"))
    }
}

/// Where a configuration may refer to.
#[derive(Clone, Copy)]
pub struct Paths<'a> {
    /// The peer's own folder: configurations, logs.
    pub folder: &'a Path,
    pub cert: &'a Path,
    pub key: &'a Path,
    /// Certificate and key in one file, as HAProxy wants them.
    pub pair: &'a Path,
}

/// A file of a configuration: its name in the peer's folder, and its text.
pub type Written = (&'static str, String);

/// The origin: one nginx worker that answers everything with one KiB.
pub fn origin(folder: &Path) -> String {
    let folder = folder.display();
    let listens: String = (ORIGIN..ORIGIN + ENDPOINTS_MAX)
        .map(|port| format!("    listen 127.0.0.1:{port} backlog=4096;\n"))
        .collect();
    let body = "x".repeat(super::requests::RESPONSE_BYTES);
    format!(
        "# The origin of all rows. It never closes a connection by count.
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 15000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  server {{
{listens}
    client_body_buffer_size 32k;
    location = {ORIGIN_STATUS} {{ stub_status; }}
    location / {{ return 200 \"{body}\"; }}
  }}
}}
"
    )
}
