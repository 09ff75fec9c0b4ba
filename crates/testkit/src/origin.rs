//! An application server that records what it is asked and answers as it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Port;

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
#[derive(Clone, Debug, Default)]
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
    records: Arc<Records>,
}

#[derive(Default)]
struct Records {
    requests: Mutex<Vec<Recorded>>,
    left: Mutex<usize>,
    /// Every connection there was; `None`: it has stopped.
    streams: Mutex<Option<Vec<TcpStream>>>,
    /// Its port once it has stopped: nobody else gets it before another listens there.
    held: Mutex<Option<Port>>,
}

/// A request whose head has come, and the connection to read its body from and to answer on.
pub struct Visit {
    /// The request's head.
    pub head: String,
    reader: BufReader<TcpStream>,
    stream: TcpStream,
    records: Arc<Records>,
}

impl Origin {
    /// Starts a server that reads each request whole, records it, and answers as `reply` says of its path.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Origin {
        Origin::start_at("127.0.0.1:0".parse().expect("an address"), reply)
    }

    /// The same at this address, which may be one where another has stopped.
    ///
    /// # Panics
    /// If it cannot listen there.
    #[must_use]
    pub fn start_at(address: SocketAddr, reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Origin {
        Origin::accepting(address, move |visit| {
            let length = visit.read_body()?.0;
            visit.record(length);
            visit.answer(reply(visit.path()))
        })
    }

    /// Starts a server that records each request's head as soon as it has come and then does what the script says;
    /// `None` closes the connection.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn scripted(script: impl Fn(&mut Visit) -> Option<()> + Send + Sync + 'static) -> Origin {
        Origin::accepting("127.0.0.1:0".parse().expect("an address"), move |visit| {
            visit.record(0);
            script(visit)
        })
    }

    fn accepting(
        address: SocketAddr,
        serve: impl Fn(&mut Visit) -> Option<()> + Send + Sync + 'static,
    ) -> Origin {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (serve, records) = (Arc::new(serve), Arc::<Records>::default());
        *records.streams.lock() = Some(Vec::new());
        let shared = Arc::clone(&records);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                match (&mut *shared.streams.lock(), stream.try_clone()) {
                    (Some(streams), Ok(stream)) => streams.push(stream),
                    _ => return,
                }
                let (serve, records) = (Arc::clone(&serve), Arc::clone(&shared));
                std::thread::spawn(move || {
                    let mut visit = Visit::of(stream, records)?;
                    while visit.next().is_some() && serve(&mut visit).is_some() {}
                    // Whoever would stop the server holds the connection too.
                    visit.stream.shutdown(std::net::Shutdown::Both).ok()
                });
            }
        });
        Origin { address, records }
    }

    /// Stops as a process that ends: its port and all its connections are closed, whatever is under way on them.
    ///
    /// # Panics
    /// If it goes on listening.
    pub fn stop(&self) {
        let streams = self.records.streams.lock().take();
        for stream in streams.into_iter().flatten() {
            // It may have ended by itself.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // The listener looks only when somebody comes.
        crate::until("the port is closed", || TcpStream::connect(self.address).is_err());
        *self.records.held.lock() = Some(Port::hold(self.address).expect("its port is free again"));
    }

    /// What it was asked.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.records.requests.lock().clone()
    }

    /// How many clients left while they were kept waiting.
    #[must_use]
    pub fn left(&self) -> usize {
        *self.records.left.lock()
    }
}

impl Visit {
    fn of(stream: TcpStream, records: Arc<Records>) -> Option<Visit> {
        stream.set_nodelay(true).ok()?;
        let reader = BufReader::new(stream.try_clone().ok()?);
        Some(Visit { head: String::new(), reader, stream, records })
    }

    /// Reads the next request's head.
    fn next(&mut self) -> Option<()> {
        self.head.clear();
        while !self.head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut self.head).ok()? == 0 {
                return None;
            }
        }
        Some(())
    }

    fn record(&self, length: u64) {
        self.records.requests.lock().push(Recorded { head: self.head.clone(), length });
    }

    /// The request's target.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a header field, lower case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let lower = self.head.to_ascii_lowercase();
        lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    }

    /// Reads the request's body: its length, and its trailer lines.
    pub fn read_body(&mut self) -> Option<(u64, Vec<String>)> {
        if self.field("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            return self.skip_chunks();
        }
        let length = self.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let read = std::io::copy(&mut self.reader.by_ref().take(length), &mut std::io::sink()).ok()?;
        (read == length).then_some((length, Vec::new()))
    }

    /// Reads the request's body whole.
    pub fn read_content(&mut self) -> Option<Vec<u8>> {
        if self.field("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            let mut content = Vec::new();
            loop {
                let size = u64::from_str_radix(&self.line()?, 16).ok()?;
                let read = self.reader.by_ref().take(size).read_to_end(&mut content).ok()?;
                self.line().filter(|rest| rest.is_empty() && read as u64 == size)?;
                if size == 0 {
                    return Some(content);
                }
            }
        }
        let length: u64 = self.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut content = Vec::new();
        let read = self.reader.by_ref().take(length).read_to_end(&mut content).ok()?;
        (read as u64 == length).then_some(content)
    }

    fn skip_chunks(&mut self) -> Option<(u64, Vec<String>)> {
        let mut total = 0;
        loop {
            let size = u64::from_str_radix(&self.line()?, 16).ok()?;
            if size == 0 {
                break;
            }
            std::io::copy(&mut self.reader.by_ref().take(size + 2), &mut std::io::sink()).ok()?;
            total += size;
        }
        let mut trailers = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => return Some((total, trailers)),
                line => trailers.push(line),
            }
        }
    }

    /// Reads a line. `None`: the connection has ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line).ok()? {
            0 => None,
            _ => Some(line.trim_end().to_owned()),
        }
    }

    /// Sends these bytes.
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.stream.write_all(bytes.as_ref()).ok()
    }

    /// Waits until the client has gone, and notes it.
    pub fn until_left(&mut self) -> Option<()> {
        while self.reader.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {}
        *self.records.left.lock() += 1;
        None
    }

    /// Sends back whatever comes, until it ends.
    pub fn echo(&mut self) -> Option<()> {
        std::io::copy(&mut self.reader, &mut self.stream).ok()?;
        None
    }

    fn answer(&mut self, reply: Reply) -> Option<()> {
        let (status, body) = match reply {
            Reply::Status(status, body) => (status, body),
            Reply::After(wait) => {
                std::thread::sleep(wait);
                (200, String::new())
            }
            Reply::Close => return None,
            Reply::Never => return self.until_left(),
            Reply::Echo => {
                self.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")?;
                return self.echo();
            }
        };
        self.say(format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }
}
