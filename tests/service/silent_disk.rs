//! A disk that takes nothing any more: nothing may wait for it for ever.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::alone::{alone, block_on, wait_until};
use super::disk::Disk;

#[test]
fn an_unmount_gives_up_waiting() {
    alone("silent_disk::an_unmount_gives_up_waiting", || {
        let Some(disk) = Disk::on_fuse() else { return };
        let mut step = disk.file_system();
        step.unmount_limits.unmount = Duration::from_millis(500);
        block_on(step.perform()).expect("mounted");
        fs::write(step.point.join("dirty"), vec![7; 1 << 20]).expect("in the cache");
        disk.fuse().signal(Signal::STOP);
        let started = Instant::now();
        let done = block_on(step.undo()).expect("out of sight");
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        let why = done.lazily.expect("not written");
        assert!(why.contains("did not end within"), "{why}");
        assert!(!block_on(step.is_done()).expect("an answer"));
        disk.fuse().signal(Signal::CONT);
        wait_until("the device is free", Duration::from_secs(10), || !disk.is_in_use());
    });
}
