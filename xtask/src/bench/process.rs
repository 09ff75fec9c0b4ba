//! The servers under test, and what the kernel says that they used.
//!
//! CPU time is that of all processes and threads of a server (`utime + stime` of `/proc/PID/stat`, children too):
//! the steadiest figure on a machine with neighbours. A server is stopped when its value is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::now;

/// Linux tells times to user space in hundredths of a second, whatever its own tick (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
/// How long a server may take to end when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A running server.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a program bound to some cores ("0", "0-1"); what it prints goes to a file.
    pub fn start(cores: &str, program: &Path, arguments: &[String], output: &Path) -> Result<Self, String> {
        let out = File::create(output).map_err(|error| format!("{}: {error}", output.display()))?;
        let err = out.try_clone().map_err(|error| error.to_string())?;
        // taskset becomes the program, and so keeps its process id.
        let child = Command::new("taskset")
            .args(["-c", cores])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self { child })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// CPU time used so far, by all its processes and threads.
    pub fn cpu(&self) -> Duration {
        self.processes().into_iter().map(cpu_of_process).sum()
    }

    /// CPU time used so far by each thread.
    pub fn cpu_by_thread(&self) -> BTreeMap<u32, Duration> {
        let mut found = BTreeMap::new();
        for process in self.processes() {
            for thread in numbers_in(&format!("/proc/{process}/task")) {
                if let Some(cpu) = cpu_of(&format!("/proc/{process}/task/{thread}/stat")) {
                    found.insert(thread, cpu);
                }
            }
        }
        found
    }

    /// Bytes of resident memory, all its processes together.
    pub fn memory(&self) -> u64 {
        self.processes().into_iter().filter_map(memory_of).sum()
    }

    /// Bytes of resident memory, what several of its processes share counted once.
    pub fn memory_shared(&self) -> u64 {
        let rollups = self.processes().into_iter().map(|id| format!("/proc/{id}/smaps_rollup"));
        rollups.filter_map(|path| kib_of(&path, "Pss:")).sum()
    }

    /// The process and all that descend from it.
    pub fn processes(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> =
            numbers_in("/proc").into_iter().filter_map(|id| Some((id, parent_of(id)?))).collect();
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
            next += 1;
        }
        found
    }
}

impl Drop for Server {
    /// Asks all its processes to end, and makes those end that do not.
    fn drop(&mut self) {
        let processes = self.processes();
        signal("-TERM", &processes[..1]);
        let until = now() + STOP_MAX;
        while !self.has_ended() && now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !self.has_ended() {
            signal("-KILL", &processes);
            let _ = self.child.wait();
        }
    }
}

/// CPU time that a process has used so far, without its children.
pub fn cpu_of_process(id: u32) -> Duration {
    cpu_of(&format!("/proc/{id}/stat")).unwrap_or_default()
}

/// A port that nobody has now.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

fn signal(which: &str, processes: &[u32]) {
    let ids = processes.iter().map(u32::to_string);
    let _ = Command::new("kill").arg(which).args(ids).stderr(Stdio::null()).status();
}

fn numbers_in(folder: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn cpu_of(path: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(TICK * (field(&text, 14)? + field(&text, 15)?))
}

fn parent_of(process: u32) -> Option<u32> {
    field(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?, 4)
}

/// A field of a `stat` file by its number in proc(5). The second one, a name, may hold spaces and brackets.
fn field(stat: &str, number: usize) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number - 3)?.parse().ok()
}

fn memory_of(process: u32) -> Option<u64> {
    kib_of(&format!("/proc/{process}/status"), "VmRSS:")
}

/// Bytes of a line that tells KiB.
fn kib_of(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_behind_a_name_with_brackets() {
        let stat = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 0 0 0 11 12 0 0 20 0 1";
        assert_eq!((field(stat, 4), field(stat, 14), field(stat, 15)), (Some(7), Some(11), Some(12)));
        assert_eq!((field(stat, 99), field("", 4)), (None, None));
    }
}
