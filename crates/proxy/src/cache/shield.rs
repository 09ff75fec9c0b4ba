//! The origin shield: before the upstream, the key's home node is asked, so that it is asked once for the whole cluster.
//!
//! ```text
//! client --> this node: its tiers --- nothing ---> home: its tiers --- nothing ---> upstream
//!                                  '--- home away, late, or it refuses: straight to the upstream
//! ```
//!
//! Each other node is an upstream of its own (pools, breaker, discovery), so that one that fails is left out for a while and
//! tried again as every endpoint is; meanwhile its keys have other homes. What is said is `tidegate_model::cluster`;
//! [`home`] answers.
//!
//! What always holds:
//! - One hop. Only what a client asks may be asked of a home ([`Asker`]); what comes from a peer cannot be.
//! - A home that says nothing for [`ClusterSettings::wait`] is not waited for. While it waits itself, it says so.
//! - What a home answers is compared with the purges of this node by when it was asked for ([`PurgeTimes`]).
//! - What a home says to be for one request alone goes straight to the upstream the next time, for a while.
//!
//! What it does not do: parts and HEAD, which have answers of their own, go straight to the upstream.

pub mod desk;
pub mod home;
pub mod orders;
mod reading;
mod telling;
mod times;

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri};
use parking_lot::Mutex;
use tidegate_model::cache::key::Key;
use tidegate_model::cluster::ask::{Ask, CONTENT_BYTES_MAX, Said};
use tidegate_model::cluster::heard::Heard;
use tidegate_model::cluster::seal::{Envelope, Secret, Tag};
use tidegate_model::cluster::told::{Answer, Known, Told};
use tidegate_model::cluster::{self, node_key};
use tidegate_model::gate::Priority;
use tidegate_model::gate::level::{Degrade, NEVER};
use tidegate_model::message::{Request, Response};
use tidegate_model::own::OwnFields;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_upstream::settings::RetrySettings;
use tidegate_upstream::{AnswerBody, Called, Prepared, Terms, Upstream};
use tidegate_wire::body::Body;
use tidegate_wire::client::Hearing;
use tidegate_wire::clock;

use self::desk::Desk;
use self::orders::Orders;
pub use self::telling::Telling;
pub use self::times::PurgeTimes;

use super::asked::Asked;
use super::content::Ahead;
use super::stage::Onward;
use crate::exchange::Exchange;
use crate::forward::deadline_of;
use crate::settle::Content;

/// Where nodes talk to each other, on a listener of their own.
pub const PATH: &str = "/_tidegate/peer";
/// One try: whoever is not answered at once asks the upstream.
static ONCE: RetrySettings = RetrySettings {
    tries: 1,
    try_timeout: None,
    statuses: Vec::new(),
    backoff: Duration::ZERO,
    backoff_max: Duration::ZERO,
    idempotent: false,
    body_bytes: 0,
    hedge: None,
};
/// Load changes nothing: a home that answers spares the upstream.
static ALWAYS: Degrade =
    Degrade { hedge: NEVER, retry: NEVER, upstream: NEVER, route: NEVER, log: NEVER, compress: NEVER };

/// The nodes of the cluster, as one of them knows them.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// This node's name.
    pub me: Arc<str>,
    /// All nodes by name, and the upstream that is the node; `None`: it is this one.
    pub nodes: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// What they have in common.
    pub secret: Secret,
    /// How long a word of a home is waited for.
    pub wait: Duration,
}

/// Who asks.
pub enum Hop {
    /// A client: the home of what it asks for may be asked.
    Client(Asker),
    /// Another node, whose home this one is for it. It is told what is known of the answer; nobody is, who refreshes
    /// on behalf of it.
    Peer(Option<Rc<Telling>>),
}

/// Evidence that a client asks. Without it no home is asked: there is no way from a peer's question to another peer.
pub struct Asker(());

impl Hop {
    /// A client asks.
    #[must_use]
    pub fn client() -> Hop {
        Hop::Client(Asker(()))
    }

