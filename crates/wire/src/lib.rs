//! Sockets, TLS, HTTP/1.1 and HTTP/2: the only crate that imports hyper and rustls.
//!
//! Upwards it speaks `http` types and [`body::Body`]; nobody above it knows which HTTP version a connection speaks.

pub mod body;
pub mod client;
pub mod client_tls;
pub mod clock;
pub mod settings;
pub mod task;
