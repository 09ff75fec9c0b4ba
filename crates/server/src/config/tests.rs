//! Tests of the whole way, from a file's text to what it means or to what is told of it.

use std::path::{Path, PathBuf};

use super::Config;

mod cache;
mod cluster;
mod files;
mod queues;
mod redis;
mod rollouts;
mod routes;
mod store;
mod tenants;
mod tls;
mod upstreams;

/// A directory of a test's own, removed with it.
pub struct Folder(PathBuf);

impl Folder {
    /// An empty one.
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Folder(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file stands in a directory")).expect("a directory");
        std::fs::write(&path, text).expect("a file for the test");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("t.toml"), text).map_err(|problems| problems.to_string())
}

/// What is told of a configuration, whole. It needs nothing besides these lines to be right otherwise.
fn check(lines: &str, told: &str) {
    let problems = parse(&with(lines)).expect_err("something is wrong with it");
    assert_eq!(problems.trim(), told.trim(), "\n{problems}\n");
}

/// A whole configuration that begins with these lines.
fn with(lines: &str) -> String {
    format!("{}\n{REST}", lines.trim_start_matches('\n'))
}

const REST: &str = r#"
[listen]
http = ["127.0.0.1:0"]

[upstream.app]
endpoints = ["127.0.0.1:3000"]

[[route]]
path = "/"
upstream = "app"
"#;

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    check(
        "workers = \nfrom = [1",
        r#"
error: not TOML: string values must be quoted, expected literal string
 --> t.toml:1:11
  |
1 | workers = 
  |           ^

error: not TOML: missing comma between array elements, expected `,`
 --> t.toml:4:1
  |
4 | [listen]
  | ^
  = help: a list that begins before this is not closed

2 problems"#,
    );
}

#[test]
fn an_unknown_key_suggests_the_nearest() {
    check(
        "workerz = 2",
        r#"
error: unknown key `workerz`
 --> t.toml:1:1
  |
1 | workerz = 2
  | ^^^^^^^
  = help: did you mean `workers`?

1 problem"#,
    );
}

#[test]
fn a_word_of_other_proxies_is_translated_and_a_strange_one_shows_what_there_is() {
    check(
        "[upstream.b]\nservers = []\n\n[drain]\nsoftly = true",
        r#"
error: unknown key `servers`
 --> t.toml:2:1
  |
2 | servers = []
  | ^^^^^^^
  = help: did you mean `endpoints`?

error: unknown key `softly`
 --> t.toml:5:1
  |
5 | softly = true
  | ^^^^^^
  = help: known here: `time`

2 problems"#,
    );
}

#[test]
fn a_feature_that_is_not_in_this_version_is_refused_as_such() {
    check(
        r#"
[topic.emails]
upstream = "app"
[plan.a]
quota = [{ name = "daily", limit = "10000/day" }]
[upstream.b]
endpoints = ["127.0.0.1:3000"]
concurrency = { max = 4 }
[[route]]
path = "/b"
upstream = "app""#,
        r#"
error: `topic` is not in this version
 --> t.toml:1:2
  |
1 | [topic.emails]
  |  ^^^^^

error: `quota` is not in this version
 --> t.toml:4:1
  |
4 | quota = [{ name = "daily", limit = "10000/day" }]
  | ^^^^^

2 problems"#,
    );
}

#[test]
fn a_wrong_type_says_what_to_write() {
    check(
        r#"
workers = "2"
[limits]
idle = 75
body_bytes = 1000
[plan.a]
rate = 50
[tenants]
from = { api_key = "bearer" }"#,
        r#"
error: `workers` must be a whole number, not a text
 --> t.toml:1:11
  |
1 | workers = "2"
  |           ^^^
  = help: write 2 without quotes

error: `idle` must be a duration, such as "5s", not a whole number
 --> t.toml:3:8
  |
3 | idle = 75
  |        ^^
  = help: write "75s" or "75ms"

error: `body_bytes` must be a size, such as "64KiB", not a whole number
 --> t.toml:4:14
  |
4 | body_bytes = 1000
  |              ^^^^
  = help: write "1000B" or "1000KiB"

error: `rate` must be a rate, such as "50/s" or a table or a list, not a whole number
 --> t.toml:6:8
  |
6 | rate = 50
  |        ^^
  = help: write "50/s"

error: `from` must be a list, not a table
 --> t.toml:8:8
  |
8 | from = { api_key = "bearer" }
  |        ^^^^^^^^^^^^^^^^^^^^^^
  = help: put it in [ ]

5 problems"#,
    );
}

