use std::cell::Cell;
use std::rc::Rc;

use tidegate_wire::settings::Protocol;
use tidegate_wire::task;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::discovery::tests::until;
use crate::settings::{Discovery, EndpointSettings, UpstreamSettings};
use crate::upstreams::Upstreams;

const SETTINGS: HealthSettings = HealthSettings {
    path: None,
    host: None,
    statuses: (200, 299),
    interval: Duration::from_millis(10),
    timeout: Duration::from_secs(5),
    healthy: 2,
    unhealthy: 3,
};

fn http() -> HealthSettings {
    HealthSettings { path: Some("/healthz".to_owned()), host: Some("app.test".to_owned()), ..SETTINGS }
}

/// One upstream of one endpoint, checked.
struct Checked {
    upstreams: Arc<Upstreams>,
    endpoint: Arc<Endpoint>,
    settings: UpstreamSettings,
    _leash: Leash,
}

fn checked(address: std::net::SocketAddr, protocol: Protocol, health: HealthSettings) -> Checked {
    let settings = UpstreamSettings {
        discovery: Discovery::Static(vec![EndpointSettings { address, weight: 1 }]),
        protocol,
        health: Some(health),
        ..crate::settings::tests::upstream("app")
    };
    let upstreams = Arc::new(Upstreams::default());
    upstreams.apply(vec![settings.clone()]).unwrap();
    let endpoint = Arc::clone(&upstreams.get("app").unwrap().endpoints().endpoints[0]);
    let _leash = leashed(Arc::clone(&upstreams).drive());
    Checked { upstreams, endpoint, settings, _leash }
}

impl Checked {
    async fn is(&self, health: &str) {
        until(health, || self.endpoint.status(Duration::ZERO, clock::now()).health == health).await;
    }

    fn error(&self) -> String {
        self.endpoint.status(Duration::ZERO, clock::now()).health_error.unwrap_or_default()
    }
}

/// Answers each request with the status in the cell, and keeps the last request.
async fn server(status: Rc<Cell<u16>>, seen: Rc<Cell<Vec<u8>>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    task::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap_or_default();
            head.truncate(length);
            seen.set(head);
            let answer = format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", status.get());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_goes_and_comes_back_with_its_answers() {
    let (status, seen) = (Rc::new(Cell::new(200)), Rc::default());
    let checked = checked(server(Rc::clone(&status), Rc::clone(&seen)).await, Protocol::Http1, http());
    assert!(checked.endpoint.is_usable(clock::now()), "used until proven otherwise");
    checked.is("healthy").await;
    let head = String::from_utf8(seen.take()).unwrap();
    assert!(head.starts_with("GET /healthz HTTP/1.1\r\n") && head.contains("host: app.test\r\n"), "{head}");
    status.set(503);
    checked.is("unhealthy").await;
    assert_eq!(checked.error(), "status 503");
    assert!(!checked.endpoint.is_usable(clock::now()));
    status.set(204);
    checked.is("healthy").await;
}

#[tokio::test(flavor = "local")]
async fn the_first_answer_decides_whatever_the_thresholds() {
    let patient = HealthSettings { interval: Duration::from_secs(3600), unhealthy: 100, ..http() };
    let address = server(Rc::new(Cell::new(500)), Rc::default()).await;
    checked(address, Protocol::Http1, patient).is("unhealthy").await;
}

#[tokio::test(flavor = "local")]
async fn a_tcp_check_asks_for_a_connection_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let checked = checked(listener.local_addr().unwrap(), Protocol::Http1, SETTINGS);
    checked.is("healthy").await;
    drop(listener);
    checked.is("unhealthy").await;
}

#[tokio::test(flavor = "local")]
async fn an_endpoint_that_accepts_and_says_nothing_is_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quick = HealthSettings { timeout: Duration::from_millis(20), ..http() };
    let checked = checked(listener.local_addr().unwrap(), Protocol::Http1, quick);
    checked.is("unhealthy").await;
    assert_eq!(checked.error(), "no answer within 20ms");
}

#[tokio::test(flavor = "local")]
async fn checks_speak_http2_where_the_upstream_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Rc::new(Cell::new(String::new()));
    let told = Rc::clone(&seen);
    task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                told.set(request.uri().to_string());
                respond.send_response(http::Response::new(()), true).unwrap();
            }
        }
    });
    let checked = checked(address, Protocol::H2, http());
    checked.is("healthy").await;
    assert_eq!(seen.take(), "http://app.test/healthz");
}

#[tokio::test(flavor = "local")]
async fn a_reload_changes_the_interval_at_once_and_switches_checks_off_and_on() {
    let status = Rc::new(Cell::new(200));
    let slow = HealthSettings { interval: Duration::from_secs(3600), ..http() };
    let mut checked = checked(server(Rc::clone(&status), Rc::default()).await, Protocol::Http1, slow);
    checked.is("healthy").await;
    status.set(500);
    checked.settings.health = Some(http());
    checked.upstreams.apply(vec![checked.settings.clone()]).unwrap();
    checked.is("unhealthy").await;
    checked.settings.health = None;
    checked.upstreams.apply(vec![checked.settings.clone()]).unwrap();
    checked.is("unknown").await;
    assert!(checked.endpoint.is_usable(clock::now()));
    checked.settings.health = Some(http());
    checked.upstreams.apply(vec![checked.settings.clone()]).unwrap();
    checked.is("unhealthy").await;
}

#[tokio::test(flavor = "local")]
async fn a_disabled_endpoint_is_not_bothered() {
    let checked = checked(server(Rc::new(Cell::new(200)), Rc::default()).await, Protocol::Http1, http());
    checked.is("healthy").await;
    checked.upstreams.set_endpoint("app", checked.endpoint.address, Admin::Disabled);
    let checks = || checked.endpoint.status(Duration::ZERO, clock::now()).checks;
    // One may be under way.
    let before = checks();
    clock::sleep(SETTINGS.interval * 5).await;
    assert!(checks() <= before + 1);
    checked.upstreams.set_endpoint("app", checked.endpoint.address, Admin::Enabled);
    until("checked again", || checks() > before + 1).await;
}
