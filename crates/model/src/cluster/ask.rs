//! What a node asks of another.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes};
use http::uri::PathAndQuery;
use http::{Method, Version};

use super::bytes::{Texts as _, put_fields, put_text};
use crate::cache::key::Key;
use crate::cache::orders::Order;
use crate::cache::purge::{Label, Purge};
use crate::fields::Fields;
use crate::numbers::Take;
use crate::receipt::RequestId;

/// The most bytes of what is asked: what heads of requests may have, and a little.
pub const ASK_BYTES_MAX: usize = 2 << 20;
/// The most bytes of content that is in a key and asked for by it.
pub const CONTENT_BYTES_MAX: usize = 1 << 20;
/// Orders of one message.
pub const ORDERS_MAX: usize = 1_024;

const ASK: u8 = 1;
const PURGE: u8 = 2;
const PASS: u8 = 3;

/// What is said to a node.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// A question.
    Ask(Box<Ask>),
    /// This is to be purged there.
    Purge(Vec<Order>),
    /// What is asked of deliveries that the other node makes.
    Pass(Pass),
}

/// What is no matter of caches: whoever makes deliveries knows what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// How long the first node waits for a word, in milliseconds.
    pub wait_ms: u32,
    /// What is asked.
    pub content: Bytes,
}

/// What is stored of this, or what does the upstream say? The request is the client's, as the first node has identified,
/// limited and stripped it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The request's id, the same on all nodes.
    pub id: RequestId,
    /// On whose behalf. The home takes the first node's word for it.
    pub tenant: String,
    /// Whether nobody vouched for the tenant's id.
    pub claimed: bool,
    /// The route that the first node found.
    pub route: String,
    /// The target's key, as the first node made it.
    pub key: Key,
    /// Whether the client came by TLS.
    pub https: bool,
    /// The version of HTTP that it came by.
    pub version: Version,
    /// Whether it came from a trusted proxy.
    pub trusted: bool,
    /// Whether no client waits for it.
    pub behind: bool,
    /// The client's address, trusted proxies believed.
    pub client: IpAddr,
    /// The address its connection comes from.
    pub peer: SocketAddr,
    /// The host it asks for: lower case, without port.
    pub host: String,
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub target: PathAndQuery,
    /// Its fields.
    pub fields: Fields,
    /// Its content, where that is in the key: of QUERY.
    pub content: Option<Bytes>,
    /// How long the first node waits for a word, in milliseconds.
    pub wait_ms: u32,
    /// How long there is for the answer's head, in milliseconds.
    pub left_ms: u32,
}

impl Said {
    /// As it is said.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1_024);
        match self {
            Said::Ask(ask) => ask.put(&mut out),
            Said::Purge(orders) => {
                out.put_u8(PURGE);
                out.put_u32_le(u32::try_from(orders.len()).unwrap_or(u32::MAX));
                for Order { label, purge } in orders {
                    out.put_u8(u8::from(*purge == Purge::Hard));
                    out.put_u128_le(label.number());
                }
            }
            Said::Pass(Pass { wait_ms, content }) => {
                out.put_u8(PASS);
                out.put_u32_le(*wait_ms);
                put_text(&mut out, content);
            }
        }
        out
    }

    /// Reads it. `None`: it is nothing that this version says.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Said> {
        let mut take = Take(bytes);
        let said = match take.u8()? {
            ASK => Said::Ask(Box::new(Ask::take(&mut take)?)),
            PURGE => {
                let count = usize::try_from(take.u32()?).ok().filter(|count| *count <= ORDERS_MAX)?;
                let order = |_| {
                    let purge = if take.flag()? { Purge::Hard } else { Purge::Soft };
                    Some(Order { label: Label::numbered(take.u128()?), purge })
                };
                Said::Purge((0..count).map(order).collect::<Option<_>>()?)
            }
            PASS => {
                let wait_ms = take.u32()?;
                Said::Pass(Pass { wait_ms, content: Bytes::copy_from_slice(take.sized()?) })
            }
            _ => return None,
        };
        take.end().map(|()| said)
    }
}

