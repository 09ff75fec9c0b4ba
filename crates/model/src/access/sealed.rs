//! What a browser keeps for us and must neither read nor change: sealed by AES-256-GCM, in cookies.
//!
//! The key comes of a configured secret, so that all nodes open what one has sealed. There may be several: the first seals, all
//! open, so that one replaces another without ending anybody's session. A cookie is bound to its name: what was sealed for one
//! purpose is nothing in the place of another. A value that is long is cut over several cookies, and says over how many.

use std::collections::BTreeSet;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use http::header::COOKIE;

use crate::fields::Fields;
use crate::hmac::Secret;

/// The least bytes of a secret.
pub const SECRET_BYTES_MIN: usize = 32;
/// Bytes of chance that a seal takes.
pub const NONCE_BYTES: usize = 12;
/// What one cookie holds: browsers take 4096 bytes, name and attributes included.
const PART_BYTES: usize = 3600;
/// Cookies of one value.
const PARTS_MAX: usize = 4;
const VERSION: u8 = 1;

/// Keys: the first seals, all open.
pub struct Keys(Vec<LessSafeKey>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Keys({} hidden)", self.0.len())
    }
}

impl Keys {
    /// Keys of these secrets, for this use alone.
    #[must_use]
    pub fn new(secrets: &[Vec<u8>], usage: &str) -> Keys {
        let key = |secret: &Vec<u8>| {
            let bytes = Secret::new(secret).tag(&[b"tidegate sealed cookie 1\0", usage.as_bytes()]);
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).expect("a hash is as long as a key"))
        };
        Keys(secrets.iter().map(key).collect())
    }

    /// Seals it as the value of a cookie of this name. The chance must be another one each time.
    #[must_use]
    pub fn seal(&self, name: &str, chance: [u8; NONCE_BYTES], said: &[u8]) -> Option<String> {
        let mut sealed = said.to_vec();
        let nonce = Nonce::assume_unique_for_key(chance);
        self.0.first()?.seal_in_place_append_tag(nonce, Aad::from(name.as_bytes()), &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&[VERSION][..], &chance, &sealed].concat()))
    }

    /// Opens what was sealed for a cookie of this name.
    #[must_use]
    pub fn open(&self, name: &str, value: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (chance, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        (*version == VERSION).then_some(())?;
        self.0.iter().find_map(|key| {
            let mut held = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*chance);
            let length = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut held).ok()?.len();
            held.truncate(length);
            Some(held)
        })
    }
}

/// The pairs in a request's cookies, as they stand there.
fn pairs(request: &Fields) -> impl Iterator<Item = &[u8]> {
    let all = request.get_all(COOKIE).flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    all.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// The cookies of a request, names and values.
pub fn cookies(request: &Fields) -> impl Iterator<Item = (&str, &str)> {
    pairs(request).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
}

/// The value that the cookies of this name and its parts hold.
#[must_use]
pub fn gather(request: &Fields, name: &str) -> Option<String> {
    let (parts, first) = cookies(request).find(|(held, _)| *held == name)?.1.split_once('.')?;
    let parts: usize = parts.parse().ok().filter(|parts| (1..=PARTS_MAX).contains(parts))?;
    let mut value = first.to_owned();
    for part in 1..parts {
        let name = part_of(name, part);
        value.push_str(cookies(request).find(|(held, _)| *held == name)?.1);
    }
    Some(value)
}

/// The lines that set a cookie of this name, over as many parts as it needs; what this browser has of it beyond that goes. `None`: it is too
/// long.
#[must_use]
pub fn set(request: &Fields, name: &str, value: &str, seconds: u64) -> Option<Vec<HeaderValue>> {
    let parts: Vec<&[u8]> = value.as_bytes().chunks(PART_BYTES).collect();
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return None;
    }
    let line = |(place, part): (usize, &&[u8])| {
        let part = std::str::from_utf8(part).ok()?;
        let count = if place == 0 { format!("{}.", parts.len()) } else { String::new() };
        let name = if place == 0 { name.to_owned() } else { part_of(name, place) };
        HeaderValue::from_str(&format!("{name}={count}{part}; Max-Age={seconds}{ATTRIBUTES}")).ok()
    };
    let mut lines: Vec<HeaderValue> = parts.iter().enumerate().map(line).collect::<Option<_>>()?;
    let beyond: Vec<String> = (parts.len()..PARTS_MAX).map(|part| part_of(name, part)).collect();
    lines.extend(gone(request, |held| beyond.iter().any(|name| name == held)));
    Some(lines)
}

/// The lines that take away what this browser has of a cookie of this name, its parts included.
#[must_use]
pub fn forget(request: &Fields, name: &str) -> Vec<HeaderValue> {
    let parts: Vec<String> = (1..PARTS_MAX).map(|part| part_of(name, part)).collect();
    gone(request, |held| held == name || parts.iter().any(|part| part == held))
}

/// The lines that take away what of this browser's cookies is called so, each once.
fn gone(request: &Fields, is: impl Fn(&str) -> bool) -> Vec<HeaderValue> {
    let held: BTreeSet<&str> = cookies(request).map(|(held, _)| held).filter(|held| is(held)).collect();
    held.into_iter()
        .filter_map(|held| HeaderValue::from_str(&format!("{held}=; Max-Age=0{ATTRIBUTES}")).ok())
        .collect()
}

