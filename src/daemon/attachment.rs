//! The block device of this machine: `/dev/nbdN` of the kernel, served by a resource while it is
//! Primary, and `/dev/drbdN` as a link to it.
//!
//! ```text
//!   none --- Primary ---> attached --- daemon ends ---> waiting --- Primary again ---> attached
//!     ^                      |                             |
//!     +-- secondary, down, --+                             +-- the peer's data took over: ended,
//!         detach-device: refused while somebody uses it        what uses it gets I/O errors
//! ```
//!
//! The device is the kernel's. A daemon that ends, killed or by SIGTERM, leaves it behind with its
//! requests waiting; the next one finds it by its identifier. A resource that comes up with such a
//! device in use takes the primary role again as soon as the peer confirms that it did not.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout};
use twinblk_proto::state::{ConnectionState, DiskState, Role};

use super::options::DaemonOptions;
use super::translate::Plan;
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::control::status::KernelDeviceStatus;
use crate::driver::{Exports, ResourceHandle, Snapshot};
use crate::engine::event::Verb;
use crate::nbd::holders;
use crate::nbd::kernel::{self, KernelError, Patience, Shape};
use crate::nbd::netlink::NetlinkError;
use crate::nbd::{Accepted, Origin, Socket};

/// Sockets of a device: each is a queue of 128 requests. Two at least; more than four cost more to
/// set up than they give to one serving thread (nbd.md 3.2).
const SOCKETS_MIN: usize = 2;
const SOCKETS_MAX: usize = 4;

/// A request without an answer is sent again this long after the time at which a silent peer is
/// given up: on a slow answer the kernel would drop a connection that works.
const REQUEST_MARGIN_S: u64 = 2;
/// No shorter: a disk may take seconds.
const REQUEST_MIN_S: u64 = 5;
/// Each time that the kernel gave a working connection up, it is told to wait twice as long, up to
/// here: requests that take longer than it waits would otherwise never be answered.
const REQUEST_MAX_S: u64 = 128;
/// How long a device without a daemon keeps its requests: a day. `detach-device --force` ends it
/// sooner.
const RECONNECT_S: u64 = 24 * 60 * 60;

/// The kernel answers each question within 30 s or not at all; setting up takes a few of them.
const KERNEL_LIMIT: Duration = Duration::from_secs(40);
/// How long the driver's connections get to end after the kernel has ended the device.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// How long a look at the device may take that reads from it.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// What looks at every new device for a moment (udev) is given this time to finish.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// How soon to try again when the kernel has not noticed yet that a socket died.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// DRBD's number for "held open" (behaviour.md 1.5).
const DEVICE_IN_USE: (i32, &str) = (-12, "Device is held open by someone");

/// A device that the kernel has set up for this resource.
#[derive(Clone, Copy, Debug)]
struct Device {
    index: u32,
    size_bytes: u64,
    sockets: usize,
    request_s: u64,
    /// [`Snapshot::takeovers`] when it was last certain that the device's content is ours.
    takeovers: u64,
    /// It was served by this daemon before: sockets that die now were given up by the kernel.
    was_served: bool,
}

#[derive(Debug)]
pub(super) struct Attachment {
    name: String,
    identifier: String,
    link: PathBuf,
    note: PathBuf,
    request_s: u64,
    /// Held while the device is being changed.
    device: Mutex<Option<Device>>,
    /// A primary should have one.
    wanted: Cell<bool>,
    /// The last attempt failed: no further one before the role changes or somebody asks.
    gave_up: Cell<bool>,
    shown: RefCell<KernelDeviceStatus>,
}

impl Attachment {
    pub(super) fn new(options: &DaemonOptions, plan: &Plan) -> Self {
        let name = plan.setup.name.clone();
        // `timeout` is in tenths of a second.
        let peer_s = u64::from(plan.view.net.timeout).div_ceil(10);
        let attachment = Self {
            identifier: kernel::identifier(&options.node, &name, &options.run_dir),
            link: PathBuf::from(&plan.view.me.device),
            note: options.run_dir.join(format!("{name}.device")),
            request_s: (peer_s + REQUEST_MARGIN_S).max(REQUEST_MIN_S),
            device: Mutex::new(None),
            wanted: Cell::new(plan.view.me.nbd.attach),
            gave_up: Cell::new(false),
            shown: RefCell::default(),
            name,
        };
        attachment.adopt();
        attachment
    }

    /// Takes over what an earlier daemon left behind.
    fn adopt(&self) {
        let Some(index) = kernel::find(&self.identifier, kernel::remembered(&self.note)) else {
            return;
        };
        let device = Device {
            index,
            size_bytes: kernel::size_bytes_of(index).unwrap_or(0),
            sockets: socket_count(),
            request_s: self.request_s,
            takeovers: 0,
            was_served: false,
        };
        tracing::info!(resource = self.name, index, "found the kernel device of an earlier daemon");
        *self.device.try_lock().expect("nobody else knows it yet") = Some(device);
        self.wanted.set(true);
        self.show(&device, 0);
    }

