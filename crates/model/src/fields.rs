//! The header fields of a message: one block of text, and where each line of it lies.
//!
//! Most fields only pass through. So a head that was read stays the text that it was: it is copied once, out of the buffer
//! that the next head is read into, and written on in runs of lines. No field has memory, a hash or a count of references
//! of its own. What is said beside is written behind it as a line like the others.
//!
//! What always holds: each line is `name: value` with its line end; names are tokens in lower case, values hold no control
//! bytes but tabs. Who reads lines that others have written sees to that; who says a field brings a type that has.
//!
//! Names are searched one after the other: a message has few fields, and at most as many as its reader lets pass. Fields
//! keep the order in which they came.

mod packed;

use std::fmt;
use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::receipt::RequestId;

/// Room in the text for what is said beside a head that was read: all that we say of an exchange, in most cases.
const ROOM: usize = 320;
/// The same, in lines.
const LINES_ROOM: usize = 4;
/// Lines for which there is room from the first on: a head that is read seldom has more.
const LINES: usize = 16;

/// The header fields of a message, in order.
#[derive(Clone, Default)]
pub struct Fields {
    /// What stands between the lines is no field, or no longer.
    text: Vec<u8>,
    lines: Vec<Line>,
}

/// A line in the text. Its name begins it, its value follows after a colon and a space, and a line end follows that.
#[derive(Clone, Copy, Debug)]
struct Line {
    from: u32,
    /// Where the value ends.
    to: u32,
    name_length: u16,
}

impl Line {
    fn name(self, text: &[u8]) -> Name<'_> {
        let from = self.from as usize;
        Name(&text[from..from + usize::from(self.name_length)])
    }

    fn value(self, text: &[u8]) -> Value<'_> {
        Value(&text[self.from as usize + usize::from(self.name_length) + 2..self.to as usize])
    }

    fn is(self, name: &[u8], text: &[u8]) -> bool {
        usize::from(self.name_length) == name.len() && self.name(text).0 == name
    }
}

impl Fields {
    /// None, with room for so many.
    #[must_use]
    pub fn with_capacity(lines: usize) -> Fields {
        Fields { text: Vec::with_capacity(ROOM + lines * 32), lines: Vec::with_capacity(lines) }
    }

    /// Those that were found in a head that was read.
    #[must_use]
    pub fn of_lines(head: &[u8], found: Lines) -> Fields {
        let mut text = Vec::with_capacity(head.len() + ROOM);
        text.extend_from_slice(head);
        for line in &found.lines {
            lower(&mut text[line.from as usize..], line.name_length.into());
        }
        let mut fields = Fields { text, lines: found.lines };
        for (place, value) in found.odd {
            fields.rewrite(place, value);
        }
        fields
    }

    /// Writes anew what is not written as all lines are.
    #[cold]
    fn rewrite(&mut self, place: usize, value: Range<usize>) {
        let name = self.lines[place].name(&self.text).0.to_vec();
        let value = self.text[value].to_vec();
        self.lines[place] = self.write_line(&name, |text| text.extend_from_slice(&value));
    }

    fn write_line(&mut self, name: &[u8], say: impl FnOnce(&mut Vec<u8>)) -> Line {
        let from = place(self.text.len());
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        say(&mut self.text);
        let to = place(self.text.len());
        self.text.extend_from_slice(b"\r\n");
        Line { from, to, name_length: u16::try_from(name.len()).expect("a name has less than 64 KiB") }
    }

    /// Adds a field behind the others.
    pub fn append(&mut self, name: impl FieldName, value: impl FieldValue) {
        let line = self.write_line(name.valid(), |text| value.say(text));
        self.lines.push(line);
    }

    /// Adds all of these behind the others.
    pub fn append_all(&mut self, others: &Fields) {
        let behind = self.text.len();
        self.text.extend_from_slice(&others.text);
        let moved = |at: u32| place(behind + at as usize);
        let lines = others.lines.iter();
        self.lines.extend(lines.map(|line| Line { from: moved(line.from), to: moved(line.to), ..*line }));
    }

