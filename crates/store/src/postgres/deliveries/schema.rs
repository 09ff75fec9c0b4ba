//! The tables of deliveries in PostgreSQL.
//!
//! What is large and never changes lies apart from what changes: a delivery's row is narrow, and its request, its result and its
//! attempts are in tables that are divided by *age* ([`super::ages`]), and dropped whole once nothing of an age is left: nothing
//! of them is ever removed row by row, nor vacuumed. Which age that is stands in the delivery's row, so that a look goes to one
//! part. Texts that come from outside and may have any character in them are bytes.

/// What this family adds to the database. `{ids}` stands for the parts of `ids`.
///
/// - `nodes`: an epoch that writes deliveries says in `batch` what it has committed last, in each transaction, and what its node is `called`.
/// - `shards`: who leads each (`owner`, an epoch in `nodes`; 0: nobody) and since which change of owner (`epoch`); what was given
///   away last; and a `version` that each transaction which writes in it counts up. Each of those holds this row.
/// - `lines`: as on SQLite; whether any is ready is a column of its own, so that counting changes no index.
/// - `ages`: those that there are; the newest one that has begun is written to, those behind it are there for when it is full.
pub(in super::super) const TABLES: &str = "
    ALTER TABLE nodes ADD COLUMN batch bigint, ADD COLUMN called text;
    CREATE TABLE shards (
        shard smallint PRIMARY KEY,
        epoch bigint NOT NULL DEFAULT 0,
        owner bigint NOT NULL DEFAULT 0,
        version bigint NOT NULL DEFAULT 0,
        seq bigint NOT NULL,
        line bigint NOT NULL
    ) WITH (fillfactor = 10);
    CREATE TABLE lines (
        line bigint PRIMARY KEY,
        shard smallint NOT NULL,
        queue text COLLATE \"C\" NOT NULL,
        tenant text COLLATE \"C\" NOT NULL,
        owner bigint NOT NULL,
        blocked bigint NOT NULL,
        scheduled bigint NOT NULL,
        ready bigint NOT NULL,
        leased bigint NOT NULL,
        delivered bigint NOT NULL,
        dead bigint NOT NULL,
        cancelled bigint NOT NULL,
        bytes bigint NOT NULL,
        begins boolean NOT NULL,
        UNIQUE (queue, tenant)
    ) WITH (fillfactor = 50);
    CREATE INDEX lines_tenant ON lines (tenant);
    CREATE INDEX lines_begins ON lines (shard, queue, tenant) WHERE begins;
    CREATE TABLE deliveries (
        seq bigint PRIMARY KEY,
        shard smallint NOT NULL,
        age integer NOT NULL,
        state smallint NOT NULL,
        until bigint,
        token bigint NOT NULL,
        attempts bigint NOT NULL,
        line bigint NOT NULL,
        owner bigint NOT NULL,
        high bigint NOT NULL,
        low bigint NOT NULL,
        priority smallint NOT NULL,
        rank bigint NOT NULL,
        created bigint NOT NULL,
        due bigint NOT NULL,
        expires bigint,
        attempts_max bigint,
        waits_for bigint NOT NULL,
        key bytea,
        ordered boolean,
        open_max bigint,
        place smallint,
        turn bigint,
        sole bytea,
        marks smallint NOT NULL,
        bytes bigint NOT NULL,
        kept bigint NOT NULL,
        forgotten bigint,
        progress bytea,
        why text
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
    CREATE INDEX deliveries_owner ON deliveries (owner, seq);
    CREATE INDEX deliveries_ready ON deliveries (line, rank, seq) WHERE state = 2;
    CREATE INDEX deliveries_due ON deliveries (shard, due, seq) WHERE state = 1;
    CREATE INDEX deliveries_few ON deliveries (state, seq) WHERE state IN (3, 5, 6);
    CREATE INDEX deliveries_expires ON deliveries (shard, expires, seq) WHERE expires IS NOT NULL AND state < 3;
    CREATE INDEX deliveries_lane ON deliveries (line, key, place, turn, seq) WHERE place IS NOT NULL;
    CREATE INDEX deliveries_forgotten ON deliveries (shard, forgotten, seq) WHERE forgotten IS NOT NULL;
    CREATE TABLE ids (
        high bigint NOT NULL,
        low bigint NOT NULL,
        seq bigint NOT NULL,
        PRIMARY KEY (high, low)
    ) PARTITION BY HASH (high, low);
    {ids}
    CREATE TABLE ages (
        age integer PRIMARY KEY,
        began timestamptz
    );
    CREATE TABLE age_counts (
        age integer NOT NULL,
        shard smallint NOT NULL,
        count bigint NOT NULL,
        made bigint NOT NULL,
        bytes bigint NOT NULL,
        low bigint NOT NULL,
        high bigint NOT NULL,
        PRIMARY KEY (age, shard)
    ) WITH (fillfactor = 50);
    CREATE TABLE requests (
        age integer NOT NULL,
        seq bigint NOT NULL,
        edits bigint NOT NULL,
        method text NOT NULL,
        target text NOT NULL,
        fields bytea NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (age, seq)
    ) PARTITION BY LIST (age);
    CREATE TABLE results (
        age integer NOT NULL,
        seq bigint NOT NULL,
        status integer NOT NULL,
        whole boolean NOT NULL,
        fields bytea NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (age, seq)
    ) PARTITION BY LIST (age);
    CREATE TABLE attempts (
        age integer NOT NULL,
        seq bigint NOT NULL,
        token bigint NOT NULL,
        number bigint NOT NULL,
        began bigint NOT NULL,
        took bigint NOT NULL,
        status integer,
        why text,
        answer bytea NOT NULL,
        PRIMARY KEY (age, seq, token)
    ) PARTITION BY LIST (age);
    ALTER TABLE requests ALTER COLUMN fields SET STORAGE EXTERNAL, ALTER COLUMN body SET STORAGE EXTERNAL;
    ALTER TABLE results ALTER COLUMN fields SET STORAGE EXTERNAL, ALTER COLUMN body SET STORAGE EXTERNAL;
    ALTER TABLE attempts ALTER COLUMN answer SET STORAGE EXTERNAL;
    CREATE TABLE lanes (
        line bigint NOT NULL,
        key bytea NOT NULL,
        open bigint NOT NULL,
        PRIMARY KEY (line, key)
    ) WITH (fillfactor = 50);
    CREATE TABLE uniques (
        line bigint NOT NULL,
        key bytea NOT NULL,
        seq bigint NOT NULL,
        until bigint NOT NULL,
        fingerprint bytea,
        PRIMARY KEY (line, key)
    );
    CREATE TABLE afters (
        first bigint NOT NULL,
        seq bigint NOT NULL,
        PRIMARY KEY (first, seq)
    );
    CREATE TABLE callbacks (
        seq bigint PRIMARY KEY,
        high bigint NOT NULL,
        low bigint NOT NULL,
        queue text NOT NULL,
        target text NOT NULL
    );
    CREATE TABLE pauses (
        kind smallint NOT NULL,
        queue text COLLATE \"C\" NOT NULL,
        tenant text COLLATE \"C\" NOT NULL,
        key bytea NOT NULL,
        PRIMARY KEY (kind, queue, tenant, key)
    );
    CREATE TABLE works (
        shard smallint NOT NULL,
        kind smallint NOT NULL,
        place bigint NOT NULL,
        key bytea NOT NULL,
        PRIMARY KEY (shard, kind, place, key)
    );
";

/// What the version after that adds: what comes after what is found by who waits, too; what is noted of those that wait no more
/// goes.
pub(in super::super) const WAITS: &str = "
    DELETE FROM tidegate.afters a WHERE NOT EXISTS (
        SELECT FROM tidegate.deliveries d WHERE d.seq = a.seq AND d.state = 0
            AND d.waits_for > CASE WHEN d.place = 1 THEN 1 ELSE 0 END
    );
    CREATE INDEX afters_seq ON tidegate.afters (seq);
";
