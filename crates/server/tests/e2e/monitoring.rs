//! What is packaged for Prometheus and Grafana, with a real Prometheus that scrapes the real binary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tidegate_testkit::{Gate, Port, send, until};

/// A Prometheus that scrapes a gate and reads the packaged rules. It is killed when the test ends.
struct Prometheus {
    port: Port,
    child: Child,
}

fn packaged(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(file)
}

impl Prometheus {
    fn start(name: &str, gate: &Gate) -> Prometheus {
        let (port, folder) = (Port::take(), Gate::folder(name).join("prometheus"));
        let rules = packaged("prometheus/tidegate.rules.yml").canonicalize().unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}\nrule_files: [ \"{}\" ]\nscrape_configs: [ {{ job_name: tidegate, static_configs: [ {{ targets: [ \"{}\" ] }} ] }} ]\n",
            rules.display(),
            gate.control
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let program = std::env::var("PROMETHEUS").unwrap_or_else(|_| "prometheus".to_owned());
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new(&program)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={}", port.address))
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!(
                "`{program}` cannot be run ({error}): `apt-get install prometheus` brings it, as `cargo xtask test` does; PROMETHEUS names another"
            )
        });
        let server = Prometheus { port, child };
        until("Prometheus serves", || std::net::TcpStream::connect(server.port.address).is_ok());
        server
    }

    /// What it says at a path of its API, once it is ready.
    fn ask(&self, path: &str) -> Option<Value> {
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let answer = send(self.port.address, request.as_bytes());
        let told: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        (told["status"] == "success").then(|| told["data"].clone())
    }

    /// How many series a query has; `None`: it cannot be asked.
    fn series(&self, query: &str) -> Option<usize> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        self.ask(&format!("query?query={query}"))?["result"].as_array().map(Vec::len)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What each panel draws, as Grafana would ask for it.
fn drawn() -> Vec<String> {
    let board = std::fs::read_to_string(packaged("grafana/tidegate.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let lines = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = lines.map(|line| {
        let expr = line["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        expr.replace("$instance", ".*").replace("$route", ".*")
    });
    filled.collect()
}

/// The metrics that a text names.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':');
    // A package's file is called like one, but for its version.
    let is_metric =
        |rest: &str| rest.starts_with(|first: char| first.is_ascii_lowercase()) && !rest.contains("NEW");
    words.filter(move |word| word.strip_prefix("tidegate_").is_some_and(is_metric))
}

#[test]
fn every_panel_draws_and_every_rule_is_evaluated_of_what_is_really_scraped() {
    let (gate, _origins) = crate::seen::everything("prometheus");
    let prometheus = Prometheus::start("prometheus", &gate);
    let twice = "count_over_time(tidegate_build_info[5m]) >= 2";
    until("it has scraped twice", || prometheus.series(twice).is_some_and(|found| found > 0));
    let queries = drawn();
    assert!(queries.len() > 40, "{}", queries.len());
    for query in &queries {
        assert!(prometheus.series(query).is_some_and(|found| found > 0), "{query} draws nothing");
    }
    until("each rule was evaluated", || {
        let told = prometheus.ask("rules").unwrap_or_default();
        let groups = told["groups"].as_array().into_iter().flatten();
        let rules: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
        let failed: Vec<_> = rules.iter().filter(|rule| rule["health"] == "err").collect();
        assert!(failed.is_empty(), "{failed:#?}");
        rules.len() > 20 && rules.iter().all(|rule| rule["health"] == "ok")
    });
    let ratio = "tidegate:error_ratio:rate5m";
    until("what alerts read is recorded", || prometheus.series(ratio).is_some_and(|found| found > 0));
}

#[test]
fn metrics_that_pages_and_packages_name_are_scraped() {
    let (gate, _origins) = crate::seen::everything("named");
    let text = send(gate.control, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let scraped: BTreeSet<&str> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| named(line).next()).collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let pages = std::fs::read_dir(&docs).unwrap().map(|page| page.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|ending| ending == "md"));
    let packages = ["prometheus/tidegate.rules.yml", "grafana/tidegate.json"].map(packaged);
    let mut looked = 0;
    for file in pages.chain(packages) {
        let said = std::fs::read_to_string(&file).unwrap();
        for name in named(&said) {
            looked += 1;
            let is_there = scraped.contains(name)
                || scraped.contains(format!("{name}_bucket").as_str())
                // `tidegate_queue_…`: all that begin so.
                || scraped.iter().any(|one| name.ends_with('_') && one.starts_with(name));
            assert!(is_there, "{}: `{name}` is not scraped", file.display());
        }
    }
    assert!(looked > 300, "{looked}");
}
