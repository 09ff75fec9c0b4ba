//! What was found out, as a section of `docs/benchmarks.md`. The verdicts are made of the figures.

use std::fmt::Write as _;

use super::measure::{Cell, Cells, Figures};
use super::peers::Peer;
use super::rows::{Kind, Row};
use crate::bench::place::Machine;

/// A peer's version and its cells, or why it is not there.
pub type Found = Result<(String, Cells), String>;
/// What of the figures is looked at.
type Of = fn(&Figures) -> Option<f64>;

/// All of a run.
pub struct Report {
    pub machine: Machine,
    pub command: String,
    /// How long the disk takes to keep a block, in milliseconds.
    pub disk_ms: f64,
    pub rounds: usize,
    pub rows: Vec<Row>,
    pub peers: Vec<(Peer, Found)>,
}

/// A figure: how it is headed, and how it is shown.
struct Shown {
    heading: &'static str,
    of: fn(&Figures) -> Option<String>,
}

const SHOWN: [Shown; 10] = [
    Shown { heading: "deliveries/s", of: |it| it.per_second.map(|count| format!("{count:.0}")) },
    Shown { heading: "windows", of: |it| it.from_to.map(|(from, to)| format!("{from:.0} to {to:.0}")) },
    Shown { heading: "CPU of the servers", of: |it| it.cpu_us.map(|us| format!("{us:.0} µs")) },
    Shown { heading: "of the clients", of: |it| it.client_us.map(|us| format!("{us:.0} µs")) },
    Shown { heading: "written", of: |it| it.written.map(|bytes| format!("{:.1} KiB", bytes / 1024.0)) },
    Shown { heading: "flushes", of: |it| it.flushes.map(|count| format!("{count:.3}")) },
    Shown { heading: "half", of: |it| it.half.map(|rate| format!("{rate:.0}/s")) },
    Shown {
        heading: "accept, p50 / p99",
        of: |it| it.accept.map(|it| format!("{} / {} ms", millis(it.p50), millis(it.p99))),
    },
    Shown {
        heading: "accept to attempt, p50 / p99",
        of: |it| it.attempt.map(|it| format!("{} / {} ms", millis(it.p50), millis(it.p99))),
    },
    Shown {
        heading: "memory | before | deliveries | bytes each",
        of: |it| {
            let it = it.memory?;
            let each = it.after.saturating_sub(it.before) as f64 / it.count.max(1) as f64;
            let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / MIB);
            Some(format!("{} | {} | {} | {each:.0}", mib(it.after), mib(it.before), it.count))
        },
    },
];
/// What Tidegate alone is held to: a row, and between what its figure has to be.
const OWN: [(&str, Target); 3] = [
    (
        "fair",
        Target {
            title: "attempts of the other tenant that came before, the median of nine: no more than are under way (8)",
            of: |it| it.behind,
            from: 0.0,
            to: 8.0,
        },
    ),
    (
        "shared",
        Target {
            title: "for each of one tenant's, those of the other with three times its weight: within 5 %",
            of: |it| it.share,
            from: 2.85,
            to: 3.15,
        },
    ),
    // The sweeping of what has expired is a commit of its own, now and then.
    ("key", Target { title: "group commits a request: at most 2", of: |it| it.commits, from: 0.0, to: 2.05 }),
];

struct Target {
    title: &'static str,
    of: Of,
    from: f64,
    to: f64,
}

const MIB: f64 = 1_048_576.0;
/// What a million delayed deliveries may take.
const DELAYED_MIB_MAX: f64 = 300.0;

fn millis(micros: u64) -> String {
    format!("{:.1}", micros as f64 / 1e3)
}

impl Report {
    pub fn markdown(&self) -> String {
        let Machine { processor, cores, kernel, .. } = &self.machine;
        let mut text = format!(
            "## Deliveries\n\n`{}`, on {processor} ({cores} cores, Linux {kernel}); its disk takes {:.1} ms to keep a block \
             (`fdatasync`, median).\n\n",
            self.command, self.disk_ms
        );
        self.targets(&mut text);
        // What Tidegate alone is held to is in the table of targets.
        for row in self.rows.iter().filter(|row| !OWN.iter().any(|(own, _)| *own == row.name)) {
            self.table(&mut text, row);
        }
        self.winners(&mut text);
        self.method(&mut text);
        text
    }

