//! The key itself: what `Idempotency-Key` may say.
//!
//! The draft has a string of Structured Fields, in quotes. Most clients there are send the bare text, as the interfaces
//! did that the draft was made of: both are taken, and mean the same key.

use std::sync::Arc;

use http::HeaderName;

use crate::fields::Fields;

/// The field.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The most characters of a key.
pub const KEY_BYTES_MAX: usize = 255;

/// A key: 1 to [`KEY_BYTES_MAX`] printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

/// Why a key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There are several.
    #[error("Idempotency-Key is there more than once")]
    Twice,
    /// It is neither a string of Structured Fields nor plain text.
    #[error("Idempotency-Key is a text in quotes, or one without spaces and separators")]
    Syntax,
    /// It is empty, or too long.
    #[error("Idempotency-Key has 1 to 255 characters")]
    Length,
}

impl Key {
    /// The key in these fields, if there is one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn of(fields: &Fields) -> Result<Option<Key>, Malformed> {
        let mut values = fields.get_all(&IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Malformed::Twice);
        }
        Key::parse(value.as_bytes()).map(Some)
    }

    /// The key that a field's value says.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(value: &[u8]) -> Result<Key, Malformed> {
        let value = value.trim_ascii();
        let text = match value.first() {
            None => return Err(Malformed::Length),
            Some(b'"') => match sfv::Parser::new(value).parse::<sfv::Item>() {
                Ok(sfv::Item { bare_item: sfv::BareItem::String(text), .. }) => String::from(text),
                _ => return Err(Malformed::Syntax),
            },
            Some(_) if value.iter().all(is_plain) => String::from_utf8_lossy(value).into_owned(),
            Some(_) => return Err(Malformed::Syntax),
        };
        match text.len() {
            1..=KEY_BYTES_MAX => Ok(Key(text.into())),
            _ => Err(Malformed::Length),
        }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character may stand in a key without quotes: what would separate it from another is not its part.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}
