//! Requests to the authority, over connections of our own.
//!
//! The library's futures may move between threads, ours stay where they are: a task of the control runtime makes each request
//! and tells the answer. Where the authority says when it may be asked again, that is noted for all orders.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tidegate_model::tick::Tick;
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, Target};
use tidegate_wire::client_tls::ClientTls;
use tidegate_wire::settings::{ClientTlsSettings, Protocol};
use tidegate_wire::{clock, task};
use tokio::sync::{mpsc, oneshot};

use super::now_ms;

/// One request, in total.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const BYTES_MAX: usize = 1 << 20;
/// Requests that wait for the task.
const WAITING_MAX: usize = 64;
/// The longest time that an authority is believed to want to hear nothing, in seconds.
const PAUSE_MAX: u64 = 24 * 3600;

type Outcome = Result<Response<Full<Bytes>>, String>;
type Job = (Request<BodyWrapper<Bytes>>, oneshot::Sender<Outcome>);

/// The way to an authority.
pub struct Transport(mpsc::Sender<Job>);

impl Transport {
    /// To one that is believed by these authorities. To be made on the control runtime.
    #[must_use]
    pub fn start(ca: Option<PathBuf>, paused_until: Arc<AtomicU64>) -> Transport {
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING_MAX);
        task::spawn(async move {
            while let Some((request, told)) = waiting.recv().await {
                let (ca, paused_until) = (ca.clone(), Arc::clone(&paused_until));
                task::spawn(async move {
                    let by = clock::now().after(TIMEOUT);
                    let made = clock::timeout_at(by, Box::pin(make(request, ca))).await;
                    let made = made.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
                    if let Ok(response) = &made {
                        note(response, &paused_until);
                    }
                    // Whoever asked may have given up.
                    let _ = told.send(made);
                });
            }
        });
        Transport(jobs)
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let jobs = self.0.clone();
        Box::pin(async move {
            let (told, outcome) = oneshot::channel();
            jobs.send((request, told)).await.map_err(|_| Error::Str("the process ends"))?;
            let outcome = outcome.await.map_err(|_| Error::Str("the process ends"))?;
            outcome.map(BytesResponse::from).map_err(|why| Error::Other(why.into()))
        })
    }
}

/// Notes until when it wants to hear nothing.
fn note(response: &Response<Full<Bytes>>, paused_until: &AtomicU64) {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return;
    }
    if let Some(seconds) = retry_after(response.headers()) {
        paused_until.fetch_max(now_ms() + seconds.min(PAUSE_MAX) * 1000, Relaxed);
    }
}

/// In how many seconds it may be asked again.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    text.parse().ok().or_else(|| {
        let at = tidegate_model::cache::Wall::of_date(text.as_bytes())?;
        Some(at.0.saturating_sub(now_ms() / 1000))
    })
}

async fn make(request: Request<BodyWrapper<Bytes>>, ca: Option<PathBuf>) -> Outcome {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|never| never.to_string())?.to_bytes();
    let url = &parts.uri;
    let sender = connect(url, ca).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().ok_or("the URL has no host")?.as_str();
    let mut request = Request::builder().method(parts.method).uri(path).header(header::HOST, authority);
    for (name, value) in &parts.headers {
        request = request.header(name, value);
    }
    let body = if body.is_empty() { Body::Empty } else { Body::full(body) };
    let mut request = request.body(body).map_err(|error| error.to_string())?.into();
    let response = sender.send(&mut request, Tick::MAX).await.map_err(|error| crate::run::chain(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    let mut answer = Response::new(Full::new(body.to_bytes()));
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers.into_map();
    Ok(answer)
}

async fn connect(url: &Uri, ca: Option<PathBuf>) -> Result<client::Sender, String> {
    let tls = url.scheme_str() == Some("https");
    // An IPv6 address stands in brackets in a URL, and nowhere else.
    let host = url.host().ok_or("the URL has no host")?.trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let addresses =
        tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    let tls = if tls {
        let settings = ClientTlsSettings { ca, ..ClientTlsSettings::default() };
        let made = ClientTls::new(&settings, Some(host)).map_err(|error| crate::run::chain(&error))?;
        Some(Arc::new(made))
    } else {
        None
    };
    let mut connected = Err(format!("{host} has no address"));
    for address in addresses {
        let target = Target { address, protocol: Protocol::Http1, tls: tls.clone() };
        connected = client::connect(&target).await.map_err(|error| crate::run::chain(&error));
        if connected.is_ok() {
            break;
        }
    }
    connected
}
