//! What time it is for deliveries, kept for the process that comes after this one.
//!
//! Time for deliveries never goes back within a process ([`crate::time`]). A wall clock that was set back while one ended and
//! another began would put off all that was to be made soon, and all leases, by as much. So a process begins no earlier than
//! its predecessor was seen; where that is further ahead than anybody's mistake that was set right since, the wall clock counts.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_model::delivery::{Ms, outcome};
use tidegate_store::Unavailable;
use tidegate_store::documents::{Expect, Place, Room, Write};
use tidegate_wire::task;

use super::{Engine, LOOK, wall};

/// How often it is kept: so far behind is whoever comes after, at most.
const EVERY: Duration = Duration::from_secs(30);
/// The same while something happens, which may have to be made again a moment later: behind a clock that was set back, whoever
/// comes after takes twice as long to reach that.
const EVERY_BUSY: Duration = Duration::from_secs(2);
/// How far ahead of the wall clock another process may have been.
const AHEAD_MAX: Ms = 2 * 3_600_000;

fn place() -> Place {
    Place { kind: "clock", tenant: "".into(), name: "deliveries".into() }
}

impl Engine {
    /// Goes on where the process before was.
    pub(super) async fn take_up_time(&self) -> Result<(), Unavailable> {
        let found = self.parts.store.document(place()).await?;
        if let Some(kept) =
            found.map(|found| found.at).filter(|kept| *kept <= wall().saturating_add(AHEAD_MAX))
        {
            self.shared.reach(kept);
        }
        Ok(())
    }

    /// Keeps it now and then, and at once where it has jumped. Where that fails it is tried again soon.
    pub(super) fn keep_time(&self, time: Ms) {
        if time < self.keeps_time_at.get() {
            return;
        }
        self.keeps_time_at.set(outcome::later(time, EVERY));
        let (parts, next, room) =
            (Rc::clone(&self.parts), Rc::clone(&self.keeps_time_at), Room { count: 1, bytes: 1 << 10 });
        let write = Write::Put {
            place: place(),
            expect: Expect::Any,
            at: time,
            until: None,
            body: Bytes::new(),
            room,
        };
        task::spawn(async move {
            if parts.store.write(vec![write]).await.is_err() {
                next.set(outcome::later(time, LOOK));
            }
        });
    }

    /// Something is written down that happened at this time.
    pub(super) fn keep_time_soon(&self, time: Ms) {
        self.keeps_time_at.set(self.keeps_time_at.get().min(outcome::later(time, EVERY_BUSY)));
    }
}
