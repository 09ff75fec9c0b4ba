//! Private keys in the store, sealed by a secret of the configuration (AES-256-GCM): whoever reads the store alone has none of them.
//!
//! Without a secret they are there as they are. What was sealed is opened by the same secret for the same place alone.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};
use tidegate_model::hmac::Secret;

/// A text that is nobody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sealed {
    /// As it is.
    Plain(String),
    /// Number and text, base64.
    Aes256Gcm(String),
}

/// Why something cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a private key in the store was sealed by another `[acme] secret`")]
pub struct Locked;

fn key(secret: &[u8]) -> Option<LessSafeKey> {
    let key = Secret::new(secret).tag(&[b"tidegate certificates"]);
    UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
}

/// Seals a text for a place.
///
/// # Errors
/// [`Locked`]: there is no chance to be had.
pub fn seal(secret: Option<&[u8]>, place: &str, text: &str) -> Result<Sealed, Locked> {
    let Some(secret) = secret else { return Ok(Sealed::Plain(text.to_owned())) };
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|_| Locked)?;
    let mut sealed = text.as_bytes().to_vec();
    let key = key(secret).ok_or(Locked)?;
    let number = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(number, Aad::from(place.as_bytes()), &mut sealed).map_err(|_| Locked)?;
    Ok(Sealed::Aes256Gcm(BASE64_STANDARD.encode([&nonce[..], &sealed].concat())))
}

/// Opens it.
///
/// # Errors
/// [`Locked`].
pub fn open(secret: Option<&[u8]>, place: &str, sealed: &Sealed) -> Result<String, Locked> {
    let text = match sealed {
        Sealed::Plain(text) => return Ok(text.clone()),
        Sealed::Aes256Gcm(text) => text,
    };
    let opened = || {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = rest.to_vec();
        let number = Nonce::assume_unique_for_key(*nonce);
        let plain = key(secret?)?.open_in_place(number, Aad::from(place.as_bytes()), &mut rest).ok()?;
        String::from_utf8(plain.to_vec()).ok()
    };
    opened().ok_or(Locked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_secret_for_the_same_place_alone() {
        let sealed = seal(Some(b"secret"), "a.example", "key").unwrap();
        assert!(!serde_json::to_string(&sealed).unwrap().contains("key"));
        let check = |secret: Option<&[u8]>, place| open(secret, place, &sealed).ok();
        assert_eq!(check(Some(b"secret"), "a.example").as_deref(), Some("key"));
        assert_eq!(check(Some(b"secret"), "b.example"), None);
        assert_eq!(check(Some(b"other"), "a.example"), None);
        assert_eq!(check(None, "a.example"), None);
        let plain = seal(None, "a.example", "key").unwrap();
        assert_eq!(open(Some(b"later"), "a.example", &plain).as_deref(), Ok("key"));
    }
}
