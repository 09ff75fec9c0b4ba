//! What has to hold of every history, each rule for itself. Each is shown to see what it is there for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_model::delivery::{Id, Ms, Record, Seq, State, Token};
use tidegate_model::plan::Rate;
use tidegate_store::deliveries::{Line, Pause};

use super::history::{Event, History, Went, What};
use crate::dispatcher::{Held, How};

/// A rule: what is wrong.
type Rule = fn(&History) -> Vec<String>;

/// All of them, by their names.
pub const RULES: [(&str, Rule); 12] = [
    ("what is accepted comes to its end", accepted_ends),
    ("what has ended did so for a reason", ends_have_reasons),
    ("nothing is made again that need not be", repeats_have_reasons),
    ("no more attempts than may be", attempts_are_counted),
    ("a key's order is kept", order_is_kept),
    ("no more at once than may be", concurrency_is_kept),
    ("no faster than may be", rates_are_kept),
    ("an old lease changes nothing", leases_fence),
    ("what is paused is left alone", pauses_are_kept),
    ("nothing before its time, nothing after it", times_are_kept),
    ("nothing before what it comes after", afters_are_kept),
    ("the store is sound", store_is_sound),
];

/// What is wrong with a history.
pub fn broken(history: &History) -> Vec<String> {
    let tell = |(name, rule): &(&str, Rule)| {
        rule(history).into_iter().map(|what| format!("{name}: {what}")).collect::<Vec<_>>()
    };
    RULES.iter().flat_map(tell).collect()
}

fn accepted_ends(history: &History) -> Vec<String> {
    let found: BTreeMap<Id, &Record> = history.records.iter().map(|record| (record.id, record)).collect();
    let mut wrong = BTreeSet::new();
    for event in &history.events {
        if let What::Accepted(id) = event.what
            && !found.contains_key(&id)
        {
            wrong.insert(format!("{id} was accepted and is gone"));
        }
    }
    for record in &history.records {
        if !record.state.has_ended() {
            wrong.insert(format!("{} is {} still", record.id, record.state.name()));
        }
        let callback = history.asked(record.id).and_then(|asked| asked.callback);
        if let Some(callback) = callback.filter(|callback| !found.contains_key(callback)) {
            wrong.insert(format!("{} has ended, and {callback} is not there to tell of it", record.id));
        }
    }
    wrong.into_iter().collect()
}

fn ends_have_reasons(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for record in &history.records {
        let id = record.id;
        let went = |is: Went| {
            history.has(|what| matches!(what, What::Ended { id: own, went, .. } if *own == id && *went == is))
        };
        let told = |is: How| {
            history.has(|what| matches!(what, What::Telling { id: own, how } if *own == id && *how == is))
        };
        let has_reason = match record.state {
            State::Delivered => went(Went::Well) || told(How::Done),
            State::Cancelled => history.was_cancelled(id),
            State::Dead => {
                let asked = history.asked(id);
                let most = asked
                    .and_then(|asked| asked.attempts_max)
                    .or(history.queue(&record.queue).map(|queue| queue.policy.attempts_max));
                went(Went::Never)
                    || told(How::Never)
                    || most.is_some_and(|most| record.attempts >= most)
                    // Of one of a kind another one may have said it.
                    || asked.is_some_and(|asked| asked.expires.is_some() || asked.is_unique || !asked.after.is_empty())
            }
            _ => true,
        };
        if !has_reason {
            wrong.push(format!("{id} is {} for no reason: {:?}", record.state.name(), record.why));
        }
    }
    wrong
}

/// An attempt as the application has seen it.
struct Attempt {
    place: usize,
    process: u32,
    number: u32,
    went: Option<(usize, Went)>,
}

/// The attempts of each pushed delivery, in their order.
fn attempts(history: &History) -> BTreeMap<Id, Vec<Attempt>> {
    let mut all: BTreeMap<Id, Vec<Attempt>> = BTreeMap::new();
    for (place, event) in history.events.iter().enumerate() {
        match &event.what {
            What::Began { id, attempt, .. } => {
                let (process, number) = (event.process, *attempt);
                all.entry(*id).or_default().push(Attempt { place, process, number, went: None });
            }
            What::Ended { id, went, .. } => {
                let own = all.get_mut(id).into_iter().flatten();
                if let Some(last) = own.rev().find(|one| one.went.is_none() && one.process == event.process) {
                    last.went = Some((place, *went));
                }
            }
            _ => {}
        }
    }
    all
}

