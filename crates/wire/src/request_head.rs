//! The heads of HTTP/1 requests, and their trailers, out of bytes that are not trusted. Pure.
//!
//! It reads and refuses in one pass: whatever two implementations could read differently is no request (RFC 9112
//! sections 2.2, 3, 5 and 6): bare LF as line end, folded lines, Content-Length beside Transfer-Encoding or twice, any
//! coding but one `chunked`, no Host or two, a target that contradicts it, control bytes.
//!
//! Bytes may come in any pieces: each is looked at once, a bad line is refused as soon as it has ended, and the verdict is
//! the same for any split. A head that has ended is copied once, as it is: its fields are places in that copy.

use std::ops::Range;

use http::{Extensions, Method, Uri, Version};
use memchr::memchr;
use tidegate_model::fields::{Fields, Lines};
use tidegate_model::message::{Request, RequestHead};
use tidegate_model::refusal::{self, Kind};

/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
const EMPTY_LINES_MAX: u8 = 2;
/// The most bytes of a target.
const TARGET_MAX: usize = 60 * 1024;

/// What heads are held to.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Header fields.
    pub count: usize,
    /// Bytes, the request line included.
    pub bytes: usize,
}

/// A violation: which refusal, and why in one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Violation {
    /// The refusal.
    pub kind: &'static Kind,
    /// Why.
    pub why: &'static str,
}

/// What a head says of its message and its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// It is one of HTTP/1.0.
    pub http10: bool,
    /// The length of the body, where it is announced.
    pub length: Option<u64>,
    /// The body comes in chunks.
    pub chunked: bool,
    /// It asks for an Upgrade.
    pub upgrade: bool,
    /// It waits for a "100 Continue" before it sends the body.
    pub expects: bool,
    /// The client takes trailers.
    pub trailers: bool,
    close: bool,
    keep_alive: bool,
}

impl Facts {
    /// Whether the client wants the connection to outlive the answer.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.close && (self.keep_alive || !self.http10)
    }
}

/// Where something lies in a head.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: u32,
    to: u32,
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.range()]
    }

    fn range(self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    RequestLine { empty: u8 },
    Fields,
    Trailers,
}

/// Reads one head after another.
#[derive(Debug)]
pub struct HeadReader {
    limits: HeadLimits,
    due: Due,
    /// Where the line begins that has not ended.
    at: usize,
    /// How far it was searched for its end.
    seen: usize,
    method: Span,
    target: Span,
    /// The authority of a target in absolute form.
    authority: Option<Span>,
    host: Option<Span>,
    facts: Facts,
    fields: Lines,
}

impl HeadReader {
    /// A reader before the first request.
    #[must_use]
    pub fn new(limits: HeadLimits) -> HeadReader {
        // Places in a head are told in 32 bits.
        let limits = HeadLimits { bytes: limits.bytes.min(u32::MAX as usize), ..limits };
        HeadReader {
            limits,
            due: Due::RequestLine { empty: 0 },
            at: 0,
            seen: 0,
            method: Span::default(),
            target: Span::default(),
            authority: None,
            host: None,
            facts: Facts::default(),
            fields: Lines::default(),
        }
    }

    /// A reader of the trailers of one request.
    #[must_use]
    pub fn of_trailers(limits: HeadLimits) -> HeadReader {
        HeadReader { due: Due::Trailers, ..HeadReader::new(limits) }
    }

    /// Whether a part of a head is there, of which `bytes` is all that came.
    #[must_use]
    pub fn has_begun(&self, bytes: &[u8]) -> bool {
        !matches!(self.due, Due::RequestLine { .. }) || bytes.len() > self.at
    }

