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

#[test]
fn an_alias_says_at_once_which_host_it_stands_for() {
    check(
        r#"
[cache.host_aliases]
"www.a.example" = "b.example"
"B.example" = "c.example"
"d.example:80" = "a.example"
"*.e.example" = "a.example"
"f.example" = "F.example""#,
        r#"
error: `b.example` is an alias itself
 --> t.toml:2:19
  |
2 | "www.a.example" = "b.example"
  |                   ^^^^^^^^^^^
  = help: say what it stands for: "www.a.example" = "c.example"

error: `d.example:80` is no host: a name without port, path or star
 --> t.toml:4:18
  |
4 | "d.example:80" = "a.example"
  |                  ^^^^^^^^^^^

error: `*.e.example` is no host: a name without port, path or star
 --> t.toml:5:17
  |
5 | "*.e.example" = "a.example"
  |                 ^^^^^^^^^^^

error: `f.example` stands for itself
 --> t.toml:6:15
  |
6 | "f.example" = "F.example"
  |               ^^^^^^^^^^^

4 problems"#,
    );
}
