//! What an operator should know of a Redis before anything is shared through it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tidegate_wire::clock;

use super::connection::{Error, connect};
use crate::config::RedisSettings;

/// Questions that its latency is found from.
const ROUND_TRIPS: usize = 5;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// How long a question takes: the shortest of a few.
    pub round_trip: Duration,
    /// Bytes that it may take, 0 for all there are; `None`: it does not tell (a service often forbids the question).
    pub memory: Option<u64>,
    /// What it throws away when it is full.
    pub policy: Option<String>,
}

/// Connects and asks. Nothing is changed.
///
/// # Errors
/// [`Error`].
pub async fn look(settings: &RedisSettings) -> Result<Look, Error> {
    let mut connection = connect(settings, Duration::ZERO).await?;
    let mut round_trip = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let began = clock::now();
        let () = redis::cmd("PING").query_async(&mut connection).await?;
        round_trip = round_trip.min(clock::now().since(began));
    }
    let memory = setting(&mut connection, "maxmemory").await.and_then(|told| told.parse().ok());
    let policy = setting(&mut connection, "maxmemory-policy").await;
    Ok(Look { round_trip, memory, policy })
}

async fn setting(connection: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let told: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await.ok()?;
    told.into_iter().nth(1)
}
