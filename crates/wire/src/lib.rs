//! Sockets, TLS, HTTP/1.1 and HTTP/2: the only crate that imports hyper and rustls.
//!
//! Upwards it speaks `http` types and [`body::Body`]; nobody above it knows which HTTP version a connection speaks.

pub mod alarm;
pub mod bell;
pub mod body;
pub mod certificate;
pub mod chunked;
pub mod client;
pub mod client_tls;
pub mod clock;
mod crowd;
mod date;
mod direct;
mod farewell;
pub mod files;
mod first_bytes;
mod h2_check;
mod h2_stream;
pub mod handover;
pub mod link;
pub mod listen;
mod outgoing;
mod pass;
pub mod patience;
pub mod proxy_protocol;
pub mod request_body;
pub mod request_head;
mod seat;
pub mod server;
pub mod session_tls;
pub mod settings;
mod socket;
mod streams;
pub mod task;
pub mod timekeeping;
mod timer;
pub mod tls;
pub mod tunnel;
mod websocket;
