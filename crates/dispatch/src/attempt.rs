//! One attempt: the delivery's request, made to its queue's upstream. What came of it is one [`Made`] and one receipt.
//!
//! The upstream is called as for an exchange: endpoints, pools, gate, breaker. Tries are not: an attempt is one, as further
//! ones are attempts of their own. Beside what every request says (`Tidegate-Tenant`, `Tidegate-Deadline-Ms`, `traceparent`
//! with a span for each attempt), it says which delivery it is and which attempt, and under which key it may be repeated: the
//! sender's own `Idempotency-Key`, or the delivery's id.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{RETRY_AFTER, SET_COOKIE};
use http::{HeaderName, HeaderValue, StatusCode, Version};
use http_body::Body as _;
use tidegate_model::delivery::outcome::Outcome;
use tidegate_model::delivery::{self, Id};
use tidegate_model::fields::{Fields, Value};
use tidegate_model::gate::level::Degrade;
use tidegate_model::message::{Request, Response};
use tidegate_model::own::{OwnFields, TRACEPARENT};
use tidegate_model::problem::X_REQUEST_ID;
use tidegate_model::receipt::{End, Opening, Receipt, RequestId, Step, Target};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::retry::retry_after;
use tidegate_model::tenant::{Permit, Tenant};
use tidegate_model::trace::{Share, Trace};
use tidegate_store::deliveries::{Kept, Ready};
use tidegate_upstream::settings::RetrySettings;
use tidegate_upstream::{AnswerBody, Called, Caller, Terms, Upstream};
use tidegate_wire::body::Body;
use tidegate_wire::client::Hearing;
use tidegate_wire::clock;

use crate::chance::Chance;
use crate::scheduler::Bounds;
use crate::settings::QueueSettings;
use crate::webhook::{self, Slot, Teller};

const DELIVERY_ID: HeaderName = HeaderName::from_static("tidegate-delivery-id");
const ATTEMPT: HeaderName = HeaderName::from_static("tidegate-attempt");
const TENANT: HeaderName = HeaderName::from_static("tidegate-tenant");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// What an attempt is recorded with of what it was answered.
const ANSWER_BYTES_MAX: usize = 1 << 10;
/// Bytes of an answer that are read, so that its connection can be used again, though they are not kept.
const UNKEPT_BYTES_MAX: usize = 1 << 20;

/// Takes the receipt of each attempt.
pub type Record = Rc<dyn Fn(Box<RefCell<Receipt>>)>;

/// What came of an attempt.
#[derive(Debug)]
pub struct Made {
    /// As it is judged.
    pub outcome: Outcome,
    /// Whether nobody's attempt could be made to this upstream, and when to look again.
    pub closed: Option<Duration>,
    /// Why it failed, in words.
    pub why: Option<Arc<str>>,
    /// What was answered.
    pub status: Option<StatusCode>,
    /// Its beginning.
    pub answer: Bytes,
    /// All that is kept of it.
    pub result: Option<Kept>,
}

/// What attempts are made with.
pub struct Maker {
    pub caller: Caller,
    pub record: Record,
    pub chance: Chance,
    pub teller: Teller,
    retry: RetrySettings,
    degrade: Degrade,
    #[cfg(test)]
    pub played: Option<Played>,
}

/// An attempt that is under way.
#[cfg(test)]
pub type Making = Pin<Box<dyn Future<Output = Made>>>;

/// What a simulation plays.
#[cfg(test)]
pub struct Played {
    /// Answers in the place of the application.
    pub answer: Box<dyn Fn(&Ready) -> Making>,
    /// What the scheduler holds in memory.
    pub bounds: Bounds,
    /// What was begun as it was accepted is not made.
    pub forgets_begun: bool,
}

impl Maker {
    /// With this way to the upstreams.
    pub fn new(caller: Caller, record: Record, chance: Chance, webhooks: Arc<Slot>) -> Maker {
        let retry = RetrySettings {
            tries: 1,
            try_timeout: None,
            statuses: Vec::new(),
            backoff: Duration::ZERO,
            backoff_max: Duration::ZERO,
            idempotent: false,
            body_bytes: 0,
            hedge: None,
        };
        Maker {
            caller,
            record,
            chance,
            teller: Teller::new(webhooks),
            retry,
            degrade: Degrade::default(),
            #[cfg(test)]
            played: None,
        }
    }

    /// What the scheduler holds in memory.
    pub fn bounds(&self) -> Bounds {
        #[cfg(test)]
        if let Some(played) = &self.played {
            return played.bounds;
        }
        Bounds::default()
    }

