//! RabbitMQ: what is needed of AMQP 0-9-1 to publish with confirms, and to consume one at a time.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Client, Consumer, Producer, Queue, SILENCE_MAX, connect, text};

/// No frame here is longer; it is what we agree to.
const FRAME_BYTES_MAX: u32 = 128 << 10;
const FRAME_END: u8 = 0xCE;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// All that is done here is done on the first channel.
const CHANNEL: u16 = 1;
/// Class and method.
type Name = (u16, u16);
const START: Name = (10, 10);
const START_OK: Name = (10, 11);
const TUNE: Name = (10, 30);
const TUNE_OK: Name = (10, 31);
const OPEN: Name = (10, 40);
const OPEN_OK: Name = (10, 41);
const CHANNEL_OPEN: Name = (20, 10);
const CHANNEL_OPEN_OK: Name = (20, 11);
const QUEUE_DECLARE: Name = (50, 10);
const QUEUE_DECLARE_OK: Name = (50, 11);
const QOS: Name = (60, 10);
const QOS_OK: Name = (60, 11);
const CONSUME: Name = (60, 20);
const CONSUME_OK: Name = (60, 21);
const PUBLISH: Name = (60, 40);
const DELIVER: Name = (60, 60);
const ACK: Name = (60, 80);
const CONFIRM: Name = (85, 10);
const CONFIRM_OK: Name = (85, 11);

pub struct Rabbit {
    pub address: SocketAddr,
}

struct Connection {
    reader: BufReader<Patient>,
    queue: &'static str,
    published: u64,
    /// What was published and is not confirmed yet.
    open: BTreeSet<u64>,
}

/// A socket whose reading comes back soon, so that a consumer sees whether it shall go on; in the middle of a frame it waits on.
struct Patient {
    stream: TcpStream,
    patient: bool,
}

/// How soon.
const SOON: Duration = Duration::from_millis(100);

struct Taker(Connection);

/// The arguments of a method, as they are written.
#[derive(Default)]
struct Arguments(Vec<u8>);

impl Arguments {
    fn bytes(mut self, bytes: &[u8]) -> Arguments {
        self.0.extend_from_slice(bytes);
        self
    }

    fn short(self, text: &str) -> Arguments {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.bytes(&[length]).bytes(&text.as_bytes()[..usize::from(length)])
    }

    fn long(self, bytes: &[u8]) -> Arguments {
        self.bytes(&(bytes.len() as u32).to_be_bytes()).bytes(bytes)
    }
}

impl Rabbit {
    fn open(&self, queue: Queue) -> Result<Connection, String> {
        let stream = connect(self.address)?;
        stream.set_read_timeout(Some(SOON)).map_err(text)?;
        let reader = BufReader::new(Patient { stream, patient: true });
        let mut connection = Connection { reader, queue: queue.name(), published: 0, open: BTreeSet::new() };
        connection.write(b"AMQP\x00\x00\x09\x01")?;
        connection.method(START)?;
        let credentials =
            Arguments::default().long(b"").short("PLAIN").long(b"\0guest\0guest").short("en_US");
        connection.send(0, START_OK, &credentials)?;
        connection.method(TUNE)?;
        let tuned = Arguments::default().bytes(&[0, 8]).bytes(&FRAME_BYTES_MAX.to_be_bytes()).bytes(&[0, 0]);
        connection.send(0, TUNE_OK, &tuned)?;
        connection.send(0, OPEN, &Arguments::default().short("/").short("").bytes(&[0]))?;
        connection.method(OPEN_OK)?;
        connection.call(CHANNEL_OPEN, &Arguments::default().short(""), CHANNEL_OPEN_OK)?;
        Ok(connection)
    }
}

