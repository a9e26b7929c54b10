//! Attaching: one sequential conversation with the backing disk, before the first operation goes to
//! its queue. Claims the disk, reads the metadata, applies the activity log and marks the metadata
//! in use.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use rustix::io::Errno;

use super::backing::{Backing, failure};
use super::size_note::SizeNote;
use super::slab::Slab;
use crate::buffer::BufferPool;
use crate::disk::{Disk, DiskError, DiskOptions, Sharing};
use crate::engine::event::{AttachedDisk, DeviceRecord, DiskFailure, Generations};
use crate::meta::{self, Flags, MetaError, Placement, Record};

/// Where a resource keeps its data and its metadata.
#[derive(Clone, Debug)]
pub struct BackingPlace {
    pub data: PathBuf,
    /// The file or device of external metadata.
    pub metadata: Option<PathBuf>,
    pub placement: Placement,
    pub options: DiskOptions,
    /// Tells where internal metadata is on a disk that grew meanwhile.
    pub size_note: Option<SizeNote>,
}

/// Opens the disk for this process alone. `log_slots`: what the engine uses of the activity log.
pub(super) fn open(
    resource: &str,
    place: &BackingPlace,
    log_slots: u32,
    pool: &BufferPool,
) -> Result<(Backing, AttachedDisk), DiskFailure> {
    let disk_failed = |error: DiskError| DiskFailure {
        errno: Errno::IO.raw_os_error(),
        text: format!("{error}; check the path and who uses it, then `twinblk attach {resource}`"),
    };
    // Claimed first: whatever follows, nobody else has the disk.
    let data = Disk::open(&place.data, &place.options, pool).map_err(disk_failed)?;
    let metadata = match &place.metadata {
        None => None,
        Some(path) => {
            let sharing = match place.placement {
                Placement::Indexed(_) => Sharing::Shared,
                Placement::Internal | Placement::FlexibleExternal => Sharing::Exclusive,
            };
            let options = DiskOptions { sharing, ..place.options };
            Some(Disk::open(path, &options, pool).map_err(disk_failed)?)
        }
    };
    let open_file = |path| OpenOptions::new().read(true).write(true).open(path);
    let file = open_file(&place.data).map_err(|error| failure(&error))?;
    let storage: File = match &place.metadata {
        Some(path) => open_file(path).map_err(|error| failure(&error))?,
        None => file.try_clone().map_err(|error| failure(&error))?,
    };
    let opened = open_metadata(resource, place, data.size_bytes(), storage, log_slots)
        .map_err(|error| metadata_failed(resource, place, &error))?;
    if u32::from(opened.writer.slot_count()) < log_slots {
        return Err(DiskFailure {
            errno: Errno::INVAL.raw_os_error(),
            text: format!(
                "the activity log of {} has room for {} extents, al-extents asks for {log_slots}; \
                 lower al-extents",
                place.data.display(),
                opened.writer.slot_count()
            ),
        });
    }
    report(resource, &opened);
    let attached = AttachedDisk {
        record: from_metadata(&opened.superblock.record),
        usable_sectors: opened.layout.usable_sectors,
        bitmap_words: opened.bitmap_words,
        logical_block_bytes: data.logical_block_bytes(),
        physical_block_bytes: data.physical_block_bytes(),
        discard: data.discard(),
    };
    let backing = Backing {
        file,
        data,
        metadata,
        writer: opened.writer,
        actions: Slab::default(),
        lanes: Default::default(),
        completed: Vec::new(),
    };
    Ok((backing, attached))
}

/// Of a disk that grew while nobody used it, internal metadata is at its old end, and the disk is
/// used as far as that until `resize`.
fn open_metadata(
    resource: &str,
    place: &BackingPlace,
    data_bytes: u64,
    mut storage: File,
    log_slots: u32,
) -> Result<meta::Opened, MetaError> {
    let options = meta::OpenOptions { log_slots, ..meta::OpenOptions::default() };
    if place.placement != Placement::Internal {
        return meta::open(data_bytes, &mut storage, place.placement, &options);
    }
    let remembered = place.size_note.as_ref().and_then(|note| note.read(&place.data));
    let mut whole = meta::Clipped::new(storage, data_bytes);
    let used_bytes = meta::find_internal(&mut whole, remembered);
    meta::wipe_stale_end(&mut whole, used_bytes)?;
    let mut used = meta::Clipped::new(whole, used_bytes);
    let opened = meta::open(used_bytes, &mut used, Placement::Internal, &options)?;
    if used_bytes < data_bytes {
        tracing::warn!(
            resource,
            used_bytes,
            data_bytes,
            "the disk grew: used as before until `twinblk resize {resource}`"
        );
    } else if let Some(note) = &place.size_note
        && let Err(error) = note.write(&place.data, data_bytes)
    {
        tracing::warn!(resource, %error, "cannot note the size of the disk: grow it only in use");
    }
    Ok(opened)
}

