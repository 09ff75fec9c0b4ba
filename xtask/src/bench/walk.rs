//! A walk through many tenants: one request of each, so that a proxy has seen them all.

use std::net::SocketAddr;

use super::client::Connection;
use super::requests;

/// Connections, each a thread.
const WALKERS: usize = 8;
/// Requests that are sent together. Their answers fit into a socket's buffers.
const PIPELINED: usize = 32;

/// Sends a request for each tenant up to `tenants`.
///
/// # Errors
/// When one of them was not answered well.
pub fn through(tenants: usize, address: SocketAddr) -> Result<(), String> {
    std::thread::scope(|scope| {
        let walkers: Vec<_> =
            (0..WALKERS).map(|walker| scope.spawn(move || one_of_them(walker, tenants, address))).collect();
        walkers
            .into_iter()
            .try_for_each(|walker| walker.join().unwrap_or_else(|_| Err("a walker panicked".to_owned())))
    })
}

fn one_of_them(walker: usize, tenants: usize, address: SocketAddr) -> Result<(), String> {
    let mut connection = Connection::open(address)?;
    let own: Vec<usize> = (walker..tenants).step_by(WALKERS).collect();
    for batch in own.chunks(PIPELINED) {
        let requests: String = batch.iter().map(|tenant| requests::of_tenant(*tenant)).collect();
        connection.send(requests.as_bytes())?;
        for tenant in batch {
            let answer = connection.receive()?;
            if !answer.is_good() {
                return Err(format!("tenant {tenant} was answered with {}", answer.status));
            }
        }
    }
    Ok(())
}
