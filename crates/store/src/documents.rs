//! Documents: what is administered rather than made, each found by its kind, its tenant and its name.
//!
//! A document is bytes that only whoever wrote them understands. It has a *version*, a number that no document has had
//! before, so that two who change the same one do not undo each other's work ([`Expect`]); a time that it is listed by;
//! and perhaps an end, after which it is removed. Of the documents of one kind a tenant has no more, by number and bytes, than
//! whoever writes them says.
//!
//! What always holds: the writes of one [`crate::Store::write`] are carried out together or not at all.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tidegate_model::delivery::Ms;

/// Documents of one listing.
pub const LISTED_MAX: usize = 1000;
/// Bytes of one listing: it ends with the document by which it has as many.
pub const LISTED_BYTES_MAX: usize = 8 << 20;
/// Writes of one transaction.
pub const WRITES_MAX: usize = 256;
/// What a document takes beside its own bytes: row and indices, about.
pub(crate) const DOCUMENT_BYTES: usize = 200;

/// The tables of documents.
pub(crate) const TABLES: &str = "
    CREATE TABLE documents (
        version INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        at INTEGER NOT NULL,
        until INTEGER,
        body BLOB NOT NULL,
        UNIQUE (kind, tenant, name)
    ) STRICT;
    CREATE INDEX documents_at ON documents (kind, tenant, at, name);
    CREATE INDEX documents_until ON documents (until) WHERE until IS NOT NULL;
    CREATE TABLE document_rooms (
        kind TEXT NOT NULL,
        tenant TEXT NOT NULL,
        count INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (kind, tenant)
    ) STRICT, WITHOUT ROWID;
";

/// What a document is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What kind of document it is.
    pub kind: &'static str,
    /// Whose it is; empty: everybody's.
    pub tenant: Arc<str>,
    /// Its name among those of its kind and tenant.
    pub name: Arc<str>,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name.
    pub name: Arc<str>,
    /// Which writing of it this is.
    pub version: u64,
    /// What it is listed by.
    pub at: Ms,
    /// Its content.
    pub body: Bytes,
}

/// What has to be there for a write to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever.
    Any,
    /// No such document.
    Absent,
    /// This version of it.
    Version(u64),
}

/// A change of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is this from now on.
    Put {
        /// Which.
        place: Place,
        /// What has to be there.
        expect: Expect,
        /// What it is listed by.
        at: Ms,
        /// When it is removed.
        until: Option<Ms>,
        /// Its content.
        body: Bytes,
        /// What the tenant may have of this kind, with it.
        room: Room,
    },
    /// There is none any more.
    Remove {
        /// Which.
        place: Place,
        /// What has to be there.
        expect: Expect,
    },
}

/// What a tenant may have of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Documents.
    pub count: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// What became of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// They were carried out: the version of each document that was put, 0 for each that was removed.
    Done(Vec<u64>),
    /// Nothing was changed: what had to be there for this one was not. What there is instead.
    Unexpected(usize, Option<u64>),
    /// Nothing was changed: for this one there is no room.
    Full(usize),
}

/// Which documents are listed: by their time, then by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Of which kind.
    pub kind: &'static str,
    /// Whose.
    pub tenant: Arc<str>,
    /// After this one.
    pub after: Option<(Ms, Arc<str>)>,
    /// Not before then.
    pub since: Ms,
    /// So many at most, and [`LISTED_MAX`]; fewer, where they have [`LISTED_BYTES_MAX`].
    pub most: usize,
}

impl Listing {
    /// Where to go on behind what was found; `None`: that was all.
    #[must_use]
    pub fn next(&self, found: &[Document]) -> Option<(Ms, Arc<str>)> {
        let bytes: usize = found.iter().map(|one| one.body.len()).sum();
        let is_full = found.len() >= self.most.min(LISTED_MAX) || bytes >= LISTED_BYTES_MAX;
        found.last().filter(|_| is_full).map(|last| (last.at, Arc::clone(&last.name)))
    }
}

/// What is asked of documents.
#[derive(Debug)]
pub(crate) enum Question {
    Write(Vec<Write>),
    Read(Place),
    List(Listing),
}

/// What it comes to.
#[derive(Debug)]
pub(crate) enum Answer {
    Written(Written),
    Read(Option<Document>),
    Listed(Vec<Document>),
}

