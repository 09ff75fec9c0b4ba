//! Point 10: access log, metrics, traces, refusals, explanations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::process::Command;

use serde_json::Value;
use tidegate_testkit::{Gate, Origin, Reply, ask, connect, nobody, read_answer, read_answer_or_end, until};

use crate::{BINARY, app, control, gate};

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "hello".into()))
}

/// Sends so many requests over one connection. Their statuses must be 200.
fn ask_often(gate: &Gate, count: usize, headers: &str) {
    let mut stream = connect(gate.address);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    for _ in 0..count {
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    }
}

/// The samples of the metrics: name and labels, and the value.
fn samples(gate: &Gate) -> BTreeMap<String, f64> {
    let text = control(gate, "/metrics");
    let body = text.split_once("\r\n\r\n").expect("HTTP").1;
    let samples = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    samples.collect()
}

#[test]
fn an_exchange_is_logged_counted_and_explained() {
    let origin = ok();
    let gate = gate("seen", &app(&[origin.address], "", ""));
    let id = ask(gate.address, "GET /seen?secret=1", "").header("x-request-id").to_owned();
    let explained = control(&gate, &format!("/explain/{id}?format=text"));
    for line in ["matched route `all`", "chosen by peak-ewma", "told the client 200", "ended: complete"] {
        assert!(explained.contains(line), "{line} in {explained}");
    }
    assert_eq!(samples(&gate)["tidegate_requests_total{route=\"all\",class=\"2xx\"}"], 1.0);
    until("the access log", || gate.access_log().contains(&id));
    let line: Value = serde_json::from_str(gate.access_log().lines().next().unwrap()).unwrap();
    for (name, expected) in [
        ("method", "GET"),
        ("path", "/seen"),
        ("host", "test"),
        ("client", "127.0.0.1"),
        ("route", "all"),
        ("tenant", "anonymous"),
        ("upstream", "app"),
        ("end", "complete"),
    ] {
        assert_eq!(line[name], expected, "{name} in {line}");
    }
    assert_eq!(
        (line["status"].as_u64(), line["tries"].as_u64(), line["bytes_out"].as_u64()),
        (Some(200), Some(1), Some(5))
    );
    assert!(line["duration_ms"].as_f64() >= line["upstream_ms"].as_f64(), "{line}");
}

#[test]
fn what_never_became_a_request_is_logged_as_such() {
    let gate = gate("unread", &app(&[ok().address], "", ""));
    let answer = tidegate_testkit::send(gate.address, b"NONSENSE\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    until("the access log", || !gate.access_log().is_empty());
    let line: Value = serde_json::from_str(gate.access_log().lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["method"], &line["path"], &line["status"]),
        (&"-".into(), &"".into(), &400.into()),
        "{line}"
    );
    assert_eq!(line["code"], "request.malformed");
}

/// A log that nobody reads: lines are dropped and counted, requests are not held up. Once it is read, every line is
/// whole, and none is missing that was not counted.
#[test]
fn a_stalled_log_reader_costs_lines_and_never_requests() {
    const REQUESTS: usize = 1500;
    let origin = ok();
    let pipe = Gate::folder("stalled").join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let config = format!(
        "{}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"{}\"\nbuffer = \"64KiB\"\n",
        app(&[origin.address], "", ""),
        pipe.display()
    );
    let gate = Gate::start_whole(BINARY, "stalled", &[], &config);
    // More than a pipe and the buffer hold together.
    ask_often(&gate, REQUESTS, "");
    let dropped = || samples(&gate)["tidegate_access_log_dropped_total"] as usize;
    until("lines are dropped", || dropped() > 0);
    let mut reader = std::fs::File::open(&pipe).unwrap();
    let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    until("every line is there or counted", || {
        // The gate holds the pipe open for writing: a read blocks only while there is nothing, and there is until then.
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        if lines + dropped() >= REQUESTS {
            return true;
        }
        let length = reader.read(&mut buffer).unwrap();
        text.extend_from_slice(&buffer[..length]);
        false
    });
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count() + dropped(), REQUESTS);
    for line in text.lines() {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["status"], 200);
    }
}

