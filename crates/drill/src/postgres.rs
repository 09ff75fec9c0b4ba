//! Two PostgreSQL servers, a primary and its standby, for a drill that needs a failover: from what is installed on this machine.
//!
//! What always holds: both listen on loopback alone, at ports that the kernel chose, in folders of their own. Each has a guard, a shell
//! that waits for its input to end: so the servers end, and their folders go, with this process, however that ends. As root,
//! all of it runs as a user of its own: PostgreSQL refuses root.
//!
//! What it does not do: watch over them. Who fails over, and when, is the drill's part.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_wire::clock;

/// Runs the server until its own input ends. `$1`: its folder; the rest: the server and its arguments. An interrupted drill
/// ends it by the end of its input alone.
const GUARD: &str = "trap '' INT TERM
    folder=$1; shift
    \"$@\" </dev/null >>\"$folder/output\" 2>&1 &
    server=$!
    cat >/dev/null
    kill -QUIT $server 2>/dev/null
    wait $server
    rm -rf \"$folder\"";
/// How long a server may take to be ready.
const START: Duration = Duration::from_secs(30);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(20);
/// How often a server is started, if somebody was quicker to take its port.
const TRIES: u32 = 3;

/// A primary and its standby.
pub struct Pair {
    primary: Server,
    standby: Server,
}

struct Server {
    folder: Folder,
    port: u16,
    /// The first of its processes, of which all others are children.
    process: u32,
    guard: Option<Child>,
}

/// It is removed when this is dropped.
struct Folder(PathBuf);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It is not installed.
    #[error(
        "this drill needs PostgreSQL 15 or newer, which is not installed here: on Debian and Ubuntu it is the package `postgresql`"
    )]
    Missing,
    /// No folder, no process.
    #[error("PostgreSQL cannot be started: {0}")]
    Io(#[from] std::io::Error),
    /// It, or one of its programs, ended.
    #[error("PostgreSQL does not start; it says:\n{0}")]
    Ended(String),
}

impl Pair {
    /// Starts both. Where the standby has to confirm, nothing counts as committed before it has.
    ///
    /// # Errors
    /// [`PostgresError`]: what is missing, or what they said.
    pub fn start(confirms: bool) -> Result<Pair, PostgresError> {
        let folder = Folder::new()?;
        let mut command = Command::new(program("initdb").ok_or(PostgresError::Missing)?);
        command.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]);
        carry_out(command.arg("-D").arg(folder.data()))?;
        // Said to this process alone: what is copied to the standby knows nobody who could confirm.
        let settings: &[&str] = if confirms { &["synchronous_standby_names=*"] } else { &[] };
        let primary = Server::start(folder, settings)?;
        let folder = Folder::new()?;
        let mut command = Command::new(program("pg_basebackup").ok_or(PostgresError::Missing)?);
        command.args(["-h", "127.0.0.1", "-p", &primary.port.to_string(), "-U", "postgres"]);
        command.args(["--no-sync", "-c", "fast", "-X", "stream", "-R", "-D"]).arg(folder.data());
        carry_out(&mut command)?;
        let standby = Server::start(folder, &[])?;
        let pair = Pair { primary, standby };
        wait(|| pair.standby.said().contains("started streaming WAL"), || pair.standby.said())?;
        Ok(pair)
    }

    /// The URL of a database, at whichever of them takes writes.
    #[must_use]
    pub fn url(&self) -> String {
        let (primary, standby) = (self.primary.port, self.standby.port);
        format!("postgres://postgres@127.0.0.1:{primary},127.0.0.1:{standby}/postgres?sslmode=disable")
    }

    /// The standby takes nothing from the primary any more, as if what is between them were slow.
    pub fn stall(&self) {
        send("STOP", &self.receiver().into_iter().collect::<Vec<_>>());
    }

    /// The primary is gone from one moment to the next, and with it whatever it had sent and the standby had not taken.
    pub fn kill(&self) {
        let process = self.primary.process;
        let all: Vec<u32> = std::iter::once(process).chain(children(process)).collect();
        send("KILL", &all);
    }

    /// The standby takes over.
    pub fn promote(&self) {
        let receiver: Vec<u32> = self.receiver().into_iter().collect();
        // It ends before it takes what may still be in its socket.
        send("TERM", &receiver);
        send("CONT", &receiver);
        let Some(program) = program("pg_ctl") else { return };
        let mut command = Command::new(program);
        if let Err(error) = carry_out(command.args(["promote", "-W", "-D"]).arg(self.standby.folder.data())) {
            eprintln!("tidegate: the standby does not take over: {error}");
        }
    }

    /// The process by which the standby takes what the primary writes, once it does.
    fn receiver(&self) -> Option<u32> {
        children(self.standby.process).into_iter().find(|process| {
            let title = std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
            title.contains("walreceiver")
        })
    }
}

