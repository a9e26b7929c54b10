//! One suite for all backends, on a real disk, in memory, and on a loop device where allowed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use tempfile::TempDir;

use super::*;
use crate::buffer::BufferPool;

const DISK_BYTES: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
const BACKENDS: [BackendChoice; 3] =
    [BackendChoice::IoUring, BackendChoice::Threads, BackendChoice::Inline];

/// A fresh disk of zeroes; its backing store is gone with it.
struct Place {
    what: &'static str,
    path: PathBuf,
    is_block: bool,
    loop_device: Option<PathBuf>,
    _directory: TempDir,
}

impl Place {
    fn file(what: &'static str, directory: TempDir) -> Self {
        let path = directory.path().join("backing");
        File::create(&path).and_then(|file| file.set_len(DISK_BYTES)).expect("a backing file");
        Self { what, path, is_block: false, loop_device: None, _directory: directory }
    }

    fn on_disk() -> Self {
        Self::file("a file", tempfile::tempdir().expect("a temporary directory"))
    }

    fn in_memory() -> Option<Self> {
        let directory = tempfile::tempdir_in("/dev/shm");
        let directory =
            directory.map_err(|error| eprintln!("skipped: no /dev/shm: {error}")).ok()?;
        Some(Self::file("a file in memory", directory))
    }

    fn loop_device() -> Option<Self> {
        Self::loop_device_with(&[])
    }

    fn loop_device_with(options: &[&str]) -> Option<Self> {
        let mut place = Self::on_disk();
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(&place.path)
            .output();
        let name = match output {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                eprintln!("skipped: no loop device: {why}");
                return None;
            }
            Err(error) => {
                eprintln!("skipped: no losetup: {error}");
                return None;
            }
        };
        place.what = "a loop device";
        place.path = name.into();
        place.is_block = true;
        place.loop_device = Some(place.path.clone());
        Some(place)
    }

    fn open(&self, backend: BackendChoice) -> Option<Bench> {
        self.open_with(backend, FaultInjection::default())
    }

    /// None, with a line, where the kernel has no io_uring for us.
    fn open_with(&self, backend: BackendChoice, faults: FaultInjection) -> Option<Bench> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pool = BufferPool::with_arena();
        let options = DiskOptions { backend, ..DiskOptions::default() };
        let opened = {
            let _inside = runtime.enter();
            Disk::open_with_faults(&self.path, &options, &pool, faults)
        };
        match opened {
            Ok(disk) => Some(Bench { disk, pool, runtime, next_tag: 0 }),
            Err(DiskError::Backend { name: "io_uring", source }) => {
                eprintln!("skipped: no io_uring here: {source}");
                None
            }
            Err(error) => panic!("{} cannot be opened: {error}", self.what),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(device) = &self.loop_device {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}

/// Runs a test on fresh disks of every sort with every backend.
fn everywhere(test: impl Fn(&Place, BackendChoice)) {
    for backend in BACKENDS {
        let places = [Some(Place::on_disk()), Place::in_memory(), Place::loop_device()];
        for place in places.into_iter().flatten() {
            eprintln!("{backend:?} on {}", place.what);
            test(&place, backend);
        }
    }
}

/// An open disk with what it takes to wait for it. Fields are dropped in order: disk first.
struct Bench {
    disk: Disk,
    pool: BufferPool,
    runtime: tokio::runtime::Runtime,
    next_tag: u64,
}

impl Bench {
    fn submit(&mut self, operation: Operation) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.disk.submit(tag, operation);
        tag
    }

    fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> u64 {
        let payload = self.pool.take_copy(bytes).freeze();
        self.submit(Operation::Write { offset, payload, durable })
    }

    fn zero(&mut self, offset: u64, length: u64, may_unmap: bool, durable: bool) -> u64 {
        self.submit(Operation::Zero { offset, length, may_unmap, durable })
    }

    /// Starts what was submitted and waits for all of it; sorted by tag.
    fn finish(&mut self) -> Vec<Completion> {
        let Self { disk, runtime, .. } = self;
        disk.kick();
        let mut all = Vec::new();
        let work = async {
            loop {
                disk.completions(&mut all);
                if disk.in_flight() == 0 {
                    return;
                }
                disk.ready().await;
            }
        };
        let in_time = runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        in_time.expect("the disk answers in time");
        all.sort_by_key(|completion| completion.tag);
        all
    }

    /// As `finish`, for operations that are all to succeed.
    fn succeed(&mut self) {
        for completion in self.finish() {
            completion.result.expect("the operation succeeds");
        }
    }

    /// As `finish`, for a single operation that is to fail.
    fn fail(&mut self) -> io::Error {
        let mut all = self.finish();
        assert_eq!(all.len(), 1);
        all.remove(0).result.expect_err("the operation fails")
    }

    fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        let buffer = self.pool.take(length);
        self.submit(Operation::Read { offset, buffer });
        let mut all = self.finish();
        assert_eq!(all.len(), 1);
        all.remove(0).result.expect("the read succeeds").expect("a read has a buffer").to_vec()
    }
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn many_operations_in_flight_end_where_they_belong() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        // Sizes around sector, page, arena class and unpooled; more operations than any backend's
        // depth, so that the overflow queue is used too.
        let sizes = [512, 4096, 4608, 65_536, 1024, 8192, 131_072 + 512, 512];
        let mut ranges = Vec::new();
        let mut offset = 512;
        for index in 0..300 {
            let length = sizes[index % sizes.len()];
            if offset + length as u64 > DISK_BYTES {
                break;
            }
            ranges.push((offset, length));
            offset += length as u64;
        }
        assert!(ranges.len() > 200);
        for (index, (offset, length)) in ranges.iter().enumerate() {
            bench.write(*offset, &pattern(index as u64, *length), index % 50 == 0);
        }
        assert_eq!(bench.disk.in_flight(), ranges.len());
        bench.succeed();
        bench.next_tag = 0;
        for (offset, length) in &ranges {
            let buffer = bench.pool.take(*length);
            bench.submit(Operation::Read { offset: *offset, buffer });
        }
        let all = bench.finish();
        assert_eq!(all.len(), ranges.len());
        for (index, (completion, (_, length))) in all.into_iter().zip(&ranges).enumerate() {
            let buffer = completion.result.expect("read").expect("a buffer");
            assert_eq!(completion.tag, index as u64);
            assert!(buffer[..] == pattern(index as u64, *length), "range {index} differs");
        }
        assert!(bench.read(0, 512).iter().all(|byte| *byte == 0), "untouched");
        bench.submit(Operation::Flush);
        bench.succeed();
        drop(bench);
        let mut bytes = vec![0; ranges[7].1];
        File::open(&place.path)
            .and_then(|file| file.read_exact_at(&mut bytes, ranges[7].0))
            .expect("another reader");
        assert!(bytes == pattern(7, ranges[7].1), "another reader sees the same");
    });
}

