//! One process after the other over one disk: each with a runtime, a store and an engine of its own, killed or told to end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::outcome::Outcome;
use tidegate_model::delivery::{Command, Kind, Record, Told};
use tidegate_model::plan::Plan as TenantPlan;
use tidegate_model::tenant::Tenants;
use tidegate_store::deliveries::{Appended, Filter, PAGE_MAX, Ready};
use tidegate_store::{Hand, Store, Unavailable};
use tidegate_upstream::{Caller, Upstreams};
use tidegate_wire::{clock, task};
use tokio::runtime::{Builder, LocalOptions};

use super::disk::Disk;
use super::history::{Went, What};
use super::plan::{Act, STORM, below, percent};
use super::scene::{Sabotage, Scene, Seen};
use super::server::Server;
use super::workers;
use crate::attempt::{Made, Maker, Making, Played};
use crate::chance::Chance;
use crate::dispatcher::{Dispatcher, Parts};

/// How long after the storm all has to have ended. Whatever is under way then has seconds.
const PATIENCE: u64 = 900_000;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Killed,
    Drained,
    /// There is nothing left to be done, or it takes too long.
    Done,
}

/// Lets one process after the other run, until there is nothing left to be done.
pub fn play(scene: &Rc<Scene>, upstreams: &Arc<Upstreams>) {
    loop {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .expect("a runtime without input and output");
        let over = runtime.block_on(async {
            scene.take_up_time();
            let over = process(scene, upstreams).await;
            scene.note_anyway(What::Gone { drained: over != Over::Killed });
            if let Disk::Folder(folder) = &scene.disk {
                folder.change(!scene.alive.get());
            }
            scene.leave_time(Duration::from_millis(below(&scene.chance, 2_000)));
            over
        });
        scene.alive.set(false);
        drop(runtime);
        scene.process.set(scene.process.get() + 1);
        if over == Over::Done {
            break;
        }
    }
    clock::simulated::end();
    scene.history.borrow_mut().audit.extend(scene.disk.audit_after());
}

async fn process(scene: &Rc<Scene>, upstreams: &Arc<Upstreams>) -> Over {
    set_clock(scene);
    let (store, hands) = scene.disk.open();
    let store = Arc::new(store);
    scene.alive.set(true);
    scene.quiet.set(true);
    for (place, hand) in hands.into_iter().enumerate() {
        task::spawn(write(Rc::clone(scene), hand, place == 0));
    }
    for record in all(&store).await {
        if let tidegate_model::delivery::State::Leased { token, .. } = record.state {
            scene.note(What::WasLeased(record.id, token));
        }
    }
    let (dispatcher, engine) = Dispatcher::by_hand(parts(&store, upstreams), maker(scene));
    dispatcher.configure(scene.plan.queues.clone());
    scene.quiet.set(false);
    for batch in 0..scene.plan.batches.len() {
        task::spawn(hand_in(Rc::clone(scene), Arc::clone(&dispatcher), batch));
    }
    for act in 0..scene.plan.acts.len() {
        task::spawn(do_act(Rc::clone(scene), Arc::clone(&dispatcher), act));
    }
    for worker in 0..scene.held.borrow().len() {
        task::spawn(workers::work(Rc::clone(scene), Arc::clone(&dispatcher), worker));
    }
    let over = tokio::select! {
        biased;
        () = scene.died.notified() => return Over::Killed,
        () = engine => Over::Drained,
        () = quiet(scene, &store) => Over::Done,
    };
    if over == Over::Done {
        scene.quiet.set(true);
        let (records, audit) = (all(&store).await, scene.disk.audit(&store).await);
        let mut history = scene.history.borrow_mut();
        (history.records, history.audit) = (records, audit);
    }
    over
}

pub fn parts(store: &Arc<Store>, upstreams: &Arc<Upstreams>) -> Parts {
    let plan = TenantPlan {
        name: "p".into(),
        rates: Vec::new(),
        concurrency: None,
        body_bytes_max: None,
        request_bytes_per_second: None,
        response_bytes_per_second: None,
        weight: 1,
    };
    Parts {
        store: Arc::clone(store),
        upstreams: Arc::clone(upstreams),
        tenants: Arc::new(Tenants::new(100)),
        unknown: Arc::new(plan),
        webhooks: Arc::default(),
        cores: 1,
        seed: 7,
    }
}

