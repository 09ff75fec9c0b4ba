//! Asks providers of logins, in the background: for what they say of themselves, for their keys, and for what exchanges want to
//! know of them.
//!
//! A refresh token is used once, whoever of several requests of a session comes first: the others are told the same, for a while. What
//! was begun is ended, whether anybody still waits for it or not: a token that was used up for nobody would end its session.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Uri, header};
use tidegate_model::access::login::{Metadata, Tokens, encode, form};
use tidegate_model::tick::Tick;
use tidegate_proxy::access::login::{Ask, NoTokens, OidcSettings, Provider, Providers, Question};
use tidegate_wire::body::Body;
use tidegate_wire::{clock, task};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::jwks::call;

/// One question, in total.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often a provider is asked for its metadata and keys.
const REFRESH: Duration = Duration::from_secs(300);
/// The same while they are not there: the first pause, then twice as long each, and the longest.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for providers that a reload brought.
const LOOK: Duration = Duration::from_secs(1);
/// Questions to one provider at once. Further ones wait in its list, and beyond that are not taken.
const AT_ONCE_MAX: usize = 16;
/// Requests of one session that wait for its refresh token to be used.
const WAITING_MAX: usize = 256;
/// For how long others are told what a refresh token has brought.
const TOLD: Duration = Duration::from_secs(30);
/// Refresh tokens of which that is remembered.
const TOLD_MAX: usize = 1024;

type Answer = Result<Tokens, NoTokens>;

/// Drives all providers, those that a reload brings too.
pub fn drive(providers: Arc<Providers>) {
    task::spawn(async move {
        loop {
            for provider in providers.all() {
                // Whoever has its questions drives it already.
                let Some(questions) = provider.questions() else { continue };
                task::spawn(answer(Arc::downgrade(&provider), questions));
                let providers = Arc::clone(&providers);
                task::spawn(async move { keep(&providers, &provider).await });
            }
            let _ = clock::timeout_at(clock::now().after(LOOK), providers.added.notified()).await;
        }
    });
}

/// Keeps what a provider says of itself, and its keys, for as long as it is in use.
async fn keep(providers: &Providers, provider: &Arc<Provider>) {
    let mut retry = RETRY;
    while providers.all().iter().any(|held| Arc::ptr_eq(held, provider)) {
        let questions = provider.verifier().questions();
        let by = clock::now().after(TIMEOUT);
        let learned = clock::timeout_at(by, Box::pin(learn(provider))).await;
        let wait = match learned.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}"))) {
            Ok(metadata) => {
                provider.verifier().answered(questions);
                provider.looked(Some(metadata));
                retry = RETRY;
                REFRESH
            }
            Err(error) => {
                let name = &*provider.settings().name;
                tracing::warn!(oidc = name, error, "the provider of logins does not say what it must");
                provider.looked(None);
                let longer = (retry * 2).min(RETRY_MAX);
                std::mem::replace(&mut retry, longer)
            }
        };
        let _ = clock::timeout_at(clock::now().after(wait), provider.verifier().asked.notified()).await;
    }
}

/// What it says of itself; its keys are taken.
async fn learn(provider: &Provider) -> Result<Metadata, String> {
    let settings = provider.settings();
    let own = format!("{}/.well-known/openid-configuration", settings.issuer.trim_end_matches('/'));
    let metadata = Metadata::parse(&get(settings, &own).await?, &settings.issuer)?;
    let keys = get(settings, &metadata.jwks_uri).await?;
    provider.verifier().take_keys(&keys)?;
    Ok(metadata)
}

async fn get(settings: &OidcSettings, url: &str) -> Result<Vec<u8>, String> {
    let url: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
    let request = Request::get("/").header(header::ACCEPT, "application/json");
    let (status, body) = call(&url, settings.ca.as_deref(), request, Body::Empty).await?;
    match status.is_success() {
        true => Ok(body),
        false => Err(format!("status {} of {url}", status.as_u16())),
    }
}

/// What becomes of refresh tokens.
#[derive(Default)]
struct Refreshes(RefCell<HashMap<String, Refresh>>);

enum Refresh {
    /// It is being used; these wait.
    Used(Vec<oneshot::Sender<Answer>>),
    /// This is what it brought.
    Brought(Answer, Tick),
}

impl Refreshes {
    /// Whether this one is to be used now. Else its asker is, or will be, told.
    fn begin(&self, token: &str, answer: oneshot::Sender<Answer>) -> bool {
        let mut held = self.0.borrow_mut();
        let now = clock::now();
        held.retain(|_, one| !matches!(one, Refresh::Brought(_, until) if *until <= now));
        match held.get_mut(token) {
            Some(Refresh::Used(waiting)) => {
                waiting.retain(|one| !one.is_closed());
                // Who is one too many finds that nobody answers.
                if waiting.len() < WAITING_MAX {
                    waiting.push(answer);
                }
                false
            }
            Some(Refresh::Brought(brought, _)) => {
                let _ = answer.send(brought.clone());
                false
            }
            None => {
                held.insert(token.to_owned(), Refresh::Used(vec![answer]));
                true
            }
        }
    }

