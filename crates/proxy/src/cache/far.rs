//! The tier that all nodes share: what one of them has been answered, the others need not ask for.
//!
//! Here is what a core sees of it: a question and a wait that is bounded, an answer to be kept that is handed over and
//! forgotten. Whoever has the connection takes both as [`Errand`]s from a bounded list.
//!
//! What always holds: nobody waits longer than [`FarSettings::wait`]; a tier that is late again and again is left alone for
//! a while; what another node stored is used only if it is known what was purged since it was asked for, and its key, in
//! which the tenant is, is the one that was asked for.
//!
//! What it does not do: keep what is large, or hold anything back when it cannot be reached.

mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tidegate_model::cache::Wall;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::orders::Place;
use tidegate_model::cache::purge::labels;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::{mpsc, oneshot};

use self::record::{Answer, Record};
use super::kept::Kept;
use super::known::{self, Known};
use super::memory::Named;
use super::purges::Purges;
use super::tier::{Brought, Finding, Inspecting, Lies, Tier};

/// Errands that may wait for the connection. What comes beyond is dropped and counted.
pub const ERRANDS_MAX: usize = 1_024;
/// So many questions in a row that got no answer in time, and none is asked for a while.
const LATE_MAX: u32 = 5;
/// How long.
const REST: Duration = Duration::from_secs(1);

/// What the tier is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarSettings {
    /// The largest content of an answer that is shared, in bytes.
    pub entry_bytes_max: u64,
    /// How long a request waits for it at most.
    pub wait: Duration,
    /// How long an answer stays when it is stale, if it says nothing longer itself.
    pub stale: Duration,
}

/// What the tier wants of whoever has the connection.
#[derive(Debug)]
pub enum Errand {
    /// To be told what lies under this key.
    Get(Key, oneshot::Sender<Option<Bytes>>),
    /// That this is kept.
    Set(Box<Put>),
}

/// An answer to be kept.
#[derive(Debug)]
pub struct Put {
    target: Key,
    /// What its request had in the fields that it varies with.
    variant: Vec<u8>,
    vary: Vary,
    place: Place,
    kept: Arc<Kept>,
    /// For how long.
    pub keep: Duration,
}

impl Put {
    /// What is to lie where; nothing, if it is more than a record can have.
    #[must_use]
    pub fn records(&self) -> Vec<(Key, Vec<u8>)> {
        let Put { target, variant, vary, place, kept, .. } = self;
        let answer = |key| record::answer(key, *place, vary, kept).map(|answer| (key, answer));
        if vary.is_empty() {
            return answer(*target).into_iter().collect();
        }
        let answer = answer(variant_key(*target, vary, variant));
        let both =
            record::varying(vary).zip(answer).map(|(varying, answer)| vec![(*target, varying), answer]);
        both.unwrap_or_default()
    }

    /// The bytes of its content.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kept.length()
    }
}

/// A variant's key is the same on all nodes: it is made of the names that it varies with.
fn variant_key(target: Key, vary: &Vary, variant: &[u8]) -> Key {
    let names = tidegate_model::credential::Digest::of(known::names(vary).as_bytes());
    let number = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| names.0[at]));
    target.variant(number, variant)
}

/// The tier.
#[derive(Debug)]
pub struct Far {
    purges: Arc<Purges>,
    /// Nothing: it is not wanted.
    settings: ArcSwapOption<FarSettings>,
    errands: mpsc::Sender<Errand>,
    up: AtomicBool,
    late_in_a_row: AtomicU32,
    rests_until: AtomicU64,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    late: AtomicU64,
    unusable: AtomicU64,
    kept: AtomicU64,
    dropped: AtomicU64,
}

/// What has become of questions and of answers to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FarCounts {
    /// Questions that were answered with an answer.
    pub hits: u64,
    /// Questions that were answered with nothing.
    pub misses: u64,
    /// Questions that were not answered in time.
    pub late: u64,
    /// What lay there and was not used: purged, perhaps purged, or not as it was written.
    pub unusable: u64,
    /// Answers handed over to be kept.
    pub kept: u64,
    /// Answers and questions for which the list was full.
    pub dropped: u64,
}

/// What a question needs when it is answered: the request is somewhere else by then.
struct Question {
    tenant: Option<String>,
    host: String,
    path: String,
    key: Key,
    fields: Fields,
}

impl Far {
    /// A tier, and the errands that it has. It is not wanted, and down, until it is told otherwise.
    #[must_use]
    pub fn new(purges: Arc<Purges>) -> (Far, mpsc::Receiver<Errand>) {
        let (errands, waiting) = mpsc::channel(ERRANDS_MAX);
        let far = Far {
            purges,
            settings: ArcSwapOption::empty(),
            errands,
            up: AtomicBool::new(false),
            late_in_a_row: AtomicU32::new(0),
            rests_until: AtomicU64::new(0),
            counts: Arc::default(),
        };
        (far, waiting)
    }

