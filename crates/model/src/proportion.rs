//! What can be said of a share of which only some were seen: bounds that chance alone does not pass.
//!
//! E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference" (1927), and for two shares
//! R. G. Newcombe, "Interval Estimation for the Difference Between Independent Proportions" (1998), method 10. Both hold
//! for few and for none, where the textbook's normal approximation does not.

/// Of `of` that were seen, `hits` were so: the share of all lies between these. `z`: how many standard errors away.
#[must_use]
pub fn bounds(hits: u64, of: u64, z: f64) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, share, square) = (of as f64, hits as f64 / of as f64, z * z);
    let middle = share + square / (2.0 * n);
    let reach = z * (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    let scale = 1.0 + square / n;
    (((middle - reach) / scale).max(0.0), ((middle + reach) / scale).min(1.0))
}

/// By how much the first share is larger than the second, at least. Negative: nobody knows that it is.
#[must_use]
pub fn excess(first: (u64, u64), second: (u64, u64), z: f64) -> f64 {
    if first.1 == 0 || second.1 == 0 {
        return -1.0;
    }
    let (one, another) = (first.0 as f64 / first.1 as f64, second.0 as f64 / second.1 as f64);
    let (low, _) = bounds(first.0, first.1, z);
    let (_, high) = bounds(second.0, second.1, z);
    one - another - ((one - low).powi(2) + (high - another).powi(2)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hits: u64, of: u64, low: f64, high: f64) {
        let bounds = bounds(hits, of, 1.96);
        assert!(
            (bounds.0 - low).abs() < 5e-4 && (bounds.1 - high).abs() < 5e-4,
            "{hits} of {of}: {bounds:?}"
        );
    }

    #[test]
    fn bounds_are_those_of_the_literature() {
        // Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
        check(81, 263, 0.2553, 0.3662);
        check(15, 148, 0.0624, 0.1605);
        check(0, 20, 0.0, 0.1611);
        check(1, 29, 0.0061, 0.1718);
        check(0, 0, 0.0, 1.0);
    }

    #[test]
    fn an_excess_is_that_of_the_literature() {
        // Newcombe (1998), table II, method 10, contrasts (a) and (c).
        assert!((excess((56, 70), (48, 80), 1.96) - 0.0524).abs() < 5e-4);
        assert!((excess((6, 7), (2, 7), 1.96) - 0.0582).abs() < 5e-4);
        assert!(excess((3, 3), (0, 0), 1.96) < 0.0 && excess((0, 0), (0, 9), 1.96) < 0.0);
    }
}
