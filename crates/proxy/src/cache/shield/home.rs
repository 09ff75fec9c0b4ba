//! The home: answers what other nodes ask, on a listener of their own.
//!
//! A question that is well sealed is an exchange like any other from the cache's stage on. What comes before, the first node
//! has done: it has identified the tenant and asked its limits, and it tells the tenant's part to log and metrics. What
//! saves this process and the upstream applies here: protection, the gate, the breaker, the collapse.
//!
//! What always holds: whatever is not sealed with the secret, for this node, just now and for the first time is refused,
//! counted, and its connection closed; nothing of what a peer asks leads to another peer.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::cache::key;
use tidegate_model::cluster::ask::{ASK_BYTES_MAX, Ask, Said};
use tidegate_model::cluster::heard::Unheard;
use tidegate_model::cluster::seal::{self, Tag};
use tidegate_model::cluster::told::{Answer, STILL, Told};
use tidegate_model::fields::Fields;
use tidegate_model::headers::Seen;
use tidegate_model::message::{Request, RequestHead, Response};
use tidegate_model::problem::Form;
use tidegate_model::receipt::{End, Opening, Step, Target};
use tidegate_model::refusal::Refusal;
use tidegate_model::tick::Tick;
use tidegate_wire::alarm::Alarm;
use tidegate_wire::body::{BoxError, Incoming};
use tidegate_wire::clock;
use tidegate_wire::server::{Connection, Handler};

use super::desk::Handed;
use super::{Homes, Hop, PATH, Telling, civil_ms};
use crate::cache::asked;
use crate::cache::content::Ahead;
use crate::cache::stage::{self, Onward};
use crate::exchange::{Exchange, Open};
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::route;
use crate::settle::{Content, ExchangeBody};
use crate::site::Pinned;

/// How long a question may take to come whole.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);
/// While it asks itself, a home says so this many times in the time for which it is waited.
const STILL_IN_WAIT: u32 = 4;
/// How often at most it is told that strangers come.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What answers other nodes, on one core.
pub struct Home(Rc<Proxy>);

impl Home {
    /// With the proxy of its core.
    #[must_use]
    pub fn new(proxy: Rc<Proxy>) -> Rc<Home> {
        Rc::new(Home(proxy))
    }

    async fn hear(
        self: Rc<Self>,
        request: Request<Incoming>,
        connection: Rc<Connection>,
    ) -> Response<PeerBody> {
        let site = self.0.site();
        match self.listen(&site, request).await {
            Ok((Said::Ask(ask), tag)) => {
                let every = Duration::from_millis(ask.wait_ms.into()) / STILL_IN_WAIT;
                let answer = Box::pin(answer(Rc::clone(&self.0), site, ask, connection, tag));
                Response::new(PeerBody::asking(answer, every))
            }
            Ok((Said::Purge(orders), _)) => {
                site.cache.peering.orders.note(0, orders.len());
                for order in orders {
                    site.cache.purge_for_peer(order);
                }
                site.cache.purges_written().await;
                Response::new(PeerBody::Ended)
            }
            Ok((Said::Pass(pass), tag)) => {
                let every = Duration::from_millis(pass.wait_ms.into()) / STILL_IN_WAIT;
                Response::new(PeerBody::asking(Box::pin(passed(site, pass.content, tag)), every))
            }
            Err(why) => {
                self.turn_away(&connection, why);
                let mut response = Response::new(PeerBody::Ended);
                *response.status_mut() = StatusCode::FORBIDDEN;
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }

    /// What is said, and its seal; or why it is not listened to.
    async fn listen(&self, site: &Pinned, request: Request<Incoming>) -> Result<(Said, Tag), &'static str> {
        let homes = site.homes.as_ref().ok_or("there is no cluster")?;
        let (head, body) = request.into_parts();
        if head.method != Method::POST || head.uri.path() != PATH {
            return Err("it is no question of a node");
        }
        let by = clock::now().after(QUESTION_WITHIN);
        let bytes = clock::timeout_at(by, whole(body)).await.ok().flatten().ok_or("it did not come whole")?;
        let opened = seal::open(&homes.settings.secret, &bytes).ok_or("it is not sealed with our secret")?;
        let envelope = opened.envelope;
        if envelope.to != &*homes.settings.me {
            return Err("it is for a node of another name");
        }
        let heard = {
            let mut heard = site.cache.peering.heard.lock();
            heard.hear(envelope.sender, envelope.number, envelope.sent_ms, civil_ms())
        };
        heard.map_err(|unheard| match unheard {
            Unheard::Time => "it was said at another time: are the clocks in step?",
            Unheard::Again => "it was said before",
            Unheard::Crowded => "too many nodes have begun lately",
        })?;
        let said = Said::read(opened.said).ok_or("it is of another version")?;
        Ok((said, opened.tag))
    }

    fn turn_away(&self, connection: &Connection, why: &str) {
        let site = self.0.site();
        let peering = &site.cache.peering;
        peering.strangers.fetch_add(1, Relaxed);
        let (now, before) = (clock::now(), peering.warned.load(Relaxed));
        let due = before == 0 || Tick(before).after(WARN_EVERY) <= now;
        if due && peering.warned.compare_exchange(before, now.0.max(1), Relaxed, Relaxed).is_ok() {
            tracing::warn!(peer = %connection.peer, why, "cluster: refused what came to the nodes' listener");
        }
    }
}

/// All of a question, if it is no longer than one may be.
async fn whole(mut body: Incoming) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(piece) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() > ASK_BYTES_MAX {
            return None;
        }
    }
    Some(bytes)
}

