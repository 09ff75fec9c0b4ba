//! What is said to PostgreSQL of deliveries: several things at once, and one answer waited for.
//!
//! The ledger is written for tables that answer at once. So whoever asks here waits, on a thread that has nothing else to do,
//! and the connection is worked on meanwhile.

#[cfg(debug_assertions)]
mod mishap;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::runtime::LocalRuntime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::super::away::Failed;
use super::super::link::Link;

/// One thing that is said.
pub(super) struct Says<'a> {
    sql: &'static str,
    values: Vec<Box<dyn ToSql + Sync + 'a>>,
}

impl<'a> Says<'a> {
    pub(super) fn new(sql: &'static str, values: Vec<Box<dyn ToSql + Sync + 'a>>) -> Says<'a> {
        Says { sql, values }
    }

    pub(super) fn plain(sql: &'static str) -> Says<'static> {
        Says { sql, values: Vec::new() }
    }
}

/// A connection of this thread.
pub(super) struct Session {
    pub(super) link: Link,
    /// What other nodes call this one.
    called: Arc<str>,
    runtime: Rc<LocalRuntime>,
    statements: RefCell<HashMap<&'static str, Statement>>,
    /// Until when an answer is waited for.
    by: Tick,
    /// What a simulation lets befall it.
    #[cfg(debug_assertions)]
    pub(super) mishap: Option<crate::hand::Mishap>,
}

/// Statements that were said by this process, and times that an answer was waited for.
#[cfg(test)]
pub(crate) static SAID: [std::sync::atomic::AtomicU64; 2] =
    [const { std::sync::atomic::AtomicU64::new(0) }; 2];

impl Session {
    pub(super) fn new(link: Link, called: Arc<str>, runtime: Rc<LocalRuntime>) -> Session {
        Session {
            link,
            called,
            runtime,
            statements: RefCell::default(),
            by: Tick::MAX,
            #[cfg(debug_assertions)]
            mishap: None,
        }
    }

    /// Answers are waited for until then.
    pub(super) fn waits_until(&mut self, by: Tick) {
        self.by = by;
    }

    /// Says one thing. The rows that it is answered with.
    pub(super) fn ask(&mut self, says: Says<'_>) -> Result<Vec<Row>, Failed> {
        Ok(self.ask_all(&[says])?.pop().unwrap_or_default())
    }

    /// Says all of these at once, in their order. The rows that each is answered with; or why the first failed that did.
    pub(super) fn ask_all(&mut self, all: &[Says<'_>]) -> Result<Vec<Vec<Row>>, Failed> {
        #[cfg(test)]
        for (count, more) in SAID.iter().zip([all.len() as u64, 1]) {
            count.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
        }
        #[cfg(debug_assertions)]
        if let Some(answer) = self.befall(all) {
            return answer;
        }
        self.say(all)
    }

    fn say(&self, all: &[Says<'_>]) -> Result<Vec<Vec<Row>>, Failed> {
        let (client, statements) = (&self.link.client, &self.statements);
        self.wait(async {
            prepare(client, statements, all).await?;
            let queries = all.iter().map(|says| {
                let statement = statements.borrow().get(says.sql).cloned();
                async move {
                    // It was prepared before.
                    let Some(statement) = statement else { return Ok(Vec::new()) };
                    let values: Vec<&(dyn ToSql + Sync)> =
                        says.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
                    client.query(&statement, &values).await
                }
            });
            in_order(queries).await
        })
    }

    /// Waits for something that has to do with this connection.
    pub(super) fn wait<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
        wait(&self.runtime, self.by, async { Ok(future.await?) })
    }

    /// Puts off until when this node is believed to be there. Whether it is.
    pub(super) fn renew(&mut self) -> Result<bool, Failed> {
        wait(&self.runtime, self.by, self.link.renew())
    }

    /// Takes a new epoch, and says that it writes deliveries.
    pub(super) fn register(&mut self, name: &str) -> Result<i64, Failed> {
        wait(&self.runtime, self.by, self.link.register(name))?;
        let epoch = self.link.epoch;
        let writes = "UPDATE nodes SET batch = 0, called = $2 WHERE epoch = $1";
        let called = Arc::clone(&self.called);
        self.ask(Says::new(writes, vec![Box::new(epoch), Box::new(&*called)]))?;
        Ok(epoch)
    }

    /// Gives away all that this epoch leads, and ends it.
    pub(super) fn leave(&mut self) -> Result<(), Failed> {
        let give = "UPDATE shards SET owner = 0, version = version + 1 WHERE owner = $1";
        self.ask(Says::new(give, vec![Box::new(self.link.epoch)]))?;
        wait(&self.runtime, self.by, self.link.leave())
    }
}

fn wait<T>(
    runtime: &LocalRuntime,
    by: Tick,
    future: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    let slow = |_| Err(Failed::Lost("no answer in time".to_owned()));
    runtime.block_on(async { clock::timeout_at(by, Box::pin(future)).await }).unwrap_or_else(slow)
}

async fn prepare(
    client: &Client,
    statements: &RefCell<HashMap<&'static str, Statement>>,
    all: &[Says<'_>],
) -> Result<(), Error> {
    let mut new: Vec<&'static str> =
        all.iter().map(|says| says.sql).filter(|sql| !statements.borrow().contains_key(sql)).collect();
    if new.is_empty() {
        return Ok(());
    }
    new.sort_unstable();
    new.dedup();
    let prepared = in_order(new.iter().map(|sql| client.prepare(sql))).await?;
    statements.borrow_mut().extend(new.into_iter().zip(prepared));
    Ok(())
}

/// Begins all of these in their order, before any has been answered. What they come to; or the first failure. What could not
/// be said is followed by nothing: a transaction that misses a part of it is never committed.
async fn in_order<T, F: Future<Output = Result<T, Error>>>(
    all: impl Iterator<Item = F>,
) -> Result<Vec<T>, Error> {
    let mut under_way: Vec<Pin<Box<F>>> = all.map(Box::pin).collect();
    let mut answers: Vec<Option<T>> = under_way.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut left = false;
        for (future, answer) in under_way.iter_mut().zip(&mut answers) {
            if answer.is_some() {
                continue;
            }
            match future.as_mut().poll(context) {
                Poll::Ready(Ok(answered)) => *answer = Some(answered),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => left = true,
            }
        }
        if left { Poll::Pending } else { Poll::Ready(Ok(())) }
    })
    .await?;
    Ok(answers.into_iter().flatten().collect())
}
