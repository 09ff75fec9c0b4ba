//! `docs/benchmarks.md`: what `bench edge` wrote, and after it a section of each other benchmark, between marks of its own.
//! Each benchmark replaces what is its own, and leaves the rest as it is.

use std::path::{Path, PathBuf};

fn path(root: &Path) -> PathBuf {
    root.join("docs/benchmarks.md")
}

fn marks(name: &str) -> (String, String) {
    (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"))
}

/// Replaces all but the sections.
pub fn write_around(root: &Path, text: &str) -> Result<(), String> {
    let before = std::fs::read_to_string(path(root)).unwrap_or_default();
    let sections = before.find("<!-- begin ").map_or("", |at| &before[at..]);
    let gap = if sections.is_empty() { "" } else { "\n" };
    write(root, &format!("{}{gap}{sections}", with_end(text)))
}

/// Replaces a section, or adds it at the end.
pub fn write_section(root: &Path, name: &str, text: &str) -> Result<(), String> {
    let before = std::fs::read_to_string(path(root)).unwrap_or_default();
    write(root, &with_section(&before, name, text))
}

fn write(root: &Path, text: &str) -> Result<(), String> {
    let path = path(root);
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn with_section(before: &str, name: &str, text: &str) -> String {
    let (begin, end) = marks(name);
    let section = format!("{begin}{}{end}", with_end(text));
    match (before.find(&begin), before.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{section}{}", &before[..from], &before[to + end.len()..])
        }
        _ => format!("{}\n{section}", with_end(before)),
    }
}

fn with_end(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_added_and_then_replaced_in_its_place() {
        let one = with_section("edge\n", "a", "first");
        assert_eq!(one, "edge\n\n<!-- begin a -->\nfirst\n<!-- end a -->\n");
        let two = with_section(&one, "b", "other\n");
        let three = with_section(&two, "a", "second\n");
        assert_eq!(
            three,
            "edge\n\n<!-- begin a -->\nsecond\n<!-- end a -->\n\n<!-- begin b -->\nother\n<!-- end b -->\n"
        );
    }
}