#[test]
fn a_large_transfer_is_one_operation() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        let bytes = pattern(1, 4 << 20);
        bench.write(1536, &bytes, true);
        bench.succeed();
        assert!(bench.read(1536, bytes.len()) == bytes);
    });
}

#[test]
fn flushes_queued_together_share_one_fdatasync_and_later_ones_start_another() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        bench.write(0, &pattern(1, 4096), false);
        bench.succeed();
        assert_eq!(bench.disk.fdatasyncs(), 0);
        for _ in 0..10 {
            bench.submit(Operation::Flush);
        }
        bench.disk.kick();
        assert_eq!(bench.disk.fdatasyncs(), 1);
        // Too late for the one that was handed over, and not started beside it.
        for _ in 0..5 {
            bench.submit(Operation::Flush);
        }
        bench.disk.kick();
        assert_eq!(bench.disk.fdatasyncs(), 1);
        assert_eq!(bench.finish().len(), 15);
        assert_eq!(bench.disk.fdatasyncs(), 2);
    });
}

#[test]
fn zeroing_with_permission_gives_the_space_back() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        bench.write(0, &pattern(1, 4 << 20), false);
        bench.submit(Operation::Flush);
        bench.succeed();
        bench.submit(Operation::Flush);
        bench.succeed();
        let blocks = |path: &Path| fs::metadata(path).expect("metadata").blocks();
        let before = blocks(&place.path);
        assert_eq!(bench.disk.fdatasyncs(), 2);
        // From the middle of a page to the middle of a page.
        bench.zero(512, (1 << 20) + 1024, true, true);
        bench.succeed();
        assert_eq!(bench.disk.fdatasyncs(), 3, "a durable zero is flushed");
        if !place.is_block {
            assert!(bench.disk.discard());
            let freed = before - blocks(&place.path);
            assert!(freed >= (1 << 20) / 512 - 16, "{freed} sectors were given back");
        }
        let expected = pattern(1, 4 << 20);
        let found = bench.read(0, 4 << 20);
        let end = 512 + (1 << 20) + 1024;
        assert!(found[..512] == expected[..512], "before the range");
        assert!(found[512..end].iter().all(|byte| *byte == 0), "in the range");
        assert!(found[end..] == expected[end..], "behind the range");
    });
}

