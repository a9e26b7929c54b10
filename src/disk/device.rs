//! Opening: what kind of backing store it is, what it can do, and that nobody else writes to it.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, OFlags, Stat, StatxFlags, major, minor};
use rustix::io::Errno;

use super::{DirectIo, DiskError, DiskOptions, SECTOR_BYTES, Sharing, holder};
use crate::buffer::BufferPool;

/// File systems that live in memory (statfs(2)).
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;
/// What a plain file reports as its physical block: the page, which all file systems like best.
const FILE_PHYSICAL_BLOCK_BYTES: u32 = 4096;

/// A claim on a block device ends when the last copy of the open file is gone, and its previous
/// owner cannot hurry that (see `Drop`). 10 tries, 20 ms apart: 0.2 s, while opening only.
const CLAIM_TRIES_MAX: u32 = 10;
const CLAIM_PAUSE: Duration = Duration::from_millis(20);
/// The lock of a process that was killed lives until the kernel has taken its ring apart, in the
/// background, after what the ring had under way; on two cores under heavy load that took over 10 s.
/// A dead owner only is waited for: 2000 tries, 20 ms apart, 40 s.
const LOCK_TRIES_MAX: u32 = 2000;

/// An open backing store and what was found out about it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    /// A multiple of 512; what a file has beyond it is never touched.
    pub(super) size_bytes: u64,
    pub(super) logical_block_bytes: u32,
    pub(super) physical_block_bytes: u32,
    pub(super) discard: bool,
    pub(super) direct: bool,
    /// A plain file on tmpfs or ramfs.
    pub(super) in_memory: bool,
}

impl Device {
    pub(super) fn open(
        path: &Path,
        options: &DiskOptions,
        pool: &BufferPool,
    ) -> Result<Self, DiskError> {
        let failed = |source: io::Error| DiskError::Open { path: path.into(), source };
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        let is_block = kind.is_block_device();
        if !is_block && !kind.is_file() {
            return Err(DiskError::NotADisk { path: path.into() });
        }
        let mut file = claim(path, is_block, options.sharing)?;
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let size_bytes = end - end % SECTOR_BYTES;
        if size_bytes == 0 {
            return Err(DiskError::Empty { path: path.into() });
        }
        let (logical_block_bytes, physical_block_bytes) =
            block_sizes(&file, is_block).map_err(|error| failed(error.into()))?;
        let in_memory = !is_block && is_in_memory(&file);
        let discard = if is_block { device_discards(&stat) } else { file_discards(&file, end) };
        let direct = match options.direct {
            DirectIo::Off => false,
            // There is nothing to bypass: the page cache is the disk.
            DirectIo::Auto if in_memory => false,
            wanted => match make_direct(&file, is_block, &stat, logical_block_bytes, pool) {
                Ok(()) => true,
                Err(reason) if wanted == DirectIo::On => {
                    return Err(DiskError::DirectUnavailable { path: path.into(), reason });
                }
                Err(_) => false,
            },
        };
        Ok(Self {
            file: Arc::new(file),
            path: path.into(),
            size_bytes,
            logical_block_bytes,
            physical_block_bytes,
            discard,
            direct,
            in_memory,
        })
    }
}

