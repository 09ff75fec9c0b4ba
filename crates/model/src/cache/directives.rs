//! What `Cache-Control` says, of a response and of a request (RFC 9111 section 5.2; RFC 5861; RFC 8246), and what a field
//! that is targeted at us says in its place (RFC 9213).
//!
//! Names are read in any case and arguments as tokens or quoted strings, whatever the directive is defined with (section
//! 5.2). A number that cannot be read, or that is told twice with two values, is *unreadable*, which is not the same as not
//! told: the response is then stale (section 4.2.1), a request's wish the strictest.
//!
//! An element that is not of a directive's form (`private; max-age=60`, `no-store =`, a quote that never ends) is *unsound*:
//! every name in it that restricts is taken at its word, and none that permits.

use crate::fields::Fields;
use http::HeaderName;
use http::header::CACHE_CONTROL;
use smallvec::SmallVec;

/// What a number without end counts as (RFC 9111 section 1.2.2).
const FOR_EVER: u32 = 1 << 31;

/// Names that a directive lists are looked at up to so many; one that lists more applies to the whole response.
const NAMES_MAX: usize = 16;

/// A number of seconds that a directive may tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// It is not there.
    #[default]
    No,
    /// It is there, with this.
    Seconds(u32),
    /// It is there, with what is no number, or with two.
    Unreadable,
}

impl Told {
    /// The number; what cannot be read counts as `else_`.
    #[must_use]
    pub fn or(self, else_: u32) -> Option<u32> {
        match self {
            Told::No => None,
            Told::Seconds(seconds) => Some(seconds),
            Told::Unreadable => Some(else_),
        }
    }

    fn tell(&mut self, argument: Argument<'_>) {
        let read = argument.is().and_then(seconds).map_or(Told::Unreadable, Told::Seconds);
        *self = if *self == Told::No || *self == read { read } else { Told::Unreadable };
    }
}

/// What stands behind a directive's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Argument<'a> {
    /// Nothing.
    None,
    /// This, without its quotes.
    Is(&'a [u8]),
    /// What no directive may have there: only what restricts is believed.
    Unsound,
}

impl<'a> Argument<'a> {
    fn is(self) -> Option<&'a [u8]> {
        match self {
            Argument::Is(argument) => Some(argument),
            Argument::None | Argument::Unsound => None,
        }
    }

    fn is_sound(self) -> bool {
        self != Argument::Unsound
    }
}

/// What a directive applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: it is not there.
    #[default]
    Nothing,
    /// These fields of the response.
    Fields(SmallVec<[HeaderName; 2]>),
    /// The whole response.
    All,
}

impl Scope {
    fn tell(&mut self, argument: Argument<'_>) {
        let told = argument.is().and_then(names);
        *self = match (std::mem::take(self), told) {
            (Scope::Nothing, Some(fields)) => Scope::Fields(fields),
            (Scope::Fields(mut before), Some(fields)) if before.len() + fields.len() <= NAMES_MAX => {
                before.extend(fields);
                Scope::Fields(before)
            }
            _ => Scope::All,
        };
    }
}

/// What a response tells caches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// How long it is fresh.
    pub max_age: Told,
    /// How long it is fresh in a shared cache.
    pub s_maxage: Told,
    /// How long it may be served stale while it is validated (RFC 5861 section 3).
    pub stale_while_revalidate: Told,
    /// How long it may be served stale when validation fails (RFC 5861 section 4).
    pub stale_if_error: Told,
    /// What must not be used without validation.
    pub no_cache: Scope,
    /// What a shared cache must not keep.
    pub private: Scope,
    /// It must not be kept.
    pub no_store: bool,
    /// A shared cache may keep it, even where it would not otherwise.
    pub public: bool,
    /// It must not be used stale.
    pub must_revalidate: bool,
    /// A shared cache must not use it stale.
    pub proxy_revalidate: bool,
    /// It may be kept only by who knows its status code's rules for caches.
    pub must_understand: bool,
    /// Its content must not be changed.
    pub no_transform: bool,
    /// It does not change while it is fresh (RFC 8246).
    pub immutable: bool,
    /// All of this was told by a targeted field: `Expires` says nothing then (RFC 9213 section 2.2).
    pub targeted: bool,
}

impl Response {
    /// Reads the directives of a response: of the first of `targeted` that says something, else of `Cache-Control`.
    #[must_use]
    pub fn of(headers: &Fields, targeted: &[HeaderName]) -> Response {
        for name in targeted {
            if let Some(read) = Response::of_dictionary(headers, name) {
                return read;
            }
        }
        let mut read = Response::default();
        for line in headers.get_all(CACHE_CONTROL) {
            each(line.as_bytes(), |name, argument| read.tell(name, argument));
        }
        read
    }

