//! What is said of upstreams.

use tidegate_upstream::settings::{ShardSettings, WhenDown};

use super::{check, parse, with};

#[test]
fn a_shard_keeps_tenants_apart_or_is_refused() {
    check(
        r#"
[upstream.few]
endpoints = ["127.0.0.1:3000", "127.0.0.1:3001"]
shuffle_shard = { size = 2, when_down = "spil" }
[upstream.same]
endpoints = ["127.0.0.1:3000", "127.0.0.1:3001"]
shuffle_shard = 2
breaker = true
[upstream.none]
dns = "app.internal:3000"
shuffle_shard = 0"#,
        r#"
error: "spil" is no value of `when_down`
 --> t.toml:3:41
  |
3 | shuffle_shard = { size = 2, when_down = "spil" }
  |                                         ^^^^^^
  = help: did you mean "spill"?

error: 2 of 2 endpoints are all of them: no tenant is kept apart
 --> t.toml:6:17
  |
6 | shuffle_shard = 2
  |                 ^
  = help: take fewer, or leave `shuffle_shard` out

error: a breaker shuts the whole upstream, which one tenant with `shuffle_shard` must not be able to do
 --> t.toml:7:11
  |
7 | breaker = true
  |           ^^^^
  = help: leave `breaker` out: `outlier` takes out endpoints one by one

error: `shuffle_shard` must be from 1 to 32
  --> t.toml:10:17
   |
10 | shuffle_shard = 0
   |                 ^

4 problems
"#,
    );
    let text = with("[upstream.many]\nendpoints = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\nshuffle_shard = 1");
    let shard = parse(&text).expect("it is right").upstreams.iter().find_map(|one| one.shard);
    assert_eq!(shard, Some(ShardSettings { size: 1, when_down: WhenDown::Refuse }));
}

#[test]
fn upstreams_are_checked() {
    check(
        r#"
[upstream."no spaces"]
endpoints = []
[upstream.b]
[upstream.c]
dns = "app:80"
srv = "_http._tcp.app"
[upstream.d]
endpoints = ["127.0.0.1:1", { address = "127.0.0.1:1", weight = 2 }, "0.0.0.0:1"]
[upstream.e]
endpoints = ["127.0.0.1:1"]
tls = { ca = "/nonexistent/ca.pem" }
connect_timeout = "0s""#,
        r#"
error: a name is 1 to 64 letters, digits, `-`, `_` or `.`
 --> t.toml:1:11
  |
1 | [upstream."no spaces"]
  |           ^^^^^^^^^^^

error: this upstream has no endpoints
 --> t.toml:2:13
  |
2 | endpoints = []
  |             ^^

error: this upstream has no endpoints
 --> t.toml:3:11
  |
3 | [upstream.b]
  |           ^
  = help: add endpoints = ["127.0.0.1:3000"], or dns, srv, file or files

error: endpoints come from one of `dns` and `srv`, not from both
 --> t.toml:6:7
  |
6 | srv = "_http._tcp.app"
  |       ^^^^^^^^^^^^^^^^

error: the endpoint `127.0.0.1:1` stands twice
 --> t.toml:8:41
  |
8 | endpoints = ["127.0.0.1:1", { address = "127.0.0.1:1", weight = 2 }, "0.0.0.0:1"]
  |                                         ^^^^^^^^^^^^^
  = note: the other one is at t.toml:8:14
  = help: give it a weight instead: { address = "…", weight = 2 }

error: nobody can be reached at `0.0.0.0:1`
 --> t.toml:8:70
  |
8 | endpoints = ["127.0.0.1:1", { address = "127.0.0.1:1", weight = 2 }, "0.0.0.0:1"]
  |                                                                      ^^^^^^^^^^^

error: cannot use /nonexistent/ca.pem: there is no such file
  --> t.toml:11:14
   |
11 | tls = { ca = "/nonexistent/ca.pem" }
   |              ^^^^^^^^^^^^^^^^^^^^^

error: `connect_timeout` must be more than zero
  --> t.toml:12:19
   |
12 | connect_timeout = "0s"
   |                   ^^^^

8 problems"#,
    );
}
