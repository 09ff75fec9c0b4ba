//! How old a response is and how long it is fresh (RFC 9111 section 4.2).

use crate::fields::Fields;
use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderName, StatusCode};

use crate::cache::Wall;
use crate::cache::directives::Response;

/// What a response without a lifetime of its own may have (section 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heuristic {
    /// The hundredths of the time since it was last modified.
    pub percent: u32,
    /// The longest, in seconds.
    pub max: u32,
    /// In seconds, for what does not say when it was modified.
    pub unmodified: u32,
}

impl Default for Heuristic {
    fn default() -> Heuristic {
        Heuristic { percent: 10, max: 24 * 3600, unmodified: 0 }
    }
}

/// When a response was asked for and when its head had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When the request was sent.
    pub asked: Wall,
    /// When the response's head was there.
    pub answered: Wall,
}

/// How old a stored response is, and how old it may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How old it was when it came, in seconds.
    pub initial_age: u32,
    /// How old it may become, in seconds.
    pub lifetime: u32,
    /// When it came.
    pub answered: Wall,
    /// Whether the lifetime is a guess.
    pub heuristic: bool,
}

impl Freshness {
    /// Judges a response when it has come.
    #[must_use]
    pub fn of(
        status: StatusCode,
        headers: &Fields,
        directives: &Response,
        times: Times,
        heuristic: &Heuristic,
    ) -> Freshness {
        let date =
            headers.get(DATE).and_then(|date| Wall::of_date(date.as_bytes())).unwrap_or(times.answered);
        let explicit = explicit(headers, directives, date);
        let guessed = || {
            if is_heuristically_cacheable(status) || directives.public {
                guess(headers, date, heuristic)
            } else {
                0
            }
        };
        Freshness {
            initial_age: initial_age(headers, date, times),
            lifetime: explicit.unwrap_or_else(guessed),
            answered: times.answered,
            heuristic: explicit.is_none(),
        }
    }

    /// How old it is (section 4.2.3).
    #[must_use]
    pub fn age(&self, now: Wall) -> u32 {
        self.initial_age.saturating_add(now.since(self.answered))
    }

    /// How long it is still fresh, in seconds.
    #[must_use]
    pub fn left(&self, now: Wall) -> u32 {
        self.lifetime.saturating_sub(self.age(now))
    }

    /// How long it has been stale, in seconds; `None`: it is fresh.
    #[must_use]
    pub fn stale_for(&self, now: Wall) -> Option<u32> {
        let age = self.age(now);
        (age >= self.lifetime).then(|| age - self.lifetime)
    }
}

/// Whether a response with this status may be kept although it says nothing about it (RFC 9110 section 15.1).
#[must_use]
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The lifetime that a response tells, for a shared cache (section 4.2.1).
fn explicit(headers: &Fields, directives: &Response, date: Wall) -> Option<u32> {
    // What cannot be read makes it stale.
    if let Some(told) = directives.s_maxage.or(0).or_else(|| directives.max_age.or(0)) {
        return Some(told);
    }
    if directives.targeted || !headers.contains_key(EXPIRES) {
        return None;
    }
    let Some(expires) = only(headers, &EXPIRES).and_then(Wall::of_date) else { return Some(0) };
    Some(expires.since(date))
}

/// A field's value, where all its lines say the same.
fn only<'h>(headers: &'h Fields, name: &HeaderName) -> Option<&'h [u8]> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.all(|line| line == first).then_some(first.as_bytes())
}

fn guess(headers: &Fields, date: Wall, heuristic: &Heuristic) -> u32 {
    let modified = headers.get(LAST_MODIFIED).and_then(|modified| Wall::of_date(modified.as_bytes()));
    let Some(modified) = modified else { return heuristic.unmodified.min(heuristic.max) };
    let share = u64::from(date.since(modified)) * u64::from(heuristic.percent) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).min(heuristic.max)
}

fn initial_age(headers: &Fields, date: Wall, times: Times) -> u32 {
    let apparent = times.answered.since(date);
    let delay = times.answered.since(times.asked);
    let told = headers.get(AGE).and_then(|age| age_of(age.as_bytes())).unwrap_or(0);
    apparent.max(told.saturating_add(delay))
}

