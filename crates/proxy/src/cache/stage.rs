//! The cache as a stage: what is stored answers, else the upstream does, and what it says is stored.
//!
//! ```text
//! find --- fresh -------------------------------------------------> serve
//!   |----- stale, may be served while it is validated ------------> serve, and refresh in the background
//!   |----- stale, or the client wants a newer one --- validate ---> 304: serve what is stored
//!   |                                                        |----> newer: store and serve it
//!   |                                                        '----> failed: serve stale, if that is allowed
//!   '----- nothing --- join who asks for the same --- tiers below, forward ----> store and serve, or pass on
//! ```
//!
//! Nothing reaches this stage before the tenant is identified and its limits have let it pass: a hit is a request, too. A hit
//! is found and answered without waiting for anything ([`at_once`]), and before load makes anything of the route: it
//! costs the upstream nothing.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, IF_RANGE, RANGE};
use http::{HeaderValue, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::reuse::{self, Because, Use};
use tidegate_model::cache::status::{CACHE_STATUS, Fwd, Status};
use tidegate_model::cache::{validate, vary};
use tidegate_model::message::Response;
use tidegate_model::method::is_safe;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::clock;

use super::asked::{self, Asked};
use super::fill::{Lead, Over, Role, Seat};
use super::intake::{self, Came};
use super::kept::Kept;
use super::memory::{Found, Named};
use super::shield::{self, FromHome, Hop};
use super::{behind, content, serve, slices};
use crate::coding;
use crate::decide::{Decision, decide};
use crate::defer::told::not_found;
use crate::exchange::Exchange;
use crate::fault::{InItsPlace, Replaced};
use crate::forward::{self, deadline_of};
use crate::incoming;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::respond;
use crate::route::Routed;
use crate::settings::{CacheSettings, HeaderChanges};
use crate::settle::Content;
use crate::site::Pinned;

/// How often a request that waited for another's answer and got none looks again before it asks by itself.
const LOOKS_MAX: u32 = 3;

/// The tier that is asked first, as it is told of a hit.
pub(super) const MEMORY: &str = "memory";

/// What the stages before have found out.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    /// The proxy.
    pub proxy: &'a std::rc::Rc<Proxy>,
    /// The site.
    pub site: &'a Pinned,
    /// The route.
    pub routed: &'a Routed<'a>,
    /// The tenant's permit.
    pub permitted: &'a Permitted,
    /// What the route says of its cache.
    pub settings: &'a CacheSettings,
    /// Who asks.
    pub hop: &'a Hop,
}

impl<'a> Onward<'a> {
    /// What the route changes of an answer here: nothing for another node, which does it itself.
    pub fn changes(self) -> &'a HeaderChanges {
        match self.hop {
            Hop::Client(_) => &self.routed.route.settings.response,
            Hop::Peer(_) => &NO_CHANGES,
        }
    }
}

static NO_CHANGES: HeaderChanges = HeaderChanges { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

/// The key of a request for which nothing was found that may be served at once; or why it has none.
pub type Begun = Result<Key, Past>;

/// Why a request goes past the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// As `Cache-Status` has it.
    pub fwd: Fwd,
    /// What else there is to say.
    pub detail: Option<&'static str>,
}

impl From<Fwd> for Past {
    fn from(fwd: Fwd) -> Past {
        Past { fwd, detail: None }
    }
}

