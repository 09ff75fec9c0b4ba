//! What few accept at a time is on disk at once, and in the tables later, with more: a file beside the database.
//!
//! A transaction writes whole each page that it changes, a dozen for a handful of deliveries, and again when the log is written back. Here
//! a round of them is its bytes, behind those of the round before:
//!
//! ```text
//! checksum 4 | how many 4 | generation 8 | bytes
//! ```
//!
//! The file has its length from the first on, so that a sync writes nothing but them. A transaction that brings rounds into the tables
//! notes the next generation in the database; what comes then is written from the file's beginning on. What is of another generation, or
//! was not written whole, ends what is read; one that is damaged, with others behind it, is told.
//!
//! What always holds: what is told to be accepted is synced here or in the database's log; and nothing of it is written over before a
//! transaction that has it is synced.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ffi};

use crate::deliveries::tables::Fault;

/// The file's name in the store's directory.
pub(crate) const NAME: &str = "tidegate.db-ahead";
/// Bytes of the file.
const BYTES: u64 = 1 << 20;
/// Bytes before those of a round.
const HEAD: usize = 16;

/// The version that brings it: which generation counts. It begins by chance, so that no other store's file is taken for this one's.
pub(crate) const TABLE: &str = "
    CREATE TABLE ahead (generation INTEGER NOT NULL) STRICT;
    INSERT INTO ahead VALUES (random());
";

/// See the module.
pub(crate) struct Ahead {
    directory: PathBuf,
    file: Option<File>,
    /// What counts.
    generation: i64,
    /// Bytes that the rounds take which are not in the tables.
    end: u64,
    /// The round that is being made, behind its head.
    round: Vec<u8>,
}

impl Ahead {
    /// Of the database in this directory. What is there already is to be [brought](Ahead::rounds) into the tables first.
    pub(crate) fn open(directory: &Path, connection: &Connection) -> rusqlite::Result<Ahead> {
        let generation = connection.query_row("SELECT generation FROM ahead", (), |row| row.get(0))?;
        Ok(Ahead { directory: directory.to_owned(), file: None, generation, end: 0, round: Vec::new() })
    }

    /// Whether all is in the tables.
    pub(crate) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Where the bytes of the next round go.
    pub(crate) fn round(&mut self) -> &mut Vec<u8> {
        self.round.clear();
        self.round.extend([0; HEAD]);
        &mut self.round
    }

    /// Keeps the round. `false`: it finds no place, and is not here. Where its sync fails, it may be here or not.
    pub(crate) fn keep(&mut self) -> rusqlite::Result<bool> {
        let end = self.end + self.round.len() as u64;
        let Ok(bytes) = u32::try_from(self.round.len() - HEAD) else { return Ok(false) };
        if end > BYTES || !self.is_there() {
            return Ok(false);
        }
        self.round[4..8].copy_from_slice(&bytes.to_le_bytes());
        self.round[8..HEAD].copy_from_slice(&self.generation.to_le_bytes());
        let sum = crc32fast::hash(&self.round[4..]);
        self.round[..4].copy_from_slice(&sum.to_le_bytes());
        let Some(file) = &self.file else { return Ok(false) };
        if file.write_all_at(&self.round, self.end).is_err() {
            return Ok(false);
        }
        file.sync_data().map_err(|_| failure(ffi::SQLITE_IOERR_FSYNC))?;
        self.end = end;
        Ok(true)
    }

    /// Whether the file can be written to, and has its length.
    fn is_there(&mut self) -> bool {
        if self.file.is_none() {
            self.file = make(&self.directory).ok();
        }
        self.file.is_some()
    }

    /// The next generation, in the transaction that brings all into the tables.
    pub(crate) fn note(&self, connection: &Connection) -> rusqlite::Result<()> {
        let next = self.generation.wrapping_add(1);
        connection.prepare_cached("UPDATE ahead SET generation = ?1")?.execute([next]).map(drop)
    }

    /// That transaction is on disk.
    pub(crate) fn begin_anew(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.end = 0;
    }

    /// The rounds that count, one behind the other.
    pub(crate) fn rounds(&mut self) -> Result<Vec<Vec<u8>>, Fault> {
        let all = match std::fs::read(self.directory.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|_| failure(ffi::SQLITE_IOERR_READ))?,
        };
        let (mut rounds, mut rest) = (Vec::new(), &all[..]);
        while let Some((round, further)) = first(rest, self.generation) {
            rounds.push(round.to_vec());
            rest = further;
        }
        if is_damaged(rest, self.generation) {
            return Err(Fault::Odd("a damaged round in tidegate.db-ahead, with others behind it"));
        }
        self.end = (all.len() - rest.len()) as u64;
        Ok(rounds)
    }
}

/// As if SQLite had tried: what follows from it is the same.
fn failure(code: c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}

