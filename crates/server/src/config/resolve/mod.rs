//! From what was typed to what it means: names looked up, defaults filled in, contradictions found. Every
//! problem is told; only a configuration without any comes out.

mod access;
mod acme;
mod basic;
mod bodies;
mod canary;
mod cluster;
mod listen;
mod login;
mod maintenance;
mod mirror;
mod otlp;
mod queue;
mod redis;
mod route;
mod store;
mod tenants;
mod upstream;
mod webhook;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_dispatch::QueueSettings;
use tidegate_model::cache::evict::Bounds;
use tidegate_model::cache::key::Aliases;
use tidegate_proxy::access::login::OidcSettings;
use tidegate_proxy::cache::CacheBounds;
use tidegate_proxy::cache::disk::{DiskSettings, SIZE_MIN};
use tidegate_proxy::cache::far::FarSettings;
use tidegate_proxy::settings::ProxySettings;
use tidegate_store::{Location, StoreSettings};
use tidegate_upstream::settings::UpstreamSettings;
use tidegate_wire::settings::{CertificateFiles, ListenerSettings};

pub use acme::domain;

use crate::acme::AcmeSettings;

use super::problem::Problem;
use super::raw;
use super::scalar::{Size, Time, show_size};
use super::settings::{
    ClusterListen, ControlSettings, LogSettings, OtlpSettings, ProtectSettings, RedisSettings,
    ScheduleSettings, WebhookPlan,
};
use super::suggest::nearest;
use super::tree::Node;

/// The most bytes of a file that holds a secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What a configuration resolves to, as far as that needs no further knowledge.
pub struct Resolved {
    pub listeners: Vec<ListenerSettings>,
    pub certificates: Vec<CertificateFiles>,
    pub acme: Option<AcmeSettings>,
    pub tickets: Option<Vec<u8>>,
    pub control: ControlSettings,
    pub log: LogSettings,
    pub otlp: Option<OtlpSettings>,
    pub protect: ProtectSettings,
    pub redis: Option<RedisSettings>,
    pub shared: Option<FarSettings>,
    pub store: Option<StoreSettings>,
    pub cluster: Option<ClusterListen>,
    pub peers: Vec<UpstreamSettings>,
    pub upstreams: Vec<UpstreamSettings>,
    pub queues: Vec<QueueSettings>,
    pub schedules: Vec<ScheduleSettings>,
    pub webhook: Option<WebhookPlan>,
    pub proxy: ProxySettings,
    /// Files that were named in it and whose change is a change of it.
    pub named: Vec<PathBuf>,
}

