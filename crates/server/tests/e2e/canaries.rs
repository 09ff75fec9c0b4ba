//! Canaries: a share of requests for the next version, which grows, stays, or is taken back; by itself, by command, over
//! reloads and restarts.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate_testkit::{Gate, Origin, Postgres, Reply, connect, nobody, read_answer, until};

use crate::{command, control, gate};

/// A server whose answers have its name for body.
fn version(name: &'static str) -> Origin {
    Origin::start(move |_| Reply::Status(200, name.to_owned()))
}

/// The configuration of a route `all` to the one, whose canary is the other.
fn config(app: SocketAddr, next: SocketAddr, canary: &str, more: &str) -> String {
    format!(
        r#"
workers = 2
{more}
[defaults.route]
deadline = "20s"
[upstream.app]
endpoints = ["{app}"]
[upstream.next]
endpoints = ["{next}"]
outlier = {{ consecutive = 0 }}
[[route]]
name = "all"
upstream = "app"
retry = {{ tries = 1 }}
[route.canary]
upstream = "next"
sticky = "header:x-user"
{canary}
"#
    )
}

/// How the canary stands.
fn told(gate: &Gate) -> Value {
    let answer = control(gate, "/canaries/all");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let told = serde_json::from_str(body).expect("JSON");
    crate::described::fits("GET /canaries/all", head[9..12].parse().expect("a status"), &told);
    told
}

fn until_is(gate: &Gate, phase: &str) -> Value {
    until(&format!("it is {phase}"), || told(gate)["phase"] == phase);
    told(gate)
}

/// Status and body of a request of each of so many users.
fn ask_as(gate: &Gate, method: &str, users: std::ops::Range<u32>) -> Vec<(u16, String)> {
    let mut stream = connect(gate.address);
    let mut one = |user: u32| {
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it is sent");
        let answer = read_answer(&mut stream);
        (answer.status, answer.body)
    };
    users.map(&mut one).collect()
}

fn count(answers: &[(u16, String)], is: impl Fn(u16, &str) -> bool) -> usize {
    answers.iter().filter(|(status, body)| is(*status, body)).count()
}

/// Which of them were answered 500.
fn failing(answers: &[(u16, String)]) -> Vec<usize> {
    let failing = answers.iter().enumerate().filter(|(_, (status, _))| *status == 500);
    failing.map(|(user, _)| user).collect()
}

