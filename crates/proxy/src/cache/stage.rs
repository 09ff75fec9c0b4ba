//! The cache as a stage: what is stored answers, else the upstream does, and what it says is stored.
//!
//! ```text
//! find --- fresh -------------------------------------------------> serve
//!   |----- stale, may be served while it is validated ------------> serve, and refresh in the background
//!   |----- stale, or the client wants a newer one --- validate ---> 304: serve what is stored
//!   |                                                        |----> newer: store and serve it
//!   |                                                        '----> failed: serve stale, if that is allowed
//!   '----- nothing --- join who asks for the same --- forward ----> store and serve, or pass on
//! ```
//!
//! Nothing reaches this stage before the tenant is identified and its limits have let it pass: a hit is a request, too.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, IF_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;
use tidegate_model::cache::Wall;
use tidegate_model::cache::directives;
use tidegate_model::cache::freshness::{Freshness, Heuristic, Times};
use tidegate_model::cache::key::{Key, Target};
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::reuse::{self, Because, Rules, Use};
use tidegate_model::cache::status::{CACHE_STATUS, Fwd, Status};
use tidegate_model::cache::store::{self, Why};
use tidegate_model::cache::tags::{self, Tag};
use tidegate_model::cache::validate;
use tidegate_model::cache::vary::{self, Vary};
use tidegate_model::receipt::{End, Step};
use tidegate_model::refusal::{self, Refusal};
use tidegate_upstream::{AnswerBody, Upstream};
use tidegate_wire::{clock, task};

use super::fill::{Bringer, Lead, Over, Role, Seat};
use super::kept::{Head, Kept};
use super::memory::{Found, Named};
use super::serve;
use crate::decide::{Decision, decide};
use crate::exchange::Exchange;
use crate::fault::InItsPlace;
use crate::forward;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::route::Routed;
use crate::settings::CacheSettings;
use crate::settle::Content;
use crate::site::{Fallback, Pinned};

/// What the application tells this cache alone (RFC 9213). No client gets it.
pub const TIDEGATE_CACHE_CONTROL: HeaderName = HeaderName::from_static("tidegate-cache-control");
/// How often a request that waited for another's answer and got none looks again before it asks by itself.
const LOOKS_MAX: u32 = 3;

/// What a request asks the cache for.
#[derive(Clone)]
pub struct Asked {
    /// The tenant; `None`: the route's content is public.
    tenant: Option<Arc<str>>,
    host: Arc<str>,
    path: String,
    key: Key,
    /// Whose room it takes.
    room: u64,
    /// The request's fields, as the client sent them: they are taken when it is forwarded.
    fields: HeaderMap,
    told: directives::Request,
    method: Method,
}

impl Asked {
    fn named(&self) -> Named<'_> {
        Named { tenant: self.tenant.as_deref(), host: &self.host, path: &self.path, key: self.key }
    }

    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// The ways on, for a request that is not answered from what is stored.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    /// The proxy.
    pub proxy: &'a Rc<Proxy>,
    /// The site.
    pub site: &'a Pinned,
    /// The route.
    pub routed: &'a Routed<'a>,
    /// The tenant's permit.
    pub permitted: &'a Permitted,
    /// What the route says of its cache.
    pub settings: &'a CacheSettings,
    /// The first rung.
    pub first: &'a Arc<Upstream>,
    /// The further ones.
    pub rest: &'a [Fallback],
}

