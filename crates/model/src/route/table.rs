//! The table that finds a request's route.
//!
//! One look-up for the host (and one for each label of it, down to the longest wildcard there is), one for
//! the exact path, one for each segment of the path, down to the longest prefix there is: the cost grows
//! neither with the number of routes nor of hosts. Only routes of the same host *and* path are gone through
//! one by one. A look-up allocates nothing.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use http::{HeaderValue, Method};

use crate::fields::Fields;

use super::{HeaderCondition, HostPattern, Match, PathPattern};

/// An immutable table of routes.
#[derive(Debug)]
pub struct Table<T> {
    exact: Map<Paths<T>>,
    /// By suffix, with its leading dot.
    wildcard: Map<Paths<T>>,
    /// Dots in the longest wildcard: a longer rest of a host is not looked up.
    wildcard_dots_max: usize,
    any: Paths<T>,
}

/// What a request found.
#[derive(Debug)]
pub enum Found<'a, 'r, T> {
    /// A route, and how many bytes of the path its pattern covers.
    Route(&'a T, usize),
    /// Routes for this path, none for this method.
    MethodNotAllowed(Allowed<'a, 'r, T>),
    /// No route.
    NotFound,
}

/// Two routes that one request could match with equal right, by their places in what the table was built of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// The earlier.
    pub first: usize,
    /// The later.
    pub second: usize,
}

/// The methods that a path does serve.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a, 'r, T> {
    rules: &'a [Rule<T>],
    headers: &'r Fields,
}

/// A map by names of the configuration. Foreign bytes are only looked up in it, never put there, so it needs
/// no hash that withstands flooding, and gets a fast one.
type Map<V> = HashMap<Box<str>, V, BuildHasherDefault<Fold>>;

/// The paths of one host.
#[derive(Debug)]
struct Paths<T> {
    exact: Map<Vec<Rule<T>>>,
    /// A trie of prefixes by segment; the first node is the root.
    nodes: Vec<Node<T>>,
}

/// A prefix, or a step on the way to one.
#[derive(Debug)]
struct Node<T> {
    parent: usize,
    /// Bytes of the path that it covers.
    len: usize,
    children: Map<usize>,
    rules: Vec<Rule<T>>,
}

/// One route, without what led to it. A path's rules are sorted: more header conditions first.
#[derive(Debug)]
struct Rule<T> {
    headers: Vec<HeaderCondition>,
    methods: Vec<Method>,
    /// Its place in what the table was built of.
    place: usize,
    route: T,
}

impl<T> Table<T> {
    /// A table of these routes.
    ///
    /// # Errors
    /// The ties: each route that ties with an earlier one, once.
    pub fn build(routes: Vec<(Match, T)>) -> Result<Table<T>, Vec<Tie>> {
        let mut table = Table {
            exact: Map::default(),
            wildcard: Map::default(),
            wildcard_dots_max: 0,
            any: Paths::default(),
        };
        for (place, (matches, route)) in routes.into_iter().enumerate() {
            let paths = match matches.host {
                HostPattern::Any => &mut table.any,
                HostPattern::Exact(name) => table.exact.entry(name.into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    let dots = suffix.bytes().filter(|&byte| byte == b'.').count();
                    table.wildcard_dots_max = table.wildcard_dots_max.max(dots);
                    table.wildcard.entry(suffix.into()).or_default()
                }
            };
            // The same condition said twice is one condition.
            let mut headers: Vec<HeaderCondition> = Vec::with_capacity(matches.headers.len());
            for condition in matches.headers {
                if !headers.contains(&condition) {
                    headers.push(condition);
                }
            }
            paths.rules_at(matches.path).push(Rule { headers, methods: matches.methods, place, route });
        }
        let mut ties = Vec::new();
        for paths in table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]) {
            for rules in paths.exact.values_mut().chain(paths.nodes.iter_mut().map(|node| &mut node.rules)) {
                find_ties(rules, &mut ties);
                rules.sort_by_key(|rule| Reverse(rule.headers.len()));
            }
        }
        ties.sort_by_key(|tie| tie.second);
        if ties.is_empty() { Ok(table) } else { Err(ties) }
    }

    /// The route of a request, its host and path normalised.
    pub fn find<'a, 'r>(
        &'a self,
        host: &str,
        path: &str,
        method: &Method,
        headers: &'r Fields,
    ) -> Found<'a, 'r, T> {
        let request = Request { path, method, headers };
        if let Some(found) = self.exact.get(host).and_then(|paths| paths.find(&request)) {
            return found;
        }
        if !self.wildcard.is_empty() {
            // From the left, so the longest suffix comes first.
            let mut dots = host.bytes().filter(|&byte| byte == b'.').count();
            for (at, _) in host.match_indices('.') {
                if dots <= self.wildcard_dots_max
                    && let Some(found) = self.wildcard.get(&host[at..]).and_then(|paths| paths.find(&request))
                {
                    return found;
                }
                dots -= 1;
            }
        }
        self.any.find(&request).unwrap_or(Found::NotFound)
    }
}

/// What is looked for, within one host.
struct Request<'r, 'a> {
    path: &'r str,
    method: &'r Method,
    headers: &'a Fields,
}

