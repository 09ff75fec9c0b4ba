//! A call: tries until one is answered, or until no further one may be made.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{COOKIE, HOST};
use http::{HeaderValue, StatusCode, Version};
use http_body::Body as _;
use tidegate_model::balance::mix;
use tidegate_model::breaker::{Probe, Verdict};
use tidegate_model::fields::{Fields, Value};
use tidegate_model::gate::Priority;
use tidegate_model::gate::level::Degrade;
use tidegate_model::message::Request;
use tidegate_model::method::is_safe;
use tidegate_model::own::OwnFields;
use tidegate_model::receipt::{Receipt, Step};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::retry::{Sent, apart, backoff, may_repeat};
use tidegate_model::shard;
use tidegate_model::tenant::Permit;
use tidegate_model::tick::Tick;
use tidegate_wire::body::Body;
use tidegate_wire::client::Hearing;
use tidegate_wire::{clock, task};

use crate::answer::Answer;
use crate::attempt::{Answered, Failed, Plan, opening, to_http1};
use crate::endpoint::WANTED;
use crate::files;
use crate::gate::{Slot, Want};
use crate::pick::Local;
use crate::pool::{ById, Pools};
use crate::replay::Replay;
use crate::settings::{Balance, Discovery, FilesSettings, HashOn, RetrySettings, UpstreamSettings};
use crate::trial::Trial;
use crate::upstreams::Upstream;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// What one exchange asks of a call.
#[derive(Debug)]
pub struct Terms<'a> {
    /// The time: what happens until the first wait happens now.
    pub now: Tick,
    /// To the response's head, tries and pauses included.
    pub deadline: Tick,
    /// The time that the route gives, where the client or a wait has left less.
    pub patience: Duration,
    /// Tries and hedges.
    pub retry: &'a RetrySettings,
    /// The route's name, for who pays for the upstream's time.
    pub route: &'a Arc<str>,
    /// What is shed first where the upstream is saturated.
    pub priority: Priority,
    /// The client's address, for consistent hashing.
    pub client: IpAddr,
    /// An Upgrade: never tried twice.
    pub upgrade: bool,
    /// What is saved under load.
    pub degrade: &'a Degrade,
    /// The level of the process.
    pub level: u8,
    /// What is said beside the client's fields.
    pub own: &'a OwnFields<'a>,
    /// Who hears the upstream's interim responses.
    pub hearing: Hearing<'a>,
    /// Whether the request may be made elsewhere when this fails.
    pub further: bool,
    /// Whether the request's body is waited for now: what takes long then is not the upstream's fault.
    pub awaited: &'a Cell<bool>,
}

/// How a call ended.
pub struct Called {
    /// The answer; or why there is none: the refusal of the last try, or of what came before the first.
    pub result: Result<Answer, Refusal>,
    /// Whether the request is whole and may be made elsewhere: nothing of it was sent, or it is safe. Never without
    /// [`Terms::further`].
    pub again: bool,
}

/// The way to the upstreams of one core.
#[derive(Clone)]
pub struct Caller {
    pub(crate) state: Rc<CallerState>,
}

/// By the upstream's id.
type Locals = HashMap<u64, (Weak<Upstream>, Rc<Local>), ById>;

/// What the calls of one core share.
pub(crate) struct CallerState {
    pub(crate) pools: Pools,
    locals: RefCell<Locals>,
    chance: Cell<u64>,
}

impl CallerState {
    /// A word of chance.
    pub(crate) fn chance(&self) -> u64 {
        let next = self.chance.get().wrapping_add(1);
        self.chance.set(next);
        mix(next)
    }

    /// What this core keeps of an upstream, as it is now.
    pub(crate) fn local(&self, upstream: &Arc<Upstream>) -> Rc<Local> {
        let mut locals = self.locals.borrow_mut();
        let made = || (Arc::downgrade(upstream), Rc::new(Local::new(upstream)));
        let local = &locals.entry(upstream.id).or_insert_with(made).1;
        local.refresh(upstream);
        Rc::clone(local)
    }

