//! Documents that a process is told of by the one before, which has the store still: they are answered at once, so that nobody waits
//! for a certificate and no window of maintenance is forgotten while the store changes hands.
//!
//! What always holds: only reading is answered of them, and only until the store is open; whoever has written reads the store. What
//! is not among them waits for the store, unless all of its kind are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::delivery::Ms;

use crate::documents::{Document, LISTED_MAX, Listing, Place};

/// A document, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its kind.
    pub kind: String,
    /// Whose it is; empty: everybody's.
    pub tenant: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Which writing of it this is.
    pub version: u64,
    /// What it is listed by.
    pub at: Ms,
    /// Its content.
    pub body: Bytes,
}

/// Documents of one kind, by tenant and name.
type OfKind = HashMap<(Arc<str>, Arc<str>), Document>;

/// What is known before the store is open.
#[derive(Debug, Default)]
pub struct Early {
    documents: HashMap<String, OfKind>,
    /// Kinds of which nothing is missing.
    whole: HashSet<String>,
}

impl Early {
    /// These documents, and of these kinds all that there are.
    #[must_use]
    pub fn new(told: Vec<Told>, whole: impl IntoIterator<Item = String>) -> Early {
        let mut early = Early { whole: whole.into_iter().collect(), ..Early::default() };
        for Told { kind, tenant, name, version, at, body } in told {
            let document = Document { name: Arc::clone(&name), version, at, body };
            early.documents.entry(kind).or_default().insert((tenant, name), document);
        }
        early
    }

    /// What is at this place; `None`: the store must be asked.
    pub(crate) fn read(&self, place: &Place) -> Option<Option<Document>> {
        let key = (Arc::clone(&place.tenant), Arc::clone(&place.name));
        match self.documents.get(place.kind).and_then(|kind| kind.get(&key)) {
            Some(found) => Some(Some(found.clone())),
            None => self.whole.contains(place.kind).then_some(None),
        }
    }

    /// A page; `None`: the store must be asked.
    pub(crate) fn list(&self, listing: &Listing) -> Option<Vec<Document>> {
        if !self.whole.contains(listing.kind) {
            return None;
        }
        let of_kind = self.documents.get(listing.kind).into_iter().flatten();
        let mut found: Vec<&Document> = of_kind
            .filter(|((tenant, _), one)| *tenant == listing.tenant && one.at >= listing.since)
            .map(|(_, one)| one)
            .filter(|one| listing.after.as_ref().is_none_or(|(at, name)| (one.at, &one.name) > (*at, name)))
            .collect();
        found.sort_by(|one, other| (one.at, &one.name).cmp(&(other.at, &other.name)));
        Some(found.into_iter().take(listing.most.min(LISTED_MAX)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, name: &str, at: Ms) -> Told {
        let body = Bytes::copy_from_slice(name.as_bytes());
        Told { kind: kind.to_owned(), tenant: "".into(), name: name.into(), version: 1, at, body }
    }

    #[test]
    fn what_is_known_is_answered_and_what_may_be_missing_is_not() {
        let all =
            vec![told("whole", "b", 1), told("whole", "a", 2), told("whole", "c", 1), told("part", "d", 1)];
        let early = Early::new(all, ["whole".to_owned()]);
        let read = |kind, name: &str| {
            let found = early.read(&Place { kind, tenant: "".into(), name: name.into() });
            found.map(|found| found.map(|one| one.name.to_string()))
        };
        assert_eq!(read("whole", "a"), Some(Some("a".to_owned())));
        assert_eq!(read("whole", "z"), Some(None), "there is none");
        assert_eq!(read("part", "d"), Some(Some("d".to_owned())));
        assert_eq!(read("part", "z"), None, "the store may have it");
        let list = |kind, tenant: &str, after: Option<(Ms, &str)>, most| {
            let after = after.map(|(at, name)| (at, name.into()));
            let found = early.list(&Listing { kind, tenant: tenant.into(), after, since: 0, most })?;
            Some(found.iter().map(|one| one.name.to_string()).collect::<Vec<_>>())
        };
        let names = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(list("whole", "", None, 2), names(&["b", "c"]), "by their time, then by name");
        assert_eq!(list("whole", "", Some((1, "c")), 2), names(&["a"]));
        assert_eq!(list("whole", "another's", None, 2), names(&[]));
        assert_eq!(list("part", "", None, 2), None);
    }
}
