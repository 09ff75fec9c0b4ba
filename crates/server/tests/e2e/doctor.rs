//! `tidegate doctor`, the real binary: what it finds of machines that are short of something.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tidegate_testkit::{Gate, Origin, Reply};

use crate::BINARY;

/// A folder with this configuration in it; gone with it.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, config: &str) -> Folder {
        let folder = Gate::folder(name);
        std::fs::write(folder.join("tidegate.toml"), config).unwrap();
        Folder(folder)
    }

    /// What the doctor says, after these words of a shell.
    fn doctor(&self, before: &str, arguments: &[&str]) -> Output {
        Command::new("sh")
            .args(["-c", &format!("{before} exec \"$0\" doctor \"$@\""), BINARY])
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The findings of a code, as JSON.
fn found<'a>(told: &'a Value, code: &str) -> Vec<&'a Value> {
    told["findings"].as_array().unwrap().iter().filter(|finding| finding["code"] == code).collect()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn config(endpoint: &str, more: &str) -> String {
    format!(
        "{more}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[upstream.app]\nendpoints = [\"{endpoint}\"]\n[[route]]\nname = \"all\"\nupstream = \"app\"\n"
    )
}

#[test]
fn tells_what_a_low_limit_of_files_costs() {
    let origin = Origin::start(|_| Reply::Status(200, "one".to_owned()));
    let folder = Folder::with("doctor-files", &config(&origin.address.to_string(), ""));
    let output = folder.doctor("ulimit -n 256;", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told = json(&output);
    let [finding] = found(&told, "files.limit")[..] else { panic!("{told:#}") };
    assert_eq!((&finding["severity"], &finding["seen"]), (&"breaks".into(), &"256".into()));
    assert!(finding["effect"].as_str().unwrap().contains("server.files"), "{finding}");
    assert!(finding["mend"][0].as_str().unwrap().starts_with("LimitNOFILE="), "{finding}");
    assert_eq!(found(&told, "endpoints.connect")[0]["severity"], "fine");
    let text = String::from_utf8(folder.doctor("ulimit -n 256;", &[]).stdout).unwrap();
    assert!(text.starts_with("breaks  files.limit"), "{text}");
    assert!(text.contains("mend   LimitNOFILE="), "{text}");
}

#[test]
fn a_server_that_is_away_breaks_and_nothing_is_tried_offline() {
    let port = tidegate_testkit::nobody();
    let folder = Folder::with("doctor-away", &config(&port.to_string(), ""));
    let output = folder.doctor("", &["--json"]);
    let told = json(&output);
    assert_eq!(output.status.code(), Some(1), "{told:#}");
    let [finding] = found(&told, "endpoints.connect")[..] else { panic!("{told:#}") };
    assert_eq!(finding["severity"], "breaks");
    assert!(finding["seen"].as_str().unwrap().contains(&port.to_string()), "{finding}");
    assert!(found(&json(&folder.doctor("", &["--json", "--offline"])), "endpoints.connect").is_empty());
}

#[test]
fn a_bad_certificate_is_told_by_its_line_beside_what_is_found_of_the_machine() {
    let tls = "[[tls]]\ncert = \"cert.pem\"\nkey = \"key.pem\"";
    let folder = Folder::with("doctor-bad-tls", &config("127.0.0.1:9", tls));
    std::fs::write(folder.0.join("cert.pem"), "no certificate").unwrap();
    std::fs::write(folder.0.join("key.pem"), "no key").unwrap();
    let output = folder.doctor("", &["--json"]);
    assert_eq!(output.status.code(), Some(2));
    let told = json(&output);
    let seen = found(&told, "config.file")[0]["seen"].as_str().unwrap();
    assert!(seen.contains("tidegate.toml:2") && seen.contains("cert.pem"), "{seen}");
    assert!(!found(&told, "files.limit").is_empty(), "{told:#}");
}

#[test]
fn a_certificate_that_is_over_and_a_key_that_all_may_read_are_found() {
    use std::os::unix::fs::PermissionsExt as _;

    let tls = "[[tls]]\ncert = \"cert.pem\"\nkey = \"key.pem\"";
    let listen = "[listen]\nhttps = [\"127.0.0.1:0\"]\n";
    let text = config("127.0.0.1:9", tls).replace("[listen]\nhttp = [\"127.0.0.1:0\"]\n", listen);
    let folder =
        Folder::with("doctor-tls", &text.replace("name = \"all\"", "name = \"all\"\nhost = \"b.example\""));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut certificate = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    certificate.not_before = rcgen::date_time_ymd(2020, 1, 1);
    certificate.not_after = rcgen::date_time_ymd(2021, 1, 1);
    std::fs::write(folder.0.join("cert.pem"), certificate.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.0.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::set_permissions(folder.0.join("key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let told = json(&folder.doctor("", &["--json", "--offline"]));
    for (code, severity, words) in [
        ("tls.expiry", "breaks", "ended"),
        ("tls.key-file", "hurts", "0644"),
        ("tls.hosts", "hurts", "b.example"),
        ("tls.chain", "note", "itself"),
    ] {
        let [finding] = found(&told, code)[..] else { panic!("{code}: {told:#}") };
        assert_eq!(finding["severity"], severity, "{finding}");
        assert!(finding["seen"].as_str().unwrap().contains(words), "{finding}");
    }
    // One that is ordered is not missing.
    let file = folder.0.join("tidegate.toml");
    let acme = "[store]\nurl = \"sqlite:data\"\n[acme]\nterms_agreed = true\ndomains = [\"b.example\"]\n";
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + acme).unwrap();
    let told = json(&folder.doctor("", &["--json", "--offline"]));
    assert_eq!(found(&told, "config.file")[0]["severity"], "fine", "{told:#}");
    assert!(found(&told, "tls.hosts").is_empty(), "{told:#}");
}

#[test]
fn the_disk_of_the_store_is_measured_and_left_as_it_was() {
    let folder = Folder::with("doctor-disk", &config("127.0.0.1:9", "[store]\nurl = \"sqlite:data\""));
    let told = json(&folder.doctor("", &["--json"]));
    let [sync] = found(&told, "disk.sync")[..] else { panic!("{told:#}") };
    assert!(sync["seen"].as_str().unwrap().contains("an fsync takes"), "{sync}");
    assert!(
        !found(&told, "disk.space").is_empty() && !found(&told, "disk.filesystem").is_empty(),
        "{told:#}"
    );
    let left: Vec<_> =
        std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["tidegate.toml"]);
}

#[test]
fn a_store_in_memory_and_on_a_full_disk_breaks() {
    let memory = std::path::Path::new("/dev/shm").join(format!("tidegate-doctor-{}", std::process::id()));
    std::fs::create_dir_all(&memory).unwrap();
    let store = format!("[store]\nurl = \"sqlite:{}\"", memory.display());
    let folder = Folder::with("doctor-shm", &config("127.0.0.1:9", &store));
    let told = json(&folder.doctor("", &["--json"]));
    std::fs::remove_dir_all(&memory).unwrap();
    let [finding] = found(&told, "disk.filesystem")[..] else { panic!("{told:#}") };
    assert_eq!(finding["severity"], "breaks", "{finding}");
    // No device takes a directory: nothing can be written there, whoever asks.
    let store = "[store]\nurl = \"sqlite:/proc/self/fdinfo/data\"";
    let folder = Folder::with("doctor-full", &config("127.0.0.1:9", store));
    let told = json(&folder.doctor("", &["--json"]));
    assert_eq!(found(&told, "disk.access")[0]["severity"], "breaks", "{told:#}");
}

#[test]
fn a_process_that_runs_is_looked_at_instead_of_ones_own() {
    let folder = Folder::with("doctor-pid", &config("127.0.0.1:9", ""));
    let pid = std::process::id().to_string();
    let told = json(&folder.doctor("ulimit -n 200;", &["--json", "--offline", "--pid", &pid]));
    assert_ne!(found(&told, "files.limit")[0]["seen"], "200");
    let output = folder.doctor("", &["--pid", "4194305"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no process"), "{output:?}");
}

#[test]
fn without_a_configuration_the_machine_is_looked_at_alone() {
    let folder = Folder::with("doctor-alone", "");
    std::fs::remove_file(folder.0.join("tidegate.toml")).unwrap();
    let told = json(&folder.doctor("", &["--json"]));
    assert_eq!(found(&told, "config.file")[0]["severity"], "note");
    assert!(!found(&told, "files.limit").is_empty());
    // One that was named must be there.
    assert_eq!(folder.doctor("", &["-c", "other.toml"]).status.code(), Some(2));
}

#[test]
fn postgresql_and_redis_are_asked() {
    let postgres = tidegate_testkit::Postgres::shared();
    let redis = tidegate_testkit::Redis::start("doctor");
    let more = format!("[store]\nurl = \"{}\"\n[redis]\nurl = \"{}\"", postgres.database(), redis.url());
    let folder = Folder::with("doctor-servers", &config("127.0.0.1:9", &more));
    let told = json(&folder.doctor("", &["--json"]));
    for code in ["postgres.reach", "postgres.connections", "redis.reach", "redis.eviction"] {
        assert_eq!(found(&told, code).len(), 1, "{code}: {told:#}");
        assert_ne!(found(&told, code)[0]["severity"], "breaks", "{told:#}");
    }
}
