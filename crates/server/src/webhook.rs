//! `tidegate webhook …`: destinations, event types and events of a running Tidegate, over its control API.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_wire::clock;

use crate::config::parse_duration;
use crate::status::{Remote, ask, encoded, said};
use crate::telemetry::rfc3339;

/// Webhooks.
#[derive(Debug, Args)]
pub struct WebhookArgs {
    /// Where it is asked for.
    #[command(flatten)]
    remote: Remote,
    /// Print what the control API answers
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: WebhookCommand,
}

#[derive(Debug, Subcommand)]
enum WebhookCommand {
    /// List a tenant's destinations
    List {
        /// The tenant
        tenant: String,
    },
    /// Show a destination
    Show(Named),
    /// Make a destination; its secret is told
    Add {
        /// The tenant
        tenant: String,
        /// Where events go
        url: String,
        /// An event type that it wants to hear of: a name, 'order.*' or '*'; as often as needed
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// A channel; as often as needed
        #[arg(long = "channel", value_name = "CHANNEL")]
        channels: Vec<String>,
        /// How events are written: plain, cloudevents-structured, cloudevents-binary, cloudevents-batch
        #[arg(long, default_value = "plain")]
        form: String,
        /// How they are signed: v1 (a shared secret) or v1a (a pair of keys)
        #[arg(long, default_value = "v1")]
        signature: String,
        /// Requests a second, at most
        #[arg(long)]
        rate: Option<u32>,
        /// In the order in which they were published
        #[arg(long)]
        ordered: bool,
    },
    /// Remove a destination
    Remove(Named),
    /// Let events go to a destination again
    Enable(Named),
    /// Let no events go to a destination
    Disable(Named),
    /// Show what a destination verifies by
    Secrets(Named),
    /// Replace a destination's secret; the old one goes on signing for a while
    Rotate {
        #[command(flatten)]
        named: Named,
        /// For how long
        #[arg(long)]
        overlap: Option<String>,
        /// v1 or v1a
        #[arg(long, default_value = "v1")]
        signature: String,
    },
    /// Send a test event to a destination
    Test(Named),
    /// Show what became of events at a destination
    Outcomes(Named),
    /// Send an event to a destination again
    Resend {
        #[command(flatten)]
        named: Named,
        /// The event
        event: String,
    },
    /// Send again what a destination has not got: what failed and what never went there, or one of them
    Recover {
        #[command(flatten)]
        named: Named,
        /// Of how long ago on: 24h
        #[arg(long)]
        since: String,
        /// What failed
        #[arg(long)]
        failed: bool,
        /// What never went there
        #[arg(long)]
        missing: bool,
    },
    /// Publish an event
    Publish {
        /// The tenant
        tenant: String,
        /// The event's type
        r#type: String,
        /// The payload, JSON; without it: the standard input
        payload: Option<String>,
        /// The event's id
        #[arg(long)]
        id: Option<String>,
        /// A channel; as often as needed
        #[arg(long = "channel", value_name = "CHANNEL")]
        channels: Vec<String>,
    },
    /// List the catalogue of event types
    Types,
}

#[derive(Debug, Args)]
struct Named {
    /// The tenant
    tenant: String,
    /// The destination
    id: String,
}

impl Named {
    fn path(&self, what: &str) -> String {
        format!("/webhooks/destinations/{}/{}{what}", encoded(&self.tenant), encoded(&self.id))
    }
}

/// Does what is asked for.
#[must_use]
pub fn webhook(args: &WebhookArgs) -> ExitCode {
    said(told(args))
}

