//! A large answer as one client reads it: texts and parts in their order, slice after slice.
//!
//! ```text
//! wanted byte --- a run that is being read ----> its piece, as it comes
//!             |-- a tier has its slice --------> the slice; the one behind it is read meanwhile
//!             '-- neither --- asked for, from there to what is there again ---> a run
//! ```
//!
//! What always holds: a reader holds one slice, and the next where that comes from a disk; nothing is read before the
//! client has taken what came before. What cannot be had breaks the answer off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tidegate_model::cache::range::Part;
use tidegate_wire::body::BoxError;
use tidegate_wire::task;
use tokio::sync::oneshot;

use super::ask::Source;
use super::run::{Read, Seat};
use crate::cache::fill::Broken;

/// How often one byte is asked for: an upstream that breaks off again and again, or a tier that loses what it has just
/// taken, does not go on for ever.
const ASKS_MAX: u32 = 3;

/// What an answer's content is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// What stands between parts.
    Text(Bytes),
    /// A part of the representation.
    Part(Part),
}

impl Segment {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Segment::Text(text) => text.len() as u64,
            Segment::Part(part) => part.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The content of a large answer.
pub struct SliceBody {
    turn: Turn,
    left: u64,
}

/// A reader that reads the next piece.
type Reading = Pin<Box<dyn Future<Output = (Box<Reader>, Result<Bytes, Broken>)>>>;

/// Whose turn it is.
enum Turn {
    /// The client's.
    Client(Box<Reader>),
    /// The reader's.
    Reader(Reading),
    /// Nobody's: it broke off.
    Over,
}

impl SliceBody {
    /// The content that is made of these. `seat`: where the first that is missing comes.
    #[must_use]
    pub fn new(source: Rc<Source>, segments: VecDeque<Segment>, seat: Option<Seat>) -> SliceBody {
        let left = segments.iter().map(Segment::len).sum();
        let reader = Reader { source, segments, seat, pieces: VecDeque::new(), at: 0, ahead: None, asks: 0 };
        SliceBody { turn: Turn::Client(Box::new(reader)), left }
    }

    /// Bytes that will still come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next piece.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.turn = match std::mem::replace(&mut self.turn, Turn::Over) {
            Turn::Client(reader) => Turn::Reader(Box::pin(reader.turn())),
            turn => turn,
        };
        let Turn::Reader(turn) = &mut self.turn else { return Poll::Ready(Some(Err(Broken.into()))) };
        let (reader, piece) = ready!(turn.as_mut().poll(context));
        Poll::Ready(Some(match piece {
            Ok(piece) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                self.turn = Turn::Client(reader);
                Ok(Frame::data(piece))
            }
            Err(broken) => {
                self.turn = Turn::Over;
                Err(broken.into())
            }
        }))
    }
}

/// Reads.
struct Reader {
    source: Rc<Source>,
    segments: VecDeque<Segment>,
    /// The run that is being read.
    seat: Option<Seat>,
    /// What is here of a slice, from `at` on.
    pieces: VecDeque<Bytes>,
    at: u64,
    /// The slice that is read meanwhile.
    ahead: Option<(u64, oneshot::Receiver<Option<VecDeque<Bytes>>>)>,
    asks: u32,
}

impl Reader {
    async fn turn(mut self: Box<Self>) -> (Box<Reader>, Result<Bytes, Broken>) {
        let piece = self.next().await;
        if piece.is_err() {
            self.source.broke();
        }
        (self, piece)
    }

    async fn next(&mut self) -> Result<Bytes, Broken> {
        let part = loop {
            match self.segments.front().ok_or(Broken)? {
                Segment::Part(part) if part.is_empty() => drop(self.segments.pop_front()),
                Segment::Part(part) => break *part,
                Segment::Text(text) => {
                    let text = text.clone();
                    self.segments.pop_front();
                    return Ok(text);
                }
            }
        };
        let mut piece = self.bytes(part).await?;
        self.asks = 0;
        piece.truncate(usize::try_from(part.len()).unwrap_or(usize::MAX));
        let rest = Part { from: part.from + piece.len() as u64, to: part.to };
        if let Some(Segment::Part(part)) = self.segments.front_mut() {
            *part = rest;
        }
        Ok(piece)
    }

    /// Bytes from the beginning of this part; perhaps more than it has.
    async fn bytes(&mut self, part: Part) -> Result<Bytes, Broken> {
        loop {
            if let Some(piece) = self.here(part.from) {
                if let Some(seat) = &self.seat {
                    seat.pass(part.from);
                }
                return Ok(piece);
            }
            let mut ends = true;
            if let Some(seat) = &self.seat {
                match seat.read(part.from).await {
                    Read::Piece(piece) => return Ok(piece),
                    // Who reads elsewhere for a while is there still, or nobody would be.
                    Read::Behind => ends = false,
                    Read::Over(_) => {}
                }
            }
            if ends {
                self.seat = None;
            }
            if self.slice(part).await {
                continue;
            }
            self.seat = None;
            self.asks += 1;
            if self.asks > ASKS_MAX {
                return Err(Broken);
            }
            self.seat = self.source.seat(part, true).await?;
        }
    }

    /// What is here from this byte on.
    fn here(&mut self, at: u64) -> Option<Bytes> {
        while let Some(mut piece) = self.pieces.pop_front() {
            let (begin, end) = (self.at, self.at + piece.len() as u64);
            self.at = end;
            if (begin..end).contains(&at) {
                return Some(piece.split_off((at - begin) as usize));
            }
        }
        None
    }

    /// Reads the slice of the first byte of this part, if a tier has it.
    async fn slice(&mut self, part: Part) -> bool {
        let grid = self.source.whose.manifest.grid;
        let slice = grid.slice_at(part.from);
        let read = match self.ahead.take() {
            Some((ahead, read)) if ahead == slice => read.await.ok().flatten(),
            _ => self.source.read(slice).await,
        };
        let Some(pieces) = read else { return false };
        (self.pieces, self.at) = (pieces, grid.part_of(slice).from);
        let next = slice + 1;
        if grid.touched(part).contains(&next) && self.source.is_kept(next) {
            self.read_ahead(next);
        }
        true
    }

    fn read_ahead(&mut self, slice: u64) {
        let (done, read) = oneshot::channel();
        let source = Rc::clone(&self.source);
        task::spawn(async move {
            // Whoever wanted it may have left.
            let _ = done.send(source.read(slice).await);
        });
        self.ahead = Some((slice, read));
    }
}
