//! The header fields of a response, out of the bytes that they were read into: each line is looked at once. Pure.
//!
//! What a server says to its connection alone (RFC 9110 section 7.6.1) is noted and left behind: whoever gets the fields
//! may tell all of them on. Values stay in the bytes they were read into.

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG,
    EXPIRES, LAST_MODIFIED, LOCATION, SERVER, SET_COOKIE, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use tidegate_model::headers;

use super::response::{HEADERS_MAX, Malformed};

/// Fields of our own that may come to those of a server: room for them is made at once.
const ROOM: usize = 2;

/// Where lines end, each at its line feed.
pub(super) type Ends = SmallVec<[usize; 24]>;

/// Fields, and what some of them say of the message itself.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Those that are told on.
    pub headers: HeaderMap,
    /// Content-Length.
    pub length: Option<u64>,
    /// Transfer-Encoding.
    pub coding: Coding,
    /// Whether the connection is to be closed.
    pub close: bool,
    /// Whether it is to be kept.
    pub keep_alive: bool,
}

/// What Transfer-Encoding says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Coding {
    /// Nothing.
    #[default]
    None,
    /// `chunked`, once.
    Chunked,
    /// Anything else.
    Other,
}

/// Finds the ends of lines from `at` on, up to an empty line. Where that ends; or from where to search on when more has
/// come.
pub(super) fn lines(bytes: &[u8], mut at: usize, ends: &mut Ends) -> Result<usize, usize> {
    loop {
        let (mut found, width) = line_feeds(&bytes[at..]);
        while found != 0 {
            let end = at + found.trailing_zeros() as usize / 8;
            found &= found - 1;
            // More than a head may have are not even noted.
            if ends.len() <= HEADERS_MAX + 2 {
                ends.push(end);
            }
            match &bytes[end + 1..] {
                [b'\n', ..] => return Ok(end + 2),
                [b'\r', b'\n', ..] => return Ok(end + 3),
                // What follows is not there yet: begin with this line end again.
                [] | [b'\r'] => return Err(end),
                _ => {}
            }
        }
        if width == 0 {
            return Err(bytes.len());
        }
        at += width;
    }
}

/// The line feeds among the next eight bytes, as the highest bits of bytes of a word; and how many bytes that are. Lines
/// are short: preparing a search by vectors would cost more than it saves.
fn line_feeds(bytes: &[u8]) -> (u64, usize) {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (word, width) = match bytes.first_chunk() {
        Some(word) => (*word, 8),
        None => {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            (word, bytes.len())
        }
    };
    // A byte that is zero now is the only one whose highest bit stays clear.
    let word = u64::from_le_bytes(word) ^ u64::from_le_bytes([b'\n'; 8]);
    (!(((word & LOW) + LOW) | word | LOW), width)
}

/// A line that ends here, without its end; and where the next one begins.
pub(super) fn line(bytes: &[u8], begin: usize, end: usize) -> (&[u8], usize) {
    let line = &bytes[begin..end];
    (line.strip_suffix(b"\r").unwrap_or(line), end + 1)
}

impl Fields {
    /// The fields whose lines begin at `begin` and end at `ends`. With `upgrade`, what an answer to an Upgrade says of it
    /// is among them.
    ///
    /// # Errors
    /// A line is no field, there are too many, or Content-Length is not one number.
    pub(super) fn of(
        bytes: &Bytes,
        begin: usize,
        ends: &[usize],
        upgrade: bool,
    ) -> Result<Fields, Malformed> {
        let mut fields = Fields { headers: HeaderMap::with_capacity(ends.len() + ROOM), ..Fields::default() };
        let mut nominates = false;
        each(bytes, begin, ends, |name, kind, value| {
            match kind {
                Kind::Message => drop(fields.headers.append(name, value)),
                Kind::Length => fields.announce(name, value)?,
                Kind::Connection => {
                    if fields.connect(&value) {
                        nominates = true;
                        fields.headers.append(name, value);
                    }
                }
                Kind::Coding => {
                    let chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
                    fields.coding = match fields.coding {
                        Coding::None if chunked => Coding::Chunked,
                        _ => Coding::Other,
                    };
                }
                Kind::Upgrade if upgrade => drop(fields.headers.append(name, value)),
                Kind::Upgrade | Kind::Hop => {}
            }
            Ok(())
        })?;
        if nominates {
            fields.leave_nominated();
        }
        Ok(fields)
    }