/// Resolves a configuration. The tree is the one that `raw` was made of.
///
/// # Errors
/// Every problem.
pub fn resolve(raw: &raw::Config, tree: &Node) -> Result<Resolved, Vec<Problem>> {
    let mut context =
        Context { problems: Vec::new(), named: Vec::new(), root: tree, shards: 1, logins: Vec::new() };
    let listeners = listen::listeners(&mut context, raw);
    let certificates = listen::certificates(&mut context, raw);
    let acme = acme::acme(&mut context, raw);
    let tickets = listen::tickets(&mut context, raw);
    let control = listen::control(&mut context, &raw.control);
    let log = listen::log(&raw.log);
    let otlp = otlp::otlp(&mut context, raw);
    let protect = protect(&mut context, &raw.protect);
    let redis = redis::redis(&mut context, raw);
    let shared = redis::shared(&mut context, raw);
    let mut store = store::store(&mut context, raw);
    let cluster = cluster::cluster(&mut context, raw);
    if let Some(StoreSettings { location: Location::Postgres(postgres), .. }) = &mut store {
        context.shards = postgres.shards;
        let named = raw.store.as_ref().is_some_and(|store| store.node.is_some());
        if let Some(cluster) = cluster.as_ref().filter(|_| !named) {
            postgres.node = Arc::clone(&cluster.settings.me);
        }
    }
    let upstreams = upstream::upstreams(&mut context, raw);
    let tenants = tenants::tenants(&mut context, raw);
    let mut queues = queue::queues(&mut context, raw);
    let schedules = queue::schedules(&mut context, raw);
    let webhook = webhook::webhook(&mut context, raw);
    if let Some(queue) = webhook.as_ref().map(webhook::queue) {
        let node = context.entry("webhook");
        queue::divides(&mut context, &queue, node, "say a larger `concurrency`");
        queues.push(queue);
    }
    context.logins = login::providers(&mut context, raw);
    let routes = route::routes(&mut context, &mut queues, raw);
    context.positive(tree.at("drain"), "time", &raw.drain.time);
    context.positive(tree.at("upgrade"), "start", &raw.upgrade.start);
    context.positive(tree.at("upgrade"), "connections", &raw.upgrade.connections);
    let maintenance = maintenance::maintenance(&mut context, raw, &routes);
    let proxy = ProxySettings {
        maintenance,
        logins: std::mem::take(&mut context.logins),
        trusted_proxies: raw.listen.trusted_proxies.iter().map(|network| network.0).collect(),
        tenants,
        routes,
        deliveries: queue::told(&mut context, raw, &queues),
        deadline_header: raw.listen.deadline_header.as_ref().map(|header| header.0.clone()),
        tracing: otlp::tracing(raw),
        cache: cache(&raw.cache),
        aliases: aliases(&mut context, &raw.cache.host_aliases),
        disk: disk(&mut context, raw.cache.disk.as_ref()),
        cluster: cluster.as_ref().map(|cluster| cluster.settings.clone()),
        secure: acme::secure(raw),
    };
    let Context { problems, named, .. } = context;
    let (cluster, peers) = cluster.map(|cluster| (cluster.listen, cluster.peers)).unzip();
    if problems.is_empty() {
        Ok(Resolved {
            listeners,
            certificates,
            acme,
            tickets,
            control,
            log,
            otlp,
            protect,
            redis,
            shared,
            store,
            cluster,
            peers: peers.unwrap_or_default(),
            upstreams,
            queues,
            schedules,
            webhook,
            proxy,
            named,
        })
    } else {
        Err(problems)
    }
}

fn protect(context: &mut Context<'_>, raw: &raw::Protect) -> ProtectSettings {
    context.positive(context.entry("protect"), "calm", &raw.calm);
    let bytes = |size: &Option<Size>| size.as_ref().map(|size| size.0);
    ProtectSettings {
        memory: bytes(&raw.memory),
        buffers: bytes(&raw.buffers),
        lag: raw.lag.0,
        calm: raw.calm.0,
    }
}

fn cache(raw: &raw::CacheRoom) -> CacheBounds {
    let bytes = raw.memory.0;
    let tenant_bytes = bytes / 100 * u64::from(raw.tenant_share.0);
    let bounds = Bounds { bytes, tenant_bytes, tenant_entries: raw.tenant_entries };
    let (large_bytes_max, slice_bytes) = (raw.large.0, raw.slice.0);
    CacheBounds { bounds, object_bytes_max: raw.object.0, large_bytes_max, slice_bytes }
}

/// Hosts that are the same for the cache. Each is one name, and says at once what it stands for.
fn aliases(context: &mut Context<'_>, raw: &BTreeMap<String, String>) -> Aliases {
    let mut names: BTreeMap<String, Arc<str>> = BTreeMap::new();
    for (alias, host) in raw {
        let node = context.entry("cache").at("host_aliases").at(alias);
        let one = |name: &str| match tidegate_model::host::normalize(name) {
            // A port is not of the host.
            Ok(host) if host.len() == name.len() => Ok(host.into_owned()),
            _ => Err(()),
        };
        let (Ok(from), Ok(to)) = (one(alias), one(host)) else {
            let wrong = if one(alias).is_err() { alias } else { host };
            context.tell(node, format!("`{wrong}` is no host: a name without port, path or star"));
            continue;
        };
        if from == to {
            context.tell(node, format!("`{alias}` stands for itself"));
        } else if names.insert(from, to.into()).is_some() {
            context.tell(node, format!("`{alias}` is there twice, in other letters"));
        }
    }
    for alias in raw.keys() {
        let to = tidegate_model::host::normalize(alias).ok().and_then(|from| names.get(&*from).cloned());
        if let Some((to, last)) = to.and_then(|to| names.get(&*to).cloned().map(|last| (to, last))) {
            let node = context.entry("cache").at("host_aliases").at(alias);
            context.tell_with(
                node,
                format!("`{to}` is an alias itself"),
                format!("say what it stands for: \"{alias}\" = \"{last}\""),
            );
        }
    }
    Aliases::new(names.into_iter().map(|(from, to)| (from.into_boxed_str(), to)))
}

