//! Traces and metrics, as a collector gets them that speaks OTLP.

use std::io::Write as _;

use tidegate_testkit::collector::{Collector, Verdict, said};
use tidegate_testkit::opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use tidegate_testkit::opentelemetry_proto::tonic::metrics::v1::metric::Data;
use tidegate_testkit::opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use tidegate_testkit::opentelemetry_proto::tonic::trace::v1::Span;
use tidegate_testkit::opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tidegate_testkit::{Answer, Gate, Origin, Reply, connect, nobody, read_answer, until};

use crate::{BINARY, app, control, gate};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRUSTED: &str = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";

/// `[otlp]` with these further lines.
fn otlp(collector: &Collector, more: &str) -> String {
    format!("[otlp]\nendpoint = \"http://{}\"\n{more}\n", collector.origin.address)
}

fn ask(gate: &Gate, line: &str, fields: &str) -> Answer {
    let mut stream = connect(gate.address);
    write!(stream, "{line} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n").unwrap();
    read_answer(&mut stream)
}

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, String::new()))
}

/// Answers by its path: `/fail` with 503.
fn failing() -> Origin {
    Origin::start(|path| Reply::Status(if path.starts_with("/fail") { 503 } else { 200 }, String::new()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind as i32).collect()
}

fn servers(collector: &Collector) -> Vec<Span> {
    of_kind(&collector.spans(), SpanKind::Server).into_iter().cloned().collect()
}

#[test]
fn an_exchange_is_told_below_who_asked_and_above_who_answers() {
    let (collector, dead, origin) = (Collector::start(), nobody(), ok());
    let more = "traces = { share = \"100%\" }\nheaders = { authorization = \"Bearer secret-of-ours\" }\nresource = { \"deployment.environment.name\" = \"test\" }";
    let upstream = "balance = \"round-robin\"\noutlier = { consecutive = 100 }";
    let config = app(&[dead, origin.address], upstream, "retry = { tries = 2 }");
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    let config = format!("{config}{tenants}{}", otlp(&collector, more));
    let gate = Gate::start_listening(BINARY, "otlp-spans", TRUSTED, &config);
    let fields = format!("traceparent: {PARENT}\r\nX-Tenant: acme\r\nCookie: secret-of-client\r\n");
    let mut ids = Vec::new();
    let tries = || gate.metric("tidegate_upstream_tries_total").unwrap() as usize;
    until("one has to be tried again, since nobody answers for its first endpoint", || {
        let answer = ask(&gate, "GET /orders/7?token=secret-in-query", &fields);
        assert_eq!(answer.status, 200);
        ids.push(answer.header("x-request-id").to_owned());
        tries() > ids.len()
    });
    until("all exchanges and tries arrive", || collector.spans().len() == ids.len() + tries());
    let spans = collector.spans();
    let own = of_kind(&spans, SpanKind::Server);
    for span in &own {
        let id = said(&span.attributes, "tidegate.request_id").unwrap();
        assert!(ids.contains(&id), "{id}");
        assert_eq!(
            (hex(&span.trace_id), hex(&span.parent_span_id)),
            (PARENT[3..35].into(), PARENT[36..52].into())
        );
        for (name, expected) in [
            ("http.request.method", "GET"),
            ("url.path", "/orders/7"),
            ("url.scheme", "http"),
            ("server.address", "shop.example"),
            ("http.response.status_code", "200"),
            ("tidegate.tenant", "acme"),
            ("tidegate.route", "all"),
        ] {
            assert_eq!(said(&span.attributes, name).as_deref(), Some(expected), "{name}");
        }
    }
    // What each of them told the upstream is the span of the try that reached it.
    let tries = of_kind(&spans, SpanKind::Client);
    let mut reached: Vec<String> = tries
        .iter()
        .filter(|span| said(&span.attributes, "http.response.status_code").is_some())
        .map(|span| format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)))
        .collect();
    let told = origin.recorded().into_iter().map(|one| {
        let line = one.head.lines().find_map(|line| line.strip_prefix("traceparent: ")).map(str::to_owned);
        line.expect("it is told")
    });
    let mut told: Vec<String> = told.collect();
    told.sort();
    reached.sort();
    assert_eq!(told, reached);
    let refused: Vec<_> = tries.iter().filter(|span| span.status.is_some()).collect();
    assert_eq!(said(&refused[0].attributes, "error.type").as_deref(), Some("upstream.connect"));
    let resource = collector.resource();
    assert_eq!(said(&resource, "service.name").as_deref(), Some("tidegate"));
    assert_eq!(said(&resource, "deployment.environment.name").as_deref(), Some("test"));
    let heads = collector.origin.recorded();
    assert!(heads[0].head.to_ascii_lowercase().contains("authorization: bearer secret-of-ours"));
    assert!(!format!("{spans:?}{resource:?}").contains("secret"), "no secret is told");
    let shown = control(&gate, "/config") + &control(&gate, "/status") + &gate.said();
    assert!(!shown.contains("secret-of-ours"), "{shown}");
}

