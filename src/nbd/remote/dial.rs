//! Dialling: the name is looked up, one attempt after the other is begun without waiting for those
//! before it, and the first that the export is given to is used.
//!
//! A connection request that went to a host that just lost the address is not answered, and TCP
//! repeats it after a second. Beginning anew twenty times a second finds the next holder at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::target::Target;
use crate::nbd::wire::{
    OPTION_MAGIC, OPTION_REPLY_MAGIC, SERVER_MAGIC, feature, handshake, info, option, option_reply,
};

/// One attempt with its handshake, however far away the server is.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
/// Attempts under way: at the quick pace each lives for 1.6 s, more than 20 round trips of 75 ms.
const ATTEMPTS_MAX: usize = 32;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// A new attempt begins this often...
const QUICK_PAUSE: Duration = Duration::from_millis(50);
/// ...for this long, which is what a failover takes; then less often.
const QUICK_TIME: Duration = Duration::from_secs(10);
const SLOW_PAUSE: Duration = Duration::from_millis(500);
/// The longest reply to GO that is of any use: a name or a text of 4 KiB.
const REPLY_BYTES_MAX: u32 = 8 << 10;
/// Replies to one option: each kind of information, the acknowledgement, and some to spare.
const REPLIES_MAX: usize = 32;
/// Keepalive of TCP itself, should the server's host vanish while nothing is said: the shortest that
/// there is.
const KEEPALIVE: Duration = Duration::from_secs(1);
const KEEPALIVE_RETRIES: u32 = 3;

/// What a server exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub size_bytes: u64,
    /// Transmission flags.
    pub flags: u16,
    pub minimum_block_bytes: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0} is not known: {1}")]
    Name(String, io::Error),
    #[error("{0}: {1}")]
    Connection(SocketAddr, io::Error),
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    #[error("{0} is no NBD server of today")]
    Foreign(SocketAddr),
    #[error("{0} does not serve it: {1}")]
    Refused(SocketAddr, String),
    #[error("{0}: {1}")]
    Unfit(SocketAddr, String),
}

/// What is exported there now, within a time limit. For the beginning, when nothing is known yet.
pub async fn first_offer(target: &Target, limit: Duration) -> Result<Offer, DialError> {
    let mut last = None;
    let dialled = dial(target, |_| Ok(()), |error| last = Some(error));
    match timeout(limit, dialled).await {
        Ok((stream, offer)) => {
            abandon(&stream);
            Ok(offer)
        }
        Err(_) => Err(last.unwrap_or_else(|| {
            DialError::Name(target.host.clone(), io::ErrorKind::TimedOut.into())
        })),
    }
}

/// Until there is a server whose offer is `fit`. `failed` hears why the others are not.
pub(super) async fn dial(
    target: &Target,
    fit: impl Fn(&Offer) -> Result<(), String>,
    mut failed: impl FnMut(DialError),
) -> (TcpStream, Offer) {
    let begun = Instant::now();
    let mut attempts = JoinSet::new();
    let mut known: Vec<SocketAddr> = Vec::new();
    loop {
        match timeout(LOOKUP_LIMIT, lookup_host((target.host.as_str(), target.port))).await {
            Ok(Ok(found)) => known = found.take(ADDRESSES_MAX).collect(),
            // Names are often served by what is failing over just now.
            Ok(Err(error)) if known.is_empty() => {
                failed(DialError::Name(target.host.clone(), error));
            }
            _ => {}
        }
        for address in &known {
            while attempts.len() >= ATTEMPTS_MAX {
                // They all are as old as each other; new ones are what counts.
                attempts.abort_all();
                attempts = JoinSet::new();
            }
            attempts.spawn(attempt(*address, target.export.clone()));
        }
        let is_quick = begun.elapsed() < QUICK_TIME;
        let pause = sleep(if is_quick { QUICK_PAUSE } else { SLOW_PAUSE });
        tokio::pin!(pause);
        loop {
            let ended = tokio::select! {
                () = &mut pause => break,
                Some(ended) = attempts.join_next() => ended,
            };
            match ended {
                Ok(Ok((address, stream, offer))) => match fit(&offer) {
                    Ok(()) => return (stream, offer),
                    Err(why) => {
                        abandon(&stream);
                        failed(DialError::Unfit(address, why));
                    }
                },
                Ok(Err(error)) => failed(error),
                Err(_) => {}
            }
        }
    }
}

async fn attempt(
    address: SocketAddr,
    export: String,
) -> Result<(SocketAddr, TcpStream, Offer), DialError> {
    let negotiated = async {
        let failed = |error| DialError::Connection(address, error);
        let mut stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(KEEPALIVE_RETRIES);
        // A refused option costs time in a rare case.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let offer = negotiate(&mut stream, address, &export).await?;
        Ok((address, stream, offer))
    };
    timeout(ATTEMPT_LIMIT, negotiated).await.unwrap_or(Err(DialError::Silent(address)))
}

