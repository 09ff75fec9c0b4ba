//! What a write changes is no longer served (RFC 9111 section 4.4): its target, what its answer names, and what the
//! application says of it in `Cache-Group-Invalidation` (RFC 9875) and `Tidegate-Purge`.
//!
//! It counts on every route, cached or not: what one route writes another one may have cached. It reaches what is the
//! tenant's own and what is public, and nothing of another tenant.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderName, Method, StatusCode};
use smallvec::SmallVec;
use tidegate_model::cache::purge::{Label, PUBLIC, Purge};
use tidegate_model::cache::purge_field::{self, What};
use tidegate_model::cache::{tags, validate};
use tidegate_model::fields::Fields;
use tidegate_model::method::is_safe;

use super::intake;
use super::stage::now;
use crate::exchange::Exchange;
use crate::site::Pinned;

/// What an application purges with the answer to a write. No client gets it.
pub const TIDEGATE_PURGE: HeaderName = HeaderName::from_static("tidegate-purge");

/// A write, as it was asked for.
pub struct Write {
    method: Method,
    https: bool,
    host: Arc<str>,
    path: String,
    site: Pinned,
}

impl Write {
    /// What an exchange asks for, if it writes where anything is cached.
    #[must_use]
    pub fn of(exchange: &Exchange, site: &Pinned) -> Option<Write> {
        let (head, caches) = (&exchange.head, site.caches);
        let counts = (caches.tenants || caches.public) && !is_safe(&head.method);
        counts.then(|| Write {
            method: head.method.clone(),
            https: exchange.connection.tls,
            host: Arc::clone(&exchange.host),
            path: head.uri.path().to_owned(),
            site: Rc::clone(site),
        })
    }

    /// It was answered so: what it changed is purged.
    pub fn done(&self, tenant: &str, status: StatusCode, fields: &mut Fields) {
        if validate::invalidates(&self.method, status) {
            self.purge(tenant, fields);
        }
        intake::take_ours(fields);
    }

    fn purge(&self, tenant: &str, fields: &Fields) {
        let (cache, caches, aliases) = (&self.site.cache, self.site.caches, &self.site.settings.aliases);
        let (scheme, now) = (if self.https { "https" } else { "http" }, now());
        let owners: SmallVec<[Option<&str>; 2]> = [(caches.tenants, Some(tenant)), (caches.public, None)]
            .into_iter()
            .filter_map(|(any, owner)| any.then_some(owner))
            .collect();
        let path_is_purged = |path: &str, how| {
            for name in aliases.names(&self.host) {
                owners.iter().for_each(|owner| cache.purge(Label::path_of(*owner, name, path), how, now));
            }
        };
        let tag_is_purged = |tag, how| {
            owners.iter().for_each(|owner| {
                cache.purge(Label::tag(tag, Some(owner.unwrap_or(PUBLIC))), how, now);
            });
        };
        path_is_purged(&self.path, Purge::Hard);
        for name in [LOCATION, CONTENT_LOCATION] {
            let target = fields
                .get(name)
                .and_then(|value| validate::same_origin(value.as_bytes(), scheme, &self.host));
            if let Some(path) = target.as_deref().and_then(|target| target.split('?').next()) {
                path_is_purged(path, Purge::Hard);
            }
        }
        let origin = format!("{scheme}://{}", aliases.of(&self.host).unwrap_or(&self.host));
        tags::invalidated(fields, origin.as_bytes())
            .into_iter()
            .for_each(|tag| tag_is_purged(tag, Purge::Hard));
        for (what, how) in purge_field::of(fields, &TIDEGATE_PURGE) {
            match what {
                What::Tag(tag) => tag_is_purged(tag, how),
                What::Path(path) => path_is_purged(&path, how),
                What::Tenant => cache.purge(Label::tenant(tenant), how, now),
            }
        }
    }
}

/// Scheme and host of an exchange, as it is in keys: where cache groups end.
pub fn origin(exchange: &Exchange, host: &str) -> String {
    let scheme = if exchange.connection.tls { "https" } else { "http" };
    format!("{scheme}://{host}")
}
