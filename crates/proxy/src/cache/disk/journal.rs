//! What was purged, written down, so that nothing purged comes back with a restart.
//!
//! Numbers of purges begin anew with each process. On disk they stand behind the number of the *session*, which grows each
//! time the directory is opened: `session << 40 | number`.
//!
//! Two files take turns, both as long from the beginning as they ever become, so that a full disk does not matter. A row is
//! written where nothing but zeros is; rows end where zeros begin. A row may also say how far the log was read that nodes
//! share: what others had purged up to there stands in the rows before it. Whatever else is found there means that a purge may have
//! been lost, and with it all that is kept is given up.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::BufMut as _;
use tidegate_model::cache::Wall;
use tidegate_model::cache::orders::{LogPlace, Place};
use tidegate_model::cache::purge::{Label, Marks, Noted, Purge};

use super::ground::Ground;
use super::ledger::Waiting;
use tidegate_model::numbers::Take;

/// Purges that are remembered one by one. As many as in memory.
#[cfg(not(test))]
const MARKS_MAX: usize = 65_536;
/// A test that fills the journal fills it soon.
#[cfg(test)]
const MARKS_MAX: usize = 1_000;
/// Rows of one file. When it is begun two thirds of them and one are there at the most: a mark has two if it is hard and soft.
const ROWS_MAX: usize = 3 * MARKS_MAX;
const ROW_BYTES: usize = 48;
const HEAD_BYTES: usize = 64;
const FILE_BYTES: u64 = (HEAD_BYTES + ROWS_MAX * ROW_BYTES) as u64;
const MAGIC: u32 = u32::from_le_bytes(*b"TGp1");
const NAMES: [&str; 2] = ["purges-0", "purges-1"];
/// What of a number on disk is the process's own.
const NUMBER_BITS: u32 = 40;

/// The number of a purge, or of what was asked for, as it stands on disk.
#[must_use]
pub fn on_disk(session: u32, number: u64) -> u64 {
    u64::from(session) << NUMBER_BITS | number.min((1 << NUMBER_BITS) - 1)
}

/// The session of a number on disk, and what it was there.
#[must_use]
pub fn in_session(number: u64) -> (u32, u64) {
    ((number >> NUMBER_BITS) as u32, number & ((1 << NUMBER_BITS) - 1))
}

/// The file that is written to.
#[derive(Debug)]
pub struct Journal {
    files: [File; 2],
    active: usize,
    generation: u64,
    rows: usize,
    /// All that was ever purged, as far as it is remembered.
    marks: Marks,
    /// How far the log has been read that nodes share.
    place: Option<LogPlace>,
}

/// What was read cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoilt;

impl Journal {
    /// Opens it, and reads what was purged. `known`: there has been one.
    ///
    /// # Errors
    /// The system's; there is no space.
    pub fn open(ground: &Ground, known: bool) -> io::Result<Result<Journal, Spoilt>> {
        let files = [ground.open(NAMES[0])?, ground.open(NAMES[1])?];
        for file in &files {
            ground.reserve(file, FILE_BYTES)?;
        }
        let (Ok(one), Ok(other)) = (generation(&files[0])?, generation(&files[1])?) else {
            return Ok(Err(Spoilt));
        };
        let generations = [one, other];
        let active = usize::from(generations[1] > generations[0]);
        let Some((generation, floor)) = generations[active] else {
            if known {
                return Ok(Err(Spoilt));
            }
            let mut journal =
                Journal { files, active, generation: 0, rows: 0, marks: Marks::new(MARKS_MAX), place: None };
            journal.begin(ground)?;
            return Ok(Ok(journal));
        };
        let (mut marks, mut place) = (Marks::new(MARKS_MAX), None);
        marks.forget(floor);
        Ok(read(&files[active], generation, &mut marks, &mut place)?.map(|rows| Journal {
            files,
            active,
            generation,
            rows,
            marks,
            place,
        }))
    }

    /// All that was purged.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// How far the log has been read that nodes share.
    #[must_use]
    pub fn place(&self) -> Option<LogPlace> {
        self.place
    }

    /// Writes down what was purged, and then the place. It outlives the process when this is done, and the system when it is
    /// closed.
    ///
    /// # Errors
    /// The system's: it may not be written down.
    pub fn note(&mut self, ground: &Ground, session: u32, waiting: &Waiting) -> io::Result<()> {
        let Waiting { purges, place } = waiting;
        let further = place.filter(|place| self.place != Some(*place));
        self.place = further.or(self.place);
        for purge in purges {
            self.marks.repeat(&Noted { number: on_disk(session, purge.number), ..*purge });
        }
        let count = purges.len() + usize::from(further.is_some());
        if self.rows + count > ROWS_MAX {
            return self.begin(ground);
        }
        let mut rows = Vec::with_capacity(count * ROW_BYTES);
        for purge in purges {
            let noted = Noted { number: on_disk(session, purge.number), ..*purge };
            put(&mut rows, self.generation, Row::Purge(noted));
        }
        if let Some(place) = further {
            put(&mut rows, self.generation, Row::Place(place));
        }
        ground.write(&self.files[self.active], &rows, (HEAD_BYTES + self.rows * ROW_BYTES) as u64)?;
        self.rows += count;
        Ok(())
    }

