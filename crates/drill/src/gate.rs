//! A real Tidegate, run as a process of its own: what a drill examines.
//!
//! What always holds: its configuration lies in a private folder, it listens on loopback at ports that the kernel chose,
//! and both are gone when this is dropped, whatever ended the drill. Ctrl-C reaches it as it reaches this process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tidegate_wire::clock;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);
/// Of what it said, so much is told when it fails.
const SAID_MAX: usize = 4096;

/// A running Tidegate.
pub struct Gate {
    /// Where it serves.
    pub address: SocketAddr,
    /// Where its control API is.
    pub control: SocketAddr,
    child: Child,
    folder: PathBuf,
}

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
        let folder = new_folder()?;
        let started = spawn(binary, &folder, config);
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(error.into());
            }
        };
        let out = child.stdout.take();
        // From here on it is ended and its folder removed by being dropped.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gate = Gate { address: nowhere, control: nowhere, child, folder };
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
                Err(_) => return Err(GateError::Silent(gate.said())),
            }
        }
        if let [Some(address), Some(control)] = known {
            (gate.address, gate.control) = (address, control);
        }
        Ok(gate)
    }

    /// Starts another proxy in a Tidegate's place, before these applications. It has no control API to be asked.
    ///
    /// # Errors
    /// [`GateError`]: what it said, if it does not listen.
    pub fn beside(beside: &Beside, apps: &[SocketAddr]) -> Result<Gate, GateError> {
        let folder = new_folder()?;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut text = beside.template.replace("{port}", &port.to_string());
        text = text.replace("{folder}", &folder.display().to_string());
        for (number, app) in apps.iter().enumerate() {
            text = text.replace(&format!("{{app{number}}}"), &app.to_string());
            text = text.replace(&format!("{{app{number}_port}}"), &app.port().to_string());
        }
        let file = folder.join("beside.yaml");
        std::fs::write(&file, text)?;
        let said = std::fs::File::create(folder.join("stderr"))?;
        let file = file.display().to_string();
        let child = Command::new(&beside.program)
            .args(beside.arguments.iter().map(|argument| argument.replace("{config}", &file)))
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        let (address, nowhere) =
            (SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0], 0)));
        let mut gate = Gate { address, control: nowhere, child, folder };
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
        let said = std::fs::read(self.folder.join("stderr")).unwrap_or_default();
        let from = said.len().saturating_sub(SAID_MAX);
        String::from_utf8_lossy(&said[from..]).into_owned()
    }

    /// The number of its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Whether its process has ended, which it should not.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

/// A folder of its own for each process.
fn new_folder() -> std::io::Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tidegate-drill-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn spawn(binary: &Path, folder: &Path, config: &str) -> std::io::Result<Child> {
    let file = folder.join("tidegate.toml");
    std::fs::write(&file, config)?;
    let said = std::fs::File::create(folder.join("stderr"))?;
    Command::new(binary)
        .args(["run", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(said)
        .spawn()
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
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
