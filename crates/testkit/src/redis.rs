//! A real Redis on loopback, with a throwaway folder.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{PATIENCE, Port, until};

/// A running Redis. It is killed when the test ends.
pub struct Redis {
    /// Where it is.
    pub address: SocketAddr,
    folder: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    /// While it is stopped the port is nobody else's.
    _port: Port,
}

impl Redis {
    /// Starts one that keeps what it holds over a stop.
    ///
    /// # Panics
    /// If it does not start. It has to be installed: `cargo xtask test` does that where it may.
    #[must_use]
    pub fn start(name: &str) -> Redis {
        Redis::start_with(name, &[])
    }

    /// Starts one with these arguments more.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(name: &str, arguments: &[&str]) -> Redis {
        let folder = std::env::temp_dir().join(format!("tidegate-redis-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let port = Port::take();
        let mut redis = Redis { address: port.address, folder, arguments, child: None, _port: port };
        assert!(redis.launch(), "redis-server does not start: {}", redis.said());
        redis
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Stops it at once.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets it hang: it takes connections and answers nothing. Or lets it go on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn hang(&self, hangs: bool) {
        let id = self.child.as_ref().expect("it runs").id();
        crate::signal(id, if hangs { "-STOP" } else { "-CONT" });
    }

    /// Starts it again where it was, with what it held.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        self.stop();
        assert!(self.launch(), "redis-server does not start again: {}", self.said());
    }

    /// Says one command, and tells the beginning of the answer as it came.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("Redis answers")
    }

    fn try_ask(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(command.as_bytes())?;
        let mut answer = vec![0; 64 << 10];
        let length = stream.read(&mut answer)?;
        answer.truncate(length);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn launch(&mut self) -> bool {
        let output = std::fs::File::create(self.folder.join("output")).expect("a file for what it says");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()])
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .arg("--dir")
            .arg(&self.folder)
            .args(&self.arguments)
            .stdout(output)
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("redis-server is installed (Debian package redis-server)"));
        let mut up = false;
        until("Redis answers, or has ended", || {
            up = self.try_ask(&["PING"]).is_ok_and(|answer| answer.starts_with(['+', '-']));
            let ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            up || ended
        });
        up
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
