//! `/schedules`: what is made again and again, and a run of it by hand.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tidegate_model::delivery::shown;

use super::deliveries::{now, store_of, unavailable};
use super::shapes::Accepted;
use super::{Control, Who, problem};
use crate::config::ScheduleSettings;
use crate::schedules::{NotRun, make};

pub async fn list(State(control): State<Control>) -> Response {
    let config = control.process.gate.config();
    let all: Vec<Value> = config.schedules.iter().map(|schedule| told(&control, schedule)).collect();
    axum::Json(json!({ "schedules": all })).into_response()
}

fn told(control: &Control, schedule: &ScheduleSettings) -> Value {
    let next = schedule.times.next(now()).filter(|_| !schedule.paused);
    let seen = control.process.gate.schedules.seen(&schedule.name);
    json!({
        "name": &*schedule.name,
        "cron": &*schedule.cron,
        "zone": &*schedule.zone,
        "missed": schedule.missed.name(),
        "queue": &*schedule.queue,
        "tenant": &*schedule.tenant,
        "paused": schedule.paused,
        "seen": seen.map(shown),
        "next": next.map(shown),
    })
}

pub async fn run(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(name): Path<String>,
) -> Response {
    let config = control.process.gate.config();
    let Some(schedule) = config.schedules.iter().find(|schedule| *schedule.name == *name) else {
        let detail = format!("there is no schedule `{name}`");
        return problem(StatusCode::NOT_FOUND, "control.no-schedule", &detail);
    };
    let store = match store_of(&control) {
        Ok(store) => store,
        Err(refused) => return *refused,
    };
    let key = format!("schedule:{name}:by-hand:{:032x}", rand_key());
    match make(&control.process.gate, &store, schedule, now(), &key).await {
        Ok(id) => {
            tracing::info!(who, schedule = name, delivery = %id, "control: schedule run");
            let told = Accepted { id: Some(id.to_string()), outcome: "accepted", detail: None };
            (StatusCode::ACCEPTED, axum::Json(told)).into_response()
        }
        Err(NotRun::Store(why)) => *unavailable(&why),
        Err(NotRun::Full) => {
            problem(StatusCode::TOO_MANY_REQUESTS, "control.full", &NotRun::Full.to_string())
        }
        Err(error) => problem(StatusCode::BAD_REQUEST, "control.delivery", &error.to_string()),
    }
}

/// So that a run by hand is one of a kind.
fn rand_key() -> u128 {
    tidegate_store::deliveries::fresh_id().map_or(0, |id| id.0)
}
