//! Which other origins' scripts may call an application, as the Fetch standard has it (section 3.2, "CORS protocol").
//!
//! A *preflight* asks, without credentials, whether a request may be made; the answer is ours alone. An answer to a request says
//! who may read it. The origin is told by its own name, with `Vary: Origin`, unless all may read; with credentials it always is.
//!
//! What it does not do: it refuses no request but a preflight. Who is no browser sends what it likes; who may is decided elsewhere.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue, Method};

use crate::address::is_token;
use crate::fields::Fields;

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// The most bytes of an origin: a scheme, a name and a port.
const ORIGIN_BYTES_MAX: usize = 300;
/// The most bytes of the headers that a preflight asks for.
const ASKED_BYTES_MAX: usize = 4096;
/// Methods that need no leave (Fetch, "CORS-safelisted method").
const SAFELISTED: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];

/// What a route allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whose scripts; `None`: anybody's.
    pub origins: Option<Vec<Origin>>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Headers of requests; `None`: whatever is asked for.
    pub headers: Option<Vec<HeaderName>>,
    /// Headers of answers that scripts may read.
    pub expose: Vec<HeaderName>,
    /// Whether requests carry cookies and the like.
    pub credentials: bool,
    /// For how many seconds a browser remembers the answer to a preflight.
    pub max_age: u64,
    /// Whether pages of the internet may call what is in a private network.
    pub private_network: bool,
    /// What the application itself says of it stays, where it says anything.
    pub keep: bool,
}

/// An origin, or many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https://`.
    scheme: String,
    /// The host; with a star before it, what stands behind the star, dot included.
    host: String,
    below: bool,
    port: Port,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Is(String),
    Any,
}

impl Origin {
    /// Reads `https://app.example.com`, `https://*.example.com`, `http://localhost:*`.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Origin, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("an origin is `https://HOST`, or `*`")?;
        let is_scheme =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return Err("the scheme of an origin is in lower case");
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err("an origin has no path, not even `/`");
        }
        let bracket = rest.rfind(']').unwrap_or(0);
        let (host, port) = match rest.rfind(':').filter(|colon| *colon > bracket) {
            Some(colon) => (&rest[..colon], Some(&rest[colon + 1..])),
            None => (rest, None),
        };
        let port = match port {
            None => Port::Is(String::new()),
            Some("*") => Port::Any,
            Some(port) if port.parse::<u16>().is_ok() => {
                let usual = matches!((scheme, port), ("https", "443") | ("http", "80"));
                Port::Is(if usual { String::new() } else { format!(":{port}") })
            }
            Some(_) => return Err("the port of an origin is a number, or `*`"),
        };
        let (below, host) = match host.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') => (true, rest),
            _ => (false, host),
        };
        let is_host =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
        if host.trim_matches('.').is_empty() || !host.bytes().all(is_host) {
            return Err("the host of an origin is a name in lower case, `*.` before it for all below");
        }
        Ok(Origin { scheme: scheme.to_owned(), host: host.to_owned(), below, port })
    }

    fn is(&self, origin: &str) -> bool {
        let rest = origin.strip_prefix(self.scheme.as_str()).and_then(|rest| rest.strip_prefix("://"));
        let Some(rest) = rest else { return false };
        let host = match &self.port {
            Port::Is(port) => match rest.strip_suffix(port.as_str()) {
                Some(host) => host,
                None => return false,
            },
            Port::Any => match rest.rsplit_once(':') {
                Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    host
                }
                _ => rest,
            },
        };
        match self.below {
            false => host == self.host,
            true => host.strip_suffix(self.host.as_str()).is_some_and(|first| {
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
                !first.is_empty() && !first.starts_with('.') && first.bytes().all(is_name)
            }),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = match &self.port {
            Port::Is(port) => port,
            Port::Any => ":*",
        };
        write!(out, "{}://{}{}{port}", self.scheme, if self.below { "*" } else { "" }, self.host)
    }
}

