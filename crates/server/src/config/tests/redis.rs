//! What is said of the Redis where nodes meet.

use super::check;

#[test]
fn answers_can_be_shared_only_where_there_is_a_redis() {
    check(
        r#"
[cache]
redis = { object = "1GiB" }"#,
        r#"
error: there is no Redis to share answers in
 --> t.toml:2:9
  |
2 | redis = { object = "1GiB" }
  |         ^^^^^^^^^^^^^^^^^^^
  = help: add [redis] with its `url`

error: `object` is at most 16MiB
 --> t.toml:2:20
  |
2 | redis = { object = "1GiB" }
  |                    ^^^^^^

2 problems"#,
    );
}

#[test]
fn a_redis_has_a_url_and_times_and_its_password_is_not_told() {
    check(
        r#"
[redis]
url = "http://user:hush@h:1"
timeout = "0s""#,
        r#"
error: this is no URL of a Redis
 --> t.toml:2:7
  |
2 | url = "http://*********@h:1"
  |       ^^^^^^^^^^^^^^^^^^^^^^
  = help: write "redis://HOST:PORT", "rediss://HOST:PORT" (TLS) or "unix:///PATH"

error: `timeout` must be more than zero
 --> t.toml:3:11
  |
3 | timeout = "0s"
  |           ^^^^

2 problems"#,
    );
}
