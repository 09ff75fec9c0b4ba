//! "Did you mean": the known word nearest to one that is not known.

/// The nearest of the known words, if it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let far = (word.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase().replace('-', "_")), candidate))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other (optimal
/// string alignment). Words beyond 64 characters are not compared.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    if from.len() > 64 || to.len() > 64 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 1..=from.len() {
        let mut row = vec![i; to.len() + 1];
        for j in 1..=to.len() {
            let replaced = last[j - 1] + usize::from(from[i - 1] != to[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, nearest_is: Option<&str>) {
        assert_eq!(
            nearest(word, ["upstream", "path", "host", "deadline", "retry_budget"]),
            nearest_is,
            "{word}"
        );
    }

    #[test]
    fn a_slip_of_the_finger_is_understood_and_a_stranger_is_not() {
        check("upstraem", Some("upstream"));
        check("Upstream", Some("upstream"));
        check("pth", Some("path"));
        check("retry-budget", Some("retry_budget"));
        check("dedline", Some("deadline"));
        check("colour", None);
        check("", None);
        check(&"x".repeat(10_000), None);
    }
}
