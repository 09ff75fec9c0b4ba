//! What the upstream is told of the client: `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239).
//!
//! From a trusted proxy the list of addresses is kept and the peer is appended, and what it said of scheme and host
//! stays. From anybody else all four are replaced: the upstream may believe them.
//!
//! A proxy seldom writes both lists. The one that the client's address was found in is told in both forms: so the
//! upstream finds the same client whichever it reads, and none that a client wrote into the other.

use std::io::Write as _;
use std::net::IpAddr;
use std::rc::Rc;

use http::header::FORWARDED;
use http::{HeaderName, HeaderValue};

use crate::address::{X_FORWARDED_FOR, forwarded_for, is_token, node};
use crate::fields::{Fields, Value};

/// The scheme that the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The values for one inbound connection, made once: every request on a kept-alive connection is told alike.
#[derive(Debug)]
pub struct Forwarding {
    peer: HeaderValue,
    scheme: HeaderValue,
    /// `for=…;proto=…`, without the host.
    element: String,
    /// What the last host was, and what was told with it.
    last: Option<(HeaderValue, Rc<Told>)>,
}

/// What the upstream is told with one request. Scheme or host are not among it where a trusted proxy has told them.
#[derive(Clone, Debug)]
pub struct Told(Fields);

impl Told {
    /// The fields.
    #[must_use]
    pub fn fields(&self) -> &Fields {
        &self.0
    }
}

impl Forwarding {
    /// The values for a connection from this peer.
    #[must_use]
    pub fn new(peer: IpAddr, tls: bool) -> Forwarding {
        let peer = peer.to_canonical();
        let scheme = if tls { "https" } else { "http" };
        let element = match peer {
            IpAddr::V4(address) => format!("for={address};proto={scheme}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\";proto={scheme}"),
        };
        Forwarding {
            peer: HeaderValue::try_from(peer.to_string()).expect("an address is a header value"),
            scheme: HeaderValue::from_static(scheme),
            element,
            last: None,
        }
    }

    /// What is told with a request to this host; with `believed` fields, those of a trusted proxy that has told of where
    /// the request comes from.
    pub fn tell(&mut self, host: Option<Value<'_>>, believed: Option<&Fields>) -> Rc<Told> {
        let told = self.own(host);
        match believed {
            None => told,
            Some(headers) => Rc::new(self.beside(headers, &told)),
        }
    }

    /// What is told where nobody else has told anything.
    fn own(&mut self, host: Option<Value<'_>>) -> Rc<Told> {
        if let (Some((last, told)), Some(host)) = (&self.last, host)
            && host == *last
        {
            return Rc::clone(told);
        }
        let mut text = String::with_capacity(self.element.len() + 64);
        text.push_str(&self.element);
        if let Some(host) = host.and_then(|host| host.to_str().ok()) {
            text.push_str(";host=");
            push_value(&mut text, host);
        }
        let mut told = Fields::with_capacity(4);
        told.append(X_FORWARDED_FOR, &self.peer);
        told.append(X_FORWARDED_PROTO, &self.scheme);
        if let Some(host) = host {
            told.append(X_FORWARDED_HOST, host);
        }
        told.append(FORWARDED, HeaderValue::try_from(text).expect("printable text is a header value"));
        // It lives as long as its connection.
        let told = Rc::new(Told(told.compact()));
        self.last = host.map(|host| (host.owned(), Rc::clone(&told)));
        told
    }

    /// What is told where a trusted proxy has told some of it.
    fn beside(&self, headers: &Fields, own: &Told) -> Told {
        let own = own.fields();
        let forwarded = own.get(FORWARDED).expect("it is told to all");
        let copy = |out: &mut Vec<u8>, element: &[u8]| out.extend_from_slice(element);
        let mut told = Fields::with_capacity(4);
        if headers.contains_key(&X_FORWARDED_FOR) {
            let standard = list(headers, &X_FORWARDED_FOR, forwarded, |out, element| {
                // Writing into a vector cannot fail.
                let _ = match node(element) {
                    Some(IpAddr::V4(address)) => write!(out, "for={address}"),
                    Some(IpAddr::V6(address)) => write!(out, "for=\"[{address}]\""),
                    None => write!(out, "for=unknown"),
                };
            });
            told.append(X_FORWARDED_FOR, list(headers, &X_FORWARDED_FOR, Value::from(&self.peer), copy));
            told.append(FORWARDED, standard);
        } else if headers.contains_key(FORWARDED) {
            let plain = list(headers, &FORWARDED, Value::from(&self.peer), |out, element| {
                let _ = match forwarded_for(element) {
                    Some(address) => write!(out, "{address}"),
                    None => write!(out, "unknown"),
                };
            });
            told.append(X_FORWARDED_FOR, plain);
            told.append(FORWARDED, list(headers, &FORWARDED, forwarded, copy));
        } else {
            told.append(X_FORWARDED_FOR, &self.peer);
            told.append(FORWARDED, forwarded);
        }
        for name in [X_FORWARDED_PROTO, X_FORWARDED_HOST] {
            if let (Some(value), false) = (own.get(&name), headers.contains_key(&name)) {
                told.append(name, value);
            }
        }
        Told(told)
    }
}

