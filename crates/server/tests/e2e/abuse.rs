//! HTTP/2 frames that no honest client sends: what is malformed goes no further, and floods cost neither memory nor
//! upstreams.

use std::io::Write as _;
use std::time::Duration;

use tidegate_testkit::frames::{self, END_HEADERS, END_STREAM, Frame, Frames, get, kind};
use tidegate_testkit::{Gate, Origin, Reply, ask, until};

use crate::deferred::Data;
use crate::{app, gate};

const MIB: u64 = 1 << 20;

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

fn limited(name: &str, origin: &Origin, limits: &str) -> Gate {
    gate(name, &format!("{}\n[limits]\n{limits}\n", app(&[origin.address], "", "deadline = \"60s\"")))
}

/// What became of a request in frames.
fn outcome(frames: &mut Frames, stream: u32) -> Vec<Frame> {
    let mut seen = Vec::new();
    while let Some(frame) = frames.read() {
        let of_stream = frame.stream == stream && frame.kind != kind::WINDOW_UPDATE;
        let last = frame.kind == kind::GOAWAY
            || (of_stream && (frame.kind == kind::RST_STREAM || frame.flags & END_STREAM != 0));
        if of_stream || frame.kind == kind::GOAWAY {
            seen.push(frame);
        }
        if last {
            break;
        }
    }
    seen
}

#[test]
fn no_malformed_request_in_frames_passes() {
    let origin = ok();
    let gate = gate("h2-malformed", &app(&[origin.address], "", ""));
    let with = |field: (&'static str, &'static str)| [get("/"), vec![field]].concat();
    let instead = |name: &str, value: &'static str| {
        get("/")
            .into_iter()
            .map(|(field, old)| (field, if field == name { value } else { old }))
            .collect::<Vec<_>>()
    };
    let without = |name: &str| get("/").into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let vectors = [
        with(("connection", "close")),
        with(("connection", "x-hop")),
        with(("keep-alive", "timeout=5")),
        with(("proxy-connection", "close")),
        with(("transfer-encoding", "chunked")),
        with(("upgrade", "h2c")),
        with(("te", "gzip")),
        with(("X-Upper", "1")),
        with(("x y", "1")),
        with(("x:y", "1")),
        with(("x\r\ny", "1")),
        with(("", "1")),
        with(("x", "a\r\nhost: b")),
        with(("x", "a\0b")),
        with(("x", "a\nb")),
        with((":path", "/second")),
        with((":authority", "b")),
        with((":method", "POST")),
        with((":unknown", "1")),
        with((":status", "200")),
        with(("host", "b")),
        with(("host", "a, b")),
        with(("content-length", "5")),
        with(("content-length", "+0")),
        with(("content-length", "0, 0")),
        [with(("host", "a")), vec![("host", "a")]].concat(),
        [with(("content-length", "0")), vec![("content-length", "0")]].concat(),
        without(":method"),
        without(":path"),
        without(":scheme"),
        without(":authority"),
        instead(":path", ""),
        instead(":path", "x"),
        instead(":path", "*"),
        instead(":path", "http://b/"),
        instead(":path", "//b@c/\\..\\"),
        instead(":path", "/ HTTP/1.1\r\nX: y\r\n\r\nGET /smuggled"),
        instead(":path", "/a b"),
        instead(":path", "/\0"),
        instead(":method", "G T"),
        instead(":method", "GET / HTTP/1.1\r\n\r\n"),
        instead(":method", "CONNECT"),
        instead(":authority", "a/b"),
        instead(":authority", "x@a"),
        instead(":authority", "a:b"),
        instead(":authority", "a b"),
        instead(":scheme", "ht tp"),
    ];
    for fields in vectors {
        let mut frames = Frames::connect(gate.address);
        frames.request(1, true, &fields).unwrap();
        let seen = outcome(&mut frames, 1);
        let refused = seen.iter().any(|frame| {
            let said = String::from_utf8_lossy(&frame.payload);
            frame.code().is_some_and(|code| code != 0)
                || (frame.kind == kind::DATA && said.contains("\"request."))
        });
        assert!(refused, "{fields:?}: {seen:?}");
        assert!(origin.recorded().is_empty(), "{fields:?}: {:?}", origin.recorded());
    }
}

