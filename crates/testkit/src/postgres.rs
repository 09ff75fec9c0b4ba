//! A real PostgreSQL on loopback, with a throwaway folder.
//!
//! `initdb` runs once for each process that tests; every server starts from a copy of what it made. Each server has a guard, a
//! shell that waits for its input to end: so the server ends, and its folder goes, with the test or with the whole
//! process, however that ends. As root, all of it runs as a user of its own: PostgreSQL refuses root.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use self::talk::Talk;
use crate::{Port, signal, until};

mod talk;

/// Runs the server until its own input ends, or the server does. `$1`: its folder; the rest: the server and its arguments.
const GUARD: &str = "folder=$1; shift
    \"$@\" </dev/null >>\"$folder/output\" 2>&1 &
    server=$!
    cat >/dev/null
    kill -QUIT $server 2>/dev/null
    wait $server
    rm -rf \"$folder\"";

/// A PostgreSQL. It is ended when the test ends.
pub struct Postgres {
    /// Where it is.
    pub address: SocketAddr,
    folder: PathBuf,
    arguments: Vec<String>,
    guard: Option<Child>,
    /// The number of its first process, of which all others are children.
    process: u32,
    /// While it is stopped the port is nobody else's.
    _port: Port,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Its clients are told, what it has is written.
    InOrder,
    /// As by `kill -9`: it starts again from its log.
    Killed,
}

impl Postgres {
    /// Starts one of the test's own.
    ///
    /// # Panics
    /// If it does not start. It has to be installed: `cargo xtask test` does that where it may.
    #[must_use]
    pub fn start(name: &str) -> Postgres {
        Postgres::start_with(name, &[])
    }

    /// Starts one with these settings more, as `fsync=on`. Without that it leaves its files to the kernel, which outlives it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(name: &str, settings: &[&str]) -> Postgres {
        let folder = folder(name);
        as_user(&mut copying(template(), &folder));
        Postgres::run(folder, settings)
    }

    /// Starts one that speaks TLS, with a certificate for `localhost` and its address. Where that is.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_tls(name: &str) -> (Postgres, PathBuf) {
        let folder = folder(name);
        as_user(&mut copying(template(), &folder));
        let (cert, key) = (folder.join("server.crt"), folder.join("server.key"));
        let _ = crate::tls::certificate(&["localhost", "127.0.0.1"], &cert, &key);
        for file in [&cert, &key] {
            give_away(file);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(file, mode).expect("the file is ours");
        }
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", cert.display()),
            format!("ssl_key_file={}", key.display()),
        ];
        (Postgres::run(folder, &settings.each_ref().map(|setting| &**setting)), cert)
    }

    /// Starts a standby of this one, that has what this one has.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn standby(&self, name: &str) -> Postgres {
        let folder = folder(name);
        let mut copy = Command::new(program("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-U", "postgres"]);
        copy.args(["--no-sync", "-c", "fast", "-X", "stream", "-R", "-D"]).arg(folder.join("data"));
        as_user(&mut copy);
        Postgres::run(folder, &[])
    }

    /// Makes a standby the primary.
    ///
    /// # Panics
    /// If it is none.
    pub fn promote(&self) {
        assert_eq!(self.say("SELECT pg_promote(true)"), "t");
    }

    fn run(folder: PathBuf, settings: &[&str]) -> Postgres {
        let port = Port::take();
        let settings = settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]);
        let arguments = settings.collect();
        let mut server =
            Postgres { address: port.address, folder, arguments, guard: None, process: 0, _port: port };
        server.launch();
        server
    }

    /// The one that all tests of this process share: none of them may stop it. Each takes a [`Postgres::database`].
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Postgres::start("shared"))
    }

    /// Makes a database that no other test has, and tells its URL.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn database(&self) -> String {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}", LAST.fetch_add(1, Relaxed));
        let _ = self.say(&format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// The URL of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// Carries out statements in the database that every server has, and tells the rows.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn say(&self, statements: &str) -> String {
        self.say_in(&self.url("postgres"), statements)
    }

    /// The same in another database.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn say_in(&self, url: &str, statements: &str) -> String {
        let output = Command::new(program("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements, url])
            .stdin(Stdio::null())
            .output()
            .expect("psql is installed (Debian package postgresql)");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Connects to one of its databases.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn talk(&self, database: &str) -> Talk {
        Talk::to(self, database)
    }

    /// Ends all connections to a database but the asking one, as an operator or a failover does.
    pub fn end_connections(&self) {
        let _ = self.say(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        );
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it does not run, or does not end.
    pub fn stop(&mut self, ends: Ends) {
        let all = self.processes();
        signal(self.process, if ends == Ends::InOrder { "-INT" } else { "-KILL" });
        // What is left of one that was killed has its memory yet: another would not start beside it.
        until("no process of PostgreSQL is left", || !all.iter().any(|process| runs(*process)));
    }

    /// Lets it hang: it takes connections and answers nothing. Or lets it go on.
    pub fn hang(&self, hangs: bool) {
        for process in self.processes() {
            let name = if hangs { "-STOP" } else { "-CONT" };
            // One of its children may have ended meanwhile.
            let _ = Command::new("sh").args(["-c", &format!("kill {name} {process} 2>/dev/null")]).status();
        }
    }

    /// Starts it again where it was, with what it held.
    ///
    /// # Panics
    /// If it runs, or does not start.
    pub fn start_again(&mut self) {
        assert!(!runs(self.process), "it runs");
        self.launch();
    }

    fn launch(&mut self) {
        let port = self.address.port().to_string();
        let data = self.folder.join("data");
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).arg(&self.folder).arg(program("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port, "-h", "127.0.0.1", "-k", ""]);
        for setting in ["fsync=off", "synchronous_commit=on", "shared_buffers=16MB", "max_connections=60"] {
            command.args(["-c", setting]);
        }
        // Its log tells the test's own times, not the machine's zone; what comes later counts.
        command.args(["-c", "log_timezone=UTC"]).args(&self.arguments);
        own_user(&mut command);
        // The guard of one that was stopped ends by itself once its input does: without the folder, which is needed yet.
        if let Some(mut before) = self.guard.take() {
            let _ = before.kill();
            let _ = before.wait();
        }
        for left in [data.join("postmaster.pid"), self.folder.join("output")] {
            let _ = std::fs::remove_file(left);
        }
        let guard = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.guard = Some(guard.expect("a shell starts"));
        until("PostgreSQL is ready", || {
            let said = std::fs::read_to_string(self.folder.join("output")).unwrap_or_default();
            assert!(!said.contains("database system is shut down"), "PostgreSQL does not start: {said}");
            // Its file tells its number in the first line, and in the eighth how far it has come.
            let told = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let number = told.lines().next().and_then(|line| line.parse().ok());
            self.process = number.unwrap_or_default();
            // Of a standby it is that it stands by.
            told.lines().nth(7).is_some_and(|state| matches!(state.trim_end(), "ready" | "standby"))
        });
    }

    /// All of its processes.
    fn processes(&self) -> Vec<u32> {
        let first = Some(self.process).filter(|process| runs(*process));
        first.into_iter().flat_map(|first| std::iter::once(first).chain(children(first))).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A process that was stopped takes no other signal before it goes on.
        self.hang(false);
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
}

/// The folder that every server begins with, made once.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (folder, _) = TEMPLATE.get_or_init(|| {
        let folder = folder("template");
        let mut command = Command::new(program("initdb"));
        command.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"]);
        as_user(command.arg("-D").arg(folder.join("data")));
        let mut guard = Command::new("sh");
        own_user(guard.args(["-c", "cat >/dev/null; rm -rf \"$1\"", "guard"]).arg(&folder));
        (folder, guard.stdin(Stdio::piped()).spawn().expect("a shell starts"))
    });
    folder
}

/// A folder of this name, that the servers' user may write to.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tidegate-postgres-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    give_away(&folder);
    folder
}

