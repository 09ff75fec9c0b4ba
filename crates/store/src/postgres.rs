//! The store on PostgreSQL: for several nodes, or where one machine is outgrown.
//!
//! ```text
//! cores --- commands, over a bounded list ---> one thread, one connection: all that wait become one transaction
//!       <-- told, once that is committed ------'
//! ```
//!
//! Deliveries have a thread and a connection of their own ([`deliveries`]), with an epoch of its own.
//!
//! What a command makes of a record is decided by the same function as over SQLite (`tidegate_model::idempotency`), with one thing
//! more: who holds a record. A node writes under an *epoch* that another may end once the node was not heard of for a while
//! ([`link`]); what it held is then nobody's, and what it writes under that epoch is refused in the same transaction.
//!
//! What always holds: nobody is told that something is done before it is committed with `synchronous_commit` on; all times are
//! those of the database's clock, never a node's; nothing depends on a session but what is set when it begins (no session
//! locks), so that its loss costs nothing but time; who waits is told something within a bound.
//!
//! What it does not do: it makes no standby, and elects none; whatever PostgreSQL loses in a failover is lost. It takes no
//! transaction pooler between itself and PostgreSQL.

mod advice;
mod away;
mod claims;
mod contents;
mod deliveries;
mod documents;
#[cfg(debug_assertions)]
mod hand;
mod keeper;
mod link;
mod schema;
mod settings;
mod sweep;
mod tls;

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use self::keeper::Keeper;
use crate::deliveries::Followers;
use crate::standing;
use crate::store::Job;

pub use self::advice::{Advice, advise};
pub use self::away::Away;
pub(crate) use self::away::Failed;
pub(crate) use self::contents::{Contents, MIGRATION, contents};
#[cfg(test)]
pub(crate) use self::deliveries::SAID;
#[cfg(debug_assertions)]
pub(crate) use self::hand::{Remote, by_hand};
pub use self::settings::{PostgresSettings, PostgresUrl};

/// Why the store on PostgreSQL cannot be opened.
pub(crate) enum Unopened {
    /// PostgreSQL will not have it, whoever waits.
    Away(Away),
    /// There is no thread.
    Thread(std::io::Error),
}

/// Starts the thread that writes there. That PostgreSQL is not there yet is no reason not to.
pub(crate) fn start(
    settings: PostgresSettings,
    (account_bytes_max, bytes_max): (u64, u64),
    told: Arc<standing::Told>,
    followers: Arc<Followers>,
    [jobs, errands]: [mpsc::Receiver<Job>; 2],
) -> Result<Vec<JoinHandle<()>>, Unopened> {
    let store = start_keeper(settings.clone(), account_bytes_max, bytes_max, Arc::clone(&told), jobs)?;
    let deliveries = start_deliveries(settings, bytes_max, told, followers, errands)?;
    Ok(vec![store, deliveries])
}

fn start_deliveries(
    settings: PostgresSettings,
    bytes_max: u64,
    told: Arc<standing::Told>,
    followers: Arc<Followers>,
    errands: mpsc::Receiver<Job>,
) -> Result<JoinHandle<()>, Unopened> {
    let run = move |tell: Tells| {
        let _panics = Panics(Arc::clone(&told));
        let mut writer = deliveries::Writer::new(settings, bytes_max, told, followers);
        let join = writer.join();
        let good = join.is_ok();
        let _ = tell.send(join);
        if good {
            writer.run(errands);
        }
    };
    start_thread("deliveries", run)
}

type Tells = std::sync::mpsc::SyncSender<Result<(), Away>>;

/// Starts a thread that tells first whether it can do its work at all. Whoever opens the store waits for that.
fn start_thread(name: &str, run: impl FnOnce(Tells) + Send + 'static) -> Result<JoinHandle<()>, Unopened> {
    let (tell, joined) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(tell));
    let thread = thread.map_err(Unopened::Thread)?;
    match joined.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(away)) => Err(Unopened::Away(away)),
        Err(_) => Err(Unopened::Thread(std::io::Error::other("the thread has panicked"))),
    }
}

fn start_keeper(
    settings: PostgresSettings,
    account_bytes_max: u64,
    bytes_max: u64,
    told: Arc<standing::Told>,
    jobs: mpsc::Receiver<Job>,
) -> Result<JoinHandle<()>, Unopened> {
    let run = move |tell: Tells| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("the system has an event queue for the store");
        let _panics = Panics(Arc::clone(&told));
        runtime.block_on(async move {
            let mut keeper = Keeper::new(settings, account_bytes_max, bytes_max, told);
            let join = keeper.join().await;
            let good = join.is_ok();
            let _ = tell.send(join);
            if good {
                keeper.run(jobs).await;
            }
        });
    };
    start_thread("store", run)
}

/// Says that nothing is written any more, where the thread panics.
struct Panics(Arc<standing::Told>);

impl Drop for Panics {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stand(standing::State::Stopped("its writing thread has panicked".into()));
        }
    }
}
