//! What other nodes ask that is no matter of caches. It is sealed, heard and answered as their other questions are; what it
//! means is known to whoever takes the desk, on a thread of its own: a core does no more than hand bytes on.
//!
//! What always holds: an answer that was not taken whole is told to whoever gave it, so that what went with it can be had by
//! somebody else. What the network has taken and its reader has not is not known here.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as HttpBody;
use tidegate_model::cluster::seal::{Secret, Tag};
use tidegate_model::cluster::told::{Passed, Told};
use tidegate_model::tick::Tick;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;
use tokio::sync::{mpsc, oneshot};

use super::reading;

/// The most bytes of an answer to what was passed on.
pub const PASSED_BYTES_MAX: u64 = 128 << 20;
/// What is handed over at once.
const PIECE: usize = 64 << 10;

/// Questions that wait to be taken.
const WAITING_MAX: usize = 1_024;

/// What was passed on.
#[derive(Debug)]
pub struct Heard {
    /// What is asked.
    pub content: Bytes,
    /// Where it is answered. Closed: nobody waits for it any more.
    pub answer: oneshot::Sender<Handed>,
}

/// Where other nodes ask. Nobody is at it until somebody takes it.
#[derive(Debug, Default)]
pub struct Desk(OnceLock<mpsc::Sender<Heard>>);

impl Desk {
    /// Takes it. `None`: somebody has.
    #[must_use]
    pub fn take(&self) -> Option<mpsc::Receiver<Heard>> {
        let (asks, asked) = mpsc::channel(WAITING_MAX);
        self.0.set(asks).ok().map(|()| asked)
    }

    /// Has it answered; or why it is not.
    pub(super) async fn ask(&self, content: Bytes) -> Result<Handed, &'static str> {
        let desk = self.0.get().ok_or("nobody answers that here")?;
        let (answer, handed) = oneshot::channel();
        desk.try_send(Heard { content, answer }).map_err(|_| "too much is asked of it")?;
        handed.await.map_err(|_| "it would not answer")
    }
}

/// An answer on its way.
pub struct Handed {
    told: Passed,
    content: Bytes,
    lost: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Handed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Handed({} bytes)", self.content.len())
    }
}

impl Handed {
    /// This. If it is not taken whole, that is called.
    pub fn new(content: impl Into<Bytes>, lost: impl FnOnce() + Send + 'static) -> Handed {
        let content = content.into();
        Handed { told: Passed::of(&content), content, lost: Some(Box::new(lost)) }
    }

    /// What is told of it before.
    pub(super) fn told(&self) -> Passed {
        self.told
    }

    /// The next piece.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let piece = self.content.split_to(self.content.len().min(PIECE));
        if self.content.is_empty() {
            self.lost = None;
        }
        (!piece.is_empty()).then_some(piece)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost();
        }
    }
}

/// Reads the answer to what was passed on under this seal. A node that says nothing for `wait` is not waited for, nor one that
/// has not answered by then.
///
/// # Errors
/// Why there is none.
pub async fn answer(
    body: &mut (impl HttpBody<Data = Bytes, Error = BoxError> + Unpin),
    secret: &Secret,
    asked: &Tag,
    wait: Duration,
    by: Tick,
) -> Result<Bytes, String> {
    let (told, begun) =
        reading::told(body, secret, asked, wait, by).await.map_err(|nothing| nothing.1.into_owned())?;
    let passed = match told {
        Told::Passed(passed) if passed.length <= PASSED_BYTES_MAX => passed,
        Told::Refused(why) => return Err(why),
        Told::Passed(_) | Told::Answer(_) => return Err("it answers something else".to_owned()),
    };
    let mut content = Vec::from(begun);
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let until = clock::now().after(wait).min(by);
        match clock::timeout_at(until, frame).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => content.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Ok(Some(Err(_))) => return Err("it left in the middle".to_owned()),
            Err(_) => return Err("it said nothing in time".to_owned()),
        }
        if content.len() as u64 > passed.length {
            break;
        }
    }
    match Passed::of(&content) == passed {
        true => Ok(content.into()),
        false => Err("its content is not what it sealed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    /// What is taken of an answer of so many bytes by so many looks, and whether it counts as lost.
    fn check(bytes: usize, looks: usize, taken: usize, lost: bool) {
        let told = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&told);
        let mut handed = Handed::new(vec![1; bytes], move || tells.store(true, Relaxed));
        let got: usize = (0..looks).filter_map(|_| handed.next()).map(|piece| piece.len()).sum();
        drop(handed);
        assert_eq!((got, told.load(Relaxed)), (taken, lost), "{looks} looks at {bytes} bytes");
    }

    #[test]
    fn an_answer_that_was_not_taken_whole_is_told_to_whoever_gave_it() {
        check(PIECE * 2 + 1, 2, PIECE * 2, true);
        check(PIECE * 2 + 1, 3, PIECE * 2 + 1, false);
        check(1, 0, 0, true);
        check(0, 1, 0, false);
    }
}
