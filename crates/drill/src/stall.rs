//! How long threads that had work to do waited for a processor: what tells a machine that is too busy from a gate that is too
//! slow.
//!
//! It is the kernel's own account (`schedstat`, the second figure). Where there is none, nothing is known and nothing said.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Looks at all threads of this process and of another.
#[derive(Debug)]
pub(crate) struct Stalls {
    processes: [PathBuf; 2],
    /// By thread: nanoseconds that it had waited when it was last looked at.
    before: HashMap<PathBuf, u64>,
}

impl Stalls {
    pub fn of(process: u32) -> Stalls {
        let processes = [PathBuf::from(format!("/proc/{process}/task")), PathBuf::from("/proc/self/task")];
        let mut stalls = Stalls { processes, before: HashMap::new() };
        stalls.longest();
        stalls
    }

    /// The longest that one thread waited since it was last looked, in seconds.
    pub fn longest(&mut self) -> f64 {
        let mut now = HashMap::new();
        for process in &self.processes {
            let threads = std::fs::read_dir(process).into_iter().flatten().flatten();
            now.extend(threads.filter_map(|thread| Some((thread.path(), waited(&thread.path())?))));
        }
        // A thread that is new has waited in a time that was not looked at.
        let since =
            |(thread, waited): (&PathBuf, &u64)| Some(waited.saturating_sub(*self.before.get(thread)?));
        let longest = now.iter().filter_map(since).max().unwrap_or(0);
        self.before = now;
        longest as f64 / 1e9
    }
}

fn waited(thread: &Path) -> Option<u64> {
    parse(&std::fs::read_to_string(thread.join("schedstat")).ok()?)
}

/// Time run, time waited, times run.
fn parse(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_waited_is_the_second_figure() {
        assert_eq!(parse("669255181 3953768804 1953\n"), Some(3_953_768_804));
        assert_eq!(parse(""), None);
        assert_eq!(parse("1 x 3"), None);
    }

    #[test]
    fn a_process_that_is_not_there_has_waited_for_nothing() {
        let mut stalls =
            Stalls { processes: ["/nonexistent".into(), "/nonexistent".into()], before: HashMap::new() };
        assert_eq!(stalls.longest(), 0.0);
        assert!(Stalls::of(std::process::id()).longest() >= 0.0);
    }
}