/// Answers from memory, if that needs nothing else.
///
/// # Errors
/// How to go on: [`answer`].
pub fn at_once(onward: Onward<'_>, exchange: &Exchange) -> Result<Response<Content>, Begun> {
    let key = asked::key_of(onward, exchange).map_err(|fwd| Err(fwd.into()))?;
    let named = Named {
        tenant: asked::owner(onward).map(|tenant| &**tenant),
        host: asked::host_of(onward, exchange),
        path: exchange.head.uri.path(),
        key,
    };
    let Found::Answer(kept) = onward.site.cache.memory.find(&named, &exchange.head.headers) else {
        return Err(Ok(key));
    };
    if kept.is_sliced() {
        return Err(Ok(key));
    }
    let (told, now) = (asked::told(onward, exchange), now());
    let wish = serve::Wish {
        method: &exchange.head.method,
        fields: &exchange.head.headers,
        conditional: exchange.seen.conditional,
        changes: onward.changes(),
        telling: onward.hop.telling().map(|telling| &**telling),
        coded: coding::is_wanted(exchange),
    };
    let rules = kept.rules();
    match reuse::decide(&rules, &told, now, &onward.settings.reuse) {
        Use::Serve | Use::ServeStale => {
            if behind::is_due_early(onward, &kept, &rules, now) {
                behind::refresh(onward, exchange, &Asked::of(onward, exchange, key), &kept);
            }
            note(exchange, "hit", MEMORY);
            Ok(serve::stored(&kept, &wish, now, Status::default()))
        }
        Use::ServeAndRefresh => {
            behind::refresh(onward, exchange, &Asked::of(onward, exchange, key), &kept);
            note(exchange, "stale", "stale-while-revalidate");
            Ok(serve::stored(&kept, &wish, now, Status::default()))
        }
        Use::Validate(_) | Use::Refuse => Err(Ok(key)),
    }
}

/// Answers through the cache: from what a lower tier has, from what another request brings, or from the upstream.
///
/// # Errors
/// The refusal of whoever was asked, when nothing that is stored may stand in; 504 for a client that wants nothing else.
pub async fn answer(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    begun: Begun,
) -> Result<Response<Content>, Refusal> {
    let asked = match with_content(onward, exchange, begun).await? {
        Ok(key) => Asked::of(onward, exchange, key),
        Err(past) => return pass(onward, exchange, None, past).await,
    };
    let cache = &onward.site.cache;
    let mut stored = None;
    for _ in 0..LOOKS_MAX {
        let (fwd, held) = match cache.memory.find(&asked.named(), &asked.fields) {
            Found::Nothing => (Fwd::UriMiss, None),
            Found::Variants => (Fwd::VaryMiss, None),
            Found::Answer(kept) => match used(onward, exchange, &asked, kept, MEMORY).await? {
                Used::Served(response) => return Ok(response),
                Used::Ask(fwd, kept) => (fwd, kept),
            },
        };
        stored = held;
        // What HEAD is answered with tells no content, and what answers a part is not the whole.
        if asked.is_head() || asked.fields.contains_key(RANGE) {
            return bring(onward, exchange, &asked, None, stored, fwd).await;
        }
        match cache.fills.join(asked.key, clock::now()) {
            Role::Lead(lead) | Role::Alone(lead) => {
                return bring(onward, exchange, &asked, Some(lead), stored, fwd).await;
            }
            Role::Follow(seat) => match follow(onward, exchange, &asked, seat, fwd).await {
                Followed::Answered(response) => return Ok(response),
                Followed::Refused(refusal) => {
                    return stand_in(onward, exchange, &asked, stored.as_ref()).ok_or(refusal);
                }
                Followed::Again => {}
                Followed::Failed => match stand_in(onward, exchange, &asked, stored.as_ref()) {
                    Some(response) => return Ok(response),
                    None => break,
                },
                Followed::Alone => break,
            },
        }
    }
    let lead = cache.fills.lead_alone(asked.key);
    bring(onward, exchange, &asked, Some(lead), stored, Fwd::Miss).await
}

/// Answers with what an injected fault has put in the upstream's place, shared with nobody and kept nowhere. It strikes what is
/// stored and fresh, too: whoever rehearses sees what was asked for, each time. What is stale stands in for it as it would for
/// an upstream that fails.
///
/// # Errors
/// As [`answer`].
pub async fn struck(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: Replaced,
) -> Result<Response<Content>, Refusal> {
    let begun = asked::key_of(onward, exchange).map_err(Past::from);
    let asked = match with_content(onward, exchange, begun).await? {
        Ok(key) => Asked::of(onward, exchange, key),
        Err(past) => return pass(onward, exchange, Some(instead), past).await,
    };
    let cache = &onward.site.cache;
    let stored = match cache.memory.find(&asked.named(), &asked.fields) {
        Found::Answer(kept) => Some(kept),
        Found::Variants | Found::Nothing => cache.look_below(&asked).await.map(|(kept, _)| kept),
    };
    let stale = stored.filter(|kept| kept.rules().freshness.stale_for(now()).is_some());
    let fwd = if stale.is_some() { Fwd::Stale } else { Fwd::Bypass };
    fetch(onward, exchange, Some(instead), &asked, None, stale, fwd).await
}

