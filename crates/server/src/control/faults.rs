//! `/faults`: faults are begun, told and ended here, and nowhere else. Each that begins and each that ends is a line of
//! Tidegate's own log, with the token that asked for it.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tidegate_model::cache::Wall;
use tidegate_model::fault::{DELAY_MAX, DURATION_MAX, Fault, Kind};
use tidegate_model::tenant::is_id;
use tidegate_model::tick::Tick;
use tidegate_proxy::{Active, Faults, NotBegun};
use tidegate_wire::{clock, task};

use super::{Control, Who, body, problem, problem_with};
use crate::config::{parse_duration, parse_name, parse_size, show_duration};
use crate::telemetry::rfc3339;

/// All keys of a fault.
const KEYS: [&str; 10] =
    ["name", "tenant", "route", "share", "duration", "delay", "abort", "reset", "throttle", "truncate"];

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Wanted {
    name: String,
    kind: Kind,
    tenant: Option<String>,
    route: Option<String>,
    share: f64,
    duration: Duration,
}

pub async fn list(State(control): State<Control>) -> Response {
    let faults = told(&control.process.gate.standing.faults);
    axum::Json(json!({"enabled": control.settings.faults, "faults": faults})).into_response()
}

/// The faults that there are, the oldest first.
pub fn told(faults: &Faults) -> Vec<Value> {
    let now = clock::now();
    faults.all(now).iter().map(|active| one(active, now)).collect()
}

pub async fn begin(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    sent: Body,
) -> Response {
    if !control.settings.faults {
        return problem(
            StatusCode::FORBIDDEN,
            "control.faults-off",
            "no faults are injected here: `[control] faults = true` allows them, after a restart",
        );
    }
    let bytes = match body::read(sent, body::BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    let config = control.process.gate.config();
    let has_route = |name: &str| config.proxy.routes.iter().any(|route| &*route.name == name);
    let wanted = match read(&bytes, has_route) {
        Ok(wanted) => wanted,
        Err(problems) => {
            return problem_with(StatusCode::BAD_REQUEST, "control.fault", &problems.join("; "), &problems);
        }
    };
    let now = clock::now();
    let fault = Fault {
        name: wanted.name.into(),
        kind: wanted.kind,
        tenant: wanted.tenant.map(Arc::from),
        route: wanted.route.map(Arc::from),
        share: wanted.share,
        by: who.into(),
        until: now.after(wanted.duration),
    };
    let faults = &control.process.gate.standing.faults;
    match faults.begin(fault, now) {
        Ok(active) => {
            let told = one(&active, now);
            tracing::warn!(fault = %told, "fault injected");
            end_in_time(Arc::clone(faults), active);
            (StatusCode::CREATED, axum::Json(told)).into_response()
        }
        Err(error @ NotBegun::Full) => {
            problem(StatusCode::CONFLICT, "control.faults-full", &error.to_string())
        }
        Err(error @ NotBegun::Taken) => {
            problem(StatusCode::CONFLICT, "control.fault-taken", &error.to_string())
        }
    }
}

pub async fn end(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(name): Path<String>,
) -> Response {
    let now = clock::now();
    match control.process.gate.standing.faults.end(&name, now) {
        Some(active) => {
            tell_end(&active, &who);
            axum::Json(one(&active, now)).into_response()
        }
        None => problem(StatusCode::NOT_FOUND, "control.no-fault", "there is no fault of this name"),
    }
}

/// Forgets a fault when its time has come. It strikes nobody from then on in any case.
fn end_in_time(faults: Arc<Faults>, active: Arc<Active>) {
    task::spawn(async move {
        clock::sleep_until(active.fault.until).await;
        if faults.forget(&active) {
            tell_end(&active, "its time is over");
        }
    });
}

/// Ends all faults, as the process does.
pub fn end_all(faults: &Faults) {
    for active in faults.all(clock::now()) {
        if faults.forget(&active) {
            tell_end(&active, "the process ends");
        }
    }
}

fn tell_end(active: &Active, why: &str) {
    let Fault { name, by, .. } = &active.fault;
    tracing::warn!(%name, injected_by = %by, struck = active.struck(), ended_by = why, "fault ended");
}

fn one(active: &Active, now: Tick) -> Value {
    let Fault { name, kind, tenant, route, share, by, until } = &active.fault;
    let left = until.since(now);
    let end = Wall::of(clock::wall() + left).0;
    let what = match kind {
        Kind::Delay(wait) => json!(show_duration(wait)),
        Kind::Abort(status) => json!(status.as_u16()),
        Kind::Reset => json!(true),
        Kind::Throttle(size) | Kind::Truncate(size) => json!(size),
    };
    json!({
        "name": name,
        kind.name(): what,
        "tenant": tenant,
        "route": route,
        "share": share,
        "by": by,
        "until": format!("{}Z", rfc3339(end)),
        "left_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        "struck": active.struck(),
    })
}

/// Reads a fault, or tells all that is wrong with it.
fn read(bytes: &[u8], has_route: impl Fn(&str) -> bool) -> Result<Wanted, Vec<String>> {
    let Ok(Value::Object(given)) = serde_json::from_slice(bytes) else {
        return Err(vec!["the body is no JSON object".to_owned()]);
    };
    let mut reader = Reader { given, problems: Vec::new() };
    reader.keys();
    let name = reader.required("name", parse_name);
    let tenant = reader.text("tenant", |id| {
        is_id(id).then(|| id.to_owned()).ok_or_else(|| "that is no tenant's id".to_owned())
    });
    let route = reader.text("route", |name| {
        has_route(name).then(|| name.to_owned()).ok_or_else(|| format!("there is no route `{name}`"))
    });
    let share = reader.share();
    let duration = reader.required("duration", up_to(DURATION_MAX));
    let kind = reader.kind();
    match (name, kind, duration, reader.problems) {
        (Some(name), Some(kind), Some(duration), problems) if problems.is_empty() => {
            Ok(Wanted { name, kind, tenant, route, share, duration })
        }
        (.., problems) => Err(problems),
    }
}

/// A duration above zero and no longer than this.
fn up_to(most: Duration) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| match parse_duration(text)? {
        Duration::ZERO => Err("it is longer than nothing".to_owned()),
        time if time > most => Err(format!("it is at most {}", show_duration(&most))),
        time => Ok(time),
    }
}

