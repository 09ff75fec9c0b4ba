//! Where requests come in: addresses, TLS, the PROXY protocol, the two versions of HTTP, and every limit by its name.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tidegate_testkit::frames::{END_STREAM, Frames, get, kind};
use tidegate_testkit::tls::{certificate, shown, tls_connect, tls_connect_h2, tls_over};
use tidegate_testkit::{
    Gate, Origin, Reply, Visit, ask, block_on, connect, h2_connect, h2_read, read_answer, read_answer_or_end,
    send, until,
};

use crate::upstreams::{Switch, holding};
use crate::{BINARY, app, control, gate};

const PLAIN: &str = "http = [\"127.0.0.1:0\"]";

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

/// A gate before `origin` that holds connections to these limits.
fn limited(name: &str, origin: &Origin, limits: &str) -> Gate {
    gate(name, &format!("{}\n[limits]\n{limits}\n", app(&[origin.address], "", "")))
}

/// The last request's fields of this name, as the upstream saw them.
fn seen(origin: &Origin, name: &str) -> Vec<String> {
    let head = origin.recorded().last().expect("a request arrived").head.to_ascii_lowercase();
    let prefix = format!("{name}: ");
    head.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

/// Reads until the server closes, and tells whether it did without a word.
fn closed_silently(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    rest.is_empty()
}

#[test]
fn several_addresses_of_both_families_are_served() {
    let origin = ok();
    let listen = "http = [\"127.0.0.1:0\", \"[::1]:0\", \"127.0.0.2:0\"]";
    let gate = Gate::start_listening(BINARY, "addresses", listen, &app(&[origin.address], "", ""));
    assert_eq!(gate.listeners.len(), 3);
    for (address, client) in gate.listeners.iter().zip(["127.0.0.1", "::1", "127.0.0.1"]) {
        assert_eq!(ask(*address, "GET /", "").body, "here", "{address}");
        assert_eq!(seen(&origin, "x-forwarded-for"), [client]);
    }
}

#[test]
fn a_proxy_header_tells_the_clients_address_and_anything_else_is_closed() {
    let origin = ok();
    let listen = "http = [{ address = \"127.0.0.1:0\", proxy_protocol = true }]";
    let gate = Gate::start_listening(BINARY, "proxy", listen, &app(&[origin.address], "", ""));
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let v2 = |family: u8, addresses: &[u8]| {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, addresses].concat()
    };
    let mut six = vec![0x20, 1, 0xd, 0xb8];
    six.resize(32, 1);
    six.extend([0, 9, 0, 80]);
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1234 80\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x11, &[192, 0, 2, 8, 192, 0, 2, 1, 4, 0, 0, 80]), "192.0.2.8"),
        (v2(0x21, &six), "2001:db8:101:101:101:101:101:101"),
    ] {
        // Byte by byte, as a balancer may.
        let bytes = [&header[..], request].concat();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        let answer = tidegate_testkit::send_all(gate.address, &pieces);
        assert!(answer.ends_with("here"), "{client}: {answer}");
        assert_eq!(seen(&origin, "x-forwarded-for"), [client]);
    }
    let served = origin.recorded().len();
    for bad in [
        &b""[..],
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1234\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\n",
        b"PROXY TCP4 2001:db8::7 192.0.2.1 1234 80\r\n",
        b"proxy TCP4 192.0.2.7 192.0.2.1 1234 80\r\n",
        &v2(0x11, &[192, 0, 2]),
        &v2(0x31, &[0; 12]),
    ] {
        assert_eq!(send(gate.address, &[bad, request].concat()), "", "{bad:?}");
    }
    assert_eq!(origin.recorded().len(), served);
}

