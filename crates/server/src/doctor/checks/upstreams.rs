//! Names and endpoints of upstreams.

use std::time::Duration;

use super::super::facts::{Facts, UpstreamLook};
use super::super::finding::{ENDPOINTS, Finding, NAMES, Severity};
use super::time;

/// A name server that takes longer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// One that takes longer is broken: its clients ask again.
const TOO_SLOW: Duration = Duration::from_secs(1);
/// Endpoints that are told by their addresses.
const TOLD_MAX: usize = 3;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let each = facts.upstreams.iter().flat_map(|upstream| [names(upstream), endpoints(upstream)]).flatten();
    each.chain(untried(facts.untried)).collect()
}

fn untried(count: usize) -> Option<Finding> {
    let seen = format!("{count} upstreams were not tried: those before them took a minute");
    let effect = "nothing is known of their names and endpoints";
    (count > 0).then(|| Finding::new(ENDPOINTS, Severity::Note, seen, effect))
}

fn names(upstream: &UpstreamLook) -> Option<Finding> {
    let what = format!("upstream `{}` ({})", upstream.name, upstream.discovery);
    if let Some(why) = &upstream.lookup_error {
        let effect =
            "it has no endpoint until its name is resolved: its requests are refused (`upstream.resolve`)";
        return Some(
            Finding::new(NAMES, Severity::Breaks, format!("{what}: {why}"), effect)
                .mend("resolvectl query NAME   # or: getent ahosts NAME, and what /etc/resolv.conf says"),
        );
    }
    let slowest = *upstream.lookups.iter().max()?;
    let seen = format!("{what}: {} at most, of {}", time(slowest), upstream.lookups.len());
    if slowest < SLOW {
        return Some(Finding::fine(NAMES, seen));
    }
    let severity = if slowest < TOO_SLOW { Severity::Note } else { Severity::Hurts };
    let effect = "a start waits for it (two seconds at most), and a change of addresses is seen that much later; requests never wait \
                  for names";
    Some(
        Finding::new(NAMES, severity, seen, effect)
            .mend("resolver = \"ADDRESS:PORT\"   # of the upstream: a name server that is near")
            .mend("systemctl enable --now systemd-resolved   # or another cache on this machine"),
    )
}

fn endpoints(upstream: &UpstreamLook) -> Option<Finding> {
    let all = upstream.endpoints.len();
    let failed: Vec<String> = upstream
        .endpoints
        .iter()
        .filter_map(|(address, outcome)| Some(format!("{address}: {}", outcome.as_ref().err()?)))
        .collect();
    let slowest = upstream.endpoints.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).max().copied();
    if failed.is_empty() {
        let slowest = slowest?;
        let seen = format!(
            "upstream `{}`: all {all} can be connected to, in {} at most",
            upstream.name,
            time(slowest)
        );
        return Some(Finding::fine(ENDPOINTS, seen));
    }
    let severity = if failed.len() == all { Severity::Breaks } else { Severity::Hurts };
    let told = failed.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
    let more = if failed.len() > TOLD_MAX { "; …" } else { "" };
    let seen = format!(
        "upstream `{}`: {} of {all} cannot be connected to ({told}{more})",
        upstream.name,
        failed.len()
    );
    let effect = if failed.len() == all {
        "every request to it is answered with 502 or by its fallback".to_owned()
    } else {
        format!("{} of its endpoints have to carry the load of all {all}", all - failed.len())
    };
    Some(
        Finding::new(ENDPOINTS, severity, seen, effect)
            .how(format!(
                "a connection that takes longer than connect_timeout ({}) counts as none",
                time(upstream.connect_timeout)
            ))
            .mend("start the application there, or let its firewall take connections from this machine")
            .mend("ss -ltn 'sport = :PORT'   # on that machine: whether it listens, and on which address"),
    )
}
