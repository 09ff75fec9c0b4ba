//! The state of a file: what tells one version of it from another.
//!
//! The tag is made of the time of the last modification, to the nanosecond, and the length: nodes that serve the same
//! files, copied with their times, tell the same. Builds that are meant to be repeatable set all times to the epoch; then
//! the time of modification tells nothing, and the time of the change on this node's disk takes its place.

use std::time::{Duration, SystemTime};

use crate::coding::Coding;

/// A time of this second of the epoch or earlier was set by a build, not by a clock.
const SET_BY_BUILD: i64 = 1;
/// A file that was changed so lately may be changed again within the same tick of the file system's clock: its tag is weak
/// until then (RFC 9110 section 8.8.2.2).
const SETTLED_SECONDS: i64 = 2;

/// A point in time as file systems have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Since 1970.
    pub seconds: i64,
    /// Within the second.
    pub nanos: u32,
}

/// The state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its bytes.
    pub length: u64,
    /// When its content was last modified, or what somebody set for that.
    pub modified: Moment,
    /// When it was last changed at all. Nobody can set it.
    pub changed: Moment,
}

impl Stamp {
    /// The entity tag of the file, or of its sibling in this coding. Weak, while it might be changed unnoticed.
    #[must_use]
    pub fn tag(&self, coding: Option<Coding>, now: SystemTime) -> String {
        let time = if self.is_dated() { self.modified } else { self.changed };
        let weak =
            if seconds(now) < self.changed.seconds.saturating_add(SETTLED_SECONDS) { "W/" } else { "" };
        let coding = match coding {
            Some(Coding::Brotli) => "-br",
            Some(Coding::Zstd) => "-zstd",
            Some(Coding::Gzip) => "-gzip",
            None => "",
        };
        format!("{weak}\"{:x}.{:x}-{:x}{coding}\"", time.seconds, time.nanos, self.length)
    }

    /// `Last-Modified`, unless nothing is known of it, or it lies ahead (RFC 9110 section 8.8.2.1).
    #[must_use]
    pub fn last_modified(&self, now: SystemTime) -> Option<String> {
        let seconds = u64::try_from(self.modified.seconds).ok()?;
        let date = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        // Dates of HTTP have years of four digits; what lies ahead never has more than that.
        (self.is_dated() && date <= now).then(|| httpdate::fmt_http_date(date))
    }

    /// Whether the time of its modification tells anything.
    fn is_dated(&self) -> bool {
        self.modified.seconds > SET_BY_BUILD
    }

    /// Whether the content is still what it was in this other state. A file that was unlinked, or replaced by renaming, is: it
    /// is changed by that, but not modified.
    #[must_use]
    pub fn is_content_of(&self, other: &Stamp) -> bool {
        self.length == other.length
            && self.modified == other.modified
            && (self.is_dated() || self.changed == other.changed)
    }

    /// Whether a sibling in this state is not older than the file that it was made of. To the second: tools copy times so.
    #[must_use]
    pub fn is_made_of(&self, plain: &Stamp) -> bool {
        self.modified.seconds >= plain.modified.seconds
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn at(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    fn stamp(length: u64, modified: i64, changed: i64) -> Stamp {
        let moment = |seconds| Moment { seconds, nanos: 16 };
        Stamp { length, modified: moment(modified), changed: moment(changed) }
    }

    fn check(stamp: Stamp, now: i64, tag: &str, modified: Option<&str>) {
        assert_eq!(stamp.tag(None, at(now)), tag, "{stamp:?}");
        assert_eq!(stamp.last_modified(at(now)).as_deref(), modified, "{stamp:?}");
    }

    #[test]
    fn the_tag_tells_time_and_length_and_coding() {
        check(stamp(255, DAY, DAY), 2 * DAY, "\"15180.10-ff\"", Some("Fri, 02 Jan 1970 00:00:00 GMT"));
        check(stamp(0, DAY, DAY + 7), 2 * DAY, "\"15180.10-0\"", Some("Fri, 02 Jan 1970 00:00:00 GMT"));
        let tags = Coding::ALL.map(|coding| stamp(1, DAY, DAY).tag(Some(coding), at(2 * DAY)));
        assert_eq!(tags, ["\"15180.10-1-br\"", "\"15180.10-1-zstd\"", "\"15180.10-1-gzip\""]);
    }

    #[test]
    fn section_8_8_2_2_a_tag_is_weak_while_the_file_may_change_within_the_same_tick() {
        let stamp = stamp(1, DAY, 2 * DAY);
        for (now, weak) in [(2 * DAY, true), (2 * DAY + 1, true), (2 * DAY + 2, false), (2 * DAY - 60, true)]
        {
            assert_eq!(stamp.tag(None, at(now)).starts_with("W/"), weak, "{now}");
        }
    }

    #[test]
    fn times_that_a_build_has_set_tell_nothing() {
        for modified in [-5, 0, 1] {
            check(stamp(1, modified, DAY), 2 * DAY, "\"15180.10-1\"", None);
        }
    }

    #[test]
    fn section_8_8_2_1_what_lies_ahead_is_no_last_modified() {
        check(stamp(1, 3 * DAY, DAY), 2 * DAY, "\"3f480.10-1\"", None);
        check(stamp(1, i64::MAX, DAY), 2 * DAY, "\"7fffffffffffffff.10-1\"", None);
    }

    #[test]
    fn content_is_the_same_until_it_is_modified() {
        let first = stamp(1, DAY, DAY);
        for (later, same) in [
            (first, true),
            (stamp(1, DAY, 2 * DAY), true),
            (stamp(2, DAY, DAY), false),
            (stamp(1, DAY + 1, DAY), false),
        ] {
            assert_eq!(later.is_content_of(&first), same, "{later:?}");
        }
        assert!(!stamp(1, 0, DAY).is_content_of(&stamp(1, 0, 2 * DAY)));
    }

    #[test]
    fn a_sibling_that_is_older_than_its_file_was_made_of_another() {
        assert!(stamp(1, DAY, DAY).is_made_of(&stamp(2, DAY, 2 * DAY)));
        assert!(!stamp(1, DAY - 1, DAY).is_made_of(&stamp(2, DAY, DAY)));
    }
}
