//! What this machine shows of a service that listens here: its processes' time on the processor, its connections, its
//! open files, who waits to be accepted. All of it is read from `/proc`; where that is not there or not allowed, less is
//! known, and less is claimed.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_model::tick::Tick;
use tidegate_wire::clock;

/// The kernel tells processor time in hundredths of a second, on all platforms that Linux has.
const TICKS_PER_SECOND: f64 = 100.0;
/// Processes and threads that are looked at.
const PROCESSES_MAX: usize = 64;
const THREADS_MAX: usize = 512;

/// The processes that listen at a port of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    port: u16,
    processes: Vec<u32>,
}

/// What was counted at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Tick,
    /// Of the service's processes together. (The sum of their threads would be less: each is rounded down.)
    service: Option<u64>,
    /// Of each of its threads.
    threads: Vec<(PathBuf, u64)>,
    own: u64,
    machine: Option<(u64, u64)>,
    overflows: u64,
}

/// What was used between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processors that the service used, on average. `None`: its processes are not known.
    pub service: Option<f64>,
    /// The same of its busiest thread.
    pub busiest_thread: Option<f64>,
    /// The same of this process, which made the load.
    pub own: f64,
    /// Share of all processors of this machine that was used, by whomever.
    pub machine: Option<f64>,
    /// Processors of this machine.
    pub processors: usize,
    /// Connections that the service has.
    pub connections: usize,
    /// Connections that wait to be accepted.
    pub backlog: u64,
    /// Connections that did not fit into that queue, machine-wide.
    pub overflows: u64,
    /// Open files of the process that has the least room left, as a share of what it may open.
    pub files: Option<f64>,
}

impl Service {
    /// Looks who listens at this port.
    #[must_use]
    pub fn at(port: u16) -> Service {
        let sockets: HashSet<u64> =
            rows(port).into_iter().filter(|row| row.listens).map(|row| row.inode).collect();
        let mut processes = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            let holds = open.filter_map(|file| inode(fs::read_link(file.path()).ok()?.to_str()?));
            if holds.into_iter().any(|held| sockets.contains(&held)) && processes.len() < PROCESSES_MAX {
                processes.push(id);
            }
        }
        Service { port, processes }
    }

    /// The processes, by number.
    #[must_use]
    pub fn processes(&self) -> &[u32] {
        &self.processes
    }

    /// Connections that wait to be accepted, now.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        rows(self.port).iter().filter(|row| row.listens).map(|row| row.received).max().unwrap_or(0)
    }

    /// Counts.
    #[must_use]
    pub fn read(&self) -> Reading {
        let tasks = self.processes.iter().flat_map(|id| fs::read_dir(format!("/proc/{id}/task")).into_iter());
        let threads = tasks.flatten().flatten().take(THREADS_MAX).filter_map(|thread| {
            let path = thread.path().join("stat");
            let used = used(&fs::read_to_string(&path).ok()?)?;
            Some((path, used))
        });
        let processes =
            self.processes.iter().filter_map(|id| fs::read_to_string(format!("/proc/{id}/stat")).ok());
        let service =
            processes.filter_map(|text| used(&text)).fold(None, |sum, used| Some(sum.unwrap_or(0) + used));
        Reading {
            at: clock::now(),
            service,
            threads: threads.collect(),
            own: fs::read_to_string("/proc/self/stat").ok().and_then(|text| used(&text)).unwrap_or(0),
            machine: fs::read_to_string("/proc/stat").ok().and_then(|text| machine(&text)),
            overflows: fs::read_to_string("/proc/net/netstat")
                .ok()
                .and_then(|text| overflows(&text))
                .unwrap_or(0),
        }
    }

    /// What was used since then.
    #[must_use]
    pub fn since(&self, before: &Reading) -> Usage {
        let after = self.read();
        let seconds = after.at.since(before.at).max(Duration::from_millis(1)).as_secs_f64();
        let cores = |ticks: u64| ticks as f64 / TICKS_PER_SECOND / seconds;
        let known: std::collections::HashMap<_, _> = before.threads.iter().cloned().collect();
        let each: Vec<u64> = after
            .threads
            .iter()
            .map(|(path, used)| used.saturating_sub(known.get(path).copied().unwrap_or(0)))
            .collect();
        let rows = rows(self.port);
        Usage {
            service: after.service.map(|used| cores(used.saturating_sub(before.service.unwrap_or(0)))),
            busiest_thread: each.iter().max().map(|most| cores(*most)),
            own: cores(after.own.saturating_sub(before.own)),
            machine: after.machine.zip(before.machine).map(|(after, before)| {
                let (busy, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
                busy as f64 / all.max(1) as f64
            }),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            connections: rows.iter().filter(|row| row.established).count(),
            backlog: rows.iter().filter(|row| row.listens).map(|row| row.received).max().unwrap_or(0),
            overflows: after.overflows.saturating_sub(before.overflows),
            files: self.processes.iter().filter_map(|id| files(*id)).max_by(f64::total_cmp),
        }
    }
}

