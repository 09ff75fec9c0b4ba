//! Several nodes with one store: one of them orders, each of them answers the authority, all of them serve.

use tidegate_testkit::{Gate, Postgres};

use super::{LISTEN, Scene, awaited};
use crate::BINARY;

#[test]
fn one_node_orders_any_answers_and_all_serve() {
    for way in ["http-01", "tls-alpn-01"] {
        let scene = Scene::new(&format!("nodes-{way}"));
        let url = Postgres::shared().database();
        let acme = format!("domains = [\"a.test\", \"b.test\", \"c.test\"]\nchallenges = [\"{way}\"]");
        let nodes = ["one", "two"].map(|node| {
            let config =
                scene.config(&url, &acme, "").replace("[acme]", &format!("node = \"{node}\"\n[acme]"));
            Gate::start_listening(BINARY, &format!("acme-{way}-{node}"), LISTEN, &config)
        });
        // Whoever ordered: the authority looks at the second alone.
        scene.authority.looks_at(nodes[1].listeners[0], nodes[1].listeners[1]);
        for name in ["a.test", "b.test", "c.test"] {
            let shown = nodes.each_ref().map(|node| awaited(node.listeners[1], name));
            assert_eq!(shown[0], shown[1], "one certificate for all nodes");
        }
        let mut names: Vec<String> = scene.authority.orders().into_iter().map(|one| one.name).collect();
        names.sort();
        assert_eq!(names, ["a.test", "b.test", "c.test"], "each is ordered once");
    }
}