    /// Closes idle connections whose time has come, and forgets upstreams that are no more.
    fn sweep(&self) {
        let now = clock::now();
        self.pools.sweep(now);
        for (_, local) in self.locals.borrow().values() {
            local.door.sweep(&local.settings().name, now);
            local.files.sweep(now);
        }
        self.locals.borrow_mut().retain(|_, (upstream, _)| upstream.strong_count() > 0);
    }
}

impl Caller {
    /// The way to the upstreams of one of `cores` cores; `seed` is its chance.
    #[must_use]
    pub fn new(cores: usize, seed: u64) -> Caller {
        let state = CallerState {
            pools: Pools::new(cores),
            locals: RefCell::default(),
            chance: Cell::new(mix(seed)),
        };
        Caller { state: Rc::new(state) }
    }

    /// Closes idle connections in time, and at once where another core waits for their place, for as long as the caller
    /// lives.
    pub fn sweep(&self) {
        let state = Rc::downgrade(&self.state);
        task::spawn(async move {
            loop {
                let Some(held) = state.upgrade() else { return };
                held.sweep();
                drop(held);
                let until = clock::now().after(SWEEP);
                loop {
                    // Before looking: what is wanted from then on is not missed.
                    let mut wanted = pin!(WANTED.notified());
                    wanted.as_mut().enable();
                    let Some(held) = state.upgrade() else { return };
                    held.pools.give_up();
                    drop(held);
                    if clock::timeout_at(until, wanted).await.is_err() {
                        break;
                    }
                }
            }
        });
    }

    /// Makes a request to an upstream. The permit is the evidence that it may be made.
    pub async fn call(
        &self,
        upstream: &Arc<Upstream>,
        permit: &Permit,
        request: &mut Request<Body>,
        terms: &Terms<'_>,
        receipt: &RefCell<Receipt>,
    ) -> Called {
        let transport = upstream.transport();
        let local = self.state.local(upstream);
        let settings = local.settings();
        let hash = hash_key(&settings, request.headers(), permit.tenant().id(), terms);
        let now = terms.now;
        let probe = match admit(upstream, &settings, terms.deadline, now) {
            Ok(probe) => probe,
            Err(refusal) => return Called { result: Err(self.apart(refusal)), again: terms.further },
        };
        let plan = Plan {
            upstream,
            tenant: permit.tenant(),
            route: terms.route,
            local: &local,
            transport,
            settings: &settings,
            deadline: terms.deadline,
            try_timeout: terms.retry.try_timeout,
            patience: terms.retry.try_timeout.map_or(terms.patience, |most| most.min(terms.patience)),
            key: hash.key,
            shard: settings.shard.map_or(0, |_| shard::key_of(permit.tenant().id())),
            receipt,
            trial: Trial::new(&upstream.breaker, probe),
            awaited: terms.awaited,
            own: terms.own,
            hearing: terms.hearing,
        };
        upstream.budget.earn(settings.retry_budget_percent, settings.retry_budget_min_per_second, now);
        let host = terms.further.then(|| request.headers().get(HOST).map(Value::owned));
        let mut tries = Tries::new(self, &plan, terms, request);
        if let Discovery::Files(files) = &settings.discovery {
            return Box::pin(tries.read_file(files, now, host)).await;
        }
        let result = tries.run(now).await;
        let again = host.is_some_and(|host| tries.give_back(host));
        let answer = |answered: Answered| {
            let sticky = hash.cookie.and_then(|name| {
                let secure = if hash.secure { "; Secure" } else { "" };
                let cookie = format!("{name}={:016x}; Path=/; HttpOnly; SameSite=Lax{secure}", hash.key);
                HeaderValue::from_str(&cookie).ok()
            });
            Answer { response: answered.response, sticky }
        };
        Called { result: result.map(answer).map_err(|refusal| self.apart(refusal)), again }
    }

    /// Who is refused together is not told to come back together.
    fn apart(&self, mut refusal: Refusal) -> Refusal {
        refusal.retry_after = refusal.retry_after.map(|wait| apart(wait, self.state.chance()));
        refusal
    }
}

