//! A configuration as a tree of values, each with its place in a file.
//!
//! The tree is what is checked against the schema, what several files are merged in and what routes inherit in;
//! then it is deserialized. Resolving walks it beside the deserialized form, to tell where a problem is.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem};

/// Tables whose entries several files may add to.
const SHARED_TABLES: [&str; 6] = ["jwt", "plan", "tenant", "upstream", "listen", "control"];
/// Arrays of tables that several files may add to.
const SHARED_ARRAYS: [&str; 2] = ["route", "tls"];

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value stands; a table's header, if it has one.
    pub place: Place,
    /// Where its key stands, if it has one.
    pub key: Option<Place>,
    /// The value.
    pub value: Value,
    /// Something below was wrong and has been told; what is left here is a stand-in, of which nothing is told.
    pub tainted: bool,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A text; dates are texts here.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A list.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

/// A table's entries.
pub type Table = BTreeMap<String, Node>;

impl Node {
    /// The value of this key; where there is none, the node itself, as the nearest place.
    #[must_use]
    pub fn at(&self, key: &str) -> &Node {
        self.get(key).unwrap_or(self)
    }

    /// The value of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.table().and_then(|table| table.get(key))
    }

    /// The element at this index; where there is none, the node itself, as the nearest place.
    #[must_use]
    pub fn nth(&self, index: usize) -> &Node {
        match &self.value {
            Value::Array(list) => list.get(index).unwrap_or(self),
            _ => self,
        }
    }

    /// The table, if it is one.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Where to point for its key, else for its value.
    #[must_use]
    pub fn key_place(&self) -> Place {
        self.key.clone().unwrap_or_else(|| self.place.clone())
    }

    /// What it is, in a sentence.
    #[must_use]
    pub fn told(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Boolean(_) => "true or false",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The same value without places, as serde reads it.
    #[must_use]
    pub fn plain(&self) -> serde_json::Value {
        match &self.value {
            Value::Text(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Boolean(truth) => (*truth).into(),
            Value::Array(list) => list.iter().map(Node::plain).collect(),
            Value::Table(table) => table.iter().map(|(key, node)| (key.clone(), node.plain())).collect(),
        }
    }

    /// Puts a stand-in here: what stood here is wrong, and that has been told.
    pub fn taint(&mut self) {
        self.tainted = true;
        self.value = Value::Table(Table::new());
    }

    /// Fills in what is missing from another node: tables key by key, everything else whole.
    pub fn inherit(&mut self, from: &Node) {
        if self.tainted {
            return;
        }
        let (Value::Table(own), Value::Table(theirs)) = (&mut self.value, &from.value) else { return };
        for (key, node) in theirs {
            match own.get_mut(key) {
                Some(mine) => mine.inherit(node),
                None => {
                    own.insert(key.clone(), node.clone());
                }
            }
        }
    }
}

/// Reads a file's text into a tree.
///
/// # Errors
/// Everything that is not TOML in it.
pub fn parse(file: usize, text: &str) -> Result<Node, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let mut problems = Vec::new();
        let place = Place::new(file, 0..0);
        let value = Value::Table(table(file, document.into_inner(), &mut problems));
        return if problems.is_empty() {
            Ok(Node { place, key: None, value, tainted: false })
        } else {
            Err(problems)
        };
    }
    Err(syntax_problems(file, &errors))
}

/// What is told of a text that is not TOML. What a list that is not closed swallows is not told line by line.
fn syntax_problems(file: usize, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut errors: Vec<&toml::de::Error> = errors.iter().collect();
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let unclosed = errors.iter().any(|error| error.message().starts_with("unclosed array"));
    let mut problems = Vec::new();
    for error in errors {
        let place = error.span().map(|span| Place::new(file, span));
        let problem = Problem::new(place, format!("not TOML: {}", error.message()));
        if unclosed && error.message().starts_with("missing comma") {
            problems.push(problem.help("a list that begins before this is not closed"));
            break;
        }
        problems.push(problem);
    }
    problems
}

fn table(file: usize, entries: DeTable<'_>, problems: &mut Vec<Problem>) -> Table {
    let mut out = Table::new();
    for (key, value) in entries {
        let place = Place::new(file, key.span());
        let mut node = node(file, value, problems);
        node.key = Some(place);
        out.insert(key.into_inner().into_owned(), node);
    }
    out
}