    /// Adds lines that are written as all lines are. Of each: how long its name is, and its value.
    pub(crate) fn append_written(&mut self, lines: &[u8], lengths: &[(u16, u16)]) {
        let mut from = self.text.len();
        self.text.extend_from_slice(lines);
        self.lines.extend(lengths.iter().map(|(name, value)| {
            let to = from + usize::from(*name) + 2 + usize::from(*value);
            let line = Line { from: place(from), to: place(to), name_length: *name };
            from = to + 2;
            line
        }));
        assert_eq!(from, self.text.len(), "the lines are as long as is said");
    }

    /// Says this and nothing else under this name: in the place of the first such field, or behind the others.
    pub fn insert(&mut self, name: impl FieldName, value: impl FieldValue) {
        let name = name.valid();
        let line = self.write_line(name, |text| value.say(text));
        match self.position(name) {
            None => self.lines.push(line),
            Some(first) => {
                self.lines[first] = line;
                self.drop_from(first + 1, name);
            }
        }
    }

    /// Removes all fields of this name.
    pub fn remove(&mut self, name: impl FieldName) {
        let name = name.text();
        if let Some(first) = self.position(name) {
            self.drop_from(first, name);
        }
    }

    /// Removes the fields of this name among those from this one on.
    fn drop_from(&mut self, first: usize, name: &[u8]) {
        let mut place = 0;
        self.lines.retain(|line| {
            place += 1;
            place <= first || !line.is(name, &self.text)
        });
    }

    /// Removes all fields but those for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(Name<'_>, Value<'_>) -> bool) {
        self.lines.retain(|line| keep(line.name(&self.text), line.value(&self.text)));
    }

    /// The first value under this name.
    #[must_use]
    pub fn get(&self, name: impl FieldName) -> Option<Value<'_>> {
        let place = self.position(name.text())?;
        Some(self.lines[place].value(&self.text))
    }

    /// All values under this name, in their order.
    #[must_use]
    pub fn get_all(&self, name: impl FieldName) -> All<'_> {
        let (lines, name) = match self.position(name.text()) {
            Some(first) => (&self.lines[first..], self.lines[first].name(&self.text)),
            None => (&[][..], Name(b"")),
        };
        All { name, lines, text: &self.text }
    }

    /// Whether there is a field of this name.
    #[must_use]
    pub fn contains_key(&self, name: impl FieldName) -> bool {
        self.position(name.text()).is_some()
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.lines.iter().position(|line| line.is(name, &self.text))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The same without what stands between the lines, for those who keep them.
    #[must_use]
    pub fn compact(&self) -> Fields {
        let mut text = Vec::new();
        text.reserve_exact(self.lines.iter().map(|line| (line.to - line.from) as usize + 2).sum());
        let lines = self.lines.iter().map(|line| {
            let from = place(text.len());
            text.extend_from_slice(&self.text[line.from as usize..line.to as usize + 2]);
            Line { from, to: from + (line.to - line.from), ..*line }
        });
        let lines = lines.collect();
        Fields { text, lines }
    }

    /// The bytes that they have in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + size_of_val(self.lines.as_slice())
    }

    /// Names and values, in their order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { lines: self.lines.iter(), text: &self.text }
    }

    /// The names, each as often as it is there.
    pub fn keys(&self) -> impl Iterator<Item = Name<'_>> {
        self.iter().map(|(name, _)| name)
    }

    /// Writes those that pass, as they are over HTTP/1.1: lines that follow one another at once.
    pub fn write(&self, out: &mut Vec<u8>, mut passes: impl FnMut(Name<'_>, Value<'_>) -> bool) {
        let (mut from, mut to) = (0, 0);
        for line in &self.lines {
            if !passes(line.name(&self.text), line.value(&self.text)) {
                continue;
            }
            if line.from as usize != to {
                out.extend_from_slice(&self.text[from..to]);
                from = line.from as usize;
            }
            to = line.to as usize + 2;
        }
        out.extend_from_slice(&self.text[from..to]);
    }

    /// The same as a map, for those who take nothing else.
    #[must_use]
    pub fn into_map(self) -> HeaderMap {
        let text = bytes::Bytes::from(self.text);
        let mut map = HeaderMap::with_capacity(self.lines.len());
        for line in self.lines {
            let name = line.name(&text).header();
            let from = line.from as usize + usize::from(line.name_length) + 2;
            let value = HeaderValue::from_maybe_shared(text.slice(from..line.to as usize));
            map.append(name, value.expect("a field's value is one"));
        }
        map
    }
}

