//! The configuration as it is typed. What it means is resolved in `load`. Every key that is not here is an error.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::Deserialize;

macro_rules! raw {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_meta])* #[serde(default)] pub $field: $type,)* }
    )*};
}

raw! {
    /// A whole file.
    File {
        /// Threads that carry traffic; else one a core.
        workers: Option<usize>,
        /// Where requests come in.
        listen: Listen,
        /// What connections are held to.
        limits: Limits,
        /// The control API.
        control: Control,
        /// What is written where.
        log: Log,
        /// How a stop goes.
        drain: Drain,
        /// Certificates.
        tls: Vec<Tls>,
        /// Issuers of tokens.
        jwt: BTreeMap<String, Jwt>,
        /// How tenants are recognised.
        tenants: Tenants,
        /// Plans.
        plan: BTreeMap<String, Plan>,
        /// Listed tenants.
        tenant: BTreeMap<String, Tenant>,
        /// Upstreams.
        upstream: BTreeMap<String, Upstream>,
        /// What routes inherit.
        defaults: Defaults,
        /// Routes.
        route: Vec<Route>,
    }
    /// `[listen]`
    Listen {
        /// Addresses without TLS.
        http: Vec<Listener>,
        /// Addresses with TLS.
        https: Vec<Listener>,
        /// Peers whose forwarding and tenant headers count.
        trusted_proxies: Vec<String>,
        /// A header in which clients may send a deadline in milliseconds.
        deadline_header: Option<String>,
    }
    /// `[limits]`
    Limits {
        /// Connections at once.
        connections: Option<usize>,
        /// Header fields.
        header_count: Option<usize>,
        /// Bytes of a head.
        header_bytes: Option<Size>,
        /// A head, in total.
        header_time: Option<String>,
        /// PROXY header and TLS handshake, in total.
        handshake_time: Option<String>,
        /// A connection without a request.
        idle: Option<String>,
        /// A body without progress.
        body_idle: Option<String>,
        /// The least bytes per second of a request body.
        body_rate_min: Option<Size>,
        /// How long a body may be slower at first.
        body_grace: Option<String>,
        /// Bytes of a request body.
        body_bytes: Option<Size>,
        /// Requests on one connection.
        requests: Option<u64>,
        /// A tunnel in which nobody sends.
        tunnel_idle: Option<String>,
        /// HTTP/2 streams at once.
        h2_streams: Option<u32>,
        /// HTTP/2 streams reset before they were accepted.
        h2_resets_pending: Option<usize>,
        /// HTTP/2 streams reset for breaking the protocol.
        h2_resets_local: Option<usize>,
    }
    /// `[control]`
    Control {
        /// Addresses, `unix:PATH` too.
        listen: Option<Vec<String>>,
        /// Who may do what.
        tokens: Vec<Token>,
        /// Names accepted in `Host`.
        hosts: Vec<String>,
    }
    /// A token of the control API.
    Token {
        /// Its name.
        name: String,
        /// Its digest.
        sha256: String,
        /// What it may do.
        scopes: Vec<String>,
    }
    /// `[log]`
    Log {
        /// `stdout`, `off` or a file.
        access: Option<String>,
        /// Whether the access log tells queries.
        query: bool,
        /// The server's own log.
        level: Option<String>,
        /// `text` or `json`.
        format: Option<String>,
        /// Recent exchanges kept per core.
        recent: Option<usize>,
        /// What counts as slow.
        slow: Option<String>,
    }
    /// `[drain]`
    Drain {
        /// How long exchanges may take to finish.
        time: Option<String>,
    }
    /// `[[tls]]`
    Tls {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    }
    /// `[jwt.NAME]`
    Jwt {
        /// A file or URL.
        jwks: Option<String>,
        /// A shared secret.
        secret: Option<Secret>,
        /// Accepted `iss`.
        issuer: Option<String>,
        /// Accepted `aud`.
        audience: Option<String>,
        /// The claim that names the tenant.
        tenant_claim: Option<String>,
        /// Tolerance.
        clock_skew: Option<String>,
        /// How often keys are fetched.
        refresh: Option<String>,
    }
    /// `[tenants]`
    Tenants {
        /// Sources in their order.
        from: Vec<TenantSource>,
        /// A plan, or `refuse`.
        unknown: Option<String>,
        /// Unlisted tenants with state of their own.
        tracked: Option<usize>,
    }
    /// A source of tenants.
    TenantSource {
        /// `bearer` or `header:NAME`.
        api_key: Option<String>,
        /// The name of a `[jwt.*]`.
        jwt: Option<String>,
        /// A host with `{tenant}`.
        host: Option<String>,
        /// A header of trusted proxies.
        header: Option<String>,
        /// `client`: the client's address.
        address: Option<String>,
    }
    /// `[plan.NAME]`
    Plan {
        /// Rates.
        rate: Option<OneOrMany<Rate>>,
        /// Exchanges at once.
        concurrency: Option<u32>,
        /// Share under saturation.
        weight: Option<u32>,
        /// Bytes of a request body.
        body: Option<Size>,
        /// Request bytes per second.
        request_bytes_per_second: Option<Size>,
        /// Response bytes per second.
        response_bytes_per_second: Option<Size>,
    }
    /// `[tenant.ID]`
    Tenant {
        /// Its plan.
        plan: Option<String>,
        /// Its keys.
        keys: Vec<Key>,
    }
    /// An API key's digest.
    Key {
        /// Its name.
        id: String,
        /// Its digest.
        sha256: String,
        /// The date it ends.
        expires: Option<String>,
    }
    /// `[upstream.NAME]`
    Upstream {
        /// Listed endpoints.
        endpoints: Vec<Endpoint>,
        /// A name and port.
        dns: Option<String>,
        /// An SRV record.
        srv: Option<String>,
        /// A file.
        file: Option<PathBuf>,
        /// A name server.
        resolver: Option<String>,
        /// `http1`, `h2`, `auto`.
        protocol: Option<String>,
        /// TLS to it.
        tls: Option<UpstreamTls>,
        /// The `Host` it sees.
        host: Option<String>,
        /// How an endpoint is chosen.
        balance: Option<String>,
        /// What is hashed.
        hash_on: Option<String>,
        /// How new endpoints begin.
        slow_start: Option<String>,
        /// Active checks.
        health: Option<Health>,
        /// Passive ejection.
        outlier: Outlier,
        /// Below this percentage of usable endpoints all are used.
        panic_threshold: Option<u8>,
        /// Calls at once.
        concurrency: Option<Concurrency>,
        /// Who waits.
        waiting: Waiting,
        /// The circuit breaker.
        breaker: Option<Breaker>,
        /// Retries, as a share of first tries.
        retry_budget: Option<String>,
        /// TCP and TLS.
        connect_timeout: Option<String>,
        /// Connections to one endpoint.
        connections: Option<u32>,
        /// Idle ones kept.
        idle_connections: Option<u32>,
        /// How long they are kept.
        idle_timeout: Option<String>,
        /// How long one is used.
        lifetime: Option<String>,
        /// Between two bytes of a response.
        body_idle: Option<String>,
    }
    /// TLS to an upstream.
    UpstreamTls {
        /// The name to verify.
        server_name: Option<String>,
        /// Authorities.
        ca: Option<PathBuf>,
        /// Any certificate.
        insecure: bool,
    }
    /// Active checks.
    Health {
        /// A path; without: TCP.
        path: Option<String>,
        /// The `Host`.
        host: Option<String>,
        /// From and to.
        statuses: Option<[u16; 2]>,
        /// Between two.
        interval: Option<String>,
        /// For one.
        timeout: Option<String>,
        /// Successes in a row.
        healthy: Option<u32>,
        /// Failures in a row.
        unhealthy: Option<u32>,
    }
    /// Passive ejection.
    Outlier {
        /// Failures in a row; 0: never.
        consecutive: Option<u32>,
        /// The first ejection.
        base: Option<String>,
        /// The longest.
        max: Option<String>,
        /// At most so many percent.
        max_percent: Option<u8>,
    }
    /// Who waits for a slot.
    Waiting {
        /// How many.
        limit: Option<usize>,
        /// How long.
        wait: Option<String>,
    }
    /// The circuit breaker.
    Breaker {
        /// Failures in a row.
        consecutive: Option<u32>,
        /// How long it stays open.
        cooldown: Option<String>,
    }
    /// `[defaults]`
    Defaults {
        /// What routes inherit.
        route: RouteDefaults,
    }
    /// What routes inherit.
    RouteDefaults {
        /// To the response's head.
        deadline: Option<String>,
        /// Tries.
        retry: Option<Retry>,
    }
    /// `[[route]]`
    Route {
        /// Its name.
        name: Option<String>,
        /// A host.
        host: Option<String>,
        /// A path.
        path: Option<String>,
        /// Methods.
        methods: Vec<String>,
        /// Conditions.
        headers: HashMap<String, HeaderTest>,
        /// An upstream.
        upstream: Option<String>,
        /// Several by weight.
        to: Vec<Share>,
        /// A redirect.
        redirect: Option<Redirect>,
        /// A fixed response.
        respond: Option<Respond>,
        /// Replaces the matched prefix.
        rewrite: Option<String>,
        /// Tries.
        retry: Option<Retry>,
        /// A second try beside a slow one.
        hedge: Option<Hedge>,
        /// To the response's head.
        deadline: Option<String>,
        /// Per tenant.
        limits: RouteLimits,
        /// What is shed first.
        priority: Option<String>,
        /// Addresses that may.
        allow: Vec<String>,
        /// Addresses that may not.
        deny: Vec<String>,
        /// What comes after a failed forward.
        fallback: Vec<Rung>,
        /// Answers that count as failed.
        fallback_on: Option<Vec<u16>>,
        /// Changes on the way in.
        request_headers: HeaderChanges,
        /// Changes on the way out.
        response_headers: HeaderChanges,
    }
    /// One share of a split.
    Share {
        /// Where to.
        upstream: String,
        /// How much.
        weight: u32,
    }
    /// A redirect.
    Redirect {
        /// Where to.
        to: String,
        /// 308 if it is not given.
        status: Option<u16>,
    }
    /// A fixed response.
    Respond {
        /// Its status.
        status: u16,
        /// Its body.
        body: String,
        /// Its headers.
        headers: HashMap<String, String>,
    }
    /// Limits of a route, per tenant.
    RouteLimits {
        /// Rates.
        rate: Option<OneOrMany<Rate>>,
        /// At once.
        concurrency: Option<u32>,
        /// Bytes of a request body.
        body: Option<Size>,
    }
    /// Tries.
    Retry {
        /// In all.
        tries: Option<u32>,
        /// One try.
        try_timeout: Option<String>,
        /// Answers worth another.
        statuses: Option<Vec<u16>>,
        /// The first pause.
        backoff: Option<String>,
        /// The longest.
        backoff_max: Option<String>,
        /// The upstream may see it twice.
        idempotent: bool,
        /// Body bytes kept.
        body: Option<Size>,
    }
    /// A second try beside a slow one.
    Hedge {
        /// After this quantile, `95%`.
        quantile: Option<String>,
        /// Never earlier.
        min: Option<String>,
    }
    /// A rung of the ladder.
    Rung {
        /// Another upstream.
        upstream: Option<String>,
        /// A fixed response.
        respond: Option<Respond>,
    }
    /// Changes to headers.
    HeaderChanges {
        /// Removed.
        remove: Vec<String>,
        /// Replaced.
        set: HashMap<String, String>,
        /// Added.
        add: HashMap<String, String>,
    }
}

