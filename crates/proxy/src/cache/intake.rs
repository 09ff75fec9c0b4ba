//! What becomes of an upstream's answer: kept and shared, kept, shared, or neither; and what is told of it.
//!
//! | the answer | those who wait | the cache |
//! | --- | --- | --- |
//! | is fresh | get it as it comes | keeps it |
//! | is to be validated each time, or only of use when the upstream fails | ask alone | keeps it |
//! | failed, and is nobody's own | get it as it comes | keeps nothing |
//! | is anything else | ask alone | keeps nothing |

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, ETAG, LAST_MODIFIED};
use http::{HeaderName, StatusCode};
use http_body::Body as _;
use tidegate_model::cache::Wall;
use tidegate_model::cache::assemble::{Manifest, TIDEGATE_SLICES};
use tidegate_model::cache::directives;
use tidegate_model::cache::freshness::{Freshness, Heuristic, Times};
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::status::{CACHE_STATUS, Fwd, Status};
use tidegate_model::cache::store::{self, Why};
use tidegate_model::cache::tags;
use tidegate_model::cache::validate;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;
use tidegate_model::message::Response;
use tidegate_upstream::AnswerBody;
use tidegate_wire::{clock, task};

use super::asked::{Asked, is_written_anew};
use super::changed;
use super::fill::{Bringer, Lead, Over};
use super::kept::{Head, Kept};
use super::serve::{self, Shared};
use super::shield::FromHome;
use super::slices::{self, ask, take};
use super::stage::{Onward, note, now, wish};
use super::write::{TIDEGATE_PURGE, origin};
use crate::exchange::Exchange;
use crate::respond::apply;
use crate::settle::Content;
use crate::site::Pinned;

/// What the application tells this cache alone (RFC 9213). No client gets it.
pub const TIDEGATE_CACHE_CONTROL: HeaderName = HeaderName::from_static("tidegate-cache-control");

/// When and why an answer was asked for.
pub struct Came {
    /// The newest purge then.
    pub made: u64,
    /// When.
    pub began: Wall,
    /// How long it took until its head.
    pub took: Duration,
    /// Why.
    pub fwd: Fwd,
    /// Whether it is the route's own upstream that answered: an answer of a further rung is better than none, and not
    /// what was asked for.
    pub of_first: bool,
    /// What is known of it, where it came from its home.
    pub home: Option<FromHome>,
}

/// What an answer allows.
pub struct Judged {
    /// What it says of being kept.
    pub told: directives::Response,
    /// What is known of it.
    pub head: Head,
    /// Whether it is kept.
    pub keep: bool,
    /// Whether those who wait get it.
    pub share: bool,
    /// Fields beside those of the head that are for this request alone.
    pub own: Fields,
}

/// Takes out what is said to this cache alone, and what only this cache says.
pub fn take_ours(fields: &mut Fields) {
    fields.remove(TIDEGATE_SLICES);
    fields.remove(TIDEGATE_CACHE_CONTROL);
    fields.remove(TIDEGATE_PURGE);
}

/// What is stored is still good.
pub fn confirmed(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    lead: Option<Lead>,
    kept: &Arc<Kept>,
    response: Response<Content>,
    came: &Came,
) -> Response<Content> {
    // Of what is stored only its own upstream can say that it is still good: another one's word counts once, for this client.
    let (fresh, own) = match came.of_first {
        true => updated(onward, exchange, asked, kept, response.headers(), came),
        false => (Arc::clone(kept), Fields::default()),
    };
    if let Some(lead) = lead {
        lead.end(if came.of_first { Over::Refreshed } else { Over::Failed }, clock::now());
    }
    note(exchange, "revalidated", "");
    let status =
        Status { fwd: Some(came.fwd), fwd_status: Some(StatusCode::NOT_MODIFIED), ..Status::default() };
    let mut response = slices::stored(onward, exchange, asked, &fresh, status);
    tell_own(onward, asked, &mut response, own);
    response
}

