//! What a change does to sessions and connections from before: reload, and another process.

use tidegate_testkit::tls::Visitor;
use tidegate_testkit::{Gate, until};

use super::authority::Authority;
use super::{BY_CERTIFICATE, LISTEN, answer, asked, is_ok, origin, seen, served, visitor, wanted};
use crate::{BINARY, app};

#[test]
fn a_session_is_gone_on_with_but_never_under_another_rule() {
    let folder = Gate::folder("mtls-resumed");
    let (clients, others) = (Authority::new(&folder, "ours"), Authority::new(&folder, "theirs"));
    let acme = clients.client("acme", |_| {});
    let origin = origin();
    let config = |rule: &str| {
        format!("{}\n{BY_CERTIFICATE}{}", app(&[origin.address], "", ""), served(&folder, "m.test", rule))
    };
    let gate = Gate::start_listening(BINARY, "mtls-resumed", LISTEN, &config(&wanted(&clients, "")));
    let (https, acme) = (gate.listeners[1], visitor(&acme));
    assert!(is_ok(&asked(&acme, https, "m.test")));
    let mut again = acme.connect(https, "m.test").unwrap();
    assert!(is_ok(&answer(&mut again, "m.test", "")));
    assert!(Visitor::is_resumed(&again));
    let told = seen(&origin);
    assert!(told.contains("client-cert: :mii") && told.contains("tidegate-tenant: acme\r\n"), "{told}");
    gate.rewrite(&config(&wanted(&others, "")));
    gate.reload();
    assert_eq!(asked(&acme, https, "m.test"), "", "it was begun under another rule");
    let told = answer(&mut again, "m.test", "");
    assert!(told.starts_with("http/1.1 421 "), "a connection from before, too: {told}");
}

#[test]
fn who_is_revoked_is_refused_at_once_and_others_notice_nothing() {
    let folder = Gate::folder("mtls-revoked");
    let clients = Authority::new(&folder, "ours");
    let stays = clients.client("stays", |params| params.serial_number = Some(1_u64.into()));
    let goes = clients.client("goes", |params| params.serial_number = Some(2_u64.into()));
    let crl = clients.revoke(99);
    let origin = origin();
    let rule = wanted(&clients, &format!(", crl = \"{}\"", crl.display()));
    let config =
        format!("{}\n{BY_CERTIFICATE}{}", app(&[origin.address], "", ""), served(&folder, "m.test", &rule));
    let gate = Gate::start_listening(BINARY, "mtls-revoked", LISTEN, &config);
    let https = gate.listeners[1];
    let (stays, goes) = (visitor(&stays), visitor(&goes));
    let mut open = [&stays, &goes].map(|one| one.connect(https, "m.test").unwrap());
    assert!(open.iter_mut().all(|one| is_ok(&answer(one, "m.test", ""))));
    clients.revoke(2);
    gate.reload();
    let [stays_open, goes_open] = &mut open;
    assert!(is_ok(&answer(stays_open, "m.test", "")), "it is as good by the new list");
    assert!(seen(&origin).contains("tidegate-tenant: stays\r\n"));
    assert!(answer(goes_open, "m.test", "").starts_with("http/1.1 421 "));
    assert_eq!(asked(&goes, https, "m.test"), "");
    assert!(is_ok(&asked(&stays, https, "m.test")));
}

#[test]
fn who_a_client_is_the_next_process_knows_too() {
    let folder = Gate::folder("mtls-upgrade");
    let clients = Authority::new(&folder, "ours");
    let acme = clients.between().client("acme", |_| {});
    let origin = origin();
    let tls = served(&folder, "m.test", &wanted(&clients, ""));
    let config = format!("{}\n{BY_CERTIFICATE}{tls}", app(&[origin.address], "", ""));
    let mut gate = Gate::start_listening(BINARY, "mtls-upgrade", LISTEN, &config);
    let mut client = visitor(&acme).connect(gate.listeners[1], "m.test").unwrap();
    assert!(is_ok(&answer(&mut client, "m.test", "")));
    gate.upgrade().expect("the new one serves");
    // It goes through the process that has its keys, to the new one, as soon as its core hears of that.
    until("the connection goes on in the new process", || {
        let told = answer(&mut client, "m.test", "");
        assert!(is_ok(&told), "{told}");
        told.contains("connection: close")
    });
    let told = seen(&origin);
    assert!(told.contains("client-cert: :mii") && told.contains("client-cert-chain: :mii"), "{told}");
    assert!(told.contains("tidegate-tenant: acme\r\n"), "{told}");
    drop(client);
    assert_eq!(gate.wait(), Some(0));
}
