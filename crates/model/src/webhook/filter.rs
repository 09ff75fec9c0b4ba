//! What a destination wants to hear of: event types, channels, and conditions on the payload.
//!
//! An event passes if its type is one of the types, one of its channels is one of the channels, and every condition holds;
//! an empty list asks for nothing. The language of conditions is closed on purpose: a JSON pointer (RFC 6901), and what
//! has to stand there. What needs more is a type of its own.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{NAME_BYTES_MAX, is_name};

/// Types, channels, or conditions of one filter.
pub const ENTRIES_MAX: usize = 64;
/// Values that a condition may list.
pub const VALUES_MAX: usize = 64;
/// Bytes of a pointer, and of a channel.
pub const TEXT_BYTES_MAX: usize = 200;

/// What is let through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Event types: a name, `order.*` for all below it, or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Channels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// Conditions on the payload. All have to hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub payload: Vec<Condition>,
}

/// What has to stand at a place of the payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// The place: a JSON pointer.
    pub at: String,
    /// This value stands there.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "some_value")]
    pub equals: Option<Value>,
    /// One of these stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Value>>,
    /// Something stands there, or nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

/// `null` is a value like any other: only a missing field is none.
mod some_value {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub fn serialize<S: Serializer>(value: &Option<Value>, out: S) -> Result<S::Ok, S::Error> {
        value.serialize(out)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
        Value::deserialize(from).map(Some)
    }
}

/// Why a filter cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// More entries than a filter may have.
    #[error(
        "a filter has at most {ENTRIES_MAX} types, channels and conditions, and a condition {VALUES_MAX} values"
    )]
    Entries,
    /// Not a type, nor all below one.
    #[error("`{0}` is no event type: write `order.created`, `order.*` or `*`")]
    Type(String),
    /// Not a channel.
    #[error("`{0}` is no channel: printable ASCII without spaces, at most {TEXT_BYTES_MAX} bytes")]
    Channel(String),
    /// Not a pointer.
    #[error(
        "`{0}` is no JSON pointer: it is empty or begins with `/`, and has `~0` for `~` and `~1` for `/`"
    )]
    Pointer(String),
    /// It says nothing, or more than one thing.
    #[error("the condition on `{0}` needs exactly one of `equals`, `one_of` and `exists`")]
    Test(String),
}

impl Filter {
    /// Looks whether it can be used.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), FilterError> {
        if [self.types.len(), self.channels.len(), self.payload.len()]
            .iter()
            .any(|&count| count > ENTRIES_MAX)
        {
            return Err(FilterError::Entries);
        }
        if let Some(wrong) = self.types.iter().find(|pattern| !is_pattern(pattern)) {
            return Err(FilterError::Type(wrong.clone()));
        }
        if let Some(wrong) = self.channels.iter().find(|channel| !is_channel(channel)) {
            return Err(FilterError::Channel(wrong.clone()));
        }
        self.payload.iter().try_for_each(Condition::check)
    }

    /// Whether an event passes. `payload` is asked for only where there are conditions on it.
    pub fn passes<'p>(
        &self,
        kind: &str,
        channels: &[String],
        payload: impl FnOnce() -> Option<&'p Value>,
    ) -> bool {
        if !self.types.is_empty() && !self.types.iter().any(|pattern| covers(pattern, kind)) {
            return false;
        }
        if !self.channels.is_empty() && !channels.iter().any(|channel| self.channels.contains(channel)) {
            return false;
        }
        if self.payload.is_empty() {
            return true;
        }
        payload().is_some_and(|payload| self.payload.iter().all(|condition| condition.holds(payload)))
    }
}

impl Condition {
    fn check(&self) -> Result<(), FilterError> {
        if !is_pointer(&self.at) {
            return Err(FilterError::Pointer(self.at.clone()));
        }
        if self.one_of.as_ref().is_some_and(|values| values.len() > VALUES_MAX) {
            return Err(FilterError::Entries);
        }
        let tests = [self.equals.is_some(), self.one_of.is_some(), self.exists.is_some()];
        if tests.into_iter().filter(|given| *given).count() == 1 {
            Ok(())
        } else {
            Err(FilterError::Test(self.at.clone()))
        }
    }

    fn holds(&self, payload: &Value) -> bool {
        let found = payload.pointer(&self.at);
        let is = |wanted: &Value| found.is_some_and(|found| same(found, wanted));
        self.equals.as_ref().is_none_or(is)
            && self.one_of.as_ref().is_none_or(|values| values.iter().any(is))
            && self.exists.is_none_or(|wanted| found.is_some() == wanted)
    }
}

/// Whether two values are the same: `1` and `1.0` are.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let is =
                |(name, value): (&String, &Value)| right.get(name).is_some_and(|other| same(value, other));
            left.len() == right.len() && left.iter().all(is)
        }
        _ => left == right,
    }
}