#[test]
fn the_access_log_is_opened_again_on_a_signal() {
    let origin = ok();
    let gate = gate("reopened", &app(&[origin.address], "", ""));
    let id = |answer: tidegate_testkit::Answer| answer.header("x-request-id").to_owned();
    let before = id(ask(gate.address, "GET /", ""));
    until("the first line", || gate.access_log().contains(&before));
    let folder = gate.file.parent().unwrap();
    std::fs::rename(folder.join("access.log"), folder.join("access.log.1")).unwrap();
    gate.signal("-USR1");
    // The signal is taken when it comes: until then lines go to the old file, and none is lost.
    let mut sent = vec![before];
    until("a line in the new file", || {
        sent.push(id(ask(gate.address, "GET /", "")));
        !gate.access_log().is_empty()
    });
    until("all lines", || {
        let both = std::fs::read_to_string(folder.join("access.log.1")).unwrap() + &gate.access_log();
        sent.iter().all(|id| both.contains(id)) && both.lines().count() == sent.len()
    });
}

#[test]
fn a_thousand_tenants_are_twenty_lines_and_their_sum_is_whole() {
    let origin = ok();
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n[plan.default]\nrate = { limit = \"1/m\", burst = 3 }\n";
    let config = format!("{}{tenants}", app(&[origin.address], "", ""));
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let gate = Gate::start_listening(BINARY, "many-tenants", listen, &config);
    let mut stream = connect(gate.address);
    let mut send = |tenant: &str| {
        write!(stream, "GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: {tenant}\r\n\r\n").unwrap();
        read_answer(&mut stream).status
    };
    (0..1000).for_each(|number| assert_eq!(send(&format!("t{number}")), 200));
    let statuses: Vec<u16> = (0..5).map(|_| send("busy")).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let samples = samples(&gate);
    let family = |name: &str| {
        let prefix = format!("{name}{{");
        let found = samples.iter().filter(|(sample, _)| sample.starts_with(&prefix));
        found.map(|(sample, value)| (sample.clone(), *value)).collect::<BTreeMap<_, _>>()
    };
    let (passed, refused) =
        (family("tidegate_tenant_requests_total"), family("tidegate_tenant_refused_total"));
    assert_eq!((passed.len(), refused.len()), (21, 21), "{passed:?}");
    assert_eq!((passed.values().sum::<f64>(), refused.values().sum::<f64>()), (1003.0, 2.0));
    assert_eq!(passed["tidegate_tenant_requests_total{tenant=\"busy\"}"], 3.0);
    assert_eq!(family("tidegate_requests_total").values().sum::<f64>(), 1005.0);
    assert_eq!(samples["tidegate_tenants"], 1001.0);
}

/// The rows of the first table of a page after this heading: their cells, without backticks.
fn table(page: &str) -> Vec<Vec<String>> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells =
        |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
    rows.map(cells).collect()
}