    /// Holds it to these settings.
    pub fn set(&self, settings: Option<FarSettings>) {
        self.settings.store(settings.map(Arc::new));
    }

    /// What it is held to, if it is wanted.
    #[must_use]
    pub fn settings(&self) -> Option<FarSettings> {
        self.settings.load().as_deref().copied()
    }

    /// Whether there is a connection.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
        self.late_in_a_row.store(0, Relaxed);
    }

    /// What has become of it all.
    #[must_use]
    pub fn counts(&self) -> FarCounts {
        let Counts { hits, misses, late, unusable, kept, dropped } = &*self.counts;
        FarCounts {
            hits: hits.load(Relaxed),
            misses: misses.load(Relaxed),
            late: late.load(Relaxed),
            unusable: unusable.load(Relaxed),
            kept: kept.load(Relaxed),
            dropped: dropped.load(Relaxed),
        }
    }

    fn may_be_asked(&self, now: Tick) -> bool {
        self.up.load(Relaxed) && Tick(self.rests_until.load(Relaxed)) <= now
    }

    /// An answer came in time, or did not.
    fn note(&self, in_time: bool, now: Tick) {
        if in_time {
            if self.late_in_a_row.load(Relaxed) > 0 {
                self.late_in_a_row.store(0, Relaxed);
            }
            return;
        }
        self.counts.late.fetch_add(1, Relaxed);
        if self.late_in_a_row.fetch_add(1, Relaxed) + 1 >= LATE_MAX {
            self.late_in_a_row.store(0, Relaxed);
            self.rests_until.store(now.after(REST).0, Relaxed);
        }
    }

    async fn look(&self, question: &Question) -> Option<Brought> {
        let by = clock::now().after(self.settings()?.wait);
        let mut key = question.key;
        let mut found = self.get(key, by).await?;
        if let Record::Varying(vary) = &found {
            key = variant_key(key, vary, &vary.variant(&question.fields));
            found = self.get(key, by).await?;
        }
        let counts = &self.counts;
        let brought = match found {
            Record::Answer(answer) if answer.key == key => self.taken(question, *answer),
            _ => None,
        };
        let count = if brought.is_some() { &counts.hits } else { &counts.unusable };
        count.fetch_add(1, Relaxed);
        brought
    }

    async fn get(&self, key: Key, by: Tick) -> Option<Record> {
        let (answer, answered) = oneshot::channel();
        if self.errands.try_send(Errand::Get(key, answer)).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
            return None;
        }
        let answered = clock::timeout_at(by, answered).await;
        self.note(matches!(answered, Ok(Ok(_))), clock::now());
        let Ok(Ok(told)) = answered else { return None };
        let Some(bytes) = told else {
            self.counts.misses.fetch_add(1, Relaxed);
            return None;
        };
        let record = record::read(bytes);
        if record.is_none() {
            self.counts.unusable.fetch_add(1, Relaxed);
        }
        record
    }

    /// What another node stored, with the number that its time has among the purges of this one.
    fn taken(&self, question: &Question, answer: Answer) -> Option<Brought> {
        let Answer { place, vary, known, content, .. } = answer;
        let Question { tenant, host, path, key, .. } = question;
        let known = Known::of(&known);
        let tags: Vec<Tag> = known.tags().collect();
        let labels = labels(tenant.as_deref(), host, path, *key, &tags);
        let made = self.purges.made_at(place, labels)?;
        Some(Brought { kept: Arc::new(Kept::again(known, Box::new([content]), made)), vary })
    }

    /// For how long an answer is kept; `None`: it is of no use to others.
    fn keeping(kept: &Kept, stays: Duration, now: Wall) -> Option<Duration> {
        let rules = kept.rules();
        let fresh = rules.freshness.lifetime.saturating_sub(rules.freshness.age(now));
        let stale = u64::from(rules.while_revalidate.max(rules.if_error.unwrap_or(0)));
        let stale = if rules.never_stale { 0 } else { stale.max(stays.as_secs()) };
        let keep = Duration::from_secs(u64::from(fresh).saturating_add(stale));
        (fresh > 0 && !keep.is_zero()).then_some(keep)
    }
}

impl Question {
    fn of(named: &Named<'_>, request: &Fields) -> Question {
        Question {
            tenant: named.tenant.map(str::to_owned),
            host: named.host.to_owned(),
            path: named.path.to_owned(),
            key: named.key,
            fields: request.clone(),
        }
    }
}

