//! What is said of the Redis where nodes meet.

use super::check;

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
