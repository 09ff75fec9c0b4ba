//! A directory whose files answer.

use std::path::Path;
use std::sync::Arc;

use tidegate_model::files::name::Name;
use tidegate_upstream::settings::FilesSettings;

use super::Context;
use crate::config::raw;
use crate::config::resolve::plain;
use crate::config::text::PlainPath;
use crate::config::tree::Node;

/// What is said of servers only: files have no address, no connection, and no other endpoint to try.
const OF_SERVERS: [&str; 19] = [
    "resolver",
    "refresh",
    "protocol",
    "tls",
    "host",
    "balance",
    "hash_on",
    "shuffle_shard",
    "slow_start",
    "health",
    "outlier",
    "panic_threshold",
    "retry_budget",
    "retry_budget_min",
    "connect_timeout",
    "connections",
    "idle_connections",
    "idle_timeout",
    "lifetime",
];

/// Tells what does not go together with files. What is set to what it is anyway is no harm: a printed configuration has it.
pub fn alone(context: &mut Context<'_>, raw: &raw::Upstream, node: &Node) {
    let value = |raw: &raw::Upstream| serde_json::to_value(raw).unwrap_or_default();
    let (given, usual) = (value(raw), value(&raw::Upstream::default()));
    for key in OF_SERVERS.into_iter().filter(|key| given[key] != usual[key]) {
        let message = format!("`{key}` is for upstreams that are servers: this one is a directory");
        context.tell_with(node.at(key), message, format!("leave `{key}` out"));
    }
}

/// How a directory is served. One that cannot be read is told.
pub fn files(context: &mut Context<'_>, raw: &raw::FilesTable, node: &Node) -> Arc<FilesSettings> {
    let root = raw.root.0.clone();
    let found = match std::fs::metadata(root.join(".")) {
        Ok(_) => true,
        Err(error) => {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such directory".to_owned(),
                std::io::ErrorKind::NotADirectory => "it is no directory".to_owned(),
                _ => plain(&error),
            };
            // A path alone stands where its table would.
            let place = node.get("root").unwrap_or(node);
            context.tell(place, format!("cannot serve {}: {why}", root.display()));
            false
        }
    };
    let index = (!raw.index.is_empty()).then(|| raw.index.clone());
    if let Some(index) = &index
        && !is_segment(index)
    {
        let message = format!("`{index}` is no name of a file in a directory");
        context.tell_with(node.at("index"), message, "write it as in \"index.html\"; \"\" for none");
    }
    let checked = found.then_some(root.as_path());
    Arc::new(FilesSettings {
        fallback: page(context, raw.fallback.as_ref(), node, "fallback", checked),
        not_found: page(context, raw.not_found.as_ref(), node, "not_found", checked),
        index,
        precompressed: raw.precompressed,
        hidden: raw.hidden,
        root,
    })
}

fn is_segment(name: &str) -> bool {
    !matches!(name, "." | "..") && name.len() <= 255 && !name.bytes().any(|byte| byte == b'/' || byte < 0x20)
}

/// A file below the root, which must be there.
fn page(
    context: &mut Context<'_>,
    path: Option<&PlainPath>,
    node: &Node,
    key: &str,
    root: Option<&Path>,
) -> Option<Name> {
    let path = path?;
    let name = match Name::of(&path.0, true) {
        Ok(name) if !name.is_folder() => name,
        Ok(_) => {
            context.tell(node.at(key), format!("`{}` is a directory, not a file", path.0));
            return None;
        }
        Err(error) => {
            context.tell(node.at(key), error.detail());
            return None;
        }
    };
    let below = Path::new(std::ffi::OsStr::new(std::str::from_utf8(name.bytes()).unwrap_or_default()));
    if let Some(root) = root
        && let Err(error) = std::fs::File::open(root.join(below))
    {
        context.tell(node.at(key), format!("cannot read {}: {}", root.join(below).display(), plain(&error)));
    }
    Some(name)
}
