//! What was found out, as a section of `docs/benchmarks.md`. The verdicts are made of the figures.

use std::fmt::Write as _;

use super::measure::{Cell, Figures, LOAD, Measured, ROUNDS, STAMPEDES};
use super::origin;
use super::peers::{Peer, Program};
use super::rows::Kind;
use super::zipf::{SKEW, Zipf};
use crate::bench::place::Machine;

/// All of a run.
pub struct Report<'a> {
    pub machine: Machine,
    pub command: String,
    pub programs: &'a [Program],
    pub measured: &'a [Measured],
}

/// A figure: what it is of a cell, how it is shown, and whether it is put in proportion to each peer's.
struct Shown {
    heading: &'static str,
    of: fn(&Figures) -> Option<f64>,
    show: fn(f64) -> String,
}

const SHOWN: [Shown; 7] = [
    Shown { heading: "CPU per request", of: |it| it.cpu_us, show: |us| format!("{us:.2} µs") },
    Shown { heading: "requests per second", of: |it| it.per_second, show: |count| format!("{count:.0}/s") },
    Shown {
        heading: "asked of the origin, at worst",
        of: |it| it.asked,
        show: |count| format!("{count:.0}"),
    },
    Shown {
        heading: "the last answer after the origin's",
        of: |it| it.behind_ms,
        show: |ms| format!("{ms:.0} ms"),
    },
    Shown { heading: "hit ratio", of: |it| it.hit_ratio, show: |ratio| format!("{:.2} %", ratio * 100.0) },
    Shown { heading: "memory in all", of: |it| it.memory, show: |bytes| format!("{:.0} MiB", bytes / MIB) },
    Shown { heading: "bytes beside an object's own", of: |it| it.overhead, show: |it| format!("{it:.0}") },
];
const MIB: f64 = 1_048_576.0;

/// What is aimed at: a row, a figure of Tidegate's, and what it may be at most, or at least.
struct Target {
    row: &'static str,
    title: &'static str,
    found: fn(&Measured) -> Option<f64>,
    at_most: f64,
    show: fn(f64) -> String,
}

const TARGETS: [Target; 6] = [
    Target {
        row: "hit-1k",
        title: "CPU per request, times nginx's: at most 1.00",
        found: |row| proportion(row, Peer::Nginx),
        at_most: 1.0,
        show: |it| format!("{it:.2}"),
    },
    Target {
        row: "hit-1k",
        title: "CPU per request, times Varnish's: at most 1.20",
        found: |row| proportion(row, Peer::Varnish),
        at_most: 1.2,
        show: |it| format!("{it:.2}"),
    },
    Target {
        row: "stampede",
        title: "asked of the origin: 1",
        found: |row| row.of(Peer::Tidegate, |it| it.asked),
        at_most: 1.0,
        show: |it| format!("{it:.0}"),
    },
    Target {
        row: "mix",
        title: "hit ratio behind nginx's: none",
        found: |row| behind(row, Peer::Nginx),
        at_most: 0.0,
        show: |it| format!("{:+.2} %", it * 100.0),
    },
    Target {
        row: "mix",
        title: "hit ratio behind Varnish's: none",
        found: |row| behind(row, Peer::Varnish),
        at_most: 0.0,
        show: |it| format!("{:+.2} %", it * 100.0),
    },
    Target {
        row: "memory",
        title: "bytes beside an object's own: at most 300",
        found: |row| row.of(Peer::Tidegate, |it| it.overhead),
        at_most: 300.0,
        show: |it| format!("{it:.0}"),
    },
];

impl Measured {
    fn of(&self, peer: Peer, figure: fn(&Figures) -> Option<f64>) -> Option<f64> {
        self.cells.get(&peer).and_then(|cell| cell.as_ref().ok()).and_then(figure)
    }
}

fn proportion(row: &Measured, peer: Peer) -> Option<f64> {
    Some(row.of(Peer::Tidegate, |it| it.cpu_us)? / row.of(peer, |it| it.cpu_us)?)
}

fn behind(row: &Measured, peer: Peer) -> Option<f64> {
    Some(row.of(peer, |it| it.hit_ratio)? - row.of(Peer::Tidegate, |it| it.hit_ratio)?)
}

