//! The step "mounted": a device on a mount point, by mount(8), which knows the helpers of all types.
//!
//! No fsck: journals are replayed by the mount itself, and a repair of what replay does not mend is
//! an operator's decision.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::ServiceError;
use super::program::run_tool;
use super::thread;
use super::unmount::{self, UnmountLimits, Unmounted};
use crate::mountinfo::{self, Mount};

const MOUNT: &str = "mount";
/// The replay of a large journal from a slow disk.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// A look at a device node or a folder.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Where mount(8) looks for the program that mounts a type in its place.
const HELPER_FOLDERS: [&str; 3] = ["/sbin", "/sbin/fs.d", "/sbin/fs"];
const BLOCK_DEVICES: &str = "/sys/dev/block";
/// The kernel's nbd driver has this number everywhere.
const NBD_MAJOR: u32 = 43;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// A device node or a link to one: `/dev/drbd0`.
    pub device: PathBuf,
    pub point: PathBuf,
    /// As in `mount -t`; without it the kernel's driver is found out by mount(8).
    pub kind: Option<String>,
    /// As in `mount -o`.
    pub options: Vec<String>,
    pub mount_limit: Duration,
    pub unmount_limits: UnmountLimits,
}

impl FileSystem {
    pub fn new(device: impl Into<PathBuf>, point: impl Into<PathBuf>) -> Self {
        Self {
            device: device.into(),
            point: point.into(),
            kind: None,
            options: Vec::new(),
            mount_limit: MOUNT_LIMIT,
            unmount_limits: UnmountLimits::default(),
        }
    }

    /// Whether our device is what is seen at the mount point.
    pub async fn is_done(&self) -> Result<bool, ServiceError> {
        let point = real_point(&self.point).await?;
        let mounts = mountinfo::read().map_err(ServiceError::Mountinfo)?;
        let Some(mount) = mountinfo::at(&mounts, &point) else { return Ok(false) };
        let device = self.find_device().await.ok();
        Ok(self.is_ours(mount, device.as_ref()))
    }

    pub async fn perform(&self) -> Result<(), ServiceError> {
        if !self.point.is_absolute() {
            return Err(ServiceError::RelativePoint(self.point.clone()));
        }
        let device = self.find_device().await?;
        self.make_point().await?;
        let point = real_point(&self.point).await?;
        let mounts = mountinfo::read().map_err(ServiceError::Mountinfo)?;
        match mountinfo::at(&mounts, &point) {
            Some(mount) if self.is_ours(mount, Some(&device)) => return Ok(()),
            Some(mount) => {
                let (device, found) = (self.device.clone(), mount.source.clone());
                return Err(ServiceError::Occupied { point, found, device });
            }
            None => {}
        }
        let mut words = Vec::new();
        if let Some(kind) = &self.kind {
            words.extend(["-t".into(), kind.into()]);
        }
        if !self.options.is_empty() {
            words.extend(["-o".into(), self.options.join(",").into()]);
        }
        words.push(device.path().into());
        words.push(point.clone().into());
        let outcome = run_tool(MOUNT, words, self.mount_limit).await;
        let mounts = mountinfo::read().map_err(ServiceError::Mountinfo)?;
        let is_there =
            mountinfo::at(&mounts, &point).is_some_and(|mount| self.is_ours(mount, Some(&device)));
        // One that took too long may succeed later: it is undone by who undoes the whole start.
        if let (Ok(()), true) = (&outcome, is_there) {
            tracing::info!(device = %self.device.display(), point = %point.display(), "mounted");
            return Ok(());
        }
        let why = outcome.err().unwrap_or_else(|| "it is not there afterwards".to_owned());
        Err(ServiceError::NotMounted { device: self.device.clone(), point, why })
    }

    /// What somebody else mounted there stays.
    pub async fn undo(&self) -> Result<Unmounted, ServiceError> {
        if !self.is_done().await? {
            return Ok(Unmounted::default());
        }
        let point = real_point(&self.point).await?;
        unmount::unmount(&point, &self.unmount_limits).await
    }

    async fn find_device(&self) -> Result<Device, ServiceError> {
        let path = self.device.clone();
        if self.kind.as_deref().is_some_and(has_helper) {
            return Ok(Device::OfHelper(path));
        }
        let looked = thread::within(LOOK_LIMIT, move || {
            let node = fs::metadata(&path)?;
            let is_block_device = node.file_type().is_block_device();
            // mountinfo is to name the device itself, as the kernel does.
            Ok((fs::canonicalize(&path)?, is_block_device.then(|| node.rdev())))
        });
        let device = self.device.clone();
        match looked.await {
            None => Err(ServiceError::DeviceSilent { device, limit: LOOK_LIMIT }),
            Some(Err(source)) => Err(ServiceError::NoDevice { device, source }),
            Some(Ok((_, None))) => Err(ServiceError::NoBlockDevice(device)),
            Some(Ok((path, Some(number)))) => Ok(Device::Block { path, number }),
        }
    }

    /// A file system over several disks has a number of its own, and names its device as source. A
    /// helper may mount anything in place of what it is given.
    fn is_ours(&self, mount: &Mount, device: Option<&Device>) -> bool {
        match device {
            Some(Device::Block { path, number }) => {
                mount.device == *number || mount.source == *path || mount.source == self.device
            }
            Some(Device::OfHelper(_)) => true,
            None => mount.source == self.device || is_dead(mount.device),
        }
    }

