//! What a worker asks, over all nodes that have a part of it.
//!
//! A claim asks one after the other for what there is, beginning with another one each time; where nobody has anything it waits
//! at all of them for the first that has. Who has which shard is looked up again once in a while, as it changes.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use tidegate_dispatch::{Claim, ClaimError, Dispatcher, Ending, Extension, Grip};
use tidegate_store::Unavailable;
use tidegate_store::deliveries::Who;
use tidegate_wire::clock;

use super::nodes::{Asked, Lost, Nodes};
use super::{One, Outcome, Passed, Question, Told, Why, grips, outcome_of};
use crate::control::{EndingOfOne, ExtensionOfOne, ending, extension};
use crate::wiring::Gate;

/// How long is waited at the same nodes: then is looked who has which shard.
const SAME: Duration = Duration::from_secs(10);
/// How much longer than it asks to wait for a claim is waited for, and how long for anything else.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of what is told a node at once: a question has a bound.
const TOLD_BYTES_MAX: usize = 1 << 20;

/// Where the next claim begins.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Who has deliveries to make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Here,
    Node(Arc<str>),
}

/// Claims of all who have shards of these tenants.
///
/// # Errors
/// [`ClaimError`]: nobody could be asked who has anything.
pub async fn claim(gate: &Gate, dispatcher: &Dispatcher, claim: Claim) -> Result<Vec<One>, ClaimError> {
    let until = clock::now().after(claim.wait);
    loop {
        let mut sources = sources(gate, dispatcher, &claim.tenants);
        if sources.iter().all(|source| *source == Source::Here) {
            let got = dispatcher.claim(claim).await?;
            return Ok(got.iter().map(One::from).collect());
        }
        let first = TURN.fetch_add(1, Relaxed) % sources.len();
        sources.rotate_left(first);
        let mut got = Got { nodes: &gate.nodes, dispatcher, all: Vec::new() };
        let refused = match &sources[..] {
            [_] => None,
            _ => what_there_is(gate, &mut got, &sources, &claim).await,
        };
        let left = until.since(clock::now());
        match refused {
            _ if !got.all.is_empty() => return Ok(got.take()),
            Some(why) => return Err(why),
            None if left.is_zero() && sources.len() > 1 => return Ok(Vec::new()),
            None => {}
        }
        let wait = Claim { wait: left.min(SAME), ..claim.clone() };
        let (all, source) = first_of(gate, dispatcher, &sources, &wait).await?;
        got.all = all.into_iter().map(|one| (source.clone(), one)).collect();
        if !got.all.is_empty() || clock::now() >= until {
            return Ok(got.take());
        }
    }
}

/// Who has shards of these tenants, and can be asked.
fn sources(gate: &Gate, dispatcher: &Dispatcher, tenants: &[Arc<str>]) -> Vec<Source> {
    let shards: Vec<u16> = tenants.iter().map(|tenant| dispatcher.store().shard_of(tenant)).collect();
    let site = gate.site();
    let found: BTreeSet<Source> = (dispatcher.leaders().into_iter())
        .filter(|leader| shards.is_empty() || shards.contains(&leader.shard))
        .filter_map(|leader| match leader.who {
            Who::Here => Some(Source::Here),
            Who::Elsewhere(name) => {
                site.homes.as_ref()?.peer(&name)?;
                Some(Source::Node(name))
            }
            Who::Nobody => None,
        })
        .collect();
    found.into_iter().collect()
}

/// Takes what there is of each, without waiting. Why not, where nobody would.
async fn what_there_is(
    gate: &Gate,
    got: &mut Got<'_>,
    sources: &[Source],
    claim: &Claim,
) -> Option<ClaimError> {
    let (mut refused, mut answered) = (None, false);
    for source in sources {
        let most = claim.most.saturating_sub(got.all.len());
        let bytes_max = claim.bytes_max.saturating_sub(got.bytes());
        if most == 0 || bytes_max == 0 {
            break;
        }
        let first_any = claim.first_any && got.all.is_empty();
        let now = Claim { most, bytes_max, first_any, wait: Duration::ZERO, ..claim.clone() };
        match of_one(gate, got.dispatcher, source, now).await {
            Ok(all) => {
                answered = true;
                got.all.extend(all.into_iter().map(|one| (source.clone(), one)));
            }
            Err(why) => refused = Some(why),
        }
    }
    refused.filter(|_| !answered)
}

