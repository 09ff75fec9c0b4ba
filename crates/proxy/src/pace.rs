//! Pace: a tenant's bytes per second, shared by all of its exchanges.

use std::sync::Arc;
use std::time::Duration;

use tidegate_model::tenant::{Permit, Tenant};
use tidegate_model::tick::Tick;

/// Bytes shorter than this ahead of their time are not worth a timer.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// A single wait is never longer: a connection must be able to notice that it ended.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// One direction of a tenant's bytes.
pub struct Pace {
    tenant: Arc<Tenant>,
    direction: Direction,
}

enum Direction {
    Request,
    Response,
}

impl Pace {
    /// The pace of request bodies, if the tenant's plan sets one.
    #[must_use]
    pub fn of_request(permit: &Permit) -> Option<Pace> {
        let tenant = permit.tenant();
        tenant
            .plan()
            .request_bytes_per_second
            .map(|_| Pace { tenant: Arc::clone(tenant), direction: Direction::Request })
    }

    /// The pace of response bodies, if the tenant's plan sets one.
    #[must_use]
    pub fn of_response(permit: &Permit) -> Option<Pace> {
        let tenant = permit.tenant();
        tenant
            .plan()
            .response_bytes_per_second
            .map(|_| Pace { tenant: Arc::clone(tenant), direction: Direction::Response })
    }

    /// Spends `bytes` and tells how long to wait before the next ones, if at all.
    #[must_use]
    pub fn spend(&self, bytes: u64, now: Tick) -> Option<Duration> {
        let wait = match self.direction {
            Direction::Request => self.tenant.spend_request_bytes(bytes, now),
            Direction::Response => self.tenant.spend_response_bytes(bytes, now),
        };
        (wait >= WAIT_MIN).then(|| wait.min(WAIT_MAX))
    }
}
