//! What memory keeps of the cache's answers: told in the coding that was made before, or kept in it from now on.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use tidegate_model::coding::Coding;
use tidegate_model::compress;
use tidegate_model::fields::Fields;

use crate::cache::Cache;
use crate::cache::coded::{Claim, Coded};
use crate::cache::kept::Kept;
use crate::cache::serve::{self, Shared};
use crate::settle::Content;

/// The content as it is, and the answer of the cache that it is all of, if it is one's.
pub fn taken(content: Content) -> (Content, Option<Arc<Kept>>) {
    match content {
        Content::Cached(mut shared) => match &mut *shared {
            Shared::Whole(kept, pieces) => {
                let (kept, pieces) = (Arc::clone(kept), std::mem::take(pieces));
                (serve::content(pieces.into_iter().collect(), false), Some(kept))
            }
            _ => (Content::Cached(shared), None),
        },
        content => (content, None),
    }
}

/// What is kept in a coding, as it is told.
pub fn told(coded: &Coded, coding: Coding, is_head: bool, fields: &mut Fields) -> Content {
    compress::tell(fields, coding);
    fields.insert(CONTENT_LENGTH, coded.length());
    serve::content(coded.pieces().iter().cloned().collect(), is_head)
}

/// Keeps what an answer's content is in a coding, once all of it is there.
pub struct Keeping {
    cache: Arc<Cache>,
    claim: Claim,
    pieces: Vec<Bytes>,
    bytes: u64,
}

impl Keeping {
    /// What somebody has claimed to find out.
    pub fn of(cache: &Arc<Cache>, claim: Claim) -> Keeping {
        Keeping { cache: Arc::clone(cache), claim, pieces: Vec::new(), bytes: 0 }
    }

    /// The most bytes that it holds until then.
    pub fn bytes_max(&self) -> u64 {
        self.claim.kept.length()
    }

    /// The next piece in the coding. `false`: it is as long as the content already, which is remembered.
    pub fn add(&mut self, piece: Bytes) -> bool {
        self.bytes += piece.len() as u64;
        let is_smaller = self.bytes < self.bytes_max();
        if is_smaller {
            self.pieces.push(piece);
        } else {
            self.pieces = Vec::new();
            self.cache.memory.keep_coded(&self.claim.kept, self.claim.coding, Coded::no_smaller());
        }
        is_smaller
    }

    /// That was all, of so many bytes of content.
    pub fn end(self, plain: u64) {
        if plain == self.claim.kept.length() {
            self.cache.memory.keep_coded(&self.claim.kept, self.claim.coding, Coded::of(self.pieces));
        }
    }
}