/// Waits for the first that has something; where none has, for all of them.
async fn first_of(
    gate: &Gate,
    dispatcher: &Dispatcher,
    sources: &[Source],
    claim: &Claim,
) -> Result<(Vec<One>, Source), ClaimError> {
    let wait = |source: &Source| {
        let (source, claim) = (source.clone(), claim.clone());
        Box::pin(async move { (of_one(gate, dispatcher, &source, claim).await, source) })
    };
    let mut waiting: Vec<_> = sources.iter().map(wait).collect();
    let (mut answered, mut refused) = (None, None);
    while !waiting.is_empty() {
        let (told, source) = poll_fn(|context| {
            for place in 0..waiting.len() {
                if let Poll::Ready(told) = Pin::new(&mut waiting[place]).poll(context) {
                    drop(waiting.swap_remove(place));
                    return Poll::Ready(told);
                }
            }
            Poll::Pending
        })
        .await;
        match told {
            Ok(all) if !all.is_empty() => return Ok((all, source)),
            Ok(_) => answered = Some(source),
            Err(why) => refused = Some(why),
        }
    }
    match (answered, refused) {
        (Some(source), _) => Ok((Vec::new(), source)),
        (None, why) => Err(why.unwrap_or(ClaimError::Elsewhere)),
    }
}

/// Claims of one of them.
async fn of_one(
    gate: &Gate,
    dispatcher: &Dispatcher,
    source: &Source,
    claim: Claim,
) -> Result<Vec<One>, ClaimError> {
    let Source::Node(node) = source else {
        return Ok(dispatcher.claim(claim).await?.iter().map(One::from).collect());
    };
    let number = getrandom::u64().map_err(|_| ClaimError::Busy)?;
    let question = Question::Claim(number, Passed::of(&claim));
    let mut asked = gate.nodes.ask(node, question, claim.wait + PATIENCE).ok_or(ClaimError::Busy)?;
    match asked.answer().await {
        Ok(Told::Claimed(all)) => Ok(all),
        // That one ends, not this one: whoever has its shards next is asked then.
        Ok(Told::Unclaimed(Why::Draining)) => Err(ClaimError::Elsewhere),
        Ok(Told::Unclaimed(why)) => Err(why.into()),
        Ok(Told::Outcomes(_) | Told::Done) | Err(Lost::Unasked | Lost::Unknown) => Err(ClaimError::Elsewhere),
    }
}

/// What a claim has got so far. Dropped, nobody has seen it.
struct Got<'a> {
    nodes: &'a Nodes,
    dispatcher: &'a Dispatcher,
    all: Vec<(Source, One)>,
}

impl Got<'_> {
    fn bytes(&self) -> u64 {
        self.all.iter().map(|(_, one)| one.bytes).sum()
    }

    fn take(&mut self) -> Vec<One> {
        std::mem::take(&mut self.all).into_iter().map(|(_, one)| one).collect()
    }
}

impl Drop for Got<'_> {
    fn drop(&mut self) {
        for (source, one) in self.all.drain(..) {
            match source {
                Source::Here => self.dispatcher.give_back(&grips(&[one.grip])),
                Source::Node(node) => self.nodes.give_back(&node, vec![one.grip]),
            }
        }
    }
}

/// Tells what came of deliveries that somebody has, wherever their shards are.
pub async fn end(gate: &Gate, dispatcher: &Dispatcher, all: Vec<EndingOfOne>, well: bool) -> Vec<Outcome> {
    let (here, asked) =
        Parts::of(gate, dispatcher, all, |one| &one.grip).ask(gate, |some| Question::End(well, some));
    let own: Vec<Ending> = here.into_iter().filter_map(|one| ending(one, well).ok()).collect();
    let own = dispatcher.end(own).await;
    asked.answers(own).await
}