/// Answers from the cache or through it.
///
/// # Errors
/// The refusal of whoever was asked, when nothing that is stored may stand in; 504 for a client that wants nothing else.
pub async fn answer(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
) -> Result<Response<Content>, Refusal> {
    if let Err(fwd) = is_cached(exchange) {
        return pass(onward, exchange, instead, fwd).await;
    }
    let asked = ask(onward, exchange);
    let (cache, terms) = (&onward.site.cache, &onward.settings.reuse);
    for _ in 0..LOOKS_MAX {
        let mut found = cache.memory.find(&asked.named(), &asked.fields);
        let mut tier = "";
        if !matches!(found, Found::Answer(_))
            && let Some(kept) = cache.find_below(&asked.named(), asked.room, &asked.fields).await
        {
            (found, tier) = (Found::Answer(kept), "disk");
        }
        let (fwd, stored) = match found {
            Found::Nothing => (Fwd::UriMiss, None),
            Found::Variants => (Fwd::VaryMiss, None),
            Found::Answer(kept) => match reuse::decide(&kept.rules(), &asked.told, now(), terms) {
                Use::Serve | Use::ServeStale => {
                    refresh_if_hot(onward, exchange, &asked, &kept);
                    return Ok(serve_stored(exchange, &asked, &kept, "hit", tier));
                }
                Use::ServeAndRefresh => {
                    refresh(onward, exchange, &asked, &kept);
                    return Ok(serve_stored(exchange, &asked, &kept, "stale", tier));
                }
                Use::Refuse => return Err(only_if_cached()),
                Use::Validate(Because::Request) => (Fwd::Request, Some(kept)),
                Use::Validate(_) => (Fwd::Stale, Some(kept)),
            },
        };
        if stored.is_none() && terms.request_directives && asked.told.only_if_cached {
            return Err(only_if_cached());
        }
        // What HEAD is answered with tells no content, what answers a part is not the whole, and an injected fault strikes
        // one exchange.
        if instead.is_some() || asked.is_head() || asked.fields.contains_key(RANGE) {
            return fetch(onward, exchange, instead, &asked, None, stored, fwd).await;
        }
        match cache.fills.join(asked.key, clock::now()) {
            Role::Alone => return fetch(onward, exchange, None, &asked, None, stored, fwd).await,
            Role::Lead(lead) => return fetch(onward, exchange, None, &asked, Some(lead), stored, fwd).await,
            Role::Follow(seat) => match follow(onward, exchange, &asked, seat, fwd).await {
                Followed::Answered(response) => return Ok(response),
                Followed::Refused(refusal) => return stale_or(onward, exchange, &asked, stored, refusal),
                Followed::Again => {}
                Followed::Alone => break,
            },
        }
    }
    fetch(onward, exchange, None, &asked, None, None, Fwd::Miss).await
}

/// Whether the cache has to do with such a request at all.
fn is_cached(exchange: &Exchange) -> Result<(), Fwd> {
    let head = &exchange.head;
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Fwd::Method);
    }
    // The content of a GET is in no key: an answer that depends on it would poison what others get.
    let has_body = exchange.body.as_ref().is_some_and(|body| !body.is_end_stream());
    if has_body || head.headers.contains_key(http::header::UPGRADE) {
        return Err(Fwd::Bypass);
    }
    Ok(())
}

fn ask(onward: Onward<'_>, exchange: &Exchange) -> Asked {
    let head = &exchange.head;
    let tenant = onward.permitted.permit().tenant().id();
    let tenant = (!onward.settings.public).then(|| Arc::clone(tenant));
    let target = Target {
        tenant: tenant.as_deref(),
        https: exchange.connection.tls,
        host: &exchange.host,
        path: head.uri.path(),
        query: head.uri.query(),
        content: None,
    };
    Asked {
        key: Key::of(&target, &head.headers, &onward.settings.key),
        room: tenant.as_deref().map_or(0, room_of),
        tenant,
        host: Arc::clone(&exchange.host),
        path: head.uri.path().to_owned(),
        fields: head.headers.clone(),
        told: directives::Request::of(&head.headers),
        method: head.method.clone(),
    }
}

/// A tenant's number in the order of eviction; never that of what is public.
fn room_of(tenant: &str) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(tenant).max(1)
}

fn now() -> Wall {
    Wall(clock::wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

fn only_if_cached() -> Refusal {
    Refusal::new(
        &refusal::CACHE_ONLY,
        "the client wants what is stored or nothing, and nothing that is stored may be used",
    )
}

/// Notes what the cache did, for `/explain`, log and metrics.
fn note(exchange: &Exchange, outcome: &'static str, because: &'static str) {
    let mut receipt = exchange.open.receipt_mut();
    receipt.cache = Some(outcome);
    receipt.note(clock::latest(), Step::Cached { outcome, because });
}

fn serve_stored(
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    outcome: &'static str,
    because: &'static str,
) -> Response<Content> {
    note(exchange, outcome, because);
    let wish = serve::Wish { method: &asked.method, fields: &asked.fields };
    serve::stored(kept, &wish, now(), Status::default())
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
    })?;
    note(exchange, "stale", "error");
    let wish = serve::Wish { method: &asked.method, fields: &asked.fields };
    let status = Status { detail: Some("stale-if-error"), ..Status::default() };
    Some(serve::stored(kept, &wish, now(), status))
}

