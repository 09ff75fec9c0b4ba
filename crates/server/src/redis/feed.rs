//! The log of purges: a stream in Redis that every node writes to and reads, in one order.
//!
//! A stream keeps what a subscriber would miss: who was away reads on from its place. Whoever no longer finds its own place
//! there (it was away until the log was trimmed past it, or Redis lost its data, or an older copy took over) cannot know
//! what it has missed: all that it has becomes stale, it reads the log from its beginning, and orders again what it
//! ordered lately. A process that begins with a disk tier stands where the one before it stood.
//!
//! The place is looked for *after* each reading: what was read begins where the node stood only if that is still there.

use std::convert::Infallible;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tidegate_model::cache::Wall;
use tidegate_model::cache::orders::{Entry, Place};
use tidegate_model::credential::Digest;
use tidegate_proxy::cache::Cache;
use tidegate_wire::clock;

use super::Error;
use crate::config::RedisSettings;

/// How long one reading waits for an entry. A Redis that hangs is found out so much later.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// Entries read at once.
const READ_MAX: usize = 1_000;
/// Orders written at once.
const WRITE_MAX: usize = 256;
/// The field of an entry that holds its text.
const FIELD: &str = "order";

/// An entry as Redis tells it: its place, then names and values of its fields.
type Told = (String, Vec<Vec<u8>>);

/// The way of orders from and to this node.
pub(super) struct Feed<'a> {
    pub cache: &'a Cache,
    pub settings: &'a RedisSettings,
    /// This process.
    pub node: u64,
}

/// What tells this log from others, the same in each process; never zero.
pub(super) fn log_of(settings: &RedisSettings) -> u64 {
    let name = format!("{} {}", settings.url.shown(), settings.prefix);
    let digest = Digest::of(name.as_bytes()).0;
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| digest[at])).max(1)
}

impl Feed<'_> {
    fn key(&self) -> String {
        format!("{}:purges", self.settings.prefix)
    }

    /// Reads what there is, from this node's place or from the beginning.
    pub async fn catch_up(&self, reader: &mut MultiplexedConnection) -> Result<(), Error> {
        if self.cache.purges.place().is_none() {
            self.cache.purges.resume(self.cache).await;
        }
        let place = self.cache.purges.place();
        match place {
            Some(place) if self.holds(reader, place).await? => {
                self.read_on(reader, format!("({place}")).await?;
                // While it read, the log may have been trimmed past its place.
                if self.holds(reader, place).await? { Ok(()) } else { self.begin(reader).await }
            }
            _ => self.begin(reader).await,
        }
    }

    /// Reads what comes, as long as there is a connection.
    pub async fn follow(&self, mut reader: MultiplexedConnection) -> Result<Infallible, Error> {
        loop {
            let Some(place) = self.cache.purges.place() else {
                self.begin(&mut reader).await?;
                continue;
            };
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(READ_MAX).arg("BLOCK").arg(WAIT.as_millis() as u64);
            command.arg("STREAMS").arg(self.key()).arg(place.to_string());
            let told: Option<Vec<(String, Vec<Told>)>> = command.query_async(&mut reader).await?;
            if self.holds(&mut reader, place).await? {
                self.take_in(told.unwrap_or_default().into_iter().flat_map(|(_, told)| told))?;
            } else {
                self.begin(&mut reader).await?;
            }
        }
    }

    /// Writes what this node orders, as long as there is a connection.
    pub async fn send(&self, mut writer: MultiplexedConnection) -> Result<Infallible, Error> {
        let purges = &self.cache.purges;
        loop {
            let orders = purges.take(WRITE_MAX);
            let Some((last, _)) = orders.last().copied() else {
                purges.issued.notified().await;
                continue;
            };
            let mut commands = redis::pipe();
            for (number, order) in &orders {
                self.append(&mut commands, &Entry { node: self.node, number: *number, order: Some(*order) });
            }
            let _: Vec<String> = commands.query_async(&mut writer).await?;
            purges.sent(last, orders.len());
        }
    }

    /// This node has no place in the log.
    async fn begin(&self, reader: &mut MultiplexedConnection) -> Result<(), Error> {
        self.cache.purges.begin(self.cache, Wall::of(clock::wall()));
        self.read_on(reader, "-".to_owned()).await?;
        if self.cache.purges.place().is_none() {
            // An empty log has no place to stand at. One's own entry makes one.
            let mut commands = redis::pipe();
            self.append(&mut commands, &Entry { node: self.node, number: 0, order: None });
            let _: Vec<String> = commands.query_async(reader).await?;
            let told = self.range(reader, "-", "+").await?;
            self.take_in(told.into_iter())?;
        }
        Ok(())
    }

    /// Reads from there to the end.
    async fn read_on(&self, reader: &mut MultiplexedConnection, mut from: String) -> Result<(), Error> {
        loop {
            let told = self.range(reader, &from, "+").await?;
            let Some((last, _)) = told.last() else { return Ok(()) };
            // Without what was the last one.
            from = format!("({last}");
            self.take_in(told.into_iter())?;
        }
    }

    /// Whether the log still has an entry at this place.
    async fn holds(&self, reader: &mut MultiplexedConnection, place: Place) -> Result<bool, Error> {
        let place = place.to_string();
        Ok(!self.range(reader, &place, &place).await?.is_empty())
    }

    async fn range(
        &self,
        reader: &mut MultiplexedConnection,
        from: &str,
        to: &str,
    ) -> Result<Vec<Told>, Error> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.key()).arg(from).arg(to).arg("COUNT").arg(READ_MAX);
        Ok(command.query_async(reader).await?)
    }

    fn append(&self, commands: &mut redis::Pipeline, entry: &Entry) {
        commands
            .cmd("XADD")
            .arg(self.key())
            .arg("MAXLEN")
            .arg("~")
            .arg(self.settings.orders)
            .arg("*")
            .arg(FIELD)
            .arg(entry.text());
    }

    fn take_in(&self, told: impl Iterator<Item = Told>) -> Result<(), Error> {
        for (place, fields) in told {
            let Some(place) = Place::parse(&place) else { return Err(Error::Place(place)) };
            // An entry without the field cannot be read, and orders everything: so does an empty text.
            let pairs: &[Vec<u8>] = &fields;
            let text = pairs.chunks_exact(2).find(|pair| pair[0] == FIELD.as_bytes()).map(|pair| &pair[1]);
            let text = String::from_utf8_lossy(text.map_or(b"", Vec::as_slice));
            self.cache.purges.read(
                self.cache,
                place,
                &Entry::parse(&text),
                self.node,
                Wall::of(clock::wall()),
            );
        }
        Ok(())
    }
}
