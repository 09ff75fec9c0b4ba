//! Discovery: where an upstream's endpoints are, asked again when the answer has grown old.
//!
//! It runs on the control runtime, never on a core that carries traffic. A failure or an empty answer keeps the endpoints
//! that there are: an application without a name server is better served by yesterday's addresses than by none. Until
//! the first answer an upstream has no endpoint, and calls are refused (`upstream.resolve`).

mod dns;
mod file;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::balance::mix;
use tidegate_wire::{clock, task};
use tokio::sync::oneshot;

pub(crate) use dns::lookup;

use crate::health;
use crate::settings::{Discovery, EndpointSettings};
use crate::upstreams::{Upstream, Upstreams};

/// How often a watched file is looked at.
const FILE_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 1000 });
/// How soon a failed resolution is tried again, first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// One resolution takes no longer, all its questions together.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// The most endpoints of one upstream; what comes beyond is left out, and said.
pub(crate) const ENDPOINTS_MAX: usize = 4096;

impl Upstreams {
    /// Drives discovery and health checks of all upstreams, those that a reload brings too. Never returns; dropped, it
    /// takes all its tasks with it.
    pub async fn drive(self: Arc<Self>) {
        let mut driven: HashMap<u64, [Leash; 2]> = HashMap::new();
        loop {
            let all = self.all();
            driven.retain(|id, _| all.iter().any(|upstream| upstream.id == *id));
            for upstream in all {
                driven.entry(upstream.id).or_insert_with(|| {
                    [leashed(discover(Arc::clone(&upstream))), leashed(health::supervise(upstream))]
                });
            }
            self.changed.notified().await;
        }
    }
}

/// Holds a task: dropped, it ends it.
pub(crate) struct Leash {
    _held: oneshot::Sender<Infallible>,
}

/// Runs a future beside the caller, until it is ready or the leash is dropped.
pub(crate) fn leashed(future: impl Future<Output = ()> + 'static) -> Leash {
    let (held, dropped) = oneshot::channel();
    task::spawn(async move {
        tokio::select! {
            _ = dropped => {}
            () = future => {}
        }
    });
    Leash { _held: held }
}

/// Finds an upstream's endpoints for as long as it is there.
async fn discover(upstream: Arc<Upstream>) {
    let mut changes = upstream.changes();
    loop {
        changes.mark_unchanged();
        let asked = upstream.settings().discovery.clone();
        let mut source = Source::of(&asked);
        let mut failures = 0;
        while upstream.settings().discovery == asked {
            let until =
                source.look(&upstream, &asked, &mut failures).await.map(|wait| clock::now().after(wait));
            // Other changes than of the discovery itself do not make it look sooner.
            loop {
                let changed = async { changes.changed().await.is_ok() };
                let changed = match until {
                    Some(until) => clock::timeout_at(until, changed).await.is_ok(),
                    None => changed.await,
                };
                if !changed || upstream.settings().discovery != asked {
                    break;
                }
            }
        }
    }
}

/// The addresses that a name has now, asked once and within ten seconds; none where it is no discovery by name.
///
/// # Errors
/// Why it has none, in words.
pub async fn look_up(asked: &Discovery) -> Result<Vec<SocketAddr>, String> {
    let (found, _) = resolved(&mut dns::Names::default(), asked).await?;
    Ok(found.into_iter().map(|endpoint| endpoint.address).collect())
}

async fn resolved(names: &mut dns::Names, asked: &Discovery) -> Found {
    let by = clock::now().after(RESOLVE_MAX);
    let found = clock::timeout_at(by, Box::pin(names.resolve(asked))).await;
    found.unwrap_or_else(|_| Err(format!("no answer within {RESOLVE_MAX:?}")))
}

/// Where to look, and what is remembered from one look to the next.
enum Source {
    Listed,
    Names(dns::Names),
    File(PathBuf, Option<file::Stamp>),
}

/// Endpoints, and how long they may be believed.
type Found = Result<(Vec<EndpointSettings>, Duration), String>;

impl Source {
    fn of(discovery: &Discovery) -> Source {
        match discovery {
            Discovery::Static(_) | Discovery::Files(_) => Source::Listed,
            Discovery::Dns { .. } | Discovery::Srv { .. } => Source::Names(dns::Names::default()),
            Discovery::File(path) => Source::File(path.clone(), None),
        }
    }

    /// Looks, hands on what it found, and tells how long to wait before the next look; `None`: for ever.
    async fn look(&mut self, upstream: &Upstream, asked: &Discovery, failures: &mut u32) -> Option<Duration> {
        match self {
            Source::Listed => None,
            Source::Names(names) => Some(hand_on(upstream, asked, resolved(names, asked).await, failures)),
            Source::File(path, seen) => {
                if let Some(found) = read_if_new(path, seen) {
                    hand_on(upstream, asked, found, failures);
                }
                Some(FILE_INTERVAL)
            }
        }
    }
}

/// What is in the file, if it is another than it was.
fn read_if_new(path: &Path, seen: &mut Option<file::Stamp>) -> Option<Found> {
    match file::stamp(path) {
        Ok(stamp) if *seen == Some(stamp) => None,
        Ok(stamp) => {
            *seen = Some(stamp);
            Some(file::read(path).map(|endpoints| (endpoints, FILE_INTERVAL)))
        }
        Err(error) => {
            *seen = None;
            Some(Err(error))
        }
    }
}

/// Hands on what was found, and tells when to look again.
fn hand_on(upstream: &Upstream, asked: &Discovery, found: Found, failures: &mut u32) -> Duration {
    let name = &upstream.settings().name;
    let found = match found {
        Ok((endpoints, _)) if endpoints.is_empty() => Err("the answer is empty".to_owned()),
        other => other,
    };
    match found {
        Ok((mut endpoints, wait)) => {
            *failures = 0;
            if endpoints.len() > ENDPOINTS_MAX {
                tracing::warn!(upstream = %name, found = endpoints.len(), "too many endpoints: some are left out");
                endpoints.truncate(ENDPOINTS_MAX);
            }
            upstream.discovered(asked, &endpoints, clock::now());
            wait
        }
        Err(error) => {
            if upstream.not_discovered(&error) {
                tracing::warn!(upstream = %name, source = %asked, error, "endpoints not found; those known stay");
            }
            *failures = failures.saturating_add(1);
            retry_in(*failures, mix(upstream.id ^ clock::now().0))
        }
    }
}

/// The pause after so many failures in a row: doubled each time, and by chance up to half as short, so that many nodes
/// do not ask in step.
fn retry_in(failures: u32, chance: u64) -> Duration {
    let full = RETRY.0.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(RETRY.1);
    full.mul_f64(0.5 + 0.5 * (chance as f64 / u64::MAX as f64))
}