    /// Reads on. `bytes` is all that came since the last head ended: what was there before, and maybe more. Tells where
    /// the head ends, once it does.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, Violation> {
        loop {
            let found = memchr(b'\n', &bytes[self.seen..]);
            let end = found.map_or(bytes.len(), |found| self.seen + found + 1);
            if end > self.limits.bytes {
                return Err(too_large("the head has too many bytes"));
            }
            self.seen = end;
            if found.is_none() {
                return Ok(None);
            }
            let (line, from) = (&bytes[self.at..end], self.at);
            let line = line.strip_suffix(b"\r\n").ok_or(malformed("a line ends with a bare LF"))?;
            self.at = end;
            match self.due {
                Due::RequestLine { empty } if line.is_empty() => {
                    if empty == EMPTY_LINES_MAX {
                        return Err(malformed("empty lines where a request line is due"));
                    }
                    self.due = Due::RequestLine { empty: empty + 1 };
                }
                Due::RequestLine { .. } => {
                    self.request_line(line, from)?;
                    self.due = Due::Fields;
                }
                Due::Fields if line.is_empty() => {
                    self.check(bytes)?;
                    return Ok(Some(end));
                }
                Due::Trailers if line.is_empty() => return Ok(Some(end)),
                Due::Fields | Due::Trailers => self.field(line, from, bytes)?,
            }
        }
    }

    /// What the head that has ended says of its message and its connection.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Makes a request of a head that has ended; `head` is all of its bytes. The next bytes begin the next one.
    ///
    /// # Errors
    /// It has a part that is too large.
    pub fn take<B>(&mut self, head: &[u8], body: B) -> Result<Request<B>, Violation> {
        let bad = malformed("the request line is not `METHOD TARGET HTTP/1.1`");
        let parts = RequestHead {
            method: Method::from_bytes(self.method.of(head)).map_err(|_| bad)?,
            uri: Uri::try_from(self.target.of(head)).map_err(|_| bad)?,
            version: if self.facts.http10 { Version::HTTP_10 } else { Version::HTTP_11 },
            headers: self.take_fields(head),
            extensions: Extensions::default(),
        };
        self.facts = Facts::default();
        (self.authority, self.host) = (None, None);
        (self.due, self.at, self.seen) = (Due::RequestLine { empty: 0 }, 0, 0);
        Ok(Request::from_parts(parts, body))
    }

    /// The fields that were read out of these bytes.
    #[must_use]
    pub fn take_fields(&mut self, bytes: &[u8]) -> Fields {
        Fields::of_lines(bytes, std::mem::take(&mut self.fields))
    }

    fn request_line(&mut self, line: &[u8], from: usize) -> Result<(), Violation> {
        let bad = malformed("the request line is not `METHOD TARGET HTTP/1.1`");
        let method_end = run(line, TOKEN);
        if line.get(method_end) != Some(&b' ') {
            return Err(if memchr(b' ', line).is_some() {
                malformed("the method is not a token")
            } else {
                bad
            });
        }
        let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
        if method.is_empty() || method.len() > 32 {
            return Err(malformed("the method is not a token"));
        }
        let target_end = target_length(rest);
        if rest.get(target_end) != Some(&b' ') {
            return Err(if memchr(b' ', rest).is_some() { BAD_TARGET } else { bad });
        }
        let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
        self.facts.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(bad),
        };
        if target.len() > TARGET_MAX {
            return Err(too_large("the target is too long"));
        }
        if target.is_empty() {
            return Err(BAD_TARGET);
        }
        if method == b"CONNECT" {
            return Err(Violation { kind: &refusal::REQUEST_METHOD, why: "CONNECT is for forward proxies" });
        }
        self.method = span(from, 0, method_end);
        self.target = span(from, method_end + 1, method_end + 1 + target_end);
        if target[0] == b'/' || (target == b"*" && method == b"OPTIONS") {
            return Ok(());
        }
        let authority = ["http://", "https://"].iter().find_map(|scheme| {
            let (head, rest) = target.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme.as_bytes()).then_some((scheme.len(), rest))
        });
        let (skipped, authority) = authority.ok_or(malformed("the target is neither a path nor a URL"))?;
        let end =
            authority.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(authority.len());
        let begin = method_end + 1 + skipped;
        self.authority = Some(span(from, begin, begin + end));
        Ok(())
    }

    fn field(&mut self, line: &[u8], from: usize, bytes: &[u8]) -> Result<(), Violation> {
        if self.fields.len() == self.limits.count {
            return Err(too_large("the head has too many fields"));
        }
        let (name, value) = split_field(line)?;
        // Where the trimmed value begins and ends.
        let begin = value.as_ptr() as usize - line.as_ptr() as usize;
        let value_at = span(from, begin, begin + value.len());
        if !self.fields.keep(bytes, from..from + name.len(), value_at.range()) {
            return Err(too_large("a field name is too long"));
        }
        if self.due == Due::Trailers {
            return match is_forbidden_trailer(name) {
                true => Err(framing("a trailer that only a header may be")),
                false => Ok(()),
            };
        }
        // The first byte and the length tell nearly all other names apart.
        match (name.len(), name[0] | 0x20) {
            (4, b'h') if is_named(name, b"host") && self.host.replace(value_at).is_some() => {
                return Err(host("there are two Host fields"));
            }
            (14, b'c') if is_named(name, b"content-length") => {
                let length = number(value).ok_or(framing("Content-Length is not a number"))?;
                if self.facts.length.replace(length).is_some() {
                    return Err(framing("there are two Content-Length fields"));
                }
            }
            (17, b't') if is_named(name, b"transfer-encoding") => {
                if self.facts.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(framing("Transfer-Encoding is anything but one `chunked`"));
                }
                self.facts.chunked = true;
            }
            (10, b'c') if is_named(name, b"connection") => {
                for option in value.split(|&byte| byte == b',') {
                    self.facts.close |= option.trim_ascii().eq_ignore_ascii_case(b"close");
                    self.facts.keep_alive |= option.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
                }
            }
            (6, b'e') if is_named(name, b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    let why = "only `100-continue` may be expected";
                    return Err(Violation { kind: &refusal::REQUEST_EXPECTATION, why });
                }
                // Whoever speaks HTTP/1.0 knows no interim responses (RFC 9110 section 10.1.1).
                self.facts.expects = !self.facts.http10;
            }
            (7, b'u') if is_named(name, b"upgrade") => self.facts.upgrade = !self.facts.http10,
            (2, b't') if is_named(name, b"te") => {
                self.facts.trailers |= value
                    .split(|&byte| byte == b',')
                    .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
            }
            _ => {}
        }
        Ok(())
    }

    /// What only the whole head tells.
    fn check(&self, bytes: &[u8]) -> Result<(), Violation> {
        if self.facts.chunked && self.facts.length.is_some() {
            return Err(framing("Content-Length stands beside Transfer-Encoding"));
        }
        if self.facts.chunked && self.facts.http10 {
            return Err(framing("HTTP/1.0 has no Transfer-Encoding"));
        }
        match (self.host.map(|host| host.of(bytes)), self.authority.map(|name| name.of(bytes))) {
            (None, _) if !self.facts.http10 => Err(host("there is no Host field")),
            (Some(field), _) if !is_authority(field) => Err(host("Host is not a host and port")),
            (_, Some(authority)) if !is_authority(authority) => {
                Err(host("the target's authority is not a host and port"))
            }
            (Some(field), Some(authority)) if !field.eq_ignore_ascii_case(authority) => {
                Err(host("Host and the target's authority differ"))
            }
            _ => Ok(()),
        }
    }
}