#[test]
fn what_failed_is_told_and_nothing_of_what_went_well() {
    let (collector, origin) = (Collector::start(), failing());
    let config = app(&[origin.address], "outlier = { consecutive = 100 }", "");
    let more = "traces = { share = \"0%\" }";
    let gate = gate("otlp-tail", &format!("{config}{}", otlp(&collector, more)));
    // A client that nobody trusts has nothing recorded by saying so.
    (0..20).for_each(|_| assert_eq!(ask(&gate, "GET /", &format!("traceparent: {PARENT}\r\n")).status, 200));
    (0..3).for_each(|_| assert_eq!(ask(&gate, "GET /fail", "").status, 503));
    assert_eq!(ask(&gate, "GET /%zz", "").status, 400);
    until("the failed ones arrive", || servers(&collector).len() == 3);
    let counted =
        |outcome: &str| gate.metric(&format!("tidegate_otlp_exchanges_total{{outcome=\"{outcome}\"}}"));
    assert_eq!([counted("error"), counted("slow"), counted("share")], [Some(3.0), Some(0.0), Some(0.0)]);
    for span in servers(&collector) {
        assert_eq!(said(&span.attributes, "http.response.status_code").as_deref(), Some("503"));
        assert_eq!(said(&span.attributes, "error.type").as_deref(), Some("503"));
    }
    let sent = "tidegate_otlp_items_total{signal=\"traces\",outcome=\"sent\"}";
    until("they are counted", || gate.metric(sent) == Some(collector.spans().len() as f64));
}

#[test]
fn more_failures_than_may_be_told_in_a_time_are_counted() {
    let (collector, origin) = (Collector::start(), failing());
    let config = app(&[origin.address], "outlier = { consecutive = 100 }", "");
    let more = "traces = { share = \"0%\", most = \"5/h\" }";
    let gate = gate("otlp-most", &format!("{config}{}", otlp(&collector, more)));
    (0..12).for_each(|_| assert_eq!(ask(&gate, "GET /fail", "").status, 503));
    until("five arrive", || servers(&collector).len() == 5);
    let bound = "tidegate_otlp_exchanges_total{outcome=\"bound\"}";
    assert_eq!(gate.metric(bound), Some(7.0));
}

#[test]
fn a_collector_that_hangs_harms_nobody_and_what_is_too_much_is_counted() {
    let (collector, origin) = (Collector::start(), ok());
    collector.answer(Verdict::Hang);
    let more =
        "timeout = \"500ms\"\ntraces = { share = \"100%\", queue = 4 }\nmetrics = { interval = \"200ms\" }";
    let config = format!("{}{}", app(&[origin.address], "", ""), otlp(&collector, more));
    let gate = gate("otlp-hangs", &config);
    let dropped = || gate.metric("tidegate_otlp_exchanges_total{outcome=\"queue\"}").unwrap();
    until("some have to be dropped", || {
        assert_eq!(ask(&gate, "GET /", "").status, 200);
        dropped() > 20.0
    });
    let down = |signal: &str| gate.metric(&format!("tidegate_otlp_up{{signal=\"{signal}\"}}")) == Some(0.0);
    until("it is known to be away", || down("traces") && down("metrics"));
    collector.answer(Verdict::Take);
    until("what waited arrives", || !servers(&collector).is_empty() && !collector.metrics().is_empty());
    until("it is known to be there", || !down("traces") && !down("metrics"));
}