impl Drop for Device {
    /// Unlocks by hand: a child process that is just being started, or a ring that the kernel takes
    /// apart in the background, may hold on to the open file for a moment longer.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Opens for this process alone. A block device is claimed with O_EXCL, which the kernel refuses
/// for mounted devices too and keeps per device, not per name; a plain file is locked.
fn claim(path: &Path, is_block: bool, sharing: Sharing) -> Result<File, DiskError> {
    let exclusive_claim = is_block && sharing == Sharing::Exclusive;
    let flags = if exclusive_claim { OFlags::EXCL } else { OFlags::empty() };
    let mut tries = 1;
    let file = loop {
        let opened = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        match opened {
            Ok(file) => break file,
            Err(error) if exclusive_claim && Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                if tries == CLAIM_TRIES_MAX {
                    return Err(DiskError::InUse { path: path.into(), holder: claimant(path) });
                }
                tries += 1;
                std::thread::sleep(CLAIM_PAUSE);
            }
            Err(source) => return Err(DiskError::Open { path: path.into(), source }),
        }
    };
    // A path may be replaced between looking and opening.
    let opened_kind = file.metadata().map(|metadata| metadata.file_type());
    if !opened_kind.is_ok_and(|kind| if is_block { kind.is_block_device() } else { kind.is_file() })
    {
        return Err(DiskError::NotADisk { path: path.into() });
    }
    if !is_block {
        let operation = match sharing {
            Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
        };
        let mut tries = 1;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES_MAX && holder::is_dead(&file) => {
                    tries += 1;
                    std::thread::sleep(CLAIM_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => {
                    let holder = holder::of_file(&file);
                    return Err(DiskError::InUse { path: path.into(), holder });
                }
                Err(error) => {
                    return Err(DiskError::Open { path: path.into(), source: error.into() });
                }
            }
        }
    }
    Ok(file)
}

fn claimant(path: &Path) -> String {
    rustix::fs::stat(path).map_or_else(
        |_| "another program has claimed the device".into(),
        |stat| holder::of_block_device(major(stat.st_rdev), minor(stat.st_rdev)),
    )
}

fn block_sizes(file: &File, is_block: bool) -> rustix::io::Result<(u32, u32)> {
    if !is_block {
        return Ok((SECTOR_BYTES as u32, FILE_PHYSICAL_BLOCK_BYTES));
    }
    let logical = rustix::fs::ioctl_blksszget(file)?;
    let physical = rustix::fs::ioctl_blkpbszget(file)?;
    Ok((logical, physical.max(logical)))
}

/// Only for plain files: the node of a block device lies on a file system in memory too.
fn is_in_memory(file: &File) -> bool {
    // The field's width and sign differ between architectures.
    rustix::fs::fstatfs(file)
        .is_ok_and(|fs| matches!(fs.f_type as u64 & 0xffff_ffff, TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Reads a number of the device's queue; a partition has its disk's.
fn queue_setting(device: u64, name: &str) -> Option<u64> {
    let base = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    [format!("{base}/queue/{name}"), format!("{base}/../queue/{name}")]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
}

fn device_discards(stat: &Stat) -> bool {
    queue_setting(stat.st_rdev, "discard_max_bytes").is_some_and(|bytes| bytes > 0)
}

/// Punches a hole behind the end, which changes nothing and tells whether it is possible.
fn file_discards(file: &File, end: u64) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, end.next_multiple_of(4096), 4096).is_ok()
}

/// Switches the open file to direct I/O, if requests of 512 bytes work that way. The reason why
/// not otherwise, and the file is as it was.
fn make_direct(
    file: &File,
    is_block: bool,
    stat: &Stat,
    logical_block_bytes: u32,
    pool: &BufferPool,
) -> Result<(), String> {
    let granularity = if is_block {
        u64::from(logical_block_bytes)
    } else {
        file_granularity(file)
            .or_else(|| queue_setting(stat.st_dev, "logical_block_size"))
            .unwrap_or(SECTOR_BYTES)
    };
    if granularity > SECTOR_BYTES {
        return Err(format!("it takes multiples of {granularity} bytes only"));
    }
    let flags = rustix::fs::fcntl_getfl(file).map_err(|error| error.to_string())?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).map_err(|error| error.to_string())?;
    // The proof: one sector, at an odd place.
    let mut sector = pool.take(SECTOR_BYTES as usize);
    if let Err(error) = rustix::io::pread(file, &mut sector[..], SECTOR_BYTES) {
        rustix::fs::fcntl_setfl(file, flags).map_err(|error| error.to_string())?;
        return Err(error.to_string());
    }
    Ok(())
}

/// What the file system says it can do; kernels before 6.1 do not say.
fn file_granularity(file: &File) -> Option<u64> {
    let statx = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let told = statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    // 0 means: no direct I/O at all, which the attempt will show.
    (told && statx.stx_dio_offset_align > 0).then_some(u64::from(statx.stx_dio_offset_align))
}
