//! Offers and takes, as a plan says: a thread for each producer and each consumer.
//!
//! In a closed loop each producer offers again when it was told that all is accepted: the most that is possible. In an open
//! one each delivery has a time at which it is due, whatever became of those before it, and its latency counts from there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counters::Used;
use super::journey::{Desk, Journey, Quantiles, micros};
use super::wires::{Client, Consumer, Producer, Queue};
use crate::bench::now;

/// How long the last deliveries of an open loop may take to be attempted.
const LAST_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether a run is over.
const LOOK: Duration = Duration::from_millis(5);

/// What is offered, by how many, and how it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub queue: Queue,
    pub producers: usize,
    pub consumers: usize,
    /// Deliveries offered at once.
    pub batch: usize,
    /// Deliveries due a second, in an open loop.
    pub rate: Option<f64>,
    pub delay: Option<Duration>,
    /// How long it runs before the first window.
    pub warm: Duration,
    pub window: Duration,
    pub windows: u32,
    /// In a closed loop: who is so far ahead of those who take waits.
    pub ahead_max: Option<u64>,
    /// When so many are accepted it is over.
    pub count_max: Option<u64>,
}

/// What was so far at the border of two windows.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub accepted: u64,
    pub attempted: u64,
    pub used: Used,
}

/// What a run found out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One more than there are windows.
    pub samples: Vec<Sample>,
    /// In an open loop: from due to accepted, and on to the attempt.
    pub quantiles: Option<(Quantiles, Quantiles)>,
}

struct Run {
    plan: Plan,
    journey: Arc<Journey>,
    start: u64,
    next: AtomicU64,
    over: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// Runs a plan to its end.
///
/// # Errors
/// The first thing that went wrong.
pub fn run(
    plan: Plan,
    number: u16,
    client: &dyn Client,
    desk: &Desk,
    used: &dyn Fn() -> Used,
) -> Result<Outcome, String> {
    let Plan { producers, consumers, queue, batch, .. } = plan;
    // Before the first delivery is due: what connecting takes is no part of it.
    let connect = |_| if batch > 1 { client.batches(queue) } else { client.producer(queue) };
    let producers = (0..producers).map(connect).collect::<Result<Vec<_>, _>>()?;
    let consumers = (0..consumers).map(|_| client.consumer()).collect::<Result<Vec<_>, _>>()?;
    let journey = Journey::new(number, plan.timed());
    desk.set(&[&journey]);
    let run = Run {
        plan,
        journey,
        start: micros(),
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        failed: Mutex::new(None),
    };
    let samples = std::thread::scope(|scope| {
        let run = &run;
        let consumers = consumers.into_iter().flatten();
        let consume =
            |mut consumer: Box<dyn Consumer>| scope.spawn(move || run.note(run.consume(&mut *consumer)));
        let consumers: Vec<_> = consumers.map(consume).collect();
        let numbered = (0..).zip(producers);
        let spawn = |(which, mut producer): (u64, Box<dyn Producer>)| {
            scope.spawn(move || run.note(run.produce(which, &mut *producer)))
        };
        let mut producers: Vec<_> = numbered.map(spawn).collect();
        let samples = run.watch(used);
        if plan.rate.is_some() {
            // All that was due is offered, however late.
            producers.drain(..).for_each(|producer| drop(producer.join()));
            run.wait_for_the_last();
        }
        run.over.store(true, Relaxed);
        // To let go of one that ends at the same moment is a race in glibc 2.36: it looks at the thread once more.
        producers.into_iter().chain(consumers).for_each(|thread| drop(thread.join()));
        samples
    });
    if let Some(why) = run.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(why);
    }
    let quantiles = plan.rate.map(|rate| run.journey.quantiles((plan.warm.as_secs_f64() * rate) as usize));
    Ok(Outcome { samples, quantiles: quantiles.transpose()? })
}

impl Plan {
    /// How long it lasts.
    pub fn time(&self) -> Duration {
        self.warm + self.window * self.windows
    }

    /// Of how many deliveries times are kept: in an open loop, of all.
    pub fn timed(&self) -> usize {
        self.rate.map_or(0, |rate| (self.time().as_secs_f64() * rate) as usize)
    }
}

impl Run {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// What fails ends the run.
    fn note(&self, done: Result<(), String>) {
        if let Err(why) = done {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            self.over.store(true, Relaxed);
        }
    }

    fn produce(&self, which: u64, producer: &mut dyn Producer) -> Result<(), String> {
        match self.plan.rate {
            Some(rate) => self.produce_when_due(which, rate, producer),
            None => self.produce_again_and_again(producer),
        }
    }

    fn produce_again_and_again(&self, producer: &mut dyn Producer) -> Result<(), String> {
        let batch = self.plan.batch as u64;
        while !self.is_over() {
            let ahead = self.journey.accepted().saturating_sub(self.journey.attempted());
            if self.plan.ahead_max.is_some_and(|most| ahead >= most) {
                std::thread::sleep(LOOK);
                continue;
            }
            let first = self.next.fetch_add(batch, Relaxed);
            let payloads: Vec<Vec<u8>> =
                (first..first + batch).map(|number| self.journey.payload(number)).collect();
            producer.offer(&payloads, self.plan.delay)?;
            self.journey.note_accepted(first, batch, micros());
        }
        Ok(())
    }