    /// It has been used: whoever waits is told.
    fn end(&self, token: &str, answer: &Answer) {
        let mut held = self.0.borrow_mut();
        let Some(Refresh::Used(waiting)) = held.remove(token) else { return };
        for one in waiting {
            let _ = one.send(answer.clone());
        }
        if !matches!(answer, Err(NoTokens::Unavailable)) && held.len() < TOLD_MAX {
            let until = clock::now().after(TOLD);
            held.insert(token.to_owned(), Refresh::Brought(answer.clone(), until));
        }
    }
}

/// Puts the questions of exchanges to a provider, until that is no more.
async fn answer(provider: Weak<Provider>, mut questions: mpsc::Receiver<Question>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let refreshes = Rc::<Refreshes>::default();
    while let Some(Question { ask, answer }) = questions.recv().await {
        let Some(provider) = provider.upgrade() else { return };
        let token = match &ask {
            Ask::Refresh(token) => Some(token.clone()),
            Ask::Code { .. } => None,
        };
        let mut answer = Some(answer);
        if let Some(token) = &token
            && let Some(answer) = answer.take()
            && !refreshes.begin(token, answer)
        {
            continue;
        }
        let turn = Arc::clone(&turns).acquire_owned().await.expect("it is never closed");
        let refreshes = Rc::clone(&refreshes);
        task::spawn(async move {
            let _turn = turn;
            let by = clock::now().after(TIMEOUT);
            let told = clock::timeout_at(by, Box::pin(tokens(&provider, &ask))).await;
            let told = told
                .unwrap_or_else(|_| Err((NoTokens::Unavailable, format!("no answer within {TIMEOUT:?}"))));
            let told = told.map_err(|(kind, why)| {
                tracing::warn!(
                    oidc = &*provider.settings().name,
                    why,
                    "the provider of logins gave no tokens"
                );
                kind
            });
            match (&token, answer) {
                (Some(token), _) => refreshes.end(token, &told),
                // Whoever asked may have gone meanwhile.
                (None, Some(answer)) => drop(answer.send(told)),
                (None, None) => {}
            }
        });
    }
}

/// Asks for tokens (RFC 6749 sections 4.1.3 and 6).
async fn tokens(provider: &Provider, ask: &Ask) -> Result<Tokens, (NoTokens, String)> {
    let away = |why: String| (NoTokens::Unavailable, why);
    let settings = provider.settings();
    let metadata = provider.metadata().ok_or_else(|| away("it was not heard of yet".to_owned()))?;
    let mut said: Vec<(&str, &str)> = match ask {
        Ask::Code { code, verifier, redirect } => vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("code_verifier", verifier),
            ("redirect_uri", redirect),
        ],
        Ask::Refresh(token) => vec![("grant_type", "refresh_token"), ("refresh_token", token)],
    };
    let methods = &metadata.token_endpoint_auth_methods_supported;
    let in_header = methods.is_empty() || methods.iter().any(|method| method == "client_secret_basic");
    let secret = settings.client_secret.as_ref().map(|secret| String::from_utf8_lossy(&secret.0));
    let mut request = Request::post("/")
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    match &secret {
        Some(secret) if in_header => {
            let mut both = String::new();
            encode(&mut both, &settings.client_id);
            both.push(':');
            encode(&mut both, secret);
            request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(both)));
        }
        Some(secret) => said.extend([("client_id", settings.client_id.as_str()), ("client_secret", secret)]),
        None => said.push(("client_id", &settings.client_id)),
    }
    let url: Uri =
        metadata.token_endpoint.parse().map_err(|_| away("its token endpoint is no URL".to_owned()))?;
    let body = Body::full(form(&said));
    let (status, json) = call(&url, settings.ca.as_deref(), request, body).await.map_err(away)?;
    if status.is_success() {
        return serde_json::from_slice(&json)
            .map_err(|error| away(format!("its answer cannot be read: {error}")));
    }
    let read: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    let error = read.get("error").and_then(|error| error.as_str()).unwrap_or_default();
    // Of all errors this alone is about the code or the token; the others are ours to mend.
    match error {
        "invalid_grant" => Err((NoTokens::Refused, error.to_owned())),
        other => {
            let said: String = other.chars().take(64).collect();
            Err(away(format!("status {} {}", status.as_u16(), said.escape_debug())))
        }
    }
}
