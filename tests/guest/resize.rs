//! Both disks grow while the device is in use; either node is asked to make use of it, and either is
//! Primary. What is new is resynced the way the kernel does it, from the Primary.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::kernel::succeed;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

const FIRST: u64 = 32 << 20;
const STEP: u64 = 16 << 20;
/// Bitmap, log and superblock of a disk below 128 MiB.
const METADATA: u64 = 40 << 10;

/// A disk that can grow: a loop device over a file.
struct Growing {
    file: PathBuf,
    device: PathBuf,
    /// Differs from the other disk's.
    rubbish: u8,
}

impl Growing {
    fn new(name: &str, rubbish: u8) -> Self {
        let file = Path::new("/").join(name);
        File::create(&file).expect("a file").set_len(FIRST).expect("holes");
        let said = succeed(Command::new("losetup").args(["-f", "--show"]).arg(&file));
        Self { file, device: said.trim().into(), rubbish }
    }

    fn grow(&self, size: u64) {
        let file = File::options().write(true).open(&self.file).expect("a file");
        file.set_len(size).expect("holes");
        file.write_all_at(&vec![self.rubbish; 1 << 20], size - STEP).expect("rubbish");
        succeed(Command::new("losetup").arg("-c").arg(&self.device));
    }
}

fn kernel_size() -> u64 {
    let text = std::fs::read_to_string("/sys/block/drbd0/size").expect("a size");
    text.trim().parse::<u64>().expect("a number") * 512
}

#[test]
fn disks_grow_beside_the_kernel() {
    in_guest(&[], || {
        succeed(Command::new("modprobe").arg("loop"));
        let (kernel, twin) = (Growing::new("kernel.img", 0xAA), Growing::new("twin.img", 0x55));
        let options = Options {
            kernel_disk: kernel.device.clone(),
            twin_disk: twin.device.clone(),
            ..Options::default()
        };
        let lab = Lab::in_sync(options, Side::Twin);
        lab.secondary(Side::Twin);
        let mut size = FIRST;
        let mut written = Written::default();
        for primary in Side::BOTH {
            lab.primary(primary);
            for asked in Side::BOTH {
                size += STEP;
                let load = lab.load(primary, written);
                kernel.grow(size);
                twin.grow(size);
                lab.call(asked, &["resize", RESOURCE]);
                lab.twin.wait("the new size", |status| status.size_bytes == size - METADATA);
                lab.kernel.wait("the new size", |_| kernel_size() == size - METADATA);
                written = load.end();
                // The bits came with the size, the resync comes a moment later.
                lab.kernel.wait("the resync", |status| status.counter("oos") == 0);
                lab.twin.wait("the resync", |status| status.out_of_sync_bytes == 0);
                lab.wait_in_sync();
                lab.assert_equal();
                let last = (size - METADATA) / 4096 - 1;
                written.write_all(&mut *lab.device(primary), last - 20..last);
                lab.assert_equal();
                written.check(&mut *lab.device(primary));
            }
            lab.secondary(primary);
        }
    });
}