    fn cells(&self) -> impl Iterator<Item = (Peer, &Cells)> {
        self.peers.iter().filter_map(|(peer, found)| Some((*peer, &found.as_ref().ok()?.1)))
    }

    fn figures(&self, row: &str) -> impl Iterator<Item = (Peer, &Figures)> {
        self.cells().filter_map(move |(peer, cells)| Some((peer, cells.get(row)?.as_ref().ok()?.as_ref()?)))
    }

    /// Tidegate's figure on SQLite beside the best of all others, which is the largest one or the smallest.
    fn beside(&self, row: &str, of: Of, largest: bool) -> Option<(f64, f64, Peer)> {
        let own = self.figures(row).find(|(peer, _)| *peer == Peer::Tidegate).and_then(|(_, it)| of(it))?;
        let others = self.figures(row).filter(|(peer, _)| peer.keeps() && !peer.is_tidegate());
        let others = others.filter_map(|(peer, it)| Some((of(it)?, peer)));
        let better = |one: &(f64, Peer), two: &(f64, Peer)| {
            if largest { one.0.total_cmp(&two.0) } else { two.0.total_cmp(&one.0) }
        };
        let (best, peer) = others.max_by(better)?;
        Some((own, best, peer))
    }

    fn targets(&self, text: &mut String) {
        text.push_str("| target | found | |\n| --- | ---: | --- |\n");
        let verdict = |met: bool| if met { "met" } else { "**missed**" };
        for row in ["accept-16", "accept-256", "end-to-end"] {
            if let Some((own, best, peer)) = self.beside(row, |it| it.per_second, true) {
                let _ = writeln!(
                    text,
                    "| `{row}`: deliveries/s above every peer's | {own:.0}, {} {best:.0} | {} |",
                    peer.title(),
                    verdict(own > best)
                );
            }
        }
        let p99 = |it: &Figures| it.attempt.map(|it| it.p99 as f64 / 1e3);
        if let Some((own, best, peer)) = self.beside("end-to-end", p99, false) {
            let _ = writeln!(
                text,
                "| `end-to-end`: p99 from accept to attempt at half load below every peer's | {own:.1} ms, {} {best:.1} ms | {} |",
                peer.title(),
                verdict(own < best)
            );
        }
        for (peer, figures) in self.figures("delayed").filter(|(peer, _)| peer.is_tidegate()) {
            let Some(memory) = figures.memory else { continue };
            let mib = memory.after as f64 / MIB;
            let _ = writeln!(
                text,
                "| `delayed`: {}, 1,000,000 under {DELAYED_MIB_MAX:.0} MiB | {mib:.0} MiB with {} | {} |",
                peer.title(),
                memory.count,
                verdict(mib < DELAYED_MIB_MAX && memory.count >= 1_000_000)
            );
        }
        for (peer, row, target) in
            self.cells().flat_map(|(peer, _)| OWN.iter().map(move |(row, it)| (peer, row, it)))
        {
            let figures = self.figures(row).find(|(of, _)| *of == peer);
            let Some(found) = figures.and_then(|(_, it)| (target.of)(it)) else { continue };
            let met = verdict((target.from..=target.to).contains(&found));
            let _ = writeln!(text, "| `{row}`: {}, {} | {found:.2} | {met} |", peer.title(), target.title);
        }
        text.push('\n');
    }

    fn table(&self, text: &mut String, row: &Row) {
        let shown: Vec<&Shown> = SHOWN
            .iter()
            .filter(|shown| self.figures(row.name).any(|(_, it)| (shown.of)(it).is_some()))
            .collect();
        let columns: usize = shown.iter().map(|shown| shown.heading.split(" | ").count()).sum();
        let headings: Vec<&str> = shown.iter().map(|shown| shown.heading).collect();
        let _ = writeln!(text, "### `{}`: {}\n", row.name, row.title);
        let _ = writeln!(text, "| | {} |\n| --- |{}", headings.join(" | "), " ---: |".repeat(columns.max(1)));
        let asked = |peer: Peer, cells: &Cells| peer.keeps() || cells.contains_key(row.name);
        for (peer, cells) in self.cells().filter(|(peer, cells)| asked(*peer, cells)) {
            let cell =
                cells.get(row.name).map_or_else(|| "not run".to_owned(), |cell| line(cell, row, &shown));
            let _ = writeln!(text, "| {} | {cell} |", peer.title());
        }
        text.push('\n');
    }