/// A part of a line that begins at `from`. [`HeadReader::new`] has seen to it that all of a head fits.
#[expect(clippy::cast_possible_truncation, reason = "a head has less than 2^32 bytes")]
fn span(from: usize, begin: usize, end: usize) -> Span {
    Span { from: (from + begin) as u32, to: (from + end) as u32 }
}

/// A decimal number without a sign, or with anything else but digits.
pub(crate) fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit & 15)))
}

/// Splits a field line into its name and its trimmed value.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line[0], b' ' | b'\t') {
        return Err(malformed("a field line is folded"));
    }
    let name_end = run(line, TOKEN);
    if line.get(name_end) != Some(&b':') {
        return Err(match memchr(b':', line) {
            Some(_) => malformed("a field name is not a token"),
            None => malformed("a field line has no colon"),
        });
    }
    let (name, value) = (&line[..name_end], &line[name_end + 1..]);
    if name.is_empty() {
        return Err(malformed("a field name is not a token"));
    }
    if !is_field_value(value) {
        return Err(malformed("a field value has control bytes"));
    }
    Ok((name, value.trim_ascii()))
}

fn is_forbidden_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 7] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"trailer",
        b"authorization",
        b"connection",
        b"te",
    ];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// A host name, an IPv4 or a bracketed IPv6 address, with or without port; never empty, never with userinfo.
