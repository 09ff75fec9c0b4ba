//! Those who come for deliveries: claims that wait, and the leases of what they have got.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::outcome::{self, Outcome};
use tidegate_model::delivery::{Becomes, Command, Ms, Request, Seq, Token};
use tidegate_model::tick::Tick;
use tidegate_store::deliveries::{Asked, Attempt, Ready};
use tidegate_wire::clock;
use tokio::sync::oneshot;

use super::commits::{Purpose, Reply, plain};
use super::{Engine, Times};
use crate::dispatcher::{
    Answers, Claim, ClaimError, Claimed, Ending, Extension, Grip, Held, How, WaitingClaim,
};
use crate::scheduler::{Action, Ended, Most};

/// Claims that wait, in all.
const CLAIMS_MAX: usize = 4_096;
/// The longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
/// The shortest.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// What somebody has who came for it.
#[derive(Debug)]
struct Lease {
    ready: Ready,
    token: Token,
    began: Ms,
    until: Tick,
}

/// A claim whose deliveries are being leased.
struct Gathering {
    left: usize,
    got: Vec<Claimed>,
    told: oneshot::Sender<Result<Vec<Claimed>, ClaimError>>,
}

/// Claims and leases.
#[derive(Default)]
pub struct Pull {
    claims: VecDeque<(Tick, WaitingClaim)>,
    gathering: BTreeMap<u64, Gathering>,
    last: u64,
    leases: HashMap<Seq, Lease>,
    lapses: Times,
}

impl Pull {
    pub fn lease(&mut self, ready: Ready, token: Token, until: Tick) {
        let seq = ready.seq;
        self.forget(seq);
        self.lapses.insert((until, seq));
        self.leases.insert(seq, Lease { ready, token, began: crate::engine::wall(), until });
    }

    /// `true`: there was such a lease.
    pub fn forget(&mut self, seq: Seq) -> bool {
        let Some(lease) = self.leases.remove(&seq) else { return false };
        self.lapses.remove(&(lease.until, seq));
        true
    }

    fn held(&self, grip: Grip) -> Option<&Lease> {
        self.leases.get(&grip.seq).filter(|lease| lease.token == grip.token)
    }

    /// Whether anybody waits for something.
    pub fn is_awaited(&self) -> bool {
        !self.claims.is_empty()
    }

    /// One of a claim's is not to be had after all.
    pub fn missed(&mut self, claim: u64) {
        if let Some(gathering) = self.gathering.get_mut(&claim) {
            gathering.left = gathering.left.saturating_sub(1);
        }
    }

    /// Nothing more is claimed here, for this reason.
    pub fn refuse_all(&mut self, why: ClaimError) {
        for (_, claim) in self.claims.drain(..) {
            // Whoever asked may have gone.
            let _ = claim.told.send(Err(why));
        }
    }

    pub fn wakes(&self) -> Option<Tick> {
        let lapse = self.lapses.first().map(|(at, _)| *at);
        let patience = self.claims.iter().map(|(until, _)| *until).min();
        lapse.into_iter().chain(patience).min()
    }
}

impl Engine {
    pub(super) fn queue_up(&mut self, waiting: WaitingClaim) {
        let refusal = match () {
            () if !self.pulls(&waiting.claim.queue) => Some(ClaimError::Queue),
            // Told of nothing it would ask again at once.
            () if self.draining => Some(ClaimError::Draining),
            () if self.pull.claims.len() >= CLAIMS_MAX => Some(ClaimError::Busy),
            () => None,
        };
        match refusal {
            Some(refusal) => drop(waiting.told.send(Err(refusal))),
            None => {
                let until = clock::now().after(waiting.claim.wait);
                self.pull.claims.push_back((until, waiting));
            }
        }
    }

    /// Gives those who wait what there is.
    pub(super) fn serve_claims(&mut self, now: Tick, wall: Ms) {
        self.tell_gathered();
        for _ in 0..self.pull.claims.len() {
            let Some((until, waiting)) = self.pull.claims.pop_front() else { return };
            if waiting.told.is_closed() {
                continue;
            }
            let Claim { queue, tenants, .. } = &waiting.claim;
            let most = Most::of(&waiting.claim);
            let mut actions = Vec::new();
            let got = self.scheduler.claim(queue, tenants, most, now, wall, &mut actions);
            if got == 0 {
                actions.into_iter().for_each(|action| self.act(action));
                match until <= now {
                    true => drop(waiting.told.send(Ok(Vec::new()))),
                    false => self.pull.claims.push_back((until, waiting)),
                }
                continue;
            }
            self.pull.last += 1;
            let id = self.pull.last;
            let lease = self.lease_time(queue, waiting.claim.lease);
            // By the monotonic clock: the wall clock may be set before this is on disk.
            let until = now.after(lease);
            for action in actions {
                match action {
                    Action::Start(ready) => {
                        let command = Command::Start { until: wall.saturating_add(lease.as_millis() as Ms) };
                        self.commits.ask(plain(ready.seq, command), Purpose::Claim(ready, id, until));
                    }
                    other => self.act(other),
                }
            }
            self.pull.gathering.insert(id, Gathering { left: got, got: Vec::new(), told: waiting.told });
        }
    }

    fn lease_time(&self, queue: &str, asked: Option<Duration>) -> Duration {
        let usual = self.queues.get(queue).map_or(LEASE_MIN, |queue| queue.timeout);
        asked.unwrap_or(usual).clamp(LEASE_MIN, LEASE_MAX)
    }

