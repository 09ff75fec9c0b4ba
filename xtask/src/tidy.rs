//! Rules about files that a compiler does not know: who may import whom, how long a file may be, which words stay out.

use std::path::{Path, PathBuf};

mod used;

/// What each crate may depend on; dependencies point down only.
const MAY_USE: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("wire", &["model"]),
    ("upstream", &["wire", "model"]),
    ("store", &["wire", "model"]),
    ("proxy", &["upstream", "store", "wire", "model"]),
    ("dispatch", &["upstream", "store", "wire", "model"]),
    ("drill", &["wire", "model"]),
    ("server", &["drill", "dispatch", "proxy", "upstream", "store", "wire", "model"]),
    ("testkit", &[]),
];
/// Crates that only some may import: the sockets and TLS have one home.
const ONLY_IN: [(&str, &[&str]); 5] = [
    ("hyper", &["wire", "testkit"]),
    ("rustls", &["wire", "testkit"]),
    ("rusqlite", &["store"]),
    ("tokio_postgres", &["store"]),
    ("jsonwebtoken", &["proxy"]),
];
/// A file that is longer does not hold one thing.
const LINES_MAX: usize = 900;

/// Checks all files that git knows.
///
/// # Errors
/// All that is wrong, a line each.
pub fn check(root: &Path) -> Result<(), String> {
    let mut wrong = Vec::new();
    let sources = sources(root)?;
    for file in &sources {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        check_text(&name, &text, &mut wrong);
    }
    check_manifests(root, &mut wrong)?;
    check_pages(root, &mut wrong);
    used::check_dependencies(&sources, &mut wrong)?;
    used::check_links(root, &sources, &mut wrong)?;
    if wrong.is_empty() { Ok(()) } else { Err(format!("\n{}", wrong.join("\n"))) }
}

fn check_text(name: &str, text: &str, wrong: &mut Vec<String>) {
    let lines = text.lines().count();
    if name.ends_with(".rs") && lines > LINES_MAX {
        wrong.push(format!("{name}: {lines} lines, at most {LINES_MAX}"));
    }
    let own = name == "xtask/src/tidy.rs";
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        // ` | ` shows a line of a file as it was typed, in the expected text of a diagnostic.
        let shown = line.contains(" | ");
        if line.ends_with(' ') && !shown || line.contains('\t') && name.ends_with(".rs") {
            wrong.push(format!("{place}: a tab or a space at the end"));
        }
        if !own
            && name.ends_with(".rs")
            && ["todo!(", "unimplemented!(", "dbg!("].iter().any(|word| line.contains(word))
        {
            wrong.push(format!("{place}: unfinished"));
        }
        if !own && name.ends_with(".rs") {
            check_import(name, line, &place, wrong);
        }
    }
}

fn check_import(name: &str, line: &str, place: &str, wrong: &mut Vec<String>) {
    let Some(crate_name) = name.strip_prefix("crates/").and_then(|rest| rest.split('/').next()) else {
        return;
    };
    let test = name.contains("tests");
    for (import, allowed) in ONLY_IN {
        let uses = line.trim_start().starts_with(&format!("use {import}::"))
            || line.contains(&format!(" {import}::"));
        if uses && !test && !line.trim_start().starts_with("//") && !allowed.contains(&crate_name) {
            wrong.push(format!("{place}: `{import}` may be imported in {} alone", allowed.join(", ")));
        }
    }
}

/// The direction of dependencies, from the manifests.
fn check_manifests(root: &Path, wrong: &mut Vec<String>) -> Result<(), String> {
    for (name, may) in MAY_USE {
        let path = root.join("crates").join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let dependencies = text.split("[dev-dependencies]").next().unwrap_or_default();
        for line in dependencies.lines().filter_map(|line| line.strip_prefix("tidegate-")) {
            let used = line.split('.').next().unwrap_or_default();
            if !may.contains(&used) {
                wrong.push(format!("crates/{name}/Cargo.toml: `{name}` must not depend on `{used}`"));
            }
        }
    }
    Ok(())
}

/// Each refusal has a page, and each page a refusal.
fn check_pages(root: &Path, wrong: &mut Vec<String>) {
    let table = std::fs::read_to_string(root.join("crates/model/src/refusal.rs")).unwrap_or_default();
    let pages = std::fs::read_dir(root.join("docs/refusals")).into_iter().flatten().flatten();
    for page in pages {
        let name = page.file_name().to_string_lossy().into_owned();
        let code = name.trim_end_matches(".md");
        if !table.contains(&format!("\"{code}\"")) {
            wrong.push(format!("docs/refusals/{name}: there is no such refusal"));
        }
    }
}

/// The sources and documents, without what is built.
fn sources(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?.flatten()
        {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|ending| ending == "rs" || ending == "md" || ending == "toml")
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
