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
//! was not written whole, ends what is read; where a whole one of this generation is behind that end, the file is damaged, and that is
//! told. The last one cannot be told from one that was not written whole.
//!
//! What is in the file is in memory, too, until it is in the tables: the file is read once, by whoever opens the store, and what counts of
//! it is synced again then.
//!
//! What always holds: what is told to be accepted is synced here or in the database's log; and nothing of it is written over before a
//! transaction that has it is synced. As with the database's log it is relied on that a write which power's failure cuts short
//! harms no byte beside its own.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem;
use rusqlite::{Connection, ffi};

use crate::deliveries::tables::Fault;

/// The file's name in the store's directory.
pub(crate) const NAME: &str = "tidegate.db-ahead";
/// Bytes of the file.
const BYTES: usize = 1 << 20;
/// Bytes before those of a round.
const HEAD: usize = 16;
/// Where in them the generation is.
const GENERATION: usize = 8;

/// The version that brings it: which generation counts. It begins by chance, so that no other store's file is taken for this one's.
pub(crate) const TABLE: &str = "
    CREATE TABLE ahead (generation INTEGER NOT NULL) STRICT;
    INSERT INTO ahead VALUES (random());
";

/// See the module.
pub(crate) struct Ahead {
    directory: PathBuf,
    file: Place,
    /// What counts.
    generation: i64,
    /// The rounds that are not in the tables, as they are in the file, and behind them the one that is being made.
    rounds: Vec<u8>,
    /// Bytes of the former.
    end: usize,
    /// Something of this generation may be in the file.
    is_touched: bool,
}

/// Where rounds are written to.
enum Place {
    /// That was not asked yet.
    Unknown,
    File(File),
    /// The file cannot be made.
    Nowhere,
}

impl Ahead {
    /// Of the database in this directory, with the rounds that count.
    pub(crate) fn open(directory: &Path, connection: &Connection) -> Result<Ahead, Fault> {
        let generation = connection.query_row("SELECT generation FROM ahead", (), |row| row.get(0))?;
        let mut rounds = read(directory).map_err(|_| failure(ffi::SQLITE_IOERR_READ))?;
        let mut rest = &rounds[..];
        while let Some((_, further)) = first(rest, generation) {
            rest = further;
        }
        if has_one(rest, generation) {
            return Err(Fault::Odd("a damaged round in tidegate.db-ahead, with others behind it"));
        }
        let end = rounds.len() - rest.len();
        rounds.truncate(end);
        if end > 0 {
            renew(directory, &rounds)?;
        }
        let directory = directory.to_owned();
        Ok(Ahead { directory, file: Place::Unknown, generation, rounds, end, is_touched: end > 0 })
    }

    /// Whether all is in the tables.
    pub(crate) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Whether a transaction that has all in the tables has to [note](Ahead::note) the next generation.
    pub(crate) fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// Where the bytes of the next round go, behind what is there.
    pub(crate) fn round(&mut self) -> &mut Vec<u8> {
        self.rounds.truncate(self.end);
        self.rounds.extend([0; HEAD]);
        &mut self.rounds
    }

    /// Keeps the round. `false`: it finds no place, and does not count. Where its sync fails, it may count or not.
    pub(crate) fn keep(&mut self) -> rusqlite::Result<bool> {
        let round = &mut self.rounds[self.end..];
        let Ok(bytes) = u32::try_from(round.len() - HEAD) else { return Ok(false) };
        if self.end + round.len() > BYTES {
            return Ok(false);
        }
        if let Place::Unknown = self.file {
            self.file = make(&self.directory)?;
        }
        let Place::File(file) = &self.file else { return Ok(false) };
        round[4..GENERATION].copy_from_slice(&bytes.to_le_bytes());
        round[GENERATION..HEAD].copy_from_slice(&self.generation.to_le_bytes());
        let sum = crc32fast::hash(&round[4..]);
        round[..4].copy_from_slice(&sum.to_le_bytes());
        self.is_touched = true;
        if file.write_all_at(round, self.end as u64).is_err() {
            return Ok(false);
        }
        file.sync_data().map_err(|_| failure(ffi::SQLITE_IOERR_FSYNC))?;
        self.end = self.rounds.len();
        Ok(true)
    }