fn report(resource: &str, opened: &meta::Opened) {
    if opened.applied_extents > 0 {
        tracing::info!(
            resource,
            extents = opened.applied_extents,
            blocks = opened.marked_bits,
            "activity log applied: what was being written when the node went down counts as out \
             of sync"
        );
    }
    if let Some(cause) = opened.full_sync {
        tracing::warn!(resource, ?cause, "every block counts as out of sync");
    }
}

fn metadata_failed(resource: &str, place: &BackingPlace, error: &MetaError) -> DiskFailure {
    let errno = match error {
        MetaError::Io { source, .. } | MetaError::Sync(source) => failure(source).errno,
        _ => Errno::INVAL.raw_os_error(),
    };
    let path = place.metadata.as_ref().unwrap_or(&place.data);
    DiskFailure {
        errno,
        text: format!("{}: {error}; next: {}", path.display(), error.hint(resource)),
    }
}

fn from_metadata(record: &Record) -> DeviceRecord {
    let flag = |flag| record.flags.contains(flag);
    DeviceRecord {
        generations: Generations {
            current: record.current,
            bitmap: record.bitmap,
            history: record.history,
        },
        agreed_sectors: record.agreed_sectors,
        peer_max_bio_bytes: record.peer_max_bio_bytes,
        consistent: flag(Flags::CONSISTENT),
        primary: flag(Flags::PRIMARY_IND),
        connected: flag(Flags::CONNECTED_IND),
        full_sync: flag(Flags::FULL_SYNC),
        was_up_to_date: flag(Flags::WAS_UP_TO_DATE),
        peer_outdated: flag(Flags::PEER_OUT_DATED),
        crashed_primary: flag(Flags::CRASHED_PRIMARY),
    }
}

/// The record to write; flags that the engine does not know (`AL_DISABLED`) stay as they are in
/// `former`.
pub(super) fn to_metadata(record: &DeviceRecord, former: &Record) -> Record {
    let flags = former
        .flags
        .with(Flags::CONSISTENT, record.consistent)
        .with(Flags::PRIMARY_IND, record.primary)
        .with(Flags::CONNECTED_IND, record.connected)
        .with(Flags::FULL_SYNC, record.full_sync)
        .with(Flags::WAS_UP_TO_DATE, record.was_up_to_date)
        .with(Flags::PEER_OUT_DATED, record.peer_outdated)
        .with(Flags::CRASHED_PRIMARY, record.crashed_primary);
    Record {
        agreed_sectors: record.agreed_sectors,
        current: record.generations.current,
        bitmap: record.generations.bitmap,
        history: record.generations.history,
        flags,
        peer_max_bio_bytes: record.peer_max_bio_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_metadata_and_unknown_flags_stay() {
        let record = DeviceRecord {
            generations: Generations { current: 1, bitmap: 2, history: [3, 4] },
            agreed_sectors: 5,
            peer_max_bio_bytes: 6,
            consistent: true,
            primary: false,
            connected: true,
            full_sync: false,
            was_up_to_date: true,
            peer_outdated: false,
            crashed_primary: true,
        };
        let former = Record { flags: Flags::AL_DISABLED | Flags::PRIMARY_IND, ..Record::default() };
        let written = to_metadata(&record, &former);
        assert!(written.flags.contains(Flags::AL_DISABLED));
        assert!(!written.flags.contains(Flags::PRIMARY_IND));
        assert_eq!(from_metadata(&written), record);
        let opposite = DeviceRecord {
            consistent: false,
            primary: true,
            connected: false,
            full_sync: true,
            was_up_to_date: false,
            peer_outdated: true,
            crashed_primary: false,
            ..record
        };
        assert_eq!(from_metadata(&to_metadata(&opposite, &written)), opposite);
    }
}
