//! The schema of the configuration, generated from the types it is deserialized into: what is checked against,
//! what is published, and what the reference is made of are one thing.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::raw;

/// The schema, in JSON Schema's form (draft 2020-12).
pub static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<raw::Config>().to_value();
    without_null(&mut schema);
    schema
});

/// TOML has no null: what may be null for serde may only be left out here.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(without_null),
        Value::Object(map) => {
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            if let Some(default) = map.get_mut("default") {
                prune(default);
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(any)) = map.get_mut("anyOf") {
                any.retain(|one| one.get("type").is_none_or(|kind| kind != "null"));
                if let [Value::Object(only)] = any.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

/// Takes null out of a default.
fn prune(default: &mut Value) {
    if let Value::Object(map) = default {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(prune);
    }
}

/// A schema with its reference followed, and the name it has, if it has one.
pub fn follow(schema: &Value) -> (&Value, Option<&str>) {
    match schema.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix("#/$defs/")) {
        Some(name) => (SCHEMA.get("$defs").and_then(|defs| defs.get(name)).unwrap_or(schema), Some(name)),
        None => (schema, None),
    }
}

/// The alternatives of a schema; itself, if it has none.
pub fn alternatives(schema: &Value) -> Vec<&Value> {
    let listed = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    listed.map_or_else(|| vec![schema], |listed| listed.iter().collect())
}

/// The texts that a schema names, if it names texts.
pub fn words(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    listed.iter().chain(schema.get("const")).filter_map(Value::as_str).collect()
}

/// The keys of a table's schema.
pub fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}
