//! Answers what other nodes ask of deliveries: from the engines of this process alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use tidegate_dispatch::{Claim, Dispatcher, Ending, Extension};
use tidegate_proxy::cache::shield::desk::{Handed, Heard, PASSED_BYTES_MAX};
use tidegate_wire::task;
use tokio::sync::{Semaphore, oneshot};

use super::{One, Question, TOGETHER_MAX, Told, Why, grips, name_of};
use crate::control::{ending, extension};
use crate::wiring::Gate;

/// Questions of other nodes that are answered at once.
const ANSWERED_MAX: usize = 4_096;

/// Claims that wait, by their number: whoever asked may take one back.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>;

/// Answers from now on. Must be called on the control runtime.
pub fn drive(gate: Arc<Gate>) {
    let Some(mut heard) = gate.standing.cache.peering.desk.take() else { return };
    task::spawn(async move {
        let (room, waiting) = (Arc::new(Semaphore::new(ANSWERED_MAX)), Waiting::default());
        while let Some(Heard { content, mut answer }) = heard.recv().await {
            // Whoever is not answered hears that it would not.
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                gate.nodes.counts.unheard.fetch_add(1, Relaxed);
                continue;
            };
            let (gate, waiting) = (Arc::clone(&gate), Arc::clone(&waiting));
            task::spawn(async move {
                let _place = place;
                let counts = &gate.nodes.counts;
                let became = tokio::select! {
                    biased;
                    () = answer.closed() => &counts.gone,
                    told = answered(&gate, &waiting, &content) => match told.map(|handed| answer.send(handed)) {
                        Some(Ok(())) => &counts.heard,
                        // Nobody takes it: so it is lost as it is dropped.
                        Some(Err(_)) => &counts.gone,
                        None => &counts.unheard,
                    },
                };
                became.fetch_add(1, Relaxed);
            });
        }
    });
}

/// `None`: it cannot be answered.
async fn answered(gate: &Arc<Gate>, waiting: &Waiting, content: &[u8]) -> Option<Handed> {
    let question: Question = serde_json::from_slice(content).ok()?;
    let dispatcher = gate.dispatcher()?;
    match question {
        Question::Claim(number, passed) => Some(claimed(dispatcher, waiting, number, passed.claim()).await),
        Question::Cancel(number) => {
            drop(waiting.lock().remove(&number));
            said(&Told::Done)
        }
        Question::Return(all) => {
            dispatcher.give_back(&grips(&all));
            said(&Told::Done)
        }
        Question::End(well, all) => {
            let all: Result<Vec<Ending>, _> =
                all.into_iter().take(TOGETHER_MAX).map(|one| ending(one, well)).collect();
            outcomes(&dispatcher.end(all.ok()?).await)
        }
        Question::Extend(all) => {
            let all: Result<Vec<Extension>, _> = all.into_iter().take(TOGETHER_MAX).map(extension).collect();
            outcomes(&dispatcher.extend(all.ok()?).await)
        }
    }
}

fn outcomes(all: &[super::Outcome]) -> Option<Handed> {
    said(&Told::Outcomes(all.iter().map(|one| name_of(one).to_owned()).collect()))
}

fn said(told: &Told) -> Option<Handed> {
    Some(Handed::new(serde_json::to_vec(told).ok()?, || {}))
}

/// A claim that another node passed on.
async fn claimed(dispatcher: &Arc<Dispatcher>, waiting: &Waiting, number: u64, claim: Claim) -> Handed {
    let (taken_back, back) = oneshot::channel();
    waiting.lock().insert(number, taken_back);
    let place = Place { waiting: Arc::clone(waiting), number };
    let got = tokio::select! {
        biased;
        got = dispatcher.claim(claim) => got,
        _ = back => Ok(Vec::new()),
    };
    drop(place);
    let unclaimed = |why| Handed::new(serde_json::to_vec(&Told::Unclaimed(why)).unwrap_or_default(), || {});
    let all = match got {
        Ok(all) => all,
        Err(error) => return unclaimed(Why::from(error)),
    };
    let held: Vec<_> = all.iter().map(|one| one.grip).collect();
    let told = serde_json::to_vec(&Told::Claimed(all.iter().map(One::from).collect())).unwrap_or_default();
    if told.is_empty() || told.len() as u64 > PASSED_BYTES_MAX {
        dispatcher.give_back(&held);
        return unclaimed(Why::Busy);
    }
    let dispatcher = Arc::clone(dispatcher);
    Handed::new(told, move || dispatcher.give_back(&held))
}

/// A claim's place among those that wait.
struct Place {
    waiting: Waiting,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.number);
    }
}
