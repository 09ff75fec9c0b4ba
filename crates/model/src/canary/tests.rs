use super::*;

fn plan() -> Plan {
    let rollback = Rollback {
        errors: 0.01,
        latency: Some(1.5),
        quantile: 0.95,
        min: 200,
        window: Duration::from_secs(60),
    };
    Plan { steps: vec![50_000, 250_000, 500_000], every: Duration::from_secs(600), manual: false, rollback }
}

fn side(answers: u64, errors: u64, millis: u64) -> Side {
    let mut latencies = Histogram::default();
    (errors..answers).for_each(|_| latencies.note(Duration::from_millis(millis)));
    Side { answers, errors, latencies }
}

fn evidence(baseline: Side, canary: Side) -> Evidence {
    Evidence { baseline, canary }
}

/// Whether this canary is taken back, and for what.
fn check(baseline: Side, canary: Side, why: Option<&str>) {
    let found = evidence(baseline, canary).worse(&plan().rollback);
    let kind = found.as_deref().and_then(|why| why.split(':').next());
    assert_eq!(kind, why, "{found:?}");
}

#[test]
fn what_is_worse_beyond_chance_is_taken_back() {
    check(side(1000, 0, 10), side(8, 8, 10), Some("errors"));
    check(side(1000, 0, 10), side(2, 2, 10), None);
    check(side(1000, 0, 10), side(200, 20, 10), Some("errors"));
    check(side(1000, 0, 10), side(200, 4, 10), None);
    check(side(1000, 20, 10), side(200, 6, 10), None);
    // A baseline that fails as often is no reason.
    check(side(1000, 500, 10), side(200, 110, 10), None);
    // Nobody knows without a baseline.
    check(side(0, 0, 10), side(100, 100, 10), None);
    check(side(1000, 0, 20), side(300, 0, 40), Some("latency"));
    check(side(1000, 0, 20), side(199, 0, 40), None);
    check(side(1000, 0, 20), side(300, 0, 26), None);
    // Twice of next to nothing is next to nothing.
    check(side(1000, 0, 2), side(300, 0, 4), None);
}

#[test]
fn a_good_one_goes_through_its_steps_and_is_promoted() {
    let plan = plan();
    let good = evidence(side(5000, 5, 20), side(300, 0, 20));
    let few = evidence(side(5000, 5, 20), side(199, 0, 20));
    let mut state = State::begun(&plan, 0);
    let mut shares = Vec::new();
    let mut now = 0;
    while state.phase == Phase::Running {
        shares.push(state.share(&plan));
        assert_eq!(state.look(&plan, &good, &good, now + 599_999), None, "its time is not over");
        assert_eq!(state.look(&plan, &few, &few, now + 700_000), None, "of too few is too little known");
        now += 600_000;
        state = state.look(&plan, &good, &good, now).expect("the next step");
    }
    assert_eq!(shares, plan.steps);
    assert_eq!((state.phase, state.share(&plan)), (Phase::Promoted, WHOLE));
    let bad = evidence(side(500, 0, 20), side(500, 500, 20));
    assert_eq!(state.look(&plan, &bad, &bad, now), None, "what has all has no baseline any more");
}

#[test]
fn a_bad_one_gets_nothing_until_somebody_says_so() {
    let plan = plan();
    let none = Evidence::default();
    let bad = evidence(side(500, 0, 20), side(50, 50, 20));
    let state = State::begun(&plan, 0).look(&plan, &bad, &bad, 5).expect("it is taken back");
    assert_eq!((state.phase, state.share(&plan)), (Phase::RolledBack, 0));
    assert_eq!(state.why, "errors: 50 of 50 answers, of the baseline's 0 of 500");
    assert_eq!(state.look(&plan, &none, &none, 1 << 40), None);
    let again = state.told(Command::Start, "ops", 6).expect("it begins anew");
    assert_eq!((again.phase, again.step, again.share(&plan)), (Phase::Running, 0, 50_000));
    // What fails seldom is found over the whole step, where a window holds too few of its answers.
    let seldom = evidence(side(20_000, 20, 20), side(2000, 80, 20));
    let step = State::begun(&plan, 0).look(&plan, &none, &seldom, 5).expect("it is taken back");
    assert_eq!(step.phase, Phase::RolledBack);
}

#[test]
fn commands_do_what_they_say_or_nothing() {
    use Command::{Pause, Promote, Rollback, Start};
    use Phase::{Paused, Promoted, RolledBack, Running, Waiting};
    for (from, command, to) in [
        (Waiting, Start, Some((Running, 0))),
        (Waiting, Pause, None),
        (Waiting, Promote, Some((Promoted, 1))),
        (Waiting, Rollback, Some((RolledBack, 1))),
        (Running, Start, None),
        (Running, Pause, Some((Paused, 1))),
        (Paused, Start, Some((Running, 1))),
        (Paused, Pause, None),
        (Paused, Rollback, Some((RolledBack, 1))),
        (Promoted, Start, None),
        (Promoted, Rollback, Some((RolledBack, 1))),
        (RolledBack, Pause, None),
        (RolledBack, Promote, Some((Promoted, 1))),
    ] {
        let state = State { phase: from, step: 1, since: 0, why: String::new() };
        let told = state.told(command, "ops", 9);
        assert_eq!(told.as_ref().map(|told| (told.phase, told.step)), to, "{from:?} {command:?}");
        assert!(told.is_none_or(|told| told.since == 9 && told.why == "by ops"));
    }
    let paused = State { phase: Paused, step: 1, since: 0, why: String::new() };
    let good = evidence(side(5000, 5, 20), side(300, 0, 20));
    let bad = evidence(side(500, 0, 20), side(50, 50, 20));
    assert_eq!(paused.share(&plan()), 250_000);
    assert_eq!(paused.look(&plan(), &good, &good, 1 << 40), None);
    assert!(paused.look(&plan(), &bad, &bad, 1).is_some_and(|state| state.phase == RolledBack));
}

