//! What the engine asks of the store to change: gathered while the last is on its way to disk, and asked together.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_model::delivery::outcome::{self, Outcome, Policy};
use tidegate_model::delivery::{Becomes, Command, Ms, Seq, Token, Told};
use tidegate_model::tick::Tick;
use tidegate_store::Unavailable;
use tidegate_store::deliveries::{Asked, Attempt, Committed, Leased, Ready};
use tidegate_wire::{clock, task};

use super::{Engine, Event, Running};
use crate::attempt::Made;
use crate::dispatcher::{Answers, Held};
use crate::scheduler::Ended;
use crate::settings::{QueueSettings, Way};

/// Commands asked together.
const BATCH_MAX: usize = 512;
/// Batches on their way to disk: one is written while the next is decided on.
const BATCHES_MAX: usize = 2;
/// Outcomes that the store has not yet taken, beyond which nothing is begun.
const UNTOLD_MAX: usize = 4_096;
/// How much longer than its attempt a lease lasts: nobody else looks at it while this engine lives.
const MARGIN: Ms = 60_000;

/// A command, and what for.
#[derive(Debug)]
pub struct Pending {
    asked: Asked,
    purpose: Purpose,
}

/// What a command is for.
#[derive(Debug)]
pub enum Purpose {
    /// To make an attempt.
    Push(Ready),
    /// To hand it to whoever has asked, and until when that has it.
    Claim(Ready, u64, Tick),
    /// To tell what has happened: asked again until it is taken.
    Tell,
    /// Somebody waits for what it comes to, and has it until then where that is what was asked.
    Answer(Rc<Reply>, usize, Option<Tick>),
}

/// What somebody is told of several commands, once all are answered.
#[derive(Debug)]
pub struct Reply {
    answers: RefCell<Vec<Option<Result<Held, Unavailable>>>>,
    told: RefCell<Option<Answers>>,
}

impl Reply {
    pub fn new(count: usize, told: Answers) -> Rc<Reply> {
        Rc::new(Reply { answers: RefCell::new(vec![None; count]), told: RefCell::new(Some(told)) })
    }

    pub fn answer(&self, place: usize, answer: Result<Held, Unavailable>) {
        let mut answers = self.answers.borrow_mut();
        if let Some(held) = answers.get_mut(place) {
            *held = Some(answer);
        }
        self.finish(&answers);
    }

    /// Tells, if all are answered.
    pub fn finish(&self, answers: &[Option<Result<Held, Unavailable>>]) {
        let Some(all) = answers.iter().copied().collect::<Option<Vec<_>>>() else { return };
        if let Some(told) = self.told.borrow_mut().take() {
            // Whoever asked may have gone.
            let _ = told.send(all);
        }
    }

    /// Tells at once where nothing was asked.
    pub fn finish_empty(&self) {
        self.finish(&self.answers.borrow());
    }
}

/// Commands that wait, and those on their way.
#[derive(Debug, Default)]
pub struct Commits {
    waiting: Vec<Pending>,
    batches: usize,
    /// What has happened and is not on disk.
    untold: usize,
    /// The last batch was not taken.
    failed: bool,
}

impl Commits {
    pub fn ask(&mut self, asked: Asked, purpose: Purpose) {
        self.untold += usize::from(matches!(purpose, Purpose::Tell));
        self.waiting.push(Pending { asked, purpose });
    }

    /// Whether more may be begun. On a disk that is full there may be room to write down what has happened, and none for what
    /// is new: so that comes first, alone.
    pub fn may_begin(&self) -> bool {
        self.untold < if self.failed { 1 } else { UNTOLD_MAX }
    }

    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.batches == 0
    }
}

/// A command without more.
pub fn plain(seq: Seq, command: Command) -> Asked {
    Asked { seq, command, attempt: None, result: None }
}

