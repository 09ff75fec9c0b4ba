//! Documents in PostgreSQL. The row of a tenant's room is locked before anything of it is read or changed: whoever changes a
//! tenant's documents of one kind is alone with them.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_model::delivery::Ms;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::away::Failed;
use super::link::Link;
use crate::claims::whole;
use crate::documents::{
    Answer, DOCUMENT_BYTES, Document, Expect, LISTED_BYTES_MAX, LISTED_MAX, Listing, Place, Question, Write,
    Written,
};

/// Locks rooms, and makes those that there are not. Always in the same order: nobody waits for who waits for it.
const ROOMS: &str = "
    INSERT INTO document_rooms AS r (kind, tenant, count, bytes)
    SELECT kind, tenant, 0, 0 FROM unnest($1::text[], $2::text[]) AS t (kind, tenant) ORDER BY kind, tenant
    ON CONFLICT (kind, tenant) DO UPDATE SET count = r.count RETURNING kind, tenant, count, bytes";
const COUNT: &str = "
    UPDATE document_rooms r SET count = t.count, bytes = t.bytes
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS t (kind, tenant, count, bytes)
    WHERE r.kind = t.kind AND r.tenant = t.tenant";
const HELD: &str = "
    SELECT version, octet_length(body)::bigint FROM documents WHERE kind = $1 AND tenant = $2 AND name = $3";
const PUT: &str = "
    INSERT INTO documents (kind, tenant, name, at, until, body) VALUES ($1, $2, $3, $4, $5, $6) RETURNING version";
const READ: &str = "
    SELECT version, name, at, body FROM documents WHERE kind = $1 AND tenant = $2 AND name = $3";
const LIST: &str = "
    SELECT version, name, at, body FROM (
        SELECT version, name, at, body, sum(octet_length(body)) OVER (ORDER BY at, name) - octet_length(body) AS before
        FROM documents WHERE kind = $1 AND tenant = $2 AND (at, name) > ($3, $4) AND at >= $5 ORDER BY at, name LIMIT $6
    ) AS page WHERE before < $7 ORDER BY at, name";
const ENDED: &str = "
    SELECT version, kind, tenant FROM documents
    WHERE until <= floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint ORDER BY until LIMIT $1";
const REMOVE: &str = "
    DELETE FROM documents WHERE version = ANY ($1)
    RETURNING kind, tenant, octet_length(name)::bigint + octet_length(body)";

/// What a tenant has of a kind: how many, and their bytes.
type Rooms = BTreeMap<(String, String), (i64, i64)>;

/// Carries out what is asked.
pub(super) async fn answer(link: &Link, question: &Question) -> Result<Answer, Failed> {
    match question {
        Question::Read(place) => {
            let found = link.client.query_opt(READ, &[&place.kind, &&*place.tenant, &&*place.name]).await?;
            Ok(Answer::Read(found.as_ref().map(document).transpose()?))
        }
        Question::List(listing) => Ok(Answer::Listed(list(link, listing).await?)),
        Question::Write(writes) => {
            let places = writes.iter().map(|write| match write {
                Write::Put { place, .. } | Write::Remove { place, .. } => {
                    (place.kind.to_owned(), place.tenant.to_string())
                }
            });
            let mut rooms = begin(link, places.collect()).await?;
            let written = write_all(link, writes, &mut rooms).await;
            let good = matches!(written, Ok(Written::Done(_)));
            end(link, &rooms, good).await?;
            written.map(Answer::Written)
        }
    }
}

/// Removes documents whose end has come. How many.
pub(super) async fn sweep(link: &Link, most: i64) -> Result<u64, Failed> {
    let ended = link.client.query(ENDED, &[&most]).await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let (mut versions, mut of) = (Vec::with_capacity(ended.len()), Vec::with_capacity(ended.len()));
    for row in &ended {
        versions.push(row.try_get::<_, i64>(0)?);
        of.push((row.try_get(1)?, row.try_get(2)?));
    }
    let mut rooms = begin(link, of).await?;
    let removed = link.client.query(REMOVE, &[&versions]).await.map_err(Failed::from);
    let removed = removed.and_then(|rows| {
        for row in &rows {
            let size: i64 = row.try_get(2)?;
            if let Some(room) = rooms.get_mut(&(row.try_get(0)?, row.try_get(1)?)) {
                *room = (room.0 - 1, room.1 - size - DOCUMENT_BYTES as i64);
            }
        }
        Ok(rows.len() as u64)
    });
    end(link, &rooms, removed.is_ok()).await?;
    removed
}

