//! Reads configuration files and brings them all the way: text, tree, checked tree, merged tree, what was typed,
//! what it means. Problems of one stage do not hide those of the next, where that can be helped.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::places::Places;
use super::problem::{Problem, Problems, Source};
use super::raw;
use super::resolve::{self, plain, read_bounded};
use super::settings::{Config, Hidden, Sources, UpgradeSettings};
use super::tree::{self, Node, Value};
use super::{scalar, shape};

/// The most bytes of one configuration file.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// The most files that are included.
const INCLUDED_MAX: usize = 1000;

impl Config {
    /// Reads the configuration in this file and in those that it includes.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let mut reading = Reading::default();
        match reading.read(path) {
            Ok(text) => reading.add(path, text, true),
            // What is there and cannot be read is no wrong name.
            Err(problem) if path.is_file() => reading.problems.push(problem),
            Err(problem) => {
                let help = "-c FILE names the file; `tidegate run --to HOST:PORT` needs none";
                reading.problems.push(problem.help(help));
            }
        }
        reading.finish()
    }

    /// Reads a configuration from a text; `name` stands for a file's path where it is shown, and relative paths
    /// and includes are beside it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(name: &Path, text: &str) -> Result<Config, Problems> {
        let mut reading = Reading::default();
        reading.add(name, text.to_owned(), true);
        let mut config = reading.finish()?;
        config.sources.files.retain(|(path, _)| path != name);
        Ok(config)
    }

    /// A front door without any file: everything on port 8080 goes to this `HOST:PORT`.
    ///
    /// # Errors
    /// An address that is none.
    pub fn to(target: &str) -> Result<Config, Problems> {
        let quoted = toml::Value::String(target.to_owned()).to_string();
        let named = target.parse::<std::net::SocketAddr>().is_err();
        let endpoints = if named { format!("dns = {quoted}") } else { format!("endpoints = [{quoted}]") };
        let text = format!(
            "[listen]\nhttp = [\"0.0.0.0:8080\"]\n\n[upstream.app]\n{endpoints}\n\n[[route]]\nname = \"all\"\npath = \"/\"\nupstream = \"app\"\n"
        );
        let mut config = Config::parse(Path::new("--to"), &text)?;
        // Nobody wrote the text: there is nothing in it to be shown.
        config.places = Places::default();
        Ok(config)
    }
}

/// The files read so far.
#[derive(Default)]
struct Reading {
    sources: Vec<Source>,
    hashes: Vec<[u8; 32]>,
    patterns: Vec<PathBuf>,
    tree: Option<Node>,
    problems: Vec<Problem>,
    /// A file could not be read as TOML: what is missing from the tree is not missing from the configuration.
    broken: bool,
}