/// One that does all that it has metrics of, and has answered something of each kind; and what it stands before.
pub fn everything(name: &str) -> (Gate, Vec<Origin>) {
    let origins = [ok(), ok()];
    let config = app(
        &[origins[0].address, origins[1].address],
        "concurrency = 10\nshuffle_shard = 1",
        "cache = {}\nidempotency = {}",
    );
    let disk = Gate::folder(name).join("cache");
    let cache =
        format!("[cache]\nredis = {{}}\ndisk = {{ path = \"{}\", size = \"64MiB\" }}\n", disk.display());
    let redis = format!("{cache}[redis]\nurl = \"redis://{}\"\n", nobody());
    let files = "[upstream.site]\nfiles = \".\"\n[store]\nurl = \"sqlite:store\"\n";
    let nodes = "nodes = [\"127.0.0.1:7400\"]\nself = \"127.0.0.1:7400\"";
    let secret = "secret = \"0123456789abcdef0123456789abcdef\"";
    let cluster = format!("[cluster]\nlisten = \"127.0.0.1:0\"\n{nodes}\n{secret}\n");
    let acme = "[acme]\nterms_agreed = true\ndomains = [\"scraped.test\"]\n";
    let acme = format!("{acme}directory = \"https://{}/\"\n", nobody());
    let queue = "[queue.kept]\npull = true\n[[route]]\nname = \"later\"\npath = \"/later\"\nupstream = \"app\"\ndefer = \"always\"\nqueue = \"kept\"\n";
    let mirror = "[[route]]\nname = \"copied\"\npath = \"/copied\"\nupstream = \"app\"\nmirror = { upstream = \"site\" }\ncanary = { upstream = \"site\" }\n";
    let otlp = format!("[otlp]\nendpoint = \"http://{}\"\n", nobody());
    let oidc = format!(
        "[oidc.web]\nissuer = \"https://{}\"\nclient_id = \"gate\"\nclient_secret = \"s\"\n\
         secret = \"0123456789abcdef0123456789abcdef\"\n",
        nobody()
    );
    let long = Origin::scripted(|visit| {
        visit.read_body()?;
        let text = "said again, ".repeat(200);
        let head = format!("Content-Type: text/plain\r\nContent-Length: {}\r\n", text.len());
        visit.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n{text}"))
    });
    let coded = format!(
        "[upstream.long]\nendpoints = [\"{}\"]\n[[route]]\nname = \"long\"\npath = \"/long\"\nupstream = \"long\"\ncompress = {{}}\n",
        long.address
    );
    let gate =
        gate(name, &format!("{config}{files}{redis}{cluster}{queue}{mirror}{coded}{acme}{otlp}{oidc}"));
    let looked = "tidegate_certificate_expiry_timestamp_seconds{name=\"scraped.test\"}";
    until("certificates are looked after", || gate.metric(looked).is_some());
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    assert_eq!(ask(gate.address, "GET /later", "").status, 202);
    assert_eq!(ask(gate.address, "GET /%zz", "").status, 400);
    let mut stream = connect(gate.address);
    stream
        .write_all(b"GET /long HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
        .unwrap();
    let packed = String::from_utf8_lossy(&read_answer_or_end(&mut stream)).to_lowercase();
    assert!(packed.contains("content-encoding: gzip"), "{packed}");
    let keyed = "Idempotency-Key: k\r\nContent-Length: 0\r\n";
    assert_eq!(ask(gate.address, "POST /", keyed).status, 200);
    let state = control(&gate, "/status");
    for part in ["redis", "store", "cluster", "certificates"] {
        assert!(!state.contains(&format!("\"{part}\":null")), "{part} is told, as it is described: {state}");
    }
    let [first, second] = origins;
    (gate, vec![first, second, long])
}

#[test]
fn what_is_scraped_is_what_is_documented() {
    let page = include_str!("../../../../docs/metrics.md").split("\n## ").next().unwrap();
    let (gate, _origins) = everything("scraped");
    let label = |sample: &str| -> Vec<String> {
        let Some((_, labels)) = sample.split_once('{') else { return Vec::new() };
        let names = labels.split("\",").map(|label| label.split('=').next().unwrap().to_owned());
        names.filter(|name| name != "le" && name != "sum").collect()
    };
    let mut told = BTreeMap::<String, BTreeSet<Vec<String>>>::new();
    for sample in samples(&gate).keys() {
        let mut name = sample.split('{').next().unwrap();
        for part in ["_bucket", "_sum", "_count"] {
            name = name.strip_suffix(part).filter(|name| name.ends_with("_seconds")).unwrap_or(name);
        }
        told.entry(name.to_owned()).or_default().insert(label(sample));
    }
    let mut documented = BTreeMap::new();
    for row in table(page) {
        let labels =
            row[2].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        documented.insert(row[0].clone(), BTreeSet::from([labels]));
    }
    assert_eq!(told, documented);
}

#[test]
fn a_trace_is_continued_or_begun() {
    let origin = ok();
    let gate = gate("trace", &app(&[origin.address], "", ""));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (sent, kept) in [
        (Some(parent), true),
        (None, false),
        (Some("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"), false),
        (Some("nonsense"), false),
    ] {
        let header = sent.map(|sent| format!("traceparent: {sent}\r\ntracestate: vendor=1\r\n"));
        assert_eq!(ask(gate.address, "GET /", &header.unwrap_or_default()).status, 200);
        let head = origin.recorded().pop().unwrap().head.to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let made = field("traceparent").expect("there always is one");
        let parts: Vec<&str> = made.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{made}");
        assert_eq!(parts[1] == "4bf92f3577b34da6a3ce929d0e0e4736", kept, "{sent:?}: {made}");
        assert_ne!(parts[2], "00f067aa0ba902b7", "a span of its own");
        assert_eq!(field("tracestate"), kept.then_some("vendor=1"), "{sent:?}");
    }
}

#[test]
fn a_trusted_peer_that_asks_is_told_where_the_time_went() {
    let origin = ok();
    let config = app(&[origin.address], "", "");
    let asks = "Tidegate-Server-Timing: 1\r\n";
    let open = gate("timing", &config);
    assert_eq!(ask(open.address, "GET /", asks).header("server-timing"), "", "not for everybody");
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let gate = Gate::start_listening(BINARY, "timing-trusted", listen, &config);
    assert_eq!(ask(gate.address, "GET /", "").header("server-timing"), "", "not unasked");
    let told = ask(gate.address, "GET /", asks).header("server-timing").to_owned();
    let names: Vec<&str> = told.split(", ").map(|part| part.split(";dur=").next().unwrap()).collect();
    assert_eq!(names, ["tidegate", "gate", "upstream"], "{told}");
    assert!(!origin.recorded().pop().unwrap().head.to_ascii_lowercase().contains("server-timing"));
}

#[test]
fn a_refusal_has_a_code_an_id_and_the_form_that_the_client_reads() {
    let gate = gate("refusal", &app(&[ok().address], "", "path = \"/only/\""));
    let answer = ask(gate.address, "GET /else", "Accept: application/json\r\n");
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    let id = answer.header("x-request-id");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert!(answer.header("proxy-status").starts_with("tidegate; error="), "{}", answer.head);
    for (name, expected) in [
        ("type", "urn:tidegate:refusal:route.not-found"),
        ("code", "route.not-found"),
        ("instance", &format!("urn:tidegate:request:{id}")),
        ("request_id", id),
        ("blame", "client"),
        ("retry", "never"),
    ] {
        assert_eq!(problem[name], expected, "{name} in {problem}");
    }
    assert_eq!((answer.status, &problem["status"]), (404, &404.into()));
    let page = ask(gate.address, "GET /else", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.head);
    assert!(
        page.body.contains("route.not-found") && page.body.contains(page.header("x-request-id")),
        "{}",
        page.body
    );
    let grpc = ask(gate.address, "POST /else", "Content-Type: application/grpc\r\nContent-Length: 0\r\n");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, "12"), "{}", grpc.head);
}

