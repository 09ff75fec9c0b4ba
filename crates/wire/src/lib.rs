//! Sockets, TLS, HTTP/1.1 and HTTP/2: the only crate that imports hyper and rustls.

pub mod settings;
