//! Whether a response may be kept, and what of it (RFC 9111 section 3).

use crate::fields::Fields;
use http::header::{AUTHORIZATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, VARY};
use http::{HeaderName, Method, StatusCode};

use crate::cache::directives::{self, Scope, Told};
use crate::cache::freshness::is_heuristically_cacheable;
use crate::cache::range;

const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// Why a response is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its method's answers are not kept.
    Method,
    /// Its status is not final, or one whose rules we do not know.
    Status,
    /// It says `no-store`.
    NoStore,
    /// The client says `no-store`.
    RequestNoStore,
    /// It is for one user.
    Private,
    /// It answers a request with credentials, and says nothing that would make it everybody's.
    Authorization,
    /// It sets a cookie: it was made for one client.
    SetCookie,
    /// It answers a request with a cookie, and says nothing that would make it anybody else's.
    Cookie,
    /// It varies with more than its request tells.
    VaryAny,
    /// It says neither how long it is fresh nor that it may be kept, and its status does not either.
    Silent,
    /// It is a part, of what cannot be told.
    Part,
    /// It has more tags than are kept: it could not be purged by all of them.
    Tags,
    /// It is too large.
    Large,
    /// Its home says that it is for this request alone.
    Home,
}

impl Why {
    /// Its name in `/explain` and `Cache-Status`'s detail.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Why::Method => "method",
            Why::Status => "status",
            Why::NoStore => "no-store",
            Why::RequestNoStore => "request-no-store",
            Why::Private => "private",
            Why::Authorization => "authorization",
            Why::SetCookie => "set-cookie",
            Why::Cookie => "cookie",
            Why::VaryAny => "vary-any",
            Why::Silent => "silent",
            Why::Part => "part",
            Why::Tags => "tags",
            Why::Large => "large",
            Why::Home => "home",
        }
    }
}

/// What a route allows beyond the RFC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Responses that say nothing of their lifetime have one all the same.
    pub unasked: bool,
    /// The client's `no-store` counts.
    pub request_directives: bool,
}

/// Whether a response may be kept by this shared cache.
///
/// # Errors
/// Why not.
pub fn may(
    method: &Method,
    request: &Fields,
    status: StatusCode,
    response: &Fields,
    told: &directives::Response,
    terms: Terms,
) -> Result<(), Why> {
    if !is_kept(method) {
        return Err(Why::Method);
    }
    let known = is_heuristically_cacheable(status) || matches!(status.as_u16(), 302 | 303 | 307);
    if status.is_informational() || status == StatusCode::NOT_MODIFIED || (told.must_understand && !known) {
        return Err(Why::Status);
    }
    if status == StatusCode::PARTIAL_CONTENT && range::brought(response).is_none() {
        return Err(Why::Part);
    }
    // Who knows the status goes by `must-understand`, whoever does not by the `no-store` beside it (section 5.2.2.3).
    if told.no_store && !told.must_understand {
        return Err(Why::NoStore);
    }
    if terms.request_directives && directives::Request::of(request).no_store {
        return Err(Why::RequestNoStore);
    }
    if told.private == Scope::All {
        return Err(Why::Private);
    }
    let shared = told.public || told.must_revalidate || matches!(told.s_maxage, Told::Seconds(_));
    if request.contains_key(AUTHORIZATION) && !shared {
        return Err(Why::Authorization);
    }
    if response.contains_key(SET_COOKIE) && !is_left_out(&SET_COOKIE, told) {
        return Err(Why::SetCookie);
    }
    if varies_with_anything(response) {
        return Err(Why::VaryAny);
    }
    let says = told.public
        || told.max_age != Told::No
        || told.s_maxage != Told::No
        || (!told.targeted && response.contains_key(http::header::EXPIRES))
        || is_heuristically_cacheable(status)
        || terms.unasked;
    if says { Ok(()) } else { Err(Why::Silent) }
}

/// Whether answers to this method are kept at all. QUERY's are, with its content in the key (RFC 10008 section 2.7).
#[must_use]
pub fn is_kept(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "QUERY")
}

/// Fields that are never kept, whatever a response says: those of a proxy (section 3.1), and what is of one client.
pub(super) const NEVER_KEPT: [HeaderName; 4] =
    [PROXY_AUTHENTICATE, PROXY_AUTHENTICATION_INFO, PROXY_AUTHORIZATION, SET_COOKIE];

/// Takes from a response's fields what is not kept (section 3.1): those of the connection were taken before. Gives what it
/// took: whoever asked for the response gets it all the same, and nobody else does.
pub fn strip(response: &mut Fields, told: &directives::Response) -> Fields {
    let mut taken = Fields::default();
    let named = [&told.private, &told.no_cache].into_iter().filter_map(|scope| match scope {
        Scope::Fields(names) => Some(names.iter()),
        Scope::Nothing | Scope::All => None,
    });
    for name in NEVER_KEPT.iter().chain(named.flatten()) {
        for value in response.get_all(name) {
            taken.append(name, value);
        }
        response.remove(name);
    }
    taken
}

/// Whether a field is not kept, because the response says so of this field by name.
fn is_left_out(name: &HeaderName, told: &directives::Response) -> bool {
    [&told.private, &told.no_cache]
        .into_iter()
        .any(|scope| matches!(scope, Scope::Fields(names) if names.contains(name)))
}

