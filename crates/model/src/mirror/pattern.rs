//! Places in JSON: pointers (RFC 6901) in which `*` stands for any one step.

/// The most patterns of one comparison.
pub const PATTERNS_MAX: usize = 64;
/// The most steps of a pattern.
const STEPS_MAX: usize = 32;

/// One step from the whole of a document to a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A member of an object.
    Key(&'a str),
    /// An element of an array.
    Index(usize),
}

/// A place, or places alike: `/items/*/updatedAt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    steps: Box<[Wanted]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Any,
    One(Box<str>, Option<usize>),
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with a slash.
    #[error("a place in JSON begins with `/`, as in \"/items/*/updatedAt\"")]
    NotRooted,
    /// A tilde without 0 or 1 behind it.
    #[error("`~` is written `~0`, and `/` within a name `~1` (RFC 6901)")]
    Tilde,
    /// It has too many steps.
    #[error("a place has at most {STEPS_MAX} steps")]
    Deep,
}

impl Pattern {
    /// Reads one.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::NotRooted)?;
        let steps = rest.split('/').map(step).collect::<Result<Box<[Wanted]>, _>>()?;
        if steps.len() > STEPS_MAX {
            return Err(PatternError::Deep);
        }
        Ok(Pattern { text: text.into(), steps })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this place is meant.
    pub(super) fn matches(&self, path: &[Step<'_>]) -> bool {
        self.steps.len() == path.len()
            && self.steps.iter().zip(path).all(|(wanted, step)| match (wanted, step) {
                (Wanted::Any, _) => true,
                (Wanted::One(name, _), Step::Key(key)) => **name == **key,
                (Wanted::One(_, number), Step::Index(index)) => *number == Some(*index),
            })
    }
}

fn step(text: &str) -> Result<Wanted, PatternError> {
    if text == "*" {
        return Ok(Wanted::Any);
    }
    let mut name = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        name.push(match (character, character == '~') {
            (_, true) => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(PatternError::Tilde),
            },
            (other, false) => other,
        });
    }
    let number = name.parse().ok();
    Ok(Wanted::One(name.into(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &[Step<'_>], expected: bool) {
        assert_eq!(Pattern::parse(pattern).expect(pattern).matches(path), expected, "{pattern} {path:?}");
    }

    #[test]
    fn a_star_is_one_step_and_a_name_is_itself() {
        use Step::{Index, Key};
        check("/a", &[Key("a")], true);
        check("/a", &[Key("a"), Key("b")], false);
        check("/a/b", &[Key("a")], false);
        check("/items/*/at", &[Key("items"), Index(3), Key("at")], true);
        check("/items/*/at", &[Key("items"), Key("x"), Key("at")], true);
        check("/items/3", &[Key("items"), Index(3)], true);
        check("/items/3", &[Key("items"), Index(4)], false);
        check("/3", &[Key("3")], true);
        check("/a~1b~0", &[Key("a/b~")], true);
        check("/", &[Key("")], true);
    }

    #[test]
    fn what_is_no_place_is_told() {
        assert_eq!(Pattern::parse("a"), Err(PatternError::NotRooted));
        assert_eq!(Pattern::parse(""), Err(PatternError::NotRooted));
        assert_eq!(Pattern::parse("/a~"), Err(PatternError::Tilde));
        assert_eq!(Pattern::parse("/a~2"), Err(PatternError::Tilde));
        assert_eq!(Pattern::parse(&"/a".repeat(33)), Err(PatternError::Deep));
    }
}
