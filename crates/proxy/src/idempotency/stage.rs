//! The way of a request through its idempotency.
//!
//! Its body is read first: it is part of what tells it from another. From then on the request is made by a task of its
//! own (`Work`), which nobody's leaving ends: what was claimed is finished, or known to have had no effect. The exchange
//! is lent to it, receipt and all, and comes back with the answer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT, TRAILER};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_model::idempotency::{
    Answer, Becomes, Command, Ended, Fingerprint, Kept, Key, Told, becomes, fingerprint,
};
use tidegate_model::message::Response;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_store::{Named, Store, Unavailable};
use tidegate_wire::{bell, clock, task};
use tokio::sync::oneshot;

use super::IdempotencySettings;
use super::desk::{Joined, Lead, Outcome};
use super::gather::{Gathered, gather};
use super::kept::{asker, replayed, written};
use crate::cache::content::Ahead;
use crate::exchange::Exchange;
use crate::fault::InItsPlace;
use crate::forward::deadline_of;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::protect::{Held, come_again};
use crate::route::Routed;
use crate::settle::Content;
use crate::site::{Pinned, Route};
use crate::whole;

/// How long is waited before a key that another node has is asked for again: at first, and at most.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(250);

/// What the stages before have found out.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    /// The proxy.
    pub proxy: &'a Rc<Proxy>,
    /// The site.
    pub site: &'a Pinned,
    /// The route.
    pub routed: &'a Routed<'a>,
    /// What the route says of it.
    pub settings: &'a IdempotencySettings,
}

/// An answer, and the evidence that it may be told.
pub type Made = Result<(Response<Content>, Permitted), Refusal>;

/// Answers: from the record of the key, or by making the request under it.
///
/// # Errors
/// `idempotency.*`, `store.unavailable`, and whatever the request is refused with when it is made.
pub async fn answer(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    permitted: Permitted,
    instead: InItsPlace,
) -> Made {
    let Onward { proxy, site, routed, settings } = onward;
    let Some(key) = key_of(settings, exchange)? else {
        let response = proxy.effect(site, exchange, routed, &permitted, instead).await?;
        return Ok((response, permitted));
    };
    let Some(store) = site.idempotency.store() else {
        return Err(unavailable(proxy, Unavailable::Stopped));
    };
    let by = deadline_of(site, exchange, &routed.route.settings);
    let (body, held) = whole(onward, exchange, &permitted, by).await?;
    let tenant = permitted.permit().tenant();
    let named =
        Named { tenant: Arc::clone(tenant.id()), scope: Arc::clone(&routed.route.settings.name), key };
    let target = exchange.head.uri.path_and_query().map_or("/", |target| target.as_str());
    let asked = Asked {
        account: Arc::clone(tenant.payer()),
        fingerprint: fingerprint(&exchange.head.method, &exchange.host, target, &body),
        asker: asker(&exchange.head.headers),
        named,
    };
    exchange.ahead = Some(Box::new(Ahead::Whole(body, held)));
    let patience = clock::now().after(settings.wait).min(by);
    loop {
        let follower = match site.idempotency.desk.join(&asked.named, asked.fingerprint) {
            Joined::Mismatch => return Err(mismatch()),
            Joined::Crowded => return Err(in_progress(proxy)),
            Joined::Follow(follower) => follower,
            Joined::Lead(lead) => {
                let (proxy, site, route) = (Rc::clone(proxy), Rc::clone(site), Arc::clone(routed.route));
                let matched = routed.matched;
                let work = Work { proxy, site, route, matched, store, asked, lead, patience, by };
                return work.begin(exchange, permitted, instead).await;
            }
        };
        match follower.outcome(patience).await {
            None => return Err(in_progress(proxy)),
            Some(Outcome::Again) => {}
            Some(Outcome::Answered(kept)) => {
                note(exchange, "joined");
                return Ok((told_again(&kept, &asked.asker, instead)?, permitted));
            }
        }
    }
}