impl Client for Rabbit {
    fn prepare(&self) -> Result<(), String> {
        for queue in [Queue::Rest, Queue::Work] {
            let kind = Arguments::default().short("x-queue-type").bytes(b"S").long(b"quorum");
            // The second bit: durable.
            let declared = Arguments::default().bytes(&[0, 0]).short(queue.name()).bytes(&[2]).long(&kind.0);
            self.open(queue)?.call(QUEUE_DECLARE, &declared, QUEUE_DECLARE_OK)?;
        }
        Ok(())
    }

    fn producer(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        let mut connection = self.open(queue)?;
        connection.call(CONFIRM, &Arguments::default().bytes(&[0]), CONFIRM_OK)?;
        Ok(Box::new(connection))
    }

    fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String> {
        let mut connection = self.open(Queue::Work)?;
        connection.call(QOS, &Arguments::default().bytes(&[0, 0, 0, 0, 0, 1, 0]), QOS_OK)?;
        let consume =
            Arguments::default().bytes(&[0, 0]).short(connection.queue).short("").bytes(&[0]).long(b"");
        connection.call(CONSUME, &consume, CONSUME_OK)?;
        Ok(Some(Box::new(Taker(connection))))
    }
}

impl Producer for Connection {
    fn offer(&mut self, payloads: &[Vec<u8>], _: Option<Duration>) -> Result<(), String> {
        let mut bytes = Vec::new();
        let to = Arguments::default().bytes(&[0, 0]).short("").short(self.queue).bytes(&[0]);
        for payload in payloads {
            method(&mut bytes, CHANNEL, PUBLISH, &to);
            // Of the properties there is one: delivery-mode 2, persistent.
            let header =
                Arguments::default().bytes(&[0, 60, 0, 0]).bytes(&(payload.len() as u64).to_be_bytes());
            frame(&mut bytes, HEADER, CHANNEL, &header.bytes(&[0x10, 0, 2]).0);
            frame(&mut bytes, BODY, CHANNEL, payload);
        }
        let first = self.published + 1;
        self.published += payloads.len() as u64;
        self.open.extend(first..=self.published);
        self.write(&bytes)?;
        while !self.open.is_empty() {
            let (tag, all_before) = tag(&self.method(ACK)?)?;
            confirm(&mut self.open, tag, all_before);
        }
        Ok(())
    }
}

impl Consumer for Taker {
    fn next(&mut self, heard: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let connection = &mut self.0;
        if !connection.has_come()? {
            return Ok(());
        }
        let deliver = connection.method(DELIVER)?;
        // Before the tag stands the consumer's name.
        let name = deliver.first().map_or(0, |length| usize::from(*length) + 1);
        let (tag, _) = tag(deliver.get(name..).unwrap_or_default())?;
        let header = connection.frame(HEADER)?;
        let length = header.get(4..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let mut payload = Vec::new();
        while (payload.len() as u64) < length {
            payload.extend(connection.frame(BODY)?);
        }
        heard(&payload);
        connection.send(CHANNEL, ACK, &Arguments::default().bytes(&tag.to_be_bytes()).bytes(&[0]))
    }
}

impl Connection {
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.reader.get_mut().stream.write_all(bytes).map_err(text)
    }

    fn send(&mut self, channel: u16, name: Name, arguments: &Arguments) -> Result<(), String> {
        let mut bytes = Vec::new();
        method(&mut bytes, channel, name, arguments);
        self.write(&bytes)
    }

    fn call(&mut self, name: Name, arguments: &Arguments, answer: Name) -> Result<(), String> {
        self.send(CHANNEL, name, arguments)?;
        self.method(answer).map(drop)
    }

    /// Whether something is there to be read, or comes soon.
    fn has_come(&mut self) -> Result<bool, String> {
        self.reader.get_mut().patient = false;
        let come = match self.reader.fill_buf() {
            Ok([]) => Err("RabbitMQ closed the connection".to_owned()),
            Ok(_) => Ok(true),
            Err(error) if is_silence(&error) => Ok(false),
            Err(error) => Err(text(error)),
        };
        self.reader.get_mut().patient = true;
        come
    }

