//! The framing guard: what reaches hyper is always the bytes of one well-formed HTTP/1 request after another.
//!
//! hyper accepts what a proxy must not (a bare LF as line end, Content-Length beside Transfer-Encoding, no Host or two
//! of them). The guard stands between the socket and hyper, looks at each byte once and refuses whatever two
//! implementations could read differently (RFC 9112 sections 2.2, 3, 5, 6, 7 and 11.2). It is pure: bytes in, verdict out,
//! the same for any split of the bytes.
//!
//! It does not decode anything: hyper does, from the same bytes.

use memchr::memchr;
use tidegate_model::refusal::{self, Kind};

/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
const EMPTY_LINES_MAX: u8 = 2;
/// The most bytes of a chunk's size line, extensions included.
const CHUNK_LINE_MAX: usize = 256;
/// The most bytes of a target.
const TARGET_MAX: usize = 60 * 1024;
/// The most hexadecimal digits of a chunk's size.
const CHUNK_DIGITS_MAX: usize = 15;

/// What a guard holds heads to.
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

/// Where the guard stands between two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before a request's first byte.
    Idle,
    /// Inside a head.
    Head,
    /// Inside a body, chunk framing and trailers included.
    Body,
    /// After a request that asks for an Upgrade: nothing may follow until it is decided.
    Undecided,
    /// After an Upgrade: everything passes.
    Tunnel,
}

/// The guard of one connection.
#[derive(Debug)]
pub struct Guard {
    limits: HeadLimits,
    state: State,
    head: Head,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RequestLine { empty: u8 },
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd { seen_cr: bool },
    Trailers,
    Undecided,
    Tunnel,
}

/// What is known of the head under way.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    count: usize,
    http10: bool,
    /// The authority of a target in absolute form.
    authority: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

