//! Routing: which route a request matches, independent of the order in the file.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

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

/// A path to match, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path alone.
    Exact(String),
    /// This path and what lies below it, by whole segments; without trailing slash, the root is empty.
    Prefix(String),
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
    /// There with exactly this value.
    Equals(HeaderValue),
}

/// Upstreams by weight, sticky per tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// At least one; weights are 0 to 1000, not all zero.
    pub to: Vec<(Arc<str>, u32)>,
}
