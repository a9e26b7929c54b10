//! `data-integrity-alg`: the digest before the data of one direction (wire.md 3.3, 5.1).

use twinblk_proto::digest::Algorithm;

/// How the data of one direction is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integrity {
    Off,
    By(Algorithm),
    /// The peer named an algorithm that we lack: its data packets cannot even be taken apart.
    Unknown,
}

impl Integrity {
    pub(super) fn from_name(name: &str) -> Self {
        if name.is_empty() {
            return Self::Off;
        }
        Algorithm::from_name(name).map_or(Self::Unknown, Self::By)
    }

    /// Bytes of the digest.
    pub(super) fn length(self) -> usize {
        match self {
            Self::By(algorithm) => algorithm.length(),
            Self::Off | Self::Unknown => 0,
        }
    }

    /// Computes the digest of `data` and hands it to `user`. The usual one, crc32c, needs no
    /// memory; it is little-endian on the wire.
    pub(super) fn with_digest<T>(self, data: &[u8], user: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::By(Algorithm::Crc32c) => user(&crc32c::crc32c(data).to_le_bytes()),
            Self::By(algorithm) => user(&algorithm.digest(data)),
            Self::Off | Self::Unknown => user(&[]),
        }
    }
}
