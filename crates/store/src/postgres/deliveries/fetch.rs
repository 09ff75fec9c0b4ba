//! What a transaction will ask for, fetched together: of each kind all with one statement.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tidegate_model::delivery::{Id, Seq};
use tokio_postgres::Row as Found;

use super::askers::{Askers, asks};
use super::desk::Desk;
use super::known::{Keyed, Known};
use super::rows::{
    columns, get, halves, line_columns, number, request, request_columns, tally, text, unnamed,
};
use super::session::Says;
use crate::deliveries::Line;
use crate::deliveries::rows::whole;
use crate::deliveries::tables::{Fault, Hints, Sole};

const BY_ID: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM unnest($1::bigint[], $2::bigint[]) AS t (high, low) JOIN ids i ON i.high = t.high AND i.low = t.low
      JOIN deliveries d ON d.seq = i.seq"
);
const BY_SEQ: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM unnest($1::bigint[]) AS t (seq) JOIN deliveries d ON d.seq = t.seq"
);
const LINES_OF_SEQS: &str = concat!(
    "SELECT ",
    line_columns!(),
    " FROM (SELECT DISTINCT d.line FROM unnest($1::bigint[]) AS t (seq) JOIN deliveries d ON d.seq = t.seq) AS t
      JOIN lines l ON l.line = t.line"
);
const REQUESTS: &str = concat!(
    "SELECT ",
    request_columns!(),
    " FROM unnest($1::bigint[]) AS t (seq) JOIN deliveries d ON d.seq = t.seq
      JOIN requests r ON r.age = d.age AND r.seq = d.seq"
);
const LINES_OF_TENANTS: &str = concat!(
    "SELECT ",
    line_columns!(),
    " FROM unnest($1::text[]) AS t (tenant) JOIN lines l ON l.tenant = t.tenant"
);
/// The line of each name, whether there is one of the kind or not.
const UNIQUES_BY_NAME: &str = "
    SELECT l.line, t.key, u.seq, u.until, u.fingerprint
    FROM unnest($1::text[], $2::text[], $3::bytea[]) AS t (queue, tenant, key)
    JOIN lines l ON l.queue = t.queue AND l.tenant = t.tenant
    LEFT JOIN uniques u ON u.line = l.line AND u.key = t.key";
const FIRST_OF_UNIQUES: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM unnest($1::text[], $2::text[], $3::bytea[]) AS t (queue, tenant, key)
      JOIN lines l ON l.queue = t.queue AND l.tenant = t.tenant
      JOIN uniques u ON u.line = l.line AND u.key = t.key JOIN deliveries d ON d.seq = u.seq"
);
const UNIQUES: &str = "
    SELECT t.line, t.key, u.seq, u.until, u.fingerprint
    FROM unnest($1::bigint[], $2::bytea[]) AS t (line, key) LEFT JOIN uniques u ON u.line = t.line AND u.key = t.key";
const LANES_BY_NAME: &str = "
    SELECT l.line, t.key, x.open
    FROM unnest($1::text[], $2::text[], $3::bytea[]) AS t (queue, tenant, key)
    JOIN lines l ON l.queue = t.queue AND l.tenant = t.tenant
    LEFT JOIN lanes x ON x.line = l.line AND x.key = t.key";
const LANES: &str = "
    SELECT t.line, t.key, x.open
    FROM unnest($1::bigint[], $2::bytea[]) AS t (line, key) LEFT JOIN lanes x ON x.line = t.line AND x.key = t.key";

/// The first who ask for a turn of a key.
const ASKING: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.line = $1 AND d.key = $2 AND d.place = 1 ORDER BY d.turn, d.seq LIMIT $3"
);
const ASKERS_BY_NAME: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM unnest($1::text[], $2::text[], $3::bytea[]) AS t (queue, tenant, key)
      JOIN lines l ON l.queue = t.queue AND l.tenant = t.tenant CROSS JOIN LATERAL (
          SELECT * FROM deliveries x WHERE x.line = l.line AND x.key = t.key AND x.place = 1 ORDER BY x.turn, x.seq LIMIT 8
      ) AS d"
);
const ASKERS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM unnest($1::bigint[], $2::bytea[]) AS t (line, key) CROSS JOIN LATERAL (
          SELECT * FROM deliveries x WHERE x.line = t.line AND x.key = t.key AND x.place = 1 ORDER BY x.turn, x.seq LIMIT 8
      ) AS d"
);
/// How many of each key these tell, and how many are fetched where more are asked for.
const ASKERS_EACH: usize = 8;
const ASKING_MIN: usize = 32;