    pub(super) fn status(&self) -> KernelDeviceStatus {
        let mut status = self.shown.borrow().clone();
        if let Some(disk) = status.path.strip_prefix("/dev/") {
            status.holders = holders::quick_holders(disk);
        }
        status
    }

    fn show(&self, device: &Device, sockets: usize) {
        let linked = std::fs::read_link(&self.link)
            .is_ok_and(|target| target == kernel::device_path(device.index));
        *self.shown.borrow_mut() = KernelDeviceStatus {
            path: kernel::device_path(device.index).display().to_string(),
            link: if linked { self.link.display().to_string() } else { String::new() },
            state: if sockets > 0 { "attached" } else { "waiting" }.to_owned(),
            sockets: sockets as u64,
            ..KernelDeviceStatus::default()
        };
    }

    fn show_none(&self) {
        *self.shown.borrow_mut() = KernelDeviceStatus::default();
    }

    fn show_trouble(&self, error: &KernelError) {
        let mut shown = self.shown.borrow_mut();
        shown.reason = error.to_string();
        shown.hint = error.hint().to_owned();
    }

    /// Brings the device in line with the resource: sets it up, gives it new sockets, tells it the
    /// size, ends it when its content is of the past. True: look again soon.
    pub(super) async fn reconcile(
        &self,
        handle: &ResourceHandle,
        exports: &Exports,
    ) -> Result<bool, KernelError> {
        let mut place = self.device.lock().await;
        let Ok(snapshot) = handle.snapshot().await else { return Ok(false) };
        let is_primary = snapshot.engine.state.role == Role::Primary;
        if !is_primary {
            self.gave_up.set(false);
        }
        let Some(mut device) = *place else {
            if !is_primary || !self.wanted.get() || self.gave_up.get() {
                return Ok(false);
            }
            let Some(export) = exports.find(&self.name).filter(|export| export.serving.is_ok())
            else {
                return Ok(false);
            };
            let outcome = self.set_up(&snapshot, export, exports).await;
            match &outcome {
                Ok(device) => *place = Some(*device),
                Err(error) => {
                    self.gave_up.set(true);
                    self.show_trouble(error);
                }
            }
            return outcome.map(|_| true);
        };
        if snapshot.takeovers != device.takeovers {
            tracing::error!(
                resource = self.name,
                device = %kernel::device_path(device.index).display(),
                "the peer's data took over while the device waited: it is ended, what uses it gets \
                 I/O errors"
            );
            self.end(&mut place).await?;
            return Ok(true);
        }
        if !is_primary {
            self.show(&device, 0);
            return Ok(self.resume(handle, &snapshot, device.index).await);
        }
        let missing = device.sockets.saturating_sub(snapshot.kernel_sockets);
        if missing > 0 && !kernel::is_set_up(device.index) {
            tracing::info!(resource = self.name, "somebody else ended the kernel device");
            self.wanted.set(false);
            kernel::unpublish(&self.link, device.index);
            kernel::forget(&self.note);
            *place = None;
            self.show_none();
            return Ok(false);
        }
        let Some(export) = exports.find(&self.name).filter(|export| export.serving.is_ok()) else {
            return Ok(false);
        };
        let mut taken = 0;
        if missing > 0 {
            if device.was_served && snapshot.kernel_sockets == 0 {
                device.request_s = (device.request_s * 2).min(REQUEST_MAX_S);
            }
            let (index, patience) = (device.index, patience(device.request_s));
            let identifier = self.identifier.clone();
            let asked =
                off_thread(move || kernel::reconnect(index, missing, patience, &identifier)).await;
            let sockets = match asked {
                Ok(sockets) => sockets,
                Err(error) => return if has_ended(index).await { Ok(true) } else { Err(error) },
            };
            taken = sockets.len();
            device.was_served |= taken > 0;
            self.hand_over(exports, export.clone(), index, sockets);
            tracing::info!(resource = self.name, index, taken, "kernel device has new sockets");
        }
        // Only now: a change of the size may wait for requests, and those for sockets.
        let (index, size_bytes) = (device.index, export.size_bytes);
        let mut sized = Ok(());
        if device.size_bytes != size_bytes && missing == taken {
            device.size_bytes = size_bytes;
            let identifier = self.identifier.clone();
            sized = off_thread(move || kernel::resize(index, size_bytes, &identifier)).await;
        }
        let published = kernel::publish(&self.link, index);
        *place = Some(device);
        self.show(&device, snapshot.kernel_sockets + taken);
        for outcome in [sized, published] {
            if let Err(error) = outcome {
                tracing::warn!(resource = self.name, %error, "kernel device");
                self.show_trouble(&error);
            }
        }
        Ok(taken < missing)
    }

