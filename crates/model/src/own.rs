//! What Tidegate itself says on a request to an upstream: who asks, for whom, by which way, and how long there is time.
//!
//! These fields are kept beside the client's, and written after them when the request is: putting each into the map of
//! the client's fields, to be taken out of it at once, would cost more than all else that is done with a head. A
//! client's own fields of these names are not in that map any more ([`crate::headers::Seen::take_request`]).

use std::rc::Rc;
use std::time::Duration;

use http::header::VIA;
use http::{HeaderName, Version};

use crate::deadline;
use crate::fields::{Fields, Name, Value};
use crate::forwarded::Told;
use crate::problem::X_REQUEST_ID;
use crate::receipt::{RequestId, hex};
use crate::trace::Trace;

/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors say of a trace beside it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The length of the value of `traceparent`.
pub const TRACEPARENT_BYTES: usize = 55;
/// How overloaded the process or the upstream is.
pub const TIDEGATE_LOAD: HeaderName = HeaderName::from_static("tidegate-load");
const TIDEGATE_TENANT: HeaderName = HeaderName::from_static("tidegate-tenant");

/// The value of `traceparent` for a span of our own, and whether it goes on with the trace of its parent's value, if there is
/// a valid one. `trace` and `span` are chance.
pub fn traceparent(
    parent: Option<&[u8]>,
    trace: impl FnOnce() -> u128,
    span: u64,
) -> ([u8; TRACEPARENT_BYTES], bool) {
    let mut out = [0u8; TRACEPARENT_BYTES];
    out[..3].copy_from_slice(b"00-");
    out[35] = b'-';
    out[52] = b'-';
    let parent = parent.filter(|value| is_traceparent(value));
    match parent {
        Some(parent) => {
            out[3..35].copy_from_slice(&parent[3..35]);
            out[53..].copy_from_slice(&parent[53..TRACEPARENT_BYTES]);
        }
        None => {
            out[3..35].copy_from_slice(&RequestId(trace()).hex());
            out[53..].copy_from_slice(b"00");
        }
    }
    out[36..52].copy_from_slice(&hex(span.max(1)));
    (out, parent.is_some())
}

/// Whether it is one: version 00 exactly; of a later version, the part that version 00 defines.
#[must_use]
pub fn is_traceparent(value: &[u8]) -> bool {
    let length_fits = match value.get(..2) {
        Some(b"00") => value.len() == TRACEPARENT_BYTES,
        Some(b"ff") | None => false,
        Some(_) => value.len() == TRACEPARENT_BYTES || value.get(TRACEPARENT_BYTES) == Some(&b'-'),
    };
    let is_lower_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    length_fits
        && [2, 35, 52].iter().all(|&dash| value[dash] == b'-')
        && [0..2, 3..35, 36..52, 53..55].into_iter().all(|part| value[part].iter().all(is_lower_hex))
        && value[3..35].iter().any(|&digit| digit != b'0')
        && value[36..52].iter().any(|&digit| digit != b'0')
}

/// The fields of one request that stay the same over its tries.
#[derive(Clone, Debug, Default)]
pub struct OwnFields<'a> {
    /// What is told of the exchange; `None` once it is among the client's fields ([`OwnFields::put`]).
    pub said: Option<Said<'a>>,
    /// Whether `grpc-timeout` may be among the client's fields: then each try says it anew.
    pub grpc_timeout: bool,
    /// How overloaded this process or the upstream is, 0 to 3, where that is told.
    pub load: Option<u8>,
    /// Whether there is an Upgrade among the client's fields.
    pub upgrade: bool,
}

/// What is told of an exchange.
#[derive(Clone, Debug)]
pub struct Said<'a> {
    /// Where the request comes from.
    pub told: Rc<Told>,
    /// The version of HTTP that it came by.
    pub via: Version,
    /// Its id.
    pub request_id: RequestId,
    /// `traceparent`: ASCII.
    pub trace: [u8; TRACEPARENT_BYTES],
    /// Where the exchange stands in its trace, where traces are told: then each try says a span of its own.
    pub spans: Option<Trace>,
    /// The tenant's id.
    pub tenant: &'a str,
}

