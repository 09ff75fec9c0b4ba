//! A file on its way to a client, piece by piece.
//!
//! One piece is in memory at a time, and the next is read when the client has taken it. What the kernel has in memory is
//! read on the core; for the rest a thread of the pool waits. Before the last piece of a part goes out, the file must still
//! be what it was when the head was told: else the body fails, and its connection is closed before all that was promised
//! has come.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use tidegate_model::cache::range::Part;
use tidegate_model::files::stamp::Stamp;
use tidegate_model::tick::Tick;
use tidegate_wire::alarm::Alarm;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;
use tidegate_wire::files::OfUpstream;

use super::answer::Piece;
use super::root::Reach;
use super::shelf::{Open, cut};
use super::{Busy, Unread, pool};
use crate::gate::Lent;

/// The bytes of a file that are in memory at once, for each client that takes one.
const PIECE: u64 = 64 << 10;

/// What comes of a read.
type Reading = Pin<Box<dyn Future<Output = Result<Bytes, Unread>>>>;

/// The body of an answer that is a file, or parts of one.
pub struct FileBody {
    file: Arc<OwnedFd>,
    stamp: Stamp,
    pieces: VecDeque<Piece>,
    /// Bytes that will still be told.
    left: u64,
    /// A read that waits for the disk.
    reading: Option<Reading>,
    /// Since when; `None`: it is the client that is slow.
    since: Option<Tick>,
    idle: Duration,
    alarm: Alarm,
    /// The slot, for as long as the body has it.
    lent: Option<Lent>,
    busy: Busy,
    /// It is open for as long as the client takes to read it.
    _open: OfUpstream,
}

impl FileBody {
    /// The pieces of a file. Between two bytes from the disk no more than `idle` may lie.
    pub(super) fn new(
        open: Open,
        pieces: impl IntoIterator<Item = Piece>,
        lent: Option<Lent>,
        busy: Busy,
        idle: Duration,
    ) -> Result<FileBody, (Busy, Unread)> {
        let Some(counted) = OfUpstream::take() else { return Err((busy, Unread::NoFile)) };
        let pieces: VecDeque<Piece> = pieces.into_iter().collect();
        Ok(FileBody {
            file: open.file,
            stamp: open.stamp,
            left: pieces.iter().map(Piece::len).sum(),
            pieces,
            reading: None,
            since: None,
            idle,
            alarm: Alarm::default(),
            lent,
            busy,
            _open: counted,
        })
    }

    /// The next piece.
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let read = ready!(self.poll_piece(context));
        self.since = None;
        Poll::Ready(Some(match read {
            Ok(bytes) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                match self.left {
                    0 => self.lent = None,
                    _ => self.waits_for_client(Some(clock::latest())),
                }
                Ok(Frame::data(bytes))
            }
            Err(error) => {
                (self.left, self.reading, self.lent) = (0, None, None);
                self.pieces.clear();
                self.busy.broke();
                Err(error.into())
            }
        }))
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Unread>> {
        if self.reading.is_none() {
            match self.read_at_once() {
                Ok(bytes) => return Poll::Ready(Ok(bytes)),
                Err(Unread::System(Errno::AGAIN)) => self.reading = Some(self.read_later()?),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let reading = self.reading.as_mut().expect("it was just begun");
        match reading.as_mut().poll(context) {
            Poll::Ready(read) => {
                self.reading = None;
                self.advance();
                Poll::Ready(read)
            }
            Poll::Pending => {
                self.waits_for_client(None);
                let until = self.since.get_or_insert_with(clock::now).after(self.idle);
                self.alarm.poll(until, context).map(|()| Err(Unread::Stalled))
            }
        }
    }

    /// The next piece, if it is in memory.
    fn read_at_once(&mut self) -> Result<Bytes, Unread> {
        if let Some(Piece::Text(text)) = self.pieces.front_mut() {
            let text = std::mem::take(text);
            self.pieces.pop_front();
            return Ok(text);
        }
        let (from, length, still) = self.next();
        let bytes = cut(&self.file, from, length, still.as_ref(), Reach::Cached)?;
        self.advance();
        Ok(bytes)
    }

    fn read_later(&self) -> Result<Reading, Unread> {
        self.busy.waits();
        let (file, (from, length, still)) = (Arc::clone(&self.file), self.next());
        let read = pool::run(move || cut(&file, from, length, still.as_ref(), Reach::Disk))?;
        Ok(Box::pin(async move { read.await? }))
    }

    /// What is read next: from where, how much, and what the file must be afterwards if a part ends with that.
    fn next(&self) -> (u64, u64, Option<Stamp>) {
        let Some(Piece::Part(Part { from, to })) = self.pieces.front() else { return (0, 0, None) };
        let length = (to - from).min(PIECE);
        (*from, length, (from + length == *to).then_some(self.stamp))
    }

    /// It was read.
    fn advance(&mut self) {
        let (_, length, _) = self.next();
        if let Some(Piece::Part(part)) = self.pieces.front_mut() {
            part.from += length;
            if part.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// From now on, the client is waited for, or (`None`) the disk.
    fn waits_for_client(&self, since: Option<Tick>) {
        if let Some(lent) = &self.lent {
            lent.waits_for_reader(since);
        }
    }

    /// Whether all of it was told.
    pub(crate) fn is_end(&self) -> bool {
        self.left == 0
    }

    /// What will still come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