#[test]
fn what_a_collector_takes_later_arrives_once_and_what_it_never_takes_is_counted() {
    let (collector, origin) = (Collector::start(), ok());
    collector.answer(Verdict::Refuse(503, "Retry-After: 0\r\n".to_owned(), Vec::new()));
    let more = "traces = { share = \"100%\" }\nmetrics = false";
    let config = format!("{}{}", app(&[origin.address], "", ""), otlp(&collector, more));
    let gate = gate("otlp-later", &config);
    assert_eq!(ask(&gate, "GET /one", "").status, 200);
    until("it is asked again", || collector.origin.recorded().len() > 2);
    collector.answer(Verdict::Take);
    until("it arrives", || !servers(&collector).is_empty());
    collector.answer(Verdict::Refuse(400, String::new(), b"no such tenant".to_vec()));
    assert_eq!(ask(&gate, "GET /two", "").status, 200);
    let items = |outcome: &str| {
        gate.metric(&format!("tidegate_otlp_items_total{{signal=\"traces\",outcome=\"{outcome}\"}}")).unwrap()
    };
    until("it is lost", || items("lost") == 2.0);
    let error_message = "a limit".to_owned();
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message };
    let body = ExportTraceServiceResponse { partial_success: Some(partial) };
    let body = tidegate_testkit::collector::bytes(&body);
    collector.answer(Verdict::Refuse(200, String::new(), body));
    assert_eq!(ask(&gate, "GET /three", "").status, 200);
    until("one of two is rejected", || items("rejected") == 1.0);
    assert_eq!(items("sent"), 3.0);
    let paths: Vec<_> = servers(&collector).iter().map(|span| said(&span.attributes, "url.path")).collect();
    assert_eq!(paths, [Some("/one".to_owned())]);
}

#[test]
fn what_is_left_is_told_before_the_process_ends() {
    let (collector, origin) = (Collector::start(), ok());
    let more = "traces = { share = \"100%\" }\nmetrics = { interval = \"1h\" }";
    let config = format!("{}{}", app(&[origin.address], "", ""), otlp(&collector, more));
    let mut gate = gate("otlp-end", &config);
    (0..10).for_each(|_| assert_eq!(ask(&gate, "GET /", "").status, 200));
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0));
    assert_eq!(servers(&collector).len(), 10);
    assert!(!collector.metrics().is_empty());
}

#[test]
fn a_reload_changes_where_it_is_told_and_whether() {
    let (first, second, origin) = (Collector::start(), Collector::start(), ok());
    let base = app(&[origin.address], "", "");
    let more = "traces = { share = \"100%\" }\nmetrics = false";
    let gate = gate("otlp-reload", &format!("{base}{}", otlp(&first, more)));
    let tell = |count: usize, collector: &Collector| {
        assert_eq!(ask(&gate, "GET /", "").status, 200);
        until("it arrives", || servers(collector).len() == count);
    };
    tell(1, &first);
    gate.rewrite(&format!("{base}{}", otlp(&second, more)));
    gate.reload();
    tell(1, &second);
    gate.rewrite(&base);
    gate.reload();
    assert_eq!(ask(&gate, "GET /", "").status, 200);
    assert_eq!(gate.metric("tidegate_otlp_up{signal=\"traces\"}"), None);
    gate.rewrite(&format!("{base}{}", otlp(&first, more)));
    gate.reload();
    tell(2, &first);
    assert_eq!(servers(&second).len(), 1);
}

