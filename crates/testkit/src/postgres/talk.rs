//! One connection to a PostgreSQL that is talked to by whoever waits for each answer: where a `psql` for each statement would take
//! too long, and there is no runtime. It speaks no more of the protocol than that takes (Frontend/Backend Protocol 3.0, simple
//! queries, no password).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::Postgres;
use crate::PATIENCE;

/// The version of the protocol.
const PROTOCOL: u32 = 3 << 16;

/// Such a connection.
pub struct Talk(TcpStream);

impl Talk {
    pub(super) fn to(server: &Postgres, database: &str) -> Talk {
        let stream = TcpStream::connect(server.address).expect("PostgreSQL listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is none of zero");
        stream.set_nodelay(true).expect("a socket");
        let mut talk = Talk(stream);
        let names = format!("user\0postgres\0database\0{database}\0\0");
        talk.send(&[&PROTOCOL.to_be_bytes()[..], names.as_bytes()].concat(), None);
        let _ = talk.hear("to connect");
        talk
    }

    /// Carries out statements, and tells the rows: a line each, the columns with a bar between.
    ///
    /// # Panics
    /// If that fails, or takes too long.
    pub fn say(&mut self, statements: &str) -> String {
        self.send(format!("{statements}\0").as_bytes(), Some(b'Q'));
        self.hear(statements).join("\n")
    }

    fn send(&mut self, body: &[u8], kind: Option<u8>) {
        let mut message: Vec<u8> = kind.into_iter().collect();
        let length = u32::try_from(body.len() + 4).expect("a short message");
        message.extend(length.to_be_bytes());
        message.extend(body);
        self.0.write_all(&message).expect("PostgreSQL is there");
    }

    /// All rows until it is ready for the next question.
    fn hear(&mut self, about: &str) -> Vec<String> {
        let mut rows = Vec::new();
        loop {
            let [kind, length @ ..] = self.read::<5>();
            let length = u32::from_be_bytes(length) as usize - 4;
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).expect("PostgreSQL ends what it says");
            match kind {
                b'Z' => return rows,
                b'D' => rows.push(columns(&body)),
                b'E' => panic!("{about}: {}", String::from_utf8_lossy(&body).replace('\0', " ")),
                // What the columns are called, how many rows there were, settings, notices.
                _ => {}
            }
        }
    }

    fn read<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        self.0.read_exact(&mut bytes).expect("PostgreSQL answers");
        bytes
    }
}

/// The columns of a row, with a bar between; nothing where there is none.
fn columns(body: &[u8]) -> String {
    let (mut texts, mut rest) = (Vec::new(), &body[2..]);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        // -1: there is none.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or_default();
        texts.push(String::from_utf8_lossy(&after[..length]));
        rest = &after[length..];
    }
    texts.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_as_psql_does() {
        let server = Postgres::shared();
        let url = server.database();
        let mut talk = server.talk(url.rsplit('/').next().unwrap_or_default());
        assert_eq!(talk.say("CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, NULL)"), "");
        assert_eq!(talk.say("SELECT * FROM t ORDER BY a"), "1|x\n2|");
        assert_eq!(talk.say("SELECT * FROM t ORDER BY a"), server.say_in(&url, "SELECT * FROM t ORDER BY a"));
    }

    #[test]
    #[should_panic(expected = "does not exist")]
    fn what_fails_is_told_with_its_reason() {
        let _ = Postgres::shared().talk("postgres").say("SELECT * FROM what_is_not_there");
    }
}
