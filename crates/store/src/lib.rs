//! The durable state: what must still be known after a crash.
//!
//! ```text
//! cores --- commands, over a bounded list ---> one writing thread: all that wait become one transaction, one fsync
//!       <-- told, once that is on disk -------'
//! ```
//!
//! SQLite holds it, in a directory of its own (`synchronous=FULL`, write-ahead log, checkpoints by the writing thread alone);
//! or a PostgreSQL that several nodes share (`postgres`), with the same answers and bounds.
//! Whatever is decided about a record is decided in `tidegate_model`; here it is read, decided and written within one
//! transaction. Three families of operations are served: *claims*, unique keys and what became of
//! what was done under them; *deliveries*, requests that were promised and are made later ([`deliveries`]); and
//! *documents*, what is administered rather than made ([`documents`]).
//!
//! What always holds: nobody is told that something is done before it is on disk; the list of commands, the log and the
//! database have named maxima; a disk that is full refuses what is new and is tried again, an fsync that failed stops all
//! writing until the process is started anew, since what the kernel has thrown away then nobody knows. One process has a
//! directory at a time.
//!
//! What it does not do: on SQLite it serves no other node; nowhere does it copy anything to a second place by itself.

mod ahead;
mod backup;
mod claims;
mod come;
mod database;
pub mod deliveries;
pub mod documents;
pub mod early;
mod gather;
#[cfg(debug_assertions)]
mod hand;
mod later;
mod memory;
mod migrate;
mod postgres;
mod standing;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use backup::{BackupError, backup, check, restore};
pub use database::{Location, OpenError, StoreSettings};
#[cfg(debug_assertions)]
pub use hand::{Hand, Mishap};
pub use migrate::{MigrateError, Migrated, migrate};
pub use postgres::{Advice, Away, PostgresSettings, PostgresUrl, advise};
pub use standing::{Standing, State};
pub use store::{Named, Store, Unavailable};
