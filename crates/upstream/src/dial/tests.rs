use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tidegate_model::address::Network;
use tidegate_wire::task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A receiver that answers each request with this, on each connection so many times; and counts both.
struct Receiver {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

async fn receiver(answer: &'static str, per_connection: usize) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, requests) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let told = (Arc::clone(&connections), Arc::clone(&requests));
    task::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            told.0.fetch_add(1, SeqCst);
            let requests = Arc::clone(&told.1);
            task::spawn(async move {
                for _ in 0..per_connection {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\nhello") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    requests.fetch_add(1, SeqCst);
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    Receiver { address, connections, requests }
}

fn settings(allow: &[&str]) -> DialSettings {
    let allow = allow.iter().map(|network| network.parse::<Network>().unwrap()).collect();
    DialSettings {
        reach: Reach { allow, plaintext: true, ..Reach::default() },
        resolver: None,
        tls: ClientTlsSettings { insecure: true, ..ClientTlsSettings::default() },
        connect_timeout: Duration::from_secs(10),
        timeout: Duration::from_secs(20),
        answer_bytes_max: 100,
        calls_max: 10,
        breaker: BreakerSettings { consecutive: 2, cooldown: Duration::from_secs(60) },
    }
}

async fn send(dialer: &Dialer, line: &str, url: &str) -> Result<Dialled, DialError> {
    let place = dialer.reach().place(url)?;
    let (fields, body) = (Fields::default(), Bytes::from_static(b"hello"));
    let message = Message { method: Method::POST, fields: &fields, body: &body };
    dialer.send(&line.into(), &place, None, &message, |status| status < 500).await
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test(flavor = "local")]
async fn calls_what_may_be_called_and_keeps_the_connection() {
    let receiver = receiver(OK, 10).await;
    let dialer = Dialer::new(settings(&["127.0.0.0/8"])).unwrap();
    for _ in 0..3 {
        let answer = send(&dialer, "a", &format!("http://{}/x", receiver.address)).await.unwrap();
        assert_eq!((answer.status, &answer.body[..], answer.whole), (200, &b"ok"[..], true));
        assert_eq!(answer.address, receiver.address);
    }
    assert_eq!(receiver.connections.load(SeqCst), 1);
    send(&dialer, "b", &format!("http://{}/x", receiver.address)).await.unwrap();
    assert_eq!(receiver.connections.load(SeqCst), 2, "each line has its own");
}

#[tokio::test(flavor = "local")]
async fn a_name_that_leads_inside_is_not_called() {
    let receiver = receiver(OK, 10).await;
    let dialer = Dialer::new(settings(&[])).unwrap();
    let refused = send(&dialer, "a", &format!("http://localhost:{}/", receiver.address.port())).await;
    assert!(matches!(refused, Err(DialError::Inside(_, Unreachable::Address { .. }))), "{refused:?}");
    let unknown = send(&dialer, "a", "http://nobody.invalid/").await;
    assert!(matches!(unknown, Err(DialError::Resolve(_) | DialError::Inside(..))), "{unknown:?}");
    let told = [refused, unknown].map(|refused| refused.map(|_| ()).unwrap_err().told());
    assert_eq!(told[0], told[1], "whoever named it learns nothing of names inside");
    // Who wrote an address knows it.
    let refused = send(&dialer, "a", &format!("http://{}/", receiver.address)).await;
    assert!(matches!(refused, Err(DialError::Refused(Unreachable::Address { .. }))), "{refused:?}");
    assert_eq!(receiver.connections.load(SeqCst), 0);
    let allowed = Dialer::new(settings(&["127.0.0.0/8", "::1"])).unwrap();
    let answer =
        send(&allowed, "a", &format!("http://localhost:{}/", receiver.address.port())).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "local")]
async fn a_redirect_is_an_answer_like_any_other() {
    let receiver =
        receiver("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 9).await;
    let dialer = Dialer::new(settings(&["127.0.0.0/8"])).unwrap();
    let answer = send(&dialer, "a", &format!("http://{}/", receiver.address)).await.unwrap();
    assert_eq!((answer.status, receiver.requests.load(SeqCst)), (302, 1));
}

#[tokio::test(flavor = "local")]
async fn a_kept_connection_that_the_server_has_closed_is_made_anew() {
    let receiver = receiver(OK, 1).await;
    let dialer = Dialer::new(settings(&["127.0.0.0/8"])).unwrap();
    for _ in 0..3 {
        assert_eq!(send(&dialer, "a", &format!("http://{}/", receiver.address)).await.unwrap().status, 200);
    }
    assert_eq!((receiver.connections.load(SeqCst), receiver.requests.load(SeqCst)), (3, 3));
}

#[tokio::test(flavor = "local")]
async fn of_a_long_answer_the_beginning_is_kept_and_the_rest_not_read() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    let answer: &'static str = Box::leak(format!("{long}{}", "x".repeat(500)).into_boxed_str());
    let receiver = receiver(answer, 1).await;
    let dialer = Dialer::new(settings(&["127.0.0.0/8"])).unwrap();
    let answer = send(&dialer, "a", &format!("http://{}/", receiver.address)).await.unwrap();
    assert_eq!((answer.body.len(), answer.whole), (100, false));
}

#[tokio::test(flavor = "local")]
async fn a_line_that_fails_is_left_alone_and_no_other() {
    let (bad, good) =
        (receiver("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 9).await, receiver(OK, 9).await);
    let dialer = Dialer::new(settings(&["127.0.0.0/8"])).unwrap();
    for _ in 0..2 {
        assert_eq!(send(&dialer, "a", &format!("http://{}/", bad.address)).await.unwrap().status, 500);
    }
    let left = send(&dialer, "a", &format!("http://{}/", bad.address)).await.unwrap_err();
    assert!(matches!(left, DialError::LeftAlone { .. }) && left.is_untried(), "{left:?}");
    assert_eq!(bad.requests.load(SeqCst), 2);
    assert_eq!(send(&dialer, "b", &format!("http://{}/", good.address)).await.unwrap().status, 200);
}

#[tokio::test(flavor = "local")]
async fn there_are_never_more_calls_nor_lines_than_may_be() {
    let receiver = receiver(OK, 9).await;
    let dialer = Dialer::new(DialSettings { calls_max: 0, ..settings(&["127.0.0.0/8"]) }).unwrap();
    let busy = send(&dialer, "a", &format!("http://{}/", receiver.address)).await.unwrap_err();
    assert!(matches!(busy, DialError::Busy) && busy.is_untried());
    let dialer = Dialer::new(settings(&[])).unwrap();
    for number in 0..LINES_MAX + 10 {
        dialer.line(&number.to_string().into(), Tick(number as u64));
    }
    assert_eq!(dialer.lines.borrow().len(), LINES_MAX);
    assert!(!dialer.lines.borrow().contains_key("0") && dialer.calls.get() == 0);
}
