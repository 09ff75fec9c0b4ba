//! Headers by which a browser is told to be careful with an answer.
//!
//! What the application says itself counts, unless the operator wants it replaced. `Strict-Transport-Security` is said over TLS
//! alone: a browser ignores it elsewhere (RFC 6797 section 7.2).

use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderName, HeaderValue};

use crate::fields::Fields;

/// What is said beside the application's own fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Names and values.
    pub say: Vec<(HeaderName, HeaderValue)>,
    /// Instead of what the application says.
    pub replace: bool,
}

impl Security {
    /// Says it in an answer, which goes over TLS or does not.
    pub fn put(&self, answer: &mut Fields, tls: bool) {
        for (name, value) in &self.say {
            let goes = tls || *name != STRICT_TRANSPORT_SECURITY;
            if goes && (self.replace || !answer.contains_key(name)) {
                answer.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: HeaderName = HeaderName::from_static("x-frame-options");

    fn check(replace: bool, tls: bool, frame: &'static str, hsts: bool) {
        let say = vec![
            (FRAME, HeaderValue::from_static("DENY")),
            (STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=1")),
        ];
        let mut answer = Fields::default();
        answer.append(FRAME, HeaderValue::from_static("SAMEORIGIN"));
        Security { say, replace }.put(&mut answer, tls);
        assert_eq!(answer.get(FRAME).unwrap(), frame);
        assert_eq!(answer.contains_key(STRICT_TRANSPORT_SECURITY), hsts);
    }

    #[test]
    fn the_application_is_believed_unless_it_is_to_be_replaced_and_tls_is_demanded_over_tls() {
        check(false, true, "SAMEORIGIN", true);
        check(false, false, "SAMEORIGIN", false);
        check(true, true, "DENY", true);
    }
}