impl Tier for Arc<Far> {
    fn name(&self) -> &'static str {
        "shared"
    }

    /// It counts as a question like any other: it is one.
    fn inspect(&self, named: &Named<'_>, request: &Fields) -> Option<Inspecting> {
        let question = self.may_be_asked(clock::now()).then(|| Question::of(named, request))?;
        let far = Arc::clone(self);
        Some(Box::pin(async move {
            let kept = far.look(&question).await?.kept;
            let bytes = kept.length() + kept.fields().bytes() as u64;
            Some(Lies { kept, at: format!("key {:?}", question.key), bytes })
        }))
    }

    fn find(&self, named: &Named<'_>, request: &Fields) -> Option<Finding> {
        let question = self.may_be_asked(clock::latest()).then(|| Question::of(named, request))?;
        let far = Arc::clone(self);
        Some(Box::pin(async move { far.look(&question).await }))
    }

    fn keep(&self, named: &Named<'_>, _room: u64, request: &Fields, vary: &Vary, kept: &Arc<Kept>) {
        let Some(settings) = self.settings().filter(|settings| kept.length() <= settings.entry_bytes_max)
        else {
            return;
        };
        if !self.up.load(Relaxed) {
            return;
        }
        // Without a place nobody else can tell what was purged since.
        let keep = Far::keeping(kept, settings.stale, clock::latest_wall());
        let (Some(keep), Some(place)) = (keep, self.purges.place_of(kept.made)) else { return };
        let variant = vary.variant(request);
        let kept = Arc::clone(kept);
        let put = Put { target: named.key, variant, vary: vary.clone(), place, kept, keep };
        let sent = self.errands.try_send(Errand::Set(Box::new(put))).is_ok();
        let count = if sent { &self.counts.kept } else { &self.counts.dropped };
        count.fetch_add(1, Relaxed);
    }

    /// What others stored is compared with the marks when it is brought: nothing needs to be done.
    fn purge(
        &self,
        _label: tidegate_model::cache::purge::Label,
        _purge: tidegate_model::cache::purge::Purge,
        _newest: u64,
        _now: Wall,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    use http::{HeaderName, HeaderValue};
    use tidegate_model::cache::orders::{Entry, Order};
    use tidegate_model::cache::purge::{Label, Purge};

    use crate::cache::kept::Head;
    use crate::cache::{Cache, CacheBounds};

    const SETTINGS: FarSettings =
        FarSettings { entry_bytes_max: 100, wait: Duration::from_millis(20), stale: Duration::from_secs(7) };

    /// A node: its tier, what the tier wants, its purges and its cache.
    struct Node {
        far: Arc<Far>,
        errands: mpsc::Receiver<Errand>,
        purges: Arc<Purges>,
        cache: Cache,
    }

    /// What lies where all nodes see it.
    type Store = HashMap<Key, Vec<u8>>;

    impl Node {
        fn new() -> Node {
            let purges = Arc::<Purges>::default();
            purges.share(1);
            let (far, errands) = Far::new(Arc::clone(&purges));
            far.set(Some(SETTINGS));
            far.set_up(true);
            let cache = Cache::new(CacheBounds::default());
            let node = Node { far: Arc::new(far), errands, purges, cache };
            node.reads(1, None);
            node
        }

        fn reads(&self, millis: u64, host: Option<&str>) {
            let order = host.map(|host| Order { label: Label::host(host), purge: Purge::Hard });
            let place = Place { millis, number: 0 };
            self.purges.read(&self.cache, place, &Entry { node: 9, number: 1, order }, 1, Wall(1));
        }

        fn keeps(&mut self, store: &mut Store, vary: &str, request: &Fields, head: impl Fn(&mut Head)) {
            let mut of = known::tests::head(vary);
            of.made = self.cache.memory.newest();
            of.rules.freshness.answered = clock::latest_wall();
            head(&mut of);
            let kept = Arc::new(Kept::with(&of, Box::new([Bytes::from_static(b"content")])));
            self.far.keep(&named(), 0, request, &of.vary, &kept);
            if let Ok(Errand::Set(put)) = self.errands.try_recv() {
                store.extend(put.records());
            }
        }

        /// What it finds, when its errands are run on this.
        async fn finds(&mut self, store: &Store, request: &Fields) -> Option<Arc<Kept>> {
            let finding = self.far.find(&named(), request)?;
            let run = async {
                while let Some(errand) = self.errands.recv().await {
                    if let Errand::Get(key, answer) = errand {
                        let _ = answer.send(store.get(&key).cloned().map(Bytes::from));
                    }
                }
            };
            tokio::select! {
                found = finding => found.map(|brought| brought.kept),
                () = run => None,
            }
        }
    }

    fn content(kept: &Kept) -> Vec<u8> {
        kept.content().collect::<Vec<_>>().concat()
    }

    fn named() -> Named<'static> {
        Named { tenant: Some("acme"), host: "h", path: "/a", key: Key(7) }
    }

    fn language(value: &'static str) -> Fields {
        Fields::from_iter([(HeaderName::from_static("accept-language"), HeaderValue::from_static(value))])
    }

    fn run<F: Future>(test: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
    }

    /// Whether what one node keeps is found by another, which has read the log up to the second place and then these.
    fn check(head: impl Fn(&mut Head), then: &[(u64, &str)], expected: bool) {
        let (mut one, mut other, mut store) = (Node::new(), Node::new(), Store::new());
        one.reads(2, None);
        one.keeps(&mut store, "", &Fields::default(), head);
        other.reads(2, None);
        then.iter().for_each(|(place, host)| other.reads(*place, Some(host)));
        let found = run(other.finds(&store, &Fields::default()));
        let is_good = found.is_some_and(|kept| {
            assert_eq!(content(&kept), b"content");
            other.cache.memory.keep(&named(), 1, &Fields::default(), &Vary::default(), kept);
            matches!(
                other.cache.memory.find(&named(), &Fields::default()),
                crate::cache::memory::Found::Answer(_)
            )
        });
        assert_eq!(is_good, expected);
    }

    #[test]
    fn what_one_node_keeps_another_one_finds_unless_it_was_purged_since() {
        check(|_| {}, &[], true);
        check(|_| {}, &[(3, "other")], true);
        check(|_| {}, &[(3, "h")], false);
    }

    #[test]
    fn what_is_of_no_use_to_others_is_not_shared() {
        check(|head| head.rules.freshness.lifetime = 0, &[], false);
        check(|head| head.made = 0, &[], false);
    }

    #[test]
    fn what_was_asked_for_before_all_that_is_known_is_not_used() {
        let (mut one, mut store) = (Node::new(), Store::new());
        one.keeps(&mut store, "", &Fields::default(), |_| {});
        let mut late = Node::new();
        late.purges.begin(&late.cache, Wall(1));
        late.reads(5, None);
        assert!(run(late.finds(&store, &Fields::default())).is_none());
        assert_eq!(late.far.counts().unusable, 1);
    }

    #[test]
    fn each_variant_is_found_by_who_asks_for_it() {
        let (mut one, mut other, mut store) = (Node::new(), Node::new(), Store::new());
        one.keeps(&mut store, "accept-language", &language("de"), |_| {});
        assert!(run(other.finds(&store, &language("de"))).is_some());
        assert!(run(other.finds(&store, &language("fr"))).is_none());
    }

    #[test]
    fn what_lies_under_another_key_is_not_used() {
        let (mut one, mut store) = (Node::new(), Store::new());
        one.keeps(&mut store, "accept-language", &language("de"), |_| {});
        let stolen: Vec<u8> = store.values().max_by_key(|record| record.len()).unwrap().clone();
        assert!(run(one.finds(&Store::from([(Key(7), stolen)]), &language("de"))).is_none());
        assert!(run(one.finds(&Store::from([(Key(7), b"garbage".to_vec())]), &language("de"))).is_none());
    }

    #[test]
    fn a_tier_that_is_late_again_and_again_is_left_alone_for_a_while() {
        run(async {
            let mut node = Node::new();
            for _ in 0..LATE_MAX {
                assert!(node.far.find(&named(), &Fields::default()).unwrap().await.is_none());
            }
            assert!(node.far.find(&named(), &Fields::default()).is_none(), "nobody asks it");
            assert_eq!(node.far.counts().late, u64::from(LATE_MAX));
            node.far.rests_until.store(0, Relaxed);
            while node.errands.try_recv().is_ok() {}
            assert!(node.finds(&Store::new(), &Fields::default()).await.is_none());
            assert_eq!(node.far.counts().misses, 1, "then it is asked again");
        });
    }

    #[test]
    fn errands_have_a_bound_and_a_tier_that_is_down_gets_none() {
        let mut node = Node::new();
        let mut store = Store::new();
        for _ in 0..ERRANDS_MAX + 3 {
            let kept = Arc::new(Kept::with(
                &Head { made: node.cache.memory.newest(), ..fresh() },
                Box::new([Bytes::from_static(b"x")]),
            ));
            node.far.keep(&named(), 0, &Fields::default(), &Vary::default(), &kept);
        }
        assert_eq!(node.far.counts().dropped, 3);
        while node.errands.try_recv().is_ok() {}
        node.far.set_up(false);
        node.keeps(&mut store, "", &Fields::default(), |_| {});
        assert!(store.is_empty() && node.far.find(&named(), &Fields::default()).is_none());
    }

    fn fresh() -> Head {
        let mut head = known::tests::head("");
        head.rules.freshness.answered = clock::latest_wall();
        head
    }
}
