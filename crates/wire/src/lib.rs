//! Sockets, TLS, HTTP/1.1 and HTTP/2: the only crate that imports hyper and rustls.
//!
//! Upwards it speaks `http` types and [`body::Body`]; nobody above it knows which HTTP version a connection speaks.

pub mod alarm;
pub mod body;
pub mod client;
pub mod client_tls;
pub mod clock;
mod farewell;
pub mod files;
mod first_bytes;
pub mod guard;
mod h2_check;
pub mod listen;
mod pass;
pub mod patience;
pub mod proxy_protocol;
mod seat;
pub mod server;
pub mod settings;
mod stream;
mod streams;
pub mod task;
mod timer;
pub mod tls;
pub mod tunnel;
mod websocket;
