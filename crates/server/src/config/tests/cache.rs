//! What is said of the cache.

use super::check;

#[test]
fn a_disk_tier_has_room_for_something() {
    check(
        r#"
[cache]
disk = { path = "cache", size = "1MiB" }"#,
        r#"
error: `size` must be at least 4MiB
 --> t.toml:2:33
  |
2 | disk = { path = "cache", size = "1MiB" }
  |                                 ^^^^^^

1 problem"#,
    );
}

#[test]
fn what_a_cache_is_told_must_be_possible() {
    check(
        r#"
[[route]]
path = "/b"
upstream = "app"
cache = { query = ["a"], query_ignore = ["b"], default_ttl = "500ms" }"#,
        r#"
error: `query` says which parameters count: nothing is left to ignore
 --> t.toml:4:41
  |
4 | cache = { query = ["a"], query_ignore = ["b"], default_ttl = "500ms" }
  |                                         ^^^^^

error: ages are told in whole seconds (RFC 9111 section 1.2.2)
 --> t.toml:4:62
  |
4 | cache = { query = ["a"], query_ignore = ["b"], default_ttl = "500ms" }
  |                                                              ^^^^^^^

2 problems"#,
    );
}