fn repeats_have_reasons(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, attempts) in attempts(history) {
        for pair in attempts.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            let between = &history.events[first.place..second.place];
            // Its start may have been written with what took the shard away, and told with it.
            let from = history.events[first.place].at.saturating_sub(history.latency);
            let is_fenced = |event: &Event| event.what == What::Fenced && event.at >= from;
            let was_under_way = history.events[..second.place].iter().any(is_fenced)
                || between.iter().any(|event| {
                    event.what == What::Redriving(id)
                        || matches!(event.what, What::WasLeased(own, _) if own == id)
                });
            let failed = matches!(first.went, Some((_, Went::Badly)));
            if !failed && !was_under_way {
                wrong.push(format!(
                    "{id}: attempt {} went {:?}, and it was made again",
                    first.number, first.went
                ));
            }
        }
    }
    let (mut begun, mut drained_by) = (BTreeMap::new(), None);
    for event in &history.events {
        match &event.what {
            What::Began { id, .. } => drop(begun.insert(*id, event.process)),
            What::Gone { drained } => drained_by = drained.then_some(event.process),
            What::WasLeased(id, _) if drained_by.is_some() && begun.get(id).copied() == drained_by => {
                wrong.push(format!("{id} was under way when the process had drained"));
            }
            _ => {}
        }
    }
    // Nobody is given what was told to be done.
    let mut done = BTreeSet::new();
    for event in &history.events {
        match &event.what {
            What::Told { id, how: How::Done | How::Never, held: Held::Done, .. } => drop(done.insert(*id)),
            What::Redriving(id) => drop(done.remove(id)),
            What::Claimed { id, .. } if done.contains(id) => {
                wrong.push(format!("{id} was done, and is claimed again"))
            }
            _ => {}
        }
    }
    wrong
}

fn attempts_are_counted(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, attempts) in attempts(history) {
        if history.was_redriven(id) {
            continue;
        }
        let Some(record) = history.records.iter().find(|record| record.id == id) else { continue };
        let most = record.attempts_max.or_else(|| history.attempts_max(&record.queue));
        if most.is_some_and(|most| attempts.len() > most as usize) {
            wrong.push(format!("{id} has had {} attempts of {most:?}", attempts.len()));
        }
        let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.number).collect();
        if !numbers.is_sorted_by(|a, b| a < b) || numbers.last().is_some_and(|last| *last > record.attempts) {
            wrong.push(format!("{id} has had the attempts {numbers:?}, and {} are counted", record.attempts));
        }
    }
    wrong
}

fn order_is_kept(history: &History) -> Vec<String> {
    let all = attempts(history);
    let mut lanes = BTreeMap::<_, Vec<&Record>>::new();
    for record in &history.records {
        if let Some(lane) = record.lane.as_ref().filter(|lane| lane.ordered) {
            let lane = (record.queue.clone(), record.tenant.clone(), lane.key.clone());
            lanes.entry(lane).or_default().push(record);
        }
    }
    let mut wrong = Vec::new();
    for lane in lanes.values_mut() {
        lane.sort_by_key(|record| record.seq);
        // The last that the application has seen of those before.
        let mut before: Option<(Id, usize)> = None;
        for record in lane.iter() {
            // One that is made again out of its turn, or broken off, says nothing of the others.
            if history.was_redriven(record.id) || history.was_cancelled(record.id) {
                continue;
            }
            let Some(own) = all.get(&record.id) else { continue };
            if let (Some((id, last)), Some(first)) = (before, own.first())
                && first.place < last
            {
                wrong.push(format!("{} was begun before {id} was over", record.id));
            }
            let last = own.iter().map(|one| one.went.map_or(one.place, |(at, _)| at)).max();
            before = last.map(|last| (record.id, last)).or(before);
        }
    }
    wrong
}

/// Who is at work: of whose, at which place, until when at least.
struct Busy {
    seq: Seq,
    line: Line,
    key: Option<Arc<str>>,
    least: Ms,
}

