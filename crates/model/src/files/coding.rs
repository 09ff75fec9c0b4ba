//! Which compressed siblings of a file would do for a client (RFC 9110 section 12.5.3).

use smallvec::SmallVec;

/// A coding that a file may lie beside itself in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All, the one that is smallest as a rule first.
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// Its name in `Content-Encoding`.
    #[must_use]
    pub fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// What a file's name goes on with.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Zstd => ".zst",
            Coding::Gzip => ".gz",
        }
    }
}

/// The codings that would do for a client that sends these `Accept-Encoding` lines, the best first. None that it likes less
/// than what is not coded. A line that cannot be read asks for nothing.
#[must_use]
pub fn acceptable<'a>(lines: impl Iterator<Item = &'a [u8]>) -> SmallVec<[Coding; 3]> {
    let (mut named, mut others, mut plain) = ([None; 3], None, 0);
    let elements = lines.flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    for element in elements.filter(|element| !element.is_empty()) {
        let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let token = parts.next().unwrap_or_default();
        let quality = parts.next().map_or(1000, quality);
        let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
        if is("identity") {
            plain = quality;
        } else if is("*") {
            others = Some(quality);
        } else if let Some(place) = Coding::ALL.iter().position(|coding| is(coding.token())) {
            named[place] = Some(quality);
        } else if is("x-gzip") {
            named[2] = Some(quality);
        }
    }
    let mut all: SmallVec<[(u16, Coding); 3]> = Coding::ALL
        .into_iter()
        .zip(named)
        .map(|(coding, quality)| (quality.or(others).unwrap_or(0), coding))
        .filter(|(quality, _)| *quality > 0 && *quality >= plain)
        .collect();
    // Stable: of those that the client likes as much, the smallest stays first.
    all.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    all.into_iter().map(|(_, coding)| coding).collect()
}

/// A weight in thousandths. What is none counts as nothing.
fn quality(parameter: &[u8]) -> u16 {
    let [b'q' | b'Q', rest @ ..] = parameter else { return 0 };
    let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else { return 0 };
    match value.trim_ascii() {
        [b'1'] => 1000,
        [b'1', b'.', zeros @ ..] if zeros.len() <= 3 && zeros.iter().all(|&digit| digit == b'0') => 1000,
        [b'0', b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(3);
            padded.fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'))
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Coding::{Brotli, Gzip, Zstd};

    fn check(lines: &[&str], expected: &[Coding]) {
        assert_eq!(acceptable(lines.iter().map(|line| line.as_bytes())).as_slice(), expected, "{lines:?}");
    }

    #[test]
    fn section_12_5_3_the_client_says_what_it_likes_best() {
        check(&[], &[]);
        check(&[""], &[]);
        check(&["gzip"], &[Gzip]);
        check(&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip]);
        check(&["gzip", "br"], &[Brotli, Gzip]);
        check(&["br;q=0.5, gzip;q=0.8"], &[Gzip, Brotli]);
        check(&["BR ; Q=0.001,X-GZIP"], &[Gzip, Brotli]);
        check(&["*"], &[Brotli, Zstd, Gzip]);
        check(&["*;q=0.1, zstd;q=0"], &[Brotli, Gzip]);
    }

    #[test]
    fn section_12_5_3_what_it_does_not_want_or_likes_less_than_none_is_left_out() {
        check(&["br;q=0, gzip;q=0.0"], &[]);
        check(&["identity;q=0.5, br;q=0.4, gzip"], &[Gzip]);
        check(&["identity, gzip;q=0.9"], &[]);
        check(&["identity;q=0, gzip"], &[Gzip]);
    }

    #[test]
    fn what_cannot_be_read_asks_for_nothing() {
        for line in
            ["gzip;q=", "gzip;q=2", "gzip;q=1.5", "gzip;q=0.1234", "gzip;q=-1", "gzip;x=1", "gzip;q", "g zip"]
        {
            check(&[line], &[]);
        }
    }
}
