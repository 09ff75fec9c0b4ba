//! What was changed through the control API, and by the process itself: who, from where, what, and what came of it.
//!
//! An entry is on disk before the change is answered, where `[log] audit` names a file: one JSON object a line, appended and synced.
//! The last entries are in memory for `GET /audit`; their numbers go on where the file ends when the process starts again. While one
//! process takes over from another both write it: each looks, under the file's lock, what the other has written.
//! No body is recorded and no query: they may hold secrets.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_model::tick::rfc3339;
use tidegate_wire::clock;

/// Entries in memory.
const RECENT_MAX: usize = 1000;
/// Bytes at the file's end that are read when the process starts.
const TAIL_BYTES: u64 = 512 << 10;

/// What was changed.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Entry {
    /// It grows by one with each entry.
    pub number: u64,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// A change.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The name of the token, `unix socket`, or `process`.
    pub who: String,
    /// The address, or the user id of who has opened the unix socket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The method and the path as `docs/control.md` has it; of the process itself: `start`, `reload`, `stop`.
    pub action: String,
    /// The path that was asked for, without its query.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The error's code, where it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What was before, where that is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// All that was changed lately.
pub struct Audit {
    path: Option<PathBuf>,
    held: Mutex<Held>,
    /// Entries that could not be written.
    pub failures: AtomicU64,
}

#[derive(Default)]
struct Held {
    /// The number of the last entry.
    last: u64,
    recent: VecDeque<Arc<Entry>>,
    /// Bytes of the file when it was last read or written.
    length: u64,
}

impl Audit {
    /// Goes on with this file, if there is one to be.
    ///
    /// # Errors
    /// It cannot be opened, or read.
    pub fn open(path: Option<&Path>) -> io::Result<Audit> {
        let mut held = Held::default();
        if let Some(path) = path {
            held.catch_up(&mut append(path)?)?;
        }
        Ok(Audit { path: path.map(Path::to_owned), held: Mutex::new(held), failures: AtomicU64::new(0) })
    }

    /// Records a change. It is on disk when this has ended.
    pub async fn keep(self: &Arc<Self>, change: Change) {
        let audit = Arc::clone(self);
        // It fails only if writing panicked, which has been told.
        let _ = tokio::task::spawn_blocking(move || audit.record(change)).await;
    }

    fn record(&self, change: Change) {
        let Change { who, from, action, path, status, code, .. } = &change;
        tracing::info!(who, from, action, path, status, code, "control: change");
        let seconds = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Held while it is written: numbers stand in their order.
        let mut held = self.held.lock();
        let mut entry = Entry { number: held.last + 1, time: format!("{}Z", rfc3339(seconds)), change };
        if let Some(path) = &self.path
            && let Err(error) = held.write(path, &mut entry)
        {
            self.failures.fetch_add(1, Relaxed);
            tracing::error!(path = %path.display(), %error, "a change is not in the audit log");
        }
        held.keep(entry);
    }

    /// So many entries in memory, the newest first, that came before this one.
    pub async fn told(self: &Arc<Self>, before: Option<u64>, most: usize) -> Vec<Arc<Entry>> {
        let audit = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || audit.latest(before, most)).await;
        // It fails only if reading panicked, which has been told.
        looked.unwrap_or_default()
    }

    fn latest(&self, before: Option<u64>, most: usize) -> Vec<Arc<Entry>> {
        let mut held = self.held.lock();
        if let Some(path) = &self.path
            && let Err(error) = File::open(path).and_then(|mut file| held.catch_up(&mut file))
        {
            tracing::warn!(path = %path.display(), %error, "the audit log cannot be read: what is in memory is told");
        }
        let newest = held.recent.iter().rev();
        let older = newest.filter(|entry| before.is_none_or(|before| entry.number < before));
        older.take(most).cloned().collect()
    }
}

impl Held {
    /// Writes an entry behind all that are there, with the number that it has there. The file is opened anew for each, which are few:
    /// whoever rotates it needs to tell nobody.
    fn write(&mut self, path: &Path, entry: &mut Entry) -> io::Result<()> {
        let mut file = append(path)?;
        // Given back when the file is closed. Where there are no locks, numbers may repeat while one process takes over.
        let _ = file.lock();
        self.catch_up(&mut file)?;
        entry.number = self.last + 1;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if !ends_a_line(&mut file)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        self.length = file.metadata()?.len();
        file.sync_data()
    }

    /// Takes in what another process, or the one before, has written.
    fn catch_up(&mut self, file: &mut File) -> io::Result<()> {
        let length = file.metadata()?.len();
        if length == self.length {
            return Ok(());
        }
        for line in tail(file)?.lines() {
            // One that was cut as the machine went down is no entry.
            let Ok(entry) = serde_json::from_str::<Entry>(line) else { continue };
            if entry.number > self.last {
                self.keep(entry);
            }
        }
        self.length = length;
        Ok(())
    }

    fn keep(&mut self, entry: Entry) {
        self.last = entry.number;
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::new(entry));
    }
}

/// Whether what is written next begins a line of its own.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == *b"\n")
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

fn tail(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: &str) -> Change {
        Change { who: "ops".to_owned(), action: action.to_owned(), ..Change::default() }
    }

    /// Numbers and actions, the newest first.
    fn check(audit: &Audit, before: Option<u64>, most: usize, expected: &[(u64, &str)]) {
        let told = audit.latest(before, most);
        let told: Vec<_> = told.iter().map(|entry| (entry.number, entry.change.action.as_str())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn entries_go_on_after_a_restart_and_a_cut_line_costs_itself_alone() {
        let path = std::env::temp_dir().join(format!("tidegate-audit-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let audit = Audit::open(Some(&path)).unwrap();
        ["a", "b", "c"].iter().for_each(|action| audit.record(change(action)));
        check(&audit, None, 2, &[(3, "c"), (2, "b")]);
        check(&audit, Some(2), 9, &[(1, "a")]);
        append(&path).unwrap().write_all(b"{\"number\": 4, \"ti").unwrap();
        let audit = Audit::open(Some(&path)).unwrap();
        audit.record(change("d"));
        check(&audit, None, 9, &[(4, "d"), (3, "c"), (2, "b"), (1, "a")]);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn two_processes_that_write_one_file_give_each_number_once() {
        let path = std::env::temp_dir().join(format!("tidegate-audit-two-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let old = Audit::open(Some(&path)).unwrap();
        old.record(change("a"));
        let new = Audit::open(Some(&path)).unwrap();
        new.record(change("b"));
        old.record(change("c"));
        old.record(change("d"));
        check(&new, None, 9, &[(4, "d"), (3, "c"), (2, "b"), (1, "a")]);
        new.record(change("e"));
        check(&old, None, 2, &[(5, "e"), (4, "d")]);
        // Rotated: numbers go on.
        std::fs::remove_file(&path).unwrap();
        old.record(change("f"));
        new.record(change("g"));
        check(&new, None, 2, &[(7, "g"), (6, "f")]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn no_more_is_kept_in_memory_than_may_and_a_file_that_fails_is_counted() {
        let nowhere = std::env::temp_dir().join("tidegate-no-such-folder/audit.log");
        assert!(Audit::open(Some(&nowhere)).is_err());
        let audit = Audit { path: Some(nowhere), ..Audit::open(None).unwrap() };
        (0..RECENT_MAX + 5).for_each(|_| audit.record(change("a")));
        assert_eq!(audit.latest(None, usize::MAX).len(), RECENT_MAX);
        assert_eq!(audit.failures.load(Relaxed), RECENT_MAX as u64 + 5);
    }
}
