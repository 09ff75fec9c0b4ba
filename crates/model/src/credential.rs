//! API keys: stored as digests, compared in constant time.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of an API key. Comparison takes the same time wherever two digests differ.
#[derive(Clone, Copy)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a key as the client sends it.
    #[must_use]
    pub fn of(key: &[u8]) -> Digest {
        Digest(Sha256::digest(key).into())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Digest) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl std::fmt::Debug for Digest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Digest(hidden)")
    }
}