/// The first round, if it is whole and of this generation, and what comes behind it.
fn first(all: &[u8], generation: i64) -> Option<(&[u8], &[u8])> {
    let (sum, rest) = all.split_first_chunk()?;
    let (bytes, of_generation) = rest.split_first_chunk()?;
    let (of, behind) = of_generation.split_first_chunk()?;
    let (round, further) = behind.split_at_checked(u32::from_le_bytes(*bytes) as usize)?;
    let summed = rest.get(..HEAD - 4 + round.len())?;
    let is_whole =
        i64::from_le_bytes(*of) == generation && crc32fast::hash(summed) == u32::from_le_bytes(*sum);
    is_whole.then_some((round, further))
}

/// Whether what ends the rounds was whole once: one that is comes behind it, and was written later.
fn is_damaged(end: &[u8], generation: i64) -> bool {
    let bytes = end.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let behind = bytes.and_then(|bytes| end.get(HEAD + bytes as usize..));
    behind.is_some_and(|behind| first(behind, generation).is_some())
}

/// The file, of its length, with a name that outlives a crash.
fn make(directory: &Path) -> io::Result<File> {
    let file =
        File::options().create(true).truncate(false).read(true).write(true).open(directory.join(NAME))?;
    let there = file.metadata()?.len();
    if there < BYTES {
        file.write_all_at(&vec![0; (BYTES - there) as usize], there)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn connection() -> Connection {
        crate::memory::prepare();
        #[expect(clippy::disallowed_methods, reason = "SQLite's memory is prepared")]
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLE).unwrap();
        connection
    }

    fn keep(ahead: &mut Ahead, bytes: &[u8]) -> bool {
        ahead.round().extend_from_slice(bytes);
        ahead.keep().unwrap()
    }

    /// What whoever begins anew finds.
    fn found(directory: &TempDir, connection: &Connection) -> Vec<Vec<u8>> {
        Ahead::open(directory.path(), connection).unwrap().rounds().unwrap()
    }

    /// Changes the file.
    fn change(directory: &TempDir, change: impl FnOnce(&mut [u8])) {
        let path = directory.path().join(NAME);
        let mut all = std::fs::read(&path).unwrap();
        change(&mut all);
        std::fs::write(path, all).unwrap();
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_in_the_tables() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        assert!(found(&directory, &connection).is_empty(), "there is no file");
        let mut ahead = Ahead::open(directory.path(), &connection).unwrap();
        assert!(ahead.is_empty());
        assert!(keep(&mut ahead, b"first") && keep(&mut ahead, b"") && keep(&mut ahead, &[7; 10_000]));
        assert!(!ahead.is_empty());
        assert_eq!(found(&directory, &connection), [b"first".to_vec(), Vec::new(), vec![7; 10_000]]);
        ahead.note(&connection).unwrap();
        ahead.begin_anew();
        assert!(ahead.is_empty() && found(&directory, &connection).is_empty());
        // What is behind it is of an earlier generation.
        assert!(keep(&mut ahead, b"later"));
        assert_eq!(found(&directory, &connection), [b"later".to_vec()]);
    }

    #[test]
    fn what_was_not_written_whole_ends_what_is_found_and_damage_before_the_end_is_told() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        let mut ahead = Ahead::open(directory.path(), &connection).unwrap();
        let rounds = [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()];
        assert!(rounds.iter().all(|round| keep(&mut ahead, round)));
        let [second, third] = [HEAD + 5, 2 * HEAD + 11];
        for place in third..third + HEAD + 5 {
            change(&directory, |all| all[place] ^= 1);
            assert_eq!(found(&directory, &connection), rounds[..2], "byte {place}");
            change(&directory, |all| all[place] ^= 1);
        }
        for place in second + HEAD..third {
            change(&directory, |all| all[place] ^= 1);
            let told = Ahead::open(directory.path(), &connection).unwrap().rounds();
            assert!(matches!(told, Err(Fault::Odd(_))), "byte {place}");
            change(&directory, |all| all[place] ^= 1);
        }
        assert_eq!(found(&directory, &connection), rounds);
        // A file that ends anywhere is no reason to read beyond its end.
        let whole = std::fs::read(directory.path().join(NAME)).unwrap();
        for end in 0..third + HEAD + 5 {
            std::fs::write(directory.path().join(NAME), &whole[..end]).unwrap();
            assert!(found(&directory, &connection).len() < 3);
        }
    }

    #[test]
    fn what_finds_no_place_is_not_there() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        let mut nowhere = Ahead::open(&directory.path().join("none"), &connection).unwrap();
        assert!(!keep(&mut nowhere, b"first") && nowhere.is_empty());
        let mut ahead = Ahead::open(directory.path(), &connection).unwrap();
        let half = vec![7; BYTES as usize / 2];
        assert!(keep(&mut ahead, &half) && !keep(&mut ahead, &half) && keep(&mut ahead, b"little"));
        assert_eq!(found(&directory, &connection), [half, b"little".to_vec()]);
        assert_eq!(std::fs::metadata(directory.path().join(NAME)).unwrap().len(), BYTES);
    }
}
