//! The last stage before an answer is told: it is compressed, where that is wanted and worth it.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode};
use tidegate_model::coding::Coding;
use tidegate_model::compress::{self, Offer, Verdict};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_model::message::Response;
use tidegate_model::receipt::{self, Step};
use tidegate_upstream::AnswerBody;

use super::encode::{Encoder, Then};
use super::hit::{self, Keeping};
use super::{CompressSettings, Compressed};
use crate::cache::serve::Shared;
use crate::exchange::Exchange;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::settings::RouteSettings;
use crate::settle::Content;
use crate::site::Site;

/// Content that is here whole and has so many bytes at most is compressed at once: its client is told how long it is.
const AT_ONCE_BYTES: usize = 64 << 10;

/// The answer as this client gets it.
#[cold]
pub fn answer(
    proxy: &Proxy,
    site: &Site,
    exchange: &Exchange,
    route: &RouteSettings,
    permitted: &Permitted,
    response: Response<Content>,
) -> Response<Content> {
    let offer = exchange.bodies.as_ref().and_then(|bodies| bodies.offer);
    let settings = route.coding.as_ref().and_then(|coding| coding.compress.as_ref());
    let (Some(offer), Some(settings)) = (offer, settings) else { return response };
    if exchange.upgraded.is_some() {
        return response;
    }
    let (mut head, content) = response.into_parts();
    if head.status == StatusCode::NOT_MODIFIED {
        compress::not_modified(&mut head.headers, &offer);
        return Response::from_parts(head, content);
    }
    let is_head = exchange.open.receipt().method == Method::HEAD;
    let (content, kept) = hit::taken(content);
    let known = kept.as_ref().zip(offer.coding).and_then(|(kept, coding)| kept.coded(coding));
    let length = if is_head { told_length(&head.headers) } else { content.size_hint().exact() };
    let level = proxy.guard.level().max(exchange.open.receipt().load);
    // What is compressed already is so under any load.
    let idle = level < route.degrade.compress || known.is_some();
    let verdict = match is_ours(&content) {
        true => compress::judge(&settings.terms, &offer, (head.status, &head.headers), length, idle),
        false => Verdict::Foreign,
    };
    if verdict == Verdict::Foreign {
        return Response::from_parts(head, content);
    }
    compress::vary(&mut head.headers);
    let Verdict::Code(coding) = verdict else {
        if offer.coding.is_some() && level >= route.degrade.compress {
            exchange.note(Step::Degraded("compression", level));
        }
        return Response::from_parts(head, content);
    };
    let content = match known {
        Some(known) if !known.is_smaller() => content,
        Some(known) => {
            if !is_head {
                note(exchange, coding, length.unwrap_or_default(), true);
            }
            hit::told(known, coding, is_head, &mut head.headers)
        }
        None if is_head => {
            compress::tell(&mut head.headers, coding);
            content
        }
        None => {
            let claim = kept.as_ref().and_then(|kept| kept.claim(coding));
            let keeping = claim.map(|claim| Keeping::of(&site.cache, claim));
            let by = Begun { proxy, permitted, offer, settings, coding, length, level, keeping };
            by.made(exchange, content, &mut head.headers)
        }
    };
    Response::from_parts(head, content)
}

/// Whether content may be compressed at all. What the cache keeps in slices is large and asked for in parts: it is told as it is.
fn is_ours(content: &Content) -> bool {
    match content {
        Content::Cut | Content::Compressed(_) => false,
        Content::Cached(shared) => !matches!(**shared, Shared::Slices(_) | Shared::Passing(_)),
        _ => true,
    }
}

/// How long the answer to a GET would be.
fn told_length(fields: &Fields) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Content that is here whole and is not long.
fn at_hand(content: Content) -> Result<Bytes, Content> {
    match content {
        Content::Full(bytes) | Content::Answer(AnswerBody::Whole(bytes)) if bytes.len() <= AT_ONCE_BYTES => {
            Ok(bytes)
        }
        content => Err(content),
    }
}

/// An answer that is to be compressed.
struct Begun<'a> {
    proxy: &'a Proxy,
    permitted: &'a Permitted,
    offer: Offer,
    settings: &'a CompressSettings,
    coding: Coding,
    length: Option<u64>,
    level: u8,
    /// Whoever keeps what it comes to.
    keeping: Option<Keeping>,
}

impl Begun<'_> {
    /// Compresses what is here and short at once, and else as it comes.
    fn made(self, exchange: &Exchange, content: Content, fields: &mut Fields) -> Content {
        match at_hand(content) {
            Ok(bytes) => self.at_once(exchange, bytes, fields),
            Err(content) => self.streamed(exchange, content, fields),
        }
    }

    /// Compresses it, unless that makes it no smaller.
    fn at_once(self, exchange: &Exchange, bytes: Bytes, fields: &mut Fields) -> Content {
        let Begun { settings, coding, keeping, .. } = self;
        let (mut out, plain) = (Vec::with_capacity(bytes.len() / 2), bytes.len() as u64);
        let coded = Encoder::new(coding, settings.levels, Some(plain))
            .and_then(|mut encoder| encoder.put(&bytes, Then::Finish, &mut out));
        if coded.is_err() {
            return Content::Full(bytes);
        }
        let out = Bytes::from(out);
        let is_smaller = out.len() < bytes.len();
        if let Some(mut keeping) = keeping
            && keeping.add(out.clone())
        {
            keeping.end(plain);
        }
        if !is_smaller {
            return Content::Full(bytes);
        }
        compress::tell(fields, coding);
        fields.insert(CONTENT_LENGTH, out.len() as u64);
        note(exchange, coding, plain, false);
        Content::Full(out)
    }

    /// Begins, if there is memory to spare for it. What it comes to is kept only where there is for that, too.
    fn streamed(self, exchange: &Exchange, content: Content, fields: &mut Fields) -> Content {
        let Begun { proxy, permitted, offer, settings, coding, length, level, mut keeping } = self;
        let tenant = permitted.permit().tenant();
        let hold = |bytes| proxy.guard.hold(tenant, Priority::Sheddable, bytes, &proxy.entropy);
        let mut held = hold(Encoder::BYTES + keeping.as_ref().map_or(0, Keeping::bytes_max));
        if held.is_err() && keeping.take().is_some() {
            held = hold(Encoder::BYTES);
        }
        let encoder = Encoder::new(coding, settings.levels, length);
        let (Ok(encoder), true) = (encoder, held.is_ok() || !offer.plain) else {
            exchange.note(Step::Degraded("compression", level));
            return content;
        };
        compress::tell(fields, coding);
        note(exchange, coding, 0, false);
        Content::Compressed(Box::new(Compressed::new(content, encoder, keeping, held.ok().flatten())))
    }
}

/// Notes it. How long the content was is known when it has ended.
fn note(exchange: &Exchange, coding: Coding, plain: u64, kept: bool) {
    exchange.note(Step::Compressed(coding.token(), kept));
    exchange.open.receipt_mut().compressed =
        Some(Box::new(receipt::Compressed { coding, plain_bytes: plain }));
}