    fn winners(&self, text: &mut String) {
        let mut lines = Vec::new();
        let kinds: [(&str, Of, bool); 5] = [
            ("deliveries/s", |it| it.per_second, true),
            ("CPU of the servers", |it| it.cpu_us, false),
            ("bytes written", |it| it.written, false),
            ("p99 of accept", |it| it.accept.map(|it| it.p99 as f64), false),
            ("p99 from accept to attempt", |it| it.attempt.map(|it| it.p99 as f64), false),
        ];
        for row in &self.rows {
            for (name, of, largest) in kinds {
                let Some((own, best, peer)) = self.beside(row.name, of, largest) else { continue };
                if (best > own) == largest && best != own {
                    lines.push(format!(
                        "- `{}`: {name}: {} {:.2} times ours\n",
                        row.name,
                        peer.title(),
                        best / own
                    ));
                }
            }
        }
        if !lines.is_empty() {
            let _ = writeln!(
                text,
                "Where a peer wins over Tidegate on SQLite (of each, the best one):\n\n{}",
                lines.concat()
            );
        }
    }

    fn method(&self, text: &mut String) {
        text.push_str(
            "How it is measured:\n\n\
             - Whoever is told that a delivery is accepted can rely on it after a power failure: all peers are set so, as said below. A delivery is \
             1,024 bytes of JSON. All that a server consists of, a database included, has core 0; those who offer and take have core 1. One \
             peer runs at a time, and all rows on the same running server.\n\
             - A producer has one request under way (`batch`: one with 100 deliveries), on a connection of its own, but for those whose client \
             is a library for Node (pg-boss, BullMQ): there it shares the library's. The other drivers are in Rust, a thread for each \
             producer and consumer. Figures are medians of 3 windows of 1 s.\n",
        );
        if self.rounds > 1 {
            let _ = writeln!(
                text,
                "- Rates are measured in {} rounds, all peers by turns in each: figures are those of the round in the middle of that row, \
                 the windows the slowest and the fastest of all.",
                self.rounds
            );
        }
        text.push_str(
            "- `end-to-end`: 64 producers, which wait while they are more than 1,000 ahead, and 64 consumers with one delivery each, \
             which they acknowledge before the next one. CPU, bytes and flushes (both those of the disk, \
             /proc/diskstats: whoever asked for them) are for each delivery that was attempted.\n\
             - Latency: an open loop at half of that peer's own maximum; from when a delivery was due to its acknowledgement, and from there to \
             the attempt (none, if that came first).\n\
             - `delayed`: memory is what the kernel says of all processes, what they share counted once. Peers were given as many as they \
             took in 20 s. RabbitMQ can delay by a plugin alone, NATS by a subject for each, Redis Streams cannot.\n",
        );
        for (peer, found) in &self.peers {
            let _ = match found {
                Ok((version, _)) => writeln!(text, "- {} ({version}): {}", peer.title(), peer.told()),
                Err(why) => writeln!(text, "- {} was left out: {}", peer.title(), one_line(why)),
            };
        }
    }
}

