//! `cargo xtask bench certificates`: memory and CPU of handshakes with ten, a thousand and ten thousand names in the store.
//!
//! The clients are those of the end-to-end tests (`crates/server/tests/e2e/certificates/measure.rs`).

use super::tested::Measure;

pub const CERTIFICATES: Measure = Measure {
    usage: "cargo xtask bench certificates [--built PATH] [--write]",
    module: "certificates",
    title: "Certificates of many names",
    method: "clients and Tidegate on the same cores. The names are in a store (SQLite), each with a certificate of its own (ECDSA, P-256) and a \
             chain of two, as an order leaves them. A handshake is a whole one (TLS 1.3, nothing gone on with), on a connection of its own that is \
             closed behind it; names by chance. CPU is the process's, of all its threads (`/proc/PID/stat`), for one of 2,000 handshakes: the \
             median of three rounds, and the rounds it lies between. Memory is resident (`VmRSS`). `memory` is the bound of certificates in \
             memory; what is not there is read from the store.",
};
