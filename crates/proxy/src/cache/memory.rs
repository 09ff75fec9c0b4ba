//! What is kept in memory: found without a lock, changed under one.
//!
//! An answer that varies stands under a key of its own, made of the target's key, of a number that each list of varying
//! fields has for itself, and of what the request has in these fields. A target that begins to vary otherwise, or is purged,
//! gets another number: its older variants are never found again and go as the unused go.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use papaya::Equivalent;
use parking_lot::{Mutex, RwLock};
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::{Bounds, Evictor, GROWTH, Place};
use tidegate_model::cache::key::Key;
use tidegate_model::cache::purge::{Label, Marks, Noted, Purge, Standing, labels};
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::coding::Coding;
use tidegate_model::fields::Fields;

use super::coded::Coded;
use super::disk::Disk;
use super::kept::{Kept, OVERHEAD_BYTES};

/// Purges that are remembered one by one.
const MARKS_MAX: usize = 65_536;
/// The size of an entry by which the memory of those that went is measured.
const EXPECTED_BYTES: u64 = 4_096;

/// The memory tier.
#[derive(Debug)]
pub struct Memory {
    answers: papaya::HashSet<Listed, Mixed>,
    varying: papaya::HashMap<Key, Arc<Varying>, Mixed>,
    ledger: Mutex<Ledger>,
    marks: RwLock<Marks>,
    newest: AtomicU64,
    /// What writes down, for the next process, what is purged.
    disk: ArcSwapOption<Disk>,
    varied: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Debug)]
struct Ledger {
    evictor: Evictor,
    /// What is kept at each place.
    places: Vec<Option<Held>>,
}

#[derive(Clone, Debug)]
enum Held {
    Answer(Arc<Kept>),
    Varying(Arc<Varying>),
}

/// An answer that is found by its key, which it has itself: a map would have it once more.
#[derive(Debug)]
struct Listed(Arc<Kept>);

impl PartialEq for Listed {
    fn eq(&self, other: &Listed) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Listed {}

impl Hash for Listed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl Equivalent<Listed> for Key {
    fn equivalent(&self, listed: &Listed) -> bool {
        *self == listed.0.key()
    }
}

/// Hashes keys. They are digests already; mixed with what this process alone knows, so that nobody can look for targets that
/// fall on one another's place.
#[derive(Clone, Debug)]
struct Mixed {
    secret: [u64; 2],
}

impl Mixed {
    fn new() -> Mixed {
        let chance = || RandomState::new().hash_one(0);
        Mixed { secret: [chance(), chance()] }
    }
}

impl BuildHasher for Mixed {
    type Hasher = MixedHasher;

    fn build_hasher(&self) -> MixedHasher {
        MixedHasher { secret: self.secret, hash: 0 }
    }
}

struct MixedHasher {
    secret: [u64; 2],
    hash: u64,
}

impl Hasher for MixedHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u128>()) {
            let mut number = [0; size_of::<u128>()];
            number[..chunk.len()].copy_from_slice(chunk);
            self.write_u128(u128::from_le_bytes(number));
        }
    }

    fn write_u128(&mut self, number: u128) {
        let [low, high] = [number as u64 ^ self.secret[0], (number >> 64) as u64 ^ self.secret[1]];
        let product = u128::from(low ^ self.hash) * u128::from(high);
        self.hash = product as u64 ^ (product >> 64) as u64;
    }
}

/// With which fields the answers of a target vary.
#[derive(Debug)]
struct Varying {
    target: Key,
    vary: Vary,
    number: u64,
    place: Place,
}

/// What is asked for, as a purge may name it.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// The tenant; `None`: the content is public.
    pub tenant: Option<&'a str>,
    /// The host.
    pub host: &'a str,
    /// The path.
    pub path: &'a str,
    /// The key of both, the query and the rest.
    pub key: Key,
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// An answer.
    Answer(Arc<Kept>),
    /// Answers to requests that differ in what they vary with.
    Variants,
    /// Nothing.
    Nothing,
}

