//! Passwords as they are kept: hashes by argon2id or bcrypt, never the password itself.
//!
//! To verify one takes tens of milliseconds and megabytes on purpose: it is done aside from the cores. What a hash may ask for is
//! bounded, so that no line of a file brings the process down.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, Params};

/// The most memory that a hash may ask for, in KiB.
const MEMORY_KIB_MAX: u32 = 256 << 10;
/// The most rounds of argon2.
const ROUNDS_MAX: u32 = 16;
/// The highest cost of bcrypt: each further one doubles the time.
const COST_MAX: u32 = 14;

/// A password's hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    hash: Box<str>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Argon2,
    Bcrypt,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Password(hidden)")
    }
}

impl Password {
    /// Reads a hash: `$argon2id$…`, `$2b$…`, `$2y$…`.
    ///
    /// # Errors
    /// Why it is none that is taken.
    pub fn parse(hash: &str) -> Result<Password, &'static str> {
        let kind = if hash.starts_with("$argon2id$") {
            let parsed = PasswordHash::new(hash).map_err(|_| "the hash is malformed")?;
            let params =
                Params::try_from(&parsed).map_err(|_| "the hash has parameters that argon2 has not")?;
            if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > ROUNDS_MAX || parsed.hash.is_none() {
                return Err("the hash asks for more than 256 MiB or 16 rounds");
            }
            Kind::Argon2
        } else if ["$2a$", "$2b$", "$2y$"].iter().any(|version| hash.starts_with(version)) {
            let parts: bcrypt::HashParts = hash.parse().map_err(|_| "the hash is malformed")?;
            if parts.get_cost() > COST_MAX {
                return Err("the hash has a cost of more than 14");
            }
            Kind::Bcrypt
        } else {
            return Err(
                "a password is kept as a hash by argon2id or bcrypt: `tidegate key password` makes one",
            );
        };
        Ok(Password { hash: hash.into(), kind })
    }

    /// Makes one by argon2id, with this chance.
    #[must_use]
    pub fn make(password: &[u8], salt: &[u8; 16]) -> Option<String> {
        let made: PasswordHash = Argon2::default().hash_password_with_salt(password, salt).ok()?;
        Some(made.to_string())
    }

    /// Whether this is the password. It takes long.
    #[must_use]
    pub fn is(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Argon2 => Argon2::default().verify_password(password, &*self.hash).is_ok(),
            Kind::Bcrypt => bcrypt::verify(password, &self.hash).unwrap_or(false),
        }
    }

    /// The hash.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The name and the password of `Authorization: Basic` (RFC 7617); `None`: it is malformed.
#[must_use]
pub fn basic(credentials: &str) -> Option<(String, Vec<u8>)> {
    use base64::Engine as _;
    let both = base64::engine::general_purpose::STANDARD.decode(credentials.trim()).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&both[..colon]).ok()?.to_owned();
    let is_sound = !name.chars().any(char::is_control) && !both.iter().any(|byte| byte.is_ascii_control());
    is_sound.then(|| (name, both[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the password `secret`, by the least that there is, so that it takes no time.
    const ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$";

    fn check(hash: &str, password: &str, expected: bool) {
        assert_eq!(Password::parse(hash).unwrap().is(password.as_bytes()), expected, "{hash} {password}");
    }

    #[test]
    fn a_password_is_known_by_its_hash_alone() {
        let made = Password::make(b"secret", &[7; 16]).unwrap();
        assert!(made.starts_with("$argon2id$v=19$m="), "{made}");
        check(&made, "secret", true);
        check(&made, "secreT", false);
        let old = bcrypt::hash_with_salt("secret", 4, [7; 16]).unwrap().to_string();
        check(&old, "secret", true);
        check(&old, "", false);
        check(&old.replacen("$2b$", "$2y$", 1), "secret", true);
    }

    #[test]
    fn what_is_no_hash_or_asks_for_too_much_is_told() {
        for bad in [
            "secret",
            "",
            "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "$apr1$x$y",
            "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0",
            "$2b$31$abcdefghijklmnopqrstuuZ3S0Wc0GmzPkyOKzjJ5cWbC1J1o8Wb6",
            "$2b$xx$",
            ARGON2,
        ] {
            assert!(Password::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn name_and_password_are_parted_at_the_first_colon() {
        assert_eq!(basic("YTpiOmM="), Some(("a".to_owned(), b"b:c".to_vec())));
        for bad in ["", "YQ==", "!", "YQA6Yg=="] {
            assert_eq!(basic(bad), None, "{bad}");
        }
    }
}
