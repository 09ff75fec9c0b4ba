//! Connections that change their protocol: WebSocket over both versions of HTTP, and any other Upgrade.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use bytes::Bytes;
use tidegate_testkit::tls::{certificate, tls_connect_h2};
use tidegate_testkit::{
    Gate, H2Call, H2Origin, Origin, Reply, TlsOrigin, block_on, connect, h2, h2_connect, h2_read,
    read_answer, until,
};

use crate::streams::{read_rest, read_until, sent};
use crate::{BINARY, app, gate};

/// The example of RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A masked text frame, as a client sends it, and what an echo of bytes gives back.
const TEXT: &[u8] = &[0x81, 0x85, 1, 2, 3, 4, b'h' ^ 1, b'e' ^ 2, b'l' ^ 3, b'l' ^ 4, b'o' ^ 1];

#[test]
fn a_websocket_goes_through_from_its_handshake_to_its_end() {
    let origin = Origin::scripted(|visit| {
        visit.say(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        ))?;
        visit.say(b"\x81\x02hi")?;
        visit.echo()
    });
    let gate = gate("websocket", &app(&[origin.address], "", ""));
    let mut stream = sent(
        gate.address,
        format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        ),
    );
    let head = read_until(&mut stream, "\r\n\r\n").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains(&format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase())), "{head}");
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    read_until(&mut stream, "\x02hi");
    stream.write_all(TEXT).unwrap();
    let mut back = [0; TEXT.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, TEXT);
    let asked = origin.recorded()[0].head.to_ascii_lowercase();
    for field in
        ["\r\nconnection: upgrade\r\n", "\r\nupgrade: websocket\r\n", "\r\nsec-websocket-version: 13\r\n"]
    {
        assert!(asked.contains(field), "{field:?}: {asked}");
    }
    // The client's end is passed on; the upstream's answer to it comes back.
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&mut stream), "");
}

#[test]
fn an_upgrade_that_is_declined_leaves_an_ordinary_connection() {
    let origin = Origin::start(|_| Reply::Status(426, "no".to_owned()));
    let gate = gate("declined", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        assert_eq!(read_answer(&mut stream).status, 426);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).status, 426);
    }
    assert_eq!(origin.recorded().len(), 4);
}

/// Asks for a WebSocket over HTTP/2 (RFC 8441).
fn extended_connect(protocol: &'static str) -> http::Request<()> {
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri("http://a/chat?x=1")
        .header("sec-websocket-version", "13")
        .header("origin", "http://a")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    request
}

/// What a server answers to this key.
fn accept(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key is made");
    tidegate_testkit::websocket_accept(key)
}

#[test]
fn a_websocket_over_http2_is_one_over_http1_for_the_upstream() {
    let origin = Origin::scripted(|visit| match visit.path() {
        "/chat?x=1" => {
            let accept = accept(&visit.head);
            visit.say(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
            ))?;
            visit.echo()
        }
        _ => visit.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    });
    let config = format!("{}\n[limits]\nidle = \"700ms\"\n", app(&[origin.address], "", ""));
    let gate = gate("h2-websocket", &config);
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let (response, mut send) = client.send_request(extended_connect("websocket"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for gone in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        let mut body = response.into_body();
        let mut echo = async |bytes: &'static [u8]| {
            send.send_data(Bytes::from_static(bytes), false).unwrap();
            let mut back = Vec::new();
            while back.len() < bytes.len() {
                let data = body.data().await.expect("it goes on").unwrap();
                let _ = body.flow_control().release_capacity(data.len());
                back.extend_from_slice(&data);
            }
            assert_eq!(back, bytes);
        };
        echo(TEXT).await;
        // A tunnel is no idleness, and other streams go on beside it.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let request = http::Request::get("http://a/other").body(()).unwrap();
        assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 200);
        echo(b"again").await;
        send.send_data(Bytes::new(), true).unwrap();
        assert!(h2_read(&mut body).await.0.is_empty(), "the end comes back");
    });
    let asked = origin.recorded()[0].head.to_ascii_lowercase();
    assert!(asked.starts_with("get /chat?x=1 http/1.1\r\n"), "{asked}");
    for field in [
        "\r\nhost: a\r\n",
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-version: 13\r\n",
    ] {
        assert!(asked.contains(field), "{field:?}: {asked}");
    }
}