    async fn set_up(
        &self,
        snapshot: &Snapshot,
        export: crate::nbd::ExportInfo,
        exports: &Exports,
    ) -> Result<Device, KernelError> {
        let identifier = self.identifier.clone();
        let (described, request_s, count) = (export.clone(), self.request_s, socket_count());
        let (index, sockets) = off_thread(move || {
            // Of an attempt that nobody waited for to the end.
            if let Some(index) = kernel::find(&identifier, None) {
                kernel::disconnect(index)?;
            }
            kernel::connect(&Shape::of(&described), None, count, patience(request_s), &identifier)
        })
        .await?;
        let device = Device {
            index,
            size_bytes: export.size_bytes,
            sockets: count,
            request_s,
            takeovers: snapshot.takeovers,
            was_served: true,
        };
        self.hand_over(exports, export, index, sockets);
        kernel::remember(&self.note, index);
        let published = kernel::publish(&self.link, index);
        self.show(&device, count);
        if let Err(error) = published {
            tracing::warn!(resource = self.name, %error, "kernel device without its name");
            self.show_trouble(&error);
        }
        tracing::info!(resource = self.name, index, sockets = count, "kernel device set up");
        Ok(device)
    }

    fn hand_over(
        &self,
        exports: &Exports,
        export: crate::nbd::ExportInfo,
        index: u32,
        sockets: Vec<Socket>,
    ) {
        for socket in sockets {
            exports.hand_over(Accepted {
                socket,
                negotiated: kernel::negotiated(export.clone()),
                peer: format!("kernel device {}", kernel::device_path(index).display()),
                permit: None,
                origin: Origin::KernelDevice,
            });
        }
    }

