//! What the front door is held to, and whether a run keeps it.

use std::fmt::Write as _;

use super::peers::Peer;
use super::report::{CPU, MEMORY_EACH, Measure, Report};

/// What still counts as flat: the memory of a machine is itself slower for larger tables.
const FLAT: f64 = 1.25;

/// A figure of Tidegate's, and how large it may be.
struct Target {
    what: String,
    /// The measured ratio or size, if all that it needs was measured.
    found: Option<f64>,
    most: f64,
    show: fn(f64) -> String,
}

/// Writes the table of all targets.
pub fn write(report: &Report, text: &mut String) {
    let _ = writeln!(text, "\n## Targets\n\n| target | at most | found | |\n| --- | ---: | ---: | --- |");
    for Target { what, found, most, show } in all(report) {
        let (found, verdict) = match found {
            Some(found) => (show(found), if found <= most { "met" } else { "**missed**" }),
            None => (String::new(), "not measured"),
        };
        let _ = writeln!(text, "| {what} | {} | {found} | {verdict} |", show(most));
    }
}

fn all(report: &Report) -> Vec<Target> {
    let times = |what: &str, found, most| Target {
        what: what.to_owned(),
        found,
        most,
        show: |times| format!("{times:.2}"),
    };
    let of = |row, peer| report.value(row, peer, &CPU);
    let to = |row, peer| Some(of(row, Peer::Tidegate)? / of(row, peer)?);
    let growth = |row, measure: &Measure, from| {
        Some(report.value(row, Peer::Tidegate, measure)? / report.value(from, Peer::Tidegate, measure)?)
    };
    let idle = |what: &str, row, kib: u32| Target {
        what: what.to_owned(),
        found: report.value(row, Peer::Tidegate, &MEMORY_EACH),
        most: f64::from(kib << 10),
        show: MEMORY_EACH.show,
    };
    vec![
        times("`plain`: CPU per request, times nginx's (the aim: 1.00)", to("plain", Peer::Nginx), 1.10),
        times("`product`: CPU per request, times nginx's (the aim: 1.10)", to("product", Peer::Nginx), 1.25),
        times("`plain`: times HAProxy's", to("plain", Peer::Haproxy), 1.0),
        times("`product`: times HAProxy's", to("product", Peer::Haproxy), 1.0),
        times("`plain`: times Envoy's", to("plain", Peer::Envoy), 1.0 / 3.0),
        times("`product`: times Envoy's", to("product", Peer::Envoy), 1.0 / 3.0),
        idle("`idle`: memory per idle connection", "idle", 16),
        idle("`idle-tls`: memory per idle connection over TLS", "idle-tls", 40),
        times(
            "`routes-1000`: CPU per request, times that of one route",
            growth("routes-1000", &CPU, "plain"),
            FLAT,
        ),
        times(
            "`tenants-1000000`: CPU per request, times that of 100 tenants",
            growth("tenants-1000000", &CPU, "tenants-100"),
            FLAT,
        ),
        times(
            "`tenants-1000000`: memory per tenant, times that of 10,000",
            growth("tenants-1000000", &MEMORY_EACH, "tenants-10000"),
            FLAT,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    fn check(cpu: &[(&str, Peer, f64)], idle: &[(&str, Peer, u64)], expected: &str) {
        let mut text = String::new();
        write(&report(cpu, idle), &mut text);
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }

    #[test]
    fn tells_met_from_missed() {
        let plain = |own| [("plain", Peer::Tidegate, own), ("plain", Peer::Nginx, 10.0)];
        check(&plain(11.0), &[], "(the aim: 1.00) | 1.10 | 1.10 | met |");
        check(&plain(11.2), &[], "(the aim: 1.00) | 1.10 | 1.12 | **missed** |");
        check(&plain(11.2), &[], "`plain`: times Envoy's | 0.33 |  | not measured |");
    }

    #[test]
    fn holds_idle_connections_to_their_size() {
        check(&[], &[("idle", Peer::Tidegate, 16 << 10)], "| 16.0 KiB | 16.0 KiB | met |");
        check(&[], &[("idle-tls", Peer::Tidegate, 41 << 10)], "| 40.0 KiB | 41.0 KiB | **missed** |");
    }
}