    /// One of a claim's is leased.
    pub(super) fn claimed(
        &mut self,
        claim: u64,
        ready: Ready,
        token: Token,
        request: Arc<Request>,
        command: &Command,
    ) {
        let Command::Start { until } = command else { return };
        let Some(gathering) = self.pull.gathering.get_mut(&claim) else { return };
        gathering.left = gathering.left.saturating_sub(1);
        gathering.got.push(Claimed {
            grip: Grip { seq: ready.seq, token },
            id: ready.id,
            tenant: ready.line.tenant,
            key: ready.lane.map(|lane| lane.key),
            attempt: ready.attempts + 1,
            until: *until,
            bytes: ready.bytes,
            request,
        });
    }

    /// Tells those claims of which all is known.
    pub(super) fn tell_gathered(&mut self) {
        let done: Vec<u64> =
            self.pull.gathering.iter().filter(|(_, one)| one.left == 0).map(|(&id, _)| id).collect();
        for id in done {
            let Some(gathering) = self.pull.gathering.remove(&id) else { continue };
            if let Err(Ok(unwanted)) = gathering.told.send(Ok(gathering.got)) {
                // Whoever asked has gone, and nobody has seen them: no attempt was made.
                for one in unwanted {
                    self.give_back(one.grip);
                }
            }
        }
    }

    /// Nobody has seen it, and it may be begun again.
    pub(super) fn give_back(&mut self, grip: Grip) {
        let Some(lease) = self.pull.held(grip) else { return };
        let becomes = self.judge(&lease.ready, Outcome::Unsent(Some(Duration::ZERO)));
        self.pull.forget(grip.seq);
        self.scheduler.ended(grip.seq, Ended::Made, clock::now());
        let command = Command::Finish { token: grip.token, becomes, why: None };
        self.commits.ask(plain(grip.seq, command), Purpose::Tell);
    }

    /// Leases whose time is over.
    pub(super) fn lapse(&mut self, now: Tick) {
        while let Some(&(at, seq)) = self.pull.lapses.first().filter(|(at, _)| *at <= now) {
            self.pull.lapses.remove(&(at, seq));
            let Some(lease) = self.pull.leases.remove(&seq) else { continue };
            self.scheduler.ended(seq, Ended::Made, now);
            self.lapsed(lease.ready, lease.token, Purpose::Tell);
        }
    }

    pub(super) fn end(&mut self, endings: Vec<Ending>, told: Answers) {
        let reply = Reply::new(endings.len(), told);
        reply.finish_empty();
        for (place, ending) in endings.into_iter().enumerate() {
            let Ending { grip, how, why, result } = ending;
            let Some(lease) = self.pull.held(grip) else {
                reply.answer(place, Ok(Held::Lost));
                continue;
            };
            let becomes = match how {
                How::Done => {
                    let keep = self.queues.get(&lease.ready.line.queue).map(|queue| queue.policy.keep);
                    let keep = keep.unwrap_or_default().delivered;
                    Becomes::Delivered { forgotten: outcome::later(self.now(), keep) }
                }
                How::Refused(later) => self.judge(&lease.ready, Outcome::Refused(later)),
                How::Never => self.judge(&lease.ready, Outcome::Never),
            };
            let attempt = Attempt {
                number: lease.ready.attempts + 1,
                began: lease.began,
                took: self.now().saturating_sub(lease.began),
                status: None,
                why: why.clone(),
                answer: bytes::Bytes::new(),
            };
            let command = Command::Finish { token: grip.token, becomes, why };
            let asked = Asked { seq: grip.seq, command, attempt: Some(attempt), result };
            self.commits.ask(asked, Purpose::Answer(Rc::clone(&reply), place, None));
        }
    }

    pub(super) fn extend(&mut self, extensions: Vec<Extension>, told: Answers) {
        let reply = Reply::new(extensions.len(), told);
        reply.finish_empty();
        for (place, extension) in extensions.into_iter().enumerate() {
            let Extension { grip, lease, progress } = extension;
            let Some(held) = self.pull.held(grip) else {
                reply.answer(place, Ok(Held::Lost));
                continue;
            };
            let time = self.lease_time(&held.ready.line.queue, lease);
            let until = self.now().saturating_add(time.as_millis() as Ms);
            let command = Command::Extend { token: grip.token, until, progress };
            let lasts = Some(clock::now().after(time));
            self.commits.ask(plain(grip.seq, command), Purpose::Answer(Rc::clone(&reply), place, lasts));
        }
    }

    /// What somebody asked of a lease is on disk: that it lasts until then, or has ended.
    pub(super) fn let_go(&mut self, asked: &Asked, lasts: Option<Tick>) {
        match (&asked.command, lasts) {
            (Command::Extend { .. }, Some(until)) => {
                if let Some(lease) = self.pull.leases.get_mut(&asked.seq) {
                    self.pull.lapses.remove(&(lease.until, asked.seq));
                    lease.until = until;
                    self.pull.lapses.insert((until, asked.seq));
                }
            }
            (Command::Finish { becomes, .. }, _) => {
                let Some(lease) = self.pull.leases.get(&asked.seq) else { return };
                let took = self.now().saturating_sub(lease.began);
                self.shared.count(&lease.ready.line.queue, super::commits::name_of(becomes), took);
                self.pull.forget(asked.seq);
                self.scheduler.ended(asked.seq, Ended::Made, clock::now());
            }
            _ => {}
        }
    }
}