impl Report<'_> {
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let versions: Vec<String> =
            self.programs.iter().map(|it| format!("{} {}", it.peer.title(), it.version)).collect();
        let mut text = format!(
            "## The cache\n\n`{}`: {}, on {} ({} cores, Linux {}).\n\n",
            self.command,
            versions.join(", "),
            machine.processor,
            machine.cores,
            machine.kernel
        );
        self.targets(&mut text);
        for row in self.measured {
            self.table(&mut text, row);
        }
        self.method(&mut text);
        text
    }

    fn targets(&self, text: &mut String) {
        text.push_str("| target | found | |\n| --- | ---: | --- |\n");
        for target in &TARGETS {
            let row = self.measured.iter().find(|row| row.row.name == target.row);
            let Some(found) = row.and_then(target.found) else { continue };
            let verdict = if found <= target.at_most { "met" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| `{}`: {} | {} | {verdict} |",
                target.row,
                target.title,
                (target.show)(found)
            );
        }
        text.push('\n');
    }

    fn table(&self, text: &mut String, row: &Measured) {
        let shown: Vec<&Shown> = SHOWN
            .iter()
            .filter(|shown| row.cells.values().flatten().any(|it| (shown.of)(it).is_some()))
            .collect();
        let _ = writeln!(text, "### `{}`: {}\n", row.row.name, row.row.title);
        let headings: Vec<&str> = shown.iter().map(|shown| shown.heading).collect();
        let _ = writeln!(text, "| | {} | CPU times nginx's | times Varnish's |", headings.join(" | "));
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(shown.len() + 2));
        for (peer, cell) in &row.cells {
            let _ = writeln!(text, "| {} | {} |", peer.title(), line(row, cell, &shown));
        }
        if let Kind::Mix { objects, .. } = row.row.kind {
            let best = Zipf::new(objects).known(row.row.room.objects) * 100.0;
            let _ = writeln!(
                text,
                "\nWho knew the popularity beforehand, and held the {} most popular: {best:.2} %.",
                row.row.room.objects
            );
        }
        text.push('\n');
    }

    fn method(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "How it is measured:\n\n\
             - Each cache has core 0 and one worker, or pool of threads; core 1 has the load and the origin, which counts what it is \
             asked. Objects may be kept for an hour and have an entity tag. The caches of a row are asked in turns; figures are medians \
             of {ROUNDS} rounds.\n\
             - CPU per request is what the kernel accounts to all processes of a cache, user and system, by the requests answered.\n\
             - Rows of hits: wrk, 32 connections kept alive, all objects in turn, {} s a round. All are asked for before, until the \
             origin is not asked any more; a round in which it is asked fails.\n\
             - `hit-disk`: nginx's files and Varnish's `-s file` are on disk, and in the kernel's page cache; Tidegate has 16 MiB of \
             memory above its disk tier, for 125 MiB of objects.\n\
             - `stampede`: all clients have a connection, and ask for one object within milliseconds, {STAMPEDES} times a round; the \
             origin takes {} ms.\n\
             - `mix`: {ROUNDS} rounds by Zipf's law with an exponent of {SKEW}, after another in which the cache fills, 8 connections, \
             the same requests for all. The room is 80 MiB for Tidegate and Varnish, which counts no structures beside storage; for nginx \
             10,000 keys, whose files take two blocks each. What each takes in all is in the table: memory (what processes share counted \
             once) and nginx's files, which are in memory (tmpfs).\n\
             - `memory`: how much more memory each takes with the objects than without, by their number, less what the origin sent. \
             For nginx, files count as blocks of 4 KiB.\n\
             - What each was told is in `xtask/src/bench/cache/`:",
            LOAD.as_secs(),
            origin::SLOW.as_millis()
        );
        for program in self.programs {
            let _ = writeln!(text, "  - {}", program.peer.told());
        }
    }
}

/// The cells of a cache in a table, or why there are none.
fn line(row: &Measured, cell: &Cell, shown: &[&Shown]) -> String {
    let figures = match cell {
        Ok(figures) => figures,
        Err(why) => {
            let why = why.replace(['|', '\n'], " ");
            return format!("not measured: {why} |{}", " |".repeat(shown.len()));
        }
    };
    let values = shown.iter().map(|shown| (shown.of)(figures).map(shown.show).unwrap_or_default());
    let times = [Peer::Nginx, Peer::Varnish].map(|peer| {
        let both = figures.cpu_us.zip(row.of(peer, |it| it.cpu_us));
        both.map(|(own, of)| format!("{:.2}", own / of)).unwrap_or_default()
    });
    values.chain(times).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::rows::ROWS;
    use super::*;

    fn measured(tidegate: Cell, nginx: Cell) -> Measured {
        Measured { row: ROWS[0], cells: BTreeMap::from([(Peer::Tidegate, tidegate), (Peer::Nginx, nginx)]) }
    }

    fn cpu(us: f64) -> Cell {
        Ok(Figures { cpu_us: Some(us), ..Figures::default() })
    }

    fn check(row: Measured, parts: &[&str]) {
        let text = Report {
            machine: Machine::default(),
            command: "cargo".to_owned(),
            programs: &[],
            measured: &[row],
        }
        .markdown();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_figures() {
        check(measured(cpu(9.0), cpu(10.0)), &["| 0.90 | met |", "| Tidegate | 9.00 µs | 0.90 |"]);
        check(measured(cpu(11.0), cpu(10.0)), &["| 1.10 | **missed** |"]);
    }

    #[test]
    fn who_was_not_measured_has_the_reason_in_its_line() {
        let row = measured(Err("said: no | such\nkey".to_owned()), cpu(10.0));
        check(
            row,
            &["| Tidegate | not measured: said: no   such key | | |", "| nginx | 10.00 µs | 1.00 |  |"],
        );
    }
}
