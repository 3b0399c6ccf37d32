//! A channel between two processes of this machine, by which open files and sockets go from one to the other.
//!
//! It is a pair of Unix sockets that keep the limits of messages (`SOCK_SEQPACKET`); descriptors go along as `SCM_RIGHTS`
//! (unix(7)). The other process gets its end as standard input.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;

use super::{own_descriptor, replace_stdin};

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A message: its text, and the descriptor that came along.
pub type Received = (String, Option<OwnedFd>);

impl Channel {
    /// Both ends: ours, and the one to be the standard input of a new process.
    ///
    /// # Errors
    /// Whatever `socketpair(2)` says.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let (ours, theirs) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)?;
        // A process that reads nothing is not waited for without end.
        let ours = Self(ours);
        ours.set_send_timeout(SEND_TIMEOUT)?;
        Ok((ours, theirs))
    }

    /// Sets how long [`Channel::send`] waits for the other process to read.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn set_send_timeout(&self, limit: Duration) -> io::Result<()> {
        Ok(setsockopt(
            &self.0,
            sockopt::SendTimeout,
            &time_value(limit),
        )?)
    }

    /// The end that this process was started with. Its standard input is /dev/null from then on.
    ///
    /// # Errors
    /// Standard input is none, or what the system says.
    pub fn inherited() -> io::Result<Self> {
        let end = io::stdin().as_fd().try_clone_to_owned()?;
        replace_stdin()?;
        Ok(Self(end))
    }

    /// Sends a message of at most [`LONGEST`] bytes, and a descriptor along with it.
    ///
    /// # Errors
    /// The other process is gone, `TimedOut` if it does not read, or what `sendmsg(2)` says.
    pub fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptors = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
        let along = descriptors.as_ref();
        let along: Vec<_> = along
            .map(|all| ControlMessage::ScmRights(all))
            .into_iter()
            .collect();
        let bytes = [IoSlice::new(text.as_bytes())];
        let flags = MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &bytes, &along, flags, None) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// The next message. `None`: the other process is gone.
    ///
    /// # Errors
    /// `TimedOut` after this time, or what `recvmsg(2)` says.
    pub fn receive(&self, limit: Duration) -> io::Result<Option<Received>> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &time_value(limit))?;
        self.receive_with(MsgFlags::empty())
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// `TimedOut` if there is no message, or what `recvmsg(2)` says.
    pub fn receive_now(&self) -> io::Result<Option<Received>> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with(&self, flags: MsgFlags) -> io::Result<Option<Received>> {
        let mut bytes = [0; LONGEST];
        let mut along = cmsg_space!([i32; 1]);
        let (count, descriptor) = {
            let mut pieces = [IoSliceMut::new(&mut bytes)];
            let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
            let received =
                match recvmsg::<()>(self.0.as_raw_fd(), &mut pieces, Some(&mut along), flags) {
                    Err(Errno::EINTR) => return self.receive_with(flags),
                    Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                    Err(Errno::ECONNRESET) => return Ok(None),
                    received => received?,
                };
            let mut descriptor = None;
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(all) = message {
                    // Each is a new descriptor of ours; more than one is not sent.
                    descriptor = all.into_iter().map(own_descriptor).next_back();
                }
            }
            (received.bytes, descriptor)
        };
        if count == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        Ok(Some((text, descriptor)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A channel that came through another one.
impl From<OwnedFd> for Channel {
    fn from(end: OwnedFd) -> Self {
        Self(end)
    }
}

/// A limit as the system wants it, where zero would be no limit.
fn time_value(limit: Duration) -> TimeVal {
    let limit = limit.max(Duration::from_micros(1));
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    TimeVal::new(seconds, limit.subsec_micros().into())
}

/// How long a send waits for the other process to read, if no other time is set.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the longest message.
pub const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn texts_and_descriptors_arrive_in_order() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel(theirs);
        let (reader, mut writer) = io::pipe().unwrap();
        ours.send("first", None).unwrap();
        ours.send("second", Some(reader.as_fd())).unwrap();
        drop(reader);
        let limit = Duration::from_secs(60);
        let (text, descriptor) = theirs.receive(limit).unwrap().unwrap();
        assert_eq!((text.as_str(), descriptor.is_none()), ("first", true));
        let (text, descriptor) = theirs.receive(limit).unwrap().unwrap();
        assert_eq!(text, "second");
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut through = String::new();
        let mut file = std::fs::File::from(descriptor.expect("a descriptor"));
        file.read_to_string(&mut through).unwrap();
        assert_eq!(through, "through");
        for limit in [Duration::from_millis(10), Duration::ZERO] {
            let nothing = theirs.receive(limit).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::TimedOut);
        }
        drop(ours);
        assert!(theirs.receive(limit).unwrap().is_none(), "the end");
    }
}
