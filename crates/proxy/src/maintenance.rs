//! Maintenance as a stage: who falls into a window is told to come again, before it counts for a limit and before anything is
//! replayed, served or forwarded.
//!
//! Windows come from the configuration and from operators' orders; those are kept for all sites. While there is none, the stage is
//! one load. Let through are addresses that the operator names, who brings the pass, and Tidegate's own paths.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderName;
use tidegate_model::address::AddressSet;
use tidegate_model::credential::Digest;
use tidegate_model::gate::Priority;
use tidegate_model::maintenance::{Window, find};
use tidegate_model::problem::Form;
use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::clock;

use crate::exchange::Exchange;
use crate::respond::No;
use crate::route::Routed;
use crate::site::{Ladder, Site};

/// The field that brings the pass. As all of its prefix it never reaches an application.
pub const PASS: HeaderName = HeaderName::from_static("tidegate-maintenance-pass");

/// What the configuration says of maintenance.
#[derive(Clone, Debug, Default)]
pub struct MaintenanceSettings {
    /// Its windows.
    pub windows: Vec<Window>,
    /// Addresses that are let through.
    pub allow: AddressSet,
    /// The pass that lets through.
    pub pass: Option<Digest>,
    /// When to come again, where no end is known.
    pub retry_after: Duration,
    /// What browsers are shown.
    pub page: Option<Bytes>,
    /// Whether routes of priority `critical` go on, unless a window names them.
    pub spare_critical: bool,
}

/// What operators have ordered.
#[derive(Debug, Default)]
pub struct Maintenance {
    windows: ArcSwap<Vec<Window>>,
    any: AtomicBool,
}

impl Maintenance {
    /// The windows.
    #[must_use]
    pub fn windows(&self) -> Arc<Vec<Window>> {
        self.windows.load_full()
    }

    /// These are all, from now on.
    pub fn set(&self, windows: Vec<Window>) {
        let any = !windows.is_empty();
        self.windows.store(Arc::new(windows));
        self.any.store(any, Relaxed);
    }
}

/// Whether an exchange may go on.
///
/// # Errors
/// `route.maintenance`.
pub fn check(site: &Site, exchange: &Exchange, routed: &Routed<'_>, tenant: &str) -> Result<(), No> {
    if site.settings.maintenance.windows.is_empty() && !site.maintenance.any.load(Relaxed) {
        return Ok(());
    }
    look(site, exchange, routed, tenant)
}

#[cold]
fn look(site: &Site, exchange: &Exchange, routed: &Routed<'_>, tenant: &str) -> Result<(), No> {
    let (settings, ordered) = (&site.settings.maintenance, site.maintenance.windows.load());
    let (route, now) = (&routed.route.settings, clock::latest_wall().0);
    let all = settings.windows.iter().chain(ordered.iter());
    let all = all.filter(|window| {
        window.route.is_some() || !settings.spare_critical || route.priority != Priority::Critical
    });
    let Some(window) = find(all, &route.name, tenant, now) else { return Ok(()) };
    let pass = exchange.head.headers.get(PASS).map(|pass| Digest::of(pass.as_bytes()));
    let is_let_through = settings.allow.contains(exchange.client)
        || pass.is_some() && pass == settings.pass
        // It asks nothing of the application.
        || matches!(routed.route.ladder, Ladder::Deliveries(_));
    if is_let_through {
        return Ok(());
    }
    let detail = match &window.detail {
        Some(detail) => detail.to_string().into(),
        None => std::borrow::Cow::Borrowed("this is being worked on, and answers again later"),
    };
    let refusal = Refusal::new(&refusal::ROUTE_MAINTENANCE, detail);
    let page = settings.page.clone().filter(|_| exchange.form == Form::Html);
    Err(No { page, ..No::from(refusal.retry_after(window.come_again(now, settings.retry_after))) })
}
