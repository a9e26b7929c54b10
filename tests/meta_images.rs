//! The metadata of real DRBD 8.4.11 disks (`tests/data/md`): every image decodes, gives the dump
//! that drbdmeta gave, and its log replays to the bit.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use twinblk::meta::{
    self, BlockContent, Flags, FullSyncCause, Layout, Magic, MemoryStorage, MetaError, OpenOptions,
    Placement, Storage, Superblock,
};

const PAGE: usize = 4096;

struct Image {
    name: String,
    text: String,
    disk: MemoryStorage,
    placement: Placement,
    data_bytes: u64,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/md")
}

fn number_after(text: &str, words: &str) -> Option<u64> {
    let at = text.find(words)? + words.len();
    text[at..].split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Puts the stored part of a device where it was; the rest of the device is zeroes.
fn load(name: &str) -> Image {
    let text = fs::read_to_string(folder().join(format!("{name}.txt"))).expect("listing");
    let packed = fs::File::open(folder().join(format!("{name}.img.gz"))).expect("image");
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).expect("gzip");
    let start = number_after(&text, "from byte ").expect("where the image begins");
    let placement = match name {
        "63-flex-external-64M" => Placement::FlexibleExternal,
        "64-external-index1" => Placement::Indexed(1),
        _ => Placement::Internal,
    };
    let size = match placement {
        Placement::Internal => start + bytes.len() as u64,
        Placement::FlexibleExternal => 64 << 20,
        Placement::Indexed(_) => 2_103_516 << 10,
    };
    let mut disk = MemoryStorage::new(size);
    disk.preset(start, &bytes);
    Image { name: name.into(), text, disk, placement, data_bytes: size }
}

fn all() -> Vec<Image> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .expect("the images are part of the source")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".img.gz").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(names.len(), 19);
    names.iter().map(|name| load(name)).collect()
}

fn read(image: &mut Image) -> (Superblock, Layout) {
    meta::read_superblock(image.data_bytes, &mut image.disk, image.placement)
        .unwrap_or_else(|error| panic!("{}: {error}", image.name))
}

/// Magic and flags as the images have them.
#[test]
fn superblocks_decode_and_encode_to_the_same_bytes() {
    let expected = [
        ("01-created-8M", Magic::Clean, 0x080),
        ("02-after-sync-a-8M", Magic::InUse, 0x011),
        ("02-after-sync-b-8M", Magic::InUse, 0x011),
        ("24-sync-source-interrupted-8M", Magic::InUse, 0x031),
        ("24-sync-target-interrupted-8M", Magic::InUse, 0x000),
        ("37-crashed-after-apply-al-8M", Magic::InUse, 0x051),
        ("37-crashed-primary-8M", Magic::InUse, 0x017),
        ("37-peer-of-crashed-8M", Magic::InUse, 0x015),
        ("39-detached-8M", Magic::InUse, 0x015),
        ("39-primary-peer-detached-8M", Magic::InUse, 0x017),
        ("60-internal-64M", Magic::Clean, 0x080),
        ("61-internal-2103516K", Magic::Clean, 0x080),
        ("62-internal-1T", Magic::Clean, 0x080),
        ("63-flex-external-64M", Magic::Clean, 0x080),
        ("64-external-index1", Magic::Clean, 0x080),
        ("65-internal-64M-striped", Magic::Clean, 0x080),
        ("66-live-al-64M", Magic::InUse, 0x013),
        ("67-live-al-64M-applied", Magic::Clean, 0x093),
        ("68-live-al-striped", Magic::InUse, 0x053),
    ];
    for (mut image, (name, magic, flags)) in all().into_iter().zip(expected) {
        assert_eq!(image.name, name);
        let (superblock, layout) = read(&mut image);
        assert_eq!((superblock.magic, superblock.record.flags), (magic, Flags(flags)), "{name}");
        let mut bytes = [0; PAGE];
        image.disk.read_at(layout.superblock_offset_bytes, &mut bytes).expect("inside");
        assert_eq!(*superblock.encode(), bytes, "{name}");
    }
}

