//! How numbers, texts and fields are written between nodes: little-endian, what has a length tells it before.

use std::net::{IpAddr, SocketAddr};

use bytes::BufMut as _;

use crate::fields::Fields;

pub(super) fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

pub(super) fn put_fields(out: &mut Vec<u8>, fields: &Fields) {
    let mut packed = Vec::with_capacity(fields.bytes() + 64);
    fields.pack(&mut packed);
    put_text(out, &packed);
}

/// What has not been read yet. Nothing that is missing is made up: it ends the reading.
pub(super) struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        Some(self.u8()? == 1)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn parsed<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    pub(super) fn ip(&mut self) -> Option<IpAddr> {
        self.parsed()
    }

    pub(super) fn socket(&mut self) -> Option<SocketAddr> {
        self.parsed()
    }

    pub(super) fn fields(&mut self) -> Option<Fields> {
        Fields::read(self.bytes()?)
    }

    /// Whether all of it was read.
    pub(super) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
