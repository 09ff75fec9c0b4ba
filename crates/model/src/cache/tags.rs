//! The names by which an answer can be purged: `Cache-Tag`, `Surrogate-Key`, and cache groups (RFC 9875).
//!
//! A tag is kept as 128 bits of its digest with its kind: what is purged is compared, never shown. The application says
//! which tags an answer has; who asks for it cannot. An answer with more tags than are kept is not kept itself, since it
//! could not be purged.

use crate::fields::Fields;
use http::HeaderName;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

/// Comma-separated tags, as most CDNs have them.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Space-separated tags, as Fastly and Varnish have them.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// The groups of an answer: a list of strings.
pub const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
/// The groups that a write makes invalid.
pub const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// RFC 9875 asks for 128 groups at least.
pub const TAGS_MAX: usize = 128;
/// RFC 9875 asks for 128 characters at least; tags of applications are longer.
const TAG_BYTES_MAX: usize = 1024;

/// A name by which answers can be purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u128);

impl Tag {
    /// A tag, in any case (as every CDN has it).
    #[must_use]
    pub fn named(name: &[u8]) -> Tag {
        Tag::digest(b"tag", &[&name.to_ascii_lowercase()])
    }

    /// A group. It ends at its origin (RFC 9875 section 2.1), and its name is compared as it is.
    #[must_use]
    pub fn group(origin: &[u8], name: &[u8]) -> Tag {
        Tag::digest(b"group", &[origin, name])
    }

    fn digest(kind: &[u8], parts: &[&[u8]]) -> Tag {
        let mut hash = Sha256::new_with_prefix(kind);
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        Tag(u128::from_le_bytes(digest[..16].try_into().expect("a digest has 32 bytes")))
    }
}

/// Its tags were more, or longer, than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// The tags of an answer: sorted, each once.
///
/// # Errors
/// There are more than are kept.
pub fn of(response: &Fields, origin: &[u8]) -> Result<SmallVec<[Tag; 4]>, TooMany> {
    let mut tags = SmallVec::new();
    for (name, apart) in [(&CACHE_TAG, b','), (&SURROGATE_KEY, b' ')] {
        for line in response.get_all(name) {
            let names = line.as_bytes().split(|&byte| byte == apart).map(<[u8]>::trim_ascii);
            for name in names.filter(|name| !name.is_empty()) {
                keep(&mut tags, name, Tag::named)?;
            }
        }
    }
    for name in groups(response, &CACHE_GROUPS) {
        keep(&mut tags, name.as_bytes(), |name| Tag::group(origin, name))?;
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// The groups that the answer to a write makes invalid. To be looked at only where the method is not safe (RFC 9875
/// section 3).
#[must_use]
pub fn invalidated(response: &Fields, origin: &[u8]) -> SmallVec<[Tag; 4]> {
    let names = groups(response, &CACHE_GROUP_INVALIDATION).into_iter().take(TAGS_MAX);
    names.map(|name| Tag::group(origin, name.as_bytes())).collect()
}

fn keep(tags: &mut SmallVec<[Tag; 4]>, name: &[u8], tag: impl FnOnce(&[u8]) -> Tag) -> Result<(), TooMany> {
    if tags.len() == TAGS_MAX || name.len() > TAG_BYTES_MAX {
        return Err(TooMany);
    }
    tags.push(tag(name));
    Ok(())
}

/// The strings of a list of structured fields. A list that cannot be read, or has a member of another type, has none
/// (RFC 9875 section 2: such members are ignored; RFC 9651 section 4.2: a malformed field is).
fn groups(response: &Fields, name: &HeaderName) -> Vec<String> {
    let mut lines = Vec::new();
    for line in response.get_all(name) {
        if !lines.is_empty() {
            lines.extend_from_slice(b", ");
        }
        lines.extend_from_slice(line.as_bytes());
    }
    let Ok(list) = sfv::Parser::new(&lines).parse::<sfv::List>() else { return Vec::new() };
    let strings = list.into_iter().filter_map(|entry| match entry {
        sfv::ListEntry::Item(sfv::Item { bare_item: sfv::BareItem::String(text), .. }) => {
            Some(text.as_str().to_owned())
        }
        _ => None,
    });
    strings.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn map(lines: &[(&HeaderName, &str)]) -> Fields {
        let mut map = Fields::default();
        for (name, value) in lines {
            map.append((*name).clone(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn tags_come_by_three_fields_and_count_once() {
        let response = map(&[
            (&CACHE_TAG, "a, B,,c"),
            (&SURROGATE_KEY, "b  d"),
            (&CACHE_GROUPS, "\"a\", \"e\";x, tok, 5"),
        ]);
        let mut expected = ["a", "b", "c", "d"].map(|name| Tag::named(name.as_bytes())).to_vec();
        expected.extend(["a", "e"].map(|name| Tag::group(b"https://x", name.as_bytes())));
        expected.sort_unstable();
        assert_eq!(of(&response, b"https://x").unwrap().to_vec(), expected);
    }

    #[test]
    fn rfc_9875_section_2_1_a_group_ends_at_its_origin_and_minds_case() {
        assert_ne!(Tag::group(b"https://x", b"a"), Tag::group(b"https://y", b"a"));
        assert_ne!(Tag::group(b"https://x", b"a"), Tag::group(b"https://x", b"A"));
        assert_ne!(Tag::group(b"ab", b"c"), Tag::group(b"a", b"bc"));
    }

    #[test]
    fn rfc_9875_section_2_holds_128_groups_of_128_characters() {
        let long = "x".repeat(120);
        let groups: Vec<String> = (0..TAGS_MAX).map(|n| format!("\"{long}{n:08}\"")).collect();
        let tags = of(&map(&[(&CACHE_GROUPS, &groups.join(", "))]), b"o").unwrap();
        assert_eq!(tags.len(), TAGS_MAX);
    }

    #[test]
    fn more_tags_than_are_kept_are_told() {
        let many: String = (0..=TAGS_MAX).map(|n| format!("{n},")).collect();
        assert_eq!(of(&map(&[(&CACHE_TAG, &many)]), b"o"), Err(TooMany));
        let long = "x".repeat(TAG_BYTES_MAX + 1);
        assert_eq!(of(&map(&[(&CACHE_TAG, &long)]), b"o"), Err(TooMany));
    }

    #[test]
    fn what_is_malformed_is_no_group() {
        assert!(of(&map(&[(&CACHE_GROUPS, "\"a\", \"b")]), b"o").unwrap().is_empty());
        assert_eq!(
            invalidated(&map(&[(&CACHE_GROUP_INVALIDATION, "\"a\"")]), b"o").to_vec(),
            [Tag::group(b"o", b"a")]
        );
    }
}
