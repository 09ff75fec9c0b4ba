//! Words that Tidegate keeps for features that are not in this version. They are refused as such: a setting
//! that is silently ignored is worse than one that is missing.

/// Keys, by the table they stand in.
const KEYS: [(&str, &[&str]); 2] = [("Config", &["flag", "saga", "topic"]), ("Plan", &["quota"])];

/// What to say of a key that is kept for later.
#[must_use]
pub fn key(table: &str, key: &str) -> Option<String> {
    let kept = KEYS.iter().any(|(there, keys)| *there == table && keys.contains(&key));
    kept.then(|| format!("`{key}` is not in this version"))
}