/// The key of a request that has one effect; `None`: it needs none.
fn key_of(settings: &IdempotencySettings, exchange: &Exchange) -> Result<Option<Key>, Refusal> {
    let key = whole::key(exchange, settings.required)?;
    if key.is_some() && (exchange.seen.upgrade || is_stream(&exchange.head.headers)) {
        let why = "an Upgrade or a gRPC call is no request that could be told again";
        return Err(Refusal::new(&refusal::IDEMPOTENCY_STREAM, why));
    }
    Ok(key)
}

/// Whether a message is one of those that have no end of their own, or more than a body.
pub fn is_stream(fields: &Fields) -> bool {
    let kind = fields.get(CONTENT_TYPE).map_or(&[] as &[u8], |value| value.as_bytes());
    [&b"application/grpc"[..], b"text/event-stream"]
        .iter()
        .any(|stream| kind.get(..stream.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(stream)))
}

/// Reads a request's body whole, within what the route takes under a key.
async fn whole(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    permitted: &Permitted,
    by: Tick,
) -> Result<(Bytes, Option<Held>), Refusal> {
    let Onward { proxy, routed, settings, .. } = onward;
    let most = settings.body_bytes_max;
    let bound = (most, || too_large(most));
    let read = whole::body(proxy, exchange, routed, permitted, bound, by).await?;
    // It is here: nobody has to be asked whether it may come, and nothing follows it.
    exchange.head.headers.remove(EXPECT);
    exchange.head.headers.remove(TRAILER);
    Ok(read)
}

/// Which request is asked for, by whom.
struct Asked {
    named: Named,
    account: Arc<str>,
    fingerprint: Fingerprint,
    asker: Fingerprint,
}

/// A request that is made under a key. It owns all that it needs: whoever asked may leave.
struct Work {
    proxy: Rc<Proxy>,
    site: Pinned,
    route: Arc<Route>,
    matched: usize,
    store: Arc<Store>,
    asked: Asked,
    lead: Lead,
    /// Until when another node is waited for that has the key.
    patience: Tick,
    /// Until when the store is waited for: another process may have it still.
    by: Tick,
}

/// A claim that the store has not answered.
type Asking = Pin<Box<dyn Future<Output = Result<Told, Unavailable>>>>;

/// A claim that was given. If it is dropped before it was ended, whoever shares the store is told that nobody works on it.
struct Claim {
    store: Arc<Store>,
    named: Named,
    account: Arc<str>,
    number: u64,
    ended: bool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.ended {
            self.store.leave(self.named.clone(), Arc::clone(&self.account), self.number);
        }
    }
}

impl Work {
    /// Makes the request in a task of its own and waits for what it comes to.
    async fn begin(self, exchange: &mut Exchange, permitted: Permitted, instead: InItsPlace) -> Made {
        let (hand, handed) = oneshot::channel();
        let mut lent = exchange.lend();
        task::spawn(async move {
            let made = self.make(&mut lent, permitted, instead).await;
            // If whoever asked has left, the receipt that was lent tells so.
            let _ = hand.send((lent, made));
        });
        match handed.await {
            Ok((lent, made)) => {
                exchange.take_back(lent);
                made
            }
            // What it panicked with has been told, and its receipt is settled: nothing is left to answer with.
            Err(_) => std::panic::resume_unwind(Box::new("the request's task has panicked")),
        }
    }

