//! `tidegate queue`, `tidegate delivery` and `tidegate schedule`: what is made later, looked at and changed through the control
//! API of a running Tidegate.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::status::{Remote, ask, encoded, in_columns, said};

/// Deliveries of a page.
const PAGE: u32 = 50;

/// Queues.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(flatten)]
    asked: Asked,
    #[command(subcommand)]
    command: QueueCommand,
}

/// Where it is asked for, and how it is told.
#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    remote: Remote,
    /// JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List all queues
    List,
    /// Show a queue: what waits, of which tenants, and what is paused
    Show {
        /// Its name
        name: String,
    },
    /// Begin nothing more of a queue, of a tenant of it, or of a key
    Pause(PauseArgs),
    /// Let it go on
    Resume(PauseArgs),
}

#[derive(Debug, Args)]
struct PauseArgs {
    /// The queue's name; without it: all of the tenant, in whatever queue
    #[arg(required_unless_present = "tenant")]
    name: Option<String>,
    /// This tenant's alone
    #[arg(long)]
    tenant: Option<String>,
    /// This key's alone
    #[arg(long, requires_all = ["tenant", "name"])]
    key: Option<String>,
}

/// Deliveries.
#[derive(Debug, Args)]
pub struct DeliveryArgs {
    #[command(flatten)]
    asked: Asked,
    #[command(subcommand)]
    command: DeliveryCommand,
}

#[derive(Debug, Subcommand)]
enum DeliveryCommand {
    /// List deliveries, the newest first
    List(ListArgs),
    /// Show all that is known of a delivery
    Show {
        /// Its id
        id: String,
    },
    /// Want a delivery no more, or all that are meant
    Cancel(ManyArgs),
    /// Make a dead or cancelled delivery again, or all that are meant
    Redrive(RedriveArgs),
    /// Forget all that are meant: what has ended and, if that is said, what has not begun
    Purge(PurgeArgs),
    /// Hand in a delivery
    Add(AddArgs),
}

/// Which are meant.
#[derive(Debug, Args)]
struct Meant {
    /// Of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// In this state: blocked, scheduled, ready, leased, delivered, dead, cancelled
    #[arg(long)]
    state: Option<String>,
    /// Of this key
    #[arg(long)]
    key: Option<String>,
}

impl Meant {
    fn filter(&self) -> Value {
        let Meant { queue, tenant, state, key } = self;
        json!({ "queue": queue, "tenant": tenant, "state": state, "key": key })
    }
}

#[derive(Debug, Args)]
struct PurgeArgs {
    #[command(flatten)]
    meant: Meant,
    /// What has not begun, too: it is never made
    #[arg(long)]
    waiting: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    meant: Meant,
    /// So many at most
    #[arg(long, default_value_t = PAGE)]
    limit: u32,
    /// The page after the one that told this
    #[arg(long)]
    cursor: Option<String>,
}

/// One delivery, or all that are meant.
#[derive(Debug, Args)]
struct ManyArgs {
    /// Its id
    #[arg(conflicts_with_all = ["queue", "tenant", "state", "key"], required_unless_present_any = ["queue", "tenant", "state", "key"])]
    id: Option<String>,
    #[command(flatten)]
    meant: Meant,
}

#[derive(Debug, Args)]
struct RedriveArgs {
    #[command(flatten)]
    which: ManyArgs,
    /// So many a second are begun again
    #[arg(long, conflicts_with = "id")]
    per_second: Option<u32>,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The queue's name
    queue: String,
    /// Whose it is
    #[arg(long)]
    tenant: String,
    /// What it has in common with others
    #[arg(long)]
    key: Option<String>,
    /// The request's body
    #[arg(long)]
    body: Option<String>,
    /// The request's path and query
    #[arg(long)]
    path: Option<String>,
    /// The request's method
    #[arg(long)]
    method: Option<String>,
    /// A header of the request: 'Content-Type: text/plain'
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Not begun for so long: 5m
    #[arg(long, conflicts_with = "at")]
    delay: Option<String>,
    /// Not begun before: 2027-01-01T12:00:00Z
    #[arg(long)]
    at: Option<String>,
    /// One of a kind within its queue and tenant
    #[arg(long)]
    unique: Option<String>,
}

/// Schedules.
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    #[command(flatten)]
    asked: Asked,
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    /// List all schedules, and when each runs next
    List,
    /// Make a run now
    Run {
        /// Its name
        name: String,
    },
}

