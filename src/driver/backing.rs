//! The backing disk of an attached resource: translates the engine's disk actions into operations
//! of one or two disks (data, and metadata when it is external), and puts their completions
//! together again.
//!
//! Metadata writes go in three lanes (superblock, activity log, bitmap). A lane has one operation
//! under way; the next waits. Two writes to one place, or two activity log transactions, could
//! otherwise reach the disk in the wrong order and the older would win (metadata.md 4).

use std::collections::VecDeque;
use std::fs::File;

use super::open::to_metadata;
use super::slab::Slab;
use crate::buffer::{Buffer, BufferPool, Payload};
use crate::disk::{Completion, Disk, Operation};
use crate::engine::effect::{BitmapPage, DiskAction};
use crate::engine::event::{DiskFailure, DiskOpId, PayloadId};
use crate::meta::{MetadataWriter, Write as MetadataWrite};

/// What a finished disk action says to the engine.
pub(super) type Finished = (DiskOpId, Result<Option<Payload>, DiskFailure>);

/// An open backing disk.
#[derive(Debug)]
pub(super) struct Backing {
    /// To ask for holes.
    pub(super) file: File,
    pub(super) data: Disk,
    /// `None`: the metadata lies on the data disk.
    pub(super) metadata: Option<Disk>,
    pub(super) writer: MetadataWriter,
    pub(super) actions: Slab<Action>,
    pub(super) lanes: [Lane; 3],
    pub(super) completed: Vec<Completion>,
}

/// An action of the engine that is under way.
#[derive(Debug)]
pub(super) struct Action {
    op: DiskOpId,
    /// Disk operations that are not complete.
    parts: usize,
    failure: Option<DiskFailure>,
    data: Option<Buffer>,
    lane: Option<usize>,
}

/// One operation at a time; the number of waiting ones is bounded by the engine, which has at most
/// one transaction, one superblock and one batch of bitmap pages to write beyond those under way.
#[derive(Debug, Default)]
pub(super) struct Lane {
    busy: bool,
    waiting: VecDeque<(DiskOpId, Vec<MetadataWrite>)>,
}

impl Lane {
    pub(super) fn is_busy(&self) -> bool {
        self.busy || !self.waiting.is_empty()
    }
}

const SUPERBLOCK: usize = 0;
const ACTIVITY_LOG: usize = 1;
const BITMAP: usize = 2;

impl Backing {
    pub(super) fn start(
        &mut self,
        op: DiskOpId,
        action: DiskAction,
        payloads: &Slab<Payload>,
        pool: &BufferPool,
    ) {
        let (lane, writes) = match action {
            DiskAction::Read { range } => {
                let buffer = pool.take(range.bytes() as usize);
                return self
                    .start_data(op, Operation::Read { offset: range.offset_bytes(), buffer });
            }
            DiskAction::Write { range, payload, fua } => {
                let payload = held(payloads, payload).clone();
                assert_eq!(payload.len() as u64, range.bytes(), "payload of write {op:?}");
                let offset = range.offset_bytes();
                return self.start_data(op, Operation::Write { offset, payload, durable: fua });
            }
            DiskAction::Zero { range, may_unmap, fua } => {
                return self.start_data(
                    op,
                    Operation::Zero {
                        offset: range.offset_bytes(),
                        length: range.bytes(),
                        may_unmap,
                        durable: fua,
                    },
                );
            }
            DiskAction::Flush => return self.start_data(op, Operation::Flush),
            DiskAction::PersistRecord(record) => {
                let record = to_metadata(&record, self.writer.current_record());
                (SUPERBLOCK, vec![self.writer.record(&record)])
            }
            DiskAction::PersistActivityLog(update) => {
                (ACTIVITY_LOG, vec![self.writer.activity_log(&update.slots)])
            }
            DiskAction::PersistBitmap(pages) => {
                let page = |page: &BitmapPage| self.writer.bitmap_page(page.index, &page.words);
                (BITMAP, pages.iter().map(page).collect())
            }
        };
        self.lanes[lane].waiting.push_back((op, writes));
        self.advance(lane, pool);
    }

