//! nginx as one that keeps nothing: it answers each request as if that were accepted, and lets its content go. No peer, but what HTTP alone
//! takes on the servers' core.

use std::path::Path;

use super::peers::{CORE, Running, Way, local};
use super::wires::http::Tidegate;
use crate::bench::process::{Server, free_port};

/// As long as what Tidegate answers.
const ANSWER: &str = r#"{"id":"00000000000000000000000000000000","status":"/_tidegate/deliveries/00000000000000000000000000000000"}"#;

/// Starts it beneath this folder.
pub fn start(program: &Path, folder: &Path) -> Result<Running, String> {
    let address = local(free_port()?);
    let text = format!(
        "# Tidegate's benchmark writes this file.
user root;
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
worker_rlimit_nofile 4096;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  default_type application/json;
  server {{
    listen {address} backlog=4096;
    location / {{ return 202 '{ANSWER}'; }}
  }}
}}
",
        folder = folder.display(),
    );
    let config = folder.join("nginx.conf");
    std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
    let arguments = ["-c".to_owned(), config.display().to_string()];
    let server = Server::start(CORE, program, &arguments, &folder.join("output.log"))?;
    // It says yes to whatever it is asked, also whether it is ready.
    let way = Way::Own(Box::new(Tidegate { public: address, control: address }));
    Ok(Running::of(server, way))
}
