//! A name server that answers what it is told (RFC 1035, RFC 2782): A and SRV records, over UDP, with a TTL of zero.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use parking_lot::Mutex;

/// A record.
#[derive(Clone, Debug)]
pub enum Record {
    /// An address.
    A(Ipv4Addr),
    /// A service: priority, weight, port, target.
    Srv(u16, u16, u16, &'static str),
}

type Zone = Arc<Mutex<HashMap<String, Vec<Record>>>>;

/// A name server.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    zone: Zone,
}

impl NameServer {
    /// Starts one that knows no name.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let zone = Zone::default();
        let told = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = answer(&buffer[..length], &told) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        NameServer { address, zone }
    }

    /// Says what there is under a name, which ends with a dot.
    pub fn set(&self, name: &str, records: Vec<Record>) {
        self.zone.lock().insert(name.to_owned(), records);
    }
}

/// The answer to a message with one question.
fn answer(message: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut end = HEADER;
    let mut name = String::new();
    while *message.get(end)? > 0 {
        let length = usize::from(message[end]);
        name.push_str(&String::from_utf8_lossy(message.get(end + 1..=end + length)?).to_lowercase());
        name.push('.');
        end += length + 1;
    }
    let question = message.get(HEADER..end + 5)?;
    let kind = u16::from_be_bytes([question[question.len() - 4], question[question.len() - 3]]);
    let answers: Vec<Vec<u8>> =
        zone.lock().get(&name).into_iter().flatten().filter_map(|record| data(record, kind)).collect();
    let mut out = message[..2].to_vec();
    // A response, authoritative, without error; one question.
    out.extend([0x84, 0x00, 0, 1]);
    out.extend(u16::try_from(answers.len()).ok()?.to_be_bytes());
    out.extend([0; 4]);
    out.extend(question);
    for data in answers {
        // The name as in the question, the kind, class IN, TTL 0.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 0]);
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

/// A record's data, if it is of this kind.
fn data(record: &Record, kind: u16) -> Option<Vec<u8>> {
    match (record, kind) {
        (Record::A(address), 1) => Some(address.octets().to_vec()),
        (Record::Srv(priority, weight, port, target), 33) => {
            let mut out: Vec<u8> =
                [priority, weight, port].iter().flat_map(|part| part.to_be_bytes()).collect();
            for label in target.trim_end_matches('.').split('.') {
                out.push(u8::try_from(label.len()).ok()?);
                out.extend(label.as_bytes());
            }
            out.push(0);
            Some(out)
        }
        _ => None,
    }
}
