//! What is stored, as one client gets it: whole, in parts, or only that nothing has changed.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, AGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use smallvec::SmallVec;
use tidegate_model::cache::Wall;
use tidegate_model::cache::assemble::{Manifest, TIDEGATE_SLICES};
use tidegate_model::cache::range::{self, Asked, Part};
use tidegate_model::cache::status::Status;
use tidegate_model::cache::validate;
use tidegate_model::fields::Fields;
use tidegate_model::message::Response;
use tidegate_wire::body::BoxError;

use super::changed;
use super::fill::Seat;
use super::kept::{Head, Kept};
use super::shield::Telling;
use super::slices::ask::Passing;
use super::slices::reader::{Segment, SliceBody};
use super::stage::now;
use crate::settings::HeaderChanges;
use crate::settle::Content;

/// Content that the cache has or gets.
pub enum Shared {
    /// It is there.
    Pieces(VecDeque<Bytes>),
    /// All of an answer that is kept, for whoever would have it compressed. Of an answer to HEAD, no piece.
    Whole(Arc<Kept>, VecDeque<Bytes>),
    /// It comes; its length, where that is known.
    Coming(Seat, Option<u64>),
    /// It is read slice by slice.
    Slices(SliceBody),
    /// It passes, and slices of it are kept.
    Passing(Box<Passing>),
}

impl Shared {
    fn left(pieces: &VecDeque<Bytes>) -> u64 {
        pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Shared::Pieces(pieces) | Shared::Whole(_, pieces) => {
                Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
            }
            Shared::Coming(seat, left) => {
                let piece = ready!(seat.poll_piece(context));
                if let (Some(Ok(piece)), Some(left)) = (&piece, left) {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data).map_err(Into::into)))
            }
            Shared::Slices(slices) => slices.poll_frame(context),
            Shared::Passing(passing) => passing.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Shared::Pieces(pieces) | Shared::Whole(_, pieces) => pieces.is_empty(),
            Shared::Coming(seat, left) => *left == Some(0) || seat.is_end(),
            Shared::Slices(slices) => slices.left() == 0,
            Shared::Passing(passing) => passing.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Shared::Pieces(pieces) | Shared::Whole(_, pieces) => SizeHint::with_exact(Shared::left(pieces)),
            Shared::Coming(_, Some(left)) => SizeHint::with_exact(*left),
            Shared::Coming(_, None) => SizeHint::new(),
            Shared::Slices(slices) => SizeHint::with_exact(slices.left()),
            Shared::Passing(passing) => passing.size_hint(),
        }
    }
}

/// Content on its way out, mostly one piece.
pub type Pieces = SmallVec<[Bytes; 1]>;

/// What a client asked for, as far as it says how it gets what is stored.
pub struct Wish<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its fields.
    pub fields: &'a Fields,
    /// Whether it may have a condition or ask for a range.
    pub conditional: bool,
    /// What the route changes.
    pub changes: &'a HeaderChanges,
    /// Who is to be told what is known of the answer: another node.
    pub telling: Option<&'a Telling>,
    /// Whether it would have the content compressed.
    pub coded: bool,
}

/// What is stored, for this client.
#[must_use]
pub fn stored(kept: &Arc<Kept>, wish: &Wish<'_>, now: Wall, status: Status) -> Response<Content> {
    let length = kept.length();
    let (mut response, asked) = begin(kept, length, wish, now, status);
    let Some(asked) = asked else { return response };
    let whole = asked == Asked::Whole;
    let pieces = match asked {
        Asked::Whole => kept.pieces().collect(),
        Asked::Nothing => {
            nothing(&mut response, length);
            Pieces::new()
        }
        Asked::Parts(parts) => {
            let mut pieces = Pieces::new();
            for segment in in_parts(&mut response, kept.made, length, &parts) {
                match segment {
                    Segment::Text(text) => pieces.push(text),
                    Segment::Part(part) => pieces.extend(cut(kept, part)),
                }
            }
            pieces
        }
    };
    let told = whole && response.headers().contains_key(CONTENT_LENGTH);
    if !told && !matches!(kept.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        response.headers_mut().insert(CONTENT_LENGTH, length);
    }
    let is_head = wish.method == Method::HEAD;
    *response.body_mut() = match wish.coded && whole && length > 0 {
        true => {
            let pieces = if is_head { VecDeque::new() } else { VecDeque::from(pieces.into_vec()) };
            Content::Cached(Box::new(Shared::Whole(Arc::clone(kept), pieces)))
        }
        false => content(pieces, is_head),
    };
    response
}

