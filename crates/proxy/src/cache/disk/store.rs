//! The directory in use: segments one after the other, the oldest used again when there is no room for more.
//!
//! ```text
//! write ---> filling ---- full ----> sealed ---- the oldest, when no other is free ----> free ---> filling
//!               ^                                    | what was asked for since,
//!               +------------------------------------+ and what those have who have least
//! ```
//!
//! Nothing is forced to the disk but when the directory is closed: what the process wrote outlives the process, and whether
//! the system went down in between is known by its boot id. After that, and after anything that cannot be explained,
//! everything is given up: a cache may be empty, never wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::BufMut as _;
use parking_lot::RwLock;
use tidegate_model::cache::orders::LogPlace;
use tidegate_model::cache::purge::Marks;

use super::ground::{Ground, Lock};
use super::index::{Index, Place};
use super::journal::{Journal, Spoilt, on_disk};
use super::ledger::Waiting;
use super::record::{self, Item};
use super::segment::{self, Filling, Row, Segment};
use tidegate_model::numbers::Take;

/// Segments that the room is divided into.
const SEGMENTS: u64 = 32;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Room for one answer: smaller ones are counted as this large, so that what is remembered of them is bounded.
const ANSWER_BYTES: u64 = 4096;
/// Answers, whatever the room: some 600 MB of memory.
const ANSWERS_MAX: u64 = 8 << 20;
/// What a core reads itself, at most: some microseconds of work.
const CACHED_BYTES_MAX: u32 = 64 * 1024 + 8 * 1024;
/// The smallest tier.
pub const SIZE_MIN: u64 = 4 * SEGMENT_BYTES_MIN;
const STATE_BYTES: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"TGd2");

/// What those see who read.
#[derive(Debug)]
pub struct Open {
    /// Where each answer is.
    pub index: Index,
    /// The number of this use of the directory.
    pub session: u32,
    /// What was purged in earlier sessions.
    pub past: Marks,
    /// How far the log that nodes share had been read when they ended.
    pub place: Option<LogPlace>,
    segments: RwLock<HashMap<u32, Arc<Segment>>>,
}

/// The directory, for the one thread that writes.
#[derive(Debug)]
pub struct Store {
    /// What those see who read.
    pub open: Arc<Open>,
    ground: Ground,
    lock: Lock,
    state: File,
    journal: Journal,
    filling: Option<Filling>,
    /// By generation: the oldest first.
    sealed: BTreeMap<u64, Arc<Segment>>,
    /// Files that can be used.
    free: VecDeque<u32>,
    generation: u64,
    /// Of a segment that is begun now. Others may be of another size, from when the tier had another.
    segment_bytes: u64,
    size_max: u64,
    boot: u128,
    buffer: Vec<u8>,
    /// Answers that went to make room.
    pub evicted: u64,
}

/// What is written of the directory's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    session: u32,
    clean: bool,
    boot: u128,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is on disk.
    Kept,
    /// It is larger than a segment.
    Large,
}

impl Open {
    /// Reads the record at a place. `None`: it is not there, or not as it was written.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, place: Place) -> io::Result<Option<record::Restored>> {
        let Some(segment) = self.segments.read().get(&place.segment).cloned() else { return Ok(None) };
        let bytes = match segment.read(u64::from(place.at), place.length as usize) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            bytes => bytes?,
        };
        Ok(record::read(&bytes).filter(|restored| restored.head.generation == segment.generation))
    }
}

impl Open {
    /// The same without waiting: if the system has it in memory, and it is not so large that a core should leave it to others.
    #[must_use]
    pub fn read_cached(&self, place: Place) -> Option<record::Restored> {
        if place.length > CACHED_BYTES_MAX {
            return None;
        }
        let segment = self.segments.read().get(&place.segment).cloned()?;
        let bytes = segment.read_cached(u64::from(place.at), place.length as usize)?;
        record::read(&bytes).filter(|restored| restored.head.generation == segment.generation)
    }
}