    /// The same for what is done behind.
    #[must_use]
    pub fn behind(&self) -> Hop {
        match self {
            Hop::Client(_) => Hop::client(),
            Hop::Peer(_) => Hop::Peer(None),
        }
    }

    /// Who is to be told what is known of the answer.
    #[must_use]
    pub fn telling(&self) -> Option<&Rc<Telling>> {
        match self {
            Hop::Peer(telling) => telling.as_ref(),
            Hop::Client(_) => None,
        }
    }
}

/// What became of a question to a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Answered,
    /// It could not be reached, or left in the middle.
    Away,
    /// It said nothing in time.
    Late,
    /// It would not: it is overloaded, of another configuration, or failed itself.
    Refused,
    /// What it had was older than a purge that this node knows of.
    Old,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 5] =
        [Outcome::Answered, Outcome::Away, Outcome::Late, Outcome::Refused, Outcome::Old];

    /// Its name in log and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Away => "away",
            Outcome::Late => "late",
            Outcome::Refused => "refused",
            Outcome::Old => "old",
        }
    }
}

/// What this process is to other nodes, over all reloads.
#[derive(Debug)]
pub struct Peering {
    /// A number drawn at its start: what was said to, or by, one before it is nothing to it.
    sender: u64,
    number: AtomicU64,
    heard: Mutex<Heard>,
    /// What other nodes are to purge, where no log tells them.
    pub orders: Orders,
    /// Where they ask what is no matter of caches.
    pub desk: Desk,
    asked: [AtomicU64; Outcome::ALL.len()],
    answered: AtomicU64,
    unanswered: AtomicU64,
    strangers: AtomicU64,
    /// When a stranger was last told of.
    warned: AtomicU64,
}

impl Default for Peering {
    fn default() -> Peering {
        Peering {
            sender: RandomState::new().hash_one(0),
            number: AtomicU64::new(0),
            heard: Mutex::new(Heard::new(civil_ms())),
            orders: Orders::default(),
            desk: Desk::default(),
            asked: Default::default(),
            answered: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            warned: AtomicU64::new(0),
        }
    }
}

/// What has become of questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Asked of homes, by what became of it, in the order of [`Outcome::ALL`].
    pub asked: [u64; Outcome::ALL.len()],
    /// Questions of other nodes that were answered.
    pub answered: u64,
    /// Questions of other nodes that were not: they ask the upstream.
    pub unanswered: u64,
    /// What came to the nodes' listener and was not said by a node, or not just now.
    pub strangers: u64,
}

impl Peering {
    /// What is said, sealed for this node; and its seal.
    #[must_use]
    pub fn seal(&self, secret: &Secret, to: &str, said: &Said) -> (Vec<u8>, Tag) {
        let number = self.number.fetch_add(1, Relaxed) + 1;
        let envelope = Envelope { to, sender: self.sender, number, sent_ms: civil_ms() };
        envelope.seal(secret, &said.bytes())
    }

    /// What has become of it all.
    #[must_use]
    pub fn counts(&self) -> PeerCounts {
        PeerCounts {
            asked: self.asked.each_ref().map(|count| count.load(Relaxed)),
            answered: self.answered.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
            strangers: self.strangers.load(Relaxed),
        }
    }
}

/// Milliseconds of the civil clock.
fn civil_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The nodes with everything that they name looked up.
pub struct Homes {
    settings: ClusterSettings,
    nodes: Vec<Node>,
}

struct Node {
    name: Arc<str>,
    key: u64,
    /// `None`: it is this one.
    upstream: Option<Arc<Upstream>>,
}

impl Homes {
    /// Looks up the nodes. One that is missing is none.
    #[must_use]
    pub fn new(settings: &ClusterSettings, upstreams: &Prepared<'_>) -> Homes {
        let nodes = settings.nodes.iter().filter_map(|(name, upstream)| {
            let upstream = match upstream {
                None => None,
                Some(upstream) => Some(Arc::clone(upstreams.get(upstream)?)),
            };
            Some(Node { name: Arc::clone(name), key: node_key(name), upstream })
        });
        Homes { nodes: nodes.collect(), settings: settings.clone() }
    }

