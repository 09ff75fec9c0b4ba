//! Who says it, and that nobody changed it: HMAC-SHA256 (RFC 2104) by a secret that all nodes have.
//!
//! The network between nodes may be anybody's: what a node says to another is sealed with whom it is for, when it was
//! said and which one of its sender's it is, so that it is of no use a second time nor anywhere else ([`super::heard`]).
//! An answer is sealed with the question's seal: whoever does not have the secret cannot answer. A seal hides nothing,
//! and the content that follows an answer has none: where the network can be read or written to, peers speak TLS.

use bytes::BufMut as _;

use crate::numbers::Take;

use super::bytes::{Texts as _, put_text};

pub use crate::hmac::{Secret, TAG_BYTES, Tag};

/// The least bytes of a secret: as many as the seal has.
pub const SECRET_BYTES_MIN: usize = 32;
/// The first bytes of all that is said. Another version of it is another first byte.
const VERSION: u8 = 1;
/// What stands before all that is said, and makes it one thing said once to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The node it is for, as the cluster calls it.
    pub to: &'a str,
    /// Which process says it: a number drawn when that began.
    pub sender: u64,
    /// Its number among those of its sender; they grow.
    pub number: u64,
    /// When it was said, in milliseconds of the civil clock.
    pub sent_ms: u64,
}

impl Envelope<'_> {
    /// What is said, sealed; and its seal.
    #[must_use]
    pub fn seal(&self, secret: &Secret, said: &[u8]) -> (Vec<u8>, Tag) {
        let mut out = Vec::with_capacity(said.len() + 96);
        out.put_u8(VERSION);
        put_text(&mut out, self.to.as_bytes());
        out.put_u64_le(self.sender);
        out.put_u64_le(self.number);
        out.put_u64_le(self.sent_ms);
        out.put_slice(said);
        let tag = secret.tag(&[&out]);
        out.put_slice(&tag);
        (out, tag)
    }
}

/// What was said, once its seal was found to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// What stands before it.
    pub envelope: Envelope<'a>,
    /// What is said.
    pub said: &'a [u8],
    /// Its seal.
    pub tag: Tag,
}

/// Looks at the seal, and opens what is good. `None`: it was not sealed with this secret, or by another version.
#[must_use]
pub fn open<'a>(secret: &Secret, bytes: &'a [u8]) -> Option<Opened<'a>> {
    let (sealed, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
    if !secret.is_tag(tag, &[sealed]) {
        return None;
    }
    let mut take = Take(sealed);
    (take.u8()? == VERSION).then_some(())?;
    let envelope =
        Envelope { to: take.text()?, sender: take.u64()?, number: take.u64()?, sent_ms: take.u64()? };
    Some(Opened { envelope, said: take.0, tag: *tag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAID: Envelope<'static> = Envelope { to: "b:1", sender: 2, number: 3, sent_ms: 4 };

    #[test]
    fn what_was_sealed_is_opened_by_the_same_secret_alone() {
        let (secret, other) = (Secret::new(&[1; 32]), Secret::new(&[2; 32]));
        let (sealed, tag) = SAID.seal(&secret, b"said");
        assert_eq!(open(&secret, &sealed), Some(Opened { envelope: SAID, said: b"said", tag }));
        assert_eq!(open(&other, &sealed), None);
    }

    proptest! {
        #[test]
        fn what_was_changed_is_not_opened(at in 0usize..200, bit in 0u8..8) {
            let secret = Secret::new(&[1; 32]);
            let (mut sealed, _) = SAID.seal(&secret, b"said");
            let at = at % sealed.len();
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(open(&secret, &sealed), None);
        }

        #[test]
        fn foreign_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let secret = Secret::new(&[1; 32]);
            let tag = secret.tag(&[&bytes]);
            let _ = open(&secret, &[&bytes[..], &tag].concat());
        }
    }
}
