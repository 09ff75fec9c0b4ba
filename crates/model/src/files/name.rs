//! The one file that a path can mean.
//!
//! A path comes normalised ([`crate::path`]): no dot segments, no control bytes, one spelling. Its escapes are decoded here
//! once, and never again: `%252e` is a file whose name holds `%2e`. One file has one path: what would be another spelling
//! of the same file for the kernel (`//`, an escaped slash) names none, so that no rule of another route can be walked
//! round by it. The same holds for a backslash, which is a separator elsewhere.

use smallvec::SmallVec;

/// No system takes a longer one.
const BYTES_MAX: usize = 4095;
/// What lies hidden and is meant for everybody (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Why a path names no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is no absolute path.
    NotRooted,
    /// An empty segment, or one of dots.
    Segment,
    /// A separator or a control byte that was escaped, or a broken escape.
    Byte,
    /// A segment begins with a dot.
    Hidden,
    /// It is longer than any file's name.
    TooLong,
}

impl NameError {
    /// One sentence, for the operator.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            NameError::NotRooted => "the path is no path of a file",
            NameError::Segment => "the path has an empty segment or one of dots",
            NameError::Byte => "the path holds an escape that no name of a file may hold",
            NameError::Hidden => "the name begins with a dot: hidden files are not served",
            NameError::TooLong => "the path is longer than any file's",
        }
    }
}

/// The name of a file below a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Relative, without a slash at either end; empty: the root itself.
    bytes: SmallVec<[u8; 128]>,
    /// Whether the path ended with a slash: only a directory is meant then.
    folder: bool,
}

impl Name {
    /// What a path names. Segments that begin with a dot name something only if `hidden` says so; `.well-known` always
    /// does.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn of(path: &str, hidden: bool) -> Result<Name, NameError> {
        let rest = path.strip_prefix('/').ok_or(NameError::NotRooted)?;
        let mut name = Name { bytes: SmallVec::new(), folder: rest.is_empty() };
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment.is_empty() {
                // Behind the last slash; anywhere else it would be another spelling.
                if segments.peek().is_some() || rest.is_empty() != name.bytes.is_empty() {
                    return Err(NameError::Segment);
                }
                name.folder = true;
                break;
            }
            name.push(segment.as_bytes(), hidden)?;
        }
        if name.bytes.len() > BYTES_MAX { Err(NameError::TooLong) } else { Ok(name) }
    }

    fn push(&mut self, segment: &[u8], hidden: bool) -> Result<(), NameError> {
        let first = self.bytes.is_empty();
        if !first {
            self.bytes.push(b'/');
        }
        let begin = self.bytes.len();
        let mut rest = segment;
        while let [byte, after @ ..] = rest {
            let (byte, after) = match (byte, after) {
                (b'%', [high, low, after @ ..]) => (decoded(*high, *low)?, after),
                (b'%', _) => return Err(NameError::Byte),
                (byte, after) => (*byte, after),
            };
            if matches!(byte, 0..=0x1f | 0x7f | b'/' | b'\\') {
                return Err(NameError::Byte);
            }
            self.bytes.push(byte);
            rest = after;
        }
        let shown = hidden || first && self.bytes[..] == *WELL_KNOWN;
        match &self.bytes[begin..] {
            b"." | b".." => Err(NameError::Segment),
            [b'.', ..] if !shown => Err(NameError::Hidden),
            _ => Ok(()),
        }
    }

    /// Its bytes, relative to the root; empty: the root itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether only a directory is meant.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.folder
    }

    /// The same, as whoever leaves out the slash would ask for it.
    #[must_use]
    pub fn without_slash(self) -> Name {
        Name { folder: false, ..self }
    }

    /// The file of this name in the directory that this is.
    #[must_use]
    pub fn file(&self, name: &str) -> Name {
        let mut bytes = self.bytes.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name.as_bytes());
        Name { bytes, folder: false }
    }

    /// The file beside it whose name goes on with this.
    #[must_use]
    pub fn beside(&self, suffix: &str) -> Name {
        let mut bytes = self.bytes.clone();
        bytes.extend_from_slice(suffix.as_bytes());
        Name { bytes, folder: false }
    }

    /// What stands behind the last dot of its last segment, if that has one behind its first byte.
    #[must_use]
    pub fn extension(&self) -> Option<&str> {
        let last = self.bytes.rsplit(|&byte| byte == b'/').next()?;
        let dot = last.iter().rposition(|&byte| byte == b'.').filter(|&dot| dot > 0)?;
        std::str::from_utf8(&last[dot + 1..]).ok()
    }
}

