//! Values with units: `5s`, `64KiB`, `50/s`, `2027-01-01`.

use std::time::Duration;

/// A duration: a number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// What it should be.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let nanos = match unit {
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "d" => 86_400e9,
        _ => return Err(format!("`{text}` is not a duration: write it as 200ms, 5s, 1m, 2h or 1d")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a duration: 5s is one"))?;
    Ok(Duration::from_nanos((number * nanos) as u64))
}

/// A size in bytes: a number and `B`, `KB`, `KiB`, `MB`, `MiB`, `GB` or `GiB`.
///
/// # Errors
/// What it should be.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` is not a size: write it as 64KiB, 1MB or 2GiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is not a size: 64KiB is one"))?;
    number.checked_mul(bytes).ok_or_else(|| format!("`{text}` is too large"))
}

/// A rate: so many in a window, `50/s`, `10000/day`, `5/10s`.
///
/// # Errors
/// What it should be.
pub fn rate(text: &str) -> Result<(u64, Duration), String> {
    let wrong = || format!("`{text}` is not a rate: write it as 50/s, 1000/m, 10000/day or 5/10s");
    let (count, window) = text.split_once('/').ok_or_else(wrong)?;
    let count: u64 = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
    let window = match window.trim() {
        "ms" => Duration::from_millis(1),
        "s" | "sec" | "second" => Duration::from_secs(1),
        "m" | "min" | "minute" => Duration::from_secs(60),
        "h" | "hour" => Duration::from_secs(3600),
        "d" | "day" => Duration::from_secs(86_400),
        other => {
            duration(other).ok().filter(|window| *window >= Duration::from_millis(1)).ok_or_else(wrong)?
        }
    };
    Ok((count, window))
}

/// A date, `2027-01-01`, as seconds since the epoch at its beginning in UTC.
///
/// # Errors
/// What it should be.
pub fn date(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a date such as 2027-01-01");
    let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
    let (Some(Some(year)), Some(Some(month)), Some(Some(day)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(wrong());
    }
    // Days since the epoch (Howard Hinnant's `days_from_civil`).
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    Ok((days - 719_468) * 86_400)
}

/// The number and the unit behind it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(rate("5/10s"), Ok((5, Duration::from_secs(10))));
        assert_eq!(date("2027-01-01"), Ok(1_798_761_600));
        for bad in ["5", "5x", "-5s", "s", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["50", "0/s", "x/s", "5/y", "5/0s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert!(size("64KiBs").is_err() && size("99999999999999GiB").is_err() && date("2027-13-01").is_err());
    }
}
