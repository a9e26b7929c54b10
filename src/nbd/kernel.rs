//! `/dev/nbdN`: an export as a block device of this machine, through the kernel's nbd driver.
//!
//! The kernel is handed the far ends of socket pairs on which the handshake counts as done: size,
//! block size and flags go with them. The device belongs to the kernel, not to this process
//! (nbd.md 3.2): when the sockets die, requests wait, and whoever comes next with the same
//! identifier gives it new ones. Everything here blocks for as long as the kernel takes; none of it
//! waits for a request to the device.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::export::ExportInfo;
use super::negotiation::Negotiated;
use super::netlink::{Control, DeviceSettings, NetlinkError};
use super::stream::{Socket, is_hung_up};

/// Requests up to this size arrive in one piece, as large as a request to the peer may be; the
/// kernel's own choice of 128 KiB makes eight of each MiB (nbd.md 1.4).
const MAX_SECTORS_KIB: u64 = 1024;
/// The longest identifier that is sent: attributes are short, and people read it in sysfs.
const IDENTIFIER_BYTES_MAX: usize = 128;
/// Somebody else may take the free device that the kernel had chosen.
const CONNECT_TRIES: usize = 5;

const SYSTEM_BLOCK: &str = "/sys/block";

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("no nbd device is free")]
    NoFreeDevice,
    #[error("cannot make sockets: {0}")]
    Sockets(io::Error),
    #[error("the kernel does not take {} as the size of {device}: it says {}", .wanted, .found)]
    NotResized { device: String, wanted: u64, found: u64 },
    #[error("{path} is not a symbolic link: {kind}", path = .path.display())]
    LinkOccupied { path: PathBuf, kind: &'static str },
    #[error("cannot make the link {path}: {source}", path = .path.display())]
    Link { path: PathBuf, source: io::Error },
}

impl KernelError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Netlink(NetlinkError::NoDriver) => "modprobe nbd",
            Self::Netlink(NetlinkError::NotPermitted) => {
                "run the daemon as root, or with CAP_SYS_ADMIN"
            }
            Self::NoFreeDevice => {
                "modprobe -r nbd && modprobe nbd nbds_max=64, or free one: nbd-client -d /dev/nbdN"
            }
            Self::LinkOccupied { .. } => "move it away, or name another device in drbd.conf",
            _ => "see the kernel's log: dmesg | grep nbd",
        }
    }
}

/// How the kernel treats requests that are not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Sent again after this time without an answer.
    pub request_s: u64,
    /// Failed after this time without a socket.
    pub reconnect_s: u64,
}

/// What the kernel is told of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub size_bytes: u64,
    pub block_bytes: u32,
    /// Transmission flags. FLUSH must be among them, or fsync becomes a no-op (nbd.md 0.2).
    pub flags: u16,
}

impl Shape {
    pub fn of(export: &ExportInfo) -> Self {
        Self {
            size_bytes: export.size_bytes,
            block_bytes: export.minimum_block_bytes,
            flags: export.transmission_flags(false),
        }
    }
}

/// Who may give the device new sockets. The kernel keeps it with the device and asks for it
/// (since 5.14).
pub fn identifier(node: &str, resource: &str, run_dir: &Path) -> String {
    shortened(&format!("twinblk {resource} of {node} in {}", run_dir.display()))
}

/// An identifier as the kernel keeps it.
pub fn shortened(identifier: &str) -> String {
    identifier[..identifier.floor_char_boundary(IDENTIFIER_BYTES_MAX)].to_owned()
}

/// What the kernel counts as negotiated: simple replies, no contexts.
pub fn negotiated(export: ExportInfo) -> Negotiated {
    Negotiated { export, structured: false, contexts: Default::default() }
}

pub fn device_path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/nbd{index}"))
}

/// Whether the driver is loaded and this process may use it.
pub fn is_available() -> Result<(), KernelError> {
    Control::open()?;
    Ok(())
}

