//! Which answers are compressed, and what their heads say then (RFC 9110 sections 8.4 and 12.5.3).
//!
//! ```text
//! request --- Offer: the coding that would do for the client, and whether what is not coded would
//! answer ---- judge: Foreign: it is nobody's to compress
//!                    Varies:  it could have been compressed, and is not, this time
//!                    Code:    it is
//! ```
//!
//! What always holds: an answer that is coded already, that is a part, that forbids to be transformed, or that vouches for its
//! bytes (a digest, a signature) is told as it is. Whatever could have been told otherwise to another client says so by
//! `Vary`. Bytes that were coded anew never go under a strong `ETag`.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, COOKIE, ETAG, IF_MATCH, IF_NONE_MATCH, RANGE, TRAILER, VARY,
};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::coding::{Accepted, Coding};
use crate::fields::{Fields, Value};

/// Fields by which an answer vouches for its bytes, as they are.
const VOUCHERS: [HeaderName; 5] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("signature-input"),
];
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a route compresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The codings, those that are liked best first.
    pub codings: Vec<Coding>,
    /// The content types.
    pub types: Types,
    /// Content that is shorter is not worth it, in bytes.
    pub bytes_min: u64,
    /// Also for pages of other sites that send credentials along: see BREACH.
    pub cross_site: bool,
}

/// Content types by pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Types(Vec<Pattern>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// `text/html`.
    Exact(String),
    /// `text/*`.
    Family(String),
    /// `*+json`.
    Suffix(String),
}

/// A content type that streams events: a family does not mean it, since each such stream would hold an encoder for hours.
const EVENTS: &str = "text/event-stream";

impl Types {
    /// What is compressed where nothing is said: text, and what is text by another name.
    pub const USUAL: [&str; 17] = [
        "text/*",
        "*+json",
        "*+xml",
        "*+text",
        "application/json",
        "application/javascript",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xml",
        "application/wasm",
        "application/graphql",
        "application/rtf",
        "application/vnd.ms-fontobject",
        "application/yaml",
        "font/otf",
        "font/ttf",
        "image/bmp",
    ];

    /// Reads patterns.
    ///
    /// # Errors
    /// The place of the first that is none.
    pub fn of<S: AsRef<str>>(patterns: &[S]) -> Result<Types, usize> {
        let read = |(place, text): (usize, &S)| Pattern::of(text.as_ref()).ok_or(place);
        patterns.iter().enumerate().map(read).collect::<Result<_, _>>().map(Types)
    }

    /// Whether content of this type is meant.
    #[must_use]
    pub fn mean(&self, content_type: &[u8]) -> bool {
        let bare = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let Ok(bare) = std::str::from_utf8(bare) else { return false };
        let begins =
            |with: &str| bare.get(..with.len()).is_some_and(|there| there.eq_ignore_ascii_case(with));
        // Its messages are compressed by themselves, if at all.
        if begins("application/grpc") {
            return false;
        }
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(name) => bare.eq_ignore_ascii_case(name),
            Pattern::Family(family) => begins(family) && !bare.eq_ignore_ascii_case(EVENTS),
            Pattern::Suffix(suffix) => {
                let at = bare.len().checked_sub(suffix.len());
                at.and_then(|at| bare.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        })
    }
}

impl Pattern {
    fn of(text: &str) -> Option<Pattern> {
        let is_token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
        };
        let text = text.to_ascii_lowercase();
        if let Some(suffix) = text.strip_prefix("*+") {
            return is_token(suffix).then(|| Pattern::Suffix(format!("+{suffix}")));
        }
        match text.split_once('/')? {
            (family, "*") if is_token(family) => Some(Pattern::Family(format!("{family}/"))),
            (family, name) if is_token(family) && is_token(name) => Some(Pattern::Exact(text)),
            _ => None,
        }
    }
}

/// What a client takes, found out before its request is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The coding that would do for it best; `None`: none would, or its request wants the content as it is.
    pub coding: Option<Coding>,
    /// Whether what is not coded would do, too.
    pub plain: bool,
    /// It asks whether what it has is still good, by a weak tag.
    asks_weakly: bool,
}