/// Closes at once and throws away what was not sent: a request must not arrive after the one that
/// repeats it (docs/nbd-clients.md).
pub(super) fn abandon(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// GO, and nothing else: simple replies are all that the kernel understands (nbd.md 1.3).
async fn negotiate(
    stream: &mut TcpStream,
    address: SocketAddr,
    export: &str,
) -> Result<Offer, DialError> {
    let failed = |error| DialError::Connection(address, error);
    if stream.read_u64().await.map_err(failed)? != SERVER_MAGIC
        || stream.read_u64().await.map_err(failed)? != OPTION_MAGIC
    {
        return Err(DialError::Foreign(address));
    }
    let offered = stream.read_u16().await.map_err(failed)?;
    if offered & handshake::FIXED_NEWSTYLE == 0 {
        return Err(DialError::Foreign(address));
    }
    let flags = offered & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    let mut hello = u32::from(flags).to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend(option::GO.to_be_bytes());
    hello.extend((export.len() as u32 + 8).to_be_bytes());
    hello.extend((export.len() as u32).to_be_bytes());
    hello.extend(export.as_bytes());
    hello.extend(1_u16.to_be_bytes());
    hello.extend(info::BLOCK_SIZE.to_be_bytes());
    stream.write_all(&hello).await.map_err(failed)?;
    let mut size_and_flags = None;
    let mut minimum_block_bytes = 1;
    for _ in 0..REPLIES_MAX {
        let magic = stream.read_u64().await.map_err(failed)?;
        let number = stream.read_u32().await.map_err(failed)?;
        let kind = stream.read_u32().await.map_err(failed)?;
        let length = stream.read_u32().await.map_err(failed)?;
        if magic != OPTION_REPLY_MAGIC || number != option::GO || length > REPLY_BYTES_MAX {
            return Err(DialError::Foreign(address));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data).await.map_err(failed)?;
        match (kind, data.split_first_chunk::<2>()) {
            (option_reply::ACK, _) => {
                let (size_bytes, flags) = size_and_flags.ok_or(DialError::Foreign(address))?;
                return Ok(Offer { size_bytes, flags, minimum_block_bytes });
            }
            (option_reply::INFO, Some((kind, rest))) => match u16::from_be_bytes(*kind) {
                info::EXPORT => {
                    let (size, flags) =
                        rest.split_first_chunk::<8>().ok_or(DialError::Foreign(address))?;
                    let flags = flags.first_chunk::<2>().ok_or(DialError::Foreign(address))?;
                    size_and_flags = Some((u64::from_be_bytes(*size), u16::from_be_bytes(*flags)));
                }
                info::BLOCK_SIZE => {
                    let minimum = rest.first_chunk::<4>().ok_or(DialError::Foreign(address))?;
                    minimum_block_bytes = u32::from_be_bytes(*minimum);
                }
                _ => {}
            },
            (option_reply::INFO, None) => return Err(DialError::Foreign(address)),
            _ => {
                let said = String::from_utf8_lossy(&data).into_owned();
                return Err(DialError::Refused(address, said));
            }
        }
    }
    Err(DialError::Foreign(address))
}

/// What those who know a device with `known` rely on is still true.
pub(super) fn still_fits(known: &Offer, found: &Offer) -> Result<(), String> {
    /// Told to the kernel once.
    const RELIED_ON: u16 = feature::SEND_FLUSH
        | feature::SEND_FUA
        | feature::SEND_TRIM
        | feature::SEND_WRITE_ZEROES
        | feature::CAN_MULTI_CONN;
    if found.size_bytes < known.size_bytes {
        return Err(format!(
            "the export has {} bytes and had {}: it is not used",
            found.size_bytes, known.size_bytes
        ));
    }
    let missing = known.flags & !found.flags & RELIED_ON;
    if missing != 0 {
        return Err(format!("the export has lost abilities (flags {missing:#x}): it is not used"));
    }
    if (known.flags ^ found.flags) & feature::READ_ONLY != 0 {
        return Err("the export is not writable, or not read-only, as it was".to_owned());
    }
    if found.minimum_block_bytes > known.minimum_block_bytes.max(512) {
        return Err(format!("its blocks of {} bytes are larger", found.minimum_block_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_may_grow_and_nothing_else() {
        let flags = feature::HAS_FLAGS | feature::SEND_FLUSH | feature::SEND_FUA;
        let known = Offer { size_bytes: 1 << 20, flags, minimum_block_bytes: 512 };
        assert_eq!(still_fits(&known, &known), Ok(()));
        assert_eq!(still_fits(&known, &Offer { size_bytes: 2 << 20, ..known }), Ok(()));
        let shrunk = Offer { size_bytes: (1 << 20) - 512, ..known };
        assert!(still_fits(&known, &shrunk).is_err_and(|why| why.contains("1048064 bytes")));
        let without_flush = Offer { flags: flags & !feature::SEND_FLUSH, ..known };
        assert!(still_fits(&known, &without_flush).is_err());
        let read_only = Offer { flags: flags | feature::READ_ONLY, ..known };
        assert!(still_fits(&known, &read_only).is_err());
        assert!(still_fits(&known, &Offer { minimum_block_bytes: 4096, ..known }).is_err());
        assert_eq!(still_fits(&known, &Offer { minimum_block_bytes: 1, ..known }), Ok(()));
    }
}
