//! Fields as bytes that are kept: in memory beside an answer's content, on disk, and where other nodes read them.
//!
//! ```text
//! number of lines | for each the length of its name and of its value | the lines
//! ```
//!
//! The lines are the text that fields are made of, so that they are fields again at the cost of two copies. Numbers are
//! written seven bits to a byte, the lower ones first: a line costs two bytes beside its text.
//!
//! Where bytes count for more than copies, there is a short form, in which names that many messages have are a number:
//!
//! ```text
//! 0 | for each line: its name's number, or 0 and the name | its value
//! ```
//!
//! Name and value have their length before them. It begins as if there were no line and goes on, which the other never does.

use http::{HeaderName, HeaderValue};

use super::{Fields, LINES, LINES_ROOM, Line, ROOM};

/// Room for the names of a message, as they stand in the text.
const NAMES_ROOM: usize = 256;

/// Names that have a number, which is their place here from 1 on. It is on disks: names are added behind the others, and none goes,
/// whatever other lists of names become.
const NUMBERED: [&str; 63] = [
    "host",
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "baggage",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "cookie",
    "date",
    "dnt",
    "forwarded",
    "from",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "te",
    "traceparent",
    "tracestate",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-api-key",
    "x-correlation-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-github-delivery",
    "x-github-event",
    "x-hub-signature-256",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
    "x-slack-request-timestamp",
    "x-slack-signature",
    "x-tenant",
    "stripe-signature",
    "b3",
    "content-digest",
    "digest",
    "signature",
    "signature-input",
];
/// Places for their numbers: four for each name, so that most are alone in theirs.
const SLOTS: usize = 256;
/// Their numbers, each where its name is looked for first, or behind that. Zeros are between them.
static BY_SLOT: [u8; SLOTS] = {
    let mut numbers = [0; SLOTS];
    let mut place = 0;
    while place < NUMBERED.len() {
        let mut slot = slot_of(NUMBERED[place].as_bytes());
        while numbers[slot] > 0 {
            slot = (slot + 1) % SLOTS;
        }
        place += 1;
        numbers[slot] = place as u8;
    }
    numbers
};

/// Where a name is looked for first: its length and three of its bytes tell most from each other.
const fn slot_of(name: &[u8]) -> usize {
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let [first, middle, last] = [name[0] as usize, name[length / 2] as usize, name[length - 1] as usize];
    (length * 11 + first * 37 + middle + last * 3) % SLOTS
}

/// A name's number; 0: it has none.
fn number_of(name: &[u8]) -> u8 {
    let mut slot = slot_of(name);
    loop {
        let number = BY_SLOT[slot];
        if name_of(number).is_none_or(|known| known == name) {
            return number;
        }
        slot = (slot + 1) % SLOTS;
    }
}

fn name_of(number: u8) -> Option<&'static [u8]> {
    let place = usize::from(number).checked_sub(1)?;
    NUMBERED.get(place).map(|name| name.as_bytes())
}

impl Fields {
    /// Appends these fields to what is kept.
    pub fn pack(&self, out: &mut Vec<u8>) {
        put(out, self.lines.len());
        for line in &self.lines {
            put(out, usize::from(line.name_length));
            put(out, line.value(&self.text).len());
        }
        self.write(out, |_, _| true);
    }

    /// Appends these fields to what is kept, in the short form.
    pub fn pack_short(&self, out: &mut Vec<u8>) {
        out.push(0);
        for (name, value) in self {
            let number = number_of(name.as_bytes());
            out.push(number);
            if number == 0 {
                put_sized(out, name.as_bytes());
            }
            put_sized(out, value.as_bytes());
        }
    }

    /// The fields that were packed by this process, with room for some more. `None`: they were not.
    #[must_use]
    pub fn unpack(packed: &[u8]) -> Option<Fields> {
        match packed {
            [0, short @ ..] => Fields::unpack_short(short),
            _ => Fields::unpack_long(packed),
        }
    }

