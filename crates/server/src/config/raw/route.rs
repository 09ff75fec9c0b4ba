//! Routes as they are typed.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize};
use tidegate_model::gate::level::NEVER;
use tidegate_model::headers::is_credential;

use super::{
    Canary, Compress, Decompress, EnvSecret, FileSecret, Incoming, Mirror, Rates, RouteAuthorize, RouteBasic,
    RouteCors, RouteIdempotency, RouteLogin, SecurityHeaders, Switch,
};
use crate::config::scalar::{Percent, Size, Time};
use crate::config::text::{Header, HeaderText, Host, Name, Net, Path, PlainPath, Verb};

/// Defines a struct with fields of its own and with all that routes inherit: both structs have the same keys,
/// with the same texts, defined once.
macro_rules! with_inherited {
    ($(#[$doc:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($own)*
            /// To the response's head, in total. Bodies have limits of their own; WebSockets are exempt.
            pub deadline: Time,
            /// Further tries after a failed one. A method that is not safe is tried again only when nothing was
            /// sent, or with `idempotent`.
            pub retry: Retry,
            /// A second try beside a slow first one, for safe methods: `true`, or a table.
            pub hedge: Switch<Hedge>,
            /// What comes after a failed forward, in order: `{ upstream = "…" }` or `{ respond = { … } }`.
            #[schemars(length(max = 4))]
            pub fallback: Vec<Fallback>,
            /// Answers of an upstream that count as failed, where there is a fallback.
            #[schemars(inner(range(min = 400, max = 599)))]
            pub fallback_on: Vec<u16>,
            /// What each tenant is held to on this route.
            pub limits: Limits,
            /// What is shed first under overload.
            pub priority: Priority,
            /// From which level of load on it does without what it could do without. See `docs/overload.md`.
            pub degrade: Degrade,
            /// Networks that may use it. Without it: all.
            pub allow: Vec<Net>,
            /// Networks that may not, even if allowed.
            pub deny: Vec<Net>,
            /// Who may use it by name and password: a table. See `docs/access.md`.
            pub basic: Switch<RouteBasic>,
            /// By the logins of which `[oidc.NAME]` it may be used: its name, or `{ by = "NAME", require = { … } }`. See
            /// `docs/access.md`.
            pub login: RouteLogin,
            /// A service that decides which requests go on: a table. See `docs/access.md`.
            pub authorize: Switch<RouteAuthorize>,
            /// Which other origins' scripts may call it (CORS): a table. See `docs/access.md`.
            pub cors: Switch<RouteCors>,
            /// Headers by which browsers are told to be careful: `{}`, `true`, or a table. See `docs/access.md`.
            pub security_headers: Switch<SecurityHeaders>,
            /// Changes to the request's headers: removed, then set, then added.
            pub request_headers: HeaderChanges,
            /// Changes to the response's headers: removed, then set, then added.
            pub response_headers: HeaderChanges,
            /// Whether answers are kept and served again (RFC 9111): `{}`, `true`, or a table.
            pub cache: Switch<RouteCache>,
            /// Whether requests with the same `Idempotency-Key` have one effect: `{}`, `true`, or a table. It needs a
            /// `name` and a `[store]`. See `docs/idempotency.md`.
            pub idempotency: Switch<RouteIdempotency>,
            /// Whether a request may be accepted now and made later: `"on-request"` (a client asks for it by `Prefer:
            /// respond-async`) or `"always"`. It needs a `name` and a `[store]`. See `docs/queues.md`.
            pub defer: Defer,
            /// Whether its requests are told to come again later. See `docs/maintenance.md`.
            pub maintenance: bool,
            /// Whether answers are compressed for clients that take it: `{}`, `true`, or a table. See `docs/bodies.md`.
            pub compress: Switch<Compress>,
            /// Whether the compressed bodies of requests are decoded for the upstream: `{}`, `true`, or a table. See
            /// `docs/bodies.md`.
            pub decompress: Switch<Decompress>,
        }
    };
}

