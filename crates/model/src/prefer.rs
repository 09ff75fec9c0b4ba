//! What a client prefers (RFC 7240): whether it is answered later, and how long it waits for that.

use std::time::Duration;

use http::HeaderName;

use crate::fields::Fields;

/// The field.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The field that tells what was done.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What counts of it here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// It may be accepted now and made later.
    pub respond_async: bool,
    /// How long the client waits for the answer itself.
    pub wait: Option<Duration>,
}

impl Prefer {
    /// What these fields say. Preferences that are not known here, or have no meaning, are left out of account, as the RFC
    /// has it; of one that stands twice the first counts. A field that is not as its grammar says counts for nothing.
    #[must_use]
    pub fn of(fields: &Fields) -> Prefer {
        let mut prefer = Prefer::default();
        for value in fields.get_all(&PREFER).iter() {
            let mut read = prefer;
            if Reader(value.as_bytes()).list(&mut read).is_some() {
                prefer = read;
            }
        }
        prefer
    }
}

/// What is left of a field's value.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `1#preference`: preferences between commas, of which some may be empty.
    fn list(&mut self, prefer: &mut Prefer) -> Option<()> {
        loop {
            self.space();
            if !matches!(self.0.first(), None | Some(b',')) {
                let (name, value) = self.preference()?;
                note(prefer, name, value);
            }
            match self.0.split_first() {
                None => return Some(()),
                Some((b',', rest)) => self.0 = rest,
                Some(_) => return None,
            }
        }
    }

    /// `token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] )`.
    fn preference(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let preference = self.parameter()?;
        loop {
            self.space();
            let Some(rest) = self.0.strip_prefix(b";") else { return Some(preference) };
            self.0 = rest;
            self.space();
            if !matches!(self.0.first(), None | Some(b';' | b',')) {
                self.parameter()?;
            }
        }
    }

    fn parameter(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let name = self.token()?;
        self.space();
        let Some(rest) = self.0.strip_prefix(b"=") else { return Some((name, None)) };
        self.0 = rest;
        self.space();
        let value = if self.0.first() == Some(&b'"') { self.quoted()? } else { self.token()? };
        Some((name, Some(value)))
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let is = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let end = self.0.iter().position(|byte| !is(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A quoted text, as it stands between its quotes: none that counts here needs a backslash.
    fn quoted(&mut self) -> Option<&'a [u8]> {
        let inner = self.0.strip_prefix(b"\"")?;
        let mut escaped = false;
        let end = inner.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        })?;
        self.0 = &inner[end + 1..];
        Some(&inner[..end])
    }

    fn space(&mut self) {
        let end = self.0.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(self.0.len());
        self.0 = &self.0[end..];
    }
}

fn note(prefer: &mut Prefer, name: &[u8], value: Option<&[u8]>) {
    if name.eq_ignore_ascii_case(b"respond-async") && value.is_none_or(<[u8]>::is_empty) {
        prefer.respond_async = true;
    }
    if name.eq_ignore_ascii_case(b"wait") && prefer.wait.is_none() {
        let digits = value.filter(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit));
        let seconds = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        prefer.wait = seconds.map(Duration::from_secs);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Prefer {
        let mut fields = Fields::default();
        for value in values {
            fields.append(PREFER, http::HeaderValue::from_str(value).unwrap());
        }
        Prefer::of(&fields)
    }

    fn check(values: &[&str], respond_async: bool, wait: Option<u64>) {
        let expected = Prefer { respond_async, wait: wait.map(Duration::from_secs) };
        assert_eq!(read(values), expected, "{values:?}");
    }

    #[test]
    fn reads_what_counts_among_what_does_not() {
        check(&[], false, None);
        check(&["respond-async"], true, None);
        check(&["respond-async, wait=10"], true, Some(10));
        check(&["Respond-Async; foo=\"a,b\" ; ; x , WAIT = 5"], true, Some(5));
        check(&["return=minimal, handling=lenient"], false, None);
        check(&["respond-async", "wait=3"], true, Some(3));
        check(&["wait=3, wait=9", "wait=27"], false, Some(3));
        check(&[", ,respond-async,,"], true, None);
        check(&["respond-async=\"\", wait=\"7\""], true, Some(7));
    }

    #[test]
    fn what_has_no_meaning_counts_for_nothing() {
        check(&["respond-async=yes, wait=-1"], false, None);
        check(&["respond-async, wait=soon"], true, None);
        check(&["respond-async, wait"], true, None);
        check(&["wait=99999999999999999999"], false, None);
        check(&["x=\"respond-async\""], false, None);
        // A field that cannot be read counts for nothing, and spoils no other.
        check(&["respond-async wait=3"], false, None);
        check(&["respond-async, x=\"open", "wait=3"], false, Some(3));
        check(&["=, respond-async"], false, None);
    }

    proptest! {
        #[test]
        fn any_value_is_read(value in "[ -~]{0,60}") {
            read(&[&value]);
        }
    }
}
