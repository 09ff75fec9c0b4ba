//! What is said of routes.

use super::{check, parse};

#[test]
fn routes_that_cannot_be_told_apart_name_each_other() {
    check(
        r#"
[[route]]
name = "one"
path = "/v1"
upstream = "app"
[[route]]
name = "two"
path = "/v1/"
upstream = "app"
[[route]]
name = "two"
path = "/v2"
upstream = "app""#,
        r#"
error: routes `one` and `two` match the same requests equally well
 --> t.toml:5:1
  |
5 | [[route]]
  | ^^^^^^^^^
  = note: the other one is at t.toml:1:1
  = help: make one more specific: another host, path, method or header condition

error: two routes are called `two`
  --> t.toml:10:8
   |
10 | name = "two"
   |        ^^^^^
   = note: the other one is at t.toml:6:8

2 problems"#,
    );
}

#[test]
fn a_route_that_does_two_things_or_nothing_is_told() {
    check(
        r#"
[[route]]
path = "/a"
upstream = "app"
redirect = "/b"
[[route]]
path = "/b"
deadline = "1s"
retry = { try_timeout = "2s", backoff = "2s" }
to = [{ upstream = "app", weight = 0 }]
[[route]]
path = "/c""#,
        r#"
error: a route does one thing: `upstream` or `redirect`
 --> t.toml:4:12
  |
4 | redirect = "/b"
  |            ^^^^

error: `try_timeout` is longer than the route's `deadline` (1s)
 --> t.toml:8:25
  |
8 | retry = { try_timeout = "2s", backoff = "2s" }
  |                         ^^^^

error: `backoff` is longer than `backoff_max` (1s)
 --> t.toml:8:41
  |
8 | retry = { try_timeout = "2s", backoff = "2s" }
  |                                         ^^^^

error: all weights are zero: no request would go anywhere
 --> t.toml:9:6
  |
9 | to = [{ upstream = "app", weight = 0 }]
  |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

error: this route does nothing
  --> t.toml:10:1
   |
10 | [[route]]
   | ^^^^^^^^^
   = help: add upstream = "…", or to, redirect, respond or incoming

5 problems"#,
    );
}

#[test]
fn what_a_route_has_and_could_not_use_is_told() {
    check(
        r#"
[[route]]
path = "/d"
upstream = "app"
fallback = [{ respond = {} }, { upstream = "app" }]
[[route]]
path = "/e"
redirect = "example.com"
rewrite = "/"
[[route]]
path = "/f"
upstream = "app"
request_headers = { set = { content-length = "1" } }"#,
        r#"
error: a fixed response never fails: nothing comes after it
 --> t.toml:4:31
  |
4 | fallback = [{ respond = {} }, { upstream = "app" }]
  |                               ^^^^^^^^^^^^^^^^^^^^

error: `app` has failed already when this is reached
 --> t.toml:4:44
  |
4 | fallback = [{ respond = {} }, { upstream = "app" }]
  |                                            ^^^^^

error: the target of a redirect begins with `/` or `https://`
 --> t.toml:7:12
  |
7 | redirect = "example.com"
  |            ^^^^^^^^^^^^^
  = help: write "https://example.com"

error: `rewrite` belongs to a route that forwards
 --> t.toml:8:11
  |
8 | rewrite = "/"
  |           ^^^

error: `content-length` is Tidegate's to write
  --> t.toml:12:46
   |
12 | request_headers = { set = { content-length = "1" } }
   |                                              ^^^

5 problems"#,
    );
}

#[test]
fn routes_inherit_and_listeners_inherit() {
    let config = parse(
        r#"
[listen]
http = [{ address = "127.0.0.1:0", limits = { idle = "1s" } }, "127.0.0.1:0"]
[limits]
idle = "2s"
header_time = "3s"
[upstream.app]
endpoints = ["127.0.0.1:3000"]
[defaults.route]
deadline = "7s"
retry = { tries = 3, try_timeout = "2s" }
allow = ["10.0.0.0/8"]
[[route]]
path = "/a"
upstream = "app"
retry = { tries = 4 }
[[route]]
path = "/b"
upstream = "app"
deadline = "9s"
allow = ["11.0.0.0/8"]
"#,
    )
    .expect("all of it is right");
    let seconds = std::time::Duration::from_secs;
    let limits: Vec<_> =
        config.listeners.iter().map(|one| (one.limits.idle, one.limits.header_time)).collect();
    assert_eq!(limits, [(seconds(1), seconds(3)), (seconds(2), seconds(3))]);
    let routes = config.proxy.routes.iter();
    let routes: Vec<_> = routes
        .map(|one| (one.deadline, one.retry.tries, one.retry.try_timeout, one.allow.to_string()))
        .collect();
    assert_eq!(
        routes,
        [
            (seconds(7), 4, Some(seconds(2)), "10.0.0.0/8".to_owned()),
            (seconds(9), 3, Some(seconds(2)), "11.0.0.0/8".to_owned()),
        ]
    );
}
