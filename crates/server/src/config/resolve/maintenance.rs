//! Maintenance, of everything, of routes and of tenants.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::credential::Digest;
use tidegate_model::maintenance::Window;
use tidegate_proxy::maintenance::MaintenanceSettings;
use tidegate_proxy::settings::RouteSettings;

use super::{Context, read_bounded};
use crate::config::raw;

/// The most bytes of a page.
const PAGE_BYTES_MAX: u64 = 256 << 10;
/// The shortest pass.
const PASS_BYTES_MIN: usize = 16;

/// What the configuration says of it.
pub fn maintenance(
    context: &mut Context<'_>,
    raw: &raw::Config,
    routes: &[Arc<RouteSettings>],
) -> MaintenanceSettings {
    let node = context.entry("maintenance");
    let settings = &raw.maintenance;
    context.positive(node, "retry_after", &settings.retry_after);
    let pass = settings.pass.as_ref().map(|pass| {
        let before = context.problems.len();
        let bytes = context.secret(pass, node.at("pass"));
        if bytes.len() < PASS_BYTES_MIN && context.problems.len() == before {
            context.tell(node.at("pass"), format!("a pass has at least {PASS_BYTES_MIN} bytes: it lets in"));
        }
        Digest::of(&bytes)
    });
    let page = settings.page.as_ref().and_then(|file| {
        context.name_file(&file.0);
        let read = read_bounded(&file.0, PAGE_BYTES_MAX);
        read.map_err(|why| {
            context.tell(node.at("page"), format!("cannot read {}: {why}", file.0.display()));
        })
        .ok()
    });
    MaintenanceSettings {
        windows: windows(raw, routes),
        allow: settings.allow.iter().map(|network| network.0).collect(),
        pass,
        retry_after: settings.retry_after.0,
        page: page.map(Bytes::from),
        spare_critical: settings.spare_critical,
    }
}

fn windows(raw: &raw::Config, routes: &[Arc<RouteSettings>]) -> Vec<Window> {
    let detail = raw.maintenance.detail.as_deref().map(Arc::from);
    let window = |name: String, route: Option<&Arc<str>>, tenant: Option<&str>| Window {
        name: name.into(),
        tenant: tenant.map(Arc::from),
        route: route.cloned(),
        until: None,
        detail: detail.clone(),
        by: None,
    };
    let all = raw.maintenance.on.then(|| window("all".to_owned(), None, None));
    let closed = routes.iter().filter(|route| route.maintenance);
    let routes = closed.map(|route| window(format!("route.{}", route.name), Some(&route.name), None));
    let tenants = raw.tenant.iter().filter(|(_, tenant)| tenant.maintenance);
    let tenants = tenants.map(|(id, _)| window(format!("tenant.{id}"), None, Some(id)));
    all.into_iter().chain(routes).chain(tenants).collect()
}