fn covers(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => kind.len() > stem.len() && kind.starts_with(stem),
        None => pattern == kind,
    }
}

fn is_pattern(pattern: &str) -> bool {
    pattern == "*"
        || is_name(pattern.strip_suffix(".*").unwrap_or(pattern)) && pattern.len() <= NAME_BYTES_MAX
}

/// Whether a text may be a channel.
#[must_use]
pub fn is_channel(channel: &str) -> bool {
    let printable = channel.bytes().all(|byte| byte.is_ascii_graphic());
    !channel.is_empty() && channel.len() <= TEXT_BYTES_MAX && printable
}

fn is_pointer(pointer: &str) -> bool {
    let escapes = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    (pointer.is_empty() || pointer.starts_with('/')) && pointer.len() <= TEXT_BYTES_MAX && escapes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(filter: Value, expected: bool) {
        let filter: Filter = serde_json::from_value(filter).expect("a filter");
        filter.check().expect("a good filter");
        let payload =
            json!({ "amount": 3, "total": 2.0, "plan": "pro", "gone": null, "lines": [{ "sku": "a/b" }] });
        let found =
            filter.passes("order.line.added", &["eu".to_owned(), "big".to_owned()], || Some(&payload));
        assert_eq!(found, expected, "{filter:?}");
    }

    #[test]
    fn types_are_names_or_all_below_one() {
        for (types, expected) in [
            (json!([]), true),
            (json!(["order.line.added"]), true),
            (json!(["order.*"]), true),
            (json!(["order.line.*"]), true),
            (json!(["*"]), true),
            (json!(["user.*", "order.line.added"]), true),
            (json!(["order"]), false),
            (json!(["order.line.added.*"]), false),
            (json!(["ord.*"]), false),
        ] {
            check(json!({ "types": types }), expected);
        }
    }

    #[test]
    fn one_common_channel_is_enough() {
        check(json!({ "channels": ["us", "eu"] }), true);
        check(json!({ "channels": ["us"] }), false);
    }

    #[test]
    fn every_condition_has_to_hold() {
        for (conditions, expected) in [
            (json!([{ "at": "/plan", "equals": "pro" }, { "at": "/amount", "equals": 3.0 }]), true),
            (json!([{ "at": "/plan", "equals": "pro" }, { "at": "/amount", "equals": 4 }]), false),
            (json!([{ "at": "/total", "one_of": [1, 2] }]), true),
            (json!([{ "at": "/total", "one_of": [] }]), false),
            (json!([{ "at": "/gone", "equals": null }]), true),
            (json!([{ "at": "/missing", "equals": null }]), false),
            (json!([{ "at": "/gone", "exists": true }, { "at": "/missing", "exists": false }]), true),
            (json!([{ "at": "/lines/0/sku", "equals": "a/b" }]), true),
            (json!([{ "at": "/lines", "equals": [{ "sku": "a/b" }] }]), true),
            (json!([{ "at": "/lines/1", "exists": true }]), false),
        ] {
            check(json!({ "payload": conditions }), expected);
        }
    }

    #[test]
    fn refuses_what_is_no_filter() {
        let refused = |filter: Value| serde_json::from_value::<Filter>(filter).unwrap().check().unwrap_err();
        assert_eq!(refused(json!({ "types": ["a..b"] })), FilterError::Type("a..b".to_owned()));
        assert_eq!(refused(json!({ "types": ["or*"] })), FilterError::Type("or*".to_owned()));
        assert_eq!(refused(json!({ "types": vec!["a"; 65] })), FilterError::Entries);
        assert_eq!(refused(json!({ "channels": ["a b"] })), FilterError::Channel("a b".to_owned()));
        for at in ["a", "/a~2", "/a~"] {
            assert_eq!(
                refused(json!({ "payload": [{ "at": at, "exists": true }] })),
                FilterError::Pointer(at.to_owned())
            );
        }
        for one in [json!({ "at": "/a" }), json!({ "at": "/a", "equals": 1, "exists": true })] {
            assert_eq!(refused(json!({ "payload": [one] })), FilterError::Test("/a".to_owned()));
        }
        assert!(serde_json::from_value::<Filter>(json!({ "type": ["a"] })).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let filter = json!({ "types": ["a.*"], "payload": [{ "at": "/x", "equals": null }] });
        let read: Filter = serde_json::from_value(filter.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), filter);
    }

    proptest! {
        #[test]
        fn a_pattern_covers_its_own_names_and_what_is_below(name in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}", more in "[a-z]{1,5}") {
            prop_assert!(is_pattern(&name) && covers(&name, &name) && covers("*", &name));
            let below = format!("{name}.*");
            let (child, sibling) = (format!("{name}.{more}"), format!("{name}{more}"));
            prop_assert!(is_pattern(&below) && covers(&below, &child));
            prop_assert!(!covers(&below, &name) && !covers(&below, &sibling));
        }
    }
}
