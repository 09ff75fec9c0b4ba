use std::io::{Read as _, Write as _};

use tidegate_testkit::{Origin, Reply, connect, read_answer};

use crate::{app, gate};

#[test]
fn a_large_body_passes_through_little_memory() {
    const MIB: u64 = 1 << 20;
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let gate = gate("large", &app(&[origin.address], "", "deadline = \"120s\""));
    assert_eq!(tidegate_testkit::ask(gate.address, "GET /", "").status, 200);
    let before = gate.memory();
    let mut stream = connect(gate.address);
    write!(stream, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1024 * MIB).unwrap();
    let block = vec![0; MIB as usize];
    let mut most = 0;
    for _ in 0..1024 {
        stream.write_all(&block).unwrap();
        most = most.max(gate.memory());
    }
    assert_eq!(read_answer(&mut stream).status, 200);
    assert_eq!(origin.recorded()[1].length, 1024 * MIB);
    assert!(most.saturating_sub(before) < 64 * MIB, "{} MiB more", (most - before) / MIB);
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
    gate.signal("-HUP");
    crate::running::until_reloads(&gate, 1);
    echo(b"after");
}
