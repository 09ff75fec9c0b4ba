//! Session tickets (RFC 8446 section 4.6.1, RFC 5077): what a session is gone on with is sealed, and kept by the client.
//!
//! The key of a time is made of a secret and that time: so all cores have it and, where the secret is configured, all nodes.
//! A ticket is opened in the time that it was sealed in, and in the next; a clock that is a little ahead is forgiven.
//! Tickets of one rule about clients' certificates are of no use under another.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::ServerConfig;
use rustls::server::ProducesTickets;
use tidegate_model::hmac::Secret;

use crate::clock;

/// How long one key seals, in seconds.
const TURN: u64 = 6 * 3600;
/// Bytes of the number of a time.
const TURN_BYTES: usize = 8;

/// What tickets are sealed with, and the terms of connections that want no certificate of a client.
#[derive(Debug)]
pub(super) struct Tickets {
    secret: Arc<ArcSwap<Secret>>,
    pub(super) terms: ServerConfig,
}

impl Default for Tickets {
    fn default() -> Tickets {
        let secret = Arc::new(ArcSwap::from_pointee(of_this_process()));
        let mut terms = super::ground().with_cert_resolver(Arc::new(super::NoneYet));
        terms.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        terms.ticketer = Arc::new(Ticketer { secret: Arc::clone(&secret), rule: [0; 32] });
        Tickets { secret, terms }
    }
}

impl Tickets {
    pub(super) fn set(&self, secret: Option<&[u8]>) {
        self.secret.store(Arc::new(secret.map_or_else(of_this_process, Secret::new)));
    }
}

/// A secret that nobody else has.
fn of_this_process() -> Secret {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the system has chance");
    Secret::new(&bytes)
}

/// Seals and opens the tickets of one rule.
pub(super) struct Ticketer {
    secret: Arc<ArcSwap<Secret>>,
    rule: [u8; 32],
}

impl Ticketer {
    pub(super) fn new(tickets: &Tickets, rule: Option<&[u8; 32]>) -> Ticketer {
        Ticketer { secret: Arc::clone(&tickets.secret), rule: rule.copied().unwrap_or_default() }
    }

    fn key(&self, turn: u64) -> Option<LessSafeKey> {
        let key = self.secret.load().tag(&[b"tidegate session ticket", &self.rule, &turn.to_be_bytes()]);
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }

    fn seal(&self, plain: &[u8], turn: u64) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let key = self.key(turn)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        Some([&turn.to_be_bytes()[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (turn, rest) = ticket.split_first_chunk::<TURN_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let turn = u64::from_be_bytes(*turn);
        (now.saturating_sub(1)..=now + 1).contains(&turn).then_some(())?;
        let mut sealed = sealed.to_vec();
        let key = self.key(turn)?;
        let plain =
            key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

/// The number of the time that it is.
fn turn() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) / TURN
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // One that is sealed at a turn's end is opened for so long.
        TURN as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, turn())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, turn())
    }
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Ticketer(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticketer(secret: &[u8], rule: u8) -> Ticketer {
        Ticketer { secret: Arc::new(ArcSwap::from_pointee(Secret::new(secret))), rule: [rule; 32] }
    }

    /// Whether a ticket that one has sealed at a time is opened by another at another time.
    fn check(sealed: (&Ticketer, u64), opened: (&Ticketer, u64), expected: bool) {
        let ticket = sealed.0.seal(b"session", sealed.1).unwrap();
        assert_eq!(opened.0.open(&ticket, opened.1).is_some_and(|plain| plain == b"session"), expected);
    }

    #[test]
    fn a_ticket_is_opened_for_a_while_by_whoever_has_the_secret() {
        let (here, there) = (ticketer(b"secret", 0), ticketer(b"secret", 0));
        for (later, expected) in [(9, true), (10, true), (11, true), (12, false), (1000, false), (8, false)] {
            check((&here, 10), (&there, later), expected);
        }
        check((&here, 10), (&ticketer(b"another", 0), 10), false);
        check((&here, 10), (&ticketer(b"secret", 1), 10), false);
    }

    #[test]
    fn what_was_changed_or_is_no_ticket_is_not_opened() {
        let here = ticketer(b"secret", 0);
        let ticket = here.seal(b"session", 10).unwrap();
        for at in 0..ticket.len() {
            let mut other = ticket.clone();
            other[at] ^= 1;
            assert_eq!(here.open(&other, 10), None, "{at}");
            assert_eq!(here.open(&ticket[..at], 10), None, "{at}");
        }
    }
}
