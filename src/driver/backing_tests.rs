//! Actions of the engine on real disks: order within a lane, failures, external metadata.

use std::path::Path;

use twinblk_proto::units::SectorRange;

use super::*;
use crate::disk::DiskOptions;
use crate::driver::open::{BackingPlace, open};
use crate::engine::effect::ActivityLogUpdate;
use crate::engine::event::{AttachedDisk, DeviceRecord, Generations};
use crate::meta::{CreateOptions, Placement, create};

const BYTES: u64 = 16 << 20;

fn place(data: &Path) -> BackingPlace {
    BackingPlace {
        data: data.to_owned(),
        metadata: None,
        placement: Placement::Internal,
        options: DiskOptions::default(),
        size_note: None,
    }
}

/// A file of 16 MiB with new internal metadata.
fn prepare(folder: &Path) -> BackingPlace {
    let path = folder.join("disk");
    let mut file =
        File::options().create_new(true).read(true).write(true).open(&path).expect("file");
    file.set_len(BYTES).expect("sparse");
    create(BYTES, &mut file, Placement::Internal, &CreateOptions::default()).expect("metadata");
    place(&path)
}

fn attach(place: &BackingPlace, pool: &BufferPool) -> (Backing, AttachedDisk) {
    open("r0", place, 1237, pool).expect("a disk with metadata")
}

async fn finish(backing: &mut Backing, pool: &BufferPool, count: usize) -> Vec<Finished> {
    let mut finished = Vec::new();
    while finished.len() < count {
        backing.kick();
        backing.ready().await;
        backing.completions(pool, &mut finished);
    }
    assert_eq!((finished.len(), backing.in_flight(), backing.actions.len()), (count, 0, 0));
    finished
}

fn run(test: impl AsyncFnOnce(&Path, BufferPool)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let folder = tempfile::tempdir().expect("folder");
    runtime.block_on(test(folder.path(), BufferPool::default()));
}

#[test]
fn metadata_writes_keep_their_order_and_survive() {
    run(async |folder, pool| {
        let place = prepare(folder);
        let (mut backing, attached) = attach(&place, &pool);
        assert!(attached.usable_sectors > 0 && attached.usable_sectors * 512 < BYTES);
        let payloads = Slab::default();
        let last = DeviceRecord {
            generations: Generations { current: 100, bitmap: 7, history: [8, 9] },
            consistent: true,
            ..attached.record
        };
        // Twenty superblocks at once: the last one counts.
        for number in 0..20 {
            let mut record = last;
            record.generations.current = 81 + number;
            let action = DiskAction::PersistRecord(record);
            backing.start(DiskOpId(number), action, &payloads, &pool);
        }
        let update = ActivityLogUpdate { slots: vec![(0, 1)] };
        let action = DiskAction::PersistActivityLog(update);
        backing.start(DiskOpId(20), action, &payloads, &pool);
        let page = |index| BitmapPage { index, words: Box::new([1; 512]) };
        let action = DiskAction::PersistBitmap(vec![page(0)]);
        backing.start(DiskOpId(21), action, &payloads, &pool);
        let finished = finish(&mut backing, &pool, 22).await;
        assert!(finished.iter().all(|(_, result)| matches!(result, Ok(None))));
        let records: Vec<u64> = finished.iter().map(|(op, _)| op.0).filter(|op| *op < 20).collect();
        assert!(records.is_sorted(), "one after the other: {records:?}");
        drop(backing);

        let (_, again) = attach(&place, &pool);
        assert_eq!(again.record, last);
        assert_eq!(again.bitmap_words[0], 1);
    });
}

#[test]
fn data_goes_through_and_comes_back() {
    run(async |folder, pool| {
        let (mut backing, _) = attach(&prepare(folder), &pool);
        let mut payloads = Slab::default();
        let mut buffer = pool.take(8192);
        buffer.fill(0x5a);
        let payload = PayloadId(payloads.insert(buffer.freeze()));
        let range = SectorRange::new(64, 16);
        let write = DiskAction::Write { range, payload, fua: true };
        backing.start(DiskOpId(1), write, &payloads, &pool);
        finish(&mut backing, &pool, 1).await;
        let zero = DiskAction::Zero { range: SectorRange::new(64, 1), may_unmap: true, fua: false };
        backing.start(DiskOpId(2), zero, &payloads, &pool);
        finish(&mut backing, &pool, 1).await;
        backing.start(DiskOpId(3), DiskAction::Flush, &payloads, &pool);
        backing.start(DiskOpId(4), DiskAction::Read { range }, &payloads, &pool);
        let mut finished = finish(&mut backing, &pool, 2).await;
        finished.sort_by_key(|(op, _)| *op);
        assert!(matches!(finished[0], (DiskOpId(3), Ok(None))));
        let data = finished[1].1.as_ref().expect("read").as_ref().expect("data");
        assert!(data[..512].iter().all(|byte| *byte == 0));
        assert!(data[512..].iter().all(|byte| *byte == 0x5a));
    });
}

#[test]
fn a_disk_that_cannot_be_attached_says_why_and_stays_as_it_is() {
    run(async |folder, pool| {
        let missing =
            open("r0", &place(&folder.join("missing")), 1237, &pool).expect_err("missing");
        assert!(missing.text.contains("missing"), "{}", missing.text);
        let path = folder.join("blank");
        File::create(&path).expect("file").set_len(BYTES).expect("sparse");
        let blank = open("r0", &place(&path), 1237, &pool).expect_err("no metadata");
        assert!(blank.text.contains("twinblk create-md r0"), "{}", blank.text);
        let content = std::fs::read(&path).expect("still there");
        assert!(content.len() as u64 == BYTES && content.iter().all(|byte| *byte == 0));
        // Somebody else has it.
        let prepared = prepare(folder);
        let (_backing, _) = attach(&prepared, &pool);
        let taken = open("r0", &prepared, 1237, &pool).expect_err("taken");
        assert!(taken.text.contains("in use"), "{}", taken.text);
    });
}
