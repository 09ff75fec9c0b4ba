//! Checks a tree against the schema: unknown and missing keys, wrong types, wrong values. Every problem is told,
//! each with its place, before anything is deserialized; what passes here deserializes.

use std::path::Path;

use serde_json::Value as Schema;

use super::later;
use super::problem::Problem;
use super::schema::{SCHEMA, alternatives, follow, properties, words};
use super::suggest::nearest;
use super::text::{FORMATS, is_url};
use super::tree::{Node, Table, Value};

/// The most keys that are listed where nothing is near enough to be suggested.
const LISTED_MAX: usize = 16;

/// What other proxies call it.
const SYNONYMS: [(&str, &str); 18] = [
    ("addr", "address"),
    ("backend", "upstream"),
    ("backends", "upstream"),
    ("certificate", "cert"),
    ("circuit_breaker", "breaker"),
    ("headers_request", "request_headers"),
    ("healthcheck", "health"),
    ("health_check", "health"),
    ("hostname", "host"),
    ("lb", "balance"),
    ("max_connections", "connections"),
    ("prefix", "path"),
    ("proxy_pass", "upstream"),
    ("rate_limit", "limits"),
    ("retries", "retry"),
    ("servers", "endpoints"),
    ("targets", "endpoints"),
    ("timeout", "deadline"),
];

/// Checks a file's tree. Paths in it that are not absolute are below `directory`, and are made absolute.
///
/// An entry with a problem (a route, an upstream, a table) is tainted, and leaves the tree where nothing names
/// it: so the rest can be resolved, and its problems told too, without any that only follow from these.
#[must_use]
pub fn check(tree: &mut Node, directory: &Path) -> Vec<Problem> {
    let mut checker = Checker { directory, problems: Vec::new() };
    let Value::Table(root) = &mut tree.value else { return checker.problems };
    root.retain(|key, node| checker.entry(key, node));
    checker.problems
}

struct Checker<'a> {
    directory: &'a Path,
    problems: Vec<Problem>,
}

/// Where a value stands: the table's name in the schema, and the key.
#[derive(Clone, Copy)]
struct Context<'a> {
    table: &'a str,
    key: &'a str,
}

