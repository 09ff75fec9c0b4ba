//! The request's host, brought to one form: lower case, without port, without trailing dot.
//!
//! Routes, tenants and certificates are looked up by it, so two spellings of one host must not find two
//! routes. Only letters, digits, `-`, `_` and `.` make a name: whatever else RFC 3986 lets a `reg-name` hold
//! (escapes, sub-delims) has no use in HTTP but to confuse the next parser. International names come as
//! their A-labels (`xn--…`). An IPv6 literal is written as RFC 5952 has it, in brackets.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::refusal::{REQUEST_HOST, Refusal};

/// The longest name (RFC 1035), without a trailing dot.
pub const HOST_BYTES_MAX: usize = 253;

/// The longest label of a name (RFC 1035).
pub const LABEL_BYTES_MAX: usize = 63;

/// Why a host was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// It is empty.
    Empty,
    /// It, or one of its labels, is longer than a name may be.
    TooLong,
    /// An empty label: two dots in a row, or one at the beginning.
    EmptyLabel,
    /// A byte that no host name holds.
    Byte,
    /// Brackets around what is no IPv6 address.
    Ipv6,
    /// What follows the colon is no port.
    Port,
}

impl HostError {
    /// One sentence, safe to show to the client.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            HostError::Empty => "The request names no host.",
            HostError::TooLong => "The host is longer than a host name may be.",
            HostError::EmptyLabel => "The host has an empty label.",
            HostError::Byte => "The host holds a character that no host name has.",
            HostError::Ipv6 => "The host is no valid IPv6 literal.",
            HostError::Port => "The host's port is no number from 0 to 65535.",
        }
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Refusal {
        Refusal::new(&REQUEST_HOST, error.detail())
    }
}

/// The host of an authority (`Host`, `:authority`) in the one form described above; borrowed when its
/// spelling is that already.
///
/// # Errors
/// A [`HostError`] for what is no host with an optional port. User information is refused too.
pub fn normalize(authority: &str) -> Result<Cow<'_, str>, HostError> {
    if let Some(rest) = authority.strip_prefix('[') {
        return literal(authority, rest);
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    check_port(port)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let upper = check_name(name)?;
    Ok(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// Checks a name; says whether it has upper-case letters.
fn check_name(name: &str) -> Result<bool, HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    let (mut upper, mut label) = (false, 0);
    for byte in name.bytes() {
        match byte {
            b'.' if label == 0 => return Err(HostError::EmptyLabel),
            b'.' => {
                label = 0;
                continue;
            }
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => upper = true,
            _ => return Err(HostError::Byte),
        }
        label += 1;
        if label > LABEL_BYTES_MAX {
            return Err(HostError::TooLong);
        }
    }
    if label == 0 { Err(HostError::EmptyLabel) } else { Ok(upper) }
}

fn check_port(port: Option<&str>) -> Result<(), HostError> {
    // RFC 3986 lets a port be empty.
    match port {
        None | Some("") => Ok(()),
        Some(port) if port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(HostError::Port)
        }
        Some(port) => port.parse::<u16>().map(drop).map_err(|_| HostError::Port),
    }
}

fn literal<'a>(authority: &'a str, after_bracket: &str) -> Result<Cow<'a, str>, HostError> {
    let (address, rest) = after_bracket.split_once(']').ok_or(HostError::Ipv6)?;
    match rest.strip_prefix(':') {
        Some(port) => check_port(Some(port))?,
        None if rest.is_empty() => {}
        None => return Err(HostError::Port),
    }
    let parsed: Ipv6Addr = address.parse().map_err(|_| HostError::Ipv6)?;
    let spelled = format!("[{parsed}]");
    Ok(match authority.get(..spelled.len()) {
        Some(same) if same == spelled => Cow::Borrowed(same),
        _ => Cow::Owned(spelled),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(authority: &str, expected: Result<&str, HostError>) {
        assert_eq!(normalize(authority).as_deref().map_err(|error| *error), expected, "{authority:?}");
    }

    #[test]
    fn borrows_a_name_that_is_in_the_one_form() {
        for name in ["example.com", "localhost", "a_b.example", "10.0.0.1", "[::1]", "xn--bcher-kva.example"]
        {
            check(name, Ok(name));
            assert!(matches!(normalize(name), Ok(Cow::Borrowed(_))), "{name} was copied");
        }
        assert!(matches!(normalize("example.com.:8443"), Ok(Cow::Borrowed("example.com"))));
    }

    #[test]
    fn takes_off_case_port_and_trailing_dot() {
        check("API.Example.COM:8080", Ok("api.example.com"));
        check("example.com.", Ok("example.com"));
        check("example.com:", Ok("example.com"));
        check("[::1]:8080", Ok("[::1]"));
        check("[0:0:0:0:0:0:0:1]", Ok("[::1]"));
        check("[2001:DB8::A]:1", Ok("[2001:db8::a]"));
    }

    #[test]
    fn refuses_what_is_no_host() {
        check("", Err(HostError::Empty));
        check(":80", Err(HostError::Empty));
        check(".", Err(HostError::Empty));
        check(".example.com", Err(HostError::EmptyLabel));
        check("a..b", Err(HostError::EmptyLabel));
        check("a.b..", Err(HostError::EmptyLabel));
        for host in ["a b", "user@host", "a/b", "a%2eb", "bücher.example", "a,b", "a\0b", "a;b", "a\\b", "*"]
        {
            check(host, Err(HostError::Byte));
        }
        for host in ["a:b", "a:65536", "a:123456", "a:80:80", "a:+80", "[::1]80", "[::1]x:80", "::1"] {
            let error = normalize(host).expect_err(host);
            assert!(matches!(error, HostError::Port | HostError::Empty), "{host}: {error:?}");
        }
        for host in ["[", "[]", "[::1", "[fe80::1%25eth0]", "[v1.x]", "[1.2.3.4]"] {
            check(host, Err(HostError::Ipv6));
        }
        check(&"a".repeat(64), Err(HostError::TooLong));
        check(&"abc.".repeat(70), Err(HostError::TooLong));
    }

    proptest! {
        #[test]
        fn is_idempotent(authority in "([aA.0-]{0,12}|\\[[0-9a-f:.]{0,12}\\])(:[0-9]{0,6})?") {
            if let Ok(once) = normalize(&authority) {
                prop_assert_eq!(normalize(&once).expect("a normal host is normal"), once.clone());
                prop_assert!(!once.ends_with('.') && !once.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }

        #[test]
        fn survives_any_bytes(authority in "\\PC*") {
            let _ = normalize(&authority);
        }
    }
}