#[test]
fn a_certificate_is_chosen_by_name_and_a_replaced_one_is_served_by_itself() {
    let origin = ok();
    let folder = Gate::folder("tls");
    let file = |name: &str| folder.join(name);
    let make = |name: &str, names: &[&str]| {
        certificate(names, &file(&format!("{name}.pem")), &file(&format!("{name}.key")))
    };
    let (one, two) = (make("one", &["one.test"]), make("two", &["two.test", "*.two.test"]));
    let tls = ["one", "two"].map(|name| {
        format!(
            "[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n",
            file(&format!("{name}.pem")).display(),
            file(&format!("{name}.key")).display()
        )
    });
    let config = format!("{}\n{}", app(&[origin.address], "", ""), tls.concat());
    let gate = Gate::start_listening(BINARY, "tls", "https = [\"127.0.0.1:0\"]", &config);
    let shown_to = |name: &str| shown(&tls_connect(gate.address, name, &["http/1.1"]).expect("a handshake"));
    for (name, expected) in [
        ("one.test", &one),
        ("two.test", &two),
        ("x.two.test", &two),
        ("a.x.two.test", &one),
        ("else.test", &one),
    ] {
        assert_eq!(shown_to(name), *expected, "{name}");
    }
    let mut kept = tls_connect(gate.address, "two.test", &["http/1.1"]).expect("a handshake");
    let renewed = make("two", &["two.test"]);
    until("the new certificate is served", || shown_to("two.test") == renewed);
    assert_eq!(shown_to("one.test"), one);
    // Connections go on.
    kept.write_all(b"GET / HTTP/1.1\r\nHost: two.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = kept.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"), "{answer}");
    assert_eq!(seen(&origin, "x-forwarded-proto"), ["https"]);
}

#[test]
fn a_proxy_header_comes_before_tls() {
    let origin = ok();
    let folder = Gate::folder("proxy-tls");
    let (cert, key) = (folder.join("c.pem"), folder.join("k.pem"));
    let shown_first = certificate(&["a"], &cert, &key);
    let tls = format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
    let config = format!("{}\n{tls}", app(&[origin.address], "", ""));
    let listen = "https = [{ address = \"127.0.0.1:0\", proxy_protocol = true }]";
    let gate = Gate::start_listening(BINARY, "proxy-tls", listen, &config);
    let mut stream = connect(gate.address);
    stream.write_all(b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 443\r\n").unwrap();
    let mut client = tls_over(stream, "a", &["http/1.1"]).expect("a handshake");
    assert_eq!(shown(&client), shown_first);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    assert!(answer.ends_with("here"), "{answer}");
    assert_eq!(seen(&origin, "x-forwarded-for"), ["192.0.2.9"]);
    assert!(tls_connect(gate.address, "a", &[]).is_err(), "without the header there is nobody");
}

#[test]
fn both_versions_of_http_are_offered_over_tls_and_without() {
    let origin = ok();
    let folder = Gate::folder("alpn");
    let (cert, key) = (folder.join("c.pem"), folder.join("k.pem"));
    let _ = certificate(&["a"], &cert, &key);
    let tls = format!("[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display());
    let config = format!("{}\n{tls}", app(&[origin.address], "", ""));
    let listen = "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]";
    let gate = Gate::start_listening(BINARY, "alpn", listen, &config);
    let secure = gate.listeners[1];
    for (offered, chosen) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let client = tls_connect(secure, "a", offered).expect("a handshake");
        assert_eq!(client.conn.alpn_protocol(), chosen);
    }
    assert!(tls_connect(secure, "a", &["spdy/1"]).is_err());
    block_on(async {
        for client in [&mut tls_connect_h2(secure, "a").await, &mut h2_connect(gate.address).await] {
            let request = http::Request::get("http://a/").body(()).unwrap();
            let response = client.send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(h2_read(&mut response.into_body()).await.0, b"here");
        }
    });
    assert_eq!(seen(&origin, "via"), ["2.0 tidegate"]);
}

#[test]
fn connections_over_their_number_are_refused() {
    let origin = ok();
    let gate = limited("connections", &origin, "connections = 1");
    let mut first = connect(gate.address);
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut first).status, 200);
    let mut second = connect(gate.address);
    let refused = read_answer(&mut second);
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("server.connections"), "{}", refused.body);
    drop(first);
    until("the place is free again", || {
        let mut stream = connect(gate.address);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut status = [0; 12];
        stream.read_exact(&mut status).is_ok() && status.ends_with(b"200")
    });
    assert!(gate.metric("tidegate_connections_refused_total").is_some_and(|refused| refused >= 1.0));
}

#[test]
fn an_address_has_no_more_connections_than_it_may() {
    let origin = ok();
    let gate = limited("per-address", &origin, "connections_per_address = 2");
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = connect(gate.address);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            assert_eq!(read_answer(&mut stream).status, 200);
            stream
        })
        .collect();
    let refused = read_answer(&mut connect(gate.address));
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("server.crowded"), "{}", refused.body);
    drop(held);
    until("the places are free again", || {
        let mut stream = connect(gate.address);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut status = [0; 12];
        stream.read_exact(&mut status).is_ok() && status.ends_with(b"200")
    });
}