    /// Content-Length. Said twice alike is said once, and told so (RFC 9110 section 8.6).
    fn announce(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Malformed> {
        let (before, mut once) = (self.length, true);
        for one in value.as_bytes().split(|&byte| byte == b',') {
            let one = one.trim_ascii();
            let digits = !one.is_empty() && one.len() <= 18 && one.iter().all(u8::is_ascii_digit);
            let number = one.iter().filter(|_| digits).fold(0, |sum, digit| sum * 10 + u64::from(digit & 15));
            if !digits || self.length.is_some_and(|length| length != number) {
                return Err(Malformed("the response's Content-Length is not one number"));
            }
            once = self.length.is_none();
            self.length = Some(number);
        }
        match self.length {
            Some(length) if !once => drop(self.headers.insert(name, HeaderValue::from(length))),
            _ if before.is_none() => drop(self.headers.insert(name, value)),
            _ => {}
        }
        Ok(())
    }

    /// Connection. Whether it nominates a field.
    fn connect(&mut self, value: &HeaderValue) -> bool {
        let mut nominates = false;
        for option in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else {
                nominates |= !(option.is_empty() || option.eq_ignore_ascii_case(b"upgrade"));
            }
        }
        nominates
    }

    /// Leaves behind what Connection nominates.
    #[cold]
    fn leave_nominated(&mut self) {
        let upgrade = self.headers.remove(http::header::UPGRADE);
        headers::strip_response(&mut self.headers);
        self.headers.extend(upgrade.map(|upgrade| (http::header::UPGRADE, upgrade)));
    }
}

/// The fields of a block whose lines begin at `begin` and end at `ends`: all of them, as they are.
///
/// # Errors
/// A line is no field, or there are too many.
pub(super) fn all(bytes: &Bytes, begin: usize, ends: &[usize]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(ends.len());
    each(bytes, begin, ends, |name, _, value| {
        headers.append(name, value);
        Ok(())
    })?;
    Ok(headers)
}

/// Takes apart each line, and calls for what it says.
fn each(
    bytes: &Bytes,
    mut begin: usize,
    ends: &[usize],
    mut call: impl FnMut(HeaderName, Kind, HeaderValue) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    if ends.len() > HEADERS_MAX {
        return Err(Malformed("the response has too many header fields"));
    }
    for &end in ends {
        let (line, next) = line(bytes, begin, end);
        let colon = line.iter().position(|&byte| byte == b':').ok_or(BAD_NAME)?;
        let (name, kind) = name(&line[..colon])?;
        let (from, to) = trimmed(line, colon + 1);
        let value = HeaderValue::from_maybe_shared(bytes.slice(begin + from..begin + to))
            .map_err(|_| Malformed("a field value of the response is malformed"))?;
        begin = next;
        call(name, kind, value)?;
    }
    Ok(())
}

const BAD_NAME: Malformed = Malformed("a field name of the response is malformed");

/// Whom a field tells something.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Whoever gets the message.
    Message,
    /// How long the body is.
    Length,
    /// How it comes.
    Coding,
    Connection,
    Upgrade,
    /// The connection alone.
    Hop,
}

/// A field's name. Those that most servers send, as most of them write them, are found at once.
fn name(bytes: &[u8]) -> Result<(HeaderName, Kind), Malformed> {
    let of_message = |name| Ok((name, Kind::Message));
    match bytes {
        b"Server" | b"server" => of_message(SERVER),
        b"Date" | b"date" => of_message(DATE),
        b"Content-Type" | b"content-type" => of_message(CONTENT_TYPE),
        b"Content-Length" | b"content-length" => Ok((CONTENT_LENGTH, Kind::Length)),
        b"Connection" | b"connection" => Ok((CONNECTION, Kind::Connection)),
        b"Transfer-Encoding" | b"transfer-encoding" => Ok((TRANSFER_ENCODING, Kind::Coding)),
        b"Content-Encoding" | b"content-encoding" => of_message(CONTENT_ENCODING),
        b"Last-Modified" | b"last-modified" => of_message(LAST_MODIFIED),
        b"ETag" | b"Etag" | b"etag" => of_message(ETAG),
        b"Accept-Ranges" | b"accept-ranges" => of_message(ACCEPT_RANGES),
        b"Cache-Control" | b"cache-control" => of_message(CACHE_CONTROL),
        b"Expires" | b"expires" => of_message(EXPIRES),
        b"Vary" | b"vary" => of_message(VARY),
        b"Set-Cookie" | b"set-cookie" => of_message(SET_COOKIE),
        b"Location" | b"location" => of_message(LOCATION),
        other => {
            let name = HeaderName::from_bytes(other).map_err(|_| BAD_NAME)?;
            let kind = match name.as_str() {
                "content-length" => Kind::Length,
                "connection" => Kind::Connection,
                "transfer-encoding" => Kind::Coding,
                "upgrade" => Kind::Upgrade,
                "keep-alive" | "proxy-connection" | "te" | "proxy-authenticate" => Kind::Hop,
                _ => Kind::Message,
            };
            Ok((name, kind))
        }
    }
}

