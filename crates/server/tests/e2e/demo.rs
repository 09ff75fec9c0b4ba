//! Point 12: the demo does what it says, line by line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use tidegate_testkit::{ask, connect, signal, until};

use crate::BINARY;
use crate::running::DEFAULT_PORTS;

/// A line with curl: where to, what, with which header line.
fn request(line: &str) -> (std::net::SocketAddr, String, String) {
    let url = line.split("http://").nth(1).unwrap().split([' ', '\'']).next().unwrap();
    let (address, path) = url.split_once('/').unwrap();
    let header = line.split("-H '").nth(1).map(|rest| rest.split('\'').next().unwrap().to_owned() + "\r\n");
    (address.parse().unwrap(), format!("GET /{path}"), header.unwrap_or_default())
}

/// Runs a line as it stands, as somebody would who pastes it.
fn paste(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn each_line_that_the_demo_prints_does_what_it_says() {
    let _ports = DEFAULT_PORTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut child =
        Command::new(BINARY).arg("demo").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let told: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("Ctrl-C ends it")).collect();
    let folder = told
        .iter()
        .find_map(|line| line.split("configuration in ").nth(1))
        .expect("it tells where")
        .to_owned();
    assert!(Path::new(&folder).is_file(), "{folder}");
    let has_curl = Command::new("curl").arg("--version").output().is_ok_and(|out| out.status.success());
    let mut tried = Vec::new();
    for line in told.iter().filter_map(|line| line.strip_prefix("  ")) {
        let (command, promise) =
            line.split_once(" # ").map_or((line, ""), |(command, promise)| (command.trim(), promise.trim()));
        tried.push(promise.split([':', ',']).next().unwrap().to_owned());
        if promise.starts_with("server-sent events") {
            let (address, target, header) = request(command);
            let mut stream = connect(address);
            write!(stream, "{target} HTTP/1.1\r\nHost: demo\r\n{header}\r\n").unwrap();
            let mut read = String::new();
            // The second comes while the stream goes on.
            until("two events", || {
                let mut buffer = [0; 1024];
                let length = stream.read(&mut buffer).unwrap();
                assert!(length > 0, "it ends too soon: {read}");
                read.push_str(&String::from_utf8_lossy(&buffer[..length]));
                read.contains("data: event 0 ") && read.contains("data: event 1 ")
            });
            continue;
        }
        if !command.starts_with("curl -i ") {
            if command.starts_with("curl") && !has_curl {
                continue;
            }
            let said = paste(command);
            let expected: &[&str] = match promise {
                "" => {
                    &["matched route `failing`", "try 2 to", "took the ladder's next rung", "ended: complete"]
                }
                "endpoints, tenants, limits; --watch for more" => &["ENDPOINT", "acme", "greedy", "left"],
                "what a refusal means, and how to mend it" => &["# limit.rate"],
                other => panic!("nobody knows what `{other}` promises"),
            };
            for part in expected {
                assert!(said.contains(part), "{part} in {said}");
            }
            continue;
        }
        let (address, target, header) = request(command);
        let mut answer = ask(address, &target, &header);
        match promise {
            "served, with RateLimit fields" => {
                assert_eq!(answer.status, 200, "{}", answer.head);
                assert!(!answer.header("ratelimit").is_empty(), "{}", answer.head);
            }
            "401: no credential" => assert_eq!(answer.status, 401, "{}", answer.body),
            "429 most of the time: greedy alone" => {
                until("greedy is refused", || {
                    answer = ask(address, &target, &header);
                    answer.status == 429
                });
            }
            "504 after a second: the deadline" => assert_eq!(answer.status, 504, "{}", answer.body),
            "a fixed answer: the ladder's last rung" => {
                assert_eq!(
                    (answer.status, answer.body.contains("having a break")),
                    (503, true),
                    "{}",
                    answer.body
                );
            }
            other => panic!("nobody knows what `{other}` promises"),
        }
    }
    assert_eq!(tried.len(), 9, "{tried:?}");
    // What a newcomer reads is a part of it.
    let readme = include_str!("../../../../README.md").lines().filter(|line| line.starts_with("curl -i "));
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let port = told.iter().find_map(|line| line.strip_prefix("listening http ")).expect("it tells where");
    let printed: Vec<String> =
        told.iter().map(|line| squeezed(line).replace(port, "127.0.0.1:8080")).collect();
    assert!(readme.map(squeezed).all(|line| printed.contains(&line)), "{printed:#?}");
    // Its table tells what the tenants got.
    let row = lines.find(|line| line.contains(" ok, ") && !line.contains(" 0 ok")).expect("rows go on");
    assert_eq!(row.matches(" refused").count(), 3, "{row}");
    signal(child.id(), "-INT");
    lines.for_each(drop);
    let code = child.wait().unwrap().code();
    assert_eq!((code, Path::new(&folder).exists()), (Some(0), false), "nothing is left behind");
}
