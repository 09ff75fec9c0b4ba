//! A plan: what a tenant is entitled to. Resolved from configuration, never a step of the code.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// What a tenant is entitled to.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The plan's name in the configuration.
    pub name: Arc<str>,
    /// Request rates; all of them must allow a request. At most [`RATES_MAX`].
    pub rates: Vec<Rate>,
    /// Exchanges at once, held until the last response byte. `None`: not limited.
    pub concurrency: Option<u32>,
    /// Largest request body in bytes. `None`: the route's and the listener's limits alone.
    pub body_bytes_max: Option<u64>,
    /// Request body bytes per second. `None`: not limited.
    pub request_bytes_per_second: Option<NonZeroU64>,
    /// Response body bytes per second. `None`: not limited.
    pub response_bytes_per_second: Option<NonZeroU64>,
    /// Share under saturation, relative to other tenants. At least 1.
    pub weight: u32,
}

impl Plan {
    /// Whether it leaves bodies their own pace, both ways.
    #[must_use]
    pub fn is_unpaced(&self) -> bool {
        self.request_bytes_per_second.is_none() && self.response_bytes_per_second.is_none()
    }
}

/// The most rates a plan or a route may name.
pub const RATES_MAX: usize = 4;

/// A request rate with its burst: `limit` requests in `window`, of which `burst` may come at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The name shown in `RateLimit` and in refusals; unique within its plan or route.
    pub name: Arc<str>,
    /// Requests per window. At least 1.
    pub limit: u64,
    /// The window, at least a millisecond.
    pub window: Duration,
    /// Requests that may come at once. At least 1.
    pub burst: u64,
}
