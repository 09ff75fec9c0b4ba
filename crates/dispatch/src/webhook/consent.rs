//! What receivers of CloudEvents were asked, where they may consent later: see [`tidegate_model::webhook::consent`].

use std::sync::Arc;

use tidegate_model::webhook::consent::{Asked, KEPT_MS, KIND};
use tidegate_model::webhook::event::drawn;
use tidegate_store::documents::{Expect, Place, Room};

use super::records::{Destination, Record as _, Stored};
use super::{WebhookError, Webhooks, chance, now_ms};

/// What is remembered of all that were asked.
const ROOM: Room = Room { count: 1_000_000, bytes: 1 << 30 };

impl Webhooks {
    /// What a destination's receiver was asked, and the key by which it consents. One that was not asked by this URL yet, is now.
    pub(super) async fn asked(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        rate: Option<u64>,
    ) -> Result<(String, Asked), WebhookError> {
        let everybody: Arc<str> = "".into();
        let url = &destination.record.wanted.url;
        if let Some(key) = &destination.record.consent
            && let Some(held) = self.get::<Asked>(KIND, &everybody, key).await?
            && held.record.url == *url
        {
            return Ok((key.clone(), held.record));
        }
        let (drawn, asked) = (drawn("", chance()?), Asked { url: url.clone(), rate, given: None });
        let place = Place { kind: KIND, tenant: everybody, name: drawn.as_str().into() };
        let (now, until) = (now_ms(), now_ms().saturating_add(KEPT_MS));
        self.put(place, Expect::Absent, (now, Some(until)), asked.written(), ROOM).await?;
        let known = &destination.record.consent;
        let changed = self.alter(tenant, &destination.name, None, |record| {
            // Another attempt has asked meanwhile: its key is the one that counts.
            if record.consent == *known {
                record.consent = Some(drawn.clone());
            }
            Ok(())
        });
        let key = changed.await?.record.consent.unwrap_or(drawn);
        Ok((key, asked))
    }
}