    /// Makes one attempt.
    pub async fn make(
        &self,
        upstream: &Arc<Upstream>,
        tenant: &Arc<Tenant>,
        settings: &QueueSettings,
        delivery: &Ready,
        request: &delivery::Request,
    ) -> Made {
        #[cfg(test)]
        if let Some(played) = &self.played {
            return (played.answer)(delivery).await;
        }
        let (began, number) = (clock::now(), delivery.attempts + 1);
        let id = RequestId(self.chance.wide());
        let trace = self.trace(request);
        let receipt = self.receipt(id, Some(upstream), settings, delivery, request);
        let receipt = Box::new(RefCell::new(Receipt { trace: Some(Box::new(trace)), ..receipt }));
        let Ok(mut prepared) = prepare(request, delivery, number, id, &trace) else {
            return self.settle(receipt, unmakeable());
        };
        let (permit, own) = (Permit::of_delivery(tenant), OwnFields::default());
        let terms = Terms {
            now: began,
            deadline: began.after(settings.timeout),
            patience: settings.timeout,
            retry: &self.retry,
            route: &settings.name,
            priority: delivery.priority,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            upgrade: false,
            degrade: &self.degrade,
            level: 0,
            own: &own,
            hearing: Hearing(None),
            further: false,
            awaited: &Cell::new(false),
        };
        let Called { result, .. } =
            Box::pin(self.caller.call(upstream, &permit, &mut prepared, &terms, &receipt)).await;
        let made = match result {
            Ok(answer) => {
                let read = read(answer.response, settings.results.unwrap_or(0));
                match clock::timeout_at(terms.deadline, read).await {
                    Ok(made) => made,
                    Err(_) => failed("the upstream did not answer whole in time"),
                }
            }
            Err(refusal) => refused(&refusal, upstream.is_in_doubt(), &receipt),
        };
        self.settle(receipt, made)
    }

    /// Makes one attempt of a webhook.
    pub async fn tell(
        &self,
        settings: &QueueSettings,
        delivery: &Ready,
        request: &delivery::Request,
    ) -> Made {
        let id = RequestId(self.chance.wide());
        let receipt = self.receipt(id, None, settings, delivery, request);
        let receipt =
            Box::new(RefCell::new(Receipt { trace: Some(Box::new(self.trace(request))), ..receipt }));
        let Some(made) = self.teller.make(delivery, request, self.chance.word()).await else {
            return Made::nowhere();
        };
        let webhook::Made { outcome, status, why, answer } = made;
        let answer = answer.slice(..answer.len().min(ANSWER_BYTES_MAX));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let made = Made { outcome, closed: None, why, status, answer, result: None };
        // Nothing was sent: it has only waited for its turn, which is nobody's line of a log.
        if matches!(made.outcome, Outcome::Unsent(_)) { made } else { self.settle(receipt, made) }
    }

    /// A span of its own for each attempt, below that which the delivery was promised by.
    fn trace(&self, request: &delivery::Request) -> Trace {
        let parent = request.fields.get(&TRACEPARENT);
        let follow =
            |parent: Value<'_>| Trace::follow(parent.as_bytes(), self.chance.word(), Share::NONE, true);
        let begin = || Trace::begin(self.chance.wide(), self.chance.word(), Share::NONE);
        parent.and_then(follow).unwrap_or_else(begin)
    }

    fn receipt(
        &self,
        request_id: RequestId,
        upstream: Option<&Arc<Upstream>>,
        settings: &QueueSettings,
        delivery: &Ready,
        request: &delivery::Request,
    ) -> Receipt {
        let path = request.target.split('?').next().unwrap_or_default();
        let mut receipt = Receipt::of(Opening {
            request_id,
            started: clock::latest(),
            method: request.method.clone(),
            target: Target::of_path(path),
            host: None,
            version: Version::HTTP_11,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            listener: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            tls: false,
        });
        // Beside what is counted of a route of the same name.
        receipt.route = Some(format!("queue:{}", settings.name).into());
        receipt.tenant = Some(Arc::clone(&delivery.line.tenant));
        receipt.upstream = upstream.map(|upstream| Arc::clone(upstream.name()));
        receipt.delivery = Some((delivery.id, delivery.attempts + 1));
        receipt.request_bytes = request.body.len() as u64;
        receipt
    }

    fn settle(&self, mut receipt: Box<RefCell<Receipt>>, made: Made) -> Made {
        let open = receipt.get_mut();
        open.ended = clock::now();
        open.status = open.status.or(made.status);
        open.response_bytes = made.result.as_ref().map_or(made.answer.len(), |kept| kept.body.len()) as u64;
        open.end = match made.outcome {
            Outcome::Answered(..) | Outcome::Unsent(_) => End::Complete,
            _ => End::UpstreamBroke,
        };
        (self.record)(receipt);
        made
    }
}

impl Made {
    /// There is no upstream any more to make it to.
    pub fn nowhere() -> Made {
        let wait = Duration::from_secs(1);
        Made { outcome: Outcome::Unsent(Some(wait)), ..failed("its queue has no upstream") }
    }

    /// It ended as nobody meant it to.
    pub fn panicked() -> Made {
        failed("the attempt panicked")
    }
}

fn failed(why: &str) -> Made {
    Made {
        outcome: Outcome::Unanswered,
        closed: None,
        why: Some(why.into()),
        status: None,
        answer: Bytes::new(),
        result: None,
    }
}

fn unmakeable() -> Made {
    Made { outcome: Outcome::Never, ..failed("its request cannot be made: its target is no path") }
}