    /// A device in use waits for this resource: it takes the role again that the last daemon had,
    /// if the peer is there to confirm that it has not taken it meanwhile. Alone, it is for the
    /// operator (or what watches over the pair) to say. True: look again soon.
    async fn resume(&self, handle: &ResourceHandle, snapshot: &Snapshot, index: u32) -> bool {
        let state = &snapshot.engine.state;
        let is_confirmed = state.connection >= ConnectionState::Connected
            && state.peer == Role::Secondary
            && state.disk == DiskState::UpToDate;
        if !is_confirmed {
            return false;
        }
        let disk = format!("nbd{index}");
        let holders = off_thread_within(LOOK_LIMIT, move || holders::holders(&disk)).await;
        let Some(holders) = holders.filter(|holders| !holders.is_empty()) else { return false };
        let held = holders::in_words(&holders);
        tracing::info!(resource = self.name, held, "primary again for the device that waits");
        match handle.perform(Verb::Primary { force: false }).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => tracing::warn!(
                resource = self.name,
                text = refusal.text,
                detail = refusal.detail,
                "not primary again yet"
            ),
            Err(_) => return false,
        }
        true
    }

    /// The verb: attach now, and whenever this node becomes Primary.
    pub(super) async fn attach(&self, handle: &ResourceHandle, exports: &Exports) -> Outcome {
        let Ok(snapshot) = handle.snapshot().await else {
            return Outcome::no_such_resource(&self.name);
        };
        if snapshot.engine.state.role != Role::Primary {
            let message = format!("{}: only a primary has a device", self.name);
            return Outcome::failed(exit::STATE_CHANGE, message)
                .with_detail(format!("{} is Secondary on this node", self.name))
                .with_hint(format!("twinblk primary {}", self.name));
        }
        self.wanted.set(true);
        self.gave_up.set(false);
        match self.reconcile(handle, exports).await {
            Ok(_) if self.shown.borrow().path.is_empty() => {
                Outcome::failed(exit::OTHER, format!("{}: not served yet", self.name))
                    .with_hint(format!("twinblk status {}", self.name))
            }
            Ok(_) => Outcome::done(),
            Err(error) => {
                let message = format!("{}: cannot attach: {error}", self.name);
                Outcome::failed(exit::OTHER, message).with_hint(error.hint())
            }
        }
    }

    /// The verb: detach, and stay detached until somebody asks.
    pub(super) async fn detach(&self, handle: &ResourceHandle, force: bool) -> Outcome {
        let Err(outcome) = self.release(handle, force).await else {
            self.wanted.set(false);
            return Outcome::done();
        };
        outcome
    }

    /// Ends the device, unless somebody uses it and `force` is not set. While the guard lives, it
    /// is not set up again.
    pub(super) async fn release(
        &self,
        handle: &ResourceHandle,
        force: bool,
    ) -> Result<Released<'_>, Outcome> {
        let mut place = self.device.lock().await;
        let Some(device) = *place else { return Ok(Released { _place: place }) };
        let is_served = self.shown.borrow().sockets > 0;
        let held = self.holders(device.index, is_served).await;
        if !held.is_empty() && !force {
            return Err(self.held_open(device.index, &held));
        }
        if !held.is_empty() {
            let held = holders::in_words(&held);
            tracing::warn!(resource = self.name, held, "the device is ended while it is in use");
        }
        self.end(&mut place).await.map_err(|error| {
            Outcome::failed(exit::OTHER, format!("{}: cannot detach: {error}", self.name))
                .with_hint(error.hint())
        })?;
        if timeout(QUIET_LIMIT, quiet(handle)).await.is_err() {
            tracing::warn!(resource = self.name, "requests of the kernel device do not end");
        }
        Ok(Released { _place: place })
    }

    /// Whether a daemon that ends should leave the device to the next one.
    pub(super) async fn is_held(&self) -> Option<Outcome> {
        let place = self.device.lock().await;
        let device = (*place)?;
        let is_served = self.shown.borrow().sockets > 0;
        let held = self.holders(device.index, is_served).await;
        (!held.is_empty()).then(|| self.held_open(device.index, &held))
    }

    async fn end(&self, place: &mut Option<Device>) -> Result<(), KernelError> {
        let Some(device) = *place else { return Ok(()) };
        off_thread(move || kernel::disconnect(device.index)).await?;
        kernel::unpublish(&self.link, device.index);
        kernel::forget(&self.note);
        *place = None;
        self.show_none();
        tracing::info!(resource = self.name, index = device.index, "kernel device ended");
        Ok(())
    }

    fn held_open(&self, index: u32, held: &[String]) -> Outcome {
        let (code, text) = DEVICE_IN_USE;
        let device = kernel::device_path(index);
        let detail = format!("{}: {}", device.display(), holders::in_words(held));
        let hint = match held.iter().find_map(|holder| holder.strip_prefix("mounted on ")) {
            Some(point) => format!("umount {point}"),
            None => "end what uses it".to_owned(),
        };
        let name = &self.name;
        let hint = format!("{hint}; or, with I/O errors: twinblk detach-device --force {name}");
        Outcome::refused(name, code, text, &detail, &hint)
    }

    /// Who uses the device. Those who only look at every new device for a moment are waited for.
    async fn holders(&self, index: u32, is_served: bool) -> Vec<String> {
        let disk = format!("nbd{index}");
        let limit = Instant::now() + PROBE_LIMIT;
        loop {
            let disk = disk.clone();
            let found = off_thread_within(LOOK_LIMIT, move || holders::holders(&disk)).await;
            let found = found.unwrap_or_else(|| vec!["something that cannot be seen".to_owned()]);
            let passing = |holder: &String| holder.contains("udev") || holder.contains("(blkid)");
            if found.is_empty() || !found.iter().all(passing) || Instant::now() > limit {
                if !found.is_empty() || !is_served {
                    return found;
                }
                break;
            }
            sleep(PROBE_PAUSE).await;
        }
        let path = kernel::device_path(index);
        match off_thread_within(LOOK_LIMIT, move || holders::is_claimed(&path)).await {
            Some(true) => vec!["a file system or program of another namespace".to_owned()],
            // Nobody can mount what does not answer.
            Some(false) | None => Vec::new(),
        }
    }
}

/// The device is ended, and stays so as long as this lives.
#[derive(Debug)]
pub(super) struct Released<'a> {
    _place: tokio::sync::MutexGuard<'a, Option<Device>>,
}

/// Whether a device that refuses sockets is one that somebody else is ending just now.
async fn has_ended(index: u32) -> bool {
    let limit = Instant::now() + PROBE_LIMIT;
    while kernel::is_set_up(index) {
        if Instant::now() > limit {
            return false;
        }
        sleep(PROBE_PAUSE).await;
    }
    true
}

/// Until the driver has no connection of the kernel any more.
async fn quiet(handle: &ResourceHandle) {
    while let Ok(snapshot) = handle.snapshot().await {
        if snapshot.kernel_sockets == 0 && !snapshot.clients.iter().any(|client| client.is_kernel) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn patience(request_s: u64) -> Patience {
    Patience { request_s, reconnect_s: RECONNECT_S }
}

fn socket_count() -> usize {
    std::thread::available_parallelism()
        .map_or(SOCKETS_MIN, |count| count.get().clamp(SOCKETS_MIN, SOCKETS_MAX))
}

/// A thread for each question to the kernel, rather than one of the runtime: one that hangs must
/// not keep the process from ending.
async fn off_thread_within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("kernel-device".to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })
        .ok()?;
    timeout(limit, receiver).await.ok()?.ok()
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    let answer = off_thread_within(KERNEL_LIMIT, work).await;
    answer.unwrap_or(Err(KernelError::Netlink(NetlinkError::Silent)))
}