fn maker(scene: &Rc<Scene>) -> Maker {
    let chance = Chance::seeded(scene.chance.word());
    let mut maker = Maker::new(Caller::new(1, 7), Rc::new(drop), chance, Arc::default());
    let own = Rc::clone(scene);
    let answer = move |ready: &Ready| Box::pin(attempt(Rc::clone(&own), ready.clone())) as Making;
    maker.played = Some(Played {
        answer: Box::new(answer),
        bounds: scene.plan.bounds,
        forgets_begun: scene.sabotage == Sabotage::ForgetsBegun,
    });
    maker
}

/// The application.
async fn attempt(scene: Rc<Scene>, ready: Ready) -> Made {
    let made = |outcome, closed| Made {
        outcome,
        closed,
        why: Some("played".into()),
        status: None,
        answer: bytes::Bytes::new(),
        result: None,
    };
    scene.moment().await;
    if !scene.is_calm() && percent(&scene.chance, 3) {
        let wait = Duration::from_millis(100);
        return made(Outcome::Unsent(Some(wait)), Some(wait));
    }
    let (went, takes) = scene.application();
    let seen = Seen::begin(&scene, &ready);
    scene.moment().await;
    clock::sleep(takes).await;
    scene.moment().await;
    seen.end(went);
    if scene.sabotage == Sabotage::AsksTwice {
        Seen::begin(&scene, &ready).end(went);
    }
    scene.moment().await;
    let later = percent(&scene.chance, 20).then_some(Duration::from_secs(1));
    let status = |code| http::StatusCode::from_u16(code).expect("a status");
    match went {
        Went::Well => made(Outcome::Answered(status(200), None), None),
        Went::Never => made(Outcome::Answered(status(400), None), None),
        Went::Badly | Went::BrokenOff if percent(&scene.chance, 30) => made(Outcome::Unanswered, None),
        Went::Badly | Went::BrokenOff => made(Outcome::Answered(status(503), later), None),
    }
}

/// A server has the time of the scene, not that of a process: nobody sets it.
fn set_clock(scene: &Scene) {
    if let Some(server) = scene.disk.server() {
        server.is_now(Duration::from_millis(scene.passed()));
    }
}

/// The store's writing: that of deliveries, or of what is apart from them.
async fn write(scene: Rc<Scene>, mut hand: Hand, is_deliveries: bool) {
    let server = || scene.disk.server().filter(|_| is_deliveries);
    while hand.wait().await {
        if scene.quiet.get() {
            set_clock(&scene);
            hand.write();
            continue;
        }
        clock::sleep(scene.latency()).await;
        scene.end_if_dead().await;
        scene.pass_moment();
        set_clock(&scene);
        if !scene.alive.get() {
            if let Some(server) = server() {
                server.dies(hand);
            }
            return;
        }
        if !scene.is_calm() && percent(&scene.chance, scene.plan.failing.1) {
            hand.refuse([Unavailable::Full, Unavailable::Failing][below(&scene.chance, 2) as usize]);
            continue;
        }
        hand.write_and(server().filter(|_| !scene.is_calm()).and_then(Server::befalls));
        if let Disk::Folder(folder) = &scene.disk {
            folder.remember();
        }
        if server().is_some_and(|server| server.was_written(&hand, scene.passed())) {
            scene.note(What::Woke);
        }
        scene.moment().await;
    }
}

/// Somebody hands in a batch, until it is told what became of it.
async fn hand_in(scene: Rc<Scene>, dispatcher: Arc<Dispatcher>, number: usize) {
    if scene.taken.borrow().contains(&number) {
        return;
    }
    let batch = &scene.plan.batches[number];
    clock::sleep_until(scene.tick(batch.at)).await;
    let settings = &scene.plan.queues[batch.queue];
    loop {
        scene.end_if_dead().await;
        let now = dispatcher.now();
        let made = scene.promises.borrow()[number].clone();
        let promises = made.unwrap_or_else(|| {
            let promise = |(id, offer, due, expires): &(_, crate::Offer, Option<u64>, Option<u64>)| {
                let mut offer = offer.clone();
                (offer.due, offer.expires) = (due.map(|due| now + due), expires.map(|expires| now + expires));
                let promise = settings.promise(offer, *id, now).expect("what is planned can be promised");
                scene.asks(&promise);
                promise
            };
            batch.offers.iter().map(promise).collect()
        });
        scene.promises.borrow_mut()[number] = Some(promises.clone());
        let told = dispatcher.store().append(promises, settings.room, now).await;
        scene.end_if_dead().await;
        if let Ok(told) = told {
            for one in told {
                if let Appended::Accepted(id) | Appended::Already(id) | Appended::Replaced(id) = one {
                    scene.note(What::Accepted(id));
                    scene.accepted.borrow_mut().push(id);
                }
            }
            scene.taken.borrow_mut().insert(number);
            return;
        }
        clock::sleep(Duration::from_millis(100)).await;
    }
}

