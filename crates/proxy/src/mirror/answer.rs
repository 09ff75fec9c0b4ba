//! The upstream's answer, taken as it goes to its client: what is compared of its head, and its body up to a bound.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::CONTENT_ENCODING;
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
    /// What its body is coded in.
    pub coding: Coding,
}

/// What a body is coded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, as `deflate` is in HTTP.
    Deflate,
    /// Another one, or several.
    Other,
}

/// An answer that is still on its way.
pub type Coming = oneshot::Receiver<Taken>;

impl Taken {
    /// What is compared of an answer with this body.
    pub fn of(compare: &CompareSettings, status: StatusCode, fields: &Fields, body: Content) -> Taken {
        Taken { answer: Answer::of(&compare.rules, status, fields, body), coding: coding(fields) }
    }
}

fn coding(fields: &Fields) -> Coding {
    let mut told = fields.get_all(CONTENT_ENCODING).iter().map(|value| value.as_bytes().to_ascii_lowercase());
    match (told.next().as_deref(), told.next()) {
        (None | Some(b"" | b"identity"), None) => Coding::Identity,
        (Some(b"gzip" | b"x-gzip"), None) => Coding::Gzip,
        (Some(b"deflate"), None) => Coding::Deflate,
        _ => Coding::Other,
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
    use http::HeaderValue;

    fn check(values: &[&'static str], expected: Coding) {
        let mut fields = Fields::default();
        for value in values {
            fields.append(CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        assert_eq!(coding(&fields), expected);
    }

    #[test]
    fn a_coding_that_is_not_read_is_known_as_such() {
        check(&[], Coding::Identity);
        check(&["GZIP"], Coding::Gzip);
        check(&["deflate"], Coding::Deflate);
        check(&["br"], Coding::Other);
        check(&["gzip", "gzip"], Coding::Other);
        check(&["gzip, br"], Coding::Other);
    }

    #[test]
    fn too_many_bytes_are_let_go_of() {
        let mut gathered = Gathered::new(4);
        assert!(gathered.add(b"1234"));
        assert!(!gathered.add(b"5") && !gathered.add(b""));
        assert_eq!((gathered.content(), gathered.bytes.capacity()), (Content::Longer, 0));
    }
}
