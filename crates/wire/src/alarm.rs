//! A timer that is used again and again, and costs no timer work while nothing is late.
//!
//! It is armed at the first wait, and when it fires before its time, because the time was put off since, armed anew.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_model::tick::Tick;
use tokio::time::Sleep;

use crate::clock;

/// One timer.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once `by` has come.
    pub fn poll(&mut self, by: Tick, context: &mut Context<'_>) -> Poll<()> {
        let until = clock::instant(by);
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(context).is_ready() {
            if clock::now() >= by {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn rings_when_its_time_comes_sooner_or_later_than_before() {
        let mut alarm = Alarm::default();
        let begin = clock::now();
        let at = |millis| begin.after(Duration::from_millis(millis));
        let pending = poll_fn(|context| Poll::Ready(alarm.poll(at(60_000), context).is_pending())).await;
        assert!(pending);
        for (millis, later) in [(2, 60_000), (20, 60_000)] {
            poll_fn(|context| alarm.poll(at(millis), context)).await;
            assert!(clock::now() >= at(millis) && clock::now() < at(later), "it rang at its own time");
        }
    }
}
