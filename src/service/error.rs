//! Why a step failed, for the operator.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("cannot read what is mounted: {0}")]
    Mountinfo(io::Error),
    #[error("the mount point {} is no absolute path", .0.display())]
    RelativePoint(PathBuf),
    #[error("there is no device {}: {source}", .device.display())]
    NoDevice { device: PathBuf, source: io::Error },
    #[error("{} is no block device", .0.display())]
    NoBlockDevice(PathBuf),
    #[error("the device {} did not answer within {} s", .device.display(), .limit.as_secs())]
    DeviceSilent { device: PathBuf, limit: Duration },
    #[error("{source} is mounted on {} already, instead of {}", .point.display(), .device.display(), source = .found.display())]
    Occupied { point: PathBuf, found: PathBuf, device: PathBuf },
    #[error("cannot make the folder {}: {source}", .point.display())]
    NoFolder { point: PathBuf, source: io::Error },
    #[error("cannot mount {} on {}: {why}", .device.display(), .point.display())]
    NotMounted { device: PathBuf, point: PathBuf, why: String },
    #[error("{} is still mounted: {why}", .point.display())]
    StillMounted { point: PathBuf, why: String },
    #[error("the start command `{command}` failed: {why}")]
    NotStarted { command: String, why: String },
    #[error("the start command `{command}` failed: {why}; and {also}")]
    NeitherStartedNorStopped { command: String, why: String, also: String },
    #[error("the stop command `{command}` failed: {why}")]
    NotStopped { command: String, why: String },
}

impl ServiceError {
    /// What to try next.
    pub fn hint(&self) -> String {
        match self {
            Self::Mountinfo(_) => "is /proc mounted? mount -t proc proc /proc".to_owned(),
            Self::RelativePoint(_) => "name it from the root: mount DEVICE /srv/data".to_owned(),
            Self::NoDevice { .. } => {
                "does `device` of drbd.conf name it, and is the nbd driver loaded? modprobe nbd; \
                 twinblk status"
                    .to_owned()
            }
            Self::NoBlockDevice(device) => format!("ls -lL {}", device.display()),
            Self::DeviceSilent { .. } => "twinblk status; dmesg | grep nbd".to_owned(),
            Self::Occupied { point, .. } => format!("umount {}", point.display()),
            Self::NoFolder { point, .. } => format!("mkdir -p {}", point.display()),
            Self::NotMounted { device, .. } => {
                format!(
                    "dmesg | tail; and, if the file system is damaged: fsck {}",
                    device.display()
                )
            }
            Self::StillMounted { point, .. } => format!("fuser -vm {}", point.display()),
            Self::NotStarted { command, .. }
            | Self::NeitherStartedNorStopped { command, .. }
            | Self::NotStopped { command, .. } => {
                format!("try it by hand, and look into its log: {command}")
            }
        }
    }
}