fn disk(context: &mut Context<'_>, raw: Option<&raw::CacheDisk>) -> Option<DiskSettings> {
    let raw = raw?;
    if raw.size.0 < SIZE_MIN {
        let node = context.entry("cache").at("disk");
        context.tell(node.at("size"), format!("`size` must be at least {}", show_size(&SIZE_MIN)));
    }
    Some(DiskSettings { path: raw.path.0.clone(), size: raw.size.0 })
}

/// What is found on the way.
pub struct Context<'a> {
    problems: Vec<Problem>,
    named: Vec<PathBuf>,
    root: &'a Node,
    /// What deliveries are divided into.
    shards: u16,
    /// The providers of logins.
    logins: Vec<Arc<OidcSettings>>,
}

impl<'a> Context<'a> {
    /// Tells a problem, unless the entry has told one already.
    fn tell(&mut self, node: &Node, message: impl Into<String>) {
        self.add(node, Problem::new(Some(node.place.clone()), message));
    }

    /// Tells a problem with a way to mend it.
    fn tell_with(&mut self, node: &Node, message: impl Into<String>, help: impl Into<String>) {
        self.add(node, Problem::new(Some(node.place.clone()), message).help(help));
    }

    fn add(&mut self, node: &Node, problem: Problem) {
        if !node.tainted {
            self.problems.push(problem);
        }
    }

    /// Tells what the configuration as a whole lacks.
    fn tell_whole(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::new(None, message).help(help));
    }

    /// One of the outermost entries.
    fn entry(&self, key: &str) -> &'a Node {
        self.root.at(key)
    }

    /// The names of the entries of `[table.NAME]`, those with problems included.
    fn names(&self, table: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let entries = self.root.get(table).and_then(Node::table);
        entries.into_iter().flat_map(|entries| entries.keys()).map(String::as_str)
    }

    /// Whether there is such an entry; tells a problem if not.
    fn exists(&mut self, table: &str, name: &str, node: &Node) -> bool {
        if self.names(table).any(|there| there == name) {
            return true;
        }
        let help = match nearest(name, self.names(table)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("add [{table}.{name}]"),
        };
        self.tell_with(node, format!("there is no {table} `{name}`"), help);
        false
    }

    /// Tells a time that is zero where that makes no sense.
    fn positive(&mut self, node: &Node, key: &str, time: &Time) {
        if time.0.is_zero() {
            self.tell(node.at(key), format!("`{key}` must be more than zero"));
        }
    }

    /// A file whose change is a change of the configuration.
    fn name_file(&mut self, path: &Path) {
        if !self.named.iter().any(|named| named == path) {
            self.named.push(path.to_owned());
        }
    }

    /// The bytes of a secret.
    fn secret(&mut self, secret: &raw::Secret, node: &Node) -> Vec<u8> {
        match secret {
            raw::Secret::Text(text) => text.clone().into_bytes(),
            raw::Secret::Env(raw::EnvSecret { env }) => match std::env::var(env) {
                Ok(text) => text.into_bytes(),
                Err(std::env::VarError::NotPresent) => {
                    self.tell(node.at("env"), format!("the environment variable `{env}` is not set"));
                    Vec::new()
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    self.tell(node.at("env"), format!("the environment variable `{env}` is not UTF-8"));
                    Vec::new()
                }
            },
            raw::Secret::File(raw::FileSecret { file }) => {
                self.name_file(&file.0);
                match read_bounded(&file.0, SECRET_BYTES_MAX) {
                    Ok(mut bytes) => {
                        let line_end =
                            bytes.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                        bytes.truncate(bytes.len() - line_end);
                        bytes
                    }
                    Err(why) => {
                        self.tell(node.at("file"), format!("cannot read {}: {why}", file.0.display()));
                        Vec::new()
                    }
                }
            }
        }
    }
}

/// A file's bytes, if there are not too many.
///
/// # Errors
/// Why it cannot be read, in words.
pub fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| plain(&error))?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() as u64 > most {
        return Err(format!("it is larger than {most} bytes"));
    }
    Ok(bytes)
}

/// An error of the system in plain words, without its number.
pub fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}
