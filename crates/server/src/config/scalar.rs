//! The small values of a configuration: durations, sizes, rates, shares, dates. Each is a text with a unit, and
//! shown again in the form that it is read in.
//!
//! Each has a *format*: a name under which its shape stands in the schema, and by which a value is checked
//! before anything is deserialized, so that every wrong value is told at once, with its place.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A year: no setting needs a longer time, and sums of such times never overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Defines a scalar: its type, what it holds, its format, an example, what a reader is told of it, how it is
/// read and how it is shown.
macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal, $example:literal, $told:literal, $parse:path, $show:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                $parse(&text).map($name).map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&$show(&self.0))
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $format.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format, "examples": [$example] })
            }
        }

        impl Format for $name {
            const NAME: &'static str = $format;
            const EXAMPLE: &'static str = $example;
            const TOLD: &'static str = $told;
            fn check(text: &str) -> Result<(), String> {
                $parse(text).map(|_| ())
            }
        }
    };
}

pub(super) use scalar;

/// A shape that a text must have.
pub trait Format {
    /// Its name in the schema.
    const NAME: &'static str;
    /// A value of it.
    const EXAMPLE: &'static str;
    /// What it is called in a sentence.
    const TOLD: &'static str;
    /// Whether the text has it, or why not.
    ///
    /// # Errors
    /// One sentence without a full stop.
    fn check(text: &str) -> Result<(), String>;
}

scalar!(
    /// A length of time.
    Time(Duration), "duration", "5s", "a duration", parse_duration, show_duration
);
scalar!(
    /// A number of bytes.
    Size(u64), "size", "64KiB", "a size", parse_size, show_size
);
scalar!(
    /// So many in such a time.
    PerTime((u64, Duration)), "rate", "50/s", "a rate", parse_rate, show_rate
);
scalar!(
    /// A share of a hundred.
    Percent(u32), "percent", "20%", "a percentage", parse_percent, show_percent
);
scalar!(
    /// A share of a whole, in millionths.
    Portion(u32), "portion", "0.5%", "a share", parse_portion, show_portion
);
scalar!(
    /// A point in time: a date, or a date and a time.
    Moment(Stamp), "date", "2027-01-01", "a date", parse_moment, show_moment
);
scalar!(
    /// A range of HTTP statuses, inclusive.
    Statuses((u16, u16)), "statuses", "200-399", "a range of statuses", parse_statuses, show_statuses
);
scalar!(
    /// SHA-256 in hexadecimal digits.
    Hash([u8; 32]), "sha256",
    "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "a SHA-256", parse_sha256, show_sha256
);

/// A point in time, as it was written and in seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// As it was written.
    pub text: String,
    /// In seconds.
    pub seconds: u64,
}

/// Splits `64KiB` into the number and the unit, which may stand apart.
fn number_and_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn number(digits: &str, what: &str) -> Result<u64, String> {
    digits.parse().map_err(|_| format!("{what} begins with a whole number"))
}

/// Reads `200ms`, `5s`, `1m`, `2h`, `7d`, `1m30s`.
///
/// # Errors
/// One sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err("a duration is empty".to_owned());
    }
    while !rest.is_empty() {
        let digits = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
        let count = number(digits, "a duration")?;
        let after = rest[digits.len()..].trim_start();
        let unit = &after[..after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len())];
        let nanos = match unit {
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000u64,
            "" if count == 0 => 1,
            "" => return Err(format!("a duration has a unit: write \"{digits}s\" or \"{digits}ms\"")),
            unit => return Err(format!("`{unit}` is no unit of time: use us, ms, s, m, h or d")),
        };
        let part = count.checked_mul(nanos).map(Duration::from_nanos);
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= DURATION_MAX)
            .ok_or("a duration is at most 366d")?;
        rest = after[unit.len()..].trim_start();
    }
    Ok(total)
}

/// The form that [`parse_duration`] reads, in the largest unit that holds it whole.
#[must_use]
pub fn show_duration(time: &Duration) -> String {
    let nanos = time.as_nanos();
    for (unit, size) in [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
    ] {
        if nanos >= size && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos == 0 { "0s".to_owned() } else { format!("{}us", nanos / 1_000) }
}

/// Reads `512`, `64KiB`, `1MB`.
///
/// # Errors
/// One sentence.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = number_and_unit(text.trim());
    let count = number(digits, "a size")?;
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1u64 << 30,
        _ => return Err(format!("`{unit}` is no unit of size: use B, KiB, MiB, GiB, kB, MB or GB")),
    };
    // TOML's integers, and so the printed form, end here.
    count
        .checked_mul(bytes)
        .filter(|size| *size <= 1 << 62)
        .ok_or_else(|| "a size is at most 4294967296GiB".to_owned())
}

