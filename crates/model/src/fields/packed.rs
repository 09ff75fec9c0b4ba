//! Fields as bytes that are kept: in memory beside an answer's content, on disk, and where other nodes read them.
//!
//! ```text
//! number of lines | for each the length of its name and of its value | the lines
//! ```
//!
//! The lines are the text that fields are made of, so that they are fields again at the cost of two copies. Numbers are
//! written seven bits to a byte, the lower ones first: a line costs two bytes beside its text.

use http::{HeaderName, HeaderValue};

use super::{Fields, LINES_ROOM, Line, ROOM};

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

    /// The fields that were packed by this process, with room for some more. `None`: they were not.
    #[must_use]
    pub fn unpack(packed: &[u8]) -> Option<Fields> {
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

    /// The fields that somebody has packed. `None`: they are not as fields are.
    #[must_use]
    pub fn read(packed: &[u8]) -> Option<Fields> {
        let fields = Fields::unpack(packed)?;
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

    proptest! {
        #[test]
        fn fields_come_back_as_they_were_whatever_lay_between_them(
            lines in proptest::collection::vec(("[a-z]{1,9}", proptest::collection::vec(0xa0u8.., 0..400)), 0..8),
            gone in "[a-z]{1,2}",
        ) {
            let mut fields = fields(&lines);
            fields.remove(HeaderName::try_from(gone).unwrap());
            let packed = packed(&fields);
            for again in [Fields::unpack(&packed), Fields::read(&packed)] {
                let mut again = again.unwrap();
                prop_assert_eq!(&again, &fields);
                again.append("age", 7u64);
                prop_assert_eq!(again.len(), fields.len() + 1);
            }
        }

        #[test]
        fn foreign_bytes_are_fields_or_nothing(at in 0usize..200, by in 1u8.., end in proptest::collection::vec(any::<u8>(), 0..9)) {
            let mut packed = packed(&fields(&[("etag".to_owned(), b"\"a\"".to_vec()), ("x-a".to_owned(), vec![b'v'; 150])]));
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
