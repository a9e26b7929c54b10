//! The backing disk became larger: its metadata moves, or gets more room (`meta::grow`). That takes
//! as long as copying the bitmap does, so it has a thread of its own while the resource goes on; the
//! engine writes no metadata meanwhile.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::io::Errno;
use tokio::sync::oneshot;

use super::backing::{Backing, failure};
use super::open::BackingPlace;
use crate::disk::SECTOR_BYTES;
use crate::engine::event::{DiskFailure, GrowFailure};
use crate::meta::{self, MetaError, MetadataWriter, Placement, Storage};

/// A disk that was looked at.
#[derive(Debug)]
pub(super) struct Grown {
    writer: MetadataWriter,
    data_bytes: u64,
    metadata_bytes: u64,
}

/// The thread's answer is on its way.
pub(super) type Growing = oneshot::Receiver<Result<Grown, GrowFailure>>;

/// Begins to look at the disk of `backing`, of which no metadata operation is under way.
pub(super) fn begin(
    resource: &str,
    place: &BackingPlace,
    backing: &Backing,
    wanted_sectors: u64,
) -> Growing {
    let (answer, growing) = oneshot::channel();
    let (resource, place) = (resource.to_owned(), place.clone());
    let writer = backing.writer.clone();
    let started = std::thread::Builder::new().name("grow-disk".to_owned()).spawn(move || {
        let _ = answer.send(look(&resource, &place, &writer, wanted_sectors));
    });
    if let Err(error) = started {
        // The sender is gone with the closure, which the receiver tells from an answer.
        tracing::error!(%error, "no thread to look at the disk");
    }
    growing
}

/// Waits for the thread's answer.
pub(super) async fn ended(growing: &mut Growing) -> Result<Grown, GrowFailure> {
    growing.await.unwrap_or_else(|_| Err(no_thread()))
}

/// The thread's answer, if it is there.
pub(super) fn poll_ended(growing: &mut Growing) -> Option<Result<Grown, GrowFailure>> {
    match growing.try_recv() {
        Ok(result) => Some(result),
        Err(oneshot::error::TryRecvError::Empty) => None,
        Err(oneshot::error::TryRecvError::Closed) => Some(Err(no_thread())),
    }
}

fn no_thread() -> GrowFailure {
    GrowFailure::Broken(DiskFailure {
        errno: Errno::AGAIN.raw_os_error(),
        text: "nobody looked at the disk to the end".to_owned(),
    })
}

fn look(
    resource: &str,
    place: &BackingPlace,
    writer: &MetadataWriter,
    wanted_sectors: u64,
) -> Result<Grown, GrowFailure> {
    let data = open(&place.data)?;
    let metadata = place.metadata.as_deref().map(open).transpose()?;
    let data_bytes = data.size() / SECTOR_BYTES * SECTOR_BYTES;
    let metadata_bytes = metadata.as_ref().map_or(data_bytes, Storage::size);
    let internal = place.placement == Placement::Internal;
    let mut storage = meta::Clipped::new(metadata.unwrap_or(data), metadata_bytes);
    if internal && let Some(note) = &place.size_note {
        let former = writer.layout().superblock_offset_bytes + meta::PAGE_BYTES as u64;
        // Whatever happens while it moves, somebody must know where it was.
        if note.read(&place.data).is_none() {
            note.write(&place.data, former).map_err(|error| {
                GrowFailure::Unchanged(format!("cannot note the size of the disk: {error}"))
            })?;
        }
    }
    let writer = meta::grow(&mut storage, writer, data_bytes, wanted_sectors)
        .map_err(|error| failed(resource, place, &error))?;
    if internal && let Some(note) = &place.size_note {
        note.write(&place.data, data_bytes).or_else(|_| note.remove()).map_err(|error| {
            GrowFailure::Broken(DiskFailure {
                errno: Errno::IO.raw_os_error(),
                text: format!("the note about its size cannot be changed: {error}"),
            })
        })?;
    }
    Ok(Grown { writer, data_bytes, metadata_bytes })
}

fn open(path: &Path) -> Result<File, GrowFailure> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| GrowFailure::Unchanged(format!("{}: {error}", path.display())))
}

fn failed(resource: &str, place: &BackingPlace, error: &MetaError) -> GrowFailure {
    let path = place.metadata.as_ref().unwrap_or(&place.data).display();
    let text = format!("{path}: {error}; next: {}", error.hint(resource));
    match error {
        MetaError::Io { source, .. } | MetaError::Sync(source) => {
            GrowFailure::Broken(DiskFailure { errno: failure(source).errno, text })
        }
        MetaError::TooSmall { .. } | MetaError::TooLarge { .. } => {
            GrowFailure::Unchanged(format!("{path}: {error}"))
        }
        _ => GrowFailure::Unchanged(text),
    }
}

impl Backing {
    /// From now on metadata goes to its new place; the answer for the engine.
    pub(super) fn take_grown(&mut self, grown: Grown) -> u64 {
        self.writer = grown.writer;
        self.data.set_size_bytes(grown.data_bytes);
        if let Some(metadata) = &mut self.metadata {
            metadata.set_size_bytes(grown.metadata_bytes / SECTOR_BYTES * SECTOR_BYTES);
        }
        self.writer.layout().usable_sectors
    }

    pub(super) fn is_writing_metadata(&self) -> bool {
        self.lanes.iter().any(super::backing::Lane::is_busy)
    }
}
