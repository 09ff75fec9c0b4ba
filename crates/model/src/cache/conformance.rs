//! The rules against the text that they are made from: one test for each normative sentence of RFC 9111 sections 3 to 5 and
//! of its amendments, named by its section, and the behaviours that the public suite of tests for HTTP caches looks for.
//! `docs/cache-conformance.md` is the table of both; a test here holds it to what there is.
//!
//! A test is a play of two exchanges: what the first leaves in a shared cache, and what becomes of the second one there. The
//! cache of these plays has room for one answer and has nothing of its own but the rules of this module's siblings.

mod directives;
mod fields;
mod reusing;
mod storing;

mod table;
mod targeted;
mod validating;

use crate::fields::Fields;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::directives::{Request, Response};
use super::freshness::{Freshness, Heuristic, Times};
use super::key::{Key, Rules as KeyRules, Target};
use super::reuse::{self, Because, Rules, Use};
use super::store::{self, Why};
use super::vary::Vary;
use super::{Wall, validate};

/// When the first answer comes.
const NOW: Wall = Wall(1_700_000_000);

/// What becomes of the second request.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    /// It is answered from the cache, fresh.
    Reused,
    /// It is answered with what is stale: it may be, by what its client or its origin says.
    Stale,
    /// It is answered with what is stale, which is validated meanwhile.
    Refreshing,
    /// The upstream is asked whether what is stored is still good.
    Validated,
    /// It is answered with 504.
    Refused,
    /// Another target, another method or another variant is stored.
    Missed,
    /// Nothing was stored.
    NotKept(Why),
}

/// An answer in the cache.
#[derive(Clone, Debug)]
struct Stored {
    method: Method,
    key: Key,
    fields: Fields,
    rules: Rules,
    vary: Vary,
    variant: Vec<u8>,
}

/// A head: `GET /path` or `200` in the first line, a field in each further one. `@30` is the date 30 seconds after the first
/// answer came, `@-30` the one 30 seconds before.
fn head(text: &str) -> (&str, Fields) {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("");
    let mut fields = Fields::default();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a name and a value");
        let value = match value.trim().strip_prefix('@') {
            Some(after) => date(after.parse().expect("a number of seconds")),
            None => value.trim().to_owned(),
        };
        let name = HeaderName::try_from(name).expect("a name");
        fields.append(name, HeaderValue::from_str(&value).expect("a value"));
    }
    (first, fields)
}

fn date(after: i64) -> String {
    let at = NOW.0.saturating_add_signed(after);
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(at))
}

fn request(text: &str) -> (Method, Key, Fields) {
    let (line, fields) = head(text);
    let (method, target) = line.split_once(' ').unwrap_or((line, "/"));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let target = Target {
        tenant: Some("acme"),
        route: "r",
        https: true,
        host: "h",
        port: None,
        path,
        query,
        content: None,
        steering: None,
    };
    (method.parse().expect("a method"), Key::of(&target, &fields, &KeyRules::default()), fields)
}

/// What the first exchange leaves in the cache.
fn keep(asked: &str, answered: &str) -> Result<Stored, Why> {
    keep_after(0, asked, answered)
}

/// The same, where the answer took so long to come.
fn keep_after(took_s: u64, asked: &str, answered: &str) -> Result<Stored, Why> {
    let (method, key, fields_asked) = request(asked);
    let (status, fields) = head(answered);
    let status = status.parse().expect("a status");
    let targets = ["tidegate-cache-control", "cdn-cache-control"].map(HeaderName::from_static);
    let told = Response::of(&fields, &targets);
    let terms = store::Terms { unasked: false, request_directives: true };
    store::may(&method, &fields_asked, status, &fields, &told, terms)?;
    let vary = Vary::of(&fields).ok_or(Why::VaryAny)?;
    let times = Times { asked: Wall(NOW.0 - took_s), answered: NOW };
    let freshness = Freshness::of(status, &fields, &told, times, &Heuristic::default());
    let mut kept = fields;
    store::strip(&mut kept, &told);
    let variant = vary.variant(&fields_asked);
    Ok(Stored { method, key, fields: kept, rules: Rules::of(&told, freshness), vary, variant })
}

impl Stored {
    /// What becomes of a request so long after it was stored.
    fn meets(&self, after_s: u64, asked: &str) -> Did {
        let (method, key, fields) = request(asked);
        let fits = self.method == method || self.method == Method::GET && method == Method::HEAD;
        if !fits || self.key != key || self.vary.variant(&fields) != self.variant {
            return Did::Missed;
        }
        let terms = reuse::Terms { request_directives: true, while_revalidate: 0, if_error: 0 };
        match reuse::decide(&self.rules, &Request::of(&fields), Wall(NOW.0 + after_s), &terms) {
            Use::Serve => Did::Reused,
            Use::ServeStale => Did::Stale,
            Use::ServeAndRefresh => Did::Refreshing,
            Use::Validate(Because::Stale | Because::Response | Because::Request) => Did::Validated,
            Use::Refuse => Did::Refused,
        }
    }

    /// Whether it may stand in for an upstream that failed, where the route would let anything stand in.
    fn stands_in(&self, after_s: u64) -> bool {
        let terms = reuse::Terms { request_directives: true, while_revalidate: 0, if_error: u32::MAX };
        reuse::may_serve_on_error(&self.rules, &Request::default(), Wall(NOW.0 + after_s), &terms)
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The age that it is served with.
    fn age(&self, after_s: u64) -> u32 {
        self.rules.freshness.age(Wall(NOW.0 + after_s))
    }
}

/// Plays an answer to `GET /` and, so long after it, another `GET /`.
fn check(answered: &str, after_s: u64, expected: Did) {
    play("GET /", answered, after_s, "GET /", expected);
}

/// Plays two exchanges.
fn play(asked: &str, answered: &str, after_s: u64, again: &str, expected: Did) {
    let did = keep(asked, answered).map_or_else(Did::NotKept, |stored| stored.meets(after_s, again));
    assert_eq!(did, expected, "{asked:?} {answered:?}, after {after_s} s: {again:?}");
}

/// What is kept of an answer that is.
fn kept(answered: &str) -> Stored {
    keep("GET /", answered).unwrap_or_else(|why| panic!("{answered:?}: {why:?}"))
}
