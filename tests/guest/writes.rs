//! Writes under protocol A, B and C from either side: many at a time, of any size, with flushes.

use std::process::Command;

use crate::guest::in_guest;
use crate::kernel::{DEVICE, succeed};
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

/// Writes sectors rather than blocks in random order, reads all back and checks every byte.
fn fio(lab: &Lab, side: Side) {
    let mut command = Command::new("fio");
    command.args(["--name=mixed", "--thread", "--rw=randwrite", "--bsrange=512-64k"]);
    command.args(["--blockalign=512", "--iodepth=16", "--fsync=24"]);
    command.args(["--size=6m", "--offset=0", "--verify=crc32c", "--verify_fatal=1"]);
    match side {
        Side::Kernel => command.args(["--ioengine=libaio", "--direct=1", "--filename", DEVICE]),
        Side::Twin => command.args(["--ioengine=nbd", "--uri", &lab.twin.uri()]),
    };
    succeed(&mut command);
}

#[test]
fn writes_under_each_protocol() {
    in_guest(&["32M", "32M"], || {
        let mut lab = Lab::in_sync(Options::default(), Side::Kernel);
        let mut written = Written::default();
        for protocol in ['A', 'B', 'C'] {
            lab.restart_with(|options| options.protocol = protocol);
            lab.wait_in_sync();
            for side in Side::BOTH {
                lab.primary(side);
                fio(&lab, side);
                let load = lab.load(side, written);
                load.wait_for(700);
                written = load.end();
                written.check(&mut *lab.device(side));
                lab.assert_equal();
                lab.secondary(side);
            }
            let (kernel, twin) = lab.states();
            let named = protocol.to_string();
            assert_eq!((kernel.protocol, twin.protocol), (named.clone(), named));
        }
    });
}
