//! Destinations: made, looked at, changed, and their secrets replaced.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidegate_model::delivery::Ms;
use tidegate_model::webhook::destination::{Health, State, Wanted};
use tidegate_model::webhook::event::drawn;
use tidegate_model::webhook::signing::{Kind, Secret, Secrets};
use tidegate_store::documents::{Expect, Place, Room, Write};
use tidegate_wire::client_tls::Identity;

use super::records::{self, Destination, Outcome, Record as _, Stored};
use super::{OUTCOMES, WebhookError, Webhooks, chance, now_ms};

/// Bytes of all destinations of one tenant.
const BYTES_MAX: u64 = 64 << 20;
/// Tries to change what others change, too.
const CHANGES_MAX: usize = 5;

/// A page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<Stored<T>>,
    /// Where the next one begins; `None`: there is none.
    pub next: Option<(Ms, Arc<str>)>,
}

/// How a secret is replaced.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// Which kind the new one is.
    pub kind: Kind,
    /// The new one; `None`: it is drawn.
    pub secret: Option<String>,
    /// How long the old one goes on signing; `None`: as the configuration says.
    pub overlap: Option<Duration>,
}

/// A secret as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// What the receiver verifies by: the shared secret, or the public key of a pair.
    pub key: String,
    /// It signs until then, in seconds since the Unix epoch; `None`: until it is replaced.
    pub until: Option<u64>,
}

impl Webhooks {
    fn place(tenant: &Arc<str>, id: &str) -> Place {
        Place { kind: records::DESTINATION, tenant: Arc::clone(tenant), name: id.into() }
    }

    fn room(&self) -> Room {
        Room { count: self.settings().destinations_max, bytes: BYTES_MAX }
    }

    fn look_at(&self, wanted: &Wanted) -> Result<(), WebhookError> {
        wanted.check()?;
        self.reach().place(&wanted.url)?;
        Ok(())
    }

