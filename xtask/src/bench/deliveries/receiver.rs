//! Whom Tidegate pushes to: it tells the desk what it got, and answers 204.
//!
//! It is in this process, a thread for each connection, as the consumers of the peers that are pulled from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use super::journey::{Desk, micros};

/// Lines of a request's head, and bytes of one and of its body, that are read.
const LINES_MAX: usize = 100;
const LINE_BYTES_MAX: u64 = 8 << 10;
const BODY_BYTES_MAX: usize = 64 << 10;
const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A running receiver. It ends with the process.
pub struct Receiver {
    pub address: SocketAddr,
}

impl Receiver {
    pub fn start(desk: &Arc<Desk>) -> Result<Receiver, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let desk = Arc::clone(desk);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let desk = Arc::clone(&desk);
                std::thread::spawn(move || serve(stream, &desk));
            }
        });
        Ok(Receiver { address })
    }
}

/// Serves a connection to its end. Whatever is wrong with it ends it.
fn serve(stream: TcpStream, desk: &Desk) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(body) = read_request(&mut reader) {
        desk.heard(&body, micros());
        if writer.write_all(ANSWER).is_err() {
            return;
        }
    }
}

/// The body of a request that tells its length.
fn read_request(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut length = 0;
    let mut line = String::new();
    for number in 0..LINES_MAX {
        line.clear();
        if reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" && number > 0 {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            return Some(body);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok().filter(|length| *length <= BODY_BYTES_MAX)?;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::journey::Journey;
    use super::*;

    #[test]
    fn tells_the_desk_what_it_gets_and_answers() {
        let desk = Desk::new();
        let journey = Journey::new(7, 0);
        desk.set(&[&journey]);
        let receiver = Receiver::start(&desk).unwrap();
        let mut stream = TcpStream::connect(receiver.address).unwrap();
        let payload = journey.payload(1);
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\ncontent-length: {}\r\n\r\n", payload.len());
        for round in 1..=2 {
            stream.write_all(&[head.as_bytes(), &payload].concat()).unwrap();
            let mut answer = vec![0; ANSWER.len()];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!((&answer[..], journey.attempted()), (ANSWER, round));
        }
    }

    #[test]
    fn what_is_too_long_or_ends_early_is_no_request() {
        assert_eq!(
            read_request(&mut &b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"[..]),
            Some(b"ok".to_vec())
        );
        assert_eq!(read_request(&mut &b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"[..]), None);
        assert_eq!(read_request(&mut &b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\no"[..]), None);
        assert_eq!(read_request(&mut &b""[..]), None);
    }
}
