//! What becomes of a large answer, and of a part: what they are kept as, and what of them may be.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tidegate_model::cache::assemble::{self, Manifest};
use tidegate_model::cache::status::{Fwd, Status};
use tidegate_model::cache::store::{self, Why};
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;
use tidegate_model::message::{Response, ResponseHead};
use tidegate_upstream::AnswerBody;
use tidegate_wire::clock;

use super::ask::{self, Passing, Source};
use super::reader::SliceBody;
use super::run;
use super::{NAME, Whose};
use crate::cache::asked::Asked;
use crate::cache::fill::{Lead, Over};
use crate::cache::intake::{Came, Judged, is_guessed_for_a_session, judge_kept, take_ours, tell_own, told};
use crate::cache::kept::{Head, Kept};
use crate::cache::memory::Found;
use crate::cache::serve::{self, Shared};
use crate::cache::stage::{Onward, note, now, wish};
use crate::exchange::Exchange;
use crate::settle::Content;
use crate::site::Pinned;

/// A large answer that is kept in slices.
pub struct Begun {
    kept: Arc<Kept>,
    vary: Vary,
    /// Whether all who ask for it now may have it.
    share: bool,
    /// What of its fields is for its own client alone.
    own: Fields,
    source: Rc<Source>,
    lead: run::Lead,
    seat: run::Seat,
}

/// An answer that is larger than what is kept as one is to be kept in slices. `None`: it cannot be, or there is no room for
/// one more on its way.
#[must_use]
pub fn begin(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, judged: Judged) -> Option<Begun> {
    let Judged { told, mut head, keep, share, own: beside } = judged;
    // What is missing later is asked for by GET.
    let grid = ask::length(&head.fields)
        .filter(|_| keep && asked.method == Method::GET)
        .and_then(|whole| onward.site.cache.grid(whole))?;
    let mut own = store::strip(&mut head.fields, &told);
    own.extend(&beside);
    take_ours(&mut head.fields);
    take_ours(&mut own);
    let kept = in_place(&mut head, Manifest { version: onward.proxy.entropy.id(), grid });
    let source = Source::of(onward, exchange, asked, &kept)?;
    let (lead, seat) = ask::begin(&source)?;
    Some(Begun { kept, vary: head.vary, share, own, source, lead, seat })
}

impl Begun {
    /// Its manifest is kept at once: all who wait find it, and read what has come. Gives what its own client gets.
    #[must_use]
    pub fn go_on(
        self,
        onward: Onward<'_>,
        exchange: &Exchange,
        asked: &Asked,
        lead: Lead,
        body: AnswerBody,
        status: Status,
    ) -> Response<Content> {
        let Begun { kept, vary, share, own, source, lead: slices, seat } = self;
        onward.site.cache.keep(asked, &vary, &kept);
        lead.end(Over::Refreshed, clock::now());
        ask::bring(&source, slices, kept.made, body);
        note(exchange, "miss", "stored");
        let status = Status { stored: true, detail: Some(NAME), ..status };
        let manifest = source.whose.manifest;
        let (mut response, segments) = serve::sliced(&kept, &manifest, &wish(onward, asked), now(), status);
        if !segments.is_empty() {
            let slices = SliceBody::new(source, segments, Some(seat));
            *response.body_mut() = Content::Cached(Box::new(Shared::Slices(slices)));
        }
        if let Some(telling) = &asked.telling {
            telling.allow(true, share);
        }
        tell_own(onward, asked, &mut response, own);
        response
    }
}

/// A part that passes, and whose slices are kept.
pub struct Parted {
    site: Pinned,
    whose: Whose,
    made: u64,
    from: u64,
}

impl Parted {
    /// It passes with this body.
    #[must_use]
    pub fn of(self, body: AnswerBody) -> Passing {
        ask::pass(self.site, self.whose, self.made, self.from, body)
    }
}

/// A part of what nothing is known of: its manifest is kept, so that it can be put together with others. `None`: it cannot
/// be, or it may not be kept.
#[must_use]
pub fn part(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    head: &ResponseHead,
    came: &Came,
) -> Option<Parted> {
    if !came.of_first || asked.method != Method::GET || head.status != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let (part, whole) = assemble::brought(&head.headers)?;
    let cache = &onward.site.cache;
    let grid = cache.grid(whole)?;
    let mut fields = head.headers.clone();
    assemble::of_whole(&mut fields, whole);
    let says = told(onward, &fields);
    let judged = judge_kept(onward, exchange, asked, (StatusCode::OK, &fields), says, came).ok()?;
    if !judged.keep || is_guessed_for_a_session(onward, asked, &judged) {
        return None;
    }
    let parted = |manifest, made| {
        let (site, whose) = (Rc::clone(onward.site), Whose { asked: asked.clone(), manifest });
        Parted { site, whose, made, from: part.from }
    };
    // Another one may have begun with the same.
    if let Found::Answer(kept) = cache.memory.find(&asked.named(), &asked.fields)
        && assemble::is_same(&kept.fields(), &fields)
    {
        let manifest = Manifest::of(&kept.fields()).filter(|manifest| manifest.grid.whole == whole)?;
        return Some(parted(manifest, came.made));
    }
    let Judged { told, mut head, .. } = judged;
    store::strip(&mut head.fields, &told);
    take_ours(&mut head.fields);
    let manifest = Manifest { version: onward.proxy.entropy.id(), grid };
    let kept = in_place(&mut head, manifest);
    cache.keep(asked, &head.vary, &kept);
    Some(parted(manifest, came.made))
}

/// What is kept in the place of a content that is kept in slices.
fn in_place(head: &mut Head, manifest: Manifest) -> Arc<Kept> {
    manifest.put(&mut head.fields);
    Arc::new(Kept::with(head, Box::default()))
}

/// Whether slices of what is stored, which this answer brings, may be kept.
///
/// # Errors
/// Why not.
pub fn may_be_kept(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    fields: &Fields,
) -> Result<(), Why> {
    let (made, began, took, fwd) = (0, now(), Duration::ZERO, Fwd::Partial);
    let came = Came { made, began, took, fwd, of_first: true, home: None };
    let says = told(onward, fields);
    match judge_kept(onward, exchange, asked, (StatusCode::OK, fields), says, &came) {
        Err(why @ (Why::NoStore | Why::Private | Why::SetCookie)) => Err(why),
        // A part that is asked for by `If-Range` need not say again what its whole has said: that it may be kept.
        _ => Ok(()),
    }
}