impl<T> Paths<T> {
    /// The rules of this pattern, created as needed.
    fn rules_at(&mut self, pattern: PathPattern) -> &mut Vec<Rule<T>> {
        let prefix = match pattern {
            PathPattern::Exact(path) => return self.exact.entry(path.into()).or_default(),
            PathPattern::Prefix(prefix) => prefix,
        };
        let mut at = 0;
        for segment in prefix.split('/').skip(1) {
            let next = self.nodes.len();
            let len = self.nodes[at].len + 1 + segment.len();
            let child = *self.nodes[at].children.entry(segment.into()).or_insert(next);
            if child == next {
                self.nodes.push(Node { parent: at, len, ..Node::default() });
            }
            at = child;
        }
        &mut self.nodes[at].rules
    }

    fn find<'a, 'r>(&'a self, request: &Request<'_, 'r>) -> Option<Found<'a, 'r, T>> {
        if let Some(rules) = self.exact.get(request.path)
            && let Some(found) = decide(rules, request, request.path.len())
        {
            return Some(found);
        }
        let mut at = 0;
        let is_split = !self.nodes[0].children.is_empty();
        if let Some(segments) = request.path.strip_prefix('/').filter(|_| is_split) {
            for segment in segments.split('/') {
                match self.nodes[at].children.get(segment) {
                    Some(&child) => at = child,
                    None => break,
                }
            }
        }
        // Back up from the longest prefix to the root.
        loop {
            let node = &self.nodes[at];
            if let Some(found) = decide(&node.rules, request, node.len) {
                return Some(found);
            }
            if at == 0 {
                return None;
            }
            at = node.parent;
        }
    }
}

/// What the rules of one path say; `None` if none of them is in question.
fn decide<'a, 'r, T>(
    rules: &'a [Rule<T>],
    request: &Request<'_, 'r>,
    len: usize,
) -> Option<Found<'a, 'r, T>> {
    let mut best: Option<(Serves, &Rule<T>)> = None;
    let mut in_question = false;
    for rule in rules {
        if best.is_some_and(|(_, best)| rule.headers.len() < best.headers.len()) {
            break;
        }
        if !rule.headers.iter().all(|condition| condition.holds(request.headers)) {
            continue;
        }
        in_question = true;
        if let Some(serves) = rule.serves(request.method)
            && best.is_none_or(|(before, _)| serves > before)
        {
            best = Some((serves, rule));
        }
    }
    match best {
        Some((_, rule)) => Some(Found::Route(&rule.route, len)),
        None if in_question => Some(Found::MethodNotAllowed(Allowed { rules, headers: request.headers })),
        None => None,
    }
}

/// How a rule comes to serve a method, the weakest right first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Serves {
    /// It lists no method.
    All,
    /// It lists `GET`, the request is `HEAD`.
    AsGet,
    /// It lists the method.
    Listed,
}

impl<T> Rule<T> {
    fn serves(&self, method: &Method) -> Option<Serves> {
        if self.methods.is_empty() {
            Some(Serves::All)
        } else if self.methods.contains(method) {
            Some(Serves::Listed)
        } else if *method == Method::HEAD && self.methods.contains(&Method::GET) {
            Some(Serves::AsGet)
        } else {
            None
        }
    }

    /// Whether a request could match both with equal right. They have the same host and path.
    fn ties_with(&self, other: &Rule<T>) -> bool {
        let methods_meet = match (self.methods.is_empty(), other.methods.is_empty()) {
            (true, true) => true,
            (false, false) => self.methods.iter().any(|method| other.methods.contains(method)),
            _ => false,
        };
        let excluded =
            || self.headers.iter().any(|one| other.headers.iter().any(|another| one.excludes(another)));
        methods_meet && self.headers.len() == other.headers.len() && !excluded()
    }
}

/// Finds the ties among the rules of one path; these stand in the order in which they were given.
fn find_ties<T>(rules: &[Rule<T>], ties: &mut Vec<Tie>) {
    for (index, rule) in rules.iter().enumerate() {
        if let Some(earlier) = rules[..index].iter().find(|earlier| earlier.ties_with(rule)) {
            ties.push(Tie { first: earlier.place, second: rule.place });
        }
    }
}

impl<T> Allowed<'_, '_, T> {
    /// The value of `Allow`: every method served, in the routes' order, `HEAD` beside `GET`.
    ///
    /// # Panics
    /// Never: methods are tokens.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        let mut methods: Vec<&Method> = Vec::new();
        let mut allow = |method| {
            if !methods.contains(&method) {
                methods.push(method);
            }
        };
        for rule in self.rules {
            if rule.headers.iter().all(|condition| condition.holds(self.headers)) {
                for method in &rule.methods {
                    allow(method);
                    if *method == Method::GET {
                        allow(&Method::HEAD);
                    }
                }
            }
        }
        let text = methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
        HeaderValue::try_from(text).expect("methods are tokens")
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Paths<T> {
        Paths { exact: Map::default(), nodes: vec![Node::default()] }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Node<T> {
        Node { parent: 0, len: 0, children: Map::default(), rules: Vec::new() }
    }
}

/// A hasher by folded multiplication: eight bytes a step.
#[derive(Clone, Copy, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in chunks.by_ref() {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(word) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, _: u8) {
        // A string's end marker: the length was folded in already.
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