/// The lines of a head, found one after the other in the bytes that it was read into.
#[derive(Debug, Default)]
pub struct Lines {
    lines: Vec<Line>,
    /// Those that are not written as all lines are: which, and where its value is.
    odd: Vec<(usize, Range<usize>)>,
}

impl Lines {
    /// Takes a line of `head` for a field: its name, a token, and its value, without white space around it, are in these
    /// places. `false`: the name is too long.
    #[inline(always)]
    pub fn keep(&mut self, head: &[u8], name: Range<usize>, value: Range<usize>) -> bool {
        let Ok(name_length) = u16::try_from(name.len()) else { return false };
        let two = |at: usize| head.get(at..at + 2);
        let written =
            value.start == name.end + 2 && two(name.end) == Some(b": ") && two(value.end) == Some(b"\r\n");
        let line = Line { from: place(name.start), to: place(value.end), name_length };
        if !written {
            self.odd.push((self.lines.len(), value));
        }
        if self.lines.is_empty() {
            self.lines.reserve(LINES);
        }
        self.lines.push(line);
        true
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// Brings the name that begins a text to lower case, by words: the last of them holds more than the name's end.
fn lower(text: &mut [u8], length: usize) {
    for at in (0..length).step_by(8) {
        let left = length - at;
        match text[at..].first_chunk_mut() {
            Some(word) => *word = lowered(*word, left.min(8)),
            None => text[at..][..left].make_ascii_lowercase(),
        }
    }
}

/// The first so many of eight bytes in lower case: at least one.
fn lowered(word: [u8; 8], count: usize) -> [u8; 8] {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let low = word & !HIGH;
    // The high bit of a byte that is `A` or comes after it; of one that comes after `Z`.
    let from_a = low + ONES * u64::from(0x80 - b'A');
    let after_z = low + ONES * u64::from(0x7f - b'Z');
    let upper = from_a & !after_z & !word & HIGH & (u64::MAX >> (64 - 8 * count));
    (word | upper >> 2).to_le_bytes()
}

/// A place in the text. Heads are bounded, and what is said beside them is short.
fn place(place: usize) -> u32 {
    u32::try_from(place).expect("a head has less than 4 GiB")
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Fields {
        let mut fields = Fields::with_capacity(map.len() + LINES_ROOM);
        for (name, value) in map {
            fields.append(name, value);
        }
        fields
    }
}

impl<N: FieldName, V: FieldValue> Extend<(N, V)> for Fields {
    fn extend<T: IntoIterator<Item = (N, V)>>(&mut self, fields: T) {
        for (name, value) in fields {
            self.append(name, value);
        }
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: T) -> Fields {
        let mut of = Fields::default();
        of.extend(fields);
        of
    }
}

/// Order counts between the fields of one name alone (RFC 9110 section 5.3).
impl PartialEq for Fields {
    fn eq(&self, other: &Fields) -> bool {
        let alike = |name: Name<'_>| self.all_of(name).eq(other.all_of(name));
        self.len() == other.len() && self.keys().all(alike)
    }
}

impl Eq for Fields {}

impl Fields {
    fn all_of<'a>(&'a self, name: Name<'a>) -> impl Iterator<Item = Value<'a>> {
        self.iter().filter(move |(held, _)| *held == name).map(|(_, value)| value)
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (Name<'a>, Value<'a>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Fields one after the other.
#[derive(Clone)]
pub struct Iter<'a> {
    lines: std::slice::Iter<'a, Line>,
    text: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Name<'a>, Value<'a>);

    fn next(&mut self) -> Option<(Name<'a>, Value<'a>)> {
        self.lines.next().map(|line| (line.name(self.text), line.value(self.text)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.lines.size_hint()
    }
}

/// The values under one name.
#[derive(Clone)]
pub struct All<'a> {
    name: Name<'a>,
    lines: &'a [Line],
    text: &'a [u8],
}

impl<'a> All<'a> {
    /// One after the other.
    #[must_use]
    pub fn iter(&self) -> All<'a> {
        self.clone()
    }
}

impl<'a> Iterator for All<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        while let Some((line, rest)) = self.lines.split_first() {
            self.lines = rest;
            if line.is(self.name.0, self.text) {
                return Some(line.value(self.text));
            }
        }
        None
    }
}

