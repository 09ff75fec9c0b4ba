//! What a request asks the cache for: whether it has to do with it at all, its key, and what of it is needed later, when
//! the request itself has been forwarded.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{FORWARDED, HOST};
use http::{Method, Uri};
use http_body::Body as _;
use tidegate_model::address::X_FORWARDED_FOR;
use tidegate_model::cache::directives;
use tidegate_model::cache::key::{self, Key, Target};
use tidegate_model::cache::status::Fwd;
use tidegate_model::fields::{Fields, Value};
use tidegate_model::forwarded::{X_FORWARDED_HOST, X_FORWARDED_PROTO};
use tidegate_model::message::RequestHead;

use super::memory::Named;
use super::shield::Telling;
use super::stage::Onward;
use crate::coding;
use crate::decide;
use crate::exchange::Exchange;

/// What a request asks the cache for.
#[derive(Clone)]
pub struct Asked {
    /// The tenant; `None`: the route's content is public.
    pub tenant: Option<Arc<str>>,
    /// The host.
    pub host: Arc<str>,
    /// The path.
    pub path: String,
    /// The key.
    pub key: Key,
    /// Whose room it takes.
    pub room: u64,
    /// The request's fields, as the client sent them: they are taken when it is forwarded.
    pub fields: Fields,
    /// What it says to caches, where the route lets it.
    pub told: directives::Request,
    /// Its method.
    pub method: Method,
    /// Who is to be told what is known of the answer.
    pub telling: Option<Rc<Telling>>,
    /// Its target.
    pub uri: Uri,
    /// Whether its client would have the content compressed.
    pub coded: bool,
}

impl Asked {
    /// With the key that it has been looked for by.
    #[must_use]
    pub fn of(onward: Onward<'_>, exchange: &Exchange, key: Key) -> Asked {
        let tenant = owner(onward).cloned();
        Asked {
            key,
            room: tenant.as_deref().map_or(0, room_of),
            tenant,
            host: Arc::clone(host_of(onward, exchange)),
            path: exchange.head.uri.path().to_owned(),
            fields: exchange.head.headers.clone(),
            told: told(onward, exchange),
            method: exchange.head.method.clone(),
            telling: onward.hop.telling().cloned(),
            uri: exchange.head.uri.clone(),
            coded: coding::is_wanted(exchange),
        }
    }

    /// As a purge may name it.
    #[must_use]
    pub fn named(&self) -> Named<'_> {
        Named { tenant: self.tenant.as_deref(), host: &self.host, path: &self.path, key: self.key }
    }

    /// Its head, as it was before it was forwarded.
    #[must_use]
    pub fn head(&self) -> RequestHead {
        let (method, uri) = (self.method.clone(), self.uri.clone());
        RequestHead { method, uri, headers: self.fields.clone(), ..RequestHead::default() }
    }

    /// Whether it asks for no content.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// Whose the content is; `None`: it is public.
pub fn owner<'a>(onward: Onward<'a>) -> Option<&'a Arc<str>> {
    (!onward.settings.public).then(|| onward.permitted.permit().tenant().id())
}

/// The host as it is in keys: that which the request's is an alias of.
pub fn host_of<'a>(onward: Onward<'a>, exchange: &'a Exchange) -> &'a Arc<str> {
    onward.site.settings.aliases.of(&exchange.host).unwrap_or(&exchange.host)
}

/// What the request says to caches, where the route lets it.
pub fn told(onward: Onward<'_>, exchange: &Exchange) -> directives::Request {
    match onward.settings.reuse.request_directives {
        true => directives::Request::of(&exchange.head.headers),
        false => directives::Request::default(),
    }
}

/// The key of a GET or HEAD, or why the cache has nothing to do with it.
///
/// # Errors
/// Why not.
pub fn key_of(onward: Onward<'_>, exchange: &Exchange) -> Result<Key, Fwd> {
    let head = &exchange.head;
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Err(Fwd::Method);
    }
    // The content of a GET is in no key: an answer that depends on it would poison what others get.
    let has_body = exchange.body.as_ref().is_some_and(|body| !body.is_end_stream());
    if has_body || exchange.seen.upgrade {
        return Err(Fwd::Bypass);
    }
    key_with(onward, exchange, None)
}

