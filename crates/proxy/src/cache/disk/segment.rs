//! A segment: a file of fixed length that is filled with records from its beginning and then never changed, until it is
//! used again as a whole.
//!
//! ```text
//! head | record | record | ... | free | table | tail
//! ```
//!
//! The table lists the records, so that a start reads some kilobytes of a segment and not its contents. It is written when the
//! segment is full or the tier is closed; where it is missing or not sound, the records' heads are read one after the other
//! up to the first that is not sound.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use rustix::io::{ReadWriteFlags, preadv2};
use tidegate_model::cache::key::Key;
use tidegate_model::cache::vary::Vary;

use super::ground::Ground;
use super::record::{self, ALIGN, HEAD_BYTES};
use crate::cache::known;
use tidegate_model::numbers::Take;

const MAGIC: u32 = u32::from_le_bytes(*b"TGs1");
const TAIL_MAGIC: u32 = u32::from_le_bytes(*b"TGt1");
const TAIL_BYTES: u64 = 32;
const ROW_BYTES: usize = 49;
/// Lists of varying fields in one segment.
const LISTS_MAX: usize = 255;
/// What is read of a record to find the next.
const LOOK_BYTES: usize = 4096;

/// A segment that can be read.
#[derive(Debug)]
pub struct Segment {
    /// The number of its file.
    pub number: u32,
    /// How many segments had been begun before it.
    pub generation: u64,
    /// Its bytes.
    pub size: u64,
    file: Arc<File>,
}

/// A record, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is found by.
    pub key: Key,
    /// What was asked for.
    pub target: Key,
    /// Whose room it takes.
    pub room: u64,
    /// Where it begins.
    pub at: u32,
    /// All its bytes.
    pub length: u32,
    /// What it varies with.
    pub vary: Arc<Vary>,
}

/// The segment that is being filled.
#[derive(Debug)]
pub struct Filling {
    /// As those see it who read.
    pub segment: Arc<Segment>,
    at: u64,
    rows: Vec<Row>,
    lists: Vec<Arc<Vary>>,
}

/// A file's name.
#[must_use]
pub fn name(number: u32) -> String {
    format!("segment-{number:05}")
}

/// The number in a file's name.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    name.strip_prefix("segment-")?.parse().ok()
}