/// Holds them longer, wherever their shards are.
pub async fn extend(gate: &Gate, dispatcher: &Dispatcher, all: Vec<ExtensionOfOne>) -> Vec<Outcome> {
    let (here, asked) = Parts::of(gate, dispatcher, all, |one| &one.grip).ask(gate, Question::Extend);
    let own: Vec<Extension> = here.into_iter().filter_map(|one| extension(one).ok()).collect();
    let own = dispatcher.extend(own).await;
    asked.answers(own).await
}

/// What is told of several, by who is to be told.
struct Parts<T> {
    count: usize,
    here: Part<T>,
    nodes: Vec<(Arc<str>, Part<T>)>,
}

struct Part<T> {
    bytes: usize,
    places: Vec<usize>,
    all: Vec<T>,
}

impl<T> Default for Part<T> {
    fn default() -> Part<T> {
        Part { bytes: 0, places: Vec::new(), all: Vec::new() }
    }
}

impl<T: Serialize> Parts<T> {
    fn of(gate: &Gate, dispatcher: &Dispatcher, all: Vec<T>, grip: impl Fn(&T) -> &str) -> Parts<T> {
        let (site, leaders) = (gate.site(), dispatcher.leaders());
        let node_of = |grip: &str| {
            let shard = Grip::parse(grip)?.seq.shard();
            match &leaders.iter().find(|leader| leader.shard == shard)?.who {
                Who::Elsewhere(name) => site.homes.as_ref()?.peer(name).map(|_| Arc::clone(name)),
                Who::Here | Who::Nobody => None,
            }
        };
        let mut parts = Parts { count: all.len(), here: Part::default(), nodes: Vec::new() };
        for (place, one) in all.into_iter().enumerate() {
            let Some(node) = node_of(grip(&one)) else {
                parts.here.add(place, one, 0);
                continue;
            };
            let bytes = serde_json::to_vec(&one).map_or(usize::MAX, |text| text.len());
            if bytes > TOLD_BYTES_MAX {
                // It cannot be passed on: the worker is told who has it.
                parts.here.add(place, one, 0);
                continue;
            }
            let has_room = |(of, part): &&mut (Arc<str>, Part<T>)| {
                *of == node && part.bytes.saturating_add(bytes) <= TOLD_BYTES_MAX
            };
            match parts.nodes.iter_mut().find(has_room) {
                Some((_, part)) => part.add(place, one, bytes),
                None => {
                    let mut part = Part::default();
                    part.add(place, one, bytes);
                    parts.nodes.push((node, part));
                }
            }
        }
        parts
    }

    /// Tells the other nodes. What is this one's to be told.
    fn ask(self, gate: &Gate, question: impl Fn(Vec<T>) -> Question) -> (Vec<T>, Telling<'_>) {
        let nodes = (self.nodes.into_iter())
            .map(|(node, part)| (part.places, gate.nodes.ask(&node, question(part.all), PATIENCE)))
            .collect();
        (self.here.all, Telling { count: self.count, here: self.here.places, nodes })
    }
}

/// What several nodes are being told.
struct Telling<'a> {
    count: usize,
    here: Vec<usize>,
    nodes: Vec<(Vec<usize>, Option<Asked<'a>>)>,
}

impl Telling<'_> {
    /// What each is answered, in their order, with what this node has answered.
    async fn answers(self, here: Vec<Outcome>) -> Vec<Outcome> {
        let mut outcomes = vec![Err(Unavailable::Elsewhere); self.count];
        let mut put = |places: Vec<usize>, told: Vec<Outcome>| {
            places.into_iter().zip(told).for_each(|(place, told)| outcomes[place] = told);
        };
        put(self.here, here);
        for (places, asked) in self.nodes {
            let count = places.len();
            let told = match asked {
                Some(mut asked) => asked.answer().await,
                None => Err(Lost::Unasked),
            };
            let told = match told {
                Ok(Told::Outcomes(told)) if told.len() == count => {
                    told.iter().map(|one| outcome_of(one)).collect()
                }
                Err(Lost::Unasked) => vec![Err(Unavailable::Elsewhere); count],
                Ok(_) | Err(Lost::Unknown) => vec![Err(Unavailable::Failing); count],
            };
            put(places, told);
        }
        outcomes
    }
}

impl<T> Part<T> {
    fn add(&mut self, place: usize, one: T, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.places.push(place);
        self.all.push(one);
    }
}
