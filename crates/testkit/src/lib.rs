//! Dev-only: real counterparts for tests. Origins on loopback, a client that sends exact bytes, the real binary.
//!
//! Everything is bounded in time: a read that waits longer than [`PATIENCE`] fails the test.

mod gate;
mod origin;
mod raw;

pub use gate::Gate;
pub use origin::{Origin, Reply};
pub use raw::{Answer, ask, connect, read_answer, send};

/// How long a test waits for anything.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Waits until something holds.
///
/// # Panics
/// When it does not hold in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of the product's")]
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
