//! The one timer of an HTTP/2 connection, *lazily armed*: what must be over by when is stored in a cell, and the timer, when
//! it fires, looks whether that is still so. A request that comes and goes in time costs no timer work at all.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_model::tick::Tick;

use crate::clock;
use crate::farewell::LINGER;
use crate::h2_stream::Shared;
use crate::server::Drain;
use crate::settings::ConnectionLimits;
use crate::streams::Streams;

/// How often it is looked for streams of which nothing is taken, at least.
const LOOK: Duration = Duration::from_secs(1);

/// The one timer of a connection, armed late.
pub(crate) struct Timer<'a> {
    shared: &'a Shared,
    limits: &'a ConnectionLimits,
    armed: Pin<Box<tokio::time::Sleep>>,
    /// The streams that are answered now.
    streams: &'a Streams,
    drain: &'a Drain,
    drained: Pin<Box<tokio::sync::futures::Notified<'a>>>,
    closing: bool,
}

impl<'a> Timer<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        limits: &'a ConnectionLimits,
        drain: &'a Drain,
        streams: &'a Streams,
    ) -> Timer<'a> {
        let first = shared.active_at.get().after(limits.header_time.min(limits.idle).min(limits.body_idle));
        Timer {
            shared,
            limits,
            armed: Box::pin(tokio::time::sleep_until(clock::instant(first))),
            streams,
            drain,
            drained: Box::pin(drain.changed.notified()),
            closing: false,
        }
    }

    /// Drives the connection. Ready when it has ended by itself, or takes or sends nothing any more.
    pub(crate) fn poll<C, E>(
        &mut self,
        context: &mut Context<'_>,
        mut driven: Pin<&mut C>,
        close: impl Fn(Pin<&mut C>),
    ) -> Poll<()>
    where
        C: Future<Output = Result<(), E>>,
    {
        loop {
            self.calm_down();
            if driven.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let spent = self.shared.exchanges.load(Relaxed) >= self.limits.requests;
            let drained = self.drain.draining.get() || self.drained.as_mut().poll(context).is_ready();
            if (spent || drained) && !self.closing {
                self.closing = true;
                close(driven.as_mut());
                self.armed.as_mut().reset(clock::instant(clock::now().after(LINGER)));
                continue;
            }
            if self.armed.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let now = clock::now();
            match self.due(now) {
                Due::Later(then) => self.armed.as_mut().reset(clock::instant(then)),
                Due::Idle if !self.closing => {
                    self.closing = true;
                    close(driven.as_mut());
                    self.armed.as_mut().reset(clock::instant(now.after(LINGER)));
                }
                Due::Idle | Due::Write => return Poll::Ready(()),
            }
        }
    }

    /// Whoever has given up too many exchanges before they were answered hears no more than why (CVE-2023-44487).
    fn calm_down(&mut self) {
        let over = self.shared.given_up.load(Relaxed) > self.limits.h2_resets;
        if over && !self.shared.calm.swap(true, Relaxed) {
            self.closing = true;
            self.armed.as_mut().reset(clock::instant(clock::now().after(LINGER)));
        }
    }

    /// What is due now, or when to look again.
    fn due(&self, now: Tick) -> Due {
        let shared = self.shared;
        if shared.write_by.get() <= now || shared.calm.load(Relaxed) {
            return Due::Write;
        }
        if !shared.is_idle() {
            self.streams.cut_stalled(now, self.limits.body_idle);
            let look = self.limits.body_idle.min(LOOK);
            return Due::Later(now.after(look).min(shared.write_by.get()));
        }
        // Before its first request a connection has no more time than a head has.
        let patience = match shared.exchanges.load(Relaxed) {
            // It was asked to close, and has only to say that it heard.
            _ if self.closing => LINGER,
            0 => self.limits.idle.min(self.limits.header_time),
            _ => self.limits.idle,
        };
        let idle_until = shared.active_at.get().after(patience);
        if idle_until <= now {
            return Due::Idle;
        }
        Due::Later(idle_until.min(now.after(self.limits.header_time)).min(shared.write_by.get()))
    }
}

enum Due {
    Later(Tick),
    Idle,
    Write,
}
