//! The header fields of a response, out of the bytes that they were read into: each line is looked at once. Pure.
//!
//! What a server says to its connection alone (RFC 9110 section 7.6.1) is noted and left behind: whoever gets the fields
//! may tell all of them on.

use std::ops::Range;

use http::header::{CONTENT_LENGTH, UPGRADE};
use tidegate_model::fields::{Fields as Told, Lines, Value};
use tidegate_model::headers;

use super::response::{HEADERS_MAX, Malformed};
use crate::request_head::{is_named, number, token_length, value_length};

/// Fields, and what some of them say of the message itself.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Those that are told on.
    pub headers: Told,
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

/// Finds the end of lines that begin before `at`: an empty one. Where that ends; or from where to search on when more has come.
pub(super) fn end_of_lines(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    loop {
        let (mut found, width) = line_feeds(&bytes[at..]);
        while found != 0 {
            let end = at + found.trailing_zeros() as usize / 8;
            found &= found - 1;
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

/// Whether a line ends here, and where the next one begins then. `None`: that is not known yet.
pub(super) fn line_end(bytes: &[u8], at: usize) -> Option<Result<usize, NoEnd>> {
    match &bytes[at..] {
        [] | [b'\r'] => None,
        [b'\n', ..] => Some(Ok(at + 1)),
        [b'\r', b'\n', ..] => Some(Ok(at + 2)),
        _ => Some(Err(NoEnd)),
    }
}

/// No line ends there.
pub(super) struct NoEnd;

impl Fields {
    /// The fields whose lines begin at `begin`, and where they end. `None`: they have not come whole. With `upgrade`, what an
    /// answer to an Upgrade says of it is among them.
    ///
    /// # Errors
    /// A line is no field, there are too many, or Content-Length is not one number.
    pub(super) fn of(
        bytes: &[u8],
        begin: usize,
        upgrade: bool,
    ) -> Result<Option<(Fields, usize)>, Malformed> {
        let (mut fields, mut lines) = (Fields::default(), Lines::default());
        let (mut at, mut count, mut nominates, mut again) = (begin, 0, false, false);
        let end = loop {
            let (Place { name, value }, next) = match next(bytes, at)? {
                Next::Field(place, next) => (place, next),
                Next::End(end) => break end,
                Next::More => return Ok(None),
            };
            count += 1;
            if count > HEADERS_MAX {
                return Err(TOO_MANY);
            }
            at = next;
            let said = &bytes[value.clone()];
            let kept = match kind(&bytes[name.clone()]) {
                Kind::Message => true,
                Kind::Length => {
                    let first = fields.length.is_none();
                    again |= !first | fields.announce(said)?;
                    first
                }
                Kind::Connection => {
                    let nominating = fields.connect(said);
                    nominates |= nominating;
                    nominating
                }
                Kind::Coding => {
                    let chunked = said.eq_ignore_ascii_case(b"chunked");
                    fields.coding = match fields.coding {
                        Coding::None if chunked => Coding::Chunked,
                        _ => Coding::Other,
                    };
                    false
                }
                Kind::Upgrade => upgrade,
                Kind::Hop => false,
            };
            if kept && !lines.keep(bytes, name, value) {
                return Err(BAD_NAME);
            }
        };
        fields.headers = Told::of_lines(&bytes[..end], lines);
        if let Some(length) = fields.length.filter(|_| again) {
            fields.headers.insert(CONTENT_LENGTH, length);
        }
        if nominates {
            fields.leave_nominated();
        }
        Ok(Some((fields, end)))
    }

    /// Content-Length. Said twice alike is said once, and told so (RFC 9110 section 8.6): whether one value says it twice.
    fn announce(&mut self, value: &[u8]) -> Result<bool, Malformed> {
        let mut times = 0;
        for one in value.split(|&byte| byte == b',') {
            let length = number(one.trim_ascii());
            if length.is_none() || self.length.is_some_and(|length_before| Some(length_before) != length) {
                return Err(Malformed("the response's Content-Length is not one number"));
            }
            (self.length, times) = (length, times + 1);
        }
        Ok(times > 1)
    }

    /// Connection. Whether it nominates a field.
    fn connect(&mut self, value: &[u8]) -> bool {
        if value == b"keep-alive" {
            // What nearly all say who say anything.
            self.keep_alive = true;
            return false;
        }
        let mut nominates = false;
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
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
        let upgrade = self.headers.get(UPGRADE).map(Value::owned);
        headers::strip_response(&mut self.headers);
        self.headers.extend(upgrade.map(|upgrade| (UPGRADE, upgrade)));
    }
}

/// The fields of a block of lines, that ends with an empty one: all of them, as they are.
///
/// # Errors
/// A line is no field, or there are too many.
pub(super) fn all(block: &[u8]) -> Result<Told, Malformed> {
    let (mut lines, mut at) = (Lines::default(), 0);
    loop {
        match next(block, at)? {
            Next::Field(Place { name, value }, next) => {
                if lines.len() == HEADERS_MAX {
                    return Err(TOO_MANY);
                }
                if !lines.keep(block, name, value) {
                    return Err(BAD_NAME);
                }
                at = next;
            }
            Next::End(end) if end == block.len() => return Ok(Told::of_lines(block, lines)),
            // An empty line that not everybody takes for one would hide what follows.
            Next::End(_) | Next::More => return Err(BAD_NAME),
        }
    }
}

/// Where a name and its value are.
struct Place {
    name: Range<usize>,
    value: Range<usize>,
}

/// What comes next in a block of lines.
enum Next {
    /// A field, and where the next line begins.
    Field(Place, usize),
    /// The empty line, and where it ends.
    End(usize),
    /// The line has not come whole.
    More,
}

/// Takes the line apart that begins here.
#[inline(always)]
fn next(bytes: &[u8], at: usize) -> Result<Next, Malformed> {
    let name_end = at + token_length(&bytes[at..]);
    match bytes.get(name_end) {
        Some(b':') if name_end > at => {}
        _ if name_end == at => {
            return match line_end(bytes, at) {
                None => Ok(Next::More),
                Some(Ok(end)) => Ok(Next::End(end)),
                Some(Err(NoEnd)) => Err(BAD_NAME),
            };
        }
        None => return Ok(Next::More),
        Some(_) => return Err(BAD_NAME),
    }
    let begin = name_end + 1;
    let end = begin + value_length(&bytes[begin..]);
    match line_end(bytes, end) {
        None => Ok(Next::More),
        Some(Ok(next)) => {
            Ok(Next::Field(Place { name: at..name_end, value: trimmed(bytes, begin, end) }, next))
        }
        Some(Err(NoEnd)) => Err(Malformed("a field value of the response is malformed")),
    }
}

const TOO_MANY: Malformed = Malformed("the response has too many header fields");
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

/// What a field of this name is for. The length and the first byte tell nearly all others apart.
fn kind(name: &[u8]) -> Kind {
    let (is, kind) = match (name.len(), name[0] | 0x20) {
        (14, b'c') => (is_named(name, b"content-length"), Kind::Length),
        (10, b'c') => (is_named(name, b"connection"), Kind::Connection),
        (17, b't') => (is_named(name, b"transfer-encoding"), Kind::Coding),
        (7, b'u') => (is_named(name, b"upgrade"), Kind::Upgrade),
        (10, b'k') => (is_named(name, b"keep-alive"), Kind::Hop),
        (16, b'p') => (is_named(name, b"proxy-connection"), Kind::Hop),
        (2, b't') => (is_named(name, b"te"), Kind::Hop),
        (18, b'p') => (is_named(name, b"proxy-authenticate"), Kind::Hop),
        _ => return Kind::Message,
    };
    if is { kind } else { Kind::Message }
}

/// Where a value begins and ends, white space around it left out.
fn trimmed(bytes: &[u8], mut begin: usize, mut end: usize) -> Range<usize> {
    let is_space = |byte: u8| byte == b' ' || byte == b'\t';
    while begin < end && is_space(bytes[begin]) {
        begin += 1;
    }
    while begin < end && is_space(bytes[end - 1]) {
        end -= 1;
    }
    begin..end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is told on of these fields.
    fn check(block: &'static str, upgrade: bool, told: &[(&str, &str)]) {
        let whole = Fields::of(block.as_bytes(), 0, upgrade).expect("these are fields");
        let (fields, end) = whole.expect("it is whole");
        assert_eq!(end, block.len());
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
            let block = "a: b\r\n".repeat(count) + "\r\n";
            let end = end_of_lines(block.as_bytes(), 0).expect("it is whole");
            assert_eq!((all(block.as_bytes()).is_ok(), end), (good, block.len()));
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
            let block = (text + "\r\n").into_bytes();
            let Ok(end) = end_of_lines(&block, 0) else { return Ok(()) };
            let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let theirs = match httparse::parse_headers(&block[..end], &mut room) {
                Ok(httparse::Status::Complete((length, fields))) if length == end => {
                    let pair = |field: &httparse::Header<'_>| (field.name.to_lowercase(), field.value.to_vec());
                    Some(fields.iter().map(pair).collect::<Vec<_>>())
                }
                _ => None,
            };
            let ours = all(&block[..end]).ok();
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