impl Reading {
    fn read(&mut self, path: &Path) -> Result<String, Problem> {
        let why = match read_bounded(path, FILE_BYTES_MAX) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => return Ok(text),
                Err(_) => "it is not UTF-8".to_owned(),
            },
            Err(why) => why,
        };
        self.broken = true;
        Err(Problem::new(None, format!("cannot read {}: {why}", path.display())))
    }

    /// Adds a file's text to the tree, and the files that it includes.
    fn add(&mut self, path: &Path, text: String, main: bool) {
        let file = self.sources.len();
        self.hashes.push(Sha256::digest(&text).into());
        let parsed = tree::parse(file, &text);
        self.sources.push(Source { path: path.to_owned(), text });
        let mut tree = match parsed {
            Ok(tree) => tree,
            Err(problems) => {
                self.broken = true;
                return self.problems.extend(problems);
            }
        };
        let directory = path.parent().unwrap_or(Path::new(""));
        self.problems.extend(shape::check(&mut tree, directory));
        let includes = match &mut tree.value {
            Value::Table(root) => root.remove("include"),
            _ => None,
        };
        match &mut self.tree {
            None => self.tree = Some(tree),
            Some(whole) => tree::merge(whole, tree, &mut self.problems),
        }
        let Some(includes) = includes else { return };
        if !main {
            let message = "an included file includes nothing";
            return self.problems.push(Problem::new(Some(includes.key_place()), message));
        }
        let Value::Array(list) = includes.value else { return };
        for include in &list {
            self.include(include, directory);
        }
    }

    fn include(&mut self, node: &Node, directory: &Path) {
        let Value::Text(pattern) = &node.value else { return };
        let pattern = directory.join(pattern);
        let found = match expand(&pattern) {
            Ok(found) => found,
            Err(why) => {
                let message = format!("cannot include {}: {why}", pattern.display());
                return self.problems.push(Problem::new(Some(node.place.clone()), message));
            }
        };
        self.patterns.push(pattern);
        for path in found {
            if self.sources.iter().any(|source| source.path == path) {
                continue;
            }
            if self.sources.len() > INCLUDED_MAX {
                let message = format!("more than {INCLUDED_MAX} files are included");
                return self.problems.push(Problem::new(Some(node.place.clone()), message));
            }
            match self.read(&path) {
                Ok(text) => self.add(&path, text, false),
                Err(mut problem) => {
                    problem.place = Some(node.place.clone());
                    self.problems.push(problem);
                }
            }
        }
    }

    fn finish(mut self) -> Result<Config, Problems> {
        if let Some(mut tree) = self.tree.take().filter(|_| !self.broken) {
            inherit(&mut tree);
            match serde_json::from_value::<raw::Config>(tree.plain()) {
                Ok(raw) => match resolve::resolve(&raw, &tree) {
                    Ok(resolved) if self.problems.is_empty() => return Ok(self.config(raw, resolved, &tree)),
                    Ok(_) => {}
                    Err(problems) => self.problems.extend(problems),
                },
                // The schema let something pass that serde does not. It is told, if not as well as it could be.
                Err(error) if self.problems.is_empty() => {
                    self.problems.push(Problem::new(None, error.to_string()))
                }
                Err(_) => {}
            }
        }
        Err(Problems::new(self.sources, self.problems))
    }

    fn config(self, mut raw: raw::Config, resolved: resolve::Resolved, tree: &Node) -> Config {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let given = raw.workers.and_then(|workers| NonZeroUsize::new(workers as usize));
        let workers = given.unwrap_or(cores);
        raw.workers = u32::try_from(workers.get()).ok();
        let files = self.sources.iter().map(|source| source.path.clone()).zip(self.hashes).collect();
        let places = Places::of(&raw, tree, self.sources);
        Config {
            listeners: resolved.listeners,
            certificates: resolved.certificates,
            acme: resolved.acme,
            tickets: resolved.tickets.map(Hidden),
            control: resolved.control,
            log: resolved.log,
            otlp: resolved.otlp,
            protect: resolved.protect,
            redis: resolved.redis,
            shared: resolved.shared,
            store: resolved.store,
            cluster: resolved.cluster,
            peers: resolved.peers,
            workers,
            drain: raw.drain.time.0,
            upgrade: UpgradeSettings {
                start: raw.upgrade.start.0,
                connections: raw.upgrade.connections.0,
                deliveries: raw.upgrade.deliveries.0,
            },
            upstreams: resolved.upstreams,
            queues: resolved.queues,
            schedules: resolved.schedules,
            webhook: resolved.webhook,
            proxy: resolved.proxy,
            sources: Sources { files, named: resolved.named, patterns: self.patterns },
            effective: Arc::from(effective(&raw)),
            places,
        }
    }
}

/// What routes and listeners inherit.
fn inherit(tree: &mut Node) {
    let route = tree.get("defaults").and_then(|defaults| defaults.get("route")).cloned();
    let limits = tree.get("limits").cloned();
    let Value::Table(root) = &mut tree.value else { return };
    if let (Some(defaults), Some(Node { value: Value::Array(routes), .. })) = (&route, root.get_mut("route"))
    {
        routes.iter_mut().for_each(|route| route.inherit(defaults));
    }
    let (Some(limits), Some(listen)) = (limits, root.get_mut("listen")) else { return };
    let Value::Table(listen) = &mut listen.value else { return };
    for key in ["http", "https"] {
        let Some(Node { value: Value::Array(listeners), .. }) = listen.get_mut(key) else { continue };
        for listener in listeners {
            let Value::Table(table) = &mut listener.value else { continue };
            match table.get_mut("limits") {
                Some(own) => own.inherit(&limits),
                None => {
                    table.insert("limits".to_owned(), limits.clone());
                }
            }
        }
    }
}

/// The configuration with its defaults as TOML, secrets hidden.
fn effective(raw: &raw::Config) -> String {
    // Every value of `raw` has a form in TOML: its integers end where TOML's do.
    toml::to_string_pretty(raw).unwrap_or_else(|error| format!("# {error}\n"))
}

/// The files of a pattern, in the order of their names. `*` stands in the last part alone.
///
/// # Errors
/// Why there can be none, in words.
pub fn expand(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let name = pattern.file_name().and_then(|name| name.to_str()).ok_or("it names no file")?;
    let directory = pattern.parent().unwrap_or(Path::new(""));
    if directory.to_string_lossy().contains('*') {
        return Err("`*` may stand in the last part of a path only".to_owned());
    }
    if !name.contains('*') {
        return Ok(vec![pattern.to_owned()]);
    }
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = std::fs::read_dir(listed).map_err(|error| plain(&error))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| plain(&error))?.file_name();
        // As a shell has it: a name that begins with a dot is not meant.
        if let Some(entry) = entry.to_str().filter(|entry| !entry.starts_with('.') && is_like(entry, name)) {
            found.push(directory.join(entry));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name is like a pattern in which each `*` stands for anything.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The SHA-256 of a file as it was read, in hexadecimal digits.
#[must_use]
pub fn shown_hash(hash: &[u8; 32]) -> String {
    scalar::show_sha256(hash)
}
