//! What is missing of a large answer is asked for, and what comes is cut into slices.
//!
//! | what is asked for | what the upstream says | what becomes of it |
//! | --- | --- | --- |
//! | the whole | 200 | a new version: its manifest is kept at once, its slices as they come ([`begin`]) |
//! | a part that a client wants, of what is not known | 206 with a strong validator | passed on; the slices that lie in it are kept ([`pass`]) |
//! | slices that are missing | 206, the same validator | they are kept, and read by all who want them |
//! | the same | 200, the same validator | it knows no ranges: all of it comes, once for all who want any of it |
//! | the same | anything else | what is stored is not what it has: it is given up |

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_LENGTH, IF_RANGE, RANGE};
use http::{HeaderValue, Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tidegate_model::cache::assemble::{self, Cutter, Manifest};
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::range::Part;
use tidegate_model::cache::{validate, vary};
use tidegate_model::fields::Fields;
use tidegate_model::message::Response;
use tidegate_model::receipt::End;
use tidegate_upstream::AnswerBody;
use tidegate_wire::body::BoxError;
use tidegate_wire::{clock, task};

use super::run::{Bringer, Lead, Over, Role, Seat};
use super::take::may_be_kept;
use super::{WRITE_WAIT, Whose, slice_of};
use crate::cache::Cache;
use crate::cache::asked::Asked;
use crate::cache::fill::Broken;
use crate::cache::kept::Kept;
use crate::cache::shield::Hop;
use crate::cache::stage::{self, Onward, now};
use crate::exchange::{Exchange, Pattern};
use crate::lifecycle::Proxy;
use crate::limit::Standby;
use crate::route::Routed;
use crate::settle::Content;
use crate::site::{Pinned, Route};

/// Where a large answer comes from: the tiers, and the upstream for what they have not.
pub struct Source {
    /// What is read.
    pub whose: Whose,
    /// The fields that stand before it.
    fields: Fields,
    proxy: Rc<Proxy>,
    site: Pinned,
    route: Arc<Route>,
    matched: usize,
    standby: Standby,
    pattern: Pattern,
}

impl Source {
    /// What this exchange is answered from.
    #[must_use]
    pub fn of(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, kept: &Kept) -> Option<Rc<Source>> {
        let fields = kept.fields();
        let manifest = Manifest::of(&fields)?;
        Some(Rc::new(Source {
            whose: Whose { asked: asked.clone(), manifest },
            fields,
            proxy: Rc::clone(onward.proxy),
            site: Rc::clone(onward.site),
            route: Arc::clone(onward.routed.route),
            matched: onward.routed.matched,
            standby: onward.permitted.standby(),
            pattern: exchange.pattern(asked.head()),
        }))
    }

    fn cache(&self) -> &Cache {
        &self.site.cache
    }

    /// Whether a slice is in a tier.
    #[must_use]
    pub fn is_kept(&self, slice: u64) -> bool {
        self.cache().has_slice(&self.whose, slice)
    }

    /// Whether a slice is in a tier, or on its way.
    #[must_use]
    pub fn has(&self, slice: u64) -> bool {
        let Manifest { version, grid } = self.whose.manifest;
        self.is_kept(slice) || self.cache().slices.runs.bring(version, grid.part_of(slice).from)
    }

    /// Reads a slice from a tier.
    pub async fn read(&self, slice: u64) -> Option<VecDeque<Bytes>> {
        self.cache().read_slice(&self.whose, slice).await
    }

    /// Whether what is missing can be asked for: there is something to tell it by from what it may have become since.
    #[must_use]
    pub fn may_ask(&self) -> bool {
        let knows_none = self
            .fields
            .get(ACCEPT_RANGES)
            .is_some_and(|units| units.as_bytes().eq_ignore_ascii_case(b"none"));
        !knows_none && assemble::if_range(&self.fields).is_some()
    }

    /// An answer broke off.
    pub fn broke(&self) {
        self.cache().slices.counts.broken.fetch_add(1, Relaxed);
    }

    /// A seat where the first byte of this part comes; the upstream is asked for it and for what is missing behind it, if it
    /// is not on its way. `None`: it has come meanwhile, and is in a tier. `must`: a client is in the middle of it.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn seat(self: &Rc<Self>, part: Part, must: bool) -> Result<Option<Seat>, Broken> {
        let Manifest { version, grid } = self.whose.manifest;
        let (runs, first) = (&self.cache().slices.runs, grid.slice_at(part.from));
        // In this order: what has left a run is in a tier.
        let seat = match runs.follow(version, part.from) {
            Some(seat) => seat,
            None => {
                let missing = grid.missing(part, |slice| self.is_kept(slice));
                let Some(missing) = missing.filter(|run| run.start == first) else { return Ok(None) };
                if !self.may_ask() {
                    return Err(Broken);
                }
                match runs.join(version, grid, part.from, grid.part(missing), must) {
                    Role::Follow(seat) => seat,
                    Role::Full => return Err(Broken),
                    Role::Lead(lead, seat) => {
                        task::spawn(Rc::clone(self).ask(lead));
                        seat
                    }
                }
            }
        };
        seat.head().await.map(|()| Some(seat)).map_err(|_| Broken)
    }

    /// Asks the upstream for slices that are missing.
    async fn ask(self: Rc<Self>, lead: Lead) {
        let Some(permitted) = self.standby.permitted() else { return };
        let made = self.cache().memory.newest();
        self.cache().slices.counts.asked.fetch_add(1, Relaxed);
        let mut exchange = self.pattern.exchange(&self.proxy);
        self.say(&mut exchange.head.headers, lead.part());
        exchange.head.method = Method::GET;
        let routed = Routed { route: &self.route, matched: self.matched };
        let Some(settings) = self.route.settings.cache.as_ref() else { return };
        let (proxy, site) = (&self.proxy, &self.site);
        // No home is asked for slices: it has them only if it has all of it, and the upstream knows.
        let (permitted, hop) = (&permitted, &Hop::Peer(None));
        let onward = Onward { proxy, site, routed: &routed, permitted, settings, hop };
        let answered = stage::ask(onward, &mut exchange, None, &self.whose.asked, None).await;
        let status = answered.as_ref().map_or(StatusCode::BAD_GATEWAY, |(response, _)| response.status());
        {
            let mut receipt = exchange.open.receipt_mut();
            (receipt.status, receipt.cache) = (Some(status), Some("slices"));
        }
        let end = match answered {
            Ok((response, true)) => self.take(onward, &exchange, lead, response, made).await,
            _ => Over::Refused,
        };
        let end = if end == Over::Broken { End::UpstreamBroke } else { End::Complete };
        exchange.open.settle(end);
    }

    /// What the request for slices says.
    fn say(&self, fields: &mut Fields, part: Part) {
        for name in &validate::CONDITIONS {
            fields.remove(name);
        }
        if let Some(told) = assemble::if_range(&self.fields) {
            fields.insert(IF_RANGE, told);
        }
        let range = format!("bytes={}-{}", part.from, part.to - 1);
        fields.insert(RANGE, HeaderValue::try_from(range).expect("digits and a dash"));
        // As the whole was asked for.
        if let Some(codings) = vary::codings(fields) {
            fields.insert(ACCEPT_ENCODING, HeaderValue::try_from(codings).expect("codings are tokens"));
        }
    }

    async fn take(
        &self,
        onward: Onward<'_>,
        exchange: &Exchange,
        lead: Lead,
        response: Response<Content>,
        made: u64,
    ) -> Over {
        let (head, content) = response.into_parts();
        let Some((part, is_whole)) = self.brings(head.status, &head.headers, lead.part()) else {
            // What failed says nothing of what it would be.
            let failed = head.status.is_server_error() || head.status == StatusCode::TOO_MANY_REQUESTS;
            if !failed {
                self.give_up();
                lead.end(Over::Changed);
            }
            return Over::Changed;
        };
        if may_be_kept(onward, exchange, &self.whose.asked, &head.headers).is_err() {
            self.give_up();
            lead.end(Over::Changed);
            return Over::Changed;
        }
        let Content::Answer(body) = content else { return Over::Refused };
        fill(&self.site, &self.whose, made, lead.come(part, is_whole), part, body).await
    }

    /// Which part an answer brings; and whether that is the whole, asked for or not.
    fn brings(&self, status: StatusCode, fields: &Fields, wanted: Part) -> Option<(Part, bool)> {
        let whole = self.whose.manifest.grid.whole;
        if !assemble::is_same(&self.fields, fields) {
            return None;
        }
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let (part, told) = assemble::brought(fields)?;
                (told == whole && part.from == wanted.from && part.to <= wanted.to).then_some((part, false))
            }
            StatusCode::OK => (length(fields)? == whole).then_some((Part { from: 0, to: whole }, true)),
            _ => None,
        }
    }

    /// What is stored is not what the upstream has.
    fn give_up(&self) {
        self.cache().slices.counts.changed.fetch_add(1, Relaxed);
        self.cache().purge(Label::target(self.whose.asked.key), Purge::Hard, now());
    }
}

