//! The PROXY protocol, versions 1 and 2: a balancer before us tells the client's address.
//!
//! Strict: a connection on such a listener that does not begin with a whole, valid header is closed.
//! Pure parsing; specification: HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most bytes of a header; version 2 allows more, in extensions that nobody here reads.
pub const HEADER_MAX: usize = 4096;
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_MAX: usize = 107;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Partial,
    /// A header of so many bytes, and the addresses it tells: the client's and the one it connected to. `None`: the
    /// balancer speaks for itself (health checks).
    Header {
        /// Bytes to skip.
        length: usize,
        /// Client and destination.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
    /// No header.
    Invalid,
}

/// Parses the beginning of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.len() < 12 {
        let maybe = SIGNATURE_V2.starts_with(bytes) || b"PROXY ".starts_with(&bytes[..bytes.len().min(6)]);
        return if maybe { Parsed::Partial } else { Parsed::Invalid };
    }
    if bytes.starts_with(SIGNATURE_V2) { parse_v2(bytes) } else { parse_v1(bytes) }
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let Some(rest) = bytes.strip_prefix(b"PROXY ") else { return Parsed::Invalid };
    // The bound holds for the whole line: whether it comes in one piece or in several makes no difference.
    let window = &rest[..rest.len().min(V1_MAX - 6)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAX { Parsed::Partial } else { Parsed::Invalid };
    };
    let length = 6 + end + 2;
    let Ok(line) = std::str::from_utf8(&rest[..end]) else { return Parsed::Invalid };
    let parts: Vec<&str> = line.split(' ').collect();
    match parts.as_slice() {
        ["UNKNOWN", ..] => Parsed::Header { length, addresses: None },
        [family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |ip: &str, port: &str| {
                let ip: IpAddr = ip.parse().ok()?;
                let port: u16 = port.parse().ok().filter(|_| !port.starts_with('+'))?;
                (ip.is_ipv4() == (*family == "TCP4")).then_some(SocketAddr::new(ip, port))
            };
            match (address(source, source_port), address(destination, destination_port)) {
                (Some(source), Some(destination)) => {
                    Parsed::Header { length, addresses: Some((source, destination)) }
                }
                _ => Parsed::Invalid,
            }
        }
        _ => Parsed::Invalid,
    }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some(&[version_command, family, high, low]) = bytes.get(12..16) else { return Parsed::Partial };
    let body_length = usize::from(u16::from_be_bytes([high, low]));
    let length = 16 + body_length;
    if version_command >> 4 != 2 || version_command & 15 > 1 || length > HEADER_MAX {
        return Parsed::Invalid;
    }
    let Some(body) = bytes.get(16..length) else { return Parsed::Partial };
    let local = version_command & 15 == 0;
    match (local, family) {
        (true, _) | (false, 0x00) => Parsed::Header { length, addresses: None },
        (false, 0x11) => addresses::<4>(body, length, |ip| Ipv4Addr::from(ip).into()),
        (false, 0x21) => addresses::<16>(body, length, |ip| Ipv6Addr::from(ip).into()),
        _ => Parsed::Invalid,
    }
}

fn addresses<const N: usize>(body: &[u8], length: usize, ip: impl Fn([u8; N]) -> IpAddr) -> Parsed {
    let read = || {
        let (source, rest) = body.split_first_chunk::<N>()?;
        let (destination, rest) = rest.split_first_chunk::<N>()?;
        let (source_port, rest) = rest.split_first_chunk::<2>()?;
        let (destination_port, _) = rest.split_first_chunk::<2>()?;
        Some((
            SocketAddr::new(ip(*source), u16::from_be_bytes(*source_port)),
            SocketAddr::new(ip(*destination), u16::from_be_bytes(*destination_port)),
        ))
    };
    read().map_or(Parsed::Invalid, |addresses| Parsed::Header { length, addresses: Some(addresses) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE_V2[..], &[version_command, family], &length, body].concat()
    }

    /// Every whole header is found, and every beginning of it is a beginning.
    fn check(header: &[u8], client: Option<&str>) {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Parsed::Partial, "{cut} of {header:?}");
        }
        let expected = client.map(|client| client.parse::<SocketAddr>().unwrap());
        match parse(&[header, b"GET /"].concat()) {
            Parsed::Header { length, addresses } => {
                assert_eq!((length, addresses.map(|(client, _)| client)), (header.len(), expected));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_both_versions() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Some("192.0.2.1:56324"));
        check(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", Some("[2001:db8::1]:1"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(
            &v2(0x21, 0x11, &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 187, 3, 0, 0]),
            Some("192.0.2.1:56324"),
        );
        check(&v2(0x20, 0x00, &[]), None);
    }

    #[test]
    fn refuses_anything_else() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 4]),
            &[&b"PROXY "[..], &[b'x'; 200]].concat(),
        ] {
            assert_eq!(parse(bad), Parsed::Invalid, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), signed in any::<bool>()) {
            let bytes = if signed { [&SIGNATURE_V2[..], &bytes].concat() } else { bytes };
            let _ = parse(&bytes);
        }
    }
}