impl Memory {
    /// Nothing is kept yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Memory {
        let expected = usize::try_from(bounds.bytes / EXPECTED_BYTES).unwrap_or(usize::MAX).min(1 << 22);
        Memory {
            answers: papaya::HashSet::with_hasher(Mixed::new()),
            varying: papaya::HashMap::with_hasher(Mixed::new()),
            ledger: Mutex::new(Ledger { evictor: Evictor::new(bounds, expected), places: Vec::new() }),
            marks: RwLock::new(Marks::new(MARKS_MAX)),
            newest: AtomicU64::new(1),
            disk: ArcSwapOption::empty(),
            varied: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Bytes and answers that are kept.
    #[must_use]
    pub fn size(&self) -> (u64, usize) {
        (self.ledger.lock().evictor.bytes(), self.answers.len())
    }

    /// Holds it to other bounds.
    pub fn bound(&self, bounds: Bounds) {
        let mut gone = Vec::new();
        let mut ledger = self.ledger.lock();
        let Ledger { evictor, places } = &mut *ledger;
        evictor.bound(bounds, |place| is_used(places, place), &mut gone);
        self.let_go(&mut ledger, gone);
    }

    /// The newest purge: what is asked for now carries it.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Relaxed)
    }

    /// Purges what has this label. Tells the number of what is asked for from now on.
    pub fn purge(&self, label: Label, purge: Purge, now: Wall) -> u64 {
        let mut marks = self.marks.write();
        let number = marks.newest();
        let newest = marks.purge(label, purge, now);
        self.newest.store(newest, Relaxed);
        // Under the lock: it is to be written down in the order of the numbers, whoever purges.
        if let Some(disk) = self.disk.load().as_ref() {
            disk.purged(Noted { number, label, purge, when: now });
        }
        newest
    }

    /// The disk tier.
    #[must_use]
    pub fn disk(&self) -> Option<Arc<Disk>> {
        self.disk.load_full()
    }

    /// Puts another disk tier below, or none. It begins with all that was purged so far, and is told what comes.
    pub fn put_disk(&self, begin: impl FnOnce(Marks) -> Option<Arc<Disk>>) {
        let marks = self.marks.write();
        self.disk.store(begin(marks.clone()));
    }

    /// Answers that had to go for want of room, ever.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// Finds the answer to a request.
    #[must_use]
    pub fn find(&self, named: &Named<'_>, request: &Fields) -> Found {
        let Some(kept) = self.get(named.key) else { return self.find_variant(named, request) };
        if self.is_good(&kept, named) { self.found(kept) } else { self.drop_answer(&kept) }
    }

    fn find_variant(&self, named: &Named<'_>, request: &Fields) -> Found {
        let Some(varying) = self.varying.pin().get(&named.key).cloned() else { return Found::Nothing };
        let key = variant_key(named.key, &varying, request);
        let Some(kept) = self.get(key) else { return Found::Variants };
        if self.is_good(&kept, named) { self.found(kept) } else { self.drop_answer(&kept) }
    }

    fn get(&self, key: Key) -> Option<Arc<Kept>> {
        self.answers.pin().get(&key).map(|Listed(kept)| Arc::clone(kept))
    }

    fn found(&self, kept: Arc<Kept>) -> Found {
        kept.ask();
        Found::Answer(kept)
    }

    fn drop_answer(&self, kept: &Arc<Kept>) -> Found {
        let mut ledger = self.ledger.lock();
        self.remove_answer(&mut ledger, kept);
        Found::Nothing
    }

    /// Whether no purge has met it. It is compared with the marks once after each purge.
    pub(super) fn is_good(&self, kept: &Kept, named: &Named<'_>) -> bool {
        let newest = self.newest();
        if kept.checked() >= newest {
            return true;
        }
        let tags: Vec<Tag> = kept.known().tags().collect();
        let labels = labels(named.tenant, named.host, named.path, named.key, &tags);
        match self.marks.read().standing(kept.made, labels) {
            Standing::Good => kept.good_until(newest, None),
            Standing::StaleSince(when) => kept.good_until(newest, Some(when)),
            Standing::Gone => return false,
        }
        true
    }

    /// Whether a purge has taken away, or made stale, what was asked for when this was the newest number.
    pub(super) fn is_purged(&self, made: u64, named: &Named<'_>, tags: &[Tag]) -> bool {
        let labels = labels(named.tenant, named.host, named.path, named.key, tags);
        made < self.newest() && !matches!(self.marks.read().standing(made, labels), Standing::Good)
    }

