//! The route's own changes to an answer, where answers are kept.
//!
//! ```text
//! what the application said --- kept as it is ------------- changed as the route says now ---> client
//!                           '-- judged as it is changed
//! ```
//!
//! What is kept is what the application said: a reload that changes `response_headers` counts at once, for what is stored as
//! for what comes. What the route says of caching counts where an answer is judged, and `Tidegate-Cache-Control` there is for
//! this cache alone. A cookie that the route takes out is none; one that the route itself sets is no client's own.

use std::borrow::Cow;

use http::header::SET_COOKIE;
use tidegate_model::fields::Fields;
use tidegate_model::headers;

use super::intake::take_ours;
use crate::respond::apply;
use crate::settings::HeaderChanges;

/// An answer's fields as they are judged.
pub fn judged<'f>(fields: &'f Fields, changes: &HeaderChanges) -> Cow<'f, Fields> {
    if changes.is_empty() {
        return Cow::Borrowed(fields);
    }
    let mut seen = fields.clone();
    if changes.set.iter().any(|(name, _)| *name == SET_COOKIE) {
        seen.remove(SET_COOKIE);
    }
    let its_own = |(name, _): &&(http::HeaderName, http::HeaderValue)| *name != SET_COOKIE;
    let [set, add] =
        [&changes.set, &changes.add].map(|lines| lines.iter().filter(its_own).cloned().collect());
    let (set, add): (Vec<_>, Vec<_>) = (set, add);
    headers::change(&mut seen, &changes.remove, &set, &add);
    Cow::Owned(seen)
}

/// Makes of what is kept what a client gets.
pub fn serve(fields: &mut Fields, changes: &HeaderChanges) {
    if !changes.is_empty() {
        apply(fields, changes);
        // What the route says to this cache alone, too.
        take_ours(fields);
    }
}

/// Leaves of what is one client's own, and comes beside what is kept, what the route lets pass.
pub fn leave(own: &mut Fields, changes: &HeaderChanges) {
    for name in changes.remove.iter().chain(changes.set.iter().map(|(name, _)| name)) {
        own.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    type Lines = [(&'static str, &'static str)];

    fn lines(lines: &Lines) -> Vec<(HeaderName, HeaderValue)> {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn changes(remove: &[&'static str], set: &Lines, add: &Lines) -> HeaderChanges {
        let remove = remove.iter().map(|name| HeaderName::from_static(name)).collect();
        HeaderChanges { remove, set: lines(set), add: lines(add) }
    }

    /// How fields are judged, how they are served, and what is left of them when they are one client's own.
    fn check(changes: &HeaderChanges, fields: &Lines, expected: [&Lines; 3]) {
        let fields = Fields::from_iter(lines(fields));
        let (mut served, mut own) = (fields.clone(), fields.clone());
        serve(&mut served, changes);
        leave(&mut own, changes);
        for (got, expected) in [judged(&fields, changes).into_owned(), served, own].iter().zip(expected) {
            assert_eq!(*got, Fields::from_iter(lines(expected)));
        }
    }

    #[test]
    fn nothing_is_changed_where_the_route_says_nothing() {
        let fields = [("set-cookie", "a"), ("x-a", "1")];
        check(&HeaderChanges::default(), &fields, [&fields, &fields, &fields]);
        assert!(matches!(judged(&Fields::default(), &HeaderChanges::default()), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_said_to_this_cache_alone_is_judged_by_and_not_served() {
        let own = changes(&["server"], &[("tidegate-cache-control", "max-age=9")], &[("x-a", "2")]);
        check(
            &own,
            &[("server", "s"), ("x-a", "1")],
            [
                &[("tidegate-cache-control", "max-age=9"), ("x-a", "1"), ("x-a", "2")],
                &[("x-a", "1"), ("x-a", "2")],
                &[("x-a", "1")],
            ],
        );
    }

    #[test]
    fn a_cookie_that_the_route_sets_or_takes_out_is_no_clients_own() {
        let app = [("set-cookie", "app=1")];
        check(&changes(&["set-cookie"], &[], &[]), &app, [&[], &[], &[]]);
        check(
            &changes(&[], &[("set-cookie", "route=1")], &[]),
            &app,
            [&[], &[("set-cookie", "route=1")], &[]],
        );
        check(
            &changes(&[], &[], &[("set-cookie", "route=1")]),
            &app,
            [&app, &[("set-cookie", "app=1"), ("set-cookie", "route=1")], &app],
        );
    }
}
