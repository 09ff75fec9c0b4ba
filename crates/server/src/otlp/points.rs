//! Metrics as OTLP tells them: the very families that `GET /metrics` tells, under the same names, cumulative since the process began.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar as OtlpExemplar, Gauge, Histogram as OtlpHistogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::{nanos, text};
use crate::telemetry::{Exemplar, Family, Histogram, Sample, Value};

/// The request that tells of these families, and of how many points it tells.
pub fn request(
    families: &[Family],
    (resource, scope): (Resource, InstrumentationScope),
    begun: u64,
    now: u64,
) -> (Bytes, u64) {
    let metrics: Vec<Metric> = families.iter().map(|family| metric(family, begun, now)).collect();
    let count = families.iter().map(|family| family.samples.len() as u64).sum();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    let all = ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    (ExportMetricsServiceRequest { resource_metrics: vec![all] }.encode_to_vec().into(), count)
}

fn metric(family: &Family, begun: u64, now: u64) -> Metric {
    let of = family.metric;
    let temporality = AggregationTemporality::Cumulative as i32;
    let numbers = || family.samples.iter().filter_map(|sample| point(sample, begun, now)).collect();
    let data = match of.kind {
        "counter" => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        "histogram" => Data::Histogram(OtlpHistogram {
            data_points: family.samples.iter().filter_map(|sample| spread(sample, begun, now)).collect(),
            aggregation_temporality: temporality,
        }),
        _ => Data::Gauge(Gauge { data_points: numbers() }),
    };
    Metric {
        name: of.name.to_owned(),
        description: of.help.to_owned(),
        unit: unit(of.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The unit (UCUM) that a metric's name ends with.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

fn point(sample: &Sample, begun: u64, now: u64) -> Option<NumberDataPoint> {
    let Value::Number(number) = &sample.value else { return None };
    let whole = number.parse().map(Number::AsInt).ok();
    Some(NumberDataPoint {
        attributes: sample.labels.iter().map(|(name, value)| text(name, value)).collect(),
        start_time_unix_nano: begun,
        time_unix_nano: now,
        value: Some(whole.or_else(|| number.parse().map(Number::AsDouble).ok())?),
        ..NumberDataPoint::default()
    })
}

fn spread(sample: &Sample, begun: u64, now: u64) -> Option<HistogramDataPoint> {
    let Value::Histogram(histogram) = &sample.value else { return None };
    let Histogram { bounds, counts, sum, exemplars } = histogram;
    Some(HistogramDataPoint {
        attributes: sample.labels.iter().map(|(name, value)| text(name, value)).collect(),
        start_time_unix_nano: begun,
        time_unix_nano: now,
        count: counts.iter().sum(),
        sum: Some(*sum),
        bucket_counts: counts.clone(),
        explicit_bounds: bounds.clone(),
        exemplars: exemplars.iter().flatten().map(example).collect(),
        ..HistogramDataPoint::default()
    })
}

fn example(exemplar: &Exemplar) -> OtlpExemplar {
    OtlpExemplar {
        time_unix_nano: nanos(exemplar.at),
        span_id: exemplar.span.to_be_bytes().to_vec(),
        trace_id: exemplar.trace.to_be_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.value)),
        ..OtlpExemplar::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Exposition, LAG, METRICS, REQUESTS, SECONDS};

    #[test]
    fn the_same_is_told_as_is_scraped() {
        let mut all = Exposition::default();
        all.family(&REQUESTS);
        all.sample(REQUESTS.name, &[("route", "r"), ("class", "2xx")], 7);
        all.family(&LAG);
        all.sample(LAG.name, &[("core", "0")], 0.25);
        all.family(&SECONDS);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(9);
        let exemplar = Exemplar { trace: 1, span: 2, value: 0.75, at };
        let exemplars = vec![None, Some(exemplar)];
        let histogram = Histogram { bounds: vec![0.5], counts: vec![1, 2], sum: 2.5, exemplars };
        all.histogram(&SECONDS, &[("route", "r")], histogram);
        let (bytes, count) = request(all.families(), Default::default(), 3, 4);
        assert_eq!(count, 3);
        let told = ExportMetricsServiceRequest::decode(bytes).unwrap();
        let metrics = &told.resource_metrics[0].scope_metrics[0].metrics;
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "cumulative");
        let point = &sum.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (3, 4));
        assert_eq!((&point.value, point.attributes.len()), (&Some(Number::AsInt(7)), 2));
        let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!((&gauge.data_points[0].value, &*metrics[1].unit), (&Some(Number::AsDouble(0.25)), "s"));
        let Some(Data::Histogram(told)) = &metrics[2].data else { panic!("{metrics:?}") };
        let point = &told.data_points[0];
        assert_eq!((point.count, point.sum, &point.bucket_counts), (3, Some(2.5), &vec![1, 2]));
        assert_eq!((point.exemplars.len(), point.exemplars[0].trace_id.len()), (1, 16));
        assert_eq!(point.exemplars[0].time_unix_nano, 9_000_000_000);
    }

    #[test]
    fn units_are_those_of_the_names() {
        let units: Vec<&str> = METRICS.iter().map(|metric| unit(metric.name)).collect();
        assert!(units.contains(&"s") && units.contains(&"By"), "{units:?}");
        assert_eq!(unit("tidegate_request_body_bytes_total"), "By");
    }
}
