//! An exchange while it is answered: the request, and the open receipt that every stage writes to.

use std::cell::{Cell, OnceCell, Ref, RefCell, RefMut};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use http_body::Body as _;
use tidegate_model::fault::Struck;
use tidegate_model::headers::Seen;
use tidegate_model::message::RequestHead;
use tidegate_model::problem::Form;
use tidegate_model::receipt::{End, Opening, Receipt, RequestId, Step};
use tidegate_model::refusal::Refusal;
use tidegate_model::tick::Tick;
use tidegate_upstream::Switched;
use tidegate_wire::body::Incoming;
use tidegate_wire::clock;
use tidegate_wire::server::Connection;
use tidegate_wire::tls::TlsClient;
use tidegate_wire::tunnel::ClientSide;

use crate::access::Dress;
use crate::cache::content::Ahead;
use crate::canary::Arm;
use crate::coding::Bodies;
use crate::lifecycle::Proxy;
use crate::mirror::Duplicate;
use crate::recorder::Recorder;

/// One request, from its head to the last byte of its answer.
pub struct Exchange {
    /// The request's head. Taken when it is forwarded.
    pub head: RequestHead,
    /// What its fields hold.
    pub seen: Seen,
    /// The request's body. Taken when it is forwarded.
    pub body: Option<Incoming>,
    /// What was read of its body before it is forwarded: then that is sent, and not the body.
    pub ahead: Option<Box<Ahead>>,
    /// What is known of its bodies, where its route does anything with them.
    pub bodies: Option<Box<Bodies>>,
    /// The connection it came by.
    pub connection: Rc<Connection>,
    /// The host it asks for: lower case, without port.
    pub host: Arc<str>,
    /// The client's address, trusted proxies believed.
    pub client: IpAddr,
    /// How it reads a refusal.
    pub form: Form,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// Who its client is by a certificate that counts for its host.
    pub certified: Option<Arc<TlsClient>>,
    /// Whether it may be told where the time went.
    pub timing: bool,
    /// When its head had arrived. For the stages until the first wait, this is now.
    pub started: Tick,
    /// When the response's head must have come, where that is earlier than the route says.
    pub by: Option<Tick>,
    /// The client's side of an Upgrade that it asks for.
    pub upgrade: Option<ClientSide>,
    /// Both sides of an Upgrade that the upstream granted.
    pub upgraded: Option<(ClientSide, Switched)>,
    /// The cookie that ties its client to the endpoint that answered: the client's own, whatever becomes of the answer.
    pub sticky: Option<Box<HeaderValue>>,
    /// What its answer says besides, be it a refusal.
    pub dress: Option<Box<Dress>>,
    /// The injected faults that struck it.
    pub fault: Option<Box<Struck>>,
    /// What is copied of it for its route's mirror. Taken by the first rung.
    pub duplicate: Option<Box<Duplicate>>,
    /// Which version of its route it asks, where there are two. Taken by the first rung.
    pub arm: Option<Box<Arm>>,
    /// No client waits for it.
    pub behind: bool,
    /// The record.
    pub open: Open,
}

/// What further exchanges are made of that ask for the same, when this one may have ended.
pub struct Pattern {
    head: RequestHead,
    seen: Seen,
    /// What was read of its content, whole.
    content: Option<Bytes>,
    connection: Rc<Connection>,
    host: Arc<str>,
    client: IpAddr,
    form: Form,
    trusted: bool,
    /// With the id of the exchange that it is of.
    receipt: Box<Receipt>,
}

impl Pattern {
    /// One more exchange, which begins now.
    #[must_use]
    pub fn exchange(&self, proxy: &Proxy) -> Exchange {
        let (started, seen) = (clock::now(), &*self.receipt);
        let opening = Opening {
            request_id: RequestId(proxy.entropy.id()),
            started,
            method: seen.method.clone(),
            target: seen.target.clone(),
            host: Some(&seen.host),
            version: seen.version,
            client: seen.client,
            listener: seen.listener,
            tls: seen.tls,
        };
        let open = Open::new(opening, &proxy.recorder);
        {
            let mut receipt = open.receipt_mut();
            (receipt.route, receipt.tenant) = (seen.route.clone(), seen.tenant.clone());
            receipt.trace = seen.trace.as_ref().map(|trace| Box::new(trace.below(proxy.entropy.word())));
            receipt.note(started, Step::Refreshes(seen.request_id));
        }
        Exchange {
            head: self.head.clone(),
            seen: self.seen,
            body: None,
            ahead: self.content.clone().map(|content| Box::new(Ahead::Whole(content, None))),
            bodies: None,
            connection: Rc::clone(&self.connection),
            host: Arc::clone(&self.host),
            client: self.client,
            form: self.form,
            trusted: self.trusted,
            certified: None,
            timing: false,
            started,
            by: None,
            upgrade: None,
            upgraded: None,
            sticky: None,
            dress: None,
            fault: None,
            duplicate: None,
            arm: None,
            behind: false,
            open,
        }
    }
}