fn told(args: &WebhookArgs) -> Result<String, String> {
    let asked = |method: &str, path: &str, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = ask(&args.remote, method, path, &body)?;
        serde_json::from_str::<Value>(&answer).map_err(|error| format!("tidegate: not an answer: {error}"))
    };
    let show = |value: Value, columns: &[&str]| {
        if args.json || columns.is_empty() { pretty(&value) } else { Ok(table(&value["items"], columns)) }
    };
    match &args.command {
        WebhookCommand::List { tenant } => {
            let columns = ["id", "state", "created", "destination.url", "destination.description"];
            all(&format!("/webhooks/destinations/{}", encoded(tenant)), &asked)
                .and_then(|value| show(value, &columns))
        }
        WebhookCommand::Show(named) => show(asked("GET", &named.path(""), &Value::Null)?, &[]),
        WebhookCommand::Add { .. } => show(add(&args.command, &asked)?, &[]),
        WebhookCommand::Remove(named) => show(asked("DELETE", &named.path(""), &Value::Null)?, &[]),
        WebhookCommand::Enable(named) => {
            show(asked("POST", &named.path("/state"), &json!({ "enabled": true }))?, &[])
        }
        WebhookCommand::Disable(named) => {
            show(asked("POST", &named.path("/state"), &json!({ "enabled": false }))?, &[])
        }
        WebhookCommand::Secrets(named) => show(asked("GET", &named.path("/secret"), &Value::Null)?, &[]),
        WebhookCommand::Rotate { named, overlap, signature } => {
            let body = json!({ "signature": signature, "overlap": overlap });
            show(asked("POST", &named.path("/secret"), &body)?, &[])
        }
        WebhookCommand::Test(named) => show(asked("POST", &named.path("/test"), &Value::Null)?, &[]),
        WebhookCommand::Outcomes(named) => all(&named.path("/outcomes"), &asked)
            .and_then(|value| show(value, &["event", "type", "state", "at"])),
        WebhookCommand::Resend { named, event } => {
            show(asked("POST", &named.path("/resend"), &json!({ "event": event }))?, &[])
        }
        WebhookCommand::Recover { named, since, failed, missing } => {
            show(recover(named, since, *failed, *missing, &asked)?, &[])
        }
        WebhookCommand::Publish { tenant, r#type, payload, id, channels } => {
            let payload = payload.clone().map_or_else(input, Ok)?;
            let payload: Value =
                serde_json::from_str(&payload).map_err(|error| format!("tidegate: the payload: {error}"))?;
            let body = json!({ "id": id, "type": r#type, "channels": channels, "payload": payload });
            show(asked("POST", &format!("/webhooks/events/{}", encoded(tenant)), &body)?, &[])
        }
        WebhookCommand::Types => {
            all("/webhooks/types", &asked).and_then(|value| show(value, &["name", "archived", "description"]))
        }
    }
}

type Ask<'a> = dyn Fn(&str, &str, &Value) -> Result<Value, String> + 'a;

fn add(command: &WebhookCommand, asked: &Ask<'_>) -> Result<Value, String> {
    let WebhookCommand::Add { tenant, url, types, channels, form, signature, rate, ordered } = command else {
        return Ok(Value::Null);
    };
    let destination = json!({
        "url": url, "filter": { "types": types, "channels": channels }, "form": form, "rate": rate, "ordered": ordered,
    });
    let body = json!({ "destination": destination, "signature": signature });
    asked("POST", &format!("/webhooks/destinations/{}", encoded(tenant)), &body)
}

/// All pages of a listing, as one.
fn all(path: &str, asked: &Ask<'_>) -> Result<Value, String> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let mut page = asked("GET", &format!("{path}?limit=1000&cursor={}", encoded(&cursor)), &Value::Null)?;
        if let Some(more) = page["items"].as_array_mut() {
            items.append(more);
        }
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return Ok(json!({ "items": items })),
        }
    }
}

fn recover(
    named: &Named,
    since: &str,
    failed: bool,
    missing: bool,
    asked: &Ask<'_>,
) -> Result<Value, String> {
    let ago = parse_duration(since).map_err(|why| format!("tidegate: --since: {why}"))?;
    let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or_default();
    // Neither is both.
    let both = !failed && !missing;
    let (mut sent, mut cursor) = (0, Value::Null);
    loop {
        let body =
            json!({ "since": since, "failed": failed || both, "missing": missing || both, "cursor": cursor });
        let told = asked("POST", &named.path("/recover"), &body)?;
        sent += told["sent"].as_u64().unwrap_or_default();
        cursor = told["next"].clone();
        if cursor.is_null() {
            return Ok(json!({ "sent": sent }));
        }
    }
}

fn input() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("tidegate: {error}"))?;
    Ok(text)
}

fn pretty(value: &Value) -> Result<String, String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// A table with these columns, each a path into an item.
fn table(items: &Value, columns: &[&str]) -> String {
    let head = columns.iter().map(|column| column.rsplit('.').next().unwrap_or(column).to_owned()).collect();
    let mut rows: Vec<Vec<String>> = vec![head];
    for item in items.as_array().into_iter().flatten() {
        rows.push(columns.iter().map(|column| cell(item, column)).collect());
    }
    let wide = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(wide).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn cell(item: &Value, column: &str) -> String {
    let found = column.split('.').fold(item, |value, name| &value[name]);
    match found {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(at) if matches!(column, "at" | "created") => {
            format!("{}Z", rfc3339(at.as_u64().unwrap_or_default() / 1000))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &Value, columns: &[&str], expected: &str) {
        assert_eq!(table(items, columns), expected);
    }

    #[test]
    fn a_table_has_a_row_for_each_item() {
        let items = json!([
            { "id": "dst_1", "destination": { "url": "https://a" }, "created": 1_667_507_170_000_u64 },
            { "id": "d", "destination": { "url": "https://bcd" } },
        ]);
        let expected = "id     url          created\n\
                        dst_1  https://a    2022-11-03T20:26:10Z\n\
                        d      https://bcd\n";
        check(&items, &["id", "destination.url", "created"], expected);
        check(&json!([]), &["id"], "id\n");
    }
}