impl Segment {
    /// Opens a segment that is there. `Ok(None)`: there is none in this file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(ground: &Ground, number: u32) -> io::Result<Option<Segment>> {
        let file = ground.open(&name(number))?;
        let mut head = [0; ALIGN];
        if file.metadata()?.len() < ALIGN as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut head, 0)?;
        let mut take = Take(&head);
        let (magic, sum) = (take.u32(), take.u32());
        if magic != Some(MAGIC) || sum != Some(crc32fast::hash(&head[8..])) {
            return Ok(None);
        }
        let (generation, size) = (take.u64().unwrap_or(0), take.u64().unwrap_or(0));
        let whole = generation > 0 && file.metadata()?.len() == size && u32::try_from(size).is_ok();
        Ok(whole.then(|| Segment { number, generation, size, file: Arc::new(file) }))
    }

    /// Reads so many bytes from there.
    ///
    /// # Errors
    /// The system's; there are fewer.
    pub fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Bytes::from(bytes))
    }

    /// The same, if the system has all of it in memory. `None`: it has not, or cannot tell.
    #[must_use]
    pub fn read_cached(&self, at: u64, length: usize) -> Option<Bytes> {
        let (mut bytes, mut filled) = (vec![0; length], 0);
        while filled < length {
            let rest = &mut [IoSliceMut::new(&mut bytes[filled..])];
            match preadv2(&*self.file, rest, at + filled as u64, ReadWriteFlags::NOWAIT) {
                Ok(count @ 1..) => filled += count,
                // Whoever waits for it will be told what is wrong with it.
                Ok(0) | Err(_) => return None,
            }
        }
        Some(Bytes::from(bytes))
    }

    /// All records that are there, in the order they were written, and where the last one ends.
    ///
    /// # Errors
    /// The system's.
    pub fn rows(&self) -> io::Result<(Vec<Row>, u64)> {
        if let Some(listed) = self.table() {
            return Ok(listed);
        }
        let (mut rows, mut lists, mut at) = (Vec::new(), Vec::new(), ALIGN as u64);
        while let Some((row, length)) = self.look(at, &mut lists)? {
            rows.push(row);
            at += length;
        }
        Ok((rows, at))
    }

    fn look(&self, at: u64, lists: &mut Vec<Arc<Vary>>) -> io::Result<Option<(Row, u64)>> {
        let most = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(LOOK_BYTES);
        if most < HEAD_BYTES {
            return Ok(None);
        }
        let mut bytes = self.read(at, most)?;
        let Some(head) = record::Head::read(&bytes) else { return Ok(None) };
        if head.generation != self.generation || at + head.length() > self.size {
            return Ok(None);
        }
        if head.known_length() > bytes.len() {
            bytes = self.read(at, head.known_length())?;
        }
        let known = &bytes[..head.known_length()];
        let Some(vary) = record::is_sound(known).then(|| record::vary_of(&bytes, &head)).flatten() else {
            return Ok(None);
        };
        let Some(vary) = listed(lists, &vary) else { return Ok(None) };
        let (key, target, room) = (head.key, head.target, head.room);
        let row = Row { key, target, room, at: at as u32, length: head.length() as u32, vary };
        Ok(Some((row, head.length())))
    }

    /// What the table says, if it is sound.
    fn table(&self) -> Option<(Vec<Row>, u64)> {
        let tail = self.read(self.size - TAIL_BYTES, TAIL_BYTES as usize).ok()?;
        let mut take = Take(&tail);
        let (magic, sum, generation) = (take.u32()?, take.u32()?, take.u64()?);
        let (length, count, end) = (take.u32()? as usize, take.u32()?, take.u64()?);
        if magic != TAIL_MAGIC || generation != self.generation || length as u64 > self.size - TAIL_BYTES {
            return None;
        }
        let table = self.read(self.size - TAIL_BYTES - length as u64, length).ok()?;
        if sum != sum_of(&table, &tail[8..]) {
            return None;
        }
        let mut take = Take(&table);
        let lists = (0..take.u8()?)
            .map(|_| known::read_vary(&mut take).map(Arc::new))
            .collect::<Option<Vec<Arc<Vary>>>>()?;
        let none = Arc::<Vary>::default();
        let rows = (0..count).map(|_| {
            let (key, target, room) = (Key(take.u128()?), Key(take.u128()?), take.u64()?);
            let (at, length) = (take.u32()?, take.u32()?);
            (u64::from(at) + u64::from(length) <= self.size).then_some(())?;
            let vary = match take.u8()? {
                0 => Arc::clone(&none),
                list => Arc::clone(lists.get(usize::from(list) - 1)?),
            };
            Some(Row { key, target, room, at, length, vary })
        });
        Some((rows.collect::<Option<Vec<Row>>>()?, end))
    }

    /// What is in it counts no more.
    ///
    /// # Errors
    /// The system's.
    pub fn void(&self, ground: &Ground) -> io::Result<()> {
        ground.write(&self.file, &[0; ALIGN], 0)
    }

    /// Sees to it that what was written outlives the system.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn sum_of(table: &[u8], tail: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(table);
    sum.update(tail);
    sum.finalize()
}

/// The one of a segment's lists that is this one. `None`: there are too many.
fn listed(lists: &mut Vec<Arc<Vary>>, vary: &Vary) -> Option<Arc<Vary>> {
    if let Some(list) = lists.iter().find(|list| ***list == *vary) {
        return Some(Arc::clone(list));
    }
    if lists.len() > LISTS_MAX {
        return None;
    }
    lists.push(Arc::new(vary.clone()));
    lists.last().cloned()
}

