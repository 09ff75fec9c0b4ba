//! What is seen, typed and drawn.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;
use tidegate_drill::metrics::Metrics;
use tidegate_model::tick::Tick;

use super::draw::draw;
use super::sample::{Sample, label};
use super::state::{Action, Effect, Mode, State};
use super::view::View;

/// What is seen after so many seconds under an even load.
fn sample(seconds: u64) -> Sample {
    let tenant = |id: &str, a_second: u64, refused: u64| {
        json!({
            "id": id, "plan": "default", "admitted": a_second * seconds, "refused": refused * seconds,
            "in_flight": 2, "concurrency": 10,
            "rates": [{"name": "default", "limit": 50, "window_ms": 1000, "remaining": 49 - refused}],
            "routes": [],
        })
    };
    let endpoint = |port: u16, admin: &str| {
        json!({
            "address": format!("127.0.0.1:{port}"), "state": "up", "admin": admin, "active": 1, "connections": 2,
            "requests": 100 * seconds, "failures": 0, "latency_ms": 1.5,
        })
    };
    let status = json!({
        "version": "0.1.0",
        "connections": 12,
        "config": {"last_error": null},
        "load": {
            "level": 0, "shedding": "calm", "memory_bytes": 64 << 20, "memory_limit": 512 << 20, "held_bytes": 0,
            "held_limit": 256 << 20, "open_files": 45, "open_files_limit": 1024, "cores": [{"lag_ms": 0.2, "shedding": "calm"}],
        },
        "upstreams": [{
            "name": "app", "breaker": "closed", "load": 0, "concurrency": 100, "in_use": 3, "waiting": 0, "p50_ms": 1.0,
            "p99_ms": 8.0, "discovery": "static", "discovery_error": null, "saturated_ms": null,
            "endpoints": [endpoint(3000, "enabled"), endpoint(3001, "enabled")],
        }],
        "tenants": {"busiest": [tenant("acme", 30, 0), tenant("greedy", 170, 40)]},
    });
    let count = |a_second: u64| a_second * seconds;
    let metrics = format!(
        "tidegate_requests_total{{route=\"all\",class=\"2xx\"}} {}\n\
         tidegate_requests_total{{route=\"all\",class=\"5xx\"}} {}\n\
         tidegate_refusals_total{{code=\"limit.rate\"}} {}\n\
         tidegate_request_seconds_bucket{{route=\"all\",le=\"0.001\"}} {}\n\
         tidegate_request_seconds_bucket{{route=\"all\",le=\"0.01\"}} {}\n\
         tidegate_request_seconds_bucket{{route=\"all\",le=\"+Inf\"}} {}\n\
         tidegate_queue_oldest_seconds{{queue=\"mails\"}} 7\n",
        count(198),
        count(2),
        count(40),
        count(100),
        count(200),
        count(200),
    );
    let queue = json!({
        "name": "mails", "paused": false, "parked": false, "paused_parts": [],
        "counts": {"ready": 5, "scheduled": 1, "blocked": 0, "leased": 2, "dead": 0},
    });
    Sample {
        at: Tick(seconds * 1_000_000_000),
        status,
        metrics: Metrics::from(metrics.as_str()),
        queues: json!({"queues": [queue], "paused_tenants": ["acme"]}),
    }
}

fn seen() -> State {
    let mut state = State::new("127.0.0.1:8090".to_owned());
    state.seen(sample(10));
    state.seen(sample(12));
    state
}

/// The screen of this size, as lines.
fn drawn(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn press(state: &mut State, keys: &str) -> Option<Effect> {
    let mut effect = None;
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            other => KeyCode::Char(other),
        };
        effect = state.key(KeyEvent::new(code, KeyModifiers::NONE));
    }
    effect
}

/// Expects this on the screen of the usual size, blanks squeezed.
fn check(state: &mut State, expected: &str) {
    let lines = drawn(state, 80, 24);
    let squeezed: Vec<String> =
        lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(squeezed.iter().any(|line| line.contains(expected)), "{expected:?}: {lines:#?}");
}

#[test]
fn rates_are_differences_of_two_looks() {
    let mut state = seen();
    check(&mut state, "200 requests/s 2.0 5xx/s (1.0 %) 40.0 refused/s p50 1.00 ms p99 9.82 ms");
    check(&mut state, "load 0 12 connections files 45 of 1024 late 0 ms");
    check(&mut state, "memory 64 MiB of 512 MiB bodies 0 MiB of 256 MiB");
    check(&mut state, "greedy default 170 40.0 2 of 10 9");
    check(&mut state, "acme default 30.0 0 2 of 10 49 paused");
    press(&mut state, "2");
    check(&mut state, "all 200 0 2.0 1.00 ms 9.82 ms -");
    press(&mut state, "3");
    check(&mut state, "app closed 0 3 of 100 0 1.0 ms 8.0 ms 2 of 2 static");
    press(&mut state, "4");
    check(&mut state, "127.0.0.1:3001 app up enabled 100 0 1.5 ms 1 2");
    press(&mut state, "5");
    check(&mut state, "mails 5 1 0 2 0 0 7 s");
    press(&mut state, "6");
    check(&mut state, "limit.rate 40.0 480 429");
}

