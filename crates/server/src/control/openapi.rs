//! The control API as OpenAPI 3.1: made of the table that requests are answered by, and of the types that their bodies are
//! read into. So what is published is what is served.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::config::Scope;

/// What is asked for at a path by one method.
#[derive(Clone, Copy)]
pub struct Operation {
    /// The method, in lower case.
    pub method: &'static str,
    /// What it does, in a sentence without its full stop.
    pub summary: &'static str,
    /// What a token must be allowed; `None`: whoever may look at nothing else may ask for this.
    pub scope: Option<Scope>,
    /// Parameters in the query, each with its meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// The body of the request.
    pub body: Option<Shape>,
    /// The status of what went well.
    pub status: u16,
    /// The body of the answer.
    pub answer: Shape,
    /// What else is answered when it went well, by its status.
    pub or: Option<(u16, Shape)>,
}

/// What a body is.
#[derive(Clone, Copy)]
pub enum Shape {
    /// JSON of this type.
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Something else, of this media type.
    Media(&'static str),
}

/// JSON of this type.
pub const fn of<T: JsonSchema>() -> Shape {
    Shape::Json(SchemaGenerator::subschema_for::<T>)
}

/// A look at something.
pub const fn look(summary: &'static str, answer: Shape) -> Operation {
    Operation {
        method: "get",
        summary,
        scope: Some(Scope::Read),
        query: &[],
        body: None,
        status: 200,
        answer,
        or: None,
    }
}

/// A change of something.
pub const fn change(summary: &'static str, scope: Scope, body: Option<Shape>, answer: Shape) -> Operation {
    Operation { method: "post", summary, scope: Some(scope), query: &[], body, status: 200, answer, or: None }
}

impl Operation {
    /// The same by another method.
    pub const fn by(self, method: &'static str) -> Operation {
        Operation { method, ..self }
    }

    /// The same with these parameters.
    pub const fn query(self, query: &'static [(&'static str, &'static str)]) -> Operation {
        Operation { query, ..self }
    }

    /// The same, answered with this status.
    pub const fn status(self, status: u16) -> Operation {
        Operation { status, ..self }
    }

    /// The same, answered in this way too.
    pub const fn or(self, status: u16, answer: Shape) -> Operation {
        Operation { or: Some((status, answer)), ..self }
    }

    /// The same, for everybody who may ask for anything.
    pub const fn open(self) -> Operation {
        Operation { scope: None, ..self }
    }
}

/// What went wrong, as RFC 9457 has it.
#[derive(JsonSchema)]
#[schemars(rename = "Problem")]
#[expect(dead_code, reason = "it describes what `problem_with` writes")]
struct ProblemShape {
    /// `urn:tidegate:control:` and the rest of the code.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// The stable code.
    code: String,
    /// What went wrong this time.
    detail: String,
    /// Each thing that is wrong, where there may be several.
    problems: Option<Vec<String>>,
}

/// An OpenAPI document.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it describes what `document` makes")]
pub struct Document {
    /// The version of OpenAPI.
    openapi: String,
    /// What it is of.
    info: Map<String, Value>,
    /// What may be asked for.
    paths: Map<String, Value>,
    /// What is referred to.
    components: Map<String, Value>,
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<ProblemShape>().to_value();
    let mut paths = Map::new();
    for endpoint in super::endpoints::all() {
        let operations = endpoint.operations.iter().map(|operation| {
            let told = one(endpoint.path, operation, &mut generator, &problem);
            (operation.method.to_owned(), told)
        });
        paths.insert(endpoint.path.to_owned(), Value::Object(operations.collect()));
    }
    let schemas: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate control API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Where Tidegate is watched and steered. docs/control.md says who may do what.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// The document as it is published.
#[must_use]
pub fn published() -> String {
    serde_json::to_string_pretty(&document()).unwrap_or_default() + "\n"
}

fn one(path: &str, operation: &Operation, generator: &mut SchemaGenerator, problem: &Value) -> Value {
    let within = path.split('{').skip(1).filter_map(|part| part.split('}').next());
    let within = within
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let queried = operation.query.iter().map(|(name, meaning)| {
        json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } })
    });
    let parameters: Vec<Value> = within.chain(queried).collect();
    let good = json!({ "description": "It is done.", "content": content(operation.answer, generator) });
    let wrong = json!({
        "description": "It is refused: `code` says why.",
        "content": { "application/problem+json": { "schema": problem } },
    });
    let mut told = json!({
        "operationId": format!("{} {path}", operation.method),
        "summary": operation.summary,
        "responses": { operation.status.to_string(): good, "default": wrong },
    });
    if let Some((status, answer)) = operation.or {
        told["responses"][status.to_string()] =
            json!({ "description": "It is done.", "content": content(answer, generator) });
    }
    if !parameters.is_empty() {
        told["parameters"] = parameters.into();
    }
    if let Some(body) = operation.body {
        told["requestBody"] = json!({ "required": true, "content": content(body, generator) });
    }
    if let Some(scope) = operation.scope {
        told["security"] = json!([{ "token": [scope.name()] }]);
    }
    told
}

fn content(shape: Shape, generator: &mut SchemaGenerator) -> Value {
    match shape {
        Shape::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Shape::Media(media) => json!({ media: {} }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in a document.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_it_refers_to_is_there_and_operations_have_names_of_their_own() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let there = reference.strip_prefix('#').and_then(|at| document.pointer(at));
            assert!(there.is_some(), "there is no {reference}");
        }
        let mut names = std::collections::HashSet::new();
        for endpoint in super::super::endpoints::all() {
            for operation in endpoint.operations {
                assert!(names.insert((endpoint.path, operation.method)), "{}", endpoint.path);
            }
        }
    }

    #[test]
    fn the_published_document_is_that_of_this_code() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let there = std::fs::read_to_string(docs).unwrap_or_default();
        assert!(there == published(), "docs/openapi.json is stale: `cargo xtask gen` writes it anew");
    }
}
