use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tidegate_wire::settings::ClientTlsSettings;
use tokio::net::UdpSocket;

use super::*;
use crate::endpoint::Admin;
use crate::settings::{RefreshBounds, UpstreamSettings};

/// A name server that answers what it is told.
#[derive(Clone, Default)]
struct NameServer {
    zone: Rc<RefCell<HashMap<String, Vec<RData>>>>,
    failing: Rc<RefCell<Option<(String, ResponseCode)>>>,
    asked: Rc<Cell<u32>>,
}

impl NameServer {
    async fn start(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = self.clone();
        task::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let answer = server.answer(&question).to_vec().unwrap();
                socket.send_to(&answer, client).await.unwrap();
            }
        });
        address
    }

    fn answer(&self, question: &Message) -> Message {
        self.asked.set(self.asked.get() + 1);
        let query = &question.queries[0];
        let name = query.name().to_ascii();
        let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
        answer.add_query(query.clone());
        if let Some((failing, code)) = &*self.failing.borrow()
            && *failing == name
        {
            answer.metadata.response_code = *code;
            return answer;
        }
        let zone = self.zone.borrow();
        for data in zone.get(&name).into_iter().flatten() {
            if data.record_type() == query.query_type() {
                answer.add_answer(Record::from_rdata(query.name().clone(), 0, data.clone()));
            }
        }
        answer
    }

    fn set(&self, name: &str, data: Vec<RData>) {
        self.zone.borrow_mut().insert(name.to_owned(), data);
    }

    fn fail(&self, name: &str, code: ResponseCode) {
        *self.failing.borrow_mut() = Some((name.to_owned(), code));
    }
}

fn v4(last: u8) -> RData {
    RData::A(A(Ipv4Addr::new(127, 0, 0, last)))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_utf8(target).unwrap()))
}

const QUICK: RefreshBounds = RefreshBounds { min: Duration::from_millis(10), max: Duration::from_secs(60) };

fn dns(server: SocketAddr) -> Discovery {
    Discovery::Dns { host: "app.test.".to_owned(), port: 80, refresh: QUICK, resolver: Some(server) }
}

fn services(server: SocketAddr) -> Discovery {
    Discovery::Srv { name: "_http._tcp.app.test.".to_owned(), refresh: QUICK, resolver: Some(server) }
}

fn upstream(discovery: Discovery) -> UpstreamSettings {
    UpstreamSettings { discovery, ..crate::settings::tests::upstream("app") }
}

/// The process's upstreams, driven: one, called `app`.
fn driven(discovery: Discovery) -> (Arc<Upstreams>, Arc<Upstream>, Leash) {
    let upstreams = Arc::new(Upstreams::default());
    upstreams.apply(vec![upstream(discovery)]).unwrap();
    let app = upstreams.get("app").unwrap();
    let leash = leashed(Arc::clone(&upstreams).drive());
    (upstreams, app, leash)
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    upstream.endpoints().endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn error(upstream: &Upstream) -> Option<String> {
    upstream.status(clock::now()).discovery_error
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let by = clock::now().after(Duration::from_secs(30));
    while !is_so() {
        assert!(clock::now() < by, "never: {what}");
        clock::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_name_is_asked_again_and_endpoints_that_stay_are_the_same() {
    let server = NameServer::default();
    server.set("app.test.", vec![v4(2), v4(1), v4(1), RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))]);
    let (_upstreams, app, _leash) = driven(dns(server.start().await));
    until("both families", || addresses(&app) == ["127.0.0.1:80", "127.0.0.2:80", "[::1]:80"]).await;
    let before = app.endpoints();
    server.set("app.test.", vec![v4(3), v4(2)]);
    until("the change", || addresses(&app) == ["127.0.0.2:80", "127.0.0.3:80"]).await;
    let after = app.endpoints();
    assert_eq!(after.endpoints[0].id, before.endpoints[1].id);
    // Asking again without news swaps nothing.
    let asked = server.asked.get();
    until("more looks", || server.asked.get() > asked + 6).await;
    assert_eq!(app.endpoints().version, after.version);
}

#[tokio::test(flavor = "local")]
async fn a_failure_or_an_empty_answer_keeps_the_endpoints_and_says_so() {
    for code in [ResponseCode::ServFail, ResponseCode::NXDomain, ResponseCode::NoError] {
        let server = NameServer::default();
        server.set("app.test.", vec![v4(1)]);
        let (_upstreams, app, _leash) = driven(dns(server.start().await));
        until("the first answer", || !app.endpoints().endpoints.is_empty()).await;
        assert_eq!(error(&app), None);
        server.fail("app.test.", code);
        until("the failure", || error(&app).is_some()).await;
        assert_eq!(addresses(&app), ["127.0.0.1:80"], "{code}");
        *server.failing.borrow_mut() = None;
        until("the recovery", || error(&app).is_none()).await;
    }
}

#[tokio::test(flavor = "local")]
async fn there_is_no_endpoint_until_the_first_answer() {
    let server = NameServer::default();
    let (_upstreams, app, _leash) = driven(dns(server.start().await));
    until("a failed look", || error(&app).is_some()).await;
    let status = app.status(clock::now());
    assert!(status.endpoints.is_empty() && status.discovered_ms.is_none());
    assert_eq!(status.discovery, "dns app.test.:80");
    server.set("app.test.", vec![v4(1)]);
    until("the first answer", || !app.endpoints().endpoints.is_empty()).await;
}

#[tokio::test(flavor = "local")]
async fn a_start_can_wait_for_the_first_answer_but_not_for_ever() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (upstreams, _app, _leash) = driven(dns(silent.local_addr().unwrap()));
    assert!(!upstreams.looked_for(clock::now().after(Duration::from_millis(20))).await);
    let server = NameServer::default();
    server.set("app.test.", vec![v4(1)]);
    let (upstreams, app, _leash) = driven(dns(server.start().await));
    assert!(upstreams.looked_for(clock::now().after(Duration::from_secs(30))).await);
    assert_eq!(addresses(&app), ["127.0.0.1:80"]);
}

