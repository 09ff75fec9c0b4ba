//! What is due, and what is done about it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_model::certificate::pause_ms;
use tidegate_store::documents::{Document, Expect, Write};
use tidegate_store::{Store, Unavailable};

use super::records::{
    CERTIFICATE, CertificateRecord, Told, due, expect, give_back, place, read, reserve, take, write,
};
use super::{Acme, AcmeSettings, LOOK, chance, now_ms, order};

/// Names that are found due at one look.
const DUE_MAX: usize = 64;
/// Configured names of which is told how it stands.
const TOLD_MAX: usize = 100;
/// How long a name is left alone that another node is at work on.
const ELSEWHERE_MS: u64 = 2000;

/// Looks at what is due and has it tended. How long nothing else is.
pub async fn look(acme: &Acme) -> Duration {
    let (Some(settings), Some(store)) = (acme.settings.load_full(), acme.store()) else { return LOOK };
    match looked(acme, &settings, &store).await {
        Ok(next) => Duration::from_millis(next.saturating_sub(now_ms())),
        Err(error) => {
            tracing::warn!(%error, "certificates cannot be looked after");
            LOOK
        }
    }
}

async fn looked(acme: &Acme, settings: &AcmeSettings, store: &Store) -> Result<u64, Unavailable> {
    let now = now_ms();
    let mut next = u64::MAX;
    let (mut ready, mut told) = (HashSet::new(), Vec::new());
    for name in &settings.domains {
        let found = store.document(place(CERTIFICATE, name)).await?;
        let record: CertificateRecord = read(found.as_ref());
        if record.is_there() {
            ready.insert(Arc::clone(name));
        }
        let at = found.as_ref().map_or(0, |found| found.at);
        if at <= now {
            acme.soon(name);
        } else {
            next = next.min(at);
        }
        if told.len() < TOLD_MAX {
            let (name, record) = (Arc::clone(name), CertificateRecord { chain: String::new(), ..record });
            told.push(Told { name, record, next: at });
        }
    }
    acme.secured.ready(ready);
    *acme.told.lock() = told;
    for found in due(store, DUE_MAX).await? {
        if found.at > now {
            next = next.min(found.at);
            break;
        }
        acme.soon(&found.name);
    }
    Ok(next.max(acme.paused_until.load(Relaxed)))
}

/// Does what is due for a name.
pub async fn tend(acme: &Acme, name: &Arc<str>) {
    let (Some(settings), Some(store)) = (acme.settings.load_full(), acme.store()) else { return };
    if let Err(error) = tended(acme, &settings, &store, name).await {
        tracing::warn!(name = &**name, %error, "a certificate cannot be looked after");
    }
}

async fn tended(
    acme: &Acme,
    settings: &AcmeSettings,
    store: &Store,
    name: &Arc<str>,
) -> Result<(), Unavailable> {
    let now = now_ms();
    if acme.paused_until.load(Relaxed) > now {
        return Ok(());
    }
    let found = store.document(place(CERTIFICATE, name)).await?;
    let record: CertificateRecord = read(found.as_ref());
    if found.as_ref().is_some_and(|found| found.at > now) {
        return Ok(());
    }
    match acme.is_wanted(settings, name).await {
        None => return Ok(()),
        Some(false) => return unwanted(store, name, &record, found.as_ref(), now).await,
        Some(true) => {}
    }
    if found.is_none() && !settings.domains.contains(name) && !has_room(settings, store, name, now).await? {
        tracing::warn!(
            name = &**name,
            "there are as many certificates of tenants as `[acme] on_demand` allows"
        );
        return Ok(());
    }
    if !take(store, name, &acme.node, now).await? {
        let again = now + ELSEWHERE_MS + chance() % ELSEWHERE_MS;
        // It is read again before anything is done: what the other one writes meanwhile stays.
        if let Some(found) = &found {
            write(store, place(CERTIFICATE, name), expect(Some(found)), again, None, &record).await?;
        }
        return Ok(());
    }
    let outcome = held(acme, settings, store, name).await;
    give_back(store, name, &acme.node).await;
    outcome
}

/// What is done by whoever has the lease: it may be that another has done it just now.
async fn held(
    acme: &Acme,
    settings: &AcmeSettings,
    store: &Store,
    name: &Arc<str>,
) -> Result<(), Unavailable> {
    let found = store.document(place(CERTIFICATE, name)).await?;
    let mut record: CertificateRecord = read(found.as_ref());
    let now = now_ms();
    if found.as_ref().is_some_and(|found| found.at > now) {
        return Ok(());
    }
    let at = if !record.is_there() || now / 1000 >= record.renew {
        match order::order(acme, settings, store, name, &record).await {
            Ok(issued) => {
                acme.issued();
                tracing::info!(name = &**name, until = issued.record.not_after, "a certificate was issued");
                record = issued.record;
                let at = now_ms();
                if write(store, place(CERTIFICATE, name), expect(found.as_ref()), at, None, &record).await?
                    && let Some(managed) = acme.managed.load_full()
                {
                    managed.put(Arc::clone(name), issued.served);
                }
                return Ok(());
            }
            Err(why) => {
                acme.failed();
                tracing::error!(name = &**name, why, "no certificate was issued");
                order::forget_account(acme, settings, store, &why).await;
                record.fail(now / 1000, &why);
                let first = u64::try_from(settings.retry.as_millis()).unwrap_or(u64::MAX);
                (now_ms() + pause_ms(first, record.failures, chance())).max(acme.paused_until.load(Relaxed))
            }
        }
    } else {
        window(acme, settings, store, name, &mut record).await
    };
    write(store, place(CERTIFICATE, name), expect(found.as_ref()), at, None, &record).await.map(drop)
}

/// Asks the authority when a certificate is to be renewed. When it is looked at next.
async fn window(
    acme: &Acme,
    settings: &AcmeSettings,
    store: &Store,
    name: &str,
    record: &mut CertificateRecord,
) -> u64 {
    let life = record.life();
    let again = match order::window(acme, settings, store, record).await {
        Ok(Some((window, again))) => {
            if record.window != Some(window) {
                record.window = Some(window);
                let within = life.renewal_within(window, chance());
                record.renew = within.max(life.earliest(record.issued));
            }
            life.next_look(again)
        }
        Ok(None) => life.next_look(u64::MAX),
        Err(why) => {
            tracing::warn!(name, why, "the authority does not tell when to renew");
            life.next_look(0)
        }
    };
    (record.renew * 1000).min(now_ms() + again * 1000)
}

/// A name that is nobody's any more: its certificate is served as long as it lasts, and then forgotten.
async fn unwanted(
    store: &Store,
    name: &str,
    record: &CertificateRecord,
    found: Option<&Document>,
    now: u64,
) -> Result<(), Unavailable> {
    let Some(found) = found else { return Ok(()) };
    let end = record.not_after * 1000;
    if record.is_there() && end > now {
        return write(store, place(CERTIFICATE, name), expect(Some(found)), end, None, record)
            .await
            .map(drop);
    }
    let gone = Write::Remove { place: place(CERTIFICATE, name), expect: Expect::Version(found.version) };
    store.write(vec![gone]).await.map(drop)
}

/// Whether tenants' hosts may have one more certificate. Then there is room for this one.
async fn has_room(settings: &AcmeSettings, store: &Store, name: &str, now: u64) -> Result<bool, Unavailable> {
    let limit = settings.on_demand.as_ref().map_or(0, |on_demand| on_demand.limit);
    reserve(store, name, limit + settings.domains.len() as u64, now).await
}
