//! Routing: which route a request matches, independent of the order in the file.
//!
//! The rules, whole (docs/routing.md tells them with examples):
//!
//! 1. A route is *in question* if its host and its path match and all its header conditions hold.
//! 2. The most specific host of those in question decides: exact over wildcard over any; among wildcards the
//!    longest. Then the most specific path: exact over prefix; among prefixes the longest, by whole segments.
//! 3. Among the routes of that host and path, more header conditions go first, then a route that lists the
//!    method before one that lists none. A route that lists `GET` serves `HEAD` too, unless another one
//!    lists `HEAD`.
//! 4. If none of them serves the method, the answer is 405 with `Allow`: a less specific path or host is
//!    not tried, as it was not meant.
//! 5. Two routes that one request could match with equal right are a tie: an error when the table is built.

mod table;

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

pub use table::{Allowed, Found, Table, Tie};

use crate::fields::{Fields, Value};
use crate::host::{self, HostError};
use crate::path::{self, PathError};

/// What a route matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The host.
    pub host: HostPattern,
    /// The path.
    pub path: PathPattern,
    /// The methods; empty: all.
    pub methods: Vec<Method>,
    /// Conditions on headers; all of them must hold.
    pub headers: Vec<HeaderCondition>,
}

/// A host to match, lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Any host.
    Any,
    /// This host.
    Exact(String),
    /// One or more labels before this suffix (`*.example.com` is `.example.com`).
    Wildcard(String),
}

impl HostPattern {
    /// Reads `*`, `api.example.com`, `*.example.com` or `[::1]`, and brings it to the form of requests.
    ///
    /// # Errors
    /// A [`HostError`] for what is no host; [`HostError::Port`] for one with a port, which routing never sees.
    pub fn parse(text: &str) -> Result<HostPattern, HostError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (wildcard, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.rsplit(']').next().unwrap_or(name).contains(':') {
            return Err(HostError::Port);
        }
        let name = host::normalize(name)?;
        if wildcard && name.starts_with('[') {
            return Err(HostError::Byte);
        }
        Ok(if wildcard {
            HostPattern::Wildcard(format!(".{name}"))
        } else {
            HostPattern::Exact(name.into_owned())
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => write!(out, "*"),
            HostPattern::Exact(name) => write!(out, "{name}"),
            HostPattern::Wildcard(suffix) => write!(out, "*{suffix}"),
        }
    }
}

/// A path to match, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path alone.
    Exact(String),
    /// This path and what lies below it, by whole segments; without trailing slash, the root is empty.
    Prefix(String),
}

