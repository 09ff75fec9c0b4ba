//! Which engine is asked: of what is held, that of its shard; of what is claimed, those of the tenants' shards that this
//! process has.
//!
//! A claim over several shards asks one after the other for what there is, beginning with another one each time, and, where
//! there is nothing, waits at all of them for the first that has something. What others give in the same moment is given back
//! by it, as if nobody had taken it.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use tidegate_store::Unavailable;
use tokio::sync::oneshot;

use super::{
    Answers, Claim, ClaimError, Claimed, Dispatcher, Ending, Extension, Grip, Held, Order, WaitingClaim,
};
use crate::rota::Shards;

/// What a claim comes to, at one engine.
type Answer = Result<Vec<Claimed>, ClaimError>;

impl Dispatcher {
    /// Waits for deliveries, and takes them. Dropped before, it takes none.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn claim(&self, claim: Claim) -> Answer {
        let there = self.shards_of(&claim.tenants).and(self.here());
        let first = self.turn.fetch_add(1, Relaxed) % u64::from(self.store.shards());
        let shards: Vec<u16> = there.from(u16::try_from(first).unwrap_or_default()).collect();
        let mut taking = Taking { from: self, asked: Vec::new(), got: Vec::new() };
        if shards.len() > 1 {
            let error = taking.what_there_is(&shards, &claim).await;
            match error {
                _ if !taking.got.is_empty() => return Ok(taking.take()),
                Some(why) => return Err(why),
                None if claim.wait.is_zero() => return Ok(Vec::new()),
                None => {}
            }
        }
        for shard in shards {
            taking.asked.push(self.ask(shard, claim.clone())?);
        }
        taking.first().await
    }

    /// Tells what came of deliveries that somebody has.
    pub async fn end(&self, endings: Vec<Ending>) -> Vec<Result<Held, Unavailable>> {
        self.tell(endings, |ending| ending.grip, Order::End).await
    }

    /// Gives back what nobody has seen, as if it had never been claimed.
    pub fn give_back(&self, grips: &[Grip]) {
        for grip in grips {
            if let Some(orders) = self.orders.get(usize::from(grip.seq.shard())) {
                // A list that is full leaves it held until its lease ends.
                let _ = orders.try_send(Order::Return(vec![*grip]));
            }
        }
    }

    /// Holds them longer.
    pub async fn extend(&self, extensions: Vec<Extension>) -> Vec<Result<Held, Unavailable>> {
        self.tell(extensions, |extension| extension.grip, Order::Extend).await
    }

    /// Tells each shard's engine what is for it. What each is answered, in their order.
    async fn tell<T>(
        &self,
        all: Vec<T>,
        grip: impl Fn(&T) -> Grip,
        order: impl Fn(Vec<T>, Answers) -> Order,
    ) -> Vec<Result<Held, Unavailable>> {
        let mut answers = vec![Ok(Held::Lost); all.len()];
        let mut of_shards: Vec<(u16, Vec<usize>, Vec<T>)> = Vec::new();
        for (place, one) in all.into_iter().enumerate() {
            let shard = grip(&one).seq.shard();
            match of_shards.iter_mut().find(|(of, ..)| *of == shard) {
                Some((_, places, some)) => {
                    places.push(place);
                    some.push(one);
                }
                None => of_shards.push((shard, vec![place], vec![one])),
            }
        }
        let here = self.here();
        for (shard, places, some) in of_shards {
            // What is of no shard was never held.
            let Some(orders) = self.orders.get(usize::from(shard)) else { continue };
            let told = if here.has(shard) {
                let (told, answer) = oneshot::channel();
                // A seat that has ended is answered for as its channel is dropped.
                let _ = orders.send(order(some, told)).await;
                answer.await.unwrap_or_else(|_| vec![Err(Unavailable::Stopped); places.len()])
            } else {
                vec![Err(Unavailable::Elsewhere); places.len()]
            };
            places.into_iter().zip(told).for_each(|(place, told)| answers[place] = told);
        }
        answers
    }

    pub(super) async fn order_all(&self, order: impl Fn() -> Order) {
        for orders in &*self.orders {
            // A seat that has ended begins nothing: what was ordered is on disk.
            let _ = orders.send(order()).await;
        }
    }

    /// The shards that this process has, or alone may have.
    fn here(&self) -> Shards {
        if self.store.is_shared() { self.shared.led() } else { Shards::all(self.store.shards()) }
    }

    /// Those of these tenants; of nobody in particular: all.
    fn shards_of(&self, tenants: &[Arc<str>]) -> Shards {
        if tenants.is_empty() {
            return Shards::all(self.store.shards());
        }
        let shards = tenants.iter().map(|tenant| Shards::one(self.store.shard_of(tenant)));
        Shards(shards.fold(0, |all, one| all | one.0))
    }

    fn ask(&self, shard: u16, claim: Claim) -> Result<oneshot::Receiver<Answer>, ClaimError> {
        let orders = self.orders.get(usize::from(shard)).ok_or(ClaimError::Elsewhere)?;
        let (told, answer) = oneshot::channel();
        orders.try_send(Order::Claim(WaitingClaim { claim, told })).map_err(|_| ClaimError::Busy)?;
        Ok(answer)
    }
}

/// A claim under way. What it was given and nobody waits for any more is given back.
struct Taking<'a> {
    from: &'a Dispatcher,
    asked: Vec<oneshot::Receiver<Answer>>,
    got: Vec<Claimed>,
}

impl Taking<'_> {
    /// Takes what there is, without waiting. Why not, where somebody would not.
    async fn what_there_is(&mut self, shards: &[u16], claim: &Claim) -> Option<ClaimError> {
        let mut error = None;
        for &shard in shards {
            let most = claim.most - self.got.len();
            let got: u64 = self.got.iter().map(|one| one.bytes).sum();
            if most == 0 || got >= claim.bytes_max {
                break;
            }
            let (bytes_max, first_any) = (claim.bytes_max - got, claim.first_any && self.got.is_empty());
            let now = Claim { most, bytes_max, first_any, wait: Duration::ZERO, ..claim.clone() };
            match self.from.ask(shard, now) {
                Ok(asked) => self.asked.push(asked),
                Err(why) => {
                    error = Some(why);
                    continue;
                }
            }
            match self.first().await {
                Ok(mut more) => self.got.append(&mut more),
                Err(why) => error = Some(why),
            }
        }
        error
    }

    /// Waits for the first that has something; where none has, for all of them.
    async fn first(&mut self) -> Answer {
        poll_fn(|context| {
            let mut last = None;
            for place in (0..self.asked.len()).rev() {
                let Poll::Ready(answer) = Pin::new(&mut self.asked[place]).poll(context) else { continue };
                drop(self.asked.swap_remove(place));
                // A seat that is gone has ended, or was just taken over.
                match answer.unwrap_or(Err(ClaimError::Busy)) {
                    Ok(got) if !got.is_empty() => return Poll::Ready(Ok(got)),
                    other => last = Some(other),
                }
            }
            match last {
                _ if !self.asked.is_empty() => Poll::Pending,
                Some(answer) => Poll::Ready(answer),
                None => Poll::Ready(Err(ClaimError::Elsewhere)),
            }
        })
        .await
    }

    fn take(&mut self) -> Vec<Claimed> {
        std::mem::take(&mut self.got)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let mut unwanted = self.take();
        for asked in &mut self.asked {
            asked.close();
            if let Ok(Ok(mut got)) = asked.try_recv() {
                unwanted.append(&mut got);
            }
        }
        self.from.give_back(&unwanted.iter().map(|one| one.grip).collect::<Vec<_>>());
    }
}
