//! Where endpoints come from.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use tidegate_testkit::{Gate, NameServer, Origin, Record, Reply, ask, until};

use super::{Switch, begin, endpoint, found_by, holding, named, one_core, shares, upstream};
use crate::gate;

/// Two servers that listen on one port of two addresses.
fn twins() -> [Origin; 2] {
    let a = named("a");
    let address = SocketAddr::new("127.0.0.2".parse().unwrap(), a.address.port());
    [a, Origin::start_at(address, |_| Reply::Status(200, "b".into()))]
}

#[test]
fn a_name_is_resolved_again() {
    let [a, b] = twins();
    let names = NameServer::start();
    let [first, second] = ["127.0.0.1", "127.0.0.2"].map(|ip| Record::A(ip.parse().unwrap()));
    names.set("app.test.", vec![first]);
    let gate = gate(
        "dns",
        &found_by(&format!(
            "dns = \"app.test.:{}\"\nresolver = \"{}\"\nrefresh = {{ min = \"20ms\" }}",
            a.address.port(),
            names.address
        )),
    );
    // It waits for the first answer before it says that it is ready.
    assert_eq!(ask(gate.address, "GET /", "").body, "a");
    names.set("app.test.", vec![second]);
    until("the other address", || !endpoint(&gate, b.address).is_null());
    assert_eq!(shares(&gate, 5, ["a", "b"]), [0, 5]);
    names.set("app.test.", Vec::new());
    until("the failure is told", || upstream(&gate)["discovery_error"].is_string());
    assert_eq!(ask(gate.address, "GET /", "").body, "b", "what is known stays");
}

#[test]
fn an_srv_record_gives_addresses_ports_and_weights() {
    let (a, b, far) = (named("a"), named("b"), named("far"));
    let names = NameServer::start();
    names.set("host.test.", vec![Record::A("127.0.0.1".parse().unwrap())]);
    let service = |priority, weight, origin: &Origin| {
        Record::Srv(priority, weight, origin.address.port(), "host.test.")
    };
    names.set("_http._tcp.app.test.", vec![service(1, 3, &a), service(1, 1, &b), service(2, 1, &far)]);
    let gate = gate(
        "srv",
        &found_by(&format!(
            "srv = \"_http._tcp.app.test.\"\nresolver = \"{}\"\nrefresh = {{ min = \"20ms\" }}\nbalance = \"round-robin\"",
            names.address
        )),
    );
    assert_eq!(shares(&gate, 40, ["a", "b", "far"]), [30, 10, 0]);
    names.set("_http._tcp.app.test.", vec![service(2, 1, &far)]);
    until("the next priority", || endpoint(&gate, a.address).is_null());
    assert_eq!(shares(&gate, 5, ["a", "b", "far"]), [0, 0, 5]);
}

#[test]
fn an_upstream_without_an_address_yet_is_refused_as_such() {
    let names = NameServer::start();
    let lines = format!("dns = \"app.test.:80\"\nresolver = \"{}\"", names.address);
    let gate = gate("unresolved", &found_by(&lines));
    let answer = ask(gate.address, "GET /", "");
    assert_eq!((answer.status, answer.body.contains("upstream.resolve")), (503, true), "{}", answer.body);
}

#[test]
fn a_file_is_watched_and_what_is_under_way_on_an_endpoint_that_goes_comes_to_its_end() {
    let released = Switch::default();
    let (a, b) = (holding("a", &released), named("b"));
    let file = Gate::folder("file").join("endpoints");
    std::fs::write(&file, format!("{} # the first\n", a.address)).unwrap();
    let gate = gate("file", &found_by(&format!("file = \"{}\"", file.display())));
    let held = begin(&gate, "GET /held");
    until("it arrives", || a.recorded().len() == 1);
    std::fs::write(&file, format!("{} weight=2\n", b.address)).unwrap();
    until("the change", || endpoint(&gate, a.address).is_null());
    assert_eq!(endpoint(&gate, b.address)["weight"], 2);
    assert_eq!(shares(&gate, 5, ["a", "b"]), [0, 5]);
    released.set(true);
    let answer = held.join().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "a"));
}

#[test]
fn a_reload_of_the_upstreams_is_taken_whole_or_not_at_all() {
    let (a, b) = (named("a"), named("b"));
    let gate = gate("whole", &one_core(&[a.address], "", ""));
    let ca = gate.file.with_file_name("no-such-ca.pem");
    let broken =
        format!("[upstream.other]\nendpoints = [\"127.0.0.1:1\"]\ntls = {{ ca = \"{}\" }}\n", ca.display());
    gate.rewrite(&format!("{}{broken}", one_core(&[b.address], "", "")));
    until("it is refused", || {
        gate.metric("tidegate_config_reloads_total{outcome=\"refused\"}").is_some_and(|count| count > 0.0)
    });
    assert_eq!(shares(&gate, 5, ["a", "b"]), [5, 0]);
    gate.rewrite(&one_core(&[b.address], "", ""));
    until("it is taken", || !endpoint(&gate, b.address).is_null());
    assert_eq!(shares(&gate, 5, ["a", "b"]), [0, 5]);
}

#[test]
fn endpoints_that_come_and_go_with_reloads_under_load_fail_no_request() {
    let origins = [0, 1].map(|_| Origin::start(|_| Reply::After(std::time::Duration::from_millis(2))));
    // Nothing is retried: every request must go well by itself.
    let config = |number: usize| crate::app(&[origins[number].address], "", "retry = { tries = 1 }");
    let gate = gate("replaced", &config(0));
    let (stop, served) = (Switch::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| super::endpoints::load(&gate, &stop, &served))).collect();
        for number in 1..=10 {
            let before = origins[number % 2].recorded().len();
            gate.rewrite(&config(number % 2));
            gate.signal("-HUP");
            until("the other one serves", || origins[number % 2].recorded().len() > before + 5);
        }
        stop.set(true);
        workers.into_iter().for_each(|worker| worker.join().expect("no request failed"));
    });
}

#[test]
fn after_a_reload_to_another_protocol_no_connection_from_before_is_used() {
    let origin = named("a");
    // A Tidegate speaks both at one address, and tells in `Via` which one it was spoken to.
    let behind = gate("protocol-behind", &one_core(&[origin.address], "", ""));
    let gate = gate("protocol", &one_core(&[behind.address], "", ""));
    let spoken = || {
        assert_eq!(shares(&gate, 3, ["a"]), [3]);
        let head = origin.recorded().last().unwrap().head.to_ascii_lowercase();
        let via: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("via: ")).collect();
        via.join(", ").rsplit(", ").next().unwrap().to_owned()
    };
    assert_eq!(spoken(), "1.1 tidegate");
    for (protocol, expected) in [("h2", "2.0 tidegate"), ("http1", "1.1 tidegate")] {
        gate.rewrite(&one_core(&[behind.address], &format!("protocol = \"{protocol}\""), ""));
        gate.reload();
        assert_eq!(spoken(), expected);
    }
}
