//! What always holds of deliveries in a database, looked at from the outside: for `tidegate store check`, and for tests.

use rusqlite::Connection;

/// Wrong things of one kind that are told one by one.
const TOLD_MAX: usize = 10;

/// What has to hold: what is wrong where a row is found, and how to find such rows. Each row is told by its first column.
const RULES: [(&str, &str); 16] = [
    (
        "a line's counts are not those of its deliveries",
        "SELECT line FROM lines LEFT JOIN (
             SELECT line, sum(state = 0) AS s0, sum(state = 1) AS s1, sum(state = 2) AS s2, sum(state = 3) AS s3,
                 sum(state = 4) AS s4, sum(state = 5) AS s5, sum(state = 6) AS s6, sum(bytes + kept) AS all_bytes
             FROM deliveries GROUP BY line
         ) USING (line)
         WHERE (blocked, scheduled, ready, leased, delivered, dead, cancelled, lines.bytes)
             IS NOT (s0, s1, s2, s3, s4, s5, s6, all_bytes)",
    ),
    ("whether a line begins anything is not what it counts", "SELECT line FROM lines WHERE begins <> (ready > 0)"),
    ("a delivery has no line", "SELECT seq FROM deliveries WHERE line NOT IN (SELECT line FROM lines)"),
    (
        "a delivery is another tenant's than its line",
        "SELECT seq FROM deliveries JOIN lines USING (line) WHERE deliveries.owner <> lines.owner",
    ),
    ("a delivery has no request", "SELECT seq FROM deliveries WHERE seq NOT IN (SELECT seq FROM requests)"),
    (
        "something is kept of a delivery that there is not",
        "SELECT seq FROM (
             SELECT seq FROM requests UNION ALL SELECT seq FROM results UNION ALL SELECT seq FROM attempts
             UNION ALL SELECT seq FROM callbacks UNION ALL SELECT seq FROM uniques
         ) WHERE seq NOT IN (SELECT seq FROM deliveries)",
    ),
    (
        "a delivery has a place that was not yet given away",
        "SELECT seq FROM deliveries WHERE seq > (SELECT seq FROM shards WHERE shard = 0)",
    ),
    (
        "a delivery that has not ended is to be forgotten, or one that has is not",
        "SELECT seq FROM deliveries WHERE (state >= 4) <> (forgotten IS NOT NULL)",
    ),
    ("a lease has no end", "SELECT seq FROM deliveries WHERE (state = 3) <> (until IS NOT NULL)"),
    (
        "the turns of a key that are held are not those that are counted",
        "SELECT key FROM lanes LEFT JOIN (
             SELECT line, key, count(*) AS held FROM deliveries WHERE place = 2 GROUP BY line, key
         ) USING (line, key) WHERE open IS NOT held
         UNION ALL
         SELECT key FROM deliveries WHERE place = 2 AND (line, key) NOT IN (SELECT line, key FROM lanes)",
    ),
    (
        "more of a key are open than may be",
        "SELECT key FROM deliveries WHERE place = 2 GROUP BY line, key HAVING count(*) > max(open_max)",
    ),
    (
        "a delivery with a key may be begun without its turn",
        "SELECT seq FROM deliveries WHERE key IS NOT NULL AND state IN (2, 3) AND place IS NOT 2",
    ),
    (
        "a delivery asks for a turn and is not blocked",
        "SELECT seq FROM deliveries WHERE place = 1 AND (state <> 0 OR waits_for < 1)",
    ),
    (
        "a delivery is blocked and waits for nothing",
        "SELECT deliveries.seq FROM deliveries WHERE state = 0 AND place IS NOT 1
             AND NOT EXISTS (SELECT 1 FROM afters WHERE afters.seq = deliveries.seq)",
    ),
    (
        "what comes after another does not wait for it",
        "SELECT afters.seq FROM afters WHERE NOT EXISTS (
             SELECT 1 FROM deliveries AS waits WHERE waits.seq = afters.seq AND waits.state = 0
                 AND waits.waits_for > (waits.place IS 1)
         )",
    ),
    (
        "a turn is free, and one that asks for it does not get it",
        "SELECT asks.seq FROM deliveries AS asks JOIN lines USING (line)
         LEFT JOIN lanes ON lanes.line = asks.line AND lanes.key = asks.key
         WHERE asks.place = 1 AND ifnull(open, 0) < asks.open_max AND NOT EXISTS (
             SELECT 1 FROM pauses WHERE kind = 3 AND pauses.queue = lines.queue AND pauses.tenant = lines.tenant
                 AND pauses.key = asks.key
         ) AND NOT EXISTS (SELECT 1 FROM works WHERE kind = 1 AND works.place = asks.line AND works.key = asks.key)
         AND NOT EXISTS (
             SELECT 1 FROM deliveries AS first WHERE first.line = asks.line AND first.key = asks.key AND first.place = 1
                 AND first.turn < asks.turn
         )",
    ),
];

/// What is wrong. It looks at all that there is.
pub(crate) fn audit(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (what, sql) in RULES {
        let mut select = connection.prepare(sql)?;
        let mut rows = select.query(())?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            if count <= TOLD_MAX {
                let which: rusqlite::types::Value = row.get(0)?;
                let which = match which {
                    rusqlite::types::Value::Integer(number) => number.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    other => format!("{other:?}"),
                };
                wrong.push(format!("{what}: {which}"));
            }
        }
        if count > TOLD_MAX {
            wrong.push(format!("{what}: {} more", count - TOLD_MAX));
        }
    }
    Ok(wrong)
}
