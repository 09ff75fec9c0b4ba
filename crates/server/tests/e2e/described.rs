//! Whether what the control API answers is what `docs/openapi.json` says: every test that asks it holds the answer against that.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::Value;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap());

/// What was answered to this, head and body: held against the document where it is JSON.
pub fn holds(line: &str, answer: &str) {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return };
    let told = serde_json::from_str::<Value>(body);
    let (Ok(told), Some(Ok(status))) = (told, head.get(9..12).map(str::parse)) else { return };
    // Of paths that there are not nothing is said.
    if told["code"] != "control.not-found" {
        fits(line, status, &told);
    }
}

/// Whether a body that was sent is what is said to be taken, where it was.
pub fn takes(line: &str, status: u16, sent: &str) {
    let Ok(sent) = serde_json::from_str::<Value>(sent) else { return };
    if status < 300 {
        let (path, method, operation) = operation(line);
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{line} takes {sent}, of which nothing is said");
        hold(&format!("{line} takes"), format!("{method} {path}"), schema, &sent);
    }
}

/// Whether what was answered is what is said.
pub fn fits(line: &str, status: u16, told: &Value) {
    let (path, method, operation) = operation(line);
    let responses = &operation["responses"];
    let kind = if status < 400 { "application/json" } else { "application/problem+json" };
    let said = status.to_string();
    let said = if responses[&said].is_object() { said } else { "default".to_owned() };
    let schema = &responses[&said]["content"][kind]["schema"];
    assert!(schema.is_object(), "{line} is answered with {status}, of which nothing is said");
    hold(line, format!("{method} {path} {said} {kind}"), schema, told);
}

fn hold(what: &str, name: String, schema: &Value, told: &Value) {
    let validator = validator(name, schema);
    let wrong = validator.iter_errors(told).map(|error| format!("{}: {error}", error.instance_path));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{what}: {wrong:?} in {told}");
}

/// What a line asks for: the path as the document writes it, the method, and what is said of it.
fn operation(line: &str) -> (&'static str, &str, &'static Value) {
    // Some tests put further fields behind it.
    let line = line.split(" HTTP/").next().unwrap_or(line);
    let (method, target) = line.split_once(' ').unwrap();
    let found = described(target.split('?').next().unwrap());
    let (path, operations) = found.unwrap_or_else(|| panic!("{line} is described nowhere"));
    (path, method, &operations[method.to_lowercase()])
}

/// The path that is meant, as the document writes it, and what is said of it.
fn described(asked: &str) -> Option<(&'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let whole = paths.get_key_value(asked);
    let parts: Vec<&str> = asked.split('/').collect();
    let is_meant = |path: &str| {
        let same = |(part, asked): (&str, &&str)| part.starts_with('{') || part == *asked;
        path.split('/').count() == parts.len() && path.split('/').zip(&parts).all(same)
    };
    let found = whole.or_else(|| paths.iter().find(|(path, _)| is_meant(path)));
    found.map(|(path, operations)| (path.as_str(), operations))
}

/// What a schema is held by: made once, as tests ask often.
fn validator(name: String, schema: &Value) -> Arc<Validator> {
    static MADE: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let make = || {
        let mut schema = schema.clone();
        schema["components"] = DOCUMENT["components"].clone();
        Arc::new(jsonschema::validator_for(&schema).unwrap())
    };
    Arc::clone(MADE.lock().unwrap().entry(name).or_insert_with(make))
}

#[test]
fn each_answer_of_json_says_what_is_in_it() {
    for (path, operations) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap().values();
            let bodies = answers.chain([&operation["requestBody"]]);
            for schema in bodies.filter_map(|body| body.pointer("/content/application~1json/schema")) {
                let named = schema["$ref"].as_str().and_then(|at| DOCUMENT.pointer(at.strip_prefix('#')?));
                let schema = named.unwrap_or(schema);
                let says = ["properties", "anyOf", "oneOf", "enum"].iter().any(|key| !schema[*key].is_null());
                assert!(says, "{method} {path}: {schema} says nothing");
            }
        }
    }
}

#[test]
fn what_is_not_as_it_is_said_is_found() {
    let wrong = |told: &str| {
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{told}");
        std::panic::catch_unwind(|| holds("GET /faults", &answer)).is_err()
    };
    assert!(!wrong("{\"enabled\": true, \"faults\": []}"));
    assert!(wrong("{\"enabled\": true}"));
    assert!(wrong("{\"enabled\": true, \"faults\": [], \"more\": 1}"));
    assert!(wrong("{\"enabled\": 1, \"faults\": []}"));
}