    /// This node's name.
    #[must_use]
    pub fn me(&self) -> &Arc<str> {
        &self.settings.me
    }

    /// What all nodes have in common.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.settings.secret
    }

    /// The other node of this name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.nodes.iter().find(|node| *node.name == *name)?.upstream.as_ref()
    }

    /// How long a word of a node is waited for.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.settings.wait
    }

    /// All nodes by name, and whether each is asked now; `None`: it is this one.
    pub fn standing(&self, now: Tick) -> impl Iterator<Item = (&Arc<str>, Option<bool>)> {
        let is_up = move |upstream: &Arc<Upstream>| !upstream.is_left_alone(now);
        self.nodes.iter().map(move |node| (&node.name, node.upstream.as_ref().map(is_up)))
    }

    /// The node that is to be asked for what has this key; `None`: this one is its home, or no other is up.
    fn of(&self, key: Key, now: Tick) -> Option<(&Arc<str>, &Arc<Upstream>)> {
        let is_up = |place: usize| {
            self.nodes[place].upstream.as_ref().is_none_or(|upstream| !upstream.is_left_alone(now))
        };
        let home = cluster::home(key, self.nodes.iter().map(|node| node.key), is_up)?;
        let node = &self.nodes[home];
        Some((&node.name, node.upstream.as_ref()?))
    }
}

/// What a home has brought.
pub struct Brought {
    /// Its answer.
    pub response: Response<Content>,
    /// What is known of it.
    pub home: FromHome,
}

/// What is known of an answer that came from a home.
pub struct FromHome {
    /// `None`: it is for this request alone.
    pub known: Option<Known>,
    /// The number that its time has among the purges of this node.
    pub made: u64,
}