/// The value of a metric's point with these labels.
fn point(metrics: &[Metric], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let metric = metrics.iter().find(|metric| metric.name == name)?;
    let points: &[NumberDataPoint] = match metric.data.as_ref()? {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        _ => return None,
    };
    let is = |point: &&NumberDataPoint| {
        labels.iter().all(|(name, value)| said(&point.attributes, name).as_deref() == Some(*value))
    };
    match points.iter().find(is)?.value? {
        number_data_point::Value::AsInt(number) => Some(number as f64),
        number_data_point::Value::AsDouble(number) => Some(number),
    }
}

#[test]
fn metrics_are_those_that_are_scraped_and_buckets_have_examples() {
    let (collector, origin) = (Collector::start(), ok());
    let more = "traces = { share = \"100%\" }\nmetrics = { interval = \"100ms\" }";
    let config = format!("{}{}", app(&[origin.address], "", ""), otlp(&collector, more));
    let gate = gate("otlp-metrics", &config);
    (0..7).for_each(|_| assert_eq!(ask(&gate, "GET /", "").status, 200));
    let labels = [("route", "all"), ("class", "2xx")];
    until("all are counted", || point(&collector.metrics(), "tidegate_requests_total", &labels) == Some(7.0));
    let metrics = collector.metrics();
    let scraped = control(&gate, "/metrics");
    let families: Vec<&str> =
        scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let told: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(told, families);
    let times = metrics.iter().find(|metric| metric.name == "tidegate_request_seconds").unwrap();
    let Some(Data::Histogram(times)) = &times.data else { panic!("{times:?}") };
    let times = &times.data_points[0];
    assert_eq!((times.count, times.bucket_counts.len()), (7, times.explicit_bounds.len() + 1));
    until("all spans arrive", || servers(&collector).len() == 7);
    let example = times.exemplars.first().expect("one of them is told as a trace");
    let spans = servers(&collector);
    assert!(
        spans.iter().any(|span| (&span.trace_id, &span.span_id) == (&example.trace_id, &example.span_id))
    );
    // The same, for whoever scrapes.
    let request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n";
    let text = tidegate_testkit::send(gate.control, request.as_bytes());
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let trace = text.lines().find_map(|line| {
        let line = line.strip_prefix("tidegate_request_seconds_bucket{route=\"all\"")?;
        Some(line.split_once("# {trace_id=\"")?.1[..32].to_owned())
    });
    assert!(spans.iter().any(|span| Some(hex(&span.trace_id)) == trace), "{text}");
    assert!(!scraped.contains("trace_id"), "the plain form has no place for it");
}

#[test]
fn a_delivery_is_told_with_a_link_to_who_promised_it() {
    let (collector, origin) = (Collector::start(), ok());
    let more = "traces = { share = \"100%\" }\nmetrics = false";
    let queue = "[store]\nurl = \"sqlite:otlp-store\"\n[queue.kept]\nupstream = \"app\"\n";
    let route = "defer = \"always\"\nqueue = \"kept\"";
    let config = format!("{}{queue}{}", app(&[origin.address], "", route), otlp(&collector, more));
    let gate = gate("otlp-delivery", &config);
    assert_eq!(ask(&gate, "POST /job", "Content-Length: 0\r\n").status, 202);
    until("all of it arrives", || collector.spans().len() == 4);
    let spans = collector.spans();
    let one = |kind| of_kind(&spans, kind)[0];
    let (accepted, promised) = (one(SpanKind::Server), one(SpanKind::Producer));
    let (made, tried) = (one(SpanKind::Consumer), one(SpanKind::Client));
    assert_eq!(promised.parent_span_id, accepted.span_id);
    assert_eq!(made.parent_span_id, promised.span_id);
    assert_eq!(tried.parent_span_id, made.span_id);
    assert_eq!((&made.links[0].trace_id, &made.links[0].span_id), (&promised.trace_id, &promised.span_id));
    assert_eq!(said(&made.attributes, "messaging.destination.name").as_deref(), Some("kept"));
    assert!(spans.iter().all(|span| span.trace_id == accepted.trace_id));
    let told = origin.recorded().pop().unwrap().head;
    assert!(
        told.contains(&format!("traceparent: 00-{}-{}-", hex(&made.trace_id), hex(&made.span_id))),
        "{told}"
    );
}