    /// Where the file could not be made, that may have changed.
    pub(crate) fn look_again(&mut self) {
        if let Place::Nowhere = self.file {
            self.file = Place::Unknown;
        }
    }

    /// The next generation, in the transaction that brings all into the tables.
    pub(crate) fn note(&self, connection: &Connection) -> rusqlite::Result<()> {
        let next = self.generation.wrapping_add(1);
        connection.prepare_cached("UPDATE ahead SET generation = ?1")?.execute([next]).map(drop)
    }

    /// That transaction is on disk.
    pub(crate) fn begin_anew(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.rounds.clear();
        (self.end, self.is_touched) = (0, false);
    }

    /// The rounds that are not in the tables, one behind the other.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.rounds[..self.end];
        std::iter::from_fn(move || {
            let (round, further) = first(rest, self.generation)?;
            rest = further;
            Some(round)
        })
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

/// Whether a whole round of this generation is anywhere in it.
fn has_one(all: &[u8], generation: i64) -> bool {
    let mark = generation.to_le_bytes();
    let mut begins = memmem::find_iter(all, &mark).filter_map(|at| at.checked_sub(GENERATION));
    begins.any(|begin| first(&all[begin..], generation).is_some())
}

/// What is in the file, if there is one.
fn read(directory: &Path) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    match File::open(directory.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => drop(opened?.take(BYTES as u64).read_to_end(&mut all)?),
    }
    Ok(all)
}

/// Has on disk what was read: whoever wrote it may have been killed before its sync, or been told that this failed, and then the system may
/// take it for written. Most file systems need no room for that.
fn renew(directory: &Path, rounds: &[u8]) -> rusqlite::Result<()> {
    let written = File::options().write(true).open(directory.join(NAME)).and_then(|file| {
        file.write_all_at(rounds, 0)?;
        Ok(file)
    });
    let file = written.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failure(ffi::SQLITE_FULL),
        _ => failure(ffi::SQLITE_IOERR_WRITE),
    })?;
    file.sync_data().map_err(|_| failure(ffi::SQLITE_IOERR_FSYNC))
}

