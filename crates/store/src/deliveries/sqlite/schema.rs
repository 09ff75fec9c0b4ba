//! The tables of deliveries.
//!
//! The rows that change are narrow: requests, results and attempts have tables of their own, written once. What is looked
//! for while there are millions of others has a partial index, so that a delivery is only in those that its state
//! needs: one that is accepted and waits is in three, one that has ended in three.

/// What this family adds to the database.
pub(crate) const TABLES: &str = "
    -- A shard has one owner at a time, and the last place that was given away.
    CREATE TABLE shards (
        shard INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL
    ) STRICT;
    INSERT INTO shards VALUES (0, 0, 0);

    -- A queue's deliveries of one tenant, counted by state. `owner` is the same for all lines of a tenant.
    CREATE TABLE lines (
        line INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        tenant TEXT NOT NULL,
        owner INTEGER NOT NULL,
        blocked INTEGER NOT NULL,
        scheduled INTEGER NOT NULL,
        ready INTEGER NOT NULL,
        leased INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        UNIQUE (queue, tenant)
    ) STRICT;
    CREATE INDEX lines_tenant ON lines (tenant);
    CREATE INDEX lines_ready ON lines (queue, tenant) WHERE ready > 0;

    CREATE TABLE deliveries (
        seq INTEGER PRIMARY KEY,
        state INTEGER NOT NULL,
        until INTEGER,
        token INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        line INTEGER NOT NULL,
        owner INTEGER NOT NULL,
        high INTEGER NOT NULL,
        low INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        created INTEGER NOT NULL,
        due INTEGER NOT NULL,
        expires INTEGER,
        attempts_max INTEGER,
        waits_for INTEGER NOT NULL,
        key TEXT,
        ordered INTEGER,
        open_max INTEGER,
        place INTEGER,
        turn INTEGER,
        sole TEXT,
        marks INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        kept INTEGER NOT NULL,
        forgotten INTEGER,
        progress BLOB,
        why TEXT
    ) STRICT;
    CREATE INDEX deliveries_id ON deliveries (high);
    CREATE INDEX deliveries_owner ON deliveries (owner);
    CREATE INDEX deliveries_ready ON deliveries (line, rank) WHERE state = 2;
    CREATE INDEX deliveries_due ON deliveries (due) WHERE state = 1;
    CREATE INDEX deliveries_few ON deliveries (state) WHERE state IN (3, 5, 6);
    CREATE INDEX deliveries_expires ON deliveries (expires) WHERE expires IS NOT NULL AND state < 3;
    CREATE INDEX deliveries_lane ON deliveries (line, key, place, turn) WHERE place IS NOT NULL;
    CREATE INDEX deliveries_forgotten ON deliveries (forgotten) WHERE forgotten IS NOT NULL;

    CREATE TABLE requests (
        seq INTEGER PRIMARY KEY,
        method TEXT NOT NULL,
        target TEXT NOT NULL,
        fields BLOB NOT NULL,
        body BLOB NOT NULL,
        edits INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE results (
        seq INTEGER PRIMARY KEY,
        status INTEGER NOT NULL,
        fields BLOB NOT NULL,
        body BLOB NOT NULL,
        whole INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE attempts (
        seq INTEGER NOT NULL,
        token INTEGER NOT NULL,
        number INTEGER NOT NULL,
        began INTEGER NOT NULL,
        took INTEGER NOT NULL,
        status INTEGER,
        why TEXT,
        answer BLOB NOT NULL,
        PRIMARY KEY (seq, token)
    ) STRICT, WITHOUT ROWID;

    -- Turns of a key that are held.
    CREATE TABLE lanes (
        line INTEGER NOT NULL,
        key TEXT NOT NULL,
        open INTEGER NOT NULL,
        PRIMARY KEY (line, key)
    ) STRICT, WITHOUT ROWID;
    -- What is one of a kind, and until when another one is the same.
    CREATE TABLE uniques (
        line INTEGER NOT NULL,
        key TEXT NOT NULL,
        seq INTEGER NOT NULL,
        until INTEGER NOT NULL,
        fingerprint BLOB,
        PRIMARY KEY (line, key)
    ) STRICT, WITHOUT ROWID;
    -- What comes after what.
    CREATE TABLE afters (
        first INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (first, seq)
    ) STRICT, WITHOUT ROWID;
    -- What is made once something has ended.
    CREATE TABLE callbacks (
        seq INTEGER PRIMARY KEY,
        high INTEGER NOT NULL,
        low INTEGER NOT NULL,
        queue TEXT NOT NULL,
        target TEXT NOT NULL
    ) STRICT;
    CREATE TABLE pauses (
        kind INTEGER NOT NULL,
        queue TEXT NOT NULL,
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        PRIMARY KEY (kind, queue, tenant, key)
    ) STRICT, WITHOUT ROWID;
    -- What a change has brought about and was too much for its transaction.
    CREATE TABLE works (
        kind INTEGER NOT NULL,
        place INTEGER NOT NULL,
        key TEXT NOT NULL,
        PRIMARY KEY (kind, place, key)
    ) STRICT, WITHOUT ROWID;
";

/// What the version after that changes. Which rows a partial index has is asked whenever one is written; of a list of three, SQLite
/// makes a table of its own each time, which cost more than the row.
pub(crate) const FEW: &str = "
    DROP INDEX deliveries_few;
    CREATE INDEX deliveries_few ON deliveries (state) WHERE state > 2 AND state <> 4;
";

/// And the one after that: what comes after what is found by who waits, too; what is noted of those that wait no more goes.
pub(crate) const WAITS: &str = "
    DELETE FROM afters WHERE NOT EXISTS (
        SELECT 1 FROM deliveries AS waits WHERE waits.seq = afters.seq AND waits.state = 0
            AND waits.waits_for > (waits.place IS 1)
    );
    CREATE INDEX afters_seq ON afters (seq);
";

/// And the one after that: the fields of requests are in their short form, which versions before cannot read.
pub(crate) const SHORT: &str = "";

/// And the one after that: whether a line has anything to begin is a column, which seldom changes. What an index is partial by is written
/// there anew with each change of it: with the count in its place, that was a page of each commit.
pub(crate) const BEGINS: &str = "
    ALTER TABLE lines ADD COLUMN begins INTEGER NOT NULL DEFAULT 0;
    UPDATE lines SET begins = 1 WHERE ready > 0;
    DROP INDEX lines_ready;
    CREATE INDEX lines_begins ON lines (queue, tenant) WHERE begins;
";
