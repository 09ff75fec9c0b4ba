//! Fetches the keys that tokens are verified with, in the background: traffic never waits for it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use tidegate_proxy::settings::JwtKeys;
use tidegate_proxy::{Verifier, Verifiers};
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, Target};
use tidegate_wire::client_tls::ClientTls;
use tidegate_wire::settings::{ClientTlsSettings, Protocol};
use tidegate_wire::{clock, task};

/// The most bytes of a key set.
const BYTES_MAX: usize = 1 << 20;
/// One fetch, in total.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to get keys that are not there: the first, then twice as long each, and the longest.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for verifiers that a reload brought, and for changed files.
const LOOK: Duration = Duration::from_secs(1);

/// Drives all verifiers, those that a reload brings too.
pub fn drive(verifiers: Arc<Verifiers>) {
    task::spawn(async move {
        let mut driven = HashSet::new();
        loop {
            let all = verifiers.all();
            driven.retain(|held| all.iter().any(|verifier| Arc::as_ptr(verifier) as usize == *held));
            for verifier in all {
                if driven.insert(Arc::as_ptr(&verifier) as usize) {
                    let verifiers = Arc::clone(&verifiers);
                    task::spawn(async move { keep(&verifiers, &verifier).await });
                }
            }
            let _ = clock::timeout_at(clock::now().after(LOOK), verifiers.added.notified()).await;
        }
    });
}

/// Keeps one verifier's keys fresh for as long as it is in use.
async fn keep(verifiers: &Verifiers, verifier: &Arc<Verifier>) {
    let settings = Arc::clone(verifier.settings());
    let mut stamp = None;
    let mut retry = RETRY;
    while verifiers.all().iter().any(|held| Arc::ptr_eq(held, verifier)) {
        let questions = verifier.questions();
        let wait = match &settings.keys {
            JwtKeys::Secret(_) => return,
            JwtKeys::File(path) => {
                let seen = stamp_of(path);
                if seen.is_none() || seen != stamp {
                    let read = std::fs::read(path).map_err(|error| error.to_string());
                    // What was read while it was being written is read again.
                    stamp = if take(verifier, &settings.name, read) { seen } else { None };
                }
                if stamp.is_some() {
                    verifier.answered(questions);
                }
                LOOK
            }
            JwtKeys::Url { url, ca } => {
                let by = clock::now().after(TIMEOUT);
                let fetched = clock::timeout_at(by, Box::pin(fetch(url, ca.as_deref()))).await;
                let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
                if take(verifier, &settings.name, fetched) {
                    verifier.answered(questions);
                    retry = RETRY;
                    settings.refresh
                } else {
                    let longer = (retry * 2).min(RETRY_MAX);
                    std::mem::replace(&mut retry, longer)
                }
            }
        };
        let _ = clock::timeout_at(clock::now().after(wait), verifier.asked.notified()).await;
    }
}

/// By which a changed file is known.
fn stamp_of(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn take(verifier: &Verifier, name: &str, fetched: Result<Vec<u8>, String>) -> bool {
    match fetched.and_then(|json| verifier.take_keys(&json)) {
        Ok(keys) => {
            tracing::debug!(jwt = name, keys, "keys taken");
            true
        }
        Err(error) => {
            tracing::warn!(jwt = name, error, "keys not taken; those known stay");
            false
        }
    }
}

async fn fetch(url: &Uri, ca: Option<&Path>) -> Result<Vec<u8>, String> {
    let request = Request::get("/").header(header::ACCEPT, "application/json");
    let (status, body) = call(url, ca, request, Body::Empty).await?;
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    Ok(body)
}

/// Makes a request to a URL, on a connection of its own: the answer's status and content.
///
/// # Errors
/// Why there is no answer, in words.
pub async fn call(
    url: &Uri,
    ca: Option<&Path>,
    request: http::request::Builder,
    body: Body,
) -> Result<(StatusCode, Vec<u8>), String> {
    let tls = url.scheme_str() == Some("https");
    // An IPv6 address stands in brackets in a URL, and nowhere else.
    let host = url.host().ok_or("the URL has no host")?.trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    let tls = match tls {
        true => {
            let settings = ClientTlsSettings { ca: ca.map(Path::to_owned), ..ClientTlsSettings::default() };
            let made = ClientTls::new(&settings, Some(host)).map_err(|error| crate::run::chain(&error))?;
            Some(Arc::new(made))
        }
        false => None,
    };
    let mut connected = Err("the host has no address".to_owned());
    for address in addresses {
        let target = Target { address, protocol: Protocol::Http1, tls: tls.clone() };
        connected = client::connect(&target).await.map_err(|error| crate::run::chain(&error));
        if connected.is_ok() {
            break;
        }
    }
    let sender = connected?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let request = request.uri(path).header(header::HOST, authority);
    let mut request = request.body(body).map_err(|error| error.to_string())?.into();
    let response = sender
        .send(&mut request, tidegate_model::tick::Tick::MAX)
        .await
        .map_err(|error| crate::run::chain(&error))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    Ok((status, body.to_bytes().to_vec()))
}