fn is_authority(value: &[u8]) -> bool {
    let name = match value {
        [b'[', inside @ ..] => {
            let inside_length = run(inside, ADDRESS);
            if inside.get(inside_length) != Some(&b']') {
                return false;
            }
            inside_length + 2
        }
        _ => run(value, NAME),
    };
    let port_fits = match &value[name..] {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    (1..=255).contains(&name) && port_fits
}

/// What RFC 3986 lets stand in a path and query, and what browsers send unencoded all the same. `#` is not among it: a
/// fragment is the client's own.
pub(crate) fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target_length(target) == target.len()
}

/// How many bytes from the first on may be a target.
fn target_length(bytes: &[u8]) -> usize {
    let path = run(bytes, PATH);
    match bytes.get(path) {
        Some(b'?') => path + run(&bytes[path..], QUERY),
        _ => path,
    }
}

const BAD_TARGET: Violation = Violation {
    kind: &refusal::REQUEST_MALFORMED,
    why: "the target has bytes that must be percent-encoded, or a fragment",
};

fn malformed(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_MALFORMED, why }
}

pub(crate) fn framing(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_FRAMING, why }
}

fn host(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_HOST, why }
}

fn too_large(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_HEADERS_TOO_LARGE, why }
}

/// What a byte may be part of.
const TOKEN: u8 = 1;
const PATH: u8 = 2;
const QUERY: u8 = 4;
const NAME: u8 = 8;
const ADDRESS: u8 = 16;
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let tokens = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut at = 0;
    while at < tokens.len() {
        classes[tokens[at] as usize] |= TOKEN;
        at += 1;
    }
    let mut byte = 0x21;
    while byte < 0x7f {
        let common = byte != b'"' && byte != b'#' && byte != b'<' && byte != b'>';
        if common {
            classes[byte as usize] |= QUERY;
        }
        // The first `?` begins the query.
        if byte == b'"' || (common && byte != b'`' && byte != b'?') {
            classes[byte as usize] |= PATH;
        }
        if byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' || byte == b'_' {
            classes[byte as usize] |= NAME;
        }
        if byte.is_ascii_hexdigit() || byte == b':' || byte == b'.' {
            classes[byte as usize] |= ADDRESS;
        }
        byte += 1;
    }
    classes
};

/// How many bytes from the first on may stand in a field's name.
pub(crate) fn token_length(bytes: &[u8]) -> usize {
    run(bytes, TOKEN)
}

/// Whether a token is this name, which is in lower case. Of what may stand in a token, 0x20 makes a small letter of a capital one,
/// and of nothing else a letter or a hyphen.
pub(crate) fn is_named<const N: usize>(token: &[u8], name: &[u8; N]) -> bool {
    let Ok(token) = <&[u8; N]>::try_from(token) else { return false };
    token.iter().zip(name).fold(0, |differ, (byte, of_name)| differ | (byte | 0x20) ^ of_name) == 0
}

/// How many bytes from the first on are of this class.
fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|&byte| CLASSES[byte as usize] & class == 0).unwrap_or(bytes.len())
}

/// RFC 9110 section 5.5: visible bytes, space, tab and obs-text.
pub(crate) fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

/// Whether all bytes are such.
fn is_field_value(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    words.iter().all(|word| is_word_of_values(*word) || word.iter().all(|&byte| is_value(byte)))
        && rest.iter().all(|&byte| is_value(byte))
}

/// How many bytes from the first on may stand in a field's value.
pub(crate) fn value_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        let doubted = doubted(*word);
        if doubted == 0 {
            at += 8;
            continue;
        }
        // The first that is in doubt is a tab, or none.
        at += doubted.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    let rest = bytes[at..].iter().position(|&byte| !is_value(byte));
    at + rest.unwrap_or(bytes.len() - at)
}

/// Whether eight bytes are such, and none is a tab. Never true if one of them is none.
fn is_word_of_values(word: [u8; 8]) -> bool {
    doubted(word) == 0
}

/// The highest bit of each byte that is a tab or no byte of a value; above the first such byte, perhaps of others too.
fn doubted(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    // The high bit of a byte that is less than 0x20, or of one that may be, after a borrow; of one that is 0x7f.
    let low = word.wrapping_sub(ONES * 0x20) & !word;
    let del = (word ^ (ONES * 0x7f)).wrapping_sub(ONES) & !(word ^ (ONES * 0x7f));
    (low | del) & HIGH
}

#[cfg(test)]
mod tests;
