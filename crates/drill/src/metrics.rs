//! What a Tidegate says of itself: its metrics, asked over its control API.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Limited};
use tidegate_wire::body::Body;
use tidegate_wire::client::{Target, connect};
use tidegate_wire::clock;
use tidegate_wire::settings::Protocol;

/// The longest answer that is read.
const BYTES_MAX: usize = 8 << 20;

/// Metrics in the Prometheus text format.
#[derive(Clone, Debug, Default)]
pub struct Metrics(String);

impl Metrics {
    /// Asks for them. `None`: no answer in time, or none that can be read.
    pub async fn ask(control: SocketAddr, patience: Duration) -> Option<Metrics> {
        let by = clock::now().after(patience);
        let asked = async {
            let target = Target { address: control, protocol: Protocol::Http1, tls: None };
            let request = Request::builder().uri("/metrics").header("host", "localhost");
            let mut request = request.body(Body::default()).ok()?.into();
            let answer = connect(&target).await.ok()?.send(&mut request, by).await.ok()?;
            let bytes = Limited::new(answer.into_body(), BYTES_MAX).collect().await.ok()?.to_bytes();
            Some(Metrics(String::from_utf8(bytes.into()).ok()?))
        };
        clock::timeout_at(by, asked).await.ok().flatten()
    }

    /// The samples of a metric: labels as they are written, and value.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.parse().ok()?))
        })
    }

    /// Deliveries that have not ended. Not a number: there is no queue.
    #[must_use]
    pub fn waiting(&self) -> f64 {
        let open = ["blocked", "scheduled", "ready", "leased"];
        self.deliveries(&open)
    }

    /// Deliveries in one of these states. Not a number: there is no queue.
    #[must_use]
    pub fn deliveries(&self, states: &[&str]) -> f64 {
        let is_meant =
            |labels: &str| states.iter().any(|state| labels.contains(&format!("state=\"{state}\"")));
        let samples = self.samples("tidegate_queue_deliveries").filter(|(labels, _)| is_meant(labels));
        samples.map(|(_, value)| value).reduce(|one, other| one + other).unwrap_or(f64::NAN)
    }

    /// The sum of a metric's samples. Of none: not a number.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.samples(name).map(|(_, value)| value).reduce(|one, other| one + other).unwrap_or(f64::NAN)
    }
}

impl From<&str> for Metrics {
    fn from(text: &str) -> Metrics {
        Metrics(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_the_whole_name() {
        let metrics = Metrics::from("# HELP a\na 1\na_total{x=\"1\"} 2\na_total{x=\"} 2\"} 3\n");
        assert_eq!(metrics.sum("a"), 1.0);
        assert_eq!(metrics.sum("a_total"), 5.0);
        assert!(metrics.sum("b").is_nan());
        assert_eq!(metrics.samples("a_total").next(), Some(("x=\"1\"", 2.0)));
    }

    #[test]
    fn deliveries_are_added_up_by_state() {
        let line = |state: &str, count| {
            format!("tidegate_queue_deliveries{{queue=\"a\",state=\"{state}\"}} {count}\n")
        };
        let metrics = Metrics([line("ready", 1), line("leased", 2), line("dead", 4)].concat());
        assert_eq!((metrics.waiting(), metrics.deliveries(&["dead"])), (3.0, 4.0));
        assert!(Metrics::default().waiting().is_nan());
    }
}
