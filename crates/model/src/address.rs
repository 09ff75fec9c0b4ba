//! Sets of addresses, and the client's real address behind trusted proxies.
//!
//! An IPv4 address that comes mapped into IPv6 (`::ffff:10.0.0.1`, from a dual-stack socket or a header) is
//! the IPv4 address everywhere here: no list is sidestepped by the other spelling.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::HeaderName;
use http::header::FORWARDED;

use crate::fields::Fields;

pub use crate::forwarded::Forwarding;

/// Who the request came through, each proxy appending whom it saw.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A set of networks in CIDR form.
///
/// The networks are kept as they were given, and beside them as sorted, disjoint ranges: a look-up is a
/// binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    networks: Vec<Network>,
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// One network: an address and the number of leading bits that count. No other bit of it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The part before the slash is no address.
    #[error("`{0}` is no IP address")]
    Address(String),
    /// The part after the slash is no number of bits that this address has.
    #[error("`/{0}` is no prefix length: write /0 to /{1}")]
    Bits(String, u8),
    /// The address has bits that do not count: probably a typing error in one part or the other.
    #[error("`{given}` has bits set beyond its prefix: did you mean `{meant}`?")]
    HostBits {
        /// As it was written.
        given: String,
        /// The network it lies in.
        meant: Network,
    },
}

impl AddressSet {
    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// The networks, as they were given.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Whether the address lies in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => within(&self.v4, u32::from(address)),
            IpAddr::V6(address) => within(&self.v6, u128::from(address)),
        }
    }
}

impl FromIterator<Network> for AddressSet {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> AddressSet {
        let networks: Vec<Network> = networks.into_iter().collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in &networks {
            match network.address {
                IpAddr::V4(address) => {
                    let first = u32::from(address);
                    v4.push((first, first | host_mask_v4(network.bits)));
                }
                IpAddr::V6(address) => {
                    let first = u128::from(address);
                    v6.push((first, first | host_mask_v6(network.bits)));
                }
            }
        }
        AddressSet { networks, v4: disjoint(v4), v6: disjoint(v6) }
    }
}

impl fmt::Display for AddressSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.networks.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{network}")?;
        }
        Ok(())
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Reads `10.0.0.0/8`, `2001:db8::/32` or a bare address, a network of its own.
    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address(address.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(digits) => number(digits.as_bytes(), u32::from(most))
                .and_then(|bits| u8::try_from(bits).ok())
                .ok_or_else(|| NetworkError::Bits(digits.to_owned(), most))?,
        };
        let network = Network::around(address, bits);
        let (canonical, _) = unmapped(address, bits);
        if canonical != network.address {
            return Err(NetworkError::HostBits { given: text.to_owned(), meant: network });
        }
        Ok(network)
    }
}

impl Network {
    /// The network with this many leading bits that the address lies in.
    #[must_use]
    pub fn around(address: IpAddr, bits: u8) -> Network {
        match unmapped(address, bits) {
            (IpAddr::V4(address), bits) => {
                let bits = bits.min(32);
                Network { address: Ipv4Addr::from(u32::from(address) & !host_mask_v4(bits)).into(), bits }
            }
            (IpAddr::V6(address), bits) => {
                let bits = bits.min(128);
                Network { address: Ipv6Addr::from(u128::from(address) & !host_mask_v6(bits)).into(), bits }
            }
        }
    }

    /// Its lowest address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = if self.address.is_ipv4() { 32 } else { 128 };
        if self.bits == bare {
            write!(out, "{}", self.address)
        } else {
            write!(out, "{}/{}", self.address, self.bits)
        }
    }
}

/// A mapped IPv4 network as IPv4. `::/0` and the like, larger than all of IPv4, stay IPv6 and hold no IPv4.
fn unmapped(address: IpAddr, bits: u8) -> (IpAddr, u8) {
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(mapped)) if bits >= 96 => (mapped.into(), bits - 96),
        _ => (address, bits),
    }
}

fn host_mask_v4(bits: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn host_mask_v6(bits: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

/// Sorted ranges, those that overlap made one.
fn disjoint<N: Copy + Ord>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut out: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

fn within<N: Copy + Ord>(ranges: &[(N, N)], address: N) -> bool {
    let after = ranges.partition_point(|range| range.0 <= address);
    after > 0 && address <= ranges[after - 1].1
}

fn number(digits: &[u8], most: u32) -> Option<u32> {
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))).filter(|&sum| sum <= most)
}