    /// Makes a destination.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn create(
        &self,
        tenant: &Arc<str>,
        wanted: Wanted,
        rotation: Rotation,
        identity: Option<(String, String)>,
    ) -> Result<Stored<Destination>, WebhookError> {
        self.look_at(&wanted)?;
        look_at_identity(identity.as_ref())?;
        let secrets = Secrets::one(secret_of(&rotation)?).written();
        let record = Destination { wanted, secrets, health: Health::default(), identity, consent: None };
        let (name, at) = (drawn("dst_", chance()?), now_ms());
        let place = Self::place(tenant, &name);
        let _changing = self.changing(tenant);
        let version = self.put(place, Expect::Absent, (at, None), record.written(), self.room()).await?;
        Ok(Stored { name: name.into(), version, at, record })
    }

    /// A destination.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn destination(
        &self,
        tenant: &Arc<str>,
        id: &str,
    ) -> Result<Stored<Destination>, WebhookError> {
        let found = self.get(records::DESTINATION, tenant, id).await?;
        found.ok_or(WebhookError::NotFound("destination"))
    }

    /// A tenant's destinations, the oldest first.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn destinations(
        &self,
        tenant: &Arc<str>,
        after: Option<(Ms, Arc<str>)>,
        most: usize,
    ) -> Result<Page<Destination>, WebhookError> {
        self.list(records::DESTINATION, tenant, after, 0, most).await
    }

    /// A destination is wanted otherwise.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn change(
        &self,
        tenant: &Arc<str>,
        id: &str,
        expect: Option<u64>,
        wanted: Wanted,
    ) -> Result<Stored<Destination>, WebhookError> {
        self.look_at(&wanted)?;
        self.alter(tenant, id, expect, |record| {
            record.wanted = wanted.clone();
            Ok(())
        })
        .await
    }

    /// A destination is enabled or disabled. Enabled, it begins anew.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn enable(
        &self,
        tenant: &Arc<str>,
        id: &str,
        expect: Option<u64>,
        enabled: bool,
    ) -> Result<Stored<Destination>, WebhookError> {
        self.alter(tenant, id, expect, |record| {
            let state = if enabled { State::Enabled } else { State::Disabled };
            record.health = Health { state, failing_since: None };
            Ok(())
        })
        .await
    }

    /// A destination is shown another certificate, or none.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn identify(
        &self,
        tenant: &Arc<str>,
        id: &str,
        expect: Option<u64>,
        identity: Option<(String, String)>,
    ) -> Result<Stored<Destination>, WebhookError> {
        look_at_identity(identity.as_ref())?;
        self.alter(tenant, id, expect, |record| {
            record.identity.clone_from(&identity);
            Ok(())
        })
        .await
    }

    /// A destination's secret is replaced.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn rotate(
        &self,
        tenant: &Arc<str>,
        id: &str,
        expect: Option<u64>,
        rotation: Rotation,
    ) -> Result<Stored<Destination>, WebhookError> {
        let text = secret_of(&rotation)?.text().to_owned();
        let overlap = rotation.overlap.unwrap_or(self.settings().overlap).as_secs();
        self.alter(tenant, id, expect, |record| {
            let mut secrets = secrets_of(record)?;
            secrets.rotate(Secret::read(&text)?, overlap, now_ms() / 1000);
            record.secrets = secrets.written();
            Ok(())
        })
        .await
    }

    /// A destination goes; what waits for it is given up.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn delete(&self, tenant: &Arc<str>, id: &str, expect: Option<u64>) -> Result<(), WebhookError> {
        // Whatever is expected, it has to be there.
        let expect = match expect {
            Some(version) => version,
            None => self.destination(tenant, id).await?.version,
        };
        let _changing = self.changing(tenant);
        self.remove(Self::place(tenant, id), Expect::Version(expect)).await
    }

    /// What became of events at a destination, by the time of the last attempt.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn outcomes(
        &self,
        tenant: &Arc<str>,
        id: &str,
        after: Option<(Ms, Arc<str>)>,
        most: usize,
    ) -> Result<Page<Outcome>, WebhookError> {
        self.destination(tenant, id).await?;
        self.list(records::OUTCOME, &records::outcomes_of(tenant, id), after, 0, most).await
    }

    /// The writing of what became of an event at a destination; `owner` is whose outcomes they are.
    pub(super) fn outcome_write(
        &self,
        owner: &Arc<str>,
        event: &str,
        expect: Expect,
        outcome: &Outcome,
    ) -> Write {
        let (now, kept) = (now_ms(), self.settings().retention.as_millis());
        Write::Put {
            place: Place { kind: records::OUTCOME, tenant: Arc::clone(owner), name: event.into() },
            expect,
            at: now,
            until: Some(now.saturating_add(u64::try_from(kept).unwrap_or(u64::MAX / 2))),
            body: outcome.written(),
            room: OUTCOMES,
        }
    }

    /// Changes a destination. Where nothing is expected, another's change meanwhile is no hindrance.
    pub(super) async fn alter(
        &self,
        tenant: &Arc<str>,
        id: &str,
        expect: Option<u64>,
        change: impl Fn(&mut Destination) -> Result<(), WebhookError> + Send + Sync,
    ) -> Result<Stored<Destination>, WebhookError> {
        let _changing = self.changing(tenant);
        for _ in 0..CHANGES_MAX {
            let mut found = self.destination(tenant, id).await?;
            if expect.is_some_and(|expected| expected != found.version) {
                return Err(WebhookError::Changed(Some(found.version)));
            }
            change(&mut found.record)?;
            let put = self.put(
                Self::place(tenant, id),
                Expect::Version(found.version),
                (found.at, None),
                found.record.written(),
                self.room(),
            );
            match put.await {
                Ok(version) => return Ok(Stored { version, ..found }),
                Err(WebhookError::Changed(_)) if expect.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Err(WebhookError::Changed(None))
    }
}

impl Destination {
    /// Its secrets as their owner sees them, the newest first.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let shown = self.secrets.iter().filter_map(|written| {
            Some(Shown { key: Secret::read(&written.secret).ok()?.verifier_text(), until: written.until })
        });
        shown.collect()
    }
}

/// The secrets to sign with.
pub(super) fn secrets_of(record: &Destination) -> Result<Secrets, WebhookError> {
    let none = || WebhookError::Invalid("the destination has no usable secret".to_owned());
    Secrets::read(&record.secrets)?.ok_or_else(none)
}

fn secret_of(rotation: &Rotation) -> Result<Secret, WebhookError> {
    let secret = match &rotation.secret {
        Some(text) => Secret::read(text)?,
        None => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|_| WebhookError::Chance)?;
            Secret::draw(rotation.kind, bytes)
        }
    };
    Ok(secret)
}

fn look_at_identity(identity: Option<&(String, String)>) -> Result<(), WebhookError> {
    let Some((chain, key)) = identity else { return Ok(()) };
    Identity::read(chain, key).map(drop).map_err(|why| WebhookError::Invalid(format!("certificate: {why}")))
}
