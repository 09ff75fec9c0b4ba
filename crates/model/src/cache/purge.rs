//! Invalidation in constant time: what is purged is marked, and what is stored is compared with the marks when it is next
//! asked for (RFC 9111 section 4.4; RFC 9875).
//!
//! A mark is a *label* (everything, a tenant, a host, a path and what lies under it, one target, a tag) and a number that
//! only grows. An entry carries the number that was the newest when its request was sent: whatever was marked later under one
//! of its labels has made it invalid, even if the answer was still on its way. No entry is looked for when something is
//! purged, however many there are; an entry that was compared once is compared again only after a further purge.
//!
//! Marks are bounded: when there are too many, whoever has most loses the oldest, and with it everything that is older than it
//! and its own. That purges too much, never too little, and nothing of others: whoever writes to very many targets shortens
//! the life of what is its own. What is public counts as one owner, and what is nobody's alone as another. A label that is
//! marked again has one mark.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest as _, Sha256};

use crate::balance::mix;
use crate::cache::Wall;
use crate::cache::key::Key;
use crate::cache::tags::Tag;

/// The bits of a label that are of its owner.
const OWNER_BITS: u32 = 16;

/// What is purged together. In its uppermost bits stands whose it is, if it is one tenant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label(u128);

impl Label {
    /// Everything.
    pub const EVERYTHING: Label = Label(0);

    /// All of a tenant.
    #[must_use]
    pub fn tenant(id: &str) -> Label {
        Label::of(id, "tenant", &[])
    }

    /// All of a host.
    #[must_use]
    pub fn host(name: &str) -> Label {
        Label::digest("host", &[name.as_bytes()])
    }

    /// The same of one tenant alone.
    #[must_use]
    pub fn host_of(tenant: &str, name: &str) -> Label {
        Label::host(name).narrowed(Label::tenant(tenant))
    }

    /// A path of a host and all that lies under it, by whole segments: `/v1` is `/v1` and `/v1/x`, never `/v1x`.
    #[must_use]
    pub fn prefix(host: &str, path: &str) -> Label {
        Label::digest("prefix", &[host.as_bytes(), path.trim_end_matches('/').as_bytes()])
    }

    /// The same of one tenant alone.
    #[must_use]
    pub fn prefix_of(tenant: &str, host: &str, path: &str) -> Label {
        Label::prefix(host, path).narrowed(Label::tenant(tenant))
    }

    /// One path of a host, whatever its query, its tenant or its variant.
    #[must_use]
    pub fn path(host: &str, path: &str) -> Label {
        Label::digest("path", &[host.as_bytes(), path.as_bytes()])
    }

    /// The same of one tenant alone; `None`: of what is public.
    #[must_use]
    pub fn path_of(tenant: Option<&str>, host: &str, path: &str) -> Label {
        let (kind, tenant) = tenant.map_or(("path-public", PUBLIC), |tenant| ("path-of", tenant));
        Label::of(tenant, kind, &[host.as_bytes(), path.as_bytes()])
    }

    /// One target of one tenant.
    #[must_use]
    pub fn target(key: Key) -> Label {
        Label::digest("target", &[&key.0.to_le_bytes()])
    }

    /// A tag; of one tenant alone, if one is given. [`PUBLIC`]: of what is public alone.
    #[must_use]
    pub fn tag(tag: Tag, tenant: Option<&str>) -> Label {
        match tenant {
            None => Label::digest("tag", &[&tag.0.to_le_bytes()]),
            Some(tenant) => Label::of(tenant, "tag-of", &[&tag.0.to_le_bytes()]),
        }
    }

    /// The label as a number, which another process understands.
    #[must_use]
    pub fn number(self) -> u128 {
        self.0
    }

    /// The label of a number.
    #[must_use]
    pub fn numbered(number: u128) -> Label {
        Label(number)
    }

    /// A label of nobody alone.
    fn digest(kind: &str, parts: &[&[u8]]) -> Label {
        let mut hash = Sha256::new_with_prefix(kind);
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let number = u128::from_le_bytes(digest[..16].try_into().expect("a digest has 32 bytes"));
        // Never the label of everything.
        Label((number >> OWNER_BITS).max(1))
    }

