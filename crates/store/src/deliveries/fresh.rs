//! Ids of deliveries, of the system's chance: nobody can foresee one.

use std::cell::RefCell;

use tidegate_model::delivery::{Drawing, Id};

/// Ids that one call of the system gives the chance for: as much as it gives without being interrupted.
const AT_ONCE: usize = 16;

/// A thread's own.
struct Fresh {
    drawing: Drawing,
    chance: [[u8; 16]; AT_ONCE],
    used: usize,
}

thread_local! {
    static FRESH: RefCell<Fresh> =
        const { RefCell::new(Fresh { drawing: Drawing::new(), chance: [[0; 16]; AT_ONCE], used: AT_ONCE }) };
}

/// An id that nobody can guess. `None`: the system has no chance to give.
#[must_use]
pub fn fresh_id() -> Option<Id> {
    FRESH.with_borrow_mut(|fresh| {
        if fresh.used == AT_ONCE {
            getrandom::fill(fresh.chance.as_flattened_mut()).ok()?;
            fresh.used = 0;
        }
        let chance = std::mem::take(&mut fresh.chance[fresh.used]);
        fresh.used += 1;
        Some(fresh.drawing.id(u128::from_ne_bytes(chance)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_id_is_drawn_twice() {
        let drawn: HashSet<Id> = (0..10 * AT_ONCE).filter_map(|_| fresh_id()).collect();
        assert_eq!(drawn.len(), 10 * AT_ONCE);
        assert!(!drawn.contains(&Id(0)));
    }
}