    async fn make(self, exchange: &mut Exchange, permitted: Permitted, instead: InItsPlace) -> Made {
        let number = self.store.next_claim();
        let told = match self.claim_in_turn(number).await {
            Ok(told) => told.map_err(|why| unavailable(&self.proxy, why))?,
            Err(asking) => return Err(self.too_late(number, asking)),
        };
        match told {
            Told::Claimed => {}
            Told::Answered(kept) => {
                note(exchange, "replayed");
                let response = told_again(&kept, &self.asked.asker, instead);
                self.lead.end(Outcome::Answered(kept));
                return Ok((response?, permitted));
            }
            Told::Mismatch => return Err(mismatch()),
            Told::Full => return Err(full(&self.proxy)),
            Told::Elsewhere => return Err(in_progress(&self.proxy)),
            Told::Unknown | Told::Done | Told::Lost => return Err(unknown()),
        }
        let Asked { named, account, .. } = &self.asked;
        let (named, account) = (named.clone(), Arc::clone(account));
        let mut claim = Claim { store: Arc::clone(&self.store), named, account, number, ended: false };
        note(exchange, "first");
        let routed = Routed { route: &self.route, matched: self.matched };
        let made = self.proxy.effect(&self.site, exchange, &routed, &permitted, instead).await;
        let reached = exchange.open.receipt().reached;
        let ended = match &made {
            Ok(response) if is_upstreams(response.body()) => Ended::Answered(response.status()),
            Ok(_) | Err(_) if reached => Ended::Unanswered,
            Ok(_) | Err(_) => Ended::Unsent,
        };
        match (becomes(ended, &self.settings().release), made) {
            (Becomes::Answered, Ok(response)) => {
                Ok((self.keep(claim, exchange, response, &permitted).await?, permitted))
            }
            (Becomes::Free, made) => {
                claim.ended = true;
                let freed = self.command(Command::Release { claim: number }).await;
                note(exchange, if freed.is_ok() { "released" } else { "unrecorded" });
                Ok((made?, permitted))
            }
            (_, made) => {
                note(exchange, "unknown");
                Ok((made?, permitted))
            }
        }
    }

    fn settings(&self) -> &IdempotencySettings {
        self.route.settings.idempotency.as_ref().expect("the stage is asked where there are settings")
    }

    /// When a record that is written now is forgotten.
    fn until(&self) -> u64 {
        clock::latest_wall().0.saturating_add(self.settings().ttl.as_secs())
    }

    /// Claims the key. Where another node has it, it is asked for again, for as long as a repeat waits. `Err`: the store has not
    /// answered in time.
    async fn claim_in_turn(&self, claim: u64) -> Result<Result<Told, Unavailable>, Asking> {
        let mut wait = LOOK_AGAIN;
        loop {
            let mut asking = self.claim(claim);
            let Ok(told) = clock::timeout_at(self.by, bell::hear(asking.as_mut())).await else {
                return Err(asking);
            };
            let next = clock::now().after(wait);
            if told != Ok(Told::Elsewhere) || next >= self.patience {
                return Ok(told);
            }
            clock::sleep_until(next).await;
            wait = (wait * 2).min(LOOK_AGAIN_MAX);
        }
    }

    fn claim(&self, claim: u64) -> Asking {
        let settings = self.settings();
        let command = Command::Claim {
            fingerprint: self.asked.fingerprint,
            claim,
            again: settings.upstream,
            records_max: settings.keys_max,
            until: self.until(),
        };
        let Asked { named, account, .. } = &self.asked;
        let (store, named, account) = (Arc::clone(&self.store), named.clone(), Arc::clone(account));
        Box::pin(async move { store.ask(named, account, command).await })
    }

    /// Nobody waits for the claim any more, and nothing was sent: once it is given it is given back. Until then the key's place is
    /// kept, so that a repeat does not take it for one that a crash has left.
    fn too_late(self, claim: u64, asking: Asking) -> Refusal {
        let why = "the store did not answer within the request's deadline: nothing was sent";
        let refusal = come_again(Refusal::new(&refusal::STORE_UNAVAILABLE, why), &self.proxy.entropy);
        task::spawn(async move {
            if asking.await == Ok(Told::Claimed) {
                // Where that fails, repeats hear that nobody knows.
                let _ = self.command(Command::Release { claim }).await;
            }
        });
        refusal
    }

    async fn command(&self, command: Command) -> Result<Told, Unavailable> {
        let Asked { named, account, .. } = &self.asked;
        bell::hear(self.store.tell(named.clone(), Arc::clone(account), command)).await
    }

