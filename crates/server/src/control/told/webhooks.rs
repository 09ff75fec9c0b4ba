//! What the endpoints of webhooks take and answer: the same as types, for their description alone. The end-to-end tests of
//! webhooks hold each answer against it.

use schemars::JsonSchema;
use serde_json::Value;

/// Where a tenant's events go, and which.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Wanted {
    /// Where events go.
    url: String,
    /// What it is, for people.
    #[schemars(default)]
    description: String,
    /// What it wants to hear of: all, where nothing is said.
    #[schemars(default)]
    filter: FilterOfEvents,
    /// How events are written.
    #[schemars(default)]
    form: FormOfEvents,
    /// Headers of its own in each request: name and value of each. Values are shown as `(hidden)`, and stay where that is written back.
    #[schemars(default)]
    headers: Vec<[String; 2]>,
    /// Requests a second, at most.
    rate: Option<u32>,
    /// Whether events reach it in the order in which they were published.
    #[schemars(default)]
    ordered: bool,
    /// Pauses between attempts, in seconds; without it those of the configuration.
    schedule: Option<Vec<u64>>,
    /// Whether it is asked first whether it wants events: CloudEvents' handshake.
    #[schemars(default)]
    handshake: bool,
    /// How events are gathered, where they are written as batches.
    batch: Option<BatchOfEvents>,
}

/// What is let through.
#[derive(Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FilterOfEvents {
    /// Event types: a name, `order.*` for all below it, or `*`.
    #[schemars(default)]
    types: Vec<String>,
    /// Channels.
    #[schemars(default)]
    channels: Vec<String>,
    /// Conditions on the payload. All have to hold.
    #[schemars(default)]
    payload: Vec<Condition>,
}

/// What has to stand at a place of the payload.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Condition {
    /// The place: a JSON pointer.
    at: String,
    /// This value stands there.
    equals: Option<Value>,
    /// One of these stands there.
    one_of: Option<Vec<Value>>,
    /// Something stands there, or nothing does.
    exists: Option<bool>,
}

/// How an event is written.
#[derive(Default, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum FormOfEvents {
    /// As Standard Webhooks recommends.
    #[default]
    Plain,
    /// CloudEvents, structured.
    CloudeventsStructured,
    /// CloudEvents, binary.
    CloudeventsBinary,
    /// CloudEvents, several at once.
    CloudeventsBatch,
}

/// When events that were gathered go: at the first of these.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BatchOfEvents {
    /// So many wait.
    events: Option<u32>,
    /// They have waited for so long, in milliseconds.
    wait_ms: Option<u64>,
}

/// A destination that is to be made.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NewDestination {
    /// As it is wanted.
    destination: Wanted,
    /// What it is signed with; drawn where nothing is said.
    secret: Option<String>,
    /// Which signature.
    signature: Option<SignatureKind>,
    /// What it is shown of who calls (mTLS).
    certificate: Option<CertificateOfCaller>,
}

/// Which kind of signature.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum SignatureKind {
    /// HMAC-SHA256.
    V1,
    /// ed25519.
    V1a,
}

/// A certificate and its key.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CertificateOfCaller {
    /// The certificate and those that signed it, in PEM.
    chain: String,
    /// Its private key, in PEM.
    key: String,
}

/// Which certificate a destination is shown; `null`: none.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CertificateShown {
    /// This one.
    certificate: Option<CertificateOfCaller>,
}

/// A destination.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DestinationTold {
    /// What it is found by.
    id: String,
    /// When it was made, in milliseconds since the Unix epoch.
    created: u64,
    /// Its version, which its `ETag` is.
    version: u64,
    /// As it is wanted.
    destination: Wanted,
    /// Whether events go there.
    state: DestinationState,
    /// Since when it does nothing but fail, in seconds since the Unix epoch.
    failing_since: Option<u64>,
    /// Whether it is shown a certificate.
    certificate: bool,
    /// What it verifies by: told to whoever has made it.
    #[schemars(default)]
    secrets: Vec<SecretTold>,
}

/// Whether events go to a destination.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum DestinationState {
    /// They do.
    Enabled,
    /// Somebody has disabled it.
    Disabled,
    /// It answered 410.
    Gone,
    /// It failed for too long.
    Failing,
}

/// What a destination verifies by.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SecretTold {
    /// The secret, or the public key.
    key: String,
    /// Until when it signs, in seconds since the Unix epoch; without it: until it is replaced.
    until: Option<u64>,
}

