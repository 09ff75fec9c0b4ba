//! Header fields on their way through: what belongs to one connection stays behind, what only Tidegate may
//! say is taken from clients, and the operator's changes are made.
//!
//! All of it works in place and allocates nothing for an ordinary request.
//!
//! Hop-by-hop fields (RFC 9110, 7.6.1) are removed in both directions, and so is what `Connection`
//! nominates, with one exception: a client must not use `Connection` to make a front door drop a field that
//! the application relies on (`Connection: authorization`, `Connection: x-forwarded-for`). Fields with an
//! end-to-end meaning of their own are therefore not removed by nomination.
//!
//! `Trailer` stays: it announces what follows the body end to end, and HTTP/1.1 trailers are sent only when
//! announced.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::access::take_out;
use crate::address::X_FORWARDED_FOR;
use crate::fields::{Fields, Name, Value};
use crate::forwarded::{X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::own::{TRACEPARENT, TRACESTATE};
use crate::problem::X_REQUEST_ID;

/// The certificate that the client of a TLS connection has shown, and what is above it (RFC 9440).
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// See [`CLIENT_CERT`].
pub const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The prefix of the fields that only Tidegate may say.
const OWN_PREFIX: &[u8] = b"tidegate-";

/// Fields that a nomination by `Connection` does not remove, besides those of [`KEPT_PREFIXES`].
const KEPT: &[&str] = &[
    "accept",
    "accept-encoding",
    "age",
    "authorization",
    "cache-control",
    "client-cert",
    "client-cert-chain",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "host",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "origin",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "traceparent",
    "tracestate",
    "trailer",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

const KEPT_PREFIXES: &[&str] =
    &["access-control-", "content-security-policy", "grpc-", "sec-", "tidegate-", "x-"];

/// Fields that may not follow a message (RFC 9110 section 6.5.1).
const NO_TRAILERS: [HeaderName; 4] = [CONTENT_LENGTH, HOST, TE, TRAILER];
/// Those that a client may not let follow, besides.
const NO_TRAILERS_OF_CLIENTS: [HeaderName; 12] = [
    AUTHORIZATION,
    CLIENT_CERT,
    CLIENT_CERT_CHAIN,
    COOKIE,
    EXPECT,
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
];

/// What one look at each name of a request's fields has found: asking the map for each of the names in question, stage
/// after stage, would cost several times as much.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// `Accept` or `Content-Type`: they tell how the client reads a refusal.
    pub form: bool,
    /// `Upgrade`.
    pub upgrade: bool,
    /// `grpc-timeout`.
    pub grpc_timeout: bool,
    /// `traceparent` or `tracestate`.
    pub trace: bool,
    /// `X-Request-Id`.
    pub request_id: bool,
    /// `Forwarded` or one of `X-Forwarded-For`, `-Proto`, `-Host`.
    pub forwarded: bool,
    /// A condition (`If-Match` and its like) or `Range`.
    pub conditional: bool,
    /// One that begins as those do that may steer an application: see [`crate::cache::key::steers`].
    pub steering: bool,
    /// `Client-Cert` or `Client-Cert-Chain`.
    pub certificate: bool,
    /// A field that [`strip_request`] may remove.
    pub foreign: bool,
}

impl Seen {
    /// Looks at these fields.
    #[must_use]
    pub fn of(headers: &Fields) -> Seen {
        let mut seen = Seen::default();
        for name in headers.keys() {
            match name.as_bytes() {
                b"host" | b"user-agent" | b"accept-encoding" | b"accept-language" | b"authorization"
                | b"cookie" | b"content-length" => {}
                b"accept" | b"content-type" => seen.form = true,
                b"upgrade" => (seen.upgrade, seen.foreign) = (true, true),
                b"grpc-timeout" => seen.grpc_timeout = true,
                b"traceparent" | b"tracestate" => seen.trace = true,
                b"x-request-id" => seen.request_id = true,
                b"client-cert" | b"client-cert-chain" => seen.certificate = true,
                b"forwarded" | b"x-forwarded-for" | b"x-forwarded-proto" | b"x-forwarded-host" => {
                    (seen.forwarded, seen.steering) = (true, true);
                }
                b"if-none-match"
                | b"if-modified-since"
                | b"if-match"
                | b"if-unmodified-since"
                | b"if-range"
                | b"range" => seen.conditional = true,
                other => {
                    seen.steering |= matches!(other.first(), Some(b'x' | b'f'));
                    seen.foreign |= is_hop(other) || is_foreign(other);
                }
            }
        }
        seen
    }

    /// Takes out of these fields, which were looked at, what [`strip_request`] removes, and what Tidegate says itself
    /// ([`crate::own`]). A trusted peer's word on scheme and host stays; `tracestate` does where the trace goes on.
    pub fn take_request(self, headers: &mut Fields, trusted: bool, trace_goes_on: bool) {
        if self.foreign {
            strip_request(headers);
        }
        if self.forwarded {
            remove(headers, &[FORWARDED, X_FORWARDED_FOR]);
            if !trusted {
                remove(headers, &[X_FORWARDED_PROTO, X_FORWARDED_HOST]);
            }
        }
        if self.request_id {
            headers.remove(X_REQUEST_ID);
        }
        if self.trace {
            headers.remove(TRACEPARENT);
            if !trace_goes_on {
                headers.remove(TRACESTATE);
            }
        }
    }
}

/// Removes what belongs to the client's connection alone, and what a client must not say: `Tidegate-*`,
/// `Proxy`, and look-alikes with `_` that CGI-like applications would take for a field Tidegate writes.
///
/// `TE: trailers` stays, as gRPC demands it. `Upgrade` goes too: who forwards an upgrade writes it anew.
pub fn strip_request(headers: &mut Fields) {
    let trailers = wants_trailers(headers);
    strip(headers, is_foreign);
    if trailers {
        headers.append(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes what belongs to the upstream's connection alone.
pub fn strip_response(headers: &mut Fields) {
    strip(headers, |name| name == b"proxy-authenticate");
}

/// Removes from a request's trailers what frames, routes or authorises a message, or tells who sent it, and what is called, or
/// looks, like one of `own`: an application that adds them to its fields must not believe a client what only Tidegate may say.
pub fn strip_request_trailers<'a>(trailers: &mut HeaderMap, own: impl IntoIterator<Item = &'a [HeaderName]>) {
    let mut fields = Fields::from(&*trailers);
    strip_request(&mut fields);
    remove(&mut fields, &NO_TRAILERS);
    remove(&mut fields, &NO_TRAILERS_OF_CLIENTS);
    own.into_iter().for_each(|own| take_out(&mut fields, own));
    *trailers = fields.into_map();
}

/// Removes from a response's trailers what frames a message or belongs to the upstream's connection.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    let mut fields = Fields::from(&*trailers);
    strip_response(&mut fields);
    remove(&mut fields, &NO_TRAILERS);
    *trailers = fields.into_map();
}

/// Removes, then replaces or creates, then appends.
pub fn change(
    headers: &mut Fields,
    remove: &[HeaderName],
    set: &[(HeaderName, HeaderValue)],
    add: &[(HeaderName, HeaderValue)],
) {
    for name in remove {
        headers.remove(name);
    }
    for (name, value) in set {
        headers.insert(name, value);
    }
    for (name, value) in add {
        headers.append(name, value);
    }
}

/// Whether the operator's changes may name this field: not those that frame or route the message, which
/// Tidegate itself writes.
#[must_use]
pub fn may_be_changed(name: &HeaderName) -> bool {
    let reserved = [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS];
    !reserved.contains(name) && *name != http::header::CONTENT_LENGTH && *name != http::header::TRAILER
}

/// What a name has in it whose value is a credential.
const CREDENTIALS: [&str; 6] = ["authorization", "cookie", "token", "secret", "password", "key"];

/// Whether what stands under this name may be a credential, and is better not told.
#[must_use]
pub fn is_credential(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    CREDENTIALS.iter().any(|part| lower.contains(part))
}

/// Whether `Connection` holds this option, in any case.
#[must_use]
pub fn connection_has(headers: &Fields, option: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| options(value).any(|one| one.eq_ignore_ascii_case(option.as_bytes())))
}

/// Removes what `Connection` nominates, and what else belongs to the connection, or is `also` not to pass: in one look at
/// each name.
fn strip(headers: &mut Fields, also: impl Fn(&[u8]) -> bool) {
    leave_nominated(headers);
    headers.retain(|name, _| !is_hop(name.as_bytes()) && !also(name.as_bytes()));
}

/// Removes what `Connection` nominates. It may nominate far more than there is: each option is looked up among the few
/// names that may go.
fn leave_nominated(headers: &mut Fields) {
    if headers.get_all(CONNECTION).flat_map(options).all(is_no_field) {
        return;
    }
    let names = headers.keys().map(Name::as_bytes).filter(|name| !is_no_field(name) && !is_kept(name));
    let mut names: Vec<&[u8]> = names.collect();
    names.sort_unstable();
    names.dedup();
    let nominated = headers.get_all(CONNECTION).flat_map(options).filter_map(|option| {
        let written = |name: &&[u8]| name.iter().copied().cmp(option.iter().map(u8::to_ascii_lowercase));
        names.binary_search_by(written).ok()
    });
    let mut gone = vec![false; names.len()];
    nominated.for_each(|place| gone[place] = true);
    let gone = names.into_iter().zip(gone).filter(|(_, gone)| *gone).map(|(name, _)| name.to_vec());
    let gone: Vec<Vec<u8>> = gone.collect();
    headers.retain(|name, _| !gone.iter().any(|gone| gone == name.as_bytes()));
}

/// Takes these names out of what `Connection` nominates: what is said under them from now on is not the client's.
pub(crate) fn leave_in(headers: &mut Fields, names: &[HeaderName]) {
    let is = |option: &[u8]| names.iter().any(|name| option.eq_ignore_ascii_case(name.as_str().as_bytes()));
    if !headers.get_all(CONNECTION).flat_map(options).any(is) {
        return;
    }
    let kept: Vec<&[u8]> =
        headers.get_all(CONNECTION).flat_map(options).filter(|option| !is(option)).collect();
    let kept = kept.join(&b", "[..]);
    headers.remove(CONNECTION);
    if let (false, Ok(value)) = (kept.is_empty(), HeaderValue::from_bytes(&kept)) {
        headers.append(CONNECTION, value);
    }
}

/// Whether a field belongs to the connection it came by.
fn is_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" | b"te"
    )
}