/// The client's address: the nearest hop that is not a trusted proxy.
///
/// Headers count only if `peer` is trusted. Then `X-Forwarded-For`, or where there is none `Forwarded`
/// (RFC 7239), is walked from its right end, where the nearest proxy appended, to the left; the first
/// address that is not trusted is the client. What stands further left was written by that client and means
/// nothing. An element that cannot be read ends the walk: the proxy that wrote it counts as the client.
///
/// The trusted proxies must append to (or replace) the header that is read here: one that appends to
/// `Forwarded` alone and passes on a client's `X-Forwarded-For` would let that client choose its address.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &Fields, trusted: &AddressSet) -> IpAddr {
    let mut nearest = peer.to_canonical();
    if !trusted.contains(nearest) {
        return nearest;
    }
    let plain = headers.contains_key(&X_FORWARDED_FOR);
    let name = if plain { &X_FORWARDED_FOR } else { &FORWARDED };
    // A comma inside a quoted string cuts an element in two here. No half of it can be read (its quotes do
    // not close), so such an element ends the walk, as it should: no address needs a comma.
    let elements =
        headers.get_all(name).iter().rev().flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
    for element in elements {
        let element = element.trim_ascii();
        if element.is_empty() {
            continue;
        }
        let node = if plain { node(element) } else { forwarded_for(element) };
        let Some(address) = node else { break };
        nearest = address;
        if !trusted.contains(address) {
            break;
        }
    }
    nearest
}

/// Reads an address with an optional port: `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`.
pub(crate) fn node(bytes: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(bytes).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return is_port(port).then(|| IpAddr::V6(address).to_canonical());
    }
    match text.split_once(':') {
        Some((address, port)) if !port.contains(':') => {
            let address: Ipv4Addr = address.parse().ok()?;
            number(port.as_bytes(), 65_535).map(|_| address.into())
        }
        _ => text.parse().ok().map(|address: IpAddr| address.to_canonical()),
    }
}

fn is_port(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| number(port.as_bytes(), 65_535).is_some())
}

/// The `for` of one element of `Forwarded`, if the whole element can be read and has exactly one.
pub(crate) fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let (mut rest, mut found) = (element, None);
    loop {
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (rest[..equals].trim_ascii(), &rest[equals + 1..]);
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return None;
        }
        let (value, after) = value_of(value)?;
        if name.eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            // RFC 7239 wants IPv6 bracketed; a bare one can be read too.
            found = Some(node(value)?);
        }
        match after.trim_ascii_start() {
            [] => return found,
            [b';', more @ ..] => rest = more.trim_ascii_start(),
            _ => return None,
        }
        if rest.is_empty() {
            return found;
        }
    }
}