    fn unpack_short(mut rest: &[u8]) -> Option<Fields> {
        let text = Vec::with_capacity(rest.len() + NAMES_ROOM + ROOM);
        let mut fields = Fields { text, lines: Vec::with_capacity(LINES) };
        while let Some((number, behind)) = rest.split_first() {
            rest = behind;
            let name = match number {
                0 => take_sized(&mut rest)?,
                number => name_of(*number)?,
            };
            u16::try_from(name.len()).ok()?;
            let value = take_sized(&mut rest)?;
            let line = fields.write_line(name, |text| text.extend_from_slice(value));
            fields.lines.push(line);
        }
        Some(fields)
    }

    fn unpack_long(packed: &[u8]) -> Option<Fields> {
        let mut rest = packed;
        let count = take(&mut rest)?;
        // Each takes bytes: there are never more of them than bytes.
        let mut lines = Vec::with_capacity((count as usize).min(rest.len()) + LINES_ROOM);
        let mut from = 0u32;
        for _ in 0..count {
            let (name, value) = (take(&mut rest)?, take(&mut rest)?);
            let to = from.checked_add(name)?.checked_add(2)?.checked_add(value)?;
            lines.push(Line { from, to, name_length: u16::try_from(name).ok()? });
            from = to.checked_add(2)?;
        }
        if rest.len() != from as usize {
            return None;
        }
        let mut text = Vec::with_capacity(rest.len() + ROOM);
        text.extend_from_slice(rest);
        Some(Fields { text, lines })
    }

    /// The fields that somebody has packed. `None`: they are not as fields are, or in the short form, in which a few bytes are
    /// many.
    #[must_use]
    pub fn read(packed: &[u8]) -> Option<Fields> {
        let fields = Fields::unpack_long(packed)?;
        let is_sound = |line: &Line| {
            let (name, value) = (line.name(&fields.text).0, line.value(&fields.text).0);
            let ends = (line.from as usize + name.len(), line.to as usize);
            HeaderName::from_lowercase(name).is_ok()
                && HeaderValue::from_bytes(value).is_ok()
                && fields.text[ends.0..].starts_with(b": ")
                && fields.text[ends.1..].starts_with(b"\r\n")
        };
        fields.lines.iter().all(is_sound).then_some(fields)
    }
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take_sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(bytes)?;
    let (sized, rest) = bytes.split_at_checked(length as usize)?;
    *bytes = rest;
    Some(sized)
}

