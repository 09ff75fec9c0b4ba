//! A cache of names around the order of eviction, as the memory tier is one of answers: for tests.

use std::collections::HashMap;

use super::{Bounds, Evictor, Place};
use crate::balance::mix;

/// A cache of names, as its shell will be one.
pub(super) struct Shelf {
    pub(super) evictor: Evictor,
    pub(super) by_name: HashMap<(u64, u64), Place>,
    pub(super) at: HashMap<Place, (u64, u64)>,
    pub(super) used: HashMap<Place, u8>,
}

impl Shelf {
    pub(super) fn new(bytes: u64, tenant_bytes: u64) -> Shelf {
        let bounds = Bounds { bytes, tenant_bytes, tenant_entries: u32::MAX };
        let evictor = Evictor::new(bounds, usize::try_from(bytes / 10).unwrap());
        Shelf { evictor, by_name: HashMap::new(), at: HashMap::new(), used: HashMap::new() }
    }

    /// Whether it was kept; it is afterwards.
    pub(super) fn ask(&mut self, tenant: u64, name: u64, bytes: u64) -> bool {
        if let Some(place) = self.by_name.get(&(tenant, name)) {
            let used = self.used.entry(*place).or_default();
            *used = (*used + 1).min(3);
            return true;
        }
        let (used, mut gone) = (&mut self.used, Vec::new());
        let take = |place| match used.get_mut(&place) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        };
        let place = self.evictor.insert(tenant, mix(tenant << 40 | name), bytes, take, &mut gone);
        for place in gone {
            let name = self.at.remove(&place).expect("it was kept");
            self.by_name.remove(&name);
            self.used.remove(&place);
        }
        if let Some(place) = place {
            assert!(self.at.insert(place, (tenant, name)).is_none(), "a place is one entry's");
            self.by_name.insert((tenant, name), place);
        }
        false
    }

    pub(super) fn holds(&self, tenant: u64, names: std::ops::Range<u64>) -> usize {
        names.filter(|name| self.by_name.contains_key(&(tenant, *name))).count()
    }
}
