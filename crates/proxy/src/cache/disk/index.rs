//! Where on disk each answer is: in memory, some fifty bytes an answer, whatever its size.
//!
//! Only the writer puts answers in; cores look, and take out what is no longer true. A look takes the read lock of one of
//! many shards, and only requests that found nothing in memory look.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use tidegate_model::cache::key::Key;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;

use super::segment::Row;

const SHARDS: usize = 64;

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the segment's file.
    pub segment: u32,
    /// Where it begins.
    pub at: u32,
    /// All its bytes.
    pub length: u32,
}

/// All that is on disk.
#[derive(Debug, Default)]
pub struct Index {
    shards: Vec<RwLock<Shard>>,
    rooms: Mutex<HashMap<u64, Room>>,
    answers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    answers: HashMap<Key, Slot, BuildHasherDefault<Straight>>,
    varying: HashMap<Key, Varying, BuildHasherDefault<Straight>>,
}

#[derive(Debug)]
struct Slot {
    place: Place,
    room: u64,
    used: AtomicBool,
}

/// With what the answers of a target vary, and the segment of the last of them.
#[derive(Debug)]
struct Varying {
    vary: Arc<Vary>,
    segment: u32,
}

/// What a tenant has on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Its bytes.
    pub bytes: u64,
    /// Its answers.
    pub answers: u64,
}

/// Keys are digests: no bit of them is better than another.
#[derive(Debug, Default)]
struct Straight(u64);

impl Hasher for Straight {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = (number >> 64) as u64;
    }
}

/// The key of one variant of a target. Unlike in memory it is the same in each process.
#[must_use]
pub fn variant_key(target: Key, vary: &Vary, request: &Fields) -> Key {
    let mut bytes = crate::cache::known::names(vary).into_bytes();
    bytes.push(0);
    bytes.extend(vary.variant(request));
    target.variant(u64::MAX, &bytes)
}