/// Takes out of a request the cookies whose names begin so: they are ours, and an application has no use for them.
pub fn take_out(request: &mut Fields, prefix: &str) {
    let is_ours = |pair: &[u8]| pair.starts_with(prefix.as_bytes());
    if !pairs(request).any(is_ours) {
        return;
    }
    let kept: Vec<&[u8]> = pairs(request).filter(|pair| !is_ours(pair)).collect();
    let kept = kept.join(&b"; "[..]);
    request.remove(COOKIE);
    if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_bytes(&kept)) {
        request.append(COOKIE, value);
    }
}

const ATTRIBUTES: &str = "; Path=/; Secure; HttpOnly; SameSite=Lax";

fn part_of(name: &str, part: usize) -> String {
    format!("{name}.{part}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "__Host-tidegate-main";

    fn keys(secrets: &[u8]) -> Keys {
        Keys::new(&secrets.iter().map(|byte| vec![*byte; 32]).collect::<Vec<_>>(), "main")
    }

    fn request(cookies: &[&str]) -> Fields {
        cookies.iter().map(|cookie| (COOKIE, HeaderValue::from_str(cookie).unwrap())).collect()
    }

    #[test]
    fn what_was_sealed_is_opened_under_its_name_by_any_of_the_keys() {
        let sealed = keys(&[1]).seal(NAME, [9; 12], b"said").unwrap();
        for (secrets, opens) in [(&[1][..], true), (&[2, 1], true), (&[2], false), (&[], false)] {
            assert_eq!(keys(secrets).open(NAME, &sealed).is_some(), opens, "{secrets:?}");
        }
        assert_eq!(keys(&[1]).open("other", &sealed), None);
        assert_eq!(Keys::new(&[vec![1; 32]], "other").open(NAME, &sealed), None);
        assert!(!sealed.contains("said"));
    }

    /// What a browser sends back that was told these lines.
    fn kept(lines: &[HeaderValue]) -> String {
        let pairs = lines.iter().map(|line| line.to_str().unwrap().split(';').next().unwrap());
        pairs.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_long_value_is_cut_over_cookies_and_put_together_again() {
        for length in [1, PART_BYTES, PART_BYTES + 1, PART_BYTES * PARTS_MAX] {
            let value = "v".repeat(length);
            let lines = set(&Fields::default(), NAME, &value, 60).unwrap();
            assert!(lines.iter().all(|line| line.len() < 4000
                && line.to_str().unwrap().contains("; Secure; HttpOnly; SameSite=Lax")));
            // Another, longer one was there before.
            let sent = request(&["a=b", &kept(&lines), &format!("{NAME}.3=stale")]);
            assert_eq!(gather(&sent, NAME), Some(value), "{length}");
            assert_eq!(forget(&sent, NAME).len(), (lines.len() + 1).min(PARTS_MAX));
            let shorter = set(&sent, NAME, "short", 60).unwrap();
            let emptied =
                shorter.iter().filter(|line| line.to_str().unwrap().contains("=; Max-Age=0;")).count();
            assert_eq!((shorter.len(), emptied), (forget(&sent, NAME).len(), forget(&sent, NAME).len() - 1));
        }
        assert_eq!(set(&Fields::default(), NAME, &"v".repeat(PART_BYTES * PARTS_MAX + 1), 60), None);
        assert_eq!(gather(&request(&[&format!("{NAME}=2.v")]), NAME), None, "a part is missing");
        assert_eq!(gather(&request(&[&format!("{NAME}=9.v")]), NAME), None);
    }

    #[test]
    fn our_cookies_are_taken_out_and_others_stay() {
        let mut sent = request(&[&format!("a=b; {NAME}=1.x;; nameless; c=d=e"), &format!("{NAME}.1=y")]);
        sent.append(COOKIE, HeaderValue::from_bytes(b"f=\xff").unwrap());
        take_out(&mut sent, "__Host-tidegate-");
        let left: Vec<&[u8]> = sent.get_all(COOKIE).map(|line| line.as_bytes()).collect();
        assert_eq!(left, [&b"a=b; nameless; c=d=e; f=\xff"[..]]);
        for name in ["a", "nameless", "c", "f"] {
            take_out(&mut sent, name);
        }
        assert!(!sent.contains_key(COOKIE));
    }

    proptest! {
        #[test]
        fn what_was_changed_is_not_opened(at in 0usize..200, byte: u8) {
            let sealed = keys(&[1]).seal(NAME, [9; 12], b"said").unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert_eq!(keys(&[1]).open(NAME, &URL_SAFE_NO_PAD.encode(bytes)), None);
        }

        #[test]
        fn foreign_cookies_break_nothing(text in "[ -~]{0,80}") {
            let sent = request(&[&text, &format!("{NAME}={text}")]);
            if let Some(value) = gather(&sent, NAME) {
                prop_assert_eq!(keys(&[1]).open(NAME, &value), None);
            }
        }
    }
}
