//! Upgrades under load: new connections, kept ones with TLS and without, and HTTP/2, while the number of cores changes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tidegate_testkit::tls::{certificate, tls_connect, tls_connect_h2};
use tidegate_testkit::{Gate, Origin, Reply, block_on, connect, h2_read, until};

use super::own_binary;
use crate::app;

/// One request and its answer on a connection that is kept. `Err`: what went wrong. Whether the server keeps it, too.
pub fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> Result<(u16, bool), String> {
    stream.write_all(request).map_err(|error| format!("not sent: {error}"))?;
    let (mut got, mut buffer) = (Vec::new(), [0; 1024]);
    let end = loop {
        if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err("closed before its answer".to_owned()),
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(format!("no answer: {error}")),
        }
    };
    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
    let length: usize = field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
    while got.len() < end + length {
        match stream.read(&mut buffer) {
            Ok(0) => return Err("closed within its answer".to_owned()),
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(format!("half an answer: {error}")),
        }
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or("no status")?, field("connection:") != Some("close")))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn plain(address: SocketAddr, keep: bool, served: &AtomicUsize, stop: &AtomicBool) {
    let mut stream = None;
    while !stop.load(Relaxed) {
        let held = stream.get_or_insert_with(|| connect(address));
        let (status, kept) = exchange(held, GET).unwrap_or_else(|why| panic!("keep {keep}: {why}"));
        assert_eq!(status, 200);
        served.fetch_add(1, Relaxed);
        if !keep || !kept {
            stream = None;
        }
    }
}

fn tls(address: SocketAddr, served: &AtomicUsize, stop: &AtomicBool) {
    let mut stream = None;
    while !stop.load(Relaxed) {
        let held =
            stream.get_or_insert_with(|| tls_connect(address, "a.test", &["http/1.1"]).expect("a handshake"));
        let (status, kept) = exchange(held, GET).unwrap_or_else(|why| panic!("tls: {why}"));
        assert_eq!(status, 200);
        served.fetch_add(1, Relaxed);
        if !kept {
            stream = None;
        }
    }
}

/// A client of HTTP/2 that takes another connection when it is told to.
fn h2(address: SocketAddr, served: &AtomicUsize, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        block_on(async {
            let mut client = tls_connect_h2(address, "a.test").await;
            for _ in 0..200 {
                // It was told to go away: nothing was sent.
                let Ok(ready) = client.ready().await else { return };
                client = ready;
                let request = http::Request::get("https://a.test/").body(()).unwrap();
                let Ok((response, _)) = client.send_request(request, true) else { return };
                match response.await {
                    Ok(response) => {
                        assert_eq!(response.status(), 200);
                        h2_read(&mut response.into_body()).await;
                        served.fetch_add(1, Relaxed);
                    }
                    // It says itself that it was not heard (RFC 9113 section 8.7).
                    Err(error) if error.is_go_away() || error.reason() == Some(h2_refused()) => return,
                    Err(error) => panic!("h2: {error}"),
                }
                if stop.load(Relaxed) {
                    return;
                }
            }
        });
    }
}

fn h2_refused() -> tidegate_testkit::h2::Reason {
    tidegate_testkit::h2::Reason::REFUSED_STREAM
}

#[test]
fn no_request_fails_while_new_processes_take_over_with_more_cores_and_with_fewer() {
    let origin = Origin::start(|_| Reply::Status(200, "here".to_owned()));
    let folder = Gate::folder("upgrade-load");
    let (cert, key) = (folder.join("a.pem"), folder.join("a.key"));
    let _ = certificate(&["a.test"], &cert, &key);
    let config = format!(
        "{}\n[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n",
        app(&[origin.address], "", ""),
        cert.display(),
        key.display()
    );
    let listen = "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]";
    let binary = own_binary("upgrade-load");
    let mut gate = Gate::start_listening(binary.to_str().unwrap(), "upgrade-load", listen, &config);
    let (stop, served) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 4]);
    let (http, https) = (gate.listeners[0], gate.listeners[1]);
    std::thread::scope(|scope| {
        let (stop, served) = (&stop, &served);
        let clients = [
            scope.spawn(move || plain(http, false, &served[0], stop)),
            scope.spawn(move || plain(http, true, &served[1], stop)),
            scope.spawn(move || tls(https, &served[2], stop)),
            scope.spawn(move || h2(https, &served[3], stop)),
        ];
        let all_serve = |served: &[AtomicUsize; 4]| {
            let before: Vec<usize> = served.iter().map(|one| one.load(Relaxed)).collect();
            until("every kind of client is served", || {
                clients.iter().any(std::thread::ScopedJoinHandle::is_finished)
                    || served.iter().zip(&before).all(|(one, before)| one.load(Relaxed) > before + 5)
            });
        };
        all_serve(served);
        for workers in [3, 1] {
            gate.rewrite(&config.replace("workers = 2", &format!("workers = {workers}")));
            gate.upgrade().unwrap_or_else(|why| panic!("{workers} workers: {why} {}", gate.said()));
            all_serve(served);
        }
        stop.store(true, Relaxed);
        for client in clients {
            client.join().expect("no request failed");
        }
    });
    assert_eq!(gate.wait(), Some(0));
}