#[tokio::test(flavor = "local")]
async fn an_srv_record_gives_targets_ports_and_weights() {
    let server = NameServer::default();
    let name = "_http._tcp.app.test.";
    server.set(name, vec![srv(1, 3, 81, "a.test."), srv(1, 1, 82, "b.test."), srv(2, 1, 83, "far.test.")]);
    server.set("a.test.", vec![v4(1), v4(2)]);
    server.set("b.test.", vec![v4(1)]);
    server.set("far.test.", vec![v4(9)]);
    let (_upstreams, app, _leash) = driven(services(server.start().await));
    until("the targets", || addresses(&app) == ["127.0.0.1:81", "127.0.0.1:82", "127.0.0.2:81"]).await;
    let weights: Vec<_> = app.status(clock::now()).endpoints.iter().map(|one| one.weight).collect();
    assert_eq!(weights, [3, 1, 3]);
    // The preferred ones are gone from DNS.
    server.set(name, vec![srv(2, 1, 83, "far.test.")]);
    until("the next priority", || addresses(&app) == ["127.0.0.9:83"]).await;
}

#[tokio::test(flavor = "local")]
async fn an_srv_target_that_is_not_resolved_just_now_keeps_its_addresses() {
    let server = NameServer::default();
    // One host may offer the service at several ports.
    let records = vec![srv(1, 1, 81, "a.test."), srv(1, 1, 82, "a.test."), srv(1, 1, 81, "b.test.")];
    server.set("_http._tcp.app.test.", records);
    server.set("a.test.", vec![v4(1)]);
    server.set("b.test.", vec![v4(2)]);
    let (_upstreams, app, _leash) = driven(services(server.start().await));
    until("the targets", || addresses(&app).len() == 3).await;
    server.fail("a.test.", ResponseCode::ServFail);
    server.set("b.test.", vec![v4(3)]);
    until("the change", || addresses(&app) == ["127.0.0.1:81", "127.0.0.1:82", "127.0.0.3:81"]).await;
}

#[tokio::test(flavor = "local")]
async fn a_file_is_watched_and_a_broken_one_changes_nothing() {
    let path = std::env::temp_dir().join(format!("tidegate-endpoints-{}", std::process::id()));
    std::fs::write(&path, "127.0.0.1:1\n").unwrap();
    let (_upstreams, app, _leash) = driven(Discovery::File(path.clone()));
    until("the file", || addresses(&app) == ["127.0.0.1:1"]).await;
    std::fs::write(&path, "127.0.0.1:1 weight=2\n127.0.0.1:2\n").unwrap();
    until("the change", || addresses(&app) == ["127.0.0.1:1", "127.0.0.1:2"]).await;
    for broken in ["127.0.0.1:3\nnonsense\n", "# nothing\n"] {
        std::fs::write(&path, broken).unwrap();
        until("the failure", || error(&app).is_some()).await;
        assert_eq!(addresses(&app).len(), 2);
        std::fs::write(&path, "127.0.0.1:1\n127.0.0.1:2\n").unwrap();
        until("the recovery", || error(&app).is_none()).await;
    }
    std::fs::remove_file(&path).unwrap();
    until("the absence", || error(&app).is_some()).await;
    assert_eq!(addresses(&app).len(), 2);
}

fn listed(addresses: &[&str]) -> Discovery {
    let one = |address: &&str| EndpointSettings { address: address.parse().unwrap(), weight: 1 };
    Discovery::Static(addresses.iter().map(one).collect())
}

