//! `tidegate purge` and `tidegate cache inspect`: what a running Tidegate has cached, taken away and looked at through its
//! control API.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::status::{Remote, ask, encoded, said};

/// What to purge.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct PurgeArgs {
    /// Where it is asked for.
    #[command(flatten)]
    remote: Remote,
    /// A URL, whatever its query
    #[arg(long, group = "what", conflicts_with_all = ["prefix", "host", "tag", "everything"])]
    url: Option<String>,
    /// A URL and all that lies under it, by whole segments of the path
    #[arg(long, group = "what", conflicts_with_all = ["host", "tag", "everything"])]
    prefix: Option<String>,
    /// All of a host
    #[arg(long, group = "what", conflicts_with_all = ["tag", "everything"])]
    host: Option<String>,
    /// All with this tag
    #[arg(long, group = "what", conflicts_with = "everything")]
    tag: Option<String>,
    /// All of a tenant; with --url, --prefix, --host or --tag, of that tenant alone
    #[arg(long, group = "what", conflicts_with = "everything")]
    tenant: Option<String>,
    /// Everything
    #[arg(long, group = "what")]
    everything: bool,
    /// Make it stale: it is validated before it is used, and still there if the upstream is not
    #[arg(long)]
    soft: bool,
}

/// What is cached.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// Show what is stored for a URL
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
struct InspectArgs {
    #[command(flatten)]
    remote: Remote,
    /// The URL
    url: String,
    /// The tenant that asks
    #[arg(long)]
    tenant: Option<String>,
    /// A header of the request that counts: 'Accept-Language: de'
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
}

/// Purges.
#[must_use]
pub fn purge(args: &PurgeArgs) -> ExitCode {
    let mut order = json!({"soft": args.soft});
    let named = [
        ("url", &args.url),
        ("prefix", &args.prefix),
        ("host", &args.host),
        ("tag", &args.tag),
        ("tenant", &args.tenant),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            order[name] = json!(value);
        }
    }
    if args.everything {
        order["everything"] = json!(true);
    }
    said(ask(&args.remote, "POST", "/purge", &order.to_string()).map(|told| format!("purged {told}\n")))
}

/// Looks at what is cached.
#[must_use]
pub fn cache(args: &CacheArgs) -> ExitCode {
    let CacheCommand::Inspect(args) = &args.command;
    let mut path = format!("/cache/inspect?url={}", encoded(&args.url));
    if let Some(tenant) = &args.tenant {
        path += &format!("&tenant={}", encoded(tenant));
    }
    for header in &args.headers {
        path += &format!("&header={}", encoded(header));
    }
    said(ask(&args.remote, "GET", &path, "").and_then(|told| {
        let told: Value =
            serde_json::from_str(&told).map_err(|error| format!("tidegate: not an entry: {error}"))?;
        serde_json::to_string_pretty(&told).map(|text| text + "\n").map_err(|error| error.to_string())
    }))
}