impl Guard {
    /// A guard before the first request.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Guard {
        Guard { limits, state: State::RequestLine { empty: 0 }, head: Head::default(), partial: Vec::new() }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.state {
            State::RequestLine { .. } if self.partial.is_empty() => Phase::Idle,
            State::RequestLine { .. } | State::Fields => Phase::Head,
            State::Body(_)
            | State::ChunkSize
            | State::ChunkData(_)
            | State::ChunkEnd { .. }
            | State::Trailers => Phase::Body,
            State::Undecided => Phase::Undecided,
            State::Tunnel => Phase::Tunnel,
        }
    }

    /// Whether the last head was one of HTTP/1.0.
    #[must_use]
    pub fn is_http10(&self) -> bool {
        self.head.http10
    }

    /// Says how an Upgrade was decided: everything passes from now on, or the next request comes.
    pub fn decide(&mut self, upgraded: bool) {
        if self.state == State::Undecided {
            self.state = if upgraded { State::Tunnel } else { State::RequestLine { empty: 0 } };
        }
    }

    /// The beginning of a line that did not end yet. It is held until the line is known to be good.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        &self.partial
    }

    /// Looks at the next bytes. The first `n` may pass; what lies behind them begins a line, and is [held](Guard::held).
    /// As soon as any of the next bytes may pass, so may what was held before them.
    ///
    /// # Errors
    /// What is wrong, and how many of the bytes lie before the line that is; if that is none, what was held is part
    /// of it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, (usize, Violation)> {
        let mut at = 0;
        let mut passed = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Tunnel => rest.len(),
                State::Undecided => {
                    return Err((at, framing("bytes follow a request for an Upgrade before it is answered")));
                }
                State::Body(left) => {
                    let taken = take(left, rest);
                    self.state = match left - taken as u64 {
                        0 => self.finished(),
                        left => State::Body(left),
                    };
                    taken
                }
                State::ChunkData(left) => {
                    let taken = take(left, rest);
                    self.state = match left - taken as u64 {
                        0 => State::ChunkEnd { seen_cr: false },
                        left => State::ChunkData(left),
                    };
                    taken
                }
                State::ChunkEnd { seen_cr } => {
                    let expected = if seen_cr { b'\n' } else { b'\r' };
                    if rest[0] != expected {
                        return Err((at, framing("a chunk is longer than its size")));
                    }
                    self.state = if seen_cr { State::ChunkSize } else { State::ChunkEnd { seen_cr: true } };
                    1
                }
                State::RequestLine { .. } | State::Fields | State::ChunkSize | State::Trailers => {
                    self.line(rest).map_err(|violation| (at, violation))?
                }
            };
            if self.partial.is_empty() {
                passed = at;
            }
        }
        Ok(passed)
    }

    /// Takes one line, or the part of it that is there.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let Some(end) = memchr(b'\n', rest) else {
            self.grow(rest.len())?;
            self.partial.extend_from_slice(rest);
            return Ok(rest.len());
        };
        let taken = end + 1;
        self.grow(taken)?;
        if self.partial.is_empty() {
            self.whole_line(&rest[..taken])?;
        } else {
            // Its memory is not kept: most connections never need it.
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..taken]);
            self.whole_line(&line)?;
        }
        Ok(taken)
    }

    /// Bounds heads, trailers and chunk size lines.
    fn grow(&mut self, by: usize) -> Result<(), Violation> {
        if self.state == State::ChunkSize {
            return match self.partial.len() + by <= CHUNK_LINE_MAX {
                true => Ok(()),
                false => Err(framing("a chunk's size line is too long")),
            };
        }
        self.head.bytes += by;
        if self.head.bytes > self.limits.bytes {
            return Err(Violation {
                kind: &refusal::REQUEST_HEADERS_TOO_LARGE,
                why: "the head has too many bytes",
            });
        }
        Ok(())
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(malformed("a line ends with a bare LF"));
        };
        match self.state {
            State::RequestLine { empty } if line.is_empty() => {
                if empty == EMPTY_LINES_MAX {
                    return Err(malformed("empty lines where a request line is due"));
                }
                self.state = State::RequestLine { empty: empty + 1 };
            }
            State::RequestLine { .. } => {
                let bytes = self.head.bytes;
                self.head = Head { bytes, ..Head::default() };
                self.head.request_line(line)?;
                self.state = State::Fields;
            }
            State::Fields if line.is_empty() => self.state = self.head_ended()?,
            State::Fields => {
                self.head.count += 1;
                if self.head.count > self.limits.count {
                    return Err(Violation {
                        kind: &refusal::REQUEST_HEADERS_TOO_LARGE,
                        why: "the head has too many fields",
                    });
                }
                self.head.field(line)?;
            }
            State::ChunkSize => self.state = self.chunk_size(line)?,
            State::Trailers if line.is_empty() => self.state = self.finished(),
            State::Trailers => {
                self.head.count += 1;
                if self.head.count > self.limits.count {
                    return Err(Violation {
                        kind: &refusal::REQUEST_HEADERS_TOO_LARGE,
                        why: "there are too many trailers",
                    });
                }
                trailer(line)?;
            }
            State::Body(_)
            | State::ChunkData(_)
            | State::ChunkEnd { .. }
            | State::Undecided
            | State::Tunnel => {
                unreachable!("these have no lines")
            }
        }
        Ok(())
    }

    fn head_ended(&mut self) -> Result<State, Violation> {
        self.head.check()?;
        Ok(match (self.head.chunked, self.head.length) {
            (true, _) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Body(length),
            (false, _) => self.finished(),
        })
    }

    fn finished(&mut self) -> State {
        self.head.bytes = 0;
        if self.head.upgrade { State::Undecided } else { State::RequestLine { empty: 0 } }
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<State, Violation> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits == 0 || digits > CHUNK_DIGITS_MAX {
            return Err(framing("a chunk's size is not a hexadecimal number"));
        }
        let extension = &line[digits..];
        if !(extension.is_empty() || extension[0] == b';') || !extension.iter().all(|&byte| is_value(byte)) {
            return Err(framing("a chunk's size is followed by something that is no extension"));
        }
        let size = line[..digits].iter().fold(0u64, |size, &digit| {
            size << 4 | u64::from((digit as char).to_digit(16).unwrap_or_default())
        });
        if size > 0 {
            return Ok(State::ChunkData(size));
        }
        self.head.bytes = 0;
        self.head.count = 0;
        Ok(State::Trailers)
    }
}

