//! The request's path, brought to one form for routing and forwarding alike.
//!
//! What is routed is what is forwarded: a route chosen for one spelling of a path must not be sidestepped
//! by another spelling that the application reads as the same resource. After [`normalize`]:
//!
//! - the path begins with `/` and consists of RFC 3986 path characters and valid percent-escapes only;
//! - escaped unreserved characters are plain (`%61` is `a`, `%2e` is `.`), other escapes are upper case, and
//!   what no path may hold as it is (`"`, `<`, `{`, raw UTF-8, …) is escaped (RFC 3986, 6.2.2);
//! - there is no `.` or `..` segment (RFC 3986, 5.2.4), and none that leads above the root was forgiven;
//! - normalising it again changes nothing.
//!
//! Against the known confusions between a front door and the application behind it:
//!
//! | attack | here |
//! | --- | --- |
//! | `/public/../admin`, `/public/%2e%2e/admin` | resolved, so routed and forwarded as `/admin` |
//! | `/../etc/passwd` | refused: above the root |
//! | `/%61dmin` past a rule on `/admin` | decoded, so the rule matches |
//! | `/public/..%2fadmin`, `/public/..%5cadmin` | refused: a dot segment for whoever decodes the separator |
//! | `/public/..;/admin`, `/public/..;x=1/admin` (Tomcat, Jetty) | refused: a dot segment once parameters are cut off |
//! | `/public\..\admin` (IIS, URL parsers of browsers) | refused: `\` is no path character |
//! | `/a%00.png`, `/a%0d%0aSet-Cookie:` | refused: escaped control bytes |
//! | `/group%2fproject` | kept: an escaped slash is data, not a separator, in routing and in forwarding |
//! | `//admin` past a rule on `/admin` | kept, as empty segments mean something to some applications: it does not match `/admin`, so an application that merges slashes needs a catch-all route that it may be reached by |
//! | `/%252e%252e/` | kept: one layer of escapes is ours, an application that decodes twice is not mended here |
//!
//! It does not look at the query, and it does not fold case: paths are case-sensitive.

use std::borrow::Cow;

use crate::refusal::{REQUEST_PATH, Refusal};

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`.
    NotRooted,
    /// A backslash, a control byte, a space, `?` or `#`.
    Byte,
    /// A `%` without two hexadecimal digits.
    Escape,
    /// An escaped control byte: `%00` to `%1F`, `%7F`.
    EscapedControl,
    /// A dot segment that leads above the root.
    AboveRoot,
    /// A dot segment for whoever decodes `%2F` or `%5C`, or cuts off `;parameters`.
    HiddenDots,
}

impl PathError {
    /// One sentence, safe to show to the client.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            PathError::NotRooted => "The path must begin with a slash.",
            PathError::Byte => "The path holds a backslash, a space or a control byte.",
            PathError::Escape => "The path holds a '%' that is not followed by two hexadecimal digits.",
            PathError::EscapedControl => "The path holds an escaped control byte.",
            PathError::AboveRoot => "The path leads above the root.",
            PathError::HiddenDots => "The path hides a dot segment behind an escape or a parameter.",
        }
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Refusal {
        Refusal::new(&REQUEST_PATH, error.detail())
    }
}

/// The path in the one form described above; borrowed when it has that form already.
///
/// `*` (of `OPTIONS *`) passes as it is.
///
/// # Errors
/// A [`PathError`] for what cannot be brought to that form, or must not.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NotRooted);
    }
    let (spelled, dots) = respell(path)?;
    if dots { resolve(spelled) } else { Ok(spelled) }
}

/// The path with its matched prefix replaced: `/v1/x` with `/v1` matched and `/api` for it is `/api/x`.
///
/// `path` is normalised, `matched` is what the route table said of it, `with` has no trailing slash that
/// counts. The result always begins with `/`.
#[must_use]
pub fn replace_prefix(path: &str, matched: usize, with: &str) -> String {
    let rest = path.get(matched..).unwrap_or("");
    let with = with.strip_suffix('/').unwrap_or(with);
    let mut out = String::with_capacity(with.len() + rest.len() + 1);
    out.push_str(with);
    if out.is_empty() && rest.is_empty() || !out.is_empty() && !out.starts_with('/') {
        out.insert(0, '/');
    }
    if !rest.is_empty() && !rest.starts_with('/') {
        out.push('/');
    }
    out.push_str(rest);
    out
}

