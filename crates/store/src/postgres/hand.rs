//! Those who write to PostgreSQL, each on a thread of its own that does nothing but the rounds which a simulation asks for, and is
//! waited for meanwhile: see [`crate::hand`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};

use super::away::Away;
use super::keeper::Keeper;
use super::settings::PostgresSettings;
use super::{Unopened, deliveries};
use crate::deliveries::Followers;
use crate::hand::{Mishap, Round};
use crate::standing;
use crate::store::Job;

/// Somebody who writes there, at one's word.
pub(crate) struct Remote {
    /// `None`: it is to end.
    asks: Option<SyncSender<Asks>>,
    done: Receiver<Result<Round, Away>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) stands: Round,
}

/// A round that is asked for: when it is, and what there is to be done.
struct Asks {
    now: Tick,
    wall: SystemTime,
    got: Vec<Job>,
    mishap: Option<Mishap>,
}

/// Does a round.
type Does<'a> = &'a mut dyn FnMut(Vec<Job>, Option<Mishap>) -> Round;
/// Tells whether it is there at all and, if it is, does the rounds that are asked for.
type Serves<'a> = &'a mut dyn FnMut(Result<Does<'_>, Away>);

impl Remote {
    /// One who begins now.
    fn start(run: impl FnOnce(Serves<'_>) + Send + 'static) -> Result<Remote, Unopened> {
        let (asks, asked) = sync_channel::<Asks>(1);
        let (tell, done) = sync_channel(1);
        let (now, wall) = (clock::now(), clock::wall());
        let serve = move || {
            clock::simulated::stand(now, wall);
            run(&mut |joined| match joined {
                Ok(does) => serve(&asked, &tell, does),
                Err(away) => drop(tell.send(Err(away))),
            });
        };
        let thread = std::thread::Builder::new().name("writes by hand".to_owned()).spawn(serve);
        let thread = Some(thread.map_err(Unopened::Thread)?);
        let mut remote =
            Remote { asks: Some(asks), done, thread, stands: Round { until: now, leads: false } };
        remote.stands = remote.wait().map_err(Unopened::Away)?;
        Ok(remote)
    }

    /// Has it do a round, and waits until it has.
    pub(crate) fn round(&mut self, got: Vec<Job>, mishap: Option<Mishap>) {
        let asks = Asks { now: clock::now(), wall: clock::wall(), got, mishap };
        let sent = self.asks.as_ref().map(|list| list.send(asks));
        assert!(matches!(sent, Some(Ok(()))), "the thread that writes has panicked");
        self.stands = self.wait().expect("away it was when it began");
    }

    fn wait(&self) -> Result<Round, Away> {
        self.done.recv().expect("the thread that writes has panicked")
    }
}

impl Drop for Remote {
    /// As a process dies: what is under way is broken off, and nobody takes leave.
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(thread) = self.thread.take() {
            // It says by itself why it panicked.
            let _ = thread.join();
        }
    }
}

/// The rounds of one, until nobody asks for any.
fn serve(asked: &Receiver<Asks>, tell: &SyncSender<Result<Round, Away>>, does: Does<'_>) {
    let _ = tell.send(Ok(Round { until: clock::now(), leads: false }));
    while let Ok(Asks { now, wall, got, mishap }) = asked.recv() {
        clock::simulated::stand(now, wall);
        if tell.send(Ok(does(got, mishap))).is_err() {
            return;
        }
    }
}

/// Who writes deliveries there, and who writes the rest.
pub(crate) fn by_hand(
    settings: &PostgresSettings,
    bytes_max: u64,
    told: &Arc<standing::Told>,
    followers: &Arc<Followers>,
) -> Result<[Remote; 2], Unopened> {
    let (own, own_told, followers) = (settings.clone(), Arc::clone(told), Arc::clone(followers));
    let deliveries = Remote::start(move |serve| {
        let mut writer = deliveries::Writer::new(own, bytes_max, own_told, followers);
        match writer.join() {
            Ok(()) => serve(Ok(&mut |got, mishap| writer.round(got, mishap))),
            Err(away) => serve(Err(away)),
        }
    })?;
    let (own, told) = (settings.clone(), Arc::clone(told));
    let rest = Remote::start(move |serve| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("the system has an event queue for the store");
        let mut keeper = Keeper::new(own, bytes_max, bytes_max, told);
        match runtime.block_on(keeper.join()) {
            Ok(()) => serve(Ok(&mut |got, _| runtime.block_on(keeper.round(got)))),
            Err(away) => serve(Err(away)),
        }
    })?;
    Ok([deliveries, rest])
}