impl Store {
    /// Takes the directory, and finds what is there.
    ///
    /// # Errors
    /// The system's; another process has it.
    pub fn open(ground: Ground, size: u64, boot: u128) -> io::Result<Store> {
        let lock = ground.lock()?;
        let known = State::read(&ground)?.filter(|state| state.clean || (boot != 0 && state.boot == boot));
        if known.is_none() {
            wipe(&ground)?;
        }
        let session = known.map_or(0, |state| state.session) + 1;
        let journal = match Journal::open(&ground, known.is_some())? {
            Ok(journal) => journal,
            Err(Spoilt) => {
                wipe(&ground)?;
                Journal::open(&ground, false)?
                    .map_err(|Spoilt| io::Error::other("a new file is not as it was written"))?
            }
        };
        let state = ground.open("state")?;
        State { session, clean: false, boot }.write(&ground, &state)?;
        let segment_bytes = segment_bytes(size);
        let past = journal.marks().clone();
        let open =
            Open { index: Index::new(), session, past, place: journal.place(), segments: RwLock::default() };
        let mut store = Store {
            open: Arc::new(open),
            ground,
            lock,
            state,
            journal,
            filling: None,
            sealed: BTreeMap::new(),
            free: VecDeque::new(),
            generation: 0,
            segment_bytes,
            size_max: size,
            boot,
            buffer: Vec::new(),
            evicted: 0,
        };
        store.find()?;
        Ok(store)
    }

    /// Finds the segments that are there, the oldest first: what was written later stands.
    fn find(&mut self) -> io::Result<()> {
        let mut found = BTreeMap::new();
        for number in self.ground.names()?.iter().filter_map(|name| segment::number(name)) {
            match Segment::open(&self.ground, number)? {
                Some(segment) => {
                    if let Some(twin) = found.insert(segment.generation, segment) {
                        self.ground.remove(&segment::name(twin.number))?;
                    }
                }
                // Nothing is in it.
                None => self.ground.remove(&segment::name(number))?,
            }
        }
        // The tier may have become smaller: what was written last stays.
        while found.values().map(|segment| segment.size).sum::<u64>() > self.size_max
            && let Some((_, oldest)) = found.pop_first()
        {
            self.ground.remove(&segment::name(oldest.number))?;
        }
        self.generation = found.keys().next_back().copied().unwrap_or(0);
        for (generation, segment) in found {
            let segment = Arc::new(segment);
            let Ok((rows, end)) = segment.rows() else {
                self.ground.remove(&segment::name(segment.number))?;
                continue;
            };
            self.open.segments.write().insert(segment.number, Arc::clone(&segment));
            for row in &rows {
                self.open.index.put(row, segment.number);
            }
            if generation != self.generation {
                self.sealed.insert(generation, segment);
                continue;
            }
            let filling = Filling::resume(&self.ground, Arc::clone(&segment), rows, end)?;
            if segment.size == self.segment_bytes {
                self.filling = Some(filling);
            } else {
                let _ = filling.seal(&self.ground);
                self.sealed.insert(generation, segment);
            }
        }
        Ok(())
    }