/// Splits a token or quoted string off the front. An escape within the quotes is kept: no address has one.
fn value_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if let [b'"', quoted @ ..] = bytes {
        let mut at = 0;
        loop {
            match quoted.get(at)? {
                b'"' => return Some((&quoted[..at], &quoted[at + 1..])),
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
    }
    let end = bytes.iter().position(|&byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(bytes.len());
    let value = &bytes[..end];
    // Besides tokens, the colons and brackets that some senders leave unquoted.
    let readable = value.iter().all(|&byte| is_token(byte) || matches!(byte, b':' | b'[' | b']'));
    (!value.is_empty() && readable).then(|| (value, &bytes[end..]))
}

pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn set(networks: &[&str]) -> AddressSet {
        networks.iter().map(|text| text.parse::<Network>().expect(text)).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    /// The client seen through headers `NAME: VALUE`, where 10.0.0.0/8 and fd00::/8 are trusted.
    #[track_caller]
    fn check(peer: &str, lines: &[&str], expected: &str) {
        let mut headers = Fields::default();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a header");
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let trusted = set(&["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(client_address(ip(peer), &headers, &trusted), ip(expected), "{lines:?}");
    }

    #[test]
    fn a_network_is_read_and_shown() {
        for text in ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1"] {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
        assert_eq!("::ffff:10.0.0.0/104".parse::<Network>().expect("mapped").to_string(), "10.0.0.0/8");
        assert_eq!("::ffff:10.0.0.1".parse::<Network>().expect("mapped").to_string(), "10.0.0.1");
        assert_eq!(set(&["10.0.0.0/8", "::1"]).to_string(), "10.0.0.0/8, ::1");
        for (text, why) in [
            ("10.0.0/8", "`10.0.0` is no IP address"),
            ("10.0.0.0/33", "`/33` is no prefix length: write /0 to /32"),
            ("::/+1", "`/+1` is no prefix length: write /0 to /128"),
            ("10.1.2.3/8", "`10.1.2.3/8` has bits set beyond its prefix: did you mean `10.0.0.0/8`?"),
            (
                "::ffff:10.1.2.3/104",
                "`::ffff:10.1.2.3/104` has bits set beyond its prefix: did you mean `10.0.0.0/8`?",
            ),
        ] {
            assert_eq!(text.parse::<Network>().expect_err(text).to_string(), why);
        }
    }

    #[test]
    fn both_spellings_of_an_ipv4_address_are_in_the_set() {
        let networks = set(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
        for inside in ["10.255.0.1", "::ffff:10.0.0.1", "192.0.2.7", "2001:db8:ffff::"] {
            assert!(networks.contains(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.0", "9.255.255.255", "192.0.2.8", "2001:db9::", "::10.0.0.1"] {
            assert!(!networks.contains(ip(outside)), "{outside}");
        }
        assert!(!AddressSet::default().contains(ip("10.0.0.1")));
        assert!(!set(&["::/0"]).contains(ip("::ffff:1.2.3.4")));
    }

    #[test]
    fn headers_of_an_untrusted_peer_mean_nothing() {
        check("192.0.2.1", &["x-forwarded-for: 10.0.0.1"], "192.0.2.1");
        check("192.0.2.1", &["forwarded: for=10.0.0.1"], "192.0.2.1");
        check("::ffff:192.0.2.1", &[], "192.0.2.1");
    }

    #[test]
    fn the_nearest_untrusted_hop_is_the_client() {
        check("10.0.0.1", &[], "10.0.0.1");
        check("::ffff:10.0.0.1", &["x-forwarded-for: 192.0.2.1"], "192.0.2.1");
        check("10.0.0.1", &["x-forwarded-for: 6.6.6.6, 192.0.2.1, 10.0.0.2"], "192.0.2.1");
        check(
            "10.0.0.1",
            &["x-forwarded-for: 6.6.6.6", "x-forwarded-for: 192.0.2.1,,10.0.0.2 , "],
            "192.0.2.1",
        );
        check("10.0.0.1", &["x-forwarded-for: 10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check("10.0.0.1", &["x-forwarded-for: 192.0.2.1:4711"], "192.0.2.1");
        check("10.0.0.1", &["x-forwarded-for: [2001:db8::1]:4711, ::ffff:10.0.0.2"], "2001:db8::1");
        check("10.0.0.1", &["x-forwarded-for: 2001:db8::1"], "2001:db8::1");
        check("10.0.0.1", &["forwarded: for=6.6.6.6, FOR=\"[2001:db8::1]:4711\";proto=https"], "2001:db8::1");
        check(
            "fd00::1",
            &["forwarded: proto=http; for=192.0.2.1;by=10.0.0.1, for=\"10.0.0.2:80\""],
            "192.0.2.1",
        );
        check("10.0.0.1", &["forwarded: for=6.6.6.6", "x-forwarded-for: 192.0.2.1"], "192.0.2.1");
    }

    #[test]
    fn an_element_that_cannot_be_read_ends_the_walk() {
        for bad in [
            "unknown",
            "1.2.3",
            "1.2.3.4:x",
            "1.2.3.4:65536",
            "[::1",
            "[::1]x",
            "fe80::1%eth0",
            "\"1.2.3.4\"",
        ] {
            check("10.0.0.1", &[&format!("x-forwarded-for: 6.6.6.6, {bad}, 10.0.0.2")], "10.0.0.2");
        }
        for bad in [
            "for=unknown",
            "for=_hidden",
            "by=1.2.3.4",
            "for",
            "for=",
            "for=1.2.3.4;for=6.6.6.6",
            "for=\"1.2.3.4",
        ] {
            check("10.0.0.1", &[&format!("forwarded: for=6.6.6.6, {bad}, for=10.0.0.2")], "10.0.0.2");
        }
    }

    #[test]
    fn quotes_smuggle_no_element_into_forwarded() {
        check("10.0.0.1", &["forwarded: for=\"6.6.6.6, for=192.0.2.1"], "192.0.2.1");
        check("10.0.0.1", &["forwarded: for=192.0.2.1;host=\"a, for=6.6.6.6\""], "10.0.0.1");
        check("10.0.0.1", &["forwarded: for=192.0.2.1;host=\"a, for=6.6.6.6;x=\\\"\""], "10.0.0.1");
        check("10.0.0.1", &["forwarded: for=192.0.2.1;host=\"a;for=6.6.6.6;b\""], "192.0.2.1");
    }

    proptest! {
        #[test]
        fn a_set_holds_what_one_of_its_networks_holds(
            given in prop::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let networks: Vec<Network> =
                given.iter().map(|&(word, bits)| Network::around(Ipv4Addr::from(word).into(), bits)).collect();
            let set: AddressSet = networks.iter().copied().collect();
            let near = given.iter().flat_map(|&(word, _)| [word, word.wrapping_add(1), word.wrapping_sub(1)]);
            for probe in probes.into_iter().chain(near) {
                let address = IpAddr::from(Ipv4Addr::from(probe));
                let expected = networks.iter().any(|network| Network::around(address, network.bits) == *network);
                prop_assert_eq!(set.contains(address), expected);
            }
        }

        #[test]
        fn survives_any_header(value in "[ -~]*") {
            let trusted = set(&["0.0.0.0/0"]);
            for name in [&X_FORWARDED_FOR, &FORWARDED] {
                let mut headers = Fields::default();
                headers.insert(name, HeaderValue::from_str(&value).expect("printable"));
                let _ = client_address(ip("10.0.0.1"), &headers, &trusted);
            }
        }
    }
}
