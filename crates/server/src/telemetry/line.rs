//! One line of access log: JSON, written by hand into a buffer, foreign bytes escaped.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_model::receipt::Receipt;
use tidegate_model::tick::rfc3339;

/// RFC 3339 in milliseconds; the second's part is made once a second.
#[derive(Default)]
pub(super) struct Stamp {
    second: u64,
    text: Vec<u8>,
}

impl Stamp {
    pub(super) fn text(&mut self, now: SystemTime) -> &[u8] {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.text.is_empty() {
            self.second = since.as_secs();
            self.text = format!("{}.000Z", rfc3339(self.second)).into_bytes();
        }
        let millis = u64::from(since.subsec_millis());
        if let Some((_, last)) = self.text.split_last_chunk_mut::<4>() {
            *last = [digit(millis / 100), digit(millis / 10), digit(millis), b'Z'];
        }
        &self.text
    }
}

/// A field of the access log.
pub(super) struct Field {
    /// Its name.
    pub(super) name: &'static str,
    /// Its type in JSON, with its unit.
    pub(super) kind: &'static str,
    /// When it is not there; empty: it always is.
    pub(super) absent: &'static str,
    /// What it says.
    pub(super) help: &'static str,
}

const fn field(name: &'static str, kind: &'static str, absent: &'static str, help: &'static str) -> Field {
    Field { name, kind, absent, help }
}

/// All fields, in the order in which they are written. `docs/access-log.md` is made of this table.
pub(super) const FIELDS: &[Field] = &[
    field("time", "text, RFC 3339 in UTC", "", "When the exchange ended, to the millisecond."),
    field(
        "request_id",
        "text, 32 hexadecimal digits",
        "",
        "The exchange's id, as in `X-Request-Id`; `GET /explain/REQUEST_ID` tells more of it while it is recent.",
    ),
    field("client", "text, address", "", "The client's address, after trusted proxies were believed."),
    field("method", "text", "", "The request's method; `-` if it never became a request."),
    field(
        "host",
        "text",
        "",
        "The host asked for, lower case, without port; empty if the request never had one.",
    ),
    field(
        "path",
        "text",
        "",
        "The path as it was sent, with its query if `[log] query` is on; empty if it never became a request.",
    ),
    field("version", "text", "", "The HTTP version: `1.0`, `1.1` or `2`."),
    field("listener", "text, address and port", "", "The listener by which it came."),
    field("tls", "`true` or `false`", "", "Whether it came over TLS."),
    field(
        "status",
        "number",
        "",
        "The status that the client was told; 0: none, as it left first or an injected fault cut its connection.",
    ),
    field("code", "text", "it was not refused", "The refusal; `tidegate explain CODE` tells what it means."),
    field(
        "route",
        "text",
        "no route matched",
        "The route's name; of an attempt of a delivery: `queue:` and its queue's.",
    ),
    field("tenant", "text", "the tenant was not identified", "The tenant's id."),
    field("upstream", "text", "it was not forwarded", "The upstream's name."),
    field(
        "endpoint",
        "text, address and port",
        "no endpoint was tried",
        "The endpoint that answered, or was tried last.",
    ),
    field(
        "tries",
        "number",
        "no endpoint was tried",
        "Calls to endpoints, the first, retries and hedges included.",
    ),
    field("bytes_in", "number, bytes", "", "The request's body, as far as it was received."),
    field("bytes_out", "number, bytes", "", "The response's body, as far as it was sent."),
    field(
        "coding",
        "text",
        "the answer was not compressed",
        "The coding that it was compressed in: `br`, `gzip`, `zstd`.",
    ),
    field(
        "plain_bytes",
        "number, bytes",
        "the answer was not compressed",
        "The response's body before it was compressed, as far as it was read.",
    ),
    field("duration_ms", "number, milliseconds", "", "From the request's head to the response's last byte."),
    field(
        "upstream_ms",
        "number, milliseconds",
        "no endpoint was tried",
        "In calls to endpoints, until their heads.",
    ),
    field("gate_ms", "number, milliseconds", "no endpoint was tried", "Waiting at the upstream's gate."),
    field(
        "cache",
        "text",
        "its route is not cached",
        "What the cache did: `hit`, `stale`, `revalidated`, `collapsed`, `miss`, `bypass`; `refresh`, `slices`: no client asked for it.",
    ),
    field(
        "idempotency",
        "text",
        "it had no key that counted",
        "What became of its idempotency key: `first`, `replayed`, `joined`, `released`, `unkept`, `unknown`, `unrecorded`; see [idempotency](idempotency.md).",
    ),
    field(
        "home",
        "text",
        "the target's home node was not asked",
        "What became of the question to it: `answered`, `away`, `late`, `refused`, `old` (it had what a purge has taken away).",
    ),
    field("delivery", "text", "it is no attempt of a delivery", "The delivery's id."),
    field("attempt", "number", "it is no attempt of a delivery", "The attempt's number, from 1."),
    field("fault", "text", "no injected fault struck it", "The names of the injected faults that struck it."),
    field("load", "number", "there was none", "How overloaded the process or the upstream was, 1 to 3."),
    field(
        "end",
        "text",
        "",
        "How it ended: `complete`, `client-gone`, `upstream-broke`, `tunnel-closed`, `injected` (by a fault) or `panicked`.",
    ),
];