    /// Writes an answer.
    ///
    /// # Errors
    /// The system's: there is no space, or the disk does not take it.
    pub fn write(&mut self, item: &Item) -> io::Result<Written> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let written = self.write_with(item, &mut buffer);
        // One large answer is no reason to hold as much for ever.
        buffer.shrink_to(1 << 20);
        self.buffer = buffer;
        written
    }

    fn write_with(&mut self, item: &Item, buffer: &mut Vec<u8>) -> io::Result<Written> {
        let made = on_disk(self.open.session, item.kept.made);
        // It is made with the generation of the segment that it goes into, which is known when there is room for it.
        let fits = record::write(buffer, item, 0, made).is_some();
        if !fits || !Filling::could_hold(self.segment_bytes, buffer.len() as u64) {
            return Ok(Written::Large);
        }
        let answers_max = (self.size_max / ANSWER_BYTES).min(ANSWERS_MAX);
        while self.open.index.answers() as u64 >= answers_max && self.evict(false)? {}
        self.make_room(buffer.len() as u64)?;
        let head = record::Head::read(buffer).expect("it was just written");
        self.append(buffer, &head, &item.vary)?;
        Ok(Written::Kept)
    }

    /// Appends a record to the segment that is being filled, in which there is room for it.
    fn append(
        &mut self,
        bytes: &mut [u8],
        head: &record::Head,
        vary: &tidegate_model::cache::vary::Vary,
    ) -> io::Result<()> {
        let filling = self.filling.as_mut().expect("room was made in it");
        record::renew(bytes, head, filling.segment.generation);
        let row = filling.append(&self.ground, bytes, head, vary)?;
        self.open.index.put(&row, filling.segment.number);
        Ok(())
    }

    /// Sees to it that the segment being filled has room for a record of this length.
    fn make_room(&mut self, length: u64) -> io::Result<()> {
        if self.filling.as_ref().is_some_and(|filling| filling.has_room(length)) {
            return Ok(());
        }
        if let Some(full) = self.filling.take() {
            // Without its table a segment is read record by record.
            let _ = full.seal(&self.ground);
            self.sealed.insert(full.segment.generation, full.segment);
        }
        self.begin()?;
        // One is always free, so that what is to stay of the oldest finds room in this one.
        while !self.has_room() && self.evict(true)? {}
        if self.filling.as_ref().is_some_and(|filling| filling.has_room(length)) {
            return Ok(());
        }
        // What stayed took half of it, and this one is larger than the rest.
        self.make_room_without_staying()
    }

    fn make_room_without_staying(&mut self) -> io::Result<()> {
        if let Some(full) = self.filling.take() {
            let _ = full.seal(&self.ground);
            self.sealed.insert(full.segment.generation, full.segment);
        }
        self.begin()?;
        while !self.has_room() && self.evict(false)? {}
        Ok(())
    }

    /// Begins a segment: in a free file, in a new one, or in that of the oldest.
    fn begin(&mut self) -> io::Result<()> {
        while !self.has_room() {
            if !self.evict(false)? {
                return Err(io::Error::other("no segment can be used again"));
            }
        }
        let number = self.free.pop_front().unwrap_or_else(|| self.unused());
        let generation = self.generation + 1;
        let filling = match Filling::begin(&self.ground, number, generation, self.segment_bytes) {
            Ok(filling) => filling,
            // The disk is full. The tier goes on with the files that it has.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.evict(false)? => {
                let _ = self.ground.remove(&segment::name(number));
                // One of another size has left its room alone.
                let number = self.free.pop_front().unwrap_or(number);
                Filling::begin(&self.ground, number, generation, self.segment_bytes)?
            }
            Err(error) => {
                let _ = self.ground.remove(&segment::name(number));
                return Err(error);
            }
        };
        self.generation = generation;
        self.open.segments.write().insert(filling.segment.number, Arc::clone(&filling.segment));
        self.filling = Some(filling);
        Ok(())
    }

    /// Whether another segment can be begun.
    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.size() + self.segment_bytes <= self.size_max
    }

    fn unused(&self) -> u32 {
        let segments = self.open.segments.read();
        (0..).find(|number| !segments.contains_key(number)).expect("there are fewer segments than numbers")
    }

    /// Lets the oldest segment go. `stay`: what is worth it is copied to the one being filled. Tells whether there was one.
    fn evict(&mut self, stay: bool) -> io::Result<bool> {
        let Some((_, oldest)) = self.sealed.pop_first() else { return Ok(false) };
        match oldest.rows() {
            Ok((rows, _)) => {
                let index = &self.open.index;
                // With one tenant alone there is nobody to have less.
                let even = match index.rooms() as u64 {
                    0 | 1 => 0,
                    rooms => index.bytes() / rooms,
                };
                let mut left = if stay { self.segment_bytes / 2 } else { 0 };
                for row in &rows {
                    if self.stays(row, oldest.number, even, &mut left) && self.copy(row, &oldest)? {
                        continue;
                    }
                    self.evicted += u64::from(self.open.index.forget_row(row, oldest.number));
                }
            }
            Err(_) => self.open.index.forget_segment(oldest.number),
        }
        self.open.segments.write().remove(&oldest.number);
        if oldest.size == self.segment_bytes {
            oldest.void(&self.ground)?;
            self.free.push_back(oldest.number);
        } else {
            self.ground.remove(&segment::name(oldest.number))?;
        }
        Ok(true)
    }

    /// Whether an answer of the oldest segment is worth to be written again: it was asked for since it was written, or its
    /// tenant has less than an even share. A tenant that stores much pushes out its own.
    fn stays(&self, row: &Row, segment: u32, even: u64, left: &mut u64) -> bool {
        let index = &self.open.index;
        let Some(used) = index.is_used_at(row, segment) else { return false };
        let worth = used || index.room(row.room).bytes < even;
        let has_room = self.filling.as_ref().is_some_and(|filling| filling.has_room(u64::from(row.length)));
        if !worth || !has_room || *left < u64::from(row.length) {
            return false;
        }
        *left -= u64::from(row.length);
        true
    }

    /// Copies a record into the segment being filled. Tells whether it could be read.
    fn copy(&mut self, row: &Row, from: &Segment) -> io::Result<bool> {
        let Ok(bytes) = from.read(u64::from(row.at), row.length as usize) else { return Ok(false) };
        let Some(restored) = record::read(&bytes).filter(|found| found.head.generation == from.generation)
        else {
            return Ok(false);
        };
        let mut bytes = Vec::from(bytes);
        let Some(filling) = self.filling.as_mut() else { return Ok(false) };
        record::renew(&mut bytes, &restored.head, filling.segment.generation);
        let copied = filling.append(&self.ground, &bytes, &restored.head, &restored.vary)?;
        let place = Place { segment: from.number, at: row.at, length: row.length };
        self.open.index.moved(&copied, place, filling.segment.number);
        Ok(true)
    }

    /// Whether anything of this is not written down yet.
    #[must_use]
    pub fn has_to_note(&self, waiting: &Waiting) -> bool {
        !waiting.purges.is_empty() || waiting.place.is_some_and(|place| self.journal.place() != Some(place))
    }

    /// Writes down what was purged, and how far the log was read with it.
    ///
    /// # Errors
    /// The system's: the directory must not be used any more as it is.
    pub fn note(&mut self, waiting: &Waiting) -> io::Result<()> {
        self.journal.note(&self.ground, self.open.session, waiting)
    }

    /// Whether the directory is still the one that was opened.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.lock.is_in_place()
    }

    /// Bytes of the segments.
    #[must_use]
    pub fn size(&self) -> u64 {
        let sealed: u64 = self.sealed.values().map(|segment| segment.size).sum();
        let free = self.free.len() as u64 * self.segment_bytes;
        sealed + free + self.filling.as_ref().map_or(0, |filling| filling.segment.size)
    }

    /// Nothing of it may be found again: a purge could not be written down, or cannot be any more. The directory may be
    /// elsewhere by now: what says that it counts no more is written to the file that was opened, in its place.
    ///
    /// # Errors
    /// The system's.
    pub fn give_up(self) -> io::Result<()> {
        let voided = State { session: 0, clean: false, boot: 0 }.write(&self.ground, &self.state);
        if self.is_in_place() { wipe(&self.ground).or(voided) } else { voided }
    }

    /// Closes the directory, so that all of it is there again even if the system goes down.
    ///
    /// # Errors
    /// The system's: after the system went down it will be empty.
    pub fn close(mut self) -> io::Result<()> {
        if let Some(filling) = self.filling.take() {
            filling.seal(&self.ground)?;
            filling.segment.sync()?;
        }
        for segment in self.sealed.values() {
            segment.sync()?;
        }
        self.journal.sync()?;
        State { session: self.open.session, clean: true, boot: self.boot }.write(&self.ground, &self.state)
    }
}

