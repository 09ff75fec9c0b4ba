//! Between our own machines: sessions that nodes go on with for each other, and what upstreams are shown.

use tidegate_testkit::tls::{Visitor, certificate};
use tidegate_testkit::{Gate, TlsOrigin, ask};

use super::authority::Authority;
use super::{answer, asked, is_ok, nobody, origin, served, visitor, wanted};
use crate::{BINARY, app, gate};

#[test]
fn nodes_with_one_secret_go_on_with_each_others_sessions() {
    let folder = Gate::folder("tickets");
    let clients = Authority::new(&folder, "ours");
    let acme = clients.client("acme", |_| {});
    let origin = origin();
    let tls = served(&folder, "a.test", "") + &served(&folder, "m.test", &wanted(&clients, ""));
    let config = format!("{}\n{tls}", app(&[origin.address], "", ""));
    let node = |name: &str, secret: &str| {
        let listen = format!("https = [\"127.0.0.1:0\"]\ntickets = {{ secret = \"{secret}\" }}");
        Gate::start_listening(BINARY, name, &listen, &config)
    };
    let secret = "a secret of thirty-two bytes, it is";
    let other = secret.replace('a', "b");
    let nodes = [node("tickets", secret), node("tickets-two", secret), node("tickets-three", &other)];
    for (visitor, host) in [(nobody(), "a.test"), (visitor(&acme), "m.test")] {
        assert!(is_ok(&asked(&visitor, nodes[0].address, host)));
        let mut second = visitor.connect(nodes[1].address, host).unwrap();
        assert!(Visitor::is_resumed(&second), "{host}");
        assert!(is_ok(&answer(&mut second, host, "")));
        assert!(!Visitor::is_resumed(&visitor.connect(nodes[2].address, host).unwrap()), "{host}");
    }
}

#[test]
fn an_upstream_is_shown_a_certificate_and_held_to_its_pins() {
    let folder = Gate::folder("mtls-upstream");
    let clients = Authority::new(&folder, "ours");
    let client = clients.client("gate", |_| {});
    let (own_cert, own_key) = (folder.join("app.pem"), folder.join("app.key"));
    let _ = certificate(&["app.internal"], &own_cert, &own_key);
    let origin = TlsOrigin::demanding(&own_cert, &own_key, &clients.ca, "shown");
    let trust = format!("ca = \"{}\", server_name = \"app.internal\"", own_cert.display());
    let identity = format!(", cert = \"{}\", key = \"{}\"", client.cert.display(), client.key.display());
    let config = |more: &str| app(&[origin.address], &format!("tls = {{ {trust}{more} }}"), "");
    let gate = gate("mtls-upstream", &config(&identity));
    let told = ask(gate.address, "GET /", "");
    assert_eq!((told.status, &*told.body), (200, "shown"));
    let try_with = |more: &str| {
        gate.rewrite(&config(more));
        gate.reload();
        ask(gate.address, "GET /", "")
    };
    let own_pin = super::authority::pin_of(&own_key);
    assert_eq!(try_with(&format!("{identity}, pins = [\"{own_pin}\"]")).status, 200);
    let told = try_with(&format!("{identity}, pins = [\"{}\"]", client.pin));
    assert_eq!((told.status, told.body.contains("upstream.tls")), (502, true), "{}", told.body);
    assert_eq!(try_with("").status, 502, "it shows none");
    assert_eq!(try_with(&identity).status, 200);
}
