//! Shards in PostgreSQL: whose each is, taken and given away.
//!
//! A shard is an epoch's of `nodes`. It can be had once that epoch has ended; and whoever wants it may end one that was not
//! heard of for longer than its lease, as on claims ([`super::super::link`]). Each change of owner counts the shard's own epoch
//! up, and what is asked under an earlier one changes nothing.

use super::desk::Desk;
use super::rows::{get, number};
use super::session::Says;
use crate::deliveries::tables::Fault;
use crate::deliveries::{Leader, Roll, Who};

/// Ends an epoch whose time has come, and which nobody has put off meanwhile.
const END: &str = "
    UPDATE nodes SET ended = clock_timestamp()
    WHERE epoch = $1 AND ended IS NULL AND NOT until BETWEEN clock_timestamp() AND clock_timestamp() + 2 * lease";
const IS_THERE: &str = "SELECT epoch FROM nodes WHERE epoch = $1 AND ended IS NULL";
const ROLL: &str = "
    SELECT s.shard, s.epoch, s.owner, coalesce(n.called, n.name),
        n.ended IS NULL AND n.until BETWEEN clock_timestamp() AND clock_timestamp() + 2 * n.lease
    FROM shards s LEFT JOIN nodes n ON n.epoch = s.owner ORDER BY s.shard";
const NODES: &str = "
    SELECT count(*) FROM nodes WHERE batch IS NOT NULL AND ended IS NULL
        AND until BETWEEN clock_timestamp() AND clock_timestamp() + 2 * lease";

/// Takes a shard that this transaction holds, where it can be had.
pub(super) fn take(desk: &mut Desk, shard: u16) -> Result<Option<u64>, Fault> {
    let own = desk.session.link.epoch;
    let owner = desk.shards.get(&shard).ok_or(Fault::Beyond(shard))?.owner;
    if owner != 0 && owner != own {
        let says = [Says::new(END, vec![Box::new(owner)]), Says::new(IS_THERE, vec![Box::new(owner)])];
        let answers = desk.session.ask_all(&says)?;
        if answers.last().is_some_and(|rows| !rows.is_empty()) {
            return Ok(None);
        }
    }
    let standing = desk.write_in(shard)?;
    standing.epoch += 1;
    standing.owner = own;
    let number = standing.epoch;
    desk.taken.insert(shard, Some(number));
    Ok(Some(u64::try_from(number).unwrap_or_default()))
}

/// Gives away one that this node has.
pub(super) fn give_away(desk: &mut Desk, shard: u16) -> Result<(), Fault> {
    let standing = desk.write_in(shard)?;
    standing.owner = 0;
    desk.taken.insert(shard, None);
    Ok(())
}

/// Who has which shard.
pub(super) fn roll(desk: &mut Desk) -> Result<Roll, Fault> {
    let own = desk.session.link.epoch;
    let answers = desk.session.ask_all(&[Says::plain(ROLL), Says::plain(NODES)])?;
    let [found, nodes] = &answers[..] else { return Err(Fault::Odd("fewer answers than questions")) };
    let mut shards = Vec::with_capacity(found.len());
    for row in found {
        let (owner, is_there) = (get::<i64>(row, 2)?, get::<Option<bool>>(row, 4)?.unwrap_or_default());
        let shard = u16::try_from(get::<i16>(row, 0)?).unwrap_or_default();
        let is_own =
            owner == own || desk.led.get(&shard).is_some_and(|led| Ok(*led) == get(row, 1).map_err(drop));
        let who = match get::<Option<&str>>(row, 3)? {
            _ if is_own => Who::Here,
            Some(name) if is_there => Who::Elsewhere(name.into()),
            _ => Who::Nobody,
        };
        shards.push(Leader { shard, epoch: number(row, 1)?, who });
    }
    let nodes = nodes.first().map(|row| number(row, 0)).transpose()?.unwrap_or_default();
    Ok(Roll { nodes: u32::try_from(nodes).unwrap_or(u32::MAX), shards })
}
