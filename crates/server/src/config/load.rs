//! From a file to a [`Config`]: parsed, then resolved; all problems of meaning are told at once.

use std::collections::HashMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use tidegate_model::address::{AddressSet, Network};
use tidegate_model::credential::Digest;
use tidegate_model::plan::{Plan, RATES_MAX, Rate};
use tidegate_model::route::{HeaderCondition, HeaderTest, HostPattern, Match, PathPattern, Split, Table};
use tidegate_proxy::settings as proxy;
use tidegate_upstream::settings as upstream;
use tidegate_wire::settings as wire;

use super::raw::{self, OneOrMany, Secret};
use super::settings::{
    AccessLog, Config, ControlAddress, ControlSettings, ControlToken, Level, LogFormat, LogSettings, Scope,
    Sources,
};
use super::units;

/// All that is wrong with a configuration.
#[derive(Debug, Default, thiserror::Error)]
#[error("{}", self.0.join("\n"))]
pub struct Problems(Vec<String>);

/// What the parts of a file are resolved with.
struct Resolver {
    file: String,
    folder: PathBuf,
    text: String,
    problems: Vec<String>,
    named: Vec<PathBuf>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Problems(vec![format!("{}: {error}", path.display())]))?;
        Config::read(&text, path)
    }

    /// The configuration of one upstream at this address, everything else as it is by default.
    ///
    /// # Errors
    /// Not `HOST:PORT`.
    pub fn to(address: &str) -> Result<Config, Problems> {
        let upstream = match address.parse::<std::net::SocketAddr>() {
            Ok(address) => format!("endpoints = [\"{address}\"]"),
            Err(_)
                if address
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
            {
                format!("dns = {address:?}")
            }
            Err(_) => return Err(Problems(vec![format!("--to {address}: not HOST:PORT")])),
        };
        let text = format!(
            "[listen]\nhttp = [\"0.0.0.0:8080\"]\n[upstream.app]\n{upstream}\n[[route]]\nname = \"all\"\nupstream = \"app\"\n"
        );
        Config::read(&text, Path::new("--to"))
    }

    fn read(text: &str, path: &Path) -> Result<Config, Problems> {
        let raw: raw::File =
            toml::from_str(text).map_err(|error| Problems(vec![unreadable(&error, text, path)]))?;
        let mut resolver = Resolver {
            file: path.display().to_string(),
            folder: path.parent().map(Path::to_path_buf).unwrap_or_default(),
            text: text.to_owned(),
            problems: Vec::new(),
            named: Vec::new(),
        };
        let config = resolver.config(&raw, path);
        if resolver.problems.is_empty() { Ok(config) } else { Err(Problems(resolver.problems)) }
    }
}

/// A TOML error with its place, the line and a caret.
fn unreadable(error: &toml::de::Error, text: &str, path: &Path) -> String {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = at - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let shown = text.lines().nth(line - 1).unwrap_or_default();
    let caret = " ".repeat(column - 1);
    format!("{}:{line}:{column}: {}\n  {shown}\n  {caret}^", path.display(), error.message())
}

impl Resolver {
    /// Notes a problem of the thing that is named like this in the file.
    fn problem(&mut self, needle: &str, what: &str) {
        let place =
            self.text.lines().position(|line| line.contains(needle) && !line.trim_start().starts_with('#'));
        let (line, column) = match place {
            Some(line) => {
                (line + 1, self.text.lines().nth(line).and_then(|text| text.find(needle)).unwrap_or(0) + 1)
            }
            None => (1, 1),
        };
        self.problems.push(format!("{}:{line}:{column}: {what}", self.file));
    }

    fn or<T>(&mut self, needle: &str, result: Result<T, String>, instead: T) -> T {
        result.unwrap_or_else(|what| {
            self.problem(needle, &what);
            instead
        })
    }

    fn config(&mut self, raw: &raw::File, path: &Path) -> Config {
        let limits = Arc::new(self.limits(&raw.limits));
        let listeners = self.listeners(&raw.listen, &limits);
        let certificates = self.certificates(raw, &listeners);
        let plans = self.plans(raw);
        let upstreams: Vec<_> = raw.upstream.iter().map(|(name, raw)| self.upstream(name, raw)).collect();
        let tenants = self.tenants(raw, &plans);
        let names: Vec<&str> = raw.upstream.keys().map(String::as_str).collect();
        let routes = self.routes(raw, &names);
        let trusted = raw.listen.trusted_proxies.clone();
        let deadline_header = raw.listen.deadline_header.as_deref().map(|name| self.header_name(name));
        let control = self.control(&raw.control);
        Config {
            control,
            log: self.log(&raw.log),
            workers: NonZeroUsize::new(raw.workers.unwrap_or(0)).unwrap_or_else(cores),
            drain: self.duration(raw.drain.time.as_deref(), Duration::from_secs(30)),
            proxy: proxy::ProxySettings {
                trusted_proxies: self.addresses(&trusted),
                tenants,
                routes,
                deadline_header,
            },
            sources: Sources {
                files: vec![(path.to_path_buf(), Digest::of(self.text.as_bytes()).0)],
                named: std::mem::take(&mut self.named),
                patterns: Vec::new(),
            },
            effective: Arc::from(hidden(&self.text)),
            listeners,
            certificates,
            upstreams,
        }
    }