    /// The arguments of the method that comes next, which has to be this one.
    fn method(&mut self, name: Name) -> Result<Vec<u8>, String> {
        let mut content = self.frame(METHOD)?;
        let number =
            |at: usize| content.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        let found = (number(0), number(2));
        if found != name {
            let said = String::from_utf8_lossy(content.get(4..).unwrap_or_default());
            return Err(format!("RabbitMQ said {found:?} instead of {name:?}: {said}"));
        }
        content.drain(..4);
        Ok(content)
    }

    fn frame(&mut self, kind: u8) -> Result<Vec<u8>, String> {
        read_frame(&mut self.reader, kind)
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut tries = SILENCE_MAX.as_millis() / SOON.as_millis();
        loop {
            match self.stream.read(buffer) {
                Err(error) if is_silence(&error) && self.patient && tries > 0 => tries -= 1,
                done => return done,
            }
        }
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn read_frame(reader: &mut impl Read, kind: u8) -> Result<Vec<u8>, String> {
    let mut head = [0; 7];
    reader.read_exact(&mut head).map_err(text)?;
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if head[0] != kind || length > FRAME_BYTES_MAX {
        return Err(format!("RabbitMQ sent a frame of kind {} and {length} bytes", head[0]));
    }
    let mut content = vec![0; length as usize + 1];
    reader.read_exact(&mut content).map_err(text)?;
    if content.pop() != Some(FRAME_END) {
        return Err("RabbitMQ sent a frame without an end".to_owned());
    }
    Ok(content)
}

fn frame(bytes: &mut Vec<u8>, kind: u8, channel: u16, content: &[u8]) {
    bytes.push(kind);
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
    bytes.extend_from_slice(content);
    bytes.push(FRAME_END);
}

fn method(bytes: &mut Vec<u8>, channel: u16, (class, method): Name, arguments: &Arguments) {
    let name = Arguments::default().bytes(&class.to_be_bytes()).bytes(&method.to_be_bytes());
    frame(bytes, METHOD, channel, &name.bytes(&arguments.0).0);
}

/// A delivery's tag, and the bit behind it.
fn tag(bytes: &[u8]) -> Result<(u64, bool), String> {
    let tag = bytes.get(..8).and_then(|tag| tag.try_into().ok()).map(u64::from_be_bytes);
    let tag = tag.ok_or("RabbitMQ told no tag")?;
    Ok((tag, bytes.get(8).is_some_and(|bits| bits & 1 == 1)))
}

fn confirm(open: &mut BTreeSet<u64>, tag: u64, all_before: bool) {
    if all_before {
        *open = open.split_off(&(tag + 1));
    } else {
        open.remove(&tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        frame(&mut bytes, BODY, CHANNEL, b"hello");
        assert_eq!(bytes, b"\x03\x00\x01\x00\x00\x00\x05hello\xCE");
        assert_eq!(read_frame(&mut &bytes[..], BODY), Ok(b"hello".to_vec()));
        assert!(read_frame(&mut &bytes[..], METHOD).is_err());
        assert!(read_frame(&mut &bytes[..9], BODY).is_err());
        assert!(read_frame(&mut &b"\x03\x00\x01\xff\xff\xff\xff"[..], BODY).is_err());
    }

    #[test]
    fn confirms_come_in_any_order_and_several_as_one() {
        let mut open = BTreeSet::from([1, 2, 3, 4]);
        confirm(&mut open, 3, false);
        confirm(&mut open, 2, true);
        assert_eq!(open, BTreeSet::from([4]));
        assert_eq!(tag(&[0, 0, 0, 0, 0, 0, 0, 9, 1]), Ok((9, true)));
        assert!(tag(&[0]).is_err());
    }

    #[test]
    fn texts_are_short_or_long() {
        assert_eq!(Arguments::default().short("ab").long(b"c").0, b"\x02ab\x00\x00\x00\x01c");
    }
}
