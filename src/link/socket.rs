//! Sockets with the options that DRBD's need: listening, dialled, and the look whether one is
//! still open.

use std::io;
use std::net::SocketAddr;

use rustix::net::RecvFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::settings::LinkSettings;

/// Incoming connections that may wait: the peer has at most two under way, the rest are strangers.
const LISTEN_BACKLOG: i32 = 5;

fn apply_buffer_sizes(socket: &SockRef<'_>, settings: &LinkSettings) -> io::Result<()> {
    if settings.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(settings.send_buffer_bytes)?;
    }
    if settings.receive_buffer_bytes > 0 {
        socket.set_recv_buffer_size(settings.receive_buffer_bytes)?;
    }
    Ok(())
}

/// Listens on the local address. Connections of an earlier session may still linger there, hence
/// SO_REUSEADDR. Buffer sizes pass on to the accepted sockets.
pub(super) fn listen(settings: &LinkSettings) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(settings.local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    apply_buffer_sizes(&SockRef::from(&socket), settings)?;
    socket.set_nonblocking(true)?;
    socket.bind(&settings.local.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to the peer from the local address and any port. The caller limits the time.
pub(super) async fn dial(settings: &LinkSettings) -> io::Result<TcpStream> {
    let socket = match settings.peer {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // The port that the system picks must not keep a listener of ours from coming back.
    socket.set_reuseaddr(true)?;
    apply_buffer_sizes(&SockRef::from(&socket), settings)?;
    let mut from = settings.local;
    from.set_port(0);
    socket.bind(from)?;
    let stream = socket.connect(settings.peer).await?;
    // With nobody listening on a port of this very host TCP may connect a socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// True unless the other side closed the socket or it failed (wire.md 1.1, step 2). Reads nothing.
pub(super) fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0u8];
    match rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, received)) => received > 0,
        Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
    }
}
