//! Upstreams that are directories.

use super::{Folder, check, parse, with};
use crate::config::Config;

#[test]
fn a_directory_that_cannot_be_served_is_told() {
    check(
        r#"
[upstream.site]
files = "/nonexistent/public"

[upstream.page]
files = { root = "/dev/null", index = "a/b" }

[upstream.both]
files = "/"
endpoints = ["127.0.0.1:1"]
"#,
        r#"
error: cannot serve /nonexistent/public: there is no such directory
 --> t.toml:2:9
  |
2 | files = "/nonexistent/public"
  |         ^^^^^^^^^^^^^^^^^^^^^

error: cannot serve /dev/null: it is no directory
 --> t.toml:5:18
  |
5 | files = { root = "/dev/null", index = "a/b" }
  |                  ^^^^^^^^^^^

error: `a/b` is no name of a file in a directory
 --> t.toml:5:39
  |
5 | files = { root = "/dev/null", index = "a/b" }
  |                                       ^^^^^
  = help: write it as in "index.html"; "" for none

error: endpoints come from one of `endpoints` and `files`, not from both
 --> t.toml:8:9
  |
8 | files = "/"
  |         ^^^

4 problems
"#,
    );
}

#[test]
fn what_only_servers_have_is_told() {
    check(
        r#"
[upstream.site]
files = "/"
protocol = "h2"
connect_timeout = "1s"
health = { path = "/healthz" }
"#,
        r#"
error: `protocol` is for upstreams that are servers: this one is a directory
 --> t.toml:3:12
  |
3 | protocol = "h2"
  |            ^^^^
  = help: leave `protocol` out

error: `health` is for upstreams that are servers: this one is a directory
 --> t.toml:5:10
  |
5 | health = { path = "/healthz" }
  |          ^^^^^^^^^^^^^^^^^^^^^
  = help: leave `health` out

2 problems
"#,
    );
}

#[test]
fn pages_of_a_site_are_there_when_it_is_put_into_force() {
    let folder = Folder::new("site");
    folder.write("public/index.html", "home");
    let config = |files: &str| {
        let text = with(&format!("[upstream.site]\nfiles = {files}\n"));
        Config::load(&folder.write("t.toml", &text)).map_err(|problems| problems.to_string())
    };
    let right = config("{ root = \"public\", fallback = \"/index.html\" }").expect("it is there");
    let again = parse(&right.effective).expect("what is printed is a configuration, too");
    assert_eq!(again.upstreams, right.upstreams);
    assert!(config("\"public\"").is_ok());
    for (files, told) in [
        ("{ root = \"public\", not_found = \"/404.html\" }", "public/404.html: there is no such file"),
        ("{ root = \"public\", fallback = \"/\" }", "is a directory, not a file"),
        ("{ root = \"public\", fallback = \"//index.html\" }", "an empty segment"),
    ] {
        let problems = config(files).expect_err(files);
        assert!(problems.contains(told), "{problems}");
    }
}
