//! What the keys of a queue have spent of the rate that each of them has.
//!
//! Bounded: a key is forgotten when its limit is full again. While none can be, a further one has to wait: a rate is never
//! exceeded for want of room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::limit::{Verdict, Word};
use tidegate_model::plan::Rate;
use tidegate_model::tick::Tick;

/// Keys of one queue whose limit is not full.
const KEYS_MAX: usize = 16_384;
/// When one comes again that found no room.
const PAUSE: Duration = Duration::from_millis(100);

/// A key of a tenant.
type Key = (Arc<str>, Arc<str>);

/// All keys that have spent something.
#[derive(Debug, Default)]
pub struct Keys {
    words: HashMap<Key, Word>,
}

impl Keys {
    /// Spends one of a key's; `Err`: not before so long.
    pub fn take(&mut self, key: Key, rate: &Rate, now: Tick) -> Result<(), Duration> {
        if self.words.len() >= KEYS_MAX && !self.words.contains_key(&key) {
            self.words.retain(|_, word| !word.is_full(now));
            if self.words.len() >= KEYS_MAX {
                return Err(PAUSE);
            }
        }
        match self.words.entry(key).or_default().take(rate, now) {
            Verdict::Passed { .. } => Ok(()),
            Verdict::Refused { retry_after } => Err(retry_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_rate_and_one_that_finds_no_room_waits() {
        let rate = Rate { name: "r".into(), limit: 1, window: Duration::from_secs(1), burst: 1 };
        let (mut keys, start) = (Keys::default(), Tick(1));
        let key = |number: usize| -> Key { ("t".into(), number.to_string().into()) };
        for number in 0..KEYS_MAX {
            assert_eq!(keys.take(key(number), &rate, start), Ok(()));
        }
        assert_eq!(keys.take(key(0), &rate, start), Err(Duration::from_secs(1)));
        assert_eq!(keys.take(key(KEYS_MAX), &rate, start), Err(PAUSE));
        assert_eq!(keys.take(key(KEYS_MAX), &rate, start.after(Duration::from_secs(1))), Ok(()));
    }
}