#[test]
fn a_body_in_frames_that_is_not_as_long_as_announced_never_arrives_whole() {
    let origin = ok();
    let gate = gate("h2-length", &app(&[origin.address], "", ""));
    for body in [&b"abc"[..], b"abcdefgh"] {
        let mut frames = Frames::connect(gate.address);
        let mut fields = get("/");
        fields[0].1 = "POST";
        fields.push(("content-length", "5"));
        frames.request(1, false, &fields).unwrap();
        let _ = frames.send(kind::DATA, END_STREAM, 1, body);
        let seen = outcome(&mut frames, 1);
        assert!(seen.iter().any(|frame| frame.code().is_some_and(|code| code != 0)), "{seen:?}");
    }
    assert!(origin.recorded().is_empty());
}

/// What a client says behind the last of the bytes that it has announced.
const ENDINGS: [(&str, u8, &[u8]); 3] = [
    ("longer", kind::DATA, b" and more"),
    ("called-off", kind::RST_STREAM, &[0, 0, 0, 8]),
    ("reset-without-error", kind::RST_STREAM, &[0, 0, 0, 0]),
];

#[test]
fn a_body_in_frames_that_has_not_ended_has_no_effect() {
    let (data, origin) = (Data::new("not-ended"), ok());
    let config = format!(
        "workers = 1\n[store]\nurl = \"sqlite:{}\"\n[tenants]\nfrom = [{{ address = \"client\" }}]\n[defaults.route]\ndeadline = \"20s\"\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[queue.jobs]\nupstream = \"app\"\n\
         [[route]]\nname = \"later\"\npath = \"/later\"\nupstream = \"app\"\ndefer = \"always\"\nqueue = \"jobs\"\n\
         [[route]]\nname = \"keyed\"\npath = \"/keyed\"\nupstream = \"app\"\nidempotency = {{}}\n",
        data.0.display(),
        origin.address
    );
    let (gate, mut arrived) = (gate("h2-not-ended", &config), 0);
    for path in ["/later", "/keyed"] {
        let mut frames = Frames::connect(gate.address);
        let post = |key| {
            let mut fields = get(path);
            fields[0].1 = "POST";
            fields.extend([("content-length", "5"), ("idempotency-key", key)]);
            fields
        };
        for (stream, (how, kind, payload)) in (1..).step_by(4).zip(ENDINGS) {
            frames.request(stream, false, &post("has-not-ended")).unwrap();
            frames.send(kind::DATA, 0, stream, b"hello").unwrap();
            // Whatever is made of it is made before this.
            frames.request(stream + 2, false, &post(how)).unwrap();
            frames.send(kind::DATA, END_STREAM, stream + 2, b"whole").unwrap();
            let answered = frames.until(|frame| frame.stream > 0 && frame.flags & END_STREAM != 0).unwrap();
            assert_eq!(answered.stream, stream + 2, "{path}, {how}: {answered:?}");
            frames.send(kind, 0, stream, payload).unwrap();
            if kind == kind::DATA {
                let seen = outcome(&mut frames, stream);
                assert!(
                    seen.iter().all(|frame| frame.code().is_some_and(|code| code != 0)),
                    "{path}: {seen:?}"
                );
            }
        }
        arrived += ENDINGS.len();
        until("what had ended has arrived", || origin.recorded().len() >= arrived);
    }
    drop(gate);
    assert_eq!(origin.recorded().len(), arrived, "{:?}", origin.recorded());
}

