//! Suggestions: what was probably meant.

/// `: did you mean …?`, if something known is near.
#[must_use]
pub fn nearest(typed: &str, known: &[&str]) -> String {
    let best = known.iter().map(|one| (distance(typed, one), one)).min();
    match best {
        Some((distance, one)) if distance <= typed.chars().count().div_ceil(3) => {
            format!(": did you mean `{one}`?")
        }
        _ if known.is_empty() => String::new(),
        _ => format!(": there are {}", known.join(", ")),
    }
}

/// Insertions, deletions and replacements between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_near_and_lists_what_there_is_otherwise() {
        assert_eq!(nearest("ap", &["app", "billing"]), ": did you mean `app`?");
        assert_eq!(nearest("frontend", &["app", "billing"]), ": there are app, billing");
        assert_eq!(nearest("x", &[]), "");
    }
}
