//! TRIM and zeroes leave the same bytes on both nodes, whatever their alignment.

use std::process::Command;

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::kernel::{DEVICE, succeed};
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

fn blkdiscard(arguments: &[&str], offset: u64, length: u64) {
    let mut command = Command::new("blkdiscard");
    command.args(arguments).args(["-f", "-o", &offset.to_string(), "-l", &length.to_string()]);
    succeed(command.arg(DEVICE));
}

/// Offset and length of holes: whole extents, whole blocks, and sectors of blocks.
const HOLES: [(u64, u64); 4] =
    [(4 << 20, 4 << 20), (1 << 20, 64 << 10), ((9 << 20) + 512, 5120), ((10 << 20) + 4096, 1536)];

fn fill(lab: &Lab, side: Side, byte: u8) {
    let mut device = lab.device(side);
    for offset in (0..12 << 20).step_by(1 << 20) {
        device.write(offset, &vec![byte; 1 << 20]).expect("a write");
    }
    device.flush().expect("a flush");
}

/// Zeroes are zeroes; around them nothing has changed.
fn assert_holes(lab: &Lab, side: Side, byte: u8) {
    let mut device = lab.device(side);
    let found = device.read(0, 12 << 20).expect("a read");
    let mut expected = vec![byte; 12 << 20];
    for (offset, length) in HOLES {
        expected[offset as usize..(offset + length) as usize].fill(0);
    }
    let wrong = found.iter().zip(&expected).position(|(one, other)| one != other);
    assert_eq!(wrong, None, "first wrong byte");
}

fn holes_of_every_kind(lab: &Lab) {
    lab.primary(Side::Kernel);
    // The kernel discards, then writes zeroes.
    for (byte, way) in [(0x11, &[][..]), (0x22, &["-z"][..])] {
        fill(lab, Side::Kernel, byte);
        for (offset, length) in HOLES {
            blkdiscard(way, offset, length);
        }
        lab.assert_equal();
        if !way.is_empty() {
            assert_holes(lab, Side::Kernel, byte);
        }
    }
    lab.secondary(Side::Kernel);
    lab.primary(Side::Twin);
    assert_holes(lab, Side::Twin, 0x22);
    for zeroes in [false, true] {
        fill(lab, Side::Twin, 0x33);
        let mut client = lab.twin.nbd();
        for (offset, length) in HOLES {
            let length = length as u32;
            if zeroes {
                client.write_zeroes(offset, length).expect("zeroes");
            } else {
                client.trim(offset, length).expect("a trim");
            }
        }
        drop(client);
        lab.assert_equal();
    }
    assert_holes(lab, Side::Twin, 0x33);
    lab.secondary(Side::Twin);
    lab.primary(Side::Kernel);
    assert_holes(lab, Side::Kernel, 0x33);
    lab.secondary(Side::Kernel);
}

/// What was trimmed while the other was away is among what differs.
fn holes_during_an_outage(lab: &Lab) {
    for side in Side::BOTH {
        lab.primary(side);
        fill(lab, side, 0x44);
        lab.assert_equal();
        lab.disconnect(Side::Kernel);
        match side {
            Side::Kernel => blkdiscard(&[], 2 << 20, 2 << 20),
            Side::Twin => {
                let mut client = lab.twin.nbd();
                client.trim(2 << 20, 2 << 20).expect("a trim");
            }
        }
        Written::default().write_all(&mut *lab.device(side), 100..110);
        lab.call(Side::Kernel, &["connect", RESOURCE]);
        lab.assert_equal();
        lab.secondary(side);
    }
}

#[test]
fn discards_and_zeroes_reach_both_disks() {
    in_guest(&["32M", "32M"], || {
        let lab = Lab::in_sync(Options::default(), Side::Kernel);
        lab.secondary(Side::Kernel);
        holes_of_every_kind(&lab);
        holes_during_an_outage(&lab);
    });
}