/// The cells of a peer in a table, or why there are none.
fn line(cell: &Cell, row: &Row, shown: &[&Shown]) -> String {
    match cell {
        Ok(Some(figures)) => {
            let values = shown.iter().map(|shown| {
                (shown.of)(figures).unwrap_or_else(|| " | ".repeat(shown.heading.split(" | ").count() - 1))
            });
            values.collect::<Vec<_>>().join(" | ")
        }
        Ok(None) if matches!(row.kind, Kind::Delayed { .. }) => "has no delay".to_owned(),
        Ok(None) => "has no batches".to_owned(),
        Err(why) => format!("not measured: {}", one_line(why)),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['|', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::super::journey::Quantiles;
    use super::super::measure::Memory;
    use super::super::rows::ROWS;
    use super::*;

    fn report(row: &'static str, cells: &[(Peer, Cell)]) -> String {
        parts(row, cells).markdown()
    }

    fn parts(row: &'static str, cells: &[(Peer, Cell)]) -> Report {
        let peers = cells
            .iter()
            .map(|(peer, cell)| (*peer, Ok(("1.0".to_owned(), Cells::from([(row, cell.clone())])))));
        let rows = ROWS.into_iter().filter(|it| it.name == row).collect();
        let (machine, command) = (Machine::default(), "cargo".to_owned());
        Report { machine, command, disk_ms: 1.0, rounds: 3, rows, peers: peers.collect() }
    }

    fn rate(per_second: f64) -> Cell {
        Ok(Some(Figures { per_second: Some(per_second), ..Figures::default() }))
    }

    fn check(row: &'static str, cells: &[(Peer, Cell)], parts: &[&str]) {
        let text = report(row, cells);
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn the_first_has_to_be_above_every_peer() {
        let cells = |own| [(Peer::Tidegate, rate(own)), (Peer::Redis, rate(10.0)), (Peer::Nats, rate(20.0))];
        check("accept-16", &cells(21.0), &["| 21, NATS JetStream 20 | met |", "| Redis Streams | 10 |"]);
        check(
            "accept-16",
            &cells(15.0),
            &["| 15, NATS JetStream 20 | **missed** |", "deliveries/s: NATS JetStream 1.33"],
        );
    }

    #[test]
    fn who_keeps_nothing_is_shown_and_is_no_peer() {
        let cells = [(Peer::Tidegate, rate(15.0)), (Peer::Redis, rate(10.0)), (Peer::Nginx, rate(90.0))];
        check(
            "accept-16",
            &cells,
            &["| 15, Redis Streams 10 | met |", "| nginx, which keeps nothing | 90 |"],
        );
        assert!(!report("accept-16", &cells).contains("times ours"));
        let nothing = Report { rows: ROWS.to_vec(), ..parts("accept-16", &cells) }.markdown();
        assert_eq!(nothing.matches("| nginx, which keeps nothing |").count(), 1, "it has no other rows");
    }

    #[test]
    fn the_shortest_has_to_be_below_every_peer() {
        let cell = |p99| {
            let attempt = Some(Quantiles { count: 1, p50: 1000, p99 });
            Ok(Some(Figures { attempt, ..Figures::default() }))
        };
        let cells = [(Peer::Tidegate, cell(5000)), (Peer::Redis, cell(4000)), (Peer::Nats, cell(9000))];
        check("end-to-end", &cells, &["| 5.0 ms, Redis Streams 4.0 ms | **missed** |", "| 1.0 / 9.0 ms |"]);
    }

    #[test]
    fn a_million_has_to_fit() {
        let cell = |after, count| {
            let memory = Some(Memory { before: 10 << 20, after, count });
            Ok(Some(Figures { memory, ..Figures::default() }))
        };
        check(
            "delayed",
            &[(Peer::Tidegate, cell(299 << 20, 1_000_000))],
            &["| 299 MiB with 1000000 | met |"],
        );
        check("delayed", &[(Peer::Tidegate, cell(299 << 20, 999_999))], &["| **missed** |"]);
        check(
            "delayed",
            &[(Peer::Bullmq, cell(10 << 20, 0)), (Peer::Redis, Ok(None))],
            &["| has no delay |"],
        );
    }

    #[test]
    fn who_shares_has_to_share_as_the_weights_say() {
        let cell = |share| Ok(Some(Figures { share: Some(share), ..Figures::default() }));
        check("shared", &[(Peer::Tidegate, cell(3.1))], &["| 3.10 | met |"]);
        check("shared", &[(Peer::Tidegate, cell(3.2)), (Peer::Redis, Ok(None))], &["| 3.20 | **missed** |"]);
    }

    #[test]
    fn why_there_is_no_figure_is_told() {
        check("batch", &[(Peer::Restate, Ok(None))], &["| Restate | has no batches |"]);
        check("batch", &[(Peer::Nats, Err("a | b\nc".to_owned()))], &["| not measured: a   b c |"]);
    }
}