    /// Reads a targeted field, which is a dictionary of structured fields. `None`: it is absent, empty or malformed, and is
    /// as good as absent (RFC 9213 section 2.1).
    fn of_dictionary(headers: &Fields, name: &HeaderName) -> Option<Response> {
        let mut lines = Vec::new();
        for line in headers.get_all(name) {
            if !lines.is_empty() {
                lines.extend_from_slice(b", ");
            }
            lines.extend_from_slice(line.as_bytes());
        }
        if lines.is_empty() {
            return None;
        }
        let members =
            sfv::Parser::new(&lines).parse::<sfv::Dictionary>().ok().filter(|all| !all.is_empty())?;
        let mut read = Response { targeted: true, ..Response::default() };
        for (key, member) in &members {
            let name = key.as_str();
            let is_number =
                matches!(name, "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error");
            let digits;
            // A value of a type that its directive does not have is not made one that it has (RFC 9213 section 2.1).
            let argument = match member {
                sfv::ListEntry::Item(item) => match &item.bare_item {
                    sfv::BareItem::Boolean(true) => Argument::None,
                    sfv::BareItem::Boolean(false) if !is_number => continue,
                    sfv::BareItem::Integer(number) if is_number => {
                        digits = number.to_string();
                        Argument::Is(digits.as_bytes())
                    }
                    sfv::BareItem::String(text) if matches!(name, "no-cache" | "private") => {
                        Argument::Is(text.as_str().as_bytes())
                    }
                    _ => Argument::Unsound,
                },
                sfv::ListEntry::InnerList(_) => Argument::Unsound,
            };
            read.tell(name.as_bytes(), argument);
        }
        Some(read)
    }

    fn tell(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let sound = argument.is_sound();
        match name.len() {
            6 if is("public") => self.public |= sound,
            7 if is("max-age") => self.max_age.tell(argument),
            7 if is("private") => self.private.tell(argument),
            8 if is("s-maxage") => self.s_maxage.tell(argument),
            8 if is("no-cache") => self.no_cache.tell(argument),
            8 if is("no-store") => self.no_store = true,
            9 if is("immutable") => self.immutable |= sound,
            12 if is("no-transform") => self.no_transform = true,
            14 if is("stale-if-error") => self.stale_if_error.tell(argument),
            // It also permits to keep what answers credentials: that part must be told soundly.
            15 if is("must-revalidate") && sound => self.must_revalidate = true,
            15 if is("must-revalidate") => self.proxy_revalidate = true,
            15 if is("must-understand") => self.must_understand |= sound,
            16 if is("proxy-revalidate") => self.proxy_revalidate = true,
            22 if is("stale-while-revalidate") => self.stale_while_revalidate.tell(argument),
            _ => {}
        }
    }
}

/// How stale a response a client will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MaxStale {
    /// Not at all.
    #[default]
    No,
    /// As long as that.
    Seconds(u32),
    /// However stale.
    Any,
}

/// What a request tells caches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// How old an answer may be.
    pub max_age: Told,
    /// How stale it may be.
    pub max_stale: MaxStale,
    /// How long it must stay fresh.
    pub min_fresh: Told,
    /// How stale it may be when there is an error (RFC 5861 section 4).
    pub stale_if_error: Told,
    /// What is stored must be validated first.
    pub no_cache: bool,
    /// Neither the request nor its answer may be kept.
    pub no_store: bool,
    /// Content must not be changed.
    pub no_transform: bool,
    /// What is not stored is not wanted.
    pub only_if_cached: bool,
}

impl Request {
    /// Reads the directives of a request. `Pragma: no-cache` counts where there is no `Cache-Control` (section 5.4).
    #[must_use]
    pub fn of(headers: &Fields) -> Request {
        let mut read = Request::default();
        if !headers.contains_key(CACHE_CONTROL) {
            for line in headers.get_all(http::header::PRAGMA) {
                each(line.as_bytes(), |name, _| read.no_cache |= name.eq_ignore_ascii_case(b"no-cache"));
            }
            return read;
        }
        for line in headers.get_all(CACHE_CONTROL) {
            each(line.as_bytes(), |name, argument| read.tell(name, argument));
        }
        read
    }

    fn tell(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            7 if is("max-age") => self.max_age.tell(argument),
            8 if is("no-cache") => self.no_cache = true,
            8 if is("no-store") => self.no_store = true,
            9 if is("min-fresh") => self.min_fresh.tell(argument),
            9 if is("max-stale") => {
                let told = match argument {
                    Argument::None => MaxStale::Any,
                    Argument::Is(digits) => seconds(digits).map_or(MaxStale::No, MaxStale::Seconds),
                    Argument::Unsound => MaxStale::No,
                };
                // Told twice, the stricter wish counts.
                self.max_stale = if self.max_stale == MaxStale::No { told } else { self.max_stale.min(told) };
            }
            12 if is("no-transform") => self.no_transform = true,
            14 if is("only-if-cached") => self.only_if_cached |= argument.is_sound(),
            14 if is("stale-if-error") => self.stale_if_error.tell(argument),
            _ => {}
        }
    }
}