#[test]
fn zeroing_without_permission_keeps_the_space() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        bench.write(0, &pattern(1, 4 << 20), false);
        bench.submit(Operation::Flush);
        bench.succeed();
        bench.submit(Operation::Flush);
        bench.succeed();
        let before = fs::metadata(&place.path).expect("metadata").blocks();
        // More than a chunk, for file systems where it is done by writing.
        bench.zero(4096, (2 << 20) + 512, false, false);
        bench.succeed();
        assert_eq!(bench.disk.fdatasyncs(), 2, "no flush was asked for");
        assert!(fs::metadata(&place.path).expect("metadata").blocks() >= before);
        let found = bench.read(0, 4 << 20);
        let expected = pattern(1, 4 << 20);
        let end = 4096 + (2 << 20) + 512;
        assert!(found[..4096] == expected[..4096]);
        assert!(found[4096..end].iter().all(|byte| *byte == 0));
        assert!(found[end..] == expected[end..]);
    });
}

#[test]
fn a_disk_that_cannot_zero_gets_zeroes_written() {
    everywhere(|place, backend| {
        for (errno, remembered) in [(Errno::OPNOTSUPP, true), (Errno::INVAL, false)] {
            let faults = FaultInjection::default();
            let Some(mut bench) = place.open_with(backend, faults.clone()) else { return };
            bench.write(0, &pattern(1, 3 << 20), false);
            bench.succeed();
            let refuse = Fault::Error(errno.raw_os_error());
            // Refused for good: punching, then zeroing. Refused once: only that one.
            faults.plan(FaultKind::Zero, 1, refuse);
            if remembered {
                faults.plan(FaultKind::Zero, 2, refuse);
            }
            // The third and later steps are writes of zeroes, one of them cut short.
            faults.plan(FaultKind::Zero, if remembered { 4 } else { 3 }, Fault::Short(1000));
            bench.zero(512, 2 << 20, true, true);
            bench.succeed();
            let found = bench.read(0, 3 << 20);
            let expected = pattern(1, 3 << 20);
            let end = 512 + (2 << 20);
            assert!(found[..512] == expected[..512]);
            assert!(found[512..end].iter().all(|byte| *byte == 0));
            assert!(found[end..] == expected[end..]);
            // The next one starts with writing, or with punching again: a refusal of its first
            // step is an error only for a write.
            faults.plan(FaultKind::Zero, 1, refuse);
            bench.zero(0, 4096, true, false);
            if remembered {
                assert_eq!(Errno::from_io_error(&bench.fail()), Some(errno));
            } else {
                bench.succeed();
            }
        }
    });
}

#[test]
fn short_transfers_are_continued_from_a_whole_sector() {
    everywhere(|place, backend| {
        let faults = FaultInjection::default();
        let Some(mut bench) = place.open_with(backend, faults.clone()) else { return };
        let bytes = pattern(3, 64 << 10);
        for (nth, limit) in [(1, 512), (2, 5000), (3, 100), (4, 0)] {
            faults.plan(FaultKind::Write, nth, Fault::Short(limit));
            faults.plan(FaultKind::Read, nth, Fault::Short(limit));
        }
        bench.write(4096, &bytes, true);
        bench.succeed();
        assert!(bench.read(4096, bytes.len()) == bytes);
    });
}

#[test]
fn interruptions_are_retried_a_bounded_number_of_times() {
    everywhere(|place, backend| {
        let faults = FaultInjection::default();
        let Some(mut bench) = place.open_with(backend, faults.clone()) else { return };
        faults.plan(FaultKind::Write, 1, Fault::Error(Errno::INTR.raw_os_error()));
        faults.plan(FaultKind::Write, 2, Fault::Error(Errno::AGAIN.raw_os_error()));
        bench.write(0, &pattern(1, 4096), false);
        bench.succeed();
        assert!(bench.read(0, 4096) == pattern(1, 4096));
        for nth in 1..=17 {
            faults.plan(FaultKind::Write, nth, Fault::Error(Errno::AGAIN.raw_os_error()));
        }
        bench.write(0, &pattern(2, 4096), false);
        assert_eq!(Errno::from_io_error(&bench.fail()), Some(Errno::AGAIN));
        bench.write(0, &pattern(2, 4096), false);
        bench.succeed();
    });
}

