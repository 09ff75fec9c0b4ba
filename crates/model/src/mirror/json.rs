//! Two JSON documents, compared by what they mean: members in any order, numbers by their value, arrays in any order where
//! that is said, without the places that are ignored.
//!
//! `serde_json` reads no document deeper than 128: that bounds the recursion here. It ends with the first
//! [`DIFFERENCES_MAX`] differences.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::compare::{Difference, Kind, hidden, shown};
use super::pattern::{Pattern, Step};
use crate::headers::is_credential;

/// The most differences of one comparison that are told.
pub const DIFFERENCES_MAX: usize = 16;
/// Bytes of a place that are told.
const PLACE_BYTES_MAX: usize = 160;

/// What two documents are compared by, and what was found.
pub(super) struct Walk<'a, 'v> {
    pub ignore: &'a [Pattern],
    pub unordered: &'a [Pattern],
    pub path: Vec<Step<'v>>,
    pub found: &'a mut Vec<Difference>,
}

impl<'v> Walk<'_, 'v> {
    /// Compares what stands at the present place.
    pub(super) fn compare(&mut self, ours: &'v Value, theirs: &'v Value) {
        if self.found.len() >= DIFFERENCES_MAX || self.is_ignored() {
            return;
        }
        match (ours, theirs) {
            (Value::Object(one), Value::Object(other)) => {
                let keys: BTreeSet<&'v String> = one.keys().chain(other.keys()).collect();
                for key in keys {
                    self.within(Step::Key(key), one.get(key), other.get(key));
                }
            }
            (Value::Array(one), Value::Array(other)) if self.is_unordered() => self.compare_sets(one, other),
            (Value::Array(one), Value::Array(other)) => {
                for index in 0..one.len().max(other.len()) {
                    self.within(Step::Index(index), one.get(index), other.get(index));
                }
            }
            _ if is_same(ours, theirs) => {}
            _ => self.differ(Some(ours), Some(theirs)),
        }
    }

    fn within(&mut self, step: Step<'v>, ours: Option<&'v Value>, theirs: Option<&'v Value>) {
        self.path.push(step);
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => self.compare(ours, theirs),
            (None, None) => {}
            _ if self.is_ignored() => {}
            _ => self.differ(ours, theirs),
        }
        self.path.pop();
    }

    /// Compares two arrays whose order says nothing. What has no equal on the other side is compared in the order of its text:
    /// those that are nearly the same stand beside each other.
    fn compare_sets(&mut self, ours: &'v [Value], theirs: &'v [Value]) {
        let (mut one, mut other) = (self.sorted(ours), self.sorted(theirs));
        let (mut at, mut beside) = (0, 0);
        let (mut only_one, mut only_other) = (Vec::new(), Vec::new());
        while at < one.len() || beside < other.len() {
            match (one.get(at), other.get(beside)) {
                (Some(a), Some(b)) if a.0 == b.0 => {
                    at += 1;
                    beside += 1;
                }
                (Some(a), b) if b.is_none_or(|b| a.0 < b.0) => {
                    only_one.push(a.1);
                    at += 1;
                }
                _ => {
                    only_other.push(other[beside].1);
                    beside += 1;
                }
            }
        }
        one.clear();
        other.clear();
        for place in 0..only_one.len().max(only_other.len()) {
            let (one, other) = (only_one.get(place), only_other.get(place));
            let index = one.or(other).copied().unwrap_or_default();
            let at = |place: Option<&usize>, values: &'v [Value]| place.and_then(|&place| values.get(place));
            self.within(Step::Index(index), at(one, ours), at(other, theirs));
        }
    }

    /// The texts of elements, each with its place, in the order of the texts.
    fn sorted(&mut self, values: &'v [Value]) -> Vec<(String, usize)> {
        let mut texts = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let mut text = String::new();
            self.path.push(Step::Index(index));
            self.write(value, &mut text);
            self.path.pop();
            texts.push((text, index));
        }
        texts.sort_unstable();
        texts
    }

    /// Writes a value so that those that are the same have the same text.
    fn write(&mut self, value: &'v Value, out: &mut String) {
        if self.is_ignored() {
            return;
        }
        match value {
            Value::Object(members) => {
                out.push('{');
                let keys: BTreeSet<&'v String> = members.keys().collect();
                for key in keys {
                    self.path.push(Step::Key(key));
                    if !self.is_ignored() {
                        let _ = write!(out, "{key:?}:");
                        self.write(&members[key], out);
                        out.push(',');
                    }
                    self.path.pop();
                }
                out.push('}');
            }
            Value::Array(values) if self.is_unordered() => {
                out.push('[');
                self.sorted(values).iter().for_each(|(text, _)| out.extend([text, ","]));
                out.push(']');
            }
            Value::Array(values) => {
                out.push('[');
                for (index, value) in values.iter().enumerate() {
                    self.path.push(Step::Index(index));
                    self.write(value, out);
                    self.path.pop();
                    out.push(',');
                }
                out.push(']');
            }
            Value::Number(number) => {
                let _ = match (number.as_i64(), number.as_u64(), number.as_f64()) {
                    (Some(number), ..) => write!(out, "{number}"),
                    (_, Some(number), _) => write!(out, "{number}"),
                    (.., number) => write!(out, "{}", number.unwrap_or_default()),
                };
            }
            other => {
                let _ = write!(out, "{other}");
            }
        }
    }

    fn is_ignored(&self) -> bool {
        self.ignore.iter().any(|pattern| pattern.matches(&self.path))
    }

    fn is_unordered(&self) -> bool {
        self.unordered.iter().any(|pattern| pattern.matches(&self.path))
    }

    fn differ(&mut self, ours: Option<&Value>, theirs: Option<&Value>) {
        if self.found.len() >= DIFFERENCES_MAX {
            return;
        }
        let secret = self.path.iter().any(|step| matches!(step, Step::Key(key) if is_credential(key)));
        let tell = |value: &Value| match value {
            Value::Object(members) => format!("{{{} members}}", members.len()),
            Value::Array(values) => format!("[{} elements]", values.len()),
            _ if secret => hidden(),
            Value::String(text) => shown(&format!("{text:?}")),
            other => shown(&other.to_string()),
        };
        let (ours, theirs) = (ours.map(tell), theirs.map(tell));
        self.found.push(Difference { kind: Kind::Body, place: place(&self.path), ours, theirs });
    }
}