    /// Keeps an answer in place of what is there. Tells whether there was room for it.
    pub fn keep(
        &self,
        named: &Named<'_>,
        tenant: u64,
        request: &Fields,
        vary: &Vary,
        kept: Arc<Kept>,
    ) -> bool {
        let mut ledger = self.ledger.lock();
        let known = self.varying.pin().get(&named.key).cloned();
        // What the target's answers have once varied with they go on to be told apart by.
        let vary = match known.as_ref().map(|known| known.vary.and(vary)) {
            Some(Some(both)) => both,
            Some(None) | None => vary.clone(),
        };
        let key = if vary.is_empty() {
            named.key
        } else {
            let varying = match known.filter(|known| known.vary == vary) {
                Some(varying) => varying,
                None => match self.begin_varying(&mut ledger, named.key, tenant, &vary) {
                    Some(varying) => varying,
                    None => return false,
                },
            };
            variant_key(named.key, &varying, request)
        };
        // What was there before is found until this one is.
        let before = self.get(key);
        if let Some(before) = &before {
            ledger.let_go(before);
        }
        let Some(place) = self.find_room(&mut ledger, tenant, key, kept.whole_size()) else {
            before.iter().for_each(|before| self.unlist(before));
            return false;
        };
        kept.stand(key, place);
        ledger.hold(place, Held::Answer(Arc::clone(&kept)));
        self.answers.pin().insert(Listed(kept));
        true
    }

    /// Keeps what an answer's content is in a coding beside it, counted as the answer is. Nothing comes of it if the answer is
    /// kept no more, there is no room, or somebody else was first.
    pub fn keep_coded(&self, kept: &Arc<Kept>, coding: Coding, coded: Coded) {
        let mut ledger = self.ledger.lock();
        let Ledger { evictor, places } = &mut *ledger;
        let is_its = |place: &Place| matches!(&places[place.index()], Some(Held::Answer(held)) if Arc::ptr_eq(held, kept));
        let Some(place) = kept.place().filter(is_its) else { return };
        if kept.coded(coding).is_some() {
            return;
        }
        let mut gone = Vec::new();
        if evictor.grow(place, coded.size(), |place| is_used(places, place), &mut gone) {
            kept.codeds().put(coding, coded);
        }
        self.let_go(&mut ledger, gone);
    }

    fn begin_varying(&self, ledger: &mut Ledger, key: Key, tenant: u64, vary: &Vary) -> Option<Arc<Varying>> {
        self.forget_varying(ledger, key);
        if let Some(before) = self.get(key) {
            self.remove_answer(ledger, &before);
        }
        let place = self.find_room(ledger, tenant, Key(!key.0), OVERHEAD_BYTES)?;
        let number = self.varied.fetch_add(1, Relaxed);
        let varying = Arc::new(Varying { target: key, vary: vary.clone(), number, place });
        ledger.hold(place, Held::Varying(Arc::clone(&varying)));
        self.varying.pin().insert(key, Arc::clone(&varying));
        Some(varying)
    }

    fn find_room(&self, ledger: &mut Ledger, tenant: u64, key: Key, bytes: u64) -> Option<Place> {
        let mut gone = Vec::new();
        let Ledger { evictor, places } = ledger;
        let place = evictor.insert(tenant, key.0 as u64, bytes, |place| is_used(places, place), &mut gone);
        // Before what comes is put there: its place may be that of one that went.
        self.let_go(ledger, gone);
        place
    }

    /// What was evicted is no longer found.
    fn let_go(&self, ledger: &mut Ledger, gone: Vec<Place>) {
        for place in gone {
            match ledger.places[place.index()].take() {
                Some(Held::Answer(kept)) => {
                    self.evicted.fetch_add(1, Relaxed);
                    self.unlist(&kept);
                }
                Some(Held::Varying(varying)) => drop(self.varying.pin().remove(&varying.target)),
                None => {}
            }
        }
    }

    fn remove_answer(&self, ledger: &mut Ledger, kept: &Arc<Kept>) {
        ledger.let_go(kept);
        self.unlist(kept);
    }

    /// It is not found any more, if it is still what is found by its key.
    fn unlist(&self, kept: &Arc<Kept>) {
        let answers = self.answers.pin();
        // What is found changes under the ledger's lock alone.
        if answers.get(&kept.key()).is_some_and(|Listed(held)| Arc::ptr_eq(held, kept)) {
            answers.remove(&kept.key());
        }
    }