/// A fault while it is read: what is wrong with it is gathered.
struct Reader {
    given: Map<String, Value>,
    problems: Vec<String>,
}

impl Reader {
    fn wrong(&mut self, key: &str, why: &str) {
        self.problems.push(format!("`{key}`: {why}"));
    }

    fn keys(&mut self) {
        let unknown = self.given.keys().filter(|key| !KEYS.contains(&key.as_str()));
        let told = unknown.map(|key| format!("there is no `{key}`: there are `{}`", KEYS.join("`, `")));
        self.problems.extend(told.collect::<Vec<_>>());
    }

    /// A text, if it is given; `null` is as good as nothing.
    fn text<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let read = match self.given.get(key) {
            None | Some(Value::Null) => return None,
            Some(Value::String(text)) => parse(text),
            Some(_) => Err("it is a text".to_owned()),
        };
        read.map_err(|why| self.wrong(key, &why)).ok()
    }

    fn required<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if self.given.get(key).is_none_or(Value::is_null) {
            self.wrong(key, "it is missing");
            return None;
        }
        self.text(key, parse)
    }

    fn share(&mut self) -> f64 {
        match self.given.get("share") {
            None | Some(Value::Null) => return 1.0,
            Some(Value::Number(share)) => match share.as_f64() {
                Some(share) if share > 0.0 && share <= 1.0 => return share,
                _ => self.wrong("share", "it is above 0 and at most 1"),
            },
            Some(_) => self.wrong("share", "it is a number above 0 and at most 1"),
        }
        1.0
    }

    /// The one thing that it does.
    fn kind(&mut self) -> Option<Kind> {
        let given = |name: &&&str| self.given.get(**name).is_some_and(|value| !value.is_null());
        let named: Vec<&str> = Kind::NAMES.iter().filter(given).copied().collect();
        let [name] = named[..] else {
            let names = Kind::NAMES.join("`, `");
            self.problems.push(format!("a fault does one thing of `{names}`: there are {}", named.len()));
            return None;
        };
        let kind = match name {
            "delay" => return self.text(name, up_to(DELAY_MAX)).map(Kind::Delay),
            "abort" => {
                let status = self.given[name].as_u64().and_then(|status| u16::try_from(status).ok());
                let status = status.filter(|status| (200..600).contains(status));
                status.and_then(|status| StatusCode::from_u16(status).ok()).map(Kind::Abort)
            }
            "reset" => (self.given[name] == true).then_some(Kind::Reset),
            "throttle" => self.size(name).filter(|pace| *pace > 0).map(Kind::Throttle),
            _ => self.size(name).map(Kind::Truncate),
        };
        if kind.is_none() {
            let wanted = match name {
                "abort" => "it is a status from 200 to 599",
                "reset" => "it is `true`",
                "throttle" => "it is bytes a second, such as 1000 or \"10KiB\"",
                _ => "it is bytes, such as 1000 or \"10KiB\"",
            };
            self.wrong(name, wanted);
        }
        kind
    }

    fn size(&self, key: &str) -> Option<u64> {
        match &self.given[key] {
            Value::Number(size) => size.as_u64(),
            Value::String(size) => parse_size(size).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body is read as; or all that is wrong with it.
    fn check(body: &str, expected: Result<Wanted, &[&str]>) {
        let read = read(body.as_bytes(), |route| route == "search");
        let expected =
            expected.map_err(|problems| problems.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        assert_eq!(read, expected, "{body}");
    }

    fn wanted(kind: Kind) -> Wanted {
        let (name, duration) = ("f".to_owned(), Duration::from_secs(60));
        Wanted { name, kind, tenant: None, route: None, share: 1.0, duration }
    }

    #[test]
    fn the_document_has_each_key() {
        let schema = schemars::schema_for!(crate::control::told::NewFault).to_value();
        let mut said: Vec<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut keys = KEYS.to_vec();
        said.sort_unstable();
        keys.sort_unstable();
        assert_eq!(said, keys);
    }

    #[test]
    fn reads_each_kind() {
        let of = |what: &str, kind| {
            check(&format!(r#"{{"name": "f", "duration": "1m", {what}}}"#), Ok(wanted(kind)));
        };
        of(r#""delay": "200ms""#, Kind::Delay(Duration::from_millis(200)));
        of(r#""abort": 503"#, Kind::Abort(StatusCode::SERVICE_UNAVAILABLE));
        of(r#""reset": true"#, Kind::Reset);
        of(r#""throttle": "10KiB""#, Kind::Throttle(10_240));
        of(r#""truncate": 0, "tenant": null, "abort": null"#, Kind::Truncate(0));
        let whole = r#"{"name": "f", "duration": "1m", "reset": true, "tenant": "ip:192.0.2.1", "route": "search", "share": 0.25}"#;
        let (tenant, route) = (Some("ip:192.0.2.1".to_owned()), Some("search".to_owned()));
        check(whole, Ok(Wanted { tenant, route, share: 0.25, ..wanted(Kind::Reset) }));
    }

    #[test]
    fn tells_all_that_is_wrong() {
        check("[]", Err(&["the body is no JSON object"]));
        check("{", Err(&["the body is no JSON object"]));
        let none = "a fault does one thing of `delay`, `abort`, `reset`, `throttle`, `truncate`: there are 0";
        check("{}", Err(&["`name`: it is missing", "`duration`: it is missing", none]));
        check(
            r#"{"name": "a b", "tenant": "", "route": "none", "share": 2, "duration": "2h", "delay": "1h", "when": 1}"#,
            Err(&[
                "there is no `when`: there are `name`, `tenant`, `route`, `share`, `duration`, `delay`, `abort`, `reset`, `throttle`, `truncate`",
                "`name`: a name is 1 to 64 letters, digits, `-`, `_` or `.`",
                "`tenant`: that is no tenant's id",
                "`route`: there is no route `none`",
                "`share`: it is above 0 and at most 1",
                "`duration`: it is at most 1h",
                "`delay`: it is at most 5m",
            ]),
        );
        let of = |what: &str, problem: &str| {
            check(&format!(r#"{{"name": "f", "duration": "1m", {what}}}"#), Err(&[problem]));
        };
        of(r#""abort": 101"#, "`abort`: it is a status from 200 to 599");
        of(r#""abort": 65736"#, "`abort`: it is a status from 200 to 599");
        of(r#""reset": false"#, "`reset`: it is `true`");
        of(r#""throttle": 0"#, "`throttle`: it is bytes a second, such as 1000 or \"10KiB\"");
        of(r#""truncate": -1"#, "`truncate`: it is bytes, such as 1000 or \"10KiB\"");
        of(r#""delay": 5"#, "`delay`: it is a text");
        of(r#""reset": true, "share": "10%""#, "`share`: it is a number above 0 and at most 1");
        of(
            r#""reset": true, "abort": 503"#,
            "a fault does one thing of `delay`, `abort`, `reset`, `throttle`, `truncate`: there are 2",
        );
    }
}
