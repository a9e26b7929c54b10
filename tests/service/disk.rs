//! A loop device with an ext4 on it, as /dev/drbd0 is a link to /dev/nbd0.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use twinblk::service::{FileSystem, UnmountLimits};

use super::alone::{is_there, must, wait_until};

const SIZE_BYTES: u64 = 16 << 20;

pub struct Disk {
    /// What the image lies on, if that is not the temporary folder.
    below: Option<Fuse>,
    pub folder: TempDir,
    /// The link.
    pub device: PathBuf,
    pub loop_device: String,
}

impl Disk {
    /// `None`, with the reason printed, where it cannot be had.
    pub fn new() -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(SIZE_BYTES)).expect("an image");
        Self::over(folder, &image, None)
    }

    /// On a file that does not answer while its server is stopped.
    pub fn on_fuse() -> Option<Self> {
        let fuse = Fuse::new()?;
        let image = fuse.point.path().join("nbd");
        Self::over(TempDir::new().expect("a temporary folder"), &image, Some(fuse))
    }

    fn over(folder: TempDir, image: &Path, below: Option<Fuse>) -> Option<Self> {
        if !is_there("mkfs.ext4") || !is_there("losetup") {
            println!("skipped: no mkfs.ext4 (e2fsprogs) or losetup (mount)");
            return None;
        }
        let path = image.display().to_string();
        must("mkfs.ext4", &["-q", "-F", &path]);
        let output = Command::new("losetup").args(["--find", "--show", &path]).output();
        let output = output.expect("losetup runs");
        if !output.status.success() {
            println!(
                "skipped: no loop devices: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            return None;
        }
        let loop_device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let device = folder.path().join("drbd0");
        std::os::unix::fs::symlink(&loop_device, &device).expect("a link");
        Some(Self { below, folder, device, loop_device })
    }

    /// On a mount point that does not exist yet, with a name that the kernel has to escape.
    pub fn file_system(&self) -> FileSystem {
        let mut file_system = FileSystem::new(&self.device, self.path("srv/my data"));
        file_system.kind = Some("ext4".to_owned());
        file_system.options = vec!["noatime".to_owned(), "nodev".to_owned()];
        file_system.unmount_limits = UnmountLimits {
            unmount: Duration::from_secs(5),
            terminate: Duration::from_millis(300),
            kill: Duration::from_secs(2),
        };
        file_system
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn fuse(&self) -> &Fuse {
        self.below.as_ref().expect("a disk on FUSE")
    }

    pub fn is_in_use(&self) -> bool {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(&self.device, flags, Mode::empty()).is_err()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever waits for it fails now.
        self.below = None;
        // Freed by the kernel as soon as nothing is mounted from it.
        let _ = Command::new("losetup").args(["--detach", &self.loop_device]).status();
    }
}

/// A process that stands in the way; ended with the value.
pub struct Squatter(pub Child);

impl Squatter {
    /// Says on its standard output when it is ready.
    pub fn new(script: &str, folder: &Path) -> Self {
        let ready = folder.join(".ready");
        let script = format!("{script}; : > .ready; while :; do sleep 0.05 </dev/null; done");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let squatter = Self(command.spawn().expect("sh runs"));
        wait_until("it is ready", Duration::from_secs(5), || ready.exists());
        std::fs::remove_file(ready).expect("its sign");
        squatter
    }

    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_none()
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nbdfuse in front of nbdkit.
pub struct Fuse {
    child: Child,
    point: TempDir,
}

impl Fuse {
    fn new() -> Option<Self> {
        if !is_there("nbdfuse") || !is_there("nbdkit") {
            println!("skipped: no nbdfuse (libnbd-bin) or nbdkit");
            return None;
        }
        let point = TempDir::new().expect("a temporary folder");
        let mut command = Command::new("nbdfuse");
        command.arg(point.path()).args(["[", "nbdkit", "--exit-with-parent", "memory", "16M", "]"]);
        let child = command.stdin(Stdio::null()).spawn().expect("nbdfuse runs");
        let fuse = Self { child, point };
        let image = fuse.point.path().join("nbd");
        wait_until("the file is there", Duration::from_secs(10), || image.exists());
        Some(fuse)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our child");
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        let _ = Command::new("umount").args(["--lazy"]).arg(self.point.path()).status();
    }
}
