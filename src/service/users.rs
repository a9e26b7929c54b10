//! Which processes use a file system: an open file, a working or root folder, a program or library
//! that is mapped. By its device, so that users in other mount namespaces are found as well.
//!
//! Looks at `/proc` only. The nodes behind descriptors are in the kernel's memory, so this waits for
//! no disk; a file system in userspace may still make it wait, so callers give it a thread and a
//! limit.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::makedev;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const PROCESSES: &str = "/proc";
const BLOCK_DEVICES: &str = "/sys/block";
/// Users named in a message; the rest is a number.
const NAMED_MAX: usize = 4;
/// Longer chains of parents than any machine has.
const ANCESTORS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    pub process: u32,
    pub name: String,
    pub how: How,
}

/// The first reason that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    OpenFile,
    WorkingFolder,
    RootFolder,
    Program,
    MappedFile,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenFile => "an open file",
            Self::WorkingFolder => "its working folder",
            Self::RootFolder => "its root folder",
            Self::Program => "its program",
            Self::MappedFile => "a mapped file",
        })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}: {})", self.process, self.name, self.how)
    }
}

/// For a message.
pub fn in_words(users: &[User]) -> String {
    let named: Vec<String> = users.iter().take(NAMED_MAX).map(User::to_string).collect();
    let named = named.join(", ");
    match users.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// Everybody who uses the file system on this device, by number of the process.
pub fn users(device: u64) -> Vec<User> {
    let mut found: Vec<User> = processes().filter_map(|process| user(process, device)).collect();
    found.sort();
    found
}

/// What the kernel itself keeps on it: loop devices whose file lies at or below the mount point.
pub fn loop_devices(point: &Path) -> Vec<String> {
    let entries = fs::read_dir(BLOCK_DEVICES).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter(|entry| {
            let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
            backing.is_ok_and(|backing| Path::new(backing.trim_end()).starts_with(point))
        })
        .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
        .collect();
    found.sort();
    found
}

/// Processes that nobody may end for a file system's sake: the first one, this one, and those that
/// started it.
#[derive(Clone, Debug)]
pub struct Protected(BTreeSet<u32>);

impl Protected {
    pub fn of_this_process() -> Self {
        let mut ids = BTreeSet::from([1]);
        let mut next = Some(std::process::id());
        while let Some(process) = next.filter(|process| *process > 0)
            && ids.len() < ANCESTORS_MAX
        {
            ids.insert(process);
            next = parent(process);
        }
        Self(ids)
    }

    pub fn contains(&self, process: u32) -> bool {
        self.0.contains(&process)
    }
}

/// Sends the signal if the process with this number is still a user. The descriptor pins the
/// process: its number may be given to another one at any time.
pub fn signal(process: u32, device: u64, signal: Signal) -> Result<bool, Errno> {
    let Some(id) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let pinned = match pidfd_open(id, PidfdFlags::empty()) {
        Ok(pinned) => pinned,
        Err(Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error),
    };
    if user(process, device).is_none() {
        return Ok(false);
    }
    match pidfd_send_signal(pinned, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

fn folder(process: u32) -> PathBuf {
    Path::new(PROCESSES).join(process.to_string())
}

fn user(process: u32, device: u64) -> Option<User> {
    let folder = folder(process);
    let how = how(&folder, device)?;
    let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
    Some(User { process, name: name.trim_end().to_owned(), how })
}

fn how(folder: &Path, device: u64) -> Option<How> {
    let lies_on = |path: &Path| fs::metadata(path).is_ok_and(|node| node.dev() == device);
    let mut files = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
    if files.any(|file| lies_on(&file.path())) {
        return Some(How::OpenFile);
    }
    let links = [("cwd", How::WorkingFolder), ("root", How::RootFolder), ("exe", How::Program)];
    if let Some((_, how)) = links.into_iter().find(|(link, _)| lies_on(&folder.join(link))) {
        return Some(how);
    }
    let maps = fs::read_to_string(folder.join("maps")).unwrap_or_default();
    maps.lines().any(|line| mapped_device(line) == Some(device)).then_some(How::MappedFile)
}

/// `7f0000000000-7f0000001000 r--p 00000000 fd:01 1234 /usr/lib/x.so`: the device in hexadecimal.
/// Memory without a file has device and inode 0.
fn mapped_device(line: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = words.nth(3)?.split_once(':')?;
    let inode = words.next()?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    (inode != "0").then_some(makedev(number(major)?, number(minor)?))
}

fn parent(process: u32) -> Option<u32> {
    let status = fs::read_to_string(folder(process).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process whose working folder is this one.
    fn sleeper(folder: &Path) -> Ended {
        let mut command = Command::new("sleep");
        command.arg("60").current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        Ended(command.spawn().expect("sleep"))
    }

    #[test]
    fn this_process_uses_the_disk_of_its_program() {
        let device = fs::metadata("/proc/self/exe").expect("this program").dev();
        let own = user(std::process::id(), device).expect("a user");
        assert!(own.to_string().starts_with(&format!("process {} (", own.process)), "{own}");
        assert!(users(device).contains(&own));
    }

    #[test]
    fn a_working_folder_is_a_use_and_the_end_of_the_process_is_its_end() {
        let folder = tempfile::tempdir().expect("folder");
        let device = fs::metadata(folder.path()).expect("its disk").dev();
        let mut sleeper = sleeper(folder.path());
        let id = sleeper.0.id();
        assert!(users(device).iter().any(|user| user.process == id));
        assert_eq!(signal(id, u64::MAX, Signal::KILL), Ok(false), "no user of another device");
        assert!(sleeper.0.try_wait().expect("our child").is_none());
        assert_eq!(signal(id, device, Signal::KILL), Ok(true));
        sleeper.0.wait().expect("our child");
        assert_eq!(signal(id, device, Signal::KILL), Ok(false), "it is gone");
    }

    #[test]
    fn nobody_ends_himself_or_who_started_him() {
        let protected = Protected::of_this_process();
        assert!(protected.contains(1) && protected.contains(std::process::id()));
        let parent = parent(std::process::id()).expect("a parent");
        assert!(protected.contains(parent));
        let folder = tempfile::tempdir().expect("folder");
        assert!(!protected.contains(sleeper(folder.path()).0.id()));
    }

    #[test]
    fn lines_of_maps() {
        let line = "7f00-7f01 r--p 00000000 2b:10 77 /srv/data/lib x.so";
        assert_eq!(mapped_device(line), Some(makedev(0x2b, 0x10)));
        assert_eq!(mapped_device("7f00-7f01 rw-p 00000000 00:00 0 [heap]"), None);
        assert_eq!(mapped_device("7f00-7f01 rw-p 00000000 00:00 0"), None);
        assert_eq!(mapped_device("ffff r-xp"), None);
    }

    #[test]
    fn many_users_are_counted() {
        let user = |process| User { process, name: "x".to_owned(), how: How::OpenFile };
        let all: Vec<User> = (1..=6).map(user).collect();
        assert_eq!(in_words(&all[..1]), "process 1 (x: an open file)");
        assert!(in_words(&all).ends_with("process 4 (x: an open file) and 2 more"));
    }
}