/// The key, once the content is there that is in it.
async fn with_content(onward: Onward<'_>, exchange: &mut Exchange, begun: Begun) -> Result<Begun, Refusal> {
    match begun {
        Err(Past { fwd: Fwd::Method, .. }) if content::is_in_key(onward, exchange) => {
            content::begin(onward, exchange).await
        }
        begun => Ok(begun),
    }
}

/// What became of a request for which something is stored.
enum Used {
    Served(Response<Content>),
    /// The upstream is to be asked, whether this is still good if there is anything.
    Ask(Fwd, Option<Arc<Kept>>),
}

/// Uses what is stored, if it may be used.
async fn used(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: Arc<Kept>,
    tier: &'static str,
) -> Result<Used, Refusal> {
    let (outcome, because) = match reuse::decide(&kept.rules(), &asked.told, now(), &onward.settings.reuse) {
        Use::Serve | Use::ServeStale => ("hit", tier),
        Use::ServeAndRefresh => {
            behind::refresh(onward, exchange, asked, &kept);
            ("stale", "stale-while-revalidate")
        }
        Use::Refuse => return Err(only_if_cached()),
        Use::Validate(because) => {
            let fwd = if because == Because::Request { Fwd::Request } else { Fwd::Stale };
            // What is confirmed is to be served.
            let readable = slices::is_readable(onward, exchange, asked, &kept, true);
            return Ok(Used::Ask(fwd, readable.then_some(kept)));
        }
    };
    let response = if kept.is_sliced() {
        slices::answer(onward, exchange, asked, &kept).await
    } else {
        // Of what is found where most is found nothing more is said.
        let status = Status { detail: (tier != MEMORY).then_some(tier), ..Status::default() };
        Some(serve::stored(&kept, &wish(onward, asked), now(), status))
    };
    let Some(response) = response else { return Ok(Used::Ask(Fwd::Partial, None)) };
    let because = if kept.is_sliced() && because == tier { slices::NAME } else { because };
    note(exchange, outcome, because);
    Ok(Used::Served(response))
}

/// Asks the tiers below memory, and then the upstream.
async fn bring(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    asked: &Asked,
    lead: Option<Lead>,
    mut stored: Option<Arc<Kept>>,
    mut fwd: Fwd,
) -> Result<Response<Content>, Refusal> {
    if stored.is_none()
        && let Some((kept, tier)) = onward.site.cache.look_below(asked).await
    {
        match used(onward, exchange, asked, kept, tier).await? {
            Used::Served(response) => {
                // Those who wait find it in memory now.
                if let Some(lead) = lead {
                    lead.end(Over::Refreshed, clock::now());
                }
                return Ok(response);
            }
            Used::Ask(why, kept) => (fwd, stored) = (why, kept),
        }
    }
    if stored.is_none() && onward.settings.reuse.request_directives && asked.told.only_if_cached {
        return Err(only_if_cached());
    }
    fetch(onward, exchange, None, asked, lead, stored, fwd).await
}