    /// Records the upstream's answer, and hands it on.
    async fn keep(
        self,
        mut claim: Claim,
        exchange: &Exchange,
        response: Response<Content>,
        permitted: &Permitted,
    ) -> Result<Response<Content>, Refusal> {
        let most = self.settings().response_bytes_max;
        let (head, content) = response.into_parts();
        let tenant = permitted.permit().tenant();
        let bytes = content.size_hint().upper().unwrap_or(most).min(most);
        // It has had its effect: for want of memory it is not refused, only not kept.
        let room = self.proxy.guard.hold(tenant, Priority::Critical, bytes, &self.proxy.entropy);
        let gathered = if room.is_err() || is_stream(&head.headers) {
            Gathered::Endless(content)
        } else {
            gather(content, most, clock::now().after(self.route.settings.deadline)).await
        };
        let (kept, content) = match gathered {
            Gathered::Whole(body) => {
                let told_to = self.asked.asker;
                let (status, fields) = (head.status.as_u16(), written(&head.headers));
                let content = if body.is_empty() { Content::Empty } else { Content::Full(body.clone()) };
                (Kept::Whole(Answer { status, fields, body, told_to }), content)
            }
            Gathered::Endless(content) => (Kept::Status(head.status.as_u16()), content),
            Gathered::Broken => {
                note(exchange, "unknown");
                let why = "the upstream broke off in the middle of its answer";
                return Err(Refusal::new(&refusal::UPSTREAM_RESET, why));
            }
        };
        if matches!(kept, Kept::Status(_)) {
            note(exchange, "unkept");
        }
        let (fingerprint, until) = (self.asked.fingerprint, self.until());
        claim.ended = true;
        let finish = Command::Finish { fingerprint, claim: claim.number, kept: kept.clone(), until };
        if !matches!(self.command(finish).await, Ok(Told::Done)) {
            // The client is told what has happened all the same; repeats will hear that nobody knows.
            note(exchange, "unrecorded");
        }
        self.lead.end(Outcome::Answered(kept));
        Ok(Response::from_parts(head, content))
    }
}

/// Whether an answer is the upstream's, and none of the configuration or of a fault.
fn is_upstreams(content: &Content) -> bool {
    matches!(content, Content::Answer(_))
}

/// Notes what became of the key, for `/explain`, log and metrics.
fn note(exchange: &Exchange, outcome: &'static str) {
    let mut receipt = exchange.open.receipt_mut();
    receipt.idempotency = Some(outcome);
    receipt.note(clock::now(), Step::Idempotent(outcome));
}

/// What was told, again; or what an injected fault puts in its place.
fn told_again(kept: &Kept, asker: &Fingerprint, instead: InItsPlace) -> Result<Response<Content>, Refusal> {
    if let Some(instead) = instead {
        return *instead;
    }
    match kept {
        Kept::Whole(answer) => replayed(answer, asker)
            .ok_or_else(|| Refusal::new(&refusal::SERVER_INTERNAL, "what was kept is no answer")),
        Kept::Status(status) => Err(Refusal::new(
            &refusal::IDEMPOTENCY_NOT_KEPT,
            format!(
                "the first request with this key was answered with {status}, and the answer was not kept"
            ),
        )),
    }
}

fn too_large(most: u64) -> Refusal {
    let why = format!("the body of a request with an Idempotency-Key has at most {most} bytes here");
    Refusal::new(&refusal::IDEMPOTENCY_BODY, why)
}

fn mismatch() -> Refusal {
    let why = "this Idempotency-Key was used for another request: another method, target or body";
    Refusal::new(&refusal::IDEMPOTENCY_MISMATCH, why)
}

fn unknown() -> Refusal {
    let why = "a request with this Idempotency-Key was begun, and nobody knows whether it had an effect";
    Refusal::new(&refusal::IDEMPOTENCY_UNKNOWN, why)
}

fn in_progress(proxy: &Proxy) -> Refusal {
    let why = "the first request with this Idempotency-Key has not ended yet";
    come_again(Refusal::new(&refusal::IDEMPOTENCY_IN_PROGRESS, why), &proxy.entropy)
}

fn full(proxy: &Proxy) -> Refusal {
    let why = "the tenant has as many idempotency keys at a time as it may";
    come_again(Refusal::new(&refusal::IDEMPOTENCY_FULL, why), &proxy.entropy)
}

fn unavailable(proxy: &Proxy, why: Unavailable) -> Refusal {
    come_again(Refusal::new(&refusal::STORE_UNAVAILABLE, why.to_string()), &proxy.entropy)
}