/// The target of a redirect: `{path}` (with its query) and `{host}` are replaced in `template`.
///
/// A target that begins with the client's path never begins with two slashes: `//evil.example` would send
/// the browser to another host.
#[must_use]
pub fn redirect_target(template: &str, host: &str, path_and_query: &str) -> String {
    let mut out = String::with_capacity(template.len() + host.len() + path_and_query.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{path}") {
            let path = if out.is_empty() || out == "/" {
                out.clear();
                out.push('/');
                path_and_query.trim_start_matches('/')
            } else if out.ends_with('/') {
                path_and_query.strip_prefix('/').unwrap_or(path_and_query)
            } else {
                path_and_query
            };
            out.push_str(path);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{host}") {
            out.push_str(host);
            rest = after;
        } else {
            out.push('{');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays as it is.
    Plain,
    /// Stays, and a dot segment may begin after it.
    Slash,
    /// Stays, and may be part of a dot segment.
    Dot,
    /// Begins an escape.
    Percent,
    /// Is escaped.
    Escaped,
    /// Is refused.
    Refused,
}

static CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut table = [Class::Escaped; 256];
    let mut byte = 0usize;
    while byte < 256 {
        // pchar of RFC 3986: unreserved, sub-delims, ":" and "@".
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Plain,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {
                Class::Plain
            }
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            0..=0x20 | 0x7f | b'\\' | b'?' | b'#' => Class::Refused,
            _ => Class::Escaped,
        };
        byte += 1;
    }
    table
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Checks every byte and spells escapes in the one way. Also says whether a dot follows a separator, plain
/// or escaped: only then can there be a dot segment.
fn respell(path: &str) -> Result<(Cow<'_, str>, bool), PathError> {
    let bytes = path.as_bytes();
    let mut out = Respelled { path, made: None, copied: 0 };
    let (mut dots, mut after_separator) = (false, false);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let class = CLASSES[usize::from(byte)];
        let mut width = 1;
        match class {
            Class::Plain => after_separator = false,
            Class::Slash => after_separator = true,
            Class::Dot => {
                dots |= after_separator;
                after_separator = false;
            }
            Class::Refused => return Err(PathError::Byte),
            Class::Escaped => {
                out.replace(at, 1, &escape(byte));
                after_separator = false;
            }
            Class::Percent => {
                let (high, low) = match bytes.get(at + 1..at + 3) {
                    Some(&[high, low]) => (high, low),
                    _ => return Err(PathError::Escape),
                };
                let (Some(h), Some(l)) = (hex(high), hex(low)) else { return Err(PathError::Escape) };
                let decoded = h << 4 | l;
                width = 3;
                if decoded < 0x20 || decoded == 0x7f {
                    return Err(PathError::EscapedControl);
                } else if unreserved(decoded) {
                    out.replace(at, 3, &[decoded]);
                    dots |= after_separator && decoded == b'.';
                } else if high.is_ascii_lowercase() || low.is_ascii_lowercase() {
                    out.replace(at, 3, &escape(decoded));
                }
                after_separator = matches!(decoded, b'/' | b'\\');
            }
        }
        at += width;
    }
    Ok((out.finish(), dots))
}

/// A path being copied from the first change on.
struct Respelled<'a> {
    path: &'a str,
    made: Option<String>,
    copied: usize,
}

impl<'a> Respelled<'a> {
    /// `ascii` instead of the `width` bytes at `at`.
    fn replace(&mut self, at: usize, width: usize, ascii: &[u8]) {
        let made = self.made.get_or_insert_with(|| String::with_capacity(self.path.len() + 16));
        // What lies between two changes is ASCII: every other byte is a change of its own, so this slice
        // never splits a character.
        made.push_str(self.path.get(self.copied..at).unwrap_or(""));
        made.extend(ascii.iter().map(|&byte| char::from(byte)));
        self.copied = at + width;
    }

    fn finish(self) -> Cow<'a, str> {
        match self.made {
            None => Cow::Borrowed(self.path),
            Some(mut made) => {
                made.push_str(self.path.get(self.copied..).unwrap_or(""));
                Cow::Owned(made)
            }
        }
    }
}

