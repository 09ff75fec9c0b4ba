//! For the tests of the documentation: whether a key that a page names is one.

use std::path::Path;

use serde_json::Value as Schema;

use super::problem::Problems;
use super::problem::Source;
use super::schema::{SCHEMA, alternatives, follow, properties};
use super::{shape, tree};

/// Whether there is this key in this table; the empty key is in every table.
pub fn is_documented(table: &str, key: &str) -> bool {
    let keys = table.split('.').chain((!key.is_empty()).then_some(key));
    let found =
        keys.fold(vec![&*SCHEMA], |found, key| found.into_iter().flat_map(|one| below(one, key)).collect());
    !found.is_empty()
}

/// What a key may hold.
fn below<'a>(schema: &'a Schema, key: &str) -> Vec<&'a Schema> {
    let (schema, _) = follow(schema);
    let mut found = Vec::new();
    for one in alternatives(schema) {
        let (one, _) = follow(one);
        found.extend(properties(one).and_then(|known| known.get(key)));
        found.extend(one.get("additionalProperties").filter(|others| others.is_object()));
        found.extend(one.get("items").into_iter().flat_map(|items| below(items, key)));
    }
    found
}

/// What is wrong with the keys and values of a part of a configuration. What it lacks may stand elsewhere.
pub fn wrong_keys(text: &str) -> Vec<String> {
    let path = Path::new("block.toml");
    // An ellipsis stands for a digest.
    let text = &text.replace("\"…\"", &format!("\"{}\"", "0".repeat(64)));
    let problems = match tree::parse(0, text) {
        Ok(mut tree) => shape::check(&mut tree, Path::new("")),
        Err(problems) => problems,
    };
    let problems: Vec<_> =
        problems.into_iter().filter(|problem| !problem.message.ends_with("is missing")).collect();
    if problems.is_empty() {
        return Vec::new();
    }
    let sources = vec![Source { path: path.to_owned(), text: text.to_owned() }];
    let told = Problems::new(sources, problems).told();
    told.into_iter()
        .map(|one| format!("line {} of the block: {}", one.line.unwrap_or_default(), one.message))
        .collect()
}