fn concurrency_is_kept(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut pushed, mut pulled): (BTreeMap<Id, Busy>, BTreeMap<Seq, (Token, Busy)>) = Default::default();
    for event in &history.events {
        pulled.retain(|_, (_, busy)| busy.least > event.at);
        match &event.what {
            What::Began { id, seq, line, key, .. } => {
                let busy = Busy { seq: *seq, line: line.clone(), key: key.clone(), least: 0 };
                too_many(history, &busy, pushed.values(), &mut wrong);
                pushed.insert(*id, busy);
            }
            What::Ended { id, .. } => drop(pushed.remove(id)),
            What::Cancelling(id) => {
                let cancelled = pushed.remove(id).map(|busy| busy.seq);
                let record = history.records.iter().find(|record| record.id == *id);
                let seq = cancelled.or(record.map(|record| record.seq));
                seq.and_then(|seq| pulled.remove(&seq));
            }
            What::Claimed { seq, token, line, key, least, .. } => {
                let busy = Busy { seq: *seq, line: line.clone(), key: key.clone(), least: *least };
                too_many(history, &busy, pulled.values().map(|(_, busy)| busy), &mut wrong);
                pulled.insert(*seq, (*token, busy));
            }
            What::Extended { seq, token, least } => {
                if let Some((_, busy)) = pulled.get_mut(seq).filter(|(held, _)| held == token) {
                    busy.least = *least;
                }
            }
            // From when it is told on the engine may have heard it.
            What::Telling { id, .. } => {
                let record = history.records.iter().find(|record| record.id == *id);
                record.and_then(|record| pulled.remove(&record.seq));
            }
            What::Jumped(_) => pulled.clear(),
            What::Fenced => pushed.clear(),
            What::Gone { .. } => pushed.clear(),
            _ => {}
        }
    }
    wrong
}

fn too_many<'a>(
    history: &History,
    new: &Busy,
    others: impl Iterator<Item = &'a Busy>,
    wrong: &mut Vec<String>,
) {
    let Some(queue) = history.queue(&new.line.queue) else { return };
    let (mut of_queue, mut of_tenant, mut of_key) = (1, 1, 1);
    for other in others.filter(|other| other.line.queue == new.line.queue && other.seq != new.seq) {
        of_queue += 1;
        of_tenant += u32::from(other.line.tenant == new.line.tenant);
        of_key += u32::from(other.line == new.line && other.key == new.key && new.key.is_some());
    }
    let per_key = if queue.per_key.ordered { Some(1) } else { queue.per_key.concurrency };
    for (what, count, most) in [
        ("queue", of_queue, Some(queue.concurrency)),
        ("tenant", of_tenant, queue.tenant_concurrency),
        ("key", of_key, per_key),
    ] {
        if most.is_some_and(|most| count > most) {
            wrong.push(format!("{:?}: {count} of one {what} at once, of {most:?}", new.line));
        }
    }
}

/// What a rate lets pass in any time: one more for the moment before a batch is on disk.
fn rates_are_kept(history: &History) -> Vec<String> {
    let mut begun = BTreeMap::<_, Vec<Ms>>::new();
    for Event { at, process, what, .. } in &history.events {
        let What::Began { line, key, .. } = what else { continue };
        begun.entry((*process, line.queue.clone(), None)).or_default().push(*at);
        if let Some(key) = key {
            let own = Some((line.tenant.clone(), key.clone()));
            begun.entry((*process, line.queue.clone(), own)).or_default().push(*at);
        }
    }
    let mut wrong = Vec::new();
    for ((_, queue, key), times) in begun {
        let Some(settings) = history.queue(&queue) else { continue };
        let rate = if key.is_some() { &settings.per_key.rate } else { &settings.rate };
        let Some(rate) =
            rate.as_ref().filter(|_| !history.has(|what| *what == What::Configured || *what == What::Fenced))
        else {
            continue;
        };
        if let Some(count) = too_fast(rate, &times, 3 * history.latency) {
            wrong.push(format!("{count} of {queue} {key:?} in a time for fewer"));
        }
    }
    wrong
}

/// So many in a time for fewer, where each may come late by this much.
fn too_fast(rate: &Rate, times: &[Ms], late: Ms) -> Option<usize> {
    for (first, from) in times.iter().enumerate() {
        for (last, to) in times.iter().enumerate().skip(first) {
            let count = last - first + 1;
            let window = u128::from(to - from + late) * u128::from(rate.limit);
            let most = u128::from(rate.burst) + window / rate.window.as_millis().max(1);
            if count as u128 > most {
                return Some(count);
            }
        }
    }
    None
}

