//! The threads of the disk tier: one writes, some read. A disk that hangs stalls them and nobody else.
//!
//! ```text
//! opening ---> serving <---> failing: reads go on, writes are tried again each second
//!    ^  |         |
//!    |  v         v
//!    away: tried again each second
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};

use parking_lot::Mutex;
use tidegate_wire::clock;

use super::ground::Ground;
use super::index::Place;
use super::record::Item;
use super::store::{Open, Store, Written};
use super::{Loaded, Reply, Shared, Standing};
use tidegate_model::cache::key::Key;

/// What the writer is to do.
#[derive(Debug)]
pub enum Job {
    /// Write an answer.
    Keep(Item),
    /// There are purges to be written down.
    Purges,
    /// Close the directory, and tell when that is done.
    Close(SyncSender<()>),
    /// End as a process does that is killed.
    #[cfg(test)]
    Crash,
}

/// What a reader is to do.
#[derive(Debug)]
pub struct Read {
    /// Where it is found.
    pub open: Arc<Open>,
    /// By what.
    pub key: Key,
    /// Where it is.
    pub place: Place,
}

/// Why the writer stopped.
enum End {
    Closed,
    Failed(String),
}

/// Writes until it is told to close.
pub fn write(shared: &Shared, jobs: &Receiver<Job>, ground: &Ground, size: u64) {
    // However this ends, what nobody writes to any more is not read: purges could not be written down.
    let ends = Ends(shared);
    let mut spoilt = false;
    loop {
        let failed = match open(shared, ground, size, &mut spoilt) {
            Ok(store) => match serve(shared, jobs, store, &mut spoilt) {
                End::Closed => break,
                End::Failed(why) => why,
            },
            Err(error) => error.to_string(),
        };
        shared.leave(Standing::Away(failed));
        if !wait(shared, jobs) {
            break;
        }
    }
    drop(ends);
}

struct Ends<'s>(&'s Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.leave(Standing::Away("it is closed".to_owned()));
    }
}

/// Opens the directory and writes down what was purged while it was not open. `spoilt`: what is in it is not to be used.
fn open(shared: &Shared, ground: &Ground, size: u64, spoilt: &mut bool) -> io::Result<Store> {
    let mut store = Store::open(ground.clone(), size, shared.boot)?;
    if *spoilt {
        store.give_up()?;
        *spoilt = false;
        store = Store::open(ground.clone(), size, shared.boot)?;
    }
    let (waiting, up_to) = shared.ledger.begin();
    if let Err(error) = store.note(&waiting) {
        *spoilt = store.give_up().is_err();
        return Err(error);
    }
    shared.ledger.wrote(up_to);
    shared.enter(&store);
    Ok(store)
}

fn serve(shared: &Shared, jobs: &Receiver<Job>, mut store: Store, spoilt: &mut bool) -> End {
    let mut look = clock::now().after(shared.again);
    let mut writes_again = clock::now();
    loop {
        if let Err(why) = write_purges(shared, &mut store) {
            shared.leave(Standing::Away(why.clone()));
            *spoilt = store.give_up().is_err();
            return End::Failed(why);
        }
        match jobs.recv_timeout(shared.again) {
            Ok(Job::Keep(item)) => {
                shared.took(&item);
                if clock::now() < writes_again {
                    shared.counts.dropped.fetch_add(1, Relaxed);
                } else if !keep(shared, &mut store, &item) {
                    writes_again = clock::now().after(shared.again);
                }
                shared.wrote.notify_waiters();
            }
            Ok(Job::Purges) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Job::Close(done)) => {
                close(shared, store);
                // Whoever asked may have given up waiting.
                let _ = done.try_send(());
                return End::Closed;
            }
            Err(RecvTimeoutError::Disconnected) => {
                close(shared, store);
                return End::Closed;
            }
            #[cfg(test)]
            Ok(Job::Crash) => return End::Closed,
        }
        if clock::now() >= look {
            look = clock::now().after(shared.again);
            if !store.is_in_place() {
                let why = "the directory was taken away".to_owned();
                shared.leave(Standing::Away(why.clone()));
                // Should it be put back: nobody will have written down what is purged from now on.
                *spoilt = store.give_up().is_err();
                return End::Failed(why);
            }
        }
    }
}

