//! Route: which route the request matches.

use std::sync::Arc;

use http::Method;
use tidegate_model::access::cors;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::route::Found;

use crate::consent;
use crate::defer::{DELIVERIES_PATH, told};
use crate::exchange::Exchange;
use crate::respond::No;
use crate::site::{Route, Site};

/// Evidence that a route was found.
pub struct Routed<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Bytes of the path that its pattern covers.
    pub matched: usize,
}

/// Notes the route.
fn found<'a>(route: &'a Arc<Route>, matched: usize, exchange: &Exchange) -> Routed<'a> {
    let mut receipt = exchange.open.receipt_mut();
    receipt.route = Some(Arc::clone(&route.settings.name));
    receipt.note(exchange.started, Step::Routed);
    Routed { route, matched }
}

/// Finds the route.
///
/// # Errors
/// `route.not-found`, `route.method-not-allowed`, `delivery.not-found`.
pub fn route<'a>(site: &'a Site, exchange: &Exchange) -> Result<Routed<'a>, No> {
    let head = &exchange.head;
    if let Some(own) = &site.deliveries
        && head.uri.path().starts_with(DELIVERIES_PATH)
    {
        told::asked(head.uri.path(), &head.method)?;
        return Ok(found(own, 0, exchange));
    }
    if let Some(own) = &site.deliveries
        && consent::is_call(exchange)
    {
        consent::key(head.uri.path(), &head.method)?;
        return Ok(found(own, 0, exchange));
    }
    if let Some(found) = preflighted(site, exchange) {
        return Ok(found);
    }
    match site.table.find(&exchange.host, head.uri.path(), &head.method, &head.headers) {
        Found::Route(route, matched) => Ok(found(route, matched, exchange)),
        Found::MethodNotAllowed(allowed) => Err(No {
            refusal: Refusal::new(&refusal::ROUTE_METHOD, "the path exists, but not for this method"),
            allow: Some(allowed.value()),
            page: None,
        }),
        Found::NotFound => Err(No {
            refusal: Refusal::new(&refusal::ROUTE_NOT_FOUND, "no route matches this host and path"),
            allow: None,
            page: None,
        }),
    }
}

/// The route that a preflight asks about, if that answers preflights.
fn preflighted<'a>(site: &'a Site, exchange: &Exchange) -> Option<Routed<'a>> {
    let head = &exchange.head;
    if head.method != Method::OPTIONS {
        return None;
    }
    let method = cors::preflight(&head.method, &head.headers)?;
    match site.table.find(&exchange.host, head.uri.path(), &method, &head.headers) {
        Found::Route(route, matched) if route.access.as_ref().is_some_and(|access| access.cors.is_some()) => {
            Some(found(route, matched, exchange))
        }
        _ => None,
    }
}
