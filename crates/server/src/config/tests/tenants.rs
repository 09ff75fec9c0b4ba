//! How tenants are recognised: what is wrong with it is told with what was meant.

use super::{Folder, check, parse, with};

#[test]
fn what_is_not_listed_and_whence_keys_come_is_told_with_what_was_meant() {
    check(
        r#"
[tenants]
unknown = "silver"
[jwt.a]
jwks = "ftp://id.example.com/keys"
[jwt.b]
jwks = "http://id.example.com/keys"
ca = "/nonexistent/ca.pem"
[jwt.c]
jwks = "https://id.example.com/keys"
ca = "/nonexistent/ca.pem""#,
        r#"
error: there is no plan `silver`
 --> t.toml:2:11
  |
2 | unknown = "silver"
  |           ^^^^^^^^
  = help: add [plan.silver]; "refuse" refuses whoever is not listed

error: `ftp` is not fetched from: write http:// or https://
 --> t.toml:4:8
  |
4 | jwks = "ftp://id.example.com/keys"
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^

error: `ca` is for a key set that is fetched by https
 --> t.toml:7:6
  |
7 | ca = "/nonexistent/ca.pem"
  |      ^^^^^^^^^^^^^^^^^^^^^

error: cannot use /nonexistent/ca.pem: there is no such file
  --> t.toml:10:6
   |
10 | ca = "/nonexistent/ca.pem"
   |      ^^^^^^^^^^^^^^^^^^^^^

4 problems"#,
    );
    check(
        "[tenants]\nunknown = \"refused\"",
        r#"
error: there is no plan `refused`
 --> t.toml:2:11
  |
2 | unknown = "refused"
  |           ^^^^^^^^^
  = help: did you mean "refuse"?

1 problem"#,
    );
}

#[test]
fn a_credential_for_an_upstream_is_not_shown() {
    let config = parse(&with(
        r#"
[defaults.route]
request_headers = { set = { Authorization = "Bearer hunter2", x-fine = "shown" }, add = { x-api-key = ["hunter2"] } }"#,
    ));
    let shown = config.unwrap().effective;
    assert!(!shown.contains("hunter2") && shown.contains("x-fine = \"shown\""), "{shown}");
    assert!(
        shown.contains("Authorization = \"hidden\"") && shown.contains("x-api-key = \"hidden\""),
        "{shown}"
    );
}

#[test]
fn a_credential_for_an_upstream_may_stand_in_a_file_or_the_environment() {
    let folder = Folder::new("header-secret");
    let file = folder.write("token", "Bearer hunter2\n");
    let set = |value: &str| {
        parse(&with(&format!(
            "[defaults.route]\nrequest_headers = {{ set = {{ Authorization = {value} }} }}"
        )))
    };
    let config = set(&format!("{{ file = \"{}\" }}", file.display())).unwrap();
    let (name, value) = &config.proxy.routes[0].request.headers.set[0];
    assert_eq!(
        (name.as_str(), value.as_bytes(), value.is_sensitive()),
        ("authorization", &b"Bearer hunter2"[..], true)
    );
    assert!(!config.effective.contains("hunter2") && config.effective.contains(&file.display().to_string()));
    let missing = set("{ env = \"TIDEGATE_TEST_NOT_SET\" }").unwrap_err();
    assert!(missing.contains("the environment variable `TIDEGATE_TEST_NOT_SET` is not set"), "{missing}");
    folder.write("token", "two\nlines");
    let wrong = set(&format!("{{ file = \"{}\" }}", file.display())).unwrap_err();
    assert!(wrong.contains("what stands there is no header's value"), "{wrong}");
}

#[test]
fn tenants_and_plans_are_checked_without_showing_a_secret() {
    check(
        r#"
[plan.refuse]
rate = [{ limit = "1/s" }, { name = "b", limit = "1/m" }, { name = "b", limit = "1/h" }]
[tenant."a b"]
keys = [{ id = "k", sha256 = "tg_pasted-by-mistake" }]
[tenant.one]
keys = [{ id = "k", sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" }]
[tenant.two]
keys = [{ id = "k", sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" }]
[tenants]
from = [{ header = "x-tenant" }]
[jwt.main]
secret = "hunter2"
[jwt.other]
secret = { env = "TIDEGATE_TEST_NOT_SET" }"#,
        r#"
error: a plan cannot be called `refuse`: in `tenants.unknown` that refuses
 --> t.toml:1:7
  |
1 | [plan.refuse]
  |       ^^^^^^

error: one of several rates needs a name
 --> t.toml:2:9
  |
2 | rate = [{ limit = "1/s" }, { name = "b", limit = "1/m" }, { name = "b", limit = "1/h" }]
  |         ^^^^^^^^^^^^^^^^^
  = help: add name = "…"

error: two rates are called `b`
 --> t.toml:2:68
  |
2 | rate = [{ limit = "1/s" }, { name = "b", limit = "1/m" }, { name = "b", limit = "1/h" }]
  |                                                                    ^^^

error: a SHA-256 is 64 hexadecimal digits
 --> t.toml:4:30
  |
4 | keys = [{ id = "k", sha256 = ********************** }]
  |                              ^^^^^^^^^^^^^^^^^^^^^^

error: tenants `one` and `two` have the same key
 --> t.toml:8:30
  |
8 | keys = [{ id = "k", sha256 = ****************************************************************** }]
  |                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = note: the other one is at t.toml:6:30

error: nobody may name a tenant in `x-tenant`: there is no trusted proxy
  --> t.toml:10:9
   |
10 | from = [{ header = "x-tenant" }]
   |         ^^^^^^^^^^^^^^^^^^^^^^^
   = help: add [listen] trusted_proxies = ["10.0.0.0/8"]

error: the secret has 7 bytes, and needs 32 (RFC 7518)
  --> t.toml:12:10
   |
12 | secret = *********
   |          ^^^^^^^^^
   = help: openssl rand -hex 32 makes one

error: the environment variable `TIDEGATE_TEST_NOT_SET` is not set
  --> t.toml:14:18
   |
14 | secret = { env = "TIDEGATE_TEST_NOT_SET" }
   |                  ^^^^^^^^^^^^^^^^^^^^^^^

8 problems"#,
    );
}
