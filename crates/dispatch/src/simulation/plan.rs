//! What a seed means: queues, what is asked of them and when, what fails, and where the process is killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::outcome::Backoff;
use tidegate_model::delivery::{Id, Ms};
use tidegate_model::gate::Priority;
use tidegate_model::plan::Rate;
use tidegate_store::deliveries::{Callback, Line, Otherwise, Pause, Unique};

use crate::chance::Chance;
use crate::offer::Offer;
use crate::scheduler::Bounds;
use crate::settings::{PerKey, QueueSettings, Way};

/// In the first so many milliseconds all is asked for and fails. Then it is calm.
pub const STORM: Ms = 20_000;
/// The longest that a batch is on its way to disk.
pub const LATENCY_MAX: Ms = 400;
const TENANTS: [&str; 4] = ["ant", "bee", "cat", "dog"];

/// A batch that is handed in.
pub struct Batch {
    pub at: Ms,
    pub queue: usize,
    pub offers: Vec<(Id, Offer, Option<Ms>, Option<Ms>)>,
}

/// What the operator does. `usize`: which of those that were accepted by then.
#[derive(Clone, Debug)]
pub enum Act {
    Pause(Pause),
    Resume(Pause),
    Cancel(usize),
    Redrive(usize),
    /// Another owner takes over, and is gone.
    Fence,
    /// The process is told to end, and begins anew.
    Restart,
    /// The wall clock is set by so many milliseconds.
    Jump(i64),
    Configure(Vec<QueueSettings>),
}

/// All of it.
pub struct Plan {
    pub queues: Vec<QueueSettings>,
    pub batches: Vec<Batch>,
    pub acts: Vec<(Ms, Act)>,
    /// At which of the moments that matter the process dies, counted over all processes.
    pub deaths: BTreeSet<u64>,
    /// Of a hundred attempts so many fail, of a hundred batches so many.
    pub failing: (u64, u64),
    pub bounds: Bounds,
    pub jumps: bool,
}

/// One of so many.
pub fn below(chance: &Chance, most: u64) -> u64 {
    ((u128::from(chance.word()) * u128::from(most)) >> 64) as u64
}

/// In so many of a hundred cases.
pub fn percent(chance: &Chance, part: u64) -> bool {
    below(chance, 100) < part
}

impl Plan {
    pub fn of(chance: &Chance) -> Plan {
        let queues = queues(chance);
        let batches = batches(chance, &queues);
        let jumps = percent(chance, 20);
        let acts = acts(chance, &queues, jumps);
        let deaths = (0..below(chance, 8)).map(|_| below(chance, 900)).collect();
        let small = Bounds { lines: 3, items: 16, window: 4, bytes: 64, loads: 2 };
        Plan {
            queues,
            batches,
            acts,
            deaths,
            failing: (below(chance, 60), [0, 0, 3, 10][below(chance, 4) as usize]),
            bounds: if percent(chance, 50) { small } else { Bounds::default() },
            jumps,
        }
    }
}

impl Plan {
    /// Queues that are not configured for a while.
    pub fn unconfigured(&self) -> Vec<Arc<str>> {
        let is_left_out = |name: &Arc<str>| {
            let leaves_out = |queues: &[QueueSettings]| queues.iter().all(|queue| queue.name != *name);
            self.acts.iter().any(|(_, act)| matches!(act, Act::Configure(queues) if leaves_out(queues)))
        };
        self.queues.iter().map(|queue| Arc::clone(&queue.name)).filter(is_left_out).collect()
    }
}

fn rate(chance: &Chance, limit: u64) -> Option<Rate> {
    let burst = 1 + below(chance, 3);
    percent(chance, 40).then(|| Rate {
        name: "r".into(),
        limit: limit + below(chance, 10),
        window: Duration::from_secs(1),
        burst,
    })
}

fn queues(chance: &Chance) -> Vec<QueueSettings> {
    let queue = |name: &str, way: Way| {
        let mut queue = QueueSettings::new(name.into(), way);
        queue.concurrency = 1 + below(chance, 6) as u32;
        queue.tenant_concurrency = percent(chance, 30).then(|| 1 + below(chance, 3) as u32);
        queue.policy.attempts_max = 3 + below(chance, 4) as u32;
        let (first, max) = (Duration::from_millis(50), Duration::from_secs(2));
        queue.policy.backoff = Backoff::Exponential { first, max };
        queue.timeout = Duration::from_secs(3);
        queue.aging = Duration::from_secs(below(chance, 5));
        queue
    };
    let push = || Way::Push("app".into());
    let mut plain = queue("plain", push());
    plain.rate = rate(chance, 10);
    let mut ordered = queue("ordered", push());
    ordered.per_key.ordered = true;
    let mut keyed = queue("keyed", push());
    keyed.per_key =
        PerKey { ordered: false, concurrency: Some(1 + below(chance, 3) as u32), rate: rate(chance, 4) };
    let pulled = queue("pulled", Way::Pull);
    vec![plain, ordered, keyed, pulled]
}