/// Why a home brought nothing.
struct Nothing(Outcome, Cow<'static, str>);

/// Asks the home. `None`: the upstream is to be asked, since this node is the home itself, or the home brought nothing.
/// `Some(Err)`: there is no time left.
pub async fn ask(onward: Onward<'_>, exchange: &Exchange, asked: &Asked) -> Option<Result<Brought, Refusal>> {
    let (Hop::Client(_), true) = (onward.hop, onward.settings.shield) else { return None };
    let homes = onward.site.homes.as_ref()?;
    let now = clock::now();
    let (name, upstream) = homes.of(asked.key, now)?;
    let by = deadline_of(onward.site, exchange, &onward.routed.route.settings);
    let question = question(onward, exchange, asked, &homes.settings, by.since(now))?;
    let brought = put(onward, exchange, homes, (name, upstream), &Said::Ask(Box::new(question)), by).await;
    let brought = brought.and_then(|answer| believed(onward, asked, answer));
    let (outcome, because) = match &brought {
        Ok(_) => (Outcome::Answered, Cow::Borrowed("")),
        Err(Nothing(outcome, because)) => (*outcome, because.clone()),
    };
    onward.site.cache.peering.asked[outcome as usize].fetch_add(1, Relaxed);
    let mut receipt = exchange.open.receipt_mut();
    receipt.home = Some(outcome.name());
    let node = Arc::clone(name);
    receipt.note(clock::now(), Step::AskedHome { node, outcome: outcome.name(), because });
    drop(receipt);
    match brought {
        Ok(brought) => Some(Ok(brought)),
        Err(_) if clock::now() >= by => {
            let why = "the deadline came while the target's home node was asked";
            Some(Err(Refusal::new(&refusal::DEADLINE_EXCEEDED, why)))
        }
        Err(_) => None,
    }
}

/// The request, as the home is to answer it. `None`: it is not to be asked for this.
fn question(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    settings: &ClusterSettings,
    left: Duration,
) -> Option<Ask> {
    let content = match exchange.ahead.as_deref() {
        None => None,
        Some(Ahead::Whole(content, _)) if content.len() <= CONTENT_BYTES_MAX => Some(content.clone()),
        Some(Ahead::Whole(..) | Ahead::Begun(..)) => return None,
    };
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let (head, tenant) = (&exchange.head, onward.permitted.permit().tenant());
    let root = PathAndQuery::from_static("/");
    Some(Ask {
        id: exchange.open.receipt().request_id,
        tenant: tenant.id().as_ref().to_owned(),
        claimed: tenant.is_claimed(),
        route: onward.routed.route.settings.name.as_ref().to_owned(),
        key: asked.key,
        https: exchange.connection.tls,
        version: head.version,
        trusted: exchange.trusted,
        behind: exchange.behind,
        client: exchange.client,
        peer: exchange.connection.peer,
        host: exchange.host.as_ref().to_owned(),
        method: head.method.clone(),
        target: head.uri.path_and_query().cloned().unwrap_or(root),
        fields: head.headers.clone(),
        content,
        wait_ms: millis(settings.wait),
        left_ms: millis(left),
    })
}

/// Puts a question to a node, and waits for what it tells before the content.
async fn put(
    onward: Onward<'_>,
    exchange: &Exchange,
    homes: &Homes,
    (name, upstream): (&Arc<str>, &Arc<Upstream>),
    said: &Said,
    by: Tick,
) -> Result<(Answer, AnswerBody), Nothing> {
    let ClusterSettings { secret, wait, .. } = &homes.settings;
    let (sealed, tag) = onward.site.cache.peering.seal(secret, name, said);
    let mut request = Request::new(Body::full(sealed));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    request.headers_mut().extend(HeaderValue::from_str(name).ok().map(|name| (HOST, name)));
    let now = clock::now();
    let terms = Terms {
        now,
        // The upstream is to have its time, too.
        deadline: now.after((*wait).min(by.since(now) / 2)),
        patience: *wait,
        retry: &ONCE,
        route: &onward.routed.route.settings.name,
        priority: Priority::Critical,
        degrade: &ALWAYS,
        level: 0,
        client: exchange.client,
        upgrade: false,
        own: &OwnFields::default(),
        hearing: Hearing::default(),
        further: false,
        awaited: &Cell::new(false),
    };
    let permit = onward.permitted.permit();
    let called =
        onward.proxy.caller.call(upstream, permit, &mut request, &terms, exchange.open.receipt_cell());
    let Called { result, .. } = Box::pin(called).await;
    let answer = result.map_err(|refusal| {
        let late = refusal.kind.code == refusal::DEADLINE_EXCEEDED.code;
        Nothing(if late { Outcome::Late } else { Outcome::Away }, Cow::Borrowed(refusal.kind.code))
    })?;
    let (head, mut body) = answer.response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Nothing(
            Outcome::Refused,
            Cow::Borrowed("it does not take us for a node of its cluster"),
        ));
    }
    match reading::told(&mut body, secret, &tag, *wait, by).await? {
        (Told::Refused(why), _) => Err(Nothing(Outcome::Refused, Cow::Owned(why))),
        (Told::Passed(_), _) => Err(Nothing(Outcome::Refused, Cow::Borrowed("it answers something else"))),
        (Told::Answer(answer), content) => {
            let length =
                answer.fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            let length = length.filter(|_| has_content(answer.status));
            Ok((*answer, body.after(content, length)))
        }
    }
}

fn has_content(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The answer, unless a purge that this node knows of should have taken it away.
fn believed(
    onward: Onward<'_>,
    asked: &Asked,
    (answer, body): (Answer, AnswerBody),
) -> Result<Brought, Nothing> {
    let cache = &onward.site.cache;
    let Answer { status, fields, known } = answer;
    let made = match &known {
        None => cache.memory.newest(),
        Some(known) => {
            let made = cache.purge_times.made(known.asked_ago, clock::now());
            let made = made.filter(|made| !cache.memory.is_purged(*made, &asked.named(), &known.tags));
            made.ok_or(Nothing(Outcome::Old, Cow::Borrowed("it was asked for before a purge")))?
        }
    };
    let mut response = Response::new(Content::Answer(body));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    Ok(Brought { response, home: FromHome { known, made } })
}