with_inherited! {
    /// What is done with which requests: exactly one of `upstream`, `to`, `redirect`, `respond` and `incoming`.
    pub struct Route {
        /// Its name: state, metrics and records key on it. Without it: made of what it matches.
        pub name: Option<Name>,
        /// The host: `api.example.com`, or `*.example.com` for all below. Without it: any.
        pub host: Option<Host>,
        /// The path, by whole segments: `/v1` is `/v1` and `/v1/x`, never `/v1x`. `= /exact` is that path alone.
        pub path: Path,
        /// The methods. Without it: all. A path that matches without its method is a 405.
        pub methods: Vec<Verb>,
        /// Headers that must be there (`true`), must not (`false`), or must be so (a text).
        pub headers: BTreeMap<String, HeaderIs>,
        /// Forwards to this upstream.
        pub upstream: Option<Name>,
        /// Forwards to several upstreams by weight; a tenant stays with its own.
        #[schemars(length(min = 1, max = 64))]
        pub to: Option<Vec<Share>>,
        /// Redirects: the target, or a table.
        pub redirect: Option<Redirect>,
        /// Answers by itself.
        pub respond: Option<Respond>,
        /// Takes webhooks that others' servers send, for a queue. See `docs/webhooks.md`.
        pub incoming: Option<Incoming>,
        /// The queue of requests that are made later. Without it: the one that is called as the route, which need not be in
        /// the file.
        pub queue: Option<Name>,
        /// What stands for the matched part of the path when it is forwarded: with `path = "/v1"` and
        /// `rewrite = "/api"`, `/v1/x` is `/api/x`.
        pub rewrite: Option<PlainPath>,
        /// Makes requests once more to another upstream, and compares the answers. See `docs/mirroring.md`.
        pub mirror: Option<Mirror>,
        /// Gives a share of requests to the next version, which grows or is taken back. See `docs/mirroring.md`.
        pub canary: Option<Canary>,
    }
}

with_inherited! {
    /// What every route inherits.
    pub struct RouteDefaults {}
}

impl Default for RouteDefaults {
    fn default() -> RouteDefaults {
        RouteDefaults {
            deadline: Time(Duration::from_secs(5)),
            retry: Retry::default(),
            hedge: Switch::Toggle(false),
            fallback: Vec::new(),
            fallback_on: vec![502, 503, 504],
            limits: Limits::default(),
            priority: Priority::Default,
            degrade: Degrade::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            basic: Switch::Toggle(false),
            login: RouteLogin::Off(false),
            authorize: Switch::Toggle(false),
            cors: Switch::Toggle(false),
            security_headers: Switch::Toggle(false),
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            cache: Switch::Toggle(false),
            idempotency: Switch::Toggle(false),
            defer: Defer::Never,
            maintenance: false,
            compress: Switch::Toggle(false),
            decompress: Switch::Toggle(false),
        }
    }
}

impl Default for Route {
    fn default() -> Route {
        let inherited = RouteDefaults::default();
        Route {
            name: None,
            host: None,
            path: Path(tidegate_model::route::PathPattern::Prefix(String::new())),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            upstream: None,
            to: None,
            redirect: None,
            respond: None,
            incoming: None,
            queue: None,
            rewrite: None,
            mirror: None,
            canary: None,
            deadline: inherited.deadline,
            retry: inherited.retry,
            hedge: inherited.hedge,
            fallback: inherited.fallback,
            fallback_on: inherited.fallback_on,
            limits: inherited.limits,
            priority: inherited.priority,
            degrade: inherited.degrade,
            allow: inherited.allow,
            deny: inherited.deny,
            basic: inherited.basic,
            login: inherited.login,
            authorize: inherited.authorize,
            cors: inherited.cors,
            security_headers: inherited.security_headers,
            request_headers: inherited.request_headers,
            response_headers: inherited.response_headers,
            cache: inherited.cache,
            idempotency: inherited.idempotency,
            defer: inherited.defer,
            maintenance: inherited.maintenance,
            compress: inherited.compress,
            decompress: inherited.decompress,
        }
    }
}

/// What a header must be.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum HeaderIs {
    /// There, or not there.
    Present(bool),
    /// Exactly this.
    Value(HeaderText),
}

/// An upstream's share of a route.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The upstream.
    pub upstream: Name,
    /// Its share relative to the others. Zero: nothing.
    #[serde(default = "one")]
    #[schemars(range(max = 1000))]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// A redirect: its target, or a table.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Redirect {
    /// The target, with status 308.
    To(String),
    /// The target and a status.
    Table(RedirectTable),
}

