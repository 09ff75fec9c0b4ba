//! Those who come for deliveries of a queue that is pulled. They outlive the process, and go on with the next.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::{Id, Ms};
use tidegate_wire::clock;

use super::history::What;
use super::plan::{below, percent};
use super::scene::Scene;
use crate::dispatcher::{Claim, Claimed, Dispatcher, Ending, Extension, Grip, Held, How};

const LEASE: Duration = Duration::from_secs(3);

/// What a worker has to do with what it has.
#[derive(Clone, Debug)]
pub struct Work {
    id: Id,
    grip: Grip,
    /// When it is done with it.
    at: Ms,
    /// Whether it needs longer than its lease first.
    extends: bool,
    /// `None`: it forgets it.
    how: Option<How>,
}

/// One of them.
pub async fn work(scene: Rc<Scene>, dispatcher: Arc<Dispatcher>, worker: usize) {
    loop {
        scene.end_if_dead().await;
        let next = scene.held.borrow()[worker].front().cloned();
        if let Some(work) = next {
            finish(&scene, &dispatcher, &work).await;
            scene.held.borrow_mut()[worker].pop_front();
            continue;
        }
        let asked = scene.passed();
        let (queue, most) = ("pulled".into(), 1 + below(&scene.chance, 3) as usize);
        let claim = Claim {
            queue,
            tenants: Vec::new(),
            most,
            bytes_max: 64 << 10,
            first_any: true,
            lease: Some(LEASE),
            wait: Duration::from_secs(1),
        };
        let claimed = dispatcher.claim(claim).await.unwrap_or_default();
        scene.end_if_dead().await;
        if claimed.is_empty() {
            clock::sleep(Duration::from_millis(100)).await;
        }
        for one in claimed {
            let work = take(&scene, &one, asked);
            scene.held.borrow_mut()[worker].push_back(work);
        }
    }
}

fn take(scene: &Scene, claimed: &Claimed, asked: Ms) -> Work {
    scene.note(What::Claimed {
        id: claimed.id,
        seq: claimed.grip.seq,
        token: claimed.grip.token,
        attempt: claimed.attempt,
        line: tidegate_store::deliveries::Line { queue: "pulled".into(), tenant: claimed.tenant.clone() },
        key: claimed.key.clone(),
        least: asked + LEASE.as_millis() as Ms,
    });
    let calm = scene.is_calm();
    let dice = if calm { 0 } else { below(&scene.chance, 100) };
    let (how, takes) = match dice {
        0..70 => (Some(How::Done), 300),
        70..80 => (Some(How::Refused(percent(&scene.chance, 50).then_some(Duration::from_secs(1)))), 300),
        80..84 => (Some(How::Never), 300),
        // Its lease is over by then, perhaps.
        84..92 => (Some(How::Done), 6_000),
        _ => (None, 300),
    };
    Work {
        id: claimed.id,
        grip: claimed.grip,
        at: scene.passed() + below(&scene.chance, takes),
        extends: percent(&scene.chance, 15),
        how,
    }
}

/// Tells what came of it until that was heard.
async fn finish(scene: &Rc<Scene>, dispatcher: &Dispatcher, work: &Work) {
    clock::sleep_until(scene.tick(work.at)).await;
    scene.moment().await;
    let grip = work.grip;
    if work.extends {
        let asked = scene.passed();
        let extension = Extension { grip, lease: Some(LEASE), progress: None };
        let told = dispatcher.extend(vec![extension]).await;
        scene.end_if_dead().await;
        if told == [Ok(Held::Done)] {
            let least = asked + LEASE.as_millis() as Ms;
            scene.note(What::Extended { seq: grip.seq, token: grip.token, least });
            clock::sleep(LEASE / 2).await;
        }
    }
    let Some(how) = work.how else { return };
    loop {
        scene.end_if_dead().await;
        scene.note(What::Telling { id: work.id, how });
        let told = dispatcher.end(vec![Ending { grip, how, why: None, result: None }]).await;
        scene.end_if_dead().await;
        if let [Ok(held)] = told[..] {
            scene.note(What::Told { id: work.id, seq: grip.seq, token: grip.token, how, held });
            return;
        }
        clock::sleep(Duration::from_millis(150)).await;
    }
}