#[test]
fn whoever_holds_many_connections_keeps_nobody_out() {
    let origin = ok();
    let config = format!("{}\n[limits]\nconnections = 40\n", app(&[origin.address], "", ""));
    let listen = "http = [{ address = \"127.0.0.1:0\", proxy_protocol = true }]";
    let gate = Gate::start_listening(BINARY, "crowd", listen, &config);
    let silent = |_| {
        let mut stream = connect(gate.address);
        stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n").unwrap();
        stream
    };
    let _held: Vec<_> = (0..60).map(silent).collect();
    until("three quarters are held, and no more", || {
        gate.metric("tidegate_connections_refused_total") == Some(30.0)
    });
    let mut others = Vec::new();
    for _ in 0..6 {
        let mut stream = connect(gate.address);
        stream
            .write_all(b"PROXY TCP4 192.0.2.8 192.0.2.1 1234 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
        others.push(stream);
    }
}

#[test]
fn a_process_short_of_descriptors_keeps_those_of_upstreams_and_of_the_control_api() {
    let origin = ok();
    let gate = Gate::start_short(BINARY, "descriptors", 80, &app(&[origin.address], "", ""));
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = connect(gate.address);
    first.write_all(request).unwrap();
    assert_eq!(read_answer(&mut first).status, 200);
    let mut others: Vec<_> = (0..100).map(|_| connect(gate.address)).collect();
    let refused = read_answer(others.last_mut().unwrap());
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(refused.body.contains("server.files"), "{}", refused.body);
    for _ in 0..3 {
        first.write_all(request).unwrap();
        assert_eq!(read_answer(&mut first).status, 200);
        assert!(control(&gate, "/healthz").starts_with("HTTP/1.0 200"));
    }
    assert_eq!(gate.metric("tidegate_open_files_limit"), Some(80.0));
    assert_eq!(gate.metric("tidegate_accept_failures_total"), Some(0.0));
    // A connection that was let in finds a descriptor for its upstream. Which were is between the cores.
    let served = others.iter_mut().any(|one| {
        // One that was refused is closed.
        let _ = one.write_all(request);
        read_answer_or_end(one).starts_with(b"HTTP/1.1 200 ")
    });
    assert!(served);
    drop((first, others));
    until("there is room again", || {
        let mut stream = connect(gate.address);
        let _ = stream.write_all(request);
        read_answer_or_end(&mut stream).starts_with(b"HTTP/1.1 200")
    });
}

#[test]
fn a_tunnel_is_a_connection_too() {
    let origin = Origin::start(|_| Reply::Echo);
    let gate = limited("tunnels", &origin, "connections = 1");
    let mut tunnel = connect(gate.address);
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut tunnel).status, 101);
    tunnel.write_all(b"!").unwrap();
    tunnel.read_exact(&mut [0]).unwrap();
    assert_eq!(read_answer(&mut connect(gate.address)).status, 503);
}

#[test]
fn heads_over_their_number_of_fields_or_bytes_are_refused() {
    let origin = ok();
    let gate = limited("heads", &origin, "header_count = 8\nheader_bytes = \"2KiB\"");
    let many = "X: y\r\n".repeat(8);
    let long = format!("X: {}\r\n", "x".repeat(2048));
    let target = format!("/{}", "x".repeat(2048));
    for (line, fields) in [("GET /", many.as_str()), ("GET /", &long), (&format!("GET {target}"), "")] {
        let answer = ask(gate.address, line, fields);
        assert_eq!(answer.status, 431, "{line} {fields}");
        assert!(answer.body.contains("request.headers-too-large"), "{}", answer.body);
    }
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let long = &long[3..1024];
        for extra in [vec![("x", "y"); 9], vec![("x", long); 2]] {
            let request = extra.iter().fold(http::Request::get("http://a/"), |request, (name, value)| {
                request.header(*name, *value)
            });
            let response = client.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
            assert_eq!(response.status(), 431);
        }
    });
    assert!(origin.recorded().is_empty());
}

