//! Mirror: a request is made once more to another upstream, and its answer compared with the one that the client gets.
//!
//! ```text
//! draw -> the request as it is forwarded, its body as it passes -> the upstream answers -+-> the client
//!                                                                                        '-> a task of its own: call the mirror
//!                                       a thread of its own: compare, count <- both answers -'
//! ```
//!
//! What always holds: the client's exchange waits for nothing here, and nothing that becomes of the mirror's call changes
//! its answer. What is under way is bounded by number for each route and by bytes for the process; what does not fit is left
//! out, and counted. A mirror's call has no receipt, is not charged to the tenant, goes last at its upstream's gate,
//! and ends with the process. A request whose upstream gave no answer is not mirrored: there is nothing to compare with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use tidegate_model::delivery::Ms;
use tidegate_model::histogram::Histogram;
use tidegate_model::mirror::compare::{Compared, Kind, Rules};
use tidegate_model::mirror::tally::{Outcome, Ready, Subject, Tally};
use tidegate_upstream::Upstream;
use tidegate_wire::clock;

use crate::settings::HeaderChanges;

mod answer;
mod call;
mod comparer;
mod duplicate;

pub use duplicate::{Duplicate, draw};

use comparer::Work;

/// Bytes that all mirrored requests may make the process hold: their bodies, and those of both answers.
const HELD_MAX: u64 = 64 << 20;

/// What a route copies, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorSettings {
    /// The upstream that gets the copies.
    pub upstream: Arc<str>,
    /// Of its requests, so many millionths.
    pub share: u32,
    /// Of these tenants alone; empty: of all.
    pub tenants: Vec<Arc<str>>,
    /// With these methods.
    pub methods: Vec<Method>,
    /// The largest body, in bytes.
    pub body_bytes_max: u64,
    /// For the mirror's answer, and for the rest of the upstream's.
    pub timeout: Duration,
    /// Copies under way at once.
    pub concurrency: u32,
    /// Replaces the matched prefix of the client's path; `None`: as the route forwards it.
    pub prefix: Option<String>,
    /// Changes to the copy's headers.
    pub headers: HeaderChanges,
    /// How answers are compared; `None`: they are not.
    pub compare: Option<CompareSettings>,
}

/// How answers are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareSettings {
    /// By what.
    pub rules: Rules,
    /// The largest body that is compared, in bytes.
    pub body_bytes_max: u64,
    /// Answers that differed, of which the last are kept.
    pub samples: usize,
    /// When the route may be moved.
    pub ready: Ready,
}

/// Why a request that was drawn was left out, or is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The process, or the mirror, is under load.
    Load,
    /// As many as may be are under way.
    Busy,
    /// There is no room for its bytes.
    Memory,
    /// Its body is too large, or was not wanted by the upstream.
    Body,
    /// The upstream gave no answer.
    Unanswered,
    /// The upstream's answer, or its client, broke off.
    Cut,
    /// The upstream's answer did not end in time.
    Late,
    /// The comparing thread is behind.
    Backlog,
    /// Its client left before the upstream had answered.
    Left,
}

impl Skipped {
    /// All of them, with their names.
    pub const ALL: [(Skipped, &'static str); 9] = [
        (Skipped::Load, "load"),
        (Skipped::Busy, "busy"),
        (Skipped::Memory, "memory"),
        (Skipped::Body, "body"),
        (Skipped::Unanswered, "unanswered"),
        (Skipped::Cut, "cut"),
        (Skipped::Late, "late"),
        (Skipped::Backlog, "backlog"),
        (Skipped::Left, "left"),
    ];
}

/// The mirror of a route, in a site.
pub struct Mirrored {
    /// What was configured.
    pub settings: MirrorSettings,
    upstream: Arc<Upstream>,
    mirror: Arc<Mirror>,
    mirrors: Arc<Mirrors>,
}

/// What outlives a reload of a route's mirror.
pub struct Mirror {
    /// The route.
    pub route: Arc<str>,
    skipped: [AtomicU64; Skipped::ALL.len()],
    under_way: AtomicU32,
    kept: Mutex<Kept>,
}

struct Kept {
    /// What the tally is of: another upstream, or other rules, begin a new one.
    of: MirrorSettings,
    tally: Tally,
    ever: Ever,
}

/// What was counted since the process began.
#[derive(Clone, Debug, Default)]
pub struct Ever {
    /// Compared, and the same.
    pub equal: u64,
    /// Compared, and not the same.
    pub different: u64,
    /// Answered, and nobody can say.
    pub unknown: u64,
    /// The mirror gave no answer.
    pub failed: u64,
    /// Answers that differed, by [`Kind::ALL`].
    pub kinds: [u64; Kind::ALL.len()],
    /// Latencies of the upstream.
    pub ours: Histogram,
    /// Latencies of the mirror.
    pub theirs: Histogram,
}

/// How a route's mirror stands.
pub struct Told {
    /// What was configured.
    pub settings: MirrorSettings,
    /// Since the last reset.
    pub tally: Tally,
    /// Since the process began.
    pub ever: Ever,
    /// Left out, by [`Skipped::ALL`].
    pub skipped: [u64; Skipped::ALL.len()],
    /// Under way.
    pub under_way: u32,
}

/// The mirrors of the process, by route.
#[derive(Default)]
pub struct Mirrors {
    by_route: Mutex<BTreeMap<Arc<str>, Arc<Mirror>>>,
    held: Arc<AtomicU64>,
    comparer: OnceLock<SyncSender<Work>>,
}

impl Mirrors {
    /// The mirror of a route, with what is known of it from before.
    pub(crate) fn of(
        self: &Arc<Mirrors>,
        route: &Arc<str>,
        settings: &MirrorSettings,
        upstream: Arc<Upstream>,
    ) -> Arc<Mirrored> {
        let mut by_route = self.by_route.lock();
        let mirror = by_route.entry(Arc::clone(route)).or_insert_with(|| {
            let kept = Kept { of: settings.clone(), tally: Tally::new(now()), ever: Ever::default() };
            Arc::new(Mirror {
                route: Arc::clone(route),
                skipped: Default::default(),
                under_way: AtomicU32::new(0),
                kept: Mutex::new(kept),
            })
        });
        mirror.follow(settings);
        let (mirror, mirrors) = (Arc::clone(mirror), Arc::clone(self));
        Arc::new(Mirrored { settings: settings.clone(), upstream, mirror, mirrors })
    }