/// Where a value begins and ends, white space around it left out.
fn trimmed(line: &[u8], mut begin: usize) -> (usize, usize) {
    let is_space = |byte: u8| byte == b' ' || byte == b'\t';
    let mut end = line.len();
    while begin < end && is_space(line[begin]) {
        begin += 1;
    }
    while begin < end && is_space(line[end - 1]) {
        end -= 1;
    }
    (begin, end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The ends of the lines of a block, and where it ends.
    fn split(block: &[u8]) -> Option<(Ends, usize)> {
        let mut ends = Ends::new();
        let end = lines(block, 0, &mut ends).ok()?;
        Some((ends, end))
    }

    /// What is told on of these fields.
    fn check(block: &'static str, upgrade: bool, told: &[(&str, &str)]) {
        let bytes = Bytes::from_static(block.as_bytes());
        let (ends, _) = split(&bytes).expect("it is whole");
        let fields = Fields::of(&bytes, 0, &ends, upgrade).expect("these are fields");
        let mut found: Vec<_> =
            fields.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        found.sort_unstable();
        assert_eq!(found, told, "{block:?}");
    }

    #[test]
    fn what_belongs_to_the_connection_is_left_behind() {
        check(
            "Connection: close\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nTE: trailers\r\nServer: a\r\n\r\n",
            false,
            &[("server", "a")],
        );
        check(
            "Transfer-Encoding: chunked\nProxy-Authenticate: Basic\nTrailer: x\n\n",
            false,
            &[("trailer", "x")],
        );
        check(
            "connection: X-Hop, close\r\nx-hop: 1\r\nx-Hop2: 2\r\n\r\n",
            false,
            &[("x-hop", "1"), ("x-hop2", "2")],
        );
        check("hop: 1\r\nconnection: close, hop\r\nother: 2\r\n\r\n", false, &[("other", "2")]);
        check("Upgrade: a\r\nConnection: upgrade, hop\r\nhop: 1\r\n\r\n", true, &[("upgrade", "a")]);
    }

    #[test]
    fn a_length_that_is_said_twice_is_told_once() {
        check("content-length: 5, 5\r\nContent-Length: 5\r\n\r\n", false, &[("content-length", "5")]);
        check(
            "a: 1\r\nContent-Length:\t5 \r\na: 2\r\n\r\n",
            false,
            &[("a", "1"), ("a", "2"), ("content-length", "5")],
        );
    }

    #[test]
    fn more_fields_than_are_allowed_are_refused() {
        for (count, good) in [(HEADERS_MAX, true), (HEADERS_MAX + 1, false), (10 * HEADERS_MAX, false)] {
            let block = Bytes::from("a: b\r\n".repeat(count) + "\r\n");
            let (ends, end) = split(&block).expect("it is whole");
            assert_eq!((all(&block, 0, &ends).is_ok(), end), (good, block.len()));
        }
    }

    proptest! {
        #[test]
        fn fields_are_what_another_reader_takes_them_for(
            lines in prop::collection::vec(
                ("([Ss]erver|X-a|e[Tt]ag|[ -~]{1,3}|)", "(: |:\t?|)", "[ -~\t\r\u{e9}\u{7f}]{0,6}", "\r?\n"),
                1..6,
            ),
        ) {
            let text: String = lines.iter().map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}")).collect();
            let block = Bytes::from(text + "\r\n");
            let Some((ends, end)) = split(&block) else { return Ok(()) };
            let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let theirs = match httparse::parse_headers(&block[..end], &mut room) {
                Ok(httparse::Status::Complete((length, fields))) if length == end => {
                    let pair = |field: &httparse::Header<'_>| (field.name.to_lowercase(), field.value.to_vec());
                    Some(fields.iter().map(pair).collect::<Vec<_>>())
                }
                _ => None,
            };
            let ours = all(&block.slice(..end), 0, &ends).ok();
            let ours = ours.map(|headers| {
                headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect::<Vec<_>>()
            });
            // A map keeps fields of one name together.
            let sorted = |fields: Option<Vec<(String, Vec<u8>)>>| fields.map(|mut fields| {
                fields.sort_by(|one, other| one.0.cmp(&other.0));
                fields
            });
            prop_assert_eq!(sorted(ours), sorted(theirs));
        }
    }
}