fn write_purges(shared: &Shared, store: &mut Store) -> Result<(), String> {
    let (waiting, up_to) = match shared.ledger.take() {
        Ok(waiting) => waiting,
        Err(_) => shared.ledger.begin(),
    };
    if store.has_to_note(&waiting) {
        store.note(&waiting).map_err(|error| format!("a purge could not be written down: {error}"))?;
        shared.ledger.wrote(up_to);
    }
    Ok(())
}

/// Writes an answer. Tells whether the disk took it.
fn keep(shared: &Shared, store: &mut Store, item: &Item) -> bool {
    let counts = &shared.counts;
    let written = store.write(item);
    counts.evicted.fetch_add(std::mem::take(&mut store.evicted), Relaxed);
    counts.size.store(store.size(), Relaxed);
    match written {
        Ok(Written::Kept) => {
            counts.written.fetch_add(1, Relaxed);
            shared.stand(Standing::Serving);
        }
        Ok(Written::Large) => drop(counts.large.fetch_add(1, Relaxed)),
        Err(error) => {
            counts.write_errors.fetch_add(1, Relaxed);
            counts.dropped.fetch_add(1, Relaxed);
            shared.stand(Standing::Failing(error.to_string()));
            return false;
        }
    }
    true
}

/// Closes the directory; or gives it up, if it is not to be used again.
fn close(shared: &Shared, mut store: Store) {
    // From here on nobody finds anything, and nobody is told that a purge was written down.
    let rest = shared.ledger.stop();
    shared.leave(Standing::Away("it is closed".to_owned()));
    let closed = match rest {
        Ok(waiting) if !shared.removed.load(Relaxed) && store.note(&waiting).is_ok() => store.close(),
        _ => store.give_up(),
    };
    if closed.is_err() {
        shared.counts.write_errors.fetch_add(1, Relaxed);
    }
}

/// Waits a while, in which nothing is kept. Tells whether to go on.
fn wait(shared: &Shared, jobs: &Receiver<Job>) -> bool {
    let by = clock::now().after(shared.again);
    loop {
        match jobs.recv_timeout(by.since(clock::now())) {
            Ok(Job::Keep(item)) => {
                shared.took(&item);
                shared.counts.dropped.fetch_add(1, Relaxed);
            }
            Ok(Job::Purges) => {}
            Ok(Job::Close(done)) => {
                let _ = done.try_send(());
                return false;
            }
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
            #[cfg(test)]
            Ok(Job::Crash) => return false,
        }
    }
}

/// Reads until nobody asks any more.
pub fn read(shared: &Shared, reads: &Mutex<Receiver<Read>>) {
    loop {
        let next = reads.lock().recv();
        let Ok(Read { open, key, place }) = next else { return };
        let loaded = load(shared, &open, key, place).map(Arc::new);
        let waiting: Vec<Reply> = shared.reading.lock().remove(&key).unwrap_or_default();
        for one in waiting {
            // Whoever does not wait any more has gone on without it.
            let _ = one.send(loaded.clone());
        }
    }
}

fn load(shared: &Shared, open: &Open, key: Key, place: Place) -> Option<Loaded> {
    let counts = &shared.counts;
    match open.read(place) {
        Ok(Some(restored)) if restored.head.key == key => return Some(Loaded::of(restored)),
        // What stood there may have made room for something else since it was looked up.
        Ok(_) if open.index.forget_place(key, place) => drop(counts.spoilt.fetch_add(1, Relaxed)),
        Ok(_) => {}
        Err(_) => {
            counts.read_errors.fetch_add(1, Relaxed);
            open.index.forget_place(key, place);
        }
    }
    None
}