impl Engine {
    /// Asks what waits to be asked.
    pub(super) fn flush(&mut self) {
        while self.commits.batches < BATCHES_MAX && !self.commits.waiting.is_empty() {
            let count = self.commits.waiting.len().min(BATCH_MAX);
            let batch: Vec<Pending> = self.commits.waiting.drain(..count).collect();
            self.commits.batches += 1;
            let asked: Vec<Asked> = batch.iter().map(|one| one.asked.clone()).collect();
            let (parts, inbox, epoch, now) =
                (Rc::clone(&self.parts), Rc::clone(&self.inbox), self.epoch, self.now());
            task::spawn(async move {
                let told = parts.store.commit(epoch, asked, now).await;
                inbox.put(Event::Committed(batch, told));
            });
        }
    }

    pub(super) fn committed(&mut self, asked: Vec<Pending>, told: Result<Vec<Committed>, Unavailable>) {
        self.heed(&told);
        self.commits.batches -= 1;
        self.commits.failed = told.is_err();
        match told {
            Ok(told) => {
                for (one, told) in asked.into_iter().zip(told) {
                    let Committed { told, request, ready } = told;
                    ready.into_iter().for_each(|ready| self.arrived(ready));
                    self.carried_out(one, told, request);
                }
            }
            Err(error) => {
                let mut again = Vec::new();
                for one in asked {
                    match one.purpose {
                        Purpose::Tell => again.push(one),
                        Purpose::Answer(reply, place, _) => reply.answer(place, Err(error)),
                        Purpose::Push(ready) => self.not_begun(ready),
                        Purpose::Claim(ready, claim, _) => {
                            self.pull.missed(claim);
                            self.not_begun(ready);
                        }
                    }
                }
                again.append(&mut self.commits.waiting);
                self.commits.waiting = again;
            }
        }
    }

    fn carried_out(
        &mut self,
        one: Pending,
        told: Told,
        request: Option<Arc<tidegate_model::delivery::Request>>,
    ) {
        let Pending { asked, purpose } = one;
        let cancelled = self.cancelled.remove(&asked.seq);
        match (purpose, told, request) {
            (Purpose::Push(ready), Told::Started(token), Some(request)) if !cancelled => {
                self.make(ready, token, request);
            }
            (Purpose::Claim(ready, claim, until), Told::Started(token), Some(request)) if !cancelled => {
                self.pull.lease(ready.clone(), token, until);
                self.claimed(claim, ready, token, request, &asked.command);
            }
            (Purpose::Push(ready), ..) => self.scheduler.ended(ready.seq, Ended::NotBegun, clock::now()),
            (Purpose::Claim(ready, claim, _), ..) => {
                self.pull.missed(claim);
                self.scheduler.ended(ready.seq, Ended::NotBegun, clock::now());
            }
            (Purpose::Tell, ..) => {
                self.commits.untold -= 1;
                self.comes_again(&asked.command);
            }
            (Purpose::Answer(reply, place, lasts), told, _) => {
                let done = told == Told::Done;
                if done {
                    self.comes_again(&asked.command);
                    self.let_go(&asked, lasts);
                }
                reply.answer(place, Ok(if done { Held::Done } else { Held::Lost }));
            }
        }
    }

    /// What was put off is due then.
    fn comes_again(&mut self, command: &Command) {
        if let Command::Finish { becomes: Becomes::Again { due } | Becomes::Unsent { due }, .. } = command {
            self.looks.due(*due);
        }
    }

    /// The store has not taken its start: it may be begun still.
    fn not_begun(&mut self, ready: Ready) {
        self.cancelled.remove(&ready.seq);
        self.scheduler.ended(ready.seq, Ended::NotBegun, clock::now());
        self.arrived(ready);
    }

    /// Asks that an attempt be spent.
    pub(super) fn start(&mut self, ready: Ready, wall: Ms) {
        let lease = self.queues.get(&ready.line.queue).map_or(MARGIN, |queue| lease_of(queue));
        let until = wall.saturating_add(lease);
        self.commits.ask(plain(ready.seq, Command::Start { until }), Purpose::Push(ready));
    }