    /// Begins the other file with what is remembered. Its head is written last: until then the one before counts.
    fn begin(&mut self, ground: &Ground) -> io::Result<()> {
        let (next, generation) = (1 - self.active, self.generation + 1);
        let noted = self.marks.noted();
        let mut bytes = Vec::with_capacity(FILE_BYTES as usize);
        for purge in &noted {
            put(&mut bytes, generation, Row::Purge(*purge));
        }
        if let Some(place) = self.place {
            put(&mut bytes, generation, Row::Place(place));
        }
        let rows = bytes.len() / ROW_BYTES;
        bytes.resize(FILE_BYTES as usize - HEAD_BYTES, 0);
        let file = &self.files[next];
        ground.write(file, &[0; HEAD_BYTES], 0)?;
        ground.write(file, &bytes, HEAD_BYTES as u64)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.put_u32_le(MAGIC);
        head.put_u32_le(0);
        head.put_u64_le(generation);
        head.put_u64_le(self.marks.floor());
        head.resize(HEAD_BYTES, 0);
        let sum = crc32fast::hash(&head[8..]);
        head[4..8].copy_from_slice(&sum.to_le_bytes());
        ground.write(file, &head, 0)?;
        (self.active, self.generation, self.rows) = (next, generation, rows);
        Ok(())
    }

    /// Sees to it that what was written outlives the system.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        self.files[self.active].sync_data()
    }

    /// Removes all that was written down: there is nothing left that it speaks of.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(ground: &Ground) -> io::Result<()> {
        NAMES.iter().try_for_each(|name| ground.remove(name))
    }
}

/// Generation and floor of a file; `None`: it was not begun.
fn generation(file: &File) -> io::Result<Result<Option<(u64, u64)>, Spoilt>> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, 0)?;
    if head == [0; HEAD_BYTES] {
        return Ok(Ok(None));
    }
    let mut take = Take(&head);
    let (magic, sum) = (take.u32(), take.u32());
    let good = magic == Some(MAGIC) && sum == Some(crc32fast::hash(&head[8..]));
    Ok(good.then(|| take.u64().zip(take.u64())).flatten().map(Some).ok_or(Spoilt))
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Purge(Noted),
    Place(LogPlace),
}

/// `checksum, 1 hard | 2 soft, number, when, label, 0` or `checksum, 3, log, millis, number, 0`: the checksum covers the file's
/// generation, too.
fn put(out: &mut Vec<u8>, generation: u64, row: Row) {
    let begin = out.len();
    out.put_u32_le(0);
    let (kind, first, second, third) = match row {
        Row::Purge(Noted { number, label, purge, when }) => {
            (if purge == Purge::Hard { 1 } else { 2 }, number, when.0, label.number())
        }
        Row::Place(LogPlace { log, place }) => (3, log, place.millis, u128::from(place.number)),
    };
    out.put_u32_le(kind);
    out.put_u64_le(first);
    out.put_u64_le(second);
    out.put_u128_le(third);
    out.put_u64_le(0);
    let sum = sum_of(generation, &out[begin + 4..]);
    out[begin..begin + 4].copy_from_slice(&sum.to_le_bytes());
}

fn sum_of(generation: u64, row: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&generation.to_le_bytes());
    sum.update(row);
    sum.finalize()
}

/// Repeats all rows, and tells how many they were.
fn read(
    file: &File,
    generation: u64,
    marks: &mut Marks,
    place: &mut Option<LogPlace>,
) -> io::Result<Result<usize, Spoilt>> {
    let mut bytes = vec![0; FILE_BYTES as usize - HEAD_BYTES];
    file.read_exact_at(&mut bytes, HEAD_BYTES as u64)?;
    let rows = bytes.chunks_exact(ROW_BYTES);
    let count = rows.clone().take_while(|row| **row != [0; ROW_BYTES]).count();
    if rows.clone().skip(count).any(|row| *row != [0; ROW_BYTES]) {
        return Ok(Err(Spoilt));
    }
    for row in rows.take(count) {
        match row_of(generation, row) {
            Some(Row::Purge(noted)) => marks.repeat(&noted),
            Some(Row::Place(read)) => *place = Some(read),
            None => return Ok(Err(Spoilt)),
        }
    }
    Ok(Ok(count))
}

