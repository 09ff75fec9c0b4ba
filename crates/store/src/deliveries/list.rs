//! Listings and counts for people and their tools.
//!
//! A page looks at so many deliveries and no more, the newest first: where few of many are meant, pages have fewer than they
//! may, and say from where to go on. So no listing keeps the writing thread for longer than a batch of commands does.

use tidegate_model::delivery::{Command, Kind, Ms, Record, Seq, State, Told};

use super::ledger::Ledger;
use super::rows::Row;
use super::tables::{Among, Fault};
use super::{Changed, Control, Depth, Filter, Line, News, Page, Total};

/// Deliveries of one page.
pub const PAGE_MAX: usize = 1000;
/// Deliveries that one page looks at.
const LOOKS_MAX: usize = 4096;
/// Deliveries that are looked at together, once the first few were not enough.
const LOOK_MIN: usize = 64;
/// Lines whose first delivery is looked at for how long the oldest has waited.
const OLDEST_LINES_MAX: usize = 4096;

impl Filter {
    /// Whether a delivery is meant.
    fn means(&self, record: &Record) -> bool {
        let same = |asked: &Option<std::sync::Arc<str>>, name: &str| {
            asked.as_deref().is_none_or(|asked| asked == name)
        };
        let key = record.lane.as_ref().map(|lane| &*lane.key);
        same(&self.queue, &record.queue)
            && same(&self.tenant, &record.tenant)
            && self.state.is_none_or(|state| state == record.state.kind())
            && self.key.as_deref().is_none_or(|asked| key == Some(asked))
            && self.since.is_none_or(|since| record.created >= since)
            && self.before.is_none_or(|before| record.created < before)
    }
}

/// Deliveries that are meant, the newest first, from behind this one on.
pub(super) fn list(
    ledger: &mut Ledger<'_>,
    filter: &Filter,
    after: Option<Seq>,
    most: usize,
) -> Result<Page, Fault> {
    let (rows, next) = find(ledger, filter, after, most.min(PAGE_MAX))?;
    Ok(Page { records: rows.into_iter().map(|row| row.record).collect(), next })
}

fn find(
    ledger: &mut Ledger<'_>,
    filter: &Filter,
    after: Option<Seq>,
    most: usize,
) -> Result<(Vec<Row>, Option<Seq>), Fault> {
    let among = match (&filter.tenant, filter.state) {
        (Some(tenant), _) => match ledger.tables.owner(tenant)? {
            Some(owner) => Among::Owner(owner),
            None => return Ok((Vec::new(), None)),
        },
        (None, Some(state @ (Kind::Leased | Kind::Dead | Kind::Cancelled))) => Among::Few(state),
        (None, _) => Among::All,
    };
    let (mut found, mut before, mut looked, mut look) =
        (Vec::new(), after.unwrap_or(Seq(u64::MAX)), 0, most.max(1));
    loop {
        look = look.min(LOOKS_MAX - looked);
        let rows = ledger.tables.page(among, before, look)?;
        let are_all = rows.len() < look;
        for row in ledger.all_named(rows)? {
            before = row.record.seq;
            looked += 1;
            if filter.means(&row.record) {
                found.push(row);
                if found.len() >= most {
                    return Ok((found, Some(before)));
                }
            }
        }
        if are_all || looked >= LOOKS_MAX {
            return Ok((found, Some(before).filter(|_| !are_all)));
        }
        // Where few of many are meant, it takes few looks all the same.
        look = (look * 4).max(LOOK_MIN);
    }
}

/// Changes deliveries that are meant, the newest first, from behind this one on.
pub(super) fn change(
    ledger: &mut Ledger<'_>,
    filter: &Filter,
    control: Control,
    after: Option<Seq>,
    most: usize,
    now: Ms,
) -> Result<Changed, Fault> {
    let (rows, next) = find(ledger, filter, after, most.min(PAGE_MAX))?;
    let mut changed = 0;
    ledger.prefetch(rows.iter().map(|row| row.record.seq).collect())?;
    for row in rows {
        // What it was before others of these were changed may not be what it is now.
        let Some(row) = ledger.load(row.record.seq)? else { continue };
        let is_done = match control {
            Control::Cancel { forgotten } => command(ledger, &row, Command::Cancel { forgotten }, now)?,
            Control::Redrive { due, aging } => command(ledger, &row, Command::Redrive { due, aging }, now)?,
            Control::Purge { waiting } => purge(ledger, row, waiting, now)?,
        };
        changed += usize::from(is_done);
    }
    ledger.tell_followers();
    Ok(Changed { changed, next })
}

/// Gives a command. Whether anything was done.
fn command(ledger: &mut Ledger<'_>, row: &Row, command: Command, now: Ms) -> Result<bool, Fault> {
    let is_done = ledger.command(row, command, now)? == Told::Done;
    if is_done && matches!(row.record.state, State::Ready | State::Leased { .. }) {
        ledger.tidings.push(row.record.seq.shard(), News::Gone(row.record.seq, row.ready().line));
    }
    ledger.follow_up(now)?;
    Ok(is_done)
}

/// Lets a delivery that has ended be forgotten with the next sweep; and one that has not begun, where that is meant. What
/// somebody is making stays.
fn purge(ledger: &mut Ledger<'_>, mut row: Row, waiting: bool, now: Ms) -> Result<bool, Fault> {
    if !row.record.state.has_ended() {
        let stays = !waiting || row.record.state.kind() == Kind::Leased;
        if stays || !command(ledger, &row, Command::Cancel { forgotten: now }, now)? {
            return Ok(false);
        }
        match ledger.load(row.record.seq)? {
            Some(cancelled) => row = cancelled,
            None => return Ok(true),
        }
    } else if row.record.forgotten.is_some_and(|forgotten| forgotten <= now) {
        return Ok(false);
    }
    let mut gone = row.clone();
    gone.record.forgotten = Some(now);
    ledger.put(&row, gone)?;
    Ok(true)
}

/// How many there are of lines, in the order of their names: of a queue, a tenant, both or all.
pub(super) fn depths(
    ledger: &mut Ledger<'_>,
    queue: Option<&str>,
    tenant: Option<&str>,
    after: Option<&Line>,
    most: usize,
) -> Result<Vec<Depth>, Fault> {
    ledger.tables.depths(queue, tenant, after, most.min(PAGE_MAX))
}

/// How many there are of each queue, and since when the oldest of those that are next may be begun.
pub(super) fn totals(ledger: &mut Ledger<'_>) -> Result<Vec<Total>, Fault> {
    ledger.tables.totals(OLDEST_LINES_MAX)
}