    /// Forgets the routes that have none any more.
    pub(crate) fn retain(&self, is_mirrored: impl Fn(&str) -> bool) {
        self.by_route.lock().retain(|route, _| is_mirrored(route));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Mirror>> {
        self.by_route.lock().values().cloned().collect()
    }

    /// That of a route.
    #[must_use]
    pub fn get(&self, route: &str) -> Option<Arc<Mirror>> {
        self.by_route.lock().get(route).cloned()
    }

    /// Room for so many bytes.
    fn hold(&self, bytes: u64) -> Option<Held> {
        let grown = |held: u64| held.checked_add(bytes).filter(|held| *held <= HELD_MAX);
        self.held.fetch_update(Relaxed, Relaxed, grown).ok()?;
        Some(Held { of: Arc::clone(&self.held), bytes })
    }

    /// Hands work to the comparing thread, which begins with the first. `false`: it has too much to do.
    fn hand(&self, work: Work) -> bool {
        self.comparer.get_or_init(comparer::start).try_send(work).is_ok()
    }
}

impl Mirror {
    fn follow(&self, settings: &MirrorSettings) {
        let mut kept = self.kept.lock();
        let rules = |of: &MirrorSettings| of.compare.as_ref().map(|compare| compare.rules.clone());
        let (before, after) = (&kept.of, settings);
        let same = before.upstream == after.upstream
            && before.prefix == after.prefix
            && before.headers == after.headers
            && rules(before) == rules(after);
        if !same {
            kept.tally = Tally::new(now());
        }
        kept.of = settings.clone();
    }

    /// How it stands.
    #[must_use]
    pub fn told(&self) -> Told {
        let kept = self.kept.lock();
        Told {
            settings: kept.of.clone(),
            tally: kept.tally.clone(),
            ever: kept.ever.clone(),
            skipped: self.skipped.each_ref().map(|count| count.load(Relaxed)),
            under_way: self.under_way.load(Relaxed),
        }
    }

    /// Begins to count anew.
    pub fn reset(&self) {
        self.kept.lock().tally = Tally::new(now());
    }

    fn skip(&self, why: Skipped) {
        self.skipped[why as usize].fetch_add(1, Relaxed);
    }

    /// One of as many as may be under way.
    fn enter(self: &Arc<Mirror>, most: u32) -> Option<UnderWay> {
        let grown = |count: u32| (count < most).then_some(count + 1);
        self.under_way.fetch_update(Relaxed, Relaxed, grown).ok()?;
        Some(UnderWay(Arc::clone(self)))
    }

    fn note(&self, subject: Subject, outcome: Outcome, took: Option<(Duration, Duration)>, samples: usize) {
        let mut kept = self.kept.lock();
        let Kept { tally, ever, .. } = &mut *kept;
        match &outcome {
            Outcome::Compared(Compared::Equal) => ever.equal += 1,
            Outcome::Compared(Compared::Unknown(_)) => ever.unknown += 1,
            Outcome::Failed(_) => ever.failed += 1,
            Outcome::Compared(Compared::Different(differences)) => {
                ever.different += 1;
                for (kind, count) in Kind::ALL.into_iter().zip(&mut ever.kinds) {
                    *count += u64::from(differences.iter().any(|one| one.kind == kind));
                }
            }
        }
        if let Some((ours, theirs)) = took {
            ever.ours.note(ours);
            ever.theirs.note(theirs);
            tally.took(ours, theirs);
        }
        tally.note(subject, outcome, samples);
    }
}

/// Bytes that are counted for as long as this is there.
struct Held {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

/// One that is under way for as long as this is there.
struct UnderWay(Arc<Mirror>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// Now, on the wall clock.
fn now() -> Ms {
    let since = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_and_what_it_holds_is_bounded_and_given_back() {
        let mirrors = Arc::new(Mirrors::default());
        let held = mirrors.hold(HELD_MAX - 1).expect("there is room");
        assert!(mirrors.hold(2).is_none() && mirrors.hold(u64::MAX).is_none());
        drop(held);
        assert!(mirrors.hold(HELD_MAX).is_some());
        assert_eq!(mirrors.held.load(Relaxed), 0);
    }

    #[test]
    fn reasons_stand_in_their_places() {
        for (place, (why, _)) in Skipped::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
        }
    }
}
