//! Notices that a configuration has changed on disk: its files, those it includes, certificates, keys, secrets.
//!
//! It looks at names twice a second instead of asking the system for events: so it sees files that an editor
//! replaces, directories of symbolic links that an orchestrator switches, and network file systems alike. A
//! change counts when two looks in a row agree: a file that is still being written is left alone.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tidegate_wire::clock;

use super::load::expand;
use super::settings::Sources;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// What tells one state of a file from another: device, inode, length, and when it changed.
type Stamp = (u64, u64, u64, i64, i64);

/// The files of a configuration, and how they were last seen.
#[derive(Debug)]
pub struct Watch {
    sources: Sources,
    /// As they were when the configuration was read, or when the last change was told.
    known: BTreeMap<PathBuf, Option<Stamp>>,
    /// As they were at the last look, if that was not as they are known.
    changing: Option<BTreeMap<PathBuf, Option<Stamp>>>,
}

impl Watch {
    /// Watches the files of a configuration that has just been read. What has changed since then is told as a change.
    #[must_use]
    pub fn new(sources: &Sources) -> Watch {
        let mut known = look(sources);
        known.retain(|path, _| {
            let read = sources.files.iter().find(|(file, _)| file == path);
            // An included file that was not read has come since then.
            read.map_or_else(|| sources.named.contains(path), |(_, hash)| holds(path, hash))
        });
        Watch { sources: sources.clone(), known, changing: None }
    }

    /// Watches the files of another configuration from now on, which has been read since [`Watch::begin`].
    pub fn follow(&mut self, sources: &Sources) {
        if *sources == self.sources {
            return;
        }
        let before = std::mem::take(&mut self.known);
        *self = Watch::new(sources);
        for path in &self.sources.named {
            if let Some(stamp) = before.get(path) {
                self.known.insert(path.clone(), *stamp);
            }
        }
    }

    /// The files are about to be read: how they are now counts as known, so that what is read is not told as a change.
    pub fn begin(&mut self) {
        self.known = look(&self.sources);
        self.changing = None;
    }

    /// Ends when something has changed and come to rest. May be dropped and called again.
    pub async fn changed(&mut self) {
        loop {
            clock::sleep(INTERVAL).await;
            if self.has_changed() {
                return;
            }
        }
    }

    /// Whether, with this look, something has changed and come to rest. Told once.
    fn has_changed(&mut self) -> bool {
        let now = look(&self.sources);
        if now == self.known {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() != Some(&now) {
            self.changing = Some(now);
            return false;
        }
        self.known = now;
        self.changing = None;
        true
    }
}

fn look(sources: &Sources) -> BTreeMap<PathBuf, Option<Stamp>> {
    let included = sources.patterns.iter().flat_map(|pattern| expand(pattern).unwrap_or_default());
    let files = sources.files.iter().map(|(path, _)| path.clone());
    let all = files.chain(sources.named.iter().cloned()).chain(included);
    all.map(|path| {
        let stamp = stamp(&path);
        (path, stamp)
    })
    .collect()
}

/// Whether a file still holds what was read.
fn holds(path: &Path, hash: &[u8; 32]) -> bool {
    std::fs::read(path).is_ok_and(|bytes| Sha256::digest(bytes)[..] == hash[..])
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Looks until a change is told or two looks have found nothing new.
    fn check(watch: &mut Watch, changed: bool) {
        assert_eq!((0..3).any(|_| watch.has_changed()), changed);
    }

    #[test]
    fn a_change_is_told_once_when_it_has_come_to_rest() {
        let folder = crate::config::tests::Folder::new("watch");
        let (file, included) = (folder.write("main.toml", "a"), folder.path("conf.d"));
        fs::create_dir(&included).expect("a directory");
        let sources = Sources {
            files: vec![(file.clone(), Sha256::digest("a").into())],
            named: vec![folder.path("cert.pem")],
            patterns: vec![included.join("*.toml")],
        };
        let mut watch = Watch::new(&sources);
        check(&mut watch, false);

        fs::write(&file, "ab").expect("written");
        assert!(!watch.has_changed(), "it may still be written");
        fs::write(&file, "abc").expect("written");
        assert!(!watch.has_changed(), "it is still being written");
        assert!(watch.has_changed());
        check(&mut watch, false);

        // As an editor does it: another file takes the name.
        fs::write(folder.path("new"), "abd").expect("written");
        fs::rename(folder.path("new"), &file).expect("renamed");
        check(&mut watch, true);

        fs::write(&file, "abcd").expect("written");
        watch.begin();
        check(&mut watch, false);

        fs::write(folder.path("cert.pem"), "x").expect("written");
        check(&mut watch, true);
        fs::write(included.join("a.toml"), "x").expect("written");
        check(&mut watch, true);
        fs::write(included.join("not-included"), "x").expect("written");
        check(&mut watch, false);
        fs::remove_file(&file).expect("removed");
        check(&mut watch, true);
    }

    #[test]
    fn what_changed_since_it_was_read_is_told() {
        let folder = crate::config::tests::Folder::new("watch-since");
        let file = folder.write("main.toml", "read");
        let files = vec![(file.clone(), Sha256::digest("read").into())];
        let sources = Sources { files, named: Vec::new(), patterns: vec![folder.path("*.conf")] };
        check(&mut Watch::new(&sources), false);
        folder.write("new.conf", "");
        check(&mut Watch::new(&sources), true);
        fs::remove_file(folder.path("new.conf")).expect("removed");
        fs::write(&file, "changed").expect("written");
        check(&mut Watch::new(&sources), true);
        let mut watch = Watch::new(&Sources::default());
        watch.follow(&sources);
        check(&mut watch, true);
    }
}
