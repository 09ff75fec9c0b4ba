//! The real binary, started with a configuration of the test's own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::until;

/// A running Tidegate. It is killed when the test ends.
pub struct Gate {
    /// Its first listener.
    pub address: SocketAddr,
    /// Its control API.
    pub control: SocketAddr,
    /// Its configuration file.
    pub file: PathBuf,
    child: Child,
    folder: PathBuf,
}

impl Gate {
    /// Starts the binary with this configuration; listeners and control API are added to it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(binary: &str, name: &str, config: &str) -> Gate {
        let folder = std::env::temp_dir().join(format!("tidegate-e2e-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let file = folder.join("tidegate.toml");
        std::fs::write(&file, Gate::whole(&folder, config)).expect("the configuration is written");
        let mut child = Command::new(binary)
            .args(["run", "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut next = |word: &str| loop {
            let line = lines.next().expect("it says where it listens").expect("UTF-8");
            if let Some(address) = line.strip_prefix(word) {
                return address.trim().parse().expect("an address");
            }
        };
        let address = next("listening http ");
        let control = next("control http ");
        std::thread::spawn(move || lines.for_each(drop));
        Gate { address, control, file, child, folder }
    }

    fn whole(folder: &Path, config: &str) -> String {
        format!(
            "{config}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"{}\"\nlevel = \"error\"\n",
            folder.join("access.log").display()
        )
    }

    /// Writes another configuration. The process sees by itself that it has changed.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn rewrite(&self, config: &str) {
        std::fs::write(&self.file, Gate::whole(&self.folder, config)).expect("the configuration is written");
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {name}");
    }

    /// Waits for the end, and tells the exit code.
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

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
