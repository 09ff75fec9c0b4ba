//! A stored answer: small, shared by all cores, never changed but for its marks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Place;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;

/// What an entry takes beside its own bytes: the entry, its places in the map and in the order of eviction.
pub const OVERHEAD_BYTES: u64 = 280;
/// How often an entry may have been asked for until that counts no more.
const USED_MAX: u8 = 3;

/// A stored answer.
#[derive(Debug)]
pub struct Kept {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, packed: a map of them is three times as large.
    fields: Bytes,
    /// Its content, as it came.
    pub body: Box<[Bytes]>,
    /// How long its content is.
    pub length: u64,
    /// When it may be used.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Box<[Tag]>,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
    /// The newest purge that it was compared with.
    checked: AtomicU64,
    /// Since when a purge has made it stale, in seconds of the civil clock; zero: none has.
    stale_since: AtomicU64,
    used: AtomicU8,
    /// Where it stands in the order of eviction.
    pub(super) place: OnceLock<Place>,
}

/// An answer that was kept before, by this process or by one before it.
#[derive(Clone, Debug)]
pub struct Before {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, packed.
    pub fields: Bytes,
    /// Its content.
    pub body: Box<[Bytes]>,
    /// When it may be used.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Box<[Tag]>,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
}

/// What is known of an answer when its head has come.
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its fields: those that are kept.
    pub fields: HeaderMap,
    /// When it may be used.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Box<[Tag]>,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
    /// With which fields of a request it varies.
    pub vary: Vary,
    /// What the request had in these that it answers.
    pub variant: Vec<u8>,
}

impl Kept {
    /// An answer with this content.
    #[must_use]
    pub fn new(head: &Head, body: Box<[Bytes]>) -> Kept {
        Kept::of(Before {
            status: head.status,
            fields: pack(&head.fields),
            body,
            rules: head.rules,
            tags: head.tags.clone(),
            made: head.made,
            took_ms: head.took_ms,
        })
    }

    /// An answer that was kept before. `None`: these are no fields.
    #[must_use]
    pub fn again(before: Before) -> Option<Kept> {
        is_packed(&before.fields).then(|| Kept::of(before))
    }

    fn of(before: Before) -> Kept {
        let Before { status, fields, body, rules, tags, made, took_ms } = before;
        Kept {
            status,
            fields,
            length: body.iter().map(|piece| piece.len() as u64).sum(),
            body,
            rules,
            tags,
            made,
            took_ms,
            checked: AtomicU64::new(made),
            stale_since: AtomicU64::new(0),
            used: AtomicU8::new(0),
            place: OnceLock::new(),
        }
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        OVERHEAD_BYTES + self.fields.len() as u64 + self.length
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> HeaderMap {
        unpack(&self.fields)
    }

    /// Its fields, packed.
    #[must_use]
    pub fn packed(&self) -> &Bytes {
        &self.fields
    }

    /// Its rules, as a purge has left them.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let mut rules = self.rules;
        if let since @ 1.. = self.stale_since.load(Relaxed) {
            let freshness = &mut rules.freshness;
            freshness.lifetime = freshness.lifetime.min(freshness.age(Wall(since)));
        }
        rules
    }

    /// It has been asked for. All but the first few times this reads only: what is hot is not written to by every core.
    pub fn ask(&self) {
        let used = self.used.load(Relaxed);
        if used < USED_MAX {
            self.used.store(used + 1, Relaxed);
        }
    }

    /// Whether it has been asked for often.
    #[must_use]
    pub fn is_hot(&self) -> bool {
        self.used.load(Relaxed) == USED_MAX
    }

    /// Whether it was asked for since; takes a mark from it.
    pub fn take_mark(&self) -> bool {
        self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_sub(1)).is_ok()
    }

    /// It is stale from now on, if it was not before.
    pub(super) fn is_stale_from(&self, now: Wall) {
        let _ = self.stale_since.compare_exchange(0, now.0.max(1), Relaxed, Relaxed);
    }

    pub(super) fn checked(&self) -> u64 {
        self.checked.load(Relaxed)
    }

    pub(super) fn good_until(&self, purge: u64, stale_since: Option<Wall>) {
        if let Some(Wall(since)) = stale_since {
            self.stale_since.store(since.max(1), Relaxed);
        }
        self.checked.store(purge, Relaxed);
    }
}

/// `name-length, name, value-length, value` for each field.
fn pack(fields: &HeaderMap) -> Bytes {
    let size = fields.iter().map(|(name, value)| 6 + name.as_str().len() + value.len()).sum();
    let mut packed = BytesMut::with_capacity(size);
    for (name, value) in fields {
        // A name is at most 64 KiB (http::HeaderName); a head with a larger value never gets here.
        packed.put_u16_ne(name.as_str().len() as u16);
        packed.put_slice(name.as_str().as_bytes());
        packed.put_u32_ne(value.len() as u32);
        packed.put_slice(value.as_bytes());
    }
    packed.freeze()
}

fn unpack(packed: &Bytes) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(16);
    let mut at = 0;
    while at < packed.len() {
        let name_length = usize::from(u16::from_ne_bytes([packed[at], packed[at + 1]]));
        let name = &packed[at + 2..at + 2 + name_length];
        at += 2 + name_length;
        let mut length = [0; 4];
        length.copy_from_slice(&packed[at..at + 4]);
        let value = packed.slice(at + 4..at + 4 + u32::from_ne_bytes(length) as usize);
        at += 4 + value.len();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value)) {
            fields.append(name, value);
        }
    }
    fields
}

/// Whether these bytes are fields as they are packed: they may come from a disk.
fn is_packed(mut bytes: &[u8]) -> bool {
    fn part<'b>(bytes: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
        let (part, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(part)
    }
    fn field(bytes: &mut &[u8]) -> Option<()> {
        let length = part(bytes, 2)?.try_into().ok()?;
        part(bytes, usize::from(u16::from_ne_bytes(length)))?;
        let length = part(bytes, 4)?.try_into().ok()?;
        part(bytes, u32::from_ne_bytes(length) as usize)?;
        Some(())
    }
    while !bytes.is_empty() {
        if field(&mut bytes).is_none() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_come_out_as_they_went_in(lines in proptest::collection::vec(("[a-z-]{1,20}", "[ -~]{0,40}"), 0..20)) {
            let mut fields = HeaderMap::new();
            for (name, value) in &lines {
                fields.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let packed = pack(&fields);
            prop_assert!(is_packed(&packed));
            prop_assert!(packed.is_empty() || !is_packed(&packed[..packed.len() - 1]));
            prop_assert_eq!(unpack(&packed), fields);
        }

        #[test]
        fn bytes_that_pass_for_fields_can_be_unpacked(bytes in proptest::collection::vec(0u8..4, 0..40)) {
            if is_packed(&bytes) {
                unpack(&Bytes::from(bytes));
            }
        }
    }
}