/// Asks the upstream; what it says is stored if it may be, and all who wait get it.
pub(super) async fn fetch(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
    asked: &Asked,
    lead: Option<Lead>,
    stored: Option<Arc<Kept>>,
    fwd: Fwd,
) -> Result<Response<Content>, Refusal> {
    let (made, began, at) = (onward.site.cache.memory.newest(), now(), clock::now());
    // A part that the client would put beside those it has is not asked for by our validators.
    let validates = stored.is_some() && !asked.is_head() && !asked.fields.contains_key(IF_RANGE);
    if lead.is_some() || validates {
        for name in &validate::CONDITIONS {
            exchange.head.headers.remove(name);
        }
        if let Some(kept) = stored.as_ref().filter(|_| validates) {
            validate::ask(&mut exchange.head.headers, &kept.fields());
        }
        // What is kept is found again by this form: the upstream is asked by the same.
        if let Some(codings) = vary::codings(&exchange.head.headers) {
            let told = HeaderValue::try_from(codings).expect("codings are tokens");
            exchange.head.headers.insert(ACCEPT_ENCODING, told);
        }
    }
    let together = lead.as_ref().is_some_and(Lead::is_together);
    let answered = ask_either(onward, exchange, instead, asked, stored.as_ref(), together).await;
    let (response, of_first, home) = match answered {
        Ok(answered) => answered,
        Err(refusal) => {
            if let Some(lead) = lead {
                let own = refusal.kind.code == refusal::DEADLINE_EXCEEDED.code;
                lead.end(if own { Over::Left } else { Over::Refused(refusal.clone()) }, clock::now());
            }
            return stand_in(onward, exchange, asked, stored.as_ref()).ok_or(refusal);
        }
    };
    if response.status().is_server_error()
        && let Some(stale) = stand_in(onward, exchange, asked, stored.as_ref())
    {
        if let Some(lead) = lead {
            // Those who wait have it, too.
            lead.end(Over::Failed, clock::now());
        }
        return Ok(stale);
    }
    let came = Came { made, began, took: clock::now().since(at), fwd, of_first, home };
    match stored {
        Some(kept) if validates && response.status() == StatusCode::NOT_MODIFIED => {
            Ok(intake::confirmed(onward, exchange, asked, lead, &kept, response, &came))
        }
        Some(kept) if asked.is_head() && of_first && response.status() == StatusCode::OK => {
            intake::head_came(onward, exchange, asked, &kept, response.headers(), &came);
            Ok(intake::take_in(onward, exchange, asked, lead, response, &came))
        }
        _ => Ok(intake::take_in(onward, exchange, asked, lead, response, &came)),
    }
}

/// Asks the home of what all who ask for it may have, then the upstream.
async fn ask_either(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
    asked: &Asked,
    stored: Option<&Arc<Kept>>,
    together: bool,
) -> Result<(Response<Content>, bool, Option<FromHome>), Refusal> {
    if together && let Some(brought) = Box::pin(shield::ask(onward, exchange, asked)).await {
        return brought.map(|brought| (brought.response, true, Some(brought.home)));
    }
    let (response, of_first) = ask(onward, exchange, instead, asked, stored).await?;
    Ok((response, of_first, None))
}

/// Forwards, if load lets it. What is stale stands before all rungs but the first. Tells also whether it is the route's own
/// upstream that answered.
pub(super) async fn ask(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
    asked: &Asked,
    stored: Option<&Arc<Kept>>,
) -> Result<(Response<Content>, bool), Refusal> {
    let Onward { proxy, site, routed, permitted, .. } = onward;
    let stands_in = stored.is_some_and(|kept| {
        reuse::may_serve_on_error(&kept.rules(), &asked.told, now(), &onward.settings.reuse)
    });
    match decide(proxy, exchange, routed, permitted)? {
        Decision::Forward { first, rest } => {
            let rest = if stands_in { &[] } else { rest };
            let response =
                forward::forward(proxy, site, exchange, routed, permitted, (first, rest), instead).await?;
            let own = routed.route.ladder.begins_with(first);
            let of_first = own && exchange.open.receipt().upstream.as_ref() == Some(first.name());
            Ok((response, of_first))
        }
        Decision::Redirect => Ok((respond::redirect(routed, exchange), false)),
        Decision::Respond(fixed) => Ok((respond::fixed(fixed, asked.is_head()), false)),
        // The route of Tidegate's own has no cache.
        Decision::Deliveries(_) => Err(not_found()),
        Decision::Incoming(settings) => {
            let taken = incoming::take(proxy, site, exchange, routed, permitted, settings);
            Ok((Box::pin(taken).await?, false))
        }
    }
}

/// What became of a request that waited for another's answer.
enum Followed {
    Answered(Response<Content>),
    Refused(Refusal),
    /// The other's answer was that the upstream failed.
    Failed,
    /// It is to look again.
    Again,
    /// The other's answer is not its own.
    Alone,
}

