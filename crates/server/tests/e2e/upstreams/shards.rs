//! Shuffle sharding: a tenant has a few endpoints of its own, and what it breaks is these.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use tidegate_testkit::{Answer, Gate, Origin, Reply, ask_on, connect};

use super::endpoints::{set, tokens};
use super::{Switch, named, one_core, timeline, told, upstream};
use crate::BINARY;

const LISTEN: &str = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";

/// A gate on one core whose tenants are named by a header.
fn start(name: &str, origins: &[Origin], upstream: &str, route: &str) -> Gate {
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let config = one_core(&addresses, upstream, route);
    let config = format!(
        "{config}{}[tenants]\nfrom = [{{ header = \"x-tenant\" }}, {{ address = \"client\" }}]\n",
        tokens()
    );
    Gate::start_listening(BINARY, name, LISTEN, &config)
}

fn ask_as(gate: &Gate, tenant: &str, path: &str) -> Answer {
    ask_on(&mut connect(gate.address), &format!("GET {path}"), &format!("X-Tenant: {tenant}\r\n"))
}

/// The endpoints that serve a tenant.
fn shard(gate: &Gate, tenant: &str) -> BTreeSet<String> {
    let told: Value = serde_json::from_str(&told(gate, &format!("/upstreams/app/shards/{tenant}"))).unwrap();
    let endpoints = told["endpoints"].as_array().expect("a list").iter();
    endpoints.map(|one| one["address"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Tenants by how many endpoints they have in common with another one.
fn tenants(gate: &Gate, with: &BTreeSet<String>) -> BTreeMap<usize, Vec<String>> {
    let mut tenants: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for tenant in (0..40).map(|number| format!("tenant-{number}")) {
        tenants.entry(shard(gate, &tenant).intersection(with).count()).or_default().push(tenant);
    }
    tenants
}

/// An application that is broken for all by the first request to `/poison`: from then on it does this.
fn fragile(broken: Reply) -> Origin {
    let is_broken = Switch::default();
    Origin::start(move |path| {
        if path == "/poison" {
            is_broken.set(true);
        }
        if is_broken.is_on() { broken.clone() } else { Reply::Status(200, String::new()) }
    })
}

/// While one tenant's requests break whatever they reach, everybody else is asked after each of them.
fn check(name: &str, broken: &Reply, told: &str) {
    let origins: Vec<Origin> = (0..8).map(|_| fragile(broken.clone())).collect();
    let upstream =
        "shuffle_shard = 2\noutlier = { consecutive = 2, base = \"60s\" }\nretry_budget_min = 1000";
    let gate =
        start(name, &origins, upstream, "retry = { tries = 3, try_timeout = \"300ms\", backoff = \"1ms\" }");
    let own = shard(&gate, "poison");
    let tenants = tenants(&gate, &own);
    let count = |common| tenants.get(&common).map_or(0, Vec::len);
    assert!(count(0) > 1 && count(1) > 1, "some share one endpoint: {tenants:?}");
    let others: Vec<&String> = tenants[&0].iter().chain(&tenants[&1]).collect();
    let mut poisoned = Vec::new();
    for _ in 0..3 {
        poisoned.push(ask_as(&gate, "poison", "/poison"));
        for tenant in &others {
            let answer = ask_as(&gate, tenant, "/");
            assert_eq!(answer.status, 200, "{tenant}: {}\n{}", answer.body, timeline(&gate, &answer));
        }
    }
    assert!(poisoned[0].body.contains(told), "{}", poisoned[0].body);
    let last = &poisoned[2];
    assert!(last.body.contains("upstream.shard-down"), "{}", last.body);
    assert_eq!((last.status, last.header("retry-after").parse::<u32>().is_ok()), (503, true));
    for origin in &origins {
        let reached = origin.recorded().iter().any(|one| one.head.contains("/poison"));
        assert_eq!(reached, own.contains(&origin.address.to_string()), "what it reached is its shard");
    }
    for same in tenants.get(&2).into_iter().flatten() {
        assert_eq!(ask_as(&gate, same, "/").status, 503, "{same} shares both");
    }
}

#[test]
fn a_tenant_whose_requests_crash_the_application_takes_down_its_shard_and_no_other() {
    check("shard-crash", &Reply::Close, "upstream.reset");
}

#[test]
fn a_tenant_whose_requests_hang_the_application_takes_down_its_shard_and_no_other() {
    check("shard-hang", &Reply::Never, "deadline.exceeded");
}

#[test]
fn a_refusal_for_want_of_a_shard_is_explained_and_counted_and_spends_no_retries() {
    let origins: Vec<Origin> = (0..6).map(|_| fragile(Reply::Close)).collect();
    let upstream = "shuffle_shard = 1\noutlier = { consecutive = 1, base = \"60s\" }";
    let gate = start("shard-told", &origins, upstream, "retry = { tries = 3 }");
    let own = shard(&gate, "poison").pop_first().expect("it has one");
    ask_as(&gate, "poison", "/poison");
    let answer = ask_as(&gate, "poison", "/");
    assert!(answer.body.contains("upstream.shard-down"), "{}", answer.body);
    let steps = timeline(&gate, &answer);
    assert!(steps.contains(&format!("the tenant's shard is {own}\n")), "{steps}");
    assert!(steps.contains("no further try: shard"), "{steps}");
    assert_eq!(gate.metric("tidegate_upstream_shard_refused_total{upstream=\"app\"}"), Some(2.0));
    let status = &super::upstream(&gate)["shard"];
    assert_eq!(
        (&status["size"], &status["distinct"], &status["when_down"]),
        (&1.into(), &6.into(), &"refuse".into())
    );
}

#[test]
fn a_tenant_spills_over_where_the_configuration_says_so() {
    let origins: Vec<Origin> = (0..6).map(|_| fragile(Reply::Close)).collect();
    let upstream =
        "shuffle_shard = { size = 1, when_down = \"spill\" }\noutlier = { consecutive = 1, base = \"60s\" }";
    let gate = start("shard-spill", &origins, upstream, "retry = { tries = 1 }");
    assert_eq!(ask_as(&gate, "poison", "/poison").status, 502);
    let answer = ask_as(&gate, "poison", "/");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(timeline(&gate, &answer).contains("chosen by spill"));
    assert_eq!(gate.metric("tidegate_upstream_shard_spilled_total{upstream=\"app\"}"), Some(1.0));
}

#[test]
fn each_way_to_balance_uses_the_whole_shard_and_nothing_else() {
    for balance in ["round-robin", "least-request", "peak-ewma", "random"] {
        let origins: Vec<Origin> = ["a", "b", "c", "d", "e", "f"].map(named).into();
        let upstream = format!("balance = \"{balance}\"\nshuffle_shard = 3");
        let gate = start(&format!("shard-{balance}"), &origins, &upstream, "");
        let mut stream = connect(gate.address);
        for _ in 0..60 {
            assert_eq!(ask_on(&mut stream, "GET /", "X-Tenant: acme\r\n").status, 200);
        }
        let asked = origins.iter().filter(|origin| !origin.recorded().is_empty());
        let asked: BTreeSet<String> = asked.map(|origin| origin.address.to_string()).collect();
        assert_eq!(asked, shard(&gate, "acme"), "{balance}");
    }
}

#[test]
fn an_endpoint_that_is_drained_is_replaced_in_the_shards_that_had_it() {
    let origins: Vec<Origin> = ["a", "b", "c", "d", "e", "f"].map(named).into();
    let gate = start("shard-drain", &origins, "balance = \"round-robin\"\nshuffle_shard = 2", "");
    let before = shard(&gate, "acme");
    let gone = before.first().expect("it has two").clone();
    assert_eq!(ask_as(&gate, "acme", "/").status, 200);
    set(&gate, gone.parse().unwrap(), "draining");
    let after = shard(&gate, "acme");
    assert_eq!((after.len(), after.intersection(&before).count()), (2, 1), "{before:?} became {after:?}");
    let served: BTreeSet<String> = (0..40)
        .map(|_| timeline(&gate, &ask_as(&gate, "acme", "/")))
        .filter_map(|steps| Some(steps.split_once("try 1 to ")?.1.split_once(',')?.0.to_owned()))
        .collect();
    assert_eq!(served, after);
    set(&gate, gone.parse().unwrap(), "enabled");
    assert_eq!(shard(&gate, "acme"), before);
}

#[test]
fn who_has_no_name_is_served_by_its_addresss_shard() {
    let origins: Vec<Origin> = ["a", "b", "c", "d", "e", "f"].map(named).into();
    let gate = start("shard-address", &origins, "shuffle_shard = 1", "");
    let mut shards = BTreeSet::new();
    for client in (1..12).map(|number| format!("192.0.2.{number}")) {
        let headers = format!("X-Forwarded-For: {client}\r\n");
        let answer = ask_on(&mut connect(gate.address), "GET /", &headers);
        let own = shard(&gate, &format!("ip:{client}")).pop_first().expect("it has one");
        let steps = timeline(&gate, &answer);
        assert!(steps.contains(&format!("try 1 to {own}")), "{steps}");
        shards.insert(own);
    }
    assert!(shards.len() > 1);
}

#[test]
fn an_operator_asks_for_a_tenants_shard() {
    let origins: Vec<Origin> = ["a", "b", "c"].map(named).into();
    let gate = start("shard-command", &origins, "shuffle_shard = 1", "");
    let run = |upstream: &str| {
        let args = ["status", "--control", &gate.control.to_string(), "shard", upstream, "a/b c"];
        let out = Command::new(BINARY).args(args).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (done, said) = run("app");
    let listed: Vec<&str> = said.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert!(done && listed == [shard(&gate, "a%2Fb%20c").pop_first().unwrap()], "{said}");
    assert!(!run("none").0);
    assert!(upstream(&gate)["shard"]["refused"] == 0);
}