fn stale_or(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    stored: Option<Arc<Kept>>,
    refusal: Refusal,
) -> Result<Response<Content>, Refusal> {
    stand_in(onward, exchange, asked, stored.as_ref()).ok_or(refusal)
}

/// What became of a request that waited for another's answer.
enum Followed {
    Answered(Response<Content>),
    Refused(Refusal),
    /// It is to look again.
    Again,
    /// The other's answer is not its own.
    Alone,
}

async fn follow(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, seat: Seat, fwd: Fwd) -> Followed {
    let by = exchange.started.after(onward.routed.route.settings.deadline);
    let head = match clock::timeout_at(by, seat.head()).await {
        // The deadline speaks for itself when the request is forwarded.
        Err(_) => return Followed::Alone,
        Ok(Err(Over::Left | Over::Refreshed)) => return Followed::Again,
        Ok(Err(Over::Alone)) => return Followed::Alone,
        Ok(Err(Over::Refused(refusal))) => return Followed::Refused(refusal),
        Ok(Ok(head)) => head,
    };
    if head.vary.variant(&asked.fields) != head.variant {
        return Followed::Alone;
    }
    note(exchange, "miss", "collapsed");
    let status = Status { fwd: Some(fwd), collapsed: true, ..Status::default() };
    let wish = serve::Wish { method: &asked.method, fields: &asked.fields };
    Followed::Answered(serve::coming(&head, seat, &wish, &status))
}

/// Asks the upstream; what it says is stored if it may be, and all who wait get it.
async fn fetch(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
    asked: &Asked,
    lead: Option<Lead>,
    stored: Option<Arc<Kept>>,
    fwd: Fwd,
) -> Result<Response<Content>, Refusal> {
    let (made, began) = (onward.site.cache.memory.newest(), now());
    let at = clock::now();
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
    // What is stale stands before all rungs but the first.
    let stands_in = stored.as_ref().is_some_and(|kept| {
        reuse::may_serve_on_error(&kept.rules(), &asked.told, now(), &onward.settings.reuse)
    });
    let rest = if stands_in { &[] } else { onward.rest };
    let Onward { proxy, site, routed, permitted, first, .. } = onward;
    let result = forward::forward(proxy, site, exchange, routed, permitted, (first, rest), instead).await;
    let response = match result {
        Err(refusal) => {
            if let Some(lead) = lead {
                let own = refusal.kind.code == refusal::DEADLINE_EXCEEDED.code;
                lead.end(if own { Over::Left } else { Over::Refused(refusal.clone()) }, clock::now());
            }
            return stale_or(onward, exchange, asked, stored, refusal);
        }
        Ok(response) => response,
    };
    if response.status().is_server_error()
        && let Some(stale) = stand_in(onward, exchange, asked, stored.as_ref())
    {
        drop(lead);
        return Ok(stale);
    }
    let came = Came { made, began, took: clock::now().since(at), fwd };
    match stored {
        Some(kept) if validates && response.status() == StatusCode::NOT_MODIFIED => {
            Ok(confirmed(onward, exchange, asked, lead, &kept, response, &came))
        }
        Some(kept) if asked.is_head() && response.status() == StatusCode::OK => {
            head_came(onward, exchange, asked, &kept, response.headers(), &came);
            Ok(take_in(onward, exchange, asked, lead, response, &came))
        }
        _ => Ok(take_in(onward, exchange, asked, lead, response, &came)),
    }
}

/// When and why an answer was asked for.
struct Came {
    made: u64,
    began: Wall,
    took: std::time::Duration,
    fwd: Fwd,
}

