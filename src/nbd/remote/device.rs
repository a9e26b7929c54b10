//! `/dev/nbdN` on top of lanes. The device is the kernel's: it outlives this process, and the next one
//! with the same target finds it by its identifier and gives it new sockets.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::dial::{DialError, Offer, dial, first_offer, still_fits};
use super::lane::{Lanes, serve};
use super::target::Target;
use super::{Limits, dial};
use crate::nbd::holders;
use crate::nbd::kernel::{self, KernelError, Patience, Shape};
use crate::nbd::stream::Socket;
use crate::nbd::wire::feature;

/// Before this name of the target: such a device is one of ours.
const IDENTIFIER: &str = "twinblk nbd-connect";
/// The kernel asks a process that does not answer again after this long. It is what is left over of
/// requests that were in flight when this process was killed; a failover does not wait for it.
const REQUEST_MIN_S: u64 = 10;
/// Each time that the kernel gave us up, it is told to wait twice as long, up to here.
const REQUEST_MAX_S: u64 = 128;
/// How soon to look again whether the kernel has noticed that its sockets are dead.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long it gets to notice, before somebody else is thought to serve the device...
const NOTICE_LIMIT: Duration = Duration::from_secs(10);
/// ...and all of them rather than some.
const ALL_LIMIT: Duration = Duration::from_secs(1);
/// How long the kernel may take to end a device.
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{0}")]
    NoServer(#[from] DialError),
    #[error("{device} is in use for something else: {backend}")]
    Occupied { device: String, backend: String },
    #[error("{target} is {device} already")]
    Elsewhere { target: Target, device: String },
    #[error("another process serves {device}")]
    Served { device: String },
    #[error("{0} is not set up")]
    NotSetUp(String),
    #[error("{device} is not a device of nbd-connect: {backend}")]
    Foreign { device: String, backend: String },
    #[error("{device} is in use: {holders}")]
    InUse { device: String, holders: String },
    #[error("{0} does not end")]
    Endless(String),
}

impl DeviceError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Kernel(error) => error.hint().to_owned(),
            Self::NoServer(_) => "look at the servers: twinblk status".to_owned(),
            Self::Occupied { device, .. } => {
                format!("take another one, or end it: nbd-client -d {device}")
            }
            Self::Elsewhere { device, .. } | Self::Served { device } => {
                format!("twinblk nbd-disconnect {device}")
            }
            Self::NotSetUp(_) => "lsblk".to_owned(),
            Self::Foreign { device, .. } => {
                format!("its own tool ends it; nbd-client -d {device} does, too")
            }
            Self::InUse { device, .. } => format!(
                "end what uses it; or, with I/O errors: twinblk nbd-disconnect --force {device}"
            ),
            Self::Endless(_) => "see the kernel's log: dmesg | grep nbd".to_owned(),
        }
    }
}

/// A device that waits to be served.
pub struct Held {
    index: u32,
    near: Vec<UnixStream>,
    connections: usize,
    lanes: Rc<Lanes>,
    patience: Patience,
}

impl fmt::Debug for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Held").field("index", &self.index).finish_non_exhaustive()
    }
}

fn name(index: u32) -> String {
    kernel::device_path(index).display().to_string()
}

fn identifier(target: &Target) -> String {
    kernel::shortened(&format!("{IDENTIFIER} {target}"))
}

/// Sets the device up, or takes over one that an earlier process left. A server has to be found
/// within `patience`, except for a device that is there already: what uses it can only wait.
pub async fn hold(
    target: Target,
    index: u32,
    connections: usize,
    limits: Limits,
    patience: Duration,
) -> Result<Held, DeviceError> {
    kernel::is_available()?;
    let identifier = identifier(&target);
    let kernel_patience =
        Patience { request_s: REQUEST_MIN_S, reconnect_s: limits.dead.as_secs().max(1) };
    if kernel::is_set_up(index) {
        let backend = kernel::backend_of(index).unwrap_or_else(|| "unknown".to_owned());
        if backend != identifier {
            return Err(DeviceError::Occupied { device: name(index), backend });
        }
        let size_bytes = kernel::size_bytes_of(index).unwrap_or(0);
        let fit = |offer: &Offer| match offer.size_bytes < size_bytes {
            true => still_fits(&Offer { size_bytes, ..*offer }, offer),
            false => Ok(()),
        };
        let failed = |error: DialError| tracing::debug!(%error, "waiting for a server");
        let (stream, offer) = dial(&target, fit, failed).await;
        dial::abandon(&stream);
        let known = Offer { size_bytes, ..offer };
        let lanes = Rc::new(Lanes::new(target, limits, known));
        let mut held =
            Held { index, near: Vec::new(), connections, lanes, patience: kernel_patience };
        if !held.take_again().await? {
            return Err(DeviceError::Served { device: name(index) });
        }
        return Ok(held);
    }
    if let Some(other) = kernel::find(&identifier, None) {
        return Err(DeviceError::Elsewhere { target, device: name(other) });
    }
    let offer = first_offer(&target, patience).await?;
    let connections = if offer.flags & feature::CAN_MULTI_CONN == 0 { 1 } else { connections };
    let shape = Shape {
        size_bytes: offer.size_bytes,
        block_bytes: offer.minimum_block_bytes.max(512),
        flags: offer.flags,
    };
    let (_, sockets) =
        kernel::connect(&shape, Some(index), connections, kernel_patience, &identifier)?;
    let near = plain(sockets);
    let lanes = Rc::new(Lanes::new(target, limits, offer));
    Ok(Held { index, near, connections, lanes, patience: kernel_patience })
}

