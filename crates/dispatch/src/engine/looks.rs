//! What the engine reads of the store: what is due, who has something, what is too late, what is paused.

use std::rc::Rc;
use std::time::Duration;

use tidegate_model::delivery::{Ms, Seq};
use tidegate_store::Unavailable;
use tidegate_store::deliveries::{Line, Pause, Ready};
use tidegate_wire::{clock, task};

use super::commits::Purpose;
use super::{Engine, Event};
use crate::engine::PAUSES;

/// Deliveries whose time has come, taken at once.
const PROMOTE_MAX: usize = 1_024;
/// Lines read at once.
const LINES_MAX: usize = 1_024;
/// What is too late, taken at once.
const EXPIRE_MAX: usize = 256;
/// What was leased when the engine began, read at once.
const LEASED_MAX: usize = 512;
/// What is due is looked for at least so often, whatever was told.
const DUE_MAX: Ms = 30_000;

/// What is being read, and what is to be.
#[derive(Debug, Default)]
pub struct Looks {
    /// Something is due then. `None`: that is being asked.
    next_due: Option<Ms>,
    promoting: bool,
    scan: Scan,
    expiring: bool,
    look_expired: bool,
    pausing: bool,
    look_paused: bool,
    /// What is being read of pauses may be from before what was ordered since.
    pauses_passed: bool,
    seconds: u64,
}

/// Where the search for lines is.
#[derive(Debug, Default)]
struct Scan {
    wanted: bool,
    under_way: bool,
    /// It is to begin anew: more has happened since it began.
    anew: bool,
    /// Lines that it has passed were forgotten since: where it ends, not all are here.
    passed_over: bool,
    after: Option<Line>,
}

impl Looks {
    pub fn due(&mut self, at: Ms) {
        self.next_due = Some(self.next_due.map_or(at, |due| due.min(at)));
    }

    pub fn next_due(&self) -> Option<Ms> {
        self.next_due.filter(|_| !self.promoting)
    }

    pub fn look_for_lines(&mut self) {
        self.scan.wanted = true;
        self.scan.anew = true;
    }

    pub fn look_for_all(&mut self) {
        self.look_for_lines();
        self.look_paused = true;
        self.due(0);
    }

    pub fn look_for_expired(&mut self) {
        self.look_expired = true;
    }

    /// Something was paused or goes on: what is being read of pauses may not know of it.
    pub fn pauses_change(&mut self) {
        self.pauses_passed = self.pausing;
    }

    /// Pauses were read: whether they hold, or are to be read again.
    fn holds(&mut self, read: bool) -> bool {
        self.pausing = false;
        let passed = std::mem::take(&mut self.pauses_passed);
        let holds = read && !passed;
        self.look_paused |= !holds;
        holds
    }

    /// A second has passed; `crowded`: there are lines for which there was no room.
    pub fn second(&mut self, crowded: bool) {
        self.seconds += 1;
        self.look_expired = true;
        self.look_paused |= self.seconds.is_multiple_of(5);
        self.scan.wanted |= crowded;
        self.scan.passed_over |= crowded;
    }
}

impl Engine {
    /// Reads what is to be read now.
    pub(super) fn look(&mut self, wall: Ms) {
        if !self.looks.promoting && self.looks.next_due.is_none_or(|due| due <= wall) {
            self.looks.promoting = true;
            self.looks.next_due = Some(wall + DUE_MAX);
            let (parts, inbox, epoch) = (Rc::clone(&self.parts), Rc::clone(&self.inbox), self.epoch);
            task::spawn(async move {
                inbox.put(Event::Promoted(parts.store.promote(epoch, wall, PROMOTE_MAX).await));
            });
        }
        if !self.looks.expiring && std::mem::take(&mut self.looks.look_expired) {
            self.looks.expiring = true;
            let (parts, inbox, epoch) = (Rc::clone(&self.parts), Rc::clone(&self.inbox), self.epoch);
            task::spawn(async move {
                inbox.put(Event::Expired(parts.store.expired(epoch, wall, EXPIRE_MAX).await));
            });
        }
        if !self.looks.pausing && std::mem::take(&mut self.looks.look_paused) {
            self.looks.pausing = true;
            let (parts, inbox) = (Rc::clone(&self.parts), Rc::clone(&self.inbox));
            task::spawn(async move { inbox.put(Event::Paused(parts.store.paused().await)) });
        }
        self.scan();
    }

    fn scan(&mut self) {
        let scan = &mut self.looks.scan;
        if scan.under_way || !scan.wanted && !self.scheduler.has_room_again() {
            return;
        }
        if std::mem::take(&mut scan.anew) {
            scan.after = None;
        }
        (scan.under_way, scan.wanted) = (true, false);
        scan.passed_over &= scan.after.is_some();
        let after = scan.after.clone();
        let (parts, inbox, epoch) = (Rc::clone(&self.parts), Rc::clone(&self.inbox), self.epoch);
        task::spawn(async move {
            inbox.put(Event::Found(LINES_MAX, parts.store.lines(epoch, after, LINES_MAX).await));
        });
    }