impl Checker<'_> {
    fn tell(&mut self, node: &Node, message: impl Into<String>, help: Option<String>) {
        let mut problem = Problem::new(Some(node.place.clone()), message);
        problem.help = help;
        self.problems.push(problem);
    }

    /// Checks one of the file's outermost entries. Whether it stays.
    fn entry(&mut self, key: &str, node: &mut Node) -> bool {
        let known = properties(&SCHEMA);
        let Some(schema) = known.and_then(|known| known.get(key)) else {
            self.unknown_key(&SCHEMA, "Config", key, node);
            return false;
        };
        let context = Context { table: "Config", key };
        let items = schema.get("items");
        let entries = schema.get("additionalProperties").filter(|entries| entries.is_object());
        match (&mut node.value, items, entries) {
            (Value::Array(list), Some(schema), _) => {
                list.retain_mut(|item| self.is_right(|checker| checker.value(schema, item, context)));
                true
            }
            (Value::Table(table), _, Some(schema)) => {
                for (key, entry) in table {
                    let context = Context { table: "Config", key };
                    if !self.is_right(|checker| checker.value(schema, entry, context)) {
                        entry.taint();
                    }
                }
                true
            }
            _ => {
                let right = self.is_right(|checker| checker.value(schema, node, context));
                let follows = schema.get("type").is_none_or(|kind| kind == "object");
                if !right && follows {
                    node.taint();
                }
                right || follows
            }
        }
    }

    fn is_right(&mut self, check: impl FnOnce(&mut Self)) -> bool {
        let before = self.problems.len();
        check(self);
        self.problems.len() == before
    }

    fn value(&mut self, schema: &Schema, node: &mut Node, context: Context<'_>) {
        let (schema, name) = follow(schema);
        if schema.get("anyOf").or(schema.get("oneOf")).is_some() {
            return self.alternative(schema, node, context);
        }
        if !fits(schema, node) {
            let help = remedy(schema, node);
            return self.tell(
                node,
                format!("`{}` must be {}, not {}", context.key, told(schema), node.told()),
                help,
            );
        }
        match &mut node.value {
            Value::Text(_) => self.text(schema, node, context),
            Value::Integer(number) => {
                let number = *number as f64;
                self.range(schema, number, node, context);
            }
            Value::Float(number) => {
                let number = *number;
                self.range(schema, number, node, context);
            }
            Value::Array(_) => self.list(schema, node, context),
            Value::Table(_) => self.table_entries(schema, name.unwrap_or(context.table), node),
            Value::Boolean(_) => {}
        }
    }

    /// A value of one of several shapes: the one that fits is checked.
    fn alternative(&mut self, schema: &Schema, node: &mut Node, context: Context<'_>) {
        let all = alternatives(schema);
        let known: Vec<&str> = all.iter().flat_map(|one| words(one)).collect();
        if let Value::Text(text) = &node.value
            && known.contains(&text.as_str())
        {
            return;
        }
        let mut fitting: Vec<&Schema> = Vec::new();
        for one in &all {
            if words(one).is_empty() && fits(follow(one).0, node) {
                fitting.push(one);
            }
        }
        if let (Value::Table(table), 2..) = (&node.value, fitting.len()) {
            let keys: Vec<&str> = fitting.iter().flat_map(|one| keys(one)).collect();
            let chosen = fitting.iter().find(|one| keys_of(one).any(|key| table.contains_key(key)));
            match chosen {
                Some(chosen) => return self.value(chosen, node, context),
                None => return self.no_such_table(node, context, &keys),
            }
        }
        match fitting.as_slice() {
            [first, ..] => self.value(first, node, context),
            [] if !known.is_empty() && matches!(node.value, Value::Text(_)) => {
                self.unknown_word(&known, node, context)
            }
            [] => {
                let wanted = told(schema);
                let help = all.iter().find_map(|one| remedy(follow(one).0, node));
                self.tell(node, format!("`{}` must be {wanted}, not {}", context.key, node.told()), help);
            }
        }
    }

    fn no_such_table(&mut self, node: &Node, context: Context<'_>, keys: &[&str]) {
        let entries = node.table().map(Table::keys).into_iter().flatten();
        let near = entries.clone().find_map(|key| nearest(key, keys.iter().copied()));
        let help = near.map(|near| format!("did you mean `{near}`?"));
        self.tell(node, format!("a table in `{}` has one of the keys {}", context.key, listed(keys)), help);
    }

    fn unknown_word(&mut self, known: &[&str], node: &Node, context: Context<'_>) {
        let Value::Text(text) = &node.value else { return };
        let help = match nearest(text, known.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}", quoted(known)),
        };
        self.tell(node, format!("\"{text}\" is no value of `{}`", context.key), Some(help));
    }

    fn text(&mut self, schema: &Schema, node: &mut Node, context: Context<'_>) {
        let known = words(schema);
        let Value::Text(text) = &mut node.value else { return };
        if !known.is_empty() && !known.contains(&text.as_str()) {
            return self.unknown_word(&known, node, context);
        }
        let Some(format) = schema.get("format").and_then(Schema::as_str) else { return };
        if let Some(row) = FORMATS.iter().find(|row| row.name == format)
            && let Err(message) = (row.check)(text)
        {
            let help = (context.key == "endpoints" || context.key == "address")
                .then(|| {
                    text.rsplit_once(':')
                        .filter(|(host, _)| host.contains(|c: char| c.is_ascii_alphabetic() && c != 'x'))
                })
                .flatten()
                .filter(|_| context.table == "Upstream")
                .map(|_| format!("for a host name write dns = \"{text}\""));
            return self.tell(node, message, help);
        }
        match format {
            "path" => self.join(text),
            "url-or-path" if !is_url(text) => self.join(text),
            "log-target" if text != "stdout" && text != "off" => self.join(text),
            "store-url" => {
                if let Some(path) = text.strip_prefix("sqlite:") {
                    let mut path = path.to_owned();
                    self.join(&mut path);
                    *text = format!("sqlite:{path}");
                }
            }
            "control-address" => {
                if let Some(path) = text.strip_prefix("unix:") {
                    let mut path = path.to_owned();
                    self.join(&mut path);
                    *text = format!("unix:{path}");
                }
            }
            _ => {}
        }
    }

    /// Makes a path absolute, so that it means the same wherever the configuration is printed to.
    fn join(&self, path: &mut String) {
        let joined = self.directory.join(&*path);
        *path = std::path::absolute(&joined).unwrap_or(joined).display().to_string();
    }

    fn range(&mut self, schema: &Schema, number: f64, node: &Node, context: Context<'_>) {
        let bound = |name: &str| schema.get(name).and_then(Schema::as_f64);
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most) {
            return;
        }
        let key = context.key;
        let message = match (least, most) {
            (Some(least), Some(most)) => format!("`{key}` must be from {least} to {most}"),
            (Some(least), None) => format!("`{key}` must be at least {least}"),
            (None, Some(most)) => format!("`{key}` must be at most {most}"),
            (None, None) => return,
        };
        self.tell(node, message, None);
    }

    fn list(&mut self, schema: &Schema, node: &mut Node, context: Context<'_>) {
        let Value::Array(list) = &mut node.value else { return };
        if let Some(items) = schema.get("items") {
            for item in list.iter_mut() {
                self.value(items, item, context);
            }
        }
        let (length, key) = (list.len() as u64, context.key);
        if let Some(most) = schema.get("maxItems").and_then(Schema::as_u64).filter(|most| length > *most) {
            self.tell(node, format!("`{key}` has at most {most} entries, not {length}"), None);
        }
        if let Some(least) = schema.get("minItems").and_then(Schema::as_u64).filter(|least| length < *least) {
            self.tell(node, format!("`{key}` has at least {least} entries"), None);
        }
    }

    fn table_entries(&mut self, schema: &Schema, name: &str, node: &mut Node) {
        for key in
            schema.get("required").and_then(Schema::as_array).into_iter().flatten().filter_map(Schema::as_str)
        {
            if node.get(key).is_none() {
                self.tell(node, format!("`{key}` is missing"), None);
            }
        }
        let Value::Table(table) = &mut node.value else { return };
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        for (key, value) in table {
            match properties(schema).and_then(|known| known.get(key)).or(others) {
                Some(entry) => self.value(entry, value, Context { table: name, key }),
                None => self.unknown_key(schema, name, key, value),
            }
        }
    }

    fn unknown_key(&mut self, schema: &Schema, table: &str, key: &str, node: &Node) {
        let mut problem = Problem::new(Some(node.key_place()), String::new());
        if let Some(message) = later::key(table, key) {
            problem.message = message;
            return self.problems.push(problem);
        }
        problem.message = format!("unknown key `{key}`");
        let known: Vec<&str> =
            properties(schema).into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        let meant = SYNONYMS.iter().find(|(theirs, _)| *theirs == key).map(|(_, ours)| *ours);
        let meant = meant.filter(|ours| known.contains(ours)).or_else(|| nearest(key, known.iter().copied()));
        problem.help = Some(match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.len() <= LISTED_MAX => format!("known here: {}", listed(&known)),
            None => "docs/config.md lists the keys".to_owned(),
        });
        self.problems.push(problem);
    }
}

