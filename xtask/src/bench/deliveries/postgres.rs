//! A PostgreSQL of the benchmark's own, with all that makes it durable on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::peers::CORE;
use crate::bench::now;
use crate::bench::peers::{installed, package};
use crate::bench::process::{Server, free_port};

/// As root it runs as this user and group, which have no more rights than anybody: PostgreSQL refuses root.
const NOBODY: &str = "65534";
const START_MAX: Duration = Duration::from_secs(30);
/// What is not as it is by default.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    // As docs/store.md says for a store that has a PostgreSQL to itself: memory is measured, too.
    "shared_buffers=64MB",
    "fsync=on",
    "synchronous_commit=on",
];

pub struct Postgres {
    pub server: Server,
    pub port: u16,
}

impl Postgres {
    /// Starts one beneath this folder, and waits until it answers.
    pub fn start(folder: &Path) -> Result<Postgres, String> {
        let (initdb, postgres) = (package("initdb", "postgresql")?, package("postgres", "postgresql")?);
        let ready = package("pg_isready", "postgresql")?;
        let home = folder.join("postgres");
        std::fs::create_dir_all(&home).map_err(|error| format!("{}: {error}", home.display()))?;
        let data = home.join("data").display().to_string();
        let as_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let mut before: Vec<String> = Vec::new();
        if as_root {
            installed(Command::new("chown").arg(format!("{NOBODY}:{NOBODY}")).arg(&home))?;
            let user = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
            before.extend(user.map(str::to_owned));
        }
        let made = before.iter().cloned().chain([initdb.display().to_string()]).collect::<Vec<_>>();
        let options = ["-D", &data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale"];
        installed(Command::new("env").args(made).args(options).current_dir(&home))?;
        let port = free_port()?;
        before.extend([
            postgres.display().to_string(),
            "-D".to_owned(),
            data,
            "-p".to_owned(),
            port.to_string(),
        ]);
        before.extend(SETTINGS.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
        let server = Server::start(CORE, Path::new("env"), &before, &folder.join("postgres.log"))?;
        let mut started = Postgres { server, port };
        let until = now() + START_MAX;
        let question = ["-q", "-h", "127.0.0.1", "-p", &port.to_string()];
        while !Command::new(&ready).args(question).status().is_ok_and(|status| status.success()) {
            if started.server.has_ended() || now() > until {
                return Err("PostgreSQL does not start".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(started)
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}
