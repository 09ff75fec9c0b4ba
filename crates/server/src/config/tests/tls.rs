//! What is wanted of clients' certificates, and shown to upstreams: what is wrong with it is told where it stands.

use super::{Folder, check};

#[test]
fn files_and_places_of_certificates_are_checked() {
    check(
        r#"
[[tls]]
cert = "/nonexistent/cert.pem"
key = "/nonexistent/key.pem"
client = { ca = "/nonexistent/ca.pem" }
[tenants]
from = [{ certificate = "subject:O" }]"#,
        r#"
error: cannot use /nonexistent/cert.pem: there is no such file
 --> t.toml:2:8
  |
2 | cert = "/nonexistent/cert.pem"
  |        ^^^^^^^^^^^^^^^^^^^^^^^

error: cannot use /nonexistent/key.pem: there is no such file
 --> t.toml:3:7
  |
3 | key = "/nonexistent/key.pem"
  |       ^^^^^^^^^^^^^^^^^^^^^^

error: cannot use /nonexistent/ca.pem: there is no such file
 --> t.toml:4:17
  |
4 | client = { ca = "/nonexistent/ca.pem" }
  |                 ^^^^^^^^^^^^^^^^^^^^^

error: write one of "subject:CN", "san:dns", "san:uri", "san:email", "fingerprint", or a part with its pattern: "san:dns:{tenant}.clients.example.com"
 --> t.toml:6:25
  |
6 | from = [{ certificate = "subject:O" }]
  |                         ^^^^^^^^^^^

4 problems"#,
    );
}

#[test]
fn a_tenant_by_certificate_needs_clients_that_are_asked_for_one_and_a_certificate_its_key() {
    check(
        r#"
[tenants]
from = [{ certificate = "subject:CN" }]
[tenant.a]
certificates = ["0000000000000000000000000000000000000000000000000000000000000000"]
[tenant.b]
certificates = ["0000000000000000000000000000000000000000000000000000000000000000"]
[upstream.other]
endpoints = ["127.0.0.1:3000"]
tls = { cert = "/nonexistent/cert.pem" }"#,
        r#"
error: no client is asked for a certificate
 --> t.toml:2:9
  |
2 | from = [{ certificate = "subject:CN" }]
  |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: add client = { ca = "clients.pem" } to a [[tls]]

error: this certificate is one of `a` already
 --> t.toml:6:17
  |
6 | certificates = ["0000000000000000000000000000000000000000000000000000000000000000"]
  |                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

error: `cert` stands without `key`
 --> t.toml:9:16
  |
9 | tls = { cert = "/nonexistent/cert.pem" }
  |                ^^^^^^^^^^^^^^^^^^^^^^^
  = help: a certificate is shown with its key

3 problems"#,
    );
}

#[test]
fn two_certificates_with_one_name_want_the_same_of_clients() {
    let folder = Folder::new("tls-twice");
    super::certificates(&folder);
    let certs = folder.0.join("certs");
    let pair = |more: &str| {
        let (cert, key) = (certs.join("example.com.pem"), certs.join("example.com.key"));
        format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n{more}\n", cert.display(), key.display())
    };
    let ruled = pair(&format!("client = {{ ca = \"{}\" }}", certs.join("ca.pem").display()));
    assert!(super::parse(&super::with(&ruled.repeat(2))).is_ok());
    let problems = super::parse(&super::with(&(pair("") + &ruled))).expect_err("one of them would not count");
    assert!(problems.contains("is for example.com, too, and wants something else of clients"), "{problems}");
}
