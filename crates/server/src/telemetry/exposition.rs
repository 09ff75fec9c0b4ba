//! Metrics in the Prometheus text format. Every metric stands once, in [`METRICS`], with its type and meaning.

use std::fmt::{Display, Write as _};

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:literal, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, kind: $kind, help: $help };
        )*
        /// All metrics, in the order of the documentation.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    REQUESTS = "tidegate_requests_total", "counter", "Exchanges settled, by route and class of status (`none`: the client left first).";
    SECONDS = "tidegate_request_seconds", "histogram", "From a request's head to its response's last byte, by route.";
    RECEIVED = "tidegate_request_body_bytes_total", "counter", "Request body bytes received, by route.";
    SENT = "tidegate_response_body_bytes_total", "counter", "Response body bytes sent, by route.";
    CLIENT_GONE = "tidegate_client_gone_total", "counter", "Exchanges that the client left before their end, by route.";
    REFUSALS = "tidegate_refusals_total", "counter", "Refusals, by code.";
    TRIES = "tidegate_upstream_tries_total", "counter", "Calls to upstreams, retries and hedges included.";
    ENDPOINT_REQUESTS = "tidegate_endpoint_requests_total", "counter", "Calls to an endpoint.";
    ENDPOINT_FAILURES = "tidegate_endpoint_failures_total", "counter", "Calls to an endpoint that failed or were answered with 5xx.";
    ENDPOINT_CONNECTS = "tidegate_endpoint_connects_total", "counter", "Connections made to an endpoint.";
    ENDPOINT_CONNECTIONS = "tidegate_endpoint_connections", "gauge", "Connections open to an endpoint.";
    ENDPOINT_ACTIVE = "tidegate_endpoint_active", "gauge", "Calls to an endpoint under way.";
    ENDPOINT_UP = "tidegate_endpoint_up", "gauge", "1: the endpoint is enabled, healthy and not ejected.";
    ENDPOINT_LATENCY = "tidegate_endpoint_latency_seconds", "gauge", "The latency average that balancing uses; peaks weigh heavily.";
    BREAKER_OPEN = "tidegate_upstream_breaker_open", "gauge", "1: the upstream's circuit breaker is open.";
    BREAKER_OPENED = "tidegate_upstream_breaker_opened_total", "counter", "Times the upstream's circuit breaker opened.";
    GATE_USED = "tidegate_upstream_slots_used", "gauge", "Slots of the upstream's gate in use, where it is limited.";
    GATE_WAITING = "tidegate_upstream_waiting", "gauge", "Requests waiting for a slot.";
    CONNECTIONS = "tidegate_connections", "gauge", "Client connections open.";
    CONNECTIONS_REFUSED = "tidegate_connections_refused_total", "counter", "Client connections refused because there were too many.";
    ACCEPT_FAILURES = "tidegate_accept_failures_total", "counter", "Client connections that could not be accepted, mostly for want of file descriptors.";
    TENANTS = "tidegate_tenants", "gauge", "Tenants with state of their own.";
    TENANT_REQUESTS = "tidegate_tenant_requests_total", "counter", "Exchanges that a tenant's limits let through, for the busiest tenants; `other` are the rest.";
    TENANT_REFUSED = "tidegate_tenant_refused_total", "counter", "Exchanges that a tenant's limits refused, for the busiest tenants; `other` are the rest.";
    LINES_DROPPED = "tidegate_access_log_dropped_total", "counter", "Access log lines dropped because the writer could not keep up.";
    RELOADS = "tidegate_config_reloads_total", "counter", "Reloads of the configuration, by outcome.";
    BUILD = "tidegate_build_info", "gauge", "1, labelled with the version.";
}

/// Text in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric's family. Its samples follow.
    pub fn family(&mut self, metric: &Metric) {
        let Metric { name, kind, help } = metric;
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let mut open = '{';
        for (label, text) in labels {
            let _ = write!(self.0, "{open}{label}=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    character => self.0.push(character),
                }
            }
            self.0.push('"');
            open = ',';
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for metric in METRICS {
            assert!(metric.name.starts_with("tidegate_"), "{}", metric.name);
            assert_eq!(metric.kind == "counter", metric.name.ends_with("_total"), "{}", metric.name);
        }
    }

    #[test]
    fn foreign_text_cannot_break_out_of_a_label() {
        let mut text = Exposition::default();
        text.sample("m", &[("a", "x\"} 1\nm 2\\"), ("b", "y")], 3);
        assert_eq!(text.finish(), "m{a=\"x\\\"} 1\\nm 2\\\\\",b=\"y\"} 3\n");
    }
}