/// What is stored is still good.
fn confirmed(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    lead: Option<Lead>,
    kept: &Arc<Kept>,
    response: Response<Content>,
    came: &Came,
) -> Response<Content> {
    let (fresh, own) = updated(onward, exchange, asked, kept, response.headers(), came);
    if let Some(lead) = lead {
        lead.end(Over::Refreshed, clock::now());
    }
    note(exchange, "revalidated", "");
    let status =
        Status { fwd: Some(came.fwd), fwd_status: Some(StatusCode::NOT_MODIFIED), ..Status::default() };
    let wish = serve::Wish { method: &asked.method, fields: &asked.fields };
    let mut response = serve::stored(&fresh, &wish, now(), status);
    response.headers_mut().extend(own);
    response
}

/// What is stored with the fields of a newer answer without content: as others get it from now on, and what of these fields
/// is for this client alone.
fn updated(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    newer: &HeaderMap,
    came: &Came,
) -> (Arc<Kept>, HeaderMap) {
    let mut fields = kept.fields();
    let confirms = validate::confirms(newer, &fields);
    let mut own = HeaderMap::new();
    if confirms {
        validate::freshen(&mut fields, newer);
        own = store::strip(&mut newer.clone(), &directives::Response::of(newer, &onward.settings.targeted));
    }
    let told = directives::Response::of(&fields, &onward.settings.targeted);
    store::strip(&mut fields, &told);
    let judged = judge_kept(onward, exchange, asked, kept.status, &fields, told);
    // It speaks of something that we do not have, or forbids to keep it: the next request asks for the whole.
    let Ok(judged) = judged.map_err(drop).and_then(|judged| confirms.then_some(judged).ok_or(())) else {
        onward.site.cache.memory.purge(Label::target(asked.key), Purge::Hard, now());
        return (Arc::clone(kept), own);
    };
    let head = head_of(onward, asked, kept.status, fields, judged, came);
    let fresh = Arc::new(Kept::new(&head, kept.body.clone()));
    onward.site.cache.keep_fresher(&asked.named(), asked.room, &asked.fields, &head.vary, &fresh);
    (fresh, own)
}

/// What the upstream says to HEAD tells of what is stored of GET whether it is still good (RFC 9111 section 4.3.5).
fn head_came(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    fields: &HeaderMap,
    came: &Came,
) {
    if validate::head_confirms(fields, &kept.fields()) {
        updated(onward, exchange, asked, kept, fields, came);
    } else {
        kept.is_stale_from(now());
    }
}

/// An answer that is not yet there: it is stored, if it may be, and handed on as it comes.
fn take_in(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    lead: Option<Lead>,
    response: Response<Content>,
    came: &Came,
) -> Response<Content> {
    let mut status = Status { fwd: Some(came.fwd), fwd_status: Some(response.status()), ..Status::default() };
    let judged = judge(onward, exchange, asked, &response);
    let (mut head, content) = response.into_parts();
    let why = match (judged, content, lead) {
        (Ok(judged), Content::Answer(body), Some(lead)) => {
            let own = store::strip(&mut head.headers, &judged.told);
            let kept = Arc::new(head_of(onward, asked, head.status, head.headers, judged, came));
            status.stored = true;
            let (bringer, seat) = lead.stream(Arc::clone(&kept));
            let bring = Bring { site: Rc::clone(onward.site), asked: asked.clone(), head: Arc::clone(&kept) };
            task::spawn(bring.all(bringer, body));
            note(exchange, "miss", "stored");
            let wish = serve::Wish { method: &asked.method, fields: &asked.fields };
            let mut response = serve::coming(&kept, seat, &wish, &status);
            response.headers_mut().extend(own);
            return response;
        }
        (judged, answered, lead) => {
            if let Some(lead) = lead {
                lead.end(Over::Alone, clock::now());
            }
            head.headers.remove(TIDEGATE_CACHE_CONTROL);
            (judged.err().map_or("not-collapsed", Why::name), answered)
        }
    };
    let (why, content) = why;
    note(exchange, "miss", why);
    status.detail = Some(why);
    let said = status.value(head.headers.get_all(CACHE_STATUS));
    head.headers.insert(CACHE_STATUS, said);
    Response::from_parts(head, content)
}

