//! The key of an answer: everything that the route says makes two requests different, and always tenant, scheme and host.
//!
//! ```text
//! key = digest(tenant | public, route, scheme, host, port, path, query as the route reads it, content, what steers,
//!              chosen headers, chosen cookies)
//! ```
//!
//! A key is a digest of 256 bits cut to 128: nobody can make two that meet. Every part is written with its length before it, so
//! that none runs into the next. What is not in the key and changes the answer must not be stored: the stage strips or refuses it.

use crate::fields::Fields;
use http::HeaderName;
use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, COOKIE};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// The key of an answer, all its variants included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u128);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// Which parameters of a query count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parameters {
    /// All.
    #[default]
    All,
    /// None.
    Ignored,
    /// These alone.
    Only(Vec<String>),
    /// All but these. A name that ends in `*` is the beginning of many (`utm_*`).
    Without(Vec<String>),
}

/// Hosts whose answers are one host's: several names that the operator says are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases(HashMap<Box<str>, Arc<str>>);

impl Aliases {
    /// Each name, and the one that it stands for. All in lower case; none stands for one that stands for another.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = (Box<str>, Arc<str>)>) -> Aliases {
        Aliases(names.into_iter().collect())
    }

    /// The host that this one is an alias of, if it is one.
    #[must_use]
    pub fn of(&self, host: &str) -> Option<&Arc<str>> {
        // Mostly there are none, and nothing is hashed.
        if self.0.is_empty() { None } else { self.0.get(host) }
    }

    /// By which names a host is purged: as the one that it stands for and, since another node may not know of that yet, by
    /// its own.
    pub fn names<'h>(&'h self, host: &'h str) -> impl Iterator<Item = &'h str> {
        self.of(host).map(|one| &**one).into_iter().chain([host])
    }
}

/// What of a request makes its answer another one, besides tenant, scheme, host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which parameters of the query.
    pub parameters: Parameters,
    /// Whether their order counts. Parameters of one name keep theirs.
    pub ordered: bool,
    /// Which headers.
    pub headers: Vec<HeaderName>,
    /// Which cookies.
    pub cookies: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The tenant; `None`: the route declares its content public.
    pub tenant: Option<&'a str>,
    /// The route: two that one path may lead to answer differently.
    pub route: &'a str,
    /// Whether it came by TLS.
    pub https: bool,
    /// The host, in lower case, or the one it is an alias of.
    pub host: &'a str,
    /// The port, where one is named: applications write it into links.
    pub port: Option<&'a str>,
    /// The path, normalised as the router reads it.
    pub path: &'a str,
    /// The query, without its mark.
    pub query: Option<&'a str>,
    /// The digest of the content, where the method has it in the key (QUERY, RFC 10008): see [`content`].
    pub content: Option<&'a [u8]>,
    /// What else the upstream may answer by: see [`steers`].
    pub steering: Option<&'a [u8]>,
}

/// Fields that frameworks take for host, scheme, port or path, whoever sent them. What comes of them is kept apart by them:
/// one client's must not become what others are answered. In lower case.
#[must_use]
pub fn steers(name: &str) -> bool {
    matches!(
        name,
        "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-scheme"
            | "x-forwarded-protocol"
            | "x-forwarded-ssl"
            | "x-forwarded-port"
            | "x-forwarded-prefix"
            | "x-forwarded-path"
            | "x-forwarded-server"
            | "x-forwarded-uri"
            | "x-original-host"
            | "x-original-url"
            | "x-original-uri"
            | "x-rewrite-url"
            | "x-script-name"
            | "x-host"
            | "x-url-scheme"
            | "front-end-https"
    )
}

/// Fields by which a request may mean another method than it names: what is answered then is no answer to GET.
#[must_use]
pub fn overrides_method(name: &str) -> bool {
    matches!(name, "x-http-method-override" | "x-http-method" | "x-method-override")
}

/// What the content of a request is in a key: its bytes, and what says how they are meant (RFC 10008 section 2.7). Bytes
/// alone might mean two things.
#[must_use]
pub fn content(request: &Fields, bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(b"content");
    let mut part = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
        let lines: Vec<&[u8]> =
            request.get_all(&name).iter().map(|line| line.as_bytes().trim_ascii()).collect();
        part(&(lines.len() as u64).to_le_bytes());
        lines.into_iter().for_each(&mut part);
    }
    part(bytes);
    hash.finalize().into()
}

