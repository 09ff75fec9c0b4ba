//! `docs/cache-conformance.md` names tests: each of them exists.

use std::collections::HashSet;
use std::path::Path;

/// The names of all functions that a tree of sources defines.
fn functions(under: &Path, found: &mut HashSet<String>) {
    for entry in std::fs::read_dir(under).expect("a directory of sources") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = HashSet::new();
    for sources in ["crates/model/src/cache", "crates/proxy/src", "crates/server/tests/e2e"] {
        functions(&root.join(sources), &mut found);
    }
    let table = std::fs::read_to_string(root.join("docs/cache-conformance.md")).expect("the table");
    let mut named = 0;
    for cell in table.lines().filter_map(|line| line.trim_end().strip_suffix('|')?.rsplit('|').next()) {
        for name in cell.split('`').skip(1).step_by(2) {
            assert!(
                found.contains(name),
                "docs/cache-conformance.md names {name}, and there is no such test"
            );
            named += 1;
        }
    }
    assert!(named > 100, "the table has been read: {named}");
}
