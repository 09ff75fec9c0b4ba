//! What befalls a connection where a simulation says so. What it has sent and is answered is real; only that nothing is sent, or that an
//! answer is not heard, is played: PostgreSQL finds the connection closed in either case.

use tokio_postgres::Row;

use super::{Says, Session};
use crate::hand::Mishap;
use crate::postgres::Failed;

impl Session {
    /// What is said now comes to this, if something befalls it.
    pub(super) fn befall(&mut self, all: &[Says<'_>]) -> Option<Result<Vec<Vec<Row>>, Failed>> {
        let lost = || Failed::Lost("the connection is lost, as the simulation says".to_owned());
        match &mut self.mishap {
            Some(Mishap::Lost { after: after @ 1.., .. }) => {
                *after -= 1;
                None
            }
            Some(Mishap::Lost { heard: heard @ true, .. }) => {
                // From here on there is no connection.
                *heard = false;
                Some(self.say(all).and(Err(lost())))
            }
            Some(Mishap::Lost { .. }) => Some(Err(lost())),
            Some(Mishap::Undone) if all.last().is_some_and(|says| says.sql == "COMMIT") => {
                Some(self.ask_plain("ROLLBACK"))
            }
            Some(Mishap::Undone) | None => None,
        }
    }

    fn ask_plain(&self, sql: &'static str) -> Result<Vec<Vec<Row>>, Failed> {
        self.say(&[Says::plain(sql)])
    }
}
