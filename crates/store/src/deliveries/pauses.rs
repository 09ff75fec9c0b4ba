//! Pauses. That a queue, a tenant or a line is paused is only remembered: whoever decides who is next takes nothing from
//! them. A key is paused here: what may be begun of it becomes blocked, and what comes asks for a turn that nobody gets.

use std::sync::Arc;

use tidegate_model::delivery::Ms;

use super::Pause;
use super::ledger::Ledger;
use super::tables::Fault;

/// Pauses that there may be.
pub(super) const PAUSES_MAX: usize = 10_000;

/// Pauses. `false`: there are as many already as there may be.
pub(super) fn pause(ledger: &mut Ledger<'_>, pause: &Pause, now: Ms) -> Result<bool, Fault> {
    if let Pause::Key(line, _) = pause {
        ledger.shard_of_tenant(&line.tenant)?;
    }
    if !ledger.tables.put_pause(pause, PAUSES_MAX)? {
        return Ok(false);
    }
    ledger.pages += 1;
    ledger.has_pauses = None;
    if let Pause::Key(line, key) = pause {
        ledger.shard_of_tenant(&line.tenant)?.paused.insert((line.clone(), Arc::clone(key)));
    }
    look(ledger, pause, now)?;
    Ok(true)
}

/// Ends a pause.
pub(super) fn resume(ledger: &mut Ledger<'_>, pause: &Pause, now: Ms) -> Result<(), Fault> {
    if let Pause::Key(line, key) = pause {
        ledger.shard_of_tenant(&line.tenant)?.paused.remove(&(line.clone(), Arc::clone(key)));
    }
    ledger.tables.remove_pause(pause)?;
    ledger.pages += 1;
    ledger.has_pauses = None;
    look(ledger, pause, now)
}

fn look(ledger: &mut Ledger<'_>, pause: &Pause, now: Ms) -> Result<(), Fault> {
    if let Pause::Key(line, key) = pause
        && let Some(line) = ledger.find_line(line)?
    {
        ledger.look_at_lane(line, key, now)?;
        ledger.follow_up(now)?;
    }
    ledger.tell_followers();
    Ok(())
}
