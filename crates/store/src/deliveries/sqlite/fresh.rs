//! What is gathered and not in the tables yet: how it lies [ahead](crate::ahead) of them on disk, and how it is read from there.
//!
//! ```text
//! rows 4 | each 17 times 8, and whether the last counts | requests 4 | each: place 8, and four times: how many 4, bytes
//! ```

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use rusqlite::Connection;
use tidegate_model::delivery::{Kind, Request, Seq};
use tidegate_model::fields::Fields;

use super::gathered::{Gathered, NewRequest, PlainRow};
use super::lines;
use crate::deliveries::tables::Fault;

/// What is gathered.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(super) rows: Vec<PlainRow>,
    pub(super) requests: Vec<NewRequest>,
    /// None before this one is gathered: places only grow.
    pub(super) since: Seq,
    /// So many rows and requests are on disk.
    ahead: (usize, usize),
}

/// None is gathered.
pub(super) const NONE: Seq = Seq(u64::MAX);

impl Default for Fresh {
    fn default() -> Fresh {
        Fresh { rows: Vec::new(), requests: Vec::new(), since: NONE, ahead: (0, 0) }
    }
}

impl Fresh {
    /// Whether nothing is gathered.
    pub(super) fn is_empty(&self) -> bool {
        self.since == NONE
    }

    /// Nothing, with the room that there was.
    pub(super) fn emptied(self) -> Fresh {
        let Fresh { mut rows, mut requests, .. } = self;
        rows.clear();
        requests.clear();
        Fresh { rows, requests, ..Fresh::default() }
    }

    /// How many there are that are not on disk, and about how many bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let requests = &self.requests[self.ahead.1..];
        let bytes = requests.iter().map(|NewRequest { request, .. }| {
            request.target.len() + request.fields.bytes() + request.body.len()
        });
        (self.rows.len() - self.ahead.0, bytes.sum())
    }

    /// Writes what is not on disk.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let (rows, requests) = (&self.rows[self.ahead.0..], &self.requests[self.ahead.1..]);
        put_count(to, rows.len());
        rows.iter().for_each(|row| row.write(to));
        put_count(to, requests.len());
        requests.iter().for_each(|request| request.write(to));
    }

    /// All is on disk.
    pub(crate) fn is_on_disk(&mut self) {
        self.ahead = (self.rows.len(), self.requests.len());
    }

    /// What was written so, but for what is gathered already.
    fn read(&mut self, mut from: &[u8]) -> Option<()> {
        for _ in 0..count(&mut from)? {
            let row = PlainRow::read(&mut from)?;
            self.since = self.since.min(row.seq());
            self.rows.push(row);
        }
        for _ in 0..count(&mut from)? {
            self.requests.push(NewRequest::read(&mut from)?);
        }
        from.is_empty().then_some(())
    }
}

/// Brings rounds into the tables, with what lines count of them, in the transaction that the connection is in.
pub(crate) fn bring<'a>(
    connection: &Connection,
    rounds: impl Iterator<Item = &'a [u8]>,
) -> Result<(), Fault> {
    let mut counted = BTreeMap::new();
    for round in rounds {
        let mut fresh = Fresh::default();
        fresh.read(round).ok_or(Fault::Odd("what is ahead of the tables"))?;
        for row in &fresh.rows {
            let (line, kind, bytes) = row.counts().ok_or(Fault::Odd("a state that there is not"))?;
            let counts: &mut ([i64; 7], i64) = counted.entry(line).or_default();
            counts.0[kind as usize] += 1;
            counts.1 += bytes;
        }
        Gathered::new(connection, fresh).all()?;
    }
    for (line, (counts, bytes)) in counted {
        let mut tally = lines::load(connection, line)?.ok_or(Fault::Odd("a delivery has no line"))?;
        tally.counts.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
        tally.bytes += bytes;
        lines::put(connection, &tally)?;
    }
    Ok(())
}

impl PlainRow {
    fn write(&self, to: &mut Vec<u8>) {
        self.values.iter().for_each(|value| to.extend(value.to_le_bytes()));
        to.extend(self.until.unwrap_or_default().to_le_bytes());
        to.push(self.until.is_some().into());
    }