#[test]
fn a_websocket_over_http2_goes_through_tls() {
    let origin = Origin::scripted(|visit| {
        let accept = accept(&visit.head);
        visit.say(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ))?;
        visit.echo()
    });
    let folder = Gate::folder("wss");
    let (cert, key) = (folder.join("c.pem"), folder.join("k.pem"));
    let _ = certificate(&["a"], &cert, &key);
    let tls = format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
    let config = format!("{}\n{tls}", app(&[origin.address], "", ""));
    let gate = Gate::start_listening(BINARY, "wss", "https = [\"127.0.0.1:0\"]", &config);
    block_on(async {
        let mut client = tls_connect_h2(gate.address, "a").await;
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let (response, mut send) = client.send_request(extended_connect("websocket"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        send.send_data(Bytes::from_static(TEXT), true).unwrap();
        assert_eq!(h2_read(&mut response.into_body()).await.0, TEXT);
    });
    assert!(origin.recorded()[0].head.to_ascii_lowercase().contains("\r\nx-forwarded-proto: https\r\n"));
}

#[test]
fn http2_is_not_what_one_upgrades_to() {
    let origin = Origin::start(|_| Reply::Status(200, "here".to_owned()));
    let gate = gate("h2c", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
            .unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    }
    for recorded in origin.recorded() {
        let head = recorded.head.to_ascii_lowercase();
        assert!(
            !head.contains("upgrade") && !head.contains("http2-settings") && !head.contains("\r\nconnection"),
            "{head}"
        );
    }
}

#[test]
fn a_websocket_over_http2_that_comes_to_nothing_is_told_so() {
    let origin = Origin::scripted(|visit| {
        match visit.field("x-case").as_deref() {
        Some("no") => visit.say("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"),
        Some("ok") => visit.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        _ => visit.say(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )),
    }
    });
    let gate = gate("h2-websocket-no", &app(&[origin.address], "", ""));
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        for (protocol, case, status) in [
            ("websocket", "no", 403),
            ("websocket", "ok", 502),
            ("websocket", "wrong accept", 502),
            ("connect-udp", "no", 501),
        ] {
            let mut request = extended_connect(protocol);
            request.headers_mut().insert("x-case", case.parse().unwrap());
            let (response, _send) = client.send_request(request, false).unwrap();
            assert_eq!(response.await.unwrap().status(), status, "{protocol} {case}");
        }
    });
    assert_eq!(origin.recorded().len(), 3);
}

#[test]
fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let origin = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    });
    let gate = gate("unasked", &app(&[origin.address], "", ""));
    let mut stream = sent(gate.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(read_answer(&mut stream).status, 502);
}

#[test]
fn an_upgraded_connection_outlives_a_reload() {
    let origin = Origin::start(|_| Reply::Echo);
    let config = app(&[origin.address], "", "");
    let gate = gate("upgrade", &config);
    let mut stream = connect(gate.address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 101);
    let mut echo = |text: &[u8]| {
        stream.write_all(text).unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, text);
    };
    echo(b"before");
    gate.rewrite(&format!("{config}\n[plan.other]\nrate = \"1/s\"\n"));
    gate.reload();
    echo(b"after");
}

