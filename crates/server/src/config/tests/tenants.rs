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
