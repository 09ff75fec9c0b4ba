//! Servers are started and asked over bare sockets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use super::*;

/// How long anything may take. Reached only by a defect.
const PATIENCE: Duration = Duration::from_secs(10);

fn app(behaviour: Behaviour) -> App {
    App::start(1, behaviour).unwrap()
}

fn quick() -> Behaviour {
    Behaviour { service: Service::Constant(Duration::from_millis(1)), ..Behaviour::default() }
}

/// Works until it is changed.
fn endless(slots: usize) -> Behaviour {
    Behaviour { slots, service: Service::Constant(Duration::from_secs(60)), ..Behaviour::default() }
}

fn ask(app: &App, fields: &str) -> TcpStream {
    try_ask(app, fields).unwrap()
}

fn try_ask(app: &App, fields: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(app.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: app\r\n{fields}\r\n")?;
    Ok(stream)
}

/// Whether a server that may be away answers.
fn answers(app: &App) -> bool {
    try_ask(app, "").is_ok_and(|mut stream| status(&mut stream) == Some(200))
}

/// The status of the next answer; `None`: the connection has ended.
fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer"),
            _ => return None,
        }
    }
    let text = String::from_utf8(text).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    Some(text[9..12].parse().unwrap())
}

fn until(app: &App, what: &str, is_so: impl Fn(&Counts) -> bool) -> Counts {
    let end = clock::now().after(PATIENCE);
    loop {
        let counts = app.counts();
        if is_so(&counts) {
            return counts;
        }
        assert!(clock::now() < end, "{what}: {counts:?}");
        std::thread::yield_now();
    }
}

#[test]
fn answers_on_one_connection_and_knows_repeats_and_tenants() {
    let app = app(quick());
    let mut stream = ask(&app, "Drill-Request: 5\r\nTidegate-Tenant: acme\r\n");
    assert_eq!(status(&mut stream), Some(200));
    write!(stream, "POST / HTTP/1.1\r\nDrill-Request: 5\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    write!(stream, "3\r\nabc\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!([status(&mut stream), status(&mut stream), status(&mut stream)], [Some(200), Some(200), None]);
    let counts = app.counts();
    assert_eq!((counts.accepted, counts.requests, counts.repeats, counts.served), (1, 2, 1, 2));
    assert_eq!((counts.checked, counts.by_tenant["acme"]), (1, 1));
}

#[test]
fn who_finds_no_slot_waits_in_line_and_beyond_its_bound_is_turned_away() {
    let app = app(Behaviour { waiting_max: 1, ..endless(1) });
    let mut first = ask(&app, "");
    until(&app, "one works", |counts| counts.busy == 1);
    let mut second = ask(&app, "");
    until(&app, "one waits", |counts| counts.waiting == 1);
    assert_eq!(status(&mut ask(&app, "")), Some(503));
    app.change(|behaviour| behaviour.slots = 2);
    until(&app, "both work", |counts| counts.busy == 2 && counts.waiting == 0);
    app.crash();
    assert_eq!([status(&mut first), status(&mut second)], [None, None]);
    let counts = until(&app, "all is let go", |counts| counts.busy == 0 && counts.open == 0);
    assert_eq!((counts.turned_away, counts.waiting_most, counts.served), (1, 1, 0));
}

#[test]
fn works_on_for_a_client_that_has_left_and_says_so() {
    let app = app(quick());
    app.hang();
    let left = ask(&app, "");
    until(&app, "it has come", |counts| counts.requests == 1);
    drop(left);
    app.resume();
    let counts = until(&app, "the work is done", |counts| counts.wasted == 1);
    assert_eq!((counts.served, counts.wasted_time), (0, counts.worked_time));
}

#[test]
fn a_server_that_died_refuses_and_is_back_at_its_port() {
    let app = app(quick());
    assert_eq!(status(&mut ask(&app, "")), Some(200));
    app.crash();
    let refused =
        || TcpStream::connect(app.address()).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    until(&app, "the port is closed", |_| refused());
    app.restart();
    until(&app, "the port is open", |_| answers(&app));
    assert_eq!(app.counts().crashes, 1);
}

#[test]
fn a_good_end_finishes_what_is_under_way() {
    let app = app(endless(1));
    let idle = TcpStream::connect(app.address()).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut busy = ask(&app, "");
    until(&app, "one works", |counts| counts.busy == 1);
    let mut waits = ask(&app, "");
    until(&app, "one waits", |counts| counts.waiting == 1);
    app.change(|behaviour| behaviour.service = Service::Constant(Duration::ZERO));
    app.stop();
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    app.change(|behaviour| behaviour.slots = 2);
    assert_eq!([status(&mut waits), status(&mut waits)], [Some(200), None]);
    drop(app);
    assert_eq!(status(&mut busy), None);
}

#[test]
fn a_poisonous_tenant_fells_the_server_and_nobody_else_does() {
    let poison = |harm| Some(Poison { tenant: "toxic".to_owned(), harm });
    let app = app(Behaviour { poison: poison(Harm::Crash(Duration::from_millis(20))), ..quick() });
    assert_eq!(status(&mut ask(&app, "Tidegate-Tenant: acme\r\n")), Some(200));
    assert_eq!(status(&mut ask(&app, "Tidegate-Tenant: toxic\r\n")), None);
    until(&app, "it is back", |_| answers(&app));
    assert_eq!(app.counts().crashes, 1);
    let served = app.counts().served;

    app.change(|behaviour| behaviour.poison = poison(Harm::Hang(PATIENCE)));
    let mut toxic = ask(&app, "Tidegate-Tenant: toxic\r\n");
    until(&app, "it has come", |counts| counts.by_tenant["toxic"] == 2);
    let mut other = ask(&app, "Tidegate-Tenant: acme\r\n");
    until(&app, "it has come", |counts| counts.by_tenant["acme"] == 2);
    assert_eq!(app.counts().served, served);
    app.resume();
    assert_eq!([status(&mut other), status(&mut toxic)], [Some(200), Some(200)]);
}