impl Head {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let bad = malformed("the request line is not `METHOD TARGET HTTP/1.1`");
        let method_end = memchr(b' ', line).ok_or(bad)?;
        let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
        let target_end = memchr(b' ', rest).ok_or(bad)?;
        let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
        if method.is_empty() || method.len() > 32 || !method.iter().all(|&byte| is_token(byte)) {
            return Err(malformed("the method is not a token"));
        }
        self.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(bad),
        };
        if target.len() > TARGET_MAX {
            let why = "the target is too long";
            return Err(Violation { kind: &refusal::REQUEST_HEADERS_TOO_LARGE, why });
        }
        if !is_target(target) {
            return Err(malformed("the target has bytes that must be percent-encoded, or a fragment"));
        }
        if method == b"CONNECT" {
            return Err(Violation { kind: &refusal::REQUEST_METHOD, why: "CONNECT is for forward proxies" });
        }
        if target[0] == b'/' || (target == b"*" && method == b"OPTIONS") {
            return Ok(());
        }
        let authority = ["http://", "https://"].iter().find_map(|scheme| {
            let (head, rest) = target.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        });
        let authority = authority.ok_or(malformed("the target is neither a path nor a URL"))?;
        let end =
            authority.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(authority.len());
        self.authority = Some(authority[..end].to_ascii_lowercase());
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = split_field(line)?;
        // The first byte and the length tell nearly all other names apart.
        match (name.len(), name[0] | 0x20) {
            (4, b'h')
                if name.eq_ignore_ascii_case(b"host")
                    && self.host.replace(value.to_ascii_lowercase()).is_some() =>
            {
                return Err(host("there are two Host fields"));
            }
            (14, b'c') if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
                let number =
                    std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
                let number = number.ok_or(framing("Content-Length is not a number"))?;
                if self.length.replace(number).is_some() {
                    return Err(framing("there are two Content-Length fields"));
                }
            }
            (17, b't') if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(framing("Transfer-Encoding is anything but one `chunked`"));
                }
                self.chunked = true;
            }
            (6, b'e')
                if name.eq_ignore_ascii_case(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") =>
            {
                let why = "only `100-continue` may be expected";
                return Err(Violation { kind: &refusal::REQUEST_EXPECTATION, why });
            }
            (7, b'u') if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = !self.http10,
            _ => {}
        }
        Ok(())
    }

    /// What only the whole head tells.
    fn check(&self) -> Result<(), Violation> {
        if self.chunked && self.length.is_some() {
            return Err(framing("Content-Length stands beside Transfer-Encoding"));
        }
        if self.chunked && self.http10 {
            return Err(framing("HTTP/1.0 has no Transfer-Encoding"));
        }
        match (&self.host, &self.authority) {
            (None, _) if !self.http10 => Err(host("there is no Host field")),
            (Some(host_field), _) if !is_authority(host_field) => Err(host("Host is not a host and port")),
            (_, Some(authority)) if !is_authority(authority) => {
                Err(host("the target's authority is not a host and port"))
            }
            (Some(host_field), Some(authority)) if host_field != authority => {
                Err(host("Host and the target's authority differ"))
            }
            _ => Ok(()),
        }
    }
}

/// Splits a field line into its name and its trimmed value.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line[0], b' ' | b'\t') {
        return Err(malformed("a field line is folded"));
    }
    let colon = memchr(b':', line).ok_or(malformed("a field line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(malformed("a field name is not a token"));
    }
    if !value.iter().all(|&byte| is_value(byte)) {
        return Err(malformed("a field value has control bytes"));
    }
    Ok((name, value.trim_ascii()))
}

fn trailer(line: &[u8]) -> Result<(), Violation> {
    const FORBIDDEN: [&[u8]; 7] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"trailer",
        b"authorization",
        b"connection",
        b"te",
    ];
    let (name, _) = split_field(line)?;
    match FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
        true => Err(framing("a trailer that only a header may be")),
        false => Ok(()),
    }
}

/// A host name, an IPv4 or a bracketed IPv6 address, with or without port; never empty, never with userinfo.
fn is_authority(value: &[u8]) -> bool {
    let (name, port) = match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], &value[colon + 1..]),
        _ => (value, &value[value.len()..]),
    };
    let port_fits = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let name_fits = match name {
        [b'[', inside @ .., b']'] => {
            inside.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        _ => name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')),
    };
    !name.is_empty() && name.len() <= 255 && port_fits && name_fits
}

/// What RFC 3986 lets stand in a path and query, and what browsers send unencoded all the same. `#` is not among it: a
/// fragment is the client's own.
pub(crate) fn is_target(target: &[u8]) -> bool {
    let path = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let common = |byte: u8| byte == b'!' || (byte > b'#' && byte < 0x7f && !matches!(byte, b'<' | b'>'));
    !target.is_empty()
        && target[..path].iter().all(|&byte| byte == b'"' || (common(byte) && byte != b'`'))
        && target[path..].iter().all(|&byte| common(byte))
}

fn take(left: u64, rest: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(rest.len())
}

fn malformed(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_MALFORMED, why }
}

fn framing(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_FRAMING, why }
}

fn host(why: &'static str) -> Violation {
    Violation { kind: &refusal::REQUEST_HOST, why }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let tokens = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut at = 0;
        while at < tokens.len() {
            table[tokens[at] as usize] = true;
            at += 1;
        }
        table
    };
    TABLE[byte as usize]
}

/// RFC 9110 section 5.5: visible bytes, space, tab and obs-text.
fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests;
