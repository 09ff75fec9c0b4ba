//! Each rule by example, then all of them against a reference that goes through every route.

use super::*;
use crate::route::HeaderTest;
use http::HeaderName;
use proptest::prelude::*;

/// Reads `[METHOD,METHOD ]HOST PATTERN[ name|!name|name:value …]`; the pattern of an exact path is `=/path`.
fn route(text: &str) -> Match {
    let mut words = text.split(' ').peekable();
    let methods = words.next_if(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == ','));
    let methods =
        methods.map_or_else(Vec::new, |list| list.split(',').map(|m| m.parse().expect(m)).collect());
    let host = HostPattern::parse(words.next().expect("a host")).expect("a host");
    let path = PathPattern::parse(words.next().expect("a path")).expect("a path");
    let headers = words.map(condition).collect();
    Match { host, path, methods, headers }
}

fn condition(word: &str) -> HeaderCondition {
    let name = |text: &str| text.parse::<HeaderName>().expect("a header");
    match (word.strip_prefix('!'), word.split_once(':')) {
        (Some(absent), _) => HeaderCondition { name: name(absent), is: HeaderTest::Absent },
        (_, Some((present, value))) => HeaderCondition {
            name: name(present),
            is: HeaderTest::Equals(HeaderValue::from_str(value).expect("a value")),
        },
        _ => HeaderCondition { name: name(word), is: HeaderTest::Present },
    }
}

