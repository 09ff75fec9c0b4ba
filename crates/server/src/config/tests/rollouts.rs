//! What is said of mirrors and canaries.

use super::{parse, with};

/// Each of these is told of a configuration that begins so.
fn told(lines: &str, expected: &[&str]) {
    let problems = parse(&with(lines)).expect_err("something is wrong with it");
    for problem in expected {
        assert!(problems.contains(&format!("error: {problem}")), "{problem} in {problems}");
    }
}

#[test]
fn a_mirror_that_cannot_be_is_told() {
    told(
        r#"
[[route]]
path = "/a"
upstream = "app"
[route.mirror]
upstream = "app"
tenants = ["a b"]
body_max = "1GiB"
compare = { ignore = ["a", "/b~"] }
[[route]]
path = "/b"
respond = {}
mirror = { upstream = "app" }"#,
        &[
            "the route forwards to `app` itself",
            "`a b` is no tenant's id",
            "`body_max` is at most 4MiB",
            "`a`: a place in JSON begins with `/`",
            "`/b~`: `~` is written `~0`",
            "`mirror` belongs to a route that forwards",
        ],
    );
}

#[test]
fn a_canary_that_cannot_be_is_told() {
    told(
        r#"
[[route]]
path = "/a"
upstream = "app"
cache = {}
[route.canary]
upstream = "ap"
steps = ["5%", "5%", "100%"]
sticky = "client-ip"
rollback = { quantile = "100%", window = "0s" }
[[route]]
name = "b"
path = "/b"
to = [{ upstream = "app" }]
canary = { upstream = "app" }"#,
        &[
            "there is no upstream `ap`",
            "each step is larger than the one before, above 0% and below 100%",
            "on a cached route each tenant has one version",
            "what becomes of a canary is kept by the route's name",
            "`quantile` is above 0% and below 100%",
            "`window` must be more than zero",
            "a route has a `canary`, or several upstreams in `to`",
            "the route forwards to `app` itself",
        ],
    );
}

#[test]
fn what_is_not_said_of_them_has_sane_values() {
    let next = "[upstream.next]\nendpoints = [\"127.0.0.1:1\"]\n";
    let route = "[[route]]\nname = \"a\"\npath = \"/a\"\nupstream = \"app\"\nmirror = { upstream = \"next\" }\ncanary = { upstream = \"next\" }\n";
    let config = parse(&with(&format!("{next}{route}"))).expect("it is right");
    let route = &config.proxy.routes[0];
    let mirror = route.mirror.as_ref().expect("there is one");
    assert_eq!((mirror.share, mirror.methods.len(), mirror.compare.is_none()), (1_000_000, 2, true));
    let canary = route.canary.as_ref().expect("there is one");
    assert_eq!(canary.plan.steps, [50_000, 250_000, 500_000]);
    assert_eq!((canary.plan.rollback.errors, canary.plan.rollback.latency), (0.01, Some(1.5)));
}