fn varies_with_anything(response: &Fields) -> bool {
    let mut names =
        response.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    names.any(|name| name.trim_ascii() == b"*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Name;
    use http::HeaderValue;

    fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = Fields::default();
        for (name, value) in lines.iter().map(line) {
            map.append(name, value);
        }
        map
    }

    type Lines = [(&'static str, &'static str)];

    fn check(method: &str, status: u16, request: &Lines, response: &Lines, expected: Result<(), Why>) {
        let (request, response) = (fields(request), fields(response));
        let told = directives::Response::of(&response, &[]);
        let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
        let terms = Terms { unasked: false, request_directives: true };
        assert_eq!(
            may(&method, &request, status, &response, &told, terms),
            expected,
            "{method} {status} {response:?}"
        );
    }

    fn says(control: &'static str, expected: Result<(), Why>) {
        check("GET", 200, &[], &[("cache-control", control)], expected);
    }

    #[test]
    fn section_3_the_method_is_understood() {
        for method in ["GET", "HEAD", "QUERY"] {
            check(method, 200, &[], &[("cache-control", "max-age=9")], Ok(()));
        }
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PURGE"] {
            check(method, 200, &[], &[("cache-control", "max-age=9")], Err(Why::Method));
        }
    }

    #[test]
    fn section_3_the_status_is_final() {
        check("GET", 103, &[], &[("cache-control", "max-age=9")], Err(Why::Status));
        check("GET", 304, &[], &[("cache-control", "max-age=9")], Err(Why::Status));
    }

    #[test]
    fn section_3_and_5_2_2_3_must_understand_asks_for_a_status_that_is_known_and_then_overrules_no_store() {
        check("GET", 200, &[], &[("cache-control", "must-understand, no-store, max-age=9")], Ok(()));
        check("GET", 299, &[], &[("cache-control", "must-understand, max-age=9")], Err(Why::Status));
        check("GET", 299, &[], &[("cache-control", "max-age=9")], Ok(()));
    }

    #[test]
    fn section_3_no_store_of_response_or_request() {
        says("no-store, max-age=9", Err(Why::NoStore));
        check(
            "GET",
            200,
            &[("cache-control", "no-store")],
            &[("cache-control", "max-age=9")],
            Err(Why::RequestNoStore),
        );
    }

    #[test]
    fn section_3_private_is_not_kept_but_by_its_fields() {
        says("private, max-age=9", Err(Why::Private));
        says("private=\"x-user\", max-age=9", Ok(()));
        let mut response = fields(&[
            ("cache-control", "private=\"x-user\", no-cache=\"x-hint\""),
            ("x-user", "1"),
            ("x-hint", "2"),
            ("x-other", "3"),
        ]);
        let told = directives::Response::of(&response, &[]);
        strip(&mut response, &told);
        let left: Vec<&str> = response.keys().map(Name::as_str).collect();
        assert_eq!(left, ["cache-control", "x-other"]);
    }

    #[test]
    fn section_3_5_an_answer_to_credentials_is_kept_only_if_it_says_so() {
        let request = [("authorization", "Bearer x")];
        check("GET", 200, &request, &[("cache-control", "max-age=9")], Err(Why::Authorization));
        for control in ["public", "s-maxage=9", "must-revalidate, max-age=9"] {
            check("GET", 200, &request, &[("cache-control", control)], Ok(()));
        }
        check(
            "GET",
            200,
            &request,
            &[("cache-control", "proxy-revalidate, max-age=9")],
            Err(Why::Authorization),
        );
    }

    #[test]
    fn section_3_something_says_that_it_may_be_kept() {
        check("GET", 200, &[], &[], Ok(()));
        check("GET", 302, &[], &[], Err(Why::Silent));
        check("GET", 500, &[], &[], Err(Why::Silent));
        check("GET", 500, &[], &[("expires", "0")], Ok(()));
        for control in ["public", "max-age=1", "s-maxage=1"] {
            check("GET", 500, &[], &[("cache-control", control)], Ok(()));
        }
    }

    #[test]
    fn section_3_3_a_part_is_kept_only_with_its_place() {
        check("GET", 206, &[], &[("cache-control", "max-age=9")], Err(Why::Part));
        check("GET", 206, &[], &[("cache-control", "max-age=9"), ("content-range", "bytes 0-1/2")], Ok(()));
    }

    #[test]
    fn section_4_1_what_varies_with_anything_can_never_be_used() {
        check("GET", 200, &[], &[("vary", "accept, *")], Err(Why::VaryAny));
        check("GET", 200, &[], &[("vary", "accept")], Ok(()));
    }

    #[test]
    fn a_cookie_is_not_kept_unless_it_is_left_out_by_name() {
        let cookie = ("set-cookie", "a=b");
        check("GET", 200, &[], &[cookie, ("cache-control", "public, max-age=9")], Err(Why::SetCookie));
        check("GET", 200, &[], &[cookie, ("cache-control", "no-cache, max-age=9")], Err(Why::SetCookie));
        check("GET", 200, &[], &[cookie, ("cache-control", "private=\"set-cookie\", max-age=9")], Ok(()));
        check("GET", 200, &[], &[cookie, ("cache-control", "no-cache=\"Set-Cookie\", max-age=9")], Ok(()));
    }

    #[test]
    fn section_3_1_what_is_of_proxies_is_not_kept() {
        let mut response =
            fields(&[("proxy-authenticate", "x"), ("proxy-authentication-info", "y"), ("etag", "z")]);
        strip(&mut response, &directives::Response::default());
        assert_eq!(response, fields(&[("etag", "z")]));
    }
}