fn escape(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// Removes dot segments from a respelled path, or refuses it.
fn resolve(path: Cow<'_, str>) -> Result<Cow<'_, str>, PathError> {
    if path.split('/').any(hides_dots) {
        return Err(PathError::HiddenDots);
    }
    if !path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Ok(path);
    }
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        // A dot segment at the end names a directory.
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(Cow::Owned(out))
}

/// Whether whoever decodes separators or cuts off parameters sees a dot segment where there is none.
fn hides_dots(segment: &str) -> bool {
    if !segment.contains('.') {
        return false;
    }
    let mut pieces = 0;
    let mut dotted = false;
    let mut rest = segment;
    loop {
        let end = separator(rest);
        let piece = &rest[..end.unwrap_or(rest.len())];
        let named = piece.split(';').next().unwrap_or("");
        let named = named.find("%3B").map_or(named, |at| &named[..at]);
        dotted |= matches!(named, "." | "..") && named.len() < piece.len();
        dotted |= matches!(piece, "." | "..") && (pieces > 0 || end.is_some());
        pieces += 1;
        match end {
            Some(end) => rest = &rest[end + 3..],
            None => return dotted,
        }
    }
}

fn separator(text: &str) -> Option<usize> {
    text.match_indices('%').map(|(at, _)| at).find(|&at| matches!(text.get(at..at + 3), Some("%2F" | "%5C")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(path: &str, expected: Result<&str, PathError>) {
        assert_eq!(normalize(path).as_deref().map_err(|error| *error), expected, "{path:?}");
    }

    #[test]
    fn leaves_a_normal_path_alone_without_copying() {
        for path in
            ["/", "/v1/orders/17", "/a//b", "/.well-known/x", "/a/...", "/a%20b/%C3%A9", "/@s%2Fname", "*"]
        {
            check(path, Ok(path));
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(_))), "{path} was copied");
        }
    }

    #[test]
    fn resolves_dot_segments_however_they_are_spelled() {
        check("/a/./b/../c", Ok("/a/c"));
        check("/a/%2e%2E/b", Ok("/b"));
        check("/public/.%2e/admin", Ok("/admin"));
        check("/a/b/..", Ok("/a/"));
        check("/a/.", Ok("/a/"));
        check("/..a/b..", Ok("/..a/b.."));
        check("/a//../b", Ok("/a/b"));
        check("/a/..", Ok("/"));
    }

    #[test]
    fn refuses_what_leads_above_the_root() {
        for path in ["/..", "/../a", "/a/../../b", "/%2e%2e/etc/passwd", "/./.."] {
            check(path, Err(PathError::AboveRoot));
        }
    }

    #[test]
    fn refuses_dot_segments_hidden_from_itself() {
        for path in
            ["/a/..%2fb", "/a/..%5Cb", "/a/x%2F../b", "/a/%2e%2e%2fb", "/a/..;/b", "/a/..;x=1", "/a/.%3b/b"]
        {
            check(path, Err(PathError::HiddenDots));
        }
        check("/a/b%2Fc.d", Ok("/a/b%2Fc.d"));
        check("/a/.b;c", Ok("/a/.b;c"));
        check("/a/v..2;c", Ok("/a/v..2;c"));
    }

    #[test]
    fn refuses_bytes_that_have_no_place_in_a_path() {
        for path in ["/a\\b", "/a b", "/a\0", "/a\r\n", "/\u{7f}", "/a?b", "/a#b"] {
            check(path, Err(PathError::Byte));
        }
        for path in ["/%", "/%4", "/%zz", "/%+1", "/%%41", "/a%é"] {
            check(path, Err(PathError::Escape));
        }
        for path in ["/%00", "/a%0d%0a", "/%1F", "/%7f"] {
            check(path, Err(PathError::EscapedControl));
        }
        for path in ["", "a", "http://x/", "**"] {
            check(path, Err(PathError::NotRooted));
        }
    }

    #[test]
    fn spells_escapes_in_one_way() {
        check("/%61dmin/%7euser", Ok("/admin/~user"));
        check("/%c3%a9", Ok("/%C3%A9"));
        check("/é{x}|\"", Ok("/%C3%A9%7Bx%7D%7C%22"));
        check("/%252e%252e/", Ok("/%252e%252e/"));
    }

    #[test]
    fn replaces_a_matched_prefix() {
        for (path, matched, with, expected) in [
            ("/v1/x", 3, "/api", "/api/x"),
            ("/v1/x", 3, "/api/", "/api/x"),
            ("/v1", 3, "/api", "/api"),
            ("/v1", 3, "/", "/"),
            ("/v1/x", 3, "", "/x"),
            ("/x", 0, "/api", "/api/x"),
            ("/x", 0, "api", "/api/x"),
            ("/v1", 3, "", "/"),
        ] {
            assert_eq!(replace_prefix(path, matched, with), expected, "{path} {with}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_the_host_by_the_clients_path() {
        for (template, path, expected) in [
            ("https://{host}{path}", "/a?b=1", "https://example.com/a?b=1"),
            ("https://{host}{path}", "//evil.example", "https://example.com//evil.example"),
            ("{path}", "//evil.example", "/evil.example"),
            ("/{path}", "/evil.example", "/evil.example"),
            ("/new/{path}", "/a", "/new/a"),
            ("/fixed{x}", "/a", "/fixed{x}"),
        ] {
            assert_eq!(redirect_target(template, "example.com", path), expected);
        }
    }

    proptest! {
        #[test]
        fn is_idempotent_and_leaves_nothing_to_resolve(path in "/([a-c./;]|%2[eEfF5]|%5c|%41|\\.\\.|é){0,24}") {
            if let Ok(once) = normalize(&path) {
                let segments: Vec<&str> = once.split('/').collect();
                prop_assert!(!segments.contains(&".") && !segments.contains(&".."));
                prop_assert!(once.is_ascii() && once.starts_with('/'));
                let twice = normalize(&once).expect("a normal path is normal");
                prop_assert!(matches!(twice, Cow::Borrowed(_)), "{} -> {}", once, twice);
            }
        }

        #[test]
        fn survives_any_bytes(path in "\\PC*") {
            let _ = normalize(&path);
        }
    }
}