/// The recorded dumps have a wrong flags line (drbd-utils 9.22 prints 0 always); all else is equal.
#[test]
fn dumps_are_as_drbdmeta_prints_them() {
    for mut image in all() {
        let (superblock, layout) = read(&mut image);
        let start = image.text.find("version \"v08\";").expect("a dump");
        let end = start + image.text[start..].find("\n# bits-set").expect("its end");
        let end = end + 1 + image.text[end + 1..].find('\n').expect("a line") + 1;
        let recorded = image.text[start..end]
            .replace("flags 0x00000000;", &format!("flags 0x{:08X};", superblock.record.flags.0));
        let text = meta::dump(&superblock, &layout, &mut image.disk, true).expect("readable");
        assert_eq!(text, recorded, "{}", image.name);
        let unforced = meta::dump(&superblock, &layout, &mut image.disk, false);
        if superblock.magic == Magic::Clean {
            assert_eq!(unforced.expect("clean"), text);
        } else {
            assert!(matches!(unforced, Err(MetaError::Unclean)), "{}", image.name);
            assert!(recorded.contains("unclean_meta_data_dump"));
        }
    }
}

#[test]
fn log_blocks_decode_and_encode_to_the_same_bytes() {
    let mut transactions = 0;
    for mut image in all() {
        let (_, layout) = read(&mut image);
        for block in 0..layout.log.blocks() {
            let mut bytes = [0; PAGE];
            let offset = layout.log_offset_bytes + block * PAGE as u64;
            image.disk.read_at(offset, &mut bytes).expect("inside");
            match meta::decode_block(&bytes) {
                BlockContent::Initialised => assert_eq!(*meta::encode_initialised(), bytes),
                BlockContent::Invalid => panic!("{} block {block}", image.name),
                BlockContent::Transaction(transaction) => {
                    transactions += 1;
                    assert_eq!(layout.log.block_of(transaction.number), block, "{}", image.name);
                    assert_eq!(*meta::encode_transaction(&transaction), bytes, "{}", image.name);
                }
            }
        }
    }
    assert!(transactions > 50, "{transactions}");
}

fn metadata_bytes(disk: &mut MemoryStorage, layout: &Layout) -> Vec<u8> {
    let mut bytes = vec![0; (disk.size() - layout.bitmap_offset_bytes) as usize];
    disk.read_at(layout.bitmap_offset_bytes, &mut bytes).expect("inside");
    bytes
}

#[test]
fn applying_the_log_gives_what_drbdmeta_gave_bit_for_bit() {
    let mut crashed = load("66-live-al-64M");
    let mut applied = load("67-live-al-64M-applied");
    let done =
        meta::apply_activity_log(crashed.data_bytes, &mut crashed.disk, Placement::Internal, false)
            .expect("replays");
    assert_eq!((done.applied_extents, done.marked_bits, done.full_sync), (7, 7 * 1024, None));
    let (_, layout) = read(&mut applied);
    let ours = metadata_bytes(&mut crashed.disk, &layout);
    assert!(ours == metadata_bytes(&mut applied.disk, &layout));
    let again =
        meta::apply_activity_log(crashed.data_bytes, &mut crashed.disk, Placement::Internal, false);
    assert_eq!(again.expect("clean").applied_extents, 0);
}

/// `69-commands.txt`: what drbdmeta said step by step to the striped image.
#[test]
fn offline_commands_say_what_drbdmeta_said() {
    let listing = fs::read_to_string(folder().join("69-commands.txt")).expect("listing");
    let mut image = load("68-live-al-striped");
    let (size, place) = (image.data_bytes, image.placement);
    let mut compared = 0;
    for step in listing.split("$ drbdmeta 2 v08 /dev/vdc internal ").skip(1) {
        let (command, said) = step.split_once('\n').expect("a line");
        let said = said.split("(exit 0)").next().expect("its output").trim_end();
        let disk = &mut image.disk;
        let superblock = meta::read_superblock(size, disk, place).expect("valid").0;
        let answer = match command {
            "get-gi" => meta::generation_line(&superblock),
            "dstate" => meta::disk_state(superblock.record.flags).into(),
            "apply-al" => {
                let done = meta::apply_activity_log(size, disk, place, false).expect("replays");
                let marked = done.marked_bits * 4 / 1024;
                format!("Marked additional {marked} MB as out-of-sync based on AL.")
            }
            "outdate" => meta::outdate(size, disk, place).map(|()| String::new()).expect("valid"),
            "invalidate" => {
                meta::invalidate(size, disk, place).map(|()| String::new()).expect("valid")
            }
            _ => {
                assert_eq!(command, "show-gi");
                assert!(said.contains(&meta::generation_line(&superblock)));
                continue;
            }
        };
        assert_eq!(answer, said, "{command}");
        compared += 1;
    }
    assert_eq!(compared, 10);
    assert!(matches!(meta::outdate(size, &mut image.disk, place), Err(MetaError::Inconsistent(_))));
}

