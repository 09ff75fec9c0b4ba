//! A PostgreSQL that outlives the processes of a seed: a database of its own, on a server that all seeds share.
//!
//! ```text
//! a process dies -+- before a batch is written
//!                 |- in the middle of it: what it had not committed is undone
//!                 |- once it is committed, and before anybody is told
//!                 '- not at all: it stands still, and goes on with its batch when the next one has taken its shard
//! a connection is lost, and its process lives: before something is sent, or once it was carried out and nothing of it heard
//! ```
//!
//! What of this happens is chance of its own, so that a seed has the same plan as on SQLite. The server's clock, by which leases
//! end, is the simulation's: `clock_timestamp()` is made to read a sequence. What always holds: there is no other time in it than
//! the seed's, and nothing happens there but while the simulation waits for it.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_model::delivery::Ms;
use tidegate_store::{Hand, Location, Mishap, PostgresSettings, PostgresUrl, Store, StoreSettings};
use tidegate_testkit::{Postgres, Talk};

use super::plan::{below, percent};
use super::scene::{BEGIN, Sabotage};
use crate::chance::Chance;

/// How long a process that is not heard of is believed to be there, by the server's clock.
const LEASE: Duration = Duration::from_secs(3);
/// How long an answer is waited for, by the machine's, and an errand by the simulation's.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is copied for each seed.
const EMPTY: &str = "empty";
/// The server's clock is the simulation's: what `clock_timestamp` was goes by another name.
const CLOCK: &str = "
    SET allow_system_table_mods = on;
    ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO machine_timestamp;
    CREATE SCHEMA simulated;
    CREATE SEQUENCE simulated.clock;
    CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT to_timestamp(last_value / 1e6) FROM simulated.clock'";
/// How long after a process leads what time it is was written down, at the latest.
const KEPT_AFTER: Ms = 2_000;
/// Batches that are written under a new owner, at most, before one who stood still goes on.
const WAKES_AFTER: u64 = 10;

/// The database of a seed.
pub struct Server {
    name: String,
    talk: RefCell<Talk>,
    chance: Chance,
    sabotage: Sabotage,
    /// Of a hundred batches the connection is lost at so many.
    pub losing: u64,
    /// The connection was lost at the last batch.
    lost: Cell<bool>,
    /// Batches so far.
    batches: Cell<usize>,
    /// Since when this process leads the shard.
    led_since: Cell<Option<Ms>>,
    standing: RefCell<Option<Standing>>,
}

/// A process that stands still, with a batch at hand.
struct Standing {
    hand: Hand,
    /// After so many batches of its successor it goes on.
    after: u64,
    /// Under what it led its shard.
    epoch: String,
}

/// The server, with an empty database that has the tables.
fn shared() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        // Nothing goes on there by itself.
        let server = Postgres::start_with("simulation", &["autovacuum=off", "jit=off"]);
        let _ = server.say(&format!("CREATE DATABASE {EMPTY}"));
        let mut talk = server.talk(EMPTY);
        let _ = talk.say(CLOCK);
        set_clock(&mut talk, Duration::ZERO);
        drop(talk);
        let location = Location::Postgres(settings(&server, EMPTY));
        let bytes_max = 1 << 30;
        let store = Store::open(StoreSettings { location, bytes_max, tenant_bytes_max: bytes_max });
        store.expect("a database with its tables").close();
        server
    })
}

fn settings(server: &Postgres, database: &str) -> PostgresSettings {
    let url = format!("{}?sslmode=disable", server.url(database));
    PostgresSettings {
        url: PostgresUrl::parse(&url).expect("a URL"),
        ca: None,
        lease: LEASE,
        timeout: TIMEOUT,
        shards: 1,
        node: "simulated".into(),
        brings: false,
    }
}

/// So long after the beginning it is there.
fn set_clock(talk: &mut Talk, passed: Duration) {
    let micros = (BEGIN.1 + passed).as_micros();
    let _ = talk.say(&format!("SELECT setval('simulated.clock', {micros})"));
}

