//! Any history: what is told is what a few words would, and what always holds does.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    /// A tenant, a lane (none, ordered, two at a time), due so much later, how many of those before it it comes after, what
    /// becomes of another of its kind, where it is of one, and whether something is made once it has ended.
    Append(u8, u8, u64, usize, Option<Otherwise>, bool),
    /// Its request is another now.
    Edit(usize),
    Start(usize),
    Finish(usize, Becomes),
    Promote(u64),
    Cancel(usize),
    Redrive(usize),
    Expire(usize),
    Pause(u8),
    Resume(u8),
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..40_usize;
    let becomes = prop_oneof![
        3 => Just(DONE),
        2 => (0..20_u64).prop_map(|later| Becomes::Again { due: NOW + later }),
        1 => (0..20_u64).prop_map(|later| Becomes::Unsent { due: NOW + later }),
        2 => Just(DEAD),
    ];
    prop_oneof![
        8 => (0..2_u8, 0..3_u8, 0..10_u64, 0..3_usize, otherwise(), any::<bool>()).prop_map(
            |(tenant, lane, later, after, otherwise, callback)| {
                Step::Append(tenant, lane, later, after, otherwise, callback)
            }
        ),
        1 => which.clone().prop_map(Step::Edit),
        8 => which.clone().prop_map(Step::Start),
        8 => (which.clone(), becomes).prop_map(|(which, becomes)| Step::Finish(which, becomes)),
        2 => (0..20_u64).prop_map(Step::Promote),
        2 => which.clone().prop_map(Step::Cancel),
        2 => which.clone().prop_map(Step::Redrive),
        1 => which.prop_map(Step::Expire),
        1 => (0..2_u8).prop_map(Step::Pause),
        2 => (0..2_u8).prop_map(Step::Resume),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

fn otherwise() -> impl Strategy<Value = Option<Otherwise>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Otherwise::Keep)),
        2 => Just(Some(Otherwise::Replace)),
        1 => Just(Some(Otherwise::Debounce { at_most: 5 })),
    ]
}

/// A stand, and what was accepted on it.
struct History {
    stand: Stand,
    known: Vec<(Id, Seq)>,
    /// Attempts that began and ended, by delivery: never more ended than began, one at a time.
    leases: BTreeMap<Seq, Token>,
    now: Ms,
}

impl History {
    fn key(tenant: u8) -> Pause {
        Pause::Key(Line { queue: "mails".into(), tenant: tenant.to_string().into() }, "k".into())
    }

    fn append(
        &mut self,
        tenant: u8,
        which: u8,
        later: u64,
        after: usize,
        otherwise: Option<Otherwise>,
        callback: bool,
    ) {
        let lane = match which {
            0 => None,
            1 => lane(true, 1),
            _ => Some(Lane { key: "k2".into(), ordered: false, open_max: 2 }),
        };
        let tenant = tenant.to_string();
        let after = self.known.iter().rev().take(after).map(|(id, _)| *id);
        let after = after.filter(|id| *self.stand.record(*id).tenant == *tenant).collect();
        let due = Some(self.now + later);
        let unique = otherwise.and_then(|otherwise| unique(self.now + 5, otherwise, None));
        let promise = self.stand.promise(&tenant);
        let callback = callback.then(|| Callback {
            id: Id(promise.id.0 | 1 << 32),
            queue: "mails".into(),
            target: "/ended".into(),
        });
        let expires = Some(NOW + 200);
        let promise = Promise { lane, due, after, expires, unique, callback, ..promise };
        match &self.stand.append(std::slice::from_ref(&promise))[0] {
            Appended::Accepted(id) => self.known.push((*id, self.stand.record(*id).seq)),
            Appended::Already(id) | Appended::Replaced(id) | Appended::Mismatch(id) => {
                let of_its_kind = promise.unique.is_some() && self.known.iter().any(|(known, _)| known == id);
                assert!(of_its_kind, "{id}");
            }
            Appended::After(id) => {
                // It would take the place of one that is older than what it comes after.
                let is_newer = promise.unique.is_some() && promise.after.contains(id);
                assert!(self.stand.record(*id).state.has_ended() || is_newer);
            }
            told => panic!("{told:?}"),
        }
    }