fn tenant(chance: &Chance) -> Arc<str> {
    // One of them has most.
    let which = if percent(chance, 50) { 0 } else { below(chance, TENANTS.len() as u64) };
    TENANTS[which as usize].into()
}

fn key(chance: &Chance) -> Arc<str> {
    ["x", "y"][below(chance, 2) as usize].into()
}

fn batches(chance: &Chance, queues: &[QueueSettings]) -> Vec<Batch> {
    let (mut all, mut ids): (Vec<Batch>, Vec<(Arc<str>, Id)>) = (Vec::new(), Vec::new());
    let mut times: Vec<Ms> = (0..8 + below(chance, 10)).map(|_| below(chance, STORM * 3 / 4)).collect();
    times.sort_unstable();
    for at in times {
        let queue = below(chance, queues.len() as u64) as usize;
        let (tenant, count) = (tenant(chance), 1 + below(chance, 8));
        let mut offers = Vec::new();
        for _ in 0..count {
            let id = Id(chance.wide());
            let offer = offer(chance, &queues[queue], &tenant, &ids);
            let due = percent(chance, 25).then(|| below(chance, 6_000));
            let expires = percent(chance, 8).then(|| due.unwrap_or_default() + 500 + below(chance, 5_000));
            ids.push((Arc::clone(&tenant), id));
            offers.push((id, offer, due, expires));
        }
        all.push(Batch { at, queue, offers });
    }
    all
}

fn offer(chance: &Chance, queue: &QueueSettings, tenant: &Arc<str>, before: &[(Arc<str>, Id)]) -> Offer {
    let keyed = queue.per_key != PerKey::default();
    let priorities = [Priority::Critical, Priority::Default, Priority::Sheddable];
    let unique = (!keyed && percent(chance, 8)).then(|| Unique {
        key: key(chance),
        until: 0,
        otherwise: [Otherwise::Keep, Otherwise::Replace, Otherwise::Debounce { at_most: 3_000 }]
            [below(chance, 3) as usize],
        fingerprint: None,
    });
    let mut after = Vec::new();
    if unique.is_none() && percent(chance, 10) {
        let own: Vec<Id> = before.iter().filter(|(whose, _)| whose == tenant).map(|(_, id)| *id).collect();
        after.extend((!own.is_empty()).then(|| own[below(chance, own.len() as u64) as usize]));
    }
    let callback = (unique.is_none() && percent(chance, 8)).then(|| Callback {
        id: Id(chance.wide()),
        queue: "plain".into(),
        target: "/told".into(),
    });
    Offer {
        tenant: Arc::clone(tenant),
        key: (keyed && percent(chance, 90)).then(|| key(chance)),
        priority: percent(chance, 30).then(|| priorities[below(chance, 3) as usize]),
        attempts_max: percent(chance, 10).then(|| 1 + below(chance, 3) as u32),
        unique,
        after,
        callback,
        body: vec![b'x'; below(chance, 40) as usize].into(),
        ..Offer::default()
    }
}

fn acts(chance: &Chance, queues: &[QueueSettings], jumps: bool) -> Vec<(Ms, Act)> {
    let mut acts = Vec::new();
    let mut paused = BTreeSet::new();
    for _ in 0..below(chance, 4) {
        let queue = Arc::clone(&queues[below(chance, queues.len() as u64) as usize].name);
        let line = Line { queue: Arc::clone(&queue), tenant: tenant(chance) };
        let pause = match below(chance, 4) {
            0 => Pause::Queue(queue),
            1 => Pause::Tenant(line.tenant),
            2 => Pause::Line(line),
            _ => Pause::Key(line, key(chance)),
        };
        if paused.insert(pause.clone()) {
            let at = below(chance, STORM / 2);
            acts.push((at, Act::Pause(pause.clone())));
            acts.push((at + 3_000 + below(chance, STORM / 2), Act::Resume(pause)));
        }
    }
    let at = || below(chance, STORM);
    acts.extend((0..below(chance, 5)).map(|_| (at(), Act::Cancel(below(chance, 100) as usize))));
    acts.extend((0..below(chance, 3)).map(|_| (at(), Act::Redrive(below(chance, 100) as usize))));
    acts.extend((0..below(chance, 6).saturating_sub(3)).map(|_| (at(), Act::Fence)));
    acts.extend((0..below(chance, 6).saturating_sub(3)).map(|_| (at(), Act::Restart)));
    if jumps {
        let hour: i64 = if percent(chance, 50) { 3_600_000 } else { -3_600_000 };
        acts.push((at(), Act::Jump(hour)));
        if percent(chance, 30) {
            acts.push((at(), Act::Jump(-hour)));
        }
    }
    if percent(chance, 30) {
        let when = at();
        let fewer: Vec<_> = queues.iter().filter(|queue| *queue.name != *"keyed").cloned().collect();
        acts.push((when, Act::Configure(fewer)));
        acts.push((when + 2_000, Act::Configure(queues.to_vec())));
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}
