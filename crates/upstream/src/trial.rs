//! Trials: what a call owes to the breakers that let it through.
//!
//! A call may be dropped at any moment: its client has gone, or a hedge was faster. Then nobody knows how it would have
//! ended, and a breaker that waited for it must not wait in vain: the probe is handed back.

use std::cell::Cell;

use tidegate_model::breaker::{Breaker, Probe};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use crate::endpoint::Endpoint;

/// A call's standing with the breaker of its upstream.
pub(crate) struct Trial<'a> {
    breaker: &'a Breaker,
    probe: Cell<Option<Probe>>,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(breaker: &'a Breaker, probe: Option<Probe>) -> Trial<'a> {
        Trial { breaker, probe: Cell::new(probe) }
    }

    /// The probe, for whoever tells how it went.
    pub(crate) fn take(&self) -> Option<Probe> {
        self.probe.take()
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            self.breaker.abandoned(probe, clock::now());
        }
    }
}

/// A try's standing with its endpoint.
#[derive(Debug)]
pub(crate) struct Try<'a> {
    endpoint: &'a Endpoint,
    probe: Option<Probe>,
    pub began: Tick,
    over: bool,
}

impl<'a> Try<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint, probe: Option<Probe>, began: Tick) -> Try<'a> {
        Try { endpoint, probe, began, over: false }
    }

    /// It has ended; whoever calls this tells how, with the probe if it was one.
    pub(crate) fn ended(mut self) -> Option<Probe> {
        self.over = true;
        self.probe.take()
    }

    /// It has ended in a way that says nothing of the endpoint.
    pub(crate) fn says_nothing(mut self) {
        self.over = true;
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        if self.over && self.probe.is_none() {
            return;
        }
        let now = clock::now();
        if !self.over {
            self.endpoint.sample_at_least(now.since(self.began), now);
        }
        if let Some(probe) = self.probe.take() {
            self.endpoint.breaker.abandoned(probe, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_model::breaker::{Terms, Verdict};

    use super::*;
    use crate::endpoint::{Admin, EndpointSet};
    use crate::settings::EndpointSettings;

    const TERMS: Terms = Terms { consecutive: 1, cooldown: Duration::ZERO, cooldown_max: Duration::ZERO };

    /// A breaker that is half-open, and its probe.
    fn half_open(breaker: &Breaker) -> Probe {
        let now = clock::now();
        assert!(breaker.failed(&TERMS, None, now, now));
        match breaker.ask(&TERMS, Tick::MAX, now) {
            Verdict::Probe(probe) => probe,
            other => panic!("{other:?}"),
        }
    }

    fn lets_a_probe_through(breaker: &Breaker) -> bool {
        let now = clock::now();
        matches!(breaker.ask(&TERMS, now, now), Verdict::Probe(_))
    }

    #[test]
    fn a_call_that_is_dropped_hands_its_probe_back() {
        let breaker = Breaker::default();
        let trial = Trial::new(&breaker, Some(half_open(&breaker)));
        assert!(!lets_a_probe_through(&breaker));
        drop(trial);
        assert!(lets_a_probe_through(&breaker));
    }

    #[test]
    fn a_try_that_is_dropped_hands_its_probe_back_and_was_slow() {
        let listed = [EndpointSettings { address: "127.0.0.1:1".parse().unwrap(), weight: 1 }];
        let set = EndpointSet::default().update(&listed, |_| Admin::Enabled, clock::now());
        let endpoint = &set.endpoints[0];
        let probe = half_open(&endpoint.breaker);
        drop(Try::new(endpoint, Some(probe), Tick(0)));
        assert!(lets_a_probe_through(&endpoint.breaker));
        assert!(
            endpoint.status(Duration::ZERO, clock::now()).latency_ms > 1.0,
            "it took longer than it was waited for"
        );
    }
}