impl Offer {
    /// What this request's client takes, under these terms.
    #[must_use]
    pub fn of(terms: &Terms, request: &Fields) -> Offer {
        let accepted = Accepted::of(request.get_all(ACCEPT_ENCODING).map(Value::as_bytes));
        let as_it_is = request.contains_key(RANGE)
            || request.get_all(CACHE_CONTROL).any(forbids)
            || !terms.cross_site && is_of_another_site(request);
        let coding = if as_it_is { None } else { accepted.best(&terms.codings).first().copied() };
        let weak = |value: Value<'_>| value.as_bytes().windows(2).any(|two| two == b"W/");
        Offer { coding, plain: accepted.plain(), asks_weakly: request.get_all(IF_NONE_MATCH).any(weak) }
    }
}

/// Whether a page of another site has made the browser send this, with what shows who its user is. Whoever can put text of
/// his own into such an answer and see its length can guess what else is in it (BREACH).
fn is_of_another_site(request: &Fields) -> bool {
    let foreign = request.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site");
    foreign && (request.contains_key(COOKIE) || request.contains_key(AUTHORIZATION))
}

/// Whether a `Cache-Control` forbids to transform content.
fn forbids(control: Value<'_>) -> bool {
    let mut directives = control.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    directives.any(|directive| directive.eq_ignore_ascii_case(b"no-transform"))
}

/// A weak tag in `If-Match` never matches (RFC 9110 section 13.1.1): a client that was told a weakened tag could change nothing
/// any more. It means what the tag was before. What the application itself calls weak it still compares as it does.
pub fn strengthen_if_match(request: &mut Fields) {
    let Some(line) = request.get(IF_MATCH).filter(|line| line.as_bytes().starts_with(b"W/\"")) else {
        return;
    };
    // A list is left alone: commas may stand within tags.
    let tag = &line.as_bytes()[2..];
    if tag.iter().filter(|byte| **byte == b'"').count() == 2
        && tag.ends_with(b"\"")
        && let Ok(tag) = HeaderValue::from_bytes(tag)
    {
        request.insert(IF_MATCH, tag);
    }
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not to be compressed, for nobody.
    Foreign,
    /// It could have been.
    Varies,
    /// It is, in this coding.
    Code(Coding),
}

/// What becomes of an answer of this length, where that is known. `idle`: there is time to compress it.
#[must_use]
pub fn judge(
    terms: &Terms,
    offer: &Offer,
    (status, fields): (StatusCode, &Fields),
    length: Option<u64>,
    idle: bool,
) -> Verdict {
    let is_short = length.is_some_and(|length| length < terms.bytes_min.max(1));
    let is_meant = fields.get(CONTENT_TYPE).is_some_and(|kind| terms.types.mean(kind.as_bytes()));
    if !has_whole_content(status, fields) || is_short || !is_meant {
        return Verdict::Foreign;
    }
    let is_coded = fields.get_all(CONTENT_ENCODING).any(|coding| !is_identity(coding));
    if fields.get_all(CACHE_CONTROL).any(forbids) || vouches(fields) {
        return Verdict::Foreign;
    }
    match offer.coding {
        Some(coding) if !is_coded && (idle || !offer.plain) => Verdict::Code(coding),
        _ => Verdict::Varies,
    }
}

/// Whether an answer with this status has content, and all of it.
fn has_whole_content(status: StatusCode, fields: &Fields) -> bool {
    !status.is_informational()
        && !matches!(status.as_u16(), 204 | 205 | 206 | 304 | 416)
        && !fields.contains_key(CONTENT_RANGE)
}

fn is_identity(coding: Value<'_>) -> bool {
    coding.as_bytes().split(|&byte| byte == b',').all(|one| {
        let one = one.trim_ascii();
        one.is_empty() || one.eq_ignore_ascii_case(b"identity")
    })
}

/// Whether an answer says what its bytes are, or will behind them.
fn vouches(fields: &Fields) -> bool {
    let in_trailers = |line: Value<'_>| {
        let mut names = line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names
            .any(|name| VOUCHERS.iter().any(|voucher| name.eq_ignore_ascii_case(voucher.as_str().as_bytes())))
    };
    VOUCHERS.iter().any(|name| fields.contains_key(name)) || fields.get_all(TRAILER).any(in_trailers)
}