/// A row of `/proc/net/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    listens: bool,
    established: bool,
    /// Of a listening socket: connections that wait to be accepted.
    received: u64,
    inode: u64,
}

/// The sockets whose own port is this.
fn rows(port: u16) -> Vec<Row> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    tables.iter().flat_map(|text| text.lines().filter_map(move |line| row(line, port))).collect()
}

fn row(line: &str, port: u16) -> Option<Row> {
    let mut fields = line.split_whitespace();
    let (local, _, state, queues) = (fields.nth(1)?, fields.next()?, fields.next()?, fields.next()?);
    if u16::from_str_radix(local.rsplit(':').next()?, 16).ok()? != port {
        return None;
    }
    Some(Row {
        listens: state == "0A",
        established: state == "01",
        received: u64::from_str_radix(queues.split(':').nth(1)?, 16).ok()?,
        inode: fields.nth(4)?.parse().ok()?,
    })
}

/// `socket:[4711]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Processor time in a `stat` of a process or a thread, whose name may hold anything, spaces and brackets too.
fn used(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (user, system) = (fields.nth(11)?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// Time that all processors were used, and all there was, in `/proc/stat`.
fn machine(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guest time is within user's.
    let times: Vec<u64> = line.split_whitespace().take(8).filter_map(|time| time.parse().ok()).collect();
    let (all, idle) = (times.iter().sum::<u64>(), times.get(3)? + times.get(4)?);
    Some((all.saturating_sub(idle), all))
}

/// `ListenOverflows` in `/proc/net/netstat`: a line of names, then a line of values.
fn overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "ListenOverflows")?;
    values.split(' ').nth(at)?.parse().ok()
}

/// Open files of a process as a share of what it may open.
fn files(id: u32) -> Option<f64> {
    let limits = fs::read_to_string(format!("/proc/{id}/limits")).ok()?;
    let most = most_files(&limits)?;
    let open = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
    Some(open as f64 / most)
}

fn most_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 4711 1 0";
        let wanted = Row { listens: true, established: false, received: 5, inode: 4711 };
        assert_eq!(row(line, 8080), Some(wanted));
        assert_eq!(row(line, 8081), None);
        assert_eq!(row("  sl  local_address rem_address   st", 8080), None);
        assert_eq!(used("7 (a) b) c) S 1 7 7 0 -1 4 1 0 0 0 150 50 0 0 20 0 9 0 1 2 3"), Some(200));
        assert_eq!(machine("cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1"), Some((30, 100)));
        let netstat = "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 1 7\nIpExt: x\nIpExt: 1\n";
        assert_eq!(overflows(netstat), Some(7));
        assert_eq!(
            most_files("Limit\nMax open files            1024                 4096   files\n"),
            Some(1024.0)
        );
        assert_eq!(
            most_files("Max open files            unlimited            unlimited            files"),
            None
        );
        assert_eq!((inode("socket:[12]"), inode("/dev/null")), (Some(12), None));
    }

    #[test]
    fn finds_the_process_that_listens_and_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service::at(address.port());
        assert_eq!(service.processes(), [std::process::id()]);
        let before = service.read();
        let _waits = TcpStream::connect(address).unwrap();
        let usage = service.since(&before);
        assert_eq!((usage.connections, usage.backlog), (1, 1));
        assert!(usage.service.is_some() && usage.files.is_some(), "{usage:?}");
    }
}
