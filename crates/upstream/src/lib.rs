//! What every upstream call goes through: resolving, health, balancing, pools, gate, breaker, tries.
//!
//! [`Upstreams`] is the process's: endpoints, their health and every breaker, shared by all cores as atomics.
//! [`Caller`] is a core's: its connections. A call needs a [`tidegate_model::tenant::Permit`], so that nothing reaches
//! an application without having been limited.

mod answer;
mod attempt;
mod caller;
pub mod dial;
mod discovery;
mod endpoint;
mod files;
mod gate;
mod health;
mod pick;
mod pool;
mod replay;
pub mod settings;
mod shard;
mod trial;
mod upstreams;

pub use answer::{Answer, AnswerBody, Switched, Watcher};
pub use caller::{Called, Caller, Terms};
pub use discovery::look_up;
pub use endpoint::{Admin, Endpoint, EndpointSet, EndpointStatus};
pub use files::FilesStatus;
pub use gate::{GateShare, GateStatus, Verdict};
pub use shard::ShardStatus;
pub use upstreams::{Prepared, Upstream, UpstreamError, UpstreamStatus, Upstreams};
