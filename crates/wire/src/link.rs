//! A link between two processes of one machine: whole messages in their order, and open files with them (`SCM_RIGHTS`).
//!
//! It blocks: it belongs to a thread. Its ends are two sockets that nobody else can connect to. What is too large for a message
//! goes as a file in memory ([`write_memory`]).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Open files that go with one message.
pub const FILES_MAX: usize = 64;
/// Bytes of a message: what the kernel's buffers take as they are.
pub const MESSAGE_BYTES_MAX: usize = 160 * 1024;

/// One end of a link.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// A message that has come.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub files: Vec<OwnedFd>,
}

impl From<OwnedFd> for Link {
    fn from(end: OwnedFd) -> Link {
        Link(end)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// The system's.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Link(near), far))
    }

    /// The end that this process was given as its standard input.
    ///
    /// # Errors
    /// It is no such thing.
    pub fn of_stdin() -> io::Result<Link> {
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&end)? != SocketType::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Link(end))
    }

    /// The same end for another thread.
    ///
    /// # Errors
    /// The system's.
    pub fn try_clone(&self) -> io::Result<Link> {
        Ok(Link(self.0.try_clone()?))
    }

    /// How long a message is waited for at most.
    ///
    /// # Errors
    /// The system's.
    pub fn patience(&self, most: Option<Duration>) -> io::Result<()> {
        // Zero would be for ever.
        let most = most.map(|most| most.max(Duration::from_millis(1)));
        Ok(set_socket_timeout(&self.0, Timeout::Recv, most)?)
    }

    /// Sends a message. Waits while the other end has not read those before.
    ///
    /// # Errors
    /// The other end is gone, or the message is too large.
    pub fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > MESSAGE_BYTES_MAX || files.len() > FILES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut along = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !along.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(bytes)], &mut along, SendFlags::NOSIGNAL)
        })?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The next message. `None`: the other end is gone.
    ///
    /// # Errors
    /// None came in time, or it was too large.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut along = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut along, RecvFlags::CMSG_CLOEXEC)
        });
        let got = match got {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            got => got?,
        };
        let files: Vec<OwnedFd> = along
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(files) => files.collect(),
                _ => Vec::new(),
            })
            .collect();
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // No message is empty: that is the end.
        if got.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(got.bytes);
        Ok(Some(Message { bytes, files }))
    }
}

/// A file that is in memory alone, with this content, to be sent along.
///
/// # Errors
/// The system's.
pub fn write_memory(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// What such a file holds, within `most` bytes.
///
/// # Errors
/// The system's; there is more.
pub fn read_memory(file: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::from(file);
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_with_their_files_and_then_the_end() {
        let (near, far) = Link::pair().expect("sockets");
        let far = Link::from(far);
        let file = write_memory("state", b"what is known").expect("a file in memory");
        near.send(b"first", &[file.as_fd()]).expect("sent");
        near.send(b"second", &[]).expect("sent");
        drop(near);
        let first = far.receive().expect("received").expect("there is one");
        assert_eq!((first.bytes.as_slice(), first.files.len()), (&b"first"[..], 1));
        let file = first.files.into_iter().next().expect("one came along");
        assert_eq!(read_memory(file.try_clone().expect("a copy"), 100).expect("read"), b"what is known");
        assert_eq!(read_memory(file, 12).expect_err("too much").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(far.receive().expect("received").expect("there is one").bytes, b"second");
        assert!(far.receive().expect("the end").is_none());
    }

    #[test]
    fn nobody_is_waited_for_longer_than_told() {
        let (near, _far) = Link::pair().expect("sockets");
        near.patience(Some(Duration::from_millis(1))).expect("set");
        assert_eq!(near.receive().expect_err("nothing comes").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_does_not_fit_into_a_message_is_not_sent() {
        let (near, _far) = Link::pair().expect("sockets");
        let error = near.send(&vec![0; MESSAGE_BYTES_MAX + 1], &[]).expect_err("too large");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        near.send(&vec![0; MESSAGE_BYTES_MAX], &[]).expect("the largest goes");
    }
}