/// Finds `METHOD HOST PATH[ name:value …]` and shows what was found: the route's text, `405 ALLOW`, `404`.
fn find(table: &Table<String>, request: &str) -> String {
    let mut words = request.split(' ');
    let method: Method = words.next().expect("a method").parse().expect("a method");
    let (host, path) = (words.next().expect("a host"), words.next().expect("a path"));
    let mut headers = Fields::default();
    for (name, value) in words.filter_map(|word| word.split_once(':')) {
        let name: HeaderName = name.parse().expect("a header");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    match table.find(host, path, &method, &headers) {
        Found::Route(route, _) => route.clone(),
        Found::MethodNotAllowed(allowed) => format!("405 {}", allowed.value().to_str().expect("tokens")),
        Found::NotFound => "404".to_owned(),
    }
}

fn build(routes: &[&str]) -> Result<Table<String>, Vec<Tie>> {
    Table::build(routes.iter().map(|text| (route(text), (*text).to_owned())).collect())
}

#[track_caller]
fn check(routes: &[&str], cases: &[(&str, &str)]) {
    let table = build(routes).expect("no tie");
    for (request, expected) in cases {
        assert_eq!(find(&table, request), *expected, "{request}");
    }
}

#[test]
fn an_exact_host_goes_before_a_wildcard_before_any() {
    check(
        &["* /", "*.example.com /", "*.eu.example.com /", "api.example.com /", "api.example.com /v1"],
        &[
            ("GET api.example.com /", "api.example.com /"),
            ("GET api.example.com /v1/x", "api.example.com /v1"),
            ("GET www.example.com /v1", "*.example.com /"),
            ("GET a.b.example.com /", "*.example.com /"),
            ("GET a.eu.example.com /", "*.eu.example.com /"),
            ("GET eu.example.com /", "*.example.com /"),
            ("GET example.com /", "* /"),
            ("GET badexample.com /", "* /"),
            ("GET [::1] /", "* /"),
        ],
    );
}

#[test]
fn a_less_specific_host_is_tried_only_where_the_path_matches_nothing() {
    check(
        &["api.example.com /v1", "*.example.com /v2", "* /", "GET api.example.com /read"],
        &[
            ("GET api.example.com /v2/x", "*.example.com /v2"),
            ("GET api.example.com /v3", "* /"),
            ("POST api.example.com /read", "405 GET, HEAD"),
        ],
    );
}

#[test]
fn an_exact_path_goes_before_the_longest_prefix_by_whole_segments() {
    check(
        &["* /v1", "* /v1/orders", "* =/v1/orders", "* =/v1/", "* /v1/orders/a/b"],
        &[
            ("GET x /v1", "* /v1"),
            ("GET x /v1/", "* =/v1/"),
            ("GET x /v1x", "404"),
            ("GET x /v1/orders", "* =/v1/orders"),
            ("GET x /v1/orders/", "* /v1/orders"),
            ("GET x /v1/orders/a", "* /v1/orders"),
            ("GET x /v1/orders/a/b", "* /v1/orders/a/b"),
            ("GET x /v1/orders/a/bc", "* /v1/orders"),
            ("GET x /v1//orders", "* /v1"),
            ("GET x //v1", "404"),
            ("GET x /", "404"),
            ("OPTIONS x *", "404"),
        ],
    );
    check(&["* /"], &[("OPTIONS x *", "* /"), ("GET x //a", "* /")]);
}

#[test]
fn more_header_conditions_go_first_and_unmet_ones_are_out_of_question() {
    check(
        &["* /a", "* /a beta", "* /a beta lane:blue", "* /a/b beta", "* /only !beta"],
        &[
            ("GET x /a", "* /a"),
            ("GET x /a beta:1", "* /a beta"),
            ("GET x /a beta:1 lane:blue", "* /a beta lane:blue"),
            ("GET x /a beta:1 lane:red", "* /a beta"),
            ("GET x /a beta:1 lane:blue lane:blue", "* /a beta"),
            ("GET x /a/b", "* /a"),
            ("GET x /only", "* /only !beta"),
            ("GET x /only beta:1", "404"),
        ],
    );
}

#[test]
fn a_listed_method_goes_before_all_methods_and_get_serves_head() {
    check(
        &["* /a", "POST * /a", "GET * /b", "PUT * /b", "HEAD * /c", "GET * /c", "GET * /d beta", "POST * /d"],
        &[
            ("POST x /a", "POST * /a"),
            ("GET x /a", "* /a"),
            ("HEAD x /b", "GET * /b"),
            ("DELETE x /b", "405 GET, HEAD, PUT"),
            ("HEAD x /c", "HEAD * /c"),
            ("GET x /c", "GET * /c"),
            ("POST x /d beta:1", "POST * /d"),
            ("GET x /d beta:1", "GET * /d beta"),
            ("GET x /d", "405 POST"),
            ("PUT x /d beta:1", "405 GET, HEAD, POST"),
        ],
    );
}

#[test]
fn tells_how_much_of_the_path_was_matched() {
    let table = build(&["* /", "* /v1/a", "* =/v1/b"]).expect("no tie");
    for (path, expected) in [("/x", 0), ("/v1/a", 5), ("/v1/a/c", 5), ("/v1/b", 5), ("/v1/b/c", 0)] {
        match table.find("x", path, &Method::GET, &Fields::default()) {
            Found::Route(_, len) => assert_eq!(len, expected, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// The example of docs/routing.md, as it is told there.
#[test]
fn the_documented_example_is_true() {
    check(
        &[
            "* /",
            "api.example.com /v1",
            "GET api.example.com /v1/orders",
            "GET api.example.com /v1/orders x-beta",
            "api.example.com =/v1/status",
            "*.example.com /",
        ],
        &[
            ("GET api.example.com /v1/orders/7", "GET api.example.com /v1/orders"),
            ("GET api.example.com /v1/orders/7 x-beta:1", "GET api.example.com /v1/orders x-beta"),
            ("HEAD api.example.com /v1/orders", "GET api.example.com /v1/orders"),
            ("POST api.example.com /v1/orders", "405 GET, HEAD"),
            ("GET api.example.com /v1/ordersx", "api.example.com /v1"),
            ("GET api.example.com /v1/status", "api.example.com =/v1/status"),
            ("GET api.example.com /v1/status/", "api.example.com /v1"),
            ("GET api.example.com /about", "*.example.com /"),
            ("GET example.com /v1", "* /"),
        ],
    );
}

#[test]
fn a_tie_names_both_routes() {
    let tie = |first, second| Tie { first, second };
    for (routes, expected) in [
        (vec!["* /a", "* /b", "* /a/"], vec![tie(0, 2)]),
        (vec!["GET,PUT * /a", "PUT,POST * /a"], vec![tie(0, 1)]),
        (vec!["* /a one", "* /a two"], vec![tie(0, 1)]),
        (vec!["* /a", "* /a", "* /a", "x =/b", "x =/b"], vec![tie(0, 1), tie(0, 2), tie(3, 4)]),
        (vec!["* /a one one", "* /a one"], vec![tie(0, 1)]),
    ] {
        assert_eq!(build(&routes).expect_err("a tie"), expected, "{routes:?}");
    }
    for routes in [
        vec!["* /a", "* =/a", "x /a", "*.x /a"],
        vec!["GET * /a", "POST * /a", "* /a", "HEAD * /a"],
        vec!["* /a lane:blue", "* /a lane:red", "* /a !lane"],
        vec!["* /a one", "* /a !one"],
        vec!["* /a one two", "* /a one"],
    ] {
        assert!(build(&routes).is_ok(), "{routes:?}");
    }
}

/// The rules as they are told, by going through every route.
fn reference(routes: &[String], request: &str) -> String {
    let mut words = request.split(' ');
    let method: Method = words.next().expect("a method").parse().expect("a method");
    let (host, path) = (words.next().expect("a host"), words.next().expect("a path"));
    let sent: Vec<&str> = words.collect();
    let holds = |condition: &HeaderCondition| {
        let values: Vec<&str> = sent
            .iter()
            .filter_map(|h| h.split_once(':'))
            .filter(|h| h.0 == condition.name)
            .map(|h| h.1)
            .collect();
        match &condition.is {
            HeaderTest::Present => !values.is_empty(),
            HeaderTest::Absent => values.is_empty(),
            HeaderTest::Equals(value) => values == [value.to_str().expect("a value")],
        }
    };
    let place = |matches: &Match| {
        let host = match &matches.host {
            HostPattern::Any => (0, 0),
            HostPattern::Wildcard(suffix) if host.ends_with(suffix.as_str()) => (1, suffix.len()),
            HostPattern::Exact(name) if name == host => (2, 0),
            _ => return None,
        };
        let path = match &matches.path {
            PathPattern::Exact(exact) if exact == path => (1, 0),
            PathPattern::Prefix(prefix) if format!("{path}/").starts_with(&format!("{prefix}/")) => {
                (0, prefix.len())
            }
            _ => return None,
        };
        matches.headers.iter().all(holds).then_some((host, path))
    };
    let parsed: Vec<(Match, &String)> = routes.iter().map(|text| (route(text), text)).collect();
    let Some(best) = parsed.iter().filter_map(|(matches, _)| place(matches)).max() else {
        return "404".to_owned();
    };
    let here: Vec<_> = parsed.iter().filter(|(matches, _)| place(matches) == Some(best)).collect();
    let right = |matches: &Match| match () {
        () if matches.methods.contains(&method) => Some((matches.headers.len(), 2)),
        () if method == Method::HEAD && matches.methods.contains(&Method::GET) => {
            Some((matches.headers.len(), 1))
        }
        () => matches.methods.is_empty().then_some((matches.headers.len(), 0)),
    };
    match here
        .iter()
        .filter(|(matches, _)| right(matches).is_some())
        .max_by_key(|(matches, _)| right(matches))
    {
        Some((_, text)) => (*text).clone(),
        None => "405".to_owned(),
    }
}

fn a_route() -> impl Strategy<Value = String> {
    let methods =
        prop_oneof![Just(""), Just(""), Just("GET "), Just("POST "), Just("HEAD "), Just("GET,PUT ")];
    let host = prop_oneof![Just("*"), Just("a.x"), Just("b.a.x"), Just("*.x"), Just("*.a.x")];
    let headers =
        prop_oneof![Just(""), Just(""), Just(" h"), Just(" !h"), Just(" h:1"), Just(" h:1 k"), Just(" k")];
    (methods, host, "=?/|(=?/[ab](/[ab]?){0,2})", headers).prop_map(|(m, h, p, c)| format!("{m}{h} {p}{c}"))
}

fn a_request() -> impl Strategy<Value = String> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("PUT")];
    let host = prop_oneof![Just("a.x"), Just("b.a.x"), Just("c.b.a.x"), Just("x"), Just("y")];
    let headers =
        prop_oneof![Just(""), Just(" h:1"), Just(" h:2"), Just(" h:1 k:1"), Just(" k:2"), Just(" h:1 h:1")];
    (method, host, "/([ab](/[ab]?){0,3})?", headers).prop_map(|(m, h, p, c)| format!("{m} {h} {p}{c}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn agrees_with_the_rules_told_one_by_one(
        given in prop::collection::vec(a_route(), 1..16),
        requests in prop::collection::vec(a_request(), 1..24),
    ) {
        // What ties with an earlier route is left out; order never matters, so reversed it is the same.
        let mut routes: Vec<String> = Vec::new();
        for text in given {
            routes.push(text);
            let all: Vec<&str> = routes.iter().map(String::as_str).collect();
            if build(&all).is_err() {
                routes.pop();
            }
        }
        let forward: Vec<&str> = routes.iter().map(String::as_str).collect();
        let backward: Vec<&str> = forward.iter().rev().copied().collect();
        let (forward, backward) = (build(&forward).expect("no tie"), build(&backward).expect("no tie"));
        for request in requests {
            let found = find(&forward, &request);
            let expected = reference(&routes, &request);
            prop_assert_eq!(found.split(' ').next().filter(|word| *word == "405").unwrap_or(&found), expected, "{}", request);
            let again = find(&backward, &request);
            prop_assert!(found == again || found.starts_with("405 ") && again.starts_with("405 "));
        }
    }
}