#[test]
fn a_rollback_stands_against_what_nobody_has_ordered() {
    let state = |phase, since, why: &str| State { phase, step: 1, since, why: why.to_owned() };
    let found = |since| state(Phase::RolledBack, since, "errors: 5 of 5 answers, of the baseline's 0 of 9");
    let step = |since| state(Phase::Running, since, "as good as the baseline, over 200 answers");
    let order = |phase, since| state(phase, since, "by ops");
    for (one, other, expected) in [
        (step(2), found(1), true),
        (found(1), step(2), false),
        (found(1), State::begun(&plan(), 2), false),
        (found(1), order(Phase::Running, 2), true),
        (found(2), order(Phase::Running, 1), false),
        (order(Phase::Promoted, 2), found(1), false),
        (order(Phase::Promoted, 1), found(2), true),
        (found(1), found(2), true),
        (step(1), step(2), true),
        (step(2), step(1), false),
    ] {
        assert_eq!(one.gives_way_to(&other), expected, "{one:?} {other:?}");
    }
}

#[test]
fn who_is_chosen_stays_so_while_the_share_grows() {
    let chosen = |share| (0..20_000).filter(|&hash| is_chosen("r", hash, share)).collect::<Vec<u64>>();
    let (few, more) = (chosen(50_000), chosen(250_000));
    assert!((850..1150).contains(&few.len()) && (4700..5300).contains(&more.len()));
    assert!(few.iter().all(|hash| more.contains(hash)));
    assert!(chosen(0).is_empty() && chosen(WHOLE).len() == 20_000);
    let elsewhere =
        (0..20_000).filter(|&hash| is_chosen("s", hash, 50_000)).filter(|hash| few.contains(hash));
    assert!(elsewhere.count() < 120, "another route chooses others");
}

#[test]
fn a_window_forgets_and_a_step_does_not() {
    let mut looks = Looks::default();
    let window = Duration::from_secs(8);
    looks.begin(&evidence(side(10, 0, 1), side(5, 5, 1)));
    let sums = |seconds: u64| evidence(side(10 + seconds * 10, 0, 1), side(5 + seconds, 5, 1));
    for seconds in 0..=30 {
        let (last, step) = looks.look(&sums(seconds), window, seconds * 1000);
        assert_eq!((step.canary.answers, step.canary.errors), (seconds, 0));
        assert_eq!(last.canary.answers, seconds.min(8), "{seconds}");
        assert!(looks.past.len() <= LOOKS as usize + 2);
    }
    looks.begin(&sums(30));
    assert_eq!(looks.look(&sums(31), window, 31_000).0.canary.answers, 1);
}

/// The next word of a stream.
fn word(stream: &mut u64) -> f64 {
    *stream = stream.wrapping_add(1);
    (mix(*stream) >> 11) as f64 / (1u64 << 53) as f64
}

/// Runs a canary through its steps, at so many answers a second, looked at each second. Errors, and the mean of its latencies
/// in milliseconds, of the baseline and of the canary. How it ends, and the canary's answers until then.
fn simulated(seed: u64, errors: (f64, f64), millis: (f64, f64)) -> (State, u64) {
    let plan = Plan { every: Duration::from_secs(60), ..plan() };
    let (mut stream, mut sums, mut looks) = (mix(seed), Evidence::default(), Looks::default());
    let mut state = State::begun(&plan, 0);
    for second in 1..400 {
        let now = second * 1000;
        for _ in 0..60 {
            let is_canary = word(&mut stream) * f64::from(WHOLE) < f64::from(state.share(&plan));
            let (side, errors, mean) = match is_canary {
                true => (&mut sums.canary, errors.1, millis.1),
                false => (&mut sums.baseline, errors.0, millis.0),
            };
            side.answers += 1;
            if word(&mut stream) < errors {
                side.errors += 1;
            } else {
                side.latencies.note(Duration::from_secs_f64(-(1.0 - word(&mut stream)).ln() * mean / 1e3));
            }
        }
        let (window, step) = looks.look(&sums, plan.rollback.window, now);
        if let Some(next) = state.look(&plan, &window, &step, now) {
            state = next;
            looks.begin(&sums);
            if state.phase != Phase::Running {
                break;
            }
        }
    }
    (state, sums.canary.answers)
}

#[test]
fn chance_takes_no_canary_back() {
    for seed in 0..60 {
        let noise = [(0.0, 20.0), (0.02, 20.0), (0.1, 80.0)][seed as usize % 3];
        let (state, _) = simulated(seed, (noise.0, noise.0), (noise.1, noise.1));
        assert_eq!(state.phase, Phase::Promoted, "seed {seed}: {state:?}");
    }
}

#[test]
fn a_bad_canary_is_taken_back_in_its_first_step() {
    for seed in 0..30 {
        let (state, answers) = simulated(seed, (0.001, 1.0), (20.0, 20.0));
        assert!(state.phase == Phase::RolledBack && answers < 20, "seed {seed}: {answers} {state:?}");
        let (state, answers) = simulated(seed, (0.001, 0.2), (20.0, 20.0));
        assert!(
            state.phase == Phase::RolledBack && state.step == 0 && answers < 250,
            "seed {seed}: {answers}"
        );
        let (state, _) = simulated(seed, (0.001, 0.001), (20.0, 60.0));
        assert!(
            state.phase == Phase::RolledBack && state.why.starts_with("latency"),
            "seed {seed}: {state:?}"
        );
    }
}
