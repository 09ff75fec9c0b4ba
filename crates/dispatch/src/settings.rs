//! What is configured of a queue, as it is meant.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tidegate_model::delivery::AGING_MS;
use tidegate_model::delivery::outcome::Policy;
use tidegate_model::gate::Priority;
use tidegate_model::plan::Rate;
use tidegate_store::deliveries::Room;

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSettings {
    /// Its name; what is kept of it is found by that.
    pub name: Arc<str>,
    /// How its deliveries reach the application.
    pub way: Way,
    /// The method of requests that say none.
    pub method: Method,
    /// The path of requests that say none.
    pub path: Arc<str>,
    /// Attempts at once; of a queue that is pulled: leases at once.
    pub concurrency: u32,
    /// Attempts of one tenant at once.
    pub tenant_concurrency: Option<u32>,
    /// Attempts begun in a time.
    pub rate: Option<Rate>,
    /// What holds for those of a tenant that have a key in common.
    pub per_key: PerKey,
    /// How attempts are judged, how often they are made, how long what has ended is kept.
    pub policy: Policy,
    /// The longest attempt, and so the longest that the application is given to answer, body included. Of a queue that is
    /// pulled: a lease, where whoever claims says nothing else.
    pub timeout: Duration,
    /// How much earlier one counts as due for each step of its priority ([`tidegate_model::delivery::rank`]).
    pub aging: Duration,
    /// The priority of those that say none.
    pub priority: Priority,
    /// Bytes of an answer that are kept as the delivery's result; `None`: none is kept.
    pub results: Option<usize>,
    /// What a tenant may have waiting.
    pub room: Room,
}

/// How deliveries reach the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A request is made to the upstream of this name.
    Push(Arc<str>),
    /// The application comes for them.
    Pull,
    /// Events are told to tenants' servers: [`crate::webhook`].
    Webhooks,
}

/// What holds for the deliveries of one tenant that have a key in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerKey {
    /// One after the other, in the order in which they were accepted, retries included: a head that fails holds up its key
    /// alone.
    pub ordered: bool,
    /// How many of them there are at once that are not blocked: attempts, and what waits for its next one.
    pub concurrency: Option<u32>,
    /// Attempts begun in a time.
    pub rate: Option<Rate>,
}

impl QueueSettings {
    /// A queue of this name, with all else as it is where nothing is said.
    #[must_use]
    pub fn new(name: Arc<str>, way: Way) -> QueueSettings {
        QueueSettings {
            name,
            way,
            method: Method::POST,
            path: Arc::from("/"),
            concurrency: 10,
            tenant_concurrency: None,
            rate: None,
            per_key: PerKey::default(),
            policy: Policy::default(),
            timeout: Duration::from_secs(30),
            aging: Duration::from_millis(AGING_MS),
            priority: Priority::Default,
            results: None,
            room: Room { waiting_max: 1_000_000, bytes_max: 1 << 30 },
        }
    }

    /// The upstream that its requests go to.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<str>> {
        match &self.way {
            Way::Push(upstream) => Some(upstream),
            Way::Pull | Way::Webhooks => None,
        }
    }
}
