//! Deliveries in PostgreSQL.
//!
//! ```text
//! errands --- over a bounded list ---> one thread, one connection: all that wait become one transaction
//!                                        begin, hold the shards, fetch what will be asked for     one answer
//!                                        the ledger decides, from memory                          (seldom one more)
//!         <-- told, once that is ------- one statement a table, commit                            one answer
//!             committed
//! ```
//!
//! The ledger that decides is the one of SQLite ([`crate::deliveries`]): this is only what it lies in. A shard is led by one
//! node, but any node writes in it what it has accepted or was asked to change: each transaction holds the shard's row, and
//! counts its version up ([`desk`]). What a node has written itself last it need not read ([`known`]).
//!
//! What always holds: nobody is told that something is done before it is committed; a transaction of a node whose epoch was
//! ended changes nothing; what was in doubt when a connection was lost is found out on the next by the number of the
//! transaction ([`writer`]); nothing depends on `NOTIFY` but how soon another node hears of something ([`news`]).

mod ages;
mod askers;
#[cfg(any(test, debug_assertions))]
mod audit;
mod desk;
mod fetch;
mod flush;
mod joining;
mod known;
mod leads;
mod lists;
mod looks;
mod news;
mod rows;
mod schema;
mod session;
mod tables;
mod writer;

pub(super) use schema::{TABLES, WAITS};
#[cfg(test)]
pub(crate) use session::SAID;
pub(super) use writer::Writer;
