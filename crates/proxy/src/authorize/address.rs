//! Whether this address may use this route.

use std::net::IpAddr;

use tidegate_model::refusal::{self, Refusal};

use crate::settings::RouteSettings;

/// Lets an address through that is allowed, or that nothing denies where no list of allowed ones is given.
///
/// # Errors
/// `route.address-denied`.
pub fn authorize(route: &RouteSettings, client: IpAddr) -> Result<(), Refusal> {
    let allowed = route.allow.is_empty() || route.allow.contains(client);
    if allowed && !route.deny.contains(client) {
        return Ok(());
    }
    Err(Refusal::new(&refusal::ROUTE_ADDRESS, "this address may not use this route"))
}