/// The same for what is stored in slices: the head, and what of it is to follow.
#[must_use]
pub fn sliced(
    kept: &Kept,
    manifest: &Manifest,
    wish: &Wish<'_>,
    now: Wall,
    status: Status,
) -> (Response<Content>, VecDeque<Segment>) {
    let length = manifest.grid.whole;
    let (mut response, asked) = begin(kept, length, wish, now, status);
    response.headers_mut().remove(TIDEGATE_SLICES);
    let segments: VecDeque<Segment> = match asked {
        None => return (response, VecDeque::new()),
        Some(Asked::Whole) => VecDeque::from([Segment::Part(Part { from: 0, to: length })]),
        Some(Asked::Nothing) => {
            nothing(&mut response, length);
            VecDeque::new()
        }
        Some(Asked::Parts(parts)) => in_parts(&mut response, kept.made, length, &parts),
    };
    let length: u64 = segments.iter().map(Segment::len).sum();
    response.headers_mut().insert(CONTENT_LENGTH, length);
    (response, if wish.method == Method::HEAD { VecDeque::new() } else { segments })
}

/// The head of what is stored, whose content is so long, and what the client asks for of it. `None`: it is told that nothing
/// has changed.
fn begin(
    kept: &Kept,
    length: u64,
    wish: &Wish<'_>,
    now: Wall,
    mut status: Status,
) -> (Response<Content>, Option<Asked>) {
    let rules = kept.rules();
    if let Some(telling) = wish.telling {
        telling.kept(kept, now);
    }
    let mut fields = kept.fields();
    changed::serve(&mut fields, wish.changes);
    let age = rules.freshness.age(now);
    fields.insert(AGE, u64::from(age));
    status.ttl = Some(i64::from(rules.freshness.lifetime) - i64::from(age));
    status.tell(&mut fields);
    let mut response = Response::new(Content::Empty);
    let status_code = kept.status();
    let good = status_code == StatusCode::OK;
    if good && wish.conditional && validate::has_it(wish.fields, &fields, rules.freshness.answered) {
        not_modified(&mut fields);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.headers_mut() = fields;
        return (response, None);
    }
    let asked = match good && wish.conditional {
        true => range::asked(wish.method, wish.fields, &fields, length),
        false => Asked::Whole,
    };
    *response.status_mut() = status_code;
    if good && !fields.contains_key(ACCEPT_RANGES) {
        fields.append(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    *response.headers_mut() = fields;
    (response, Some(asked))
}

/// Nothing that was asked for is there.
fn nothing(response: &mut Response<Content>, length: u64) {
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    let fields = response.headers_mut();
    fields.insert(CONTENT_RANGE, value(&format!("bytes */{length}")));
    fields.remove(CONTENT_TYPE);
}

/// An answer that comes, for this client: whole, or only that nothing has changed.
#[must_use]
pub fn coming(head: &Head, seat: Seat, wish: &Wish<'_>, status: &Status) -> Response<Content> {
    if let Some(telling) = wish.telling {
        telling.coming(head, now());
    }
    let mut fields = head.fields.clone();
    changed::serve(&mut fields, wish.changes);
    status.tell(&mut fields);
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = head.status;
    if head.status == StatusCode::OK && validate::has_it(wish.fields, &fields, head.rules.freshness.answered)
    {
        not_modified(&mut fields);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        let length = fields.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        *response.body_mut() = Content::Cached(Box::new(Shared::Coming(seat, length)));
    }
    *response.headers_mut() = fields;
    response
}

/// Pieces as content.
pub fn content(mut pieces: Pieces, head: bool) -> Content {
    match pieces.len() {
        _ if head => Content::Empty,
        0 | 1 => pieces.pop().map_or(Content::Empty, Content::Full),
        _ => Content::Cached(Box::new(Shared::Pieces(VecDeque::from(pieces.into_vec())))),
    }
}

/// What a 304 does not tell: how to read content that it does not bring (RFC 9110 section 15.4.5).
fn not_modified(fields: &mut Fields) {
    for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_RANGE, http::header::CONTENT_ENCODING] {
        fields.remove(name);
    }
}

/// What parts are told with: one under the head, several each under their own.
fn in_parts(
    response: &mut Response<Content>,
    made: u64,
    length: u64,
    parts: &SmallVec<[Part; 1]>,
) -> VecDeque<Segment> {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let fields = response.headers_mut();
    if let [part] = parts.as_slice() {
        fields.insert(CONTENT_RANGE, value(&part.content_range(length)));
        return VecDeque::from([Segment::Part(*part)]);
    }
    // What separates the parts must not be in them: nobody can know it beforehand.
    let chance = || RandomState::new().hash_one(made);
    let boundary = format!("tidegate-{:016x}{:016x}", chance(), chance());
    let of = fields.get(CONTENT_TYPE).and_then(|of| of.to_str().ok()).map(str::to_owned);
    let mut segments = VecDeque::new();
    for part in parts {
        let mut head = format!("\r\n--{boundary}\r\n");
        if let Some(of) = &of {
            head.push_str(&format!("Content-Type: {of}\r\n"));
        }
        head.push_str(&format!("Content-Range: {}\r\n\r\n", part.content_range(length)));
        segments.extend([Segment::Text(Bytes::from(head)), Segment::Part(*part)]);
    }
    segments.push_back(Segment::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    fields.insert(CONTENT_TYPE, value(&format!("multipart/byteranges; boundary={boundary}")));
    segments
}

/// The bytes of a part, none of them copied.
fn cut(kept: &Arc<Kept>, part: Part) -> Pieces {
    let (mut at, mut pieces) = (0u64, Pieces::new());
    for piece in kept.pieces() {
        let end = at + piece.len() as u64;
        let (from, to) = (part.from.max(at), part.to.min(end));
        if from < to {
            pieces.push(piece.slice((from - at) as usize..(to - at) as usize));
        }
        at = end;
    }
    pieces
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("numbers, tokens and a field's own value make one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use tidegate_model::cache::freshness::Freshness;
    use tidegate_model::cache::reuse::Rules;
    use tidegate_model::cache::vary::Vary;

    const NOW: Wall = Wall(1_000);

    fn kept(fields: &[(&'static str, &'static str)]) -> Arc<Kept> {
        let freshness = Freshness { initial_age: 7, lifetime: 100, answered: NOW, heuristic: false };
        let rules = Rules {
            freshness,
            validate_always: false,
            never_stale: false,
            while_revalidate: 0,
            if_error: None,
            immutable: false,
        };
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let fields = Fields::from_iter(fields.iter().map(line));
        let head = Head {
            status: StatusCode::OK,
            fields,
            rules,
            tags: Box::default(),
            made: 1,
            took_ms: 1,
            vary: Vary::default(),
            variant: Vec::new(),
        };
        Arc::new(Kept::with(&head, Box::new([Bytes::from_static(b"01234"), Bytes::from_static(b"56789")])))
    }

    fn ask(
        kept: &Arc<Kept>,
        method: &Method,
        lines: &[(&'static str, &'static str)],
    ) -> (Response<()>, String) {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let fields = Fields::from_iter(lines.iter().map(line));
        let no = HeaderChanges::default();
        let wish =
            Wish { method, fields: &fields, conditional: true, changes: &no, telling: None, coded: false };
        let (head, content) = stored(kept, &wish, Wall(NOW.0 + 3), Status::default()).into_parts();
        let bytes = match content {
            Content::Empty => Vec::new(),
            Content::Full(bytes) => bytes.to_vec(),
            Content::Cached(shared) => match *shared {
                Shared::Pieces(pieces) => pieces.into_iter().flatten().collect(),
                _ => panic!("it is there"),
            },
            _ => panic!("it is stored"),
        };
        (Response::from_parts(head, ()), String::from_utf8(bytes).unwrap())
    }

    fn field<'r>(response: &'r Response<()>, name: &str) -> &'r str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn section_5_1_a_hit_tells_its_age_and_that_it_is_one() {
        let (response, body) = ask(&kept(&[("age", "7")]), &Method::GET, &[]);
        assert_eq!((field(&response, "age"), &*body), ("10", "0123456789"));
        assert_eq!(field(&response, "cache-status"), "tidegate; hit; ttl=90");
        assert_eq!(field(&response, "content-length"), "10");
    }

    #[test]
    fn head_is_answered_from_get() {
        let (response, body) = ask(&kept(&[]), &Method::HEAD, &[]);
        assert_eq!((field(&response, "content-length"), &*body), ("10", ""));
    }

    #[test]
    fn a_client_that_has_it_gets_304_and_no_word_of_content() {
        let kept = kept(&[("etag", "\"a\""), ("content-type", "text/plain")]);
        let (response, body) =
            ask(&kept, &Method::GET, &[("if-none-match", "W/\"a\""), ("range", "bytes=0-1")]);
        assert_eq!((response.status(), &*body), (StatusCode::NOT_MODIFIED, ""));
        assert_eq!((field(&response, "etag"), field(&response, "content-type")), ("\"a\"", ""));
    }

    #[test]
    fn parts_are_cut_from_what_is_whole() {
        let kept = kept(&[("content-type", "text/plain")]);
        let (response, body) = ask(&kept, &Method::GET, &[("range", "bytes=3-6")]);
        assert_eq!((response.status(), &*body), (StatusCode::PARTIAL_CONTENT, "3456"));
        assert_eq!(field(&response, "content-range"), "bytes 3-6/10");
        let (response, body) = ask(&kept, &Method::GET, &[("range", "bytes=0-0,-2")]);
        let boundary =
            field(&response, "content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range: &str, bytes: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{bytes}"
            )
        };
        assert_eq!(body, format!("{}{}\r\n--{boundary}--\r\n", part("0-0", "0"), part("8-9", "89")));
        assert_eq!(field(&response, "content-length"), body.len().to_string());
        let (response, body) = ask(&kept, &Method::GET, &[("range", "bytes=10-")]);
        assert_eq!((response.status(), &*body), (StatusCode::RANGE_NOT_SATISFIABLE, ""));
        assert_eq!(field(&response, "content-range"), "bytes */10");
    }
    /// The parts of a body, read as a client reads them: which bytes, and what they are.
    fn read_parts(body: &str, boundary: &str) -> Vec<(String, String)> {
        let rest = body.strip_suffix(&format!("\r\n--{boundary}--\r\n")).expect("a last boundary");
        let begins = format!("\r\n--{boundary}\r\n");
        let parts = rest.split(&begins).skip(1).map(|part| {
            let (head, bytes) = part.split_once("\r\n\r\n").expect("a head");
            let place = head.rsplit("Content-Range: bytes ").next().expect("its place");
            (place.to_owned(), bytes.to_owned())
        });
        parts.collect()
    }

    proptest::proptest! {
        #[test]
        fn parts_say_where_they_are_and_are_what_is_there(ranges in proptest::collection::vec((0usize..12, 0usize..12), 1..6)) {
            let kept = kept(&[("content-type", "text/plain")]);
            let text: Vec<String> = ranges.iter().map(|(one, other)| format!("{}-{}", one.min(other), one.max(other))).collect();
            let lines: &'static str = format!("bytes={}", text.join(",")).leak();
            let (response, body) = ask(&kept, &Method::GET, &[("range", lines)]);
            proptest::prop_assert_eq!(field(&response, "content-length"), body.len().to_string());
            match response.status().as_u16() {
                206 => {
                    let of = field(&response, "content-type");
                    let parts = match of.strip_prefix("multipart/byteranges; boundary=") {
                        Some(boundary) => read_parts(&body, boundary),
                        None => vec![(field(&response, "content-range")["bytes ".len()..].to_owned(), body)],
                    };
                    for (place, bytes) in parts {
                        let (from, last) = place.strip_suffix("/10").unwrap().split_once('-').unwrap();
                        let (from, last): (usize, usize) = (from.parse().unwrap(), last.parse().unwrap());
                        proptest::prop_assert_eq!(&"0123456789"[from..=last], bytes);
                    }
                }
                416 => proptest::prop_assert!(ranges.iter().all(|(one, other)| one.min(other) > &9)),
                status => proptest::prop_assert!(status == 200 && body == "0123456789"),
            }
        }
    }
}
