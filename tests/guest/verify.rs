//! Online verify from either side finds what was changed behind both nodes' backs; it is mended by a
//! reconnect, as the kernel does it, or at once by `verify --repair`.

use crate::common::device::{BlockDevice, Device};
use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

/// Neighbours among them, and the very first.
const PLANTED: [u64; 5] = [0, 700, 701, 3000, 6999];

/// Changes blocks of a disk under the feet of its user.
fn plant(lab: &mut Lab, side: Side, byte: u8) {
    let disk = match side {
        Side::Kernel => lab.options().kernel_disk.clone(),
        Side::Twin => lab.options().twin_disk.clone(),
    };
    let mut disk = BlockDevice::open(&disk, true).expect("a disk");
    for block in PLANTED {
        disk.write(block * 4096, &[byte; 4096]).expect("a write");
    }
    disk.flush().expect("a flush");
}

fn verify(lab: &Lab, side: Side, expected: u64) {
    // Both have begun when the verb returns.
    lab.call(side, &["verify", RESOURCE]);
    let status = lab.twin.wait("the end of the verify", |status| {
        status.connection.as_str() == "Connected" && status.verified.is_some()
    });
    lab.kernel.wait("the end of the verify", |status| status.connection == "Connected");
    let verified = status.verified.expect("just seen");
    assert!(verified.complete, "{verified:?}");
    let (kernel, twin) = lab.states();
    let found = (kernel.counter("oos") / 4, twin.out_of_sync_bytes / 4096);
    assert_eq!(found, (expected, expected), "bits of the kernel and of twinblk");
}

/// Equal disks have no difference, however busy they are.
fn nothing_under_load(lab: &Lab) {
    for primary in Side::BOTH {
        lab.primary(primary);
        for starter in Side::BOTH {
            let load = lab.load(primary, Written::default());
            verify(lab, starter, 0);
            load.end();
        }
        lab.assert_equal();
        lab.secondary(primary);
    }
}

fn found_and_mended_by_reconnecting(lab: &mut Lab) {
    for (starter, primary) in [
        (Side::Kernel, Side::Kernel),
        (Side::Kernel, Side::Twin),
        (Side::Twin, Side::Kernel),
        (Side::Twin, Side::Twin),
    ] {
        lab.primary(primary);
        plant(lab, primary.other(), 0xE1);
        verify(lab, starter, PLANTED.len() as u64);
        let before = lab.moved();
        lab.disconnect(starter);
        lab.connect(starter);
        lab.assert_equal();
        assert_eq!(lab.moved() - before, PLANTED.len() as u64, "{starter:?}, {primary:?}");
        lab.secondary(primary);
    }
}

/// Two Secondaries with equal generations: the kernel connects and leaves the bits as they are
/// (session.md 5.4), and so must we with a kernel as the peer.
fn bits_of_two_secondaries_stay(lab: &mut Lab) {
    plant(lab, Side::Twin, 0xE2);
    verify(lab, Side::Kernel, PLANTED.len() as u64);
    lab.disconnect(Side::Twin);
    lab.connect(Side::Twin);
    lab.wait_in_sync();
    let (kernel, twin) = lab.states();
    let left = (kernel.counter("oos") / 4, twin.out_of_sync_bytes / 4096);
    assert_eq!(left, (PLANTED.len() as u64, PLANTED.len() as u64), "bits stay");
    assert_eq!(lab.differing(), PLANTED, "and so does what they stand for");
    // The next Primary's data goes over them.
    lab.primary(Side::Kernel);
    lab.disconnect(Side::Kernel);
    lab.connect(Side::Kernel);
    lab.assert_equal();
    lab.secondary(Side::Kernel);
}

fn repaired_at_once(lab: &mut Lab) {
    let mut byte = 0x30;
    for primary in Side::BOTH {
        for bad in Side::BOTH {
            lab.primary(primary);
            // Never what is there already.
            byte += 1;
            plant(lab, bad, byte);
            let wanted: Vec<u8> = lab.device(primary).read(700 * 4096, 4096).expect("a read");
            let before = lab.moved();
            lab.call(Side::Twin, &["verify", "--repair", RESOURCE]);
            lab.twin.wait("mended", |status| {
                status.counters.resync_blocks_moved >= before + PLANTED.len() as u64
                    && status.connection.as_str() == "Connected"
            });
            lab.assert_equal();
            assert_eq!(lab.moved() - before, PLANTED.len() as u64, "{primary:?}, {bad:?}");
            let found = lab.device(primary).read(700 * 4096, 4096).expect("a read");
            assert!(found == wanted, "the Primary's data is kept");
            lab.secondary(primary);
        }
    }
}

#[test]
fn verify_finds_and_repairs() {
    in_guest(&["32M", "32M"], || {
        let net = "verify-alg crc32c;".to_owned();
        // Else the kernel nearly stops while there is a load.
        let disk = "c-plan-ahead 0; resync-rate 100M; c-min-rate 0;".to_owned();
        let mut lab = Lab::in_sync(Options { net, disk, ..Options::default() }, Side::Kernel);
        lab.secondary(Side::Kernel);
        nothing_under_load(&lab);
        found_and_mended_by_reconnecting(&mut lab);
        bits_of_two_secondaries_stay(&mut lab);
        repaired_at_once(&mut lab);
    });
}
