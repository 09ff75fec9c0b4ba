//! What the node that asked is told of an answer, beside its fields and its content.
//!
//! Whoever makes an answer of what is kept, or of what comes, writes it here; an answer of which nothing is written is for
//! one request alone.

use std::cell::RefCell;

use tidegate_model::cache::Wall;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cluster::told::Known;
use tidegate_model::fields::Fields;

use crate::cache::kept::{Head, Kept};

/// What is known of an answer, once there is one.
#[derive(Debug, Default)]
pub struct Telling(RefCell<Option<Known>>);

impl Telling {
    /// It is this one, which is kept.
    pub fn kept(&self, kept: &Kept, now: Wall) {
        let known = known(kept.rules(), kept.known().tags().collect(), kept.known().took_ms(), now);
        *self.0.borrow_mut() = Some(Known { keep: true, ..known });
    }

    /// It is this one, which is on its way, and which others get, too.
    pub fn coming(&self, head: &Head, now: Wall) {
        let known = known(head.rules, head.tags.to_vec(), head.took_ms, now);
        *self.0.borrow_mut() = Some(Known { share: true, ..known });
    }

    /// Whether it is worth its room when it is not fresh, and whether all who ask for it right now may have it.
    pub fn allow(&self, keep: bool, share: bool) {
        if let Some(known) = &mut *self.0.borrow_mut() {
            (known.keep, known.share) = (keep, share);
        }
    }

    /// These fields are for this request alone.
    pub fn own(&self, own: &Fields) {
        if let Some(known) = &mut *self.0.borrow_mut() {
            known.own.extend(own);
        }
    }

    /// What is known.
    #[must_use]
    pub fn take(&self) -> Option<Known> {
        self.0.borrow_mut().take()
    }
}

fn known(mut rules: Rules, tags: Vec<Tag>, took_ms: u32, now: Wall) -> Known {
    // A second for each part of one that is not told.
    let asked = rules.freshness.answered.0.saturating_sub(u64::from(took_ms.div_ceil(1_000)) + 1);
    let asked_ago = u32::try_from(now.0.saturating_sub(asked)).unwrap_or(u32::MAX);
    let fresh = rules.freshness.left(now) > 0 && !rules.validate_always;
    rules.freshness.initial_age = rules.freshness.age(now);
    Known { rules, tags, took_ms, asked_ago, keep: fresh, share: fresh, own: Fields::default() }
}