/// Whether two values that are not both objects or both arrays are the same.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(one), Value::Number(other)) => {
            let whole = (one.as_i64(), other.as_i64());
            match (whole, (one.as_u64(), other.as_u64())) {
                ((Some(one), Some(other)), _) => one == other,
                (_, (Some(one), Some(other))) => one == other,
                _ => one.as_f64() == other.as_f64(),
            }
        }
        _ => ours == theirs,
    }
}

/// A place for all alike: elements are `*`, whichever they are.
fn place(path: &[Step<'_>]) -> String {
    if path.is_empty() {
        return "/".to_owned();
    }
    let mut out = String::new();
    for step in path {
        match step {
            Step::Index(_) => out.push_str("/*"),
            Step::Key(key) => {
                out.push('/');
                out.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
        }
        if out.len() > PLACE_BYTES_MAX {
            let end = (0..=PLACE_BYTES_MAX).rev().find(|&end| out.is_char_boundary(end)).unwrap_or(0);
            out.truncate(end);
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).expect(text)).collect()
    }

    /// Where these differ, with what stands there on each side.
    fn check(ours: &Value, theirs: &Value, rules: (&[&str], &[&str]), expected: &[(&str, &str, &str)]) {
        let (ignore, unordered) = (patterns(rules.0), patterns(rules.1));
        let mut found = Vec::new();
        let mut walk = Walk { ignore: &ignore, unordered: &unordered, path: Vec::new(), found: &mut found };
        walk.compare(ours, theirs);
        let found: Vec<(&str, &str, &str)> = found
            .iter()
            .map(|one| {
                let side =
                    |side: &'_ Option<String>| side.as_deref().map_or("-", |text| &*text.to_owned().leak());
                (&*one.place, side(&one.ours), side(&one.theirs))
            })
            .collect();
        assert_eq!(found, expected, "{ours} {theirs}");
    }

    #[test]
    fn order_of_members_and_form_of_numbers_mean_nothing() {
        let ours: Value = serde_json::from_str(r#"{"a": 1, "b": [1.0, 1e2, -0.0], "c": null}"#).unwrap();
        let theirs: Value = serde_json::from_str(r#"{"c": null, "b": [1, 100, 0], "a": 1.00}"#).unwrap();
        check(&ours, &theirs, (&[], &[]), &[]);
        check(
            &json!(18_446_744_073_709_551_615u64),
            &json!(18_446_744_073_709_551_614u64),
            (&[], &[]),
            &[("/", "18446744073709551615", "18446744073709551614")],
        );
        check(&json!("1"), &json!(1), (&[], &[]), &[("/", "\"1\"", "1")]);
    }

    #[test]
    fn each_difference_has_its_place_with_elements_as_stars() {
        let ours = json!({"items": [{"id": 1, "price": 5}, {"id": 2}], "more": true, "a/b": 1});
        let theirs =
            json!({"items": [{"id": 1, "price": 6}, {"id": 3}, {"id": 4}], "less": {"x": 1}, "a/b": 2});
        check(
            &ours,
            &theirs,
            (&[], &[]),
            &[
                ("/a~1b", "1", "2"),
                ("/items/*/price", "5", "6"),
                ("/items/*/id", "2", "3"),
                ("/items/*", "-", "{1 members}"),
                ("/less", "-", "{1 members}"),
                ("/more", "true", "-"),
            ],
        );
    }

    #[test]
    fn what_is_ignored_may_differ_or_be_missing() {
        let ours = json!({"meta": {"id": 1}, "items": [{"at": 1, "v": 1}], "extra": 1});
        let theirs = json!({"meta": {"id": 2}, "items": [{"v": 1}]});
        check(&ours, &theirs, (&["/meta/id", "/items/*/at", "/extra"], &[]), &[]);
        check(&ours, &theirs, (&["/meta", "/items"], &[]), &[("/extra", "1", "-")]);
    }

    #[test]
    fn an_array_without_order_is_compared_as_a_set_with_repeats() {
        let ours = json!({"tags": ["a", "b", "b"], "list": [1, 2]});
        check(&ours, &json!({"tags": ["b", "a", "b"], "list": [1, 2]}), (&[], &["/tags"]), &[]);
        check(
            &ours,
            &json!({"tags": ["b", "a", "a"], "list": [2, 1]}),
            (&[], &["/tags"]),
            &[("/list/*", "1", "2"), ("/list/*", "2", "1"), ("/tags/*", "\"b\"", "\"a\"")],
        );
        // What is ignored says nothing of their order either, and what differs within is told at its place.
        let ours = json!([{"id": 1, "at": 9, "price": 5}, {"id": 2, "at": 8, "price": 7}]);
        let theirs = json!([{"id": 2, "at": 1, "price": 7}, {"id": 1, "at": 2, "price": 6}]);
        let whole = Pattern::parse("/").expect("a place");
        assert_eq!(whole.as_str(), "/");
        let (ours, theirs) = (json!({"x": ours}), json!({"x": theirs}));
        check(&ours, &theirs, (&["/x/*/at"], &["/x"]), &[("/x/*/price", "5", "6")]);
    }

    #[test]
    fn no_credential_is_told_and_no_long_value() {
        let ours = json!({"user": {"Access_Token": "secret", "name": "x".repeat(500)}});
        let theirs = json!({"user": {"Access_Token": "other", "name": "y"}});
        let mut found = Vec::new();
        Walk { ignore: &[], unordered: &[], path: Vec::new(), found: &mut found }.compare(&ours, &theirs);
        let told = format!("{found:?}");
        assert!(!told.contains("secret") && !told.contains("other") && told.len() < 700, "{told}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn there_are_no_more_differences_than_there_may_be() {
        let of = |value: u64| Value::from(vec![value; 1000]);
        let mut found = Vec::new();
        let (ours, theirs) = (of(1), of(2));
        Walk { ignore: &[], unordered: &[], path: Vec::new(), found: &mut found }.compare(&ours, &theirs);
        assert_eq!(found.len(), DIFFERENCES_MAX);
    }
}