    /// A label of one owner.
    fn of(owner: &str, kind: &str, parts: &[&[u8]]) -> Label {
        let owned: smallvec::SmallVec<[&[u8]; 4]> =
            std::iter::once(owner.as_bytes()).chain(parts.iter().copied()).collect();
        let number = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| mix(sum ^ u64::from(byte)));
        Label(Label::digest(kind, &owned).0 | u128::from((number as u16).max(1)) << (128 - OWNER_BITS))
    }

    /// What it names, as far as that is a tenant's. Both are digests already: another one would cost each comparison as much
    /// again. Should two meet, a tenant's own goes too often.
    fn narrowed(self, tenant: Label) -> Label {
        let [low, high] = [0, 64].map(|at| mix((self.0 >> at) as u64 ^ mix((tenant.0 >> at) as u64)));
        let number = u128::from(mix(low ^ high.rotate_left(32))) << 64 | u128::from(low);
        let owner = u128::from(tenant.owner()) << (128 - OWNER_BITS);
        Label((number >> OWNER_BITS).max(1) | owner)
    }

    /// Whose it is, as far as its bits tell; zero: nobody's alone.
    fn owner(self) -> u16 {
        (self.0 >> (128 - OWNER_BITS)) as u16
    }
}

/// Stands where a tenant's id does, for what belongs to none.
pub const PUBLIC: &str = "";

/// All labels under which an entry can be purged.
pub fn labels<'e>(
    tenant: Option<&'e str>,
    host: &'e str,
    path: &'e str,
    key: Key,
    tags: &'e [Tag],
) -> impl Iterator<Item = Label> + 'e {
    let ends =
        path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at).chain([path.len()]);
    let of_tenant = tenant.map(Label::tenant);
    let both =
        move |label: Label| std::iter::once(label).chain(of_tenant.map(move |tenant| label.narrowed(tenant)));
    let prefixes = ends.flat_map(move |end| both(Label::prefix(host, &path[..end])));
    let owner = tenant.unwrap_or(PUBLIC);
    let of_owner = tags.iter().map(move |tag| Label::tag(*tag, Some(owner)));
    let of_tenant = of_tenant.into_iter().chain(of_owner);
    let path_of = Label::path_of(tenant, host, path);
    [Label::EVERYTHING, Label::path(host, path), path_of, Label::target(key)]
        .into_iter()
        .chain(both(Label::host(host)))
        .chain(prefixes)
        .chain(of_tenant)
        .chain(tags.iter().map(|tag| Label::tag(*tag, None)))
}

/// How a purge leaves what it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge {
    /// It is not used again.
    Hard,
    /// It is stale from now on: validated before it is used, and still there when the upstream is not.
    Soft,
}

/// How an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing has purged it.
    Good,
    /// It has been stale since then at the latest.
    StaleSince(Wall),
    /// It is not to be used.
    Gone,
}

/// One purge, as it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Its number: what was asked for when this was the newest, or before, is met by it.
    pub number: u64,
    /// What was purged.
    pub label: Label,
    /// How.
    pub purge: Purge,
    /// When.
    pub when: Wall,
}

/// What has been purged.
#[derive(Clone, Debug)]
pub struct Marks {
    newest: u64,
    /// What is not newer than this is gone: marks of its time that were nobody's alone are forgotten.
    floor: u64,
    /// The same of owners that had marks forgotten.
    floors: HashMap<u16, u64>,
    marks: HashMap<Label, Mark>,
    /// Of each owner by their newest number.
    order: HashMap<u16, BTreeMap<u64, Label>>,
    /// Owners by how many they have.
    sizes: BTreeSet<(usize, u16)>,
    most: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    hard: u64,
    soft: u64,
    soft_at: Wall,
}

impl Mark {
    fn newest(&self) -> u64 {
        self.hard.max(self.soft)
    }
}

impl Marks {
    /// Nothing is purged; at most so many marks are kept.
    #[must_use]
    pub fn new(most: usize) -> Marks {
        Marks {
            newest: 1,
            floor: 0,
            floors: HashMap::new(),
            marks: HashMap::new(),
            order: HashMap::new(),
            sizes: BTreeSet::new(),
            most: most.max(1),
        }
    }