#[test]
fn a_wrong_value_says_what_is_right() {
    check(
        r#"
workers = 0
[upstream.b]
endpoints = ["app.internal:80"]
balance = "peak-ewm"
slow_start = "5"
[upstream.c]
endpoints = ["127.0.0.1:3000"]
hash_on = "tenant"
[[route]]
path = "v1"
upstream = "app""#,
        r#"
error: `workers` must be from 1 to 1024
 --> t.toml:1:11
  |
1 | workers = 0
  |           ^

error: `app.internal` is no IP address
 --> t.toml:3:14
  |
3 | endpoints = ["app.internal:80"]
  |              ^^^^^^^^^^^^^^^^^
  = help: for a host name write dns = "app.internal:80"

error: "peak-ewm" is no value of `balance`
 --> t.toml:4:11
  |
4 | balance = "peak-ewm"
  |           ^^^^^^^^^^
  = help: did you mean "peak-ewma"?

error: a duration has a unit: write "5s" or "5ms"
 --> t.toml:5:14
  |
5 | slow_start = "5"
  |              ^^^

error: `hash_on` belongs to ring-hash
 --> t.toml:8:11
  |
8 | hash_on = "tenant"
  |           ^^^^^^^^
  = help: add balance = "ring-hash"

error: the path must begin with a slash
  --> t.toml:10:8
   |
10 | path = "v1"
   |        ^^^^

6 problems"#,
    );
}

#[test]
fn a_name_that_nothing_has_suggests_the_nearest() {
    check(
        r#"
[tenants]
from = [{ jwt = "main" }]
unknown = "gold"
[tenant.acme]
plan = "golt"
[plan.gold]
[[route]]
path = "/b"
upstream = "ap"
[[route]]
path = "/c"
to = [{ upstream = "app" }, { upstream = "elsewhere" }]"#,
        r#"
error: there is no jwt `main`
 --> t.toml:2:17
  |
2 | from = [{ jwt = "main" }]
  |                 ^^^^^^
  = help: add [jwt.main]

error: there is no plan `golt`
 --> t.toml:5:8
  |
5 | plan = "golt"
  |        ^^^^^^
  = help: did you mean "gold"?

error: there is no upstream `ap`
 --> t.toml:9:12
  |
9 | upstream = "ap"
  |            ^^^^
  = help: did you mean "app"?

error: there is no upstream `elsewhere`
  --> t.toml:12:42
   |
12 | to = [{ upstream = "app" }, { upstream = "elsewhere" }]
   |                                          ^^^^^^^^^^^
   = help: add [upstream.elsewhere]

4 problems"#,
    );
}

#[test]
fn certificates_listeners_and_tokens_are_checked() {
    let problems = parse(
        r#"
[listen]
http = ["127.0.0.1:80", "127.0.0.1:80", "127.0.0.1:0", "127.0.0.1:0"]
https = ["127.0.0.1:443"]
[[tls]]
cert = "/nonexistent/cert.pem"
key = "/nonexistent/key.pem"
[control]
tokens = [{ name = "ops", sha256 = "0", scopes = ["purge"] }]
"#,
    );
    assert_eq!(
        problems.expect_err("much is wrong with it"),
        r#"error: `127.0.0.1:80` is listened on twice
 --> t.toml:3:25
  |
3 | http = ["127.0.0.1:80", "127.0.0.1:80", "127.0.0.1:0", "127.0.0.1:0"]
  |                         ^^^^^^^^^^^^^^
  = note: the other one is at t.toml:3:9

error: cannot use /nonexistent/cert.pem: there is no such file
 --> t.toml:6:8
  |
6 | cert = "/nonexistent/cert.pem"
  |        ^^^^^^^^^^^^^^^^^^^^^^^

error: cannot use /nonexistent/key.pem: there is no such file
 --> t.toml:7:7
  |
7 | key = "/nonexistent/key.pem"
  |       ^^^^^^^^^^^^^^^^^^^^^^

error: a SHA-256 is 64 hexadecimal digits
 --> t.toml:9:36
  |
9 | tokens = [{ name = "ops", sha256 = ***, scopes = ["purge"] }]
  |                                    ^^^

error: there is no route
  = help: add [[route]] path = "/", upstream = "…"

5 problems"#
    );
}

#[test]
fn nothing_at_all_says_where_to_begin() {
    assert_eq!(
        parse("").expect_err("nothing is served"),
        "error: there is no listener\n  = help: add [listen] http = [\"0.0.0.0:8080\"]\n\n\
         error: there is no route\n  = help: add [[route]] path = \"/\", upstream = \"…\"\n\n2 problems"
    );
}

#[test]
fn a_file_that_is_not_there_is_told_without_a_place() {
    let problems = Config::load(Path::new("/nonexistent.toml")).expect_err("there is none");
    assert_eq!(
        problems.to_string(),
        "error: cannot read /nonexistent.toml: there is no such file\n  \
         = help: -c FILE names the file; `tidegate run --to HOST:PORT` needs none\n\n1 problem"
    );
}

