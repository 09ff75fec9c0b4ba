//! Where an exchange stands in its trace (W3C Trace Context), and which traces are worth telling anybody.
//!
//! Two decisions are made of a trace. At its beginning, whether it belongs to the *share* that is told whatever comes of it:
//! that is a matter of the trace's id alone, so that all nodes, and every service that decides by the same 56 bits
//! (OpenTelemetry's consistent probability sampling), decide the same. At its end, when all is known, whether it is told because it failed
//! or was slow.
//!
//! The spans of an exchange have ids that follow from its own: what a try says of itself is known again when the spans are made of
//! the receipt, and nothing has to be kept of it.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::balance::mix;
use crate::own::{TRACEPARENT_BYTES, is_traceparent};
use crate::receipt::{RequestId, hex};

/// Random bits of a trace's id (W3C Trace Context Level 2): the last seven bytes.
const RANDOM_BITS: u32 = 56;
const RANDOM: u64 = (1 << RANDOM_BITS) - 1;
/// The flag of `traceparent` that says that somebody records the trace.
const SAMPLED: u8 = 1;

/// Where an exchange stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    high: u64,
    low: u64,
    /// Its own span.
    pub span: NonZeroU64,
    /// The span that it was asked by; zero: it begins the trace.
    pub parent: u64,
    /// The flags of `traceparent`.
    flags: u8,
}

impl Trace {
    /// Begins a trace. Both are chance.
    #[must_use]
    pub fn begin(id: u128, span: u64, share: Share) -> Trace {
        let (high, low) = ((id >> 64) as u64, id as u64);
        Trace { high, low, span: of_span(span), parent: 0, flags: u8::from(share.holds(id)) * SAMPLED }
    }

    /// Goes on with the trace that a `traceparent` tells of, if it is one. `heed`: what it says of being recorded counts;
    /// else the share alone does.
    #[must_use]
    pub fn follow(parent: &[u8], span: u64, share: Share, heed: bool) -> Option<Trace> {
        if !is_traceparent(parent) {
            return None;
        }
        // Lower-case hexadecimal digits: `0` is 0x30, `a` 0x61.
        let digit = |text: u8| u64::from((text & 0xf) + 9 * (text >> 6));
        let word = |from: usize, length: usize| {
            parent[from..][..length].iter().fold(0, |word, text| word << 4 | digit(*text))
        };
        let (high, low, parent_span) = (word(3, 16), word(19, 16), word(36, 16));
        let told = word(53, 2) as u8;
        let drawn = share.holds(joined(high, low));
        let own = if drawn { told | SAMPLED } else { told & !SAMPLED };
        let flags = if heed { told } else { own };
        Some(Trace { high, low, span: of_span(span), parent: parent_span, flags })
    }

    /// Whether it is told, whatever comes of it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// One that goes on with it, below its own span.
    #[must_use]
    pub fn below(&self, span: u64) -> Trace {
        Trace { span: of_span(span), parent: self.span.get(), ..*self }
    }

    /// The trace's id.
    #[must_use]
    pub fn id(&self) -> u128 {
        joined(self.high, self.low)
    }

    /// The span of the so many-th try of it, from 1.
    #[must_use]
    pub fn of_try(&self, number: u32) -> NonZeroU64 {
        of_span(mix(self.span.get() ^ (u64::from(number) << 8 | 1)))
    }

    /// The span of what it has accepted to be made later.
    #[must_use]
    pub fn of_promise(&self) -> NonZeroU64 {
        of_span(mix(self.span.get() ^ 2))
    }

    /// The span of its so many-th wait.
    #[must_use]
    pub fn of_wait(&self, number: u32) -> NonZeroU64 {
        of_span(mix(self.span.get() ^ (u64::from(number) << 8 | 3)))
    }

    /// The value of `traceparent` for what is below this span.
    #[must_use]
    pub fn traceparent(&self, span: NonZeroU64) -> [u8; TRACEPARENT_BYTES] {
        let mut out = [b'-'; TRACEPARENT_BYTES];
        out[..2].copy_from_slice(b"00");
        out[3..35].copy_from_slice(&RequestId(self.id()).hex());
        out[36..52].copy_from_slice(&hex(span.get()));
        out[53..].copy_from_slice(&hex(u64::from(self.flags))[14..]);
        out
    }
}

fn joined(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

fn of_span(word: u64) -> NonZeroU64 {
    NonZeroU64::new(word).unwrap_or(NonZeroU64::MIN)
}

/// A share of all traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Random parts below this are not of it.
    threshold: u64,
}

impl Share {
    /// None of them.
    pub const NONE: Share = Share { threshold: RANDOM + 1 };

    /// This part of them, from 0 to 1.
    #[must_use]
    pub fn of(part: f64) -> Share {
        let all = (RANDOM + 1) as f64;
        Share { threshold: ((1.0 - part.clamp(0.0, 1.0)) * all).round() as u64 }
    }

    /// Whether the trace with this id is of it.
    #[must_use]
    pub fn holds(self, trace: u128) -> bool {
        trace as u64 & RANDOM >= self.threshold
    }
}

/// Whose word counts of whether a trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// That of trusted proxies.
    Trusted,
    /// Everybody's.
    All,
    /// Nobody's.
    None,
}

