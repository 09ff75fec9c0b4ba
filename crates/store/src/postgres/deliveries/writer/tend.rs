//! What is done though nobody asks for it: what errands have left to be done, what is to be forgotten, what others have done
//! of which nothing was heard, and the ages of the large tables.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_wire::clock;

use super::{Writer, now_ms};
use crate::deliveries::ledger::Ledger;
use crate::deliveries::rows::whole;
use crate::deliveries::tables::{Fault, Hints};
use crate::deliveries::{News, prune};
use crate::postgres::Failed;
use crate::postgres::deliveries::ages;
use crate::postgres::deliveries::desk::Desk;
use crate::postgres::deliveries::news::{self, Heard};
use crate::postgres::deliveries::rows::get;
use crate::postgres::deliveries::session::Says;

/// How often is looked after what has come to its end, and what others have done.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// Looks between two at what all of it takes.
const ROUND: u32 = 30;
/// Deliveries that are forgotten in one transaction, and bytes of them.
const SWEEP_MAX: usize = 512;
const SWEEP_BYTES_MAX: u64 = 8 << 20;

/// Which shards this node leads, their versions, and in which of them something is to be forgotten.
const TEND: &str = "
    SELECT s.shard, s.version, EXISTS (
        SELECT FROM deliveries d WHERE d.forgotten IS NOT NULL AND d.shard = s.shard AND d.forgotten <= $2
    ) FROM shards s WHERE s.owner = $1";
const BYTES: &str = "SELECT coalesce(sum(bytes), 0)::bigint FROM lines";

impl Writer {
    /// A shard that this node leads and in which something is left to be done.
    pub(super) fn has_work(&self) -> Option<u16> {
        let led = &self.desk.as_ref()?.led;
        led.keys().copied().find(|shard| self.book.has_work(*shard))
    }

    /// Does something in a shard that nobody waits for. Whether it is done.
    pub(super) fn alone(
        &mut self,
        shard: u16,
        work: &mut dyn FnMut(&mut Ledger<'_>) -> Result<(), Fault>,
    ) -> bool {
        match self.transact_with(&BTreeSet::from([shard]), &Hints::default(), work) {
            Ok(()) => true,
            Err((fault, batch)) => {
                // If it is committed all the same, what follows it finds that.
                match (fault, batch) {
                    (Fault::Postgres(Failed::Lost(why)), _) => self.away(&why),
                    (fault, _) => self.failed(Vec::new(), fault),
                }
                false
            }
        }
    }

    /// Looks after the shards that this node leads: what others have done that was not told, and what is to be forgotten.
    pub(super) fn tend(&mut self) {
        self.tend_at = clock::now().after(TEND_EVERY);
        let now = now_ms();
        let Some(led) = self.tend_or(|desk| {
            let own = desk.session.link.epoch;
            let by_now = whole(now);
            desk.session
                .ask(Says::new(TEND, vec![Box::new(own), Box::new(by_now)]))
                .map_err(Fault::from)?
                .iter()
                .map(|row| {
                    Ok((u16::try_from(get::<i16>(row, 0)?).unwrap_or_default(), get(row, 1)?, get(row, 2)?))
                })
                .collect::<Result<Vec<(u16, i64, bool)>, Fault>>()
        }) else {
            return;
        };
        self.hears.retain(|shard, _| led.iter().any(|(one, ..)| one == shard));
        let mut more = false;
        for (shard, version, forgets) in led {
            let is_new = !self.hears.contains_key(&shard);
            let heard = self.hears.entry(shard).or_insert_with(|| Heard::begin(version));
            if heard.has_missed(version) || is_new {
                self.followers.tell(shard, &[News::Look]);
            }
            if forgets {
                more |= self.sweep(shard, now);
            }
        }
        self.turn_ages();
        if self.tended.is_multiple_of(ROUND) {
            let bytes = self.tend_or(|desk| {
                let found = desk.session.ask(Says::plain(BYTES))?;
                Ok(found.first().map(|row| get(row, 0)).transpose()?.unwrap_or_default())
            });
            self.bytes = bytes.unwrap_or(self.bytes);
        }
        self.tended = self.tended.wrapping_add(1);
        if more {
            self.tend_at = clock::now();
        }
    }

    /// Looks which age it is, begins the next one where it is time, drops and empties those that are past.
    pub(super) fn turn_ages(&mut self) {
        let moves = self.tend_or(|desk| {
            ages::look(desk)?;
            let now = desk.age;
            ages::turn(&mut desk.session, now)?;
            ages::look(desk)?;
            ages::movable(desk)
        });
        let led: Vec<u16> = self.hears.keys().copied().collect();
        for shard in led.into_iter().filter(|_| moves == Some(true)) {
            self.move_on(shard);
        }
    }

    pub(super) fn tend_or<T>(&mut self, work: impl FnOnce(&mut Desk) -> Result<T, Fault>) -> Option<T> {
        let by = self.soon();
        let desk = self.desk.as_mut()?;
        desk.session.waits_until(by);
        match work(desk) {
            Ok(done) => Some(done),
            Err(fault) => {
                match fault {
                    Fault::Postgres(Failed::Lost(why)) => self.away(&why),
                    other => {
                        tracing::debug!(why = %other, "what has come to its end is looked for again later")
                    }
                }
                None
            }
        }
    }

    /// Forgets some of a shard. Whether there is more.
    pub(super) fn sweep(&mut self, shard: u16, now: u64) -> bool {
        let mut swept = (0, false);
        let done = self.alone(shard, &mut |ledger| {
            swept = prune::prune(ledger, shard, now, SWEEP_MAX, SWEEP_BYTES_MAX)?;
            Ok(())
        });
        self.told.swept.fetch_add(if done { swept.0 as u64 } else { 0 }, Relaxed);
        done && swept.1
    }

    /// What is left of ages that are past is of the present one, some of it.
    pub(super) fn move_on(&mut self, shard: u16) {
        let empty = BTreeSet::from([shard]);
        self.batch += 1;
        let (batch, by) = (self.batch, self.soon());
        let Some(desk) = &mut self.desk else { return };
        desk.session.waits_until(by);
        let moved = desk
            .begin(batch, &empty, &Hints::default())
            .and_then(|()| ages::move_on(desk, shard))
            .and_then(|moved| if moved > 0 { desk.commit(&[]).map(drop) } else { desk.end() });
        if let Err(fault) = moved {
            self.failed(Vec::new(), fault);
        }
    }

    /// Something was heard of another node.
    pub(super) fn hear(&mut self, said: &str) {
        let Some((shard, version, news)) = news::read(said) else { return };
        if let Some(heard) = self.hears.get_mut(&shard) {
            heard.hear(version);
        }
        // Whoever does not lead it follows nothing of it.
        self.followers.tell(shard, &news);
    }

    pub(super) fn look_everywhere(&self) {
        for shard in 0..self.settings.shards {
            self.followers.tell(shard, &[News::Look]);
        }
    }
}