    fn policy(&self, queue: &str) -> Policy {
        self.queues.get(queue).map_or_else(Policy::default, |queue| queue.policy.clone())
    }

    pub(super) fn pulls(&self, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|queue| queue.way == Way::Pull)
    }

    /// What becomes of a delivery whose attempt has ended so.
    pub(super) fn judge(&self, delivery: &Ready, outcome: Outcome) -> Becomes {
        let policy = self.policy(&delivery.line.queue);
        let chance = self.maker.chance.word();
        outcome::judge(outcome, &policy, delivery.attempts + 1, delivery.attempts_max, self.now(), chance)
    }

    /// An attempt has ended: its slot is free, and what came of it is told.
    pub(super) fn ended(&mut self, seq: Seq, token: Token, made: Option<Made>) {
        let Some(Running { token: held, ready, began, .. }) = self.running.remove(&seq) else { return };
        debug_assert_eq!(held, token);
        let now = clock::now();
        let Some(made) = made else {
            // It was cancelled, and so has ended.
            self.scheduler.ended(seq, Ended::Made, now);
            self.shared.count(&ready.line.queue, "cancelled", self.now().saturating_sub(began));
            return;
        };
        let how = made.closed.map_or(Ended::Made, Ended::Unsent);
        self.scheduler.ended(seq, how, now);
        let becomes = self.judge(&ready, made.outcome);
        let took = self.now().saturating_sub(began);
        let sent = !matches!(made.outcome, Outcome::Unsent(_));
        self.shared.count(&ready.line.queue, name_of(&becomes), took);
        let attempt = sent.then(|| Attempt {
            number: ready.attempts + 1,
            began,
            took,
            status: made.status.map(|status| status.as_u16()),
            why: made.why.clone(),
            answer: made.answer,
        });
        let last = matches!(becomes, Becomes::Delivered { .. } | Becomes::Dead { .. });
        let command = Command::Finish { token, becomes, why: made.why };
        self.commits
            .ask(Asked { seq, command, attempt, result: made.result.filter(|_| last) }, Purpose::Tell);
    }

    /// Nobody was heard of who had it.
    pub(super) fn lapsed(&mut self, delivery: Ready, token: Token, purpose: Purpose) {
        let becomes = self.judge(&delivery, Outcome::Lapsed);
        self.shared.count(&delivery.line.queue, "lapsed", 0);
        let why = Some(Arc::from("whoever had it was not heard of again"));
        self.commits.ask(plain(delivery.seq, Command::Finish { token, becomes, why }), purpose);
    }

    pub(super) fn expire(&mut self, seq: Seq, queue: &str) {
        let forgotten = outcome::later(self.now(), self.policy(queue).keep.dead);
        self.commits.ask(plain(seq, Command::Expire { forgotten }), Purpose::Tell);
    }

    /// A lease of whoever pulls goes on.
    pub(super) fn take_over(&mut self, leased: Leased) {
        let left = leased.until.saturating_sub(self.now());
        let most = super::pull::LEASE_MAX.as_millis() as Ms;
        let until = clock::now().after(std::time::Duration::from_millis(left.min(most)));
        let parts = Rc::clone(&self.parts);
        self.scheduler.adopt(&leased.delivery, clock::now(), |tenant| parts.weight(tenant));
        self.pull.lease(leased.delivery, leased.token, until);
    }
}

/// How long an attempt of this queue is leased.
pub fn lease_of(queue: &QueueSettings) -> Ms {
    MARGIN.saturating_add(queue.timeout.as_millis() as Ms)
}

pub fn name_of(becomes: &Becomes) -> &'static str {
    match becomes {
        Becomes::Delivered { .. } => "delivered",
        Becomes::Again { .. } => "again",
        Becomes::Unsent { .. } => "unsent",
        Becomes::Dead { .. } => "dead",
    }
}
