//! Redis Streams: what is needed of RESP2 to add, to read in a group, and to acknowledge.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Client, Consumer, Producer, Queue, connect, text};

/// No value here is longer.
const BULK_BYTES_MAX: usize = 1 << 20;
/// Values within a value, and lists within lists.
const VALUES_MAX: usize = 1000;
const DEPTH_MAX: usize = 8;
const GROUP: &[u8] = b"group";
/// How long a reading waits for something to come, in milliseconds.
const WAIT_MS: &[u8] = b"100";

pub struct Redis {
    pub address: SocketAddr,
}

struct Connection {
    reader: BufReader<TcpStream>,
    stream: Vec<u8>,
    /// The consumer's own name, which is its port.
    name: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Value {
    Text(Vec<u8>),
    Number(i64),
    List(Vec<Value>),
    Nothing,
}

impl Redis {
    fn open(&self, queue: Queue) -> Result<Connection, String> {
        let stream = connect(self.address)?;
        let name = stream.local_addr().map_err(text)?.port().to_string().into_bytes();
        Ok(Connection { reader: BufReader::new(stream), stream: queue.name().as_bytes().to_vec(), name })
    }
}

impl Client for Redis {
    fn prepare(&self) -> Result<(), String> {
        let mut connection = self.open(Queue::Work)?;
        let stream = connection.stream.clone();
        connection.call(&[b"XGROUP", b"CREATE", &stream, GROUP, b"0", b"MKSTREAM"]).map(drop)
    }

    fn producer(&self, queue: Queue) -> Result<Box<dyn Producer>, String> {
        Ok(Box::new(self.open(queue)?))
    }

    fn consumer(&self) -> Result<Option<Box<dyn Consumer>>, String> {
        Ok(Some(Box::new(self.open(Queue::Work)?)))
    }
}

impl Producer for Connection {
    /// Several go out together, each an entry of its own.
    fn offer(&mut self, payloads: &[Vec<u8>], _: Option<Duration>) -> Result<(), String> {
        let stream = self.stream.clone();
        let mut bytes = Vec::new();
        for payload in payloads {
            command(&mut bytes, &[b"XADD", &stream, b"*", b"p", payload]);
        }
        self.reader.get_mut().write_all(&bytes).map_err(text)?;
        payloads.iter().try_for_each(|_| self.value(0).map(drop))
    }
}

impl Consumer for Connection {
    fn next(&mut self, heard: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let (stream, name) = (self.stream.clone(), self.name.clone());
        let group: [&[u8]; 4] = [b"XREADGROUP", b"GROUP", GROUP, &name];
        let one: [&[u8]; 7] = [b"COUNT", b"1", b"BLOCK", WAIT_MS, b"STREAMS", &stream, b">"];
        let Some((id, payload)) = entry(self.call(&[&group[..], &one[..]].concat())?) else { return Ok(()) };
        heard(&payload);
        self.call(&[b"XACK", &stream, GROUP, &id]).map(drop)
    }
}

impl Connection {
    fn call(&mut self, parts: &[&[u8]]) -> Result<Value, String> {
        let mut bytes = Vec::new();
        command(&mut bytes, parts);
        self.reader.get_mut().write_all(&bytes).map_err(text)?;
        self.value(0)
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        value(&mut self.reader, depth)
    }
}

fn command(bytes: &mut Vec<u8>, parts: &[&[u8]]) {
    bytes.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
}

fn value(reader: &mut impl BufRead, depth: usize) -> Result<Value, String> {
    let mut line = String::new();
    if reader.read_line(&mut line).map_err(text)? == 0 {
        return Err("Redis closed the connection".to_owned());
    }
    let kind = line.chars().next().unwrap_or_default();
    let rest = line.get(1..).unwrap_or_default().trim_end();
    let number = || rest.parse::<i64>().map_err(|_| format!("Redis said {line:?}"));
    match kind {
        '+' => Ok(Value::Text(rest.as_bytes().to_vec())),
        '-' => Err(format!("Redis said {rest}")),
        ':' => number().map(Value::Number),
        '$' | '*' if number()? < 0 => Ok(Value::Nothing),
        '$' => {
            let length = usize::try_from(number()?).unwrap_or(usize::MAX);
            if length > BULK_BYTES_MAX {
                return Err(format!("Redis said {length} bytes at once"));
            }
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).map_err(text)?;
            bytes.truncate(length);
            Ok(Value::Text(bytes))
        }
        '*' if depth < DEPTH_MAX => {
            let count = usize::try_from(number()?).unwrap_or(usize::MAX).min(VALUES_MAX);
            (0..count).map(|_| value(reader, depth + 1)).collect::<Result<_, _>>().map(Value::List)
        }
        _ => Err(format!("Redis said {line:?}")),
    }
}

/// The id and the content of what a group's reading gave: `[[stream, [[id, [field, content]]]]]`.
fn entry(read: Value) -> Option<(Vec<u8>, Vec<u8>)> {
    let list = |value: Value| match value {
        Value::List(values) => Some(values),
        _ => None,
    };
    let last = |value: Value| list(value)?.pop();
    let first = |value: Value| list(value)?.into_iter().next();
    let mut entry = list(first(last(first(read)?)?)?)?;
    let (fields, id) = (entry.pop()?, entry.pop()?);
    match (id, last(fields)?) {
        (Value::Text(id), Value::Text(content)) => Some((id, content)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &str, expected: Option<(&str, &str)>) {
        let read = value(&mut said.as_bytes(), 0).unwrap();
        let expected = expected.map(|(id, content)| (id.as_bytes().to_vec(), content.as_bytes().to_vec()));
        assert_eq!(entry(read), expected, "{said:?}");
    }

    #[test]
    fn reads_the_entry_that_a_group_was_given() {
        check(
            "*1\r\n*2\r\n$4\r\nwork\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\np\r\n$5\r\nhello\r\n",
            Some(("1-0", "hello")),
        );
        check("*-1\r\n", None);
        check(":1\r\n", None);
    }

    #[test]
    fn an_error_or_an_end_is_told() {
        for (said, part) in
            [("-ERR no\r\n", "ERR no"), ("", "closed"), ("$99999999999\r\n", "at once"), ("?\r\n", "?")]
        {
            assert!(value(&mut said.as_bytes(), 0).is_err_and(|why| why.contains(part)), "{said:?}");
        }
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        let mut bytes = Vec::new();
        command(&mut bytes, &[b"XACK", b"s"]);
        assert_eq!(bytes, b"*2\r\n$4\r\nXACK\r\n$1\r\ns\r\n");
    }
}
