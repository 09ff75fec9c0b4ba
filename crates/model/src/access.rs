//! Who may: the decisions of authorizers, passwords and logins, and origins and headers that browsers hold an application to.

pub mod authorize;
pub mod cors;
pub mod login;
pub mod password;
pub mod sealed;
pub mod security;

use crate::fields::{Fields, Name};
use crate::headers::leave_in;

/// Takes out of these fields what is called as one of `names`, and what an application may take for it: a `_` stands for a `-`
/// where fields become variables of an environment (RFC 3875 section 4.1.18). What is said under these names afterwards stays: no
/// `Connection` of a client takes it out again.
pub fn take_out(fields: &mut Fields, names: &[http::HeaderName]) {
    if fields.keys().any(|name| names.iter().any(|own| is_alike(name, own))) {
        fields.retain(|name, _| !names.iter().any(|own| is_alike(name, own)));
    }
    leave_in(fields, names);
}

fn is_alike(name: Name<'_>, own: &http::HeaderName) -> bool {
    let one = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    let (name, own) = (name.as_bytes(), own.as_str().as_bytes());
    name.len() == own.len() && name.iter().map(one).eq(own.iter().map(one))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_looks_like_a_field_goes_with_it() {
        let mut fields = Fields::default();
        for name in ["x-user", "x_user", "x-users", "x-use"] {
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("me"));
        }
        take_out(&mut fields, &[HeaderName::from_static("x-user")]);
        assert_eq!(fields.keys().map(Name::as_str).collect::<Vec<_>>(), ["x-users", "x-use"]);
    }

    #[test]
    fn what_is_said_afterwards_no_client_takes_out_again() {
        let mut fields = Fields::default();
        for options in ["close, Remote-User", "x-hop,remote-user", "remote-user"] {
            fields.append(http::header::CONNECTION, HeaderValue::from_static(options));
        }
        let own = HeaderName::from_static("remote-user");
        for (name, value) in [("remote-user", "root"), ("x-hop", "1"), ("hop", "1")] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        take_out(&mut fields, std::slice::from_ref(&own));
        fields.append(&own, HeaderValue::from_static("me"));
        assert_eq!(fields.get(http::header::CONNECTION).unwrap(), "close, x-hop");
        crate::headers::strip_request(&mut fields);
        assert_eq!(fields.get_all(&own).map(|value| value.to_str().unwrap()).collect::<Vec<_>>(), ["me"]);
    }
}