impl Exchange {
    /// What asks for the same, with this head.
    #[must_use]
    pub fn pattern(&self, head: RequestHead) -> Pattern {
        let seen = self.open.receipt();
        let mut receipt = Receipt::open(seen.request_id, seen.started, self.client, self.connection.listener);
        (receipt.method, receipt.target) = (seen.method.clone(), seen.target.clone());
        (receipt.host, receipt.version, receipt.tls) = (Arc::clone(&self.host), seen.version, seen.tls);
        (receipt.route, receipt.tenant) = (seen.route.clone(), seen.tenant.clone());
        receipt.trace = seen.trace.clone();
        Pattern {
            head,
            seen: self.seen,
            content: match self.ahead.as_deref() {
                Some(Ahead::Whole(content, _)) => Some(content.clone()),
                _ => None,
            },
            connection: Rc::clone(&self.connection),
            host: Arc::clone(&self.host),
            client: self.client,
            form: self.form,
            trusted: self.trusted,
            receipt: Box::new(receipt),
        }
    }

    /// One that asks for the same and that no client waits for: it refreshes what is stored.
    #[must_use]
    pub fn behind(&self, proxy: &Proxy) -> Exchange {
        Exchange { behind: true, ..self.pattern(self.head.clone()).exchange(proxy) }
    }

    /// What is answered from now on, by somebody who does not end with this one's client: the request, and the receipt.
    /// Until it is [taken back](Exchange::take_back) nothing is left here to be answered or recorded.
    #[must_use]
    pub fn lend(&mut self) -> Exchange {
        let open =
            Open { receipt: None, request_bytes: OnceCell::new(), recorder: Rc::clone(&self.open.recorder) };
        Exchange {
            head: std::mem::take(&mut self.head),
            seen: self.seen,
            body: self.body.take(),
            ahead: self.ahead.take(),
            bodies: self.bodies.take(),
            connection: Rc::clone(&self.connection),
            host: Arc::clone(&self.host),
            client: self.client,
            form: self.form,
            trusted: self.trusted,
            certified: self.certified.take(),
            timing: self.timing,
            started: self.started,
            by: self.by,
            upgrade: self.upgrade.take(),
            upgraded: self.upgraded.take(),
            sticky: self.sticky.take(),
            dress: self.dress.take(),
            fault: self.fault.take(),
            duplicate: self.duplicate.take(),
            arm: self.arm.take(),
            behind: self.behind,
            open: std::mem::replace(&mut self.open, open),
        }
    }

    /// Takes back what was lent.
    pub fn take_back(&mut self, lent: Exchange) {
        *self = lent;
    }

    /// The length of its content, where that is known before it is read.
    pub fn announced(&self) -> Option<u64> {
        let body = self.body.as_ref().filter(|_| !self.unpacks());
        body.and_then(|body| body.size_hint().exact())
    }

    /// Whether its content is decoded on the way: how long it is, nobody knows.
    pub fn unpacks(&self) -> bool {
        self.bodies.as_ref().is_some_and(|bodies| bodies.unpacks())
    }

    /// Notes that something happened just now.
    pub fn note(&self, step: Step) {
        self.open.receipt_mut().note(clock::now(), step);
    }
}

/// An open receipt. It is recorded exactly once: when it is settled, or when it is dropped because the client
/// went away or a panic ended the exchange.
pub struct Open {
    /// `None` once it is recorded.
    receipt: Option<Box<RefCell<Receipt>>>,
    /// Made for a request that has a body.
    request_bytes: OnceCell<Rc<Cell<u64>>>,
    recorder: Rc<dyn Recorder>,
}

impl Open {
    /// Opens a receipt that will be handed to `recorder`, in the memory of one that it has to spare.
    #[must_use]
    pub fn new(opening: Opening<'_>, recorder: &Rc<dyn Recorder>) -> Open {
        let receipt = match recorder.spare() {
            Some(mut spare) => {
                spare.get_mut().reopen(opening);
                spare
            }
            None => Box::new(RefCell::new(Receipt::of(opening))),
        };
        Open { receipt: Some(receipt), request_bytes: OnceCell::new(), recorder: Rc::clone(recorder) }
    }

    /// The cell itself, for the stages that write to it while they wait.
    pub fn receipt_cell(&self) -> &RefCell<Receipt> {
        self.receipt.as_ref().expect("settling takes the whole of it")
    }

    /// The receipt, to read.
    pub fn receipt(&self) -> Ref<'_, Receipt> {
        self.receipt_cell().borrow()
    }

    /// The receipt, to write.
    pub fn receipt_mut(&self) -> RefMut<'_, Receipt> {
        self.receipt_cell().borrow_mut()
    }

    /// Where the request body's bytes are counted while they pass.
    #[must_use]
    pub fn request_bytes(&self) -> Rc<Cell<u64>> {
        Rc::clone(self.request_bytes.get_or_init(Rc::default))
    }

    /// Notes a refusal: it is what the client is told.
    pub fn refused(&self, refusal: &Refusal) {
        let mut receipt = self.receipt_mut();
        receipt.refusal = Some(refusal.kind);
        let now = clock::now();
        if let Some(limit) = &refusal.violated {
            receipt.note(now, Step::Exceeded(std::sync::Arc::clone(&limit.name)));
        }
        receipt.note(now, Step::Refused(refusal.kind.code, refusal.detail.clone()));
    }

    /// Settles the receipt.
    pub fn settle(mut self, end: End) {
        self.record(end);
    }

    fn record(&mut self, end: End) {
        let Some(mut receipt) = self.receipt.take() else { return };
        let open = receipt.get_mut();
        open.end = end;
        open.request_bytes = self.request_bytes.get().map_or(0, |count| count.get());
        open.ended = clock::latest();
        self.recorder.record(receipt);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.record(if std::thread::panicking() { End::Panicked } else { End::ClientGone });
    }
}