    /// Gives a command, and compares what it came to with what the state before it says.
    fn command(&mut self, which: usize, command: Command) {
        let Some((id, seq)) = self.known.get(which % self.known.len().max(1)).copied() else { return };
        let before = self.stand.record(id);
        let (change, told) = tidegate_model::delivery::step(before, command.clone(), self.now);
        let asked = Asked { seq, command, attempt: None, result: None };
        assert_eq!(self.stand.commit_at(self.now, asked).told, told);
        let after = self.stand.record(id);
        if let tidegate_model::delivery::Change::Put(expected) = change
            && expected.lane.is_none()
        {
            assert_eq!(after, *expected);
        }
        match after.state {
            State::Leased { token, .. } => {
                let before = self.leases.insert(seq, token);
                assert!(before.is_none_or(|before| before <= token), "a token that was there");
            }
            _ => drop(self.leases.remove(&seq)),
        }
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Append(tenant, lane, later, after, otherwise, callback) => {
                self.append(tenant, lane, later, after, otherwise, callback);
            }
            Step::Edit(which) => {
                let Some((id, _)) = self.known.get(which % self.known.len().max(1)) else { return };
                let edit = Edit { body: Some(vec![b'e'; which * 100].into()), ..Edit::default() };
                let state = self.stand.record(*id).state;
                let edited =
                    self.stand.runtime.block_on(self.stand.store().edit(None, *id, None, edit, ROOM));
                assert!(matches!(edited, Ok(Edited::Done(_))) || edited == Ok(Edited::Not(state)));
            }
            Step::Start(which) => self.command(which, Command::Start { until: LATER }),
            Step::Finish(which, becomes) => {
                let Some((_, seq)) = self.known.get(which % self.known.len().max(1)) else { return };
                let token = self.leases.get(seq).copied().unwrap_or_default();
                self.command(which, Command::Finish { token, becomes, why: None });
            }
            Step::Promote(later) => {
                self.now += later;
                self.stand.promote(self.now, 100);
            }
            Step::Cancel(which) => self.command(which, Command::Cancel { forgotten: LATER }),
            Step::Redrive(which) => self.command(which, Command::Redrive { due: self.now, aging: 0 }),
            Step::Expire(which) => self.command(which, Command::Expire { forgotten: LATER }),
            Step::Pause(tenant) => self.stand.pause(&History::key(tenant)),
            Step::Resume(tenant) => self.stand.resume(&History::key(tenant)),
            Step::Restart => self.stand.open(),
            Step::Kill => self.stand.kill(),
        }
    }

    /// Ends all that there is: nothing is stranded.
    fn end_all(&mut self) {
        for tenant in 0..2 {
            self.stand.resume(&History::key(tenant));
        }
        // Each turn ends one of each key at least, and each has a callback at most.
        for _ in 0..=2 * self.known.len() {
            for (seq, token) in std::mem::take(&mut self.leases) {
                self.stand.commit(seq, Command::Finish { token, becomes: DONE, why: None });
            }
            self.stand.promote(LATER, 4096);
            for seq in self.stand.ready("0").into_iter().chain(self.stand.ready("1")) {
                match self.stand.commit(seq, Command::Start { until: LATER }).told {
                    Told::Started(token) => drop(self.leases.insert(seq, token)),
                    told => panic!("{told:?}"),
                }
            }
        }
        let totals = self.stand.runtime.block_on(self.stand.store().totals()).unwrap();
        let open = totals.iter().flat_map(|total| &total.counts[..4]).sum::<u64>();
        assert_eq!(open, 0, "something is left: {totals:?}");
        for (id, _) in &self.known {
            let record = self.stand.record(*id);
            assert!(record.state.has_ended(), "stranded: {record:?}");
        }
    }

    fn audit(&self) {
        let wrong = self.stand.runtime.block_on(self.stand.store().audit()).unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_always_holds_does(steps in proptest::collection::vec(step(), 1..40)) {
        for stand in Stand::all() {
            let stand = stand.with_another();
            let mut history = History { stand, known: Vec::new(), leases: BTreeMap::new(), now: NOW };
            for step in &steps {
                history.carry_out(step.clone());
            }
            history.audit();
            history.end_all();
            history.audit();
        }
    }
}