/// What is for this request alone. A node that asks on behalf of another client is told that it is.
pub fn tell_own(onward: Onward<'_>, asked: &Asked, response: &mut Response<Content>, mut own: Fields) {
    changed::leave(&mut own, onward.changes());
    match &asked.telling {
        Some(telling) => telling.own(&own),
        None => response.headers_mut().extend(&own),
    }
}

/// What is stored with the fields of a newer answer without content: as others get it from now on, and what of these fields
/// is for this client alone.
fn updated(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    newer: &Fields,
    came: &Came,
) -> (Arc<Kept>, Fields) {
    let (mut fields, changes) = (kept.fields(), &onward.routed.route.settings.response);
    let confirms = validate::confirms(newer, &fields);
    let mut own = Fields::default();
    let told = |fields: &Fields| {
        directives::Response::of(&changed::judged(fields, changes), &onward.settings.targeted)
    };
    if confirms {
        validate::freshen(&mut fields, newer);
        own = store::strip(&mut newer.clone(), &told(newer));
        take_ours(&mut own);
        if let Some(known) = came.home.as_ref().and_then(|home| home.known.as_ref()) {
            own.extend(&known.own);
        }
    }
    let told = told(&fields);
    store::strip(&mut fields, &told);
    let cache = &onward.site.cache;
    let judged = judge_kept(onward, exchange, asked, (kept.status(), &fields), told, came);
    // It speaks of something that we do not have, or forbids to keep it: the next request asks for the whole.
    let Some(Judged { mut head, .. }) = judged.ok().filter(|_| confirms) else {
        cache.purge(Label::target(asked.key), Purge::Hard, now());
        return (Arc::clone(kept), own);
    };
    take_ours(&mut head.fields);
    if let Some(manifest) = Manifest::of(&kept.fields()) {
        manifest.put(&mut head.fields);
    }
    let fresh = Arc::new(kept.under(&head));
    cache.keep_fresher(asked, &head.vary, &fresh);
    (fresh, own)
}

/// What the upstream says to HEAD tells of what is stored of GET whether it is still good (RFC 9111 section 4.3.5).
pub fn head_came(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    fields: &Fields,
    came: &Came,
) {
    if validate::head_confirms(fields, &kept.fields()) {
        updated(onward, exchange, asked, kept, fields, came);
    } else {
        kept.is_stale_from(now());
    }
}

/// An answer that is not yet there: it is stored and shared, if it may be, and handed on as it comes.
pub fn take_in(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    lead: Option<Lead>,
    response: Response<Content>,
    came: &Came,
) -> Response<Content> {
    let status = Status { fwd: Some(came.fwd), fwd_status: Some(response.status()), ..Status::default() };
    let judged = judge(onward, exchange, asked, &response, came);
    let (mut head, content) = response.into_parts();
    let mut stored = false;
    let (why, content) = match (judged, content, lead) {
        (Ok(judged), Content::Answer(body), Some(lead)) if !is_large(onward, &judged.head.fields) => {
            return store_and_share(onward, exchange, asked, lead, judged, body, status);
        }
        (Ok(judged), Content::Answer(body), Some(lead)) => {
            match take::begin(onward, exchange, asked, judged) {
                Some(begun) => return begun.go_on(onward, exchange, asked, lead, body, status),
                None => {
                    lead.end(Over::Alone, clock::now());
                    (Why::Large.name(), Content::Answer(body))
                }
            }
        }
        (Err(Why::Part), Content::Answer(body), None) => {
            match take::part(onward, exchange, asked, &head, came) {
                Some(passing) => {
                    stored = true;
                    let passing = Box::new(passing.of(body));
                    (slices::NAME, Content::Cached(Box::new(Shared::Passing(passing))))
                }
                None => (Why::Part.name(), Content::Answer(body)),
            }
        }
        (judged, content, lead) => {
            if let Some(lead) = lead {
                lead.end(Over::Alone, clock::now());
            }
            (judged.err().map_or("part", Why::name), content)
        }
    };
    if matches!(content, Content::Answer(_) | Content::Cached(_)) {
        apply(&mut head.headers, onward.changes());
    }
    take_ours(&mut head.headers);
    note(exchange, "miss", why);
    let status = Status { detail: Some(why), stored, ..status };
    let said = status.value(head.headers.get_all(CACHE_STATUS));
    head.headers.insert(CACHE_STATUS, said);
    Response::from_parts(head, content)
}

