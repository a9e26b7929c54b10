//! Who has a disk in use, for the message to the operator. Best effort: an empty answer only makes
//! the message poorer.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{fstat, major, minor};

/// The process that holds a file lock on `file`, from the kernel's list of locks.
pub(super) fn of_file(file: &File) -> String {
    owner(file).map_or_else(|| "another process has locked it".into(), describe_process)
}

/// Whether the lock on `file` outlives the process that took it, or has gone by now.
pub(super) fn is_dead(file: &File) -> bool {
    owner(file).is_none_or(|pid| {
        // `1234 (name) Z ...`: a dead process that its parent has not asked about.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}

fn owner(file: &File) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let stat = fstat(file).ok()?;
    let inode = format!("{:02x}:{:02x}:{}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
    lock_owner(&locks, &inode)
}

/// What claims the block device `device_major:device_minor`: a mount, or a device on top of it.
pub(super) fn of_block_device(device_major: u32, device_minor: u32) -> String {
    let number = format!("{device_major}:{device_minor}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(place) = mount_place(&mounts, &number) {
        return format!("mounted at {place}");
    }
    let holders = Path::new("/sys/dev/block").join(&number).join("holders");
    let names: Vec<String> = fs::read_dir(holders)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.is_empty() {
        "another program has claimed the device".into()
    } else {
        format!("claimed by {}", names.join(", "))
    }
}

fn describe_process(pid: u32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("locked by process {pid} ({})", name.trim_end()),
        Err(_) => format!("locked by process {pid}"),
    }
}

/// Lines are `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`; waiters have `->` in between.
fn lock_owner(locks: &str, inode: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == inode => pid.parse().ok(),
            _ => None,
        }
    })
}

/// Fields of mountinfo: id, parent, `major:minor`, root, mount point, ...
fn mount_place<'a>(mounts: &'a str, number: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some(number)).then(|| fields.nth(1)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_lock_is_found_and_waiters_are_not() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 fe:00:12 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 1234 fe:00:12 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 99 fe:00:13 0 EOF\n";
        assert_eq!(lock_owner(locks, "fe:00:12"), Some(1234));
        assert_eq!(lock_owner(locks, "fe:00:13"), None);
    }

    #[test]
    fn the_mount_of_a_device_is_found() {
        let mounts = "21 1 0:20 / /proc rw - proc proc rw\n30 1 8:1 / /data rw - ext4 /dev/sda1 rw";
        assert_eq!(mount_place(mounts, "8:1"), Some("/data"));
        assert_eq!(mount_place(mounts, "8:2"), None);
    }
}