impl Index {
    /// Nothing is there yet.
    #[must_use]
    pub fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), ..Index::default() }
    }

    /// Answers that are there.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.answers.load(Relaxed)
    }

    /// Finds what answers this request.
    #[must_use]
    pub fn find(&self, target: Key, request: &Fields) -> Option<(Key, Place)> {
        self.look(target, request, |slot| slot.used.store(true, Relaxed))
    }

    /// The same for somebody who asks about it: it is not used by that.
    #[must_use]
    pub fn peek(&self, target: Key, request: &Fields) -> Option<(Key, Place)> {
        self.look(target, request, |_| {})
    }

    fn look(&self, target: Key, request: &Fields, found: impl Fn(&Slot)) -> Option<(Key, Place)> {
        let shard = self.shard(target).read();
        if let Some(slot) = shard.answers.get(&target) {
            found(slot);
            return Some((target, slot.place));
        }
        let vary = Arc::clone(&shard.varying.get(&target)?.vary);
        drop(shard);
        let key = variant_key(target, &vary, request);
        let shard = self.shard(key).read();
        let slot = shard.answers.get(&key)?;
        found(slot);
        Some((key, slot.place))
    }

    /// What the answers of a target are told apart by, if they vary.
    #[must_use]
    pub fn varying(&self, target: Key) -> Option<Arc<Vary>> {
        self.shard(target).read().varying.get(&target).map(|varying| Arc::clone(&varying.vary))
    }

    /// Whether there is an answer under this key.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.shard(key).read().answers.contains_key(&key)
    }

    /// A record has been written: it stands in place of what was found by its key.
    pub fn put(&self, row: &Row, segment: u32) {
        let place = Place { segment, at: row.at, length: row.length };
        if row.vary.is_empty() {
            self.shard(row.target).write().varying.remove(&row.target);
        } else {
            self.forget(row.target);
            let varying = Varying { vary: Arc::clone(&row.vary), segment };
            self.shard(row.target).write().varying.insert(row.target, varying);
        }
        let before = {
            let slot = Slot { place, room: row.room, used: AtomicBool::new(false) };
            self.shard(row.key).write().answers.insert(row.key, slot)
        };
        match before {
            Some(before) => self.take(before.room, before.place),
            None => drop(self.answers.fetch_add(1, Relaxed)),
        }
        let mut rooms = self.rooms.lock();
        let room = rooms.entry(row.room).or_default();
        room.bytes += u64::from(row.length);
        room.answers += 1;
    }

    /// What is found by this key is no longer true.
    pub fn forget(&self, key: Key) {
        let before = self.shard(key).write().answers.remove(&key);
        if let Some(before) = before {
            self.answers.fetch_sub(1, Relaxed);
            self.take(before.room, before.place);
        }
    }

    /// Takes out what is found by this key, if it is still there. Tells whether it was.
    pub fn forget_place(&self, key: Key, place: Place) -> bool {
        let mut shard = self.shard(key).write();
        if shard.answers.get(&key).is_none_or(|slot| slot.place != place) {
            return false;
        }
        let Some(slot) = shard.answers.remove(&key) else { return false };
        drop(shard);
        self.answers.fetch_sub(1, Relaxed);
        self.take(slot.room, place);
        true
    }

    /// Takes out a record of a segment that is used again. Tells whether it was still found.
    pub fn forget_row(&self, row: &Row, segment: u32) -> bool {
        if !row.vary.is_empty() {
            let mut shard = self.shard(row.target).write();
            if shard.varying.get(&row.target).is_some_and(|varying| varying.segment == segment) {
                shard.varying.remove(&row.target);
            }
        }
        self.forget_place(row.key, Place { segment, at: row.at, length: row.length })
    }

    /// A record has been copied: it is found there, if it was found where it came from.
    pub fn moved(&self, row: &Row, from: Place, segment: u32) {
        let place = Place { segment, at: row.at, length: row.length };
        if let Some(slot) = self.shard(row.key).write().answers.get_mut(&row.key)
            && slot.place == from
        {
            *slot = Slot { place, room: row.room, used: AtomicBool::new(false) };
        }
        if !row.vary.is_empty()
            && let Some(varying) = self.shard(row.target).write().varying.get_mut(&row.target)
        {
            varying.segment = segment;
        }
    }

    /// Whether an answer is there, and whether it was asked for.
    #[must_use]
    pub fn is_used_at(&self, row: &Row, segment: u32) -> Option<bool> {
        let place = Place { segment, at: row.at, length: row.length };
        let shard = self.shard(row.key).read();
        let slot = shard.answers.get(&row.key).filter(|slot| slot.place == place)?;
        Some(slot.used.load(Relaxed))
    }

    /// Takes out all answers of a segment. Slow: for a segment that cannot be read any more.
    pub fn forget_segment(&self, segment: u32) {
        for shard in &self.shards {
            let mut shard = shard.write();
            let gone: Vec<Slot> = shard
                .answers
                .extract_if(|_, slot| slot.place.segment == segment)
                .map(|(_, slot)| slot)
                .collect();
            shard.varying.retain(|_, varying| varying.segment != segment);
            drop(shard);
            self.answers.fetch_sub(gone.len(), Relaxed);
            for slot in gone {
                self.take(slot.room, slot.place);
            }
        }
    }

    /// What a tenant has.
    #[must_use]
    pub fn room(&self, room: u64) -> Room {
        self.rooms.lock().get(&room).copied().unwrap_or_default()
    }

    /// Tenants that have anything.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.rooms.lock().len()
    }

    /// Bytes of all answers that are found.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rooms.lock().values().map(|room| room.bytes).sum()
    }

    fn take(&self, room: u64, place: Place) {
        let mut rooms = self.rooms.lock();
        if let Some(held) = rooms.get_mut(&room) {
            held.bytes = held.bytes.saturating_sub(u64::from(place.length));
            held.answers = held.answers.saturating_sub(1);
            if held.answers == 0 {
                rooms.remove(&room);
            }
        }
    }

    fn shard(&self, key: Key) -> &RwLock<Shard> {
        &self.shards[key.0 as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::known;
    use http::{HeaderName, HeaderValue};

    fn row(key: u128, at: u32, vary: &str) -> Row {
        let vary = Arc::new(known::tests::vary(vary));
        Row { key: Key(key), target: Key(key), room: 7, at, length: 100, vary }
    }

    fn language(value: &'static str) -> Fields {
        Fields::from_iter([(HeaderName::from_static("accept-language"), HeaderValue::from_static(value))])
    }

    #[test]
    fn the_last_that_was_written_is_found_and_counted_once() {
        let index = Index::new();
        index.put(&row(1, 64, ""), 0);
        index.put(&row(1, 640, ""), 2);
        let place = Place { segment: 2, at: 640, length: 100 };
        assert_eq!(index.find(Key(1), &Fields::default()), Some((Key(1), place)));
        assert_eq!((index.answers(), index.room(7)), (1, Room { bytes: 100, answers: 1 }));
        assert!(!index.forget_row(&row(1, 64, ""), 0), "it is not there any more");
        assert_eq!(index.is_used_at(&row(1, 640, ""), 2), Some(true));
        assert!(index.forget_row(&row(1, 640, ""), 2));
        assert_eq!((index.answers(), index.rooms()), (0, 0));
    }

    #[test]
    fn each_variant_is_found_by_those_who_asked_for_it() {
        let index = Index::new();
        for (language_, at) in [("de", 64), ("en", 640)] {
            let mut row = row(1, at, "accept-language");
            row.key = variant_key(Key(1), &row.vary, &language(language_));
            index.put(&row, 0);
        }
        let at = |request: &Fields| index.find(Key(1), request).map(|(_, place)| place.at);
        assert_eq!(
            [at(&language("de")), at(&language("EN")), at(&Fields::default())],
            [Some(64), Some(640), None]
        );
        index.put(&row(1, 6_400, ""), 0);
        assert_eq!(at(&language("de")), Some(6_400), "it does not vary any more");
    }

    #[test]
    fn what_was_copied_is_found_where_it_is_now_unless_it_was_replaced() {
        let index = Index::new();
        index.put(&row(1, 64, ""), 0);
        index.put(&row(2, 640, ""), 0);
        index.put(&row(2, 64, ""), 1);
        for key in [1, 2] {
            let at = if key == 1 { 64 } else { 640 };
            index.moved(&row(key, 6_400, ""), Place { segment: 0, at, length: 100 }, 3);
        }
        let place =
            |key| index.find(Key(key), &Fields::default()).map(|(_, place)| (place.segment, place.at));
        assert_eq!([place(1), place(2)], [Some((3, 6_400)), Some((1, 64))]);
        index.forget_segment(3);
        assert_eq!([place(1), place(2)], [None, Some((1, 64))]);
        assert_eq!((index.answers(), index.room(7)), (1, Room { bytes: 100, answers: 1 }));
    }
}