/// Carries out what is asked. How many bytes were written, about.
pub(crate) fn apply(connection: &Connection, question: &Question) -> rusqlite::Result<(Answer, u64)> {
    match question {
        Question::Read(place) => Ok((Answer::Read(read(connection, place)?), 0)),
        Question::List(listing) => Ok((Answer::Listed(list(connection, listing)?), 0)),
        Question::Write(writes) => {
            // Looked at before anything is written: what is not carried out leaves nothing behind.
            let (written, bytes) = write(connection, writes)?;
            Ok((Answer::Written(written), bytes))
        }
    }
}

fn write(connection: &Connection, writes: &[Write]) -> rusqlite::Result<(Written, u64)> {
    connection.execute_batch("SAVEPOINT writes")?;
    let result = write_all(connection, writes);
    let end = match &result {
        Ok((Written::Done(_), _)) => "RELEASE writes",
        _ => "ROLLBACK TO writes; RELEASE writes",
    };
    connection.execute_batch(end)?;
    result
}

fn write_all(connection: &Connection, writes: &[Write]) -> rusqlite::Result<(Written, u64)> {
    let (mut versions, mut bytes) = (Vec::with_capacity(writes.len()), 0);
    for (index, write) in writes.iter().enumerate() {
        let (place, expect) = match write {
            Write::Put { place, expect, .. } | Write::Remove { place, expect } => (place, *expect),
        };
        let found = held(connection, place)?;
        let version = found.map(|(version, _)| version);
        let as_expected = match expect {
            Expect::Any => true,
            Expect::Absent => version.is_none(),
            Expect::Version(expected) => version == Some(expected),
        };
        if !as_expected {
            return Ok((Written::Unexpected(index, version), 0));
        }
        if let Some((version, size)) = found {
            connection
                .prepare_cached("DELETE FROM documents WHERE version = ?1")?
                .execute([whole(version)])?;
            bump(connection, place, -1, -size)?;
        }
        match write {
            Write::Remove { .. } => versions.push(0),
            Write::Put { at, until, body, room, .. } => {
                let size = whole((DOCUMENT_BYTES + place.name.len() + body.len()) as u64);
                let (count, taken) = bump(connection, place, 1, size)?;
                if count > whole(room.count) || taken > whole(room.bytes) {
                    return Ok((Written::Full(index), 0));
                }
                versions.push(put(connection, place, *at, *until, body)?);
                bytes += body.len() as u64;
            }
        }
    }
    Ok((Written::Done(versions), bytes))
}

fn put(
    connection: &Connection,
    place: &Place,
    at: Ms,
    until: Option<Ms>,
    body: &[u8],
) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "INSERT INTO documents (kind, tenant, name, at, until, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![place.kind, &*place.tenant, &*place.name, whole(at), until.map(whole), body])?;
    Ok(u64::try_from(connection.last_insert_rowid()).unwrap_or_default())
}

/// The version of a document and what it counts for.
fn held(connection: &Connection, place: &Place) -> rusqlite::Result<Option<(u64, i64)>> {
    let mut select = connection.prepare_cached(
        "SELECT version, length(body) FROM documents WHERE kind = ?1 AND tenant = ?2 AND name = ?3",
    )?;
    let own = whole((DOCUMENT_BYTES + place.name.len()) as u64);
    select
        .query_row(params![place.kind, &*place.tenant, &*place.name], |row| {
            Ok((number(row, 0)?, row.get::<_, i64>(1)? + own))
        })
        .optional()
}

