//! `/maintenance`: windows are opened, told and ended here. Each order is a line of Tidegate's own log, with the token that asked
//! for it.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_model::maintenance::{DETAIL_BYTES_MAX, Window};
use tidegate_model::tenant::is_id;

use super::deliveries::{Refused, refused, unavailable};
use super::{Control, Who, body};
use crate::config::{Config, parse_duration, parse_name};
use crate::maintenance::{NotOrdered, now};
use crate::telemetry::rfc3339;
use crate::wiring::Gate;

/// The longest window that ends by itself.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A window that is ordered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWindow {
    /// Its name: one of the same name is replaced.
    name: String,
    /// Those requests alone that come by this route.
    #[serde(default)]
    route: Option<String>,
    /// Those of this tenant alone.
    #[serde(default)]
    tenant: Option<String>,
    /// It ends by itself after so long: `"30m"`.
    #[serde(default)]
    duration: Option<String>,
    /// One sentence for clients.
    #[serde(default)]
    detail: Option<String>,
}

/// A window.
#[derive(Debug, JsonSchema, Serialize)]
pub struct WindowTold {
    /// Its name.
    name: Arc<str>,
    /// The route; none: all.
    route: Option<Arc<str>>,
    /// The tenant; none: all.
    tenant: Option<Arc<str>>,
    /// When it ends (RFC 3339); none: when it is ended.
    until: Option<String>,
    /// The sentence for clients.
    detail: Option<Arc<str>>,
    /// Whose order it is; none: the configuration's.
    by: Option<Arc<str>>,
    /// Whether it is kept in the store, for all nodes and the next process.
    kept: bool,
}

/// All windows.
#[derive(Debug, JsonSchema, Serialize)]
pub struct WindowsTold {
    /// Those of the configuration first.
    windows: Vec<WindowTold>,
}

pub async fn list(State(control): State<Control>) -> Response {
    axum::Json(WindowsTold { windows: told(&control.process.gate) }).into_response()
}

/// The windows that are open.
pub fn told(gate: &Gate) -> Vec<WindowTold> {
    let (config, ordered) = (gate.config(), gate.standing.maintenance.windows());
    let kept = gate.standing.idempotency.store().is_some();
    let of_file = config.proxy.maintenance.windows.iter().map(|window| one(window, false));
    let ordered = ordered.iter().filter(|window| !window.has_ended(now())).map(|window| one(window, kept));
    of_file.chain(ordered).collect()
}

pub async fn begin(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    sent: Body,
) -> Response {
    begun(&control, &who, sent).await.unwrap_or_else(|refused| *refused)
}

async fn begun(control: &Control, who: &str, sent: Body) -> Result<Response, Refused> {
    let wanted: NewWindow = body::json(sent, body::BYTES_MAX, "control.maintenance").await?;
    let gate = &control.process.gate;
    let window = match meant(wanted, &gate.config(), who) {
        Ok(window) => window,
        Err(why) => return refused(StatusCode::BAD_REQUEST, "control.maintenance", &why),
    };
    match gate.orders.begin(gate, window.clone()).await {
        Ok(kept) => {
            let told = one(&window, kept);
            tracing::warn!(window = ?told, "maintenance begins");
            Ok((StatusCode::CREATED, axum::Json(told)).into_response())
        }
        Err(why @ NotOrdered::Full) => {
            refused(StatusCode::CONFLICT, "control.maintenance-full", &why.to_string())
        }
        Err(NotOrdered::Store(why)) => Err(unavailable(&why)),
    }
}

pub async fn end(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(name): Path<String>,
) -> Response {
    ended(&control, &who, &name).await.unwrap_or_else(|refused| *refused)
}

async fn ended(control: &Control, who: &str, name: &str) -> Result<Response, Refused> {
    let gate = &control.process.gate;
    match gate.orders.end(gate, name).await.map_err(|why| unavailable(&why))? {
        Some(window) => {
            tracing::warn!(name = %window.name, ended_by = %who, "maintenance ends");
            Ok(axum::Json(one(&window, false)).into_response())
        }
        None => {
            let why = "nobody has ordered a window of this name; what the configuration says is ended there";
            refused(StatusCode::NOT_FOUND, "control.no-maintenance", why)
        }
    }
}

fn one(window: &Window, kept: bool) -> WindowTold {
    let Window { name, tenant, route, until, detail, by } = window.clone();
    let until = until.map(|until| format!("{}Z", rfc3339(until)));
    WindowTold { name, route, tenant, until, detail, by, kept }
}

/// What was asked for, or what is wrong with it.
fn meant(wanted: NewWindow, config: &Config, who: &str) -> Result<Window, String> {
    let NewWindow { name, route, tenant, duration, detail } = wanted;
    let name = parse_name(&name)?;
    if let Some(route) = &route
        && !config.proxy.routes.iter().any(|one| *one.name == **route)
    {
        return Err(format!("there is no route `{route}`"));
    }
    if let Some(tenant) = &tenant
        && !is_id(tenant)
    {
        return Err(format!("`{tenant}` is no tenant's id"));
    }
    if detail.as_ref().is_some_and(|detail| detail.len() > DETAIL_BYTES_MAX) {
        return Err(format!("`detail` has at most {DETAIL_BYTES_MAX} bytes"));
    }
    let until = match duration.map(|text| parse_duration(&text)).transpose()? {
        None => None,
        Some(time) if time.is_zero() || time > DURATION_MAX => {
            return Err("`duration` is more than nothing and at most a year".to_owned());
        }
        Some(time) => Some(now() + time.as_secs().max(1)),
    };
    let shared = |text: Option<String>| text.map(Arc::from);
    Ok(Window {
        name: name.into(),
        tenant: shared(tenant),
        route: shared(route),
        until,
        detail: shared(detail),
        by: Some(who.into()),
    })
}
