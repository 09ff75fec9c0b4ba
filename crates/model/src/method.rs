//! What methods promise.

use http::Method;

/// The safe method that has content (RFC 10008).
pub const QUERY: &str = "QUERY";

/// Whether a request with this method asks for nothing to be changed: it may be made again (RFC 9110 section 9.2.1; RFC 10008
/// section 2).
#[must_use]
pub fn is_safe(method: &Method) -> bool {
    method.is_safe() || method.as_str() == QUERY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_is_safe_as_get_is_and_what_writes_is_not() {
        for (method, expected) in
            [("GET", true), ("HEAD", true), ("QUERY", true), ("query", false), ("POST", false), ("X", false)]
        {
            assert_eq!(is_safe(&method.parse().unwrap()), expected, "{method}");
        }
    }
}
