//! Who keeps the system's clock, and how well: what the kernel was told by whoever sets it (NTP, a hypervisor).
//!
//! It is only asked. What it does not do: compare the clock with another machine's.

use std::time::Duration;

/// How the system's clock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timekeeping {
    /// Whether somebody keeps it in step.
    pub synchronised: bool,
    /// How far off it may be at most, as its keeper believes.
    pub error_max: Duration,
}

/// How it stands now; `None`: the system does not tell.
#[cfg(target_os = "linux")]
#[must_use]
pub fn timekeeping() -> Option<Timekeeping> {
    // SAFETY: all of `timex` are integers, for which zero is a value; no mode is set, so that nothing is changed.
    let mut told: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: it writes one `timex` to where it is told to.
    let state = unsafe { libc::adjtimex(&raw mut told) };
    (state >= 0).then(|| Timekeeping {
        synchronised: told.status & libc::STA_UNSYNC == 0,
        error_max: Duration::from_micros(u64::try_from(told.maxerror).unwrap_or_default()),
    })
}

/// How it stands now; `None`: the system does not tell.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn timekeeping() -> Option<Timekeeping> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_tells_and_nothing_is_changed_by_asking() {
        let first = timekeeping().map(|told| told.synchronised);
        assert!(first.is_some());
        assert_eq!(timekeeping().map(|told| told.synchronised), first);
    }
}
