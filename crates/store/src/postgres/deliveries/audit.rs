//! What always holds of deliveries in PostgreSQL, looked at from the outside: the rules that hold on SQLite, and some of its
//! own.

use super::desk::Desk;
use super::rows::get;
use super::session::Says;
use crate::deliveries::tables::Fault;

/// Wrong things of one kind that are told.
const TOLD_MAX: usize = 10;

/// What has to hold: what is wrong where a row is found, and how to find such rows, each told by its first column.
const RULES: [(&str, &str); 18] = [
    (
        "a line's counts are not those of its deliveries",
        "SELECT line::text FROM lines LEFT JOIN (
             SELECT line, count(*) FILTER (WHERE state = 0) AS s0, count(*) FILTER (WHERE state = 1) AS s1,
                 count(*) FILTER (WHERE state = 2) AS s2, count(*) FILTER (WHERE state = 3) AS s3,
                 count(*) FILTER (WHERE state = 4) AS s4, count(*) FILTER (WHERE state = 5) AS s5,
                 count(*) FILTER (WHERE state = 6) AS s6, sum(bytes + kept) AS all_bytes
             FROM deliveries GROUP BY line
         ) AS are USING (line)
         WHERE (blocked, scheduled, ready, leased, delivered, dead, cancelled, lines.bytes, begins)
             IS DISTINCT FROM (s0, s1, s2, s3, s4, s5, s6, all_bytes, s2 > 0)",
    ),
    ("a delivery has no line", "SELECT seq::text FROM deliveries WHERE line NOT IN (SELECT line FROM lines)"),
    (
        "a delivery is another tenant's than its line",
        "SELECT seq::text FROM deliveries d JOIN lines l USING (line) WHERE d.owner <> l.owner",
    ),
    (
        "a delivery, its line and its shard are not together",
        "SELECT seq::text FROM deliveries WHERE seq >> 48 <> shard OR line >> 48 <> shard",
    ),
    (
        "a delivery has no request",
        "SELECT seq::text FROM deliveries d
         WHERE NOT EXISTS (SELECT FROM requests r WHERE r.age = d.age AND r.seq = d.seq)",
    ),
    (
        "a delivery is not found by its id, or what is not there is",
        "SELECT coalesce(d.seq, i.seq)::text FROM deliveries d FULL JOIN ids i USING (high, low)
         WHERE d.seq IS DISTINCT FROM i.seq",
    ),
    (
        "something is kept of a delivery that there is not",
        "SELECT seq::text FROM (SELECT seq FROM callbacks UNION ALL SELECT seq FROM uniques) AS kept
         WHERE seq NOT IN (SELECT seq FROM deliveries)",
    ),
    (
        "what is counted of an age is not what there is",
        "SELECT age::text FROM age_counts FULL JOIN (
             SELECT age, shard, count(*) AS is_count, sum(bytes + kept) AS is_bytes, min(seq) AS first, max(seq) AS last
             FROM deliveries GROUP BY age, shard
         ) AS are USING (age, shard)
         WHERE coalesce(count, 0) <> coalesce(is_count, 0) OR coalesce(bytes, 0) <> coalesce(is_bytes, 0)
             OR first < low OR last > high",
    ),
    (
        "a delivery has a place that was not yet given away",
        "SELECT d.seq::text FROM deliveries d JOIN shards s USING (shard) WHERE d.seq > s.seq",
    ),
    (
        "a delivery that has not ended is to be forgotten, or one that has is not",
        "SELECT seq::text FROM deliveries WHERE (state >= 4) <> (forgotten IS NOT NULL)",
    ),
    ("a lease has no end", "SELECT seq::text FROM deliveries WHERE (state = 3) <> (until IS NOT NULL)"),
    (
        "the turns of a key that are held are not those that are counted",
        "SELECT encode(key, 'escape') FROM lanes FULL JOIN (
             SELECT line, key, count(*) AS held FROM deliveries WHERE place = 2 GROUP BY line, key
         ) AS are USING (line, key) WHERE open IS DISTINCT FROM held",
    ),
    (
        "more of a key are open than may be",
        "SELECT encode(key, 'escape') FROM deliveries WHERE place = 2 GROUP BY line, key HAVING count(*) > max(open_max)",
    ),
    (
        "a delivery with a key may be begun without its turn",
        "SELECT seq::text FROM deliveries WHERE key IS NOT NULL AND state IN (2, 3) AND place IS DISTINCT FROM 2",
    ),
    (
        "a delivery asks for a turn and is not blocked",
        "SELECT seq::text FROM deliveries WHERE place = 1 AND (state <> 0 OR waits_for < 1)",
    ),
    (
        "a delivery is blocked and waits for nothing",
        "SELECT d.seq::text FROM deliveries d WHERE state = 0 AND place IS DISTINCT FROM 1
             AND NOT EXISTS (SELECT FROM afters a WHERE a.seq = d.seq)",
    ),
    (
        "what comes after another does not wait for it",
        "SELECT a.seq::text FROM afters a WHERE NOT EXISTS (
             SELECT FROM deliveries d WHERE d.seq = a.seq AND d.state = 0
                 AND d.waits_for > CASE WHEN d.place = 1 THEN 1 ELSE 0 END
         )",
    ),
    (
        "a turn is free, and one that asks for it does not get it",
        "SELECT asks.seq::text FROM deliveries AS asks JOIN lines l USING (line)
         LEFT JOIN lanes ON lanes.line = asks.line AND lanes.key = asks.key
         WHERE asks.place = 1 AND coalesce(open, 0) < asks.open_max AND NOT EXISTS (
             SELECT FROM pauses p WHERE kind = 3 AND p.queue = l.queue AND p.tenant = l.tenant AND p.key = asks.key
         ) AND NOT EXISTS (SELECT FROM works w WHERE kind = 1 AND w.place = asks.line AND w.key = asks.key)
         AND NOT EXISTS (
             SELECT FROM deliveries AS first WHERE first.line = asks.line AND first.key = asks.key AND first.place = 1
                 AND first.turn < asks.turn
         )",
    ),
];

/// What is wrong. It looks at all that there is.
pub(super) fn audit(desk: &mut Desk) -> Result<Vec<String>, Fault> {
    let mut wrong = Vec::new();
    // Not by index alone: it is to be done in time.
    desk.session.ask_all(&[
        Says::plain("SET LOCAL enable_seqscan = on"),
        Says::plain("SET LOCAL enable_hashjoin = on"),
    ])?;
    for (what, sql) in RULES {
        let found = desk.session.ask(Says::plain(sql))?;
        for row in found.iter().take(TOLD_MAX) {
            wrong.push(format!("{what}: {}", get::<Option<&str>>(row, 0)?.unwrap_or_default()));
        }
        if found.len() > TOLD_MAX {
            wrong.push(format!("{what}: {} more", found.len() - TOLD_MAX));
        }
    }
    Ok(wrong)
}