/// Makes an export a block device: `index`, or one that the kernel chooses. Returns its number and
/// our ends of the sockets, to be served.
pub fn connect(
    shape: &Shape,
    index: Option<u32>,
    sockets: usize,
    patience: Patience,
    identifier: &str,
) -> Result<(u32, Vec<Socket>), KernelError> {
    let mut control = Control::open()?;
    for _ in 0..CONNECT_TRIES {
        let (ours, theirs) = pairs(sockets)?;
        let theirs_fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let settings = DeviceSettings {
            index,
            size_bytes: Some(shape.size_bytes),
            block_size_bytes: Some(u64::from(shape.block_bytes)),
            timeout_s: Some(patience.request_s),
            server_flags: Some(u64::from(shape.flags)),
            dead_connection_timeout_s: Some(patience.reconnect_s),
            backend_identifier: Some(identifier),
            sockets: &theirs_fds,
        };
        match control.connect(&settings) {
            Ok(index) => {
                enlarge_requests(index);
                return Ok((index, ours));
            }
            Err(NetlinkError::Refused(Errno::BUSY)) if index.is_some() => break,
            Err(NetlinkError::Refused(Errno::BUSY | Errno::NOENT)) => {}
            Err(NetlinkError::Refused(Errno::NOMEM | Errno::NOSPC | Errno::EXIST)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Err(KernelError::NoFreeDevice)
}

/// Gives the device new sockets in place of its dead ones. Returns our ends of those that it took:
/// none if none was dead.
pub fn reconnect(
    index: u32,
    sockets: usize,
    patience: Patience,
    identifier: &str,
) -> Result<Vec<Socket>, KernelError> {
    let mut control = Control::open()?;
    let (ours, theirs) = pairs(sockets)?;
    let theirs_fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
    control.reconfigure(&DeviceSettings {
        index: Some(index),
        timeout_s: Some(patience.request_s),
        dead_connection_timeout_s: Some(patience.reconnect_s),
        backend_identifier: Some(identifier),
        sockets: &theirs_fds,
        ..DeviceSettings::default()
    })?;
    drop(theirs);
    enlarge_requests(index);
    // The kernel drops a socket that it has no use for without a word; its end shows it.
    Ok(ours.into_iter().filter(|socket| !is_hung_up(socket)).collect())
}

/// Tells the kernel the new size, alone: the sockets that are alive stay.
pub fn resize(index: u32, size_bytes: u64, identifier: &str) -> Result<(), KernelError> {
    Control::open()?.reconfigure(&DeviceSettings {
        index: Some(index),
        size_bytes: Some(size_bytes),
        backend_identifier: Some(identifier),
        ..DeviceSettings::default()
    })?;
    let found = size_bytes_of(index);
    if found != Some(size_bytes) {
        let device = device_path(index).display().to_string();
        let found = found.unwrap_or(0);
        return Err(KernelError::NotResized { device, wanted: size_bytes, found });
    }
    Ok(())
}

/// Ends the device: what waits in it fails.
pub fn disconnect(index: u32) -> Result<(), KernelError> {
    match Control::open()?.disconnect(index) {
        // Somebody was faster.
        Err(NetlinkError::Refused(Errno::INVAL | Errno::NODEV)) if !is_set_up(index) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The device that an earlier daemon set up under this identifier. `remembered` is believed where
/// the kernel is too old to keep identifiers.
pub fn find(identifier: &str, remembered: Option<u32>) -> Option<u32> {
    let mut keeps_identifiers = false;
    for index in set_up_devices() {
        if let Some(backend) = attribute(index, "backend") {
            keeps_identifiers = true;
            if backend == identifier {
                return Some(index);
            }
        }
    }
    remembered.filter(|index| !keeps_identifiers && is_set_up(*index))
}

/// Whether the kernel has the device set up at all, dead sockets or not.
pub fn is_set_up(index: u32) -> bool {
    system_folder(index).join("pid").exists()
}

/// The identifier that it was set up with, where the kernel keeps it.
pub fn backend_of(index: u32) -> Option<String> {
    attribute(index, "backend")
}

pub fn size_bytes_of(index: u32) -> Option<u64> {
    attribute(index, "size")?.parse::<u64>().ok().map(|sectors| sectors * 512)
}

/// Makes `link` a symbolic link to the device, in one step. Something that is not a symbolic link
/// is not touched: it may be a device of the kernel's own DRBD.
pub fn publish(link: &Path, index: u32) -> Result<(), KernelError> {
    let failed = |source| KernelError::Link { path: link.to_owned(), source };
    match fs::symlink_metadata(link) {
        Ok(found) if !found.file_type().is_symlink() => {
            let kind = if found.file_type().is_block_device() {
                "it is a block device; is the kernel's DRBD loaded?"
            } else {
                "it is something else"
            };
            return Err(KernelError::LinkOccupied { path: link.to_owned(), kind });
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut hidden = link.as_os_str().to_owned();
    hidden.push("~");
    let _ = fs::remove_file(&hidden);
    std::os::unix::fs::symlink(device_path(index), &hidden)
        .and_then(|()| fs::rename(&hidden, link))
        .map_err(failed)
}

/// Removes the link, if it is one to this device.
pub fn unpublish(link: &Path, index: u32) {
    if fs::read_link(link).is_ok_and(|target| target == device_path(index)) {
        let _ = fs::remove_file(link);
    }
}

/// Remembers the number of a device for kernels that keep no identifier.
pub fn remember(note: &Path, index: u32) {
    if let Err(error) = fs::write(note, format!("{index}\n")) {
        tracing::warn!(note = %note.display(), %error, "cannot note the number of the device");
    }
}

pub fn remembered(note: &Path) -> Option<u32> {
    fs::read_to_string(note).ok()?.trim().parse().ok()
}

pub fn forget(note: &Path) {
    let _ = fs::remove_file(note);
}

fn pairs(count: usize) -> Result<(Vec<Socket>, Vec<UnixStream>), KernelError> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..count {
        let (our, their) = UnixStream::pair().map_err(KernelError::Sockets)?;
        let our = Socket::Unix(our);
        our.tune();
        // The far end sends requests with their payloads: it needs the room as much.
        let their = Socket::Unix(their);
        their.tune();
        let Socket::Unix(their) = their else { unreachable!("made above") };
        ours.push(our);
        theirs.push(their);
    }
    Ok((ours, theirs))
}

fn set_up_devices() -> Vec<u32> {
    let folders = fs::read_dir(SYSTEM_BLOCK).into_iter().flatten().flatten();
    let index = |name: &str| name.strip_prefix("nbd")?.parse().ok();
    let mut found: Vec<u32> =
        folders.filter_map(|entry| index(&entry.file_name().to_string_lossy())).collect();
    found.retain(|index| is_set_up(*index));
    found.sort_unstable();
    found
}

fn system_folder(index: u32) -> PathBuf {
    PathBuf::from(format!("{SYSTEM_BLOCK}/nbd{index}"))
}

fn attribute(index: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(system_folder(index).join(name)).ok()?;
    Some(text.trim_end().to_owned())
}

fn enlarge_requests(index: u32) {
    let most = attribute(index, "queue/max_hw_sectors_kb").and_then(|text| text.parse().ok());
    let wanted = MAX_SECTORS_KIB.min(most.unwrap_or(MAX_SECTORS_KIB));
    // A change may wait for requests under way, and those for us.
    if attribute(index, "queue/max_sectors_kb").is_some_and(|now| now == wanted.to_string()) {
        return;
    }
    let setting = system_folder(index).join("queue/max_sectors_kb");
    if let Err(error) = fs::write(&setting, wanted.to_string()) {
        tracing::info!(setting = %setting.display(), %error, "requests stay as large as they are");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_short_and_of_one_daemon() {
        let run = Path::new("/run/twinblk");
        let alice = identifier("alice", "r0", run);
        assert_eq!(alice, "twinblk r0 of alice in /run/twinblk");
        assert_ne!(alice, identifier("bob", "r0", run));
        assert_ne!(alice, identifier("alice", "r0", Path::new("/run/other")));
        let long = "ä".repeat(200);
        assert!(identifier("alice", &long, run).len() <= IDENTIFIER_BYTES_MAX);
    }

    #[test]
    fn links_replace_links_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let link = folder.path().join("drbd0");
        publish(&link, 3).expect("made");
        assert_eq!(fs::read_link(&link).expect("a link"), Path::new("/dev/nbd3"));
        publish(&link, 4).expect("replaced");
        unpublish(&link, 3);
        assert_eq!(fs::read_link(&link).expect("another's"), Path::new("/dev/nbd4"));
        unpublish(&link, 4);
        assert!(!link.exists() && fs::read_link(&link).is_err());
        fs::write(&link, "data").expect("a file");
        let error = publish(&link, 3).expect_err("occupied");
        assert!(matches!(error, KernelError::LinkOccupied { .. }), "{error}");
        unpublish(&link, 3);
        assert_eq!(fs::read_to_string(&link).expect("still there"), "data");
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1, "nothing left over");
    }

    #[test]
    fn a_note_of_the_number() {
        let folder = tempfile::tempdir().expect("folder");
        let note = folder.path().join("r0.device");
        assert_eq!(remembered(&note), None);
        remember(&note, 12);
        assert_eq!(remembered(&note), Some(12));
        fs::write(&note, "no number").expect("garbage");
        assert_eq!(remembered(&note), None);
        forget(&note);
        assert!(!note.exists());
        assert_eq!(find("an identifier that nobody has", None), None);
    }

    #[test]
    fn a_socket_whose_far_end_is_gone_shows_it() {
        let (ours, mut theirs) = pairs(2).expect("pairs");
        assert!(!ours.iter().any(is_hung_up));
        theirs.pop();
        assert!(!is_hung_up(&ours[0]) && is_hung_up(&ours[1]));
    }
}