/// The file, of its length, with a name that outlives a crash.
fn make(directory: &Path) -> rusqlite::Result<Place> {
    let sized = || {
        let path = directory.join(NAME);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let there = usize::try_from(file.metadata()?.len()).unwrap_or(BYTES);
        let lacks = BYTES.saturating_sub(there);
        if lacks > 0 {
            file.write_all_at(&vec![0; lacks], there as u64)?;
        }
        Ok::<_, io::Error>((file, lacks > 0))
    };
    match sized() {
        Ok((file, has_grown)) => {
            if has_grown {
                let synced = file.sync_all().and_then(|()| File::open(directory)?.sync_all());
                synced.map_err(|_| failure(ffi::SQLITE_IOERR_FSYNC))?;
            }
            Ok(Place::File(file))
        }
        Err(error) => {
            tracing::warn!(%error, file = NAME, "what few accept goes into the tables at once, which is slower");
            Ok(Place::Nowhere)
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::database::Trouble;

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

    fn at(directory: &TempDir, connection: &Connection) -> Ahead {
        Ahead::open(directory.path(), connection).unwrap()
    }

    /// What whoever begins anew finds. `None`: it is damaged.
    fn found(directory: &TempDir, connection: &Connection) -> Option<Vec<Vec<u8>>> {
        match Ahead::open(directory.path(), connection) {
            Ok(ahead) => Some(ahead.rounds().map(<[u8]>::to_vec).collect()),
            Err(Fault::Odd(_)) => None,
            Err(error) => panic!("{error}"),
        }
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
        assert_eq!(found(&directory, &connection), Some(Vec::new()), "there is no file");
        let mut ahead = at(&directory, &connection);
        assert!(ahead.is_empty());
        assert!(keep(&mut ahead, b"first") && keep(&mut ahead, b"") && keep(&mut ahead, &[7; 10_000]));
        assert!(!ahead.is_empty());
        let all = [b"first".to_vec(), Vec::new(), vec![7; 10_000]];
        assert_eq!(found(&directory, &connection).unwrap(), all);
        assert!(ahead.rounds().eq(all.iter()), "it is at hand, too");
        ahead.note(&connection).unwrap();
        ahead.begin_anew();
        assert!(ahead.is_empty() && ahead.rounds().next().is_none());
        assert_eq!(found(&directory, &connection), Some(Vec::new()));
        // What is behind it is of an earlier generation.
        assert!(keep(&mut ahead, b"later"));
        assert_eq!(found(&directory, &connection).unwrap(), [b"later".to_vec()]);
    }

    #[test]
    fn what_was_not_written_whole_ends_what_is_found_and_damage_before_the_end_is_told() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        let mut ahead = at(&directory, &connection);
        let rounds = [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()];
        assert!(rounds.iter().all(|round| keep(&mut ahead, round)));
        let [second, third] = [HEAD + 5, 2 * HEAD + 11];
        for place in 0..third + HEAD + 5 {
            change(&directory, |all| all[place] ^= 1);
            let expected = (place >= third).then(|| rounds[..2].to_vec());
            assert_eq!(found(&directory, &connection), expected, "byte {place}");
            change(&directory, |all| all[place] ^= 1);
        }
        // Nor is it the one behind a damaged one alone that tells.
        change(&directory, |all| all[..third].fill(7));
        assert_eq!(found(&directory, &connection), None);
        change(&directory, |all| all[second..].fill(0));
        assert_eq!(found(&directory, &connection), Some(Vec::new()), "there is nothing behind it");
        // A file that ends anywhere is no reason to read beyond its end.
        let mut whole = std::fs::read(directory.path().join(NAME)).unwrap();
        whole[..ahead.rounds.len()].copy_from_slice(&ahead.rounds);
        for end in 0..third + HEAD + 5 {
            std::fs::write(directory.path().join(NAME), &whole[..end]).unwrap();
            let count = [second, third].into_iter().filter(|begin| end >= *begin).count();
            assert_eq!(found(&directory, &connection).unwrap(), rounds[..count]);
        }
    }

    #[test]
    fn what_finds_no_place_does_not_count() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        let mut nowhere = Ahead::open(&directory.path().join("none"), &connection).unwrap();
        assert!(!keep(&mut nowhere, b"first") && nowhere.is_empty());
        let mut ahead = at(&directory, &connection);
        let half = vec![7; BYTES / 2];
        assert!(keep(&mut ahead, &half) && !keep(&mut ahead, &half) && keep(&mut ahead, b"little"));
        assert_eq!(found(&directory, &connection).unwrap(), [half, b"little".to_vec()]);
        assert_eq!(std::fs::metadata(directory.path().join(NAME)).unwrap().len(), BYTES as u64);
    }

    #[test]
    fn without_room_there_is_no_file_until_it_is_looked_for_again() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        let path = directory.path().join(NAME);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut ahead = at(&directory, &connection);
        assert!(!keep(&mut ahead, b"first"));
        std::fs::remove_file(&path).unwrap();
        assert!(!keep(&mut ahead, b"second") && ahead.is_empty(), "it is not tried each time");
        ahead.look_again();
        assert!(keep(&mut ahead, b"third"));
        assert_eq!(found(&directory, &connection).unwrap(), [b"third".to_vec()]);
    }

    #[test]
    fn what_could_not_be_written_does_not_count_and_is_left_behind_with_its_generation() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        let mut ahead = at(&directory, &connection);
        ahead.file = Place::File(File::options().write(true).open("/dev/full").unwrap());
        assert!(!keep(&mut ahead, b"first"));
        assert!(ahead.is_empty() && ahead.is_touched(), "some of it may be there");
    }

    #[test]
    fn a_sync_that_fails_is_told_as_one_of_the_databases() {
        let (directory, connection) = (tempfile::tempdir().unwrap(), connection());
        // What takes all that is written, and cannot be synced.
        std::os::unix::fs::symlink("/dev/null", directory.path().join(NAME)).unwrap();
        let mut ahead = at(&directory, &connection);
        for file in [Place::Unknown, Place::File(File::options().write(true).open("/dev/null").unwrap())] {
            ahead.file = file;
            ahead.round().extend_from_slice(b"first");
            let error = ahead.keep().unwrap_err();
            assert_eq!(Trouble::of(&error), Trouble::Final, "{error}");
        }
    }
}