/// Calls `with` for each directive of a line: its name, and what stands behind it.
fn each(line: &[u8], mut with: impl FnMut(&[u8], Argument<'_>)) {
    let mut rest = line;
    while !rest.is_empty() {
        let (element, after) = element(rest);
        rest = after;
        let (name, argument) = match element.iter().position(|&byte| byte == b'=') {
            None => (element, None),
            Some(at) => (&element[..at], Some(&element[at + 1..])),
        };
        match argument.map(unquoted) {
            None if is_token(name) => with(name, Argument::None),
            Some(Some(argument)) if is_token(name) => with(name, Argument::Is(&argument)),
            _ => {
                for word in element.split(|&byte| !is_token_byte(byte)) {
                    with(word, Argument::Unsound);
                }
            }
        }
    }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The first element of a list, and what follows its comma. A comma within quotes is none.
pub(crate) fn element(list: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return (list[..at].trim_ascii(), &list[at + 1..]),
            _ => {}
        }
    }
    (list.trim_ascii(), &[])
}

/// An argument without its quotes. `None`: it is neither a token nor a quoted string.
fn unquoted(argument: &[u8]) -> Option<SmallVec<[u8; 32]>> {
    let Some(inner) = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return is_token(argument).then(|| SmallVec::from_slice(argument));
    };
    let (mut text, mut escaped) = (SmallVec::new(), false);
    for &byte in inner {
        match byte {
            b'\\' if !escaped => {
                escaped = true;
                continue;
            }
            b'"' if !escaped => return None,
            _ => {}
        }
        escaped = false;
        text.push(byte);
    }
    (!escaped).then_some(text)
}

/// Whole seconds; a number too large to count is for ever.
fn seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')).min(u64::from(FOR_EVER))
    });
    u32::try_from(count).ok()
}