#[tokio::test(flavor = "local")]
async fn a_reload_keeps_endpoints_and_the_operators_word_outlives_an_absence() {
    let (upstreams, app, _leash) = driven(listed(&["127.0.0.1:1", "127.0.0.1:2"]));
    let id = app.endpoints().endpoints[1].id;
    let first = "127.0.0.1:1".parse().unwrap();
    assert!(upstreams.set_endpoint("app", first, Admin::Draining));
    upstreams.apply(vec![upstream(listed(&["127.0.0.1:2"]))]).unwrap();
    assert_eq!(app.endpoints().endpoints[0].id, id);
    assert!(upstreams.set_endpoint("app", first, Admin::Disabled), "it is known, though away");
    upstreams.apply(vec![upstream(listed(&["127.0.0.1:1", "127.0.0.1:2"]))]).unwrap();
    assert_eq!(app.endpoints().endpoints[0].admin(), Admin::Disabled);
    assert!(!upstreams.set_endpoint("app", "127.0.0.1:9".parse().unwrap(), Admin::Draining));
    assert!(!upstreams.set_endpoint("other", first, Admin::Draining));
}

#[tokio::test(flavor = "local")]
async fn a_reload_with_unusable_tls_changes_nothing() {
    let (upstreams, app, _leash) = driven(listed(&["127.0.0.1:1"]));
    let tls = ClientTlsSettings { ca: Some("/nonexistent".into()), ..ClientTlsSettings::default() };
    let bad = UpstreamSettings { name: "bad".into(), tls: Some(tls), ..upstream(listed(&[])) };
    let error = upstreams.apply(vec![upstream(listed(&["127.0.0.1:2"])), bad]).unwrap_err();
    assert_eq!(error.to_string(), "upstream `bad`");
    assert_eq!(addresses(&app), ["127.0.0.1:1"]);
}

#[tokio::test(flavor = "local")]
async fn an_answer_to_what_is_no_longer_asked_is_dropped() {
    let (upstreams, app, _leash) = driven(dns("127.0.0.1:9".parse().unwrap()));
    let asked = app.settings().discovery.clone();
    upstreams.apply(vec![upstream(listed(&["127.0.0.1:1"]))]).unwrap();
    app.discovered(&asked, &[], clock::now());
    assert_eq!(addresses(&app), ["127.0.0.1:1"]);
}

#[tokio::test(flavor = "local")]
async fn the_tasks_of_a_removed_upstream_end() {
    let server = NameServer::default();
    server.set("app.test.", vec![v4(1)]);
    let (upstreams, app, _leash) = driven(dns(server.start().await));
    until("the first answer", || !app.endpoints().endpoints.is_empty()).await;
    upstreams.apply(Vec::new()).unwrap();
    until("only the test holds it", || Arc::strong_count(&app) == 1).await;
    // One of that name that comes back begins anew.
    upstreams.apply(vec![upstream(app.settings().discovery.clone())]).unwrap();
    let again = upstreams.get("app").unwrap();
    until("its first answer", || !again.endpoints().endpoints.is_empty()).await;
    assert_ne!(again.id, app.id);
}

#[tokio::test(flavor = "local")]
async fn a_reload_with_another_name_is_looked_up_at_once() {
    let server = NameServer::default();
    server.set("app.test.", vec![v4(1)]);
    server.set("next.test.", vec![v4(2)]);
    let resolver = Some(server.start().await);
    let hourly = Duration::from_secs(3600);
    let name = |host: &str| {
        let refresh = RefreshBounds { min: hourly, max: hourly };
        upstream(Discovery::Dns { host: host.to_owned(), port: 80, refresh, resolver })
    };
    let (upstreams, app, _leash) = driven(name("app.test.").discovery);
    until("the first answer", || addresses(&app) == ["127.0.0.1:80"]).await;
    let asked = server.asked.get();
    // What does not touch the discovery asks nobody.
    let slower = UpstreamSettings { connect_timeout: hourly, ..name("app.test.") };
    upstreams.apply(vec![slower]).unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    upstreams.apply(vec![name("next.test.")]).unwrap();
    assert_eq!(addresses(&app), ["127.0.0.1:80"], "the known endpoints stay meanwhile");
    until("the other name's answer", || addresses(&app) == ["127.0.0.2:80"]).await;
    assert_eq!(server.asked.get() - asked, 2, "A and AAAA of the other name");
}

#[test]
fn pauses_grow_to_a_bound_and_differ() {
    assert_eq!(retry_in(1, u64::MAX), RETRY.0);
    assert_eq!(retry_in(2, u64::MAX), RETRY.0 * 2);
    assert_eq!(retry_in(u32::MAX, u64::MAX), RETRY.1);
    assert_eq!(retry_in(u32::MAX, 0), RETRY.1 / 2);
}
