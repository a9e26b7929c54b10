//! A disk that takes nothing any more: nothing may wait for it for ever.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::alone::{alone, block_on, is_there, wait_until};
use super::disk::Disk;

const LIMIT: Duration = Duration::from_secs(10);

/// nbdfuse in front of nbdkit: when it is stopped, its file does not answer.
struct Fuse {
    child: Child,
    point: std::path::PathBuf,
}

impl Fuse {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.point).status();
    }
}

#[test]
fn an_unmount_gives_up_waiting() {
    alone("silent_disk::an_unmount_gives_up_waiting", || {
        if !is_there("nbdfuse") || !is_there("nbdkit") {
            println!("skipped: no nbdfuse (libnbd-bin) or nbdkit");
            return;
        }
        let folder = TempDir::new().expect("a folder");
        let point = folder.path().join("fuse");
        fs::create_dir(&point).expect("a folder");
        let mut command = Command::new("nbdfuse");
        command.arg(&point).args(["[", "nbdkit", "--exit-with-parent", "memory", "16M", "]"]);
        let child = command.stdin(Stdio::null()).spawn().expect("nbdfuse runs");
        let fuse = Fuse { child, point: point.clone() };
        let image = point.join("nbd");
        wait_until("the file is there", LIMIT, || image.exists());
        let Some(disk) = Disk::over(folder, &image) else { return };
        let mut step = disk.file_system();
        step.unmount_limits.sync = Duration::from_millis(500);
        step.unmount_limits.unmount = Duration::from_millis(500);
        block_on(step.perform()).expect("mounted");
        fs::write(step.point.join("dirty"), vec![7; 1 << 20]).expect("in the cache");
        fuse.signal(Signal::STOP);
        let started = Instant::now();
        let done = block_on(step.undo()).expect("out of sight");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        let why = done.lazily.expect("not written");
        assert!(why.contains("not done within") || why.contains("limit"), "{why}");
        assert!(!block_on(step.is_done()).expect("an answer"));
        fuse.signal(Signal::CONT);
        wait_until("the device is free", LIMIT, || !disk.is_in_use());
    });
}