async fn follow(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, seat: Seat, fwd: Fwd) -> Followed {
    let by = deadline_of(onward.site, exchange, &onward.routed.route.settings);
    let head = match clock::timeout_at(by, seat.head()).await {
        Err(_) => {
            let why = "the deadline came while another request asked the upstream for the same";
            return Followed::Refused(Refusal::new(&refusal::DEADLINE_EXCEEDED, why));
        }
        Ok(Err(Over::Left | Over::Refreshed)) => return Followed::Again,
        Ok(Err(Over::Alone)) => return Followed::Alone,
        Ok(Err(Over::Failed)) => return Followed::Failed,
        Ok(Err(Over::Refused(refusal))) => return Followed::Refused(refusal),
        Ok(Ok(head)) => head,
    };
    if onward.site.cache.memory.is_purged(head.made, &asked.named(), &head.tags) {
        // It was asked for before: who asks now is to have what is newer, and so are those who ask from now on.
        seat.is_outdated(asked.key);
        return Followed::Again;
    }
    if head.vary.variant(&asked.fields) != head.variant {
        return Followed::Alone;
    }
    note(exchange, "collapsed", "");
    let status = Status { fwd: Some(fwd), collapsed: true, ..Status::default() };
    Followed::Answered(serve::coming(&head, seat, &wish(onward, asked), &status))
}

/// What is stored, if it may stand in for an answer that failed.
fn stand_in(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    stored: Option<&Arc<Kept>>,
) -> Option<Response<Content>> {
    let kept = stored.filter(|kept| {
        reuse::may_serve_on_error(&kept.rules(), &asked.told, now(), &onward.settings.reuse)
            // The upstream that failed would not bring what is missing.
            && slices::is_readable(onward, exchange, asked, kept, false)
    })?;
    note(exchange, "stale", "error");
    let status = Status { detail: Some("stale-if-error"), ..Status::default() };
    Some(slices::stored(onward, exchange, asked, kept, status))
}

/// Goes past the cache.
async fn pass(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
    past: Past,
) -> Result<Response<Content>, Refusal> {
    let (Onward { proxy, site, routed, permitted, .. }, Past { fwd, detail }) = (onward, past);
    let mut response = match decide(proxy, exchange, routed, permitted)? {
        Decision::Forward { first, rest } => {
            forward::forward(proxy, site, exchange, routed, permitted, (first, rest), instead).await?
        }
        Decision::Redirect => respond::redirect(routed, exchange),
        Decision::Respond(fixed) => respond::fixed(fixed, exchange.head.method == http::Method::HEAD),
        Decision::Deliveries(_) => return Err(not_found()),
        Decision::Incoming(settings) => {
            Box::pin(incoming::take(proxy, site, exchange, routed, permitted, settings)).await?
        }
    };
    note(exchange, "bypass", detail.unwrap_or(fwd.name()));
    if matches!(response.body(), Content::Answer(_)) {
        respond::apply(response.headers_mut(), onward.changes());
    }
    if is_safe(&exchange.head.method) {
        intake::take_ours(response.headers_mut());
    }
    let status = Status { fwd: Some(fwd), fwd_status: Some(response.status()), detail, ..Status::default() };
    let said = status.value(response.headers().get_all(CACHE_STATUS));
    response.headers_mut().insert(CACHE_STATUS, said);
    Ok(response)
}

/// What is stored for it is asked for as this client gets it.
pub(super) fn wish<'a>(onward: Onward<'a>, asked: &'a Asked) -> serve::Wish<'a> {
    serve::Wish {
        method: &asked.method,
        fields: &asked.fields,
        conditional: true,
        changes: onward.changes(),
        telling: asked.telling.as_deref(),
        coded: asked.coded,
    }
}

/// The time by which ages are told.
pub(super) fn now() -> Wall {
    clock::latest_wall()
}

fn only_if_cached() -> Refusal {
    Refusal::new(
        &refusal::CACHE_ONLY,
        "the client wants what is stored or nothing, and nothing that is stored may be used",
    )
}

/// Notes what the cache did, for `/explain`, log and metrics.
pub(super) fn note(exchange: &Exchange, outcome: &'static str, because: &'static str) {
    let mut receipt = exchange.open.receipt_mut();
    receipt.cache = Some(outcome);
    receipt.note(clock::latest(), Step::Cached { outcome, because });
}