impl State {
    fn read(ground: &Ground) -> io::Result<Option<State>> {
        let bytes = match std::fs::read(ground.path("state")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        Ok(State::of(&bytes))
    }

    fn of(bytes: &[u8]) -> Option<State> {
        let mut take = Take(bytes);
        let good = take.u32()? == MAGIC && take.u32()? == crc32fast::hash(bytes.get(8..STATE_BYTES)?);
        // What is packed in records stands as this machine has its numbers.
        let same = take.bytes(4)? == 1u32.to_ne_bytes();
        let state = State { session: take.u32()?, clean: take.u32()? == 1, boot: take.u128()? };
        (good && same && state.session > 0 && state.session < 1 << 24).then_some(state)
    }

    fn write(self, ground: &Ground, file: &File) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(STATE_BYTES);
        bytes.put_u32_le(MAGIC);
        bytes.put_u32_le(0);
        bytes.put_slice(&1u32.to_ne_bytes());
        bytes.put_u32_le(self.session);
        bytes.put_u32_le(u32::from(self.clean));
        bytes.put_u128_le(self.boot);
        bytes.resize(STATE_BYTES, 0);
        let sum = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        ground.write(file, &bytes, 0)?;
        file.sync_data()
    }
}

/// The bytes of a segment, of this room.
#[must_use]
pub fn segment_bytes(size: u64) -> u64 {
    (size / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) & !(record::ALIGN as u64 - 1)
}

/// Removes all that was kept. The state goes first: what is left without it is not believed.
fn wipe(ground: &Ground) -> io::Result<()> {
    ground.remove("state")?;
    for name in ground.names()?.iter().filter(|name| segment::number(name).is_some()) {
        ground.remove(name)?;
    }
    Journal::remove(ground)
}
