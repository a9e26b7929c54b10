//! `TCP_CHECK`: does something accept connections? The other checks begin with the same.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Where a check connects to, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `connect_ip` and `connect_port`, or the real server's.
    pub address: SocketAddr,
    /// `bindto` and `bind_port`; port 0 is any.
    pub source: Option<SocketAddr>,
    pub connect_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("connection timed out")]
    TimedOut,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Target {
    pub(super) async fn connect(&self) -> Result<TcpStream, ConnectError> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if let Some(source) = self.source {
            socket.set_reuseaddr(true)?;
            socket.bind(source)?;
        }
        match timeout(self.connect_timeout, socket.connect(self.address)).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(ConnectError::TimedOut),
        }
    }
}

impl fmt::Display for Target {
    /// As keepalived writes a service.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}]:tcp:{}", self.address.ip(), self.address.port())
    }
}
