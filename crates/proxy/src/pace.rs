//! Pace: a tenant's bytes per second, shared by all of its exchanges.
//!
//! A body is cut into pieces of a tenth of a second, and each piece waits for its time *before* it is handed on: many
//! short bodies are held to the pace as one long body is. What an exchange has reserved and not sent is given back when
//! it ends, so a tenant whose clients leave owes nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::SizeHint;
use tidegate_model::limit::{Reserved, piece};
use tidegate_model::tenant::{Direction, Permit, Tenant};
use tidegate_wire::clock;
use tidegate_wire::tunnel::Throttle;

/// A piece that is shorter than this ahead of its time is not worth a timer.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The pace of one body.
pub struct Pace {
    tenant: Arc<Tenant>,
    direction: Direction,
    /// What has come and was not handed on yet.
    rest: Bytes,
    due: Option<Due>,
}

/// A piece that waits for its time.
struct Due {
    reserved: Reserved,
    length: usize,
    timer: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Pace {
    /// The pace of a body, if the tenant's plan sets one for this direction.
    #[must_use]
    pub fn of(permit: &Permit, direction: Direction) -> Option<Box<Pace>> {
        permit.pace(direction)?;
        let tenant = permit.tenant();
        Some(Box::new(Pace { tenant: Arc::clone(tenant), direction, rest: Bytes::new(), due: None }))
    }

    /// Bytes that have come and were not handed on yet.
    #[must_use]
    pub fn rest(&self) -> u64 {
        self.rest.len() as u64
    }

    /// Takes bytes to hand on at their time. There must be no rest.
    pub fn take(&mut self, data: Bytes) {
        debug_assert!(self.rest.is_empty());
        self.rest = data;
    }

    /// The next piece when its time has come; `None`: there is no rest.
    pub fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let due = match &mut self.due {
            Some(due) => due,
            None => {
                // Asked each time: a reload may have changed or taken away the pace.
                let Some(per_second) = self.tenant.pace(self.direction) else {
                    return Poll::Ready(Some(std::mem::take(&mut self.rest)));
                };
                let length = self.rest.len().min(piece(per_second));
                let reserved = self.tenant.reserve(self.direction, length as u64, per_second, clock::now());
                let wait = Some(reserved.wait).filter(|wait| *wait >= WAIT_MIN);
                let timer = wait.map(|wait| Box::pin(clock::sleep(wait)) as _);
                self.due.insert(Due { reserved, length, timer })
            }
        };
        if let Some(timer) = &mut due.timer {
            ready!(timer.as_mut().poll(context));
        }
        let length = due.length;
        self.due = None;
        Poll::Ready(Some(self.rest.split_to(length)))
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(due) = &self.due {
            self.tenant.release(self.direction, &due.reserved);
        }
    }
}

/// The pace of one direction of a tunnel.
pub struct TunnelPace {
    tenant: Arc<Tenant>,
    direction: Direction,
}

impl TunnelPace {
    /// The pace that the tenant's plan sets for this direction, if any, now and after each reload.
    #[must_use]
    pub fn of(permit: &Permit, direction: Direction) -> TunnelPace {
        TunnelPace { tenant: Arc::clone(permit.tenant()), direction }
    }
}

impl Throttle for TunnelPace {
    fn most(&self) -> usize {
        self.tenant.pace(self.direction).map_or(usize::MAX, piece)
    }

    fn wait(&self, bytes: usize) -> Duration {
        let Some(per_second) = self.tenant.pace(self.direction) else { return Duration::ZERO };
        let reserved = self.tenant.reserve(self.direction, bytes as u64, per_second, clock::now());
        Some(reserved.wait).filter(|wait| *wait >= WAIT_MIN).unwrap_or_default()
    }
}

/// What a body will still give, with what its pace holds back of it.
#[must_use]
pub fn with_rest(inner: SizeHint, pace: Option<&Pace>) -> SizeHint {
    let rest = pace.map_or(0, Pace::rest);
    if rest == 0 {
        return inner;
    }
    let mut hint = SizeHint::new();
    hint.set_lower(inner.lower().saturating_add(rest));
    if let Some(upper) = inner.upper() {
        hint.set_upper(upper.saturating_add(rest));
    }
    hint
}