#[test]
fn a_tunnel_goes_on_while_the_process_stops_and_is_cut_when_that_takes_too_long() {
    let origin = Origin::start(|_| Reply::Echo);
    for (name, drain, leaves) in [("tunnel-drain", "30s", true), ("tunnel-cut", "300ms", false)] {
        let config = format!("{}\n[drain]\ntime = \"{drain}\"\n", app(&[origin.address], "", ""));
        let mut gate = gate(name, &config);
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        let mut stream = sent(gate.address, upgrade);
        assert_eq!(read_answer(&mut stream).status, 101);
        gate.signal("-TERM");
        until("it listens no more", || std::net::TcpStream::connect(gate.address).is_err());
        if leaves {
            stream.write_all(b"still here").unwrap();
            read_until(&mut stream, "still here");
            drop(stream);
        } else {
            // Cut by a FIN or by a reset.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert_eq!(gate.wait(), Some(0));
    }
}

/// An application server that speaks HTTP/2 alone, takes WebSockets over it, and gives back what it is sent.
fn h2_echo() -> H2Origin {
    H2Origin::with_websockets(async |mut call: H2Call| {
        let path = call.head.uri.path().to_owned();
        let status = if path == "/declined" { 403 } else { 200 };
        let response = http::Response::builder().status(status).header("sec-websocket-protocol", "chat");
        let declined = status != 200;
        let Ok(mut send) = call.respond.send_response(response.body(()).unwrap(), declined) else { return };
        while let Some(Ok(data)) = call.body.data().await {
            let _ = call.body.flow_control().release_capacity(data.len());
            if send.send_data(data, false).is_err() {
                return;
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    })
}

fn asking(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

#[test]
fn a_websocket_reaches_an_upstream_that_speaks_http2_alone() {
    let origin = h2_echo();
    let gate = gate("websocket-to-h2", &app(&[origin.address], "protocol = \"h2\"", ""));
    let mut stream = sent(gate.address, asking("/chat?x=1"));
    let head = read_until(&mut stream, "\r\n\r\n").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for field in
        ["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", "\r\nsec-websocket-protocol: chat\r\n"]
    {
        assert!(head.contains(field), "{field:?}: {head}");
    }
    assert!(head.contains(&format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase())), "{head}");
    for _ in 0..2 {
        stream.write_all(TEXT).unwrap();
        let mut back = [0; TEXT.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, TEXT);
    }
    let asked = origin.recorded()[0].to_ascii_lowercase();
    for told in ["method: connect", "http://a/chat?x=1", "websocket", "\"sec-websocket-version\": \"13\""] {
        assert!(asked.contains(told), "{told}: {asked}");
    }
    assert!(!asked.contains("sec-websocket-key") && !asked.contains("\"upgrade\""), "{asked}");
    // The client's end is passed on; the upstream's answer to it comes back.
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_rest(&mut stream), "");
    // One that is declined is an ordinary answer.
    assert_eq!(read_answer(&mut sent(gate.address, asking("/declined"))).status, 403);
}

#[test]
fn a_websocket_goes_over_http2_from_end_to_end() {
    let origin = h2_echo();
    let gate = gate("h2-to-h2", &app(&[origin.address], "protocol = \"h2\"", ""));
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let (response, mut send) = client.send_request(extended_connect("websocket"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        send.send_data(Bytes::from_static(TEXT), true).unwrap();
        assert_eq!(h2_read(&mut response.into_body()).await.0, TEXT);
    });
}

#[test]
fn a_websocket_that_http2_does_not_carry_goes_over_http1_or_is_refused_as_such() {
    let origin = H2Origin::start(async |mut call: H2Call| {
        drop(call.respond.send_response(http::Response::new(()), true));
    });
    let alone = gate("websocket-h2-alone", &app(&[origin.address], "protocol = \"h2\"", ""));
    let refused = read_answer(&mut sent(alone.address, asking("/")));
    assert_eq!(
        (refused.status, refused.body.contains("upstream.websocket")),
        (502, true),
        "{}",
        refused.body
    );
    assert!(origin.recorded().is_empty(), "nothing was sent");

    let folder = Gate::folder("websocket-auto-certs");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let _ = certificate(&["app.test"], &cert, &key);
    let origin = TlsOrigin::start(&cert, &key, &["h2", "http/1.1"]);
    let tls = format!("tls = {{ server_name = \"app.test\", ca = \"{}\" }}", cert.display());
    let config = app(&[origin.address], &format!("protocol = \"auto\"\n{tls}"), "");
    let gate = gate("websocket-auto", &format!("{config}\n").replace("workers = 2", "workers = 1"));
    for expected in ["h2", "http/1.1", "h2"] {
        let request = match expected {
            "h2" => "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            _ => asking("/"),
        };
        let answer = read_answer(&mut sent(gate.address, request));
        assert_eq!((answer.status, answer.body.as_str()), (200, expected));
    }
    std::fs::remove_dir_all(folder).unwrap();
}
