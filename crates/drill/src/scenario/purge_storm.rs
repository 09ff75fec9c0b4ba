//! An import writes again and again, and each write purges all that its tenant has in the cache.

use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Answer, Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Objects, Source};
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "purge-storm",
    summary: "Clients read 500 things a second of a cache before an upstream that does 160 requests. Then an import writes 40 \
              times a second, and each write purges all of it. Both sides cache, and have a gate.",
    rule: "Protected (purges that mark as stale), at least 99.9 % of reads are answered well while the import runs, with a \
           p99 of at most 60 ms, and at least 99 % of writes; within a second after it reads are asked of the upstream no \
           more than once for each thing. Unprotected (purges that take away), fewer than half of reads are answered well.",
    seconds: 9.0,
    fault: Window { from: 3.0, to: 6.5 },
    fault_name: "import",
    about: About::Exchanges,
    victims: "readers",
    side,
    has_baseline: false,
    judge,
};

/// Things that are read, and how often per second in all.
const THINGS: u32 = 100;
const READS: f64 = 500.0;
/// Writes per second.
const WRITES: f64 = 40.0;
/// How long a reader waits.
const PATIENCE: Duration = Duration::from_secs(1);

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        service: Service::Constant(Duration::from_millis(50)),
        answer: Answer {
            cache_control: "max-age=60",
            bytes: 4 << 10,
            purge: match kind {
                Kind::Off => "\"tenant\"",
                Kind::On | Kind::Baseline => "\"tenant\";soft",
            },
        },
        ..Behaviour::default()
    };
    let apps = apps(setting, 1, &behaviour)?;
    // One more than the application's eight slots, as in the other drills. Writes go first: without them nothing is new.
    let config = format!(
        "[upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\nconcurrency = 9\n\
         waiting = {{ limit = 200, wait = \"200ms\" }}\n\n\
         [[route]]\nname = \"reads\"\nupstream = \"app\"\nretry = {{ tries = 1 }}\n\
         cache = {{ stale_while_revalidate = \"1m\" }}\n\n\
         [[route]]\nname = \"writes\"\nmethods = [\"POST\"]\nupstream = \"app\"\nretry = {{ tries = 1 }}\n\
         priority = \"critical\"\n",
        endpoints(&apps)
    );
    let fault = DRILL.fault.at(setting.scale);
    let readers = Source {
        path: "/thing/".to_owned(),
        objects: Objects::Popular(THINGS),
        timeout: PATIENCE,
        ..Source::steady("readers", READS)
    };
    let import = Source {
        path: "/import".to_owned(),
        rates: vec![(fault.start, WRITES), (fault.end, 0.0)],
        writes: true,
        ..Source::steady("import", 0.0)
    };
    Ok(DRILL.undisturbed(setting, apps, config, vec![readers, import]))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    // A run's last requests may still be under way.
    let after = fault.end + setting.scale..(DRILL.seconds - 0.5) * setting.scale;
    let (off, on) = (&runs.off, &runs.on);
    let reads = |run: &Run| run.driven.success("readers", fault.clone());
    let writes = |run: &Run| run.driven.success("import", fault.clone());
    let slow = on.driven.quantile("readers", fault.clone(), 0.99);
    let asked = |run: &Run| run.sum(|counts| counts.of_place("thing"));
    let (calm, busy) = (on.useful(&after), on.useful(&fault));
    // Slots that are at work when each thing is made once over this span.
    let once = f64::from(THINGS) * 0.05 / (after.end - after.start);
    Judged {
        passed: reads(on) >= 0.999 && slow <= 0.06 && writes(on) >= 0.99 && calm <= once && reads(off) < 0.5,
        reason: format!(
            "while the import ran, {} of the reads were answered well with the protection (p99 {}) and {} without, {} of the \
             writes and {}; from a second after it on, {calm:.2} slots of the upstream were at work (at most {once:.2})",
            share(reads(on)),
            time(slow),
            share(reads(off)),
            share(writes(on)),
            share(writes(off))
        ),
        told: vec![
            format!(
                "Unprotected, each write took away all there was, 25 ms after the last one had: nothing lived long enough to \
                 be read twice, reads went to the upstream as without a cache ({} of them in the run), and the gate refused \
                 what it could not bear.",
                asked(off)
            ),
            format!(
                "Protected, each write marked all there was as stale, which is no more work than to take it away: what was \
                 read next was served at once, and asked for again behind. {busy:.1} of the upstream's 8 slots worked at it, \
                 no more than the gate let through, and no reader waited for any of it; from a second after the last write on it was \
                 {calm:.2}."
            ),
        ],
    }
}