/// Whether a client must not tell an upstream such a field.
fn is_foreign(name: &[u8]) -> bool {
    match name {
        // `Proxy`: CGI programs read it as the variable `HTTP_PROXY` ("httpoxy", CVE-2016-5385).
        b"http2-settings" | b"proxy-authorization" | b"proxy" => true,
        _ => is_own(name),
    }
}

fn remove(headers: &mut Fields, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

fn options(value: Value<'_>) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Options of the connection itself, and `TE`, which is removed anyway once it has been looked at.
fn is_no_field(option: &[u8]) -> bool {
    let options: [&[u8]; 4] = [b"keep-alive", b"close", b"upgrade", b"te"];
    options.iter().any(|one| option.eq_ignore_ascii_case(one))
}

fn is_kept(option: &[u8]) -> bool {
    KEPT.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()))
        || KEPT_PREFIXES.iter().any(|prefix| {
            option.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
}

fn wants_trailers(headers: &Fields) -> bool {
    headers.get_all(TE).iter().any(|value| {
        options(value).any(|coding| {
            coding
                .split(|&byte| byte == b';')
                .next()
                .is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        })
    })
}

/// Whether a field is `Tidegate-*`, or would be read as a field that Tidegate writes by whoever takes `_`
/// for `-` (CGI, WSGI, PHP). Names are lower case.
fn is_own(name: &[u8]) -> bool {
    if name.starts_with(OWN_PREFIX) {
        return true;
    }
    if !name.contains(&b'_') {
        return false;
    }
    let written = [
        &b"x-forwarded-for"[..],
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-request-id",
        b"client-cert",
        b"client-cert-chain",
    ];
    same(name.get(..OWN_PREFIX.len()).unwrap_or(name), OWN_PREFIX)
        || written.iter().any(|field| same(name, field))
}

fn same(name: &[u8], field: &[u8]) -> bool {
    name.len() == field.len() && name.iter().zip(field).all(|(&a, &b)| a == b || (a == b'_' && b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[&str]) -> Fields {
        let mut headers = Fields::default();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a header");
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[track_caller]
    fn check(strip: fn(&mut Fields), sent: &[&str], forwarded: &[&str]) {
        let mut stripped = headers(sent);
        strip(&mut stripped);
        assert_eq!(stripped, headers(forwarded));
    }

    #[test]
    fn sees_what_may_steer_an_application_and_what_sets_conditions() {
        use crate::cache::key::{overrides_method, steers};
        let names =
            ["x-forwarded-host", "x-original-url", "front-end-https", "x-host", "x-http-method", "forwarded"];
        for name in names {
            assert!(steers(name) || overrides_method(name) || name == "forwarded");
            assert!(Seen::of(&headers(&["host: a", &format!("{name}: b")])).steering, "{name}");
        }
        for name in &crate::cache::validate::CONDITIONS {
            assert!(Seen::of(&headers(&[&format!("{name}: b")])).conditional, "{name}");
        }
        let seen = Seen::of(&headers(&["host: a", "accept: b", "user-agent: c", "x-request-id: d"]));
        assert!(!seen.steering && !seen.conditional);
    }

    #[test]
    fn removes_what_belongs_to_the_connection() {
        let hop = [
            "connection: close, keep-alive",
            "connection: upgrade",
            "keep-alive: timeout=5",
            "proxy-connection: close",
            "transfer-encoding: chunked",
            "upgrade: h2c",
            "te: gzip",
            "accept: */*",
            "trailer: x-sum",
        ];
        check(strip_request, &hop, &["accept: */*", "trailer: x-sum"]);
        check(strip_response, &hop, &["accept: */*", "trailer: x-sum"]);
        let request = [
            "http2-settings: AAMAAABkAAQAAP__",
            "proxy-authorization: Basic x",
            "proxy: http://evil.example",
        ];
        check(strip_request, &request, &[]);
        check(strip_response, &["proxy-authenticate: Basic"], &[]);
    }

    #[test]
    fn a_client_says_nothing_of_its_certificate_by_a_name_that_is_read_alike_nor_takes_ours_away() {
        let lines = [
            "client_cert: :AA==:",
            "client-cert_chain: :AA==:",
            "connection: client-cert",
            "client-cert: :BB==:",
        ];
        check(strip_request, &lines, &["client-cert: :BB==:"]);
        let seen = Seen::of(&headers(&lines));
        assert!(seen.certificate && seen.foreign);
    }

    #[test]
    fn removes_what_connection_nominates() {
        check(
            strip_request,
            &["connection: Hop-One,, hop-two", "hop-one: 1", "hop-two: 2", "other: 3"],
            &["other: 3"],
        );
        check(strip_request, &["connection: hop", "connection: hip", "hop: 1", "hop: 2", "hip: 3"], &[]);
        check(strip_response, &["connection: (not a token), \u{e9}", "other: 3"], &["other: 3"]);
    }

    #[test]
    fn connection_cannot_nominate_what_the_application_relies_on() {
        let kept = [
            "host: a.example",
            "authorization: Bearer x",
            "content-length: 3",
            "content-type: text/plain",
            "cookie: a=b",
            "x-forwarded-for: 192.0.2.1",
            "x-api-key: k",
            "idempotency-key: i",
        ];
        let names = "Host, AUTHORIZATION, content-length, content-type, cookie, X-Forwarded-For, x-api-key, idempotency-key";
        let nominated = format!("connection: {names}");
        let sent: Vec<&str> = std::iter::once(nominated.as_str()).chain(kept).collect();
        check(strip_request, &sent, &kept);
    }

    #[test]
    fn keeps_te_trailers_and_nothing_else_of_te() {
        check(strip_request, &["te: gzip;q=0.5, Trailers ; q=1"], &["te: trailers"]);
        check(strip_request, &["te: trailers", "connection: te"], &["te: trailers"]);
        check(strip_request, &["te: trailersx"], &[]);
        check(strip_response, &["te: trailers"], &[]);
    }

    #[test]
    fn takes_from_clients_what_only_tidegate_may_say() {
        let sent = [
            "tidegate-tenant: acme",
            "tidegate_tenant: acme",
            "Tidegate-Deadline-Ms: 5",
            "x_forwarded_for: 10.0.0.1",
            "x-request_id: 1",
            "x-forwarded-for: 10.0.0.1",
            "my_field: stays",
            "tidegate: stays",
        ];
        check(strip_request, &sent, &["x-forwarded-for: 10.0.0.1", "my_field: stays", "tidegate: stays"]);
        check(strip_response, &["tidegate-load: 3"], &["tidegate-load: 3"]);
    }

    #[test]
    fn changes_are_removed_then_set_then_added() {
        let mut changed = headers(&["a: 1", "b: 1", "b: 2", "c: 1"]);
        let pair = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let remove = [HeaderName::from_static("a"), HeaderName::from_static("missing")];
        change(&mut changed, &remove, &[pair("b", "3"), pair("d", "1")], &[pair("c", "2"), pair("a", "2")]);
        assert_eq!(changed, headers(&["b: 3", "c: 1", "c: 2", "d: 1", "a: 2"]));
    }

    #[test]
    fn framing_is_not_the_operators_to_change() {
        for name in ["content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"] {
            assert!(!may_be_changed(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["host", "authorization", "x-any", "server"] {
            assert!(may_be_changed(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn finds_an_option_of_connection() {
        assert!(connection_has(&headers(&["connection: keep-alive, Upgrade"]), "upgrade"));
        assert!(!connection_has(&headers(&["connection: upgraded"]), "upgrade"));
        assert!(!connection_has(&Fields::default(), "upgrade"));
    }

    proptest! {
        #[test]
        fn what_is_stripped_holds_nothing_of_the_hop(
            names in prop::collection::vec("connection|te|upgrade|keep-alive|tidegate-x|hop-[ab]|host|x-y", 0..12),
            values in prop::collection::vec("(close|hop-[ab]|te|host|trailers|,| ){0,4}", 12),
        ) {
            let mut stripped = Fields::default();
            for (name, value) in names.iter().zip(&values) {
                let name: HeaderName = name.parse().expect("a name");
                stripped.append(name, HeaderValue::from_str(value).expect("a value"));
            }
            let hosts = stripped.get_all("host").iter().count();
            strip_request(&mut stripped);
            prop_assert_eq!(stripped.get_all("host").iter().count(), hosts);
            for gone in ["connection", "upgrade", "keep-alive", "tidegate-x"] {
                prop_assert!(!stripped.contains_key(gone));
            }
            prop_assert!(stripped.get_all(TE).iter().all(|value| value == "trailers"));
            let once = stripped.clone();
            strip_request(&mut stripped);
            prop_assert_eq!(once, stripped);
        }
    }
}
