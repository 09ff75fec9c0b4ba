//! What is said of queues, schedules, and what routes put off.

use std::time::Duration;

use tidegate_dispatch::Way;
use tidegate_model::delivery::outcome::Backoff;
use tidegate_model::schedule::Missed;

use super::{check, parse, with};

const STORE: &str = "[store]\nurl = \"sqlite:data\"\n";

#[test]
fn a_queue_says_what_it_means() {
    let text = format!(
        r#"{STORE}
[queue.emails]
upstream = "app"
path = "/jobs/email"
rate = "100/s"
per_key = {{ ordered = true, rate = {{ limit = "1/s", burst = 5 }} }}
backoff = ["5s", "1m"]
never = [409]
results = "64KiB"
keep = {{ dead = "30d" }}
waiting = {{ deliveries = 10 }}
[queue.reports]
pull = true
priority = "sheddable"
[schedule.nightly]
cron = "30 2 * * *"
zone = "Europe/Berlin"
missed = "all"
queue = "emails"
headers = {{ content-type = "text/plain" }}
body = "go"
"#
    );
    let config = parse(&with(&text)).unwrap();
    let [emails, reports] = config.queues.as_slice() else { panic!("{:?}", config.queues) };
    assert_eq!((&emails.way, &*emails.path), (&Way::Push("app".into()), "/jobs/email"));
    assert_eq!(emails.rate.as_ref().map(|rate| (rate.limit, rate.burst)), Some((100, 100)));
    assert_eq!(emails.per_key.rate.as_ref().map(|rate| rate.burst), Some(5));
    let pauses = [5, 60].map(Duration::from_secs).to_vec();
    assert_eq!(emails.policy.backoff, Backoff::Schedule(pauses));
    assert_eq!((emails.results, emails.room.waiting_max), (Some(65_536), 10));
    assert_eq!((&reports.way, reports.results), (&Way::Pull, None));
    let [nightly] = config.schedules.as_slice() else { panic!("{:?}", config.schedules) };
    assert_eq!((nightly.missed, &*nightly.tenant, nightly.fields.len()), (Missed::All, "system", 1));
}

#[test]
fn a_route_that_defers_has_the_queue_of_its_name_or_makes_one() {
    let routes = r#"
[queue.other]
pull = true
[queue.b]
upstream = "app"
concurrency = 3
[[route]]
name = "a"
path = "/a"
upstream = "app"
defer = "on-request"
[[route]]
name = "b"
path = "/b"
upstream = "app"
defer = "always"
[[route]]
name = "c"
path = "/c"
upstream = "app"
defer = "always"
queue = "other"
"#;
    let config = parse(&with(&format!("{STORE}{routes}"))).unwrap();
    let names: Vec<&str> = config.queues.iter().map(|queue| &*queue.name).collect();
    assert_eq!(names, ["b", "other", "a"]);
    assert_eq!((config.queues[0].concurrency, config.queues[2].results), (3, Some(1 << 20)));
    let deferred = config.proxy.routes.iter().filter_map(|route| route.defer.as_ref());
    let deferred: Vec<_> = deferred.map(|defer| (&*defer.queue, defer.always)).collect();
    assert_eq!(deferred, [("a", false), ("b", true), ("other", true)]);
}

#[test]
fn what_cannot_be_is_told_each_with_its_place() {
    check(
        r#"
[queue.a]
results = "1GiB"
backoff = []
[queue.b]
upstream = "nowhere"
pull = true
[schedule.s]
cron = "0 0 30 2 *"
queue = "c"
[schedule.t]
cron = "@hourly"
zone = "Mars/Base"
queue = "a"
[[route]]
path = "/x"
upstream = "app"
defer = "always"
[[route]]
path = "/y"
upstream = "app"
queue = "a""#,
        r#"
error: there is no store to keep queues in
 --> t.toml:1:1
  |
1 | [queue.a]
  | ^^^^^^^^^
  = help: add [store] with url = "sqlite:tidegate-data"

error: nobody takes the deliveries of this queue
 --> t.toml:1:1
  |
1 | [queue.a]
  | ^^^^^^^^^
  = help: add upstream = "…", or pull = true

error: `results` is at most 10MiB
 --> t.toml:2:11
  |
2 | results = "1GiB"
  |           ^^^^^^

error: a backoff lists 1 to 100 pauses
 --> t.toml:3:11
  |
3 | backoff = []
  |           ^^

error: a queue has an `upstream`, or is pulled: not both
 --> t.toml:6:8
  |
6 | pull = true
  |        ^^^^

error: there is no store to keep schedules in
 --> t.toml:7:1
  |
7 | [schedule.s]
  | ^^^^^^^^^^^^
  = help: add [store] with url = "sqlite:tidegate-data"

error: this time never comes
 --> t.toml:8:8
  |
8 | cron = "0 0 30 2 *"
  |        ^^^^^^^^^^^^

error: there is no queue `c`
 --> t.toml:9:9
  |
9 | queue = "c"
  |         ^^^
  = help: did you mean "a"?

error: there is no time zone `Mars/Base`: write a name such as "Europe/Berlin", or "UTC"
  --> t.toml:12:8
   |
12 | zone = "Mars/Base"
   |        ^^^^^^^^^^^

error: there is no store to keep deliveries in
  --> t.toml:17:9
   |
17 | defer = "always"
   |         ^^^^^^^^
   = help: add [store] with url = "sqlite:tidegate-data"

error: a route with `defer` needs a name: its deliveries are found by it
  --> t.toml:17:9
   |
17 | defer = "always"
   |         ^^^^^^^^
   = help: add name = "…", and never change it

error: this route puts nothing off
  --> t.toml:21:9
   |
21 | queue = "a"
   |         ^^^
   = help: add defer = "on-request" or "always"

12 problems"#,
    );
}

#[test]
fn a_route_has_no_queue_that_events_wait_in() {
    let text = format!(
        "{STORE}[webhook]\n[[route]]\nname = \"webhooks\"\npath = \"/w\"\nupstream = \"app\"\ndefer = \"always\"\n"
    );
    let wrong = parse(&with(&text)).unwrap_err();
    assert!(format!("{wrong:?}").contains("the queue of this name is that of"), "{wrong:?}");
}

#[test]
fn a_repeat_is_known_for_as_long_as_a_request_may_be_sent_again() {
    let incoming = |rest: &str| {
        let text = format!(
            "{STORE}[queue.jobs]\nupstream = \"app\"\n[[route]]\nname = \"in\"\npath = \"/in\"\n\
             incoming = {{ scheme = \"github\", secret = \"s\", queue = \"jobs\"{rest} }}\n"
        );
        parse(&with(&text))
    };
    assert!(incoming("").is_ok());
    assert!(incoming(", remember = \"9m\"").is_err() && incoming(", remember = \"10m\"").is_ok());
}

#[test]
fn receivers_call_back_where_they_are_heard() {
    let hooked = |callback: &str, rest: &str| {
        let text = format!("{STORE}[webhook]\ncallback = \"{callback}\"\n{rest}");
        parse(&with(&text)).map(|config| config.webhook.and_then(|plan| plan.settings.callback))
    };
    assert_eq!(hooked("https://api.example.com/", "").unwrap().as_deref(), Some("https://api.example.com"));
    for wrong in ["api.example.com", "https://api.example.com/path", "ftp://api.example.com"] {
        assert!(hooked(wrong, "").is_err(), "{wrong}");
    }
    let refusing = hooked("https://api.example.com", "[tenants]\nunknown = \"refuse\"\n").unwrap_err();
    assert!(format!("{refusing:?}").contains("no credentials"), "{refusing:?}");
}
