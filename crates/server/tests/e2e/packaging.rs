//! What a package holds works: its configuration serves, its unit names what is there, its pages and completions are made, and the
//! manifests fit each other and what they configure.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_testkit::Gate;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{BINARY, control};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The value of a key of the systemd unit.
fn of_unit(key: &str) -> String {
    let unit = read("packaging/systemd/tidegate.service");
    let begin = format!("{key}=");
    unit.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or_else(|| panic!("{key}")).to_owned()
}

/// The packaged configuration with places that a test may use.
fn packaged(folder: &Path) -> String {
    read("packaging/etc/tidegate.toml")
        .replace("0.0.0.0:80", "127.0.0.1:0")
        .replace(", \"[::]:80\"", "")
        .replace("127.0.0.1:8090", "127.0.0.1:0")
        .replace("/run/tidegate/control.sock", &folder.join("control.sock").display().to_string())
        .replace("/var/log/tidegate", &folder.display().to_string())
}

#[test]
fn the_packaged_configuration_serves_and_is_ready() {
    let config = packaged(&Gate::folder("packaged"));
    let mut gate = Gate::start_whole(BINARY, "packaged", &[], &config);
    assert!(control(&gate, "/readyz").starts_with("HTTP/1.0 200 "));
    let ready = |address: &str| {
        Command::new(BINARY).args(["status", "ready", "--control", address]).output().unwrap()
    };
    let said = ready(&gate.control.to_string());
    assert_eq!((said.status.code(), said.stdout.as_slice()), (Some(0), b"ready\n".as_slice()), "{said:?}");
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0), "{}", gate.said());
    assert_eq!(ready(&gate.control.to_string()).status.code(), Some(1));
}

#[test]
fn the_unit_runs_what_is_packaged_and_waits_for_the_drain() {
    assert_eq!(of_unit("ExecStart"), "/usr/bin/tidegate run -c /etc/tidegate/tidegate.toml");
    let manifest = read("crates/server/Cargo.toml");
    for place in ["\"usr/bin/tidegate\"", "\"etc/tidegate/tidegate.toml\""] {
        assert!(manifest.contains(place), "{place}");
    }
    let printed = Command::new(BINARY)
        .args(["check", "--print", "-c"])
        .arg(root().join("packaging/etc/tidegate.toml"))
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let drain = printed.split("[drain]").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap().to_owned();
    let drain: u64 = drain.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{drain}"));
    assert!(of_unit("TimeoutStopSec").parse::<u64>().unwrap() > drain);
    assert_eq!(of_unit("RestartPreventExitStatus"), "2");
    for directory in ["StateDirectory", "LogsDirectory", "RuntimeDirectory", "CacheDirectory"] {
        assert_eq!(of_unit(directory), "tidegate");
    }
}

#[test]
fn man_pages_and_completions_are_made() {
    let folder = Gate::folder("manual");
    let made = Command::new(BINARY).args(["gen", "--manual"]).arg(&folder).status().unwrap();
    assert!(made.success());
    let page = std::fs::read_to_string(folder.join("man/tidegate-doctor.1")).unwrap();
    assert!(page.contains("offline"), "{page}");
    let bash = std::fs::read_to_string(folder.join("completions/tidegate.bash")).unwrap();
    let printed = Command::new(BINARY).args(["completions", "bash"]).output().unwrap();
    assert_eq!(printed.stdout, bash.as_bytes());
    // The shell itself must take them.
    let taken =
        Command::new("bash").arg("-n").arg(folder.join("completions/tidegate.bash")).status().unwrap();
    assert!(taken.success());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn manifest(name: &str) -> Yaml {
    let text = read(&format!("packaging/kubernetes/{name}.yaml"));
    let mut found = YamlLoader::load_from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(found.len(), 1, "{name}");
    found.remove(0)
}

/// Checks a configuration with the real binary, and tells what is in force by it.
fn checked(name: &str, config: &str) -> String {
    let folder = Gate::folder(name);
    let file = folder.join("tidegate.toml");
    std::fs::write(&file, config).unwrap();
    let told = Command::new(BINARY)
        .args(["check", "--print", "-c"])
        .arg(&file)
        .env("TIDEGATE_STORE", "postgres://tidegate@127.0.0.1:9/app")
        .env("TIDEGATE_REDIS", "redis://127.0.0.1:9")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(told.status.success(), "{name}: {}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}

#[test]
fn every_configuration_of_the_pages_about_deploying_is_good() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("docs/deploy")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            count += 1;
            checked(&format!("deploy-{count}"), block);
        }
    }
    assert!(count >= 2, "{count}");
}

#[test]
fn the_manifests_of_kubernetes_fit_each_other_and_the_drain() {
    let (deployment, service) = (manifest("deployment"), manifest("service"));
    let pod = &deployment["spec"]["template"];
    let label = "app.kubernetes.io/name";
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
        &manifest("poddisruptionbudget")["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(selector[label], pod["metadata"]["labels"][label]);
    }
    let target = &manifest("horizontalpodautoscaler")["spec"]["scaleTargetRef"];
    assert_eq!(target["name"], deployment["metadata"]["name"]);
    let container = &pod["spec"]["containers"][0];
    let port = &container["ports"][0];
    assert_eq!(service["spec"]["ports"][0]["targetPort"], port["name"]);

    let config = manifest("configmap");
    assert_eq!(pod["spec"]["volumes"][0]["configMap"]["name"], config["metadata"]["name"]);
    let text = config["data"]["tidegate.toml"].as_str().unwrap();
    let effective = checked("kubernetes", text);
    assert!(
        effective.contains(&format!("0.0.0.0:{}", port["containerPort"].as_i64().unwrap())),
        "{effective}"
    );
    assert!(text.contains("127.0.0.1:8090"), "the probes ask where `tidegate status` does by itself");
    let drain = effective.split("[drain]").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap().to_owned();
    let drain: i64 = drain.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{drain}"));
    let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
    let most = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap();
    assert!(most >= before + drain + 5, "{most} is no longer than {before} and {drain}");

    let arguments: Vec<&str> = container["args"].as_vec().unwrap().iter().filter_map(Yaml::as_str).collect();
    assert_eq!(arguments[..2], ["run", "-c"]);
    let folder = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(Path::new(arguments[2]).parent().unwrap(), Path::new(folder));
    for probe in ["readinessProbe", "livenessProbe"] {
        let words = container[probe]["exec"]["command"].as_vec().unwrap();
        let words: Vec<&str> = words.iter().filter_map(Yaml::as_str).collect();
        assert_eq!(words[0], "/usr/bin/tidegate");
        // The command is one that there is: it fails for want of a Tidegate, not of its words (exit code 2).
        let address = tidegate_testkit::nobody().to_string();
        let told = Command::new(BINARY).args(&words[1..]).args(["--control", &address]).output().unwrap();
        assert_eq!(told.status.code(), Some(1), "{told:?}");
    }
}
