//! The real binary, started with a configuration of the test's own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{PATIENCE, until};

/// A running Tidegate. It is killed when the test ends.
pub struct Gate {
    /// Its first listener.
    pub address: SocketAddr,
    /// All of its listeners: first those without TLS, then those with, as the configuration has them.
    pub listeners: Vec<SocketAddr>,
    /// Its control API.
    pub control: SocketAddr,
    /// Its configuration file.
    pub file: PathBuf,
    child: Child,
    /// Processes that took over, one after another.
    successors: Vec<u32>,
    folder: PathBuf,
    listen: String,
}

/// Where its owner steers it, beside its configuration.
const SOCKET: &str = "control.sock";
/// One listener on loopback.
const LISTEN: &str = "http = [\"127.0.0.1:0\"]";

impl Gate {
    /// Starts the binary with this configuration; listeners and control API are added to it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(binary: &str, name: &str, config: &str) -> Gate {
        Gate::start_listening(binary, name, LISTEN, config)
    }

    /// A folder for the files of the test of this name. It is removed with the gate of that name.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tidegate-e2e-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    }

    /// Starts the binary with this configuration; `listen` is what stands in its table `[listen]`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_listening(binary: &str, name: &str, listen: &str, config: &str) -> Gate {
        let text = whole(&Gate::folder(name), listen, config);
        let mut gate = Gate::start_whole(binary, name, &[], &text);
        listen.clone_into(&mut gate.listen);
        gate
    }

    /// Starts the binary with exactly this configuration, in this environment. The first address of its control API
    /// must be a TCP address.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_whole(binary: &str, name: &str, environment: &[(&str, &str)], config: &str) -> Gate {
        let mut command = Command::new(binary);
        command.envs(environment.iter().copied());
        Gate::run(command, name, config)
    }

    /// Starts the binary on one listener, with so many file descriptors and no more.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_short(binary: &str, name: &str, descriptors: u32, config: &str) -> Gate {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""), binary]);
        Gate::run(command, name, &whole(&Gate::folder(name), LISTEN, config))
    }

    /// Starts the binary with exactly this configuration, and this listening socket as systemd would hand it over.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_activated(binary: &str, name: &str, socket: std::net::TcpListener, config: &str) -> Gate {
        let mut command = Command::new("sh");
        let hand = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";
        command.args(["-c", hand, binary]).stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)));
        Gate::run(command, name, config)
    }

    fn run(mut command: Command, name: &str, config: &str) -> Gate {
        let folder = Gate::folder(name);
        let file = folder.join("tidegate.toml");
        std::fs::write(&file, config).expect("the configuration is written");
        let said = std::fs::File::create(folder.join("stderr")).expect("a file for what it says");
        let mut child = command
            .args(["run", "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut listeners = Vec::new();
        let control = loop {
            let Some(line) = lines.next() else {
                let said = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                panic!("it does not say where it listens: {said}");
            };
            let line = line.expect("UTF-8");
            let parse = |address: &str| address.trim().parse().expect("an address");
            match ["listening http ", "listening https ", "control http "].map(|word| line.strip_prefix(word))
            {
                [Some(address), ..] | [_, Some(address), _] => listeners.push(parse(address)),
                [.., Some(address)] => break parse(address),
                _ => {}
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let address = *listeners.first().expect("it listens");
        let (successors, listen) = (Vec::new(), String::new());
        Gate { address, listeners, control, file, child, successors, folder, listen }
    }

    /// Writes another configuration, at one moment. The process sees by itself that it has changed.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn rewrite(&self, config: &str) {
        let beside = self.folder.join("tidegate.toml.new");
        std::fs::write(&beside, whole(&self.folder, &self.listen, config))
            .expect("the configuration is written");
        std::fs::rename(beside, &self.file).expect("the configuration is replaced");
    }

    /// Lets it load its configuration again, and waits until every core has it. It must have been started on a
    /// configuration to which a control API was added.
    ///
    /// # Panics
    /// If it does not take it.
    pub fn reload(&self) {
        let answer = self.steer("/reload");
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    }

    /// Lets the binary that now stands at its path take over. The process id of the new one; or what is said instead.
    ///
    /// # Errors
    /// No other process took over.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn upgrade(&mut self) -> Result<u32, String> {
        let answer = self.steer("/upgrade");
        let pid = answer.split_once("{\"pid\":").and_then(|(_, rest)| rest.strip_suffix('}')?.parse().ok());
        let pid = pid.filter(|_| answer.starts_with("HTTP/1.0 200 ")).ok_or(answer)?;
        self.succeeded_by(pid);
        Ok(pid)
    }

    /// Another process has taken over. It is killed when the test ends.
    pub fn succeeded_by(&mut self, pid: u32) {
        self.successors.push(pid);
    }

    /// The process that serves now.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.successors.last().copied().unwrap_or(self.child.id())
    }

    fn steer(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.folder.join(SOCKET)).expect("its owner may steer it");
        // An upgrade has a bound of its own, as long as this.
        stream.set_read_timeout(Some(PATIENCE * 2)).expect("a socket has a time-out");
        let request = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("bytes can be sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    /// What its metrics say of this sample, name and labels, now.
    #[must_use]
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let text = crate::send(self.control, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n");
        text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, name: &str) {
        crate::signal(self.pid(), name);
    }

    /// Waits for the end of the process that was started first, and tells its exit code.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        until("the process ends", || match self.child.try_wait() {
            Ok(Some(status)) => {
                code = status.code();
                true
            }
            _ => false,
        });
        code
    }

    /// What the access log says.
    #[must_use]
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("access.log")).unwrap_or_default()
    }

    /// What it has written to standard error.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    /// Files and sockets it has open whose numbers are below this. (Some that it was born with may lie above its limit.)
    ///
    /// # Panics
    /// Where there is no `/proc`.
    #[must_use]
    pub fn descriptors_below(&self, limit: u32) -> usize {
        let open =
            std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a process has descriptors");
        let numbers = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers.filter(|number| *number < limit).count()
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// Where there is no `/proc`.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("a process has a status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has resident memory");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }
}

fn whole(folder: &Path, listen: &str, config: &str) -> String {
    // A machine that is busy with something else makes its cores late: that is no load of theirs.
    let protect = if config.contains("[protect]") { "" } else { "[protect]\nlag = \"0s\"\n" };
    format!(
        "{config}\n[listen]\n{listen}\n[control]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\n{protect}[log]\naccess = \"{}\"\nlevel = \"error\"\n",
        folder.join(SOCKET).display(),
        folder.join("access.log").display()
    )
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in &self.successors {
            // It may have ended.
            let kill = format!("kill -KILL {pid} 2>/dev/null");
            let _ = Command::new("sh").args(["-c", &kill]).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