/// Field names in a list; `None` where it names none, what is no name, or too many.
fn names(list: &[u8]) -> Option<SmallVec<[HeaderName; 2]>> {
    let mut names = SmallVec::new();
    for name in list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
        if names.len() == NAMES_MAX {
            return None;
        }
        names.push(HeaderName::from_bytes(name).ok()?);
    }
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn response(lines: &[&'static str]) -> Response {
        let mut headers = Fields::default();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
        }
        Response::of(&headers, &[])
    }

    fn request(line: &'static str) -> Request {
        Request::of(&Fields::from_iter([(CACHE_CONTROL, HeaderValue::from_static(line))]))
    }

    fn max_age(line: &'static str, expected: Told) {
        assert_eq!(response(&[line]).max_age, expected, "{line:?}");
    }

    #[test]
    fn numbers_are_read_as_tokens_and_as_strings_in_any_case() {
        for line in ["max-age=5", "MAX-AGE=5", "public, Max-Age=\"5\"", "a=b,,max-age=5 ,", "max-age=005"] {
            max_age(line, Told::Seconds(5));
        }
    }

    #[test]
    fn what_is_no_number_is_unreadable() {
        for line in
            ["max-age", "max-age=", "max-age=-1", "max-age=5.0", "max-age=5s", "max-age='5'", "max-age= 5"]
        {
            max_age(line, Told::Unreadable);
        }
        max_age("max-age =5", Told::Unreadable);
        max_age("x-max-age=5", Told::No);
    }

    #[test]
    fn a_number_too_large_is_for_ever() {
        max_age("max-age=2147483648", Told::Seconds(FOR_EVER));
        max_age("max-age=99999999999999999999999999", Told::Seconds(FOR_EVER));
    }

    #[test]
    fn two_values_are_unreadable_and_one_told_twice_is_not() {
        max_age("max-age=5, max-age=5", Told::Seconds(5));
        max_age("max-age=5, max-age=6", Told::Unreadable);
        assert_eq!(response(&["max-age=6", "max-age=5"]).max_age, Told::Unreadable);
    }

    #[test]
    fn a_comma_in_quotes_ends_no_directive() {
        let read =
            response(&["x=\"max-age=1, no-store\", private=\"a, b\", ext=\"\\\",no-store\", max-age=7"]);
        assert_eq!(read.max_age, Told::Seconds(7));
        assert!(!read.no_store);
        let names = ["a", "b"].map(HeaderName::from_static);
        assert_eq!(read.private, Scope::Fields(SmallVec::from_iter(names)));
    }

    #[test]
    fn what_is_quoted_badly_applies_to_everything() {
        assert_eq!(response(&["private=\"a, max-age=7"]).private, Scope::All);
        assert_eq!(response(&["no-cache=\"\""]).no_cache, Scope::All);
        assert_eq!(response(&["no-cache=\"a b\""]).no_cache, Scope::All);
        assert_eq!(response(&["no-cache=\"a\", no-cache"]).no_cache, Scope::All);
        assert_eq!(
            response(&["no-cache=set-cookie"]).no_cache,
            Scope::Fields(SmallVec::from_elem(http::header::SET_COOKIE, 1))
        );
    }

    #[test]
    fn of_what_is_unsound_only_what_restricts_is_believed() {
        let read = response(&["private; max-age=60"]);
        assert_eq!((read.private, read.max_age), (Scope::All, Told::Unreadable));
        let read = response(&["max-age=60; public, immutable=\"x, must-understand"]);
        assert_eq!(read.max_age, Told::Unreadable);
        assert!(!read.public && !read.immutable && !read.must_understand);
        assert!(response(&["ext=\"a, no-store"]).no_store);
        assert!(response(&["no store, no-store ="]).no_store);
        let read = response(&["must-revalidate;x"]);
        assert!(read.proxy_revalidate && !read.must_revalidate);
        assert_eq!(response(&["ext=a:b, x y, max-age=60"]).max_age, Told::Seconds(60));
        let read = request("max-stale;x, only-if-cached;x, no-cache;x, min-fresh;x");
        assert_eq!((read.max_stale, read.min_fresh), (MaxStale::No, Told::Unreadable));
        assert!(read.no_cache && !read.only_if_cached);
    }

    #[test]
    fn every_directive_of_a_response_is_read() {
        let read = response(&[
            "no-store, public, must-revalidate, proxy-revalidate, must-understand, no-transform, immutable",
            "s-maxage=2, stale-while-revalidate=3, stale-if-error=4, private, no-cache, unknown=1",
        ]);
        let expected = Response {
            max_age: Told::No,
            s_maxage: Told::Seconds(2),
            stale_while_revalidate: Told::Seconds(3),
            stale_if_error: Told::Seconds(4),
            no_cache: Scope::All,
            private: Scope::All,
            no_store: true,
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            no_transform: true,
            immutable: true,
            targeted: false,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn every_directive_of_a_request_is_read() {
        let read = request(
            "max-age=1, max-stale, min-fresh=2, no-cache, no-store, no-transform, only-if-cached, stale-if-error=3",
        );
        let expected = Request {
            max_age: Told::Seconds(1),
            max_stale: MaxStale::Any,
            min_fresh: Told::Seconds(2),
            stale_if_error: Told::Seconds(3),
            no_cache: true,
            no_store: true,
            no_transform: true,
            only_if_cached: true,
        };
        assert_eq!(read, expected);
        assert_eq!(request("max-stale=9").max_stale, MaxStale::Seconds(9));
        assert_eq!(request("max-stale=soon").max_stale, MaxStale::No);
        assert_eq!(request("max-stale, max-stale=9").max_stale, MaxStale::Seconds(9));
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let pragma = (http::header::PRAGMA, HeaderValue::from_static("foo, No-Cache"));
        assert!(Request::of(&Fields::from_iter([pragma.clone()])).no_cache);
        let both = [pragma, (CACHE_CONTROL, HeaderValue::from_static("max-age=5"))];
        assert!(!Request::of(&Fields::from_iter(both)).no_cache);
    }

    fn targeted(cdn: &'static str, expected: Option<Told>) {
        let name = HeaderName::from_static("cdn-cache-control");
        let headers = Fields::from_iter([
            (CACHE_CONTROL, HeaderValue::from_static("max-age=1")),
            (name.clone(), HeaderValue::from_static(cdn)),
        ]);
        let read = Response::of(&headers, &[HeaderName::from_static("tidegate-x"), name]);
        assert_eq!(read.targeted, expected.is_some(), "{cdn:?}");
        assert_eq!(read.max_age, expected.unwrap_or(Told::Seconds(1)), "{cdn:?}");
    }

    #[test]
    fn a_targeted_field_counts_instead_where_it_can_be_read() {
        targeted("max-age=60", Some(Told::Seconds(60)));
        targeted("max-age=60;x=1, unknown", Some(Told::Seconds(60)));
        targeted("none", Some(Told::No));
        targeted("max-age=\"60\"", Some(Told::Unreadable));
        targeted("max-age=(60)", Some(Told::Unreadable));
        targeted("max-age=?0", Some(Told::Unreadable));
        targeted("max-age", Some(Told::Unreadable));
        targeted("max-age=1, max-age=60", Some(Told::Seconds(60)));
        targeted("max-age=10.5", Some(Told::Unreadable));
        targeted("max-age=-10", Some(Told::Unreadable));
        targeted("", None);
        targeted("max-age=", None);
        targeted("MAX-AGE=5", None);
        targeted("max-age=5,", None);
    }
}
