//! Unmounting, whoever is in the way.
//!
//! ```text
//!   umount          of what is mounted below, then of the point; it writes what is dirty
//!   SIGTERM         to every process that uses it, named in the log
//!   SIGKILL         to those that stay
//!   sync            while there is somebody to hold it open
//!   umount --lazy   the last resort: nobody finds the file system any more, but who has it open
//!                   goes on, and its device stays in use
//! ```
//!
//! Never ended: process 1, this process, and those that started it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::error::ServiceError;
use super::program::run_tool;
use super::thread;
use super::users::{self, Protected, User};
use crate::mountinfo::{self, Mount};

const UMOUNT: &str = "umount";
/// Between two looks at who is still there: an unmount is tried again with each.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// A look at all processes; file systems in userspace may make it wait.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Mounts on top of each other on the same point; more than this is a loop of somebody's script.
const STACKED_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmountLimits {
    /// For each umount(8), which writes what is dirty: 1 GiB at 50 MB/s.
    pub unmount: Duration,
    /// Between SIGTERM and SIGKILL.
    pub terminate: Duration,
    /// Between SIGKILL and the last resort.
    pub kill: Duration,
}

impl Default for UnmountLimits {
    fn default() -> Self {
        Self {
            unmount: Duration::from_secs(20),
            terminate: Duration::from_secs(3),
            kill: Duration::from_secs(2),
        }
    }
}

/// How it was done. The default: there was nothing to do, or nobody in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmounted {
    /// Processes that were sent a signal.
    pub ended: Vec<User>,
    /// Let go of lazily, and why: its device is still in use.
    pub lazily: Option<String>,
}

/// `point` as mountinfo names it.
pub(super) async fn unmount(
    point: &Path,
    limits: &UnmountLimits,
) -> Result<Unmounted, ServiceError> {
    let mut done = Unmounted::default();
    for _ in 0..STACKED_MAX {
        let Some(mount) = seen(point)? else { return Ok(done) };
        unmount_top(&mount, limits, &mut done).await?;
        if done.lazily.is_some() {
            break;
        }
    }
    match seen(point)? {
        None => Ok(done),
        Some(_) => Err(still_mounted(point, "something mounts it again and again".to_owned())),
    }
}

async fn unmount_top(
    mount: &Mount,
    limits: &UnmountLimits,
    done: &mut Unmounted,
) -> Result<(), ServiceError> {
    let point = &mount.point;
    let protected = Protected::of_this_process();
    let mut why = match attempt(mount, limits).await? {
        Attempt::Gone => return Ok(()),
        Attempt::Busy(why) => why,
        Attempt::Hangs(why) => return let_go(mount, limits, done, why).await,
    };
    let steps = [(Signal::TERM, limits.terminate), (Signal::KILL, limits.kill)];
    for (signal, patience) in steps {
        let deadline = Instant::now() + patience;
        let mut told: Vec<u32> = Vec::new();
        // Those that come while others go are told as well.
        loop {
            let found = look(mount).await;
            for user in found.iter().filter(|user| !protected.contains(user.process)) {
                if !told.contains(&user.process) {
                    told.push(user.process);
                    tell(user, mount, signal, done);
                }
            }
            sleep(LOOK_PAUSE).await;
            why = match attempt(mount, limits).await? {
                Attempt::Gone => return Ok(()),
                Attempt::Busy(why) => why,
                Attempt::Hangs(why) => return let_go(mount, limits, done, why).await,
            };
            if Instant::now() >= deadline {
                break;
            }
        }
    }
    let found = look(mount).await;
    let_go(mount, limits, done, in_the_way(&found, &protected, point, why)).await
}