/// The length that an answer tells.
#[must_use]
pub fn length(fields: &Fields) -> Option<u64> {
    fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

/// An answer that is to be kept in slices begins to come: whoever asks for it from now on finds its manifest, and reads
/// what is there of it. Gives what its own client reads; `None`: there is no room for one more.
#[must_use]
pub fn begin(source: &Rc<Source>) -> Option<(Lead, Seat)> {
    let Manifest { version, grid } = source.whose.manifest;
    let whole = Part { from: 0, to: grid.whole };
    match source.cache().slices.runs.join(version, grid, 0, whole, false) {
        Role::Lead(lead, seat) => Some((lead, seat)),
        Role::Follow(_) | Role::Full => None,
    }
}

/// Brings what [`begin`] has begun. `made`: the newest purge when it was asked for.
pub fn bring(source: &Rc<Source>, lead: Lead, made: u64, body: AnswerBody) {
    let part = lead.part();
    let bringer = lead.come(part, false);
    let source = Rc::clone(source);
    task::spawn(async move {
        fill(&source.site, &source.whose, made, bringer, part, body).await;
    });
}

/// Hands on what comes, and keeps its slices.
async fn fill(
    site: &Pinned,
    whose: &Whose,
    made: u64,
    bringer: Bringer,
    part: Part,
    mut body: AnswerBody,
) -> Over {
    let mut cutter = Cutter::new(whose.manifest.grid, part.from);
    let bringer = Rc::new(bringer);
    let mut keeping = Keeping {
        cache: &site.cache,
        whose,
        made,
        bringer: Rc::clone(&bringer),
        handed: VecDeque::new(),
        goes_on: true,
    };
    let over = loop {
        let came = async {
            tokio::select! {
                biased;
                frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)) => Some(frame),
                () = bringer.deserted() => None,
            }
        };
        let Some(frame) = keeping.meanwhile(came).await else { break Over::Left };
        let piece = match frame {
            None if cutter.at() == part.to => break Over::Whole,
            None | Some(Err(_)) => break Over::Broken,
            // Trailers are not kept.
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        if cutter.at() + piece.len() as u64 > part.to {
            break Over::Broken;
        }
        bringer.push(piece.clone());
        for (slice, pieces) in cutter.take(piece) {
            keeping.keep(slice, &pieces).await;
        }
        if !keeping.meanwhile(bringer.room()).await {
            break Over::Left;
        }
    };
    keeping.end(over).await;
    over
}