fn row_of(generation: u64, row: &[u8]) -> Option<Row> {
    let mut take = Take(row);
    if take.u32()? != sum_of(generation, &row[4..]) {
        return None;
    }
    let (kind, first, second, third) = (take.u32()?, take.u64()?, take.u64()?, take.u128()?);
    let purge = match kind {
        1 => Purge::Hard,
        2 => Purge::Soft,
        3 => {
            let place = Place { millis: second, number: u64::try_from(third).ok()? };
            return Some(Row::Place(LogPlace { log: first, place }));
        }
        _ => return None,
    };
    Some(Row::Purge(Noted { number: first, label: Label::numbered(third), purge, when: Wall(second) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::cache::purge::Standing;

    fn noted(number: u64, host: &str) -> Noted {
        Noted { number, label: Label::host(host), purge: Purge::Hard, when: Wall(5) }
    }

    fn waiting(purges: &[Noted]) -> Waiting {
        Waiting { purges: purges.to_vec(), place: None }
    }

    fn place(millis: u64) -> Option<LogPlace> {
        Some(LogPlace { log: 9, place: Place { millis, number: 3 } })
    }

    #[test]
    fn how_far_the_log_was_read_is_there_again_and_goes_over_into_the_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let ground = Ground::new(directory.path().to_owned());
        let mut journal = Journal::open(&ground, false).unwrap().unwrap();
        assert_eq!(journal.place(), None);
        for millis in [5, 6] {
            journal.note(&ground, 1, &Waiting { place: place(millis), ..waiting(&[noted(1, "a")]) }).unwrap();
            journal = Journal::open(&ground, true).unwrap().unwrap();
            assert_eq!(journal.place(), place(millis));
        }
        let (before, rows) = (journal.active, journal.rows);
        journal.note(&ground, 1, &Waiting { place: place(6), ..waiting(&[]) }).unwrap();
        assert_eq!(journal.rows, rows, "what is known already is not said again");
        for number in 2.. {
            journal.note(&ground, 1, &waiting(&[noted(number, "a")])).unwrap();
            if journal.active != before {
                break;
            }
        }
        let journal = Journal::open(&ground, true).unwrap().unwrap();
        assert_eq!((journal.place(), standing(&journal, on_disk(1, 1), "a")), (place(6), Standing::Gone));
    }

    fn standing(journal: &Journal, made: u64, host: &str) -> Standing {
        journal.marks().standing(made, std::iter::once(Label::host(host)))
    }

    /// A journal with three purges of two sessions, after this was done to its file.
    fn check(spoil: impl FnOnce(&File), good: bool) {
        let directory = tempfile::tempdir().unwrap();
        let ground = Ground::new(directory.path().to_owned());
        let mut journal = Journal::open(&ground, false).unwrap().unwrap();
        journal.note(&ground, 1, &waiting(&[noted(1, "a"), noted(2, "b")])).unwrap();
        journal.note(&ground, 2, &waiting(&[noted(1, "c")])).unwrap();
        spoil(&journal.files[journal.active]);
        match Journal::open(&ground, true).unwrap() {
            Err(Spoilt) => assert!(!good),
            Ok(journal) => {
                assert!(good);
                for (session, number, host, expected) in [
                    (1, 1, "a", Standing::Gone),
                    (1, 2, "a", Standing::Good),
                    (1, 9, "b", Standing::Good),
                    (1, 9, "c", Standing::Gone),
                    (2, 2, "c", Standing::Good),
                ] {
                    assert_eq!(
                        standing(&journal, on_disk(session, number), host),
                        expected,
                        "{session} {number} {host}"
                    );
                }
            }
        }
    }

    #[test]
    fn purges_of_all_sessions_are_there_again() {
        check(|_| {}, true);
    }

    #[test]
    fn any_row_that_is_not_as_it_was_written_gives_up_everything() {
        for row in 0..3u64 {
            check(
                |file| file.write_all_at(&[9], HEAD_BYTES as u64 + row * ROW_BYTES as u64 + 20).unwrap(),
                false,
            );
            if row < 2 {
                check(
                    |file| {
                        file.write_all_at(&[0; ROW_BYTES], HEAD_BYTES as u64 + row * ROW_BYTES as u64)
                            .unwrap()
                    },
                    false,
                );
            }
        }
        check(|file| file.write_all_at(&[9], HEAD_BYTES as u64 + 3 * ROW_BYTES as u64 + 20).unwrap(), false);
        check(|file| file.write_all_at(&[9], 20).unwrap(), false);
        check(|file| file.set_len(0).unwrap(), false);
    }

    #[test]
    fn a_full_file_goes_over_into_the_other_and_forgets_nothing_that_counts() {
        let directory = tempfile::tempdir().unwrap();
        let ground = Ground::new(directory.path().to_owned());
        let mut journal = Journal::open(&ground, false).unwrap().unwrap();
        let before = journal.active;
        journal.note(&ground, 1, &waiting(&[noted(1, "first")])).unwrap();
        let mut number = 2;
        while journal.active == before {
            let many: Vec<Noted> = (0..200).map(|n| noted(number + n, &format!("h{}", n % 100))).collect();
            journal.note(&ground, 1, &waiting(&many)).unwrap();
            number += 200;
        }
        let journal = Journal::open(&ground, true).unwrap().unwrap();
        assert_eq!(standing(&journal, on_disk(1, number - 200), "h7"), Standing::Gone);
        assert_eq!(standing(&journal, on_disk(1, number), "h7"), Standing::Good);
        assert_eq!(standing(&journal, on_disk(1, 1), "first"), Standing::Gone, "forgotten means gone");
    }
}
