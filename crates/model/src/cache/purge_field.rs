//! `Tidegate-Purge`: what an application purges with its answer to a write.
//!
//! ```text
//! Tidegate-Purge: "tag:catalogue", "path:/items/7";soft, "tenant"
//! ```
//!
//! A list of strings (RFC 9651), each of a kind and a name. With the parameter `soft` what is purged may still be served stale. A
//! member that cannot be understood is left out, a list that cannot be read has none: a word that is not understood purges
//! nothing that was not meant.

use crate::fields::Fields;
use http::HeaderName;

use crate::cache::purge::Purge;
use crate::cache::tags::Tag;

/// Members that are looked at.
const MEMBERS_MAX: usize = 128;

/// What is purged, within the tenant whose request was answered and what is public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All with this tag.
    Tag(Tag),
    /// This path of the host, whatever its query.
    Path(String),
    /// All of the tenant.
    Tenant,
}

/// What these fields say.
#[must_use]
pub fn of(fields: &Fields, name: &HeaderName) -> Vec<(What, Purge)> {
    let mut lines = Vec::new();
    for line in fields.get_all(name) {
        if !lines.is_empty() {
            lines.extend_from_slice(b", ");
        }
        lines.extend_from_slice(line.as_bytes());
    }
    if lines.is_empty() {
        return Vec::new();
    }
    let Ok(list) = sfv::Parser::new(&lines).parse::<sfv::List>() else { return Vec::new() };
    list.into_iter().take(MEMBERS_MAX).filter_map(member).collect()
}

fn member(entry: sfv::ListEntry) -> Option<(What, Purge)> {
    let sfv::ListEntry::Item(sfv::Item { bare_item: sfv::BareItem::String(text), params }) = entry else {
        return None;
    };
    let soft =
        params.iter().any(|(key, value)| key.as_str() == "soft" && *value == sfv::BareItem::Boolean(true));
    let what = match text.as_str().split_once(':') {
        Some(("tag", name)) if !name.is_empty() => What::Tag(Tag::named(name.as_bytes())),
        Some(("path", path)) if path.starts_with('/') => {
            What::Path(path.split(['?', '#']).next().unwrap_or_default().to_owned())
        }
        None if text.as_str() == "tenant" => What::Tenant,
        _ => return None,
    };
    Some((what, if soft { Purge::Soft } else { Purge::Hard }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn check(text: &'static str, expected: &[(What, Purge)]) {
        const NAME: HeaderName = HeaderName::from_static("tidegate-purge");
        let fields = Fields::from_iter([(NAME, HeaderValue::from_static(text))]);
        assert_eq!(of(&fields, &NAME), expected, "{text}");
    }

    #[test]
    fn tags_paths_and_the_tenant_are_purged_hard_or_soft() {
        check(
            r#""tag:Catalogue", "path:/items/7?x=1";soft, "tenant";soft=?0"#,
            &[
                (What::Tag(Tag::named(b"catalogue")), Purge::Hard),
                (What::Path("/items/7".to_owned()), Purge::Soft),
                (What::Tenant, Purge::Hard),
            ],
        );
    }

    #[test]
    fn what_is_not_understood_purges_nothing() {
        for text in
            ["", r#""all", "tag:", "path:x", tenant, 7, ("tag:a")"#, r#""tenant"#, "\"tenant\" \"tenant\""]
        {
            check(text, &[]);
        }
    }
}