impl Server {
    pub fn new(seed: u64, sabotage: Sabotage) -> Server {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let name = format!("seed_{}_{seed}", LAST.fetch_add(1, Relaxed));
        let copy = format!("CREATE DATABASE {name} TEMPLATE {EMPTY} STRATEGY file_copy");
        let _ = shared().talk("postgres").say(&copy);
        let chance = Chance::seeded(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x706f_7374);
        Server {
            talk: RefCell::new(shared().talk(&name)),
            name,
            losing: [0, 2, 6][below(&chance, 3) as usize],
            chance,
            sabotage,
            lost: Cell::new(false),
            batches: Cell::new(0),
            led_since: Cell::new(None),
            standing: RefCell::new(None),
        }
    }

    /// Where a process that begins finds it.
    pub fn location(&self) -> Location {
        self.led_since.set(None);
        Location::Postgres(settings(shared(), &self.name))
    }

    /// So long after the beginning it is there, too.
    pub fn is_now(&self, passed: Duration) {
        set_clock(&mut self.talk.borrow_mut(), passed);
    }

    /// What befalls the connection at this batch, while the process lives.
    pub fn befalls(&self) -> Option<Mishap> {
        self.batches.set(self.batches.get() + 1);
        if let Sabotage::LosesCommits(every) = self.sabotage {
            return self.batches.get().is_multiple_of(every).then_some(Mishap::Undone);
        }
        // One alone at a time, so that nobody waits for more than the next.
        let lost = !self.lost.get() && percent(&self.chance, self.losing);
        self.lost.set(lost);
        lost.then(|| self.loss())
    }

    fn loss(&self) -> Mishap {
        Mishap::Lost { after: below(&self.chance, 4) as u32, heard: percent(&self.chance, 50) }
    }

    /// The process dies with this batch at hand.
    pub fn dies(&self, mut hand: Hand) {
        match below(&self.chance, 10) {
            0..2 => {}
            2..5 => hand.write_and(Some(self.loss())),
            _ => {
                let after = 1 + below(&self.chance, WAKES_AFTER);
                let epoch = self.say("SELECT epoch FROM tidegate.shards");
                // Who stood still before never goes on.
                self.standing.replace(Some(Standing { hand, after, epoch }));
            }
        }
    }

    /// Whether this process has led the shard for so long that what time it is was kept: where nodes share a store, nobody keeps
    /// that of one which does not lead, and what it accepts to be made later is late by as much as its clock is put back.
    pub fn keeps_time(&self, now: Ms) -> bool {
        self.led_since.get().is_some_and(|since| now > since + KEPT_AFTER)
    }

    /// A batch was written by this one. Whether somebody has gone on who stood still since before it led.
    pub fn was_written(&self, hand: &Hand, now: Ms) -> bool {
        self.led_since.set(self.led_since.get().or(Some(now)).filter(|_| hand.leads()));
        if self.sabotage == Sabotage::ForgetsDoubt && self.lost.get() {
            let _ = self.say("UPDATE tidegate.nodes SET batch = batch - 1");
        }
        let standing = &mut *self.standing.borrow_mut();
        let Some(one) = standing.as_mut().filter(|_| hand.leads()) else { return false };
        one.after -= 1;
        if one.after > 0 {
            return false;
        }
        self.go_on(one);
        *standing = None;
        true
    }

    /// It finds that its epoch has ended, and then that its shard is another's.
    fn go_on(&self, one: &mut Standing) {
        let owner = self.say("SELECT epoch, owner FROM tidegate.shards").replace('|', ", ");
        if self.sabotage == Sabotage::IgnoresFence {
            let _ = self.say(&format!("UPDATE tidegate.shards SET epoch = {}", one.epoch));
        }
        one.hand.write();
        one.hand.write();
        if self.sabotage == Sabotage::IgnoresFence {
            let _ = self.say(&format!("UPDATE tidegate.shards SET (epoch, owner) = ({owner})"));
        }
    }

    fn say(&self, statements: &str) -> String {
        self.talk.borrow_mut().say(statements)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.standing.take());
        let _ = shared().talk("postgres").say(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}
