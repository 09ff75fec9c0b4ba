//! The one timer of a connection, *lazily armed*: a phase (head, body, idle, a write that stalls) stores when it must
//! be over in a cell, and the timer, when it fires, looks whether that is still so. A request that comes and goes in
//! time costs no timer work at all.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_model::refusal;
use tidegate_model::tick::Tick;

use crate::clock;
use crate::farewell::LINGER;
use crate::guard::Violation;
use crate::server::Drain;
use crate::settings::ConnectionLimits;
use crate::stream::Shared;
use crate::streams::Streams;

/// How often it is looked whether a client that has shut down its side is still there.
const GONE_CHECK: Duration = Duration::from_millis(100);

/// At most so long a connection keeps hyper and its buffers without a request.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How a connection's driving ended.
pub(crate) enum Ended {
    /// By itself.
    Connection,
    /// A head did not come in time.
    HeadLate,
    /// The client takes or sends nothing any more.
    Cut,
    /// Not at all: it is between two requests, and has been for a while.
    Rest,
}

/// The one timer of a connection, armed late.
pub(crate) struct Timer<'a> {
    shared: &'a Shared,
    limits: &'a ConnectionLimits,
    armed: Pin<Box<tokio::time::Sleep>>,
    /// HTTP/2: the streams that are answered now.
    streams: Option<&'a Streams>,
    drain: &'a Drain,
    drained: Pin<Box<tokio::sync::futures::Notified<'a>>>,
    closing: bool,
    /// The client has shut down its side, and the timer was armed to look whether it is still there.
    watching: bool,
}

impl<'a> Timer<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        limits: &'a ConnectionLimits,
        drain: &'a Drain,
        streams: Option<&'a Streams>,
    ) -> Timer<'a> {
        let first =
            shared.active_at.get().after(limits.header_time.min(rest_after(limits)).min(limits.body_idle));
        Timer {
            shared,
            limits,
            armed: Box::pin(tokio::time::sleep_until(clock::instant(first))),
            streams,
            drain,
            drained: Box::pin(drain.changed.notified()),
            closing: false,
            watching: false,
        }
    }

    pub(crate) fn poll<C, E>(
        &mut self,
        context: &mut Context<'_>,
        mut driven: Pin<&mut C>,
        close: impl Fn(Pin<&mut C>),
    ) -> Poll<Ended>
    where
        C: Future<Output = Result<(), E>>,
    {
        let mut again = false;
        loop {
            self.calm_down();
            if driven.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ended::Connection);
            }
            if self.shared.is_idle() && self.shared.held_back.swap(false, Relaxed) && !again {
                // A read that waited for the exchange's end: nobody else wakes it.
                again = true;
                continue;
            }
            if self.shared.half_closed.load(Relaxed) && !self.watching {
                self.watching = true;
                self.armed.as_mut().reset(clock::instant(clock::now().after(GONE_CHECK)));
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
                Due::Rest => return Poll::Ready(Ended::Rest),
                Due::Idle | Due::Write => return Poll::Ready(Ended::Cut),
                Due::Head => return Poll::Ready(Ended::HeadLate),
                Due::Body => {
                    self.shared.read_by.set(Tick::MAX);
                    self.shared.broken_body.store(true, Relaxed);
                    let why = "the body made no progress";
                    self.shared.violate(Violation { kind: &refusal::REQUEST_TIMEOUT, why });
                    self.armed.as_mut().reset(clock::instant(now.after(LINGER)));
                }
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
        let busy = !shared.is_idle();
        if shared.read_by.get() <= now {
            return if busy { Due::Body } else { Due::Head };
        }
        if busy {
            if let Some(streams) = self.streams {
                streams.cut_stalled(now, self.limits.body_idle);
            }
            let look = if shared.half_closed.load(Relaxed) {
                GONE_CHECK
            } else {
                self.limits.body_idle.min(Duration::from_secs(1))
            };
            return Due::Later(now.after(look).min(shared.read_by.get()).min(shared.write_by.get()));
        }
        // Before its first request a connection has no more time than a head has.
        let patience = match shared.exchanges.load(Relaxed) {
            // It was asked to close, and has only to say that it heard.
            _ if self.closing => LINGER,
            0 => self.limits.idle.min(self.limits.header_time),
            _ => self.limits.idle,
        };
        let idle_until = shared.active_at.get().after(patience);
        if idle_until <= now && shared.read_by.get() == Tick::MAX {
            return Due::Idle;
        }
        let mut look = now.after(self.limits.header_time);
        if shared.may_rest() && !self.closing {
            let rest_at = shared.active_at.get().after(rest_after(self.limits));
            if rest_at <= now {
                return Due::Rest;
            }
            look = look.min(rest_at);
        }
        Due::Later(
            idle_until
                .max(now.after(GONE_CHECK))
                .min(look)
                .min(shared.read_by.get())
                .min(shared.write_by.get()),
        )
    }
}

/// How long a connection is between two requests until hyper is let go.
fn rest_after(limits: &ConnectionLimits) -> Duration {
    REST_AFTER.min(limits.idle / 8)
}

enum Due {
    Later(Tick),
    Rest,
    Idle,
    Head,
    Body,
    Write,
}
