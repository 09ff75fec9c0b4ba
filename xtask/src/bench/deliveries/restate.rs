//! Restate: its server, and the service that it calls, which tells this process what it got.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::journey::Desk;
use super::node::Packages;
use super::peers::{CORE, Place, local};
use crate::bench::client::Connection;
use crate::bench::now;
use crate::bench::peers::package;
use crate::bench::process::{Server, free_port};

const START_MAX: Duration = Duration::from_secs(60);

pub struct Started {
    pub server: Server,
    pub service: Server,
    pub ingress: SocketAddr,
}

/// The server's program: the package for this machine has it.
pub fn program(packages: &Packages) -> Result<PathBuf, String> {
    let scope = packages.path("node_modules/@restatedev");
    let found = std::fs::read_dir(&scope).into_iter().flatten().flatten();
    let mut found = found.map(|entry| entry.path().join("bin/restate-server")).filter(|path| path.is_file());
    found.next().ok_or_else(|| format!("not installed ({} has no server for this machine)", scope.display()))
}

/// Starts both, and tells the server of the service.
pub fn start(program: &Path, packages: &Packages, place: &Place<'_>) -> Result<Started, String> {
    let told = listen(place.desk)?;
    let port = free_port()?;
    let arguments =
        [packages.path("restate.mjs").display().to_string(), port.to_string(), told.port().to_string()];
    let service =
        Server::start("1", &package("node", "nodejs")?, &arguments, &place.folder.join("service.log"))?;
    let (ingress, admin, node) = (local(free_port()?), local(free_port()?), local(free_port()?));
    let arguments = [
        format!("RESTATE_INGRESS__BIND_ADDRESS={ingress}"),
        format!("RESTATE_ADMIN__BIND_ADDRESS={admin}"),
        format!("RESTATE_BIND_ADDRESS={node}"),
        "RESTATE_DISABLE_TELEMETRY=true".to_owned(),
        "RESTATE_LOG_FILTER=warn".to_owned(),
        "RESTATE_LISTEN_MODE=tcp".to_owned(),
        program.display().to_string(),
        "--base-dir".to_owned(),
        place.folder.join("data").display().to_string(),
    ];
    let server = Server::start(CORE, Path::new("env"), &arguments, &place.folder.join("output.log"))?;
    let mut started = Started { server, service, ingress };
    let until = now() + START_MAX;
    while let Err(why) = register(admin, port) {
        if started.server.has_ended() || now() > until {
            let said = std::fs::read_to_string(place.folder.join("output.log")).unwrap_or_default();
            return Err(format!("{why}; it said: {}", said.trim_end().lines().last().unwrap_or("nothing")));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(started)
}

fn register(admin: SocketAddr, port: u16) -> Result<(), String> {
    let body = format!("{{\"uri\":\"http://127.0.0.1:{port}\"}}");
    let request = format!(
        "POST /deployments HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = Connection::open(admin)?.exchange(request.as_bytes())?;
    if answer.is_good() { Ok(()) } else { Err(String::from_utf8_lossy(&answer.body).into_owned()) }
}

/// Tells the desk each line that the service writes: a delivery's beginning, and when it came.
fn listen(desk: &Arc<Desk>) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let desk = Arc::clone(desk);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some((payload, at)) = line.rsplit_once(' ')
                    && let Ok(at) = at.parse()
                {
                    desk.heard(payload.as_bytes(), at);
                }
            }
        }
    });
    Ok(address)
}