#[test]
fn one_look_alone_tells_no_rate_and_a_process_that_began_anew_counts_from_zero() {
    let view = View::of(None, &sample(10));
    assert!(view.head[0].text.starts_with("- requests/s"), "{:?}", view.head);
    let (mut later, earlier) = (sample(2), sample(10));
    later.at = Tick(11_000_000_000);
    let view = View::of(Some(&earlier), &later);
    assert!(view.head[0].text.starts_with("400 requests/s"), "{:?}", view.head);
}

#[test]
fn rows_are_sorted_filtered_and_chosen() {
    let mut state = seen();
    let first = |state: &State| state.shown()[0].cells[0].text.clone();
    assert_eq!(first(&state), "greedy");
    press(&mut state, "r");
    assert_eq!(first(&state), "acme");
    press(&mut state, "rs");
    assert_eq!((state.sort[0], first(&state)), ((3, true), "greedy".to_owned()));
    press(&mut state, "/acm");
    assert_eq!(state.shown().len(), 1);
    check(&mut state, "/acm_ Enter: keep");
    press(&mut state, "\n");
    check(&mut state, "/acm");
    press(&mut state, "/q\n");
    check(&mut state, "none has these letters");
    press(&mut state, "\x1b");
    assert_eq!(state.shown().len(), 2);
    press(&mut state, "jjjj");
    assert_eq!(state.row, 1);
    press(&mut state, "\t");
    assert_eq!((state.table, state.row), (1, 0));
}

#[test]
fn a_change_is_asked_about_first() {
    let mut state = seen();
    press(&mut state, "4");
    assert_eq!(press(&mut state, "d"), None);
    check(&mut state, "drain 127.0.0.1:3000 of app");
    assert_eq!(press(&mut state, "n"), None);
    check(&mut state, "nothing was changed");
    let drain = Action::Endpoint {
        upstream: "app".to_owned(),
        address: "127.0.0.1:3000".to_owned(),
        state: "draining",
    };
    assert_eq!(press(&mut state, "dy"), Some(Effect::Do(drain.clone())));
    assert_eq!(state.mode, Mode::Look);
    let (path, body) = drain.request();
    assert_eq!(
        (path.as_str(), body.as_str()),
        ("/upstreams/app/endpoints/127.0.0.1:3000", "{\"state\":\"draining\"}")
    );
    press(&mut state, "1");
    let pause = Action::Tenant { id: "greedy".to_owned(), pause: true };
    assert_eq!(press(&mut state, "py"), Some(Effect::Do(pause)));
    press(&mut state, "5");
    let resume = Action::Queue { name: "mails".to_owned(), pause: false };
    assert_eq!(press(&mut state, "uy"), Some(Effect::Do(resume)));
    press(&mut state, "2");
    assert_eq!(press(&mut state, "p"), None);
    check(&mut state, "choose one in table 1 or 5");
    assert_eq!(press(&mut state, "q"), Some(Effect::Quit));
    assert_eq!(press(&mut state, "/q"), None, "a letter of a filter");
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(state.key(control), Some(Effect::Quit));
}

#[test]
fn what_was_seen_last_stays_when_the_control_api_is_away() {
    let mut state = seen();
    state.away("tidegate: no control API answers at x: refused\nmore");
    check(&mut state, "AWAY, what was seen last is shown");
    check(&mut state, "greedy default");
    state.seen(sample(13));
    check(&mut state, "- requests/s");
    let mut state = State::new("unix:/run/x".to_owned());
    check(&mut state, "tidegate unix:/run/x asking");
    state.away("refused");
    check(&mut state, "tidegate unix:/run/x refused");
}

#[test]
fn any_size_of_a_terminal_and_any_name_can_be_drawn() {
    let mut state = seen();
    let mut strange = sample(14);
    strange.status["tenants"]["busiest"][0]["id"] = json!("a\u{1b}[2J\n".to_owned() + &"x".repeat(500));
    strange.status["upstreams"][0]["endpoints"][0]["state"] = json!(null);
    strange.status["load"] = json!("nonsense");
    state.seen(strange);
    for keys in ["1", "2", "3", "4", "5", "6", "?"] {
        press(&mut state, keys);
        for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (200, 60)] {
            let lines = drawn(&mut state, width, height);
            assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
        }
    }
    check(&mut state, "drain the chosen endpoint");
    press(&mut state, "x");
    assert_eq!(state.mode, Mode::Look);
    // A control API that says nothing of use is no reason to fall.
    state.seen(Sample::default());
    drawn(&mut state, 80, 24);
}

#[test]
fn labels_are_read_as_they_were_before_they_were_escaped() {
    let labels = r#"route="a\"b\\",class="2xx""#;
    assert_eq!(label(labels, "route").as_deref(), Some("a\"b\\"));
    assert_eq!(label(labels, "class").as_deref(), Some("2xx"));
    assert_eq!(label(labels, "code"), None);
    assert_eq!(label("route=\"open", "route"), None);
    assert_eq!(label("", "route"), None);
}
