//! `[maintenance]`: who is let through while something is worked on, and what the others are told.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::config::scalar::Time;
use crate::config::text::{File, Net};

/// Maintenance of everything, and what holds for all maintenance.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// Whether everything is in maintenance.
    pub on: bool,
    /// One sentence for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub detail: Option<String>,
    /// When clients may come again, where no end is known.
    pub retry_after: Time,
    /// Networks that are let through.
    pub allow: Vec<Net>,
    /// What a request has in `Tidegate-Maintenance-Pass` that is let through, of at least 16 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<Secret>,
    /// A page of HTML for browsers, a file of at most 256 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<File>,
    /// Whether routes of priority `critical` go on, unless their own maintenance is ordered.
    pub spare_critical: bool,
}

impl Default for Maintenance {
    fn default() -> Maintenance {
        Maintenance {
            on: false,
            detail: None,
            retry_after: Time(Duration::from_secs(300)),
            allow: Vec::new(),
            pass: None,
            page: None,
            spare_critical: false,
        }
    }
}