/// Says that the answer is one of several, by `Accept-Encoding`.
pub fn vary(fields: &mut Fields) {
    let mut names = fields.get_all(VARY).flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    if !names.any(|name| {
        let name = name.trim_ascii();
        name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding")
    }) {
        fields.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Says that the content comes in this coding, and leaves out what was true of it before. How long it is is to be said anew.
pub fn tell(fields: &mut Fields, coding: Coding) {
    fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    fields.remove(CONTENT_LENGTH);
    // Parts are those of the content as it was.
    fields.remove(ACCEPT_RANGES);
    weaken(fields);
}

/// The head of a 304: it names what the client has. A client that asks by a weak tag was told it by us, or is as glad of it.
pub fn not_modified(fields: &mut Fields, offer: &Offer) {
    vary(fields);
    if offer.asks_weakly {
        weaken(fields);
    }
}

/// The tag stands for bytes that mean the same, and no more for the same bytes (RFC 9110 section 8.8.3.3).
fn weaken(fields: &mut Fields) {
    let Some(tag) = fields.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return };
    let weak = [b"W/", tag.as_bytes()].concat();
    if let Ok(weak) = HeaderValue::from_bytes(&weak) {
        fields.insert(ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = [(&'static str, &'static str)];

    fn fields(lines: &Lines) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        fields
    }

    fn terms() -> Terms {
        let types = Types::of(&Types::USUAL).expect("these are patterns");
        Terms {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            types,
            bytes_min: 100,
            cross_site: false,
        }
    }

    /// What becomes of an answer with this status and these fields for a client that takes gzip.
    fn check(status: u16, answer: &Lines, length: Option<u64>, expected: Verdict) {
        let offer = Offer::of(&terms(), &fields(&[("accept-encoding", "gzip")]));
        let status = StatusCode::from_u16(status).unwrap();
        let verdict = judge(&terms(), &offer, (status, &fields(answer)), length, true);
        assert_eq!(verdict, expected, "{status} {answer:?} {length:?}");
    }

    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
    const CODE: Verdict = Verdict::Code(Coding::Gzip);

    #[test]
    fn text_of_some_length_is_compressed() {
        check(200, &[JSON], Some(100), CODE);
        check(404, &[JSON], None, CODE);
        check(200, &[JSON], Some(99), Verdict::Foreign);
        check(200, &[("content-type", "image/png")], None, Verdict::Foreign);
        check(200, &[], None, Verdict::Foreign);
    }

    #[test]
    fn what_has_no_whole_content_is_left_alone() {
        for status in [101, 103, 204, 205, 206, 304, 416] {
            check(status, &[JSON], None, Verdict::Foreign);
        }
        check(200, &[JSON, ("content-range", "bytes 0-1/2")], None, Verdict::Foreign);
    }

    #[test]
    fn what_is_coded_is_not_coded_again_but_varies() {
        check(200, &[JSON, ("content-encoding", "br")], None, Verdict::Varies);
        check(200, &[JSON, ("content-encoding", "identity")], None, CODE);
    }

    #[test]
    fn what_forbids_it_or_vouches_for_its_bytes_is_told_as_it_is() {
        check(200, &[JSON, ("cache-control", "public, No-Transform")], None, Verdict::Foreign);
        for name in ["content-digest", "repr-digest", "digest", "content-md5", "signature-input"] {
            check(200, &[JSON, (name, "x")], None, Verdict::Foreign);
            check(200, &[JSON, ("trailer", format!("x-a, {name}").leak())], None, Verdict::Foreign);
        }
    }

    /// The coding of an answer to this request, under load or not.
    fn asked(request: &Lines, idle: bool, expected: Option<Coding>) {
        let offer = Offer::of(&terms(), &fields(request));
        let expected = expected.map_or(Verdict::Varies, Verdict::Code);
        let verdict = judge(&terms(), &offer, (StatusCode::OK, &fields(&[JSON])), None, idle);
        assert_eq!(verdict, expected, "{request:?}");
    }

    #[test]
    fn the_client_says_what_it_takes() {
        asked(&[], true, None);
        asked(&[("accept-encoding", "gzip, deflate, br, zstd")], true, Some(Coding::Zstd));
        asked(&[("accept-encoding", "gzip, zstd;q=0.5")], true, Some(Coding::Gzip));
        asked(&[("accept-encoding", "gzip;q=0")], true, None);
        asked(&[("accept-encoding", "br"), ("range", "bytes=0-1")], true, None);
        asked(&[("accept-encoding", "br"), ("cache-control", "no-transform")], true, None);
    }

    #[test]
    fn under_load_only_those_get_it_compressed_who_take_nothing_else() {
        asked(&[("accept-encoding", "gzip")], false, None);
        asked(&[("accept-encoding", "gzip, identity;q=0")], false, Some(Coding::Gzip));
        asked(&[("accept-encoding", "gzip, *;q=0")], false, Some(Coding::Gzip));
    }

    #[test]
    fn pages_of_other_sites_learn_nothing_from_lengths() {
        const GZIP: (&str, &str) = ("accept-encoding", "gzip");
        let cross = ("sec-fetch-site", "cross-site");
        asked(&[GZIP, cross, ("cookie", "a=b")], true, None);
        asked(&[GZIP, cross, ("authorization", "x")], true, None);
        asked(&[GZIP, cross], true, Some(Coding::Gzip));
        asked(&[GZIP, ("sec-fetch-site", "same-origin"), ("cookie", "a=b")], true, Some(Coding::Gzip));
        let open = Terms { cross_site: true, ..terms() };
        let offer = Offer::of(&open, &fields(&[GZIP, cross, ("cookie", "a=b")]));
        assert_eq!(offer.coding, Some(Coding::Gzip));
    }

    #[test]
    fn types_are_meant_by_name_family_and_suffix() {
        let usual = Types::of(&Types::USUAL).unwrap();
        for (kind, expected) in [
            ("text/html; charset=utf-8", true),
            ("Text/CSS", true),
            ("application/problem+json", true),
            ("image/svg+xml", true),
            ("application/json;x", true),
            ("text/event-stream", false),
            ("application/grpc+json", false),
            ("application/grpc-web-text", false),
            ("image/png", false),
            ("application/octet-stream", false),
            ("+json", true),
            ("", false),
        ] {
            assert_eq!(usual.mean(kind.as_bytes()), expected, "{kind}");
        }
        assert!(Types::of(&["text/event-stream"]).unwrap().mean(b"text/event-stream"));
        assert!(!Types::of(&["application/grpc"]).unwrap().mean(b"application/grpc"));
        for (place, bad) in ["text", "*/*", "text/", "*", "a b/c", "*+"].into_iter().enumerate() {
            assert_eq!(Types::of(&["text/*", bad]), Err(1), "{place} {bad}");
        }
    }

    /// A head as it is told with gzip.
    fn told(before: &Lines, expected: &Lines) {
        let mut head = fields(before);
        tell(&mut head, Coding::Gzip);
        vary(&mut head);
        assert_eq!(head, fields(expected), "{before:?}");
    }

    #[test]
    fn a_head_says_what_is_true_of_the_coded_bytes() {
        const CODED: (&str, &str) = ("content-encoding", "gzip");
        const VARIES: (&str, &str) = ("vary", "accept-encoding");
        told(
            &[("etag", "\"a\""), ("content-length", "9"), ("accept-ranges", "bytes")],
            &[("etag", "W/\"a\""), CODED, VARIES],
        );
        told(&[("etag", "W/\"a\"")], &[("etag", "W/\"a\""), CODED, VARIES]);
        told(&[("vary", "a, Accept-Encoding")], &[("vary", "a, Accept-Encoding"), CODED]);
        told(&[("vary", "*")], &[("vary", "*"), CODED]);
        told(&[("vary", "a")], &[("vary", "a"), VARIES, CODED]);
    }

    #[test]
    fn section_15_4_5_a_304_names_the_tag_that_the_client_has() {
        for (asked, expected) in [("W/\"a\"", "W/\"a\""), ("\"a\"", "\"a\""), ("\"b\", W/\"a\"", "W/\"a\"")] {
            let offer = Offer::of(&terms(), &fields(&[("if-none-match", asked)]));
            let mut head = fields(&[("etag", "\"a\"")]);
            not_modified(&mut head, &offer);
            assert_eq!(head, fields(&[("etag", expected), ("vary", "accept-encoding")]), "{asked}");
        }
    }

    #[test]
    fn section_13_1_1_a_weakened_tag_is_sent_on_as_it_was() {
        for (asked, expected) in [
            ("W/\"a\"", "\"a\""),
            ("\"a\"", "\"a\""),
            ("*", "*"),
            ("W/\"a\", \"b\"", "W/\"a\", \"b\""),
            ("W/\"a", "W/\"a"),
        ] {
            let mut request = fields(&[("if-match", asked)]);
            strengthen_if_match(&mut request);
            assert_eq!(request, fields(&[("if-match", expected)]), "{asked}");
        }
    }
}
