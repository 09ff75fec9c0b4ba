//! W3C Trace Context: a valid `traceparent` is continued with a span of our own, anything else starts a new trace.
//!
//! `tracestate` passes through untouched beside a valid `traceparent` and is dropped beside an invalid one
//! (W3C Trace Context, section 3.3.1).

use tidegate_model::fields::{Fields, Value};
use tidegate_model::own::{TRACEPARENT, TRACEPARENT_BYTES as LENGTH, traceparent};
use tidegate_model::trace::{Heed, Trace, Tracing};

use crate::entropy::Entropy;

/// The exchange's own span, and whether it goes on with the trace that these fields, if any, tell of.
pub fn span(headers: Option<&Fields>, entropy: &Entropy) -> ([u8; LENGTH], bool) {
    let parent = headers.and_then(|headers| headers.get(&TRACEPARENT)).map(Value::as_bytes);
    traceparent(parent, || entropy.id(), entropy.word())
}

/// Where an exchange stands in its trace, where traces are told. `trusted`: who asks is a trusted proxy.
#[cold]
pub fn begin(tracing: &Tracing, headers: Option<&Fields>, trusted: bool, entropy: &Entropy) -> Trace {
    let heed = match tracing.heed {
        Heed::Trusted => trusted,
        Heed::All => true,
        Heed::None => false,
    };
    let parent = headers.and_then(|headers| headers.get(&TRACEPARENT)).map(Value::as_bytes);
    let followed = parent.and_then(|parent| Trace::follow(parent, entropy.word(), tracing.share, heed));
    followed.unwrap_or_else(|| Trace::begin(entropy.id(), entropy.word(), tracing.share))
}

#[cfg(test)]
mod tests {
    use tidegate_model::own::is_traceparent as is_valid;

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
