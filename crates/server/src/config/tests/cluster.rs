//! What is said of the nodes that ask each other.

use super::check;

#[test]
fn a_cluster_has_a_secret_nodes_that_can_be_reached_and_this_one_among_them() {
    check(
        r#"
[cluster]
listen = "10.0.0.1:7400"
nodes = ["10.0.0.2:7400", "10.0.0.2:7400", "0.0.0.0:7400", "gate-3"]
secret = "too short"
wait = "0s""#,
        r#"
error: none of them is this node, which listens on `10.0.0.1:7400`
 --> t.toml:3:9
  |
3 | nodes = ["10.0.0.2:7400", "10.0.0.2:7400", "0.0.0.0:7400", "gate-3"]
  |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: say which of them it is: self = "10.0.0.1:7400"

error: the node `10.0.0.2:7400` stands twice
 --> t.toml:3:27
  |
3 | nodes = ["10.0.0.2:7400", "10.0.0.2:7400", "0.0.0.0:7400", "gate-3"]
  |                           ^^^^^^^^^^^^^^^

error: nobody can be reached at `0.0.0.0:7400`
 --> t.toml:3:44
  |
3 | nodes = ["10.0.0.2:7400", "10.0.0.2:7400", "0.0.0.0:7400", "gate-3"]
  |                                            ^^^^^^^^^^^^^^
  = help: write it as "10.0.0.1:7400" or "gate-1.internal:7400"

error: `gate-3` has no port: write "gate-3:80"
 --> t.toml:3:60
  |
3 | nodes = ["10.0.0.2:7400", "10.0.0.2:7400", "0.0.0.0:7400", "gate-3"]
  |                                                            ^^^^^^^^
  = help: write it as "10.0.0.1:7400" or "gate-1.internal:7400"

error: a secret has 32 bytes at least
 --> t.toml:4:10
  |
4 | secret = ***********
  |          ^^^^^^^^^^^
  = help: make one: openssl rand -base64 32

error: `wait` must be more than zero
 --> t.toml:5:8
  |
5 | wait = "0s"
  |        ^^^^

6 problems"#,
    );
}

#[test]
fn a_node_is_one_of_the_list_and_listens_where_nobody_else_does() {
    check(
        r#"
[cluster]
listen = "127.0.0.1:8090"
nodes = ["gate-1.internal:7400", "gate-2.internal:7400"]
self = "gate-1.intern:7400"
secret = "0123456789abcdef0123456789abcdef""#,
        r#"
error: `127.0.0.1:8090` is the address of the control API
 --> t.toml:2:10
  |
2 | listen = "127.0.0.1:8090"
  |          ^^^^^^^^^^^^^^^^
  = help: take another port

error: `gate-1.intern:7400` is none of `nodes`
 --> t.toml:4:8
  |
4 | self = "gate-1.intern:7400"
  |        ^^^^^^^^^^^^^^^^^^^^
  = help: did you mean "gate-1.internal:7400"?

2 problems"#,
    );
}