/// Whether an answer is larger than what is kept as one.
fn is_large(onward: Onward<'_>, fields: &Fields) -> bool {
    ask::length(fields).is_some_and(|length| length > onward.site.cache.object_bytes_max())
}

fn store_and_share(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    lead: Lead,
    judged: Judged,
    body: AnswerBody,
    mut status: Status,
) -> Response<Content> {
    let Judged { told, mut head, keep, share, own: beside } = judged;
    let mut own = store::strip(&mut head.fields, &told);
    own.extend(&beside);
    take_ours(&mut head.fields);
    take_ours(&mut own);
    let head = Arc::new(head);
    let (bringer, seat) = lead.stream(Arc::clone(&head), share, clock::now());
    let bring = Bring { site: Rc::clone(onward.site), asked: asked.clone(), head: Arc::clone(&head), keep };
    task::spawn(bring.all(bringer, body));
    status.stored = keep;
    note(exchange, "miss", if keep { "stored" } else { "shared" });
    let mut response = serve::coming(&head, seat, &wish(onward, asked), &status);
    if let Some(telling) = &asked.telling {
        telling.allow(keep, share);
    }
    tell_own(onward, asked, &mut response, own);
    response
}

/// Whether an answer may be kept or shared.
fn judge(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    response: &Response<Content>,
    came: &Came,
) -> Result<Judged, Why> {
    let (status, fields) = (response.status(), response.headers());
    // A part is not the whole, whoever asked for it, and even if nobody did.
    if !came.of_first || asked.is_head() || status == StatusCode::PARTIAL_CONTENT {
        return Err(Why::Part);
    }
    let told = told(onward, fields);
    let judged = judge_kept(onward, exchange, asked, (status, fields), told, came)?;
    if came.home.is_none() && is_guessed_for_a_session(onward, asked, &judged) {
        return Err(Why::Cookie);
    }
    Ok(judged)
}

/// What an answer says of being kept, as the route has changed it.
pub fn told(onward: Onward<'_>, fields: &Fields) -> directives::Response {
    let seen = changed::judged(fields, &onward.routed.route.settings.response);
    directives::Response::of(&seen, &onward.settings.targeted)
}

/// Whether a lifetime is guessed of an answer that may be of one session.
pub fn is_guessed_for_a_session(onward: Onward<'_>, asked: &Asked, judged: &Judged) -> bool {
    let guessed = judged.head.rules.freshness.heuristic && !judged.told.public;
    guessed && is_for_a_session(onward, asked, &judged.head.vary)
}

/// The same as far as status and fields tell.
///
/// # Errors
/// Why not.
pub fn judge_kept(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    (status, fields): (StatusCode, &Fields),
    told: directives::Response,
    came: &Came,
) -> Result<Judged, Why> {
    if let Some(home) = &came.home {
        return judge_of_home(onward, asked, (status, fields), told, home);
    }
    let settings = onward.settings;
    // By what the route makes of it; what is kept is what the application said.
    let seen = &*changed::judged(fields, &onward.routed.route.settings.response);
    let terms = store::Terms { unasked: false, request_directives: settings.reuse.request_directives };
    // Whoever says nothing of how long it lives may still be shared by those who ask right now, if it failed.
    let silent = match store::may(&asked.method, &asked.fields, status, seen, &told, terms) {
        Ok(()) => false,
        Err(Why::Silent) if is_failure(status) => true,
        Err(why) => return Err(why),
    };
    let vary = Vary::of(seen).filter(|vary| !vary.names().any(is_written_anew)).ok_or(Why::VaryAny)?;
    let tags = tags::of(seen, origin(exchange, &asked.host).as_bytes()).map_err(|_| Why::Tags)?;
    let mut freshness = freshness(onward, status, seen, &told, came);
    if silent {
        // An answer that failed says nothing: it is kept for as long as the route says.
        (freshness.lifetime, freshness.heuristic) = (settings.error_ttl, true);
    }
    let head = head_of(asked, status, fields.clone(), &told, freshness, vary, came);
    let fresh = freshness.left(now()) > 0 && !head.rules.validate_always;
    let keep = fresh || (!silent && is_of_use(&head, settings.reuse.if_error));
    if !keep && !silent {
        return Err(Why::Silent);
    }
    let head = Head { tags: tags.into_boxed_slice(), ..head };
    Ok(Judged { told, head, keep, share: fresh || silent, own: Fields::default() })
}

