//! Certificates and keys of the listeners.

use super::super::facts::{CertificateLook, Facts};
use super::super::finding::{CHAIN, EXPIRY, Finding, HOSTS, KEY_FILE, Severity};

const DAY: i64 = 24 * 3600;
/// What is left when somebody should act at once, and when it is good to know.
const SOON_DAYS: i64 = 7;
const AHEAD_DAYS: i64 = 30;
/// The bits of a file's mode by which others than its owner may read or change it; its group may read it.
const TOO_OPEN: u32 = 0o027;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let each = facts.certificates.iter().flat_map(|one| [expiry(one, facts.now), chain(one), key_file(one)]);
    each.chain(hosts(facts)).collect()
}

fn expiry(one: &CertificateLook, now: i64) -> Finding {
    let (from, until) = one.chain.holds;
    let path = one.path.display();
    if now < from {
        let effect = "every client refuses it until then";
        return Finding::new(
            EXPIRY,
            Severity::Breaks,
            format!("{path} holds only in {} days", (from - now) / DAY + 1),
            effect,
        )
        .mend("date -u   # is the clock of this machine right?");
    }
    let days = (until - now).div_euclid(DAY);
    let seen = match days {
        ..0 => format!("{path} ended {} days ago", -days),
        days => format!("{path} holds for {days} more days"),
    };
    let severity = match days {
        ..0 => Severity::Breaks,
        0..SOON_DAYS => Severity::Hurts,
        SOON_DAYS..AHEAD_DAYS => Severity::Note,
        _ => return Finding::fine(EXPIRY, seen),
    };
    let effect = if days < 0 { "every client refuses it" } else { "after that every client refuses it" };
    Finding::new(EXPIRY, severity, seen, effect).mend(format!(
        "put a new certificate at {path}: it is taken up within a second, and nothing is interrupted"
    ))
}

fn chain(one: &CertificateLook) -> Finding {
    let (chain, path) = (&one.chain, one.path.display());
    if let Some(place) = chain.broken {
        let seen = format!("{path}: certificate {} was not issued by the one behind it", place + 1);
        let effect =
            "clients that do not put chains in order by themselves refuse it: Java, Go, and many programs";
        return Finding::new(CHAIN, Severity::Breaks, seen, effect).mend(
            "cat own.pem intermediate.pem > chain.pem   # the own one first, each followed by its issuer",
        );
    }
    if chain.length == 1 && !chain.ends_in_root {
        let seen = format!("{path} holds one certificate, issued by {}", chain.issuer);
        let effect = "clients that know only roots refuse it, where that issuer is an intermediate one; browsers often know it, \
                      programs do not";
        return Finding::new(CHAIN, Severity::Hurts, seen, effect).mend(
            "cat own.pem intermediate.pem > chain.pem   # with the issuer's certificate behind one's own",
        );
    }
    if chain.length == 1 {
        let effect = "only clients that were given it trust it";
        return Finding::new(CHAIN, Severity::Note, format!("{path} was issued by itself"), effect);
    }
    Finding::fine(CHAIN, format!("{path}: {} certificates in order", chain.length))
}

fn key_file(one: &CertificateLook) -> Finding {
    let path = one.key.display();
    let seen = format!("{path} has mode {:04o}", one.key_mode & 0o7777);
    if one.key_mode & TOO_OPEN == 0 {
        return Finding::fine(KEY_FILE, seen);
    }
    let effect = "nothing breaks; other users of this machine can be you towards your clients";
    Finding::new(KEY_FILE, Severity::Hurts, seen, effect)
        .mend(format!("chmod 0640 {path} && chown root:tidegate {path}"))
}

/// Hosts of routes that no certificate is for.
fn hosts(facts: &Facts) -> Option<Finding> {
    let wanted = facts.wanted.as_ref().filter(|wanted| wanted.tls && !wanted.hosts.is_empty())?;
    if facts.certificates.is_empty() {
        return None;
    }
    let names: Vec<&str> =
        facts.certificates.iter().flat_map(|one| &one.chain.names).map(String::as_str).collect();
    let missing: Vec<&str> = wanted
        .hosts
        .iter()
        .map(String::as_str)
        .filter(|host| !names.iter().any(|name| covers(name, host)))
        .collect();
    if missing.is_empty() {
        return Some(Finding::fine(HOSTS, format!("all {} hosts of routes have one", wanted.hosts.len())));
    }
    let effect = "clients of such a host are shown the first certificate of the file, and refuse it";
    Some(
        Finding::new(HOSTS, Severity::Hurts, format!("none is for {}", missing.join(", ")), effect)
            .mend("a further [[tls]] with cert and key for them in the configuration"),
    )
}

/// Whether a certificate's name is for a host: a wildcard is for one label.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name == host,
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
    }
}