    pub(super) fn found(&mut self, most: usize, lines: Result<Vec<Line>, Unavailable>) {
        self.heed(&lines);
        self.looks.scan.under_way = false;
        let Ok(lines) = lines else {
            self.looks.scan.wanted = true;
            return;
        };
        let whole = lines.len() < most;
        let parts = Rc::clone(&self.parts);
        for line in lines {
            let known = self.queues.contains_key(&line.queue);
            if known && !self.scheduler.found(&line, |tenant| parts.weight(tenant)) {
                // The next search goes on here.
                return;
            }
            self.looks.scan.after = Some(line);
        }
        if whole {
            self.looks.scan.after = None;
            if self.looks.scan.passed_over {
                self.looks.scan.wanted = true;
            } else if !self.looks.scan.anew {
                self.scheduler.found_all();
            }
        } else {
            self.looks.scan.wanted = true;
        }
    }

    pub(super) fn load(&mut self, line: Line, after: Option<(i64, Seq)>, most: usize) {
        let (parts, inbox, epoch) = (Rc::clone(&self.parts), Rc::clone(&self.inbox), self.epoch);
        task::spawn(async move {
            let found = parts.store.ready(epoch, &line, after, most).await;
            inbox.put(Event::Loaded(line, most, found));
        });
    }

    pub(super) fn promoted(&mut self, told: Result<(Vec<Ready>, Option<Ms>, bool), Unavailable>) {
        self.heed(&told);
        self.looks.promoting = false;
        match told {
            Ok((ready, next, more)) => {
                ready.into_iter().for_each(|ready| self.arrived(ready));
                let next = if more { Some(0) } else { next };
                next.into_iter().for_each(|at| self.looks.due(at));
            }
            Err(_) => self.looks.due(0),
        }
    }

    pub(super) fn expired(&mut self, found: Result<Vec<(Seq, Line)>, Unavailable>) {
        self.heed(&found);
        self.looks.expiring = false;
        let found = found.unwrap_or_default();
        self.looks.look_expired |= found.len() >= EXPIRE_MAX;
        for (seq, line) in found {
            self.scheduler.gone(seq, &line);
            self.expire(seq, &line.queue);
        }
    }

    pub(super) fn paused(&mut self, pauses: Result<Vec<Pause>, Unavailable>) {
        self.heed(&pauses);
        let holds = self.looks.holds(pauses.is_ok());
        if let Ok(pauses) = pauses
            && holds
        {
            self.scheduler.set_pauses(pauses);
        }
    }

    /// What has to be known before anything is judged: the time, and what is paused.
    async fn before(&self) -> Result<Vec<Pause>, Unavailable> {
        self.take_up_time().await?;
        self.parts.store.paused().await
    }

    /// Ends what the process before had begun: attempts lapse, leases of those who pull go on. `false`: somebody else owns it.
    pub(super) async fn recover(&mut self) -> bool {
        let (mut after, mut pause, mut knows_pauses) = (Seq(0), PAUSES.0, false);
        loop {
            let pauses = if knows_pauses { Ok(None) } else { self.before().await.map(Some) };
            let leased = match pauses {
                Ok(pauses) => {
                    knows_pauses = true;
                    pauses.into_iter().for_each(|pauses| self.scheduler.set_pauses(pauses));
                    self.parts.store.leased(self.epoch, after, LEASED_MAX).await
                }
                Err(error) => Err(error),
            };
            match leased {
                Ok(leased) => {
                    let whole = leased.len() < LEASED_MAX;
                    after = leased.last().map_or(after, |last| last.delivery.seq);
                    for mut one in leased {
                        // Here an attempt under way is not counted yet; there it is.
                        one.delivery.attempts = one.delivery.attempts.saturating_sub(1);
                        match self.pulls(&one.delivery.line.queue) {
                            true => self.take_over(one),
                            false => self.lapsed(one.delivery, one.token, Purpose::Tell),
                        }
                    }
                    if whole {
                        return true;
                    }
                }
                Err(Unavailable::Fenced) => return false,
                Err(_) if self.shared.is_draining() => return true,
                Err(error) => {
                    tracing::warn!(%error, ?pause, "what was under way cannot be read yet");
                    clock::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1.max(Duration::from_secs(1)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Looks;

    #[test]
    fn what_was_read_of_pauses_before_an_order_does_not_undo_it() {
        let mut looks = Looks { pausing: true, ..Looks::default() };
        looks.pauses_change();
        assert!(!looks.holds(true), "it may be from before the order");
        assert!(looks.look_paused, "it is read again");
        looks = Looks { pausing: true, ..Looks::default() };
        assert!(looks.holds(true) && !looks.look_paused);
        looks.pauses_change();
        looks.pausing = true;
        assert!(looks.holds(true), "what is read after an order knows of it");
        assert!(!looks.holds(false) && looks.look_paused, "what could not be read is read again");
    }
}