/// Whether a request is a preflight, and for which method.
#[must_use]
pub fn preflight(method: &Method, fields: &Fields) -> Option<Method> {
    if *method != Method::OPTIONS || !fields.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(fields.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl Cors {
    /// How the origin of a request is told that it may; `None`: it has none, or it may not.
    #[must_use]
    pub fn origin(&self, request: &Fields) -> Option<HeaderValue> {
        let mut values = request.get_all(ORIGIN);
        let (value, more) = (values.next()?, values.next());
        if more.is_some() || value.len() > ORIGIN_BYTES_MAX {
            return None;
        }
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => {
                let origin = value.to_str().ok()?;
                origins.iter().any(|one| one.is(origin)).then(|| value.owned())
            }
        }
    }

    /// The fields of the answer to a preflight for this method.
    ///
    /// # Errors
    /// Why the request may not be made.
    pub fn preflight(&self, method: &Method, request: &Fields) -> Result<Fields, &'static str> {
        let origin = self.origin(request).ok_or("this origin may not call this route")?;
        if !SAFELISTED.contains(method) && !self.methods.contains(method) {
            return Err("this origin may not use this method");
        }
        let asked = asked(request)?;
        let refused = |name: &&str| {
            self.headers
                .as_ref()
                .is_some_and(|own| !own.iter().any(|one| one.as_str().eq_ignore_ascii_case(name)))
        };
        if asked.iter().any(refused) {
            return Err("this origin may not send one of these headers");
        }
        let mut fields = Fields::with_capacity(8);
        self.allow(&mut fields, origin);
        let methods: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
        say(&mut fields, ACCESS_CONTROL_ALLOW_METHODS, &methods);
        match &self.headers {
            None => say(&mut fields, ACCESS_CONTROL_ALLOW_HEADERS, &asked),
            Some(own) => {
                let own: Vec<&str> = own.iter().map(HeaderName::as_str).collect();
                say(&mut fields, ACCESS_CONTROL_ALLOW_HEADERS, &own);
            }
        }
        fields.insert(ACCESS_CONTROL_MAX_AGE, self.max_age);
        if self.private_network && request.contains_key(REQUEST_PRIVATE_NETWORK) {
            fields.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        Ok(fields)
    }

    /// What the answer to a preflight differs by, whatever it is.
    #[must_use]
    pub fn preflight_vary() -> HeaderValue {
        HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
    }

    /// Says in an answer who may read it: this origin, if any. What the application has said of it itself goes.
    pub fn put(&self, answer: &mut Fields, origin: Option<&HeaderValue>) {
        if self.keep && answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        answer.retain(|name, _| !name.as_bytes().starts_with(b"access-control-"));
        // Whoever keeps the answer must not give it to another origin.
        if self.origins.is_some() && !varies_with_origin(answer) {
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin else { return };
        self.allow(answer, origin.clone());
        let expose: Vec<&str> = self.expose.iter().map(HeaderName::as_str).collect();
        say(answer, ACCESS_CONTROL_EXPOSE_HEADERS, &expose);
    }

    fn allow(&self, answer: &mut Fields, origin: HeaderValue) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// The names of headers that a preflight asks for.
fn asked(request: &Fields) -> Result<Vec<&str>, &'static str> {
    let (mut names, mut bytes) = (Vec::new(), 0);
    for value in request.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
        bytes += value.len();
        let text = value.to_str().map_err(|_| "what the preflight asks for are no names of headers")?;
        names.extend(text.split(',').map(str::trim).filter(|name| !name.is_empty()));
    }
    if bytes > ASKED_BYTES_MAX || !names.iter().all(|name| name.bytes().all(is_token)) {
        return Err("what the preflight asks for are no names of headers");
    }
    Ok(names)
}

fn say(fields: &mut Fields, name: HeaderName, values: &[&str]) {
    if let (false, Ok(value)) = (values.is_empty(), HeaderValue::from_str(&values.join(", "))) {
        fields.insert(name, value);
    }
}

fn varies_with_origin(answer: &Fields) -> bool {
    answer.get_all(VARY).any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"origin"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            origins: Some(origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect()),
            methods: vec![Method::GET, Method::PUT],
            headers: None,
            expose: vec![HeaderName::from_static("x-request-id")],
            credentials: true,
            max_age: 600,
            private_network: false,
            keep: false,
        }
    }

    fn fields(lines: &[(&'static str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn check(origin: &str, request: &str, expected: bool) {
        let allowed = cors(&[origin]).origin(&fields(&[("origin", request)])).is_some();
        assert_eq!(allowed, expected, "{origin} {request}");
    }

    #[test]
    fn an_origin_is_this_one_or_below_this_one_and_nothing_that_looks_like_it() {
        check("https://a.example", "https://a.example", true);
        check("https://a.example:443", "https://a.example", true);
        for other in [
            "http://a.example",
            "https://a.example:8443",
            "https://a.example.evil",
            "https://xa.example",
            "https://A.example",
            "null",
            "",
        ] {
            check("https://a.example", other, false);
        }
        check("https://*.a.example", "https://x.a.example", true);
        check("https://*.a.example", "https://x.y.a.example", true);
        for other in [
            "https://a.example",
            "https://.a.example",
            "https://evil/.a.example",
            "https://x.a.example:1",
            "https://u@x.a.example",
        ] {
            check("https://*.a.example", other, false);
        }
        check("http://localhost:*", "http://localhost:5173", true);
        check("http://localhost:*", "http://localhost", true);
        check("http://localhost:*", "http://localhost:x", false);
        check("http://[::1]:8080", "http://[::1]:8080", true);
    }

    #[test]
    fn what_is_no_origin_is_told() {
        for text in [
            "a.example",
            "*",
            "https://a.example/",
            "https://A.example",
            "https://a.example:x",
            "https://*",
            "https://*.",
            "HTTPS://a",
            "https://*a.example",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
        for text in ["https://a.example", "https://*.a.example:8443", "http://localhost:*"] {
            assert_eq!(Origin::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_preflight_is_answered_as_the_route_allows() {
        let cors = cors(&["https://a.example"]);
        let asks = [("origin", "https://a.example"), ("access-control-request-headers", "content-type, x-a")];
        let answer = cors.preflight(&Method::PUT, &fields(&asks)).unwrap();
        for (name, value) in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "content-type, x-a"),
            ("access-control-max-age", "600"),
        ] {
            assert_eq!(answer.get(name).unwrap(), value);
        }
        assert!(cors.preflight(&Method::DELETE, &fields(&asks)).is_err());
        assert!(cors.preflight(&Method::POST, &fields(&asks)).is_ok(), "it needs no leave");
        assert!(cors.preflight(&Method::PUT, &fields(&[("origin", "https://b.example")])).is_err());
        let few = Cors { headers: Some(vec![HeaderName::from_static("x-a")]), ..cors.clone() };
        assert!(few.preflight(&Method::PUT, &fields(&asks)).is_err());
        assert!(
            few.preflight(&Method::PUT, &fields(&[asks[0], ("access-control-request-headers", "X-A")]))
                .is_ok()
        );
        let bad = [asks[0], ("access-control-request-headers", "a b")];
        assert!(cors.preflight(&Method::PUT, &fields(&bad)).is_err());
        let network = [asks[0], ("access-control-request-private-network", "true")];
        let private = "access-control-allow-private-network";
        assert!(!cors.preflight(&Method::PUT, &fields(&network)).unwrap().contains_key(private));
        let open = Cors { private_network: true, ..cors };
        assert!(open.preflight(&Method::PUT, &fields(&network)).unwrap().contains_key(private));
    }

    #[test]
    fn an_answer_says_who_may_read_it_and_that_it_differs() {
        let cors = cors(&["https://a.example"]);
        let mut answer = fields(&[("access-control-allow-origin", "*"), ("vary", "Accept")]);
        cors.put(&mut answer, None);
        assert!(!answer.contains_key("access-control-allow-origin"));
        assert_eq!(answer.get_all("vary").count(), 2);
        let origin = HeaderValue::from_static("https://a.example");
        cors.put(&mut answer, Some(&origin));
        assert_eq!(answer.get("access-control-allow-origin").unwrap(), "https://a.example");
        assert_eq!(answer.get("access-control-expose-headers").unwrap(), "x-request-id");
        assert_eq!(answer.get_all("vary").count(), 2, "not twice");
        let kept = Cors { keep: true, ..cors };
        let mut answer = fields(&[("access-control-allow-origin", "*")]);
        kept.put(&mut answer, Some(&origin));
        assert_eq!(answer.get("access-control-allow-origin").unwrap(), "*");
        let all = Cors { origins: None, credentials: false, keep: false, ..kept };
        let mut answer = Fields::default();
        all.put(&mut answer, all.origin(&fields(&[("origin", "https://x.example")])).as_ref());
        assert_eq!(answer.get("access-control-allow-origin").unwrap(), "*");
        assert!(!answer.contains_key("vary") && !answer.contains_key("access-control-allow-credentials"));
    }
}