impl Server {
    /// Starts it with what its folder holds.
    fn start(folder: Folder, settings: &[&str]) -> Result<Server, PostgresError> {
        let mut server = Server { folder, port: 0, process: 0, guard: None };
        for _ in 1..TRIES {
            match server.launch(settings) {
                Err(PostgresError::Ended(said)) if said.contains("could not create any TCP/IP sockets") => {
                    // It ends by a signal, and does not take the folder along.
                    if let Some(mut guard) = server.guard.take() {
                        let _ = guard.kill();
                        let _ = guard.wait();
                    }
                }
                launched => return launched.map(|()| server),
            }
        }
        server.launch(settings).map(|()| server)
    }

    fn launch(&mut self, settings: &[&str]) -> Result<(), PostgresError> {
        let data = self.folder.data();
        self.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        for left in [data.join("postmaster.pid"), self.folder.0.join("output")] {
            // None is there the first time.
            let _ = std::fs::remove_file(left);
        }
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(&self.folder.0);
        command.arg(program("postgres").ok_or(PostgresError::Missing)?).arg("-D").arg(&data);
        command.args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        // A machine that goes down takes the drill with it: what is written to the kernel is safe enough here.
        let always = [
            "fsync=off",
            "synchronous_commit=on",
            "shared_buffers=16MB",
            "max_connections=20",
            // A standby that has lost its primary does not look whether it is to take over before this has passed.
            "wal_retrieve_retry_interval=100ms",
        ];
        for setting in always.iter().chain(settings) {
            command.args(["-c", setting]);
        }
        own_user(&mut command);
        let guard = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        self.guard = Some(guard);
        let mut process = None;
        let ready = || {
            // Its file tells its number in the first line, and in the eighth how far it has come.
            let told = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            process = told.lines().next().and_then(|line| line.parse().ok());
            told.lines().nth(7).is_some_and(|state| matches!(state.trim_end(), "ready" | "standby"))
        };
        wait(ready, || said(&self.folder.0))?;
        self.process = process.unwrap_or_default();
        Ok(())
    }

    fn said(&self) -> String {
        said(&self.folder.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that was stopped takes no other signal before it goes on.
        send("CONT", &children(self.process));
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            // It can only have ended already.
            let _ = guard.wait();
        }
    }
}

impl Folder {
    /// One that the servers' user may write to.
    fn new() -> std::io::Result<Folder> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-drill-postgres-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0)?;
        if let Some((user, group)) = user() {
            std::os::unix::fs::chown(&folder.0, Some(user), Some(group))?;
        }
        Ok(folder)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until it is so. Otherwise: what was said.
fn wait(mut is_so: impl FnMut() -> bool, said: impl Fn() -> String) -> Result<(), PostgresError> {
    let by = clock::now().after(START);
    while !is_so() {
        let told = said();
        if told.contains("database system is shut down") || clock::now() > by {
            return Err(PostgresError::Ended(told));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn said(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("output")).unwrap_or_default()
}

/// Sends a signal. Who has ended meanwhile gets none.
fn send(signal: &str, processes: &[u32]) {
    if processes.is_empty() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$@\" 2>/dev/null", "kill", signal]);
    command.args(processes.iter().map(u32::to_string));
    let _ = command.status();
}

/// Runs a command to its end as the servers' user.
fn carry_out(command: &mut Command) -> Result<(), PostgresError> {
    own_user(command);
    let output = command.stdin(Stdio::null()).output()?;
    let said =
        || String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(PostgresError::Ended(said())) }
}

fn own_user(command: &mut Command) {
    // Wherever the drill was begun, that user may not be allowed to be.
    command.current_dir("/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
}

/// Whom the servers run as, where it cannot be this process's own user: that is root.
fn user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["postgres", "nobody"].into_iter().find_map(|name| {
        let mut fields = users
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
        let mut number = |place| fields.nth(place).and_then(|number| number.parse().ok());
        Some((number(1)?, number(0)?))
    })
}

/// A program of PostgreSQL's: where Debian has it, of the newest version there is, or in the path.
fn program(name: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let program = version.path().join("bin").join(name);
        program.is_file().then_some((number, program))
    });
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
    };
    newest.max().map(|(_, program)| program).or_else(in_path)
}

/// The processes that this one has started, and that have not ended.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    all.filter(|process| parent != 0 && parent_of(*process) == Some(parent)).collect()
}

/// The parent of a process that has not ended.
fn parent_of(process: u32) -> Option<u32> {
    let told = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may have anything in it.
    let mut fields = told.rsplit_once(") ")?.1.split(' ');
    let has_ended = fields.next()? == "Z";
    fields.next()?.parse().ok().filter(|_| !has_ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_parent() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!children(std::process::id()).contains(&child.id()));
        assert!(children(0).is_empty());
    }

    #[test]
    fn a_program_that_nobody_has_is_missing() {
        assert_eq!(program("tidegate-no-such-program"), None);
        assert!(PostgresError::Missing.to_string().contains("`postgresql`"));
    }
}
