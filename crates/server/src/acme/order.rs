//! One order at the authority: the account, the challenge, the certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tidegate_model::certificate::Life;
use tidegate_proxy::secure::CHALLENGE;
use tidegate_store::Store;
use tidegate_wire::tls::{Facts, Served};

use super::records::{self, ACCOUNT, CertificateRecord, expect, place, show};
use super::seal::{Sealed, open, seal};
use super::source::TLS_CHALLENGE;
use super::transport::Transport;
use super::{Acme, AcmeSettings, Challenge, chance, now_ms};

/// How long the authority may take to look, and to sign.
const PATIENCE: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).timeout(Duration::from_secs(90));

/// A certificate that has just been issued, checked.
pub struct Issued {
    pub record: CertificateRecord,
    pub served: Arc<Served>,
}

/// Why there is none, in words.
pub type Why = String;

/// Orders a certificate for a name.
pub async fn order(
    acme: &Acme,
    settings: &AcmeSettings,
    store: &Store,
    name: &str,
    before: &CertificateRecord,
) -> Result<Issued, Why> {
    let account = account(acme, settings, store).await?;
    let identifiers = [Identifier::Dns(name.to_owned())];
    let mut wanted = NewOrder::new(&identifiers);
    if let Some(id) = renewal_id(before).filter(|_| before.window.is_some()) {
        wanted = wanted.replaces(id);
    }
    let mut order = account.new_order(&wanted).await.map_err(|error| told(&error))?;
    let way = settings.challenges[before.failures as usize % settings.challenges.len()];
    let mut pending = false;
    {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| told(&error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            pending = true;
            let kind = match way {
                Challenge::Http01 => ChallengeType::Http01,
                Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let mut challenge =
                authorization.challenge(kind).ok_or("the authority does not offer this challenge")?;
            let key = challenge.key_authorization();
            let shown = match way {
                Challenge::Http01 => {
                    show(store, CHALLENGE, &challenge.token, key.as_str().as_bytes(), now_ms()).await
                }
                Challenge::TlsAlpn01 => {
                    show(store, TLS_CHALLENGE, name, key.digest().as_ref(), now_ms()).await
                }
            };
            shown.map_err(|error| error.to_string())?;
            challenge.set_ready().await.map_err(|error| told(&error))?;
        }
    }
    if pending {
        let state = order.poll_ready(&PATIENCE).await.map_err(|error| told(&error))?;
        if state == OrderStatus::Invalid {
            return Err(refused(&mut order).await);
        }
    }
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|error| error.to_string())?;
    order.finalize_csr(request.der()).await.map_err(|error| told(&error))?;
    let chain = order.poll_certificate(&PATIENCE).await.map_err(|error| told(&error))?;
    checked(acme, settings, name, chain, &key.serialize_pem())
}

/// What was issued, if it is what was asked for.
fn checked(
    acme: &Acme,
    settings: &AcmeSettings,
    name: &str,
    chain: String,
    key: &str,
) -> Result<Issued, Why> {
    let unusable = |why: &str| format!("the authority issued what is of no use: {why}");
    let served = acme.certificates.serve(chain.as_bytes(), key.as_bytes()).map_err(|why| unusable(&why))?;
    let facts = Facts::of_chain(chain.as_bytes()).ok_or_else(|| unusable("it is no certificate"))?;
    if !facts.dns.iter().any(|one| one == name) {
        return Err(unusable("it is for another name"));
    }
    let issued = now_ms() / 1000;
    if facts.not_after <= issued {
        return Err(unusable("it has ended already"));
    }
    let life = Life { not_before: facts.not_before, not_after: facts.not_after };
    let record = CertificateRecord {
        chain,
        key: Some(seal(settings.secret.as_deref(), name, key).map_err(|error| error.to_string())?),
        not_before: facts.not_before,
        not_after: facts.not_after,
        issued,
        renew: life.renewal(chance()).max(life.earliest(issued)),
        ..CertificateRecord::default()
    };
    Ok(Issued { record, served: Arc::new(served) })
}

