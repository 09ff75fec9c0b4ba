//! Sets of addresses, and the client's real address behind trusted proxies.

use std::net::IpAddr;

/// A set of networks in CIDR form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    networks: Vec<Network>,
}

/// One network: an address and the number of leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}