#[test]
fn an_error_ends_its_own_operation_only() {
    everywhere(|place, backend| {
        let faults = FaultInjection::default();
        let Some(mut bench) = place.open_with(backend, faults.clone()) else { return };
        faults.plan(FaultKind::Write, 3, Fault::Error(Errno::IO.raw_os_error()));
        for index in 0..6_u64 {
            bench.write(index * 4096, &pattern(index, 4096), false);
        }
        let all = bench.finish();
        let failed: Vec<u64> = all
            .iter()
            .filter(|completion| completion.result.is_err())
            .map(|completion| completion.tag)
            .collect();
        assert_eq!(failed, [2]);
        faults.plan(FaultKind::Any, 1, Fault::Error(Errno::IO.raw_os_error()));
        let buffer = bench.pool.take(512);
        bench.submit(Operation::Read { offset: 0, buffer });
        assert_eq!(Errno::from_io_error(&bench.fail()), Some(Errno::IO));
        bench.submit(Operation::Flush);
        bench.succeed();
    });
}

#[test]
fn after_a_failed_flush_none_succeeds_until_the_disk_is_opened_again() {
    everywhere(|place, backend| {
        let faults = FaultInjection::default();
        let Some(mut bench) = place.open_with(backend, faults.clone()) else { return };
        faults.plan(FaultKind::Flush, 1, Fault::Error(Errno::INTR.raw_os_error()));
        bench.submit(Operation::Flush);
        bench.submit(Operation::Flush);
        bench.zero(0, 4096, true, true);
        for completion in bench.finish() {
            let error = completion.result.expect_err("all three share the failure");
            assert_eq!(Errno::from_io_error(&error), Some(Errno::INTR), "and it is not retried");
        }
        bench.submit(Operation::Flush);
        assert_eq!(Errno::from_io_error(&bench.fail()), Some(Errno::INTR));
        assert_eq!(bench.disk.fdatasyncs(), 1, "the kernel was not asked again");
        drop(bench);
        let mut bench = place.open(backend).expect("opened before");
        bench.submit(Operation::Flush);
        bench.succeed();
    });
}

#[test]
fn a_failed_durable_write_fails_the_flushes_behind_it() {
    everywhere(|place, backend| {
        let faults = FaultInjection::default();
        let Some(mut bench) = place.open_with(backend, faults.clone()) else { return };
        faults.plan(FaultKind::Write, 1, Fault::Error(Errno::IO.raw_os_error()));
        bench.write(0, &pattern(1, 512), true);
        bench.fail();
        bench.submit(Operation::Flush);
        assert_eq!(Errno::from_io_error(&bench.fail()), Some(Errno::IO));
    });
}

#[test]
fn what_is_not_inside_the_disk_in_whole_sectors_is_refused() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        let ranges = [
            (1, 512),
            (0, 511),
            (0, 0),
            (DISK_BYTES, 512),
            (DISK_BYTES - 512, 1024),
            (u64::MAX - 511, 1024),
        ];
        for (offset, length) in ranges {
            bench.write(offset, &pattern(1, length), false);
            assert_eq!(bench.fail().kind(), ErrorKind::InvalidInput, "write {offset} {length}");
            let buffer = bench.pool.take(length);
            bench.submit(Operation::Read { offset, buffer });
            assert_eq!(bench.fail().kind(), ErrorKind::InvalidInput, "read {offset} {length}");
            bench.zero(offset, length as u64, true, false);
            assert_eq!(bench.fail().kind(), ErrorKind::InvalidInput, "zero {offset} {length}");
        }
        bench.write(DISK_BYTES - 512, &pattern(1, 512), false);
        bench.succeed();
    });
}

