//! The one home of tasks: local to the core that spawns them. The clock is looked at each time one is polled.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::clock;

/// Runs a future on this core beside the caller. A panic in it ends the task alone and is reported by the process's panic hook.
///
/// # Panics
/// Outside a `tokio::runtime::LocalRuntime` (or a `LocalSet`).
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(spawn_abortable(future));
}

/// The same, for a task that may have to be ended from outside.
pub(crate) fn spawn_abortable(future: impl Future<Output = ()> + 'static) -> tokio::task::AbortHandle {
    #[expect(clippy::disallowed_methods, reason = "this is the tasks' one home")]
    tokio::task::spawn_local(Turns { future }).abort_handle()
}

pin_project_lite::pin_project! {
    /// A task whose turns begin with a look at the clock: [`clock::latest`].
    struct Turns<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        clock::now();
        self.project().future.poll(context)
    }
}

/// Runs hyper's own tasks (HTTP/2 streams) on this core.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        spawn(async move {
            future.await;
        });
    }
}