/// Looks at queues, or pauses them.
#[must_use]
pub fn queue(args: &QueueArgs) -> ExitCode {
    let asked = &args.asked;
    said(match &args.command {
        QueueCommand::List => asked.get("/queues", |told| rows(&QUEUES, &told["queues"])),
        QueueCommand::Show { name } => asked.get(&format!("/queues/{}", encoded(name)), |told| {
            let lines = rows(&LINES, &told["lines"]);
            format!("{}\n{}", rows(&QUEUES, &json!([told])), lines)
        }),
        QueueCommand::Pause(args) => asked.pause(args, "pause"),
        QueueCommand::Resume(args) => asked.pause(args, "resume"),
    })
}

/// Looks at deliveries, hands them in, or changes them.
#[must_use]
pub fn delivery(args: &DeliveryArgs) -> ExitCode {
    let asked = &args.asked;
    said(match &args.command {
        DeliveryCommand::List(list) => asked.get(&list.path(), |told| {
            let more = told["next"].as_str().map(|next| format!("more: --cursor {next}\n"));
            rows(&DELIVERIES, &told["deliveries"]) + &more.unwrap_or_default()
        }),
        DeliveryCommand::Show { id } => asked.get(&format!("/deliveries/{}", encoded(id)), pretty),
        DeliveryCommand::Cancel(which) => match &which.id {
            Some(id) => asked.send("DELETE", &format!("/deliveries/{}", encoded(id)), "", &state),
            None => asked.change_all("/deliveries/cancel", which, None),
        },
        DeliveryCommand::Redrive(RedriveArgs { which, per_second }) => match &which.id {
            Some(id) => asked.send("POST", &format!("/deliveries/{}/redrive", encoded(id)), "", &state),
            None => asked.change_all("/deliveries/redrive", which, *per_second),
        },
        DeliveryCommand::Purge(PurgeArgs { meant, waiting }) => asked.purge(meant, *waiting),
        DeliveryCommand::Add(add) => add.body().and_then(|body| {
            let path = format!("/queues/{}/deliveries", encoded(&add.queue));
            asked.send("POST", &path, &body.to_string(), &|told| {
                format!("{} {}\n", text(&told["id"]), text(&told["outcome"]))
            })
        }),
    })
}

/// Looks at schedules, or runs one.
#[must_use]
pub fn schedule(args: &ScheduleArgs) -> ExitCode {
    let asked = &args.asked;
    said(match &args.command {
        ScheduleCommand::List => asked.get("/schedules", |told| rows(&SCHEDULES, &told["schedules"])),
        ScheduleCommand::Run { name } => {
            asked.send("POST", &format!("/schedules/{}/run", encoded(name)), "", &|told| {
                format!("{} {}\n", text(&told["id"]), text(&told["outcome"]))
            })
        }
    })
}

/// A table's columns: what each is called, and where it is found.
type Columns = [(&'static str, &'static str)];

const QUEUES: [(&str, &str); 9] = [
    ("QUEUE", "/name"),
    ("READY", "/counts/ready"),
    ("LATER", "/counts/scheduled"),
    ("BLOCKED", "/counts/blocked"),
    ("RUNNING", "/counts/leased"),
    ("DELIVERED", "/counts/delivered"),
    ("DEAD", "/counts/dead"),
    ("OLDEST", "/oldest"),
    ("PAUSED", "/paused"),
];

const LINES: [(&str, &str); 7] = [
    ("TENANT", "/tenant"),
    ("READY", "/counts/ready"),
    ("LATER", "/counts/scheduled"),
    ("BLOCKED", "/counts/blocked"),
    ("RUNNING", "/counts/leased"),
    ("DELIVERED", "/counts/delivered"),
    ("DEAD", "/counts/dead"),
];

const DELIVERIES: [(&str, &str); 8] = [
    ("ID", "/id"),
    ("QUEUE", "/queue"),
    ("TENANT", "/tenant"),
    ("KEY", "/key"),
    ("STATE", "/state"),
    ("ATTEMPTS", "/attempts"),
    ("DUE", "/due"),
    ("WHY", "/why"),
];

const SCHEDULES: [(&str, &str); 7] = [
    ("SCHEDULE", "/name"),
    ("CRON", "/cron"),
    ("ZONE", "/zone"),
    ("QUEUE", "/queue"),
    ("NEXT", "/next"),
    ("SEEN", "/seen"),
    ("PAUSED", "/paused"),
];