#[test]
fn every_code_has_a_page_that_explain_prints() {
    let explain = |code: &str| Command::new(BINARY).args(["explain", code]).output().unwrap();
    for kind in tidegate_model::refusal::KINDS {
        let out = explain(kind.code);
        let page = String::from_utf8(out.stdout).unwrap();
        assert!(
            out.status.success() && page.starts_with(&format!("# {}\n", kind.code)),
            "{}: {page}",
            kind.code
        );
        for part in
            [&kind.status.to_string(), "**What happened.**", "**What to look at.**", "**How to mend it.**"]
        {
            assert!(page.contains(part), "{part} in the page of {}", kind.code);
        }
    }
    let wrong = explain("limit.rat");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("did you mean `limit.rate`?"));
    let list = Command::new(BINARY).arg("explain").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(tidegate_model::refusal::KINDS.iter().all(|kind| list.contains(kind.code)), "{list}");
}

#[test]
fn an_explanation_has_waits_tries_choices_and_what_decided() {
    let origin = Origin::start(|path| match path {
        "/slow" => Reply::After(std::time::Duration::from_millis(150)),
        _ => Reply::Status(200, String::new()),
    });
    let upstream = "balance = \"round-robin\"\nconcurrency = 1\nwaiting = { limit = 5, wait = \"60s\" }\noutlier = { consecutive = 0 }";
    let tenants = "[tenants]\nfrom = [{ address = \"client\" }]\n[plan.default]\nrate = \"100/s\"\n";
    let config = app(&[nobody(), origin.address], upstream, "retry = { tries = 3 }");
    let gate = gate("explained", &format!("{config}{tenants}"));
    // Every other request goes to the one that refuses connections first; of these, one waits for the slow one.
    let mut told = String::new();
    until("an exchange that waited and was tried twice", || {
        let slow_ones = || origin.recorded().iter().filter(|one| one.head.starts_with("GET /slow")).count();
        let (before, mut slow) = (slow_ones(), connect(gate.address));
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until("the slow one is there", || slow_ones() > before);
        let id = ask(gate.address, "GET /", "").header("x-request-id").to_owned();
        assert_eq!(read_answer(&mut slow).status, 200);
        told = control(&gate, &format!("/explain/{id}?format=text"));
        told.contains("waited ") && told.contains("try 2 to")
    });
    let mut rest = told.as_str();
    for step in [
        "matched route `all`",
        "identified as tenant `ip:127.0.0.1` by address",
        "let through by limit `default`: ",
        "try 1 to ",
        "chosen by round-robin",
        "try 1 failed: upstream.connect",
        "try 2 to ",
        "try 2 was answered with 200",
        "told the client 200",
        "ended: complete",
    ] {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} in its place in {told}"));
        rest = &rest[at..];
    }
    let id = told.split_once("\r\n\r\n").unwrap().1.split(' ').next().unwrap();
    let json = control(&gate, &format!("/explain/{id}"));
    let json: Value = serde_json::from_str(json.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&json["tries"], &json["status"], &json["tenant"]),
        (&2.into(), &200.into(), &"ip:127.0.0.1".into())
    );
    assert!(
        json["gate_ms"].as_f64().unwrap() > 0.0 && json["steps"].as_array().unwrap().len() >= 8,
        "{json}"
    );
}

