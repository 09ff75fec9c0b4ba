//! The tables in PostgreSQL, and how a database comes to have those of this version.
//!
//! All stands in a schema of its own, `tidegate`, so that an application's tables may be in the same database. Versions go
//! forward, each whole or not at all; of many nodes that start at once one makes the step, and the others wait for it: the lock
//! belongs to the transaction, so that a pooler between cannot lose it.

use tokio_postgres::Client;

use super::away::Away;

/// Within PostgreSQL's space of advisory locks: "Tide", and what for.
const LOCK: i64 = 0x5469_6465_0000_0001;
/// Parts of the table of claims, of that of ids, and of their indices: each is vacuumed by itself, and no page is everybody's.
const PARTS: u32 = 16;

/// What each version adds to the one before, the first to nothing. `{claims}` and `{ids}` stand for the parts of these.
///
/// The first:
/// - `nodes`: a node that writes has an epoch in here. It says `until` when it is believed to be there, never for longer than
///   its `lease`; from then on another may *end* it, and then it writes nothing under this epoch any more.
/// - `claims`: a record is found by the digest of tenant, scope and key. Held, it is of the epoch that claimed it, or of none (0).
/// - `accounts`: what the records of an account take, in several rows (`stripe`), so that nodes do not wait for one.
/// - `documents`: what is administered rather than made, and in `document_rooms` what each tenant has of a kind.
///
/// The others are [`super::deliveries`]'.
const VERSIONS: [&str; 3] = [
    "
    CREATE TABLE nodes (
        epoch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        began timestamptz NOT NULL DEFAULT clock_timestamp(),
        until timestamptz NOT NULL,
        lease interval NOT NULL,
        ended timestamptz
    ) WITH (fillfactor = 50);
    CREATE TABLE claims (
        id bytea PRIMARY KEY,
        tenant text NOT NULL,
        scope text NOT NULL,
        key text NOT NULL,
        account text NOT NULL,
        stripe smallint NOT NULL,
        fingerprint bytea NOT NULL,
        epoch bigint NOT NULL,
        claim bigint NOT NULL,
        until bigint NOT NULL,
        status integer,
        told_to bytea,
        fields bytea,
        body bytea,
        bytes bigint NOT NULL
    ) PARTITION BY HASH (id);
    CREATE INDEX claims_until ON claims (until);
    {claims}
    CREATE TABLE accounts (
        account text NOT NULL,
        stripe smallint NOT NULL,
        records bigint NOT NULL,
        bytes bigint NOT NULL,
        PRIMARY KEY (account, stripe)
    ) WITH (fillfactor = 50);
    CREATE TABLE documents (
        version bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text COLLATE \"C\" NOT NULL,
        tenant text COLLATE \"C\" NOT NULL,
        name text COLLATE \"C\" NOT NULL,
        at bigint NOT NULL,
        until bigint,
        body bytea NOT NULL,
        UNIQUE (kind, tenant, name)
    );
    CREATE INDEX documents_at ON documents (kind, tenant, at, name);
    CREATE INDEX documents_until ON documents (until) WHERE until IS NOT NULL;
    CREATE TABLE document_rooms (
        kind text COLLATE \"C\" NOT NULL,
        tenant text COLLATE \"C\" NOT NULL,
        count bigint NOT NULL,
        bytes bigint NOT NULL,
        PRIMARY KEY (kind, tenant)
    ) WITH (fillfactor = 50);
",
    super::deliveries::TABLES,
    super::deliveries::WAITS,
];

/// Brings a database to the newest version.
pub(super) async fn migrate(client: &Client) -> Result<(), Away> {
    // Where nothing is to be done nothing is locked, and no right is needed but to read.
    if version(client).await? == VERSIONS.len() {
        return Ok(());
    }
    // It waits for another node that does the same.
    client.batch_execute("BEGIN; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0").await?;
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let known = version(client).await?;
    if known == 0 {
        client
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS tidegate;
                 CREATE TABLE tidegate.versions (
                     version integer PRIMARY KEY,
                     made timestamptz NOT NULL DEFAULT clock_timestamp()
                 )",
            )
            .await?;
    }
    for (place, statements) in VERSIONS.iter().enumerate().skip(known) {
        let statements = ["claims", "ids"].into_iter().fold((*statements).to_owned(), |statements, table| {
            statements.replace(&format!("{{{table}}}"), &parts(table))
        });
        client.batch_execute(&statements).await?;
        let version = place as i32 + 1;
        client.execute("INSERT INTO tidegate.versions (version) VALUES ($1)", &[&version]).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}

/// The parts of a table that is divided by a digest.
fn parts(table: &str) -> String {
    let part = |part: u32| {
        format!(
            "CREATE TABLE {table}_{part} PARTITION OF {table}
                 FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {part});"
        )
    };
    (0..PARTS).map(part).collect()
}

/// The version that a database has; 0: none yet.
async fn version(client: &Client) -> Result<usize, Away> {
    let there = client.query_one("SELECT to_regclass('tidegate.versions') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(0);
    }
    let newest = client.query_one("SELECT coalesce(max(version), 0) FROM tidegate.versions", &[]).await?;
    let newest: i32 = newest.get(0);
    let known = usize::try_from(newest).ok().filter(|version| *version <= VERSIONS.len());
    known.ok_or(Away::Newer { version: newest, known: VERSIONS.len() })
}
