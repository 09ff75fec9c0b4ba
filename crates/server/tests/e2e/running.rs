use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tidegate_testkit::{Gate, Origin, Reply, ask, connect, read_answer, until};

use crate::{BINARY, app, control, gate};

/// Waits for so many reloads to have taken effect.
pub fn until_reloads(gate: &Gate, count: u64) {
    let metric = format!("tidegate_config_reloads_total{{outcome=\"applied\"}} {count}\n");
    until("the reload", || control(gate, "/metrics").contains(&metric));
}

#[test]
fn fifty_reloads_under_load_fail_no_request() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let config = app(&[origin.address], "", "");
    let gate = gate("reloads", &config);
    let stop = AtomicBool::new(false);
    let served: usize = std::thread::scope(|scope| {
        let load = || {
            let mut stream = connect(gate.address);
            let mut count = 0;
            while !stop.load(Relaxed) {
                std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                assert_eq!(read_answer(&mut stream).status, 200);
                count += 1;
            }
            count
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(load)).collect();
        for number in 1..=50 {
            gate.rewrite(&format!("{config}\n[plan.p{number}]\nrate = \"1/s\"\n"));
            gate.signal("-HUP");
            until("the reload", || {
                let metrics = control(&gate, "/metrics");
                let value = metrics.lines().find_map(|line| {
                    line.strip_prefix("tidegate_config_reloads_total{outcome=\"applied\"} ")
                });
                value.and_then(|value| value.parse::<u64>().ok()).is_some_and(|value| value >= number)
            });
        }
        stop.store(true, Relaxed);
        workers.into_iter().map(|worker| worker.join().expect("no request failed")).sum()
    });
    assert!(served > 50, "{served}");
}

#[test]
fn a_bad_file_never_replaces_a_good_one() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let gate = gate("bad-reload", &app(&[origin.address], "", ""));
    gate.rewrite("this is not = = toml");
    gate.signal("-HUP");
    until("the refused reload", || {
        control(&gate, "/metrics").contains("reloads_total{outcome=\"refused\"} 1")
    });
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    assert!(control(&gate, "/status").contains("tidegate.toml:1:"), "the place is told");
}

#[test]
fn a_bad_configuration_ends_with_2_and_tells_where() {
    let folder = std::env::temp_dir().join(format!("tidegate-e2e-{}-bad", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("bad.toml");
    std::fs::write(&file, "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[route]]\nname = \"a\"\nupstream = \"ap\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n").unwrap();
    let out = Command::new(BINARY).args(["run", "--config"]).arg(&file).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("bad.toml:5:"), "{said}");
    assert!(said.contains("did you mean \"app\"?"), "{said}");
}

#[test]
fn sigterm_lets_an_exchange_finish_and_exits_0() {
    let origin = Origin::start(|_| Reply::After(std::time::Duration::from_millis(300)));
    let mut gate = gate("drain", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the request arrives", || origin.recorded().len() == 1);
    gate.signal("-TERM");
    assert_eq!(read_answer(&mut stream).status, 200);
    assert_eq!(gate.wait(), Some(0));
}
