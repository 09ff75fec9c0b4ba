//! The origin of the cache's benchmark: it counts what it is asked, for "exactly one" is a count.
//!
//! It is in this process, a thread for each connection. What it answers is in the path: `/b1024/17` is 1024 bytes that
//! may be kept for an hour, `/b1024/slow/17` the same after a while. It answers each request with a body, also one that
//! asks whether something has changed: the benchmark's caches hold what is fresh, and ask nothing again.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a slow answer takes: long enough that a thousand requests come meanwhile, and shorter than the half second
/// after which nginx looks again whether what it waits for has come.
pub const SLOW: Duration = Duration::from_millis(300);
/// No object is larger.
pub const OBJECT_BYTES_MAX: usize = 128 << 10;
/// Lines of a request's head that are read.
const LINES_MAX: usize = 100;

/// A running origin. It ends with the process.
pub struct Origin {
    pub address: SocketAddr,
    asked: Arc<AtomicU64>,
}

impl Origin {
    pub fn start() -> Result<Origin, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = Arc::clone(&counted);
                std::thread::spawn(move || serve(stream, &asked));
            }
        });
        Ok(Origin { address, asked })
    }

    /// Requests that it was asked so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }
}

/// Serves a connection to its end. Whatever is wrong with it ends it.
fn serve(stream: TcpStream, asked: &AtomicU64) {
    let body = vec![b'x'; OBJECT_BYTES_MAX];
    let Ok(mut writer) = stream.try_clone() else { return };
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut answer = Vec::with_capacity(OBJECT_BYTES_MAX + 512);
    while let Some(path) = read_head(&mut reader) {
        asked.fetch_add(1, Relaxed);
        let Some(asked_for) = Object::of(&path) else { return };
        if asked_for.slow {
            std::thread::sleep(SLOW);
        }
        answer.clear();
        answer.extend_from_slice(head(&path, asked_for.bytes).as_bytes());
        answer.extend_from_slice(&body[..asked_for.bytes]);
        if writer.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Reads to the end of a head without a body, and has the path of it.
fn read_head(reader: &mut impl BufRead) -> Option<String> {
    let mut path = None;
    let mut line = String::new();
    for _ in 0..LINES_MAX {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match path {
            None => path = Some(line.split(' ').nth(1)?.to_owned()),
            Some(path) if line == "\r\n" => return Some(path),
            Some(_) => {}
        }
    }
    None
}

/// The head of an answer. It tells no date, as an origin without a clock.
pub fn head(path: &str, bytes: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: public, max-age=3600\r\nETag: {}\r\n\
         Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: {bytes}\r\n\r\n",
        etag(path)
    )
}

/// The entity tag of what is at a path.
pub fn etag(path: &str) -> String {
    format!("\"{}\"", path.rsplit('/').next().unwrap_or_default())
}

/// The path of an object.
pub fn path(bytes: usize, number: usize) -> String {
    format!("/b{bytes}/{number}")
}

/// The path of an object that takes a while.
pub fn slow_path(bytes: usize, number: usize) -> String {
    format!("/b{bytes}/slow/{number}")
}

#[derive(Debug, PartialEq, Eq)]
struct Object {
    bytes: usize,
    slow: bool,
}

impl Object {
    fn of(path: &str) -> Option<Object> {
        let mut parts = path.split('/').skip(1);
        let bytes =
            parts.next()?.strip_prefix('b')?.parse().ok().filter(|bytes| *bytes <= OBJECT_BYTES_MAX)?;
        Some(Object { bytes, slow: parts.next() == Some("slow") })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::client::Connection;
    use super::super::super::requests;
    use super::*;

    fn check(path: &str, expected: Option<(usize, bool)>) {
        assert_eq!(Object::of(path), expected.map(|(bytes, slow)| Object { bytes, slow }), "{path}");
    }

    #[test]
    fn the_path_says_what_is_answered() {
        check(&path(1024, 17), Some((1024, false)));
        check(&slow_path(10, 1), Some((10, true)));
        check("/b999999999/1", None);
        check("/", None);
    }

    #[test]
    fn counts_what_it_is_asked() {
        let origin = Origin::start().unwrap();
        let mut connection = Connection::open(origin.address).unwrap();
        for number in 0..3 {
            let answer = connection.exchange(requests::head("GET", &path(7, number), "").as_bytes()).unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 7));
        }
        assert_eq!(origin.asked(), 3);
    }
}
