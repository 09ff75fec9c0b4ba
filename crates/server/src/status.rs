//! `tidegate status`: the state of a running Tidegate, from its control API.

use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

/// A question to the control API, in total.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const BYTES_MAX: u64 = 64 << 20;

/// What to tell, and of whom.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The control API: ADDRESS:PORT or unix:PATH
    #[arg(long, default_value = "127.0.0.1:8090", global = true)]
    control: String,
    /// A token of the control API
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
    /// The whole state as JSON
    #[arg(long)]
    json: bool,
    /// Again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Let an endpoint finish what it has and give it nothing new
    Drain(EndpointArgs),
    /// Use an endpoint again
    Enable(EndpointArgs),
    /// Do not use an endpoint
    Disable(EndpointArgs),
}

#[derive(Debug, Args)]
struct EndpointArgs {
    /// The upstream's name
    upstream: String,
    /// The endpoint's ADDRESS:PORT
    address: String,
}

/// Tells or changes the state.
#[must_use]
pub fn status(args: &StatusArgs) -> ExitCode {
    let told = match &args.change {
        Some(Change::Drain(endpoint)) => change(args, endpoint, "draining"),
        Some(Change::Enable(endpoint)) => change(args, endpoint, "enabled"),
        Some(Change::Disable(endpoint)) => change(args, endpoint, "disabled"),
        None => tell(args),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn change(args: &StatusArgs, endpoint: &EndpointArgs, state: &str) -> Result<(), String> {
    let path = format!("/upstreams/{}/endpoints/{}", endpoint.upstream, endpoint.address);
    ask(args, "POST", &path, &format!("{{\"state\": \"{state}\"}}"))?;
    println!("{} of {} is {state}", endpoint.address, endpoint.upstream);
    Ok(())
}

fn tell(args: &StatusArgs) -> Result<(), String> {
    loop {
        let answer = ask(args, "GET", "/status", "")?;
        if args.json {
            println!("{answer}");
        } else {
            let state: Value =
                serde_json::from_str(&answer).map_err(|error| format!("not a status: {error}"))?;
            if args.watch {
                print!("\x1b[2J\x1b[H");
            }
            print!("{}", table(&state));
        }
        let _ = std::io::stdout().flush();
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The state as a table for a terminal.
fn table(state: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut rows: Vec<Vec<String>> = vec![
        ["UPSTREAM", "ENDPOINT", "STATE", "ADMIN", "ACTIVE", "CONNS", "REQUESTS", "FAILED", "LATENCY"]
            .map(String::from)
            .to_vec(),
    ];
    for upstream in state["upstreams"].as_array().into_iter().flatten() {
        for endpoint in upstream["endpoints"].as_array().into_iter().flatten() {
            let latency = format!("{:.1} ms", endpoint["latency_ms"].as_f64().unwrap_or_default());
            let mut row = vec![text(&upstream["name"])];
            row.extend(
                ["address", "state", "admin", "active", "connections", "requests", "failures"]
                    .map(|key| text(&endpoint[key])),
            );
            row.push(latency);
            rows.push(row);
        }
    }
    let mut tenants: Vec<Vec<String>> =
        vec![["TENANT", "PLAN", "ADMITTED", "REFUSED", "IN FLIGHT"].map(String::from).to_vec()];
    for tenant in state["tenants"]["busiest"].as_array().into_iter().flatten() {
        tenants
            .push(["id", "plan", "admitted", "refused", "in_flight"].map(|key| text(&tenant[key])).to_vec());
    }
    let error = match &state["config"]["last_error"] {
        Value::String(error) => format!("\nthe last reload was refused:\n{error}\n"),
        _ => String::new(),
    };
    format!(
        "tidegate {}, configuration of {}, {} connections\n\n{}\n{}{error}",
        text(&state["version"]),
        text(&state["config"]["loaded_at"]),
        state["connections"],
        aligned(&rows),
        aligned(&tenants)
    )
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Asks the control API. HTTP/1.0: the answer ends with the connection.
fn ask(args: &StatusArgs, method: &str, path: &str, body: &str) -> Result<String, String> {
    let token =
        args.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{token}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let failed = |error: std::io::Error| format!("no Tidegate answers at {}: {error}", args.control);
    let answer = match args.control.strip_prefix("unix:") {
        Some(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            exchange(stream, &request)
        }),
        None => TcpStream::connect(&args.control).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            exchange(stream, &request)
        }),
    };
    let answer = answer.map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| "the answer is not HTTP".to_owned())?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => {
            let problem: Value = serde_json::from_str(body).unwrap_or_default();
            let detail =
                problem["detail"].as_str().unwrap_or_else(|| head.lines().next().unwrap_or_default());
            Err(format!("refused: {detail}"))
        }
    }
}

fn exchange(mut stream: impl std::io::Read + Write, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