/// The same for an answer of which its home has judged: what the application said to caches of our kind alone, the home has
/// read.
fn judge_of_home(
    onward: Onward<'_>,
    asked: &Asked,
    (status, fields): (StatusCode, &Fields),
    told: directives::Response,
    home: &FromHome,
) -> Result<Judged, Why> {
    let known = home.known.as_ref().ok_or(Why::Home)?;
    let vary = Vary::of(fields).ok_or(Why::VaryAny)?;
    let mut rules = known.rules;
    rules.freshness.answered = now();
    let fresh = rules.freshness.left(now()) > 0 && !rules.validate_always;
    let (tags, made, took_ms) = (known.tags.as_slice().into(), home.made, known.took_ms);
    let (fields, variant) = (fields.clone(), vary.variant(&asked.fields));
    let head = Head { status, fields, rules, tags, made, took_ms, vary, variant };
    let keep = fresh || (known.keep && is_of_use(&head, onward.settings.reuse.if_error));
    Ok(Judged { told, head, keep, share: known.share, own: known.own.clone() })
}

/// Whether an answer was made for whoever holds a cookie, as far as anybody can know: it says nothing of being anybody
/// else's.
fn is_for_a_session(onward: Onward<'_>, asked: &Asked, vary: &Vary) -> bool {
    asked.fields.contains_key(COOKIE)
        && onward.settings.key.cookies.is_empty()
        && !vary.names().any(|name| *name == COOKIE)
}

/// Whether an answer that is not fresh is worth its room: it can be validated, or stand in for one that fails.
fn is_of_use(head: &Head, if_error: u32) -> bool {
    let Rules { validate_always, never_stale, while_revalidate, if_error: own, .. } = head.rules;
    let stands_in = !validate_always && !never_stale && own.unwrap_or(if_error).max(while_revalidate) > 0;
    stands_in || head.fields.contains_key(ETAG) || head.fields.contains_key(LAST_MODIFIED)
}

/// Statuses that tell of a failure which may last a moment.
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 410 | 500 | 502 | 503 | 504)
}

fn freshness(
    onward: Onward<'_>,
    status: StatusCode,
    fields: &Fields,
    told: &directives::Response,
    came: &Came,
) -> Freshness {
    let times = Times { asked: came.began, answered: now() };
    let heuristic = match is_failure(status) {
        true => Heuristic { unmodified: onward.settings.error_ttl, ..onward.settings.heuristic },
        false => onward.settings.heuristic,
    };
    Freshness::of(status, fields, told, times, &heuristic)
}

fn head_of(
    asked: &Asked,
    status: StatusCode,
    fields: Fields,
    told: &directives::Response,
    freshness: Freshness,
    vary: Vary,
    came: &Came,
) -> Head {
    let took_ms = u32::try_from(came.took.as_millis()).unwrap_or(u32::MAX);
    let (rules, variant) = (Rules::of(told, freshness), vary.variant(&asked.fields));
    Head { status, fields, rules, tags: Box::default(), made: came.made, took_ms, vary, variant }
}

/// Brings an answer to all who wait for it, and into the cache.
struct Bring {
    site: Pinned,
    asked: Asked,
    head: Arc<Head>,
    keep: bool,
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
        if let Some(pieces) = bringer.whole()
            && self.keep
        {
            let kept = Arc::new(Kept::new(&self.head, &pieces));
            cache.keep(&self.asked, &self.head.vary, &kept);
        }
    }
}
