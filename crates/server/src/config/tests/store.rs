//! What is said of the store, and of what routes keep there.

use super::check;

#[test]
fn idempotency_needs_a_store_a_name_and_times_and_sizes_that_make_sense() {
    check(
        r#"
[[route]]
path = "/b"
upstream = "app"
deadline = "10s"
idempotency = { ttl = "9s", body_max = "1GiB" }"#,
        r#"
error: there is no store to keep idempotency keys in
 --> t.toml:5:15
  |
5 | idempotency = { ttl = "9s", body_max = "1GiB" }
  |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: add [store] with url = "sqlite:tidegate-data"

error: a route with `idempotency` needs a name: its records are found by it
 --> t.toml:5:15
  |
5 | idempotency = { ttl = "9s", body_max = "1GiB" }
  |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: add name = "…", and never change it

error: `ttl` is in whole seconds, and at least the deadline, 10s
 --> t.toml:5:23
  |
5 | idempotency = { ttl = "9s", body_max = "1GiB" }
  |                       ^^^^

error: `body_max` is at most 64MiB
 --> t.toml:5:40
  |
5 | idempotency = { ttl = "9s", body_max = "1GiB" }
  |                                        ^^^^^^

4 problems"#,
    );
}

#[test]
fn a_store_is_a_directory_and_has_room_for_something() {
    check(
        r#"
[store]
url = "sqlite:data"
size = "100KiB""#,
        r#"
error: `size` must be at least 1MiB
 --> t.toml:3:8
  |
3 | size = "100KiB"
  |        ^^^^^^^^

1 problem"#,
    );
}

#[test]
fn a_store_in_postgresql_has_a_whole_url_and_a_directory_has_no_lease() {
    check(
        r#"
[store]
url = "postgres://user:hush@db""#,
        r#"
error: this is no URL of a PostgreSQL: it names no database: postgres://HOST/DATABASE
 --> t.toml:2:7
  |
2 | url = "postgres://*********@db"
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^

1 problem"#,
    );
    check(
        r#"
[store]
url = "postgres://user:hush@db/app"
timeout = "1ms"
lease = "10ms""#,
        r#"
error: `timeout` must be at least 500ms
 --> t.toml:3:11
  |
3 | timeout = "1ms"
  |           ^^^^^

error: `lease` must be at least 1s
 --> t.toml:4:9
  |
4 | lease = "10ms"
  |         ^^^^^^

2 problems"#,
    );
    check(
        r#"
[store]
url = "sqlite:data"
lease = "20s""#,
        r#"
error: `lease` is for a store in PostgreSQL: this one is a directory
 --> t.toml:3:9
  |
3 | lease = "20s"
  |         ^^^^^

1 problem"#,
    );
}

#[test]
fn a_queue_has_one_of_what_is_divided_for_each_shard() {
    check(
        r#"
[store]
url = "postgres://user:hush@db/app"
shards = 8
[queue.mails]
upstream = "app"
concurrency = 7"#,
        r#"
error: `concurrency` is less than one for each of the store's 8 shards
 --> t.toml:6:15
  |
6 | concurrency = 7
  |               ^
  = help: let more be made at once, or make the database with fewer shards

1 problem"#,
    );
    check(
        r#"
[store]
url = "postgres://user:hush@db/app"
shards = 8
[queue.calls]
upstream = "app"
rate = "5/s""#,
        r#"
error: what its `rate` lets begin at once is less than one for each of the store's 8 shards
 --> t.toml:6:8
  |
6 | rate = "5/s"
  |        ^^^^^
  = help: say a larger burst: { limit = "…", burst = … }

1 problem"#,
    );
    check(
        r#"
[store]
url = "sqlite:data"
shards = 2"#,
        r#"
error: `shards` is for a store in PostgreSQL: this one is a directory
 --> t.toml:3:10
  |
3 | shards = 2
  |          ^

1 problem"#,
    );
}
