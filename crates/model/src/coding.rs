//! The codings that content comes in: which would do for a client (RFC 9110 section 12.5.3), and in which a request has come.

use http::header::CONTENT_ENCODING;
use smallvec::SmallVec;

use crate::fields::Fields;

/// A coding that answers are told in: a compressed sibling of a file, or what Tidegate has compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All, the one that makes files smallest as a rule first.
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
    Accepted::of(lines).best(&Coding::ALL)
}

/// What a client's `Accept-Encoding` says, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// Of each coding, in the order of [`Coding::ALL`], where it is named.
    named: [Option<u16>; 3],
    /// Of what is not named.
    others: Option<u16>,
    /// Of what is not coded.
    plain: Option<u16>,
}

impl Accepted {
    /// Reads these lines.
    #[must_use]
    pub fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Accepted {
        let mut accepted = Accepted::default();
        let elements = lines.flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        for element in elements.filter(|element| !element.is_empty()) {
            let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let token = parts.next().unwrap_or_default();
            let quality = Some(parts.next().map_or(1000, quality));
            let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
            if is("identity") {
                accepted.plain = quality;
            } else if is("*") {
                accepted.others = quality;
            } else if let Some(place) = Coding::ALL.iter().position(|coding| is(coding.token())) {
                accepted.named[place] = quality;
            } else if is("x-gzip") {
                accepted.named[2] = quality;
            }
        }
        accepted
    }

    /// Those of these codings that would do, the best first; of those that the client likes as much, in the order given.
    /// None that it likes less than what is not coded.
    #[must_use]
    pub fn best(&self, order: &[Coding]) -> SmallVec<[Coding; 3]> {
        let plain = self.plain.unwrap_or(0);
        let weigh = |coding: &Coding| {
            let place = Coding::ALL.iter().position(|one| one == coding).unwrap_or_default();
            (self.named[place].or(self.others).unwrap_or(0), *coding)
        };
        let mut all: SmallVec<[(u16, Coding); 3]> =
            order.iter().map(weigh).filter(|(quality, _)| *quality > 0 && *quality >= plain).collect();
        // Stable: of those that the client likes as much, the first stays first.
        all.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
        all.into_iter().map(|(_, coding)| coding).collect()
    }

    /// Whether the client takes what is not coded: it does unless it says that it does not.
    #[must_use]
    pub fn plain(&self) -> bool {
        self.plain.or(self.others.filter(|others| *others == 0)) != Some(0)
    }
}

/// A coding that a request's content may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// One in which answers are told, too.
    Coding(Coding),
    /// RFC 1950, or, as some mean it, RFC 1951 alone.
    Deflate,
}

/// A request's content comes in a coding that is not known, or in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not known.
    Unknown,
    /// One upon the other.
    Several,
}

impl Packing {
    /// What is told of those that are known, in `Accept-Encoding`.
    pub const TOLD: &str = "br, deflate, gzip, zstd";

    /// In which coding a request's content comes. `None`: in none.
    ///
    /// # Errors
    /// In one that is not known, or in more than one.
    pub fn of(fields: &Fields) -> Result<Option<Packing>, Unreadable> {
        let lines = fields.get_all(CONTENT_ENCODING);
        let tokens =
            lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        let mut packing = None;
        for token in tokens.filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case(b"identity")) {
            let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
            let known = Coding::ALL.into_iter().find(|coding| is(coding.token())).map(Packing::Coding);
            let known = known
                .or_else(|| is("x-gzip").then_some(Packing::Coding(Coding::Gzip)))
                .or_else(|| is("deflate").then_some(Packing::Deflate))
                .ok_or(Unreadable::Unknown)?;
            if packing.replace(known).is_some() {
                return Err(Unreadable::Several);
            }
        }
        Ok(packing)
    }

    /// Its name.
    #[must_use]
    pub fn token(self) -> &'static str {
        match self {
            Packing::Coding(coding) => coding.token(),
            Packing::Deflate => "deflate",
        }
    }
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

    #[test]
    fn among_those_that_the_client_likes_as_much_the_first_given_comes_first() {
        let best = |line: &str, order: &[Coding]| Accepted::of([line.as_bytes()].into_iter()).best(order);
        assert_eq!(best("gzip, br, zstd", &[Zstd, Gzip]).as_slice(), &[Zstd, Gzip]);
        assert_eq!(best("gzip;q=0.9, zstd;q=0.8", &[Zstd, Gzip]).as_slice(), &[Gzip, Zstd]);
        assert!(best("br", &[Zstd, Gzip]).is_empty());
    }

    #[test]
    fn section_12_5_3_what_is_not_coded_is_taken_unless_it_is_refused() {
        for (line, plain) in [
            ("", true),
            ("gzip", true),
            ("identity;q=0", false),
            ("*;q=0", false),
            ("*;q=0, identity;q=0.1", true),
            ("gzip, *;q=0", false),
            ("*;q=0.5", true),
        ] {
            assert_eq!(Accepted::of([line.as_bytes()].into_iter()).plain(), plain, "{line}");
        }
    }

    #[test]
    fn a_request_comes_in_one_coding_that_is_known_or_is_not_read() {
        for (line, expected) in [
            ("", Ok(None)),
            ("identity", Ok(None)),
            ("GZIP", Ok(Some(Packing::Coding(Gzip)))),
            ("x-gzip, identity", Ok(Some(Packing::Coding(Gzip)))),
            ("deflate", Ok(Some(Packing::Deflate))),
            ("br", Ok(Some(Packing::Coding(Brotli)))),
            ("zstd", Ok(Some(Packing::Coding(Zstd)))),
            ("gzip, gzip", Err(Unreadable::Several)),
            ("compress", Err(Unreadable::Unknown)),
            ("dcz", Err(Unreadable::Unknown)),
            ("gzip;q=1", Err(Unreadable::Unknown)),
        ] {
            let mut fields = Fields::default();
            fields.append(CONTENT_ENCODING, http::HeaderValue::from_static(line));
            assert_eq!(Packing::of(&fields), expected, "{line}");
        }
        let told: Vec<&str> = Packing::TOLD.split(", ").collect();
        assert!(Coding::ALL.iter().all(|coding| told.contains(&coding.token())));
    }
}
