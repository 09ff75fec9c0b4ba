//! Upgrades that end otherwise: the new process dies with all that it was given, or the old one is told to stop meanwhile.

use std::path::PathBuf;

use tidegate_testkit::{Gate, ask, ask_on, connect, until};

use super::{gate, ok, replaced_by};
use crate::app;

/// A new process that says what it should until it could serve, and then does something else. What it hears it writes into a file.
fn played(name: &str, then: &str) -> PathBuf {
    let heard = Gate::folder(name).join("heard");
    let script = format!(
        "say() {{ printf '%s' \"$1\" >&0; }}\n\
         hear() {{ dd bs=200000 count=1 2>/dev/null >> {heard}; echo >> {heard}; }}\n\
         say '{{\"say\":\"hello\",\"protocol\":1,\"version\":\"played\"}}'\n\
         hear; hear\nsay '{{\"say\":\"ready\"}}'\nhear\n{then}",
        heard = heard.display()
    );
    replaced_by(name, &script);
    heard
}

fn has_heard(heard: &PathBuf, what: &str) -> bool {
    std::fs::read_to_string(heard).is_ok_and(|text| text.contains(&format!("\"say\":\"{what}\"")))
}

#[test]
fn a_new_process_that_dies_with_all_that_it_was_given_changes_nothing() {
    let origin = ok();
    let mut gate = gate("upgrade-dies", &app(&[origin.address], "", ""));
    let mut kept = connect(gate.address);
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200);
    let heard = played("upgrade-dies", "kill -9 $$");
    let said = gate.upgrade().expect_err("it dies");
    assert!(said.contains("control.upgrade") && said.contains("signal: 9"), "{said}");
    assert!(has_heard(&heard, "sockets") && has_heard(&heard, "begin"), "it had them all");
    assert_eq!(ask_on(&mut kept, "GET /", "").status, 200);
    for _ in 0..20 {
        assert_eq!(ask(gate.address, "GET /", "").status, 200);
    }
}

#[test]
fn who_is_told_to_stop_while_another_takes_over_takes_that_one_along() {
    let origin = ok();
    let config = format!("{}\n[upgrade]\nstart = \"25s\"\n", app(&[origin.address], "", ""));
    let mut gate = gate("upgrade-stopped", &config);
    let go = Gate::folder("upgrade-stopped").join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.02; done\n", go.display());
    let heard =
        played("upgrade-stopped", &format!("{wait}say '{{\"say\":\"serving\",\"taken\":[]}}'\nhear; exit 0"));
    gate.signal("-USR2");
    until("it was told to begin", || has_heard(&heard, "begin"));
    gate.signal("-TERM");
    until("the old one stops", || std::net::TcpStream::connect(gate.address).is_err());
    std::fs::write(go, "").unwrap();
    assert_eq!(gate.wait(), Some(0), "{}", gate.said());
    until("the new one is told so, too", || has_heard(&heard, "stop"));
}