/// What a peer is told, and the content behind it.
struct Answered {
    told: Vec<u8>,
    content: PeerBody,
}

/// Has what was passed on answered.
async fn passed(site: Pinned, content: Bytes, tag: Tag) -> Answered {
    let (told, content) = match site.cache.peering.desk.ask(content).await {
        Ok(handed) => (Told::Passed(handed.told()), PeerBody::Handed(handed)),
        Err(why) => (Told::Refused(why.to_owned()), PeerBody::Ended),
    };
    Answered { told: sealed(&site, &told, &tag), content }
}

fn sealed(site: &Pinned, told: &Told, tag: &Tag) -> Vec<u8> {
    let secret = site.homes.as_ref().map(|homes: &Homes| &homes.settings.secret);
    secret.map_or_else(Vec::new, |secret| told.bytes(secret, tag))
}

async fn answer(
    proxy: Rc<Proxy>,
    site: Pinned,
    ask: Box<Ask>,
    connection: Rc<Connection>,
    tag: Tag,
) -> Answered {
    let answered = exchange(&proxy, &site, *ask, &connection).await;
    let (told, content) = match answered {
        Ok((answer, content)) => (Told::Answer(Box::new(answer)), Some(content)),
        Err(why) => (Told::Refused(why.to_owned()), None),
    };
    let peering = &site.cache.peering;
    let count = if content.is_some() { &peering.answered } else { &peering.unanswered };
    count.fetch_add(1, Relaxed);
    let content = content.map_or(PeerBody::Ended, |body| PeerBody::Content(Box::new(body)));
    Answered { told: sealed(&site, &told, &tag), content }
}

/// Answers a question, or says why not.
async fn exchange(
    proxy: &Rc<Proxy>,
    site: &Pinned,
    ask: Ask,
    connection: &Connection,
) -> Result<(Answer, ExchangeBody), &'static str> {
    let (name, tenant, claimed, key) = (ask.route.clone(), ask.tenant.clone(), ask.claimed, ask.key);
    let mut exchange = opened(proxy, ask, connection);
    let routed = route::route(site, &exchange).map_err(|_| "its route is not here")?;
    let settings = &routed.route.settings;
    let caches = settings.cache.as_ref().filter(|cache| cache.shield && *settings.name == *name);
    let Some(caches) = caches else { return Err("its route is another one here") };
    let now = exchange.started;
    let tenant = site.identity.known(&site.tenants, &tenant, claimed, now);
    let tenant = tenant.ok_or("its tenant is not known here")?;
    exchange.open.receipt_mut().tenant = Some(Arc::clone(tenant.id()));
    proxy.guard.request(settings.priority, &proxy.entropy).map_err(|refusal| refusal.kind.code)?;
    proxy.guard.tenant(&tenant, &proxy.entropy).map_err(|refusal| refusal.kind.code)?;
    let permitted = Permitted::of_peer(&tenant);
    let telling = Rc::<Telling>::default();
    let hop = Hop::Peer(Some(Rc::clone(&telling)));
    let (routed, permitted) = (&routed, &permitted);
    let onward = Onward { proxy, site, routed, permitted, settings: caches, hop: &hop };
    let own_key = match exchange.ahead.as_deref() {
        Some(Ahead::Whole(content, _)) => {
            let digest = key::content(&exchange.head.headers, content);
            asked::key_with(onward, &exchange, Some(&digest))
        }
        _ => asked::key_of(onward, &exchange),
    };
    if own_key != Ok(key) {
        return Err("its key is another one here");
    }
    let answered = stage::answer(onward, &mut exchange, Ok(key)).await;
    let open = exchange.open;
    match answered {
        Ok(response) => told(response, open, &telling),
        Err(refusal) => {
            let why = Step::Refused(refusal.kind.code, refusal.detail.clone());
            open.receipt_mut().note(clock::now(), why);
            open.settle(End::Complete);
            Err(refusal.kind.code)
        }
    }
}

/// What is told of an answer. One of a further rung of the ladder, or of the configuration, the first node finds itself.
fn told(
    response: Response<Content>,
    open: Open,
    telling: &Telling,
) -> Result<(Answer, ExchangeBody), &'static str> {
    let (head, content) = response.into_parts();
    let (status, fields, known) = (head.status, head.headers, telling.take());
    if known.is_none() && !matches!(content, Content::Answer(_)) {
        open.settle(End::Complete);
        return Err("the application has not answered");
    }
    Ok((Answer { status, fields, known }, ExchangeBody::new(content, status, open, None)))
}

