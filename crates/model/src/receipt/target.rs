//! A request's target as a receipt keeps it: in memory of its own.
//!
//! `http::Uri` is a slice of the buffer that the request was read into. Recent receipts are kept for a while, and each
//! would keep such a buffer, of 8 KiB at least, from being used again for the next request.

use http::Uri;
use smallvec::SmallVec;

/// Path and query of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// UTF-8. Most targets fit without an allocation.
    bytes: SmallVec<[u8; 64]>,
    path_length: usize,
}

impl Target {
    /// A target without query.
    #[must_use]
    pub fn of_path(path: &str) -> Target {
        Target { bytes: SmallVec::from_slice(path.as_bytes()), path_length: path.len() }
    }

    /// The path, then the query if it is wanted.
    #[must_use]
    pub fn text(&self, query: bool) -> &str {
        let bytes = if query { &self.bytes[..] } else { &self.bytes[..self.path_length] };
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text(false)
    }

    /// Forgets what is longer than `most` bytes, the query first.
    pub fn shorten(&mut self, most: usize) {
        if self.bytes.len() > most {
            let keep = self.text(true).floor_char_boundary(most);
            self.bytes = SmallVec::from_slice(&self.bytes[..keep]);
            self.path_length = self.path_length.min(keep);
        }
    }
}

impl From<&Uri> for Target {
    fn from(uri: &Uri) -> Target {
        let whole = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        Target {
            bytes: SmallVec::from_slice(whole.as_bytes()),
            path_length: uri.path().len().min(whole.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, path: &str, whole: &str) {
        let target = Target::from(&uri.parse::<Uri>().unwrap());
        assert_eq!((target.path(), target.text(true)), (path, whole), "{uri}");
    }

    #[test]
    fn tells_path_and_query() {
        check("/a/b?c=d&e", "/a/b", "/a/b?c=d&e");
        check("/a", "/a", "/a");
        check("http://example.com/a?b", "/a", "/a?b");
        check("http://example.com", "/", "/");
        check("example.com:443", "", "");
        check("*", "*", "*");
        check(
            &format!("/{}?q", "x".repeat(100)),
            &format!("/{}", "x".repeat(100)),
            &format!("/{}?q", "x".repeat(100)),
        );
    }

    #[test]
    fn lets_go_of_the_buffer_that_the_request_was_read_into() {
        let buffer = bytes::Bytes::from(b"/path".repeat(100));
        let uri = Uri::from_maybe_shared(buffer.clone()).unwrap();
        let target = Target::from(&uri);
        drop(uri);
        assert!(buffer.is_unique(), "{target:?}");
    }

    #[test]
    fn forgets_the_end_of_what_is_long() {
        let mut target = Target::from(&"/path?query".parse::<Uri>().unwrap());
        target.shorten(11);
        assert_eq!(target.text(true), "/path?query");
        target.shorten(7);
        assert_eq!((target.path(), target.text(true)), ("/path", "/path?q"));
        target.shorten(3);
        assert_eq!((target.path(), target.text(true)), ("/pa", "/pa"));
    }
}
