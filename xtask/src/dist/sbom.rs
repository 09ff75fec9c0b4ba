//! What the binary is made of, as CycloneDX 1.5: each crate that is linked into it or runs while it is built, with its licence, its
//! digest and what it needs. From `cargo metadata` and `Cargo.lock` alone; the same commit gives the same bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Writes it.
///
/// # Errors
/// What failed, in words.
pub fn write(root: &Path, target: &str, to: &Path, epoch: &str) -> Result<(), String> {
    let told = super::output(
        Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
            .current_dir(root),
    )?;
    let metadata: Value = serde_json::from_str(&told).map_err(|error| format!("cargo metadata: {error}"))?;
    let lock =
        std::fs::read_to_string(root.join("Cargo.lock")).map_err(|error| format!("Cargo.lock: {error}"))?;
    let bom = of(&metadata, &checksums(&lock), &moment(epoch))?;
    let text = format!("{bom:#}\n");
    std::fs::write(to, text).map_err(|error| format!("{}: {error}", to.display()))
}

/// The digests of packages, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let begin = format!("{key} = \"");
        block.lines().find_map(|line| line.strip_prefix(&begin)?.strip_suffix('"').map(str::to_owned))
    };
    let read = |block| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?));
    lock.split("[[package]]").filter_map(read).collect()
}

fn of(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    timestamp: &str,
) -> Result<Value, String> {
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let is_ours = |package: &&&Value| package["name"] == "tidegate";
    let main = packages.values().find(is_ours).ok_or("there is no package `tidegate`")?;
    let needs = needs(metadata);
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut ahead: VecDeque<&str> = main["id"].as_str().into_iter().collect();
    while let Some(id) = ahead.pop_front() {
        if reached.insert(id) {
            ahead.extend(needs.get(id).into_iter().flatten());
        }
    }
    let mut components = Vec::new();
    for id in reached.iter().filter(|id| main["id"] != **id) {
        let package = packages.get(id).ok_or_else(|| format!("{id} is needed and not described"))?;
        components.push(component(package, "library", checksums));
    }
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let reference = |id: &&str| packages.get(id).map(|package| purl(package));
    let mut dependencies: Vec<Value> = reached
        .iter()
        .map(|id| {
            let mut on: Vec<_> = needs.get(id).into_iter().flatten().filter_map(reference).collect();
            on.sort();
            on.dedup();
            json!({"ref": reference(id), "dependsOn": on})
        })
        .collect();
    dependencies.sort_by_key(|one| one["ref"].to_string());
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": timestamp, "component": component(main, "application", checksums)},
        "components": components,
        "dependencies": dependencies,
    }))
}

/// What each package needs, but for its own tests.
fn needs(metadata: &Value) -> BTreeMap<&str, Vec<&str>> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in list(&metadata["resolve"]["nodes"]) {
        let Some(id) = one["id"].as_str() else { continue };
        let mut on = Vec::new();
        for need in list(&one["deps"]) {
            if list(&need["dep_kinds"]).any(|kind| kind["kind"] != "dev") {
                on.extend(need["pkg"].as_str());
            }
        }
        needs.insert(id, on);
    }
    needs
}

fn component(package: &Value, kind: &str, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let mut told = json!({
        "type": kind,
        "bom-ref": purl(package),
        "name": text("name"),
        "version": text("version"),
        "purl": purl(package),
    });
    if let Value::String(licence) = &package["license"] {
        // Older manifests separate alternatives by a slash.
        told["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    if let Some(digest) = checksums.get(&(text("name"), text("version"))) {
        told["hashes"] = json!([{"alg": "SHA-256", "content": digest}]);
    }
    if let Value::String(place) = &package["repository"] {
        told["externalReferences"] = json!([{"type": "vcs", "url": place}]);
    }
    told
}

fn purl(package: &Value) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", text("name"), text("version").replace('+', "%2B"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Seconds of the Unix epoch as RFC 3339, by the civil calendar's arithmetic.
fn moment(epoch: &str) -> String {
    let seconds: i64 = epoch.trim().parse().unwrap_or(0);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March of year 0; eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let part = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * part + 2) / 5 + 1, if part < 10 { part + 3 } else { part - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_told_and_what_only_tests_need_is_not() {
        let package = |name: &str, licence: &str| json!({"id": name, "name": name, "version": "1.0.0", "license": licence});
        let need = |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("tidegate", "Apache-2.0"), package("a", "MIT/Apache-2.0"), package("b", "MIT"), package("t", "MIT")],
            "resolve": {"nodes": [
                {"id": "tidegate", "deps": [need("a", None), need("t", Some("dev"))]},
                {"id": "a", "deps": [need("b", Some("build"))]},
                {"id": "b", "deps": []},
                {"id": "t", "deps": [need("b", None)]},
            ]},
        });
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n";
        let bom = of(&metadata, &checksums(lock), "2026-01-01T00:00:00Z").unwrap();
        let names: Vec<_> = list(&bom["components"]).map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bom["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bom["components"][0]["hashes"][0]["content"], "abc");
        assert_eq!(bom["components"][1]["hashes"], Value::Null);
        assert_eq!(bom["dependencies"][2]["dependsOn"], json!(["pkg:cargo/a@1.0.0"]));
        assert_eq!(bom["metadata"]["component"]["type"], "application");
    }

    #[test]
    fn this_workspace_has_one_and_each_reference_leads_somewhere() {
        let to = std::env::temp_dir().join(format!("tidegate-sbom-{}.json", std::process::id()));
        write(&crate::root(), "x86_64-unknown-linux-gnu", &to, "1700000000").unwrap();
        let bom: Value = serde_json::from_str(&std::fs::read_to_string(&to).unwrap()).unwrap();
        std::fs::remove_file(&to).unwrap();
        let known: BTreeSet<&str> = list(&bom["components"])
            .chain([&bom["metadata"]["component"]])
            .filter_map(|one| one["bom-ref"].as_str())
            .collect();
        assert!(known.iter().any(|name| name.starts_with("pkg:cargo/rustls@")), "{known:?}");
        assert!(!known.iter().any(|name| name.starts_with("pkg:cargo/proptest@")), "only tests need it");
        for one in list(&bom["dependencies"]) {
            assert!(known.contains(one["ref"].as_str().unwrap()), "{one}");
            assert!(list(&one["dependsOn"]).all(|on| known.contains(on.as_str().unwrap())), "{one}");
        }
        assert_eq!(bom["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn a_moment_is_told_by_the_calendar() {
        for (epoch, told) in [
            ("0", "1970-01-01T00:00:00Z"),
            ("951782400", "2000-02-29T00:00:00Z"),
            ("1767225599", "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(moment(epoch), told);
        }
    }
}