/// Appends the line of a receipt.
pub(super) fn write(out: &mut Vec<u8>, receipt: &Receipt, time: &[u8], query: bool) {
    let id = receipt.request_id.hex();
    let target = receipt.target.text(query);
    let mut line = Line { out, first: true };
    line.out.push(b'{');
    line.plain("time", time);
    line.plain("request_id", &id);
    line.address("client", receipt.client);
    line.text("method", receipt.method.as_str().as_bytes());
    line.text("host", receipt.host.as_bytes());
    line.text("path", target.as_bytes());
    line.plain("version", version(receipt.version));
    line.socket("listener", receipt.listener);
    line.literal("tls", if receipt.tls { b"true" } else { b"false" });
    line.number("status", receipt.status.map_or(0, |status| u64::from(status.as_u16())));
    if let Some(kind) = receipt.refusal {
        line.plain("code", kind.code.as_bytes());
    }
    for (name, value) in
        [("route", &receipt.route), ("tenant", &receipt.tenant), ("upstream", &receipt.upstream)]
    {
        if let Some(value) = value {
            line.text(name, value.as_bytes());
        }
    }
    if let Some(endpoint) = receipt.endpoint {
        line.socket("endpoint", endpoint);
        line.number("tries", receipt.tries.into());
    }
    line.number("bytes_in", receipt.request_bytes);
    line.number("bytes_out", receipt.response_bytes);
    if let Some(compressed) = &receipt.compressed {
        line.plain("coding", compressed.coding.token().as_bytes());
        line.number("plain_bytes", compressed.plain_bytes);
    }
    line.millis("duration_ms", receipt.ended.since(receipt.started));
    if receipt.tries > 0 {
        line.millis("upstream_ms", receipt.upstream_time);
        line.millis("gate_ms", receipt.gate_wait);
    }
    if let Some(outcome) = receipt.cache {
        line.plain("cache", outcome.as_bytes());
    }
    if let Some(outcome) = receipt.idempotency {
        line.plain("idempotency", outcome.as_bytes());
    }
    if let Some(outcome) = receipt.home {
        line.plain("home", outcome.as_bytes());
    }
    if let Some((id, attempt)) = receipt.delivery {
        line.plain("delivery", id.to_string().as_bytes());
        line.number("attempt", attempt.into());
    }
    if let Some(fault) = &receipt.fault {
        line.text("fault", fault.as_bytes());
    }
    if receipt.load > 0 {
        line.number("load", receipt.load.into());
    }
    line.plain("end", receipt.end.name().as_bytes());
    out.extend_from_slice(b"}\n");
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Line<'_> {
    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn literal(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    fn number(&mut self, name: &str, value: u64) {
        let mut buffer = itoa::Buffer::new();
        self.literal(name, buffer.format(value).as_bytes());
    }

    fn millis(&mut self, name: &str, time: Duration) {
        let micros = time.as_micros() as u64;
        self.number(name, micros / 1000);
        let rest = micros % 1000;
        self.out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        self.name(name);
        self.out.push(b'"');
        // Writing into a vector cannot fail.
        match address {
            IpAddr::V4(v4) => self.ipv4(v4),
            IpAddr::V6(v6) => drop(write!(self.out, "{v6}")),
        }
        self.out.push(b'"');
    }

    fn socket(&mut self, name: &str, address: SocketAddr) {
        self.name(name);
        self.out.push(b'"');
        match address {
            SocketAddr::V4(v4) => {
                self.ipv4(*v4.ip());
                self.out.push(b':');
                self.out.extend_from_slice(itoa::Buffer::new().format(v4.port()).as_bytes());
            }
            SocketAddr::V6(v6) => drop(write!(self.out, "{v6}")),
        }
        self.out.push(b'"');
    }

    fn ipv4(&mut self, address: Ipv4Addr) {
        for (place, octet) in address.octets().into_iter().enumerate() {
            if place > 0 {
                self.out.push(b'.');
            }
            self.out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
        }
    }

    /// A text of our own, which needs no escaping.
    fn plain(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.push(b'"');
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        escape(self.out, value);
        self.out.push(b'"');
    }
}

fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

/// JSON's escapes; a byte that is not UTF-8 becomes the replacement character.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) & (*byte != b'"') & (*byte != b'\\');
    // Looking at all of them, whatever is found, is what compilers make wide.
    if value.iter().fold(true, |all, byte| all & plain(byte)) {
        return out.extend_from_slice(value);
    }
    for part in value.utf8_chunks() {
        for character in part.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                control if control.is_control() => {
                    let _ = write!(out, "\\u{:04x}", control as u32);
                }
                character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !part.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn version(version: http::Version) -> &'static [u8] {
    match version {
        http::Version::HTTP_10 => b"1.0",
        http::Version::HTTP_2 => b"2",
        _ => b"1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate_model::receipt::RequestId;
    use tidegate_model::tick::Tick;

    #[test]
    fn tells_the_time_as_rfc_3339() {
        let mut stamp = Stamp::default();
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(stamp.text(at(951_782_400_007)), b"2000-02-29T00:00:00.007Z");
        assert_eq!(stamp.text(at(951_782_400_120)), b"2000-02-29T00:00:00.120Z");
        assert_eq!(stamp.text(at(1_798_761_599_999)), b"2026-12-31T23:59:59.999Z");
    }

    /// The names of a line's fields, in their order.
    fn check(receipt: &Receipt, expected: &[&str]) {
        let mut out = Vec::new();
        write(&mut out, receipt, b"now", false);
        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&out).unwrap();
        let mut there: Vec<&str> = line.keys().map(String::as_str).collect();
        let place = |name: &&str| FIELDS.iter().position(|field| field.name == *name);
        there.sort_by_key(place);
        assert_eq!(there, expected);
        // Their order is that of the table.
        let text = String::from_utf8(out).unwrap();
        let places: Vec<_> = there.iter().map(|name| text.find(&format!("\"{name}\":"))).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn the_documented_fields_are_those_of_a_line() {
        let mut receipt =
            Receipt::open(RequestId(7), Tick(1), "::1".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        let always: Vec<&str> =
            FIELDS.iter().filter(|field| field.absent.is_empty()).map(|field| field.name).collect();
        check(&receipt, &always);
        receipt.refusal = Some(&tidegate_model::refusal::LIMIT_RATE);
        receipt.route = Some("r".into());
        receipt.tenant = Some("t".into());
        receipt.upstream = Some("u".into());
        receipt.endpoint = Some("127.0.0.1:1".parse().unwrap());
        receipt.tries = 1;
        receipt.compressed = Some(Box::new(tidegate_model::receipt::Compressed {
            coding: tidegate_model::coding::Coding::Gzip,
            plain_bytes: 9,
        }));
        receipt.cache = Some("hit");
        receipt.idempotency = Some("first");
        receipt.home = Some("answered");
        receipt.delivery = Some((tidegate_model::delivery::Id(7), 1));
        receipt.fault = Some("f".into());
        receipt.load = 2;
        check(&receipt, &FIELDS.iter().map(|field| field.name).collect::<Vec<_>>());
    }

    #[test]
    fn addresses_are_told_as_they_are_written() {
        for (client, listener) in
            [("192.0.2.1", "127.0.0.1:8080"), ("2001:db8::1", "[::1]:65535"), ("::ffff:1.2.3.4", "0.0.0.0:0")]
        {
            let (client, listener) = (client.parse().unwrap(), listener.parse().unwrap());
            let mut out = Vec::new();
            write(&mut out, &Receipt::open(RequestId(7), Tick(1), client, listener), b"now", false);
            let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(line["client"], client.to_string());
            assert_eq!(line["listener"], listener.to_string());
        }
    }

    proptest! {
        #[test]
        fn every_line_is_json_whatever_the_bytes(host in "\\PC*", tenant in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut receipt = Receipt::open(RequestId(7), Tick(1), "::1".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
            receipt.host = host.as_str().into();
            receipt.tenant = Some(String::from_utf8_lossy(&tenant).into());
            receipt.ended = Tick(1_234_567);
            let mut out = Vec::new();
            write(&mut out, &receipt, b"now", true);
            prop_assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
            let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(line["host"].as_str(), Some(host.as_str()));
            prop_assert_eq!(line["duration_ms"].as_f64(), Some(1.234));
        }
    }
}
