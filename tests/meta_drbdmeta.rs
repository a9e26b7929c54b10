//! The same disks in the hands of the installed drbdmeta (drbd-utils): what we write it reads, what
//! it writes we read, and both give the same bytes. Needs root, loop devices and drbdmeta.

use std::fs::{File, OpenOptions as FileOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use tempfile::NamedTempFile;
use twinblk::meta::{
    self, CreateOptions, Flags, Layout, LogShape, Magic, MetaError, OpenOptions, PAGE_WORDS,
    Placement, Record, Superblock,
};

const MIB: u64 = 1 << 20;

/// A loop device over a sparse temporary file; detached when dropped, also by a failed test.
struct Loop {
    device: PathBuf,
    minor: u32,
    /// Removed when dropped.
    _file: NamedTempFile,
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        // What drbdmeta remembers of a minor: its lock, and where its metadata was last.
        let _ = std::fs::remove_file(format!("/var/lock/drbd-147-{}", self.minor));
        let _ = std::fs::remove_file(format!("/var/lib/drbd/drbd-minor-{}.lkbd", self.minor));
    }
}

impl Loop {
    /// `None`, with the reason printed, where this machine cannot.
    fn new(size: u64) -> Option<Self> {
        // drbdmeta locks by minor number; nobody configures ones as high as these.
        static NEXT_MINOR: AtomicU32 = AtomicU32::new(0);
        let have_drbdmeta = Command::new("drbdmeta").arg("--help").output();
        if let Err(error) = have_drbdmeta {
            println!("skipped: drbdmeta cannot be run: {error}");
            return None;
        }
        let file = NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(size).expect("sparse");
        let losetup = Command::new("losetup").args(["--show", "-f"]).arg(file.path()).output();
        let device = match losetup {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().into()
            }
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                println!("skipped: no loop device (root is needed): {reason}");
                return None;
            }
            Err(error) => {
                println!("skipped: losetup cannot be run: {error}");
                return None;
            }
        };
        let minor = 500_000
            + std::process::id() % 5_000 * 64
            + NEXT_MINOR.fetch_add(1, Ordering::Relaxed) % 64;
        Some(Self { device, minor, _file: file })
    }

    fn open(&self) -> File {
        FileOptions::new().read(true).write(true).open(&self.device).expect("loop device")
    }

    fn run(&self, placement: Placement, force: bool, command: &[&str]) -> Output {
        let index = match placement {
            Placement::Internal => "internal".to_owned(),
            Placement::FlexibleExternal => "flex-external".to_owned(),
            Placement::Indexed(index) => index.to_string(),
        };
        let mut drbdmeta = Command::new("drbdmeta");
        if force {
            drbdmeta.arg("--force");
        }
        drbdmeta.args([&self.minor.to_string(), "v08"]).arg(&self.device).arg(index);
        let mut child = drbdmeta
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("drbdmeta runs");
        // It may have ended without asking anything.
        let _ = child.stdin.take().expect("piped").write_all(b"no\n");
        child.wait_with_output().expect("drbdmeta ends")
    }

    /// Output of a command that must succeed.
    fn said(&self, placement: Placement, command: &str) -> String {
        let output = self.run(placement, command == "dump-md", &[command]);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

/// Where, and how large the metadata device is.
fn cases() -> Vec<(Placement, u64, LogShape)> {
    let plain = LogShape::default();
    let striped = LogShape { stripes: 4, stripe_blocks: 8 };
    vec![
        (Placement::Internal, 8 * MIB, plain),
        (Placement::Internal, 1024 * MIB + 3 * 512, plain),
        (Placement::Internal, 64 * MIB, striped),
        (Placement::FlexibleExternal, 64 * MIB, plain),
        (Placement::FlexibleExternal, 2 * MIB, striped),
        (Placement::Indexed(1), 256 * MIB, plain),
    ]
}

/// The data device of a case: with external metadata any size.
fn data_bytes(placement: Placement, metadata_bytes: u64) -> u64 {
    if placement == Placement::Internal { metadata_bytes } else { 8 << 30 }
}

fn stripes_of(log: LogShape) -> [String; 4] {
    let kib = log.stripe_blocks * 4;
    ["--al-stripes".into(), log.stripes.to_string(), "--al-stripe-size-kB".into(), kib.to_string()]
}

fn read(disk: &Loop, placement: Placement, data: u64) -> (Superblock, Layout) {
    meta::read_superblock(data, &mut disk.open(), placement).expect("valid metadata")
}

/// Superblock, log, and as much of the bitmap as the data needs.
fn area(file: &File, layout: &Layout) -> Vec<u8> {
    let pages = layout.usable_sectors.div_ceil(128 * MIB / 512);
    let mut bytes = Vec::new();
    for (offset, length) in [
        (layout.superblock_offset_bytes, 4096),
        (layout.log_offset_bytes, layout.log.blocks() * 4096),
        (layout.bitmap_offset_bytes, pages * 4096),
    ] {
        let mut part = vec![0; length as usize];
        file.read_exact_at(&mut part, offset).expect("inside");
        bytes.extend(part);
    }
    bytes
}

/// Both tell the same about the disk. The installed drbdmeta may print wrong flags (drbd-utils
/// 9.22 does), so that line is left to get-gi.
fn assert_same_story(disk: &Loop, placement: Placement, data: u64) {
    let (superblock, layout) = read(disk, placement, data);
    assert_eq!(disk.said(placement, "get-gi"), meta::generation_line(&superblock));
    assert_eq!(disk.said(placement, "dstate"), meta::disk_state(superblock.record.flags));
    let without_flags = |text: &str| -> Vec<String> {
        let start = text.find("version \"v08\";").expect("a dump");
        let flags = |line: &&str| !line.trim_start().starts_with("flags 0x");
        text[start..].lines().filter(flags).map(str::to_owned).collect()
    };
    let ours = meta::dump(&superblock, &layout, &mut disk.open(), true).expect("readable");
    assert_eq!(without_flags(&disk.said(placement, "dump-md")), without_flags(&ours));
}

#[test]
fn create_md_writes_the_same_bytes() {
    for (placement, size, log) in cases() {
        let Some(theirs) = Loop::new(size) else { return };
        let Some(ours) = Loop::new(size) else { return };
        let stripes = stripes_of(log);
        let mut command = vec!["create-md"];
        command.extend(stripes.iter().map(String::as_str));
        let output = theirs.run(placement, false, &command);
        assert!(output.status.success(), "{placement:?}: {output:?}");

        let data = data_bytes(placement, size);
        let options = CreateOptions { log, ..CreateOptions::default() };
        meta::create(data, &mut ours.open(), placement, &options).expect("blank");
        let (superblock, layout) = read(&ours, placement, data);
        assert_eq!(superblock, read(&theirs, placement, data).0, "{placement:?}");
        let same = area(&ours.open(), &layout) == area(&theirs.open(), &layout);
        assert!(same, "{placement:?} of {size} bytes");
        assert_same_story(&ours, placement, data);
    }
}

/// What a Primary leaves behind when it crashes.
fn work_and_crash(file: &mut File, placement: Placement, data: u64) -> Record {
    let options = OpenOptions { log_slots: 1237, ..OpenOptions::default() };
    let mut opened = meta::open(data, file, placement, &options).expect("clean metadata");
    let perform = |write: meta::Write| {
        file.write_all_at(&write.bytes[..], write.offset_bytes).expect("inside");
        file.sync_data().expect("flushed");
    };
    let record = Record {
        agreed_sectors: opened.layout.usable_sectors - 8,
        current: 0xA35E_10F4_3A73_8817,
        bitmap: 0x83BE_E40F_48F7_F99E,
        history: [0x1111, 4],
        flags: Flags::CONSISTENT | Flags::PRIMARY_IND | Flags::WAS_UP_TO_DATE,
        peer_max_bio_bytes: 1 << 20,
    };
    perform(opened.writer.record(&record));
    let extents = (opened.layout.usable_sectors / 8192) as u32;
    for number in 0..20 {
        let extent = number * 37 % extents;
        let updates = [(number as u16 % 7, extent), (1236 - number as u16, extents)];
        for page in opened.writer.pages_before(&updates) {
            let words = opened.bitmap_words[page as usize * PAGE_WORDS..].first_chunk();
            perform(opened.writer.bitmap_page(page, words.expect("whole pages")));
        }
        perform(opened.writer.activity_log(&updates));
        opened.bitmap_words[extent as usize * 16] |= 3;
    }
    record
}

#[test]
fn drbdmeta_takes_over_after_a_crash() {
    for (placement, size, log) in cases() {
        let Some(disk) = Loop::new(size) else { return };
        let Some(copy) = Loop::new(size) else { return };
        let data = data_bytes(placement, size);
        let options = CreateOptions { log, ..CreateOptions::default() };
        for each in [&disk, &copy] {
            let mut file = each.open();
            meta::create(data, &mut file, placement, &options).expect("blank");
            work_and_crash(&mut file, placement, data);
        }
        assert_same_story(&disk, placement, data);
        let refused = disk.run(placement, false, &["dump-md"]);
        assert!(!refused.status.success(), "unclean metadata");

        let output = disk.run(placement, false, &["apply-al"]);
        assert!(output.status.success(), "{placement:?}: {output:?}");
        let done = meta::apply_activity_log(data, &mut copy.open(), placement, false);
        assert!(done.expect("replays").applied_extents > 1);
        let (superblock, layout) = read(&disk, placement, data);
        assert!(superblock.log_is_applied());
        let same = area(&disk.open(), &layout) == area(&copy.open(), &layout);
        assert!(same, "apply-al gives the same bytes: {placement:?} of {size}");
        assert_same_story(&disk, placement, data);

        assert_eq!(disk.said(placement, "outdate"), "");
        assert_eq!(meta::disk_state(read(&disk, placement, data).0.record.flags), "Outdated");
        meta::outdate(data, &mut copy.open(), placement).expect("consistent");
        assert_same_story(&copy, placement, data);
    }
}

#[test]
fn we_take_over_what_drbdmeta_made_and_changed() {
    for (placement, size, log) in cases() {
        let Some(disk) = Loop::new(size) else { return };
        let data = data_bytes(placement, size);
        let stripes = stripes_of(log);
        let mut command = vec!["create-md"];
        command.extend(stripes.iter().map(String::as_str));
        assert!(disk.run(placement, false, &command).status.success());
        let mut file = disk.open();
        let record = work_and_crash(&mut file, placement, data);
        disk.said(placement, "apply-al");
        disk.said(placement, "invalidate");

        let opened =
            meta::open(data, &mut file, placement, &OpenOptions::default()).expect("clean");
        assert_eq!(opened.full_sync, Some(meta::FullSyncCause::Flag));
        assert_eq!(meta::count_bits(&opened.bitmap_words), record.agreed_sectors.div_ceil(8));
        assert_eq!(opened.superblock.record.flags, Flags::PRIMARY_IND);
        assert_eq!(opened.superblock.magic, Magic::InUse);
        assert_same_story(&disk, placement, data);
    }
}

#[test]
fn wiped_metadata_is_gone_for_both() {
    let Some(disk) = Loop::new(8 * MIB) else { return };
    let (placement, mut file) = (Placement::Internal, disk.open());
    let create = |file: &mut File| {
        meta::create(8 * MIB, file, placement, &CreateOptions::default()).expect("nothing there")
    };
    create(&mut file);
    assert!(meta::wipe(&mut file, placement).expect("readable"));
    assert!(!disk.run(placement, false, &["get-gi"]).status.success());
    assert!(!meta::wipe(&mut file, placement).expect("readable"), "nothing to wipe");
    create(&mut file);
    assert!(disk.run(placement, true, &["wipe-md"]).status.success());
    let read = meta::read_superblock(8 * MIB, &mut file, placement);
    assert!(matches!(read, Err(MetaError::NoMagic { .. })));
}

/// drbdmeta ends with 40 where force does not help, with 1 where it asks.
#[test]
fn both_refuse_to_overwrite_the_same_things() {
    let ext = |blocks: u32| {
        let mut superblock = vec![0; 1024];
        superblock[4..8].copy_from_slice(&blocks.to_le_bytes());
        superblock[24] = 2;
        superblock[56..58].copy_from_slice(&[0x53, 0xEF]);
        superblock
    };
    let xfs = |blocks: u64| [&b"XFSB\0\0\x10\0"[..], &blocks.to_be_bytes()].concat();
    let lvm = [&b"LABELONE"[..], &[0; 16], b"LVM2 001"].concat();
    let contents: [(u64, Vec<u8>); 8] = [
        (1024, ext(16384)),
        (1024, ext(8192)),
        (0, xfs(16384)),
        (0, xfs(8192)),
        (4086, b"SWAPSPACE2".to_vec()),
        (512, lvm),
        (66_000, b"something".to_vec()),
        (MIB, b"not looked at".to_vec()),
    ];
    for placement in [Placement::Internal, Placement::FlexibleExternal] {
        for (offset, bytes) in &contents {
            let prepared = || {
                let disk = Loop::new(64 * MIB)?;
                let file = disk.open();
                file.write_all_at(bytes, *offset).expect("inside");
                file.sync_data().expect("flushed");
                Some(disk)
            };
            let (Some(disk), Some(other)) = (prepared(), prepared()) else { return };
            let theirs = disk.run(placement, false, &["create-md"]).status.code();
            let options = CreateOptions::default();
            let ours = match meta::create(64 * MIB, &mut other.open(), placement, &options) {
                Ok(_) => Some(0),
                Err(MetaError::Obstructed(obstacle)) if obstacle.overridable => Some(1),
                Err(MetaError::Obstructed(_)) => Some(40),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(ours, theirs, "{placement:?}: {bytes:?} at {offset}");
        }
    }
    let Some(disk) = Loop::new(8 * MIB) else { return };
    let (placement, mut file) = (Placement::Internal, disk.open());
    let mut options = CreateOptions::default();
    meta::create(8 * MIB, &mut file, placement, &options).expect("blank");
    work_and_crash(&mut file, placement, 8 * MIB);
    assert_eq!(disk.run(placement, false, &["create-md"]).status.code(), Some(1));
    let again = meta::create(8 * MIB, &mut file, placement, &options);
    assert!(matches!(again, Err(MetaError::Obstructed(obstacle)) if obstacle.overridable));
    options.force = true;
    meta::create(8 * MIB, &mut file, placement, &options).expect("forced");
    assert_same_story(&disk, placement, 8 * MIB);
}

/// Any bitmap is printed as drbdmeta prints it, over several pages.
#[test]
fn random_bitmaps_are_dumped_alike() {
    let Some(disk) = Loop::new(1024 * MIB) else { return };
    let (placement, mut file) = (Placement::Internal, disk.open());
    meta::create(1024 * MIB, &mut file, placement, &CreateOptions::default()).expect("blank");
    let (mut superblock, layout) = read(&disk, placement, 1024 * MIB);
    superblock.record.agreed_sectors = layout.usable_sectors;
    file.write_all_at(&superblock.encode()[..], layout.superblock_offset_bytes).expect("inside");
    let word = prop_oneof![4 => Just(0u64), 4 => Just(u64::MAX), 1 => Just(7), 1 => any::<u64>()];
    let runs = prop::collection::vec((word, prop_oneof![1usize..40, 1usize..900]), 1..60);
    let config = ProptestConfig { cases: 24, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&runs, |runs| {
            let mut words: Vec<u64> =
                runs.iter().flat_map(|&(word, count)| std::iter::repeat_n(word, count)).collect();
            words.resize(8 * PAGE_WORDS, 0);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            file.write_all_at(&bytes, layout.bitmap_offset_bytes).expect("inside");
            file.sync_data().expect("flushed");
            assert_same_story(&disk, placement, 1024 * MIB);
            Ok(())
        })
        .expect("the same");
}
