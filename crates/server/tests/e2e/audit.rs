//! Every change through the control API leaves a record: who, from where, what, and what came of it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::Value;
use tidegate_testkit::{Gate, Origin, Reply, send, until};

use crate::{BINARY, app, control};

/// A folder for the audit log of the test of this name, and a gate that writes it.
fn steered(name: &str) -> (Gate, std::path::PathBuf) {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let folder = Gate::folder(name);
    let file = folder.join("audit.log");
    let digest = |token: &str| {
        let out = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
        out.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let store = "[store]\nurl = \"sqlite:store\"\n[queue.kept]\npull = true\n[webhook]\nsource = \"https://shop.example\"\n";
    let text = format!(
        "{}{store}[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\nfaults = true\ntokens = [{{ name = \"ops\", sha256 = \"{}\", scopes = [\"read\", \"write\", \"purge\", \"faults\"] }}]\n[log]\naccess = \"off\"\naudit = \"{}\"\n",
        app(&[origin.address], "", ""),
        folder.join("control.sock").display(),
        digest("token"),
        file.display(),
    );
    (Gate::start_whole(BINARY, name, &[], &text), file)
}

fn ask(gate: &Gate, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer token\r\n");
    send(gate.control, format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

fn status(answer: &str) -> u64 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// The entries that are told, the newest first.
fn told(gate: &Gate, query: &str) -> Value {
    let answer = control(gate, &format!("/audit{query}"));
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The lines of the file.
fn lines(file: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_operation_that_changes_something_leaves_a_record() {
    let (mut gate, file) = steered("audit-all");
    let document: Value = serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap();
    let mut walked = 0;
    let paths = document["paths"].as_object().unwrap();
    // Another process answers behind an upgrade: that comes last.
    let (last, others): (Vec<_>, Vec<_>) = paths.iter().partition(|(path, _)| *path == "/upgrade");
    assert_eq!(last.len(), 1);
    for (path, operations) in others {
        for (method, operation) in operations.as_object().unwrap() {
            let scope = operation["security"][0]["token"][0].as_str();
            let asked: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { "none" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let before = lines(&file).len();
            let answer = ask(&gate, &method.to_uppercase(), &asked, "{\"secret\": \"in-a-body\"}");
            let after = lines(&file);
            if !matches!(scope, Some("write" | "purge" | "faults")) {
                assert_eq!(after.len(), before, "{method} {path} changes nothing: {answer}");
                continue;
            }
            walked += 1;
            assert_eq!(after.len(), before + 1, "{method} {path} leaves one record: {answer}");
            let entry = after.last().unwrap();
            assert_eq!(entry["action"], format!("{} {path}", method.to_uppercase()));
            assert_eq!((entry["who"].as_str(), entry["path"].as_str()), (Some("ops"), Some(asked.as_str())));
            assert_eq!(entry["status"].as_u64(), Some(status(&answer)), "{answer}");
            assert!(entry["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{entry}");
            if status(&answer) >= 400 {
                assert!(answer.contains(entry["code"].as_str().unwrap()), "{entry}: {answer}");
            }
        }
    }
    assert!(walked > 20, "{walked}");
    let answer = ask(&gate, "POST", "/upgrade", "");
    assert_eq!(status(&answer), 200, "{answer}");
    let upgraded: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    gate.succeeded_by(u32::try_from(upgraded["pid"].as_u64().unwrap()).unwrap());
    let actions = || lines(&file).into_iter().map(|entry| entry["action"].clone());
    until("both processes have recorded it", || {
        actions().any(|action| action == "POST /upgrade")
            && actions().filter(|action| action == "start").count() == 2
    });
    let numbers: Vec<_> = lines(&file).iter().map(|entry| entry["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "two processes count as one");
    until("the one tells what the other did", || {
        let page = told(&gate, "");
        page["entries"].as_array().unwrap().iter().any(|entry| entry["action"] == "POST /upgrade")
    });
    assert!(!std::fs::read_to_string(&file).unwrap().contains("in-a-body"));
}

#[test]
fn who_did_what_is_told_in_pages_and_is_there_after_a_restart() {
    let (mut gate, file) = steered("audit-told");
    let status_of = control(&gate, "/status");
    let status_of: Value = serde_json::from_str(status_of.split_once("\r\n\r\n").unwrap().1).unwrap();
    let upstream =
        status_of["upstreams"].as_array().unwrap().iter().find(|one| one["name"] == "app").unwrap();
    let endpoint = upstream["endpoints"][0]["address"].as_str().unwrap().to_owned();
    let change = format!("/upstreams/app/endpoints/{endpoint}");
    assert_eq!(status(&ask(&gate, "POST", &change, "{\"state\": \"draining\"}")), 200);
    // Who may not is not recorded: nothing was done, and anybody could fill the disk.
    assert_eq!(status(&send(gate.control, b"POST /reload HTTP/1.0\r\nHost: localhost\r\n\r\n")), 401);
    let mut socket = UnixStream::connect(file.with_file_name("control.sock")).unwrap();
    socket.write_all(b"POST /reload HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    let page = told(&gate, "?limit=2");
    let entries = page["entries"].as_array().unwrap();
    let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&file).unwrap());
    assert_eq!((&entries[0]["action"], &entries[0]["who"]), (&"POST /reload".into(), &"unix socket".into()));
    assert_eq!(entries[0]["from"], format!("user {user}"));
    assert_eq!((&entries[1]["before"], &entries[1]["after"]), (&"enabled".into(), &"draining".into()));
    let rest = told(&gate, &format!("?limit=2&cursor={}", page["next"].as_str().unwrap()));
    assert_eq!((&rest["entries"][0]["action"], &rest["next"]), (&"start".into(), &Value::Null));
    let bad = control(&gate, "/audit?limit=many");
    assert!(status(&bad) == 400 && bad.contains("control.audit"), "{bad}");
    // A file that has changed is read again, though nobody asked.
    let text = std::fs::read_to_string(&gate.file).unwrap();
    std::fs::write(&gate.file, format!("nonsense = 1\n{text}")).unwrap();
    until("the reload is recorded", || {
        let last = lines(&file).pop().unwrap();
        last["action"] == "reload" && last["code"] == "control.config" && last["who"] == "process"
    });
    let out = Command::new(BINARY).args(["audit", "--control", &gate.control.to_string()]).output().unwrap();
    let printed = String::from_utf8(out.stdout).unwrap();
    assert!(printed.lines().next().unwrap().ends_with(concat!("process start ", env!("CARGO_PKG_VERSION"))));
    assert!(printed.contains(&format!("POST {change} 200 enabled -> draining\n")), "{printed}");
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0));
    let numbers: Vec<_> = lines(&file).iter().map(|entry| entry["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(lines(&file).pop().unwrap()["action"], "stop");
}

#[test]
fn numbers_go_on_over_an_upgrade_and_none_repeats() {
    let (mut gate, file) = steered("audit-upgrade");
    for _ in 0..2 {
        gate.upgrade().expect("the new one serves");
    }
    // The old processes record what they were asked for when it is answered.
    until("all has been recorded", || lines(&file).len() >= 5);
    assert_eq!(status(&ask(&gate, "POST", "/reload", "")), 200);
    let numbers: Vec<u64> = lines(&file).iter().map(|one| one["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let told = told(&gate, "?limit=100");
    let actions: Vec<&str> =
        told["entries"].as_array().unwrap().iter().filter_map(|one| one["action"].as_str()).collect();
    assert_eq!(actions.len(), numbers.len(), "{actions:?}");
    assert_eq!(actions.iter().filter(|action| **action == "POST /upgrade").count(), 2, "{actions:?}");
}