impl Ask {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(ASK);
        out.put_u128_le(self.id.0);
        put_text(out, self.tenant.as_bytes());
        put_text(out, self.route.as_bytes());
        out.put_u128_le(self.key.0);
        for flag in [self.claimed, self.https, self.trusted, self.behind] {
            out.put_u8(flag.into());
        }
        out.put_u8(match self.version {
            Version::HTTP_10 => 10,
            Version::HTTP_2 => 20,
            _ => 11,
        });
        put_text(out, self.client.to_string().as_bytes());
        put_text(out, self.peer.to_string().as_bytes());
        put_text(out, self.host.as_bytes());
        put_text(out, self.method.as_str().as_bytes());
        put_text(out, self.target.as_str().as_bytes());
        out.put_u32_le(self.wait_ms);
        out.put_u32_le(self.left_ms);
        put_fields(out, &self.fields);
        out.put_u8(self.content.is_some().into());
        if let Some(content) = &self.content {
            put_text(out, content);
        }
    }

    fn take(take: &mut Take<'_>) -> Option<Ask> {
        let (id, tenant, route, key) =
            (RequestId(take.u128()?), take.text()?.to_owned(), take.text()?.to_owned(), Key(take.u128()?));
        let [claimed, https, trusted, behind] = [take.flag()?, take.flag()?, take.flag()?, take.flag()?];
        let version = match take.u8()? {
            10 => Version::HTTP_10,
            11 => Version::HTTP_11,
            20 => Version::HTTP_2,
            _ => return None,
        };
        Some(Ask {
            id,
            tenant,
            claimed,
            route,
            key,
            https,
            version,
            trusted,
            behind,
            client: take.parsed()?,
            peer: take.parsed()?,
            host: take.text()?.to_owned(),
            method: Method::from_bytes(take.sized()?).ok()?,
            target: take.parsed()?,
            wait_ms: take.u32()?,
            left_ms: take.u32()?,
            fields: take.fields()?,
            content: match take.flag()? {
                true => Some(Bytes::copy_from_slice(take.sized()?)),
                false => None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn ask() -> Ask {
        Ask {
            id: RequestId(7),
            tenant: "acme".to_owned(),
            claimed: true,
            route: "r".to_owned(),
            key: Key(9),
            https: true,
            version: Version::HTTP_2,
            trusted: false,
            behind: true,
            client: "2001:db8::1".parse().expect("an address"),
            peer: "[2001:db8::1]:99".parse().expect("an address"),
            host: "a.example".to_owned(),
            method: Method::GET,
            target: "/a?b=c".parse().expect("a target"),
            fields: Fields::from_iter([
                (HeaderName::from_static("x-a"), HeaderValue::from_static("one")),
                (HeaderName::from_static("x-a"), HeaderValue::from_bytes(b"tw\xff").expect("a value")),
            ]),
            content: Some(Bytes::from_static(b"content")),
            wait_ms: 1_000,
            left_ms: 5_000,
        }
    }

    /// It reads as it was said, and is nothing with a byte less or more.
    fn check(said: &Said) {
        let mut bytes = said.bytes();
        assert_eq!(Said::read(&bytes).as_ref(), Some(said));
        assert_eq!(Said::read(&bytes[..bytes.len() - 1]), None);
        bytes.push(0);
        assert_eq!(Said::read(&bytes), None);
    }

    #[test]
    fn reads_as_it_was_said() {
        check(&Said::Ask(Box::new(ask())));
        let orders = [Order::ALL, Order { label: Label::host("h"), purge: Purge::Hard }];
        check(&Said::Purge(orders.to_vec()));
        check(&Said::Pass(Pass { wait_ms: 5, content: Bytes::from_static(b"{}") }));
    }

    #[test]
    fn no_more_orders_are_read_than_may_be_said_at_once() {
        let said = Said::Purge(vec![Order::ALL; ORDERS_MAX + 1]);
        assert_eq!(Said::read(&said.bytes()), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), from in 0usize..300) {
            let mut said = Said::Ask(Box::new(ask())).bytes();
            said.splice(from.min(said.len()).., bytes.iter().copied());
            let _ = (Said::read(&said), Said::read(&bytes));
        }
    }
}
