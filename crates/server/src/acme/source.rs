//! Where handshakes get certificates that are not in memory: from the store, or ordered for them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use tidegate_store::documents::Document;
use tidegate_wire::clock;
use tidegate_wire::tls::{Asked, CertificateSource, Coming, Served};

use super::records::{CERTIFICATE, CertificateRecord, place, read};
use super::seal::open;
use super::{Acme, now_ms};

/// What shows an authority in a handshake that a name is ours, by the name.
pub const TLS_CHALLENGE: &str = "acme-tls-challenge";
/// Names that are looked for in the store at once by handshakes; a further one waits. Who waits for an order holds up nobody.
pub const LOOKS_MAX: usize = 256;
/// The same for what authorities look for.
pub const PROOFS_MAX: usize = 16;
/// How often it is looked whether another node has got what a handshake waits for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The certificates of the store. Weak: they hold it themselves.
#[derive(Debug)]
pub struct Source(pub Weak<Acme>);

impl std::fmt::Debug for Acme {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Acme")
    }
}

impl CertificateSource for Source {
    fn ask(&self, name: Arc<str>) -> Coming<Asked> {
        let acme = self.0.upgrade();
        Box::pin(async move {
            match acme {
                Some(acme) => acme.ask(&name).await,
                None => Asked::Away,
            }
        })
    }

    fn challenge(&self, name: Arc<str>) -> Coming<Option<Served>> {
        let acme = self.0.upgrade();
        Box::pin(async move {
            let acme = acme?;
            let _turn = acme.proofs.acquire().await.ok()?;
            let found = acme.store()?.document(place(TLS_CHALLENGE, &name)).await.ok()??;
            challenge(&name, &found.body)
        })
    }
}

/// The certificate of RFC 8737 section 3: for the name alone, with the digest that the authority wants to see.
fn challenge(name: &str, digest: &[u8]) -> Option<Served> {
    let digest: &[u8; 32] = digest.try_into().ok()?;
    let mut params = CertificateParams::new([name.to_owned()]).ok()?;
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    let key = KeyPair::generate().ok()?;
    let made = params.self_signed(&key).ok()?;
    Served::challenge(made.der().to_vec(), key.serialize_der()).ok()
}

impl Acme {
    async fn ask(&self, name: &Arc<str>) -> Asked {
        let Some(settings) = self.settings.load_full() else { return Asked::Missing };
        let until = settings.on_demand.as_ref().map(|on_demand| clock::now().after(on_demand.wait));
        let mut again = None;
        loop {
            let Some(found) = self.kept(name).await else { return Asked::Away };
            let record: CertificateRecord = read(found.as_ref());
            if record.is_there() {
                return self.served(&settings.secret, name, &record);
            }
            // A configured name is ordered without anybody asking for it: to wait for that is of no use.
            let Some(until) = until.filter(|_| !settings.domains.contains(name)) else {
                return Asked::Missing;
            };
            let rests = record.failures > 0 && found.is_some_and(|found| found.at > now_ms());
            match self.is_wanted(&settings, name).await {
                None => return Asked::Away,
                Some(wanted) if !wanted || rests => return Asked::Missing,
                Some(_) => {}
            }
            if let Some(again) = again {
                // It is another node that is at work: this one was done at once.
                clock::sleep_until(again).await;
            }
            let Some(mut done) = self.soon(name) else { return Asked::Away };
            again = Some(clock::now().after(LOOK_AGAIN));
            if clock::timeout_at(until, done.changed()).await.is_err() || clock::now() >= until {
                return Asked::Away;
            }
        }
    }

    /// What the store has for a name. `None`: it cannot be asked.
    async fn kept(&self, name: &str) -> Option<Option<Document>> {
        let store = self.store()?;
        let _turn = self.looks.acquire().await.ok()?;
        store.document(place(CERTIFICATE, name)).await.ok()
    }

    pub(super) fn served(&self, secret: &Option<Vec<u8>>, name: &str, record: &CertificateRecord) -> Asked {
        let key = record.key.as_ref().map(|key| open(secret.as_deref(), name, key));
        let made = match key {
            Some(Ok(key)) => self.certificates.serve(record.chain.as_bytes(), key.as_bytes()),
            Some(Err(locked)) => Err(locked.to_string()),
            None => return Asked::Missing,
        };
        match made {
            Ok(served) => Asked::Found(Arc::new(served)),
            Err(why) => {
                tracing::error!(name, why, "the certificate in the store cannot be used");
                Asked::Away
            }
        }
    }
}
