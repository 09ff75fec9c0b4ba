//! What was written lately, at hand for who asks for it soon: a delivery that is begun at once is loaded twice, and its request is
//! read, within milliseconds of when both were written.
//!
//! How much room there was when that was asked is kept here, too, and which ids there are beside those that were written; and what is on
//! disk [ahead](crate::ahead) of the tables.
//!
//! What always holds: it is what the tables have, or will have. All that changes a row or a request tells it here, within the transaction;
//! after one that failed nothing of it is believed. There is so much of it and no more: beyond that all is forgotten, and the
//! tables are asked. Where so many are written and nobody asks for one, none is kept until somebody does.

use std::sync::Arc;

use tidegate_model::delivery::{Request, Seq};

use super::fresh::Fresh;
use super::neighbours::Neighbours;
use crate::deliveries::numbers::ByNumber;
use crate::deliveries::rows::{Row, Unnamed};

/// Rows that are at hand.
const ROWS_MAX: usize = 4_096;
/// Bytes of the requests that are.
const BYTES_MAX: usize = 4 << 20;
/// Bytes of one of them.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Rows and requests.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Pages that there were for what is new when that was asked last, less what may have been taken since.
    pub(super) room: Option<i64>,
    pub(super) neighbours: Neighbours,
    /// What is not in the tables yet.
    pub(crate) fresh: Fresh,
    rows: ByNumber<Seq, Row>,
    requests: ByNumber<Seq, (Arc<Request>, u64)>,
    bytes: usize,
    /// So many rows were put here since one was asked for.
    unasked: usize,
}

impl Recent {
    /// Nothing of it is believed any more.
    pub(crate) fn forget(&mut self) {
        *self = Recent::default();
    }

    /// A transaction has written so many pages: it has taken no more.
    pub(crate) fn wrote(&mut self, pages: u64) {
        self.room = self.room.map(|room| room.saturating_sub_unsigned(pages));
    }

    /// A row is as this from now on.
    pub(super) fn put(&mut self, row: &Row) {
        let seq = row.record.seq;
        self.unasked += 1;
        if self.is_idle() {
            self.rows.clear();
            return;
        }
        // Of words not all are written, and what is told of progress may be long. What has ended is seldom asked for.
        if row.record.state.has_ended() || row.record.why.is_some() || row.record.progress.is_some() {
            self.rows.remove(&seq);
            return;
        }
        if self.rows.len() >= ROWS_MAX {
            self.rows.clear();
        }
        self.rows.insert(seq, row.clone());
    }

    /// Whether nobody asks for what is put here.
    fn is_idle(&self) -> bool {
        self.unasked > ROWS_MAX
    }

    /// A row has these marks from now on.
    pub(super) fn put_marks(&mut self, seq: Seq, marks: u8) {
        if let Some(row) = self.rows.get_mut(&seq) {
            row.marks = marks;
        }
    }

    /// A row, if it is at hand.
    pub(super) fn row(&mut self, seq: Seq) -> Option<Unnamed> {
        self.unasked = 0;
        let mut row = self.rows.get(&seq)?.clone();
        (row.record.queue, row.record.tenant) = (Arc::default(), Arc::default());
        Some(Unnamed(row))
    }

    /// A request is this from now on.
    pub(super) fn put_request(&mut self, seq: Seq, request: &Arc<Request>, edits: u64) {
        self.take_request(seq);
        let bytes = size(request);
        if bytes > REQUEST_BYTES_MAX || self.is_idle() {
            return;
        }
        if self.bytes + bytes > BYTES_MAX {
            self.requests.clear();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.requests.insert(seq, (Arc::clone(request), edits));
    }

    /// A request, if it is at hand. It is not any more then: it is seldom asked for twice.
    pub(super) fn take_request(&mut self, seq: Seq) -> Option<(Arc<Request>, u64)> {
        let taken = self.requests.remove(&seq)?;
        self.bytes -= size(&taken.0);
        Some(taken)
    }

    /// A delivery is forgotten.
    pub(super) fn remove(&mut self, seq: Seq) {
        self.rows.remove(&seq);
        self.take_request(seq);
    }
}

fn size(request: &Request) -> usize {
    request.target.len() + request.fields.bytes() + request.body.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;
    use tidegate_model::delivery::{Id, Record};
    use tidegate_model::fields::Fields;

    use super::*;

    fn request(bytes: usize) -> Arc<Request> {
        Arc::new(Request {
            method: Method::POST,
            target: "/".into(),
            fields: Fields::default(),
            body: Bytes::from(vec![7; bytes]),
        })
    }

    fn row(seq: u64) -> Row {
        let record = Record::new(Id(seq.into()), Seq(seq), "jobs".into(), "acme".into(), 7);
        Row { record, line: 1, owner: 1, place: None, sole: None, marks: 0, bytes: 1, kept: 0 }
    }

    #[test]
    fn requests_are_kept_within_a_bound_and_told_once() {
        let mut recent = Recent::default();
        for seq in 0..1_000 {
            recent.put_request(Seq(seq), &request(10_000), seq);
            assert!(recent.bytes <= BYTES_MAX);
        }
        assert_eq!(recent.take_request(Seq(999)), Some((request(10_000), 999)));
        assert_eq!(recent.take_request(Seq(999)), None);
        recent.put_request(Seq(1), &request(REQUEST_BYTES_MAX), 0);
        assert_eq!(recent.take_request(Seq(1)), None);
        (0..1_000).for_each(|seq| recent.remove(Seq(seq)));
        assert_eq!((recent.bytes, recent.requests.len()), (0, 0));
    }

    #[test]
    fn what_nobody_asks_for_is_not_kept_until_somebody_does() {
        let mut recent = Recent::default();
        let put = |recent: &mut Recent, seq| {
            recent.put(&row(seq));
            recent.put_request(Seq(seq), &request(1), 0);
        };
        let most = ROWS_MAX as u64;
        (0..most).for_each(|seq| put(&mut recent, seq));
        assert!(recent.row(Seq(most - 1)).is_some());
        (most..3 * most).for_each(|seq| put(&mut recent, seq));
        assert!(recent.rows.is_empty());
        assert_eq!(recent.row(Seq(3 * most - 1)).map(|row| row.0.record.seq), None);
        put(&mut recent, 3 * most);
        assert!(recent.row(Seq(3 * most)).is_some() && recent.take_request(Seq(3 * most)).is_some());
    }

    #[test]
    fn a_request_that_has_changed_is_told_as_it_is() {
        let mut recent = Recent::default();
        recent.put_request(Seq(1), &request(1), 0);
        recent.put_request(Seq(1), &request(2), 1);
        assert_eq!(recent.take_request(Seq(1)), Some((request(2), 1)));
        assert_eq!(recent.bytes, 0);
    }
}
