//! Who may: the decisions of authorizers, origins and headers that browsers hold an application to.

pub mod authorize;
pub mod cors;
pub mod password;
pub mod security;

use crate::fields::{Fields, Name};

/// Takes out of these fields what is called as one of `names`, and what an application may take for it: a `_` stands for a `-`
/// where fields become variables of an environment (RFC 3875 section 4.1.18).
pub fn take_out(fields: &mut Fields, names: &[http::HeaderName]) {
    if fields.keys().any(|name| names.iter().any(|own| is_alike(name, own))) {
        fields.retain(|name, _| !names.iter().any(|own| is_alike(name, own)));
    }
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
}