#[test]
fn a_faulty_canary_is_rolled_back_and_stays_so_over_a_restart() {
    let (app, next) = (version("old"), Origin::start(|_| Reply::Status(500, "new".into())));
    let folder = std::env::temp_dir().join(format!("tidegate-e2e-{}-canary-data", std::process::id()));
    let store = format!("[store]\nurl = \"sqlite:{}\"", folder.display());
    let config = config(app.address, next.address, "steps = [\"20%\"]\nevery = \"1h\"", &store);
    let gate_before = gate("canary-faulty", &config);
    until_is(&gate_before, "running");
    let first = ask_as(&gate_before, "POST", 0..200);
    let failed = failing(&first);
    // It may be found out before all have asked.
    assert!((5..70).contains(&failed.len()), "{failed:?} of 200 are the canary's");
    assert_eq!(failed.len(), next.recorded().len());
    let found = until_is(&gate_before, "rolled-back");
    assert!(found["why"].as_str().is_some_and(|why| why.starts_with("errors: ")), "{found}");
    assert_eq!(found["share"], 0.0);
    // From then on nobody is given to it.
    assert_eq!(
        count(&ask_as(&gate_before, "POST", 0..200), |status, body| (status, body) == (200, "old")),
        200
    );
    assert_eq!(gate_before.metric("tidegate_canary_rollbacks_total{route=\"all\"}"), Some(1.0));
    assert_eq!(gate_before.metric("tidegate_canary_phase{route=\"all\",phase=\"rolled-back\"}"), Some(1.0));
    let errors = "tidegate_canary_requests_total{route=\"all\",side=\"canary\",outcome=\"error\"}";
    assert_eq!(gate_before.metric(errors), Some(failed.len() as f64));
    assert!(command(&gate_before, &["canary"]).1.contains("rolled-back"));
    drop(gate_before);
    // What a restart does not know yet it gives nothing to.
    let after = gate("canary-faulty-after", &config);
    assert_eq!(count(&ask_as(&after, "POST", 0..100), |_, body| body == "old"), 100);
    until_is(&after, "rolled-back");
    let (went, said) = command(&after, &["canary", "all", "start"]);
    assert!(went && said.contains("running"), "{said}");
    let again = failing(&ask_as(&after, "POST", 0..200));
    assert_eq!(again[..5], failed[..5], "the same users are the canary's again");
    drop(after);
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_good_canary_goes_through_its_steps_and_has_all() {
    let (app, next) = (version("old"), version("new"));
    let steps = "steps = [\"30%\", \"60%\"]\nevery = \"1ms\"\nrollback = { min = 25, latency = 1000.0 }";
    let gate = gate("canary-good", &config(app.address, next.address, steps, ""));
    until_is(&gate, "running");
    let of_canary = |answers: Vec<(u16, String)>| -> Vec<bool> {
        answers.iter().map(|(_, body)| body == "new").collect()
    };
    let mut first = Vec::new();
    until("the next step", || {
        let users = first.len() as u32;
        let is_next = told(&gate)["share"] == 0.6;
        if !is_next {
            first.extend(of_canary(ask_as(&gate, "GET", users..users + 10)));
        }
        is_next
    });
    assert!(first.contains(&true) && first.contains(&false));
    let second = of_canary(ask_as(&gate, "GET", 0..first.len() as u32));
    assert!(first.iter().zip(&second).all(|(first, second)| !first || *second), "who has it keeps it");
    until_is(&gate, "promoted");
    assert_eq!(of_canary(ask_as(&gate, "GET", 0..200)), [true; 200]);
    assert_eq!(gate.metric("tidegate_canary_share{route=\"all\"}"), Some(1.0));
    assert_eq!(gate.metric("tidegate_canary_rollbacks_total{route=\"all\"}"), Some(0.0));
}

#[test]
fn a_slow_canary_is_rolled_back() {
    let (app, next) =
        (version("old"), Origin::start(|_| Reply::After(std::time::Duration::from_millis(150))));
    let rollback = "steps = [\"50%\"]\nevery = \"1h\"\nrollback = { min = 10, quantile = \"50%\" }";
    let gate = gate("canary-slow", &config(app.address, next.address, rollback, ""));
    until_is(&gate, "running");
    let mut user = 0;
    until("it is rolled back", || {
        ask_as(&gate, "GET", user..user + 10);
        user += 10;
        told(&gate)["phase"] == "rolled-back"
    });
    assert!(
        told(&gate)["why"].as_str().is_some_and(|why| why.starts_with("latency: p50 of ")),
        "{}",
        told(&gate)
    );
}

#[test]
fn what_fails_with_the_canary_is_answered_by_the_baseline_where_that_is_safe() {
    let app = version("old");
    let gate = gate("canary-gone", &config(app.address, nobody(), "steps = [\"50%\"]\nevery = \"1h\"", ""));
    until_is(&gate, "running");
    let answers = ask_as(&gate, "GET", 0..100);
    assert_eq!(count(&answers, |status, body| (status, body) == (200, "old")), 100, "{answers:?}");
    let found = until_is(&gate, "rolled-back");
    assert!(found["why"].as_str().is_some_and(|why| why.starts_with("errors: ")), "{found}");
    // Where that is not wanted, clients are told.
    let without = "steps = [\"50%\"]\nevery = \"1h\"\nfallback = false";
    let plain = crate::gate("canary-gone-plain", &config(app.address, nobody(), without, ""));
    until_is(&plain, "running");
    assert!(count(&ask_as(&plain, "GET", 0..100), |status, _| status >= 500) >= 5);
}

#[test]
fn commands_steer_a_canary_and_a_reload_leaves_it_as_it_is() {
    let (app, next) = (version("old"), version("new"));
    let canary = |more: &str| config(app.address, next.address, &format!("manual = true\n{more}"), "");
    let gate = gate("canary-steered", &canary("steps = [\"40%\"]"));
    until_is(&gate, "waiting");
    let of_canary = || count(&ask_as(&gate, "GET", 0..200), |_, body| body == "new");
    assert_eq!(of_canary(), 0);
    let (went, said) = command(&gate, &["canary", "all", "pause"]);
    assert!(!went && said.contains("the canary is waiting: this changes nothing"), "{said}");
    assert!(command(&gate, &["canary", "all", "start"]).0);
    let some = of_canary();
    assert!((50..110).contains(&some), "{some}");
    assert!(command(&gate, &["canary", "all", "pause", "--json"]).1.contains("\"phase\":\"paused\""));
    gate.rewrite(&canary(
        "steps = [\"40%\", \"80%\"]\nevery = \"1ms\"\nrollback = { min = 1, latency = 1000.0 }",
    ));
    gate.reload();
    let paused = told(&gate);
    assert_eq!(
        (&paused["phase"], &paused["share"], &paused["why"]),
        (&json!("paused"), &json!(0.4), &json!("by unix socket"))
    );
    assert_eq!(of_canary(), some);
    assert!(command(&gate, &["canary", "all", "promote"]).0);
    assert_eq!(of_canary(), 200);
    assert!(command(&gate, &["canary", "all", "rollback"]).0);
    assert_eq!(of_canary(), 0);
    assert!(!command(&gate, &["canary", "none", "start"]).0);
    // Another upstream is another canary.
    let other = version("newest");
    gate.rewrite(&config(app.address, other.address, "manual = true", "").replace("next", "newest"));
    gate.reload();
    until_is(&gate, "waiting");
    gate.rewrite(&crate::app(&[app.address], "", ""));
    gate.reload();
    assert!(control(&gate, "/canaries/all").contains("control.no-canary"));
}

#[test]
fn nodes_that_share_a_store_have_the_same_canary() {
    let (app, next) = (version("old"), Origin::start(|_| Reply::Status(500, "new".into())));
    let url = Postgres::shared().database();
    let canary = "steps = [\"40%\"]\nevery = \"1h\"\nmanual = true\nfallback = false";
    let node = |name: &str| {
        let more = format!("[store]\nurl = \"{url}\"\nnode = \"{name}\"");
        gate(&format!("canary-{name}"), &config(app.address, next.address, canary, &more))
    };
    let (one, two) = (node("one"), node("two"));
    let of_canary = |gate: &Gate| failing(&ask_as(gate, "POST", 0..100));
    until_is(&one, "waiting");
    until_is(&two, "waiting");
    // An order to the one is followed by the other.
    assert!(command(&one, &["canary", "all", "promote"]).0);
    until_is(&two, "promoted");
    assert_eq!(of_canary(&two).len(), 100, "it has all, at the node that nobody told");
    assert!(command(&two, &["canary", "all", "start"]).1.contains("this changes nothing"));
    assert!(command(&two, &["canary", "all", "rollback"]).0);
    until_is(&one, "rolled-back");
    assert_eq!(of_canary(&one).len(), 0);
    assert!(command(&one, &["canary", "all", "start"]).0);
    until_is(&two, "running");
    // What the one finds out holds for the other, which has seen nothing of it.
    assert!(of_canary(&one).len() >= 5);
    let found = until_is(&one, "rolled-back");
    assert!(found["why"].as_str().is_some_and(|why| why.starts_with("errors: ")), "{found}");
    let followed = until_is(&two, "rolled-back");
    assert_eq!((&followed["why"], &followed["since"]), (&found["why"], &found["since"]));
    assert_eq!(of_canary(&two).len(), 0);
    assert_eq!(two.metric("tidegate_canary_rollbacks_total{route=\"all\"}"), Some(0.0));
    drop(two);
    let again = node("two-again");
    until_is(&again, "rolled-back");
    // It is kept for some time more than anybody has it, and not for ever.
    let kept = "SELECT count(*) FROM tidegate.documents WHERE kind = 'canary' AND until > at + 29 * 86400000::bigint";
    assert_eq!(Postgres::shared().say_in(&url, kept).trim(), "1");
}
