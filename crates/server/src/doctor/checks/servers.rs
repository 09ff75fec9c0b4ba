//! PostgreSQL and Redis.

use std::time::Duration;

use super::super::facts::{Facts, PostgresLook, RedisLook, Wanted};
use super::super::finding::{
    Finding, POSTGRES, POSTGRES_ROOM, POSTGRES_SETTINGS, REDIS, REDIS_MEMORY, Severity,
};
use super::{size, time};

/// Connections that a node has to PostgreSQL: its own and its deliveries', and one more while one is replaced.
const OF_A_NODE: i64 = 3;
/// A PostgreSQL that takes longer for each question is far away.
const FAR: Duration = Duration::from_millis(5);

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((place, look)) = &facts.postgres {
        match look {
            Ok(look) => findings.extend(postgres(place, look)),
            Err(why) => {
                let effect = "whatever is durable is refused until it is there (`store.unavailable`)";
                findings.push(
                    Finding::new(POSTGRES, Severity::Breaks, format!("{place}: {why}"), effect)
                        .mend("psql URL -c 'SELECT 1'   # with the URL of [store]"),
                );
            }
        }
    }
    if let Some((place, look)) = &facts.redis {
        match look {
            Ok(look) => findings.extend(redis(place, look, facts.wanted.as_ref())),
            Err(why) => {
                let effect = "purges wait on each node until it is there, and nodes do not share what they cache; traffic goes on";
                findings.push(
                    Finding::new(REDIS, Severity::Hurts, format!("{place}: {why}"), effect)
                        .mend("redis-cli -u URL ping   # with the URL of [redis]"),
                );
            }
        }
    }
    findings
}

fn postgres(place: &str, look: &PostgresLook) -> Vec<Finding> {
    let seen = format!("{place}: version {}, {} a question", look.version, time(look.round_trip));
    let reach = if look.round_trip < FAR {
        Finding::fine(POSTGRES, seen)
    } else {
        let effect = format!(
            "each request that is accepted durably waits for three of them and a commit, some {} at least",
            time(look.round_trip * 3)
        );
        Finding::new(POSTGRES, Severity::Hurts, seen, effect)
            .mend("a PostgreSQL in the same place as the nodes: availability zone, or machine")
    };
    let mut findings = vec![reach];
    findings.extend(look.warnings.iter().map(|warning| {
        Finding::new(POSTGRES_SETTINGS, Severity::Hurts, place, warning.clone())
            .mend("ALTER SYSTEM SET … ; SELECT pg_reload_conf();   # fsync and full_page_writes on, synchronous_standby_names set")
    }));
    if look.warnings.is_empty() {
        findings.push(Finding::fine(POSTGRES_SETTINGS, format!("{place}: nothing speaks against them")));
    }
    let (there, most) = look.connections;
    let seen = format!("{place}: {there} of {most}");
    findings.push(if most - there >= OF_A_NODE {
        Finding::fine(POSTGRES_ROOM, seen)
    } else {
        let effect = "a node that starts or comes back is refused a connection: what it makes durable waits";
        Finding::new(POSTGRES_ROOM, Severity::Breaks, seen, effect)
            .how(format!("{OF_A_NODE} for each node"))
            .mend(format!(
                "ALTER SYSTEM SET max_connections = {};   # and a restart of PostgreSQL",
                most + 20
            ))
    });
    findings
}

fn redis(place: &str, look: &RedisLook, wanted: Option<&Wanted>) -> Vec<Finding> {
    let seen = format!("{place}: {} a question", time(look.round_trip));
    let wait = wanted.and_then(|wanted| wanted.shared_wait);
    let reach = match wait {
        Some(wait) if look.round_trip >= wait => {
            let effect =
                format!("a request waits {} for what nodes share and then goes on without it", time(wait));
            Finding::new(REDIS, Severity::Hurts, seen, effect)
                .mend("a Redis in the same place as the nodes, or a longer `wait` under [cache.redis]")
        }
        _ => Finding::fine(REDIS, seen),
    };
    vec![Some(reach), eviction(place, look)].into_iter().flatten().collect()
}

fn eviction(place: &str, look: &RedisLook) -> Option<Finding> {
    let (memory, policy) = (look.memory?, look.policy.as_deref()?);
    let most = if memory == 0 { "all there is".to_owned() } else { size(memory) };
    let seen = format!("{place}: maxmemory {most}, maxmemory-policy {policy}");
    let effect = match policy {
        policy if policy.starts_with("allkeys") && memory > 0 => {
            "when it is full the log of purges may be thrown away: every node then takes all that it has cached for stale"
        }
        "noeviction" if memory > 0 => "when it is full neither purges nor shared answers can be written",
        _ if memory == 0 => {
            "it grows until the kernel ends it: purges wait then, and what was shared is gone"
        }
        _ => return Some(Finding::fine(REDIS_MEMORY, seen)),
    };
    let severity = if memory == 0 { Severity::Note } else { Severity::Hurts };
    let mut finding = Finding::new(REDIS_MEMORY, severity, seen, effect);
    if memory == 0 {
        finding = finding.mend("redis-cli CONFIG SET maxmemory 1gb && redis-cli CONFIG REWRITE");
    }
    Some(finding.mend("redis-cli CONFIG SET maxmemory-policy volatile-lru && redis-cli CONFIG REWRITE"))
}
