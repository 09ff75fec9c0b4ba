//! Words that Tidegate keeps for features that are not in this version. They are refused as such: a setting
//! that is silently ignored is worse than one that is missing.

use super::tree::{Node, Value};

/// Keys, by the table they stand in.
const KEYS: [(&str, &[&str]); 2] = [
    ("Config", &["acme", "flag", "otlp", "queue", "saga", "schedule", "topic", "webhook"]),
    ("Plan", &["quota"]),
];

/// Values, by the table and the key they stand at.
const VALUES: [(&str, &str, &[&str]); 2] =
    [("Route", "defer", &["on-request", "always"]), ("RouteDefaults", "defer", &["on-request", "always"])];

/// What to say of a key that is kept for later.
#[must_use]
pub fn key(table: &str, key: &str) -> Option<String> {
    let kept = KEYS.iter().any(|(there, keys)| *there == table && keys.contains(&key));
    kept.then(|| format!("`{key}` is not in this version"))
}

/// What to say of a value that is kept for later.
#[must_use]
pub fn value(table: &str, key: &str, node: &Node) -> Option<String> {
    let Value::Text(text) = &node.value else { return None };
    let kept = VALUES
        .iter()
        .any(|(there, at, values)| *there == table && *at == key && values.contains(&text.as_str()));
    kept.then(|| format!("`{key} = \"{text}\"` is not in this version"))
}