#[test]
fn every_image_opens_with_the_bits_it_stands_for() {
    for mut image in all() {
        let (before, _) = read(&mut image);
        let opened =
            meta::open(image.data_bytes, &mut image.disk, image.placement, &OpenOptions::default())
                .unwrap_or_else(|error| panic!("{}: {error}", image.name));
        let bits = meta::count_bits(&opened.bitmap_words);
        let (expected_extents, expected_bits) = match image.name.as_str() {
            "24-sync-source-interrupted-8M" => (0, 82),
            "24-sync-target-interrupted-8M" => (0, 82),
            // Of 2048 bits in two extents the device has 2038.
            "37-crashed-primary-8M" => (2, 2038),
            "39-primary-peer-detached-8M" => (1, 1024),
            "37-crashed-after-apply-al-8M" => (0, 2038),
            "66-live-al-64M" | "68-live-al-striped" => (7, 7 * 1024),
            "67-live-al-64M-applied" => (0, 7 * 1024),
            _ => (0, 0),
        };
        assert_eq!(
            (opened.applied_extents, bits),
            (expected_extents, expected_bits),
            "{}",
            image.name
        );
        assert_eq!(opened.full_sync, None);

        // In use on disk, everything else as before.
        let (after, _) = read(&mut image);
        assert_eq!(after, opened.superblock, "{}", image.name);
        let mut record = before.record;
        record.flags = record.flags.with(Flags::AL_CLEAN, false);
        assert_eq!((after.magic, after.record, after.log_slots), (Magic::InUse, record, 1237));

        // The kernel's way in stays open: apply-al makes it clean, and nothing is marked twice.
        let again =
            meta::apply_activity_log(image.data_bytes, &mut image.disk, image.placement, false);
        assert_eq!(again.expect("ours").marked_bits, 0, "{}", image.name);
        assert!(read(&mut image).0.log_is_applied());
    }
}

fn with_flags(name: &str, change: impl Fn(&mut Superblock)) -> Image {
    let mut image = load(name);
    let (mut superblock, layout) = read(&mut image);
    change(&mut superblock);
    image.disk.preset(layout.superblock_offset_bytes, &superblock.encode()[..]);
    image
}

fn open_image(image: &mut Image) -> Result<meta::Opened, MetaError> {
    meta::open(image.data_bytes, &mut image.disk, image.placement, &OpenOptions::default())
}

#[test]
fn every_block_counts_as_out_of_sync_when_the_bitmap_cannot_be_trusted() {
    let full = |superblock: &mut Superblock| {
        superblock.record.flags = superblock.record.flags | Flags::FULL_SYNC;
    };
    let mut image = with_flags("02-after-sync-a-8M", full);
    let opened = open_image(&mut image).expect("opens");
    assert_eq!(opened.full_sync, Some(FullSyncCause::Flag));
    assert_eq!(meta::count_bits(&opened.bitmap_words), 2038);
    let reopened = open_image(&mut image).expect("opens again");
    assert_eq!(reopened.full_sync, None, "the flag is cleared");
    assert_eq!(meta::count_bits(&reopened.bitmap_words), 2038, "because the bits are on disk");

    let disabled = |superblock: &mut Superblock| {
        superblock.record.flags = superblock.record.flags | Flags::AL_DISABLED;
    };
    for (name, cause) in [
        ("66-live-al-64M", Some(FullSyncCause::LogDisabled)),
        ("37-crashed-after-apply-al-8M", Some(FullSyncCause::LogDisabled)),
        ("02-after-sync-a-8M", None),
    ] {
        let opened = open_image(&mut with_flags(name, disabled)).expect("opens");
        assert_eq!(opened.full_sync, cause, "{name}");
    }
}

