//! What one node tells another of a shard that this one leads: in the transaction in which it happens, once, and as a whole.
//!
//! ```text
//! shard, version, news ...      up to some KiB; else without the news: look
//! ```
//!
//! `NOTIFY` may be lost: whoever leads a shard compares the versions that it was told of, or has written itself, with
//! the shard's, once a second ([`Heard`]), and looks where it has missed one.

use std::collections::BTreeSet;

use tidegate_model::delivery::{Id, Lane, Seq};
use tidegate_model::gate::Priority;

use crate::deliveries::{Line, News, Ready};

/// Bytes of one message; PostgreSQL takes 8000.
const NOTE_BYTES_MAX: usize = 7000;
/// Between fields, and between news. Where a name has one of them, it is told to look.
const FIELD: char = '\u{1f}';
const END: char = '\u{1e}';
/// Versions that were heard of before the ones between.
const AHEAD_MAX: usize = 1024;

/// What is told of a transaction that has made this version of a shard.
pub(super) fn note(shard: u16, version: i64, news: &[News]) -> String {
    let head = format!("{shard}{FIELD}{version}");
    let mut said = head.clone();
    for one in news {
        said.push(END);
        let whole = match one {
            News::Ready(ready) => say_ready(&mut said, ready),
            News::Due(at) => {
                said.push_str(&format!("D{FIELD}{at}"));
                true
            }
            News::Gone(seq, line) => {
                said.push_str(&format!("G{FIELD}{}{FIELD}{}{FIELD}{}", seq.0, line.queue, line.tenant));
                [&line.queue, &line.tenant].iter().all(|name| is_plain(name))
            }
            // Nobody offers slots where nodes share the store.
            News::Begun(..) | News::Look => false,
        };
        if !whole || said.len() > NOTE_BYTES_MAX {
            return format!("{head}{END}L");
        }
    }
    said
}

fn is_plain(name: &str) -> bool {
    !name.contains([FIELD, END, '\0'])
}

fn say_ready(said: &mut String, ready: &Ready) -> bool {
    let Ready { seq, id, line, lane, rank, priority, due, expires, attempts, attempts_max, bytes } = ready;
    let (expires, most) = (expires.map_or(-1, i128::from), attempts_max.map_or(-1, i64::from));
    let (key, ordered, open_max) = match lane {
        Some(Lane { key, ordered, open_max }) => (&**key, i8::from(*ordered), *open_max),
        None => ("", -1, 0),
    };
    let priority = *priority as u8;
    let fields = [
        "R".to_owned(),
        seq.0.to_string(),
        id.to_string(),
        line.queue.to_string(),
        line.tenant.to_string(),
        rank.to_string(),
        priority.to_string(),
        due.to_string(),
        expires.to_string(),
        attempts.to_string(),
        most.to_string(),
        bytes.to_string(),
        ordered.to_string(),
        open_max.to_string(),
        key.to_owned(),
    ];
    said.push_str(&fields.join(&FIELD.to_string()));
    fields.iter().all(|field| is_plain(field))
}

/// What such a message tells: of which shard, which version, and the news. `None`: it is none.
pub(super) fn read(said: &str) -> Option<(u16, i64, Vec<News>)> {
    let mut parts = said.split(END);
    let (shard, version) = parts.next()?.split_once(FIELD)?;
    let news = parts.map(read_news).collect::<Option<Vec<News>>>()?;
    Some((shard.parse().ok()?, version.parse().ok()?, news))
}