#[test]
fn frames_that_break_the_protocol_end_the_connection() {
    let origin = ok();
    let gate = gate("h2-broken", &app(&[origin.address], "", ""));
    let head = frames::block(&get("/"));
    let priority = [&[0, 0, 0, 1, 16][..], &head].concat();
    for (kind, flags, stream, payload) in [
        (kind::DATA, 0, 1, &b"x"[..]),
        (kind::DATA, 0, 0, b"x"),
        (kind::HEADERS, END_HEADERS, 0, &head),
        (kind::HEADERS, END_HEADERS, 2, &head),
        (kind::HEADERS, END_HEADERS | 0x20, 1, &priority),
        (kind::HEADERS, END_HEADERS, 1, &[0x80]),
        (kind::CONTINUATION, END_HEADERS, 1, &head),
        (kind::RST_STREAM, 0, 1, &[0; 4]),
        (kind::SETTINGS, 0, 1, &[]),
        (kind::SETTINGS, 0, 0, &[0; 5]),
        (kind::SETTINGS, 0, 0, &[0, 4, 255, 255, 255, 255]),
        (kind::PING, 0, 0, &[0; 7]),
        (kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        (kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
        (5, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
        (kind::DATA, 0, 1, &[0; 16385]),
    ] {
        let mut frames = Frames::connect(gate.address);
        let _ = frames.send(kind, flags, stream, payload);
        let seen = frames.until(|frame| frame.code().is_some_and(|code| code != 0));
        assert!(seen.is_some(), "{kind} {flags} {stream} {payload:?}");
    }
    assert!(origin.recorded().is_empty());
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
}

/// Sends until the server has had enough or `most` times, and tells what it said then.
fn until_enough(
    frames: &mut Frames,
    most: u32,
    mut send: impl FnMut(&mut Frames, u32) -> std::io::Result<()>,
) -> Vec<Frame> {
    frames.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    for number in 0..most {
        if send(frames, number).is_err() {
            break;
        }
    }
    // After this the server need not wait for more.
    let _ = frames.stream.shutdown(std::net::Shutdown::Write);
    frames.rest()
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[test]
fn whoever_resets_requests_one_after_another_is_told_to_calm_down() {
    let origin = Origin::start(|_| Reply::Never);
    let gate = limited("rapid-reset", &origin, "h2_resets = 50");
    let mut frames = Frames::connect(gate.address);
    let head = frames::block(&get("/"));
    let seen = until_enough(&mut frames, 20_000, |frames, number| {
        let stream = number * 2 + 1;
        let both = [
            frames::encode(kind::HEADERS, END_HEADERS | END_STREAM, stream, &head),
            frames::encode(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ];
        frames.stream.write_all(&both.concat())
    });
    assert!(seen.iter().any(|frame| frame.code() == Some(ENHANCE_YOUR_CALM)), "{seen:?}");
    assert!(origin.recorded().len() <= 150, "{}", origin.recorded().len());
    until("nothing of it is under way", || origin.left() == origin.recorded().len());
}

#[test]
fn whoever_resets_requests_that_the_upstream_works_on_is_told_to_calm_down() {
    let origin = Origin::start(|_| Reply::Never);
    let gate = limited("slow-reset", &origin, "h2_resets = 20");
    let mut frames = Frames::connect(gate.address);
    let seen = until_enough(&mut frames, 100, |frames, number| {
        let (stream, before) = (number * 2 + 1, origin.recorded().len());
        frames.request(stream, true, &get("/"))?;
        // Slow enough to pass for a client that changes its mind.
        let mut waited = 0;
        while origin.recorded().len() == before && waited < 100 {
            std::thread::sleep(Duration::from_millis(2));
            waited += 1;
        }
        frames.send(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
    });
    assert!(seen.iter().any(|frame| frame.code() == Some(ENHANCE_YOUR_CALM)), "{seen:?}");
    assert!((1..=30).contains(&origin.recorded().len()), "{}", origin.recorded().len());
    until("nothing of it is under way", || origin.left() == origin.recorded().len());
}

#[test]
fn whoever_makes_the_server_reset_requests_is_told_to_calm_down() {
    let origin = Origin::start(|_| Reply::Never);
    let gate = limited("made-reset", &origin, "h2_resets = 50\nh2_resets_local = 50");
    let mut frames = Frames::connect(gate.address);
    let head = frames::block(&get("/"));
    let seen = until_enough(&mut frames, 5000, |frames, number| {
        let stream = number * 2 + 1;
        // A window that is too large is an error of the stream (RFC 9113 section 6.9.1; CVE-2025-8671).
        let both = [
            frames::encode(kind::HEADERS, END_HEADERS | END_STREAM, stream, &head),
            frames::encode(kind::WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255]),
        ];
        frames.stream.write_all(&both.concat())
    });
    assert!(
        seen.iter().any(|frame| frame.code().is_some_and(|code| code != 0) && frame.kind == kind::GOAWAY),
        "{seen:?}"
    );
    assert!(origin.recorded().len() <= 150, "{}", origin.recorded().len());
    until("nothing of it is under way", || origin.left() == origin.recorded().len());
}

#[test]
fn a_head_in_endless_continuations_is_cut_off() {
    let origin = ok();
    let gate = gate("continuation", &app(&[origin.address], "", ""));
    let before = gate.memory();
    let mut frames = Frames::connect(gate.address);
    frames.send(kind::HEADERS, END_STREAM, 1, &frames::block(&get("/"))).unwrap();
    let field = frames::block(&[("x", "y")]);
    let mut sent = 0;
    let seen = until_enough(&mut frames, 100_000, |frames, _| {
        sent += 1;
        frames.send(kind::CONTINUATION, 0, 1, &field)
    });
    assert!(seen.iter().any(|frame| frame.code().is_some_and(|code| code != 0)), "{seen:?}");
    assert!(origin.recorded().is_empty());
    assert!(gate.memory().saturating_sub(before) < 8 * MIB);
}

#[test]
fn a_small_head_that_unpacks_to_a_large_one_costs_no_memory() {
    let origin = ok();
    let gate = gate("hpack-bomb", &app(&[origin.address], "", ""));
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    let before = gate.memory();
    let mut frames = Frames::connect(gate.address);
    // A field of 4000 bytes goes into the dynamic table (0x40); each further byte names it again (0xbe): 60 MB a head.
    let long = "x".repeat(4000);
    let mut bomb = frames::block(&get("/"));
    let entry = frames::block(&[("x-bomb", &long)]);
    bomb.push(0x40);
    bomb.extend_from_slice(&entry[1..]);
    bomb.resize(16_000, 0xbe);
    for number in 0..50 {
        if frames.send(kind::HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &bomb).is_err() {
            break;
        }
    }
    let first = frames.until(|frame| frame.stream == 1 || frame.kind == kind::GOAWAY);
    assert!(first.is_some(), "it is answered or told to go away");
    assert_eq!(origin.recorded().len(), 1);
    let more = gate.memory().saturating_sub(before);
    assert!(more < 16 * MIB, "{} MiB more", more / MIB);
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
}

#[test]
fn floods_of_frames_that_ask_for_an_answer_cost_no_memory() {
    let origin = ok();
    let gate = limited("floods", &origin, "body_idle = \"300ms\"");
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    let before = gate.memory();
    for (kind, payload) in [(kind::PING, &[0; 8][..]), (kind::SETTINGS, &[0, 3, 0, 0, 0, 9])] {
        let mut frames = Frames::connect(gate.address);
        frames.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let flood = frames::encode(kind, 0, 0, payload).repeat(1000);
        // Nothing is read: the server can keep no more answers than the sockets take.
        for _ in 0..300 {
            if frames.stream.write_all(&flood).is_err() {
                break;
            }
        }
        let more = gate.memory().saturating_sub(before);
        assert!(more < 16 * MIB, "{} MiB more", more / MIB);
    }
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
}

#[test]
fn a_client_that_opens_no_window_does_not_hold_the_upstream() {
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
        while visit.say([0; 65536]).is_some() {}
        visit.until_left()
    });
    let gate = limited("no-window", &origin, "body_idle = \"200ms\"");
    // SETTINGS_INITIAL_WINDOW_SIZE 0; pings are answered all the while.
    let mut frames = Frames::connect_with(gate.address, &[(4, 0)]);
    frames.request(1, true, &get("/")).unwrap();
    let reset = frames.until(|frame| frame.kind == kind::RST_STREAM || frame.kind == kind::GOAWAY);
    assert_eq!(reset.map(|frame| frame.stream), Some(1), "the stream alone");
    until("the upstream's call is cancelled", || origin.left() == 1);
}