    async fn make_point(&self) -> Result<(), ServiceError> {
        let point = self.point.clone();
        let made = thread::within(LOOK_LIMIT, move || match fs::create_dir_all(&point) {
            // Something dead may be mounted there: for mountinfo to tell.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        });
        let silent = || Err(io::Error::from(io::ErrorKind::TimedOut));
        made.await
            .unwrap_or_else(silent)
            .map_err(|source| ServiceError::NoFolder { point: self.point.clone(), source })
    }
}

/// What mount(8) is given.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Device {
    Block {
        path: PathBuf,
        number: u64,
    },
    /// The type has a mount helper (encryption, a file system in userspace): it may take anything.
    OfHelper(PathBuf),
}

impl Device {
    fn path(&self) -> &Path {
        match self {
            Self::Block { path, .. } | Self::OfHelper(path) => path,
        }
    }
}

/// An nbd device that is not set up any more: what was mounted from it is left over.
fn is_dead(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = Path::new(BLOCK_DEVICES).join(format!("{major}:{minor}"));
    major == NBD_MAJOR && !folder.join("pid").exists()
}

fn has_helper(kind: &str) -> bool {
    HELPER_FOLDERS.iter().any(|folder| Path::new(folder).join(format!("mount.{kind}")).exists())
}

/// The mount point as mountinfo writes it. Where it cannot be followed, because what is mounted
/// there is dead, its folder is, which lies on another file system.
pub(super) async fn real_point(point: &Path) -> Result<PathBuf, ServiceError> {
    if !point.is_absolute() {
        return Err(ServiceError::RelativePoint(point.to_owned()));
    }
    let plain: PathBuf = point.components().filter(|part| *part != Component::CurDir).collect();
    let (whole, folder) = (plain.clone(), plain.parent().map(Path::to_owned));
    if let Some(Ok(real)) = thread::within(LOOK_LIMIT, move || fs::canonicalize(whole)).await {
        return Ok(real);
    }
    if let (Some(folder), Some(name)) = (folder, plain.file_name())
        && let Some(Ok(real)) = thread::within(LOOK_LIMIT, move || fs::canonicalize(folder)).await
    {
        return Ok(real.join(name));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn a_mount_point_is_named_as_the_kernel_does() {
        let folder = tempfile::tempdir().expect("folder");
        let real = fs::canonicalize(folder.path()).expect("real");
        fs::create_dir(real.join("data")).expect("a folder");
        std::os::unix::fs::symlink(real.join("data"), real.join("link")).expect("a link");
        let cases = [("data", "data"), ("data/", "data"), ("./data", "data"), ("link", "data")];
        for (given, expected) in cases {
            let found = block_on(real_point(&real.join(given))).expect("a path");
            assert_eq!(found, real.join(expected), "{given}");
        }
        let missing = block_on(real_point(&real.join("link/new"))).expect("a path");
        assert_eq!(missing, real.join("data/new"));
        let relative = block_on(real_point(Path::new("data")));
        assert!(matches!(relative, Err(ServiceError::RelativePoint(_))), "{relative:?}");
    }

    #[test]
    fn what_is_no_device_is_refused_before_anything_is_touched() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        let point = folder.path().join("point");
        let missing = FileSystem::new(folder.path().join("none"), &point);
        let error = block_on(missing.perform()).expect_err("no device");
        assert!(matches!(error, ServiceError::NoDevice { .. }), "{error}");
        assert!(error.hint().contains("modprobe nbd"));
        let error = block_on(FileSystem::new(&file, &point).perform()).expect_err("a file");
        assert!(matches!(error, ServiceError::NoBlockDevice(_)), "{error}");
        assert!(!point.exists());
        let undone = block_on(missing.undo()).expect("nothing to do");
        assert_eq!(undone, Unmounted::default());
        assert!(!block_on(missing.is_done()).expect("an answer"));
    }

    #[test]
    fn ours_is_told_by_number_or_by_name() {
        let text = b"36 22 43:0 / /srv rw - ext4 /dev/nbd0 rw\n37 22 0:51 / /data rw - btrfs /dev/nbd0 rw\n";
        let mounts = mountinfo::parse(text);
        let ours = FileSystem::new("/dev/drbd0", "/srv");
        let device = |minor| Device::Block {
            path: format!("/dev/nbd{minor}").into(),
            number: rustix::fs::makedev(43, minor),
        };
        assert!(ours.is_ours(&mounts[0], Some(&device(0))));
        assert!(ours.is_ours(&mounts[1], Some(&device(0))), "by the name of its first disk");
        assert!(!ours.is_ours(&mounts[0], Some(&device(1))));
        let loose = mountinfo::parse(b"36 22 43:4000 / /srv rw - ext4 /dev/nbd4000 rw");
        assert!(ours.is_ours(&loose[0], None), "a device that is no more");
        let other = mountinfo::parse(b"36 22 8:1 / /srv rw - ext4 /dev/sda1 rw");
        assert!(!ours.is_ours(&other[0], None));
    }
}
