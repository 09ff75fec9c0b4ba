//! A provider of logins: what is known of it, and how it is asked.
//!
//! Whoever drives [`Providers`] (the control runtime) fetches its metadata and keys, and puts the questions that exchanges have
//! to it: no core dials a provider.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::rand;
use http::header::HOST;
use http::{HeaderValue, Uri};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_model::access::login::{
    AGAIN_SECONDS, Again, Metadata, PENDING_SECONDS_MAX, Pending, Session, Tokens, Verified,
};
use tidegate_model::access::sealed::{self, Keys};
use tidegate_model::fields::Fields;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::{Notify, mpsc, oneshot};

use super::own::OIDC_PATH;
use super::settings::OidcSettings;
use super::{LOOKED_AT_MAX, LoginOutcome};
use crate::exchange::Exchange;
use crate::identify::Verifier;
use crate::secure::came_by_https;
use crate::settings::{JwtKeys, JwtSettings};

/// Questions that wait for the driver.
const QUESTIONS_MAX: usize = 64;
/// No session asks for its tokens anew more often.
const FRESH_SECONDS_MIN: u64 = 1;
/// For so long sessions that may go on without do not ask a provider that could not be asked.
const AWAY: Duration = Duration::from_secs(2);

/// What a provider is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What a code stands for.
    Code {
        /// The code.
        code: String,
        /// The secret of the login.
        verifier: String,
        /// Where it was sent.
        redirect: String,
    },
    /// Tokens for this one.
    Refresh(String),
}

/// Why there are no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTokens {
    /// The provider will not give any for this.
    Refused,
    /// It cannot be asked.
    Unavailable,
}

/// A question on its way to a provider.
pub struct Question {
    /// What is asked.
    pub ask: Ask,
    /// Who waits.
    pub answer: oneshot::Sender<Result<Tokens, NoTokens>>,
}

/// A provider of logins.
pub struct Provider {
    settings: Arc<OidcSettings>,
    keys: Keys,
    cookie: String,
    metadata: ArcSwapOption<Metadata>,
    verifier: Verifier,
    questions: mpsc::Sender<Question>,
    /// For the driver, once.
    asked: Mutex<Option<mpsc::Receiver<Question>>>,
    /// Tells that the driver has looked for metadata and keys.
    learned: Notify,
    is_up: AtomicBool,
    /// Until when it counts as one that cannot be asked for tokens.
    away_until: AtomicU64,
    /// By outcome.
    counts: Arc<[AtomicU64; LoginOutcome::ALL.len()]>,
}

impl Provider {
    fn new(settings: Arc<OidcSettings>, before: Option<&Provider>) -> Provider {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let secrets: Vec<Vec<u8>> = settings.secrets.iter().map(|secret| secret.0.clone()).collect();
        let verifier = Verifier::new(Arc::new(JwtSettings {
            name: Arc::clone(&settings.name),
            // The driver finds out where they are.
            keys: JwtKeys::Url { url: Uri::from_static("/"), ca: None },
            issuer: Some(settings.issuer.clone()),
            audience: Some(settings.client_id.clone()),
            tenant_claim: "sub".to_owned(),
            clock_skew: settings.clock_skew,
            refresh: Duration::ZERO,
        }));
        // What was sealed for a client of another provider is nothing here.
        let usage = format!("{}\0{}\0{}", settings.name, settings.issuer, settings.client_id);
        let provider = Provider {
            keys: Keys::new(&secrets, &usage),
            cookie: format!("{}{}", super::COOKIES, settings.name),
            metadata: ArcSwapOption::empty(),
            verifier,
            questions,
            asked: Mutex::new(Some(asked)),
            learned: Notify::new(),
            is_up: AtomicBool::new(false),
            away_until: AtomicU64::new(0),
            counts: before.map(|before| Arc::clone(&before.counts)).unwrap_or_default(),
            settings,
        };
        let same = |before: &&Provider| {
            let (old, new) = (&before.settings, &provider.settings);
            (&old.issuer, &old.ca) == (&new.issuer, &new.ca)
        };
        if let Some(before) = before.filter(same) {
            provider.metadata.store(before.metadata());
            provider.verifier.take_keys_of(&before.verifier);
            provider.is_up.store(before.is_up(), Relaxed);
        }
        provider
    }

    /// How it is configured.
    #[must_use]
    pub fn settings(&self) -> &Arc<OidcSettings> {
        &self.settings
    }

    /// What it says of itself, once that is known.
    #[must_use]
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// The driver has looked for its metadata and keys: what it says of itself, if it has said anything.
    pub fn looked(&self, metadata: Option<Metadata>) {
        self.is_up.store(metadata.is_some(), Relaxed);
        if let Some(metadata) = metadata {
            self.metadata.store(Some(Arc::new(metadata)));
        }
        self.learned.notify_waiters();
    }

