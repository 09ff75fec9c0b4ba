//! Parameters as they stand in a query or a form (`application/x-www-form-urlencoded`).

use std::collections::{BTreeMap, BTreeSet};

/// Parameters of one query that are read.
const PARAMETERS_MAX: usize = 32;

/// The parameters of a query. One that stands twice is none (RFC 6749 section 3.1).
#[must_use]
pub fn parameters(query: &str) -> BTreeMap<String, String> {
    let (mut all, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for pair in query.split('&').take(PARAMETERS_MAX) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(name), Some(value)) = (decode(name), decode(value))
            && all.insert(name.clone(), value).is_some()
        {
            twice.insert(name);
        }
    }
    all.retain(|name, _| !twice.contains(name));
    all
}

fn decode(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(out).ok()
}

/// Parameters as they stand in a query or a form.
#[must_use]
pub fn form(parameters: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if !out.is_empty() {
            out.push('&');
        }
        encode(&mut out, name);
        out.push('=');
        encode(&mut out, value);
    }
    out
}

/// A URL with these parameters besides its own.
#[must_use]
pub fn with(url: &str, parameters: &[(&str, &str)]) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}{}", form(parameters))
}

/// Writes a text so that it stands for itself in a query.
pub fn encode(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_read_as_they_are_written() {
        let written = form(&[("a", "b c&d=é"), ("x", "")]);
        assert_eq!(written, "a=b%20c%26d%3D%C3%A9&x=");
        let read = parameters(&format!("{written}&p=1+2&twice=1&twice=2&bad=%zz&sign=%+1&cut=%4"));
        let expected = [("a", "b c&d=é"), ("p", "1 2"), ("x", "")];
        assert_eq!(read, BTreeMap::from(expected.map(|(a, b)| (a.to_owned(), b.to_owned()))));
        assert_eq!(with("https://a/x?y=1", &[("z", "2")]), "https://a/x?y=1&z=2");
        assert_eq!(parameters(&"a&".repeat(100)).len(), 0);
        let many: Vec<String> = (0..100).map(|n| format!("p{n}=1")).collect();
        assert_eq!(parameters(&many.join("&")).len(), PARAMETERS_MAX);
    }

    proptest! {
        #[test]
        fn any_text_stands_for_itself(name in "\\PC{1,8}", value in "\\PC{0,16}") {
            let read = parameters(&form(&[(&name, &value)]));
            prop_assert_eq!(read.get(&name), Some(&value));
        }

        #[test]
        fn foreign_queries_break_nothing(query in "[ -~]{0,60}") {
            let _ = parameters(&query);
        }
    }
}