fn tell(user: &User, mount: &Mount, signal: Signal, done: &mut Unmounted) {
    let point = mount.point.display();
    match users::signal(user.process, mount.device, signal) {
        Ok(true) => {
            let name = if signal == Signal::TERM { "SIGTERM" } else { "SIGKILL" };
            tracing::warn!(%point, "in the way of the unmount: {user}; sent {name}");
            if !done.ended.iter().any(|ended| ended.process == user.process) {
                done.ended.push(user.clone());
            }
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(%point, %error, "cannot end what is in the way: {user}"),
    }
}

enum Attempt {
    Gone,
    Busy(String),
    /// Nothing more can be done in order: the disk does not answer.
    Hangs(String),
}

/// One try, with what is mounted below first.
async fn attempt(mount: &Mount, limits: &UnmountLimits) -> Result<Attempt, ServiceError> {
    let mounts = mountinfo::read().map_err(ServiceError::Mountinfo)?;
    let mut points: Vec<PathBuf> =
        mountinfo::below(&mounts, &mount.point).iter().map(|below| below.point.clone()).collect();
    points.push(mount.point.clone());
    let started = Instant::now();
    for point in points {
        let outcome = run_tool(UMOUNT, vec![point.into()], limits.unmount).await;
        if let Err(why) = outcome {
            if started.elapsed() >= limits.unmount {
                return Ok(Attempt::Hangs(why));
            }
            // Another umount may have been faster.
            return Ok(if is_gone(mount)? { Attempt::Gone } else { Attempt::Busy(why) });
        }
    }
    Ok(if is_gone(mount)? { Attempt::Gone } else { Attempt::Busy("it is still there".to_owned()) })
}

async fn let_go(
    mount: &Mount,
    limits: &UnmountLimits,
    done: &mut Unmounted,
    why: String,
) -> Result<(), ServiceError> {
    let point = &mount.point;
    tracing::error!(
        point = %point.display(),
        why,
        "cannot be unmounted: let go of lazily; its device stays in use until the last user is gone"
    );
    // One that hangs has taken it out of sight already.
    if !is_gone(mount)? {
        sync(point, limits.unmount).await;
        let words = vec!["--lazy".into(), point.clone().into()];
        let outcome = run_tool(UMOUNT, words, limits.unmount).await;
        if !is_gone(mount)? {
            let also = outcome.err().unwrap_or_default();
            return Err(still_mounted(point, format!("{why}; and lazily: {also}")));
        }
    }
    done.lazily = Some(why);
    Ok(())
}

fn in_the_way(found: &[User], protected: &Protected, point: &Path, why: String) -> String {
    let loops = users::loop_devices(point);
    if !loops.is_empty() {
        return format!("{} lies on it", loops.join(", "));
    }
    if found.is_empty() {
        return format!(
            "{why} (no process has it open: swap, an export by NFS, or a mount elsewhere?)"
        );
    }
    let is_own = found.iter().all(|user| protected.contains(user.process));
    let own = if is_own { ", which started this daemon and are not ended" } else { "" };
    format!("in use by {}{own}", users::in_words(found))
}

/// A part of the root file system that is mounted again has the whole machine as its users.
async fn look(mount: &Mount) -> Vec<User> {
    let mounts = mountinfo::read().unwrap_or_default();
    let device = mount.device;
    if mountinfo::at(&mounts, Path::new("/")).is_some_and(|root| root.device == device) {
        return Vec::new();
    }
    thread::within(LOOK_LIMIT, move || users::users(device)).await.unwrap_or_default()
}

/// What is dirty would be lost with the device.
async fn sync(point: &Path, limit: Duration) {
    let path = point.to_owned();
    let synced = thread::within(limit, move || {
        File::open(path).and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
    });
    let silent = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
    if let Err(error) = synced.await.unwrap_or_else(silent) {
        tracing::error!(point = %point.display(), %error, "what is dirty is not written");
    }
}

fn seen(point: &Path) -> Result<Option<Mount>, ServiceError> {
    let mounts = mountinfo::read().map_err(ServiceError::Mountinfo)?;
    Ok(mountinfo::at(&mounts, point).cloned())
}

fn is_gone(mount: &Mount) -> Result<bool, ServiceError> {
    let mounts = mountinfo::read().map_err(ServiceError::Mountinfo)?;
    Ok(!mounts.iter().any(|other| other.id == mount.id && other.point == mount.point))
}

fn still_mounted(point: &Path, why: String) -> ServiceError {
    ServiceError::StillMounted { point: point.to_owned(), why }
}