/// Slices of a run on their way into a tier. The disk takes its time, and nobody who reads waits for it: but who brings
/// waits once, when it has too much to do.
struct Keeping<'a> {
    cache: &'a Cache,
    whose: &'a Whose,
    made: u64,
    bringer: Rc<Bringer>,
    /// Those that were taken, and are not known to be there.
    handed: VecDeque<u64>,
    goes_on: bool,
}

impl Keeping<'_> {
    async fn keep(&mut self, slice: u64, pieces: &[Bytes]) {
        if !self.goes_on {
            return;
        }
        let (kept, by) = (slice_of(self.made, pieces), clock::now().after(WRITE_WAIT));
        let Keeping { cache, whose, .. } = self;
        self.goes_on = cache.holds_by(by, || cache.keep_slice(whose, slice, &kept)).await;
        self.handed.push_back(slice);
        if !self.goes_on {
            self.keeps_no_more();
        }
    }

    /// Looks which of them are there by now.
    fn look(&mut self) {
        while let Some(&slice) = self.handed.front()
            && self.cache.has_slice(self.whose, slice)
        {
            self.handed.pop_front();
            self.bringer.kept(self.whose.manifest.grid.part_of(slice));
            self.cache.slices.counts.kept.fetch_add(1, Relaxed);
        }
    }

    /// Waits for this, and looks meanwhile what the disk has written.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let (disk, by) = (self.cache.memory.disk(), clock::now().after(WRITE_WAIT));
        let mut other = pin!(other);
        loop {
            let mut wrote = pin!(disk.as_ref().map(|disk| disk.wrote()));
            if let Some(wrote) = wrote.as_mut().as_pin_mut() {
                // What is written between the look and the wait counts.
                wrote.enable();
            }
            self.look();
            let Some(wrote) = wrote.as_pin_mut().filter(|_| !self.handed.is_empty()) else {
                return other.await;
            };
            let wait = async {
                tokio::select! {
                    biased;
                    other = other.as_mut() => Some(other),
                    () = wrote => None,
                }
            };
            match clock::timeout_at(by, wait).await {
                Ok(Some(other)) => return other,
                Ok(None) => {}
                Err(_) => self.keeps_no_more(),
            }
        }
    }

    /// The disk does not take what it has accepted.
    fn keeps_no_more(&mut self) {
        self.goes_on = false;
        self.bringer.keeps_no_more();
        self.cache.slices.counts.dropped.fetch_add(self.handed.len() as u64, Relaxed);
        self.handed.clear();
    }

    /// It is over; whoever comes from now on finds what there is of it in a tier.
    async fn end(mut self, over: Over) {
        let by = clock::now().after(WRITE_WAIT);
        let cache = self.cache;
        cache
            .holds_by(by, || {
                self.look();
                self.handed.is_empty()
            })
            .await;
        cache.slices.counts.dropped.fetch_add(self.handed.len() as u64, Relaxed);
        self.bringer.end(over);
    }
}

/// A part that goes to the client who asked for it, at its own pace; the slices that lie in it are kept.
pub struct Passing {
    site: Pinned,
    whose: Whose,
    made: u64,
    cutter: Cutter,
    body: AnswerBody,
}

/// Passes a part on.
#[must_use]
pub fn pass(site: Pinned, whose: Whose, made: u64, from: u64, body: AnswerBody) -> Passing {
    let cutter = Cutter::new(whose.manifest.grid, from);
    Passing { site, whose, made, cutter, body }
}

impl Passing {
    /// The next frame.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            let cache = &self.site.cache;
            for (slice, pieces) in self.cutter.take(piece.clone()) {
                let taken = cache.has_slice(&self.whose, slice)
                    || cache.keep_slice(&self.whose, slice, &slice_of(self.made, &pieces));
                let counts = &cache.slices.counts;
                if taken { &counts.kept } else { &counts.dropped }.fetch_add(1, Relaxed);
            }
        }
        Poll::Ready(frame)
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// What will still come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