    fn duration(&mut self, text: Option<&str>, instead: Duration) -> Duration {
        text.map_or(instead, |text| self.or(text, units::duration(text), instead))
    }

    fn size(&mut self, size: Option<&raw::Size>, instead: u64) -> u64 {
        match size {
            None => instead,
            Some(raw::Size::Bytes(bytes)) => *bytes,
            Some(raw::Size::Text(text)) => self.or(text, units::size(text), instead),
        }
    }

    fn header_name(&mut self, name: &str) -> HeaderName {
        let parsed = HeaderName::try_from(name).map_err(|_| format!("`{name}` is not a header name"));
        self.or(name, parsed, HeaderName::from_static("x-invalid"))
    }

    fn addresses(&mut self, texts: &[String]) -> AddressSet {
        let mut networks: Vec<Network> = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(error) => self.problem(text, &format!("`{text}`: {error}")),
            }
        }
        networks.into_iter().collect()
    }

    fn file(&mut self, path: &Path) -> PathBuf {
        let path = if path.is_absolute() { path.to_path_buf() } else { self.folder.join(path) };
        self.named.push(path.clone());
        path
    }

    fn secret(&mut self, secret: &Secret) -> String {
        match secret {
            Secret::Text(text) => text.clone(),
            Secret::Env { env } => {
                let value =
                    std::env::var(env).map_err(|_| format!("the environment has no variable `{env}`"));
                self.or(env, value, String::new())
            }
            Secret::File { file } => {
                let path = self.file(file);
                let read =
                    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()));
                let name = file.display().to_string();
                self.or(&name, read, String::new()).trim_end().to_owned()
            }
        }
    }

    fn limits(&mut self, raw: &raw::Limits) -> wire::ConnectionLimits {
        let default = wire::ConnectionLimits::default();
        wire::ConnectionLimits {
            connections: raw.connections.unwrap_or(default.connections),
            header_count: raw.header_count.unwrap_or(default.header_count),
            header_bytes: self.size(raw.header_bytes.as_ref(), default.header_bytes as u64) as usize,
            header_time: self.duration(raw.header_time.as_deref(), default.header_time),
            handshake_time: self.duration(raw.handshake_time.as_deref(), default.handshake_time),
            idle: self.duration(raw.idle.as_deref(), default.idle),
            body_idle: self.duration(raw.body_idle.as_deref(), default.body_idle),
            body_rate_min: self.size(raw.body_rate_min.as_ref(), default.body_rate_min),
            body_grace: self.duration(raw.body_grace.as_deref(), default.body_grace),
            body_bytes: self.size(raw.body_bytes.as_ref(), default.body_bytes),
            requests: raw.requests.unwrap_or(default.requests),
            tunnel_idle: self.duration(raw.tunnel_idle.as_deref(), default.tunnel_idle),
            h2_streams: raw.h2_streams.unwrap_or(default.h2_streams),
            h2_resets_pending: raw.h2_resets_pending.unwrap_or(default.h2_resets_pending),
            h2_resets_local: raw.h2_resets_local.unwrap_or(default.h2_resets_local),
            ..default
        }
    }

    fn listeners(
        &mut self,
        raw: &raw::Listen,
        limits: &Arc<wire::ConnectionLimits>,
    ) -> Vec<wire::ListenerSettings> {
        let mut listeners = Vec::new();
        for (entries, tls) in [(&raw.http, false), (&raw.https, true)] {
            for entry in entries {
                let (address, proxy_protocol) = match entry {
                    raw::Listener::Address(address) => (address, false),
                    raw::Listener::Table { address, proxy_protocol } => (address, *proxy_protocol),
                };
                match address.parse() {
                    Ok(address) => {
                        listeners.push(wire::ListenerSettings {
                            address,
                            tls,
                            proxy_protocol,
                            limits: Arc::clone(limits),
                        });
                    }
                    Err(_) => self.problem(
                        address,
                        &format!("`{address}` is not ADDRESS:PORT, such as 0.0.0.0:8080 or [::]:8080"),
                    ),
                }
            }
        }
        if listeners.is_empty() && self.problems.is_empty() {
            self.problem("[listen]", "there is no listener: add `http = [\"0.0.0.0:8080\"]` under [listen]");
        }
        listeners
    }

    fn certificates(
        &mut self,
        raw: &raw::File,
        listeners: &[wire::ListenerSettings],
    ) -> Vec<wire::CertificateFiles> {
        let files: Vec<_> = raw
            .tls
            .iter()
            .map(|pair| wire::CertificateFiles { cert: self.file(&pair.cert), key: self.file(&pair.key) })
            .collect();
        if !files.is_empty()
            && let Err(problems) = tidegate_wire::tls::CertificateSet::load(&files)
        {
            problems.iter().for_each(|problem| self.problem("[[tls]]", &problem.to_string()));
        }
        if files.is_empty() && listeners.iter().any(|listener| listener.tls) {
            self.problem(
                "https",
                "an https listener needs a certificate: add a [[tls]] table with `cert` and `key`",
            );
        }
        files
    }

    fn control(&mut self, raw: &raw::Control) -> ControlSettings {
        let default = vec!["127.0.0.1:8090".to_owned()];
        let mut listen = Vec::new();
        for text in raw.listen.as_ref().unwrap_or(&default) {
            match (text.strip_prefix("unix:"), text.parse()) {
                (Some(path), _) => listen.push(ControlAddress::Unix(path.into())),
                (None, Ok(address)) => listen.push(ControlAddress::Tcp(address)),
                (None, Err(_)) => {
                    self.problem(text, &format!("`{text}` is neither ADDRESS:PORT nor unix:PATH"))
                }
            }
        }
        let mut tokens = Vec::new();
        for token in &raw.tokens {
            let digest = self.digest(&token.sha256);
            let mut scopes = Vec::new();
            for scope in &token.scopes {
                match scope.as_str() {
                    "read" => scopes.push(Scope::Read),
                    "write" => scopes.push(Scope::Write),
                    "purge" => self.problem(
                        "purge",
                        "the scope `purge` belongs to the cache, which is not in this version",
                    ),
                    other => self.problem(other, &format!("`{other}` is not a scope: read or write")),
                }
            }
            tokens.push(ControlToken { name: token.name.as_str().into(), digest, scopes });
        }
        ControlSettings { listen, tokens, hosts: raw.hosts.clone() }
    }

    fn digest(&mut self, text: &str) -> Digest {
        let bytes = (text.len() == 64).then(|| {
            let mut bytes = [0; 32];
            for (place, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
            }
            Some(Digest(bytes))
        });
        let digest = bytes
            .flatten()
            .ok_or_else(|| "a sha256 has 64 hexadecimal digits: `tidegate key new` prints it".to_owned());
        self.or("sha256", digest, Digest([0; 32]))
    }

    fn log(&mut self, raw: &raw::Log) -> LogSettings {
        let access = match raw.access.as_deref() {
            None | Some("stdout") => AccessLog::Stdout,
            Some("off") => AccessLog::Off,
            Some(path) => AccessLog::File(path.into()),
        };
        let level = match raw.level.as_deref().unwrap_or("info") {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            "trace" => Level::Trace,
            other => {
                self.problem(other, &format!("`{other}` is not a level: error, warn, info, debug or trace"));
                Level::Info
            }
        };
        let format = match raw.format.as_deref().unwrap_or("text") {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.problem(other, &format!("`{other}` is not a format: text or json"));
                LogFormat::Text
            }
        };
        let slow = self.duration(raw.slow.as_deref(), Duration::from_secs(1));
        LogSettings {
            access,
            buffer: 8 << 20,
            query: raw.query,
            level,
            format,
            recent: raw.recent.unwrap_or(1024),
            slow,
        }
    }

    fn rates(&mut self, raw: Option<&OneOrMany<raw::Rate>>, default_name: &str) -> Vec<Rate> {
        let many: Vec<&raw::Rate> = raw.map(OneOrMany::as_slice).unwrap_or_default().iter().collect();
        if many.len() > RATES_MAX {
            self.problem("rate", &format!("at most {RATES_MAX} rates"));
        }
        let mut rates: Vec<Rate> = Vec::new();
        for raw in many {
            let (limit, burst, name) = match raw {
                raw::Rate::Text(limit) => (limit, None, None),
                raw::Rate::Table { limit, burst, name } => (limit, *burst, name.clone()),
            };
            let Some((count, window)) = units::rate(limit).map_err(|what| self.problem(limit, &what)).ok()
            else {
                continue;
            };
            let name: Arc<str> = name.unwrap_or_else(|| default_name.to_owned()).into();
            if rates.iter().any(|rate| rate.name == name) {
                self.problem(limit, &format!("two rates are called `{name}`: give each a `name`"));
            }
            let burst = burst.unwrap_or(count);
            if burst == 0 {
                self.problem("burst", "a burst of 0 would let nothing pass");
            }
            rates.push(Rate { name, limit: count, window, burst: burst.max(1) });
        }
        rates
    }

    fn plans(&mut self, raw: &raw::File) -> HashMap<Arc<str>, Arc<Plan>> {
        let mut plans = HashMap::new();
        for (name, raw) in &raw.plan {
            let name: Arc<str> = name.as_str().into();
            let rates = self.rates(raw.rate.as_ref(), "rate");
            let plan = Plan {
                name: Arc::clone(&name),
                rates,
                concurrency: raw.concurrency,
                body_bytes_max: raw.body.as_ref().map(|size| self.size(Some(size), u64::MAX)),
                request_bytes_per_second: self.pace(raw.request_bytes_per_second.as_ref()),
                response_bytes_per_second: self.pace(raw.response_bytes_per_second.as_ref()),
                weight: raw.weight.unwrap_or(1).max(1),
            };
            plans.insert(name, Arc::new(plan));
        }
        plans.entry(Arc::from("default")).or_insert_with(|| {
            Arc::new(Plan {
                name: Arc::from("default"),
                rates: Vec::new(),
                concurrency: None,
                body_bytes_max: None,
                request_bytes_per_second: None,
                response_bytes_per_second: None,
                weight: 1,
            })
        });
        plans
    }

    fn pace(&mut self, size: Option<&raw::Size>) -> Option<NonZeroU64> {
        size.and_then(|size| NonZeroU64::new(self.size(Some(size), 0)))
    }

    fn tenants(&mut self, raw: &raw::File, plans: &HashMap<Arc<str>, Arc<Plan>>) -> proxy::TenantSettings {
        let mut listed = HashMap::new();
        let mut digests: Vec<(Digest, String)> = Vec::new();
        for (id, tenant) in &raw.tenant {
            let plan = self.plan(plans, tenant.plan.as_deref().unwrap_or("default"));
            let mut keys = Vec::new();
            for key in &tenant.keys {
                let digest = self.digest(&key.sha256);
                if let Some((_, other)) = digests.iter().find(|(held, _)| *held == digest) {
                    let what = format!("tenants `{other}` and `{id}` have the same key");
                    self.problem(&key.sha256, &what);
                }
                digests.push((digest, id.clone()));
                let expires = key.expires.as_deref().and_then(|date| {
                    let parsed = units::date(date);
                    parsed.map_err(|what| self.problem(date, &what)).ok()
                });
                keys.push(proxy::ApiKey { id: key.id.as_str().into(), digest, expires });
            }
            let id: Arc<str> = id.as_str().into();
            listed.insert(Arc::clone(&id), proxy::ListedTenant { id, plan, keys });
        }
        let from = raw.tenants.from.iter().filter_map(|source| self.source(raw, source)).collect();
        let unknown = match raw.tenants.unknown.as_deref().unwrap_or("default") {
            "refuse" => None,
            plan => Some(self.plan(plans, plan)),
        };
        let failures =
            Rate { name: "failures".into(), limit: 30, window: Duration::from_secs(60), burst: 30 };
        proxy::TenantSettings {
            from,
            unknown,
            plans: plans.clone(),
            listed,
            tracked_max: raw.tenants.tracked.unwrap_or(100_000),
            failures,
        }
    }

    fn plan(&mut self, plans: &HashMap<Arc<str>, Arc<Plan>>, name: &str) -> Arc<Plan> {
        if !plans.contains_key(name) {
            let known: Vec<&str> = plans.keys().map(|name| &**name).collect();
            let what = format!("there is no plan `{name}`{}", super::suggest::nearest(name, &known));
            self.problem(name, &what);
        }
        Arc::clone(plans.get(name).unwrap_or(&plans["default"]))
    }

    fn source(&mut self, file: &raw::File, raw: &raw::TenantSource) -> Option<proxy::TenantSource> {
        Some(match raw {
            raw::TenantSource { api_key: Some(place), .. } => match place.strip_prefix("header:") {
                Some(name) => proxy::TenantSource::ApiKeyHeader(self.header_name(name)),
                None if place == "bearer" => proxy::TenantSource::ApiKeyBearer,
                None => {
                    self.problem(place, &format!("`{place}` is neither bearer nor header:NAME"));
                    return None;
                }
            },
            raw::TenantSource { jwt: Some(name), .. } => {
                let Some(jwt) = file.jwt.get(name) else {
                    self.problem(name, &format!("there is no [jwt.{name}]"));
                    return None;
                };
                proxy::TenantSource::Jwt(Arc::new(self.jwt(name, jwt)?))
            }
            raw::TenantSource { host: Some(pattern), .. } => {
                let Some((prefix, suffix)) = pattern.split_once("{tenant}") else {
                    self.problem(pattern, "a host pattern has `{tenant}` in it, as {tenant}.example.com");
                    return None;
                };
                proxy::TenantSource::Host { prefix: prefix.to_lowercase(), suffix: suffix.to_lowercase() }
            }
            raw::TenantSource { header: Some(name), .. } => {
                proxy::TenantSource::Header(self.header_name(name))
            }
            raw::TenantSource { address: Some(_), .. } => proxy::TenantSource::ClientAddress,
            _ => {
                self.problem("from", "a source of tenants is one of api_key, jwt, host, header, address");
                return None;
            }
        })
    }

    fn jwt(&mut self, name: &str, raw: &raw::Jwt) -> Option<proxy::JwtSettings> {
        let keys = match (&raw.jwks, &raw.secret) {
            (Some(place), None) if place.starts_with("http://") || place.starts_with("https://") => {
                match place.parse() {
                    Ok(url) => proxy::JwtKeys::Url(url),
                    Err(_) => {
                        self.problem(place, &format!("`{place}` is not a URL"));
                        return None;
                    }
                }
            }
            (Some(path), None) => proxy::JwtKeys::File(self.file(Path::new(path))),
            (None, Some(secret)) => proxy::JwtKeys::Secret(self.secret(secret).into_bytes().into()),
            _ => {
                self.problem(&format!("[jwt.{name}]"), "give either `jwks` or `secret`");
                return None;
            }
        };
        Some(proxy::JwtSettings {
            name: name.into(),
            keys,
            issuer: raw.issuer.clone(),
            audience: raw.audience.clone(),
            tenant_claim: raw.tenant_claim.clone().unwrap_or_else(|| "tenant".to_owned()),
            clock_skew: self.duration(raw.clock_skew.as_deref(), Duration::from_secs(30)),
            refresh: self.duration(raw.refresh.as_deref(), Duration::from_secs(300)),
        })
    }

    fn upstream(&mut self, name: &str, raw: &raw::Upstream) -> upstream::UpstreamSettings {
        let table = format!("[upstream.{name}]");
        let discovery = self.discovery(&table, raw);
        let protocol = match raw.protocol.as_deref().unwrap_or("http1") {
            "http1" => wire::Protocol::Http1,
            "h2" => wire::Protocol::H2,
            "auto" => wire::Protocol::Auto,
            other => {
                self.problem(other, &format!("`{other}` is not a protocol: http1, h2 or auto"));
                wire::Protocol::Http1
            }
        };
        let concurrency = match &raw.concurrency {
            None => None,
            Some(raw::Concurrency::Number(limit)) => Some(*limit),
            Some(raw::Concurrency::Text(text)) => {
                let what = match text.as_str() {
                    "adaptive" => "`concurrency = \"adaptive\"` is not in this version: give a number",
                    _ => "`concurrency` is a number",
                };
                self.problem(text, what);
                None
            }
        };
        let health = raw.health.as_ref().map(|raw| self.health(raw));
        let tls = raw.tls.as_ref().map(|raw| wire::ClientTlsSettings {
            server_name: raw.server_name.clone(),
            ca: raw.ca.as_ref().map(|path| self.file(path)),
            insecure: raw.insecure,
        });
        let host = match raw.host.as_deref() {
            None => upstream::HostHeader::Client,
            Some(host) => {
                let value = HeaderValue::from_str(host).map_err(|_| format!("`{host}` is not a host"));
                upstream::HostHeader::Fixed(self.or(host, value, HeaderValue::from_static("invalid")))
            }
        };
        upstream::UpstreamSettings {
            name: name.into(),
            discovery,
            protocol,
            tls,
            host,
            balance: self.balance(raw),
            slow_start: self.duration(raw.slow_start.as_deref(), Duration::ZERO),
            health,
            outlier: upstream::OutlierSettings {
                consecutive: raw.outlier.consecutive.unwrap_or(5),
                base: self.duration(raw.outlier.base.as_deref(), Duration::from_secs(10)),
                max: self.duration(raw.outlier.max.as_deref(), Duration::from_secs(160)),
                max_percent: raw.outlier.max_percent.unwrap_or(50).min(100),
            },
            panic_threshold: raw.panic_threshold.unwrap_or(50).min(100),
            concurrency,
            waiting: upstream::WaitingSettings {
                limit: raw.waiting.limit.unwrap_or(1000),
                wait: self.duration(raw.waiting.wait.as_deref(), Duration::from_millis(200)),
            },
            breaker: raw.breaker.as_ref().map(|raw| upstream::BreakerSettings {
                consecutive: raw.consecutive.unwrap_or(5).max(1),
                cooldown: self.duration(raw.cooldown.as_deref(), Duration::from_secs(5)),
            }),
            retry_budget_percent: self.percent(raw.retry_budget.as_deref(), 20),
            retry_budget_min_per_second: 3,
            connect_timeout: self.duration(raw.connect_timeout.as_deref(), Duration::from_secs(1)),
            connections_max: raw.connections.unwrap_or(10_000),
            idle_max: raw.idle_connections.unwrap_or(1024),
            idle_timeout: self.duration(raw.idle_timeout.as_deref(), Duration::from_secs(60)),
            lifetime_max: self.duration(raw.lifetime.as_deref(), Duration::from_secs(3600)),
            body_idle: self.duration(raw.body_idle.as_deref(), Duration::from_secs(60)),
        }
    }

    fn percent(&mut self, text: Option<&str>, instead: u32) -> u32 {
        let Some(text) = text else { return instead };
        let parsed = text.strip_suffix('%').and_then(|number| number.trim().parse().ok());
        self.or(text, parsed.ok_or_else(|| format!("`{text}` is not a share such as 20%")), instead)
    }

    fn discovery(&mut self, table: &str, raw: &raw::Upstream) -> upstream::Discovery {
        let refresh = upstream::RefreshBounds { min: Duration::from_secs(1), max: Duration::from_secs(300) };
        let resolver = raw.resolver.as_deref().and_then(|text| {
            let parsed = text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT of a name server"));
            parsed.map_err(|what: String| self.problem(text, &what)).ok()
        });
        match (raw.endpoints.is_empty(), &raw.dns, &raw.srv, &raw.file) {
            (false, None, None, None) => upstream::Discovery::Static(self.endpoints(&raw.endpoints)),
            (true, Some(name), None, None) => {
                let parts = name
                    .rsplit_once(':')
                    .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
                let (host, port) = self.or(
                    name,
                    parts.ok_or_else(|| format!("`{name}` is not NAME:PORT")),
                    (String::new(), 0),
                );
                upstream::Discovery::Dns { host, port, refresh, resolver }
            }
            (true, None, Some(name), None) => {
                upstream::Discovery::Srv { name: name.clone(), refresh, resolver }
            }
            (true, None, None, Some(path)) => upstream::Discovery::File(self.file(path)),
            _ => {
                self.problem(table, &format!("{table} needs exactly one of endpoints, dns, srv, file"));
                upstream::Discovery::Static(Vec::new())
            }
        }
    }

    fn endpoints(&mut self, raw: &[raw::Endpoint]) -> Vec<upstream::EndpointSettings> {
        let mut endpoints = Vec::new();
        for one in raw {
            let (text, weight) = match one {
                raw::Endpoint::Address(address) => (address, 1),
                raw::Endpoint::Table { address, weight } => (address, *weight),
            };
            if !(1..=1000).contains(&weight) {
                self.problem(text, "a weight is 1 to 1000");
            }
            match text.parse() {
                Ok(address) => endpoints.push(upstream::EndpointSettings { address, weight }),
                Err(_) => self.problem(
                    text,
                    &format!("`{text}` is not ADDRESS:PORT; for a host name use `dns = \"{text}\"`"),
                ),
            }
        }
        endpoints
    }

    fn health(&mut self, raw: &raw::Health) -> upstream::HealthSettings {
        upstream::HealthSettings {
            path: raw.path.clone(),
            host: raw.host.clone(),
            statuses: raw.statuses.map_or((200, 399), |[least, most]| (least, most)),
            interval: self.duration(raw.interval.as_deref(), Duration::from_secs(1)),
            timeout: self.duration(raw.timeout.as_deref(), Duration::from_millis(500)),
            healthy: raw.healthy.unwrap_or(2).max(1),
            unhealthy: raw.unhealthy.unwrap_or(3).max(1),
        }
    }

    fn balance(&mut self, raw: &raw::Upstream) -> upstream::Balance {
        match raw.balance.as_deref().unwrap_or("peak-ewma") {
            "round-robin" => upstream::Balance::RoundRobin,
            "least-request" => upstream::Balance::LeastRequest,
            "peak-ewma" => upstream::Balance::PeakEwma,
            "random" => upstream::Balance::Random,
            "ring-hash" => {
                upstream::Balance::RingHash(self.hash_on(raw.hash_on.as_deref().unwrap_or("tenant")))
            }
            other => {
                let known = ["round-robin", "least-request", "peak-ewma", "ring-hash", "random"];
                let what =
                    format!("`{other}` is not a way to balance{}", super::suggest::nearest(other, &known));
                self.problem(other, &what);
                upstream::Balance::PeakEwma
            }
        }
    }

    fn hash_on(&mut self, text: &str) -> upstream::HashOn {
        match (text, text.split_once(':')) {
            ("tenant", _) => upstream::HashOn::Tenant,
            ("client-ip", _) => upstream::HashOn::ClientAddress,
            (_, Some(("header", name))) => upstream::HashOn::Header(self.header_name(name)),
            (_, Some(("cookie", name))) if !name.is_empty() => upstream::HashOn::Cookie(name.to_owned()),
            _ => {
                self.problem(text, &format!("`{text}` is not tenant, client-ip, header:NAME or cookie:NAME"));
                upstream::HashOn::Tenant
            }
        }
    }

    fn routes(&mut self, raw: &raw::File, upstreams: &[&str]) -> Vec<Arc<proxy::RouteSettings>> {
        let mut routes: Vec<Arc<proxy::RouteSettings>> = Vec::new();
        for (place, route) in raw.route.iter().enumerate() {
            let name: Arc<str> = route.name.clone().unwrap_or_else(|| format!("route-{}", place + 1)).into();
            if routes.iter().any(|held| held.name == name) {
                self.problem(&format!("\"{name}\""), &format!("two routes are called `{name}`"));
            }
            let route = self.route(name, route, &raw.defaults.route, upstreams);
            routes.push(Arc::new(route));
        }
        let table = routes.iter().map(|route| (route.matches.clone(), ())).collect();
        if let Err(ties) = Table::build(table) {
            for tie in ties {
                let (first, second) =
                    (Arc::clone(&routes[tie.first].name), Arc::clone(&routes[tie.second].name));
                let what =
                    format!("routes `{first}` and `{second}` match the same requests with equal right");
                self.problem(&format!("\"{second}\""), &what);
            }
        }
        routes
    }

    fn route(
        &mut self,
        name: Arc<str>,
        raw: &raw::Route,
        defaults: &raw::RouteDefaults,
        upstreams: &[&str],
    ) -> proxy::RouteSettings {
        let matches = self.matches(raw);
        let action = self.action(&name, raw, upstreams);
        let retry = self.retry(raw, defaults);
        let deadline =
            self.duration(raw.deadline.as_deref().or(defaults.deadline.as_deref()), Duration::from_secs(5));
        if retry.try_timeout.is_some_and(|most| most > deadline) {
            self.problem("try_timeout", &format!("route `{name}`: try_timeout is longer than the deadline"));
        }
        let fallback = raw.fallback.iter().filter_map(|rung| self.rung(rung, upstreams)).collect();
        let fallback_statuses = match &raw.fallback_on {
            Some(statuses) => self.statuses(statuses),
            None => {
                vec![StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT]
            }
        };
        let priority = match raw.priority.as_deref().unwrap_or("default") {
            "critical" => proxy::Priority::Critical,
            "default" => proxy::Priority::Default,
            "sheddable" => proxy::Priority::Sheddable,
            other => {
                self.problem(other, &format!("`{other}` is not a priority: critical, default or sheddable"));
                proxy::Priority::Default
            }
        };
        proxy::RouteSettings {
            matches,
            allow: self.addresses(&raw.allow),
            deny: self.addresses(&raw.deny),
            action,
            rates: self.rates(raw.limits.rate.as_ref(), &name),
            concurrency: raw.limits.concurrency,
            body_bytes_max: raw.limits.body.as_ref().map(|size| self.size(Some(size), u64::MAX)),
            deadline,
            retry,
            fallback,
            fallback_statuses,
            request: proxy::RequestChanges {
                prefix: raw.rewrite.clone(),
                headers: self.changes(&raw.request_headers),
            },
            response: self.changes(&raw.response_headers),
            priority,
            name,
        }
    }

    fn matches(&mut self, raw: &raw::Route) -> Match {
        let host = match raw.host.as_deref() {
            None => HostPattern::Any,
            Some(text) => {
                let parsed =
                    HostPattern::parse(text).map_err(|error| format!("host `{text}`: {}", error.detail()));
                self.or(text, parsed, HostPattern::Any)
            }
        };
        let text = raw.path.as_deref().unwrap_or("/");
        let path = PathPattern::parse(text).map_err(|error| format!("path `{text}`: {}", error.detail()));
        let path = self.or(text, path, PathPattern::Prefix(String::new()));
        let mut methods = Vec::new();
        for text in &raw.methods {
            match Method::from_bytes(text.as_bytes()) {
                Ok(method) if *text == text.to_ascii_uppercase() => methods.push(method),
                _ => self.problem(text, &format!("`{text}` is not a method; they are written in capitals")),
            }
        }
        let mut headers = Vec::new();
        for (name, test) in &raw.headers {
            let is = match test {
                raw::HeaderTest::Present(true) => HeaderTest::Present,
                raw::HeaderTest::Present(false) => HeaderTest::Absent,
                raw::HeaderTest::Equals(text) => {
                    let value =
                        HeaderValue::from_str(text).map_err(|_| format!("`{text}` is not a header value"));
                    HeaderTest::Equals(self.or(text, value, HeaderValue::from_static("")))
                }
            };
            headers.push(HeaderCondition { name: self.header_name(name), is });
        }
        Match { host, path, methods, headers }
    }

    fn known(&mut self, name: &str, upstreams: &[&str]) {
        if !upstreams.contains(&name) {
            let what = format!("there is no upstream `{name}`{}", super::suggest::nearest(name, upstreams));
            self.problem(name, &what);
        }
    }

    fn action(&mut self, name: &str, raw: &raw::Route, upstreams: &[&str]) -> proxy::Action {
        match (&raw.upstream, raw.to.is_empty(), &raw.redirect, &raw.respond) {
            (Some(upstream), true, None, None) => {
                self.known(upstream, upstreams);
                proxy::Action::Forward(Split { to: vec![(upstream.as_str().into(), 1)] })
            }
            (None, false, None, None) => {
                for share in &raw.to {
                    self.known(&share.upstream, upstreams);
                }
                if raw.to.iter().all(|share| share.weight == 0)
                    || raw.to.iter().any(|share| share.weight > 1000)
                {
                    self.problem(
                        name,
                        &format!("route `{name}`: weights are 0 to 1000, and not all of them 0"),
                    );
                }
                let to = raw.to.iter().map(|share| (share.upstream.as_str().into(), share.weight)).collect();
                proxy::Action::Forward(Split { to })
            }
            (None, true, Some(redirect), None) => {
                let status = StatusCode::from_u16(redirect.status.unwrap_or(308)).ok();
                let status = status.filter(|status| [301, 302, 303, 307, 308].contains(&status.as_u16()));
                let status = status.ok_or_else(|| "a redirect is 301, 302, 303, 307 or 308".to_owned());
                proxy::Action::Redirect {
                    status: self.or("redirect", status, StatusCode::FOUND),
                    to: redirect.to.clone(),
                }
            }
            (None, true, None, Some(respond)) => proxy::Action::Respond(self.fixed(respond)),
            _ => {
                let what = format!("route `{name}` needs exactly one of upstream, to, redirect, respond");
                self.problem(name, &what);
                proxy::Action::Respond(Arc::new(proxy::FixedResponse {
                    status: StatusCode::NOT_FOUND,
                    headers: Vec::new(),
                    body: bytes::Bytes::new(),
                }))
            }
        }
    }

    fn rung(&mut self, raw: &raw::Rung, upstreams: &[&str]) -> Option<proxy::Rung> {
        match (&raw.upstream, &raw.respond) {
            (Some(name), None) => {
                self.known(name, upstreams);
                Some(proxy::Rung::Upstream(name.as_str().into()))
            }
            (None, Some(respond)) => Some(proxy::Rung::Respond(self.fixed(respond))),
            _ => {
                self.problem("fallback", "a rung of the fallback has either `upstream` or `respond`");
                None
            }
        }
    }

    fn fixed(&mut self, raw: &raw::Respond) -> Arc<proxy::FixedResponse> {
        let status = StatusCode::from_u16(raw.status).ok().filter(|status| status.as_u16() >= 200);
        let status = status.ok_or_else(|| format!("{} is not a status of a response", raw.status));
        Arc::new(proxy::FixedResponse {
            status: self.or(&raw.status.to_string(), status, StatusCode::OK),
            headers: self.pairs(&raw.headers),
            body: raw.body.clone().into_bytes().into(),
        })
    }

    fn statuses(&mut self, raw: &[u16]) -> Vec<StatusCode> {
        let mut statuses = Vec::new();
        for status in raw {
            match StatusCode::from_u16(*status) {
                Ok(status) if status.as_u16() >= 400 => statuses.push(status),
                _ => self.problem(
                    &status.to_string(),
                    &format!("{status} is not a status of a failure, 400 to 599"),
                ),
            }
        }
        statuses
    }

    fn pairs(&mut self, raw: &HashMap<String, String>) -> Vec<(HeaderName, HeaderValue)> {
        let mut pairs = Vec::new();
        for (name, text) in raw {
            let header = self.header_name(name);
            if !tidegate_model::headers::may_be_changed(&header) {
                self.problem(name, &format!("`{name}` frames or routes the message: it cannot be changed"));
            }
            let value = HeaderValue::from_str(text).map_err(|_| format!("`{text}` is not a header value"));
            pairs.push((header, self.or(text, value, HeaderValue::from_static(""))));
        }
        pairs
    }

    fn changes(&mut self, raw: &raw::HeaderChanges) -> proxy::HeaderChanges {
        proxy::HeaderChanges {
            remove: raw.remove.iter().map(|name| self.header_name(name)).collect(),
            set: self.pairs(&raw.set),
            add: self.pairs(&raw.add),
        }
    }

    fn retry(&mut self, raw: &raw::Route, defaults: &raw::RouteDefaults) -> upstream::RetrySettings {
        let retry = raw.retry.as_ref().or(defaults.retry.as_ref()).cloned().unwrap_or_default();
        let default = [502, 503, 504];
        let hedge = raw.hedge.as_ref().map(|raw| {
            let share = f64::from(self.percent(raw.quantile.as_deref(), 95)) / 100.0;
            upstream::HedgeSettings {
                quantile: share,
                min: self.duration(raw.min.as_deref(), Duration::from_millis(10)),
            }
        });
        upstream::RetrySettings {
            tries: retry.tries.unwrap_or(2).clamp(1, 10),
            try_timeout: retry
                .try_timeout
                .as_deref()
                .map(|text| self.duration(Some(text), Duration::from_secs(5))),
            statuses: self.statuses(retry.statuses.as_deref().unwrap_or(&default)),
            backoff: self.duration(retry.backoff.as_deref(), Duration::from_millis(25)),
            backoff_max: self.duration(retry.backoff_max.as_deref(), Duration::from_secs(1)),
            idempotent: retry.idempotent,
            body_bytes: self.size(retry.body.as_ref(), 64 * 1024) as usize,
            hedge,
        }
    }
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The text without the lines that hold secrets.
fn hidden(text: &str) -> String {
    let hide = |line: &str| {
        if line.contains("secret") {
            "# a line with a secret is hidden\n".to_owned()
        } else {
            format!("{line}\n")
        }
    };
    text.lines().map(hide).collect()
}
