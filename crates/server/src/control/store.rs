//! `/store/backup`: the store copied while it is in use.

use std::path::PathBuf;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_store::BackupError;

use super::deliveries::store_of;
use super::{Control, Who, body, problem};

/// Where to copy the store.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// A directory that there is not yet, as an absolute path, on the machine that Tidegate runs on.
    pub to: PathBuf,
}

/// What was copied.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Copied {
    /// The directory.
    pub to: PathBuf,
    /// Bytes of the database.
    pub bytes: u64,
}

pub async fn backup(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    sent: Body,
) -> Response {
    let to = match body::json(sent, body::BYTES_MAX, "control.body").await {
        Ok(Wanted { to }) if to.is_absolute() => to,
        Ok(_) => return problem(StatusCode::BAD_REQUEST, "control.body", "`to` is an absolute path"),
        Err(refused) => return *refused,
    };
    let store = match store_of(&control) {
        Ok(store) => store,
        Err(refused) => return *refused,
    };
    let place = to.clone();
    // It waits for a disk, and this runtime has others to answer.
    let copied = tokio::task::spawn_blocking(move || store.backup(&place)).await;
    match copied {
        Ok(Ok(bytes)) => {
            tracing::info!(who = &*who, to = %to.display(), bytes, "control: the store was copied");
            axum::Json(Copied { to, bytes }).into_response()
        }
        Ok(Err(error)) => {
            let status = match &error {
                BackupError::There(_) => StatusCode::CONFLICT,
                BackupError::Unavailable(_) | BackupError::Overtaken => StatusCode::SERVICE_UNAVAILABLE,
                BackupError::Open(_) | BackupError::Copy { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            problem(status, "control.backup", &error.to_string())
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "control.backup", "the copy was broken off"),
    }
}
