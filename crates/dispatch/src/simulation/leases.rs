//! What a seed seldom meets, by itself: the wall clock is set while a lease is on its way to disk.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::Id;
use tidegate_store::{Hand, Location, Store};
use tidegate_upstream::Caller;
use tidegate_wire::{clock, task};
use tokio::runtime::{Builder, LocalOptions};

use super::world;
use crate::attempt::Maker;
use crate::chance::Chance;
use crate::dispatcher::{Claim, Claimed, Dispatcher, Extension, Held};
use crate::offer::Offer;
use crate::settings::{QueueSettings, Way};

const HOUR: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_secs(3);
/// How long what is written is on its way to disk.
const LATENCY: Duration = Duration::from_millis(100);

async fn write(mut hand: Hand) {
    while hand.wait().await {
        clock::sleep(LATENCY).await;
        hand.write();
    }
}

async fn claim(dispatcher: &Dispatcher, wait: Duration) -> Vec<Claimed> {
    let claim = Claim {
        queue: "pulled".into(),
        tenants: Vec::new(),
        most: 1,
        bytes_max: 1 << 10,
        first_any: true,
        lease: Some(LEASE),
        wait,
    };
    dispatcher.claim(claim).await.expect("it is served")
}

/// In the middle of what is on its way to disk it is an hour later.
async fn jump() {
    clock::sleep(LATENCY / 2).await;
    clock::simulated::begin(clock::now(), clock::wall() + HOUR);
}

async fn play(store: Store, hand: Hand) {
    let queue = QueueSettings::new("pulled".into(), Way::Pull);
    let upstreams = Arc::default();
    let store = Arc::new(store);
    task::spawn(write(hand));
    let maker = Maker::new(Caller::new(1, 7), Rc::new(drop), Chance::seeded(1), Arc::default());
    let (dispatcher, engine) = Dispatcher::by_hand(world::parts(&store, &upstreams), maker);
    dispatcher.configure(vec![queue.clone()]);
    task::spawn(engine);
    // Until all is known that has to be known first.
    assert!(claim(&dispatcher, LATENCY * 20).await.is_empty());
    let offer = Offer { tenant: "ant".into(), ..Offer::default() };
    let now = dispatcher.now();
    let promise = queue.promise(offer, Id(1), now).expect("it can be promised");
    store.append(vec![promise], queue.room, now).await.expect("a store that nothing ails");
    let claims = async { tokio::join!(claim(&dispatcher, Duration::ZERO), jump()).0 };
    let [claimed] = &claims.await[..] else { panic!("there is one") };
    assert!(claim(&dispatcher, LEASE / 2).await.is_empty(), "its lease has not ended");
    let extension = Extension { grip: claimed.grip, lease: Some(LEASE), progress: None };
    let extends = async { tokio::join!(dispatcher.extend(vec![extension]), jump()).0 };
    assert_eq!(extends.await, [Ok(Held::Done)]);
    assert!(claim(&dispatcher, LEASE * 2 / 3).await.is_empty(), "it was extended");
    let [again] = &claim(&dispatcher, LEASE).await[..] else { panic!("it has ended") };
    assert_eq!((again.id, again.attempt), (claimed.id, 2));
}

#[test]
fn a_lease_lasts_though_the_clock_is_set_while_it_is_given_or_extended() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime without input and output");
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(async {
        let (tick, wall) = super::scene::BEGIN;
        clock::simulated::begin(tick, std::time::SystemTime::UNIX_EPOCH + wall);
        let location = Location::Directory(folder.path().to_owned());
        let (store, mut hands) = Store::open_by_hand(location, 1 << 30).expect("a store");
        play(store, hands.remove(0)).await;
    });
    clock::simulated::end();
}
