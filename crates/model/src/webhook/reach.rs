//! Which URLs and addresses may be called on behalf of a tenant.
//!
//! A tenant names a URL, and Tidegate calls it from within the operator's network: without a guard it could be made to call
//! what only that network reaches (server-side request forgery). Two decisions stop that. A *URL* has to be `https` (or
//! `http`, where the operator allows it), name a host and nothing else: no credentials, no port of another service, no
//! number in the place of a name. An *address* has to be public: every one that the name resolves to is looked at, and
//! connected to is the one that was looked at. Asking a name twice would let it answer differently (DNS rebinding).
//!
//! What is public is what IANA's registries of special-purpose addresses do not list. An IPv4 address within an IPv6 one
//! (mapped, or NAT64's) is judged as what it is; 6to4, Teredo and ISATAP, which carry one through a relay or a tunnel, are refused
//! whole. The operator may allow networks of its own that are not public, and refuse some that are: addresses of its own hosts that
//! only a firewall keeps others from, as IPv6 within a cloud mostly has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use http::uri::Scheme;

use crate::address::AddressSet;
use crate::host;

/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 2000;

/// Networks of IPv4 that are not public: prefix, bits, and what they are.
const SPECIAL_V4: [([u8; 4], u32, &str); 17] = [
    ([0, 0, 0, 0], 8, "this network"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "shared by a carrier's NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([168, 63, 129, 16], 32, "a cloud's metadata"),
    ([169, 254, 0, 0], 16, "link-local (a cloud's metadata)"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "for protocols"),
    ([192, 0, 2, 0], 24, "for documentation"),
    ([192, 88, 99, 0], 24, "6to4's relays"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "for benchmarks"),
    ([198, 51, 100, 0], 24, "for documentation"),
    ([203, 0, 113, 0], 24, "for documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// The same of IPv6; of what stands first counts.
const SPECIAL_V6: [([u16; 8], u32, &str); 14] = [
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "a local NAT64"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discarded"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "for benchmarks"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "for protocols"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private (unique local)"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// The well-known prefix of NAT64 (RFC 6052): the last four bytes are an IPv4 address.
const NAT64: u128 = 0x0064_ff9b << 96;

/// The second half of an address's interface part within ISATAP (RFC 5214), but for the bit that says whether it is unique: an
/// IPv4 address follows, and a host with such an interface would send there.
const ISATAP: u128 = 0x5efe;

/// What an operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Networks that may be called although they are not public.
    pub allow: AddressSet,
    /// Networks that may not be called although they are public, or although `allow` holds them.
    pub deny: AddressSet,
    /// Ports that may be called; empty: 80, 443, and from 1024 on.
    pub ports: Vec<u16>,
    /// Whether `http` is allowed beside `https`.
    pub plaintext: bool,
}

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// The host: a name in lower case, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The value of `Host`.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// Why something may not be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Not a URL with a host.
    #[error("it is no URL with a host")]
    Url,
    /// Longer than a URL may be.
    #[error("a URL has at most {URL_BYTES_MAX} bytes")]
    TooLong,
    /// Another scheme than is allowed.
    #[error("its scheme has to be {}", if *plaintext { "https or http" } else { "https" })]
    Scheme {
        /// Whether `http` would have been allowed.
        plaintext: bool,
    },
    /// A name or a password in it.
    #[error("it holds credentials: use a header of the destination")]
    Credentials,
    /// A number in the place of a name, or no name at all.
    #[error("`{0}` is no host name")]
    Host(String),
    /// A port that is not called.
    #[error("port {0} is not allowed")]
    Port(u16),
    /// An address that is not public.
    #[error("{address} is not public: it is {what}")]
    Address {
        /// Which.
        address: IpAddr,
        /// What it is.
        what: &'static str,
    },
    /// An address that the operator refuses.
    #[error("{0} may not be called here")]
    Denied(IpAddr),
    /// A name without any.
    #[error("`{0}` has no address")]
    NoAddress(String),
}

impl Reach {
    /// Where a URL leads, if it may be called. What its host resolves to is looked at when it is.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub fn place(&self, url: &str) -> Result<Place, Unreachable> {
        if url.len() > URL_BYTES_MAX {
            return Err(Unreachable::TooLong);
        }
        // Before the parser takes it away.
        let uri: Uri = url.parse().map_err(|_| Unreachable::Url)?;
        let authority = uri.authority().ok_or(Unreachable::Url)?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP && self.plaintext => false,
            _ => return Err(Unreachable::Scheme { plaintext: self.plaintext }),
        };
        if authority.as_str().contains('@') {
            return Err(Unreachable::Credentials);
        }
        let given =
            host::normalize(authority.as_str()).map_err(|_| Unreachable::Host(authority.to_string()))?;
        let bare = given.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse::<IpAddr>().ok();
        if address.is_none() && ends_in_a_number(bare) {
            return Err(Unreachable::Host(bare.to_owned()));
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // `:` and no number after it is a port that was not said.
        if port == 0 || !self.is_port(port) {
            return Err(Unreachable::Port(port));
        }
        if let Some(address) = address {
            self.address(address)?;
        }
        let authority =
            if port == if tls { 443 } else { 80 } { given.to_string() } else { format!("{given}:{port}") };
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            rooted if rooted.starts_with('/') => rooted.to_owned(),
            // A query behind the host alone.
            query => format!("/{query}"),
        };
        Ok(Place { tls, host: bare.to_owned(), port, authority, path })
    }

    fn is_port(&self, port: u16) -> bool {
        if self.ports.is_empty() {
            port == 80 || port == 443 || port >= 1024
        } else {
            self.ports.contains(&port)
        }
    }

    /// Whether an address may be called.
    ///
    /// # Errors
    /// What it is, if it is not public and not allowed.
    pub fn address(&self, address: IpAddr) -> Result<(), Unreachable> {
        match special(address) {
            _ if self.denies(address) => Err(Unreachable::Denied(address)),
            Some(what) if !self.allow.contains(address) => Err(Unreachable::Address { address, what }),
            _ => Ok(()),
        }
    }

    /// Whether an address is refused by name, as it is written or as the IPv4 address that NAT64 makes of it.
    fn denies(&self, address: IpAddr) -> bool {
        let carried = match address {
            IpAddr::V6(address) => of_nat64(address).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        self.deny.contains(address) || carried.is_some_and(|carried| self.deny.contains(carried))
    }

    /// The addresses of a name, if every one of them may be called: who owns a name that leads inside as well as outside
    /// only waits for the right one to be picked.
    ///
    /// # Errors
    /// The first that may not; or that there is none.
    pub fn addresses(&self, host: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, Unreachable> {
        if found.is_empty() {
            return Err(Unreachable::NoAddress(host.to_owned()));
        }
        found.iter().try_for_each(|address| self.address(*address))?;
        Ok(found)
    }
}

/// Whether resolvers of old would take a name for an address: `2130706433`, `0x7f.1`, `127.1`.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// What an address is, if it is not public.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let word = u32::from(address);
    let within = |prefix: [u8; 4], bits: u32| (word ^ u32::from_be_bytes(prefix)) >> (32 - bits) == 0;
    SPECIAL_V4.iter().find(|(prefix, bits, _)| within(*prefix, *bits)).map(|(_, _, what)| *what)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let word = u128::from(address);
    if let Some(carried) = of_nat64(address) {
        return special_v4(carried);
    }
    if (word >> 32) & 0xfdff_ffff == ISATAP {
        return Some("ISATAP");
    }
    let within = |prefix: [u16; 8], bits: u32| {
        let prefix = u128::from(Ipv6Addr::from(prefix));
        (word ^ prefix) >> (128 - bits) == 0
    };
    let listed = SPECIAL_V6.iter().find(|(prefix, bits, _)| within(*prefix, *bits)).map(|(_, _, what)| *what);
    // What is not listed and not within 2000::/3 was not given to anybody yet.
    listed.or_else(|| (word >> 125 != 1).then_some("reserved"))
}

/// The IPv4 address that a NAT64 makes of one with the well-known prefix.
fn of_nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let word = u128::from(address);
    (word >> 32 == NAT64 >> 32).then(|| Ipv4Addr::from(word as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Network;
    use proptest::prelude::*;

    fn reach(allow: &[&str]) -> Reach {
        let allow = allow.iter().map(|network| network.parse::<Network>().unwrap()).collect();
        Reach { allow, ..Reach::default() }
    }

    fn check(address: &str, expected: Option<&str>) {
        assert_eq!(special(address.parse().unwrap()), expected, "{address}");
    }

    #[test]
    fn what_is_not_public_is_known() {
        for (address, what) in [
            ("0.0.0.0", "this network"),
            ("10.1.2.3", "private"),
            ("100.64.0.1", "shared by a carrier's NAT"),
            ("100.100.100.200", "shared by a carrier's NAT"),
            ("127.0.0.1", "loopback"),
            ("168.63.129.16", "a cloud's metadata"),
            ("169.254.169.254", "link-local (a cloud's metadata)"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "for protocols"),
            ("192.0.2.1", "for documentation"),
            ("192.168.1.1", "private"),
            ("198.19.0.1", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("250.0.0.1", "reserved"),
            ("::1", "loopback"),
            ("::", "unspecified"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.0.0.1", "private"),
            ("::7f00:1", "reserved"),
            ("64:ff9b::a00:1", "private"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b:1::808:808", "a local NAT64"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "for benchmarks"),
            ("2001:20::1", "for protocols"),
            ("2001:db8::1", "for documentation"),
            ("2002:a00:1::", "6to4"),
            ("2002:808:808::", "6to4"),
            ("3fff::1", "for documentation"),
            ("fd00:ec2::254", "private (unique local)"),
            ("fe80::1", "link-local"),
            ("fec0::1", "reserved"),
            ("ff02::1", "multicast"),
            ("4000::1", "reserved"),
            ("::ffff:0:10.0.0.1", "reserved"),
            ("::10.0.0.1", "reserved"),
            ("2606:4700::5efe:10.0.0.1", "ISATAP"),
            ("2606:4700::200:5efe:8.8.8.8", "ISATAP"),
        ] {
            check(address, Some(what));
        }
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
            "2606:4700::5eff:1",
        ] {
            check(public, None);
        }
    }

    #[test]
    fn every_address_of_a_name_has_to_be_public_or_allowed() {
        let found = |reach: Reach, addresses: &[&str]| {
            reach.addresses("a.example", addresses.iter().map(|one| one.parse().unwrap()).collect()).is_ok()
        };
        assert!(found(reach(&[]), &["1.1.1.1", "2606:4700::1111"]));
        assert!(!found(reach(&[]), &["1.1.1.1", "10.0.0.1"]));
        assert!(found(reach(&["10.0.0.0/24"]), &["1.1.1.1", "10.0.0.1"]));
        assert!(found(reach(&["10.0.0.0/24"]), &["::ffff:10.0.0.1"]));
        assert!(!found(reach(&["10.0.0.0/24"]), &["10.0.1.1"]));
        assert!(!found(reach(&[]), &[]));
    }

    #[test]
    fn what_the_operator_refuses_is_not_called_although_it_is_public_or_allowed() {
        let deny =
            ["8.8.8.0/24", "2606:4700::/32", "10.0.0.7"].map(|network| network.parse::<Network>().unwrap());
        let reach = Reach { deny: deny.into_iter().collect(), ..reach(&["10.0.0.0/8"]) };
        let check = |address: &str, expected: bool| {
            assert_eq!(reach.address(address.parse().unwrap()).is_ok(), expected, "{address}");
        };
        for refused in ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1", "10.0.0.7"] {
            check(refused, false);
        }
        for taken in ["8.8.4.4", "10.0.0.8", "2606:4701::1"] {
            check(taken, true);
        }
    }

    fn place(url: &str) -> Result<Place, Unreachable> {
        Reach { plaintext: true, ..reach(&["10.0.0.0/8"]) }.place(url)
    }

    #[test]
    fn a_url_leads_to_a_place() {
        let made = |tls, host: &str, port, authority: &str, path: &str| Place {
            tls,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: path.to_owned(),
        };
        let check = |url: &str, expected: Place| assert_eq!(place(url), Ok(expected), "{url}");
        check(
            "https://Hooks.Example.com/a?b=c#d",
            made(true, "hooks.example.com", 443, "hooks.example.com", "/a?b=c"),
        );
        check("https://a.example:443", made(true, "a.example", 443, "a.example", "/"));
        check("http://a.example:8080/", made(false, "a.example", 8080, "a.example:8080", "/"));
        check("https://10.0.0.1/x", made(true, "10.0.0.1", 443, "10.0.0.1", "/x"));
        check("https://a.example?x=1", made(true, "a.example", 443, "a.example", "/?x=1"));
        check(
            "https://[2606:4700::1111]:8443/",
            made(true, "2606:4700::1111", 8443, "[2606:4700::1111]:8443", "/"),
        );
    }

    #[test]
    fn refuses_urls_that_lead_astray() {
        let check = |url: &str, expected: Unreachable| assert_eq!(place(url), Err(expected), "{url}");
        for url in ["", "/path", "a b", "https://"] {
            check(url, Unreachable::Url);
        }
        check("ftp://a.example/", Unreachable::Scheme { plaintext: true });
        check("file://a/etc/passwd", Unreachable::Scheme { plaintext: true });
        check("https://user:secret@a.example/", Unreachable::Credentials);
        check("https://a.example@10.0.0.1/", Unreachable::Credentials);
        for (url, port) in
            [("https://a.example:22/", 22), ("https://a.example:25/", 25), ("https://a.example:0/", 0)]
        {
            check(url, Unreachable::Port(port));
        }
        for host in ["2130706433", "127.1", "0x7f.1", "0x7f000001", "a.0x7f", "0177.0.0.1"] {
            check(&format!("https://{host}/"), Unreachable::Host(host.to_owned()));
        }
        assert!(matches!(place("https://127.0.0.1/"), Err(Unreachable::Address { .. })));
        assert!(matches!(place("https://[::ffff:127.0.0.1]/"), Err(Unreachable::Address { .. })));
        check(&format!("https://a.example/{}", "a".repeat(URL_BYTES_MAX)), Unreachable::TooLong);
        assert_eq!(reach(&[]).place("http://a.example/"), Err(Unreachable::Scheme { plaintext: false }));
        let ports = Reach { ports: vec![8443], ..Reach::default() };
        assert_eq!(ports.place("https://a.example/"), Err(Unreachable::Port(443)));
    }

    proptest! {
        #[test]
        fn nothing_that_the_standard_library_knows_to_be_special_is_public(word: u32, near in 0usize..17) {
            let (prefix, bits, _) = SPECIAL_V4[near];
            let mask = u32::MAX.checked_shr(bits).unwrap_or(0);
            for word in [word, u32::from_be_bytes(prefix) | word & mask] {
                let address = Ipv4Addr::from(word);
                let known = address.is_loopback() || address.is_private() || address.is_link_local()
                    || address.is_multicast() || address.is_documentation() || address.is_broadcast()
                    || address.is_unspecified();
                prop_assert!(!known || special_v4(address).is_some(), "{}", address);
                let mapped = IpAddr::V6(address.to_ipv6_mapped());
                prop_assert_eq!(special(mapped), special_v4(address));
                let nat64 = Ipv6Addr::from(NAT64 | u128::from(word));
                prop_assert_eq!(special(nat64.into()), special_v4(address));
            }
        }

        #[test]
        fn nor_of_ipv6(word: u128, near in 0usize..14) {
            let (prefix, bits, _) = SPECIAL_V6[near];
            let mask = u128::MAX.checked_shr(bits).unwrap_or(0);
            let within = Ipv6Addr::from(u128::from(Ipv6Addr::from(prefix)) | word & mask);
            prop_assert!(special_v6(within).is_some(), "{}", within);
            let address = Ipv6Addr::from(word);
            let known = address.is_loopback() || address.is_unspecified() || address.is_multicast()
                || address.is_unique_local() || address.is_unicast_link_local();
            prop_assert!(!known || special_v6(address).is_some(), "{}", address);
        }

        #[test]
        fn whatever_url_passes_says_where_it_leads(url in "(https?://)?[ -~]{0,60}") {
            if let Ok(place) = place(&url) {
                prop_assert!(!place.host.is_empty() && place.path.starts_with('/') && !place.authority.contains('@'));
                prop_assert!(http::HeaderValue::from_str(&place.authority).is_ok());
            }
        }
    }
}
