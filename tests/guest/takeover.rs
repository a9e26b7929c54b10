//! Disks change hands: what the kernel's DRBD left is used by twinblk without a full copy, and the
//! other way round.

use std::path::Path;
use std::process::Command;

use crate::common::device::copy;
use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::kernel::succeed;
use crate::lab::{Lab, Options, Side};
use crate::load::{Load, Written};

/// Bits of an activity log extent of 4 MiB.
const EXTENT_BLOCKS: u64 = 1024;

/// From now on twinblk has the kernel's disk and the kernel has twinblk's.
fn exchange_disks(lab: &mut Lab) {
    lab.restart_with(|options| std::mem::swap(&mut options.kernel_disk, &mut options.twin_disk));
}

/// What drbdmeta reads from a disk that is not in use.
fn drbdmeta(disk: &str, words: &[&str]) -> String {
    let mut command = Command::new("drbdmeta");
    command.args(["--force", "0", "v08", disk, "internal"]).args(words);
    succeed(&mut command)
}

fn clean_disks(lab: &mut Lab) {
    lab.secondary(Side::Kernel);
    let mut written = Written::default();
    for side in [Side::Kernel, Side::Twin, Side::Twin] {
        lab.primary(side);
        let load = lab.load(side, written);
        load.wait_for(200);
        written = load.end();
        lab.secondary(side);
        exchange_disks(lab);
        lab.assert_equal();
        assert_eq!(lab.moved(), 0, "no block was copied");
        for side in Side::BOTH {
            lab.primary(side);
            written.check(&mut *lab.device(side));
            lab.secondary(side);
        }
    }
}

/// drbdmeta reads what both leave behind.
fn known_to_drbdmeta(lab: &Lab) {
    lab.down();
    for disk in ["/dev/vda", "/dev/vdb"] {
        drbdmeta(disk, &["apply-al"]);
        let dump = drbdmeta(disk, &["dump-md"]);
        assert!(dump.contains("version \"v08\";"), "{dump}");
        assert!(dump.contains("la-size-sect"), "{dump}");
    }
}

/// The bitmap goes with the disk.
fn disks_with_bits(lab: &mut Lab) {
    let mut written = Written::default();
    for side in Side::BOTH {
        lab.primary(side);
        lab.disconnect(side.other());
        let first = written.len() as u64;
        written.write_all(&mut *lab.device(side), (first..first + 60).map(|index| index * 7));
        lab.secondary(side);
        exchange_disks(lab);
        lab.assert_equal();
        assert_eq!(lab.moved(), 60, "what {side:?} wrote alone");
        lab.primary(side);
        written.check(&mut *lab.device(side));
        lab.secondary(side);
    }
}

#[test]
fn disks_are_exchanged_without_a_full_copy() {
    in_guest(&["32M", "32M"], || {
        let mut lab = Lab::in_sync(Options::default(), Side::Kernel);
        clean_disks(&mut lab);
        disks_with_bits(&mut lab);
        known_to_drbdmeta(&lab);
    });
}

/// A third disk is copied from a Primary's while it is written to: what a crash leaves. The activity log
/// on it names the extents that may differ; they are copied and nothing else.
fn crashed_primary(crashed: Side) {
    let mut lab = Lab::in_sync(Options::default(), crashed);
    let mut written = Written::default();
    // Two extents that went cold on both long ago are not copied; three were being written.
    let devices: Vec<_> = (0..4).map(|_| lab.device(crashed)).collect();
    let hot = 20 * EXTENT_BLOCKS..23 * EXTENT_BLOCKS;
    let load = Load::start(devices, hot, Written::default());
    load.wait_for(100);
    let image = Path::new("/dev/vdc");
    let own = match crashed {
        Side::Kernel => lab.options().kernel_disk.clone(),
        Side::Twin => lab.options().twin_disk.clone(),
    };
    copy(&own, image);
    load.wait_for(50);
    load.end();
    lab.secondary(crashed);
    // The other side takes the crashed disk over, and the crashed side the survivor's.
    lab.restart_with(|options| {
        let (taken, left) = match crashed {
            Side::Kernel => (&mut options.twin_disk, &mut options.kernel_disk),
            Side::Twin => (&mut options.kernel_disk, &mut options.twin_disk),
        };
        *left = std::mem::replace(taken, image.to_path_buf());
    });
    lab.assert_equal();
    let moved = lab.moved();
    assert!(moved > 0, "what was in flight may differ");
    assert!(moved <= 3 * EXTENT_BLOCKS, "{moved} blocks are more than the active extents");
    assert!(lab.kernel.log().contains("uuid_compare()="), "a decision");
    // It is an ordinary pair from here on.
    let side = crashed.other();
    lab.primary(side);
    written.write_all(&mut *lab.device(side), 0..50);
    lab.secondary(side);
    lab.primary(crashed);
    written.check(&mut *lab.device(crashed));
    lab.assert_equal();
}

#[test]
fn the_twin_takes_over_the_disk_of_a_crashed_kernel() {
    in_guest(&["128M", "128M", "128M"], || crashed_primary(Side::Kernel));
}

#[test]
fn the_kernel_takes_over_the_disk_of_a_crashed_twin() {
    in_guest(&["128M", "128M", "128M"], || crashed_primary(Side::Twin));
}

/// Half a first copy changes hands, on both sides: it goes on, it does not begin again.
#[test]
fn half_a_resync_is_taken_over() {
    in_guest(&["128M", "128M"], || {
        let disk = "c-plan-ahead 0; resync-rate 20M;".to_owned();
        let mut lab = Lab::connected(Options { disk, ..Options::default() });
        let total = lab.twin.status().size_bytes / 4096;
        lab.force_primary(Side::Twin);
        lab.twin.wait("a third", |status| status.counters.resync_blocks_moved > total / 3);
        lab.disconnect(Side::Kernel);
        lab.secondary(Side::Twin);
        let left = lab.twin.status().out_of_sync_bytes / 4096;
        assert!(left > 0 && left < total * 3 / 4, "{left} of {total} blocks are left");
        exchange_disks(&mut lab);
        lab.assert_equal();
        let moved = lab.moved();
        assert!(moved >= left && moved <= left + 64, "{moved} blocks moved, {left} were left");
        // The same disks, now with the other's hand on them, as an ordinary pair.
        lab.primary(Side::Kernel);
        lab.call(Side::Kernel, &["secondary", RESOURCE]);
    });
}
