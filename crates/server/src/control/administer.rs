//! `/deliveries` by filter, and their requests edited: pages with a cursor, changes in bounded steps, `If-Match`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_model::delivery::outcome::later;
use tidegate_model::delivery::{AGING_MS, BODY_BYTES_MAX, Kind, Ms, Seq, parse_time};
use tidegate_store::deliveries::{Control as Wanted, Edit, Edited, Filter, Room, Whole};

use super::deliveries::{Refused, answer, found, id_of, no_delivery, now, refused, store_of, unavailable};
use super::{Control, Who, body, shapes};
use crate::config::parse_duration;

/// Deliveries of a page, where nothing is said.
const PAGE: usize = 50;
/// The most deliveries of a page, and of a step of a change.
const PAGE_MAX: usize = 500;
/// Deliveries that one request changes at most.
const CHANGED_MAX: usize = 10_000;
/// Steps of one such request, a transaction each.
const STEPS_MAX: usize = 200;

/// Which deliveries are meant.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Meant {
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// In this state: `blocked`, `scheduled`, `ready`, `leased`, `delivered`, `dead`, `cancelled`.
    pub state: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// Accepted from this time on (RFC 3339).
    pub since: Option<String>,
    /// Accepted before this time (RFC 3339).
    pub before: Option<String>,
}

impl Meant {
    fn filter(&self) -> Result<Filter, String> {
        let kind = |name: &String| {
            let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            found.ok_or_else(|| format!("`state`: there is no `{name}`"))
        };
        let time = |key: &'static str| {
            move |text: &String| {
                parse_time(text).ok_or_else(|| format!("`{key}`: write \"2027-01-01T12:00:00Z\""))
            }
        };
        let name = |text: &Option<String>| text.as_deref().map(Arc::from);
        Ok(Filter {
            queue: name(&self.queue),
            tenant: name(&self.tenant),
            state: self.state.as_ref().map(kind).transpose()?,
            key: name(&self.key),
            since: self.since.as_ref().map(time("since")).transpose()?,
            before: self.before.as_ref().map(time("before")).transpose()?,
        })
    }
}

/// A page that is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listing {
    queue: Option<String>,
    tenant: Option<String>,
    state: Option<String>,
    key: Option<String>,
    since: Option<String>,
    before: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

fn bad<T>(detail: &str) -> Result<T, Refused> {
    refused(StatusCode::BAD_REQUEST, "control.filter", detail)
}

fn filter_of(meant: &Meant) -> Result<Filter, Refused> {
    meant.filter().or_else(|why| bad(&why))
}

/// Where to go on.
fn after(cursor: Option<&str>) -> Result<Option<Seq>, Refused> {
    match cursor.map(str::parse) {
        None => Ok(None),
        Some(Ok(seq)) => Ok(Some(Seq(seq))),
        Some(Err(_)) => bad("`cursor`: it is what `next` of the page before has told"),
    }
}

pub async fn list(State(control): State<Control>, asked: Result<Query<Listing>, QueryRejection>) -> Response {
    answer(listed(&control, asked).await)
}

async fn listed(
    control: &Control,
    asked: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(Listing { queue, tenant, state, key, since, before, limit, cursor }) =
        asked.or_else(|error| bad(&error.to_string()))?;
    let filter = filter_of(&Meant { queue, tenant, state, key, since, before })?;
    let after = after(cursor.as_deref())?;
    let most = limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let page = store_of(control)?.list(filter, after, most).await.map_err(|why| unavailable(&why))?;
    let records: Vec<Value> = page.records.iter().map(shapes::record).collect();
    let next = page.next.map(|Seq(seq)| seq.to_string());
    Ok(axum::Json(json!({ "deliveries": records, "next": next })).into_response())
}

/// A change of all that are meant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChangeOfMany {
    /// Which.
    pub filter: Meant,
    /// So many of them at most, up to 10,000. Whoever wants all goes on from `next`.
    pub most: Option<usize>,
    /// Of a redrive: so many a second are begun again.
    pub per_second: Option<u32>,
    /// Of a redrive: when the first is begun again, from now on: `"10m"`.
    pub delay: Option<String>,
    /// Where to go on: `next` of the change before.
    pub cursor: Option<String>,
}

/// What is forgotten before its time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PurgeOfMany {
    /// Which.
    pub filter: Meant,
    /// What has not begun, too: it is never made. Without it: what has ended alone.
    pub waiting: bool,
    /// So many of them at most, up to 10,000. Whoever wants all goes on from `next`.
    pub most: Option<usize>,
    /// Where to go on: `next` of the purge before.
    pub cursor: Option<String>,
}

/// What was forgotten.
#[derive(Debug, JsonSchema, Serialize)]
pub struct PurgedMany {
    /// How many.
    pub purged: usize,
    /// Where to go on; `null`: there are no more.
    pub next: Option<String>,
}