impl Filling {
    /// Begins a segment in this file, whatever there was in it.
    ///
    /// # Errors
    /// The system's; there is no space.
    pub fn begin(ground: &Ground, number: u32, generation: u64, size: u64) -> io::Result<Filling> {
        let file = ground.open(&name(number))?;
        ground.reserve(&file, size)?;
        let mut head = Vec::with_capacity(ALIGN);
        head.put_u32_le(MAGIC);
        head.put_u32_le(0);
        head.put_u64_le(generation);
        head.put_u64_le(size);
        head.resize(ALIGN, 0);
        let sum = crc32fast::hash(&head[8..]);
        head[4..8].copy_from_slice(&sum.to_le_bytes());
        ground.write(&file, &head, 0)?;
        let segment = Arc::new(Segment { number, generation, size, file: Arc::new(file) });
        Ok(Filling { segment, at: ALIGN as u64, rows: Vec::new(), lists: Vec::new() })
    }

    /// Goes on with a segment that was not full.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(ground: &Ground, segment: Arc<Segment>, rows: Vec<Row>, at: u64) -> io::Result<Filling> {
        // Its table is that of fewer records than it will have.
        ground.write(&segment.file, &[0; TAIL_BYTES as usize], segment.size - TAIL_BYTES)?;
        let mut lists = Vec::new();
        for row in &rows {
            // Those that are there were not too many.
            let _ = listed(&mut lists, &row.vary);
        }
        Ok(Filling { segment, at, rows, lists })
    }

    /// Whether there is room for a record of this length.
    #[must_use]
    pub fn has_room(&self, length: u64) -> bool {
        let lists: usize = self.lists.iter().map(|list| known::names(list).len() + 2).sum();
        // One list more, with names as long as a record may have them, and one row.
        let table = 1 + lists + usize::from(u16::MAX) + 2 + (self.rows.len() + 1) * ROW_BYTES;
        self.lists.len() < LISTS_MAX && self.at + length + table as u64 + TAIL_BYTES <= self.segment.size
    }

    /// Whether a record of this length has room in a segment of this size at all.
    #[must_use]
    pub fn could_hold(size: u64, length: u64) -> bool {
        ALIGN as u64 + length + u64::from(u16::MAX) + 3 + ROW_BYTES as u64 + TAIL_BYTES <= size
    }

    /// Appends a record. There is room for it.
    ///
    /// # Errors
    /// The system's. The next record takes its place.
    pub fn append(
        &mut self,
        ground: &Ground,
        bytes: &[u8],
        head: &record::Head,
        vary: &Vary,
    ) -> io::Result<Row> {
        assert!(self.has_room(bytes.len() as u64), "the caller has looked");
        ground.write(&self.segment.file, bytes, self.at)?;
        let vary = listed(&mut self.lists, vary).expect("there is room for one list more");
        let (at, length) = (self.at as u32, bytes.len() as u32);
        let row = Row { key: head.key, target: head.target, room: head.room, at, length, vary };
        self.rows.push(row.clone());
        self.at += bytes.len() as u64;
        Ok(row)
    }

    /// Writes the table.
    ///
    /// # Errors
    /// The system's: the segment is good without it.
    pub fn seal(&self, ground: &Ground) -> io::Result<()> {
        let mut table = Vec::new();
        let lists: Vec<&Arc<Vary>> = self.lists.iter().filter(|list| !list.is_empty()).collect();
        table.push(lists.len() as u8);
        for list in &lists {
            known::write_vary(&mut table, list).expect("a record with them was written");
        }
        for row in &self.rows {
            table.put_u128_le(row.key.0);
            table.put_u128_le(row.target.0);
            table.put_u64_le(row.room);
            table.put_u32_le(row.at);
            table.put_u32_le(row.length);
            table.push(lists.iter().position(|list| **list == row.vary).map_or(0, |at| at as u8 + 1));
        }
        let mut tail = Vec::with_capacity(TAIL_BYTES as usize);
        tail.put_u32_le(TAIL_MAGIC);
        tail.put_u32_le(0);
        tail.put_u64_le(self.segment.generation);
        tail.put_u32_le(table.len() as u32);
        tail.put_u32_le(self.rows.len() as u32);
        tail.put_u64_le(self.at);
        let sum = sum_of(&table, &tail[8..]);
        tail[4..8].copy_from_slice(&sum.to_le_bytes());
        let at = self.segment.size - TAIL_BYTES - table.len() as u64;
        table.put_slice(&tail);
        ground.write(&self.segment.file, &table, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::disk::record::tests::item;

    fn put(filling: &mut Filling, ground: &Ground, item: &record::Item) {
        let mut bytes = Vec::new();
        record::write(&mut bytes, item, filling.segment.generation, 1).unwrap();
        let head = record::Head::read(&bytes).unwrap();
        filling.append(ground, &bytes, &head, &item.vary).unwrap();
    }

    /// A segment with three records, and what is in it after this was done to it.
    fn check(spoil: impl FnOnce(&Ground, &Filling), expected: usize) {
        let directory = tempfile::tempdir().unwrap();
        let ground = Ground::new(directory.path().to_owned());
        let mut filling = Filling::begin(&ground, 3, 9, 1 << 20).unwrap();
        for (key, names) in [(1, ""), (2, "accept"), (3, "accept")] {
            put(&mut filling, &ground, &item(key, &[&[key as u8; 6_000]], names));
        }
        spoil(&ground, &filling);
        let found =
            Segment::open(&ground, 3).unwrap().map_or(Vec::new(), |segment| segment.rows().unwrap().0);
        assert_eq!(found, filling.rows[..expected]);
    }

    #[test]
    fn what_was_written_is_found_with_its_table_and_without() {
        check(|_, _| {}, 3);
        check(|ground, filling| filling.seal(ground).unwrap(), 3);
    }

    #[test]
    fn what_the_system_has_in_memory_is_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let ground = Ground::new(directory.path().to_owned());
        let mut filling = Filling::begin(&ground, 3, 9, 1 << 20).unwrap();
        put(&mut filling, &ground, &item(1, &[&[1; 6_000]], ""));
        let (segment, row) = (&filling.segment, &filling.rows[0]);
        let written = segment.read(u64::from(row.at), row.length as usize).unwrap();
        // A file system that cannot tell has nothing.
        if let Some(read) = segment.read_cached(u64::from(row.at), row.length as usize) {
            assert_eq!(read, written);
        }
        assert!(segment.read_cached(segment.size - 10, 100).is_none(), "there are no more bytes");
    }

    #[test]
    fn a_torn_record_ends_what_is_found() {
        check(
            |_, filling| {
                filling.segment.file.write_all_at(&[7; 90], u64::from(filling.rows[2].at) + 50).unwrap()
            },
            2,
        );
    }

    #[test]
    fn a_spoilt_table_is_made_again_from_the_records() {
        check(
            |ground, filling| {
                filling.seal(ground).unwrap();
                filling.segment.file.write_all_at(&[7], filling.segment.size - 70).unwrap();
            },
            3,
        );
    }

    #[test]
    fn a_file_that_was_cut_or_voided_holds_nothing() {
        check(|_, filling| filling.segment.file.set_len(9_000).unwrap(), 0);
        check(|_, filling| filling.segment.file.set_len(10).unwrap(), 0);
        check(|ground, filling| filling.segment.void(ground).unwrap(), 0);
    }

    #[test]
    fn what_is_left_of_an_earlier_use_is_not_found() {
        check(
            |ground, filling| {
                filling.seal(ground).unwrap();
                Filling::begin(ground, 3, 10, 1 << 20).unwrap();
            },
            0,
        );
    }

    #[test]
    fn a_segment_is_filled_up_to_its_table_and_no_further() {
        let directory = tempfile::tempdir().unwrap();
        let ground = Ground::new(directory.path().to_owned());
        let mut filling = Filling::begin(&ground, 0, 1, 1 << 20).unwrap();
        let mut key = 0;
        while filling.has_room(1_024) {
            put(&mut filling, &ground, &item(key, &[&[1; 700]], "accept"));
            key += 1;
        }
        filling.seal(&ground).unwrap();
        let (rows, end) = filling.segment.rows().unwrap();
        assert_eq!((rows.len() as u128, end), (key, filling.at));
        for row in rows {
            let bytes = filling.segment.read(u64::from(row.at), row.length as usize).unwrap();
            assert_eq!(record::read(&bytes).unwrap().head.key, row.key);
        }
    }
}
