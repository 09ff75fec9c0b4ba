//! Maintenance: which requests are told to come again later, because somebody works on what they would reach.
//!
//! A [`Window`] is everybody's, a route's, a tenant's, or a tenant's on a route. It has an end, or lasts until it is ended. Pure:
//! who is let through all the same is the asker's business.

use std::sync::Arc;
use std::time::Duration;

/// Windows that may be open at a time, those of the configuration aside.
pub const WINDOWS_MAX: usize = 256;
/// Bytes of what a window tells.
pub const DETAIL_BYTES_MAX: usize = 512;

/// Somebody works on something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its name.
    pub name: Arc<str>,
    /// Whose requests; `None`: everybody's.
    pub tenant: Option<Arc<str>>,
    /// Of which route; `None`: of all.
    pub route: Option<Arc<str>>,
    /// When it ends, in seconds since the Unix epoch; `None`: when it is ended.
    pub until: Option<u64>,
    /// One sentence for clients.
    pub detail: Option<Arc<str>>,
    /// Whose order it is; `None`: the configuration's.
    pub by: Option<Arc<str>>,
}

impl Window {
    /// Whether a request of this tenant on this route falls into it.
    #[must_use]
    pub fn covers(&self, route: &str, tenant: &str, now: u64) -> bool {
        let is =
            |wanted: &Option<Arc<str>>, there: &str| wanted.as_deref().is_none_or(|wanted| wanted == there);
        is(&self.route, route) && is(&self.tenant, tenant) && !self.has_ended(now)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn has_ended(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// When to come again: at its end, and where nobody knows that, after so long.
    #[must_use]
    pub fn come_again(&self, now: u64, otherwise: Duration) -> Duration {
        self.until.map_or(otherwise, |until| Duration::from_secs(until.saturating_sub(now).max(1)))
    }
}

/// The window that a request falls into; of several the one that lasts longest.
pub fn find<'a>(
    windows: impl Iterator<Item = &'a Window>,
    route: &str,
    tenant: &str,
    now: u64,
) -> Option<&'a Window> {
    let open = windows.filter(|window| window.covers(route, tenant, now));
    open.max_by_key(|window| window.until.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(name: &str, route: Option<&str>, tenant: Option<&str>, until: Option<u64>) -> Window {
        let text = |text: Option<&str>| text.map(Arc::from);
        Window { name: name.into(), tenant: text(tenant), route: text(route), until, detail: None, by: None }
    }

    /// The window that a request of tenant `a` on route `r` falls into at 100.
    fn check(windows: &[Window], expected: Option<&str>) {
        let found = find(windows.iter(), "r", "a", 100).map(|window| &*window.name);
        assert_eq!(found, expected, "{windows:?}");
    }

    #[test]
    fn a_window_is_everybodys_a_routes_a_tenants_or_both() {
        check(&[], None);
        check(&[window("all", None, None, None)], Some("all"));
        check(&[window("r", Some("r"), None, None)], Some("r"));
        check(&[window("a", None, Some("a"), None)], Some("a"));
        check(&[window("both", Some("r"), Some("a"), None)], Some("both"));
        check(&[window("other", Some("s"), None, None), window("b", Some("r"), Some("b"), None)], None);
    }

    #[test]
    fn a_window_ends_and_of_several_the_longest_counts() {
        check(&[window("over", None, None, Some(100))], None);
        check(&[window("a", None, None, Some(101)), window("b", None, None, Some(102))], Some("b"));
        check(&[window("a", None, None, None), window("b", None, None, Some(102))], Some("a"));
    }

    #[test]
    fn a_client_comes_again_at_its_end() {
        let otherwise = Duration::from_secs(60);
        assert_eq!(window("a", None, None, None).come_again(100, otherwise), otherwise);
        assert_eq!(window("a", None, None, Some(130)).come_again(100, otherwise), Duration::from_secs(30));
        assert_eq!(window("a", None, None, Some(90)).come_again(100, otherwise), Duration::from_secs(1));
    }
}
