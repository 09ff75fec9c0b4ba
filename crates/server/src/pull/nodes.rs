//! Asks other nodes for deliveries, on the control runtime: each question on a connection of its own, which is kept for the next.
//!
//! What always holds: there are so many questions under way at most, and a node that could not be reached is left alone for a
//! moment. Whoever stops waiting for a claim has it taken back, and what it was given in that moment is given back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, StatusCode, Uri};
use parking_lot::Mutex;
use tidegate_model::cluster::ask::{ASK_BYTES_MAX, Pass, Said};
use tidegate_model::message::Request;
use tidegate_model::tick::Tick;
use tidegate_proxy::cache::shield::{PATH, desk};
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, Sender};
use tidegate_wire::{clock, task};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{One, Question, Told};
use crate::wiring::Gate;

/// Questions under way, to all nodes.
const QUESTIONS_MAX: usize = 1_024;
/// Bytes of a question: what stands around it is as little as a head.
const CONTENT_BYTES_MAX: usize = ASK_BYTES_MAX - (64 << 10);
/// Connections that are kept to one node.
const IDLE_MAX: usize = 8;
/// How long a node that could not be reached is not asked.
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// How long a claim that nobody waits for may still be answered.
const TAKEN_BACK: Duration = Duration::from_secs(5);

/// Why a node has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It was not told.
    Unasked,
    /// It may have done what was asked.
    Unknown,
}

/// How other nodes are asked.
pub struct Nodes {
    asks: mpsc::Sender<Ask>,
    asked: Mutex<Option<mpsc::Receiver<Ask>>>,
    room: Arc<Semaphore>,
    /// What became of questions.
    pub counts: Counts,
}

/// What became of questions between nodes.
#[derive(Default)]
pub struct Counts {
    answered: AtomicU64,
    unreached: AtomicU64,
    unknown: AtomicU64,
    full: AtomicU64,
    /// Of other nodes: they were answered.
    pub(super) heard: AtomicU64,
    /// They were not.
    pub(super) unheard: AtomicU64,
    /// Nobody waited for the answer any more.
    pub(super) gone: AtomicU64,
}

impl Counts {
    fn add(&self, told: &Result<Told, Lost>) {
        let count = match told {
            Ok(_) => &self.answered,
            Err(Lost::Unasked) => &self.unreached,
            Err(Lost::Unknown) => &self.unknown,
        };
        count.fetch_add(1, Relaxed);
    }

    /// What became of this node's questions.
    pub fn passed(&self) -> [(&'static str, u64); 4] {
        let Counts { answered, unreached, unknown, full, .. } = self;
        let all = [("answered", answered), ("unreached", unreached), ("unknown", unknown), ("full", full)];
        all.map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }

    /// What became of those of others.
    pub fn heard(&self) -> [(&'static str, u64); 3] {
        let Counts { heard, unheard, gone, .. } = self;
        let all = [("answered", heard), ("unanswered", unheard), ("gone", gone)];
        all.map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }
}

impl Default for Nodes {
    fn default() -> Nodes {
        let (asks, asked) = mpsc::channel(QUESTIONS_MAX);
        let room = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Nodes { asks, asked: Mutex::new(Some(asked)), room, counts: Counts::default() }
    }
}

/// A question on its way.
struct Ask {
    node: Arc<str>,
    question: Question,
    by: Tick,
    answer: oneshot::Sender<Result<Told, Lost>>,
    _room: OwnedSemaphorePermit,
}

/// A question that was asked. Dropped, its answer is wanted no more.
pub(super) struct Asked<'a> {
    nodes: &'a Nodes,
    pub node: Arc<str>,
    answer: oneshot::Receiver<Result<Told, Lost>>,
}

impl Nodes {
    /// Asks a node. `None`: too much is asked already.
    pub(super) fn ask(&self, node: &Arc<str>, question: Question, patience: Duration) -> Option<Asked<'_>> {
        let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
            self.counts.full.fetch_add(1, Relaxed);
            return None;
        };
        let (answer, asked) = oneshot::channel();
        let by = clock::now().after(patience);
        let ask = Ask { node: Arc::clone(node), question, by, answer, _room: room };
        self.asks.try_send(ask).ok()?;
        Some(Asked { nodes: self, node: Arc::clone(node), answer: asked })
    }

    /// Questions under way.
    pub fn under_way(&self) -> usize {
        QUESTIONS_MAX.saturating_sub(self.room.available_permits())
    }

    /// Tells a node that nobody has seen these. If it cannot be told, they are held until their lease ends.
    pub(super) fn give_back(&self, node: &Arc<str>, grips: Vec<String>) {
        if !grips.is_empty() {
            // Nobody waits for the answer.
            drop(self.ask(node, Question::Return(grips), TAKEN_BACK));
        }
    }
}

impl Asked<'_> {
    /// What it is answered.
    pub(super) async fn answer(&mut self) -> Result<Told, Lost> {
        (&mut self.answer).await.unwrap_or(Err(Lost::Unknown))
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(Told::Claimed(all))) = self.answer.try_recv() {
            self.nodes.give_back(&self.node, grips_of(all));
        }
    }
}

fn grips_of(all: Vec<One>) -> Vec<String> {
    all.into_iter().map(|one| one.grip).collect()
}