#[test]
fn bodies_over_their_bytes_are_refused_announced_or_not() {
    let origin = ok();
    let gate = limited("bodies", &origin, "body_bytes = \"1KiB\"");
    let announced = ask(gate.address, "POST /", "Content-Length: 1025\r\n");
    assert_eq!(announced.status, 413);
    assert!(announced.body.contains("request.body-too-large"), "{}", announced.body);
    assert!(origin.recorded().is_empty());
    let mut stream = connect(gate.address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let _ = stream.write_all(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(0x800)).as_bytes());
    assert_eq!(read_answer(&mut stream).status, 413);
    assert!(origin.recorded().is_empty(), "it never arrived whole");
    let mut fits = connect(gate.address);
    fits.write_all(
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024)).as_bytes(),
    )
    .unwrap();
    assert_eq!(read_answer(&mut fits).status, 200);
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(vec![0; 2048].into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);
    });
}

#[test]
fn a_head_that_drips_is_refused_when_its_whole_time_is_over() {
    let origin = ok();
    let gate = limited("slowloris", &origin, "header_time = \"400ms\"");
    let mut stream = connect(gate.address);
    let mut write = stream.try_clone().unwrap();
    // A byte now and then: no bound per read would ever be met.
    std::thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n".iter().chain(std::iter::repeat(&b'x')) {
            if write.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let answer = read_answer(&mut stream);
    assert_eq!(answer.status, 408);
    assert!(answer.body.contains("request.timeout"), "{}", answer.body);
    // The same on a connection that has been served, on one that sends nothing, and with frames.
    let mut kept = connect(gate.address);
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n").unwrap();
    assert_eq!(read_answer(&mut kept).status, 200);
    assert_eq!(read_answer(&mut kept).status, 408);
    assert_eq!(read_answer(&mut connect(gate.address)).status, 408);
    let mut frames = Frames::connect(gate.address);
    frames.send(kind::HEADERS, 0, 1, &[]).unwrap();
    drop(frames.rest());
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn a_handshake_that_stalls_is_closed() {
    let origin = ok();
    let folder = Gate::folder("handshake");
    let (cert, key) = (folder.join("c.pem"), folder.join("k.pem"));
    let _ = certificate(&["a"], &cert, &key);
    let config = format!(
        "{}\n[limits]\nhandshake_time = \"100ms\"\n[[tls]]\ncert = \"{}\"\nkey = \"{}\"\n",
        app(&[origin.address], "", ""),
        cert.display(),
        key.display()
    );
    let listen = "http = [{ address = \"127.0.0.1:0\", proxy_protocol = true, limits = { handshake_time = \"100ms\" } }]\nhttps = [\"127.0.0.1:0\"]";
    let gate = Gate::start_listening(BINARY, "handshake", listen, &config);
    let mut plain = connect(gate.listeners[0]);
    plain.write_all(b"PROXY TCP4 ").unwrap();
    assert!(closed_silently(&mut plain));
    let mut secure = connect(gate.listeners[1]);
    secure.write_all(&[22, 3, 1, 2, 0]).unwrap();
    assert!(closed_silently(&mut secure));
}

#[test]
fn a_body_that_stalls_or_drips_is_given_up() {
    let origin = ok();
    let gate = limited("stall", &origin, "body_idle = \"100ms\"");
    let mut stream = connect(gate.address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").unwrap();
    assert_eq!(read_answer(&mut stream).status, 408);
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(vec![0; 3].into(), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 408);
    });
    let gate = limited("drip", &origin, "body_rate_min = \"1KiB\"\nbody_grace = \"100ms\"");
    let mut stream = connect(gate.address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n").unwrap();
    let mut write = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while write.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(read_answer(&mut stream).status, 408);
    assert!(origin.recorded().is_empty());
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let origin = Origin::scripted(|visit: &mut Visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        while visit.say([0; 65536]).is_some() {}
        visit.until_left()
    });
    let gate = limited("unread", &origin, "body_idle = \"150ms\"");
    let mut stream = connect(gate.address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the upstream's call is cancelled", || origin.left() == 1);
}

#[test]
fn an_idle_connection_is_closed_and_one_in_use_is_not() {
    let (_origin, gate) = idling("idle");
    let mut stream = connect(gate.address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 200, "an exchange under way is no idleness");
    assert!(closed_silently(&mut stream));
}

/// An origin that takes its time, and a gate before it whose connections may not be idle for so long.
fn idling(name: &str) -> (Origin, Gate) {
    let origin = Origin::start(|_| Reply::After(Duration::from_millis(800)));
    let gate = limited(name, &origin, "idle = \"500ms\"");
    (origin, gate)
}

#[test]
fn an_idle_connection_of_frames_is_closed_with_a_word_and_one_in_use_is_not() {
    let (_origin, gate) = idling("idle-h2");
    let mut frames = Frames::connect(gate.address);
    frames.request(1, true, &get("/")).unwrap();
    assert!(frames.whole(1).iter().all(|frame| frame.kind != kind::RST_STREAM));
    assert!(frames.rest().iter().any(|frame| frame.code() == Some(0)), "GOAWAY says that nothing was wrong");
}

#[test]
fn the_last_request_of_a_connection_is_told_so() {
    let origin = ok();
    let gate = limited("requests", &origin, "requests = 2");
    let mut stream = connect(gate.address);
    for (number, connection) in [(1, ""), (2, "close")] {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = read_answer(&mut stream);
        assert_eq!((answer.status, answer.header("connection")), (200, connection), "{number}");
    }
    assert!(closed_silently(&mut stream));
    let mut frames = Frames::connect(gate.address);
    for stream in [1, 3] {
        frames.request(stream, true, &get("/")).unwrap();
    }
    let said = frames.rest();
    for stream in [1, 3] {
        let ended = said.iter().find(|frame| frame.stream == stream && frame.flags & END_STREAM != 0);
        assert_eq!(ended.map(|frame| frame.kind), Some(kind::DATA), "{said:?}");
    }
    assert!(said.iter().any(|frame| frame.kind == kind::GOAWAY && frame.code() == Some(0)), "{said:?}");
}

#[test]
fn streams_over_their_number_are_refused_and_the_others_go_on() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let gate = limited("streams", &origin, "h2_streams = 2");
    let mut frames = Frames::connect(gate.address);
    for stream in [1, 3, 5] {
        frames.request(stream, true, &get("/held")).unwrap();
    }
    let ended = frames.until(|frame| frame.kind == kind::RST_STREAM).expect("one is refused");
    assert_eq!((ended.stream, ended.code()), (5, Some(7)), "REFUSED_STREAM");
    released.set(true);
    assert_eq!(frames.whole(3).last().map(|frame| frame.kind), Some(kind::DATA));
    until("the first came as well", || origin.recorded().len() == 2);
}

