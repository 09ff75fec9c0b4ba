//! NATS JetStream: what is needed of its protocol to publish with an acknowledgement, to fetch, and to acknowledge.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Client, Consumer, Producer, Queue, connect, text};

/// No message here is longer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How long a fetch waits for something to come, in nanoseconds.
const WAIT_NS: u64 = 100_000_000;
const CONSUMER: &str = "group";

pub struct Nats {
    pub address: SocketAddr,
}

struct Connection {
    reader: BufReader<TcpStream>,
    queue: &'static str,
    /// Where its answers come.
    inbox: String,
}

#[derive(Debug, Default, PartialEq)]
struct Message {
    reply: Option<String>,
    /// Its headers, if it has any, as they came: what an empty fetch ends with.
    headers: Vec<u8>,
    payload: Vec<u8>,
}

impl Nats {
    fn open(&self, queue: Queue) -> Result<Connection, String> {
        let stream = connect(self.address)?;
        let inbox = format!("_INBOX.{}", stream.local_addr().map_err(text)?.port());
        let mut connection = Connection { reader: BufReader::new(stream), queue: queue.name(), inbox };
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB {} 1\r\nPING\r\n",
            connection.inbox
        );
        connection.write(hello.as_bytes())?;
        loop {
            let line = line(&mut connection.reader)?;
            match line.as_str() {
                "PONG" => return Ok(connection),
                line if line.starts_with("INFO ") => {}
                line => return Err(format!("NATS said {line}")),
            }
        }
    }
}

impl Client for Nats {
    fn prepare(&self) -> Result<(), String> {
        for queue in [Queue::Rest, Queue::Work] {
            let mut connection = self.open(queue)?;
            let name = queue.name();
            let stream = format!(
                "{{\"name\":\"{name}\",\"subjects\":[\"{name}\"],\"storage\":\"file\",\"retention\":\"workqueue\"}}"
            );
            connection.ask(&format!("$JS.API.STREAM.CREATE.{name}"), stream.as_bytes())?;
            let consumer = format!(
                "{{\"stream_name\":\"{name}\",\"config\":{{\"durable_name\":\"{CONSUMER}\",\"ack_policy\":\"explicit\",\
                 \"max_ack_pending\":10000}}}}"
            );
            let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{name}.{CONSUMER}");
            connection.ask(&subject, consumer.as_bytes())?;
        }
        Ok(())
    }

    fn producer(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        Ok(Box::new(self.open(queue)?))
    }

    fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String> {
        Ok(Some(Box::new(self.open(Queue::Work)?)))
    }
}

impl Producer for Connection {
    fn offer(&mut self, payloads: &[Vec<u8>], _: Option<Duration>) -> Result<(), String> {
        let mut bytes = Vec::new();
        for payload in payloads {
            publish(&mut bytes, self.queue, Some(&self.inbox), payload);
        }
        self.write(&bytes)?;
        payloads.iter().try_for_each(|_| self.message().and_then(well).map(drop))
    }
}

impl Consumer for Connection {
    fn next(&mut self, heard: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", self.queue);
        let mut bytes = Vec::new();
        let fetch = format!("{{\"batch\":1,\"expires\":{WAIT_NS}}}");
        publish(&mut bytes, &subject, Some(&self.inbox), fetch.as_bytes());
        self.write(&bytes)?;
        let message = self.message()?;
        let Some(reply) = message.reply.filter(|reply| reply.starts_with("$JS.ACK")) else { return Ok(()) };
        heard(&message.payload);
        bytes.clear();
        publish(&mut bytes, &reply, None, b"+ACK");
        self.write(&bytes)
    }
}

impl Connection {
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.reader.get_mut().write_all(bytes).map_err(text)
    }

    fn ask(&mut self, subject: &str, question: &[u8]) -> Result<Message, String> {
        let mut bytes = Vec::new();
        publish(&mut bytes, subject, Some(&self.inbox), question);
        self.write(&bytes)?;
        self.message().and_then(well)
    }

    /// The next message; what the server asks between is answered.
    fn message(&mut self) -> Result<Message, String> {
        loop {
            match message(&mut self.reader)? {
                Some(message) => return Ok(message),
                None => self.write(b"PONG\r\n")?,
            }
        }
    }
}

/// An answer of JetStream that says no is an error.
fn well(message: Message) -> Result<Message, String> {
    let said = String::from_utf8_lossy(&message.payload);
    if said.contains("\"error\":") || !message.headers.is_empty() {
        return Err(format!("NATS said {said}{}", String::from_utf8_lossy(&message.headers)));
    }
    Ok(message)
}

fn publish(bytes: &mut Vec<u8>, subject: &str, reply: Option<&str>, payload: &[u8]) {
    let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
    bytes.extend_from_slice(format!("PUB {subject} {reply}{}\r\n", payload.len()).as_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
}

fn line(reader: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    match reader.read_line(&mut line).map_err(text)? {
        0 => Err("NATS closed the connection".to_owned()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

/// A message, or none: the server asks whether we are there.
fn message(reader: &mut impl BufRead) -> Result<Option<Message>, String> {
    let line = line(reader)?;
    let words: Vec<&str> = line.split(' ').collect();
    let number = |word: &str| word.parse::<usize>().ok().filter(|bytes| *bytes <= MESSAGE_BYTES_MAX);
    let wrong = || format!("NATS said {line}");
    let (reply, headers, all) = match words.as_slice() {
        ["PING"] => return Ok(None),
        ["MSG", _, _, bytes] => (None, Some(0), number(bytes)),
        ["MSG", _, _, reply, bytes] => (Some((*reply).to_owned()), Some(0), number(bytes)),
        ["HMSG", _, _, headers, bytes] => (None, number(headers), number(bytes)),
        ["HMSG", _, _, reply, headers, bytes] => (Some((*reply).to_owned()), number(headers), number(bytes)),
        _ => return Err(wrong()),
    };
    let (headers, all) = headers.zip(all).filter(|(headers, all)| headers <= all).ok_or_else(wrong)?;
    let mut bytes = vec![0; all + 2];
    reader.read_exact(&mut bytes).map_err(text)?;
    let payload = bytes[headers..all].to_vec();
    bytes.truncate(headers);
    Ok(Some(Message { reply, headers: bytes, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_message_and_where_it_is_acknowledged() {
        let said =
            b"PING\r\nMSG _INBOX.1 1 $JS.ACK.work 5\r\nhello\r\nHMSG _INBOX.1 1 12 12\r\nNATS/1.0 404\r\n";
        let mut said = &said[..];
        assert_eq!(message(&mut said), Ok(None));
        let told = message(&mut said).unwrap().unwrap();
        assert_eq!((told.reply.as_deref(), &told.payload[..]), (Some("$JS.ACK.work"), &b"hello"[..]));
        let empty = message(&mut said).unwrap().unwrap();
        assert_eq!((empty.reply.clone(), &empty.headers[..]), (None, &b"NATS/1.0 404"[..]));
        assert!(well(empty).is_err());
    }

    #[test]
    fn a_refusal_or_nonsense_is_an_error() {
        let refused = Message { payload: br#"{"error":{"code":503}}"#.to_vec(), ..Message::default() };
        assert!(well(refused).is_err());
        for said in ["-ERR 'no'\r\n", "MSG a 1 99999999999\r\n", "HMSG a 1 9 5\r\n12345\r\n", ""] {
            assert!(message(&mut said.as_bytes()).is_err(), "{said:?}");
        }
    }
}