impl<'a> DoubleEndedIterator for All<'a> {
    fn next_back(&mut self) -> Option<Value<'a>> {
        while let Some((line, rest)) = self.lines.split_last() {
            self.lines = rest;
            if line.is(self.name.0, self.text) {
                return Some(line.value(self.text));
            }
        }
        None
    }
}

/// A field's name: a token in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).expect("a token is ASCII")
    }

    /// The name in a type that others take. Those that are said most are found at once.
    fn header(self) -> HeaderName {
        use http::header;
        match self.0 {
            b"server" => header::SERVER,
            b"date" => header::DATE,
            b"content-type" => header::CONTENT_TYPE,
            b"content-length" => header::CONTENT_LENGTH,
            b"last-modified" => header::LAST_MODIFIED,
            b"etag" => header::ETAG,
            b"cache-control" => header::CACHE_CONTROL,
            b"vary" => header::VARY,
            other => HeaderName::from_bytes(other).expect("a field's name is one"),
        }
    }
}

impl<'a> From<&'a HeaderName> for Name<'a> {
    fn from(name: &'a HeaderName) -> Name<'a> {
        Name(name.as_str().as_bytes())
    }
}

impl PartialEq<HeaderName> for Name<'_> {
    fn eq(&self, other: &HeaderName) -> bool {
        self.0 == other.as_str().as_bytes()
    }
}

impl PartialEq<str> for Name<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), out)
    }
}

/// A field's value: visible bytes, spaces, tabs and bytes above ASCII (RFC 9110 section 5.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

/// A value has bytes that are no visible ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not visible ASCII")]
pub struct NoText;

impl<'a> Value<'a> {
    /// The value of these bytes, if they are one's.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Option<Value<'a>> {
        // All of them are looked at, without a branch for each.
        let of_value = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        bytes.iter().fold(true, |all, byte| all & of_value(byte)).then_some(Value(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its text.
    ///
    /// # Errors
    /// It has bytes above ASCII.
    pub fn to_str(self) -> Result<&'a str, NoText> {
        std::str::from_utf8(self.0).ok().filter(|text| text.is_ascii()).ok_or(NoText)
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The same in memory of its own.
    #[must_use]
    pub fn owned(self) -> HeaderValue {
        HeaderValue::from_bytes(self.0).expect("a field's value is one")
    }
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl<'a> From<&'a HeaderValue> for Value<'a> {
    fn from(value: &'a HeaderValue) -> Value<'a> {
        Value(value.as_bytes())
    }
}

impl PartialEq<HeaderValue> for Value<'_> {
    fn eq(&self, other: &HeaderValue) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<str> for Value<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Value<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.escape_ascii().to_string(), out)
    }
}

/// What names a field, in lower case.
pub trait FieldName {
    /// To search for.
    fn text(&self) -> &[u8];

    /// To say.
    fn valid(&self) -> &[u8] {
        self.text()
    }
}

impl FieldName for HeaderName {
    fn text(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl FieldName for &HeaderName {
    fn text(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl FieldName for Name<'_> {
    fn text(&self) -> &[u8] {
        self.0
    }
}

impl FieldName for &str {
    fn text(&self) -> &[u8] {
        self.as_bytes()
    }

    fn valid(&self) -> &[u8] {
        let is_said = |byte: u8| byte == b'-' || byte.is_ascii_lowercase() || byte.is_ascii_digit();
        assert!(!self.is_empty() && self.bytes().all(is_said), "{self:?} is no name that Tidegate says");
        self.as_bytes()
    }
}

/// What may be said in a field: nothing that could end its line.
pub trait FieldValue {
    /// Writes it.
    fn say(&self, text: &mut Vec<u8>);
}

impl FieldValue for HeaderValue {
    fn say(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.as_bytes());
    }
}

impl<V: FieldValue> FieldValue for &V {
    fn say(&self, text: &mut Vec<u8>) {
        (*self).say(text);
    }
}

impl FieldValue for Value<'_> {
    fn say(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.0);
    }
}

impl FieldValue for RequestId {
    fn say(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.hex());
    }
}

impl FieldValue for u64 {
    fn say(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }
}

#[cfg(test)]
mod tests;