/// What the timeline of an exchange says, for a terminal.
fn explained(gate: &Gate, answer: &tidegate_testkit::Answer) -> String {
    control(gate, &format!("/explain/{}?format=text", answer.header("x-request-id")))
}

#[test]
fn an_explanation_has_the_rule_that_refused_and_what_was_behind_a_failure() {
    let plan = "[plan.default]\nrate = { limit = \"1/m\", burst = 1 }\n";
    let gate = gate("why", &format!("{}{plan}", app(&[nobody()], "", "")));
    let failed = ask(gate.address, "GET /", "");
    let told = explained(&gate, &failed);
    for part in [
        "what went wrong: Connection refused",
        "try 1 failed: upstream.connect",
        "refused: upstream.connect: ",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(!failed.body.contains("Connection refused"), "the client is told one thing: {}", failed.body);
    let told = explained(&gate, &ask(gate.address, "GET /", ""));
    for part in ["limit `default` has nothing left", "refused: limit.rate: "] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

#[test]
fn a_storm_of_refusals_pushes_no_failure_out_of_memory() {
    let plan = "[plan.default]\nrate = { limit = \"1/m\", burst = 1 }\n";
    let config = format!(
        "{}{plan}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\nremarkable = 10\n",
        app(&[nobody()], "", "").replace("workers = 2", "workers = 1")
    );
    let gate = Gate::start_whole(BINARY, "storm", &[], &config);
    let failed = ask(gate.address, "GET /", "");
    assert_eq!(failed.status, 502);
    let first = ask(gate.address, "GET /", "");
    assert_eq!(first.status, 429);
    (0..10).for_each(|_| assert_eq!(ask(gate.address, "GET /", "").status, 429));
    assert!(explained(&gate, &failed).contains("refused: upstream.connect"));
    assert!(explained(&gate, &first).contains("control.forgotten"));
}