/// Asks other nodes from now on. Must be called on the control runtime.
pub fn drive(gate: Arc<Gate>) {
    let Some(mut asked) = gate.nodes.asked.lock().take() else { return };
    task::spawn(async move {
        let lines = Rc::new(Lines { gate, idle: RefCell::default(), away: RefCell::default() });
        while let Some(ask) = asked.recv().await {
            task::spawn(Rc::clone(&lines).carry(ask));
        }
    });
}

/// The connections to other nodes.
struct Lines {
    gate: Arc<Gate>,
    idle: RefCell<HashMap<Arc<str>, Vec<Sender>>>,
    /// Until when nodes are not asked.
    away: RefCell<HashMap<Arc<str>, Tick>>,
}

impl Lines {
    /// Carries a question to its node and its answer back.
    async fn carry(self: Rc<Self>, ask: Ask) {
        let Ask { node, question, by, mut answer, _room } = ask;
        let claim = if let Question::Claim(number, _) = &question { Some(*number) } else { None };
        let told = {
            let mut asked = pin!(self.ask(&node, &question, by));
            tokio::select! {
                biased;
                told = &mut asked => told,
                () = answer.closed(), if claim.is_some() => {
                    let by = clock::now().after(TAKEN_BACK);
                    // If it is not heard, the connection is closed behind it.
                    let _ = self.ask(&node, &Question::Cancel(claim.unwrap_or_default()), by).await;
                    clock::timeout_at(by, asked).await.unwrap_or_else(|_| self.counted(Err(Lost::Unknown)))
                }
            }
        };
        if let Err(Ok(Told::Claimed(all))) = answer.send(told) {
            let returned = Question::Return(grips_of(all));
            // If it is not heard, they are held until their lease ends.
            let _ = self.ask(&node, &returned, clock::now().after(TAKEN_BACK)).await;
        }
    }

    async fn ask(&self, node: &Arc<str>, question: &Question, by: Tick) -> Result<Told, Lost> {
        self.counted(self.put(node, question, by).await)
    }

    fn counted(&self, told: Result<Told, Lost>) -> Result<Told, Lost> {
        self.gate.nodes.counts.add(&told);
        told
    }

    async fn put(&self, node: &Arc<str>, question: &Question, by: Tick) -> Result<Told, Lost> {
        let site = self.gate.site();
        let homes = site.homes.as_ref().ok_or(Lost::Unasked)?;
        let (secret, wait) = (homes.secret(), homes.wait());
        let content = Bytes::from(serde_json::to_vec(question).map_err(|_| Lost::Unasked)?);
        if content.len() > CONTENT_BYTES_MAX {
            return Err(Lost::Unasked);
        }
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let said = Said::Pass(Pass { wait_ms, content });
        let (sealed, tag) = self.gate.standing.cache.peering.seal(secret, node, &said);
        let mut request = Request::new(Body::full(sealed));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(PATH);
        request.headers_mut().extend(HeaderValue::from_str(node).ok().map(|node| (HOST, node)));
        let sender = self.line(node, clock::now().after(wait).min(by)).await.ok_or(Lost::Unasked)?;
        let head_by = clock::now().after(wait).min(by);
        let response = sender.send(&mut request, head_by).await.map_err(|error| {
            tracing::debug!(%node, %error, "a node was not reached for deliveries");
            if error.sent { Lost::Unknown } else { Lost::Unasked }
        })?;
        let (head, mut body) = response.into_parts();
        if head.status != StatusCode::OK {
            tracing::warn!(%node, "it does not take us for a node of its cluster");
            return Err(Lost::Unasked);
        }
        let answer = desk::answer(&mut body, secret, &tag, wait, by).await;
        if let Some(sender) = body.into_sender() {
            let mut idle = self.idle.borrow_mut();
            let kept = idle.entry(Arc::clone(node)).or_default();
            kept.truncate(IDLE_MAX - 1);
            kept.push(sender);
        }
        let answer = answer.map_err(|why| {
            tracing::debug!(%node, why, "a node has not answered for deliveries");
            Lost::Unknown
        })?;
        serde_json::from_slice(&answer).map_err(|_| Lost::Unknown)
    }

    /// A connection to a node. `None`: it cannot be reached, or could not just now.
    async fn line(&self, node: &Arc<str>, by: Tick) -> Option<Sender> {
        let site = self.gate.site();
        let target = site.homes.as_ref()?.peer(node)?.any_target();
        let now = clock::now();
        self.idle
            .borrow_mut()
            .retain(|node, _| site.homes.as_ref().is_some_and(|homes| homes.peer(node).is_some()));
        self.away.borrow_mut().retain(|_, until| *until > now);
        loop {
            let kept = self.idle.borrow_mut().get_mut(node).and_then(Vec::pop);
            match kept {
                Some(mut sender) => {
                    if !sender.is_closed() {
                        return Some(sender);
                    }
                }
                None => break,
            }
        }
        if self.away.borrow().contains_key(node) {
            return None;
        }
        let connected = match &target {
            Some(target) => clock::timeout_at(by, client::connect(target)).await.ok().and_then(Result::ok),
            None => None,
        };
        if connected.is_none() {
            self.away.borrow_mut().insert(Arc::clone(node), clock::now().after(LEFT_ALONE));
        }
        connected
    }
}
