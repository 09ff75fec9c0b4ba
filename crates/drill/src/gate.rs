//! A real Tidegate, run as a process of its own: what a drill examines.
//!
//! What always holds: its configuration lies in a private folder, it listens on loopback at ports that the kernel chose,
//! and both are gone when this is dropped, whatever ended the drill. Ctrl-C reaches it as it reaches this process. Killed and
//! started again, it finds in its folder what it had written there, and listens at other ports.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tidegate_wire::clock;
use tokio::sync::oneshot;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);
/// Of what it said, so much is told when it fails.
const SAID_MAX: usize = 4096;

/// A running Tidegate.
pub struct Gate {
    /// Where it serves.
    pub address: SocketAddr,
    /// Where its control API is.
    pub control: SocketAddr,
    // Before the folder: what runs in it ends first.
    process: Option<Process>,
    starting: Option<JoinHandle<()>>,
    folder: Folder,
    binary: PathBuf,
}

/// Its process. It is ended when this is dropped.
pub struct Process {
    child: Child,
    address: SocketAddr,
    control: SocketAddr,
}

/// What it reads and writes. It is removed when this is dropped.
struct Folder(PathBuf);

/// Where a drill's stores are, within the folder.
pub const STORE: &str = "data";

/// Another proxy, to be put in Tidegate's place: the same traffic tells what it makes of it.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Its program.
    pub program: PathBuf,
    /// What it is called with; `{config}` is its configuration's path.
    pub arguments: Vec<String>,
    /// Its configuration: `{port}` is where to listen, `{folder}` what it may write to, `{app0}` the first application's
    /// address, `{app0_port}` its port.
    pub template: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Its folder, its file or its process could not be made.
    #[error("Tidegate cannot be started: {0}")]
    Io(#[from] std::io::Error),
    /// It ended, or did not say where it listens.
    #[error("Tidegate does not listen; it says:\n{0}")]
    Silent(String),
}

impl Gate {
    /// Starts this binary with a configuration, to which the listeners and the control API are added.
    ///
    /// # Errors
    /// [`GateError`]: what it said, if it ended.
    pub fn start(binary: &Path, config: &str) -> Result<Gate, GateError> {
        let folder = Folder::new()?;
        std::fs::write(folder.0.join("tidegate.toml"), config)?;
        let process = Process::start(binary, &folder.0)?;
        let (address, control) = (process.address, process.control);
        let binary = binary.to_owned();
        Ok(Gate { address, control, process: Some(process), starting: None, folder, binary })
    }

    /// Ends its process as `kill -9` does. Of what it keeps nothing is left, if it is to forget.
    pub fn kill(&mut self, forgets: bool) {
        self.process = None;
        if forgets {
            // What is not there cannot be removed: nothing had been kept.
            let _ = std::fs::remove_dir_all(self.folder.0.join(STORE));
        }
    }

    /// Starts it again, on a thread of its own. Who waits for it gets the process, to be given to [`Gate::take`].
    pub fn start_again(&mut self) -> oneshot::Receiver<Result<Process, GateError>> {
        let (tell, told) = oneshot::channel();
        let (binary, folder) = (self.binary.clone(), self.folder.0.clone());
        // A process that nobody waits for any more is ended by being dropped.
        self.starting = Some(std::thread::spawn(move || drop(tell.send(Process::start(&binary, &folder)))));
        told
    }

    /// Goes on with a process that was started again.
    pub fn take(&mut self, process: Process) {
        (self.address, self.control) = (process.address, process.control);
        self.process = Some(process);
    }

    /// Starts another proxy in a Tidegate's place, before these applications. It has no control API to be asked.
    ///
    /// # Errors
    /// [`GateError`]: what it said, if it does not listen.
    pub fn beside(beside: &Beside, apps: &[SocketAddr]) -> Result<Gate, GateError> {
        let folder = Folder::new()?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut text = beside.template.replace("{port}", &port.to_string());
        text = text.replace("{folder}", &folder.0.display().to_string());
        for (number, app) in apps.iter().enumerate() {
            text = text.replace(&format!("{{app{number}}}"), &app.to_string());
            text = text.replace(&format!("{{app{number}_port}}"), &app.port().to_string());
        }
        let file = folder.0.join("beside.yaml");
        std::fs::write(&file, text)?;
        let said = std::fs::File::create(folder.0.join("stderr"))?;
        let file = file.display().to_string();
        let child = Command::new(&beside.program)
            .args(beside.arguments.iter().map(|argument| argument.replace("{config}", &file)))
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let (address, nowhere) =
            (SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0], 0)));
        let process = Some(Process { child, address, control: nowhere });
        let binary = beside.program.clone();
        let mut gate = Gate { address, control: nowhere, process, starting: None, folder, binary };
        let by = clock::now().after(START);
        while std::net::TcpStream::connect(address).is_err() {
            if gate.has_ended() || clock::now() > by {
                return Err(GateError::Silent(gate.said()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(gate)
    }

    /// What it has said on standard error: the end of it.
    #[must_use]
    pub fn said(&self) -> String {
        said(&self.folder.0)
    }

    /// The number of its process. `None`: it was killed.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Whether its process has ended by itself, which it should not.
    pub fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.child.try_wait(), Ok(Some(_))))
    }
}

impl Process {
    /// Starts this binary in a folder that has its configuration, and waits until it listens.
    fn start(binary: &Path, folder: &Path) -> Result<Process, GateError> {
        let said_to = std::fs::File::create(folder.join("stderr"))?;
        let mut child = Command::new(binary)
            .args(["run", "--config"])
            .arg(folder.join("tidegate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said_to)
            .spawn()?;
        let out = child.stdout.take();
        // From here on it is ended by being dropped.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut process = Process { child, address: nowhere, control: nowhere };
        let (tell, told) = sync_channel(4);
        std::thread::spawn(move || {
            // Read to its end, so that it never waits for a reader.
            for line in out.map(BufReader::new).into_iter().flat_map(BufReader::lines).map_while(Result::ok) {
                let parsed = ["listening http ", "control http "].into_iter().enumerate();
                for (which, word) in parsed {
                    if let Some(address) = line.strip_prefix(word).and_then(|rest| rest.trim().parse().ok()) {
                        let _ = tell.try_send((which, address));
                    }
                }
            }
        });
        let mut known = [None, None];
        while known.contains(&None) {
            match told.recv_timeout(START) {
                Ok((which, address)) => known[which] = Some(address),
                Err(_) => return Err(GateError::Silent(said(folder))),
            }
        }
        if let [Some(address), Some(control)] = known {
            (process.address, process.control) = (address, control);
        }
        Ok(process)
    }
}

fn said(folder: &Path) -> String {
    let said = std::fs::read(folder.join("stderr")).unwrap_or_default();
    let from = said.len().saturating_sub(SAID_MAX);
    String::from_utf8_lossy(&said[from..]).into_owned()
}

impl Folder {
    /// A folder of its own for each gate.
    fn new() -> std::io::Result<Folder> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-drill-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // One that is being started ends before its folder goes. It can only have panicked, and then has said so.
        if let Some(starting) = self.starting.take() {
            let _ = starting.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_is_told_with_what_it_said() {
        let error = Gate::start(Path::new("/bin/false"), "").err().expect("it is no gate");
        assert!(matches!(error, GateError::Silent(_)), "{error}");
        let error = Gate::start(Path::new("/nonexistent/tidegate"), "").err().expect("there is none");
        assert!(matches!(error, GateError::Io(_)), "{error}");
    }
}