/// A token as it is, anything else quoted.
fn push_value(out: &mut String, value: &str) {
    if !value.is_empty() && value.bytes().all(is_token) {
        return out.push_str(value);
    }
    out.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

/// A list with each element told anew and a last one, on one line: some applications read the first line alone.
fn list(
    headers: &Fields,
    name: &HeaderName,
    last: Value<'_>,
    mut tell: impl FnMut(&mut Vec<u8>, &[u8]),
) -> HeaderValue {
    let mut list: Vec<u8> = Vec::with_capacity(128);
    let elements =
        headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    for element in elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()) {
        tell(&mut list, element);
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(list)).expect("values joined are a value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Seen;

    /// Tells, as an exchange does.
    fn apply(forwarding: &mut Forwarding, headers: &mut Fields, host: Option<Value<'_>>, trusted: bool) {
        let seen = Seen::of(headers);
        let told = forwarding.tell(host, (trusted && seen.forwarded).then_some(&*headers));
        seen.take_request(headers, trusted, false);
        for (name, value) in told.fields() {
            assert!(!headers.contains_key(name), "{name} is told twice");
            headers.insert(name, value);
        }
    }

    /// What is forwarded as `for | proto | host | forwarded`.
    fn check(
        peer: &str,
        tls: bool,
        trusted: bool,
        host: &str,
        lines: &[(&'static str, &str)],
        expected: [&str; 4],
    ) {
        let mut forwarding = Forwarding::new(peer.parse().expect("an address"), tls);
        let host = (!host.is_empty()).then(|| HeaderValue::from_str(host).expect("a host"));
        // Twice on one connection: the second is told from memory.
        for _ in 0..2 {
            let mut headers = Fields::default();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_str(value).expect("a value"));
            }
            apply(&mut forwarding, &mut headers, host.as_ref().map(Value::from), trusted);
            let names = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, FORWARDED];
            let told = names.map(|name| {
                assert!(headers.get_all(&name).iter().count() <= 1);
                headers.get(&name).map_or(String::new(), |value| value.to_str().expect("text").to_owned())
            });
            assert_eq!(told, expected);
        }
    }

    const SPOOFED: &[(&str, &str)] = &[
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=6.6.6.6"),
    ];

    #[test]
    fn replaces_what_an_untrusted_client_sent() {
        let told =
            ["192.0.2.1", "http", "api.example:8080", "for=192.0.2.1;proto=http;host=\"api.example:8080\""];
        check("::ffff:192.0.2.1", false, false, "api.example:8080", SPOOFED, told);
        check("192.0.2.1", false, false, "", SPOOFED, ["192.0.2.1", "http", "", "for=192.0.2.1;proto=http"]);
    }

    #[test]
    fn quotes_ipv6_and_hosts_that_are_no_tokens() {
        let told = ["2001:db8::1", "https", "a.example", "for=\"[2001:db8::1]\";proto=https;host=a.example"];
        check("2001:db8::1", true, false, "a.example", &[], told);
        let told = ["1.2.3.4", "http", "a\"\\b", "for=1.2.3.4;proto=http;host=\"a\\\"\\\\b\""];
        check("1.2.3.4", false, false, "a\"\\b", &[], told);
    }

    #[test]
    fn appends_to_what_a_trusted_proxy_sent() {
        let told = [
            "6.6.6.6, 7.7.7.7, 10.0.0.1",
            "https",
            "evil.example",
            "for=6.6.6.6, for=7.7.7.7, for=10.0.0.1;proto=http;host=a.example",
        ];
        check("10.0.0.1", false, true, "a.example", SPOOFED, told);
        let told = ["10.0.0.1", "http", "a.example", "for=10.0.0.1;proto=http;host=a.example"];
        check("10.0.0.1", false, true, "a.example", &[], told);
    }

    #[test]
    fn the_list_that_was_believed_is_told_in_both_forms() {
        let own = "for=10.0.0.1;proto=http;host=a.example";
        for (lines, plain, standard) in [
            (
                &[("x-forwarded-for", "2001:db8::1, 1.2.3.4:80, hidden"), ("forwarded", "for=6.6.6.6")][..],
                "2001:db8::1, 1.2.3.4:80, hidden, 10.0.0.1",
                "for=\"[2001:db8::1]\", for=1.2.3.4, for=unknown",
            ),
            (
                &[
                    ("forwarded", "for=\"[2001:db8::1]:80\";proto=https"),
                    ("forwarded", "for=_a,, for=1.2.3.4;by=x"),
                ],
                "2001:db8::1, unknown, 1.2.3.4, 10.0.0.1",
                "for=\"[2001:db8::1]:80\";proto=https, for=_a, for=1.2.3.4;by=x",
            ),
        ] {
            let standard = format!("{standard}, {own}");
            check("10.0.0.1", false, true, "a.example", lines, [plain, "http", "a.example", &standard]);
        }
    }

    #[test]
    fn another_host_on_the_same_connection_is_told_as_such() {
        let mut forwarding = Forwarding::new("192.0.2.1".parse().expect("an address"), false);
        for host in ["a.example", "b.example", "a.example"] {
            let mut headers = Fields::default();
            apply(&mut forwarding, &mut headers, Some(Value::from(&HeaderValue::from_static(host))), false);
            assert_eq!(headers.get(FORWARDED).unwrap(), *format!("for=192.0.2.1;proto=http;host={host}"));
        }
    }
}
