//! Refreshing behind: what is stored is validated while it is served, by one request at a time for each of it.
//!
//! It is the tenant's own cost: it counts as one more of its exchanges at once, waits at the gate behind everything that a
//! client waits for, and is left out where the tenant or the process has as many as it may.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::StatusCode;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::status::Fwd;
use tidegate_model::cache::{Wall, reuse};
use tidegate_model::message::Response;
use tidegate_model::receipt::End;
use tidegate_wire::task;

use super::asked::Asked;
use super::kept::Kept;
use super::stage::{self, Onward};
use crate::exchange::Exchange;
use crate::route::Routed;

/// The most that are under way in the process.
pub const REFRESHES_MAX: usize = 1_024;

/// One of those that are under way.
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn take(count: &Arc<AtomicUsize>) -> Option<Turn> {
        let more = |held: usize| (held < REFRESHES_MAX).then_some(held + 1);
        count.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Turn(Arc::clone(count)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Whether what is much asked for should be validated before it is stale, by this one of its clients and not by all at
/// once.
pub fn is_due_early(onward: Onward<'_>, kept: &Kept, rules: &Rules, now: Wall) -> bool {
    let took_ms = || kept.known().took_ms();
    kept.is_hot()
        && reuse::is_near_its_end(rules, now, took_ms())
        && reuse::refresh_early(rules, now, took_ms(), onward.proxy.entropy.word())
}

/// Validates what is stored, unless that is under way.
pub fn refresh(onward: Onward<'_>, exchange: &Exchange, asked: &Asked, kept: &Arc<Kept>) {
    let cache = &onward.site.cache;
    let Some(turn) = Turn::take(&cache.refreshing) else { return };
    let Some(permitted) = onward.permitted.on_behalf() else { return };
    let Some(lead) = cache.fills.lead_behind(asked.key) else { return };
    let (proxy, site) = (Rc::clone(onward.proxy), Rc::clone(onward.site));
    let (route, matched) = (Arc::clone(onward.routed.route), onward.routed.matched);
    let (hop, mut behind) = (onward.hop.behind(), exchange.behind(&proxy));
    let (asked, kept) = (asked.clone(), Arc::clone(kept));
    task::spawn(async move {
        let _turn = turn;
        let routed = Routed { route: &route, matched };
        let Some(settings) = route.settings.cache.as_ref() else { return };
        let (routed, permitted) = (&routed, &permitted);
        let onward = Onward { proxy: &proxy, site: &site, routed, permitted, settings, hop: &hop };
        let response =
            stage::fetch(onward, &mut behind, None, &asked, Some(lead), Some(kept), Fwd::Stale).await;
        let status = response.as_ref().map_or(StatusCode::BAD_GATEWAY, Response::status);
        let mut receipt = behind.open.receipt_mut();
        (receipt.status, receipt.cache) = (Some(status), Some("refresh"));
        drop(receipt);
        behind.open.settle(End::Complete);
    });
}