/// What became of a change of many.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ChangedMany {
    /// How many were changed.
    pub changed: usize,
    /// Where to go on; `null`: there are no more.
    pub next: Option<String>,
    /// Of a redrive: when the last of them is begun again, from now on, in milliseconds.
    pub last_in_ms: Ms,
}

pub async fn cancel_many(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    body: Body,
) -> Response {
    answer(change_many(&control, &who, body, false).await)
}

pub async fn redrive_many(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    body: Body,
) -> Response {
    answer(change_many(&control, &who, body, true).await)
}

async fn change_many(control: &Control, who: &str, sent: Body, redrive: bool) -> Result<Response, Refused> {
    let asked: ChangeOfMany = body::json(sent, body::BYTES_MAX, "control.filter").await?;
    let filter = filter_of(&asked.filter)?;
    if filter == Filter::default() {
        return bad("`filter` says nothing: it would be all deliveries of all tenants");
    }
    if !redrive && (asked.per_second.is_some() || asked.delay.is_some()) {
        return bad("`per_second` and `delay` are of a redrive");
    }
    let delay = match asked.delay.as_deref().map(parse_duration) {
        None => Duration::ZERO,
        Some(Ok(delay)) => delay,
        Some(Err(why)) => return bad(&format!("`delay`: {why}")),
    };
    let store = store_of(control)?;
    let config = control.process.gate.config();
    let queue = config.queues.iter().find(|queue| Some(&queue.name) == filter.queue.as_ref());
    let kept = queue.map(|queue| queue.policy.keep).unwrap_or_default().cancelled;
    let aging = queue.map_or(AGING_MS, |queue| later(0, queue.aging));
    let (most, begun) = (asked.most.unwrap_or(CHANGED_MAX).clamp(1, CHANGED_MAX), now());
    let mut next = after(asked.cursor.as_deref())?;
    let (mut changed, mut waited, mut last) = (0, later(0, delay), 0);
    for _ in 0..STEPS_MAX {
        // At a rate, as many at once as come within a tenth of a second.
        let step = asked.per_second.map_or(PAGE_MAX, |rate| (rate as usize / 10).clamp(1, PAGE_MAX));
        let wanted = if redrive {
            Wanted::Redrive { due: begun.saturating_add(waited), aging }
        } else {
            Wanted::Cancel { forgotten: later(begun, kept) }
        };
        let told = store
            .change_many(filter.clone(), wanted, next, step.min(most - changed), now())
            .await
            .map_err(|why| unavailable(&why))?;
        changed += told.changed;
        if told.changed > 0 {
            last = waited;
        }
        next = told.next;
        if next.is_none() || changed >= most {
            break;
        }
        if let Some(rate) = asked.per_second {
            waited = waited.saturating_add(told.changed as Ms * 1_000 / Ms::from(rate.max(1)));
        }
    }
    tracing::info!(who, ?filter, changed, redrive, "control: deliveries changed");
    let next = next.map(|Seq(seq)| seq.to_string());
    Ok(axum::Json(ChangedMany { changed, next, last_in_ms: last }).into_response())
}

pub async fn purge(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    sent: Body,
) -> Response {
    answer(purged(&control, &who, sent).await)
}

async fn purged(control: &Control, who: &str, sent: Body) -> Result<Response, Refused> {
    let asked: PurgeOfMany = body::json(sent, body::BYTES_MAX, "control.filter").await?;
    let filter = filter_of(&asked.filter)?;
    if filter == Filter::default() {
        return bad("`filter` says nothing: it would be all deliveries of all tenants");
    }
    let store = store_of(control)?;
    let most = asked.most.unwrap_or(CHANGED_MAX).clamp(1, CHANGED_MAX);
    let (mut next, mut count) = (after(asked.cursor.as_deref())?, 0);
    for _ in 0..STEPS_MAX {
        let wanted = Wanted::Purge { waiting: asked.waiting };
        let step = PAGE_MAX.min(most - count);
        let told = store.change_many(filter.clone(), wanted, next, step, now()).await;
        let told = told.map_err(|why| unavailable(&why))?;
        count += told.changed;
        next = told.next;
        if next.is_none() || count >= most {
            break;
        }
    }
    tracing::info!(who, ?filter, purged = count, waiting = asked.waiting, "control: deliveries purged");
    let next = next.map(|Seq(seq)| seq.to_string());
    Ok(axum::Json(PurgedMany { purged: count, next }).into_response())
}

/// What is changed of a delivery's request, while it has not begun, or is dead.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EditOfRequest {
    /// Its method.
    pub method: Option<String>,
    /// Its path and query.
    pub path: Option<String>,
    /// Its body, as text. One of `body`, `base64` and `json` at most.
    pub body: Option<String>,
    /// Its body, as bytes in Base64.
    pub base64: Option<String>,
    /// Its body, as JSON.
    pub json: Option<Value>,
}