    /// Whether it answered when it was last looked for.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Counts an outcome.
    pub fn count(&self, outcome: LoginOutcome) {
        self.counts[outcome as usize].fetch_add(1, Relaxed);
    }

    /// The outcomes until now, in the order of [`LoginOutcome::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u64; LoginOutcome::ALL.len()] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }

    /// What verifies its ID tokens.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The questions to it, for its driver.
    #[must_use]
    pub fn questions(&self) -> Option<mpsc::Receiver<Question>> {
        self.asked.lock().take()
    }

    /// Asks it.
    ///
    /// # Errors
    /// [`NoTokens`].
    pub async fn ask(&self, ask: Ask, by: Tick) -> Result<Tokens, NoTokens> {
        let asked = self.put(ask, by).await;
        match &asked {
            Err(NoTokens::Unavailable) => self.away_until.store(clock::now().after(AWAY).0, Relaxed),
            Ok(_) | Err(NoTokens::Refused) => self.away_until.store(0, Relaxed),
        }
        asked
    }

    /// Asks it, by its driver.
    async fn put(&self, ask: Ask, by: Tick) -> Result<Tokens, NoTokens> {
        let (answer, answered) = oneshot::channel();
        // Full: too many questions wait already.
        self.questions.try_send(Question { ask, answer }).map_err(|_| NoTokens::Unavailable)?;
        let answer = clock::timeout_at(by, answered).await.map_err(|_| NoTokens::Unavailable)?;
        answer.unwrap_or(Err(NoTokens::Unavailable))
    }

    /// Whether it could not be asked a moment ago.
    #[must_use]
    pub fn is_away(&self, now: Tick) -> bool {
        now.0 < self.away_until.load(Relaxed)
    }

    /// An ID token that it signed, for us, and that holds now. A key that is new is waited for.
    ///
    /// # Errors
    /// `login.invalid`, `login.unavailable`.
    pub async fn verify(&self, token: &str, by: Tick) -> Result<Verified, Refusal> {
        loop {
            let mut learned = pin!(self.learned.notified());
            learned.as_mut().enable();
            match self.verifier.verified_claims(token) {
                Err(refusal) if refusal.kind.code == refusal::CREDENTIAL_UNAVAILABLE.code => {}
                verified => {
                    let invalid =
                        |refusal: Refusal| Refusal::new(&refusal::LOGIN_INVALID, refusal.detail.clone());
                    return verified.map_err(invalid);
                }
            }
            clock::timeout_at(by, learned).await.map_err(|_| super::unavailable())?;
        }
    }

    /// Until when tokens need not be asked for anew.
    #[must_use]
    pub fn fresh_until(&self, tokens: &Tokens, now: u64, until: u64) -> u64 {
        let seconds = tokens.expires_in.map(|seconds| seconds.max(FRESH_SECONDS_MIN));
        seconds.map_or(until, |seconds| now.saturating_add(seconds)).min(until)
    }

    /// The session of a request, if it holds, with all claims that are asked of it now.
    #[must_use]
    pub fn session(&self, request: &Fields, now: u64) -> Option<Session> {
        let session: Session = self.opened(request, &self.cookie)?;
        let whole = self.settings.claims().all(|claim| session.claims.contains_key(claim));
        (whole && now < session.until).then_some(session)
    }

    /// What a cookie of this name holds, if we sealed it.
    fn opened<T: DeserializeOwned>(&self, request: &Fields, name: &str) -> Option<T> {
        let sealed = sealed::gather(request, name)?;
        serde_json::from_slice(&self.keys.open(name, &sealed)?).ok()
    }

    /// The name of the cookie that holds a session.
    #[must_use]
    pub fn session_cookie(&self) -> &str {
        &self.cookie
    }

    /// The name of the cookie that holds the pending login with this mark.
    #[must_use]
    pub fn pending_cookie(&self, mark: &str) -> String {
        format!("{}-login-{mark}", self.cookie)
    }

    /// The pending login that the cookie of this name holds.
    #[must_use]
    pub fn pending(&self, request: &Fields, name: &str) -> Option<Pending> {
        self.opened(request, name)
    }

