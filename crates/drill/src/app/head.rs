//! A request as it comes: its head is kept, its body is passed over.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The longest head.
const HEAD_MAX: usize = 32 * 1024;
/// Header fields in a head.
const FIELDS_MAX: usize = 64;

/// What a server wants to know of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub path: String,
    pub tenant: String,
    pub number: Option<u64>,
    pub is_head: bool,
    pub is_post: bool,
    pub close: bool,
    body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Sized(u64),
    Chunked,
}

impl Default for Body {
    fn default() -> Self {
        Body::Sized(0)
    }
}

/// Reads a request whole. `None`: the client has closed between two.
pub(super) async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Head>> {
    let head = loop {
        if let Some((head, length)) = parse(buffer)? {
            buffer.drain(..length);
            break head;
        }
        if buffer.len() > HEAD_MAX {
            return Err(invalid("the head is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    match head.body {
        Body::Sized(length) => skip(stream, buffer, length).await?,
        Body::Chunked => skip_chunks(stream, buffer).await?,
    }
    Ok(Some(head))
}

/// The head at the beginning of these bytes, if it is whole, and its length.
fn parse(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = request.parse(bytes).map_err(|_| invalid("not HTTP/1.1"))?
    else {
        return Ok(None);
    };
    let mut head = Head {
        path: request.path.unwrap_or_default().to_owned(),
        is_head: request.method == Some("HEAD"),
        is_post: request.method == Some("POST"),
        close: request.version == Some(0),
        ..Head::default()
    };
    for field in request.headers {
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        match field.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.parse().map_err(|_| invalid("Content-Length is no number"))?;
                head.body = Body::Sized(length);
            }
            "transfer-encoding" => head.body = Body::Chunked,
            "connection" => head.close |= value.eq_ignore_ascii_case("close"),
            "tidegate-tenant" => value.clone_into(&mut head.tenant),
            "drill-request" => head.number = value.parse().ok(),
            _ => {}
        }
    }
    Ok(Some((head, length)))
}

async fn skip(stream: &mut TcpStream, buffer: &mut Vec<u8>, mut length: u64) -> io::Result<()> {
    loop {
        let here = length.min(buffer.len() as u64);
        buffer.drain(..here as usize);
        length -= here;
        if length == 0 {
            return Ok(());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn skip_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let line = line(stream, buffer).await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| invalid("no chunk"))?;
        if size == 0 {
            break;
        }
        skip(stream, buffer, size.saturating_add(2)).await?;
    }
    // Trailers, up to an empty line.
    while !line(stream, buffer).await?.is_empty() {}
    Ok(())
}

async fn line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if buffer.len() > HEAD_MAX {
            return Err(invalid("a line is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_whose_it_is_and_which() {
        let bytes = b"POST /a HTTP/1.1\r\nHost: x\r\nTidegate-Tenant: acme\r\nDrill-Request: 17\r\n\
            Content-Length: 3\r\nConnection: close\r\n\r\nabc";
        let (head, length) = parse(bytes).unwrap().unwrap();
        assert_eq!((head.path.as_str(), head.tenant.as_str(), head.number), ("/a", "acme", Some(17)));
        assert_eq!((head.close, head.body, length), (true, Body::Sized(3), bytes.len() - 3));
        assert_eq!(parse(&bytes[..40]).unwrap(), None);
        assert!(parse(b"\0\0\0\0\r\n").is_err());
    }
}
