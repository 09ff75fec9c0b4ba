//! Certify: who the client is by the certificate that it has shown (mutual TLS), and that the application hears of no other.
//!
//! What is wanted of clients counts for the host that is asked for, not for the one that the handshake was made for: over HTTP/2 one
//! connection is for several hosts, and anybody may write another one. A certificate is looked at by the rule of the host
//! of each request; the rule of the handshake is as good as any. So it is after a reload, too: a connection from before is
//! held to what counts now.

use std::sync::Arc;

use tidegate_model::headers::{CLIENT_CERT, CLIENT_CERT_CHAIN};
use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::tls::{ClientRules, TlsClient};

use crate::exchange::Exchange;
use crate::site::Site;

/// Finds out who the client is, and tells the application (RFC 9440). What clients say of that themselves is taken out.
///
/// # Errors
/// `route.misdirected`.
pub fn certify(site: &Site, exchange: &mut Exchange) -> Result<(), Refusal> {
    let client = match &site.client_rules {
        None => None,
        Some(rules) => known(rules, site, exchange)?,
    };
    let headers = &mut exchange.head.headers;
    if exchange.seen.certificate && (!exchange.trusted || client.is_some()) {
        headers.remove(CLIENT_CERT);
        headers.remove(CLIENT_CERT_CHAIN);
    }
    if let Some(client) = &client {
        headers.insert(CLIENT_CERT, client.told.clone());
        if let Some(chain) = &client.told_chain {
            headers.insert(CLIENT_CERT_CHAIN, chain.clone());
        }
    }
    exchange.certified = client;
    Ok(())
}

/// The client, where its certificate counts for the host.
fn known(rules: &ClientRules, site: &Site, exchange: &Exchange) -> Result<Option<Arc<TlsClient>>, Refusal> {
    let managed = || {
        site.settings
            .secure
            .as_ref()
            .is_some_and(|settings| site.secured.is_secured(site, settings, &exchange.host))
    };
    let Some(rule) = rules.of(&exchange.host, managed) else { return Ok(None) };
    match &exchange.connection.tls_client {
        Some(client) if rule.accepts(client) => Ok(Some(Arc::clone(client))),
        None if !rule.required => Ok(None),
        _ => {
            let why = "this host wants to see a certificate of its clients, and this connection was made for another host, or before it did";
            Err(Refusal::new(&refusal::ROUTE_MISDIRECTED, why))
        }
    }
}