#[test]
fn a_damaged_log_of_a_crashed_primary_is_never_taken_for_little() {
    let damage = |name: &str, blocks: std::ops::Range<u64>| {
        let mut image = load(name);
        let (_, layout) = read(&mut image);
        for block in blocks {
            image.disk.preset(layout.log_offset_bytes + block * PAGE as u64 + 512, &[0xA5; 512]);
        }
        image
    };
    let torn = open_image(&mut damage("66-live-al-64M", 7..8)).expect("one torn block");
    assert_eq!(torn.full_sync, None);
    let opened = open_image(&mut damage("66-live-al-64M", 2..4)).expect("opens");
    assert_eq!(opened.full_sync, Some(FullSyncCause::LogDamaged { invalid_blocks: 2 }));
    assert_eq!(meta::count_bits(&opened.bitmap_words), 130_992 / 8);

    let mut image = damage("66-live-al-64M", 0..8);
    let error = open_image(&mut image).expect_err("nothing to go by");
    assert!(error.to_string().contains("PRIMARY_IND"), "{error}");
    assert!(error.hint("r0").contains("twinblk apply-al --force r0"));
    let done = meta::apply_activity_log(image.data_bytes, &mut image.disk, image.placement, true);
    assert_eq!(done.expect("forced").marked_bits, 130_992 / 8);
    assert_eq!(meta::count_bits(&open_image(&mut image).expect("opens").bitmap_words), 130_992 / 8);

    let opened = open_image(&mut damage("02-after-sync-a-8M", 0..8)).expect("was not Primary");
    assert_eq!(opened.full_sync, None);
}

#[test]
fn fields_that_contradict_the_device_are_named() {
    type Change = fn(&mut Superblock);
    let cases: [(&str, &str, Change); 5] = [
        ("al_offset", "expected -64, found -63", |s| s.log_offset_sectors = -63),
        ("bm_offset", "expected -72, found 1", |s| s.bitmap_offset_sectors = 1),
        ("md_size_sect", "expected 80, found 81", |s| s.metadata_sectors = 81),
        ("al_offset", "expected -128, found -64", |s| s.log.stripes = 2),
        ("la-size-sect", "140000 sectors, but only 130992", |s| s.record.agreed_sectors = 140_000),
    ];
    for (field, text, change) in cases {
        let error = open_image(&mut with_flags("67-live-al-64M-applied", change));
        let error = error.expect_err("contradiction");
        assert!(error.to_string().contains(field) && error.to_string().contains(text), "{error}");
        assert!(error.hint("r0").contains("twinblk create-md r0"), "{}", error.hint("r0"));
    }
    // An Inconsistent disk gets its data from the peer anyhow.
    let mut image = with_flags("67-live-al-64M-applied", |s| {
        s.record.agreed_sectors = 140_000;
        s.record.flags = Flags::AL_CLEAN;
    });
    let opened = open_image(&mut image).expect("opens");
    assert_eq!(opened.superblock.record.agreed_sectors, 130_992);
}

#[test]
fn bits_beyond_the_agreed_size_are_cut_off() {
    let mut image = with_flags("67-live-al-64M-applied", |s| s.record.agreed_sectors = 8 * 1500);
    let opened = open_image(&mut image).expect("opens");
    assert_eq!(meta::count_bits(&opened.bitmap_words), 1500);
    assert_eq!(opened.layout.usable_sectors, 130_992);
    assert!(opened.bitmap_words.len() as u64 * 64 >= 130_992 / 8, "there is room to grow");
}

#[test]
fn no_metadata_and_old_metadata_are_told_apart() {
    let mut disk = MemoryStorage::new(64 << 20);
    let options = OpenOptions::default();
    let error = meta::open(64 << 20, &mut disk, Placement::Internal, &options).expect_err("blank");
    assert!(matches!(error, MetaError::NoMagic { found: 0, .. }), "{error}");
    assert!(error.hint("r0").starts_with("`twinblk create-md r0`"));
    let mut sector = [0; 512];
    sector[60..64].copy_from_slice(&0x8374_026Au32.to_be_bytes());
    disk.preset((64 << 20) - 4096, &sector);
    let error = meta::open(64 << 20, &mut disk, Placement::Internal, &options).expect_err("v07");
    assert!(matches!(error, MetaError::OldFormat { .. }), "{error}");
}
