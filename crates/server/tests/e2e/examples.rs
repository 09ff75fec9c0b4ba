//! Every example is a whole configuration, and serves.

use std::path::Path;

use tidegate_testkit::{Gate, ask};

use crate::{BINARY, control};

/// What `tls.toml` and `mutual-tls.toml` name, made in this folder.
fn make_certificates(folder: &Path) {
    let certs = folder.join("certs");
    std::fs::create_dir_all(&certs).unwrap();
    for (name, host) in [
        ("example.com", "example.com"),
        ("wildcard.example.org", "*.example.org"),
        ("ca", "app.internal"),
        ("gate", "gate.internal"),
    ] {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        std::fs::write(certs.join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(certs.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
}

/// What `static.toml` serves, made in this folder.
fn make_pages(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for name in ["index.html", "404.html"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
}

#[test]
fn every_example_boots_and_ends() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut names: Vec<String> = std::fs::read_dir(folder.as_path())
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().ok()?.strip_suffix(".toml").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        let text = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
        // As it stands, but for the ports, which others may have.
        let mut text = ["0.0.0.0:8080", "0.0.0.0:8443", "127.0.0.1:8080", "127.0.0.1:8090"]
            .iter()
            .fold(text, |text, address| text.replace(address, "127.0.0.1:0"));
        if !text.contains("[control]") {
            text += "\n[control]\nlisten = [\"127.0.0.1:0\"]\n";
        }
        let test = format!("example-{name}");
        make_certificates(&Gate::folder(&test));
        make_pages(&Gate::folder(&test).join("public"));
        let mut gate = Gate::start_whole(BINARY, &test, &[], &text);
        assert!(control(&gate, "/readyz").starts_with("HTTP/1.0 200 "), "{name}");
        let answer = ask(gate.address, "GET /nobody/has/this", "");
        assert!(answer.status > 0 && !answer.header("x-request-id").is_empty(), "{name}: {}", answer.head);
        gate.signal("-TERM");
        assert_eq!(gate.wait(), Some(0), "{name}: {}", gate.said());
    }
}