fn put(out: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(lines: &[(String, Vec<u8>)]) -> Fields {
        let line = |(name, value): &(String, Vec<u8>)| {
            (HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap())
        };
        Fields::from_iter(lines.iter().map(line))
    }

    fn packed(fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        fields.pack(&mut out);
        out
    }

    fn short(fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        fields.pack_short(&mut out);
        out
    }

    proptest! {
        #[test]
        fn fields_come_back_as_they_were_whatever_lay_between_them(
            lines in proptest::collection::vec(("[a-z]{1,9}|host|via|x-request-id", proptest::collection::vec(0xa0u8.., 0..400)), 0..8),
            gone in "[a-z]{1,2}|host",
        ) {
            let mut fields = fields(&lines);
            fields.remove(HeaderName::try_from(gone).unwrap());
            let (long, short) = (packed(&fields), short(&fields));
            for again in [Fields::unpack(&long), Fields::read(&long), Fields::unpack(&short)] {
                let mut again = again.unwrap();
                prop_assert_eq!(&again, &fields);
                again.append("age", 7u64);
                prop_assert_eq!(again.len(), fields.len() + 1);
            }
        }

        #[test]
        fn foreign_bytes_are_fields_or_nothing(at in 0usize..200, by in 1u8.., end in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut packed = packed(&fields(&[("host".to_owned(), b"\"a\"".to_vec()), ("x-a".to_owned(), vec![b'v'; 150])]));
            let at = at % packed.len();
            packed[at] ^= by;
            packed.extend(end);
            if let Some(fields) = Fields::read(&packed) {
                let mut out = Vec::new();
                fields.write(&mut out, |_, _| true);
                let mut text = &out[..];
                for (name, value) in &fields {
                    prop_assert!(HeaderName::from_lowercase(name.as_bytes()).is_ok());
                    prop_assert!(HeaderValue::from_bytes(value.as_bytes()).is_ok());
                    let line = [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat();
                    text = text.strip_prefix(&line[..]).expect("its line");
                }
                prop_assert!(text.is_empty());
            }
        }

        #[test]
        fn numbers_come_back(number: u32) {
            let mut out = Vec::new();
            put(&mut out, number as usize);
            let mut rest = &out[..];
            prop_assert_eq!((take(&mut rest), rest.len()), (Some(number), 0));
        }
    }

    #[test]
    fn names_have_the_number_of_their_place() {
        for (place, name) in NUMBERED.iter().enumerate() {
            assert!(HeaderName::from_lowercase(name.as_bytes()).is_ok(), "{name}");
            assert_eq!(usize::from(number_of(name.as_bytes())), place + 1, "{name} stands there once");
        }
        assert_eq!((number_of(b""), number_of(b"hosts"), number_of(&[b'a'; 300])), (0, 0, 0));
        // What is on disks by now.
        let lines = [("host".to_owned(), b"a".to_vec()), ("x-b".to_owned(), b"c".to_vec())];
        assert_eq!(short(&fields(&lines)), *b"\x00\x01\x01a\x00\x03x-b\x01c");
        assert_eq!((number_of(b"x-tenant"), number_of(b"signature-input")), (57, 63));
    }

    /// The fields of a request as a common client sends it, with what we say of it: some names, and how long their values are.
    #[test]
    fn the_short_form_of_a_common_request_takes_two_thirds() {
        let request = [
            ("host", 14),
            ("user-agent", 21),
            ("content-type", 16),
            ("x-forwarded-for", 9),
            ("x-forwarded-proto", 4),
            ("x-forwarded-host", 14),
            ("forwarded", 46),
            ("via", 12),
            ("x-request-id", 32),
            ("traceparent", 55),
        ];
        let fields = fields(&request.map(|(name, length)| (name.to_owned(), vec![b'v'; length])));
        assert_eq!((packed(&fields).len(), short(&fields).len()), (393, 244));
    }

    #[test]
    fn what_is_no_short_form_is_refused() {
        assert_eq!(Fields::unpack(b"\0\x01\x01a").map(|fields| fields.len()), Some(1));
        assert_eq!(Fields::unpack(b"\0").map(|fields| fields.len()), Some(0));
        let long_name = [&b"\0\0\x80\x80\x04"[..], &[b'a'; 1 << 16], b"\x01b"].concat();
        let bad: [&[u8]; 6] =
            [b"\0\x01", b"\0\x01\x02a", b"\0\x7f\x01a", b"\0\xff\x01a", b"\0\0\x02a", &long_name];
        for bytes in bad {
            assert_eq!(Fields::unpack(bytes), None, "{}", bytes.escape_ascii());
        }
        assert_eq!(Fields::read(b"\0\x01\x01a"), None, "nobody else writes it");
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        let line = |name: &str, between: &str, value: &str, end: &str| {
            let head = [1, name.len() as u8, value.len() as u8];
            [&head[..], name.as_bytes(), between.as_bytes(), value.as_bytes(), end.as_bytes()].concat()
        };
        assert!(Fields::read(&line("a", ": ", "b", "\r\n")).is_some());
        for bytes in [
            line("A", ": ", "b", "\r\n"),
            line("a b", ": ", "b", "\r\n"),
            line("", ": ", "b", "\r\n"),
            line("a", ":x", "b", "\r\n"),
            line("a", ": ", "b\n", "\r\n"),
            line("a", ": ", "b", "\n\n"),
            line("a", ": ", "b", "\r\n\r\n"),
            vec![0xff; 9],
            vec![],
        ] {
            assert!(Fields::read(&bytes).is_none(), "{}", bytes.escape_ascii());
        }
    }
}