fn read_news(said: &str) -> Option<News> {
    let fields: Vec<&str> = said.split(FIELD).collect();
    match fields[..] {
        ["L"] => Some(News::Look),
        ["D", at] => Some(News::Due(at.parse().ok()?)),
        ["G", seq, queue, tenant] => {
            let line = Line { queue: queue.into(), tenant: tenant.into() };
            Some(News::Gone(Seq(seq.parse().ok()?), line))
        }
        [
            "R",
            seq,
            id,
            queue,
            tenant,
            rank,
            priority,
            due,
            expires,
            attempts,
            most,
            bytes,
            ordered,
            open,
            key,
        ] => {
            let lane = match ordered {
                "-1" => None,
                _ => Some(Lane { key: key.into(), ordered: ordered == "1", open_max: open.parse().ok()? }),
            };
            Some(News::Ready(Ready {
                seq: Seq(seq.parse().ok()?),
                id: Id::parse(id)?,
                line: Line { queue: queue.into(), tenant: tenant.into() },
                lane,
                rank: rank.parse().ok()?,
                priority: *Priority::ALL.get(priority.parse::<usize>().ok()?)?,
                due: due.parse().ok()?,
                // Where there is none, -1 stands, which is no such number.
                expires: expires.parse().ok(),
                attempts: attempts.parse().ok()?,
                attempts_max: most.parse().ok(),
                bytes: bytes.parse().ok()?,
            }))
        }
        _ => None,
    }
}

/// Of which versions of a shard all is known that there was to tell.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Up to this one.
    up_to: i64,
    /// And these.
    ahead: BTreeSet<i64>,
    /// What was the shard's at the last comparison.
    compared: i64,
}

impl Heard {
    /// What was before is of no interest: all is looked at.
    pub(super) fn begin(version: i64) -> Heard {
        Heard { up_to: version, ahead: BTreeSet::new(), compared: version }
    }

    /// All of this version is known.
    pub(super) fn hear(&mut self, version: i64) {
        if version > self.up_to && self.ahead.len() < AHEAD_MAX {
            self.ahead.insert(version);
        }
        while self.ahead.remove(&(self.up_to + 1)) {
            self.up_to += 1;
        }
    }

    /// The shard has this version. Whether something that it had at the comparison before this one was not told.
    pub(super) fn has_missed(&mut self, version: i64) -> bool {
        let missed = self.up_to < self.compared;
        if missed {
            self.up_to = self.compared;
            self.ahead.retain(|ahead| *ahead > self.compared);
            self.hear(self.up_to);
        }
        self.compared = version;
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(key: Option<&str>) -> Ready {
        Ready {
            seq: Seq(7 << 48 | 9),
            id: Id(u128::MAX - 5),
            line: Line { queue: "mails".into(), tenant: "acme".into() },
            lane: key.map(|key| Lane { key: key.into(), ordered: true, open_max: 1 }),
            rank: -60_000,
            priority: Priority::Sheddable,
            due: 12,
            expires: key.map(|_| u64::MAX),
            attempts: 3,
            attempts_max: key.map(|_| 4),
            bytes: 300,
        }
    }

    /// What is told is what was said.
    fn check(news: &[News]) {
        assert_eq!(read(&note(7, 42, news)), Some((7, 42, news.to_vec())));
    }

    #[test]
    fn what_is_told_is_what_was_said() {
        let gone = News::Gone(Seq(3), Line { queue: "q".into(), tenant: String::new().into() });
        check(&[]);
        check(&[News::Ready(ready(None)), News::Ready(ready(Some("k"))), News::Due(5), gone]);
    }

    #[test]
    fn what_is_too_much_or_cannot_be_said_is_looked_at() {
        let look = Some((7, 42, vec![News::Look]));
        assert_eq!(read(&note(7, 42, &vec![News::Ready(ready(None)); 200])), look);
        assert_eq!(read(&note(7, 42, &[News::Ready(ready(Some("a\u{1f}b")))])), look);
        assert_eq!(read(&note(7, 42, &[News::Ready(ready(Some("a\0b")))])), look);
        assert_eq!(read("not ours"), None);
        assert_eq!(read("7\u{1f}1\u{1e}X"), None);
    }

    #[test]
    fn a_version_that_nobody_told_of_is_missed_and_one_that_comes_late_is_not() {
        let mut heard = Heard::begin(10);
        heard.hear(11);
        assert!(!heard.has_missed(12));
        heard.hear(13);
        heard.hear(12);
        assert!(!heard.has_missed(14));
        assert!(heard.has_missed(15), "of the 14th nothing was told");
        heard.hear(15);
        assert!(!heard.has_missed(15));
        assert!(!heard.has_missed(15));
    }
}
