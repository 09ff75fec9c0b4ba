//! How numbers, texts and fields are written between nodes: little-endian, what has a length tells it before.

use std::str::FromStr;

use bytes::BufMut as _;

use crate::fields::Fields;
use crate::numbers::Take;

pub(super) fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

pub(super) fn put_fields(out: &mut Vec<u8>, fields: &Fields) {
    let mut packed = Vec::with_capacity(fields.bytes() + 64);
    fields.pack(&mut packed);
    put_text(out, &packed);
}

/// What stands between nodes beside numbers. Nothing that is missing is made up: it ends the reading.
pub(super) trait Texts<'a> {
    /// Bytes behind their length.
    fn sized(&mut self) -> Option<&'a [u8]>;

    fn flag(&mut self) -> Option<bool>;

    /// Whether all of it was read.
    fn end(&self) -> Option<()>;

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.sized()?).ok()
    }

    fn parsed<T: FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    fn fields(&mut self) -> Option<Fields> {
        Fields::read(self.sized()?)
    }
}

impl<'a> Texts<'a> for Take<'a> {
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.bytes(length)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.u8()? == 1)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