    fn forget_varying(&self, ledger: &mut Ledger, key: Key) {
        if let Some(varying) = self.varying.pin().remove(&key) {
            let is_its = |held: &Held| matches!(held, Held::Varying(other) if Arc::ptr_eq(other, varying));
            ledger.clear(varying.place, is_its);
        }
    }
}

impl Ledger {
    fn hold(&mut self, place: Place, held: Held) {
        if self.places.len() <= place.index() {
            if self.places.capacity() <= place.index() {
                self.places.reserve_exact(self.places.len() / GROWTH + 64);
            }
            self.places.resize(place.index() + 1, None);
        }
        self.places[place.index()] = Some(held);
    }

    /// Frees the place of an answer, if it is still its own.
    fn let_go(&mut self, kept: &Arc<Kept>) {
        if let Some(place) = kept.place() {
            self.clear(place, |held| matches!(held, Held::Answer(other) if Arc::ptr_eq(other, kept)));
        }
    }

    /// Frees a place, if it is still this one's.
    fn clear(&mut self, place: Place, is_his: impl Fn(&Held) -> bool) {
        let here = &mut self.places[place.index()];
        if here.as_ref().is_some_and(is_his) {
            *here = None;
            self.evictor.remove(place);
        }
    }
}

fn is_used(places: &[Option<Held>], place: Place) -> bool {
    match places.get(place.index()) {
        Some(Some(Held::Answer(kept))) => kept.take_mark(),
        // It goes when its variants do not come any more: it is made again for little.
        _ => false,
    }
}

