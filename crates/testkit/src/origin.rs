//! An application server that records what it is asked and answers as it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// With this status and body.
    Status(u16, String),
    /// After so long, with 200.
    After(Duration),
    /// Not at all: the connection is closed once the request has been read.
    Close,
    /// By changing the protocol and sending back whatever comes.
    Echo,
    /// Not before the client has gone.
    Never,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its head.
    pub head: String,
    /// The length of its body.
    pub length: u64,
}

/// A recording application server.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<Recorded>>>,
    left: Arc<Mutex<usize>>,
}

impl Origin {
    /// Starts a server that answers each request as `reply` says of its path.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (recorded, left) = (Arc::<Mutex<Vec<Recorded>>>::default(), Arc::<Mutex<usize>>::default());
        let (reply, records, gone) = (Arc::new(reply), Arc::clone(&recorded), Arc::clone(&left));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (reply, records, gone) = (Arc::clone(&reply), Arc::clone(&records), Arc::clone(&gone));
                std::thread::spawn(move || serve(stream, &*reply, &records, &gone));
            }
        });
        Origin { address, recorded, left }
    }

    /// What it was asked.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.recorded.lock().clone()
    }

    /// How many clients left while they were kept waiting.
    #[must_use]
    pub fn left(&self) -> usize {
        *self.left.lock()
    }
}

fn serve(
    stream: TcpStream,
    reply: &dyn Fn(&str) -> Reply,
    records: &Mutex<Vec<Recorded>>,
    gone: &Mutex<usize>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    stream.set_nodelay(true).ok()?;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let length = match field("transfer-encoding") {
            Some("chunked") => skip_chunks(&mut reader)?,
            _ => {
                let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink()).ok()?
            }
        };
        let path = head.split(' ').nth(1)?.to_owned();
        records.lock().push(Recorded { head, length });
        let (status, body) = match reply(&path) {
            Reply::Status(status, body) => (status, body),
            Reply::After(wait) => {
                std::thread::sleep(wait);
                (200, String::new())
            }
            Reply::Close => return None,
            Reply::Never => {
                let _ = reader.read(&mut [0]);
                *gone.lock() += 1;
                return None;
            }
            Reply::Echo => {
                stream
                    .write_all(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
                    )
                    .ok()?;
                std::io::copy(&mut reader, &mut stream).ok()?;
                return None;
            }
        };
        let answer = format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

fn skip_chunks(reader: &mut impl std::io::BufRead) -> Option<u64> {
    let mut total = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = u64::from_str_radix(line.trim(), 16).ok()?;
        std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink()).ok()?;
        total += size;
        if size == 0 {
            return Some(total);
        }
    }
}