/// What an answer says of its keeping.
struct Judged {
    told: directives::Response,
    vary: Vary,
    tags: Box<[Tag]>,
    /// How long it is fresh, where the route says so of what says nothing.
    lifetime: Option<u32>,
}

/// Whether an answer may be kept.
fn judge(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    response: &Response<Content>,
) -> Result<Judged, Why> {
    let (status, fields, settings) = (response.status(), response.headers(), onward.settings);
    let told = directives::Response::of(fields, &settings.targeted);
    // An answer of a further rung is better than none, and not what was asked for.
    let of_first =
        exchange.open.receipt().upstream.as_ref().is_some_and(|name| *name == *onward.first.name());
    // A part is not the whole, whoever asked for it, and even if nobody did.
    if !of_first || asked.is_head() || status == StatusCode::PARTIAL_CONTENT {
        return Err(Why::Part);
    }
    let length = fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > onward.site.cache.object_bytes_max()) {
        return Err(Why::Large);
    }
    judge_kept(onward, exchange, asked, status, fields, told)
}

/// Whether an answer with these fields may be kept, as far as they tell.
fn judge_kept(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    status: StatusCode,
    fields: &HeaderMap,
    told: directives::Response,
) -> Result<Judged, Why> {
    let settings = onward.settings;
    let terms = store::Terms { unasked: false, request_directives: settings.reuse.request_directives };
    let lifetime = match store::may(&asked.method, &asked.fields, status, fields, &told, terms) {
        Ok(()) => None,
        // An answer that failed says nothing: it is kept for as long as the route says.
        Err(Why::Silent) if settings.error_ttl > 0 && is_negative(status) => Some(settings.error_ttl),
        Err(why) => return Err(why),
    };
    let vary = Vary::of(fields).ok_or(Why::VaryAny)?;
    let origin = origin(exchange);
    let tags = tags::of(fields, origin.as_bytes()).map_err(|_| Why::Tags)?;
    Ok(Judged { told, vary, tags: tags.into_boxed_slice(), lifetime })
}

/// Statuses that tell of a failure which may last a moment.
fn is_negative(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 410 | 500 | 502 | 503 | 504)
}

fn origin(exchange: &Exchange) -> String {
    let scheme = if exchange.connection.tls { "https" } else { "http" };
    format!("{scheme}://{}", exchange.host)
}

fn head_of(
    onward: Onward<'_>,
    asked: &Asked,
    status: StatusCode,
    mut fields: HeaderMap,
    judged: Judged,
    came: &Came,
) -> Head {
    let times = Times { asked: came.began, answered: now() };
    let Judged { told, vary, tags, lifetime } = judged;
    let heuristic = match is_negative(status) {
        true => Heuristic { unmodified: onward.settings.error_ttl, ..onward.settings.heuristic },
        false => onward.settings.heuristic,
    };
    let mut freshness = Freshness::of(status, &fields, &told, times, &heuristic);
    if let Some(lifetime) = lifetime {
        (freshness.lifetime, freshness.heuristic) = (lifetime, true);
    }
    for name in onward.settings.targeted.iter().filter(|name| **name == TIDEGATE_CACHE_CONTROL) {
        fields.remove(name);
    }
    let took_ms = u32::try_from(came.took.as_millis()).unwrap_or(u32::MAX);
    let variant = vary.variant(&asked.fields);
    Head { status, fields, rules: Rules::of(&told, freshness), tags, made: came.made, took_ms, vary, variant }
}

/// Brings an answer to all who wait for it, and into the cache.
struct Bring {
    site: Pinned,
    asked: Asked,
    head: Arc<Head>,
}

impl Bring {
    async fn all(self, mut bringer: Bringer, mut body: AnswerBody) {
        let cache = &self.site.cache;
        let most = cache.object_bytes_max();
        loop {
            match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                // Trailers are not kept (RFC 9111 section 3.1 leaves it open).
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data()
                        && !bringer.bring(piece, most, clock::now()).await
                    {
                        return;
                    }
                }
                Some(Err(_)) => return,
                None => break,
            }
        }
        if let Some(pieces) = bringer.whole() {
            let kept = Arc::new(Kept::new(&self.head, pieces));
            let Asked { room, fields, .. } = &self.asked;
            cache.keep(&self.asked.named(), *room, fields, &self.head.vary, &kept);
        }
    }
}

