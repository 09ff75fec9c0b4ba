//! What was asked for of late, by name: so many at most.
//!
//! Two generations stand for an order of use: what is asked for moves to the young one; when that is full it becomes the old
//! one, and what was in the old one is forgotten. Each look and each change costs the same, however many there are.

use std::collections::HashMap;
use std::sync::Arc;

/// What was asked for of late.
#[derive(Debug)]
pub struct Recent<T> {
    young: HashMap<Arc<str>, T>,
    old: HashMap<Arc<str>, T>,
    /// Of one generation.
    most: usize,
}

impl<T: Clone> Recent<T> {
    /// So many at most (two at least).
    #[must_use]
    pub fn new(most: usize) -> Recent<T> {
        Recent { young: HashMap::new(), old: HashMap::new(), most: (most / 2).max(1) }
    }

    /// What is known under this name; it is kept for longer than what nobody asks for.
    pub fn get(&mut self, name: &str) -> Option<T> {
        if let Some(found) = self.young.get(name) {
            return Some(found.clone());
        }
        let (name, found) = self.old.remove_entry(name)?;
        self.put(name, found.clone());
        Some(found)
    }

    /// Remembers it.
    pub fn put(&mut self, name: Arc<str>, one: T) {
        self.old.remove(&name);
        if self.young.len() >= self.most && !self.young.contains_key(&name) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, one);
    }

    /// Forgets it.
    pub fn remove(&mut self, name: &str) {
        self.young.remove(name);
        self.old.remove(name);
    }

    /// All that is known, those that were asked for last first.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.young.iter().chain(&self.old)
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_no_more_than_there_is_room_for() {
        let mut all = Recent::new(10);
        let name = |number: usize| Arc::<str>::from(format!("{number}"));
        for number in 0..1000 {
            all.put(name(number), number);
            assert_eq!(all.get("0"), Some(0), "asked for each time");
            assert!(all.len() <= 10, "{}", all.len());
            assert_eq!(all.iter().count(), all.len());
        }
        assert_eq!((all.get("998"), all.get("5")), (Some(998), None));
        all.remove("998");
        assert_eq!(all.get("998"), None);
    }
}