    fn read(from: &mut &[u8]) -> Option<PlainRow> {
        let mut values = [0; 16];
        for value in &mut values {
            *value = i64::from_le_bytes(part(from)?);
        }
        let until = i64::from_le_bytes(part(from)?);
        let [counts] = part(from)?;
        Some(PlainRow { values, until: (counts != 0).then_some(until) })
    }

    /// Its line, its state, and what it counts for.
    fn counts(&self) -> Option<(i64, Kind, i64)> {
        let kind = u8::try_from(self.values[3]).ok().and_then(Kind::of)?;
        Some((self.values[13], kind, self.values[12]))
    }
}

impl NewRequest {
    fn write(&self, to: &mut Vec<u8>) {
        let Request { method, target, fields, body } = &*self.request;
        to.extend(self.seq.0.to_le_bytes());
        put(to, method.as_str().as_bytes());
        put(to, target.as_bytes());
        let head = to.len();
        put_count(to, 0);
        fields.pack_short(to);
        let packed = (to.len() - head - 4) as u32;
        to[head..head + 4].copy_from_slice(&packed.to_le_bytes());
        put(to, body);
    }

    fn read(from: &mut &[u8]) -> Option<NewRequest> {
        let seq = Seq(u64::from_le_bytes(part(from)?));
        let method = Method::from_str(str::from_utf8(some(from)?).ok()?).ok()?;
        let target = str::from_utf8(some(from)?).ok()?.into();
        let fields = Fields::unpack(some(from)?)?;
        let body = Bytes::copy_from_slice(some(from)?);
        Some(NewRequest { seq, request: Arc::new(Request { method, target, fields, body }) })
    }
}

fn put_count(to: &mut Vec<u8>, count: usize) {
    to.extend((count as u32).to_le_bytes());
}

fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    put_count(to, bytes.len());
    to.extend_from_slice(bytes);
}

fn part<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (part, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*part)
}

fn count(from: &mut &[u8]) -> Option<usize> {
    part(from).map(|count| u32::from_le_bytes(count) as usize)
}

fn some<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = count(from)?;
    let (some, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> impl Strategy<Value = PlainRow> {
        (any::<[i64; 16]>(), any::<Option<i64>>()).prop_map(|(values, until)| PlainRow { values, until })
    }

    fn request() -> impl Strategy<Value = NewRequest> {
        let method = prop_oneof![Just(Method::POST), Just(Method::from_bytes(b"BREW").unwrap())];
        let fields = proptest::collection::vec(("[a-z]{1,9}", "[ -~]{0,20}"), 0..4);
        let body = proptest::collection::vec(any::<u8>(), 0..99);
        (any::<u64>(), method, ".{0,40}", fields, body).prop_map(|(seq, method, target, all, body)| {
            let mut fields = Fields::default();
            for (name, value) in all {
                fields.append(name.as_str(), http::HeaderValue::from_str(value.trim()).unwrap());
            }
            let request = Request { method, target: target.into(), fields, body: body.into() };
            NewRequest { seq: Seq(seq), request: Arc::new(request) }
        })
    }

    fn fresh() -> impl Strategy<Value = Fresh> {
        let some = (proptest::collection::vec(row(), 0..9), proptest::collection::vec(request(), 0..9));
        some.prop_map(|(rows, requests)| Fresh { rows, requests, ..Fresh::default() })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_and_a_part_of_it_is_nothing(fresh in fresh(), cut in any::<prop::sample::Index>()) {
            let mut written = Vec::new();
            fresh.write(&mut written);
            let mut read = Fresh::default();
            prop_assert!(read.read(&written).is_some());
            let requests = |fresh: &Fresh| {
                fresh.requests.iter().map(|one| (one.seq, Arc::clone(&one.request))).collect::<Vec<_>>()
            };
            prop_assert_eq!(format!("{:?}", read.rows), format!("{:?}", fresh.rows));
            prop_assert_eq!(requests(&read), requests(&fresh));
            prop_assert!(Fresh::default().read(&written[..cut.index(written.len())]).is_none());
        }

        #[test]
        fn bytes_of_anybodys_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Fresh::default().read(&bytes);
        }
    }
}