/// The key of a request, with the digest of its content, where that is in it; or why the cache has nothing to do with it.
///
/// # Errors
/// Why not.
pub fn key_with(onward: Onward<'_>, exchange: &Exchange, content: Option<&[u8]>) -> Result<Key, Fwd> {
    let head = &exchange.head;
    let steering = steering(onward, exchange)?;
    let target = Target {
        tenant: owner(onward).map(|tenant| &**tenant),
        route: &onward.routed.route.settings.name,
        https: exchange.connection.tls,
        host: host_of(onward, exchange),
        port: port(head.headers.get(HOST), exchange.connection.tls),
        path: head.uri.path(),
        query: head.uri.query(),
        content,
        steering: (!steering.is_empty()).then_some(&steering),
    };
    Ok(Key::of(&target, &head.headers, &onward.settings.key))
}

/// The port that is named beside the host, if it is not the usual one.
fn port(host: Option<Value<'_>>, https: bool) -> Option<&str> {
    let (_, port) = host?.to_str().ok()?.rsplit_once(':')?;
    let usual = if https { "443" } else { "80" };
    (!port.is_empty() && !port.ends_with(']') && port != usual).then_some(port)
}

/// What else the upstream may answer by. Nothing, for an ordinary request.
fn steering(onward: Onward<'_>, exchange: &Exchange) -> Result<Vec<u8>, Fwd> {
    let mut bytes = Vec::new();
    // Of what is public, each upstream of a split has its own; a tenant may go from a canary back to what was before it.
    if (onward.settings.public || onward.routed.route.canary.is_some())
        && let Some(name) =
            decide::upstream_of_split(onward.routed.route, onward.permitted.permit().tenant().id())
    {
        say(&mut bytes, "split", name.as_bytes());
    }
    if !exchange.seen.steering {
        return Ok(bytes);
    }
    for (name, value) in &exchange.head.headers {
        let text = name.as_str();
        if key::overrides_method(text) {
            return Err(Fwd::Bypass);
        }
        let replaced = (name == X_FORWARDED_HOST || name == X_FORWARDED_PROTO) && !exchange.trusted;
        if key::steers(text) && !replaced {
            say(&mut bytes, text, value.as_bytes());
        } else if name == FORWARDED && exchange.trusted {
            // Whom it is for stands in it, too, and is another one each time.
            let parts = value.as_bytes().split(|&byte| byte == b';' || byte == b',').map(<[u8]>::trim_ascii);
            for part in parts.filter(|part| !is_address(part)) {
                say(&mut bytes, text, part);
            }
        }
    }
    Ok(bytes)
}

fn is_address(part: &[u8]) -> bool {
    part.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"for="))
        || part.get(..3).is_some_and(|name| name.eq_ignore_ascii_case(b"by="))
}

pub(super) fn say(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), value] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
}

/// Whether a field that an answer varies with is one that Tidegate itself writes into the request: what the client sent
/// under this name is not what the upstream got.
pub fn is_written_anew(name: &http::HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("tidegate-")
        || [FORWARDED, X_FORWARDED_FOR].contains(name)
        || matches!(text, "x-request-id" | "traceparent" | "tracestate" | "via")
}

/// A tenant's number in the order of eviction; never that of what is public.
#[must_use]
pub fn room_of(tenant: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(tenant).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_counts_unless_it_is_the_usual_one() {
        for (host, https, expected) in [
            ("a.example", false, None),
            ("a.example:80", false, None),
            ("a.example:80", true, Some("80")),
            ("a.example:443", true, None),
            ("a.example:8080", false, Some("8080")),
            ("a.example:", false, None),
            ("[::1]", false, None),
            ("[::1]:9", false, Some("9")),
        ] {
            assert_eq!(
                port(Some(Value::from(&http::HeaderValue::from_static(host))), https),
                expected,
                "{host}"
            );
        }
        assert_eq!(port(None, false), None);
    }

    #[test]
    fn of_where_a_request_comes_from_only_what_is_no_address_steers() {
        for (part, expected) in
            [("for=1.2.3.4", true), ("By=_x", true), ("host=a", false), ("proto=https", false)]
        {
            assert_eq!(is_address(part.as_bytes()), expected, "{part}");
        }
    }
}