#[test]
fn a_tunnel_in_which_nobody_speaks_is_closed() {
    let origin = Origin::start(|_| Reply::Echo);
    let gate = limited("quiet", &origin, "tunnel_idle = \"100ms\"");
    let mut stream = connect(gate.address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 101);
    assert!(closed_silently(&mut stream));
}

#[test]
fn a_listener_that_is_taken_away_lets_its_connections_go_on() {
    let origin = ok();
    let listen = "http = [\"127.0.0.1:0\", \"127.0.0.2:0\"]";
    let gate = Gate::start_listening(BINARY, "relisten", listen, &app(&[origin.address], "", ""));
    let (stays, goes) = (gate.listeners[0], gate.listeners[1]);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept = connect(goes);
    kept.write_all(request).unwrap();
    assert_eq!(read_answer(&mut kept).status, 200);
    let text = std::fs::read_to_string(&gate.file).unwrap();
    std::fs::write(&gate.file, text.replace(", \"127.0.0.2:0\"", "")).unwrap();
    gate.reload();
    until("nobody listens there", || TcpStream::connect(goes).is_err());
    kept.write_all(request).unwrap();
    assert_eq!(read_answer(&mut kept).status, 200);
    assert_eq!(ask(stays, "GET /", "").status, 200);
}

#[test]
fn a_reload_holds_the_next_connections_of_the_same_listener_to_other_limits() {
    let origin = ok();
    let config = app(&[origin.address], "", "");
    let gate = Gate::start_listening(BINARY, "relimit", PLAIN, &config);
    let mut before = connect(gate.address);
    before.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut before).status, 200);
    gate.rewrite(&format!("{config}\n[limits]\nheader_count = 1\n"));
    gate.reload();
    assert_eq!(ask(gate.address, "GET /", "X: y\r\n").status, 431);
    before.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut before).status, 200, "it keeps what it began with");
}
