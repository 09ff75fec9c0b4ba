//! What is wrong with a configuration, told so that it can be mended: file, line, column, the line itself, a
//! suggestion. A line is shown without the secrets in it.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

/// The most problems that are shown; a file that is no configuration at all would fill the screen.
pub const SHOWN_MAX: usize = 50;
/// The most characters of a line that are shown.
const LINE_CHARS_MAX: usize = 160;
/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 7] =
    ["secret", "password", "sha256", "token", "authorization", "cookie", "api-key"];

/// One file, as it was read. Its `Debug` is its path alone: the text may hold secrets.
#[derive(Clone)]
pub struct Source {
    /// Its path, as shown.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which of the sources.
    pub file: usize,
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Place {
    /// A stretch of this file.
    #[must_use]
    pub fn new(file: usize, span: Range<usize>) -> Place {
        Place { file, start: span.start, end: span.end }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None`: in the configuration as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// Another place that belongs to it, and what is there.
    pub note: Option<(Place, &'static str)>,
    /// How to mend it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at this place.
    #[must_use]
    pub fn new(place: Option<Place>, message: impl Into<String>) -> Problem {
        Problem { place, message: message.into(), note: None, help: None }
    }

    /// The same problem with a way to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// The same problem with another place that belongs to it.
    #[must_use]
    pub fn note(mut self, place: Option<&Place>, what: &'static str) -> Problem {
        self.note = place.map(|place| (place.clone(), what));
        self
    }
}

/// Everything that is wrong with a configuration. Its `Display` is the whole text for an operator.
#[derive(Clone, Debug)]
pub struct Problems {
    sources: Vec<Source>,
    list: Vec<Problem>,
}

/// One problem as the control API tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The file, if it is one file's problem.
    pub file: Option<String>,
    /// Its line, from 1.
    pub line: Option<usize>,
    /// Its column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl Problems {
    /// These problems, in the order of the files, each once.
    ///
    /// # Panics
    /// If there is none: no problem is no reason to refuse a configuration.
    #[must_use]
    pub fn new(sources: Vec<Source>, mut list: Vec<Problem>) -> Problems {
        assert!(!list.is_empty(), "a configuration was refused without a problem");
        list.sort_by(|a, b| (a.place.is_none(), &a.place).cmp(&(b.place.is_none(), &b.place)));
        list.dedup_by(|next, before| next.place == before.place && next.message == before.message);
        Problems { sources, list }
    }

    /// How many there are, at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The problems as data, at most `SHOWN_MAX`.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        let shown = self.list.iter().take(SHOWN_MAX);
        shown
            .map(|problem| {
                let line = problem.place.as_ref().and_then(|place| self.line(place));
                Told {
                    file: line.as_ref().map(|line| line.path.clone()),
                    line: line.as_ref().map(|line| line.number),
                    column: line.as_ref().map(|line| line.column + 1),
                    message: problem.message.clone(),
                    help: problem.help.clone(),
                }
            })
            .collect()
    }

    fn line(&self, place: &Place) -> Option<Line<'_>> {
        let source = self.sources.get(place.file)?;
        let text = source.text.as_str();
        let at = floor(text, place.start);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        Some(Line {
            path: source.path.display().to_string(),
            number: text[..start].matches('\n').count() + 1,
            column: text[start..at].chars().count(),
            width: text[at..floor(text, place.end.clamp(at, end))].chars().count().max(1),
            secret: in_multiline_secret(text, start),
            text: text[start..end].trim_end_matches('\r'),
        })
    }
}

/// The line of a place.
struct Line<'a> {
    path: String,
    /// From 1.
    number: usize,
    /// In characters, from 0.
    column: usize,
    width: usize,
    /// It lies within a secret of several lines.
    secret: bool,
    text: &'a str,
}

impl Line<'_> {
    fn shown(&self) -> String {
        let mut shown = if self.secret { "***".to_owned() } else { without_secrets(self.text) };
        shown = shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match shown.char_indices().nth(LINE_CHARS_MAX) {
            Some((cut, _)) => format!("{}…", &shown[..cut]),
            None => shown,
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.list.iter().take(SHOWN_MAX) {
            writeln!(out, "error: {}", problem.message)?;
            let line = problem.place.as_ref().and_then(|place| self.line(place));
            let gutter = line.as_ref().map_or(1, |line| line.number.to_string().len());
            if let Some(line) = &line {
                let (path, number, column) = (&line.path, line.number, line.column);
                writeln!(out, "{:gutter$}--> {path}:{number}:{}", "", column + 1)?;
                writeln!(out, "{:gutter$} |", "")?;
                writeln!(out, "{number} | {}", line.shown())?;
                if column < LINE_CHARS_MAX && !line.secret {
                    let carets = "^".repeat(line.width.min(LINE_CHARS_MAX - column));
                    writeln!(out, "{:gutter$} | {:column$}{carets}", "", "")?;
                }
            }
            if let Some((place, what)) = &problem.note
                && let Some(line) = self.line(place)
            {
                writeln!(
                    out,
                    "{:gutter$} = note: {what} at {}:{}:{}",
                    "",
                    line.path,
                    line.number,
                    line.column + 1
                )?;
            }
            if let Some(help) = &problem.help {
                writeln!(out, "{:gutter$} = help: {help}", "")?;
            }
            out.write_char('\n')?;
        }
        match self.list.len() {
            1 => write!(out, "1 problem"),
            count @ ..=SHOWN_MAX => write!(out, "{count} problems"),
            count => write!(out, "{count} problems, the first {SHOWN_MAX} are shown"),
        }
    }
}

impl std::error::Error for Problems {}

/// The nearest boundary of a character, not after `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Whether a line begins inside a `"""` or `'''` string that is the value of a secret's key.
fn in_multiline_secret(text: &str, line_start: usize) -> bool {
    let before = &text[..line_start];
    ["\"\"\"", "'''"].iter().any(|quotes| {
        let odd = before.matches(quotes).count() % 2 == 1;
        odd && before.rfind(quotes).is_some_and(|at| {
            let line = before[..at].rsplit('\n').next().unwrap_or("");
            SECRET_KEYS.iter().any(|key| line.to_ascii_lowercase().contains(key))
        })
    })
}

/// The line with the values of secret keys starred out, character by character, so that columns stay.
fn without_secrets(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut shown: Vec<char> = line.chars().collect();
    // Lower case in ASCII keeps byte positions.
    for key in SECRET_KEYS {
        for (at, _) in lower.match_indices(key) {
            let after = &line[at + key.len()..];
            let name_end =
                after.find(|c: char| !(c.is_alphanumeric() || "_-\"'".contains(c))).unwrap_or(after.len());
            let Some(value) = after[name_end..].trim_start().strip_prefix('=') else { continue };
            let value = value.trim_start();
            if value.starts_with(['{', '[']) {
                // { env = "NAME" }, { file = "path" }: names, not secrets. Lists hold tables with keys of their own.
                continue;
            }
            let start = line.len() - value.len();
            let end = start + value_bytes(value);
            let (start, end) = (line[..start].chars().count(), line[..end].chars().count());
            shown[start..end].fill('*');
        }
    }
    // USER:PASSWORD@ of a URL.
    for (at, mark) in line.match_indices("://") {
        let start = at + mark.len();
        let rest = &line[start..];
        let url = &rest[..rest.find(['"', '\'']).unwrap_or(rest.len())];
        let Some(end) = url.rfind('@').map(|end| start + end) else { continue };
        let (start, end) = (line[..start].chars().count(), line[..end].chars().count());
        shown[start..end].fill('*');
    }
    shown.into_iter().collect()
}

/// How many bytes the value takes that a line goes on with. A string that does not end takes the whole line.
fn value_bytes(value: &str) -> usize {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let mut escaped = false;
            for (at, c) in value.char_indices().skip(1) {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if quote == '"' => escaped = true,
                    // `"""` opens a longer string: all of the line is hidden.
                    c if c == quote && at == 1 && value[2..].starts_with(quote) => return value.len(),
                    c if c == quote => return at + c.len_utf8(),
                    _ => {}
                }
            }
            value.len()
        }
        _ => value.find([',', '}', '#']).unwrap_or(value.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, marked: &str, rendered: &str) {
        let start = text.find(marked).expect("the text holds what is marked");
        let place = Place::new(0, start..start + marked.len());
        let sources = vec![Source { path: PathBuf::from("t.toml"), text: text.to_owned() }];
        let problem = Problem::new(Some(place), "it is so").help("do this");
        assert_eq!(Problems::new(sources, vec![problem]).to_string(), rendered);
    }

    #[test]
    fn a_problem_shows_its_line_and_marks_the_place() {
        check(
            "a = 1\nüber = 2 # x\n",
            "2",
            "error: it is so\n --> t.toml:2:8\n  |\n2 | über = 2 # x\n  |        ^\n  = help: do this\n\n1 problem",
        );
    }

    #[test]
    fn secrets_are_starred_out_wherever_they_stand() {
        for (line, shown) in [
            (r#"secret = "hunter2""#, "secret = *********"),
            (r#"x = { secret = "a\"b", other = 1 }"#, "x = { secret = ******, other = 1 }"),
            (r#"secret = "open"#, "secret = *****"),
            (r#""secret" = 'x'"#, r#""secret" = ***"#),
            (r#"secret = { env = "NAME" }"#, r#"secret = { env = "NAME" }"#),
            (r#"SHA256="abc" # x"#, "SHA256=***** # x"),
            (r#"secret = """abc"#, "secret = ******"),
            (r#"set = { "X-Api-Key" = "abc" }"#, r#"set = { "X-Api-Key" = ***** }"#),
            (r#"set = { authorization = "Bearer abc" }"#, r#"set = { authorization = ************ }"#),
            (r#"hash_on = "cookie:a""#, r#"hash_on = "cookie:a""#),
            (r#"url = "redis://me:p@ü/x@h:1/2" # @"#, r#"url = "redis://********@h:1/2" # @"#),
            (r#"url = "http://h", b = "a@b""#, r#"url = "http://h", b = "a@b""#),
            ("secret_word = hunter2, y = 1", "secret_word = *******, y = 1"),
        ] {
            assert_eq!(without_secrets(line), shown, "{line}");
        }
        check(
            "secret = \"\"\"\nhunter2\n\"\"\"\n",
            "hunter2",
            "error: it is so\n --> t.toml:2:1\n  |\n2 | ***\n  = help: do this\n\n1 problem",
        );
    }

    #[test]
    fn no_place_breaks_the_rendering() {
        let text = "ü = 1\r\n";
        let sources = vec![Source { path: PathBuf::from("t.toml"), text: text.to_owned() }];
        for start in 0..=text.len() + 2 {
            for end in start..=text.len() + 3 {
                let problem = Problem::new(Some(Place::new(0, start..end)), "x");
                assert!(Problems::new(sources.clone(), vec![problem]).to_string().contains("t.toml:"));
            }
        }
    }
}