/// Gives a file to the servers' user.
fn give_away(file: &Path) {
    if let Some((user, group)) = user() {
        std::os::unix::fs::chown(file, Some(user), Some(group)).expect("root may give a file away");
    }
}

fn copying(from: &Path, to: &Path) -> Command {
    let mut command = Command::new("cp");
    command.args(["-r", "--reflink=auto", "--preserve=mode"]).arg(from.join("data")).arg(to);
    command
}

/// Runs a command to its end as the servers' user.
fn as_user(command: &mut Command) {
    own_user(command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("PostgreSQL is installed (Debian package postgresql)");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn own_user(command: &mut Command) {
    // Wherever the tests were begun, that user may not be allowed to be.
    command.current_dir("/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
}

/// Whom the servers run as, where it cannot be this process's own user: that is root.
fn user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
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
    })
}

/// A program of PostgreSQL's: where Debian has it, of the newest version there is, or in the path.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let program = version.path().join("bin").join(name);
        program.is_file().then_some((number, program))
    });
    newest.max().map_or_else(|| PathBuf::from(name), |(_, program)| program)
}

/// Whether there is such a process, and it has not ended.
fn runs(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != 'Z')
}

/// The processes that this one has started, and that have not ended.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    all.filter(|process| stat(*process).is_some_and(|(state, of)| of == parent && state != 'Z')).collect()
}

/// The state of a process, and its parent.
fn stat(process: u32) -> Option<(char, u32)> {
    let told = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may have anything in it.
    let mut fields = told.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_there_however_it_ends() {
        let mut server = Postgres::start("ends");
        let _ = server.say("CREATE TABLE kept (number int)");
        for (number, ends) in [Ends::InOrder, Ends::Killed].into_iter().enumerate() {
            let _ = server.say(&format!("INSERT INTO kept VALUES ({number})"));
            server.stop(ends);
            assert!(std::net::TcpStream::connect(server.address).is_err());
            server.start_again();
        }
        assert_eq!(server.say("SELECT count(*) FROM kept"), "2");
        let url = server.database();
        assert_eq!(server.say_in(&url, "SHOW synchronous_commit"), "on");
        server.end_connections();
        server.hang(true);
        let folder = server.folder.clone();
        drop(server);
        assert!(!folder.exists());
    }
}
