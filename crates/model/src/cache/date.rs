//! HTTP dates (RFC 9110 section 5.6.7), as a cache reads them (RFC 9111 section 4.2): in all three formats and in any case,
//! in GMT alone, and nothing that only resembles one of them. A day of the week that does not fit its date is not looked at.

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970, or none: it is no date, or one before that.
pub(super) fn seconds(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    match text.iter().position(|&byte| byte == b',') {
        Some(3) => fixdate(text),
        Some(comma) => rfc850(&text[..comma], &text[comma..]),
        None => asctime(text),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn fixdate(text: &[u8]) -> Option<u64> {
    let is = text.len() == 29 && is_day(&text[..3], true) && &text[3..5] == b", " && is_gmt(&text[25..]);
    if !is || [text[7], text[11], text[16]] != *b"   " {
        return None;
    }
    let year = number(&text[12..16])?;
    moment(year, month(&text[8..11])?, number(&text[5..7])?, &text[17..25])
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`. Two digits are of this century up to 69, of the last one from 70 on: rather past than
/// future.
fn rfc850(day: &[u8], rest: &[u8]) -> Option<u64> {
    let is = rest.len() == 24 && is_day(day, false) && rest.starts_with(b", ") && is_gmt(&rest[20..]);
    if !is || [rest[4], rest[8], rest[11]] != *b"-- " {
        return None;
    }
    let short = number(&rest[9..11])?;
    let year = if short < 70 { 2000 + short } else { 1900 + short };
    moment(year, month(&rest[5..8])?, number(&rest[2..4])?, &rest[12..20])
}

/// `Sun Nov  6 08:49:37 1994`.
fn asctime(text: &[u8]) -> Option<u64> {
    let is = text.len() == 24 && is_day(&text[..3], true);
    if !is || [text[3], text[7], text[10], text[19]] != *b"    " {
        return None;
    }
    let day = number(text[8..10].strip_prefix(b" ").unwrap_or(&text[8..10]))?;
    moment(number(&text[20..])?, month(&text[4..7])?, day, &text[11..19])
}

fn is_day(text: &[u8], short: bool) -> bool {
    DAYS.iter().any(|day| {
        let day = if short { &day[..3] } else { day };
        day.as_bytes().eq_ignore_ascii_case(text)
    })
}

fn is_gmt(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b" GMT")
}

fn month(text: &[u8]) -> Option<u64> {
    let at = MONTHS.iter().position(|month| month.as_bytes().eq_ignore_ascii_case(text))?;
    Some(at as u64 + 1)
}

fn number(digits: &[u8]) -> Option<u64> {
    let are = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    are.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn moment(year: u64, month: u64, day: u64, clock: &[u8]) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let longest = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=longest).contains(&day) || clock[2] != b':' || clock[5] != b':' {
        return None;
    }
    let (hour, minute) = (number(&clock[..2])?, number(&clock[3..5])?);
    // A leap second is no other moment than the one before it: the nearest that is not later (section 4.2).
    let second = number(&clock[6..])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1 March of the year 0, of which a year begins in March: February, whose length varies, comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    Some((days - DAYS_TO_1970) * 86_400 + hour * 3_600 + minute * 60 + second.min(59))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(seconds(text.as_bytes()), expected, "{text:?}");
    }

    #[test]
    fn all_three_formats_are_one_moment_in_any_case() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nOV 1994 08:49:37 gmt",
            "sunday, 06-NOV-94 08:49:37 Gmt",
            "sUN nov  6 08:49:37 1994",
            "Mon Nov 06 08:49:37 1994",
            " Sun, 06 Nov 1994 08:49:37 GMT\t",
        ] {
            check(text, Some(784_111_777));
        }
    }

    #[test]
    fn what_only_resembles_a_date_is_none() {
        for text in [
            "",
            "0",
            ",",
            ", ",
            "-1",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 23:60:00 GMT",
            "Sun, 06 Nov 1994 23:00:61 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Wed, 29 Feb 2023 00:00:00 GMT",
            "Fri, 29 Feb 2100 00:00:00 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Now 1994 08:49:37 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sonntag, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 94",
        ] {
            check(text, None);
        }
        check("Thu, 29 Feb 2024 23:59:60 GMT", Some(1_709_251_199));
        check("Tue, 29 Feb 2000 00:00:00 GMT", Some(951_782_400));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(at in 0u64..253_402_300_800) {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at));
            prop_assert_eq!(seconds(text.as_bytes()), Some(at));
        }

        #[test]
        fn no_bytes_are_too_strange(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = seconds(&text);
        }

        #[test]
        fn a_date_with_a_byte_changed_is_read_or_not(at in 0u64..253_402_300_800, place in 0usize..29, byte: u8) {
            let mut text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at)).into_bytes();
            text[place] = byte;
            let _ = seconds(&text);
        }
    }
}