/// What is said of each exchange, as it is over HTTP/1.1, with zeros where one differs from the other.
const LINES: &[u8; 137] = b"via: 1.1 tidegate\r\n\
    x-request-id: 00000000000000000000000000000000\r\n\
    traceparent: 0000000000000000000000000000000000000000000000000000000\r\n";
/// How long their names and values are.
const LENGTHS: [(u16, u16); 3] = [(3, 12), (12, 32), (11, TRACEPARENT_BYTES as u16)];
const MINOR_AT: usize = "via: 1.".len();
const ID_AT: usize = "via: 1.1 tidegate\r\nx-request-id: ".len();
const TRACE_AT: usize = LINES.len() - 2 - TRACEPARENT_BYTES;

impl Said<'_> {
    /// What the so many-th try says; 0: what is said of them all.
    fn traceparent(&self, number: u32) -> [u8; TRACEPARENT_BYTES] {
        match &self.spans {
            Some(trace) if number > 0 => trace.traceparent(trace.of_try(number)),
            _ => self.trace,
        }
    }

    fn each(&self, number: u32, mut say: impl FnMut(Name<'_>, &[u8])) {
        for (name, value) in self.told.fields() {
            say(name, value.as_bytes());
        }
        self.each_beside(number, say);
    }

    /// Those beside where the request comes from.
    fn each_beside(&self, number: u32, mut say: impl FnMut(Name<'_>, &[u8])) {
        let via: &[u8] = match self.via {
            Version::HTTP_10 => b"1.0 tidegate",
            Version::HTTP_2 => b"2.0 tidegate",
            _ => b"1.1 tidegate",
        };
        say(Name::from(&VIA), via);
        say(Name::from(&X_REQUEST_ID), &self.request_id.hex());
        say(Name::from(&TRACEPARENT), &self.traceparent(number));
        if let Some(tenant) = self.tenant() {
            say(Name::from(&TIDEGATE_TENANT), tenant);
        }
    }

    /// Writes what [`Said::each`] tells, as it is over HTTP/1.1.
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        self.told.fields().write(out, |_, _| true);
        out.extend_from_slice(&self.lines(number));
        if let Some(tenant) = self.tenant() {
            out.extend_from_slice(b"tidegate-tenant: ");
            out.extend_from_slice(tenant);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// [`LINES`], with what the so many-th try says.
    fn lines(&self, number: u32) -> [u8; LINES.len()] {
        let mut lines = *LINES;
        match self.via {
            Version::HTTP_10 => lines[MINOR_AT] = b'0',
            Version::HTTP_2 => lines[MINOR_AT - 2..=MINOR_AT].copy_from_slice(b"2.0"),
            _ => {}
        }
        lines[ID_AT..ID_AT + 32].copy_from_slice(&self.request_id.hex());
        lines[TRACE_AT..TRACE_AT + TRACEPARENT_BYTES].copy_from_slice(&self.traceparent(number));
        lines
    }

    /// The tenant's id. One that no field can hold is not told.
    fn tenant(&self) -> Option<&[u8]> {
        let fits = self.tenant.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        fits.then_some(self.tenant.as_bytes())
    }
}

impl OwnFields<'_> {
    /// Puts what is told of the exchange among the client's fields, where the operator's changes find it. There are none of these
    /// names, but `Via`, which tells of one more on the way.
    pub fn put(&mut self, headers: &mut Fields) {
        if let Some(said) = self.said.take() {
            debug_assert!(said.told.fields().keys().all(|name| !headers.contains_key(name)));
            debug_assert!(!headers.contains_key(&X_REQUEST_ID) && !headers.contains_key(&TRACEPARENT));
            headers.append_all(said.told.fields());
            headers.append_written(&said.lines(0), &LENGTHS);
            if let Some(tenant) = said.tenant() {
                headers.append(TIDEGATE_TENANT, checked(tenant));
            }
        }
    }

    /// Calls with the value of the field of this name.
    pub fn find<T>(&self, name: &HeaderName, call: impl Fn(&[u8]) -> T) -> Option<T> {
        let mut found = None;
        self.said.as_ref()?.each(0, |said, value| {
            if said == *name {
                found = Some(call(value));
            }
        });
        found
    }

    /// The fields of the so many-th try, from 1, for which so much time is left.
    #[must_use]
    pub fn of_try(&self, number: u32, left: Duration) -> TryFields<'_> {
        TryFields { own: Some(self), number, left: Some(left) }
    }
}

