//! The upstream's answer, taken as it goes to its client: what is compared of its head, and its body up to a bound.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tidegate_model::coding::{Packing, Unreadable};
use tidegate_model::fields::Fields;
use tidegate_model::message::Response;
use tidegate_model::mirror::compare::{Answer, Content};
use tidegate_upstream::AnswerBody;
use tokio::sync::oneshot;

use super::CompareSettings;

/// What is compared of an answer; its body is not decoded yet.
pub struct Taken {
    /// The rest of it.
    pub answer: Answer,
    /// What its body is coded in; an error: in what cannot be read.
    pub coding: Result<Option<Packing>, Unreadable>,
}

/// An answer that is still on its way.
pub type Coming = oneshot::Receiver<Taken>;

impl Taken {
    /// What is compared of an answer with this body.
    pub fn of(compare: &CompareSettings, status: StatusCode, fields: &Fields, body: Content) -> Taken {
        Taken { answer: Answer::of(&compare.rules, status, fields, body), coding: Packing::of(fields) }
    }
}

/// Takes an answer as it passes; `None`: nothing is compared.
pub fn take(
    compare: Option<&CompareSettings>,
    response: Response<AnswerBody>,
) -> (Option<Coming>, Response<AnswerBody>) {
    let Some(compare) = compare else { return (None, response) };
    let (told, coming) = oneshot::channel();
    let (head, body) = response.into_parts();
    let mut gathered = Gathered::new(compare.body_bytes_max);
    let taken = Taken::of(compare, head.status, &head.headers, Content::Longer);
    let mut told = Some((told, taken));
    let mut tell = move |content: Content| {
        if let Some((told, mut taken)) = told.take() {
            taken.answer.body = content;
            // Who waits for it may have given up.
            let _ = told.send(taken);
        }
    };
    let body = match body {
        AnswerBody::Whole(bytes) => {
            gathered.add(&bytes);
            tell(gathered.content());
            AnswerBody::Whole(bytes)
        }
        body => body.watched(Box::new(move |piece: Option<&Bytes>| match piece {
            Some(piece) => {
                gathered.add(piece);
            }
            None => tell(gathered.content()),
        })),
    };
    (Some(coming), Response::from_parts(head, body))
}

/// The bytes of a body, as long as they are not too many.
pub struct Gathered {
    bytes: BytesMut,
    most: u64,
    longer: bool,
}

impl Gathered {
    /// None yet.
    pub fn new(most: u64) -> Gathered {
        Gathered { bytes: BytesMut::new(), most, longer: false }
    }

    /// Some more. `false`: they are too many.
    pub fn add(&mut self, piece: &[u8]) -> bool {
        self.longer |= (self.bytes.len() + piece.len()) as u64 > self.most;
        match self.longer {
            true => self.bytes = BytesMut::new(),
            false => self.bytes.extend_from_slice(piece),
        }
        !self.longer
    }

    /// All of them.
    pub fn content(&mut self) -> Content {
        if self.longer { Content::Longer } else { Content::Whole(std::mem::take(&mut self.bytes).freeze()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn too_many_bytes_are_let_go_of() {
        let mut gathered = Gathered::new(4);
        assert!(gathered.add(b"1234"));
        assert!(!gathered.add(b"5") && !gathered.add(b""));
        assert_eq!((gathered.content(), gathered.bytes.capacity()), (Content::Longer, 0));
    }
}
