//! A file of endpoints: one `ADDRESS [weight=N]` a line, `#` begins a comment. All lines count, or none.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use crate::settings::EndpointSettings;

/// The most bytes of it.
const BYTES_MAX: u64 = 1 << 20;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

/// The file's stamp now.
pub(super) fn stamp(path: &Path) -> Result<Stamp, String> {
    use std::os::unix::fs::MetadataExt;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let meta = fs::metadata(path).map_err(failed)?;
    Ok(Stamp { modified: meta.modified().map_err(failed)?, bytes: meta.len(), inode: meta.ino() })
}

/// The endpoints in it.
pub(super) fn read(path: &Path) -> Result<Vec<EndpointSettings>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut text = String::new();
    let read = File::open(path).map_err(failed)?.take(BYTES_MAX + 1).read_to_string(&mut text);
    if read.map_err(failed)? as u64 > BYTES_MAX {
        return Err(format!("{}: longer than {BYTES_MAX} bytes", path.display()));
    }
    parse(&text).map_err(|error| format!("{}:{error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<EndpointSettings>, String> {
    let mut endpoints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let bad = |what: &str| format!("{}: {what}: `{line}`", number + 1);
        let (address, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let address = address.parse().map_err(|_| bad("not an address and port"))?;
        let weight = match rest.trim() {
            "" => 1,
            rest => rest
                .strip_prefix("weight=")
                .and_then(|weight| weight.parse().ok())
                .filter(|weight| (1..=1000).contains(weight))
                .ok_or_else(|| bad("what follows is not weight=1 to weight=1000"))?,
        };
        endpoints.push(EndpointSettings { address, weight });
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parses a text; tells addresses and weights, or the error.
    fn check(text: &str, expected: Result<&[(&str, u32)], &str>) {
        let found = parse(text).map(|endpoints| {
            endpoints.into_iter().map(|one| (one.address.to_string(), one.weight)).collect::<Vec<_>>()
        });
        let expected = expected
            .map(|all| all.iter().map(|&(address, weight)| (address.to_owned(), weight)).collect::<Vec<_>>());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn takes_addresses_weights_and_comments() {
        check("# two\n127.0.0.1:1\r\n\n[::1]:2 \t weight=3 # b\n", Ok(&[("127.0.0.1:1", 1), ("[::1]:2", 3)]));
        check("", Ok(&[]));
    }

    #[test]
    fn is_taken_whole_or_not_at_all() {
        check("127.0.0.1:1\nlocalhost:2\n", Err("2: not an address and port: `localhost:2`"));
        for line in ["127.0.0.1:1 weight=0", "127.0.0.1:1 weight=1001", "127.0.0.1:1 weigth=1"] {
            check(line, Err(&format!("1: what follows is not weight=1 to weight=1000: `{line}`")));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|([0-9.:\\[\\]]* ?(weight=)?[0-9]*\n)*") {
            let _ = parse(&text);
        }
    }
}
