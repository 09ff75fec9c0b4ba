//! `GET /audit`, and who is asked to record what.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::openapi::Operation;
use super::{Control, problem};
use crate::audit::Entry;
use crate::config::Scope;

/// Entries of one page, and the most.
const PAGE: usize = 50;
const PAGE_MAX: usize = 500;

/// What an error's code is, for the record: beside its body.
#[derive(Clone)]
pub struct Code(pub String);

/// What a handler says of a change beside its answer.
#[derive(Clone)]
pub struct Changed {
    /// What was before.
    pub before: Option<String>,
    /// What is now.
    pub after: String,
}

/// Whether it is an operator's change, or a look at secrets. What an application does with deliveries is told by these themselves.
pub fn is_recorded(operation: &Operation) -> bool {
    matches!(operation.scope, Some(Scope::Write | Scope::Faults | Scope::Purge))
}

#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    limit: String,
    #[serde(default)]
    cursor: String,
}

/// What was changed lately.
#[derive(JsonSchema, Serialize)]
pub struct AuditTold {
    /// The newest first.
    entries: Vec<Entry>,
    /// Where the next page begins; not there: this is the last one that is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Tells what was changed.
pub async fn list(State(control): State<Control>, Query(page): Query<Page>) -> Response {
    let number = |text: &str| (!text.is_empty()).then(|| text.parse::<u64>()).transpose();
    let (Ok(limit), Ok(before)) = (number(&page.limit), number(&page.cursor)) else {
        return problem(StatusCode::BAD_REQUEST, "control.audit", "`limit` and `cursor` are numbers");
    };
    let limit = limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX)).clamp(1, PAGE_MAX);
    let found = control.process.audit.told(before, limit + 1).await;
    let more = found.len() > limit;
    let entries: Vec<Entry> = found.iter().take(limit).map(|entry| (**entry).clone()).collect();
    let next = entries.last().filter(|_| more).map(|last| last.number.to_string());
    axum::Json(AuditTold { entries, next }).into_response()
}