/// The form that [`parse_size`] reads.
#[must_use]
pub fn show_size(bytes: &u64) -> String {
    for (unit, size) in [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
    ] {
        if *bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// Reads `50/s`, `10000/day`, `100/10s`.
///
/// # Errors
/// One sentence.
pub fn parse_rate(text: &str) -> Result<(u64, Duration), String> {
    let (count, window) = text
        .split_once('/')
        .ok_or_else(|| format!("a rate is a number per time: write \"{}/s\"", text.trim()))?;
    let limit = count.trim().parse().map_err(|_| "a rate begins with a whole number".to_owned())?;
    if limit == 0 {
        return Err("a rate is at least 1; to let nobody in, use `deny`".to_owned());
    }
    let window = window.trim();
    let digits = window.len() - window.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = match window[digits..].trim() {
        "ms" => "ms",
        "s" | "sec" | "second" | "seconds" => "s",
        "m" | "min" | "minute" | "minutes" => "m",
        "h" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        other => return Err(format!("`{other}` is no window of a rate: use s, m, h or day")),
    };
    let many = if digits == 0 { "1" } else { &window[..digits] };
    let window = parse_duration(&format!("{many}{unit}"))?;
    if window < Duration::from_millis(1) {
        return Err("a rate's window is at least 1ms".to_owned());
    }
    Ok((limit, window))
}

fn show_rate((limit, window): &(u64, Duration)) -> String {
    let window = show_duration(window);
    // `1s` is `/s`; `10s` and `1000s` keep their number.
    match window.strip_prefix('1') {
        Some(unit) if !unit.starts_with(|c: char| c.is_ascii_digit()) => format!("{limit}/{unit}"),
        _ => format!("{limit}/{window}"),
    }
}

fn parse_percent(text: &str) -> Result<u32, String> {
    let digits = text
        .trim()
        .strip_suffix('%')
        .ok_or_else(|| format!("a percentage ends with `%`: write \"{}%\"", text.trim()))?;
    digits
        .trim()
        .parse()
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| "a percentage is a whole number from 0 to 100".to_owned())
}

fn show_percent(percent: &u32) -> String {
    format!("{percent}%")
}

/// Hundredths with up to four digits behind the point.
fn parse_portion(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let digits =
        text.strip_suffix('%').ok_or_else(|| format!("a share ends with `%`: write \"{text}%\""))?.trim_end();
    let wrong = || "a share is a number from 0% to 100%, with up to four digits behind the point".to_owned();
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 4 {
        return Err(wrong());
    }
    let part: u32 = format!("{part:0<4}").parse().map_err(|_| wrong())?;
    let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 100).ok_or_else(wrong)?;
    Some(whole * 10_000 + part).filter(|share| *share <= 1_000_000).ok_or_else(wrong)
}

fn show_portion(share: &u32) -> String {
    let (whole, part) = (share / 10_000, share % 10_000);
    let text = format!("{whole}.{part:04}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn parse_statuses(text: &str) -> Result<(u16, u16), String> {
    let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(first), Some(last)) => Err(format!("{first} is more than {last}: write \"{last}-{first}\"")),
        _ => Err("statuses are from 100 to 599, such as \"200\" or \"200-399\"".to_owned()),
    }
}

fn show_statuses((first, last): &(u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "a SHA-256 is 64 hexadecimal digits".to_owned();
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        let digits = &text[2 * at..2 * at + 2];
        // `from_str_radix` would take a sign.
        *byte = u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or_else(wrong)?;
    }
    Ok(hash)
}

