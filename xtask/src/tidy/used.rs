//! Nothing is listed that is not used: dependencies of a manifest, links of a page.

use std::path::{Path, PathBuf};

/// Packages whose crate has another name.
const CRATE_NAMES: [(&str, &str); 1] = [("rustls-webpki", "webpki")];

/// Every dependency in a manifest is named in the crate's sources, every one of the workspace in a manifest.
///
/// # Errors
/// A file that cannot be read.
pub fn check_dependencies(sources: &[PathBuf], wrong: &mut Vec<String>) -> Result<(), String> {
    let manifests = sources.iter().filter(|path| path.ends_with("Cargo.toml"));
    let (mut listed, mut shared) = (Vec::new(), Vec::new());
    for manifest in manifests {
        let text = read(manifest)?;
        let Some(folder) = manifest.parent() else { continue };
        let own = sources
            .iter()
            .filter(|path| path.starts_with(folder) && path.extension().is_some_and(|ending| ending == "rs"));
        let code = own.map(|path| read(path)).collect::<Result<Vec<_>, _>>()?.concat();
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let Some(name) = dependency(line) else { continue };
            match section {
                "[workspace.dependencies]" => shared.push(name.to_owned()),
                "[dependencies]" | "[dev-dependencies]" => {
                    if !is_named(&code, name) {
                        wrong.push(format!("{}: `{name}` is not used", manifest.display()));
                    }
                    listed.push(name.to_owned());
                }
                _ => {}
            }
        }
    }
    for name in shared.iter().filter(|name| !listed.contains(name)) {
        wrong.push(format!("Cargo.toml: no crate uses `{name}`"));
    }
    Ok(())
}

fn dependency(line: &str) -> Option<&str> {
    let name = line.split(['=', '.', ' ']).next().filter(|_| line.contains('='))?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

/// Whether the code names the crate: `name::`, `use name;`, `use name as`.
fn is_named(code: &str, package: &str) -> bool {
    let renamed = CRATE_NAMES.iter().find(|(name, _)| *name == package).map(|(_, name)| *name);
    let name = renamed.unwrap_or(package).replace('-', "_");
    code.match_indices(&name).any(|(at, _)| {
        let before = code[..at].bytes().next_back();
        let begins = before.is_none_or(|byte| !(byte.is_ascii_alphanumeric() || b"_:.".contains(&byte)));
        let after = &code[at + name.len()..];
        begins && ["::", ";", " as "].iter().any(|end| after.starts_with(end))
    })
}

/// Every link of a page to a file has a file behind it.
///
/// # Errors
/// A file that cannot be read.
pub fn check_links(root: &Path, sources: &[PathBuf], wrong: &mut Vec<String>) -> Result<(), String> {
    for page in sources.iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let (text, folder) = (read(page)?, page.parent().unwrap_or(root));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = target.is_empty() || target.contains("://") || target.contains(' ');
            if !outside && !folder.join(target).exists() {
                wrong.push(format!("{}: `{target}` leads nowhere", page.display()));
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_used_if_the_code_names_its_crate() {
        for (package, code, used) in [
            ("http-body", "use http_body::Body;", true),
            ("http", "use http_body::Body;", false),
            ("http", "let a = http::Method::GET;", true),
            ("http", "crate::http::x()", false),
            ("serde", "use serde;", true),
            ("rustls-webpki", "webpki::EndEntityCert", true),
            ("itoa", "// itoa would do", false),
        ] {
            assert_eq!(is_named(code, package), used, "{package} in {code}");
        }
        assert_eq!(dependency("tokio = { workspace = true }"), Some("tokio"));
        assert_eq!(dependency("serde.workspace = true"), Some("serde"));
        assert_eq!(dependency("[dependencies]"), None);
    }
}