#[test]
fn a_disk_that_shrank_gives_an_error() {
    for backend in BACKENDS {
        let place = Place::on_disk();
        let Some(mut bench) = place.open(backend) else { continue };
        let shrink = |length| {
            let file = fs::OpenOptions::new().write(true).open(&place.path).expect("the file");
            file.set_len(length).expect("shorter");
        };
        // Once at a sector, once within.
        for length in [DISK_BYTES - 4096, DISK_BYTES - 8000] {
            shrink(length);
            let buffer = bench.pool.take(16_384);
            bench.submit(Operation::Read { offset: DISK_BYTES - 16_384, buffer });
            assert_eq!(bench.fail().kind(), ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn dropping_a_disk_finishes_what_the_kernel_has() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        let pool = bench.pool.clone();
        for index in 0..200_u64 {
            bench.write(index * 4096, &pattern(index, 4096), false);
        }
        bench.disk.kick();
        drop(bench);
        // Every buffer is back: the arena can serve its whole class again.
        let buffers: Vec<_> = (0..256).map(|_| pool.take(4096)).collect();
        assert!(buffers.iter().all(|buffer| buffer.arena_slot(&pool).is_some()));
        let mut bench = place.open(backend).expect("unlocked again at once");
        // The smallest depth of a backend is 64: so many were handed over.
        for index in 0..64_u64 {
            assert!(bench.read(index * 4096, 4096) == pattern(index, 4096), "write {index}");
        }
        // Reads: the kernel writes into memory that must not have gone to anybody else.
        for index in 0..64_u64 {
            let buffer = bench.pool.take(4096);
            bench.submit(Operation::Read { offset: index * 4096, buffer });
        }
        bench.disk.kick();
    });
}

#[test]
fn a_disk_has_one_owner() {
    everywhere(|place, backend| {
        let Some(bench) = place.open(backend) else { return };
        let _inside = bench.runtime.enter();
        let open = |sharing| {
            let options = DiskOptions { sharing, ..DiskOptions::default() };
            Disk::open(&place.path, &options, &bench.pool)
        };
        let error = open(Sharing::Exclusive).expect_err("somebody has it");
        assert!(matches!(error, DiskError::InUse { .. }), "{error}");
        if !place.is_block {
            let text = error.to_string();
            let me = format!("process {} (", std::process::id());
            assert!(text.contains(&me), "{text} does not name the holder");
            assert!(matches!(open(Sharing::Shared), Err(DiskError::InUse { .. })));
        }
        drop(bench.disk);
        for _ in 0..20 {
            open(Sharing::Exclusive).expect("free again");
        }
        let first = open(Sharing::Shared).expect("nobody has it");
        open(Sharing::Shared).expect("both share");
        if !place.is_block {
            assert!(matches!(open(Sharing::Exclusive), Err(DiskError::InUse { .. })));
        }
        drop(first);
    });
}

#[test]
fn what_is_no_disk_is_not_opened() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tiny = directory.path().join("tiny");
    fs::write(&tiny, [0; 511]).expect("a tiny file");
    let open = |path: &Path| {
        Disk::open(path, &DiskOptions::default(), &BufferPool::default()).expect_err("no disk")
    };
    assert!(matches!(open(directory.path()), DiskError::NotADisk { .. }));
    assert!(matches!(open(Path::new("/dev/null")), DiskError::NotADisk { .. }));
    assert!(matches!(open(&tiny), DiskError::Empty { .. }));
    let missing = open(&directory.path().join("missing"));
    assert!(
        matches!(&missing, DiskError::Open { source, .. } if source.kind() == ErrorKind::NotFound)
    );
}

#[test]
fn the_backend_and_direct_io_follow_the_backing_store() {
    let place = Place::on_disk();
    let open = |place: &Place, direct| {
        let bench = place.open(BackendChoice::Threads).expect("threads are always there");
        let _inside = bench.runtime.enter();
        drop(bench.disk);
        let options = DiskOptions { direct, ..DiskOptions::default() };
        Disk::open(&place.path, &options, &bench.pool)
    };
    let auto = open(&place, DirectIo::Auto).expect("opened");
    assert!(["io_uring", "threads", "inline"].contains(&auto.backend_name()));
    assert_eq!(auto.size_bytes(), DISK_BYTES);
    assert_eq!((auto.logical_block_bytes(), auto.physical_block_bytes()), (512, 4096));
    let is_direct = auto.is_direct();
    drop(auto);
    assert!(!open(&place, DirectIo::Off).expect("opened").is_direct());
    match open(&place, DirectIo::On) {
        Ok(disk) => assert!(is_direct && disk.is_direct() && disk.backend_name() != "inline"),
        Err(error) => {
            assert!(!is_direct);
            eprintln!("skipped: the temporary directory has no direct I/O: {error}");
        }
    }
    if let Some(place) = Place::in_memory() {
        let disk = open(&place, DirectIo::Auto).expect("opened");
        assert_eq!((disk.backend_name(), disk.is_direct()), ("inline", false));
    }
    if let Some(place) = Place::loop_device() {
        let disk = open(&place, DirectIo::Auto).expect("opened");
        assert_ne!(disk.backend_name(), "inline", "its node lies in memory, it does not");
        assert_eq!(disk.logical_block_bytes(), 512);
    }
}