    fn produce_when_due(&self, which: u64, rate: f64, producer: &mut dyn Producer) -> Result<(), String> {
        for number in (which..self.plan.timed() as u64).step_by(self.plan.producers) {
            if self.is_over() {
                break;
            }
            let due = self.start + (number as f64 / rate * 1e6) as u64;
            std::thread::sleep(Duration::from_micros(due.saturating_sub(micros())));
            self.journey.note_due(number, due);
            producer.offer(&[self.journey.payload(number)], self.plan.delay)?;
            self.journey.note_accepted(number, 1, micros());
        }
        Ok(())
    }

    fn consume(&self, consumer: &mut dyn Consumer) -> Result<(), String> {
        while !self.is_over() {
            consumer.next(&mut |payload| self.journey.note_attempted(payload, micros()))?;
        }
        Ok(())
    }

    /// Takes a sample at each border of windows.
    fn watch(&self, used: &dyn Fn() -> Used) -> Vec<Sample> {
        let mut samples = Vec::new();
        let mut until = now() + self.plan.warm;
        for _ in 0..=self.plan.windows {
            while now() < until && !self.is_done() {
                std::thread::sleep(LOOK.min(until.saturating_duration_since(now())));
            }
            samples.push(Sample {
                at: now(),
                accepted: self.journey.accepted(),
                attempted: self.journey.attempted(),
                used: used(),
            });
            until += self.plan.window;
        }
        samples
    }

    fn is_done(&self) -> bool {
        self.is_over() || self.plan.count_max.is_some_and(|most| self.journey.accepted() >= most)
    }

    fn wait_for_the_last(&self) {
        let until = now() + LAST_MAX;
        while self.journey.attempted() < self.plan.timed() as u64 && now() < until && !self.is_over() {
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Who keeps what is offered, until there are too many.
    struct Kept {
        sender: SyncSender<Vec<u8>>,
        receiver: Mutex<Receiver<Vec<u8>>>,
        refuses_at: u64,
        offered: AtomicU64,
    }

    struct Hand<'a>(&'a Kept);

    fn kept(refuses_at: u64) -> &'static Kept {
        let (sender, receiver) = sync_channel(100_000);
        Box::leak(Box::new(Kept {
            sender,
            receiver: Mutex::new(receiver),
            refuses_at,
            offered: AtomicU64::new(0),
        }))
    }

    impl Client for &'static Kept {
        fn prepare(&self) -> Result<(), String> {
            Ok(())
        }

        fn producer(&self, _: Queue) -> Result<Box<dyn Producer>, String> {
            Ok(Box::new(Hand(self)))
        }

        fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String> {
            Ok(Some(Box::new(Hand(self))))
        }
    }

    impl Producer for Hand<'_> {
        fn offer(&mut self, payloads: &[Vec<u8>], _: Option<Duration>) -> Result<(), String> {
            for payload in payloads {
                if self.0.offered.fetch_add(1, Relaxed) >= self.0.refuses_at {
                    return Err("full".to_owned());
                }
                self.0.sender.send(payload.clone()).map_err(|error| error.to_string())?;
            }
            Ok(())
        }
    }

    impl Consumer for Hand<'_> {
        fn next(&mut self, heard: &mut dyn FnMut(&[u8])) -> Result<(), String> {
            let receiver = self.0.receiver.lock().unwrap();
            if let Ok(payload) = receiver.recv_timeout(Duration::from_millis(1)) {
                heard(&payload);
            }
            Ok(())
        }
    }

    const PLAN: Plan = Plan {
        queue: Queue::Work,
        producers: 2,
        consumers: 2,
        batch: 1,
        rate: None,
        delay: None,
        warm: Duration::from_millis(20),
        window: Duration::from_millis(20),
        windows: 2,
        ahead_max: Some(10),
        count_max: None,
    };

    fn check(plan: Plan, refuses_at: u64) -> Result<Outcome, String> {
        run(plan, 1, &kept(refuses_at), &Desk::new(), &Used::default)
    }

    #[test]
    fn an_open_loop_attempts_all_that_was_due() {
        let outcome = check(Plan { rate: Some(1000.0), ..PLAN }, u64::MAX).unwrap();
        let (accept, attempt) = outcome.quantiles.unwrap();
        // Sixty were due, and those of the first third are not looked at.
        assert_eq!((accept.count, attempt.count), (40, 40));
    }

    #[test]
    fn a_closed_loop_has_a_sample_at_each_border() {
        let outcome = check(Plan { count_max: Some(50), ..PLAN }, u64::MAX).unwrap();
        assert_eq!((outcome.samples.len(), outcome.quantiles), (3, None));
        assert!(outcome.samples.is_sorted_by_key(|sample| sample.accepted));
    }

    #[test]
    fn what_fails_ends_the_run() {
        assert_eq!(check(PLAN, 5).err(), Some("full".to_owned()));
    }
}
