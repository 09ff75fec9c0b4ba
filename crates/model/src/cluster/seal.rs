//! Who says it, and that nobody changed it: HMAC-SHA256 (RFC 2104) by a secret that all nodes have.
//!
//! The network between nodes may be anybody's: what a node says to another is sealed with whom it is for, when it was
//! said and which one of its sender's it is, so that it is of no use a second time nor anywhere else ([`super::heard`]).
//! An answer is sealed with the question's seal: whoever does not have the secret cannot answer. A seal hides nothing,
//! and the content that follows an answer has none: where the network can be read or written to, peers speak TLS.

use bytes::BufMut as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::numbers::Take;

use super::bytes::{Texts as _, put_text};

/// The least bytes of a secret: as many as the seal has.
pub const SECRET_BYTES_MIN: usize = 32;
/// Bytes of a seal.
pub const TAG_BYTES: usize = 32;
/// The first bytes of all that is said. Another version of it is another first byte.
const VERSION: u8 = 1;
/// The block of SHA-256.
const BLOCK: usize = 64;

/// A seal.
pub type Tag = [u8; TAG_BYTES];

/// The secret that all nodes of a cluster have.
#[derive(Clone)]
pub struct Secret {
    /// The hashes begun with the key's two pads.
    inner: Sha256,
    outer: Sha256,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secret(hidden)")
    }
}

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Secret {
        let mut key = [0; BLOCK];
        if bytes.len() > BLOCK {
            key[..TAG_BYTES].copy_from_slice(&Sha256::digest(bytes));
        } else {
            key[..bytes.len()].copy_from_slice(bytes);
        }
        let begun = |pad: u8| Sha256::new_with_prefix(key.map(|byte| byte ^ pad));
        Secret { inner: begun(0x36), outer: begun(0x5c) }
    }

    /// The seal of these bytes, one after the other.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut inner = self.inner.clone();
        parts.iter().for_each(|part| inner.update(part));
        let mut outer = self.outer.clone();
        outer.update(inner.finalize());
        outer.finalize().into()
    }

    /// Whether this is their seal. It takes the same time wherever two seals differ.
    #[must_use]
    pub fn is_tag(&self, tag: &[u8], parts: &[&[u8]]) -> bool {
        self.tag(parts).ct_eq(tag).into()
    }
}

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

    fn check(key: &[u8], data: &[u8], expected: &str) {
        let (whole, halves) = (Secret::new(key).tag(&[data]), data.split_at(data.len() / 2));
        let hex: String = whole.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(whole, Secret::new(key).tag(&[halves.0, halves.1]));
    }

    #[test]
    fn seals_as_rfc_4231_has_it() {
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

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
