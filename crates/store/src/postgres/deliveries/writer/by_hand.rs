//! The thread's part, played by a simulation: see [`crate::hand`].

use std::rc::Rc;
use std::time::Duration;

use tidegate_wire::clock;
use tokio::sync::mpsc::error::TryRecvError;

use super::{LOOK_EVERY, Writer};
use crate::hand::{Mishap, Round};
use crate::postgres::deliveries::session::Says;
use crate::store::Job;

/// How long a connection that is given up may take to be closed, by the machine's clock.
const CLOSING: Duration = Duration::from_millis(1);

impl Writer {
    /// One round. Where there is no connection another one is made first, at once: how long that takes is for the simulation to
    /// say, which gives the rounds.
    pub(in super::super::super) fn round(&mut self, got: Vec<Job>, mishap: Option<Mishap>) -> Round {
        if self.joining.take().is_some() {
            let joined = Rc::clone(&self.runtime).block_on(self.connecting(Duration::ZERO));
            self.joined(joined);
        }
        self.hear_all();
        got.into_iter().for_each(|job| self.heed(job));
        self.play(mishap);
        self.turn();
        self.expire();
        self.play(None);
        if self.joining.is_some() {
            // A connection that is given up is closed by a task of its own, which nobody lets run between two rounds.
            self.runtime.block_on(clock::sleep(CLOSING));
        }
        let until = if self.joining.is_some() { clock::now().after(LOOK_EVERY) } else { self.next() };
        let leads = self.desk.as_ref().is_some_and(|desk| !desk.led.is_empty());
        Round { until, leads }
    }

    /// What others have told by now: a server that is asked something says that first.
    fn hear_all(&mut self) {
        let _ = self.tend_or(|desk| Ok(desk.session.ask(Says::plain("SELECT"))?));
        while let Some(heard) = &mut self.heard {
            match heard.try_recv() {
                Ok(said) => self.hear(&said),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.away("the connection was lost"),
            }
        }
    }

    fn play(&mut self, mishap: Option<Mishap>) {
        if let Some(desk) = &mut self.desk {
            desk.session.mishap = mishap;
        }
    }
}
