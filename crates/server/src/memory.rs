//! Memory goes back to the system when it is no longer needed.
//!
//! mimalloc gives back what was freed a while ago when something is allocated anew. A gate whose many connections have
//! become idle allocates nothing: without being asked it would keep the buffers of its busiest second for ever.

use std::time::Duration;

use tidegate_wire::{clock, task};

/// How often it is looked what can be given back.
const INTERVAL: Duration = Duration::from_secs(4);

/// Gives back what this core has freed, from now on.
pub fn give_back() {
    task::spawn(async {
        loop {
            clock::sleep(INTERVAL).await;
            collect(false);
        }
    });
}

/// Gives back what this thread has freed: what was freed a while ago, or all of it.
pub fn collect(all: bool) {
    // SAFETY: it may be called at any time, by any thread, for whose own heap it is.
    unsafe { libmimalloc_sys::mi_collect(all) };
}