/// Begins a transaction that is alone with these rooms.
async fn begin(link: &Link, mut of: Vec<(String, String)>) -> Result<Rooms, Failed> {
    of.sort_unstable();
    of.dedup();
    let (kinds, tenants): (Vec<String>, Vec<String>) = of.into_iter().unzip();
    link.client.batch_execute("BEGIN").await?;
    match link.client.query(ROOMS, &[&kinds, &tenants]).await {
        Ok(rows) => {
            let room =
                |row: &Row| Ok(((row.try_get(0)?, row.try_get(1)?), (row.try_get(2)?, row.try_get(3)?)));
            rows.iter().map(room).collect()
        }
        Err(error) => {
            let _ = link.client.batch_execute("ROLLBACK").await;
            Err(error.into())
        }
    }
}

/// Ends it: with all that was done, or with nothing.
async fn end(link: &Link, rooms: &Rooms, good: bool) -> Result<(), Failed> {
    if !good {
        let _ = link.client.batch_execute("ROLLBACK").await;
        return Ok(());
    }
    let kinds: Vec<&str> = rooms.keys().map(|(kind, _)| &**kind).collect();
    let tenants: Vec<&str> = rooms.keys().map(|(_, tenant)| &**tenant).collect();
    let counts: Vec<i64> = rooms.values().map(|(count, _)| *count).collect();
    let bytes: Vec<i64> = rooms.values().map(|(_, bytes)| *bytes).collect();
    if let Err(error) = link.client.execute(COUNT, &[&kinds, &tenants, &counts, &bytes]).await {
        let _ = link.client.batch_execute("ROLLBACK").await;
        return Err(error.into());
    }
    Ok(link.client.batch_execute("COMMIT").await?)
}

async fn write_all(link: &Link, writes: &[Write], rooms: &mut Rooms) -> Result<Written, Failed> {
    let mut versions = Vec::with_capacity(writes.len());
    for (index, write) in writes.iter().enumerate() {
        let (place, expect) = match write {
            Write::Put { place, expect, .. } | Write::Remove { place, expect } => (place, *expect),
        };
        let room = rooms.entry((place.kind.to_owned(), place.tenant.to_string())).or_default();
        let own = whole((DOCUMENT_BYTES + place.name.len()) as u64);
        let found = held(link, place).await?;
        let version = found.map(|(version, _)| version);
        let as_expected = match expect {
            Expect::Any => true,
            Expect::Absent => version.is_none(),
            Expect::Version(expected) => version == Some(expected),
        };
        if !as_expected {
            return Ok(Written::Unexpected(index, version));
        }
        if let Some((version, size)) = found {
            link.client.execute(REMOVE, &[&vec![whole(version)]]).await?;
            *room = (room.0 - 1, room.1 - size - own);
        }
        match write {
            Write::Remove { .. } => versions.push(0),
            Write::Put { at, until, body, room: most, .. } => {
                *room = (room.0 + 1, room.1 + own + whole(body.len() as u64));
                if room.0 > whole(most.count) || room.1 > whole(most.bytes) {
                    return Ok(Written::Full(index));
                }
                versions.push(put(link, place, *at, *until, body).await?);
            }
        }
    }
    Ok(Written::Done(versions))
}

async fn put(link: &Link, place: &Place, at: Ms, until: Option<Ms>, body: &[u8]) -> Result<u64, Failed> {
    let (at, until) = (whole(at), until.map(whole));
    let row = link
        .client
        .query_one(PUT, &[&place.kind, &&*place.tenant, &&*place.name, &at, &until, &body])
        .await?;
    Ok(number(&row, 0)?)
}

/// The version of a document, and the bytes of its content.
async fn held(link: &Link, place: &Place) -> Result<Option<(u64, i64)>, Failed> {
    let row = link.client.query_opt(HELD, &[&place.kind, &&*place.tenant, &&*place.name]).await?;
    Ok(row.map(|row| Ok::<_, tokio_postgres::Error>((number(&row, 0)?, row.try_get(1)?))).transpose()?)
}

async fn list(link: &Link, listing: &Listing) -> Result<Vec<Document>, Failed> {
    // No name is empty: so the first page begins with the first of all.
    let (at, name) = match &listing.after {
        Some((at, name)) => (whole(*at), &**name),
        None => (0, ""),
    };
    let (since, most) = (whole(listing.since), whole(listing.most.min(LISTED_MAX) as u64));
    let bytes = LISTED_BYTES_MAX as i64;
    let asked: [&(dyn ToSql + Sync); 7] =
        [&listing.kind, &&*listing.tenant, &at, &name, &since, &most, &bytes];
    let rows = link.client.query(LIST, &asked).await?;
    Ok(rows.iter().map(document).collect::<Result<_, _>>()?)
}

fn document(row: &Row) -> Result<Document, tokio_postgres::Error> {
    let name: &str = row.try_get(1)?;
    let body = Bytes::copy_from_slice(row.try_get(3)?);
    Ok(Document { version: number(row, 0)?, name: name.into(), at: number(row, 2)?, body })
}

fn number(row: &Row, place: usize) -> Result<u64, tokio_postgres::Error> {
    row.try_get::<_, i64>(place).map(|number| u64::try_from(number).unwrap_or_default())
}