/// What is refused before the first try. The probe, if the breaker made the call one.
fn admit(
    upstream: &Upstream,
    settings: &UpstreamSettings,
    deadline: Tick,
    now: Tick,
) -> Result<Option<Probe>, Refusal> {
    reachable(upstream, deadline, now)?;
    let Some(breaker) = &settings.breaker else { return Ok(None) };
    match upstream.breaker.ask(&opening(breaker), deadline, now) {
        Verdict::Closed => Ok(None),
        Verdict::Probe(probe) => Ok(Some(probe)),
        Verdict::Open { wait } => Err(Refusal::new(
            &refusal::UPSTREAM_BREAKER,
            "the upstream failed too often in a row and is left alone for a while",
        )
        .retry_after(wait)),
    }
}

/// Refuses what cannot be answered in time any more: the upstream's time is for others.
fn reachable(upstream: &Upstream, deadline: Tick, now: Tick) -> Result<(), Refusal> {
    let left = deadline.since(now);
    let fastest = upstream.latencies.fastest(now).unwrap_or_default();
    if !left.is_zero() && left >= fastest / 2 {
        return Ok(());
    }
    Err(too_late(left, fastest))
}

#[cold]
fn too_late(left: Duration, fastest: Duration) -> Refusal {
    let detail =
        format!("{} ms are left, and the upstream has never answered that fast lately", left.as_millis());
    Refusal::new(&refusal::DEADLINE_UNREACHABLE, detail).retry_after(fastest)
}

/// The key of consistent hashing, and the cookie that is to carry it.
struct HashKey<'a> {
    key: u64,
    cookie: Option<&'a str>,
    /// Whether the cookie is for TLS alone, as the client came by it.
    secure: bool,
}

fn hash_key<'a>(
    settings: &'a UpstreamSettings,
    headers: &Fields,
    tenant: &str,
    terms: &Terms<'_>,
) -> HashKey<'a> {
    match &settings.balance {
        Balance::RingHash(on) => ring_key(on, headers, tenant, terms),
        _ => HashKey { key: 0, cookie: None, secure: false },
    }
}

/// The key on the ring.
#[inline(never)]
fn ring_key<'a>(on: &'a HashOn, headers: &Fields, tenant: &str, terms: &Terms<'_>) -> HashKey<'a> {
    let of =
        |bytes: &[u8]| bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| mix(hash ^ u64::from(byte)));
    let by_address = || match terms.client {
        IpAddr::V4(v4) => of(&v4.octets()),
        IpAddr::V6(v6) => of(&v6.octets()),
    };
    let key = match on {
        HashOn::Tenant => of(tenant.as_bytes()),
        HashOn::ClientAddress => by_address(),
        HashOn::Header(name) => {
            let told = headers.get(name).map(|value| of(value.as_bytes()));
            told.or_else(|| terms.own.find(name, of)).unwrap_or_else(by_address)
        }
        HashOn::Cookie(name) => {
            let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
            let mut pairs =
                cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
            return match pairs.find(|(held, _)| held == name) {
                Some((_, value)) => {
                    let key = u64::from_str_radix(value, 16).unwrap_or_else(|_| of(value.as_bytes()));
                    HashKey { key, cookie: None, secure: false }
                }
                None => {
                    // Said by us, or by a proxy before us that is trusted.
                    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
                    HashKey { key: mix(by_address() ^ clock::now().0), cookie: Some(name), secure }
                }
            };
        }
    };
    HashKey { key, cookie: None, secure: false }
}

/// The tries of one call.
struct Tries<'a> {
    caller: &'a Caller,
    plan: &'a Plan<'a>,
    terms: &'a Terms<'a>,
    /// The request. Its head stays over all tries.
    request: &'a mut Request<Body>,
    /// Whether its body is there: nothing of it was sent.
    unsent: bool,
    /// What a further try sends.
    again: Again,
    tried: smallvec::SmallVec<[u64; 4]>,
}

/// What a further try sends for a body.
enum Again {
    /// None: there is none.
    Empty,
    /// What was kept of it.
    Replay(Replay),
    /// It is gone.
    Gone,
}