impl EditOfRequest {
    fn meant(self) -> Result<Edit, String> {
        let method = self.method.map(|method| {
            http::Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))
        });
        let is_path =
            |path: &String| path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        if let Some(path) = self.path.as_ref().filter(|path| !is_path(path)) {
            return Err(format!("`{path}` is no path"));
        }
        let body = match (self.body, self.base64, self.json) {
            (None, None, None) => None,
            (Some(body), None, None) => Some(body.into_bytes()),
            (None, Some(text), None) => {
                Some(BASE64_STANDARD.decode(text).map_err(|_| "`base64` is no Base64")?)
            }
            (None, None, Some(json)) => Some(json.to_string().into_bytes()),
            _ => return Err("one of `body`, `base64` and `json` at most".to_owned()),
        };
        if body.as_ref().is_some_and(|body| body.len() > BODY_BYTES_MAX) {
            return Err(format!("a body has at most {BODY_BYTES_MAX} bytes"));
        }
        Ok(Edit {
            method: method.transpose()?,
            target: self.path.map(Arc::from),
            body: body.map(bytes::Bytes::from),
        })
    }
}

/// How often a delivery's request was changed.
fn etag(edits: u64) -> String {
    format!("\"{edits}\"")
}

/// A delivery with its `ETag`.
pub fn shown(whole: &Whole) -> Response {
    ([(header::ETAG, etag(whole.edits))], axum::Json(shapes::whole(whole))).into_response()
}

pub async fn edit(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(edited(&control, &who, &id, &headers, body).await)
}

async fn edited(
    control: &Control,
    who: &str,
    id: &str,
    headers: &HeaderMap,
    sent: Body,
) -> Result<Response, Refused> {
    let (store, wanted) = (store_of(control)?, id_of(id)?);
    let known = match headers.get(header::IF_MATCH).map(|value| value.to_str().unwrap_or_default().trim()) {
        None | Some("*") => None,
        Some(tag) => match tag.trim_matches('"').parse() {
            Ok(edits) => Some(edits),
            Err(_) => return changed_meanwhile(),
        },
    };
    let edit: EditOfRequest = body::json(sent, super::deliveries::BODY_MAX, "control.delivery").await?;
    let edit = match edit.meant() {
        Ok(edit) => edit,
        Err(why) => return refused(StatusCode::BAD_REQUEST, "control.delivery", &why),
    };
    let queue = found(control, id).await?.record.queue;
    let config = control.process.gate.config();
    let of_queue = config.queues.iter().find(|one| one.name == queue).map(|one| one.room);
    let room = of_queue.unwrap_or(Room { waiting_max: u64::MAX, bytes_max: u64::MAX });
    match store.edit(None, wanted, known, edit, room).await.map_err(|why| unavailable(&why))? {
        Edited::Done(_) => {
            tracing::info!(who, delivery = id, "control: delivery edited");
            Ok(shown(&found(control, id).await?))
        }
        Edited::Otherwise(_) => changed_meanwhile(),
        Edited::Not(state) => {
            let detail = format!("the delivery is {}", state.name());
            refused(StatusCode::CONFLICT, "control.delivery-state", &detail)
        }
        Edited::Full => {
            let detail = "the tenant has as many bytes waiting as it may";
            refused(StatusCode::TOO_MANY_REQUESTS, "control.full", detail)
        }
        Edited::Gone => no_delivery(),
    }
}

fn changed_meanwhile<T>() -> Result<T, Refused> {
    let detail = "the delivery's request was changed meanwhile: look at it again";
    refused(StatusCode::PRECONDITION_FAILED, "control.changed", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a filter means; or what is wrong with it.
    fn check(body: Value, expected: Result<Filter, &str>) {
        let meant: Meant = serde_json::from_value(body).unwrap();
        assert_eq!(meant.filter(), expected.map_err(str::to_owned));
    }

    #[test]
    fn a_filter_says_which_are_meant() {
        check(json!({}), Ok(Filter::default()));
        let dead = Filter { queue: Some("q".into()), state: Some(Kind::Dead), ..Filter::default() };
        check(json!({"queue": "q", "state": "dead"}), Ok(dead));
        check(json!({"state": "gone"}), Err("`state`: there is no `gone`"));
        check(json!({"since": "now"}), Err("`since`: write \"2027-01-01T12:00:00Z\""));
    }

    #[test]
    fn an_edit_changes_what_it_names() {
        let meant = |body: Value| serde_json::from_value::<EditOfRequest>(body).unwrap().meant();
        assert_eq!(meant(json!({})), Ok(Edit::default()));
        let body = Edit { body: Some("[1]".into()), ..Edit::default() };
        assert_eq!(meant(json!({"json": [1]})), Ok(body));
        assert!(meant(json!({"path": "jobs"})).is_err());
        assert!(meant(json!({"body": "a", "base64": "AA=="})).is_err());
    }
}