type Named = (Line, Arc<str>);

/// What is not known of what will be asked for.
#[derive(Default)]
pub(super) struct Wants {
    ids: Vec<Id>,
    seqs: Vec<Seq>,
    requests: Vec<Seq>,
    tenants: Vec<Arc<str>>,
    uniques_by_name: Vec<Named>,
    lanes_by_name: Vec<Named>,
    uniques: Vec<Keyed>,
    lanes: Vec<Keyed>,
    /// Whether those who ask for a turn of these lanes are fetched, too.
    askers: bool,
}

impl Wants {
    fn is_empty(&self) -> bool {
        self.ids.is_empty()
            && self.seqs.is_empty()
            && self.requests.is_empty()
            && self.tenants.is_empty()
            && self.uniques_by_name.is_empty()
            && self.lanes_by_name.is_empty()
            && self.uniques.is_empty()
            && self.lanes.is_empty()
    }

    /// What is asked, in the order in which [`absorb`](Wants::absorb) is given the answers.
    pub(super) fn says(&self) -> Vec<Says<'static>> {
        let places = |all: &[Seq]| all.iter().map(|seq| whole(seq.0)).collect::<Vec<_>>();
        let mut says = Vec::new();
        if !self.ids.is_empty() {
            let (high, low): (Vec<_>, Vec<_>) = self.ids.iter().map(|id| halves(*id)).unzip();
            says.push(Says::new(BY_ID, vec![Box::new(high), Box::new(low)]));
        }
        if !self.seqs.is_empty() {
            says.push(Says::new(BY_SEQ, vec![Box::new(places(&self.seqs))]));
            says.push(Says::new(LINES_OF_SEQS, vec![Box::new(places(&self.seqs))]));
        }
        if !self.requests.is_empty() {
            says.push(Says::new(REQUESTS, vec![Box::new(places(&self.requests))]));
        }
        if !self.tenants.is_empty() {
            let tenants: Vec<String> = self.tenants.iter().map(|tenant| String::from(&**tenant)).collect();
            says.push(Says::new(LINES_OF_TENANTS, vec![Box::new(tenants)]));
        }
        let named = |sql, all: &[Named]| {
            let queues: Vec<String> = all.iter().map(|(line, _)| String::from(&*line.queue)).collect();
            let tenants: Vec<String> = all.iter().map(|(line, _)| String::from(&*line.tenant)).collect();
            let keys: Vec<Vec<u8>> = all.iter().map(|(_, key)| key.as_bytes().to_vec()).collect();
            Says::new(sql, vec![Box::new(queues), Box::new(tenants), Box::new(keys)])
        };
        if !self.uniques_by_name.is_empty() {
            says.push(named(FIRST_OF_UNIQUES, &self.uniques_by_name));
            says.push(named(UNIQUES_BY_NAME, &self.uniques_by_name));
        }
        if !self.lanes_by_name.is_empty() {
            says.push(named(LANES_BY_NAME, &self.lanes_by_name));
            if self.askers {
                says.push(named(ASKERS_BY_NAME, &self.lanes_by_name));
            }
        }
        let keyed = |sql, all: &[Keyed]| {
            let lines: Vec<i64> = all.iter().map(|(line, _)| *line).collect();
            let keys: Vec<Vec<u8>> = all.iter().map(|(_, key)| key.as_bytes().to_vec()).collect();
            Says::new(sql, vec![Box::new(lines), Box::new(keys)])
        };
        if !self.uniques.is_empty() {
            says.push(keyed(UNIQUES, &self.uniques));
        }
        if !self.lanes.is_empty() {
            says.push(keyed(LANES, &self.lanes));
            if self.askers {
                says.push(keyed(ASKERS, &self.lanes));
            }
        }
        says
    }

    /// Takes the answers in: what was asked for and is not among them is not there.
    pub(super) fn absorb(&self, answers: &[Vec<Found>], known: &mut Known) -> Result<(), Fault> {
        let mut answers = answers.iter();
        let mut next = || answers.next().map(Vec::as_slice).unwrap_or_default();
        if !self.ids.is_empty() {
            absorb_rows(next(), known)?;
            for id in &self.ids {
                known.ids.entry(*id).or_insert(None);
            }
        }
        if !self.seqs.is_empty() {
            absorb_rows(next(), known)?;
            for seq in &self.seqs {
                known.rows.entry(*seq).or_insert(None);
            }
            absorb_lines(next(), known)?;
        }
        if !self.requests.is_empty() {
            absorb_requests(next(), known)?;
        }
        if !self.tenants.is_empty() {
            for tenant in &self.tenants {
                known.tenants.entry(Arc::clone(tenant)).or_default();
            }
            absorb_lines(next(), known)?;
        }
        if !self.uniques_by_name.is_empty() {
            absorb_rows(next(), known)?;
            absorb_uniques(next(), known)?;
        }
        if !self.lanes_by_name.is_empty() {
            self.absorb_lanes(&mut next, known)?;
        }
        if !self.uniques.is_empty() {
            absorb_uniques(next(), known)?;
        }
        if !self.lanes.is_empty() {
            self.absorb_lanes(&mut next, known)?;
        }
        Ok(())
    }

    fn absorb_lanes<'a>(
        &self,
        next: &mut impl FnMut() -> &'a [Found],
        known: &mut Known,
    ) -> Result<(), Fault> {
        let keys = absorb_lanes(next(), known)?;
        if self.askers {
            absorb_askers(next(), keys, known)?;
        }
        Ok(())
    }
}