/// Sectors that the device under `path` has written since it was started (kernel's block/stat).
fn sectors_written(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(6)?.parse().ok()
}

#[test]
fn a_durable_write_is_on_the_device_when_it_completes() {
    for backend in BACKENDS {
        let place = Place::on_disk();
        if sectors_written(&place.path).is_none() {
            eprintln!("skipped: the device of the temporary directory does not count its writes");
            return;
        }
        let Some(bench) = place.open(backend) else { continue };
        // Through the page cache, where a write would stay for seconds otherwise.
        let Bench { disk, pool, runtime, next_tag } = bench;
        drop(disk);
        let options = DiskOptions { backend, direct: DirectIo::Off, ..DiskOptions::default() };
        let disk = {
            let _inside = runtime.enter();
            Disk::open(&place.path, &options, &pool).expect("opened")
        };
        let mut bench = Bench { disk, pool, runtime, next_tag };
        let before = sectors_written(&place.path);
        bench.write(0, &pattern(1, 4 << 20), true);
        bench.succeed();
        let gained = sectors_written(&place.path).zip(before).map(|(after, before)| after - before);
        assert!(
            gained.is_some_and(|sectors| sectors >= (4 << 20) / 512),
            "{backend:?}: {gained:?}"
        );
    }
}

/// DRBD and NBD speak of 512 bytes; where the device does not, the page cache translates.
#[test]
fn a_device_with_larger_sectors_is_used_through_the_page_cache() {
    let Some(place) = Place::loop_device_with(&["--sector-size", "4096"]) else { return };
    for backend in BACKENDS {
        let Some(mut bench) = place.open(backend) else { continue };
        assert_eq!(bench.disk.logical_block_bytes(), 4096);
        assert!(!bench.disk.is_direct());
        bench.write(0, &pattern(9, 16_384), true);
        bench.write(512 * 33, &pattern(1, 512), true);
        bench.succeed();
        bench.zero(512, 1024, true, true);
        bench.succeed();
        let found = bench.read(0, 16_384);
        let expected = pattern(9, 16_384);
        assert!(found[..512] == expected[..512]);
        assert!(found[512..1536].iter().all(|byte| *byte == 0));
        assert!(found[1536..] == expected[1536..]);
        assert!(bench.read(512 * 33, 512) == pattern(1, 512));
        let _inside = bench.runtime.enter();
        drop(bench.disk);
        let options = DiskOptions { direct: DirectIo::On, ..DiskOptions::default() };
        let error = Disk::open(&place.path, &options, &bench.pool).expect_err("not in sectors");
        assert!(error.to_string().contains("multiples of 4096 bytes"), "{error}");
    }
}

#[test]
fn waiting_may_be_given_up_at_any_time() {
    everywhere(|place, backend| {
        let Some(mut bench) = place.open(backend) else { return };
        for round in 0..20 {
            bench.write(0, &pattern(round, 4096), false);
            bench.disk.kick();
            let Bench { disk, runtime, .. } = &mut bench;
            // Polled once or not at all, then dropped.
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = disk.ready() => {}
                    () = std::future::ready(()) => {}
                }
                drop(disk.ready());
            });
            bench.succeed();
        }
    });
}

#[test]
fn more_operations_than_the_bound_are_refused() {
    let place = Place::on_disk();
    let mut bench = place.open(BackendChoice::Inline).expect("always there");
    for _ in 0..=65_536 {
        bench.submit(Operation::Flush);
    }
    let all = bench.finish();
    let refused: Vec<_> =
        all.into_iter().filter_map(|completion| completion.result.err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].kind(), ErrorKind::ResourceBusy);
    assert_eq!(bench.disk.fdatasyncs(), 1);
}
