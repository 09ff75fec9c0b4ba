//! The mirror's call: made by a task of its own, once the upstream has answered the client.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use http_body::Body as _;
use tidegate_model::forwarded::Told;
use tidegate_model::gate::Priority;
use tidegate_model::gate::level::Degrade;
use tidegate_model::message::Request;
use tidegate_model::mirror::compare::{Compared, Content};
use tidegate_model::mirror::tally::{Outcome, Subject};
use tidegate_model::own::{self, OwnFields, TRACEPARENT_BYTES};
use tidegate_model::receipt::{Receipt, RequestId};
use tidegate_model::tenant::Permit;
use tidegate_model::tick::Tick;
use tidegate_upstream::settings::RetrySettings;
use tidegate_upstream::{Answer, AnswerBody, Caller, Terms};
use tidegate_wire::body::Body;
use tidegate_wire::client::Hearing;
use tidegate_wire::clock;

use super::answer::{Coming, Gathered, Taken};
use super::comparer::{Pair, Task};
use super::{Held, Mirrored, Skipped, UnderWay, now};

/// What is read of an answer that nobody compares, so that its connection can be used again.
const DISCARDED_MAX: u64 = 64 << 10;

/// What a mirror's call is made of, beside its request.
pub struct Call {
    /// The tenant, who is not charged.
    pub permit: Permit,
    /// Of which route.
    pub mirrored: Arc<Mirrored>,
    /// What Tidegate says beside the client's fields, where that is not among them.
    pub said: Option<Said>,
    /// The client's address.
    pub client: IpAddr,
    /// The listener that it came by.
    pub listener: SocketAddr,
    /// The exchange.
    pub request_id: RequestId,
    /// How long the upstream took to the head of its answer.
    pub took: Duration,
    /// The room that it takes.
    pub held: Held,
    /// One of those under way.
    pub under_way: UnderWay,
}

/// What is told of the exchange, by itself.
pub struct Said {
    told: Rc<Told>,
    via: Version,
    request_id: RequestId,
    trace: [u8; TRACEPARENT_BYTES],
}

impl Said {
    /// The same as is told to the upstream.
    pub fn of(said: &own::Said<'_>) -> Said {
        Said { told: Rc::clone(&said.told), via: said.via, request_id: said.request_id, trace: said.trace }
    }
}

/// Calls the mirror, waits for the rest of the upstream's answer, and has both compared.
pub async fn run(caller: Caller, call: Call, mut request: Request<Body>, ours: Option<Coming>) {
    let began = clock::now();
    let by = began.after(call.mirrored.settings.timeout);
    let subject = Subject {
        at: now(),
        request_id: call.request_id,
        method: request.method().clone(),
        path: Arc::from(request.uri().path()),
        tenant: Arc::clone(call.permit.tenant().id()),
    };
    let result = answer(&caller, &call, &mut request, (began, by)).await;
    let Call { mirrored, took, held, under_way, .. } = call;
    let (mirror, mirrors) = (&mirrored.mirror, &mirrored.mirrors);
    let work = match result {
        Err(code) => Task::Known { outcome: Outcome::Failed(code), took: None },
        Ok((theirs, since)) => match (theirs, ours) {
            (Some(theirs), Some(ours)) => match clock::timeout_at(by, ours).await {
                Ok(Ok(ours)) => Task::Pair(Box::new(Pair { ours, theirs, took: (took, since), held })),
                Ok(Err(_)) => return mirror.skip(Skipped::Cut),
                Err(_) => return mirror.skip(Skipped::Late),
            },
            _ => Task::Known {
                outcome: Outcome::Compared(Compared::Unknown("unasked")),
                took: Some((took, since)),
            },
        },
    };
    drop(under_way);
    if !mirrors.hand(work.of(&mirrored, subject)) {
        mirror.skip(Skipped::Backlog);
    }
}

/// The mirror's answer, where it is compared, and how long it took to its head; or the code of its refusal.
async fn answer(
    caller: &Caller,
    call: &Call,
    request: &mut Request<Body>,
    (began, by): (Tick, Tick),
) -> Result<(Option<Taken>, Duration), &'static str> {
    let Call { permit, mirrored, said, client, listener, request_id, .. } = call;
    let (settings, upstream) = (&mirrored.settings, &mirrored.upstream);
    let said = said.as_ref().map(|said| own::Said {
        told: Rc::clone(&said.told),
        via: said.via,
        request_id: said.request_id,
        trace: said.trace,
        // A copy has no spans of its own: it is the exchange's.
        spans: None,
        tenant: permit.tenant().id(),
    });
    let own = OwnFields { said, grpc_timeout: true, upgrade: false, load: Some(0) };
    let receipt = RefCell::new(Receipt::open(*request_id, began, *client, *listener));
    let (retry, degrade, awaited) = (once(), Degrade::default(), Cell::new(false));
    let terms = Terms {
        now: began,
        deadline: by,
        patience: settings.timeout,
        retry: &retry,
        route: &mirrored.mirror.route,
        priority: Priority::Sheddable,
        client: *client,
        upgrade: false,
        degrade: &degrade,
        level: 0,
        own: &own,
        hearing: Hearing(None),
        further: false,
        awaited: &awaited,
    };
    let called = caller.call(upstream, permit, request, &terms, &receipt).await;
    let Answer { response, .. } = called.result.map_err(|refusal| refusal.kind.code)?;
    let since = clock::now().since(began);
    let (head, body) = response.into_parts();
    let Some(compare) = &settings.compare else {
        read(body, DISCARDED_MAX, by).await.map_err(|()| "upstream.reset")?;
        return Ok((None, since));
    };
    let content = read(body, compare.body_bytes_max, by).await.map_err(|()| "upstream.reset")?;
    Ok((Some(Taken::of(compare, head.status, &head.headers, content)), since))
}

/// A mirror's call is made once.
fn once() -> RetrySettings {
    RetrySettings {
        tries: 1,
        try_timeout: None,
        statuses: Vec::new(),
        backoff: Duration::ZERO,
        backoff_max: Duration::ZERO,
        idempotent: false,
        body_bytes: 0,
        hedge: None,
    }
}

/// Reads a body up to a bound; what is longer is cancelled. It fails if it breaks off, or does not end in time.
async fn read(mut body: AnswerBody, most: u64, by: Tick) -> Result<Content, ()> {
    let mut gathered = Gathered::new(most);
    while !body.is_end_stream() {
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        match clock::timeout_at(by, next).await {
            Ok(Some(Ok(frame))) => {
                let fits = frame.data_ref().is_none_or(|data| gathered.add(data));
                if !fits {
                    break;
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(()),
        }
    }
    Ok(gathered.content())
}