/// What a destination verifies by, the newest first.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SecretsTold {
    /// Each of them.
    secrets: Vec<SecretTold>,
}

/// A page of a listing.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename = "PageOf{T}")]
pub struct PageTold<T> {
    /// What is on it.
    items: Vec<T>,
    /// The `cursor` of the next one; `null`: there is none.
    next: Option<String>,
}

/// What was removed.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Deleted {
    /// What it was called.
    deleted: String,
}

/// Whether events are to go to a destination.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Enable {
    /// They are.
    enabled: bool,
}

/// Another secret.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Rotate {
    /// This one; drawn where nothing is said.
    secret: Option<String>,
    /// Which signature.
    signature: Option<SignatureKind>,
    /// How long the one before goes on signing: `"24h"`.
    overlap: Option<String>,
}

/// An event that is meant, or was made.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EventNamed {
    /// Its id.
    event: String,
}

/// What is sent again.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Recover {
    /// What was published from then on, in milliseconds since the Unix epoch.
    since: u64,
    /// What failed.
    #[schemars(default)]
    failed: bool,
    /// What never went there.
    #[schemars(default)]
    missing: bool,
    /// Where it goes on: `next` of what was answered before.
    cursor: Option<String>,
}

/// What was sent again.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Recovered {
    /// So many events.
    sent: u64,
    /// The `cursor` to go on with; `null`: that was all.
    next: Option<String>,
}

/// What became of an event at a destination.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OutcomeTold {
    /// The event's id.
    event: String,
    /// Its type.
    r#type: String,
    /// How far it has come.
    state: OutcomeStateTold,
    /// When it was published, in milliseconds since the Unix epoch.
    at: u64,
    /// The last attempts.
    attempts: Vec<AttemptOfEvent>,
}

/// How far an event has come at a destination.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum OutcomeStateTold {
    /// It was taken.
    Delivered,
    /// It failed, and is tried again.
    Retrying,
    /// It failed, and is given up.
    Failed,
}

/// An attempt to tell a destination.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AttemptOfEvent {
    /// Its number.
    number: u32,
    /// When it began, in milliseconds since the Unix epoch.
    at: u64,
    /// How long it took, in milliseconds.
    took: u64,
    /// Where it went.
    url: String,
    /// The address that answered.
    address: Option<String>,
    /// The headers that were sent: name and value of each.
    request: Vec<[String; 2]>,
    /// The status that it was answered with.
    status: Option<u16>,
    /// Why it failed.
    why: Option<String>,
    /// The beginning of the answer.
    #[schemars(default)]
    answer: String,
}

/// An event that is published.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NewEvent {
    /// Its id; drawn where nothing is said.
    id: Option<String>,
    /// Its type: `order.created`.
    r#type: String,
    /// Its channels.
    #[schemars(default)]
    channels: Vec<String>,
    /// What it is about.
    subject: Option<String>,
    /// Any JSON.
    payload: Value,
}

/// One event, or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum NewEvents {
    /// One.
    One(NewEvent),
    /// Several, all or none of them.
    Many(ManyEvents),
}

/// Several events.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ManyEvents {
    /// Each of them.
    events: Vec<NewEvent>,
}

/// An event that was published.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PublishedTold {
    /// Its id.
    id: String,
    /// It had been published before, and nothing more comes of it.
    repeated: bool,
    /// Destinations that want it.
    destinations: u64,
}

/// What became of one event, or of each of several.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum PublishedAll {
    /// Of one.
    One(PublishedTold),
    /// Of several.
    Many(ManyPublished),
}

/// Several events that were published.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ManyPublished {
    /// Each of them.
    events: Vec<PublishedTold>,
}

/// An event.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EventTold {
    /// Its id.
    id: String,
    /// When it was published, in milliseconds since the Unix epoch.
    published: u64,
    /// Its type.
    r#type: String,
    /// Its channels.
    channels: Vec<String>,
    /// What it is about.
    subject: Option<String>,
    /// Any JSON.
    payload: Value,
}

/// A type of events.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EventTypeTold {
    /// Its name, `order.created`.
    name: String,
    /// What it means.
    #[schemars(default)]
    description: String,
    /// What its payload looks like: a JSON Schema.
    schema: Option<Value>,
    /// Whether it is published no more.
    #[schemars(default)]
    archived: bool,
    /// Its version, which its `ETag` is: told, never said.
    version: Option<u64>,
}
