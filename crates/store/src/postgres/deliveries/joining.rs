//! A connection for deliveries: made, found to have what is needed, and made known to.

use std::rc::Rc;

use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::super::away::Away;
use super::super::link::Link;
use super::super::settings::PostgresSettings;
use super::ages;
use super::session::Session;

/// Messages that were heard and not yet attended to; what is more is looked at.
const HEARD_MAX: usize = 1024;

/// A connection, and what is heard on it.
pub(super) struct Joined {
    pub(super) session: Session,
    pub(super) heard: mpsc::Receiver<String>,
    /// Of the transaction in doubt: the last one that its epoch has committed.
    pub(super) committed: Option<i64>,
    /// Bytes of all deliveries.
    pub(super) bytes: i64,
}

/// Connects. `doubt`: the epoch of a transaction of which nobody knows whether it is committed.
pub(super) async fn join(
    settings: PostgresSettings,
    name: String,
    epoch: Option<i64>,
    doubt: Option<i64>,
    runtime: Rc<LocalRuntime>,
) -> Result<Joined, Away> {
    let (tell, heard) = mpsc::channel(HEARD_MAX);
    let link = Link::connect_hearing(&settings, &name, epoch, Some(tell)).await?;
    let client = &link.client;
    client.batch_execute("LISTEN tidegate_deliveries").await?;
    make_shards(client, settings.shards).await?;
    ages::make_first(client).await?;
    let writes = "UPDATE nodes SET batch = coalesce(batch, 0), called = $2 WHERE epoch = $1";
    client.execute(writes, &[&link.epoch, &&*settings.node]).await?;
    let committed = match doubt {
        None => None,
        Some(epoch) => {
            let found = client.query_opt("SELECT batch FROM nodes WHERE epoch = $1", &[&epoch]).await?;
            found.map(|row| row.try_get::<_, Option<i64>>(0)).transpose()?.flatten()
        }
    };
    let bytes =
        client.query_one("SELECT coalesce(sum(bytes), 0)::bigint FROM lines", &[]).await?.try_get(0)?;
    Ok(Joined { session: Session::new(link, settings.node, runtime), heard, committed, bytes })
}

/// Makes the shards where there are none. As many as there are then there are for ever.
async fn make_shards(client: &Client, asked: u16) -> Result<(), Away> {
    let count = "SELECT count(*) FROM shards";
    let mut there: i64 = client.query_one(count, &[]).await?.try_get(0)?;
    if there == 0 {
        client.batch_execute("BEGIN").await?;
        client.execute("SELECT pg_advisory_xact_lock($1)", &[&ages::LOCK]).await?;
        let insert = "INSERT INTO shards (shard, seq, line)
                      SELECT shard, shard::bigint << 48, shard::bigint << 48 FROM generate_series(0, $1::integer - 1) AS t (shard)
                      WHERE NOT EXISTS (SELECT FROM shards)";
        client.execute(insert, &[&i32::from(asked)]).await?;
        there = client.query_one(count, &[]).await?.try_get(0)?;
        client.batch_execute("COMMIT").await?;
    }
    if there == i64::from(asked) {
        return Ok(());
    }
    Err(Away::Shards { there, asked })
}