fn rows(columns: &Columns, list: &Value) -> String {
    let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let body = list.as_array().into_iter().flatten().map(|row| {
        columns.iter().map(|(_, at)| row.pointer(at).map_or_else(|| "-".to_owned(), text)).collect()
    });
    in_columns(&std::iter::once(head).chain(body).collect::<Vec<Vec<String>>>())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

fn state(told: &Value) -> String {
    format!("{} is {}\n", text(&told["id"]), text(&told["state"]))
}

fn pretty(told: &Value) -> String {
    serde_json::to_string_pretty(told).unwrap_or_default() + "\n"
}

impl Asked {
    fn get(&self, path: &str, show: impl Fn(&Value) -> String) -> Result<String, String> {
        self.send("GET", path, "", &show)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
        show: &dyn Fn(&Value) -> String,
    ) -> Result<String, String> {
        if self.json {
            return Ok(ask(&self.remote, method, path, body)? + "\n");
        }
        Ok(show(&self.told(method, path, body)?))
    }

    fn told(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        serde_json::from_str(&ask(&self.remote, method, path, body)?)
            .map_err(|error| format!("tidegate: not an answer of the control API: {error}"))
    }

    /// Forgets all that are meant, step by step until there are no more.
    fn purge(&self, meant: &Meant, waiting: bool) -> Result<String, String> {
        let (mut purged, mut cursor) = (0, Value::Null);
        loop {
            let body = json!({ "filter": meant.filter(), "waiting": waiting, "cursor": cursor });
            let mut told = self.told("POST", "/deliveries/purge", &body.to_string())?;
            purged += told["purged"].as_u64().unwrap_or_default();
            cursor = told["next"].take();
            if cursor.is_null() {
                let text = match self.json {
                    true => json!({ "purged": purged }).to_string(),
                    false => format!("{purged} purged"),
                };
                return Ok(text + "\n");
            }
        }
    }

    /// Changes all that are meant, step by step until there are no more.
    fn change_all(&self, path: &str, which: &ManyArgs, per_second: Option<u32>) -> Result<String, String> {
        let (mut changed, mut cursor, mut waited) = (0, Value::Null, 0);
        loop {
            let mut body = json!({ "filter": which.meant.filter(), "cursor": cursor });
            if let Some(rate) = per_second {
                body["per_second"] = json!(rate);
                body["delay"] = json!(format!("{waited}ms"));
            }
            let mut told = self.told("POST", path, &body.to_string())?;
            changed += told["changed"].as_u64().unwrap_or_default();
            waited = told["last_in_ms"].as_u64().unwrap_or_default();
            cursor = told["next"].take();
            if cursor.is_null() {
                let text = if self.json {
                    json!({ "changed": changed }).to_string()
                } else {
                    format!("{changed} changed")
                };
                return Ok(text + "\n");
            }
        }
    }

    fn pause(&self, args: &PauseArgs, what: &str) -> Result<String, String> {
        let tenant = args.tenant.as_deref().unwrap_or_default();
        let (path, of, body) = match &args.name {
            Some(name) => {
                let body = json!({ "tenant": args.tenant, "key": args.key }).to_string();
                (format!("/queues/{}/{what}", encoded(name)), name.as_str(), body)
            }
            None => (format!("/tenants/{}/{what}", encoded(tenant)), tenant, String::new()),
        };
        self.send("POST", &path, &body, &|told| {
            let now = if told["paused"] == true { "paused" } else { "going on" };
            format!("{of} is {now}\n")
        })
    }
}

impl ListArgs {
    fn path(&self) -> String {
        let mut path = format!("/deliveries?limit={}", self.limit);
        let Meant { queue, tenant, state, key } = &self.meant;
        for (name, value) in
            [("queue", queue), ("tenant", tenant), ("state", state), ("key", key), ("cursor", &self.cursor)]
        {
            if let Some(value) = value {
                path += &format!("&{name}={}", encoded(value));
            }
        }
        path
    }
}

impl AddArgs {
    fn body(&self) -> Result<Value, String> {
        let headers = self.headers.iter().map(|line| {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("tidegate: a header is written 'NAME: VALUE', not '{line}'"))?;
            Ok((name.trim().to_owned(), json!(value.trim())))
        });
        let headers = headers.collect::<Result<serde_json::Map<_, _>, String>>()?;
        Ok(json!({
            "tenant": self.tenant,
            "key": self.key,
            "body": self.body,
            "path": self.path,
            "method": self.method,
            "headers": headers,
            "delay": self.delay,
            "at": self.at,
            "unique": self.unique.as_ref().map(|key| json!({ "key": key })),
        }))
    }
}