pub(super) fn absorb_rows(found: &[Found], known: &mut Known) -> Result<Vec<Seq>, Fault> {
    let mut seqs = Vec::with_capacity(found.len());
    for row in found {
        let (unnamed, age) = unnamed(row)?;
        seqs.push(unnamed.0.record.seq);
        known.absorb(unnamed.0, age);
    }
    Ok(seqs)
}

pub(super) fn absorb_lines(found: &[Found], known: &mut Known) -> Result<(), Fault> {
    for row in found {
        let tally = tally(row)?;
        // One that is known may have been counted since.
        if !known.lines.contains_key(&tally.number) {
            known.absorb_line(tally);
        } else if let Some(all) = known.tenants.get_mut(&tally.names.tenant) {
            all.insert(tally.number);
        }
    }
    Ok(())
}

fn absorb_requests(found: &[Found], known: &mut Known) -> Result<(), Fault> {
    for row in found {
        let (seq, request, edits) = request(row)?;
        if !known.requests.contains_key(&seq) {
            known.absorb_request(seq, request, edits);
        }
    }
    Ok(())
}

fn absorb_uniques(found: &[Found], known: &mut Known) -> Result<(), Fault> {
    for row in found {
        let key = (get(row, 0)?, text(get(row, 1)?)?);
        let sole = match get::<Option<i64>>(row, 2)? {
            None => None,
            Some(_) => Some(Sole {
                seq: Seq(number(row, 2)?),
                until: number(row, 3)?,
                fingerprint: get::<Option<&[u8]>>(row, 4)?.and_then(|print| print.try_into().ok()),
            }),
        };
        known.uniques.entry(key).or_insert(sole);
    }
    Ok(())
}

/// The keys of these, too.
fn absorb_lanes(found: &[Found], known: &mut Known) -> Result<Vec<Keyed>, Fault> {
    let mut keys = Vec::with_capacity(found.len());
    for row in found {
        let key: Keyed = (get(row, 0)?, text(get(row, 1)?)?);
        let open = get::<Option<i64>>(row, 2)?.unwrap_or_default();
        known.lanes.entry(key.clone()).or_insert(u32::try_from(open).unwrap_or(u32::MAX));
        keys.push(key);
    }
    Ok(keys)
}

/// Of each of these keys the first who ask, whether there are any or not.
fn absorb_askers(found: &[Found], keys: Vec<Keyed>, known: &mut Known) -> Result<(), Fault> {
    let mut first: HashMap<Keyed, BTreeSet<(i64, Seq)>> = HashMap::new();
    for row in found {
        let (unnamed, age) = unnamed(row)?;
        if let Some((key, place)) = asks(&unnamed.0) {
            first.entry(key).or_default().insert(place);
        }
        known.absorb(unnamed.0, age);
    }
    for key in keys {
        let these = first.remove(&key).unwrap_or_default();
        let whole = these.len() < ASKERS_EACH;
        known.askers.entry(key).or_insert_with(|| Askers::new(these, whole));
    }
    Ok(())
}