/// Why an order was refused: what the authority found when it looked.
async fn refused(order: &mut instant_acme::Order) -> Why {
    let mut why = "the authority refused the order".to_owned();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(error) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            why = error.to_string();
        }
    }
    why
}

/// From when to when the authority wants a certificate to be renewed, and in how many seconds it may be asked again. `None`: it
/// does not say.
pub async fn window(
    acme: &Acme,
    settings: &AcmeSettings,
    store: &Store,
    record: &CertificateRecord,
) -> Result<Option<((u64, u64), u64)>, Why> {
    let Some(id) = renewal_id(record) else { return Ok(None) };
    let account = account(acme, settings, store).await?;
    match account.renewal_info(&id).await {
        Ok((told, again)) => {
            let second = |moment: i64| u64::try_from(moment).unwrap_or_default();
            let window = &told.suggested_window;
            let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
            Ok(Some(((second(start), second(end)), again.as_secs())))
        }
        Err(Error::Unsupported(_)) => Ok(None),
        Err(error) => Err(told(&error)),
    }
}

fn renewal_id(record: &CertificateRecord) -> Option<CertificateIdentifier<'static>> {
    let (authority, serial) = Facts::of_chain(record.chain.as_bytes())?.renewal_id?;
    Some(CertificateIdentifier { authority_key_identifier: authority.into(), serial: serial.into() })
}

/// The account: in memory, in the store, or made now.
async fn account(acme: &Acme, settings: &AcmeSettings, store: &Store) -> Result<Account, Why> {
    let mut held = acme.account.lock().await;
    if let Some((of, account)) = &*held
        && (&of.directory, &of.ca, &of.secret) == (&settings.directory, &settings.ca, &settings.secret)
    {
        return Ok(account.clone());
    }
    let builder = || {
        let transport = Transport::start(settings.ca.clone(), Arc::clone(&acme.paused_until));
        Account::builder_with_http(Box::new(transport))
    };
    let directory = &settings.directory;
    let found = store.document(place(ACCOUNT, directory)).await.map_err(|error| error.to_string())?;
    let sealed: Option<Sealed> = records::read(found.as_ref());
    let account = match sealed {
        Some(sealed) => {
            let text =
                open(settings.secret.as_deref(), directory, &sealed).map_err(|error| error.to_string())?;
            let known: AccountCredentials =
                serde_json::from_str(&text).map_err(|error| format!("the account in the store: {error}"))?;
            builder().from_credentials(known).await.map_err(|error| told(&error))?
        }
        None => {
            let contact: Vec<String> = settings.email.iter().map(|email| format!("mailto:{email}")).collect();
            let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
            let wanted =
                NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
            let binding = settings.binding.as_ref();
            let binding = binding.map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
            let made = builder().create(&wanted, directory.clone(), binding.as_ref()).await;
            let (account, known) = made.map_err(|error| told(&error))?;
            let text = serde_json::to_string(&known).map_err(|error| error.to_string())?;
            let sealed = seal(settings.secret.as_deref(), directory, &text);
            let sealed = Some(sealed.map_err(|error| error.to_string())?);
            let written = records::write(
                store,
                place(ACCOUNT, directory),
                expect(found.as_ref()),
                now_ms(),
                None,
                &sealed,
            );
            if !written.await.map_err(|error| error.to_string())? {
                return Err("another node has just made the account".to_owned());
            }
            account
        }
    };
    *held = Some((settings.clone(), account.clone()));
    Ok(account)
}

/// The authority does not know the account any more: another one is made with the next order.
pub async fn forget_account(acme: &Acme, settings: &AcmeSettings, store: &Store, why: &str) {
    if why.contains("accountDoesNotExist") {
        *acme.account.lock().await = None;
        let gone = tidegate_store::documents::Write::Remove {
            place: place(ACCOUNT, &settings.directory),
            expect: tidegate_store::documents::Expect::Any,
        };
        let _ = store.write(vec![gone]).await;
    }
}

fn told(error: &Error) -> Why {
    crate::run::chain(error)
}
