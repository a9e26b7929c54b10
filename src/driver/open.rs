//! Attaching: one sequential conversation with the backing disk, before the ring starts. Opens and
//! locks the files, reads the metadata, applies the activity log, marks the metadata in use, and
//! then opens the same files for the data path.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::backing::Backing;
use super::slab::Slab;
use crate::buffer::BufferPool;
use crate::disk::{Disk, DiskOptions};
use crate::engine::event::{AttachedDisk, DeviceRecord, DiskFailure, Generations};
use crate::meta::{self, Placement};

/// Where a resource keeps its data and its metadata.
#[derive(Clone, Debug)]
pub struct BackingPlace {
    pub data: PathBuf,
    /// The file or device of external metadata.
    pub metadata: Option<PathBuf>,
    pub placement: Placement,
    pub options: DiskOptions,
}

/// Opens the disk for this process alone.
pub(super) fn open(
    resource: &str,
    place: &BackingPlace,
    pool: &BufferPool,
) -> Result<(Backing, AttachedDisk), DiskFailure> {
    let data_file = claim(&place.data)?;
    let metadata_file = place.metadata.as_deref().map(claim).transpose()?;
    let data_bytes = meta::Storage::size(&data_file);
    let mut storage: &File = metadata_file.as_ref().unwrap_or(&data_file);
    let opened = meta::open(data_bytes, &mut storage, place.placement, &meta::OpenOptions::default())
        .map_err(|error| DiskFailure {
            errno: error.errno(),
            text: format!("{error} ({}); {}", metadata_path(place).display(), error.hint(resource)),
        })?;
    if opened.applied_extents > 0 {
        tracing::info!(
            resource,
            extents = opened.applied_extents,
            "activity log applied: these 4 MiB extents were being written when the node went down"
        );
    }
    let data = open_disk(&place.data, &place.options, pool)?;
    let metadata = match &place.metadata {
        Some(path) => Some(open_disk(path, &place.options, pool)?),
        None => None,
    };
    let attached = AttachedDisk {
        record: from_metadata(&opened.superblock),
        usable_sectors: opened.layout.usable_sectors(),
        bitmap_words: opened.bitmap_words,
        logical_block_bytes: data.logical_block_bytes(),
        physical_block_bytes: data.physical_block_bytes(),
        discard: data.discard(),
    };
    let backing = Backing {
        data_file,
        _metadata_file: metadata_file,
        data,
        metadata,
        writer: opened.writer,
        actions: Slab::default(),
        lanes: Default::default(),
        completed: Vec::new(),
    };
    Ok((backing, attached))
}

fn metadata_path(place: &BackingPlace) -> &Path {
    place.metadata.as_deref().unwrap_or(&place.data)
}

/// Opens a file or block device for reading and writing and keeps others of our kind away from it:
/// a lock on a file, an exclusive open (which also meets mounts) of a block device.
fn claim(path: &Path) -> Result<File, DiskFailure> {
    let failed = |error: std::io::Error, what: &str| DiskFailure {
        errno: error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()),
        text: format!("{what} {}: {error}", path.display()),
    };
    let kind = std::fs::metadata(path)
        .map_err(|error| failed(error, "cannot open the backing disk"))?
        .file_type();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if kind.is_block_device() {
        options.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32);
    } else if !kind.is_file() {
        return Err(DiskFailure {
            errno: Errno::NOTBLK.raw_os_error(),
            text: format!("{} is neither a block device nor a file", path.display()),
        });
    }
    let file =
        options.open(path).map_err(|error| failed(error, "cannot open the backing disk"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
        let text = format!("{} is in use by another process", path.display());
        DiskFailure { errno: errno.raw_os_error(), text }
    })?;
    Ok(file)
}

fn open_disk(
    path: &Path,
    options: &DiskOptions,
    pool: &BufferPool,
) -> Result<Disk, DiskFailure> {
    Disk::open(path, options, pool).map_err(|error| DiskFailure {
        errno: Errno::IO.raw_os_error(),
        text: format!("cannot open the backing disk {}: {error}", path.display()),
    })
}
