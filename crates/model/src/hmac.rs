//! HMAC-SHA256 (RFC 2104): who has said something, and that nobody changed it.
//!
//! The two hashes that each seal begins with are made once a secret. Seals are compared in constant time: how long it takes
//! says nothing of where two of them differ.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Bytes of a seal.
pub const TAG_BYTES: usize = 32;
/// The block of SHA-256.
const BLOCK: usize = 64;

/// A seal.
pub type Tag = [u8; TAG_BYTES];

/// A secret that two have.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