impl PathPattern {
    /// Reads `/v1` or `/v1/` (a prefix, both the same) or `= /exact`, and brings it to the form of requests.
    ///
    /// # Errors
    /// A [`PathError`] for what no request could match.
    pub fn parse(text: &str) -> Result<PathPattern, PathError> {
        if let Some(exact) = text.strip_prefix('=') {
            return Ok(PathPattern::Exact(path::normalize(exact.trim_start())?.into_owned()));
        }
        let prefix = path::normalize(text)?;
        if prefix == "*" {
            return Err(PathError::NotRooted);
        }
        Ok(PathPattern::Prefix(prefix.strip_suffix('/').unwrap_or(&prefix).to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(path) => write!(out, "= {path}"),
            PathPattern::Prefix(prefix) => write!(out, "{prefix}/"),
        }
    }
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCondition {
    /// The header.
    pub name: HeaderName,
    /// What it must be.
    pub is: HeaderTest,
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderTest {
    /// There, with any value.
    Present,
    /// Not there.
    Absent,
    /// There once, with exactly this value.
    Equals(HeaderValue),
}

impl HeaderCondition {
    /// Whether these headers fulfil it.
    #[must_use]
    pub fn holds(&self, headers: &Fields) -> bool {
        match &self.is {
            HeaderTest::Present => headers.contains_key(&self.name),
            HeaderTest::Absent => !headers.contains_key(&self.name),
            HeaderTest::Equals(value) => {
                let mut sent = headers.get_all(&self.name).iter();
                sent.next() == Some(Value::from(value)) && sent.next().is_none()
            }
        }
    }

    /// Whether no request fulfils both.
    fn excludes(&self, other: &HeaderCondition) -> bool {
        use HeaderTest::{Absent, Equals, Present};
        self.name == other.name
            && match (&self.is, &other.is) {
                (Absent, Present | Equals(_)) | (Present | Equals(_), Absent) => true,
                (Equals(one), Equals(another)) => one != another,
                _ => false,
            }
    }
}

/// Upstreams by weight, sticky per tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// At least one; weights are 0 to 1000, not all zero.
    pub to: Vec<(Arc<str>, u32)>,
}

impl Split {
    /// The upstream of the tenant with this hash.
    ///
    /// Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): each upstream draws a lot from its
    /// name and the tenant, the best one wins. So a tenant stays where it is whatever the order in the file,
    /// and growing one weight moves tenants to that upstream alone.
    ///
    /// # Panics
    /// If there is no upstream at all; the configuration guarantees one.
    #[must_use]
    pub fn pick(&self, tenant_hash: u64) -> &Arc<str> {
        let (first, rest) = self.to.split_first().expect("a split has at least one upstream");
        if rest.is_empty() {
            return &first.0;
        }
        let mut best = (lot(first, tenant_hash), &first.0);
        for upstream in rest {
            let drawn = lot(upstream, tenant_hash);
            if drawn > best.0 {
                best = (drawn, &upstream.0);
            }
        }
        best.1
    }
}

/// An exponential lot: the highest of several wins as often as its weight's share.
fn lot((name, weight): &(Arc<str>, u32), tenant_hash: u64) -> f64 {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // 53 bits, the middle of each step: never 0 and never 1, so the logarithm is finite and negative.
    let chance = ((mixed(seed ^ mixed(tenant_hash)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(*weight) / chance.ln()
}

/// The finalizer of SplitMix64: neighbouring hashes draw unrelated lots.
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(to: &[(&str, u32)]) -> Split {
        Split { to: to.iter().map(|(name, weight)| (Arc::from(*name), *weight)).collect() }
    }

    fn check(pattern: &str, shown: &str) {
        let parsed = PathPattern::parse(pattern).expect(pattern);
        assert_eq!(parsed.to_string(), shown);
        assert_eq!(PathPattern::parse(shown), Ok(parsed));
    }

    #[test]
    fn patterns_are_brought_to_the_form_of_requests() {
        check("/v1/", "/v1/");
        check("/v1", "/v1/");
        check("/", "/");
        check("= /a/%7eb", "= /a/~b");
        check("=/a/../b", "= /b");
        assert_eq!(PathPattern::parse("v1"), Err(PathError::NotRooted));
        assert_eq!(HostPattern::parse("*"), Ok(HostPattern::Any));
        assert_eq!(
            HostPattern::parse("*.Example.com."),
            Ok(HostPattern::Wildcard(".example.com".to_owned()))
        );
        assert_eq!(HostPattern::parse("[::1]"), Ok(HostPattern::Exact("[::1]".to_owned())));
        assert_eq!(HostPattern::parse("a.example:80"), Err(HostError::Port));
        assert_eq!(HostPattern::parse("a.*.example"), Err(HostError::Byte));
        assert_eq!(HostPattern::parse("*.[::1]"), Err(HostError::Byte));
    }

    #[test]
    fn a_split_keeps_its_shares_and_a_tenant_its_place() {
        let before = split(&[("a", 6), ("b", 3), ("c", 1), ("off", 0)]);
        let shuffled = split(&[("c", 1), ("off", 0), ("b", 3), ("a", 6)]);
        let mut counts = std::collections::HashMap::new();
        for tenant in 0..20_000 {
            let name = before.pick(tenant);
            assert_eq!(name, shuffled.pick(tenant));
            *counts.entry(name.to_string()).or_insert(0) += 1;
        }
        assert!((11_600..12_400).contains(&counts["a"]), "{counts:?}");
        assert!((5_600..6_400).contains(&counts["b"]), "{counts:?}");
        assert!((1_700..2_300).contains(&counts["c"]), "{counts:?}");
        assert!(!counts.contains_key("off"));
    }

    #[test]
    fn growing_one_weight_moves_tenants_to_it_alone() {
        let before = split(&[("a", 6), ("b", 3), ("c", 1)]);
        let after = split(&[("a", 6), ("b", 3), ("c", 5)]);
        let mut moved = 0;
        for tenant in 0..20_000 {
            let (was, is) = (before.pick(tenant), after.pick(tenant));
            if was != is {
                assert_eq!(&**is, "c");
                moved += 1;
            }
        }
        // c's share grows from 1/10 to 5/14.
        assert!((4_700..5_600).contains(&moved), "{moved}");
    }
}
