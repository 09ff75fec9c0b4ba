//! What an operator's Prometheus and Grafana are given: alert rules with their tests, a dashboard, and the page that says what to do
//! when an alert comes. All of it is made of two tables ([`alerts`], [`dashboard`]) by `cargo xtask gen`; tests hold these to
//! the metrics that there are.

mod alerts;
mod dashboard;

/// The generated files, by their names below `docs`.
#[must_use]
pub fn generated() -> [(&'static str, String); 4] {
    [
        ("alerts.md", alerts::page()),
        ("../packaging/prometheus/tidegate.rules.yml", alerts::rules()),
        ("../packaging/prometheus/tidegate.test.yml", alerts::tests()),
        ("../packaging/grafana/tidegate.json", dashboard::json()),
    ]
}

#[cfg(test)]
mod tests;