/// Hexadecimal digits.
#[must_use]
pub fn show_sha256(hash: &[u8; 32]) -> String {
    use fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

fn parse_moment(text: &str) -> Result<Stamp, String> {
    let wrong = || "a date is written \"2027-01-01\" or \"2027-01-01T12:00:00Z\"".to_owned();
    let text = text.trim();
    if !text.is_ascii() || text.len() < 10 {
        return Err(wrong());
    }
    let (date, time) = text.split_at(10);
    let seconds = days(date).ok_or_else(wrong)? * 86_400 + of_day(time).ok_or_else(wrong)?;
    Ok(Stamp { text: text.to_owned(), seconds })
}

fn show_moment(moment: &Stamp) -> String {
    moment.text.clone()
}

/// Days from 1970-01-01 to `YYYY-MM-DD`.
fn days(date: &str) -> Option<u64> {
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || [year.len(), month.len(), day.len()] != [4, 2, 2] {
        return None;
    }
    let digits =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u64>().ok())?;
    let (year, month, day) = (digits(year)?, digits(month)?, digits(day)?);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |month: u64| match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=length(month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    Some(years + (1..month).map(length).sum::<u64>() + day - 1)
}

/// Seconds of `T12:00:00Z`; nothing is midnight. The only zone is UTC.
fn of_day(time: &str) -> Option<u64> {
    if time.is_empty() {
        return Some(0);
    }
    let clock = time.strip_prefix(['T', 't', ' '])?.strip_suffix(['Z', 'z'])?;
    let bytes = clock.as_bytes();
    if bytes.len() != 8 || bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let two = |at: usize| {
        let (tens, ones) = (bytes[at], bytes[at + 1]);
        (tens.is_ascii_digit() && ones.is_ascii_digit())
            .then(|| u64::from((tens - b'0') * 10 + (ones - b'0')))
    };
    let (hours, minutes, seconds) = (two(0)?, two(3)?, two(6)?);
    (hours < 24 && minutes < 60 && seconds < 60).then_some(hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<T: PartialEq + fmt::Debug>(
        parse: fn(&str) -> Result<T, String>,
        show: fn(&T) -> String,
        text: &str,
        value: T,
        shown: &str,
    ) {
        assert_eq!(parse(text).as_ref(), Ok(&value), "{text}");
        assert_eq!(show(&value), shown);
        assert_eq!(parse(shown), Ok(value), "{shown}");
    }

    #[test]
    fn each_unit_is_read_and_shown_again() {
        let time = |text, millis, shown| {
            check(parse_duration, show_duration, text, Duration::from_millis(millis), shown)
        };
        time("200ms", 200, "200ms");
        time("5s", 5_000, "5s");
        time("1m30s", 90_000, "90s");
        time("60s", 60_000, "1m");
        time("0", 0, "0s");
        let size = |text, bytes, shown| check(parse_size, show_size, text, bytes, shown);
        size("64KiB", 65_536, "64KiB");
        size("1MB", 1_000_000, "1MB");
        size("1000 B", 1_000, "1kB");
        size("0", 0, "0B");
        let rate = |text, limit, secs, shown| {
            check(parse_rate, show_rate, text, (limit, Duration::from_secs(secs)), shown);
        };
        rate("50/s", 50, 1, "50/s");
        rate("10000/day", 10_000, 86_400, "10000/d");
        rate("100/10s", 100, 10, "100/10s");
        rate("5 / minute", 5, 60, "5/m");
        check(parse_percent, show_percent, "20 %", 20, "20%");
        check(parse_statuses, show_statuses, "200-399", (200, 399), "200-399");
        assert_eq!(parse_moment("2027-01-01").map(|at| at.seconds), Ok(1_798_761_600));
        assert_eq!(parse_moment("2028-02-29T01:02:03Z").map(|at| at.seconds), Ok(1_835_398_923));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_remedy() {
        let told = |result: Result<(), String>, told: &str| assert_eq!(result, Err(told.to_owned()));
        told(Time::check("5"), "a duration has a unit: write \"5s\" or \"5ms\"");
        told(Time::check("5 parsecs"), "`parsecs` is no unit of time: use us, ms, s, m, h or d");
        told(Time::check("5sec"), "`sec` is no unit of time: use us, ms, s, m, h or d");
        told(Time::check("900000000d"), "a duration is at most 366d");
        told(Size::check("5x"), "`x` is no unit of size: use B, KiB, MiB, GiB, kB, MB or GB");
        told(PerTime::check("50"), "a rate is a number per time: write \"50/s\"");
        told(PerTime::check("50/fortnight"), "`fortnight` is no window of a rate: use s, m, h or day");
        told(PerTime::check("0/s"), "a rate is at least 1; to let nobody in, use `deny`");
        told(Percent::check("20"), "a percentage ends with `%`: write \"20%\"");
        told(Portion::check("0.5"), "a share ends with `%`: write \"0.5%\"");
        for wrong in ["100.1%", "0.00001%", ".5%", "1.%", "-1%", "1e1%", "5 %%", "99999999999%"] {
            assert!(Portion::check(wrong).is_err(), "{wrong}");
        }
        told(Statuses::check("399-200"), "399 is more than 200: write \"200-399\"");
        told(Hash::check("hunter2"), "a SHA-256 is 64 hexadecimal digits");
        for wrong in [
            "2027-02-29",
            "2027-13-01",
            "2027-1-1",
            "27-01-01",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:00:00+01:00",
        ] {
            assert!(Moment::check(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn examples_have_their_own_format() {
        fn has<F: Format>() {
            assert_eq!(F::check(F::EXAMPLE), Ok(()), "{}", F::NAME);
        }
        has::<Time>();
        has::<Size>();
        has::<PerTime>();
        has::<Percent>();
        has::<Portion>();
        has::<Moment>();
        has::<Statuses>();
        has::<Hash>();
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_scalar(text in "\\PC{0,24}|[0-9]{0,22}[a-zA-Z/%:. -]{0,4}") {
            let _ = (Time::check(&text), Size::check(&text), PerTime::check(&text));
            let _ = (Portion::check(&text), Percent::check(&text), Moment::check(&text), Statuses::check(&text), Hash::check(&text));
        }

        #[test]
        fn what_is_shown_is_read_as_the_same(micros in 0u64..40_000_000_000_000, bytes in 0u64..1 << 62) {
            let micros = micros.min(DURATION_MAX.as_micros() as u64);
            let time = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&show_duration(&time)), Ok(time));
            prop_assert_eq!(parse_size(&show_size(&bytes)), Ok(bytes));
            let share = (bytes % 1_000_001) as u32;
            prop_assert_eq!(parse_portion(&show_portion(&share)), Ok(share));
        }
    }
}