/// The operator does something, until it is told to be done.
async fn do_act(scene: Rc<Scene>, dispatcher: Arc<Dispatcher>, number: usize) {
    if scene.acted.borrow().contains(&number) {
        return;
    }
    let (at, act) = &scene.plan.acts[number];
    clock::sleep_until(scene.tick(*at)).await;
    // An end of a pause waits for its beginning.
    if let Act::Resume(pause) = act {
        while !scene.history.borrow().has(|what| *what == What::Paused(pause.clone())) {
            clock::sleep(Duration::from_millis(200)).await;
        }
    }
    loop {
        scene.end_if_dead().await;
        let done = try_act(&scene, &dispatcher, act, number).await;
        scene.end_if_dead().await;
        if done {
            scene.acted.borrow_mut().insert(number);
            return;
        }
        clock::sleep(Duration::from_millis(100)).await;
    }
}

async fn try_act(scene: &Rc<Scene>, dispatcher: &Dispatcher, act: &Act, number: usize) -> bool {
    let chosen = |which: usize| {
        let accepted = scene.accepted.borrow();
        (!accepted.is_empty()).then(|| accepted[which % accepted.len()])
    };
    let now = dispatcher.now();
    match act {
        Act::Pause(pause) => {
            scene.note(What::Pausing(pause.clone()));
            let played = scene.sabotage == Sabotage::IgnoresPauses;
            let done = played || dispatcher.pause(pause.clone()).await == Ok(true);
            if done {
                scene.note(What::Paused(pause.clone()));
            }
            done
        }
        Act::Resume(pause) => {
            scene.note(What::Resuming(pause.clone()));
            dispatcher.resume(pause.clone()).await.is_ok()
        }
        Act::Cancel(which) => {
            let Some(id) = chosen(*which) else { return true };
            scene.note(What::Cancelling(id));
            let command = Command::Cancel { forgotten: now + 86_400_000 };
            dispatcher.store().change(None, id, command, now).await.is_ok()
        }
        Act::Redrive(which) => {
            let Some(id) = chosen(*which) else { return true };
            scene.note(What::Redriving(id));
            let told: Result<Option<Told>, _> =
                dispatcher.store().change(None, id, Command::Redrive { due: now, aging: 0 }, now).await;
            told.is_ok()
        }
        Act::Fence => {
            // Some time between these two.
            scene.note(What::Fenced);
            let done = dispatcher.store().lead(0).await.is_ok();
            scene.note(What::Fenced);
            done
        }
        Act::Restart => {
            scene.acted.borrow_mut().insert(number);
            dispatcher.drain_by_hand().await;
            true
        }
        Act::Jump(by) => {
            if scene.disk.server().is_some_and(|server| !server.keeps_time(scene.passed())) {
                return false;
            }
            scene.note(What::Jumped(*by));
            let (wall, by_much) = (clock::wall(), Duration::from_millis(by.unsigned_abs()));
            clock::simulated::begin(clock::now(), if *by > 0 { wall + by_much } else { wall - by_much });
            true
        }
        Act::Configure(queues) => {
            scene.note(What::Configured);
            dispatcher.configure(queues.clone());
            true
        }
    }
}

/// All deliveries that there are.
async fn all(store: &Store) -> Vec<Record> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(Filter::default(), after, PAGE_MAX).await.expect("a store that nothing ails");
        all.extend(page.records);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

/// Waits until all that was asked for has ended, or should have.
async fn quiet(scene: &Scene, store: &Store) {
    clock::sleep_until(scene.tick(STORM)).await;
    loop {
        clock::sleep(Duration::from_secs(1)).await;
        let done = scene.taken.borrow().len() == scene.plan.batches.len()
            && scene.acted.borrow().len() == scene.plan.acts.len();
        let open = |counts: &[u64; 7]| {
            Kind::ALL.iter().zip(counts).any(|(kind, count)| !kind.has_ended() && *count > 0)
        };
        let totals = store.totals().await;
        let ended = totals.is_ok_and(|totals| !totals.iter().any(|total| open(&total.counts)));
        if done && ended || scene.passed() > STORM + PATIENCE {
            return;
        }
    }
}