/// Counts what a tenant has of a kind, and tells it.
fn bump(connection: &Connection, place: &Place, count: i64, bytes: i64) -> rusqlite::Result<(i64, i64)> {
    connection
        .prepare_cached(
            "INSERT INTO document_rooms (kind, tenant, count, bytes) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, tenant) DO UPDATE SET count = count + ?3, bytes = bytes + ?4
             RETURNING count, bytes",
        )?
        .query_row(params![place.kind, &*place.tenant, count, bytes], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn read(connection: &Connection, place: &Place) -> rusqlite::Result<Option<Document>> {
    let mut select = connection.prepare_cached(
        "SELECT version, name, at, body FROM documents WHERE kind = ?1 AND tenant = ?2 AND name = ?3",
    )?;
    select.query_row(params![place.kind, &*place.tenant, &*place.name], document).optional()
}

fn list(connection: &Connection, listing: &Listing) -> rusqlite::Result<Vec<Document>> {
    let (at, name) = match &listing.after {
        Some((at, name)) => (*at, &**name),
        None => (0, ""),
    };
    // No name is empty: so the first page begins with the first of all.
    let mut select = connection.prepare_cached(
        "SELECT version, name, at, body FROM documents
         WHERE kind = ?1 AND tenant = ?2 AND (at, name) > (?3, ?4) AND at >= ?5
         ORDER BY at, name LIMIT ?6",
    )?;
    let most = whole(listing.most.min(LISTED_MAX) as u64);
    let rows = select.query_map(
        params![listing.kind, &*listing.tenant, whole(at), name, whole(listing.since), most],
        document,
    )?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let one = row?;
        bytes += one.body.len();
        found.push(one);
        if bytes >= LISTED_BYTES_MAX {
            break;
        }
    }
    Ok(found)
}

/// Removes documents whose end has come. How many, and whether there are more.
pub(crate) fn sweep(connection: &Connection, now: Ms, most: usize) -> rusqlite::Result<(usize, bool)> {
    let mut select = connection.prepare_cached(
        "SELECT version, kind, tenant, length(name), length(body) FROM documents
         WHERE until IS NOT NULL AND until <= ?1 ORDER BY until LIMIT ?2",
    )?;
    let ended = select.query_map(params![whole(now), whole(most as u64)], |row| {
        let size = row.get::<_, i64>(3)? + row.get::<_, i64>(4)? + DOCUMENT_BYTES as i64;
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, size))
    })?;
    let ended = ended.collect::<rusqlite::Result<Vec<_>>>()?;
    for (version, kind, tenant, size) in &ended {
        connection.prepare_cached("DELETE FROM documents WHERE version = ?1")?.execute([version])?;
        connection
            .prepare_cached(
                "UPDATE document_rooms SET count = count - 1, bytes = bytes - ?3 WHERE kind = ?1 AND tenant = ?2",
            )?
            .execute(params![kind, tenant, size])?;
    }
    if !ended.is_empty() {
        connection.prepare_cached("DELETE FROM document_rooms WHERE count <= 0")?.execute(())?;
    }
    Ok((ended.len(), ended.len() == most))
}

fn document(row: &Row<'_>) -> rusqlite::Result<Document> {
    let name: String = row.get(1)?;
    let body: Vec<u8> = row.get(3)?;
    Ok(Document { version: number(row, 0)?, name: name.into(), at: number(row, 2)?, body: body.into() })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}

