//! Deliveries: requests that were accepted durably, made later.
//!
//! ```text
//! offer --- checked, completed by its queue ---> promise ---> the store: accepted once it is on disk
//!                                                               | news
//!                                                               v
//!      told to the store <--- attempt, lease <--- begun <--- the scheduler: who is next
//! ```
//!
//! [`Dispatcher`] is the handle that the rest of the process has; behind it the engine (`engine`) runs on a thread of its
//! own, so that nothing it does stalls traffic. What a queue says is in [`settings`], what it makes of what somebody wants
//! delivered in [`offer`], who is next in [`scheduler`].
//!
//! What always holds: nothing is made before the store has said that an attempt is spent, and nothing that was accepted is
//! forgotten before the store was told what became of it. An attempt that was under way when the process died is made again
//! (its number tells), nothing else is made twice.
//!
//! What it does not do: it keeps nothing (the store does), and elects nobody: whose deliveries these are, the store says.

mod attempt;
mod chance;
mod dispatcher;
mod engine;
pub mod offer;
mod rota;
pub mod scheduler;
pub mod settings;
#[cfg(all(test, debug_assertions))]
mod simulation;
#[cfg(test)]
mod tests;
mod time;
pub mod webhook;

pub use attempt::Record;
pub use dispatcher::{
    Claim, ClaimError, Claimed, Counts, Dispatcher, Ending, Extension, Grip, Held, How, OUTCOMES, Parts,
    TOOK_MS,
};
pub use offer::{Offer, Unacceptable};
pub use settings::{Indivisible, PerKey, QueueSettings, Way};