    /// The number for what is asked for now.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Purges what has this label. Tells the number after it.
    pub fn purge(&mut self, label: Label, purge: Purge, now: Wall) -> u64 {
        let (number, owner) = (self.newest, label.owner());
        let mark = self.marks.entry(label).or_default();
        let before = mark.newest();
        match purge {
            Purge::Hard => mark.hard = number,
            Purge::Soft => (mark.soft, mark.soft_at) = (number, now),
        }
        self.reorder(owner, |order| {
            order.remove(&before);
            order.insert(number, label);
        });
        while self.marks.len() > self.most && self.forget_oldest() {}
        self.newest += 1;
        self.newest
    }

    /// Changes the order of an owner's marks.
    fn reorder(&mut self, owner: u16, change: impl FnOnce(&mut BTreeMap<u64, Label>)) {
        let order = self.order.entry(owner).or_default();
        let before = order.len();
        change(order);
        let after = order.len();
        if after == 0 {
            self.order.remove(&owner);
        }
        if before != after {
            self.sizes.remove(&(before, owner));
            if after > 0 {
                self.sizes.insert((after, owner));
            }
        }
    }

    /// Forgets the oldest mark of whoever has most. Tells whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let Some(&(_, owner)) = self.sizes.last() else { return false };
        let mut oldest = None;
        self.reorder(owner, |order| oldest = order.pop_first());
        let Some((at, label)) = oldest else { return false };
        self.marks.remove(&label);
        let floor = match owner {
            0 => &mut self.floor,
            owner => self.floors.entry(owner).or_default(),
        };
        *floor = at.max(*floor);
        true
    }

    /// All purges that are remembered, the oldest first: repeated in this order they make the same marks.
    #[must_use]
    pub fn noted(&self) -> Vec<Noted> {
        let both = self.marks.iter().flat_map(|(&label, mark)| {
            let hard = Noted { number: mark.hard, label, purge: Purge::Hard, when: Wall(0) };
            let soft = Noted { number: mark.soft, label, purge: Purge::Soft, when: mark.soft_at };
            // What the floor covers is gone without a mark.
            [hard, soft].into_iter().filter(|noted| noted.number > self.floor)
        });
        let mut noted: Vec<Noted> = both.collect();
        noted.sort_unstable_by_key(|noted| noted.number);
        noted
    }

    /// Repeats a purge with its number, which is not below the newest.
    pub fn repeat(&mut self, noted: &Noted) {
        self.newest = self.newest.max(noted.number);
        self.purge(noted.label, noted.purge, noted.when);
    }

    /// What is not newer than this may be gone without a mark.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floors.values().copied().fold(self.floor, u64::max)
    }

    /// What is not newer than `floor` is gone, whosever it is.
    pub fn forget(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// How an entry stands that was asked for when `made` was the newest number, and has these labels.
    #[must_use]
    pub fn standing(&self, made: u64, labels: impl Iterator<Item = Label>) -> Standing {
        if made <= self.floor {
            return Standing::Gone;
        }
        let mut standing = Standing::Good;
        for label in labels {
            if self.floors.get(&label.owner()).is_some_and(|floor| made <= *floor) {
                return Standing::Gone;
            }
            let Some(mark) = self.marks.get(&label) else { continue };
            if mark.hard >= made {
                return Standing::Gone;
            }
            if mark.soft >= made {
                standing = match standing {
                    Standing::StaleSince(before) => Standing::StaleSince(before.min(mark.soft_at)),
                    _ => Standing::StaleSince(mark.soft_at),
                };
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Wall = Wall(500);
    const KEY: Key = Key(7);

    fn tags() -> [Tag; 1] {
        [Tag::named(b"t")]
    }

    /// How an entry of `acme`, `/v1/x` on host `h`, tagged `t`, stands after this was purged.
    fn check(label: Label, expected: bool) {
        let (mut marks, tags) = (Marks::new(9), tags());
        let made = marks.newest();
        marks.purge(label, Purge::Hard, NOW);
        let of = |made| marks.standing(made, labels(Some("acme"), "h", "/v1/x", KEY, &tags));
        assert_eq!(of(made) == Standing::Gone, expected);
        assert_eq!(of(marks.newest()), Standing::Good, "what comes later is not purged");
    }

    #[test]
    fn an_entry_is_purged_by_each_of_its_labels_and_by_no_other() {
        for (label, expected) in [
            (Label::EVERYTHING, true),
            (Label::tenant("acme"), true),
            (Label::tenant("other"), false),
            (Label::host("h"), true),
            (Label::host("h2"), false),
            (Label::host_of("acme", "h"), true),
            (Label::host_of("other", "h"), false),
            (Label::host_of("acme", "h2"), false),
            (Label::prefix_of("acme", "h", "/"), true),
            (Label::prefix_of("acme", "h", "/v1/x"), true),
            (Label::prefix_of("acme", "h", "/v"), false),
            (Label::prefix_of("other", "h", "/v1"), false),
            (Label::prefix("h", "/"), true),
            (Label::prefix("h", "/v1"), true),
            (Label::prefix("h", "/v1/"), true),
            (Label::prefix("h", "/v1/x"), true),
            (Label::prefix("h", "/v1/x/y"), false),
            (Label::prefix("h", "/v"), false),
            (Label::path("h", "/v1/x"), true),
            (Label::path("h", "/v1"), false),
            (Label::path_of(Some("acme"), "h", "/v1/x"), true),
            (Label::path_of(Some("other"), "h", "/v1/x"), false),
            (Label::path_of(None, "h", "/v1/x"), false),
            (Label::target(KEY), true),
            (Label::target(Key(8)), false),
            (Label::tag(Tag::named(b"T"), None), true),
            (Label::tag(Tag::named(b"t"), Some("acme")), true),
            (Label::tag(Tag::named(b"t"), Some("other")), false),
            (Label::tag(Tag::named(b"t"), Some(PUBLIC)), false),
            (Label::tag(Tag::named(b"u"), None), false),
        ] {
            check(label, expected);
        }
    }

    #[test]
    fn what_was_asked_for_before_a_purge_and_comes_after_it_is_purged() {
        let mut marks = Marks::new(9);
        let asked = marks.newest();
        marks.purge(Label::host("h"), Purge::Hard, NOW);
        assert_eq!(marks.standing(asked, labels(None, "h", "/", KEY, &[])), Standing::Gone);
    }

    #[test]
    fn a_soft_purge_makes_stale_and_takes_back_no_hard_one() {
        let mut marks = Marks::new(9);
        let made = marks.newest();
        let of = |marks: &Marks| marks.standing(made, labels(None, "h", "/", KEY, &[]));
        marks.purge(Label::host("h"), Purge::Soft, NOW);
        marks.purge(Label::EVERYTHING, Purge::Soft, Wall(600));
        assert_eq!(of(&marks), Standing::StaleSince(NOW));
        marks.purge(Label::host("h"), Purge::Hard, NOW);
        marks.purge(Label::host("h"), Purge::Soft, NOW);
        assert_eq!(of(&marks), Standing::Gone);
    }

    /// Whether an entry of this tenant, asked for before any purge, is still good.
    fn is_good(marks: &Marks, tenant: Option<&str>) -> bool {
        marks.standing(1, labels(tenant, "h", "/v1/x", KEY, &[])) == Standing::Good
    }

    impl Marks {
        /// Marks that stand in an order; each owner's are counted right.
        fn ordered(&self) -> usize {
            let sizes: BTreeSet<(usize, u16)> =
                self.order.iter().map(|(owner, order)| (order.len(), *owner)).collect();
            assert_eq!(sizes, self.sizes);
            sizes.iter().map(|(size, _)| size).sum()
        }
    }

    #[test]
    fn a_storm_of_one_tenants_writes_makes_no_other_forget() {
        let mut marks = Marks::new(8);
        let made = marks.newest();
        for (tenant, path) in [(Some("umbrella"), "/old"), (None, "/old"), (Some("umbrella"), "/older")] {
            marks.purge(Label::path_of(tenant, "h", path), Purge::Hard, NOW);
        }
        marks.purge(Label::host("other"), Purge::Hard, NOW);
        for number in 0..1_000 {
            marks.purge(Label::path_of(Some("acme"), "h", &format!("/{number}")), Purge::Hard, NOW);
        }
        let of = |tenant, host, path| marks.standing(made, labels(tenant, host, path, KEY, &[]));
        assert_eq!(of(Some("umbrella"), "h", "/old"), Standing::Gone);
        assert_eq!(of(None, "h", "/old"), Standing::Gone);
        assert_eq!(of(None, "other", "/"), Standing::Gone);
        for tenant in [Some("umbrella"), None, Some("third")] {
            assert_eq!(of(tenant, "h", "/new"), Standing::Good, "{tenant:?}");
        }
        assert_eq!((of(Some("acme"), "h", "/new"), marks.ordered()), (Standing::Gone, 8));
    }

    #[test]
    fn writes_to_one_target_have_one_mark_however_many_they_are() {
        let mut marks = Marks::new(4);
        for _ in 0..1_000 {
            marks.purge(Label::path_of(Some("acme"), "h", "/events"), Purge::Hard, NOW);
        }
        assert!(is_good(&marks, Some("acme")) && is_good(&marks, None));
        assert_eq!((marks.marks.len(), marks.ordered(), marks.floor()), (1, 1, 0));
    }

    #[test]
    fn a_tenant_that_writes_to_very_many_targets_lets_go_of_its_own_alone() {
        let mut marks = Marks::new(4);
        for number in 0..1_000 {
            marks.purge(Label::path_of(Some("acme"), "h", &format!("/{number}")), Purge::Hard, NOW);
        }
        assert!(!is_good(&marks, Some("acme")));
        assert!(is_good(&marks, Some("umbrella")) && is_good(&marks, None));
        assert_eq!((marks.marks.len(), marks.ordered()), (4, 4));
        let kept = marks.floor();
        marks.forget(kept);
        assert!(!is_good(&marks, Some("umbrella")), "what is written down of it covers all");
    }

    proptest! {
        #[test]
        fn what_is_written_down_makes_the_same_marks(
            purges in proptest::collection::vec((0u8..6, any::<bool>()), 0..40),
            most in 1usize..50,
        ) {
            let label = |host: u8| Label::host(&host.to_string());
            let (mut marks, mut again) = (Marks::new(most), Marks::new(most));
            for (host, hard) in &purges {
                marks.purge(label(*host), if *hard { Purge::Hard } else { Purge::Soft }, NOW);
            }
            again.forget(marks.floor());
            for noted in marks.noted() {
                again.repeat(&noted);
            }
            for made in 0..=marks.newest() {
                for host in 0..6 {
                    let of = |marks: &Marks| marks.standing(made, std::iter::once(label(host)));
                    prop_assert_eq!(of(&marks), of(&again));
                }
            }
        }

        /// Against a list of all purges ever: forgetting marks purges more, never less.
        #[test]
        fn forgetting_marks_never_brings_anything_back(
            purges in proptest::collection::vec((0u8..6, any::<bool>()), 1..40),
            most in 1usize..8,
        ) {
            // Two of nobody alone, two of each of two tenants.
            let label = |number: u8| match number {
                0 | 1 => Label::host(&number.to_string()),
                number => Label::path_of(Some(&(number / 2).to_string()), "h", &number.to_string()),
            };
            let mut marks = Marks::new(most);
            let mut made = vec![marks.newest()];
            for (host, hard) in &purges {
                made.push(marks.purge(label(*host), if *hard { Purge::Hard } else { Purge::Soft }, NOW));
                prop_assert!(marks.marks.len() <= most && marks.ordered() == marks.marks.len());
            }
            for (turn, made) in made.iter().enumerate() {
                for host in 0..6u8 {
                    let standing = marks.standing(*made, std::iter::once(label(host)));
                    let later = || purges[turn..].iter().filter(|purge| purge.0 == host);
                    if later().any(|purge| purge.1) {
                        prop_assert_eq!(standing, Standing::Gone);
                    } else if later().next().is_some() {
                        prop_assert!(standing != Standing::Good);
                    } else if purges.len() <= most {
                        prop_assert_eq!(standing, Standing::Good);
                    }
                }
            }
        }
    }
}
