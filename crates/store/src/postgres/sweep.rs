//! What has come to its end is removed, a little at a time, by whichever nodes are there.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use super::away::Failed;
use super::documents;
use super::link::Link;
use crate::standing;

/// How often records that have come to their end are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many are removed in one transaction.
const SWEEP_MAX: i64 = 256;
/// Looks between two that begin at the oldest, and that count anew.
const ROUND: u32 = 30;

/// Accounts and nodes of which nothing is left.
const TIDY: &str = "
    WITH empty AS (
        SELECT account, stripe FROM accounts WHERE records = 0 AND bytes = 0 LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), forgotten AS (
        DELETE FROM nodes WHERE coalesce(ended, until) < clock_timestamp() - interval '1 day'
    ), vacant AS (
        DELETE FROM document_rooms r USING (
            SELECT kind, tenant FROM document_rooms WHERE count = 0 LIMIT 1000 FOR UPDATE SKIP LOCKED
        ) v WHERE r.kind = v.kind AND r.tenant = v.tenant
    )
    DELETE FROM accounts a USING empty e WHERE a.account = e.account AND a.stripe = e.stripe";
const ALL: &str = "SELECT coalesce(sum(records), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM accounts";

/// When is looked, and from when on.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next: Tick,
    looks: u32,
    /// What ended before was removed already. Where an old reader keeps PostgreSQL from forgetting the rows that were removed,
    /// an index would be read through all of them each time.
    from: i64,
}

impl Sweep {
    pub(super) fn next(&self) -> Tick {
        self.next
    }

    /// Begins anew: what others have done meanwhile is not known.
    pub(super) fn look_soon(&mut self) {
        *self = Sweep::default();
    }

    /// Removes some of what has come to its end, if it is time to look.
    pub(super) async fn sweep(&mut self, link: &Link, told: &standing::Told) -> Result<(), Failed> {
        let now = clock::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now.after(SWEEP_EVERY);
        if self.looks.is_multiple_of(ROUND) {
            self.from = 0;
            link.client.execute(TIDY, &[]).await?;
            let all = link.client.query_one(ALL, &[]).await?;
            told.set(all.try_get(0)?, all.try_get(1)?);
        }
        self.looks = self.looks.wrapping_add(1);
        let gone = link.client.query_one(&link.says.sweep, &[&SWEEP_MAX, &self.from]).await?;
        let (count, bytes): (i64, i64) = (gone.try_get(0)?, gone.try_get(1)?);
        told.swept.fetch_add(u64::try_from(count).unwrap_or_default(), Relaxed);
        told.more(-count, -bytes);
        let documents = documents::sweep(link, SWEEP_MAX).await?;
        told.swept.fetch_add(documents, Relaxed);
        if count > 0 {
            self.from = self.from.max(gone.try_get(2)?);
        }
        if count == SWEEP_MAX || documents == SWEEP_MAX.unsigned_abs() {
            // There are more. They go by and by, behind each batch of commands.
            self.next = now;
        }
        Ok(())
    }
}
