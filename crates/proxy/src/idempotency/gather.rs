//! The upstream's answer, taken in before it is told: whole, or as far as it is kept.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tidegate_model::tick::Tick;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;

use crate::settle::Content;

/// What was taken in of an answer.
pub enum Gathered {
    /// All of it.
    Whole(Bytes),
    /// More than is kept, or not whole in time: it goes on as it comes.
    Endless(Content),
    /// It broke off.
    Broken,
}

/// Takes in an answer's content, so many bytes and so long at most.
pub async fn gather(mut content: Content, bytes_max: u64, by: Tick) -> Gathered {
    let (mut frames, mut length) = (VecDeque::new(), 0);
    if content.size_hint().lower() > bytes_max {
        return Gathered::Endless(content);
    }
    loop {
        let frame = match clock::timeout_at(by, poll_fn(|context| content.poll_frame(context))).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Gathered::Broken,
            Ok(None) => return Gathered::Whole(joined(frames)),
            Err(_) => return resumed(frames, content),
        };
        length += frame.data_ref().map_or(0, |data| data.len() as u64);
        let is_data = frame.is_data();
        frames.push_back(frame);
        // What follows an answer is no part of what is kept.
        if length > bytes_max || !is_data {
            return resumed(frames, content);
        }
    }
}

fn resumed(frames: VecDeque<Frame<Bytes>>, rest: Content) -> Gathered {
    Gathered::Endless(Content::Resumed(Box::new(Resumed { frames, rest })))
}

fn joined(mut frames: VecDeque<Frame<Bytes>>) -> Bytes {
    if frames.len() <= 1 {
        return frames.pop_front().and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    }
    let mut all = BytesMut::new();
    for data in frames.iter().filter_map(Frame::data_ref) {
        all.extend_from_slice(data);
    }
    all.freeze()
}

/// An answer of which the beginning has been taken in.
pub struct Resumed {
    frames: VecDeque<Frame<Bytes>>,
    rest: Content,
}

impl Resumed {
    /// The next frame.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.rest.poll_frame(context),
        }
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }

    /// What will still come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        let here: u64 = self.frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let (mut hint, rest) = (SizeHint::new(), self.rest.size_hint());
        hint.set_lower(here.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(here.saturating_add(upper));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frames(pieces: &[&'static str], trailers: bool) -> VecDeque<Frame<Bytes>> {
        let mut frames: VecDeque<_> =
            pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes()))).collect();
        frames.extend(trailers.then(|| Frame::trailers(http::HeaderMap::new())));
        frames
    }

    /// What is gathered of these pieces, before this end, and what goes on.
    async fn check(pieces: &[&'static str], trailers: bool, end: Content, most: u64) -> String {
        let content = Content::Resumed(Box::new(Resumed { frames: frames(pieces, trailers), rest: end }));
        match gather(content, most, clock::now().after(Duration::from_secs(10))).await {
            Gathered::Whole(body) => format!("whole {}", String::from_utf8_lossy(&body)),
            Gathered::Broken => "broken".to_owned(),
            Gathered::Endless(mut content) => {
                let mut told = format!("on, {} at least:", content.size_hint().lower());
                while let Some(frame) = poll_fn(|context| content.poll_frame(context)).await {
                    match frame.unwrap().into_data() {
                        Ok(data) => told.extend([" ", std::str::from_utf8(&data).unwrap()]),
                        Err(_) => told.push_str(" trailers"),
                    }
                }
                assert!(content.is_end_stream());
                told
            }
        }
    }

    #[tokio::test]
    async fn what_fits_is_whole_and_what_does_not_goes_on_from_its_beginning() {
        assert_eq!(check(&[], false, Content::Empty, 5).await, "whole ");
        assert_eq!(check(&["ab", "cde"], false, Content::Empty, 5).await, "whole abcde");
        assert_eq!(check(&["ab", "cde"], false, Content::Empty, 4).await, "on, 5 at least: ab cde");
        let more = Content::Full(Bytes::from_static(b"fg"));
        assert_eq!(check(&["ab", "cde"], false, more, 6).await, "on, 7 at least: ab cde fg");
        assert_eq!(check(&["ab"], true, Content::Empty, 9).await, "on, 2 at least: ab trailers");
        assert_eq!(check(&["ab"], false, Content::Cut, 9).await, "broken");
    }

    #[tokio::test]
    async fn what_does_not_end_in_time_goes_on() {
        let content = Content::Resumed(Box::new(Resumed {
            frames: frames(&["ab"], false),
            rest: Content::Full(Bytes::from_static(b"c")),
        }));
        assert!(matches!(gather(content, 1, Tick(0)).await, Gathered::Endless(_)));
    }
}