/// A redirect with its status.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RedirectTable {
    /// The target. `{path}` (with its query) and `{host}` are replaced.
    #[schemars(extend("examples" = ["https://{host}{path}"]))]
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "permanent")]
    #[schemars(range(min = 301, max = 308))]
    pub status: u16,
}

/// The status of a redirect that does not say.
fn permanent() -> u16 {
    308
}

/// A fixed response.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Respond {
    /// Its status.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Its headers.
    pub headers: BTreeMap<String, HeaderText>,
    /// Its body.
    pub body: String,
}

impl Default for Respond {
    fn default() -> Respond {
        Respond { status: 200, headers: BTreeMap::new(), body: String::new() }
    }
}

/// Tries of one request.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Tries in all, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub tries: u32,
    /// One try, to the response's head. Without it: the deadline alone.
    pub try_timeout: Option<Time>,
    /// Statuses that are worth another try.
    #[schemars(inner(range(min = 400, max = 599)))]
    pub statuses: Vec<u16>,
    /// The first pause; doubled for each further one, with jitter.
    pub backoff: Time,
    /// No pause is longer.
    pub backoff_max: Time,
    /// Whether the upstream may see a request that is not safe twice without harm.
    pub idempotent: bool,
    /// Bytes of the request's body kept for another try; a longer body is tried once.
    pub body: Size,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            tries: 2,
            try_timeout: None,
            statuses: vec![502, 503, 504],
            backoff: Time(Duration::from_millis(25)),
            backoff_max: Time(Duration::from_secs(1)),
            idempotent: false,
            body: Size(64 << 10),
        }
    }
}

/// How a route's answers are kept.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteCache {
    /// Whether the content is the same for all tenants. Without it each tenant has its own answers.
    pub public: bool,
    /// The lifetime of answers that tell neither their own nor when they were last modified. Zero: none.
    pub default_ttl: Time,
    /// The lifetime of answers that tell only when they were last modified: so many hundredths of the time since then.
    pub heuristic: Percent,
    /// The longest lifetime that is guessed so.
    pub heuristic_max: Time,
    /// The lifetime of 404, 410 and 5xx that tell none. Zero: they are not kept.
    pub error_ttl: Time,
    /// How long a stale answer that does not say so itself is served while a newer one is fetched.
    pub stale_while_revalidate: Time,
    /// How long a stale answer that does not say so itself is served when the upstream fails or is too busy.
    pub stale_if_error: Time,
    /// Whether clients have a say, by the `Cache-Control` of their requests. Whoever reloads in a loop is then a load.
    pub client_directives: bool,
    /// The parameters of the query that count; `[]`: none does. Without it: all.
    pub query: Option<Vec<String>>,
    /// Parameters of the query that do not count. `*` at the end stands for any rest: `"utm_*"`.
    pub query_ignore: Vec<String>,
    /// Whether the order of parameters counts.
    pub query_ordered: bool,
    /// The largest content of a request with the method QUERY (RFC 10008) that is read to be in the key. With more it goes past
    /// the cache; with zero all of them do.
    pub query_content: Size,
    /// Request headers that make another answer, besides those that `Vary` names.
    pub headers: Vec<Header>,
    /// Cookies that make another answer.
    pub cookies: Vec<String>,
    /// Whether the target's home node is asked before the upstream. Without it: where there is a `[cluster]`.
    pub shield: Option<bool>,
}

impl Default for RouteCache {
    fn default() -> RouteCache {
        RouteCache {
            public: false,
            default_ttl: Time(Duration::ZERO),
            heuristic: Percent(10),
            heuristic_max: Time(Duration::from_secs(24 * 3600)),
            error_ttl: Time(Duration::ZERO),
            stale_while_revalidate: Time(Duration::ZERO),
            stale_if_error: Time(Duration::from_secs(60)),
            client_directives: false,
            query: None,
            query_ignore: Vec::new(),
            query_ordered: false,
            query_content: Size(64 << 10),
            headers: Vec::new(),
            cookies: Vec::new(),
            shield: None,
        }
    }
}

/// When a second try is sent beside the first.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hedge {
    /// When the first is slower than this share of the upstream's answers.
    pub quantile: Percent,
    /// Never earlier than this.
    pub min: Time,
}

