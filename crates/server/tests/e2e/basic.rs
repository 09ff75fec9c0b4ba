//! Names and passwords.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_model::access::password::Password;
use tidegate_testkit::{Answer, Gate, Origin, Reply, ask};

use crate::{BINARY, gate};

fn with(gate: &Gate, name: &str, password: &str, fields: &str) -> Answer {
    let both = STANDARD.encode(format!("{name}:{password}"));
    ask(gate.address, "GET /", &format!("Authorization: Basic {both}\r\n{fields}"))
}

fn app() -> Origin {
    Origin::start(|_| Reply::Status(200, "in".into()))
}

fn protected(name: &str, app: &Origin, basic: &str, tenants: &str) -> Gate {
    gate(
        name,
        &format!(
            "workers = 1\n[upstream.app]\nendpoints = [\"{}\"]\n{tenants}\n[[route]]\nname = \"all\"\nupstream = \"app\"\ndeadline = \"20s\"\n[route.basic]\n{basic}\n",
            app.address
        ),
    )
}

#[test]
fn whoever_knows_the_password_is_let_in_and_the_application_is_told_the_name() {
    let app = app();
    let hash = Password::make("pass:word".as_bytes(), &[7; 16]).unwrap();
    let file = Gate::folder("basic").join("users");
    std::fs::write(&file, format!("# people\n\nold:{}\n", Password::make(b"old", &[8; 16]).unwrap()))
        .unwrap();
    let basic = format!(
        "realm = \"staff\"\nfile = \"users\"\nuser_header = \"x-user\"\nusers = [{{ name = \"me\", hash = \"{hash}\", tenant = \"acme\" }}]"
    );
    let gate = protected("basic", &app, &basic, "");
    let nobody = ask(gate.address, "GET /", "");
    assert_eq!(
        (nobody.status, nobody.header("www-authenticate")),
        (401, "basic realm=\"staff\", charset=\"utf-8\"")
    );
    for _ in 0..3 {
        assert_eq!(with(&gate, "me", "pass:word", "X-User: root\r\n").status, 200);
    }
    let head = app.recorded().last().unwrap().head.to_ascii_lowercase();
    assert!(head.contains("\r\nx-user: me\r\n") && head.contains("tidegate-tenant: acme"), "{head}");
    assert!(!head.contains("authorization") && !head.contains("root"), "{head}");
    assert_eq!(with(&gate, "old", "old", "").status, 200);
    assert!(app.recorded().last().unwrap().head.to_ascii_lowercase().contains("tidegate-tenant: anonymous"));
    for (name, password) in [("me", "pass"), ("me", ""), ("you", "pass:word"), ("", ""), ("old", "pass:word")]
    {
        let answer = with(&gate, name, password, "");
        assert_eq!(
            (answer.status, answer.body.contains("credential.invalid")),
            (401, true),
            "{name} {password}"
        );
        assert!(answer.header("www-authenticate").starts_with("basic "));
    }
    let twice = ask(gate.address, "GET /", "Authorization: Basic x\r\nAuthorization: Basic y\r\n");
    assert_eq!(twice.status, 401);
    // Another password for the name: what was remembered of the one before is worth nothing.
    std::fs::write(&file, format!("old:{}\n", Password::make(b"new", &[9; 16]).unwrap())).unwrap();
    gate.reload();
    assert_eq!(with(&gate, "old", "new", "").status, 200);
    assert_eq!(with(&gate, "old", "old", "").status, 401);
}

#[test]
fn who_guesses_is_slowed_down() {
    let app = app();
    let hash = Password::make(b"right", &[7; 16]).unwrap();
    let gate = protected(
        "basic-guess",
        &app,
        &format!("users = [{{ name = \"me\", hash = \"{hash}\" }}]"),
        "[tenants]\nfailures = \"3/h\"\n",
    );
    for guess in ["a", "b", "c"] {
        assert_eq!(with(&gate, "me", guess, "").status, 401);
    }
    let answer = with(&gate, "me", "right", "");
    assert_eq!((answer.status, answer.body.contains("credential.throttled")), (429, true));
    assert!(app.recorded().is_empty());
}

#[test]
fn a_hash_is_made_of_a_password_that_is_typed() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new(BINARY)
        .args(["key", "password"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let hash = said.split_whitespace().find(|word| word.starts_with("$argon2id$")).unwrap();
    assert!(Password::parse(hash).unwrap().is(b"typed"));
}