fn keys_of(schema: &Schema) -> impl Iterator<Item = &str> {
    properties(follow(schema).0).into_iter().flatten().map(|(key, _)| key.as_str())
}

fn keys(schema: &Schema) -> Vec<&str> {
    keys_of(schema).collect()
}

fn listed(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// Whether the value is of the schema's type.
fn fits(schema: &Schema, node: &Node) -> bool {
    let kind = match &node.value {
        Value::Text(_) => "string",
        Value::Integer(_) => "integer",
        Value::Float(_) => "number",
        Value::Boolean(_) => "boolean",
        Value::Array(_) => "array",
        Value::Table(_) => "object",
    };
    if schema.get("anyOf").or(schema.get("oneOf")).is_some() {
        return alternatives(schema).iter().any(|one| fits(follow(one).0, node));
    }
    match schema.get("type").and_then(Schema::as_str) {
        Some(wanted) => wanted == kind || wanted == "number" && kind == "integer",
        None => words(schema).is_empty() || kind == "string",
    }
}

/// What the schema asks for, in a sentence.
fn told(schema: &Schema) -> String {
    let (schema, _) = follow(schema);
    let all = alternatives(schema);
    if all.len() > 1 {
        let mut parts: Vec<String> = Vec::new();
        for one in all.iter().map(|one| told(one)) {
            if !parts.contains(&one) {
                parts.push(one);
            }
        }
        return parts.join(" or ");
    }
    if !words(schema).is_empty() {
        return quoted(&words(schema));
    }
    let format = schema.get("format").and_then(Schema::as_str);
    if let Some(row) = FORMATS.iter().find(|row| Some(row.name) == format) {
        return format!("{}, such as \"{}\"", row.told, row.example);
    }
    match schema.get("type").and_then(Schema::as_str) {
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") => "a list",
        Some("object") => "a table",
        _ => "a text",
    }
    .to_owned()
}

/// How to write what was probably meant.
fn remedy(schema: &Schema, node: &Node) -> Option<String> {
    let format = schema.get("format").and_then(Schema::as_str);
    let kind = schema.get("type").and_then(Schema::as_str);
    match (&node.value, kind, format) {
        (Value::Integer(number), _, Some("duration")) => {
            Some(format!("write \"{number}s\" or \"{number}ms\""))
        }
        (Value::Integer(number), _, Some("size")) => Some(format!("write \"{number}B\" or \"{number}KiB\"")),
        (Value::Integer(number), _, Some("rate")) => Some(format!("write \"{number}/s\"")),
        (Value::Integer(number), _, Some("percent")) => Some(format!("write \"{number}%\"")),
        (Value::Text(text), Some("integer" | "number"), _) if text.parse::<f64>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        (Value::Text(text), Some("boolean"), _) if text == "true" || text == "false" => {
            Some(format!("write {text} without quotes"))
        }
        (Value::Text(_) | Value::Integer(_) | Value::Table(_), Some("array"), _) => {
            Some("put it in [ ]".to_owned())
        }
        _ => None,
    }
}