fn plain(sockets: Vec<Socket>) -> Vec<UnixStream> {
    let unix = |socket| match socket {
        Socket::Unix(socket) => Some(socket),
        Socket::Tcp(_) => None,
    };
    sockets.into_iter().filter_map(unix).collect()
}

impl Held {
    /// Until somebody ends the device.
    pub async fn serve(mut self) -> Result<(), DeviceError> {
        loop {
            let mut running = JoinSet::new();
            for near in std::mem::take(&mut self.near) {
                let lanes = self.lanes.clone();
                running.spawn_local(async move { serve(&lanes, near).await });
            }
            let ended = tokio::select! {
                Some(ended) = running.join_next() => ended,
                never = self.follow_growth() => match never {},
            };
            // With one of them go all: the kernel repeats what was in flight, on new sockets, and
            // the server hears from the loss that nothing more comes from the old ones.
            drop(running);
            match ended {
                Ok(Ok(true)) => {
                    ended_within(self.index, END_LIMIT).await;
                    return Ok(());
                }
                Ok(Ok(false)) => {
                    tracing::info!(device = name(self.index), "the kernel dropped a connection");
                }
                Ok(Err(error)) => tracing::warn!(device = name(self.index), %error, "kernel"),
                Err(error) => tracing::error!(device = name(self.index), %error, "a lane ended"),
            }
            self.patience.request_s = (self.patience.request_s * 2).min(REQUEST_MAX_S);
            if !self.take_again().await? {
                return Ok(());
            }
        }
    }

    async fn follow_growth(&self) -> std::convert::Infallible {
        loop {
            let size_bytes = self.lanes.grown().await;
            let (index, identifier) = (self.index, identifier(&self.lanes.target));
            // It may wait for requests, and those for us.
            tokio::task::spawn_blocking(move || {
                let device = name(index);
                match kernel::resize(index, size_bytes, &identifier) {
                    Ok(()) => tracing::info!(device, size_bytes, "the device has grown"),
                    Err(error) => tracing::warn!(device, %error, "the device does not grow"),
                }
            });
        }
    }

    /// Gives the kernel new sockets for its dead ones. False: it has none, or no device any more.
    async fn take_again(&mut self) -> Result<bool, DeviceError> {
        let begun = Instant::now();
        let identifier = identifier(&self.lanes.target);
        while kernel::is_set_up(self.index) {
            let missing = self.connections - self.near.len();
            let taken = kernel::reconnect(self.index, missing, self.patience, &identifier);
            match taken {
                Ok(sockets) => self.near.extend(plain(sockets)),
                Err(_) if ended_within(self.index, LOOK_PAUSE).await => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            let is_enough = self.near.len() == self.connections
                || !self.near.is_empty() && begun.elapsed() > ALL_LIMIT;
            if is_enough {
                return Ok(true);
            }
            if begun.elapsed() > NOTICE_LIMIT {
                return Err(DeviceError::Served { device: name(self.index) });
            }
            sleep(LOOK_PAUSE).await;
        }
        Ok(false)
    }
}

async fn ended_within(index: u32, limit: Duration) -> bool {
    let begun = Instant::now();
    while kernel::is_set_up(index) {
        if begun.elapsed() > limit {
            return false;
        }
        sleep(LOOK_PAUSE).await;
    }
    true
}

/// Ends a device of this kind, and with it the process that serves it.
pub fn release(index: u32, force: bool) -> Result<(), DeviceError> {
    kernel::is_available()?;
    let device = name(index);
    if !kernel::is_set_up(index) {
        return Err(DeviceError::NotSetUp(device));
    }
    // Older kernels do not keep it: then whoever asks is believed.
    if let Some(backend) = kernel::backend_of(index)
        && !backend.starts_with(IDENTIFIER)
    {
        return Err(DeviceError::Foreign { device, backend });
    }
    if !force {
        let found = holders::holders(&format!("nbd{index}"));
        if !found.is_empty() {
            return Err(DeviceError::InUse { device, holders: holders::in_words(&found) });
        }
    }
    kernel::disconnect(index)?;
    let begun = std::time::Instant::now();
    // What is open keeps the device, without content, until it is closed.
    while !force && kernel::is_set_up(index) {
        if begun.elapsed() > END_LIMIT {
            return Err(DeviceError::Endless(device));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}