/// What is decided when an exchange begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// What is told whatever comes of it.
    pub share: Share,
    /// Whose word counts.
    pub heed: Heed,
}

/// What is decided when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// See [`Tracing::share`].
    pub share: Share,
    /// Whether what failed is told.
    pub errors: bool,
    /// What took so long is told.
    pub slow: Duration,
}

/// Why an exchange is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It failed.
    Error,
    /// It took long.
    Slow,
    /// It is of the share, or somebody who is heeded records its trace.
    Share,
}

impl Tail {
    /// Why an exchange is told that has ended so; `None`: it is not.
    #[must_use]
    pub fn keeps(&self, trace: Option<&Trace>, id: RequestId, failed: bool, took: Duration) -> Option<Why> {
        if self.errors && failed {
            return Some(Why::Error);
        }
        if took >= self.slow {
            return Some(Why::Slow);
        }
        let of_share = match trace {
            Some(trace) if trace.is_sampled() || trace.parent != 0 => trace.is_sampled(),
            Some(trace) => self.share.holds(trace.id()),
            // It never became a request: its own id is its trace's.
            None => self.share.holds(id.0),
        };
        of_share.then_some(Why::Share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_followed_with_a_span_of_its_own() {
        let trace = Trace::follow(PARENT.as_bytes(), 7, Share::NONE, true).expect("it is one");
        assert_eq!(trace.id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((trace.parent, trace.span.get(), trace.is_sampled()), (0x00f0_67aa_0ba9_02b7, 7, true));
        let told = trace.traceparent(trace.span);
        assert_eq!(&told[..], b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01");
        let again = Trace::follow(&told, 8, Share::NONE, true).expect("what we tell is one");
        assert_eq!((again.id(), again.parent), (trace.id(), 7));
        assert_eq!(trace.below(9).parent, 7);
        for bad in ["", "00", "nonsense", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"] {
            assert_eq!(Trace::follow(bad.as_bytes(), 7, Share::NONE, true), None, "{bad}");
        }
    }

    #[test]
    fn who_is_not_heeded_cannot_have_a_trace_recorded() {
        let follow =
            |share, heed| Trace::follow(PARENT.as_bytes(), 7, share, heed).expect("one").is_sampled();
        assert_eq!([follow(Share::NONE, true), follow(Share::NONE, false)], [true, false]);
        assert!(follow(Share::of(1.0), false));
        let unsampled = PARENT.replace("-01", "-00");
        let trace = Trace::follow(unsampled.as_bytes(), 7, Share::of(1.0), true).expect("one");
        assert!(!trace.is_sampled() && trace.traceparent(trace.span).ends_with(b"-00"));
    }

    #[test]
    fn all_spans_of_an_exchange_differ() {
        let trace = Trace::begin(1, 0, Share::NONE);
        let mut spans = vec![trace.span, trace.of_promise()];
        spans.extend((1..100).flat_map(|number| [trace.of_try(number), trace.of_wait(number)]));
        let all = spans.len();
        spans.sort();
        spans.dedup();
        assert_eq!(spans.len(), all);
    }

    #[test]
    fn a_share_holds_as_many_as_it_says_and_a_larger_one_the_same_too() {
        let (tenth, half) = (Share::of(0.1), Share::of(0.5));
        let ids = || (0..10_000u64).map(|number| u128::from(mix(number)));
        let count = |share: Share| ids().filter(|id| share.holds(*id)).count();
        assert!((900..1100).contains(&count(tenth)) && (4800..5200).contains(&count(half)));
        assert!(ids().all(|id| half.holds(id) || !tenth.holds(id)));
        assert_eq!([count(Share::NONE), count(Share::of(0.0)), count(Share::of(1.0))], [0, 0, 10_000]);
    }

    #[test]
    fn what_failed_or_was_slow_is_told_and_of_the_rest_the_share() {
        let tail = Tail { share: Share::NONE, errors: true, slow: Duration::from_secs(1) };
        let all = Tail { share: Share::of(1.0), ..tail };
        let none = Trace::begin(1, 2, Share::NONE);
        let heeded = Trace { flags: SAMPLED, ..none };
        // What somebody who is heeded does not record is not told for the share.
        let unrecorded = Trace { parent: 5, ..none };
        let fast = Duration::ZERO;
        let check = |tail: &Tail, trace: Option<&Trace>, failed, took, expected| {
            assert_eq!(tail.keeps(trace, RequestId(3), failed, took), expected, "{trace:?}");
        };
        check(&tail, Some(&none), true, fast, Some(Why::Error));
        check(&Tail { errors: false, ..tail }, Some(&none), true, fast, None);
        check(&tail, Some(&none), false, tail.slow, Some(Why::Slow));
        check(&tail, Some(&none), false, fast, None);
        check(&tail, None, false, fast, None);
        check(&all, None, false, fast, Some(Why::Share));
        check(&all, Some(&none), false, fast, Some(Why::Share));
        check(&tail, Some(&heeded), false, fast, Some(Why::Share));
        check(&all, Some(&unrecorded), false, fast, None);
        check(&all, Some(&unrecorded), true, fast, Some(Why::Error));
    }
}