impl Key {
    /// The key of a request.
    #[must_use]
    pub fn of(target: &Target<'_>, request: &Fields, rules: &Rules) -> Key {
        // Gathered first: a digest takes one piece for half of what many cost it, and an ordinary key is one block of it.
        let mut said = SmallVec::<[u8; 256]>::new();
        let mut part = |bytes: Option<&[u8]>| {
            let mut length = bytes.map_or(0, |bytes| bytes.len() + 1);
            while length > 0x7f {
                said.push(length as u8 | 0x80);
                length >>= 7;
            }
            said.push(length as u8);
            said.extend_from_slice(bytes.unwrap_or_default());
        };
        part(target.tenant.map(str::as_bytes));
        part(Some(target.route.as_bytes()));
        part(target.https.then_some(b"s"));
        part(Some(target.host.as_bytes()));
        part(target.port.map(str::as_bytes));
        part(Some(target.path.as_bytes()));
        let query = target.query.and_then(|query| rules.query(query));
        part(query.as_deref().map(str::as_bytes));
        part(target.content);
        part(target.steering);
        for name in &rules.headers {
            let lines: Vec<&[u8]> =
                request.get_all(name).iter().map(|line| line.as_bytes().trim_ascii()).collect();
            part((!lines.is_empty()).then(|| lines.join(&b","[..])).as_deref());
        }
        for name in &rules.cookies {
            part(cookie(request, name));
        }
        Key::cut(&Sha256::digest(&said))
    }

    /// The key of one variant of a target's answers. `number` tells the lists of varying fields apart that it has had.
    #[must_use]
    pub fn variant(self, number: u64, variant: &[u8]) -> Key {
        let mut hash = Sha256::new_with_prefix(b"variant");
        hash.update(self.0.to_le_bytes());
        hash.update(number.to_le_bytes());
        hash.update(variant);
        Key::cut(&hash.finalize())
    }

    fn cut(digest: &[u8]) -> Key {
        Key(u128::from_le_bytes(digest[..16].try_into().expect("a digest has 32 bytes")))
    }
}

impl Rules {
    /// The query as it counts; `None`: nothing of it does.
    fn query<'q>(&self, query: &'q str) -> Option<Cow<'q, str>> {
        if self.parameters == Parameters::All && (self.ordered || !query.contains('&')) {
            return Some(Cow::Borrowed(query));
        }
        let counts = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            match &self.parameters {
                Parameters::All => true,
                Parameters::Ignored => false,
                // What the application may read as another name, or as several parameters, is left out under no name.
                _ if !is_plain(name) || parameter.contains(';') => true,
                Parameters::Only(names) => {
                    let name = name.to_ascii_lowercase();
                    names.iter().any(|pattern| is_named(&name, &pattern.to_ascii_lowercase()))
                }
                Parameters::Without(names) => !names.iter().any(|pattern| is_named(name, pattern)),
            }
        };
        let mut left: Vec<&str> = query.split('&').filter(counts).collect();
        if !self.ordered {
            // Stable: of one name, the order may mean something.
            left.sort_by_key(|parameter| parameter.split('=').next().unwrap_or_default());
        }
        (!left.is_empty()).then(|| Cow::Owned(left.join("&")))
    }
}

fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// Whether all applications read this name alike.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A cookie's value: of the first of its name.
fn cookie<'r>(request: &'r Fields, name: &str) -> Option<&'r [u8]> {
    let crumbs = request.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    crumbs.map(<[u8]>::trim_ascii).find_map(|crumb| crumb.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const TARGET: Target<'static> = Target {
        tenant: Some("acme"),
        route: "r",
        https: true,
        host: "a",
        port: None,
        path: "/x",
        query: None,
        content: None,
        steering: None,
    };

    fn key(target: Target<'_>, rules: &Rules) -> Key {
        Key::of(&target, &Fields::default(), rules)
    }

    fn same(rules: &Rules, one: &str, other: &str, expected: bool) {
        let of = |query| key(Target { query: Some(query), ..TARGET }, rules);
        assert_eq!(of(one) == of(other), expected, "{one} {other}");
    }

    #[test]
    fn tenant_route_scheme_host_port_path_and_what_steers_are_always_in_it() {
        let all = [
            TARGET,
            Target { tenant: None, ..TARGET },
            Target { tenant: Some("other"), ..TARGET },
            Target { https: false, ..TARGET },
            Target { route: "s", ..TARGET },
            Target { host: "b", ..TARGET },
            Target { port: Some("8080"), ..TARGET },
            Target { steering: Some(b"a"), ..TARGET },
            Target { path: "/y", ..TARGET },
            Target { query: Some("a"), ..TARGET },
            Target { content: Some(b"a"), ..TARGET },
            Target { host: "a/", path: "x", ..TARGET },
        ];
        let keys: std::collections::HashSet<Key> =
            all.into_iter().map(|target| key(target, &Rules::default())).collect();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn an_alias_is_purged_as_what_it_stands_for_too() {
        let aliases = Aliases::new([("www.a".into(), "a".into())]);
        assert_eq!(aliases.of("www.a").map(|one| &**one), Some("a"));
        assert_eq!((aliases.of("a"), aliases.of("b.www.a")), (None, None));
        assert_eq!(aliases.names("www.a").collect::<Vec<_>>(), ["a", "www.a"]);
        assert_eq!(aliases.names("a").collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn content_is_what_it_says_and_how_it_is_meant() {
        let of = |lines: &[(&'static str, &'static str)], bytes: &str| {
            let line = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            content(&Fields::from_iter(lines.iter().map(line)), bytes.as_bytes())
        };
        let all = [
            of(&[], ""),
            of(&[], "a"),
            of(&[("content-type", "a")], ""),
            of(&[("content-type", "a")], "a"),
            of(&[("content-type", "b")], "a"),
            of(&[("content-encoding", "a")], "a"),
            of(&[("content-language", "a")], "a"),
            of(&[("content-type", "a"), ("content-encoding", "gzip")], "a"),
            of(&[("content-type", "a"), ("content-type", "b")], "a"),
            of(&[("content-type", "a, b")], "a"),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(
            all[1],
            of(&[("accept", "x"), ("content-length", "1")], "a"),
            "what else is there is not in it"
        );
    }

    #[test]
    fn parameters_are_sorted_by_name_and_keep_their_order_within_it() {
        let rules = Rules::default();
        same(&rules, "b=1&a=2", "a=2&b=1", true);
        same(&rules, "a=1&a=2", "a=2&a=1", false);
        same(&rules, "a=1", "a=2", false);
        same(&Rules { ordered: true, ..rules }, "b=1&a=2", "a=2&b=1", false);
    }

    #[test]
    fn parameters_are_chosen_or_left_out() {
        let only = Rules { parameters: Parameters::Only(vec!["page".to_owned()]), ..Rules::default() };
        same(&only, "page=1&x=2", "page=1", true);
        same(&only, "page=1", "page=2", false);
        let without = Rules {
            parameters: Parameters::Without(vec!["utm_*".to_owned(), "gclid".to_owned()]),
            ..Rules::default()
        };
        same(&without, "a=1&utm_source=x&gclid=y", "a=1", true);
        same(&without, "gclid2=1", "gclid2=2", false);
        for cloaked in ["utm_x=1;a=2", "utm_x=1;a", "utm%5fx=1", "utm_x[]=1"] {
            same(&without, cloaked, "a=1", false);
            same(&only, cloaked, "page=1", false);
        }
        same(&only, "PAGE=2", "page=1", false);
        let none = Rules { parameters: Parameters::Ignored, ..Rules::default() };
        same(&none, "a=1", "b", true);
        assert_eq!(key(Target { query: Some("a"), ..TARGET }, &none), key(TARGET, &none));
    }

    #[test]
    fn chosen_headers_and_cookies_are_in_it_and_others_are_not() {
        let rules = Rules {
            headers: vec![HeaderName::from_static("x-class")],
            cookies: vec!["lang".to_owned()],
            ..Rules::default()
        };
        let of = |lines: &[(&'static str, &'static str)]| {
            let line = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            Key::of(&TARGET, &Fields::from_iter(lines.iter().map(line)), &rules)
        };
        let base = of(&[]);
        assert_eq!(base, of(&[("x-other", "1"), ("cookie", "a=b; language=de")]));
        assert_ne!(base, of(&[("x-class", "")]));
        assert_ne!(of(&[("x-class", "phone")]), of(&[("x-class", "desk")]));
        assert_eq!(of(&[("cookie", "a=b;lang=de")]), of(&[("cookie", "lang=de; c=d")]));
        assert_ne!(of(&[("cookie", "lang=de")]), base);
        assert_ne!(of(&[("cookie", "lang=x")]), of(&[("x-class", "x")]));
    }

    proptest! {
        #[test]
        fn what_counts_of_a_query_counts_the_same_whatever_is_added(query in "[ab]=[0-9](&[ab]=[0-9]){0,3}", noise in "utm_[a-z]=[0-9]") {
            let rules = Rules { parameters: Parameters::Without(vec!["utm_*".to_owned()]), ..Rules::default() };
            let with = format!("{noise}&{query}&{noise}");
            prop_assert_eq!(rules.query(&with), rules.query(&query));
        }

        #[test]
        fn no_tenant_meets_another_nor_what_is_public_whatever_else_is_asked(
            one in proptest::option::of("[a-z0-9/\\-]{0,8}"),
            other in proptest::option::of("[a-z0-9/\\-]{0,8}"),
            path in "/[a-z/]{0,12}",
            query in proptest::option::of("[a-z=&]{0,12}"),
            class in "[ -~]{0,12}",
        ) {
            let rules = Rules { headers: vec![HeaderName::from_static("x-class")], ..Rules::default() };
            let request =
                Fields::from_iter([(HeaderName::from_static("x-class"), HeaderValue::from_str(&class).unwrap())]);
            let of = |tenant: &Option<String>| {
                let target = Target { tenant: tenant.as_deref(), path: &path, query: query.as_deref(), ..TARGET };
                Key::of(&target, &request, &rules)
            };
            prop_assert_eq!(of(&one) == of(&other), one == other);
        }

        #[test]
        fn no_two_targets_are_one_by_where_their_parts_are_cut(
            host in "[a-c/]{0,3}", path in "[a-c/]{0,3}", query in "[a-c/]{0,3}",
            other_host in "[a-c/]{0,3}", other_path in "[a-c/]{0,3}", other_query in "[a-c/]{0,3}",
        ) {
            let of = |host: &str, path: &str, query: &str| {
                let target = Target { host, path, query: Some(query), ..TARGET };
                Key::of(&target, &Fields::default(), &Rules::default())
            };
            let same = (&host, &path, &query) == (&other_host, &other_path, &other_query);
            prop_assert_eq!(of(&host, &path, &query) == of(&other_host, &other_path, &other_query), same);
        }

        #[test]
        fn parameters_in_any_order_are_one_key_and_with_any_other_value_another(
            values in proptest::collection::btree_map("[a-z]{1,4}", "[0-9]{0,3}", 1..6),
            by in 0usize..6,
            which in 0usize..6,
        ) {
            let line = |pairs: &[(String, String)]| {
                pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
            };
            let mut pairs: Vec<(String, String)> = values.into_iter().collect();
            let rules = Rules::default();
            let query = line(&pairs);
            let before = rules.query(&query);
            let by = by % pairs.len();
            pairs.rotate_left(by);
            let rotated = line(&pairs);
            prop_assert_eq!(rules.query(&rotated), before.clone());
            let which = which % pairs.len();
            pairs[which].1.push('9');
            let other = line(&pairs);
            prop_assert!(rules.query(&other) != before);
        }

        #[test]
        fn a_chosen_cookie_counts_wherever_it_stands_and_no_other_does(
            value in "[a-z0-9]{0,6}",
            noise in proptest::collection::vec("[a-z]{2,5}=[a-z0-9]{0,4}", 0..5),
            place in 0usize..6,
        ) {
            let rules = Rules { cookies: vec!["L".to_owned()], ..Rules::default() };
            let of = |crumbs: &[String]| {
                let line = HeaderValue::from_str(&crumbs.join("; ")).unwrap();
                Key::of(&TARGET, &Fields::from_iter([(COOKIE, line)]), &rules)
            };
            let own = format!("L={value}");
            let mut crumbs = noise;
            crumbs.insert(place.min(crumbs.len()), own.clone());
            prop_assert_eq!(of(&crumbs), of(&[own]));
            prop_assert_ne!(of(&crumbs), of(&[format!("L={value}x")]));
        }
    }
}