/// What comes after a try.
enum Next {
    Done(Answered),
    Failed(Refusal),
    Again(Duration),
}

impl<'a> Tries<'a> {
    fn new(
        caller: &'a Caller,
        plan: &'a Plan<'a>,
        terms: &'a Terms<'a>,
        request: &'a mut Request<Body>,
    ) -> Tries<'a> {
        let retry = terms.retry;
        let repeatable = may_repeat(request.method(), Sent::Perhaps, retry.idempotent) && !terms.upgrade;
        let again = if request.body().is_end_stream() {
            Again::Empty
        } else if repeatable && (retry.tries > 1 || terms.further) {
            let replay = Replay::new(std::mem::take(request.body_mut()), retry.body_bytes);
            *request.body_mut() = replay.body();
            Again::Replay(replay)
        } else {
            Again::Gone
        };
        Tries { caller, plan, terms, request, unsent: true, again, tried: smallvec::SmallVec::new() }
    }

    async fn run(&mut self, began: Tick) -> Result<Answered, Refusal> {
        let (mut number, mut now) = (1, began);
        loop {
            let slot = match self.plan.try_enter(now) {
                Some(slot) => slot,
                None => {
                    let (slot, entered) = Box::pin(self.wait(began, now)).await?;
                    now = entered;
                    slot
                }
            };
            let result = match self.hedge() {
                None => self.caller.attempt(self.plan, slot, &self.tried, self.request, now).await,
                Some((late, copy)) => Box::pin(self.hedged(slot, now, late, copy)).await,
            };
            self.unsent = matches!(result, Err(Failed { unsent: true, .. }));
            match self.next(result, number) {
                Next::Done(answered) => return Ok(answered),
                Next::Failed(refusal) => return Err(refusal),
                Next::Again(pause) => {
                    self.plan.note(Step::Backoff(pause));
                    clock::sleep(pause).await;
                    number += 1;
                    now = clock::now();
                }
            }
        }
    }

    /// The one try that files need: nothing is sent, and another would find the same.
    async fn read_file(
        &mut self,
        files: &Arc<FilesSettings>,
        began: Tick,
        host: Option<Option<HeaderValue>>,
    ) -> Called {
        let result = async {
            let (slot, now) = match self.plan.try_enter(began) {
                Some(slot) => (slot, began),
                None => self.wait(began, began).await?,
            };
            let chance = self.caller.state.chance();
            files::call(self.plan, files, self.request, slot, (now, chance)).await
        };
        let result = result.await.map(|response| Answer { response, sticky: None });
        let again = host.is_some_and(|host| self.give_back(host));
        Called { result: result.map_err(|refusal| self.caller.apart(refusal)), again }
    }

    /// Waits for a slot, at the place of the first try. The slot, and when it was had.
    async fn wait(&self, asked_at: Tick, since: Tick) -> Result<(Slot, Tick), Refusal> {
        let plan = self.plan;
        let want = Want {
            tenant: plan.tenant,
            route: plan.route,
            priority: self.terms.priority,
            asked_at,
            deadline: plan.deadline,
            service: plan.upstream.latencies.fastest(since).unwrap_or_default(),
            bytes: held_by(self.request),
        };
        let (entered, waited) = plan.local.door.enter(&want).await;
        let now = clock::now();
        if waited.is_zero() {
            return entered.map(|slot| (slot, now));
        }
        plan.receipt.borrow_mut().gate_wait += waited;
        plan.note(Step::Waited(waited));
        let slot = entered?;
        reachable(plan.upstream, plan.deadline, now)?;
        Ok((slot, now))
    }

    /// How long a try may take before another one is sent beside it, and what that one sends.
    fn hedge(&self) -> Option<(Duration, Request<Body>)> {
        let hedge = self.terms.retry.hedge.as_ref()?;
        if self.level() >= self.terms.degrade.hedge {
            return None;
        }
        if !is_safe(self.request.method()) || !matches!(self.again, Again::Empty) {
            return None;
        }
        let quantile = self.plan.upstream.latencies.quantile(hedge.quantile)?;
        Some((quantile.max(hedge.min), head_of(self.request)))
    }

    /// One try, and another one beside it when it is late.
    async fn hedged(
        &mut self,
        slot: Slot,
        began: Tick,
        late: Duration,
        mut copy: Request<Body>,
    ) -> Result<Answered, Failed> {
        let (plan, tried) = (self.plan, &self.tried);
        let mut first = pin!(self.caller.attempt(plan, slot, tried, self.request, began));
        if let Ok(result) = clock::timeout_at(began.after(late), first.as_mut()).await {
            return result;
        }
        // The second goes elsewhere, takes only a free slot and spends of the budget.
        let slot = plan.try_enter(clock::now()).filter(|_| plan.spend());
        let Some(slot) = slot else { return first.await };
        plan.note(Step::Hedged);
        let spent = plan.receipt.borrow().upstream_time;
        let elsewhere = elsewhere(plan, tried);
        let second = self.caller.attempt(plan, slot, &elsewhere, &mut copy, clock::now());
        let result = first_good(first, pin!(second)).await;
        // They ran beside each other: what counts is how long that took, and who answered.
        let mut receipt = plan.receipt.borrow_mut();
        receipt.upstream_time = spent + clock::now().since(began);
        if let Ok(answered) = &result {
            receipt.endpoint = Some(answered.endpoint.1);
        }
        drop(receipt);
        result
    }

    fn next(&mut self, result: Result<Answered, Failed>, number: u32) -> Next {
        let retry = self.terms.retry;
        let (sent, pause) = match &result {
            Ok(answered) if !retry.statuses.contains(&answered.response.status()) => {
                return Next::Done(result.unwrap_or_else(|_| unreachable!("it is an answer")));
            }
            Ok(answered) => (Sent::Perhaps, answered.retry_after.unwrap_or_default()),
            Err(failed) => (failed.sent, Duration::ZERO),
        };
        let pause = pause.max(backoff(retry.backoff, retry.backoff_max, number, self.caller.state.chance()));
        let hindrance = self.hindrance(&result, sent, number, pause);
        match (hindrance, result) {
            (None, Ok(answered)) => {
                self.plan.receipt.borrow_mut().reached = true;
                self.tried.push(answered.endpoint.0);
                self.refill();
                // Its connection is worth more than the few bytes that are left of a small answer.
                drain(answered);
                Next::Again(pause)
            }
            (None, Err(failed)) => {
                self.reached(failed.sent);
                self.tried.extend(failed.endpoint);
                self.refill();
                Next::Again(pause)
            }
            (Some(why), result) => {
                if retry.tries > 1 {
                    self.plan.note(Step::NoRetry(why));
                }
                match result {
                    Ok(answered) => Next::Done(answered),
                    Err(failed) => {
                        self.reached(failed.sent);
                        Next::Failed(failed.refusal)
                    }
                }
            }
        }
    }

    /// Notes that the upstream may have seen what it has not answered.
    fn reached(&self, sent: Sent) {
        if sent == Sent::Perhaps {
            self.plan.receipt.borrow_mut().reached = true;
        }
    }

    /// Gives the request its body back, if it was sent.
    fn refill(&mut self) {
        if let (Again::Replay(replay), false) = (&self.again, self.unsent) {
            *self.request.body_mut() = replay.body();
        }
        self.unsent = true;
    }

    /// Whether nothing is left of the request's body to send it again.
    fn is_gone(&self) -> bool {
        match &self.again {
            Again::Empty => false,
            Again::Replay(replay) => !replay.is_whole(),
            Again::Gone => !self.unsent,
        }
    }

    /// Makes the request again what it was, for another upstream, if that may have it. With this `Host`, as it came.
    fn give_back(&mut self, host: Option<HeaderValue>) -> bool {
        if self.is_gone() || !(self.unsent || is_safe(self.request.method())) {
            return false;
        }
        self.refill();
        if self.request.version() == Version::HTTP_2 {
            to_http1(self.request);
        }
        match host {
            Some(host) => self.request.headers_mut().insert(HOST, host),
            None => self.request.headers_mut().remove(HOST),
        };
        true
    }

    /// How overloaded it all is, now: the process, or the upstream.
    fn level(&self) -> u8 {
        self.terms.level.max(self.plan.upstream.load())
    }

    /// Why no further try may be made.
    fn hindrance(
        &self,
        result: &Result<Answered, Failed>,
        sent: Sent,
        number: u32,
        pause: Duration,
    ) -> Option<&'static str> {
        let retry = self.terms.retry;
        let unsent = matches!(result, Err(Failed { unsent: true, .. }));
        if number >= retry.tries {
            return Some("tries");
        }
        // What the upstream did not see costs it nothing.
        if sent != Sent::Nothing && self.level() >= self.terms.degrade.retry {
            return Some("load");
        }
        if self.terms.upgrade && !unsent || !may_repeat(self.request.method(), sent, retry.idempotent) {
            return Some("unsafe");
        }
        if matches!(result, Err(failed) if failed.refusal.kind.blame == refusal::Blame::Client) {
            return Some("client");
        }
        if self.is_gone() {
            return Some("body");
        }
        // What one tenant has broken must not spend what all have for their retries.
        if matches!(result, Err(failed) if std::ptr::eq(failed.refusal.kind, &refusal::UPSTREAM_SHARD)) {
            return Some("shard");
        }
        if self.plan.settings.breaker.is_some() && self.plan.upstream.breaker.is_tripped() {
            return Some("breaker");
        }
        if clock::now().after(pause) >= self.plan.deadline {
            return Some("deadline");
        }
        (!self.plan.spend()).then_some("budget")
    }
}