#[test]
fn included_files_add_up_and_report_under_their_own_name() {
    let folder = Folder::new("include");
    let main = folder.write("main.toml", &with("include = [\"conf.d/*.toml\", \"more.toml\"]"));
    let more = folder.write("more.toml", "[plan.a]\nrate = \"1/s\"\n");
    folder.write("conf.d/a.toml", "[tenant.acme]\nplan = \"a\"\n");
    folder.write("conf.d/.hidden.toml", "nonsense");
    let config = Config::load(&main).expect("all of it is right");
    assert_eq!(config.summary(), "1 listener, 1 route, 1 upstream, 2 plans, 1 tenant");
    assert_eq!(config.sources.files.len(), 3);
    assert_eq!(config.sources.patterns.len(), 2);

    let b = folder.write("conf.d/b.toml", "[plan.a]\nrate = \"2/s\"\n");
    std::fs::write(&more, "include = [\"main.toml\"]\n[plan.a]\nweight = 0\n").expect("written");
    let problems = Config::load(&main).expect_err("two problems").to_string();
    let (b, more) = (b.display(), more.display());
    for told in [
        format!("error: `plan.a` is in two files\n --> {more}:2:7"),
        format!("error: `weight` must be from 1 to 1000\n --> {more}:3:10"),
        format!("error: an included file includes nothing\n --> {more}:1:1"),
        format!("= note: the other one is at {b}:1:7"),
    ] {
        assert!(problems.contains(&told), "{told}\n\n{problems}");
    }
}

#[test]
fn the_least_configuration_has_every_default() {
    let config = parse(&with("")).expect("nothing is wrong with it");
    let listener = &config.listeners[0];
    assert_eq!(*listener.limits, tidegate_wire::settings::ConnectionLimits::default());
    assert_eq!(config.summary(), "1 listener, 1 route, 1 upstream, 1 plan, 0 tenants");
    assert_eq!(&*config.proxy.routes[0].name, "/");
    assert!(config.proxy.tenants.unknown.is_some());
}

#[test]
fn no_file_at_all_is_one_upstream() {
    for (to, endpoints) in [("127.0.0.1:3000", "static"), ("localhost:3000", "dns localhost:3000")] {
        let config = Config::to(to).expect("an address");
        assert_eq!(config.summary(), "1 listener, 1 route, 1 upstream, 1 plan, 0 tenants");
        assert_eq!(config.upstreams[0].discovery.to_string(), endpoints);
        assert_eq!(config.sources, super::Sources::default());
    }
    let problems = Config::to("nowhere").expect_err("no port").to_string();
    assert!(problems.starts_with("error: `nowhere` has no port"), "{problems}");
    assert!(Config::to("\"\nworkers = 1").is_err());
}

/// Makes what `tls.toml` and `mutual-tls.toml` name.
fn certificates(folder: &Folder) {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (file, names) in [
        ("example.com", names(&["example.com"])),
        ("wildcard.example.org", names(&["*.example.org"])),
        ("ca", names(&["ca"])),
        ("gate", names(&["gate.internal"])),
    ] {
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        folder.write(&format!("certs/{file}.pem"), &made.cert.pem());
        folder.write(&format!("certs/{file}.key"), &made.signing_key.serialize_pem());
    }
}

#[test]
fn every_example_is_right_and_means_the_same_when_it_is_printed() {
    let folder = Folder::new("examples");
    certificates(&folder);
    for page in ["index.html", "404.html"] {
        folder.write(&format!("public/{page}"), page);
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(examples).expect("the examples") {
        let path = entry.expect("an example").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let text = std::fs::read_to_string(&path).expect("an example");
        let config = Config::load(&folder.write(name, &text)).unwrap_or_else(|problems| panic!("{problems}"));
        let printed = folder.write(&format!("printed-{name}"), &config.effective);
        let again = Config::load(&printed).unwrap_or_else(|problems| panic!("{name} printed: {problems}"));
        assert_eq!(again.effective, config.effective, "{name}");
        assert_eq!(again.listeners, config.listeners, "{name}");
        assert_eq!(again.upstreams, config.upstreams, "{name}");
        assert_eq!(format!("{:?}", again.proxy.routes), format!("{:?}", config.proxy.routes), "{name}");
        assert_eq!(again.summary(), config.summary(), "{name}");
    }
    assert!(count >= 6, "{count} examples");
}

#[test]
fn a_printed_configuration_hides_its_secrets() {
    let secret = "0123456789abcdef0123456789abcdef";
    let config =
        parse(&with(&format!("[jwt.main]\nsecret = \"{secret}\""))).expect("nothing is wrong with it");
    assert!(!config.effective.contains(secret), "{}", config.effective);
    assert!(config.effective.contains("secret = \"hidden\""), "{}", config.effective);
    assert!(!format!("{config:?}").contains(secret));
}

#[test]
fn the_published_reference_and_schema_are_those_of_this_code() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, text) in super::generated() {
        let there = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(there == text, "docs/{name} is stale: `cargo run -- gen docs` writes it anew");
    }
}