fn leases_fence(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut last, mut ended) = (BTreeMap::<Seq, (Token, Ms)>::new(), BTreeSet::<(Seq, Token)>::new());
    // From then on it may be that a lease is lost though its time is not over.
    let mut shaken = BTreeSet::new();
    for event in &history.events {
        match &event.what {
            What::Claimed { id, seq, token, least, .. } => {
                if last.insert(*seq, (*token, *least)).is_some_and(|(before, _)| before >= *token) {
                    wrong.push(format!("{id} was claimed by {token:?} after a later one"));
                }
                shaken.remove(seq);
            }
            What::Extended { seq, token, least } => {
                if last.get(seq).is_some_and(|(held, _)| held > token) {
                    wrong.push(format!("{seq:?} was extended by {token:?}, which is an old one"));
                }
                last.insert(*seq, (*token, *least));
            }
            What::Told { id, seq, token, held: Held::Done, .. }
                if last.get(seq).is_some_and(|(held, _)| held > token) || !ended.insert((*seq, *token)) =>
            {
                wrong.push(format!("{id} was ended by {token:?}, which is an old one"));
            }
            What::Told { id, seq, token, held: Held::Lost, .. } => {
                let holds = last.get(seq).is_some_and(|(held, least)| held == token && event.at < *least);
                if holds && !shaken.contains(seq) && !history.was_cancelled(*id) && !history.jumps {
                    wrong.push(format!("{id} was lost by {token:?} before its time"));
                }
            }
            // What is told when the process dies may be done; so may it be where the answer got lost.
            What::Gone { .. } | What::Fenced | What::Configured => shaken.extend(last.keys().copied()),
            _ => {}
        }
    }
    wrong
}

fn pauses_are_kept(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut paused: Vec<(&Pause, Ms)> = Vec::new();
    for event in &history.events {
        match &event.what {
            What::Paused(pause) => paused.push((pause, event.at + 3 * history.latency)),
            What::Resuming(pause) => paused.retain(|(other, _)| *other != pause),
            What::Began { id, line, key, .. } | What::Claimed { id, line, key, .. } => {
                for (pause, _) in paused.iter().filter(|(_, from)| event.at > *from) {
                    let is_meant = match pause {
                        Pause::Queue(queue) => *queue == line.queue,
                        Pause::Tenant(tenant) => *tenant == line.tenant,
                        Pause::Line(other) => other == line,
                        Pause::Key(other, own) => other == line && Some(own) == key.as_ref(),
                    };
                    if is_meant {
                        wrong.push(format!("{id} was begun, and {pause:?} is paused"));
                    }
                }
            }
            _ => {}
        }
    }
    wrong
}

fn times_are_kept(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for event in history.events.iter().filter(|_| !history.jumps) {
        let (What::Began { id, .. } | What::Claimed { id, .. }) = &event.what else { continue };
        let Some(asked) = history.asked(*id) else { continue };
        if asked.is_unique || history.was_redriven(*id) {
            continue;
        }
        if asked.due.is_some_and(|due| event.wall < due) {
            wrong.push(format!("{id} was begun before it was due"));
        }
        if asked.expires.is_some_and(|expires| event.wall > expires + 3 * history.latency) {
            wrong.push(format!("{id} was begun after it had expired"));
        }
    }
    wrong
}

fn afters_are_kept(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut well = BTreeSet::new();
    for event in &history.events {
        match &event.what {
            What::Ended { id, went: Went::Well, .. } | What::Telling { id, how: How::Done } => {
                well.insert(*id);
            }
            What::Began { id, .. } | What::Claimed { id, .. } => {
                let after = history.asked(*id).map(|asked| asked.after.as_slice()).unwrap_or_default();
                let early = after.iter().find(|first| !well.contains(first));
                if let Some(first) = early.filter(|_| !history.was_redriven(*id)) {
                    wrong.push(format!("{id} was begun, and {first} is not yet delivered"));
                }
            }
            _ => {}
        }
    }
    wrong
}

fn store_is_sound(history: &History) -> Vec<String> {
    history.audit.clone()
}

#[cfg(test)]
mod tests;
