//! A connected socket, TCP or unix: as a plain one that travels between threads, and as one that
//! a runtime drives.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;

/// Room for replies and requests in the kernel. The default of a unix socket, 208 KiB, counts
/// its book-keeping and is full after 270 tiny requests (nbd.md 5.3).
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A client's host that lost power is noticed after 30 + 3 x 10 = 60 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// See [`Stream::is_hung_up`].
pub fn is_hung_up(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        Err(_) => true,
    }
}

/// A connected client between two runtimes.
#[derive(Debug)]
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connected client on the runtime of its thread.
#[derive(Debug)]
pub enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// Options for a data stream. A refused option costs speed, not correctness.
    pub fn tune(&self) {
        let reference = SockRef::from(self);
        match self {
            Self::Tcp(_) => {
                let _ = reference.set_tcp_nodelay(true);
                let keepalive = TcpKeepalive::new()
                    .with_time(KEEPALIVE_IDLE)
                    .with_interval(KEEPALIVE_INTERVAL)
                    .with_retries(KEEPALIVE_RETRIES);
                let _ = reference.set_tcp_keepalive(&keepalive);
                // Without the privilege to exceed the system's limit, TCP's own sizing is better.
                let _ = sockopt::set_socket_send_buffer_size_force(self, SOCKET_BUFFER_BYTES);
                let _ = sockopt::set_socket_recv_buffer_size_force(self, SOCKET_BUFFER_BYTES);
            }
            Self::Unix(_) => {
                if sockopt::set_socket_send_buffer_size_force(self, SOCKET_BUFFER_BYTES).is_err() {
                    let _ = reference.set_send_buffer_size(SOCKET_BUFFER_BYTES);
                }
                if sockopt::set_socket_recv_buffer_size_force(self, SOCKET_BUFFER_BYTES).is_err() {
                    let _ = reference.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
                }
            }
        }
    }
}

impl Stream {
    /// Registers with the runtime of the calling thread.
    pub fn from_socket(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Self::Tcp(tokio::net::TcpStream::from_std(socket)?)
            }
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Self::Unix(tokio::net::UnixStream::from_std(socket)?)
            }
        })
    }

    /// Leaves its runtime. Bytes not read yet stay in the socket.
    pub fn into_socket(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(stream) => Socket::Tcp(stream.into_std()?),
            Self::Unix(stream) => Socket::Unix(stream.into_std()?),
        })
    }

    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
        }
    }

    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
        }
    }

    /// Reads what is there; 0 at the end of the stream, `WouldBlock` when nothing is there.
    ///
    /// A read that did not fill `slices` emptied the socket, and readiness is given up at once:
    /// the next wait does not cost a system call that only says so.
    pub fn try_read_vectored(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut received = None;
        let mut read = |fd: BorrowedFd<'_>| {
            let count = rustix::io::readv(fd, slices)?;
            received = Some(count);
            if count > 0 && count < wanted { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        };
        let outcome = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || read(stream.as_fd())),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || read(stream.as_fd())),
        };
        match (received, outcome) {
            (Some(count), _) => Ok(count),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    /// The far end has closed its direction, or the connection is lost, even where what it sent
    /// before has not been read.
    pub fn is_hung_up(&self) -> bool {
        let fd = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        is_hung_up(fd)
    }

    /// Ends both directions; what was written is still delivered.
    pub fn shut_down(&self) {
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
        };
    }
}
