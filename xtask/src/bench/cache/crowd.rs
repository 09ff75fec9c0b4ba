//! Clients of the cache's benchmark where a fixed number of requests is asked for: some that go through a list, and many
//! that ask for one thing at once.

use std::net::SocketAddr;
use std::time::Duration;

use super::origin;
use crate::bench::client::Connection;
use crate::bench::{now, requests};

/// Connections that go through a list, each a thread.
const WALKERS: usize = 8;

/// Asks for a list of paths, each once, in their order; `path` has the one of a number.
///
/// # Errors
/// When one of them was not answered well, with as many bytes as it should have.
pub fn walk(
    address: SocketAddr,
    count: usize,
    bytes: usize,
    path: impl Fn(usize) -> String + Sync,
) -> Result<(), String> {
    let path = &path;
    std::thread::scope(|scope| {
        let walkers: Vec<_> = (0..WALKERS)
            .map(|first| {
                scope.spawn(move || {
                    let mut connection = Connection::open(address)?;
                    for number in (first..count).step_by(WALKERS) {
                        let request = requests::head("GET", &path(number), "");
                        let answer = connection.exchange(request.as_bytes())?;
                        if !answer.is_good() || answer.body.len() != bytes {
                            return Err(format!(
                                "{} was answered with {} and {} bytes",
                                path(number),
                                answer.status,
                                answer.body.len()
                            ));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        walkers
            .into_iter()
            .try_for_each(|walker| walker.join().unwrap_or_else(|_| Err("a client panicked".to_owned())))
    })
}

/// Many clients with an open connection each.
pub struct Crowd(Vec<Connection>);

impl Crowd {
    pub fn open(address: SocketAddr, clients: usize) -> Result<Crowd, String> {
        (0..clients).map(|_| Connection::open(address)).collect::<Result<_, _>>().map(Crowd)
    }

    /// All ask for a slow object at once. Has the time from the first request to the last answer.
    pub fn ask(&mut self, bytes: usize, number: usize) -> Result<Duration, String> {
        let request = requests::head("GET", &origin::slow_path(bytes, number), "");
        let began = now();
        for client in &mut self.0 {
            client.send(request.as_bytes())?;
        }
        for client in &mut self.0 {
            let answer = client.receive()?;
            if !answer.is_good() || answer.body.len() != bytes {
                return Err(format!(
                    "a waiter was answered with {} and {} bytes",
                    answer.status,
                    answer.body.len()
                ));
            }
        }
        Ok(began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::super::origin::Origin;
    use super::*;

    #[test]
    fn each_of_a_list_is_asked_for_once() {
        let origin = Origin::start().unwrap();
        walk(origin.address, 20, 3, |number| origin::path(3, number)).unwrap();
        assert_eq!(origin.asked(), 20);
        let wrong = walk(origin.address, 1, 4, |number| origin::path(3, number));
        assert!(wrong.unwrap_err().contains("200 and 3 bytes"));
    }

    #[test]
    fn all_of_a_crowd_ask_before_the_first_is_answered() {
        let origin = Origin::start().unwrap();
        let mut crowd = Crowd::open(origin.address, 20).unwrap();
        crowd.ask(3, 0).unwrap();
        assert_eq!(origin.asked(), 20);
    }
}
