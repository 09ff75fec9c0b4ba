//! How connections end whose clients, or whose handlers, do not do what they should.

use super::*;

#[test]
fn empty_lines_keep_no_connection() {
    // It rests after a fiftieth of a second, where it may.
    let change = |settings: &mut ListenerSettings| {
        limits(settings).idle = Duration::from_millis(160);
        limits(settings).header_time = Duration::from_millis(100);
    };
    scene(change, async |scene| {
        for (bytes, answer) in [("\r\n", ""), ("GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n", "\r\n\r\n/")] {
            let mut stream = scene.connect().await;
            stream.write_all(bytes.as_bytes()).await.unwrap();
            tokio::select! {
                told = rest(&mut stream) => assert!(told.ends_with(answer), "{told:?}"),
                () = resting(&scene, 1) => panic!("after {bytes:?} it rests, and its time begins anew"),
            }
        }
    });
}

#[test]
fn a_client_that_sends_on_before_it_hears_of_the_end_is_not_reset() {
    scene(
        |settings| limits(settings).requests = 1,
        async |scene| {
            let mut stream = scene.connect().await;
            let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request).await.unwrap();
            assert!(rest(&mut stream).await.contains("connection: close"));
            for _ in 0..3 {
                stream.write_all(request).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(*scene.fake.seen.borrow(), ["/"]);
        },
    );
}

#[test]
fn who_takes_nothing_of_its_answer_is_reset() {
    scene(
        |settings| limits(settings).body_idle = Duration::from_millis(100),
        async |scene| {
            for version in ["1.0", "1.1"] {
                let mut stream = scene.connect().await;
                let request = format!("GET /large HTTP/{version}\r\nHost: a\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'H');
                until_open(&scene, 0).await;
                let end = stream.read_to_end(&mut Vec::new()).await;
                assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "HTTP/{version}");
            }
        },
    );
}

#[test]
fn a_panic_ends_its_connection_though_somebody_else_reads_the_body() {
    scene(
        |_| {},
        async |scene| {
            let bytes = "POST /panic HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel";
            assert_eq!(scene.exchange(bytes).await, "");
            scene.fake.aside.notified().await;
            assert_eq!(*scene.fake.seen.borrow(), ["/panic", "cut"]);
            until_open(&scene, 0).await;
        },
    );
}

/// Waits until so many connections are open.
async fn until_open(scene: &Scene, connections: usize) {
    while scene.server.census.open() != connections {
        clock::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn draining_ends_a_rest_and_a_client_that_leaves_does() {
    let change = |settings: &mut ListenerSettings| limits(settings).idle = Duration::from_secs(4);
    scene(change, |scene| async move {
        let (mut one, mut other) = (scene.connect().await, scene.connect().await);
        for stream in [&mut one, &mut other] {
            stream.write_all(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            until(stream, "/one").await;
        }
        resting(&scene, 2).await;
        drop(other);
        resting(&scene, 1).await;
        scene.server.drain().await;
        assert_eq!(rest(&mut one).await, "");
        assert_eq!(scene.server.census.open(), 0);
    });
}