/// The endpoints of the tries so far, the present one included.
fn elsewhere(plan: &Plan<'_>, tried: &[u64]) -> smallvec::SmallVec<[u64; 4]> {
    let present = plan.receipt.borrow().endpoint;
    let set = plan.local.endpoints();
    let present = set.endpoints.iter().filter(|one| Some(one.address) == present).map(|one| one.id);
    tried.iter().copied().chain(present).collect()
}

/// The bytes that a request holds while it waits, about: its head, what it is made of, and what may come of its body before
/// anybody reads it.
fn held_by(request: &Request<Body>) -> usize {
    const UNREAD_MAX: u64 = 64 * 1024;
    let body = request.body().size_hint();
    let unread = if request.body().is_end_stream() {
        0
    } else {
        body.upper().map_or(UNREAD_MAX, |most| most.min(UNREAD_MAX))
    };
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    size_of::<Request<Body>>() + target + request.headers().bytes() + unread as usize
}

/// A request like this one, without a body.
fn head_of(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The first of two tries that is answered well; of two bad ones, the last.
async fn first_good(
    mut first: std::pin::Pin<&mut impl Future<Output = Result<Answered, Failed>>>,
    mut second: std::pin::Pin<&mut impl Future<Output = Result<Answered, Failed>>>,
) -> Result<Answered, Failed> {
    let good = |result: &Result<Answered, Failed>| {
        result.as_ref().is_ok_and(|answered| answered.response.status() < StatusCode::INTERNAL_SERVER_ERROR)
    };
    tokio::select! {
        result = first.as_mut() => if good(&result) { result } else { second.await },
        result = second.as_mut() => if good(&result) { result } else { first.await },
    }
}

/// Reads what is left of an answer that is not wanted, if it is little, so that its connection can be used again.
fn drain(answered: Answered) {
    const BYTES_MAX: u64 = 64 * 1024;
    const TIME_MAX: Duration = Duration::from_secs(1);
    let mut body = answered.response.into_body();
    body.give_up_slot();
    if body.is_end_stream() || !body.is_worth_reading() || body.size_hint().lower() > BYTES_MAX {
        return;
    }
    task::spawn(async move {
        let by = clock::now().after(TIME_MAX);
        let read = async {
            let mut left = BYTES_MAX;
            while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                if left == 0 {
                    break;
                }
            }
        };
        let _ = clock::timeout_at(by, read).await;
    });
}