/// Validates what is stored while it is served.
fn refresh(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, kept: &Arc<Kept>) {
    let Role::Lead(lead) = onward.site.cache.fills.join(asked.key, clock::now()) else { return };
    let (proxy, site) = (Rc::clone(onward.proxy), Rc::clone(onward.site));
    let (route, matched) = (Arc::clone(onward.routed.route), onward.routed.matched);
    let permitted = onward.permitted.on_behalf();
    let mut behind = exchange.behind(&proxy);
    let (asked, kept) = (asked.clone(), Arc::clone(kept));
    task::spawn(async move {
        let routed = Routed { route: &route, matched };
        let (Some(settings), Ok(Decision::Forward { first, .. })) =
            (route.settings.cache.as_ref(), decide(&proxy, &behind, &routed, &permitted))
        else {
            return;
        };
        let onward = Onward {
            proxy: &proxy,
            site: &site,
            routed: &routed,
            permitted: &permitted,
            settings,
            first,
            rest: &[],
        };
        let response = fetch(onward, &mut behind, None, &asked, Some(lead), Some(kept), Fwd::Stale).await;
        let status = response.as_ref().map_or(StatusCode::BAD_GATEWAY, Response::status);
        behind.open.receipt_mut().status = Some(status);
        behind.open.settle(End::Complete);
    });
}

/// What is much asked for is validated before it is stale, by one of its clients and not by all at once.
fn refresh_if_hot(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, kept: &Arc<Kept>) {
    let rules = kept.rules();
    if kept.is_hot() && reuse::refresh_early(&rules, now(), kept.took_ms, onward.proxy.entropy.word()) {
        refresh(onward, exchange, asked, kept);
    }
}

/// Goes past the cache. What a write changed is no longer served (RFC 9111 section 4.4).
async fn pass(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    instead: InItsPlace,
    fwd: Fwd,
) -> Result<Response<Content>, Refusal> {
    let asked = (!exchange.head.method.is_safe()).then(|| ask(onward, exchange));
    let Onward { proxy, site, routed, permitted, first, rest, .. } = onward;
    let mut response =
        forward::forward(proxy, site, exchange, routed, permitted, (first, rest), instead).await?;
    if let Some(asked) = asked
        && validate::invalidates(&asked.method, response.status())
    {
        invalidate(onward, exchange, &asked, response.headers());
        onward.site.cache.purges_written().await;
    }
    note(exchange, "bypass", fwd.name());
    let status = Status { fwd: Some(fwd), fwd_status: Some(response.status()), ..Status::default() };
    let said = status.value(response.headers().get_all(CACHE_STATUS));
    response.headers_mut().insert(CACHE_STATUS, said);
    Ok(response)
}

fn invalidate(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, fields: &HeaderMap) {
    let cache = &onward.site.cache;
    let origin = origin(exchange);
    let key = &onward.settings.key;
    if key.headers.is_empty() && key.cookies.is_empty() {
        cache.purge(Label::target(asked.key), Purge::Hard, now());
    } else {
        // The target has answers for other headers and cookies than those of the write, too.
        cache.purge(Label::path(&exchange.host, &asked.path), Purge::Hard, now());
    }
    let scheme = if exchange.connection.tls { "https" } else { "http" };
    for name in [LOCATION, CONTENT_LOCATION] {
        let target = fields
            .get(name)
            .and_then(|value| validate::same_origin(value.as_bytes(), scheme, &exchange.host));
        if let Some(path) = target.as_deref().and_then(|target| target.split('?').next()) {
            cache.purge(Label::path(&exchange.host, path), Purge::Hard, now());
        }
    }
    for tag in tags::invalidated(fields, origin.as_bytes()) {
        cache.purge(Label::tag(tag, None), Purge::Hard, now());
    }
}
