//! After an outage exactly the blocks that differ are copied, in either direction.

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

/// Blocks written during an outage: some neighbours, some alone.
fn blocks(round: u64) -> impl Iterator<Item = u64> {
    (0..40).map(move |index| 100 * round + index * 97).chain(7000 + round..7010 + round)
}

const WRITTEN: u64 = 50;

fn only_what_differs(lab: &Lab) {
    let mut written = Written::default();
    let mut round = 0;
    for primary in Side::BOTH {
        lab.primary(primary);
        for leaving in Side::BOTH {
            round += 1;
            let before = lab.moved();
            lab.disconnect(leaving);
            written.write_all(&mut *lab.device(primary), blocks(round));
            let (kernel, twin) = lab.states();
            let noted = match primary {
                Side::Kernel => kernel.counter("oos") / 4,
                Side::Twin => twin.out_of_sync_bytes / 4096,
            };
            assert_eq!(noted, WRITTEN, "bits of {primary:?}");
            lab.connect(leaving);
            lab.assert_equal();
            assert_eq!(lab.moved() - before, WRITTEN, "moved from {primary:?}");
            written.check(&mut *lab.device(primary));
        }
        lab.secondary(primary);
    }
}

/// Both have bits: the survivor's writes, and those that the other had made before it left. The union
/// is copied.
fn both_bitmaps(lab: &Lab) {
    let mut written = Written::default();
    for first in Side::BOTH {
        let second = first.other();
        lab.primary(first);
        let before = lab.moved();
        lab.disconnect(first);
        // The first dies with what only it wrote, the second is promoted, as after a failover.
        let mut lost = Written::default();
        lost.write_all(&mut *lab.device(first), 0..10);
        lab.secondary(first);
        lab.primary(second);
        written.write_all(&mut *lab.device(second), 5..25);
        lab.disconnect_both();
        lab.call(first, &["connect", "--discard-my-data", RESOURCE]);
        lab.connect(second);
        lab.assert_equal();
        assert_eq!(lab.moved() - before, 25, "the union");
        written.check(&mut *lab.device(second));
        lab.secondary(second);
    }
}

/// csums-alg: every block is compared by its digest, what is equal stays where it is.
fn digests_spare_what_is_equal(lab: &Lab) {
    let mut written = Written::default();
    for (round, primary) in Side::BOTH.into_iter().enumerate() {
        lab.primary(primary);
        written.write_all(&mut *lab.device(primary), 500..700);
        lab.disconnect(primary);
        // Written again with the same content, and some blocks with another.
        let mut device = lab.device(primary);
        for block in 500..700 {
            let same = device.read(block * 4096, 4096).expect("a read");
            device.write(block * 4096, &same).expect("a write");
        }
        // One in every second request of twinblk's.
        let differing = (0..10).map(|index| 520 + 16 * index + round as u64);
        written.write_all(&mut *device, differing);
        drop(device);
        let before = lab.twin.status().counters;
        lab.connect(primary);
        lab.assert_equal();
        let after = lab.twin.status().counters;
        let moved = after.resync_blocks_moved - before.resync_blocks_moved;
        let equal = after.resync_blocks_equal - before.resync_blocks_equal;
        match primary {
            Side::Kernel => assert_eq!((moved, equal), (80, 120)),
            // The kernel makes its requests as large as it can.
            Side::Twin => assert!(moved >= 10 && moved + equal == 200, "{moved} {equal}"),
        }
        written.check(&mut *lab.device(primary));
        lab.secondary(primary);
    }
}

/// `invalidate` and `invalidate-remote` on either side: everything is copied from the other one.
fn invalidated_disks_are_filled_again(lab: &Lab) {
    let total = lab.twin.status().size_bytes / 4096;
    let mut written = Written::default();
    for (verb, caller) in [
        ("invalidate", Side::Kernel),
        ("invalidate", Side::Twin),
        ("invalidate-remote", Side::Kernel),
        ("invalidate-remote", Side::Twin),
    ] {
        let source = if verb == "invalidate" { caller.other() } else { caller };
        lab.primary(source);
        written.write_all(&mut *lab.device(source), 10..20);
        let before = lab.twin.status().counters;
        lab.call(caller, &[verb, RESOURCE]);
        let copied = |status: &twinblk::control::ResourceStatus| {
            let counters = &status.counters;
            counters.resync_blocks_moved - before.resync_blocks_moved
                + (counters.resync_blocks_equal - before.resync_blocks_equal)
        };
        lab.twin.wait("everything compared or copied", |status| copied(status) >= total);
        lab.assert_equal();
        written.check(&mut *lab.device(source));
        lab.secondary(source);
    }
}

#[test]
fn checksums_and_invalidation() {
    in_guest(&["8M", "8M"], || {
        let net = "csums-alg sha1;".to_owned();
        let lab = Lab::in_sync(Options { net, ..Options::default() }, Side::Kernel);
        lab.secondary(Side::Kernel);
        digests_spare_what_is_equal(&lab);
        invalidated_disks_are_filled_again(&lab);
    });
}

#[test]
fn only_what_differs_is_copied() {
    in_guest(&["32M", "32M"], || {
        let lab = Lab::in_sync(Options::default(), Side::Kernel);
        lab.secondary(Side::Kernel);
        only_what_differs(&lab);
        both_bitmaps(&lab);
    });
}

/// An interrupted resync goes on where it was, whoever is the source.
#[test]
fn an_interrupted_resync_goes_on() {
    in_guest(&["128M", "128M"], || {
        // The kernel's target is slow enough at this rate to be interrupted.
        let disk = "c-plan-ahead 0; resync-rate 8M;".to_owned();
        let lab = Lab::connected(Options { disk, ..Options::default() });
        lab.force_primary(Side::Kernel);
        let total = lab.twin.status().size_bytes / 4096;
        for source in Side::BOTH {
            let before = lab.moved();
            if source == Side::Twin {
                lab.secondary(Side::Kernel);
                lab.primary(Side::Twin);
                lab.disconnect(Side::Kernel);
                let mut device = lab.device(Side::Twin);
                let content = vec![0x5a; 1 << 20];
                for offset in (0..24 << 20).step_by(1 << 20) {
                    device.write(offset, &content).expect("a write");
                }
                drop(device);
                lab.connect(Side::Kernel);
            }
            let wanted = if source == Side::Kernel { total } else { 24 << 8 };
            let mut cuts = 0;
            loop {
                let status = lab.twin.wait("some blocks more, or the end", |status| {
                    status.counters.resync_blocks_moved >= before + 1000 * (cuts + 1)
                        || status.connection.as_str() == "Connected"
                            && status.peer_disk.as_str() == "UpToDate"
                            && status.disk.as_str() == "UpToDate"
                });
                if status.connection.as_str() == "Connected" || cuts == 3 {
                    break;
                }
                cuts += 1;
                lab.disconnect(if cuts % 2 == 0 { Side::Kernel } else { Side::Twin });
                lab.connect_both();
                lab.wait_for("the resync again", |kernel| kernel.connection.starts_with("Sync"));
            }
            assert!(cuts > 0, "interrupted at least once");
            lab.assert_equal();
            let moved = lab.moved() - before;
            assert!(moved >= wanted, "{moved} of {wanted} blocks");
            // Requests under way at each cut are repeated.
            assert!(moved < wanted + wanted / 4, "{moved} blocks moved for {wanted}");
        }
    });
}