/// The exchange that a question makes here.
fn opened(proxy: &Proxy, ask: Ask, connection: &Connection) -> Box<Exchange> {
    let started = clock::now();
    let Ask {
        id,
        https,
        version,
        trusted,
        behind,
        client,
        peer,
        host,
        method,
        target,
        fields,
        content,
        left_ms,
        ..
    } = ask;
    let head =
        RequestHead { method, uri: Uri::from(target), version, headers: fields, ..RequestHead::default() };
    let host: Arc<str> = Arc::from(host);
    let opening = Opening {
        request_id: id,
        started,
        method: head.method.clone(),
        target: Target::from(&head.uri),
        host: Some(&host),
        version,
        client,
        listener: connection.listener,
        tls: https,
    };
    let open = Open::new(opening, &proxy.recorder);
    open.receipt_mut().of_peer = true;
    let client_side = Connection::of(peer, connection.listener, https, &connection.limits);
    Box::new(Exchange {
        seen: Seen::of(&head.headers),
        head,
        body: None,
        ahead: content.map(|content| Box::new(Ahead::Whole(content, None))),
        bodies: None,
        connection: Rc::new(client_side),
        host,
        client,
        form: Form::default(),
        trusted,
        certified: None,
        timing: false,
        started,
        by: Some(started.after(Duration::from_millis(left_ms.into()))),
        upgrade: None,
        upgraded: None,
        sticky: None,
        dress: None,
        fault: None,
        duplicate: None,
        arm: None,
        behind,
        open,
    })
}

impl Handler for Home {
    type Body = PeerBody;

    fn handle(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<PeerBody>> + 'static {
        Rc::clone(self).hear(request, Rc::clone(connection))
    }

    /// A node has as many connections as its cores need.
    fn is_proxy(&self, _address: IpAddr) -> bool {
        true
    }

    fn refuse(&self, connection: &Connection, refusal: Refusal, _: Option<&Fields>) -> Response<Bytes> {
        self.turn_away(connection, refusal.kind.code);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::FORBIDDEN;
        response
    }
}

/// What a peer gets: that it is still asked, what is told, then the content.
pub enum PeerBody {
    /// It is not known yet.
    Asking(Box<Asking>),
    /// It is told; this follows.
    Content(Box<ExchangeBody>),
    /// What was passed on is answered; this follows.
    Handed(Handed),
    /// That was all.
    Ended,
}

/// A question that is being answered. Dropped, nobody asks any more.
pub struct Asking {
    answer: Pin<Box<dyn Future<Output = Answered>>>,
    every: Duration,
    /// When it is said again that it is still asked.
    next: Tick,
    alarm: Alarm,
}

impl PeerBody {
    fn asking(answer: Pin<Box<dyn Future<Output = Answered>>>, every: Duration) -> PeerBody {
        let every = every.max(Duration::from_millis(1));
        PeerBody::Asking(Box::new(Asking { answer, every, next: clock::now(), alarm: Alarm::default() }))
    }
}

impl HttpBody for PeerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            PeerBody::Asking(asking) => {
                if let Poll::Ready(Answered { told, content }) = asking.answer.as_mut().poll(context) {
                    *self = content;
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from(told)))));
                }
                ready!(asking.alarm.poll(asking.next, context));
                asking.next = clock::now().after(asking.every);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(STILL)))))
            }
            PeerBody::Content(body) => Pin::new(&mut **body).poll_frame(context),
            PeerBody::Handed(handed) => Poll::Ready(handed.next().map(|piece| Ok(Frame::data(piece)))),
            PeerBody::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            PeerBody::Asking(_) | PeerBody::Handed(_) => false,
            PeerBody::Content(body) => body.is_end_stream(),
            PeerBody::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            PeerBody::Ended => SizeHint::with_exact(0),
            _ => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_told_that_it_is_still_asked_until_there_is_an_answer() {
        let (done, answered) = tokio::sync::oneshot::channel::<()>();
        let answer = Box::pin(async move {
            let _ = answered.await;
            Answered { told: b"told".to_vec(), content: PeerBody::Ended }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut body = PeerBody::asking(answer, Duration::from_millis(5));
            let began = clock::now();
            for _ in 0..5 {
                assert_eq!(said(&mut body).await.as_deref(), Some(STILL));
            }
            assert!(clock::now().since(began) >= Duration::from_millis(20), "not faster than is needed");
            done.send(()).unwrap();
            assert_eq!(said(&mut body).await.as_deref(), Some(&b"told"[..]));
            assert!(body.is_end_stream() && said(&mut body).await.is_none());
        });
    }

    async fn said(body: &mut PeerBody) -> Option<Bytes> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        frame.ok()?.into_data().ok()
    }
}