/// A number as SQLite has them.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ROOM: Room = Room { count: 3, bytes: 10_000 };

    fn database() -> Connection {
        let connection = crate::memory::nowhere();
        connection.execute_batch(TABLES).unwrap();
        connection
    }

    fn place(tenant: &str, name: &str) -> Place {
        Place { kind: "thing", tenant: tenant.into(), name: name.into() }
    }

    fn put(name: &str, expect: Expect, body: &str) -> Write {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Write::Put { place: place("a", name), expect, at: 5, until: None, body, room: ROOM }
    }

    fn check(connection: &Connection, writes: &[Write], expected: Written) {
        assert_eq!(write(connection, writes).unwrap().0, expected);
    }

    fn names(
        connection: &Connection,
        tenant: &str,
        after: Option<(Ms, Arc<str>)>,
        most: usize,
    ) -> Vec<String> {
        let listing = Listing { kind: "thing", tenant: tenant.into(), after, since: 0, most };
        list(connection, &listing).unwrap().iter().map(|one| one.name.to_string()).collect()
    }

    #[test]
    fn who_expects_another_version_changes_nothing() {
        let database = database();
        check(&database, &[put("x", Expect::Absent, "1")], Written::Done(vec![1]));
        check(&database, &[put("x", Expect::Absent, "2")], Written::Unexpected(0, Some(1)));
        check(&database, &[put("x", Expect::Version(1), "2")], Written::Done(vec![2]));
        let both = [put("y", Expect::Any, "1"), put("x", Expect::Version(1), "3")];
        check(&database, &both, Written::Unexpected(1, Some(2)));
        assert_eq!(names(&database, "a", None, 10), ["x"], "together or not at all");
        let remove = |version| Write::Remove { place: place("a", "x"), expect: Expect::Version(version) };
        check(&database, &[remove(1)], Written::Unexpected(0, Some(2)));
        check(&database, &[remove(2)], Written::Done(vec![0]));
        check(&database, &[put("x", Expect::Absent, "4")], Written::Done(vec![3]));
        assert_eq!(read(&database, &place("b", "x")).unwrap(), None, "another tenant's");
    }

    #[test]
    fn a_tenant_has_no_more_than_there_is_room_for() {
        let database = database();
        let all: Vec<Write> = ["x", "y", "z"].map(|name| put(name, Expect::Any, "1")).to_vec();
        check(&database, &all, Written::Done(vec![1, 2, 3]));
        check(&database, &[put("w", Expect::Any, "1")], Written::Full(0));
        assert!(matches!(write(&database, &[put("x", Expect::Any, "2")]).unwrap().0, Written::Done(_)));
        check(&database, &[put("x", Expect::Any, &"2".repeat(10_000))], Written::Full(0));
        assert_eq!(read(&database, &place("a", "x")).unwrap().unwrap().body, "2", "what was there stays");
    }

    #[test]
    fn what_has_an_end_is_removed_and_makes_room() {
        let database = database();
        let ending = |name: &str, until| match put(name, Expect::Any, "1") {
            Write::Put { place, expect, at, body, room, .. } => {
                Write::Put { place, expect, at, until: Some(until), body, room }
            }
            other => other,
        };
        check(&database, &[ending("x", 10), ending("y", 20), ending("z", 30)], Written::Done(vec![1, 2, 3]));
        assert_eq!(sweep(&database, 9, 10).unwrap(), (0, false));
        assert_eq!(sweep(&database, 20, 1).unwrap(), (1, true));
        assert_eq!(sweep(&database, 20, 10).unwrap(), (1, false));
        assert_eq!(names(&database, "a", None, 10), ["z"]);
        check(&database, &[ending("x", 40), ending("y", 50)], Written::Done(vec![4, 5]));
    }

    #[test]
    fn a_page_ends_where_it_has_as_many_bytes_as_it_may() {
        let database = database();
        for name in ["x", "y", "z"] {
            let body = Bytes::from(vec![0; LISTED_BYTES_MAX / 2]);
            let room = Room { count: 9, bytes: u64::MAX >> 1 };
            let put =
                Write::Put { place: place("a", name), expect: Expect::Any, at: 5, until: None, body, room };
            check(&database, &[put], Written::Done(vec![u64::from(name.as_bytes()[0] - b'w')]));
        }
        let mut listing = Listing { kind: "thing", tenant: "a".into(), after: None, since: 0, most: 100 };
        let page = list(&database, &listing).unwrap();
        assert_eq!((page.len(), listing.next(&page)), (2, Some((5, "y".into()))));
        listing.after = listing.next(&page);
        let page = list(&database, &listing).unwrap();
        assert_eq!((page.len(), listing.next(&page)), (1, None));
    }

    proptest! {
        #[test]
        fn pages_tell_each_once_and_in_order(times in prop::collection::vec(0u64..5, 0..30), most in 1usize..7) {
            let database = database();
            let mut expected = BTreeMap::new();
            for (number, at) in times.iter().enumerate() {
                let name = format!("n{:02}", (number * 7) % 31);
                expected.insert((*at, name.clone()), ());
                let room = Room { count: 100, bytes: 1 << 20 };
                let body = Bytes::from_static(b"x");
                let place = place("a", &name);
                let put = Write::Put { place, expect: Expect::Absent, at: *at, until: None, body, room };
                prop_assert!(matches!(write(&database, &[put]).unwrap().0, Written::Done(_)));
            }
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let listing = Listing { kind: "thing", tenant: "a".into(), after, since: 0, most };
                let page = list(&database, &listing).unwrap();
                found.extend(page.iter().map(|one| (one.at, one.name.to_string())));
                after = listing.next(&page);
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(found, expected.into_keys().collect::<Vec<_>>());
        }
    }
}
