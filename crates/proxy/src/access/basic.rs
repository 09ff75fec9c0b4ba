//! A name and a password in each request (RFC 7617), where a route asks for them.
//!
//! A password is compared with its hash aside from the core, by few at a time; who was right is remembered, so that the next
//! request costs one seal. What is remembered is a seal of name, password and hash under a key of this process: another
//! password in the configuration is another seal. Who is not known takes as long as who is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;

use aws_lc_rs::rand;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use tidegate_model::access::password::{Password, basic};
use tidegate_model::access::take_out;
use tidegate_model::fields::Fields;
use tidegate_model::hmac::Secret;
use tidegate_model::limit::spread;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::{Semaphore, oneshot};

use super::Vouched;
use crate::entropy::Entropy;
use crate::exchange::Exchange;
use crate::remembered::Remembered;
use crate::site::Site;

/// Passwords that are compared at once, each with what memory its hash asks for.
const AT_ONCE_MAX: usize = 2;
/// Requests that wait for that.
const WAITING_MAX: usize = 64;
/// Half of those who were right and are remembered.
const HALF: usize = 4 * 1024;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE_MAX);
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE_MAX + WAITING_MAX);

/// Who may use a route by name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicSettings {
    /// What a browser shows beside the question.
    pub challenge: HeaderValue,
    /// By name.
    pub users: HashMap<Arc<str>, User>,
    /// Where the application is told the name. None of a client passes.
    pub user_header: Option<HeaderName>,
}

/// Somebody with a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The hash of it.
    pub password: Password,
    /// The tenant that it is; `None`: that is found out as it is elsewhere.
    pub tenant: Option<Arc<str>>,
}

/// Who was right.
#[derive(Debug)]
struct Known {
    seal: Secret,
    right: Remembered<()>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the system has chance to give");
        Known { seal: Secret::new(&bytes), right: Remembered::new(HALF) }
    })
}

/// Finds out who it is; the tenant that it is, if that is said. Its name and password are taken out of the request.
///
/// # Errors
/// `credential.missing`, `credential.invalid`, after too many of those `credential.throttled`; `credential.unavailable`: more
/// passwords are being compared than there is time for.
pub async fn identify(
    settings: &BasicSettings,
    site: &Site,
    exchange: &mut Exchange,
    by: Tick,
    entropy: &Entropy,
) -> Result<Option<Vouched>, Refusal> {
    if let Some(dress) = &mut exchange.dress {
        dress.challenge = Some(settings.challenge.clone());
    }
    let now = clock::now();
    let Some(credentials) = credentials(&exchange.head.headers)? else {
        return Err(Refusal::new(&refusal::CREDENTIAL_MISSING, "this route wants a name and a password"));
    };
    if let Some(wait) = site.failures.blocked(exchange.client, now) {
        let why = "too many requests with invalid credentials came from this address";
        return Err(
            Refusal::new(&refusal::CREDENTIAL_THROTTLED, why).retry_after(spread(wait, entropy.word()))
        );
    }
    let found = match basic(credentials) {
        Some((name, password)) => verify(settings, name, password, by).await?,
        None => None,
    };
    let Some((name, tenant)) = found else {
        site.failures.failed(exchange.client, now);
        return Err(Refusal::new(&refusal::CREDENTIAL_INVALID, "the name or the password is wrong"));
    };
    let fields = &mut exchange.head.headers;
    fields.remove(AUTHORIZATION);
    if let Some(header) = &settings.user_header {
        take_out(fields, std::slice::from_ref(header));
        fields.extend(HeaderValue::from_bytes(name.as_bytes()).ok().map(|name| (header, name)));
    }
    Ok(tenant.map(|tenant| (tenant, "basic")))
}

/// What stands behind `Basic`; `None`: nothing does.
fn credentials(fields: &Fields) -> Result<Option<&str>, Refusal> {
    let invalid =
        || Refusal::new(&refusal::CREDENTIAL_INVALID, "there are two credentials, or one that is no text");
    let mut values = fields.get_all(AUTHORIZATION);
    let (first, more) = (values.next(), values.next());
    if more.is_some() {
        return Err(invalid());
    }
    let Some(value) = first else { return Ok(None) };
    let (scheme, rest) = value.to_str().map_err(|_| invalid())?.split_once(' ').unwrap_or_default();
    Ok(scheme.eq_ignore_ascii_case("basic").then_some(rest))
}

/// Whose name and password these are. `None`: nobody's.
async fn verify(
    settings: &BasicSettings,
    name: String,
    password: Vec<u8>,
    by: Tick,
) -> Result<Option<(String, Option<Arc<str>>)>, Refusal> {
    let user = settings.users.get(name.as_str());
    // Somebody's hash stands for whoever is not known.
    let Some(compared) = user.or_else(|| settings.users.values().next()) else { return Ok(None) };
    let known = known();
    let length = (name.len() as u64).to_le_bytes();
    let hash = compared.password.hash();
    let seal = known.seal.tag(&[
        &length,
        name.as_bytes(),
        &(hash.len() as u64).to_le_bytes(),
        hash.as_bytes(),
        &password,
    ]);
    let right = if user.is_some() && known.right.find(&seal).is_some() {
        true
    } else {
        let right = compare(compared.password.clone(), password, by).await? && user.is_some();
        if right {
            known.right.keep(seal, ());
        }
        right
    };
    Ok(user.filter(|_| right).map(|user| (name, user.tenant.clone())))
}

/// Compares a password with a hash, aside from the core.
async fn compare(hash: Password, password: Vec<u8>, by: Tick) -> Result<bool, Refusal> {
    let busy = || {
        let why = "more passwords are being compared than there is time for";
        Refusal::new(&refusal::CREDENTIAL_UNAVAILABLE, why).retry_after(std::time::Duration::from_secs(1))
    };
    let place = PLACES.try_acquire().map_err(|_| busy())?;
    let turn = clock::timeout_at(by, TURNS.acquire()).await.map_err(|_| busy())?;
    let turn = turn.expect("it is never closed");
    let (answer, answered) = oneshot::channel();
    // The turn ends with the comparison, whether anybody still waits for it or not.
    let thread = std::thread::Builder::new().name("passwords".to_owned());
    let begun = thread.spawn(move || {
        let right = hash.is(&password);
        drop((turn, place));
        let _ = answer.send(right);
    });
    begun.map_err(|_| busy())?;
    clock::timeout_at(by, answered).await.map_err(|_| busy())?.map_err(|_| busy())
}