fn node(file: usize, value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Node {
    let place = Place::new(file, value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(read.unwrap_or_else(|_| {
                problems.push(Problem::new(Some(place.clone()), "this number is too large"));
                0
            }))
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(truth) => Value::Boolean(truth),
        DeValue::Datetime(date) => Value::Text(date.to_string()),
        DeValue::Array(list) => {
            Value::Array(list.into_iter().map(|item| node(file, item, problems)).collect())
        }
        DeValue::Table(entries) => Value::Table(table(file, entries, problems)),
    };
    Node { place, key: None, value, tainted: false }
}

/// Adds a file's tree to that of another file. The same key in both is a problem that names both.
pub fn merge(into: &mut Node, from: Node, problems: &mut Vec<Problem>) {
    let (Value::Table(own), Value::Table(theirs)) = (&mut into.value, from.value) else { return };
    for (key, node) in theirs {
        let Some(mine) = own.get_mut(&key) else {
            own.insert(key, node);
            continue;
        };
        match (&mut mine.value, node.value) {
            (Value::Array(list), Value::Array(more)) if SHARED_ARRAYS.contains(&key.as_str()) => {
                list.extend(more)
            }
            (Value::Table(entries), Value::Table(more)) if SHARED_TABLES.contains(&key.as_str()) => {
                for (entry, node) in more {
                    match entries.get(&entry) {
                        Some(there) => problems.push(twice(&format!("{key}.{entry}"), there, &node)),
                        None => {
                            entries.insert(entry, node);
                        }
                    }
                }
            }
            (_, value) => problems.push(twice(&key, mine, &Node { value, ..node })),
        }
    }
}

fn twice(key: &str, there: &Node, again: &Node) -> Problem {
    Problem::new(Some(again.key_place()), format!("`{key}` is in two files"))
        .note(Some(&there.key_place()), "the other one is")
        .help("keep one of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: &str, second: &str, merged: Result<serde_json::Value, &str>) {
        let mut tree = parse(0, first).expect("TOML");
        let mut problems = Vec::new();
        merge(&mut tree, parse(1, second).expect("TOML"), &mut problems);
        match merged {
            Ok(merged) => assert_eq!((tree.plain(), problems), (merged, vec![])),
            Err(message) => assert_eq!(problems[0].message, message),
        }
    }

    #[test]
    fn files_add_to_each_other_but_never_replace() {
        use serde_json::json;
        check("a = 1", "b = 2", Ok(json!({ "a": 1, "b": 2 })));
        check(
            "[plan.a]\nweight = 1",
            "[plan.b]\nweight = 2",
            Ok(json!({ "plan": { "a": { "weight": 1 }, "b": { "weight": 2 } } })),
        );
        check(
            "[[route]]\npath = '/a'",
            "[[route]]\npath = '/b'",
            Ok(json!({ "route": [{ "path": "/a" }, { "path": "/b" }] })),
        );
        check("[plan.a]\nweight = 1", "[plan.a]\nconcurrency = 2", Err("`plan.a` is in two files"));
        check("workers = 1", "workers = 1", Err("`workers` is in two files"));
        check("[drain]\ntime = '1s'", "[drain]\ntime = '1s'", Err("`drain` is in two files"));
    }

    #[test]
    fn tables_are_inherited_key_by_key_and_everything_else_whole() {
        let mut route = parse(0, "retry = { tries = 3 }\nallow = ['a']").expect("TOML");
        route.inherit(
            &parse(0, "retry = { tries = 2, body = '1KiB' }\nallow = ['b']\ndeadline = '1s'").expect("TOML"),
        );
        assert_eq!(
            route.plain(),
            serde_json::json!({ "retry": { "tries": 3, "body": "1KiB" }, "allow": ["a"], "deadline": "1s" })
        );
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_place() {
        let problems = parse(0, "a = \nb = 1\nb = 2\nc = 99999999999999999999").expect_err("not TOML");
        assert!(problems.len() >= 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.place.is_some()), "{problems:?}");
    }
}
