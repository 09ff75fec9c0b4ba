//! Exchanges: `lifecycle` is the product on one screen, one module per stage.
//!
//! ```text
//! admit -> route -> protect -> identify -> authorize -> limit -> fault -> decide -> forward, redirect or respond -> settle
//! ```

pub mod access;
mod admit;
mod authorize;
pub mod cache;
pub mod canary;
mod certify;
pub mod coding;
mod consent;
mod decide;
pub mod defer;
pub mod domains;
mod entropy;
mod exchange;
mod fault;
mod forward;
pub mod idempotency;
mod identify;
pub mod incoming;
mod lifecycle;
mod limit;
pub mod maintenance;
pub mod mirror;
mod pace;
mod protect;
mod recorder;
mod remembered;
mod request_body;
mod respond;
mod route;
pub mod secure;
pub mod settings;
mod settle;
mod site;
pub mod trace;
mod whole;

pub use authorize::{Outcome as Authorized, Verdicts};
pub use entropy::Entropy;
pub use fault::{Active, Faults, NotBegun};
pub use identify::{Failures, Verifier, Verifiers};
pub use lifecycle::Proxy;
pub use protect::{CoreShield, Guard, Shield};
pub use recorder::Recorder;
pub use settle::ExchangeBody;
pub use site::{Site, SiteError, Standing};