/// What a refusal of the call means: whether anything was sent, and whether it is the upstream that is not to be had.
///
/// A call that found nobody, and by which the upstream's breaker opened or stays open, was made to see whether it is back: it costs no
/// attempt. Else the probes of a long outage would spend those of whoever is next, one delivery after the other.
fn refused(refusal: &Refusal, in_doubt: bool, receipt: &RefCell<Receipt>) -> Made {
    const PAUSE: Duration = Duration::from_millis(500);
    const PAUSE_MAX: Duration = Duration::from_secs(30);
    let kinds = [
        &refusal::UPSTREAM_BREAKER,
        &refusal::UPSTREAM_SATURATED,
        &refusal::UPSTREAM_UNAVAILABLE,
        &refusal::UPSTREAM_RESOLVE,
        &refusal::UPSTREAM_SHARD,
        &refusal::DEADLINE_UNREACHABLE,
        &refusal::SERVER_FILES,
    ];
    let mut open = receipt.borrow_mut();
    open.refusal = Some(refusal.kind);
    open.note(clock::latest(), Step::Refused(refusal.kind.code, refusal.detail.clone()));
    let why: Arc<str> = format!("{}: {}", refusal.kind.code, refusal.detail).into();
    let mut made = Made { why: Some(why), ..failed("") };
    let nobody = [&refusal::UPSTREAM_CONNECT, &refusal::UPSTREAM_CONNECT_TIMEOUT];
    let is_one_of = |kinds: &[&refusal::Kind]| kinds.iter().any(|kind| kind.code == refusal.kind.code);
    if is_one_of(&kinds) || (in_doubt && is_one_of(&nobody)) {
        let wait = refusal.retry_after.unwrap_or(PAUSE).clamp(Duration::from_millis(10), PAUSE_MAX);
        made.outcome = Outcome::Unsent(Some(wait));
        // The endpoints of one tenant are down: others' are not.
        made.closed = (refusal.kind.code != refusal::UPSTREAM_SHARD.code).then_some(wait);
    }
    made
}

/// The request of an attempt.
fn prepare(
    request: &delivery::Request,
    delivery: &Ready,
    number: u32,
    id: RequestId,
    trace: &Trace,
) -> Result<Request<Body>, http::uri::InvalidUri> {
    let mut made = Request::new(Body::full(request.body.clone()));
    *made.method_mut() = request.method.clone();
    *made.uri_mut() = http::Uri::try_from(&*request.target)?;
    let mut fields = request.fields.clone();
    let text = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok();
    fields.insert(DELIVERY_ID, id_value(delivery.id));
    fields.insert(ATTEMPT, HeaderValue::from(number));
    if !fields.contains_key(IDEMPOTENCY_KEY) {
        fields.insert(IDEMPOTENCY_KEY, id_value(delivery.id));
    }
    for (name, value) in [
        (TENANT, text(delivery.line.tenant.as_bytes())),
        (TRACEPARENT, text(&trace.traceparent(trace.span))),
        (X_REQUEST_ID, text(&id.hex())),
    ] {
        if let Some(value) = value {
            fields.insert(name, value);
        }
    }
    *made.headers_mut() = fields;
    Ok(made)
}

fn id_value(id: Id) -> HeaderValue {
    HeaderValue::from_bytes(&id.hex()).expect("it is made of hexadecimal digits")
}

/// Reads an answer, and keeps so much of it.
async fn read(response: Response<AnswerBody>, keep: usize) -> Made {
    let (head, mut body) = response.into_parts();
    let told = head
        .headers
        .get(RETRY_AFTER)
        .and_then(|value: Value<'_>| value.to_str().ok().and_then(|text| retry_after(text, clock::wall())));
    let (mut kept, mut length) = (BytesMut::new(), 0_usize);
    let most = keep.max(ANSWER_BYTES_MAX);
    let mut whole = true;
    loop {
        let frame = match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return failed("the upstream broke off in the middle of its answer"),
            None => break,
        };
        let Some(data) = frame.data_ref() else { continue };
        length = length.saturating_add(data.len());
        kept.extend_from_slice(&data[..data.len().min(most - kept.len())]);
        whole &= kept.len() == length;
        if length > most.saturating_add(UNKEPT_BYTES_MAX) {
            break;
        }
    }
    let kept = kept.freeze();
    let good = head.status.is_success();
    Made {
        outcome: Outcome::Answered(head.status, told),
        closed: None,
        why: (!good).then(|| format!("it was answered with {}", head.status).into()),
        status: Some(head.status),
        answer: kept.slice(..kept.len().min(ANSWER_BYTES_MAX)),
        result: (keep > 0).then(|| {
            let body = kept.slice(..kept.len().min(keep));
            Kept {
                status: head.status.as_u16(),
                fields: told_on(head.headers),
                whole: whole && length <= keep,
                body,
            }
        }),
    }
}

/// The fields of an answer that is told to somebody else than who asked.
fn told_on(mut fields: Fields) -> Fields {
    fields.remove(SET_COOKIE);
    fields
}
