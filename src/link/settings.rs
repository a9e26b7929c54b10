//! What the link is told by the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use twinblk_proto::digest::Algorithm;
use twinblk_proto::packet::features;

/// Payload bytes of received packets that may be alive at once. A client that asked for 64 MiB
/// of reads (the most the export admits) and does not take its replies must not stop replication,
/// which is given as much again.
const RECEIVE_BUDGET_BYTES: usize = 2 * (64 << 20);

/// `cram-hmac-alg` and `shared-secret`.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication {
    pub algorithm: Algorithm,
    pub secret: String,
}

impl fmt::Debug for Authentication {
    /// Without the secret: settings end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Addresses, limits and times of one connection; names are drbd.conf's where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Listened on, and the source address (with another port) of outgoing connections.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// `connect-int`: limit of one dial, and how long to wait for an incoming connection.
    pub connect_interval: Duration,
    /// `ping-timeout`: a quarter of the limit of every handshake packet (wire.md 1.2).
    pub ping_timeout: Duration,
    /// `sock-check-timeo`: how long a pair of sockets must last before it counts.
    pub socket_check: Duration,
    /// Wait after a handshake that failed but may work next time.
    pub retry_delay: Duration,
    /// `timeout`: how long a send may make no progress.
    pub send_timeout: Duration,
    /// `ko-count`: so many such times in a row on the data socket end the session; 0 = never.
    pub ko_count: u32,
    pub authentication: Option<Authentication>,
    /// `sndbuf-size` and `rcvbuf-size`; 0 leaves them to the system.
    pub send_buffer_bytes: usize,
    pub receive_buffer_bytes: usize,
    /// Payload bytes of received packets that may be alive before the data socket is left unread.
    pub receive_budget_bytes: usize,
    /// Protocol versions to offer.
    pub versions: RangeInclusive<u32>,
    /// Features to offer.
    pub features: u32,
}

impl LinkSettings {
    /// DRBD's defaults (wire.md 1.2, 3.1), and the feature by which two twinblk nodes know each
    /// other.
    pub fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local,
            peer,
            connect_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_millis(500),
            socket_check: Duration::from_millis(500),
            retry_delay: Duration::from_secs(1),
            send_timeout: Duration::from_secs(6),
            ko_count: 7,
            authentication: None,
            send_buffer_bytes: 0,
            receive_buffer_bytes: 0,
            receive_budget_bytes: RECEIVE_BUDGET_BYTES,
            versions: 86..=101,
            features: features::TRIM
                | features::THIN_RESYNC
                | features::WSAME
                | features::WZEROES
                | features::TWINBLK,
        }
    }

    /// Limit of one handshake packet, in either direction (wire.md 1.2).
    pub(super) fn handshake_limit(&self) -> Duration {
        self.ping_timeout * 4
    }
}