impl Default for Hedge {
    fn default() -> Hedge {
        Hedge { quantile: Percent(95), min: Time(Duration::from_millis(10)) }
    }
}

/// What comes after a failed forward.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fallback {
    /// Another upstream.
    Upstream(Name),
    /// A fixed response.
    Respond(Respond),
}

/// What each tenant is held to on a route.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How many requests in which time, as in a plan. The plan's rates count too.
    pub rate: Option<Rates>,
    /// Requests at once.
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// Bytes of one request's body.
    pub body: Option<Size>,
}

/// What is shed first under overload.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Last.
    Critical,
    /// After the sheddable.
    Default,
    /// First.
    Sheddable,
}

/// From which level of load on, 1 to 3, a route does without something; `"never"`: it does not.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Degrade {
    /// Without a second try beside a slow first one.
    pub hedge: AtLevel,
    /// Without a further try, where the upstream may have seen the first.
    pub retry: AtLevel,
    /// Without its upstream, where there is a fallback: that answers at once.
    pub upstream: AtLevel,
    /// Without any answer but a refusal.
    pub route: AtLevel,
    /// Without nine in ten lines of the access log, of those for requests that went well.
    pub log: AtLevel,
    /// Without the compression of its answers.
    pub compress: AtLevel,
}

impl Default for Degrade {
    fn default() -> Degrade {
        let degrade = tidegate_model::gate::level::Degrade::default();
        let at = |level: u8| match level {
            NEVER.. => AtLevel::Word(Never::Never),
            level => AtLevel::Level(level),
        };
        Degrade {
            hedge: at(degrade.hedge),
            retry: at(degrade.retry),
            upstream: at(degrade.upstream),
            route: at(degrade.route),
            log: at(degrade.log),
            compress: at(degrade.compress),
        }
    }
}

/// A level of load: 1 to 3, or never.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum AtLevel {
    /// From this level on.
    Level(#[schemars(range(min = 1, max = 3))] u8),
    /// At none.
    Word(Never),
}

/// Not at all.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Never {
    /// Not at all.
    Never,
}

impl AtLevel {
    /// The level; above all of them: never.
    #[must_use]
    pub fn get(self) -> u8 {
        match self {
            AtLevel::Level(level) => level,
            AtLevel::Word(Never::Never) => NEVER,
        }
    }
}

/// Whether a request may be accepted now and made later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defer {
    /// It is made now.
    #[default]
    Never,
    /// It is made later if its client prefers that.
    OnRequest,
    /// It is made later.
    Always,
}

/// Changes to headers: removed, then set, then added.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderChanges {
    /// Removed.
    pub remove: Vec<Header>,
    /// Replaced or created. A credential for the upstream may stand in the environment or a file.
    #[serde(serialize_with = "set_without_credentials")]
    pub set: BTreeMap<String, SetTo>,
    /// Appended beside what is there: a value, or several.
    #[serde(serialize_with = "added_without_credentials")]
    pub add: BTreeMap<String, Add>,
}

fn set_without_credentials<S: serde::Serializer>(
    fields: &BTreeMap<String, SetTo>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    without_credentials(fields, |value| matches!(value, SetTo::Text(_)), serializer)
}

fn added_without_credentials<S: serde::Serializer>(
    fields: &BTreeMap<String, Add>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    without_credentials(fields, |_| true, serializer)
}

/// The fields, the values of credentials hidden where they are told.
fn without_credentials<V: Serialize, S: serde::Serializer>(
    fields: &BTreeMap<String, V>,
    is_told: impl Fn(&V) -> bool,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(fields.len()))?;
    for (name, value) in fields {
        match is_told(value) && is_credential(name) {
            true => map.serialize_entry(name, "hidden")?,
            false => map.serialize_entry(name, value)?,
        }
    }
    map.end()
}

/// A value to set: itself, or where it stands.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum SetTo {
    /// The value itself.
    Text(HeaderText),
    /// In the environment.
    Env(EnvSecret),
    /// In a file.
    File(FileSecret),
}

/// A value to add, or several.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Add {
    /// One.
    One(HeaderText),
    /// Several.
    Several(Vec<HeaderText>),
}
