//! Deadlines that clients send, and the one that goes on to the upstream.
//!
//! A client may shorten an exchange's deadline, never lengthen it: the earlier of its own and the route's
//! counts. It says so by `grpc-timeout` or by a header of milliseconds that the operator has named. What
//! cannot be read counts as not sent: it would only have shortened the wait.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::fields::Fields;
use crate::tick::Tick;

/// The header in which gRPC clients send their deadline.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The header in which the upstream is told what is left, in milliseconds.
pub const TIDEGATE_DEADLINE_MS: HeaderName = HeaderName::from_static("tidegate-deadline-ms");

/// The most digits a time-out may have (gRPC over HTTP/2, `TimeoutValue`); for milliseconds, over a day.
const DIGITS_MAX: usize = 8;

/// The shortest time-out that the request's headers ask for: `grpc-timeout`, or milliseconds in `header`.
#[must_use]
pub fn asked(headers: &Fields, header: Option<&HeaderName>) -> Option<Duration> {
    let grpc = headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout);
    let own = header.and_then(|name| headers.get(name)).and_then(milliseconds);
    match (grpc, own) {
        (Some(grpc), Some(own)) => Some(grpc.min(own)),
        (grpc, own) => grpc.or(own),
    }
}

/// When an exchange that began at `started` must have its response's head: the earlier of the route's
/// deadline and of the one the client asked for.
#[must_use]
pub fn earlier(started: Tick, own: Duration, asked: Option<Duration>) -> Tick {
    started.after(asked.map_or(own, |asked| asked.min(own)))
}

/// What is left until `deadline`; `None` when nothing is.
#[must_use]
pub fn remaining(deadline: Tick, now: Tick) -> Option<Duration> {
    Some(deadline.since(now)).filter(|left| !left.is_zero())
}

/// What `Tidegate-Deadline-Ms` says: whole milliseconds, rounded down, so that the upstream gives up no later than we do.
#[must_use]
pub fn remaining_ms(left: Duration) -> u64 {
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

/// The value of `grpc-timeout` for what is left, in the finest unit that fits its eight digits.
#[must_use]
pub fn grpc_remaining(left: Duration) -> HeaderValue {
    const FITS: u128 = 100_000_000;
    let units = [
        (left.as_nanos(), 'n'),
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
    ];
    let (count, unit) = units
        .into_iter()
        .find(|(count, _)| *count < FITS)
        .unwrap_or((u128::from(left.as_secs() / 3600).min(FITS - 1), 'H'));
    HeaderValue::try_from(format!("{count}{unit}")).expect("digits and a letter make a header value")
}

/// Reads a `grpc-timeout`: one to eight digits and a unit of `H`, `M`, `S`, `m`, `u`, `n`.
#[must_use]
pub fn grpc_timeout(value: impl AsRef<[u8]>) -> Option<Duration> {
    let (unit, digits) = value.as_ref().split_last()?;
    let count = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Reads a header of milliseconds: one to eight digits.
#[must_use]
pub fn milliseconds(value: impl AsRef<[u8]>) -> Option<Duration> {
    number(value.as_ref()).map(Duration::from_millis)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &'static str, expected: Option<Duration>) {
        assert_eq!(grpc_timeout(HeaderValue::from_static(text)), expected, "{text:?}");
    }

    #[test]
    fn reads_every_unit_of_grpc() {
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("250m", Some(Duration::from_millis(250)));
        check("7u", Some(Duration::from_micros(7)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
    }

    #[test]
    fn ignores_what_cannot_be_read() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789n", " 1S", "1 S"] {
            check(text, None);
        }
        for text in ["", "x", "-5", "123456789", "5ms"] {
            assert_eq!(milliseconds(HeaderValue::from_static(text)), None, "{text}");
        }
    }

    #[test]
    fn the_earlier_deadline_counts() {
        let (started, own) = (Tick(1_000), Duration::from_secs(5));
        let header = HeaderName::from_static("x-timeout-ms");
        let mut headers = Fields::default();
        assert_eq!(earlier(started, own, asked(&headers, Some(&header))), started.after(own));
        headers.insert(&header, HeaderValue::from_static("60000"));
        assert_eq!(earlier(started, own, asked(&headers, Some(&header))), started.after(own));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("2S"));
        let two = Duration::from_secs(2);
        assert_eq!(earlier(started, own, asked(&headers, Some(&header))), started.after(two));
        headers.insert(&header, HeaderValue::from_static("100"));
        assert_eq!(asked(&headers, Some(&header)), Some(Duration::from_millis(100)));
        assert_eq!(asked(&headers, None), Some(two));
    }

    #[test]
    fn tells_what_is_left() {
        assert_eq!(remaining(Tick(10), Tick(10)), None);
        assert_eq!(remaining(Tick(10), Tick(11)), None);
        assert_eq!(remaining(Tick(10), Tick(4)), Some(Duration::from_nanos(6)));
        assert_eq!(remaining_ms(Duration::from_micros(1_999)), 1);
        assert_eq!(remaining_ms(Duration::MAX), u64::MAX);
        assert_eq!(grpc_remaining(Duration::from_millis(5)), "5000000n");
        assert_eq!(grpc_remaining(Duration::from_secs(5)), "5000000u");
        assert_eq!(grpc_remaining(Duration::from_secs(1_000_000)), "1000000S");
        assert_eq!(grpc_remaining(Duration::MAX), "99999999H");
    }

    proptest! {
        #[test]
        fn what_grpc_is_told_is_never_more_than_what_is_left(nanos in 1u64..) {
            let left = Duration::from_nanos(nanos);
            let told = grpc_timeout(grpc_remaining(left)).expect("it reads what it wrote");
            prop_assert!(told <= left && left - told <= left / 1000);
        }
    }
}
