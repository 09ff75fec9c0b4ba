//! The tier of the cache that all nodes share, as far as it is Redis: questions and answers go to it in batches, each as
//! large as what has gathered while the one before was under way.

use std::convert::Infallible;

use bytes::Bytes;
use redis::ErrorKind;
use redis::aio::MultiplexedConnection;
use tidegate_model::cache::key::Key;
use tidegate_proxy::cache::far::{Errand, Put};
use tokio::sync::{mpsc, oneshot};

use super::Error;
use crate::config::RedisSettings;

/// Errands of one batch.
const BATCH_MAX: usize = 64;
/// Bytes of content that are written at once.
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// Runs errands as long as there is a connection. Questions do not wait for what is being written: that goes by
/// another connection, and when it is slow, what is to be kept is dropped.
pub(super) async fn run(
    settings: &RedisSettings,
    errands: &mut mpsc::Receiver<Errand>,
    mut asker: MultiplexedConnection,
    mut keeper: MultiplexedConnection,
) -> Result<Infallible, Error> {
    let (puts, waiting) = mpsc::channel(BATCH_MAX);
    let asking = ask(settings, errands, puts, &mut asker);
    let (never, _) = tokio::try_join!(asking, keep(settings, waiting, &mut keeper))?;
    match never {}
}

async fn ask(
    settings: &RedisSettings,
    errands: &mut mpsc::Receiver<Errand>,
    puts: mpsc::Sender<Box<Put>>,
    asker: &mut MultiplexedConnection,
) -> Result<Infallible, Error> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while errands.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut questions = Vec::new();
        for errand in batch.drain(..) {
            match errand {
                Errand::Get(key, answer) if !answer.is_closed() => questions.push((key, answer)),
                Errand::Get(..) => {}
                // Nobody waits for it, and whoever is answered next stores it again.
                Errand::Set(put) => drop(puts.try_send(put)),
            }
        }
        get(settings, asker, questions).await?;
    }
    // Whoever has errands lives as long as the process.
    std::future::pending().await
}

async fn keep(
    settings: &RedisSettings,
    mut waiting: mpsc::Receiver<Box<Put>>,
    keeper: &mut MultiplexedConnection,
) -> Result<Infallible, Error> {
    while let Some(first) = waiting.recv().await {
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while bytes < BATCH_BYTES_MAX
            && let Ok(put) = waiting.try_recv()
        {
            bytes += put.bytes();
            batch.push(put);
        }
        set(settings, keeper, &batch).await?;
    }
    // It ends with whoever asks.
    std::future::pending().await
}

fn name(settings: &RedisSettings, key: Key) -> String {
    format!("{}:answer:{:032x}", settings.prefix, key.0)
}

async fn get(
    settings: &RedisSettings,
    connection: &mut MultiplexedConnection,
    questions: Vec<(Key, oneshot::Sender<Option<Bytes>>)>,
) -> Result<(), Error> {
    if questions.is_empty() {
        return Ok(());
    }
    let mut commands = redis::pipe();
    for (key, _) in &questions {
        commands.cmd("GET").arg(name(settings, *key));
    }
    let Some(told) = bearable(commands.query_async::<Vec<Option<Vec<u8>>>>(connection).await)? else {
        return Ok(());
    };
    for ((_, answer), told) in questions.into_iter().zip(told) {
        // Whoever asked may have gone on.
        let _ = answer.send(told.map(Bytes::from));
    }
    Ok(())
}

async fn set(
    settings: &RedisSettings,
    connection: &mut MultiplexedConnection,
    batch: &[Box<Put>],
) -> Result<(), Error> {
    let mut commands = redis::pipe();
    for put in batch {
        let millis = u64::try_from(put.keep.as_millis()).unwrap_or(u64::MAX);
        for (key, record) in put.records() {
            commands.cmd("SET").arg(name(settings, key)).arg(record).arg("PX").arg(millis).ignore();
        }
    }
    bearable(commands.query_async::<()>(connection).await)?;
    Ok(())
}

/// A Redis that is full, or lets us do less than we would, is one without this tier: purges go on.
fn bearable<T>(done: redis::RedisResult<T>) -> Result<Option<T>, Error> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
            tracing::debug!(%error, "redis: the shared tier is refused");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