/// The fields of one try.
#[derive(Clone, Copy, Debug, Default)]
pub struct TryFields<'a> {
    own: Option<&'a OwnFields<'a>>,
    number: u32,
    left: Option<Duration>,
}

impl TryFields<'_> {
    /// Whether an Upgrade is asked for, where that is known.
    #[must_use]
    pub fn upgrade(&self) -> Option<bool> {
        self.own.map(|own| own.upgrade)
    }

    /// Calls with each of them.
    pub fn each(&self, mut say: impl FnMut(Name<'_>, &[u8])) {
        if let Some(said) = self.own.and_then(|own| own.said.as_ref()) {
            said.each(self.number, &mut say);
        }
        if let Some(load) = self.own.and_then(|own| own.load) {
            say(Name::from(&TIDEGATE_LOAD), &[digit(load)]);
        }
        if let Some(left) = self.left {
            let left = deadline::remaining_ms(left);
            say(Name::from(&deadline::TIDEGATE_DEADLINE_MS), itoa::Buffer::new().format(left).as_bytes());
        }
    }

    /// Writes them as they are over HTTP/1.1: each request has them, in large parts alike.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(said) = self.own.and_then(|own| own.said.as_ref()) {
            said.write(self.number, out);
        }
        if let Some(load) = self.own.and_then(|own| own.load) {
            let mut line = *b"tidegate-load: 0\r\n";
            line["tidegate-load: ".len()] = digit(load);
            out.extend_from_slice(&line);
        }
        if let Some(left) = self.left {
            out.extend_from_slice(b"tidegate-deadline-ms: ");
            out.extend_from_slice(itoa::Buffer::new().format(deadline::remaining_ms(left)).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Puts them among others, for HTTP/2.
    pub fn put(&self, headers: &mut Fields) {
        self.each(|name, value| put(headers, name, value));
    }
}

fn digit(load: u8) -> u8 {
    b'0' + load.min(9)
}

/// `Via` tells of one more on the way; what Tidegate alone may say replaces what is there.
fn put(headers: &mut Fields, name: Name<'_>, value: &[u8]) {
    if name == VIA {
        headers.append(name, checked(value));
    } else {
        headers.insert(name, checked(value));
    }
}

fn checked(value: &[u8]) -> Value<'_> {
    Value::of(value).expect("it is made of the bytes of a value")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::forwarded::Forwarding;

    /// The fields of a try for this tenant, by name.
    fn check(via: (Version, &str), tenant: &str, expected: &[(&str, &str)]) {
        let mut forwarding = Forwarding::new("192.0.2.1".parse().expect("an address"), true);
        let said = Said {
            told: forwarding.tell(Some(Value::from(&HeaderValue::from_static("a.example"))), None),
            via: via.0,
            request_id: RequestId(10),
            trace: [b'7'; TRACEPARENT_BYTES],
            spans: None,
            tenant,
        };
        let own = OwnFields { said: Some(said), load: Some(2), ..OwnFields::default() };
        let mut told = Vec::new();
        own.of_try(1, Duration::from_millis(1_500)).each(|name, value| {
            told.push((name.as_str().to_owned(), String::from_utf8(value.to_vec()).expect("text")));
        });
        let trace = "7".repeat(TRACEPARENT_BYTES);
        let common = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example"),
            ("forwarded", "for=192.0.2.1;proto=https;host=a.example"),
            ("via", via.1),
            ("x-request-id", "0000000000000000000000000000000a"),
            ("traceparent", &trace),
        ];
        let expected: Vec<_> =
            common.iter().chain(expected).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(told, expected);
        let mut written = Vec::new();
        own.of_try(1, Duration::from_millis(1_500)).write(&mut written);
        let lines: String = expected.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        assert_eq!(String::from_utf8(written).expect("text"), lines);
        for (name, value) in &expected {
            let name: HeaderName = name.parse().expect("a name");
            let found = own.find(&name, |found| found == value.as_bytes());
            assert!(found.unwrap_or(name == deadline::TIDEGATE_DEADLINE_MS || name == TIDEGATE_LOAD));
        }
        let mut headers = Fields::default();
        headers.insert(VIA, HeaderValue::from_static("1.0 before"));
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("replaced"));
        own.of_try(1, Duration::from_millis(1_500)).put(&mut headers);
        assert_eq!(headers.len(), expected.len() + 1);
        assert_eq!(headers.get_all(VIA).iter().collect::<Vec<_>>(), ["1.0 before", via.1]);
        assert!(headers.get(X_REQUEST_ID).is_some_and(|id| id == "0000000000000000000000000000000a"));
    }

    #[test]
    fn the_same_is_told_over_all_versions() {
        for via in [
            (Version::HTTP_10, "1.0 tidegate"),
            (Version::HTTP_11, "1.1 tidegate"),
            (Version::HTTP_2, "2.0 tidegate"),
        ] {
            let own = [("tidegate-tenant", "acme"), ("tidegate-load", "2"), ("tidegate-deadline-ms", "1500")];
            check(via, "acme", &own);
        }
    }

    #[test]
    fn a_tenant_that_no_field_can_name_is_not_told() {
        let via = (Version::HTTP_2, "2.0 tidegate");
        check(via, "a\r\nx: y", &[("tidegate-load", "2"), ("tidegate-deadline-ms", "1500")]);
    }

    #[test]
    fn what_was_put_among_the_clients_fields_is_not_said_again() {
        let mut forwarding = Forwarding::new("192.0.2.1".parse().expect("an address"), false);
        let said = Said {
            told: forwarding.tell(None, None),
            via: Version::HTTP_11,
            request_id: RequestId(1),
            trace: [b'7'; TRACEPARENT_BYTES],
            spans: None,
            tenant: "acme",
        };
        let mut own = OwnFields { said: Some(said), ..OwnFields::default() };
        let mut headers = Fields::default();
        own.put(&mut headers);
        assert_eq!(headers.len(), 7);
        own.of_try(1, Duration::ZERO).each(|name, _| assert_eq!(name, deadline::TIDEGATE_DEADLINE_MS));
    }

    #[test]
    fn where_traces_are_told_each_try_says_a_span_of_its_own() {
        let mut forwarding = Forwarding::new("192.0.2.1".parse().expect("an address"), false);
        let trace = Trace::begin(5, 6, crate::trace::Share::of(1.0));
        let said = Said {
            told: forwarding.tell(None, None),
            via: Version::HTTP_11,
            request_id: RequestId(1),
            trace: trace.traceparent(trace.span),
            spans: Some(trace),
            tenant: "acme",
        };
        let mut own = OwnFields { said: Some(said), ..OwnFields::default() };
        for number in [1, 2] {
            let expected = trace.traceparent(trace.of_try(number));
            let fields = own.of_try(number, Duration::ZERO);
            let mut written = Vec::new();
            fields.write(&mut written);
            let line = format!("traceparent: {}\r\n", String::from_utf8_lossy(&expected));
            assert!(String::from_utf8_lossy(&written).contains(&line));
            let mut told = Vec::new();
            fields.each(|name, value| {
                if name == TRACEPARENT {
                    told = value.to_vec();
                }
            });
            assert_eq!(told, expected);
        }
        let mut headers = Fields::default();
        own.put(&mut headers);
        let told = headers.get(&TRACEPARENT).map(|value| value.as_bytes().to_vec());
        assert_eq!(told, Some(trace.traceparent(trace.span).to_vec()), "what changes find is the exchange's");
    }
}
