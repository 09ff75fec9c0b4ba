//! `tidegate drill`: what may be asked for, and what becomes of it.

use std::process::{Command, Output};

use tidegate_testkit::{Gate, Origin, Reply};

use crate::{BINARY, nobody};

fn drill(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("drill").args(arguments).output().expect("the binary runs")
}

fn check(arguments: &[&str], code: i32, said: &str) {
    let output = drill(arguments);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(said), "{text}");
}

#[test]
fn a_host_elsewhere_is_not_touched_unless_its_owner_says_so() {
    check(&["capacity", "--url", "http://192.0.2.1/"], 2, "--i-own-this-host");
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_is_sent() {
    let url = "http://127.0.0.1:1/";
    check(&["capacity", "--url", "ftp://127.0.0.1/"], 2, "neither http:// nor https://");
    check(&["capacity", "--url", url, "--rate-max", "1000000"], 2, "--rate-max");
    check(&["capacity", "--url", url, "--header", "nothing"], 2, "--header");
    check(&["capacity", "--url", url, "--step", "1m", "--time", "30s"], 2, "--time");
}

#[test]
fn a_service_that_is_not_there_has_no_capacity() {
    let url = format!("http://{}/", nobody());
    check(&["capacity", "--url", &url, "--step", "200ms"], 1, "keeps up with no load");
}

#[test]
fn measures_a_service_and_leaves_a_page() {
    let origin = Origin::start(|_| Reply::Status(200, "ok".to_owned()));
    let report = Gate::folder("capacity").join("report.html");
    let (url, path) = (format!("http://{}/", origin.address), report.display().to_string());
    let arguments = ["capacity", "--url", &url, "--step", "200ms", "--rate-max", "30", "--report", &path];
    let output = drill(&arguments);
    let told = String::from_utf8_lossy(&output.stdout);
    // Whether it was judged depends on what else this machine does.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{told}");
    assert!(told.contains("asked/s") && told.contains("Run it at up to"), "{told}");
    let page = std::fs::read_to_string(&report).expect("there is a report");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"), "{page}");
    assert!(origin.recorded().iter().all(|request| request.head.starts_with("GET / HTTP/1.1\r\n")));
    std::fs::remove_file(report).expect("it was written");
}
