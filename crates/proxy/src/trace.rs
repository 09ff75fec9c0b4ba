//! W3C Trace Context: a valid `traceparent` is continued with a span of our own, anything else starts a new trace.
//!
//! `tracestate` passes through untouched beside a valid `traceparent` and is dropped beside an invalid one
//! (W3C Trace Context, section 3.3.1).

use tidegate_model::fields::{Fields, Value};
use tidegate_model::own::{TRACEPARENT, TRACEPARENT_BYTES as LENGTH};
use tidegate_model::receipt::{RequestId, hex};

use crate::entropy::Entropy;

/// The exchange's own span, and whether it goes on with the trace that these fields, if any, tell of.
pub fn span(headers: Option<&Fields>, entropy: &Entropy) -> ([u8; LENGTH], bool) {
    let mut out = [0u8; LENGTH];
    out[..3].copy_from_slice(b"00-");
    out[35] = b'-';
    out[52] = b'-';
    let parent = headers.and_then(|headers| headers.get(&TRACEPARENT)).map(Value::as_bytes);
    let parent = parent.filter(|value| is_valid(value));
    match parent {
        Some(parent) => {
            out[3..35].copy_from_slice(&parent[3..35]);
            out[53..].copy_from_slice(&parent[53..LENGTH]);
        }
        None => {
            out[3..35].copy_from_slice(&RequestId(entropy.id()).hex());
            out[53..].copy_from_slice(b"00");
        }
    }
    out[36..52].copy_from_slice(&hex(entropy.word().max(1)));
    (out, parent.is_some())
}

/// Version 00 exactly; of a later version, the part that version 00 defines.
fn is_valid(value: &[u8]) -> bool {
    let length_fits = match value.get(..2) {
        Some(b"00") => value.len() == LENGTH,
        Some(b"ff") | None => false,
        Some(_) => value.len() == LENGTH || value.get(LENGTH) == Some(&b'-'),
    };
    length_fits
        && [2, 35, 52].iter().all(|&dash| value[dash] == b'-')
        && [0..2, 3..35, 36..52, 53..55].into_iter().all(|part| value[part].iter().all(is_lower_hex))
        && value[3..35].iter().any(|&digit| digit != b'0')
        && value[36..52].iter().any(|&digit| digit != b'0')
}

fn is_lower_hex(digit: &u8) -> bool {
    matches!(digit, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn check(given: Option<&str>) -> (String, bool) {
        let mut headers = Fields::default();
        if let Some(given) = given {
            headers.insert(TRACEPARENT, http::HeaderValue::from_str(given).unwrap());
        }
        let (made, goes_on) = span(Some(&headers), &Entropy::seeded(1));
        assert!(is_valid(&made), "{made:?}");
        (String::from_utf8(made.to_vec()).unwrap(), goes_on)
    }

    #[test]
    fn continues_a_valid_trace_with_a_span_of_its_own() {
        let (made, state_kept) = check(Some(VALID));
        assert_eq!((&made[..36], &made[52..], state_kept), (&VALID[..36], "-01", true));
        assert_ne!(&made[36..52], &VALID[36..52]);
    }

    #[test]
    fn continues_a_trace_of_a_later_version() {
        assert_eq!(check(Some(&format!("cc{}-what-comes", &VALID[2..]))).0[3..35], VALID[3..35]);
    }

    #[test]
    fn starts_a_new_trace_for_anything_else() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let upper = VALID.to_uppercase();
        let trailing = format!("{VALID}-");
        for bad in [
            None,
            Some(""),
            Some("00"),
            Some(&*zero_trace),
            Some(&*upper),
            Some(&*trailing),
            Some("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ] {
            let (made, state_kept) = check(bad);
            assert!(!state_kept, "{bad:?}");
            assert_ne!(made[3..35], VALID[3..35], "{bad:?}");
        }
    }
}
