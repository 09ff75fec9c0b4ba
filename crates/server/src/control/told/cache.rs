//! What `/purge` and `/cache/inspect` answer: the same as types, for their description alone.

use schemars::JsonSchema;

/// What was purged, as it was asked for.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PurgedTold {
    /// It may still be served where that is better than nothing, or while it is refreshed.
    soft: bool,
    /// This URL, with whatever query.
    url: Option<String>,
    /// All whose URLs begin so.
    prefix: Option<String>,
    /// All of this host.
    host: Option<String>,
    /// All that has this tag.
    tag: Option<String>,
    /// All of this tenant, or what of it is this tenant's.
    tenant: Option<String>,
    /// Everything.
    everything: Option<bool>,
    /// `pending`: it holds here, and would not after a crash.
    on_disk: Option<String>,
}

/// What is cached for a request. What is told of an answer is not there where none is stored.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct InspectedTold {
    /// The route that it matches.
    route: String,
    /// What it is found by.
    key: String,
    /// Whether an answer is stored.
    stored: bool,
    /// Each tier, the nearest first.
    tiers: Vec<TierTold>,
    /// There are answers to requests that differ in what they vary with; only where none is stored for this one.
    variants: Option<bool>,
    /// Its status.
    status: Option<u16>,
    /// How old it is.
    age_s: Option<u64>,
    /// How long it is fresh.
    lifetime_s: Option<u64>,
    /// It is.
    fresh: Option<bool>,
    /// Its server did not say for how long.
    lifetime_guessed: Option<bool>,
    /// It is served only if the upstream says that it still holds.
    validate_always: Option<bool>,
    /// It is never served stale.
    never_stale: Option<bool>,
    /// How long it is served stale while it is refreshed.
    stale_while_revalidate_s: Option<u64>,
    /// How long it is served stale where the upstream fails.
    stale_if_error_s: Option<u64>,
    /// Bytes of its content.
    content_bytes: Option<u64>,
    /// It is.
    often_asked_for: Option<bool>,
    /// How many tags it has.
    tags: Option<u64>,
    /// How many of its slices are there, where it is kept in slices.
    slices: Option<SlicesThereTold>,
    /// Its headers: name and value of each.
    fields: Option<Vec<[String; 2]>>,
}

/// How many slices are there.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SlicesThereTold {
    /// So many.
    there: u64,
    /// Of so many.
    all: u64,
}

/// What a tier has of it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TierTold {
    /// Its name.
    tier: String,
    /// It has it.
    stored: bool,
    /// Where it lies there, in words.
    at: Option<String>,
    /// Bytes that it takes there.
    bytes: Option<u64>,
    /// How old it is.
    age_s: Option<u64>,
    /// It is fresh.
    fresh: Option<bool>,
}