    fn start_data(&mut self, op: DiskOpId, operation: Operation) {
        let action = Action { op, parts: 1, failure: None, data: None, lane: None };
        let tag = self.actions.insert(action);
        self.data.submit(tag, operation);
    }

    /// Starts the next operation of a lane that is free.
    fn advance(&mut self, lane: usize, pool: &BufferPool) {
        if self.lanes[lane].busy {
            return;
        }
        let Some((op, writes)) = self.lanes[lane].waiting.pop_front() else { return };
        assert!(!writes.is_empty(), "{op:?} writes something");
        self.lanes[lane].busy = true;
        let action =
            Action { op, parts: writes.len(), failure: None, data: None, lane: Some(lane) };
        let tag = self.actions.insert(action);
        let disk = self.metadata.as_mut().unwrap_or(&mut self.data);
        for write in writes {
            let mut buffer = pool.take(write.bytes.len());
            buffer.copy_from_slice(&*write.bytes);
            let payload = buffer.freeze();
            let offset = write.offset_bytes;
            disk.submit(tag, Operation::Write { offset, payload, durable: true });
        }
    }

    /// Collects what finished since the last call.
    pub(super) fn completions(&mut self, pool: &BufferPool, finished: &mut Vec<Finished>) {
        let mut completed = std::mem::take(&mut self.completed);
        self.data.completions(&mut completed);
        if let Some(metadata) = &mut self.metadata {
            metadata.completions(&mut completed);
        }
        for Completion { tag, result } in completed.drain(..) {
            let action = self.actions.get_mut(tag).expect("a completion has its action");
            match result {
                Ok(data) => action.data = data,
                Err(error) => {
                    action.failure.get_or_insert_with(|| failure(&error));
                }
            }
            action.parts -= 1;
            if action.parts > 0 {
                continue;
            }
            let action = self.actions.remove(tag).expect("found above");
            finished.push(match action.failure {
                None => (action.op, Ok(action.data.map(Buffer::freeze))),
                Some(failure) => (action.op, Err(failure)),
            });
            if let Some(lane) = action.lane {
                self.lanes[lane].busy = false;
                self.advance(lane, pool);
            }
        }
        self.completed = completed;
    }

    /// Hands what was started to the kernel.
    pub(super) fn kick(&mut self) {
        self.data.kick();
        if let Some(metadata) = &mut self.metadata {
            metadata.kick();
        }
    }

    /// Returns when there may be completions. May be dropped at any time.
    pub(super) async fn ready(&self) {
        match &self.metadata {
            None => self.data.ready().await,
            Some(metadata) => tokio::select! {
                () = self.data.ready() => {}
                () = metadata.ready() => {}
            },
        }
    }

    /// Disk operations under way; those that wait in a lane are not counted.
    pub(super) fn in_flight(&self) -> usize {
        self.data.in_flight() + self.metadata.as_ref().map_or(0, Disk::in_flight)
    }

    /// Forgets what has not been started: the engine closed the disk.
    pub(super) fn retire(&mut self) {
        for lane in &mut self.lanes {
            lane.waiting.clear();
        }
    }
}

/// The payload that the engine names. One that is not there was released too early: going on would
/// mean to write bytes of somebody else.
pub(super) fn held(payloads: &Slab<Payload>, id: PayloadId) -> &Payload {
    payloads.get(id.0).unwrap_or_else(|| panic!("the engine named {id:?}, which is not held"))
}

pub(super) fn failure(error: &std::io::Error) -> DiskFailure {
    DiskFailure {
        errno: error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()),
        text: error.to_string(),
    }
}

#[cfg(test)]
#[path = "backing_tests.rs"]
mod tests;
