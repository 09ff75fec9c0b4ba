//! The requests of a row: the same bytes for the closed loop (wrk, by a Lua script) and for the open one.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Keyed tenants in the product row.
pub const KEYS: usize = 100;
/// Bytes of the response's body, everywhere.
pub const RESPONSE_BYTES: usize = 1024;
/// Bytes of a posted body.
pub const POSTED_BYTES: usize = 16 << 10;

/// What clients send, in turn.
#[derive(Clone, Debug)]
pub enum Requests {
    /// These, one after the other and again.
    List(Vec<String>),
    /// Tenants by header, chosen at random of so many.
    Tenants(usize),
}

impl Requests {
    pub fn list(requests: impl IntoIterator<Item = String>) -> Self {
        Self::List(requests.into_iter().collect())
    }

    pub fn get() -> Self {
        Self::list([head("GET", "/1k", "")])
    }

    pub fn post() -> Self {
        let body = "x".repeat(POSTED_BYTES);
        Self::list([head("POST", "/1k", &format!("Content-Length: {POSTED_BYTES}\r\n")) + &body])
    }

    /// Each of the keys in turn.
    pub fn keyed() -> Self {
        Self::list((0..KEYS).map(|tenant| head("GET", "/1k", &format!("X-Api-Key: {}\r\n", key(tenant)))))
    }

    /// Each of the routes in turn.
    pub fn routed(routes: usize) -> Self {
        Self::list((0..routes).map(|route| head("GET", &format!("{}1k", route_path(route)), "")))
    }

    /// The request of a number; the open loop has no chance in it.
    pub fn nth(&self, number: usize) -> Cow<'_, [u8]> {
        match self {
            Self::List(list) => Cow::Borrowed(list[number % list.len()].as_bytes()),
            // A prime step, so that neighbours in time are not neighbours in the table.
            Self::Tenants(count) => Cow::Owned(of_tenant(number.wrapping_mul(7919) % count).into_bytes()),
        }
    }

    /// The same for wrk.
    pub fn script(&self) -> String {
        match self {
            Self::List(list) => {
                let mut script = String::from("local made = {\n");
                for request in list {
                    let _ = writeln!(script, "  {request:?},");
                }
                script
                    + "}\nlocal at = 0\nrequest = function()\n  at = at % #made + 1\n  return made[at]\nend\n"
            }
            Self::Tenants(count) => {
                let whole = of_tenant(0);
                let (before, after) = whole.split_once("t0000000").unwrap_or((&whole, ""));
                format!(
                    "local before, after = {before:?}, {after:?}\nrequest = function()\n  \
                     return before .. string.format(\"t%07d\", math.random(0, {count} - 1)) .. after\nend\n"
                )
            }
        }
    }
}

/// The request of one of the tenants that are named by a header.
pub fn of_tenant(number: usize) -> String {
    head("GET", "/1k", &format!("X-Tenant: t{number:07}\r\n"))
}

/// The API key of a tenant. These open nothing but a benchmark.
pub fn key(tenant: usize) -> String {
    format!("bench-key-{tenant:04}-0123456789abcdef0123456789abcdef")
}

/// The path of a route, with a slash at both ends.
pub fn route_path(route: usize) -> String {
    format!("/r{route:04}/")
}

/// The head of a request; `more` are whole lines.
pub fn head(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n{more}\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_the_same_requests_for_both_loops() {
        let requests = Requests::routed(2);
        assert!(requests.nth(3).starts_with(b"GET /r0001/1k HTTP/1.1\r\n"));
        assert!(requests.script().contains(r#"  "GET /r0001/1k HTTP/1.1\r\nHost: bench.test\r\n"#));
    }

    #[test]
    fn names_tenants_alike_in_the_script() {
        let script = Requests::Tenants(10).script();
        assert!(script.contains("X-Tenant: \","), "{script}");
        assert!(script.contains("math.random(0, 10 - 1)"), "{script}");
    }
}
