//! `tidegate maintenance`: windows of a running Tidegate, opened, ended and listed through its control API.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::status::{Remote, ask, encoded, said};

/// Maintenance.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: MaintenanceCommand,
}

#[derive(Debug, Subcommand)]
enum MaintenanceCommand {
    /// Tell requests to come again later: all of them, or those of a route or a tenant
    On(OnArgs),
    /// End a window
    Off {
        /// Its name
        #[arg(default_value = "all")]
        name: String,
    },
    /// List the windows
    List,
}

#[derive(Debug, Args)]
struct OnArgs {
    /// Its name: one of the same name is replaced
    #[arg(default_value = "all")]
    name: String,
    /// Those of this route alone
    #[arg(long)]
    route: Option<String>,
    /// Those of this tenant alone
    #[arg(long)]
    tenant: Option<String>,
    /// It ends by itself after so long: 30m
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<String>,
    /// One sentence for clients
    #[arg(long)]
    detail: Option<String>,
}

/// Opens, ends or lists windows.
#[must_use]
pub fn maintenance(args: &MaintenanceArgs) -> ExitCode {
    let told = match &args.command {
        MaintenanceCommand::On(on) => {
            let OnArgs { name, route, tenant, duration, detail } = on;
            let body = json!({
                "name": name, "route": route, "tenant": tenant, "duration": duration, "detail": detail,
            });
            ask(&args.remote, "POST", "/maintenance", &body.to_string()).map(|told| opened(&read(&told)))
        }
        MaintenanceCommand::Off { name } => {
            let path = format!("/maintenance/{}", encoded(name));
            ask(&args.remote, "DELETE", &path, "").map(|_| format!("{name} has ended\n"))
        }
        MaintenanceCommand::List => {
            ask(&args.remote, "GET", "/maintenance", "").map(|told| listed(&read(&told)))
        }
    };
    said(told)
}

fn read(told: &str) -> Value {
    serde_json::from_str(told).unwrap_or_default()
}

fn opened(told: &Value) -> String {
    let kept = match told["kept"] == true {
        true => "on every node that shares its store, and over restarts",
        false => "on this node until it ends: there is no [store] that others could share",
    };
    format!("{} is in maintenance {}, {kept}\n", whose(told), end(told))
}

fn listed(told: &Value) -> String {
    let windows = told["windows"].as_array().map(Vec::as_slice).unwrap_or_default();
    if windows.is_empty() {
        return "nothing is in maintenance\n".to_owned();
    }
    let line = |window: &Value| {
        let by = window["by"].as_str().unwrap_or("the configuration");
        let name = window["name"].as_str().unwrap_or_default();
        format!("{name}: {} {}, by {by}\n", whose(window), end(window))
    };
    windows.iter().map(line).collect()
}

fn whose(window: &Value) -> String {
    match (window["route"].as_str(), window["tenant"].as_str()) {
        (None, None) => "everything".to_owned(),
        (Some(route), None) => format!("route {route}"),
        (None, Some(tenant)) => format!("tenant {tenant}"),
        (Some(route), Some(tenant)) => format!("tenant {tenant} on route {route}"),
    }
}

fn end(window: &Value) -> String {
    window["until"].as_str().map_or_else(|| "until it is ended".to_owned(), |until| format!("until {until}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_told_in_words() {
        let windows = json!({"windows": [
            {"name": "all", "route": null, "tenant": null, "until": null, "by": null},
            {"name": "w", "route": "r", "tenant": "a", "until": "2026-01-01T00:00:00Z", "by": "ops"},
        ]});
        let expected = "all: everything until it is ended, by the configuration\n\
                        w: tenant a on route r until 2026-01-01T00:00:00Z, by ops\n";
        assert_eq!(listed(&windows), expected);
        assert_eq!(listed(&json!({"windows": []})), "nothing is in maintenance\n");
    }
}