fn variant_key(target: Key, varying: &Varying, request: &Fields) -> Key {
    target.variant(varying.number, &varying.vary.variant(request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue, StatusCode};
    use tidegate_model::cache::freshness::Freshness;
    use tidegate_model::cache::reuse::Rules;

    use crate::cache::kept::{Head, allocated};
    use crate::cache::{Cache, CacheBounds};

    const NOW: Wall = Wall(1_000);

    fn memory(bytes: u64) -> Memory {
        Memory::new(Bounds { bytes, tenant_bytes: bytes, tenant_entries: u32::MAX })
    }

    fn named(path: &'static str) -> Named<'static> {
        let key = Key(u128::from_le_bytes(*b"................")
            ^ path.bytes().fold(0, |sum, byte| sum * 31 + u128::from(byte)));
        Named { tenant: Some("acme"), host: "h", path, key }
    }

    fn kept(memory: &Memory, body: &'static str) -> Arc<Kept> {
        Arc::new(Kept::with(&head_of(memory), Box::new([Bytes::from_static(body.as_bytes())])))
    }

    fn head_of(memory: &Memory) -> Head {
        let freshness = Freshness { initial_age: 0, lifetime: 100, answered: NOW, heuristic: false };
        let rules = Rules {
            freshness,
            validate_always: false,
            never_stale: false,
            while_revalidate: 0,
            if_error: None,
            immutable: false,
        };
        Head {
            status: StatusCode::OK,
            fields: Fields::default(),
            rules,
            tags: Box::new([Tag::named(b"t")]),
            made: memory.newest(),
            took_ms: 1,
            vary: Vary::default(),
            variant: Vec::new(),
        }
    }

    /// What an answer with this content takes.
    fn size(memory: &Memory, body: &'static str) -> u64 {
        kept(memory, body).size()
    }

    fn put(memory: &Memory, path: &'static str, vary: &str, request: &Fields, body: &'static str) -> bool {
        let fields = Fields::from_iter([(http::header::VARY, HeaderValue::from_str(vary).unwrap())]);
        memory.keep(&named(path), 1, request, &Vary::of(&fields).unwrap(), kept(memory, body))
    }

    fn get(memory: &Memory, path: &'static str, request: &Fields) -> String {
        match memory.find(&named(path), request) {
            Found::Answer(kept) => String::from_utf8(kept.content().collect::<Vec<_>>().concat()).unwrap(),
            Found::Variants => "variants".to_owned(),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    fn language(value: &'static str) -> Fields {
        Fields::from_iter([(HeaderName::from_static("accept-language"), HeaderValue::from_static(value))])
    }

    #[test]
    fn finds_what_was_kept_and_the_newer_in_place_of_the_older() {
        let (memory, none) = (memory(10_000), Fields::default());
        assert_eq!(get(&memory, "/a", &none), "nothing");
        assert!(put(&memory, "/a", "", &none, "one"));
        assert!(put(&memory, "/a", "", &none, "two"));
        assert_eq!((get(&memory, "/a", &none), memory.size()), ("two".to_owned(), (size(&memory, "two"), 1)));
    }

    #[test]
    fn keeps_a_variant_for_each_request_that_differs() {
        let memory = memory(10_000);
        put(&memory, "/a", "accept-language", &language("de"), "deutsch");
        put(&memory, "/a", "Accept-Language", &language("en"), "english");
        assert_eq!(get(&memory, "/a", &language("DE")), "deutsch");
        assert_eq!(get(&memory, "/a", &language("en")), "english");
        assert_eq!(get(&memory, "/a", &language("fr")), "variants");
    }

    #[test]
    fn an_answer_that_names_no_field_is_kept_for_its_like_beside_those_that_do() {
        let memory = memory(10_000);
        put(&memory, "/a", "accept-language", &language("de"), "deutsch");
        put(&memory, "/a", "", &Fields::default(), "default");
        assert_eq!(get(&memory, "/a", &language("de")), "deutsch");
        assert_eq!(get(&memory, "/a", &Fields::default()), "default");
        put(&memory, "/a", "x-class", &language("fr"), "français");
        assert_eq!(get(&memory, "/a", &language("fr")), "français");
        assert_eq!(
            get(&memory, "/a", &language("de")),
            "variants",
            "it varies with more: the older are not found"
        );
    }

    #[test]
    fn purges_what_is_kept_and_what_is_on_its_way() {
        for label in
            [Label::EVERYTHING, Label::host("h"), Label::tenant("acme"), Label::tag(Tag::named(b"t"), None)]
        {
            let (memory, none) = (memory(10_000), Fields::default());
            put(&memory, "/a", "", &none, "old");
            let late = kept(&memory, "late");
            memory.purge(label, Purge::Hard, NOW);
            assert_eq!(get(&memory, "/a", &none), "nothing");
            memory.keep(&named("/a"), 1, &none, &Vary::default(), late);
            assert_eq!(get(&memory, "/a", &none), "nothing");
            put(&memory, "/a", "", &none, "new");
            assert_eq!(get(&memory, "/a", &none), "new");
        }
    }

    #[test]
    fn a_soft_purge_makes_it_stale() {
        let (memory, none) = (memory(10_000), Fields::default());
        put(&memory, "/a", "", &none, "a");
        memory.purge(Label::host("h"), Purge::Soft, Wall(NOW.0 + 10));
        let Found::Answer(kept) = memory.find(&named("/a"), &none) else { panic!("it is still there") };
        assert_eq!(kept.rules().freshness.stale_for(Wall(NOW.0 + 12)), Some(2));
    }

    #[test]
    fn never_takes_more_than_it_may() {
        let size = size(&memory(0), "12345");
        let (memory, none) = (memory(10 * size), Fields::default());
        let paths: Vec<&'static str> = (0..200).map(|n| &*format!("/{n}").leak()).collect();
        for path in &paths {
            assert!(put(&memory, path, "", &none, "12345"));
        }
        let found = paths.iter().filter(|path| get(&memory, path, &none) == "12345").count();
        assert_eq!((found, memory.size().1), (10, 10));
        memory.bound(Bounds { bytes: size, tenant_bytes: u64::MAX, tenant_entries: 9 });
        assert_eq!(memory.size(), (size, 1));
    }

    #[test]
    fn what_is_coded_counts_with_its_answer_and_goes_with_it() {
        let coded = || Coded::of([Bytes::from_static(b"gz")]);
        let whole = size(&memory(0), "12345") + coded().size();
        let (memory, none) = (memory(whole), Fields::default());
        put(&memory, "/a", "", &none, "12345");
        let Found::Answer(kept) = memory.find(&named("/a"), &none) else { panic!("it is there") };
        memory.keep_coded(&kept, Coding::Gzip, coded());
        memory.keep_coded(&kept, Coding::Gzip, coded());
        assert_eq!((memory.size(), kept.whole_size()), ((whole, 1), whole));
        assert_eq!(kept.coded(Coding::Gzip).unwrap().pieces().concat(), b"gz");
        memory.keep_coded(&kept, Coding::Brotli, coded());
        assert!(kept.coded(Coding::Brotli).is_none(), "there is no room for it");
        // What is under way belongs to the answer that it was begun with.
        let newer = Arc::new(kept.under(&head_of(&memory)));
        memory.keep(&named("/a"), 1, &none, &Vary::default(), Arc::clone(&newer));
        assert_eq!(
            (newer.whole_size(), memory.size()),
            (whole, (whole, 1)),
            "a confirmed answer has it, too"
        );
        memory.purge(Label::EVERYTHING, Purge::Hard, NOW);
        assert_eq!((get(&memory, "/a", &none), memory.size()), ("nothing".to_owned(), (0, 0)));
        memory.keep_coded(&newer, Coding::Zstd, coded());
        assert_eq!((memory.size(), newer.coded(Coding::Zstd).is_none()), ((0, 0), true));
    }

    #[test]
    fn a_cache_that_is_to_forget_holds_nothing_whatever_it_is_told_later() {
        let cache = Cache::new(CacheBounds::default());
        assert!(put(&cache.memory, "/a", "", &Fields::default(), "12345"));
        assert!(cache.standing().bytes > 0);
        cache.forget();
        assert_eq!((cache.standing().bytes, cache.standing().entries), (0, 0));
        cache.spare(1 << 30);
        assert!(!put(&cache.memory, "/a", "", &Fields::default(), "12345"));
    }

    #[test]
    fn many_threads_find_and_keep_at_once() {
        let room = 20 * size(&memory(0), "12345");
        let memory = memory(room);
        let paths: Vec<&'static str> = (0..60).map(|n| &*format!("/{n}").leak()).collect();
        std::thread::scope(|scope| {
            for turn in 0..4usize {
                let (memory, paths) = (&memory, &paths);
                scope.spawn(move || {
                    let none = Fields::default();
                    for step in 0..2_000 {
                        let path = paths[(step * (turn + 1)) % paths.len()];
                        match step % 5 {
                            0 => drop(put(memory, path, "accept-language", &language("de"), "12345")),
                            2 => {
                                if let Found::Answer(kept) = memory.find(&named(path), &none) {
                                    memory.keep_coded(
                                        &kept,
                                        Coding::Gzip,
                                        Coded::of([Bytes::from_static(b"1")]),
                                    );
                                }
                            }
                            1 => drop(put(memory, path, "", &none, "12345")),
                            4 if step % 100 == 4 => {
                                assert!(memory.purge(Label::path("h", path), Purge::Hard, NOW) > 0)
                            }
                            _ => assert!(matches!(
                                &*get(memory, path, &none),
                                "12345" | "nothing" | "variants"
                            )),
                        }
                    }
                });
            }
        });
        let (bytes, answers) = memory.size();
        let ledger = memory.ledger.lock();
        let held: Vec<&Held> = ledger.places.iter().flatten().collect();
        let of_answers = held.iter().filter(|held| matches!(held, Held::Answer(..))).count();
        assert_eq!(of_answers, answers, "what is found is what is counted");
        let sum: u64 = held
            .iter()
            .map(|held| match held {
                Held::Answer(kept) => kept.whole_size(),
                Held::Varying(..) => OVERHEAD_BYTES,
            })
            .sum();
        assert_eq!(sum, bytes);
        assert!(bytes <= room);
    }

    #[test]
    fn an_entry_is_counted_for_what_it_takes() {
        const ARC: usize = 2 * size_of::<usize>();
        let entry = allocated(ARC + size_of::<Kept>());
        // A slot and a byte of the set, which is more than half full on the whole.
        let listed = allocated(size_of::<Listed>()) + 2 * (size_of::<usize>() + 1);
        let held = size_of::<Option<Held>>() + size_of::<Option<Held>>() / GROWTH;
        let takes = entry + listed + held + tidegate_model::cache::evict::NODE_BYTES;
        assert!(takes as u64 <= OVERHEAD_BYTES, "{takes}");
        assert!(takes as u64 + 16 > OVERHEAD_BYTES, "it is counted for more than it takes: {takes}");
    }
}