fn decoded(high: u8, low: u8) -> Result<u8, NameError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(NameError::Byte),
    }
}

/// The target of a redirect to the same path with a slash behind it, query kept. Relative to the path itself: it leads to
/// no other host, and is right before whatever rewrote the path on the way.
#[must_use]
pub fn with_slash(path: &str, query: Option<&str>) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    format!("./{last}/{query}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `Ok`: the bytes of the name, with a slash behind it where only a directory is meant.
    fn check(path: &str, expected: Result<&str, NameError>) {
        let named = Name::of(path, false).map(|name| {
            format!("{}{}", String::from_utf8_lossy(name.bytes()), if name.is_folder() { "/" } else { "" })
        });
        assert_eq!(named.as_deref().map_err(|error| *error), expected, "{path}");
    }

    #[test]
    fn a_path_names_what_lies_below_the_root() {
        check("/", Ok("/"));
        check("/a", Ok("a"));
        check("/a/b.txt", Ok("a/b.txt"));
        check("/a/b/", Ok("a/b/"));
        check("/gr%C3%BC%C3%9Fe%20dich.html", Ok("grüße dich.html"));
        check("/a;b=c,d", Ok("a;b=c,d"));
        check("/..a/b..", Err(NameError::Hidden));
        check("/a..b/c..", Ok("a..b/c.."));
    }

    #[test]
    fn what_could_lead_out_or_is_another_spelling_names_nothing() {
        for path in ["", "*", "a", "http://a/b"] {
            check(path, Err(NameError::NotRooted));
        }
        for path in
            ["//", "//etc/passwd", "/a//b", "/a//", "/..", "/../a", "/a/..", "/a/./b", "/%2e%2e/a", "/a/.%2e"]
        {
            check(path, Err(NameError::Segment));
        }
        for path in
            ["/a%2fb", "/..%2fa", "/%5c..", "/a%00.txt", "/a%0a", "/a%7F", "/a%", "/a%2", "/a%zz", "/..\\a"]
        {
            check(path, Err(NameError::Byte));
        }
        check("/%252e%252e/a", Ok("%2e%2e/a"));
        check(&format!("/{}", "ab/".repeat(1400)), Err(NameError::TooLong));
    }

    #[test]
    fn hidden_files_are_named_only_where_that_is_wanted() {
        for path in
            ["/.git/config", "/.env", "/a/.htpasswd", "/%2eenv", "/a/.well-known/b", "/.well-known/.x"]
        {
            check(path, Err(NameError::Hidden));
            assert!(Name::of(path, true).is_ok(), "{path}");
        }
        check("/.well-known/security.txt", Ok(".well-known/security.txt"));
        check("/.well-knownx", Err(NameError::Hidden));
    }

    #[test]
    fn neighbours_and_extensions() {
        let root = Name::of("/", false).unwrap();
        assert_eq!(root.file("index.html").bytes(), b"index.html");
        let folder = Name::of("/a/", false).unwrap();
        assert_eq!(folder.file("index.html").bytes(), b"a/index.html");
        let file = Name::of("/a.b/c.tar.gz", false).unwrap();
        assert_eq!((file.beside(".br").bytes(), file.extension()), (&b"a.b/c.tar.gz.br"[..], Some("gz")));
        for path in ["/a.b/c", "/a"] {
            assert_eq!(Name::of(path, false).unwrap().extension(), None);
        }
        assert_eq!(Name::of("/.env", true).unwrap().extension(), None);
    }

    #[test]
    fn a_redirect_stays_where_it_is() {
        assert_eq!(with_slash("/a/docs", None), "./docs/");
        assert_eq!(with_slash("//evil.example", Some("q=1")), "./evil.example/?q=1");
        assert_eq!(with_slash("/javascript:x", None), "./javascript:x/");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_no_name_leads_out(path in "/([a.%25efc/\\\\]|%2e|%2f|\\.\\.){0,40}", hidden: bool) {
            if let Ok(name) = Name::of(&path, hidden) {
                prop_assert!(!name.bytes().starts_with(b"/"));
                let mut segments = name.bytes().split(|&byte| byte == b'/');
                prop_assert!(name.bytes().is_empty() || segments.all(|one| !matches!(one, b"" | b"." | b"..")));
            }
        }
    }
}