/// An `Age`: the first of a list counts, and what is no number does not (section 5.1).
fn age_of(value: &[u8]) -> Option<u32> {
    let digits = value.split(|&byte| byte == b',').next()?.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        digits.iter().fold(0u32, |sum, digit| sum.saturating_mul(10).saturating_add(u32::from(digit - b'0'))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    const NOW: Wall = Wall(1_700_000_000);

    fn date(wall: u64) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(wall))
    }

    fn judged(status: u16, fields: &[(&str, &str)], times: Times) -> Freshness {
        let mut headers = Fields::default();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let cdn = [HeaderName::from_static("cdn-cache-control")];
        let directives = Response::of(&headers, &cdn);
        let status = StatusCode::from_u16(status).unwrap();
        Freshness::of(status, &headers, &directives, times, &Heuristic::default())
    }

    fn lifetime(fields: &[(&str, &str)], expected: u32) {
        let judged = judged(200, fields, Times { asked: NOW, answered: NOW });
        assert_eq!(judged.lifetime, expected, "{fields:?}");
    }

    fn age(fields: &[(&str, &str)], delay: u64, expected: u32) {
        let times = Times { asked: Wall(NOW.0 - delay), answered: NOW };
        assert_eq!(judged(200, fields, times).initial_age, expected, "{fields:?}");
    }

    #[test]
    fn section_4_2_1_s_maxage_then_max_age_then_expires_then_a_guess() {
        let expires = date(NOW.0 + 30);
        let now = date(NOW.0);
        let expires = ("expires", expires.as_str());
        let dated = ("date", now.as_str());
        lifetime(&[dated, expires, ("cache-control", "max-age=20, s-maxage=10")], 10);
        lifetime(&[dated, expires, ("cache-control", "max-age=20")], 20);
        lifetime(&[dated, expires], 30);
        lifetime(&[dated, expires, ("cache-control", "public")], 30);
        lifetime(&[dated], 0);
    }

    #[test]
    fn section_4_2_1_the_clock_of_expires_is_that_of_the_date() {
        let (made, expires) = (date(NOW.0 - 100), date(NOW.0 - 40));
        lifetime(&[("date", &made), ("expires", &expires)], 60);
        lifetime(&[("expires", &expires)], 0);
    }

    #[test]
    fn section_4_2_1_what_is_told_twice_with_two_values_or_cannot_be_read_is_stale() {
        let expires = date(NOW.0 + 30);
        lifetime(&[("cache-control", "max-age=20"), ("cache-control", "max-age=30")], 0);
        lifetime(&[("cache-control", "max-age=a, s-maxage=10")], 10);
        lifetime(&[("cache-control", "max-age=20, s-maxage=b")], 0);
        lifetime(&[("cache-control", "max-age=a"), ("expires", &expires)], 0);
        lifetime(&[("expires", &expires), ("expires", "0")], 0);
    }

    #[test]
    fn section_5_3_an_expires_that_is_no_date_lies_in_the_past() {
        for text in ["0", "-1", "soon", "Thu, 99 Dec 2099 00:00:00 GMT", ""] {
            lifetime(&[("expires", text), ("last-modified", &date(NOW.0 - 100_000))], 0);
        }
    }

    #[test]
    fn rfc_9213_section_2_1_a_targeted_field_makes_expires_and_cache_control_say_nothing() {
        let expires = date(NOW.0 + 30);
        lifetime(&[("expires", &expires), ("cache-control", "max-age=9"), ("cdn-cache-control", "none")], 0);
        lifetime(&[("expires", &expires), ("cdn-cache-control", "max-age=70")], 70);
    }

    #[test]
    fn section_4_2_2_a_guess_is_a_tenth_of_the_time_since_the_last_change_and_bounded() {
        lifetime(&[("last-modified", &date(NOW.0 - 1000))], 100);
        lifetime(&[("last-modified", &date(NOW.0 - 100_000_000))], 24 * 3600);
        lifetime(&[("last-modified", &date(NOW.0 + 1000))], 0);
    }

    #[test]
    fn section_4_2_2_no_guess_where_a_lifetime_is_told_or_the_status_forbids_it() {
        let modified = date(NOW.0 - 1000);
        let modified = ("last-modified", modified.as_str());
        let times = Times { asked: NOW, answered: NOW };
        lifetime(&[modified, ("cache-control", "max-age=0")], 0);
        assert_eq!(judged(302, &[modified], times).lifetime, 0);
        assert_eq!(judged(302, &[modified, ("cache-control", "public")], times).lifetime, 100);
        assert!(judged(200, &[modified], times).heuristic);
        assert!(!judged(200, &[("cache-control", "max-age=1")], times).heuristic);
    }

    #[test]
    fn section_4_2_3_the_age_counts_what_others_kept_and_how_long_the_way_was() {
        let old = date(NOW.0 - 50);
        age(&[], 0, 0);
        age(&[("age", "30")], 0, 30);
        age(&[("age", "30")], 4, 34);
        age(&[("date", &old)], 0, 50);
        age(&[("date", &old), ("age", "30")], 0, 50);
        age(&[("date", &old), ("age", "60")], 1, 61);
        age(&[("date", &date(NOW.0 + 50)), ("age", "3")], 0, 3);
    }

    #[test]
    fn section_5_1_the_first_of_several_ages_counts_and_what_is_no_number_does_not() {
        age(&[("age", "30, 60")], 0, 30);
        age(&[("age", "a, 60")], 0, 0);
        age(&[("age", "-5")], 0, 0);
        age(&[("age", "99999999999")], 0, u32::MAX);
    }

    #[test]
    fn section_4_2_it_is_fresh_while_its_age_is_below_its_lifetime() {
        let kept = Freshness { initial_age: 3, lifetime: 10, answered: NOW, heuristic: false };
        assert_eq!((kept.age(NOW), kept.left(NOW), kept.stale_for(NOW)), (3, 7, None));
        assert_eq!((kept.left(Wall(NOW.0 + 6)), kept.stale_for(Wall(NOW.0 + 6))), (1, None));
        assert_eq!(kept.stale_for(Wall(NOW.0 + 7)), Some(0));
        assert_eq!(kept.stale_for(Wall(NOW.0 + 9)), Some(2));
    }

    proptest! {
        #[test]
        fn it_never_grows_younger(initial_age: u32, lifetime: u32, at in 0u64..1 << 40, later in 0u64..1 << 40) {
            let kept = Freshness { initial_age, lifetime, answered: NOW, heuristic: false };
            let (now, then) = (Wall(at), Wall(at + later));
            prop_assert!(kept.age(now) <= kept.age(then) && kept.left(now) >= kept.left(then));
            prop_assert_eq!(kept.left(now) == 0, kept.stale_for(now).is_some());
        }
    }
}