/// A listener: its address, or a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Listener {
    /// Its address.
    Address(String),
    /// With more.
    Table {
        /// Its address.
        address: String,
        /// Whether a balancer tells the client's address.
        #[serde(default)]
        proxy_protocol: bool,
    },
}

/// An endpoint: its address, or a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Endpoint {
    /// Its address.
    Address(String),
    /// With a weight.
    Table {
        /// Its address.
        address: String,
        /// Its share.
        weight: u32,
    },
}

/// A size: bytes, or a text with a unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// With a unit.
    Text(String),
}

/// A concurrency limit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Concurrency {
    /// So many.
    Number(u32),
    /// A word.
    Text(String),
}

/// A secret: a text, or where it is.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Secret {
    /// The secret itself.
    Text(String),
    /// In the environment.
    Env {
        /// The variable.
        env: String,
    },
    /// In a file.
    File {
        /// The file.
        file: PathBuf,
    },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Secret(hidden)")
    }
}

/// A rate: a text, or a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Rate {
    /// `50/s`
    Text(String),
    /// With a burst and a name.
    Table {
        /// `50/s`
        limit: String,
        /// How many at once.
        burst: Option<u64>,
        /// Its name.
        name: Option<String>,
    },
}

/// One, or a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// A condition on a header: `true`, `false`, or its value.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum HeaderTest {
    /// It is there, or it is not.
    Present(bool),
    /// Its value.
    Equals(String),
}
