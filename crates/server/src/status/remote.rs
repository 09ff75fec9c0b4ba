//! The control API of a Tidegate that runs, asked by commands.

use std::io::{Read as _, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

/// To connect to the control API, and between two pieces of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const BYTES_MAX: u64 = 64 << 20;

/// A control API, and how to be let in.
#[derive(Debug, Args)]
pub struct Remote {
    /// The control API: ADDRESS:PORT or unix:PATH
    #[arg(long, default_value = "127.0.0.1:8090", global = true)]
    control: String,
    /// A token of the control API
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
}

impl Remote {
    /// Where it is, as it was typed.
    #[must_use]
    pub fn control(&self) -> &str {
        &self.control
    }
}

/// Tells what a command came to, or what is wrong.
#[must_use]
pub fn said(told: Result<String, String>) -> ExitCode {
    match told {
        Ok(text) => {
            // It is done, whether anybody reads it or not.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// An answer as it is, where JSON is wanted, or what is made of it.
pub fn shown(answer: String, json: bool, made: impl FnOnce(&Value) -> String) -> Result<String, String> {
    if json {
        return Ok(answer + "\n");
    }
    let told = serde_json::from_str(&answer);
    told.map(|told| made(&told)).map_err(|error| format!("tidegate: the answer is not JSON: {error}"))
}

/// Asks the control API, and tells what it answers, or what is wrong. HTTP/1.0: the answer ends with the connection.
pub fn ask(remote: &Remote, method: &str, path: &str, body: &str) -> Result<String, String> {
    ask_for(remote, method, path, body, TIMEOUT)
}

/// The same, of what may take so long.
pub fn ask_for(
    remote: &Remote,
    method: &str,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<String, String> {
    let token =
        remote.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{token}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let failed = |error: std::io::Error| {
        format!(
            "tidegate: no control API answers at {}: {error}\nWhere it is: `[control] listen`, and `control http …` as `tidegate run` starts. `--control` tells another address.",
            remote.control
        )
    };
    let answer = match remote.control.strip_prefix("unix:") {
        Some(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(patience))?;
            exchange(stream, &request)
        }),
        None => connected(&remote.control).and_then(|stream| {
            stream.set_read_timeout(Some(patience))?;
            exchange(stream, &request)
        }),
    };
    let answer = answer.map_err(failed)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("tidegate: what answers at {} is no control API", remote.control))?;
    match head.split(' ').nth(1) {
        Some("200" | "201" | "202") => Ok(body.to_owned()),
        _ => {
            let problem: Value = serde_json::from_str(body).unwrap_or_default();
            let detail =
                problem["detail"].as_str().unwrap_or_else(|| head.lines().next().unwrap_or_default());
            // Whoever asks by command sends no header by hand.
            let help = match problem["code"].as_str() {
                Some("control.token") => {
                    "\n`--token` or TIDEGATE_TOKEN tells one that `[control] tokens` lists; over its unix socket (`--control unix:PATH`) none is needed"
                }
                Some("control.scope") => {
                    "\nA change needs the scope `write` in `[control] tokens`; handing in a delivery, `deliver` or `write`"
                }
                _ => "",
            };
            Err(format!("tidegate: {detail}{help}"))
        }
    }
}

/// A text as a part of a path, or as a parameter's value. What needs no escape stays readable: the audit log has paths.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

/// Connects to the first of its addresses that answers. One that says nothing at all is not waited for.
fn connected(control: &str) -> std::io::Result<TcpStream> {
    let mut failed = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in control.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn exchange(mut stream: impl std::io::Read + Write, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn what_needs_no_escape_stays_as_it_is() {
        for (text, expected) in
            [("mail-1_a.b~", "mail-1_a.b~"), ("a/b?c=d&e", "a%2fb%3fc%3dd%26e"), ("ü %", "%c3%bc%20%25")]
        {
            assert_eq!(encoded(text), expected);
        }
    }
}
