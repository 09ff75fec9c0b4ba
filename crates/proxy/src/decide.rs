//! Decide: what answers the exchange, in which order, before anything is tried.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use tidegate_upstream::Upstream;

use crate::limit::Permitted;
use crate::route::Routed;
use crate::settings::FixedResponse;
use crate::site::{Fallback, Ladder};

/// What answers the exchange.
pub enum Decision<'a> {
    /// An upstream, and what comes after it has failed.
    Forward {
        /// The first rung.
        first: &'a Arc<Upstream>,
        /// The further rungs.
        rest: &'a [Fallback],
    },
    /// A redirect.
    Redirect,
    /// A fixed response.
    Respond(&'a Arc<FixedResponse>),
}

/// Decides.
#[must_use]
pub fn decide<'a>(routed: &Routed<'a>, permitted: &Permitted) -> Decision<'a> {
    match &routed.route.ladder {
        Ladder::Forward { split, first, rest } => {
            let first = match first.as_slice() {
                [only] => only,
                several => {
                    let name = split.pick(tenant_hash(permitted.permit().tenant().id()));
                    let place = split.to.iter().position(|(held, _)| held == name).unwrap_or_default();
                    &several[place]
                }
            };
            Decision::Forward { first, rest }
        }
        Ladder::Redirect => Decision::Redirect,
        Ladder::Respond(response) => Decision::Respond(response),
    }
}

/// The same on every node and after every restart: a tenant stays in its share of a split.
fn tenant_hash(id: &str) -> u64 {
    let mut hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().build_hasher();
    hasher.write(id.as_bytes());
    hasher.finish()
}
