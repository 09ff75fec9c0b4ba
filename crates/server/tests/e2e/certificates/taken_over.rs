//! Certificates while a new binary takes over.

use std::io::Write as _;

use tidegate_testkit::tls::shown;
use tidegate_testkit::{Gate, connect, read_answer, until};

use super::{LISTEN, Scene, awaited, handshake};
use crate::BINARY;
use crate::upstreams::{Switch, holding};

#[test]
fn handshakes_wait_for_no_store_that_changes_hands_and_the_new_process_renews() {
    let released = Switch::default();
    let mut scene = Scene::new("taken-over");
    scene.origin = holding("hello", &released);
    scene.authority.lasts(2000);
    let more = "[[route]]\nname = \"held\"\npath = \"/held\"\nupstream = \"app\"\nidempotency = {}\n\
                [tenants]\nfrom = [{ address = \"client\" }]\n";
    let config = scene.config(&scene.store(), "domains = [\"a.test\", \"b.test\"]", more);
    let mut gate = Gate::start_listening(BINARY, "acme-taken-over", LISTEN, &config);
    scene.authority.looks_at(gate.listeners[0], gate.listeners[1]);
    let [http, https] = [gate.listeners[0], gate.listeners[1]];
    let before = ["a.test", "b.test"].map(|name| awaited(https, name));
    // As long as this takes, the old process has the store.
    let mut held = connect(http);
    let request =
        "POST /held HTTP/1.1\r\nHost: other.test\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n";
    held.write_all(request.as_bytes()).unwrap();
    until("a request that needs the store is under way", || !scene.origin.recorded().is_empty());
    gate.upgrade().expect("the new one serves");
    for (name, before) in ["a.test", "b.test"].iter().zip(&before) {
        let client = handshake(https, name).expect("it is not waited for");
        assert_eq!(shown(&client), *before, "{name}");
    }
    assert!(!released.is_on());
    released.set(true);
    assert_eq!(read_answer(&mut held).status, 200);
    assert_eq!(gate.wait(), Some(0));
    scene.authority.renew_all();
    until("the new process renews", || {
        shown(&handshake(https, "a.test").expect("one of the two is served")) != before[0]
    });
}