    /// The cookies of the oldest logins that this browser has begun, beyond so many, or so many bytes.
    #[must_use]
    pub fn too_many<'a>(&self, request: &'a Fields, most: usize, mut bytes: usize) -> Vec<&'a str> {
        let prefix = self.pending_cookie("");
        let begun =
            sealed::cookies(request).filter(|(name, _)| name.starts_with(&prefix)).take(LOOKED_AT_MAX);
        let at = |name: &str| self.pending(request, name).map_or(0, |pending| pending.at);
        let mut begun: Vec<_> =
            begun.map(|(name, value)| (Reverse(at(name)), name, name.len() + value.len())).collect();
        begun.sort_unstable();
        let mut kept = 0;
        begun.retain(|(at, _, length)| {
            let fits = at.0 > 0 && kept < most && *length <= bytes;
            kept += usize::from(fits);
            bytes -= if fits { *length } else { 0 };
            !fits
        });
        begun.into_iter().map(|(_, name, _)| name).collect()
    }

    /// How often this browser has come back of late.
    #[must_use]
    pub fn again(&self, request: &Fields) -> Option<Again> {
        self.opened(request, &self.again_cookie())
    }

    fn again_cookie(&self) -> String {
        format!("{}-again", self.cookie)
    }

    /// The line by which a browser keeps that it has come back once more.
    ///
    /// # Errors
    /// The system has no chance to give.
    pub fn came_back(&self, request: &Fields, now: u64) -> Result<Vec<HeaderValue>, Refusal> {
        let again = Again::after(self.again(request), now);
        self.sealed(request, &self.again_cookie(), &again, AGAIN_SECONDS)
    }

    /// The lines that give a browser its session. What only its end needs is left out where there is no room.
    ///
    /// # Errors
    /// It is too large for cookies.
    pub fn cookies_of(
        &self,
        request: &Fields,
        session: &mut Session,
        now: u64,
    ) -> Result<Vec<HeaderValue>, Refusal> {
        let seconds = session.until.saturating_sub(now);
        self.sealed(request, &self.cookie, session, seconds).or_else(|_| {
            session.id_token = None;
            self.sealed(request, &self.cookie, session, seconds)
        })
    }

    /// The line that lets a browser keep its pending login.
    ///
    /// # Errors
    /// The system has no chance to give.
    pub fn cookie_of(&self, request: &Fields, pending: &Pending) -> Result<Vec<HeaderValue>, Refusal> {
        let name = self.pending_cookie(Pending::mark(&pending.state));
        self.sealed(request, &name, pending, PENDING_SECONDS_MAX)
    }

    fn sealed(
        &self,
        request: &Fields,
        name: &str,
        said: &impl Serialize,
        seconds: u64,
    ) -> Result<Vec<HeaderValue>, Refusal> {
        let said = serde_json::to_vec(said).expect("what is kept has a form in JSON");
        let sealed = self.keys.seal(name, chance()?, &said);
        let lines = sealed.and_then(|sealed| sealed::set(request, name, &sealed, seconds));
        lines.ok_or_else(|| super::invalid("what the provider says does not fit in cookies"))
    }

    /// Where the provider sends browsers back to.
    #[must_use]
    pub fn callback(&self, origin: &str) -> String {
        format!("{origin}{OIDC_PATH}{}/callback", self.settings.name)
    }

    /// How this browser reaches us.
    #[must_use]
    pub fn origin(&self, exchange: &Exchange) -> Option<String> {
        if let Some(origin) = &self.settings.origin {
            return Some(origin.clone());
        }
        let scheme = if came_by_https(exchange) { "https" } else { "http" };
        Some(format!("{scheme}://{}", exchange.head.headers.get(HOST)?.to_str().ok()?))
    }
}

/// The system's chance.
///
/// # Errors
/// It has none to give.
pub fn chance<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)
        .map_err(|_| Refusal::new(&refusal::SERVER_INTERNAL, "the system has no chance to give"))?;
    Ok(bytes)
}

/// The providers of the process, kept by name over a reload.
#[derive(Default)]
pub struct Providers {
    held: Mutex<HashMap<Arc<str>, Arc<Provider>>>,
    /// Tells the driver that there is a new one.
    pub added: Notify,
}

impl Providers {
    /// The provider with these settings: the one there is, if they have not changed. If they have, but not whose they are, it
    /// begins with what was known before.
    pub fn of(&self, settings: &Arc<OidcSettings>) -> Arc<Provider> {
        let mut held = self.held.lock();
        let before = held.get(&settings.name);
        if let Some(provider) = before.filter(|provider| provider.settings == *settings) {
            return Arc::clone(provider);
        }
        let provider = Arc::new(Provider::new(Arc::clone(settings), before.map(|before| &**before)));
        held.insert(Arc::clone(&settings.name), Arc::clone(&provider));
        self.added.notify_one();
        provider
    }

    /// Forgets all but these. Their driver notices.
    pub fn retain(&self, names: impl Fn(&str) -> bool) {
        self.held.lock().retain(|name, _| names(name));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Provider>> {
        self.held.lock().values().cloned().collect()
    }
}
