//! The rows of the table: what is asked, of whom, how.

use super::configs::{Setup, Tenants};
use super::load::Shape;
use super::requests::Requests;

/// What a row finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cost and speed.
    Speed,
    /// Cost and speed after so many distinct tenants, and what they take of memory.
    Growth(usize),
    /// Memory of idle connections.
    Idle,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    pub setup: Setup,
    pub shape: Shape,
    pub requests: fn() -> Requests,
    /// Whether `--quick` has it too.
    pub quick: bool,
}

impl Row {
    /// The open loop speaks HTTP/1.1 without TLS, and growth is about cost and memory.
    pub fn has_latency(&self) -> bool {
        !self.setup.tls && self.kind == Kind::Speed
    }
}

const TLS: Setup = Setup { tls: true, ..Setup::PLAIN };
const SEEN: Setup = Setup { tenants: Tenants::Seen, ..Setup::PLAIN };

const fn row(name: &'static str, title: &'static str, setup: Setup, requests: fn() -> Requests) -> Row {
    Row { name, title, kind: Kind::Speed, setup, shape: Shape::KeepAlive, requests, quick: true }
}

/// All rows, in the order in which they are run.
pub const ROWS: [Row; 14] = [
    row("plain", "GET 1 KiB, keep-alive", Setup::PLAIN, Requests::get),
    row("post", "POST 16 KiB, keep-alive", Setup::PLAIN, Requests::post),
    row(
        "product",
        "GET 1 KiB with API key, rate limit, metrics, access log",
        Setup { tenants: Tenants::Keyed, ..Setup::PLAIN },
        Requests::keyed,
    ),
    row("tls", "TLS 1.3, keep-alive", TLS, Requests::get),
    Row {
        shape: Shape::NewConnections,
        ..row("tls-new", "TLS 1.3, a new connection per request", TLS, Requests::get)
    },
    Row {
        shape: Shape::Http2 { connections: 8, streams: 16 },
        ..row("h2", "HTTP/2 over TLS, 8 connections of 16 streams", TLS, Requests::get)
    },
    Row {
        shape: Shape::Http2 { connections: 1, streams: 100 },
        ..row(
            "h2-one",
            "one HTTP/2 connection of 100 streams, two workers",
            Setup { workers: 2, ..TLS },
            Requests::get,
        )
    },
    row("endpoints-100", "100 endpoints", Setup { endpoints: 100, ..Setup::PLAIN }, Requests::get),
    row("routes-1000", "1,000 routes", Setup { routes: 1000, ..Setup::PLAIN }, || Requests::routed(1000)),
    growth("tenants-100", "100 tenants seen", 100, || Requests::Tenants(100)),
    growth("tenants-10000", "10,000 tenants seen", 10_000, || Requests::Tenants(10_000)),
    Row {
        quick: false,
        ..growth("tenants-1000000", "1,000,000 tenants seen", 1_000_000, || Requests::Tenants(1_000_000))
    },
    Row { kind: Kind::Idle, ..row("idle", "idle connections, plain", Setup::PLAIN, Requests::get) },
    Row { kind: Kind::Idle, ..row("idle-tls", "idle connections, TLS", TLS, Requests::get) },
];

const fn growth(name: &'static str, title: &'static str, tenants: usize, requests: fn() -> Requests) -> Row {
    Row { kind: Kind::Growth(tenants), ..row(name, title, SEEN, requests) }
}