impl Desk {
    /// What is not known of this.
    pub(super) fn wants(&self, hints: &Hints) -> Wants {
        let known = &self.known;
        let mut wants = Wants::default();
        wants.ids.extend(hints.ids.iter().filter(|id| !known.ids.contains_key(*id)));
        wants.seqs.extend(hints.seqs.iter().filter(|seq| !known.rows.contains_key(*seq)));
        let not_requested = |seq: &&Seq| !known.requests.contains_key(*seq);
        wants.requests.extend(hints.requests.iter().filter(not_requested));
        let not_known = |tenant: &&Arc<str>| !known.tenants.contains_key(*tenant);
        wants.tenants.extend(hints.tenants.iter().filter(not_known).cloned());
        let place = |line: &Line| known.names.get(line).copied();
        let has = |map: &dyn Fn(&Keyed) -> bool, (line, key): &Named| {
            place(line).is_some_and(|number| map(&(number, Arc::clone(key))))
        };
        let no_unique = |named: &&Named| !has(&|key| known.uniques.contains_key(key), named);
        wants.uniques_by_name.extend(hints.uniques.iter().filter(no_unique).cloned());
        let no_lane = |named: &&Named| !has(&|key| known.lanes.contains_key(key), named);
        wants.lanes_by_name.extend(hints.lanes.iter().filter(no_lane).cloned());
        // What is loaded may give its turn back, or end.
        for row in hints.seqs.iter().filter_map(|seq| known.rows.get(seq)?.as_ref()).map(|entry| &entry.row) {
            let keyed = |key: &Arc<str>| (row.line, Arc::clone(key));
            let lane = row.record.lane.as_ref().map(|lane| keyed(&lane.key));
            wants.lanes.extend(lane.filter(|key| !known.lanes.contains_key(key)));
            let sole = row.sole.as_ref().map(keyed);
            wants.uniques.extend(sole.filter(|key| !known.uniques.contains_key(key)));
        }
        // What was changed and not sent off yet they would not tell.
        wants.askers = self.pending.rows.is_empty() && self.pending.removed.is_empty();
        wants.tidy();
        wants
    }

    /// Fetches the first who ask for a turn of a key: so many at least, where there are.
    pub(super) fn fetch_askers(&mut self, key: &Keyed, most: usize) -> Result<(), Fault> {
        self.flush_rows()?;
        let most = most.max(ASKING_MIN);
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let (line, name) = (key.0, key.1.as_bytes());
        let found =
            self.session.ask(Says::new(ASKING, vec![Box::new(line), Box::new(name), Box::new(limit)]))?;
        let seqs = absorb_rows(&found, &mut self.known)?;
        let known = seqs.iter().filter_map(|seq| self.known.rows.get(seq)?.as_ref());
        let first: BTreeSet<_> = known.filter_map(|entry| Some(asks(&entry.row)?.1)).collect();
        let whole = found.len() < most;
        self.known.askers.insert(key.clone(), Askers::new(first, whole));
        Ok(())
    }

    /// Fetches what is not known of this.
    pub(super) fn fetch(&mut self, hints: &Hints) -> Result<(), Fault> {
        let wants = self.wants(hints);
        self.fetch_all(&wants)
    }

    pub(super) fn fetch_unique(&mut self, key: &Keyed) -> Result<(), Fault> {
        self.fetch_all(&Wants { uniques: vec![key.clone()], ..Wants::default() })
    }

    pub(super) fn fetch_lane(&mut self, key: &Keyed) -> Result<(), Fault> {
        self.fetch_all(&Wants { lanes: vec![key.clone()], ..Wants::default() })
    }

    fn fetch_all(&mut self, wants: &Wants) -> Result<(), Fault> {
        if wants.is_empty() {
            return Ok(());
        }
        let answers = self.session.ask_all(&wants.says())?;
        wants.absorb(&answers, &mut self.known)
    }
}

impl Wants {
    /// Each once.
    fn tidy(&mut self) {
        fn once<T: Ord>(all: &mut Vec<T>) {
            all.sort_unstable();
            all.dedup();
        }
        once(&mut self.ids);
        once(&mut self.seqs);
        once(&mut self.requests);
        once(&mut self.tenants);
        once(&mut self.uniques_by_name);
        once(&mut self.lanes_by_name);
        once(&mut self.uniques);
        once(&mut self.lanes);
    }
}
