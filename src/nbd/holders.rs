//! Who holds a block device open: file systems, swap, devices stacked on it, processes. Found out
//! without opening it, since opening a device whose sockets are dead waits for them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, open};

use crate::mountinfo::{self, Mount, parse_device, unescaped};

/// Holders named in a message; the rest is a number.
const NAMED_MAX: usize = 4;

/// A disk, for example `nbd0`, and its partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Disk {
    /// `makedev` numbers.
    devices: BTreeSet<u64>,
}

/// Everybody, in words: `mounted on /mnt`, `process 4711 (dd)`.
pub fn holders(disk: &str) -> Vec<String> {
    let mut found = quick_holders(disk);
    found.extend(processes(&Disk::read(disk)));
    found
}

/// Those that a look at three files of the kernel shows: mounts of this namespace, swap, stacked
/// devices.
pub fn quick_holders(disk: &str) -> Vec<String> {
    let devices = Disk::read(disk);
    let mut found = mounts(&mountinfo::read().unwrap_or_default(), &devices);
    found.extend(swaps(&fs::read_to_string("/proc/swaps").unwrap_or_default(), &devices));
    found.extend(stacked(disk));
    found
}

/// Whether somebody has the device for himself alone, a mount of another namespace for example.
/// Reads the partition table if nobody did: only for a device that is served.
pub fn is_claimed(device: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    matches!(open(device, flags, rustix::fs::Mode::empty()), Err(rustix::io::Errno::BUSY))
}

/// For a message.
pub fn in_words(holders: &[String]) -> String {
    let named = holders.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match holders.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

impl Disk {
    fn read(disk: &str) -> Self {
        let folder = Path::new("/sys/block").join(disk);
        let number = |folder: &Path| parse_device(&fs::read_to_string(folder.join("dev")).ok()?);
        let mut devices: BTreeSet<u64> = number(&folder).into_iter().collect();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(disk) {
                devices.extend(number(&entry.path()));
            }
        }
        Self { devices }
    }

    /// `path` is a node of the disk, or a link to one.
    fn has_node(&self, path: &Path) -> bool {
        path.is_absolute()
            && fs::metadata(path).is_ok_and(|node| {
                node.file_type().is_block_device() && self.devices.contains(&node.rdev())
            })
    }
}

/// A file system over several disks has a number of its own and names its first disk as the source.
fn mounts(mounts: &[Mount], disk: &Disk) -> Vec<String> {
    let is_on_disk =
        |mount: &&Mount| disk.devices.contains(&mount.device) || disk.has_node(&mount.source);
    let points: BTreeSet<String> = mounts
        .iter()
        .filter(is_on_disk)
        .map(|mount| format!("mounted on {}", mount.point.display()))
        .collect();
    points.into_iter().collect()
}

fn swaps(text: &str, disk: &Disk) -> Vec<String> {
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let paths = paths.map(|path| PathBuf::from(unescaped(path.as_bytes())));
    let on_disk = paths.filter(|path| disk.has_node(path));
    on_disk.map(|path| format!("swap on {}", path.display())).collect()
}

/// Device mapper, md and loop devices on the disk or a partition.
fn stacked(disk: &str) -> Vec<String> {
    let folder = Path::new("/sys/block").join(disk);
    let entries = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut names = entries(&folder.join("holders"));
    for part in entries(&folder).into_iter().filter(|name| name.starts_with(disk)) {
        names.extend(entries(&folder.join(part).join("holders")));
    }
    let devices = Disk::read(disk);
    for device in entries(Path::new("/sys/block")) {
        let backing = Path::new("/sys/block").join(&device).join("loop/backing_file");
        let backing = fs::read_to_string(backing).unwrap_or_default();
        if devices.has_node(Path::new(backing.trim_end())) {
            names.push(device);
        }
    }
    names.sort();
    names.dedup();
    names.into_iter().map(|name| format!("used by /dev/{name}")).collect()
}

/// Processes with an open file descriptor on it, and mounts of other namespaces.
fn processes(disk: &Disk) -> Vec<String> {
    let own = std::process::id();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let mut namespaces: BTreeSet<_> = own_mounts.into_iter().collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if process == own {
            continue;
        }
        let folder = entry.path();
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        let name = name.trim_end();
        let mut files = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        let holds = files.any(|file| {
            // Looks at the node behind the descriptor; opens nothing.
            fs::metadata(file.path()).is_ok_and(|node| {
                node.file_type().is_block_device() && disk.devices.contains(&node.rdev())
            })
        });
        if holds {
            found.push(format!("process {process} ({name})"));
        }
        if let Ok(namespace) = fs::read_link(folder.join("ns/mnt"))
            && namespaces.insert(namespace)
        {
            let others = mountinfo::read_from(&folder.join("mountinfo")).unwrap_or_default();
            let others = mounts(&others, disk);
            found.extend(
                others.into_iter().map(|mount| format!("{mount} by process {process} ({name})")),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use rustix::fs::makedev;

    use super::*;

    fn disk() -> Disk {
        Disk { devices: [makedev(43, 0), makedev(43, 1)].into() }
    }

    #[test]
    fn mounts_of_the_disk_and_its_partitions() {
        let text = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 22 43:0 / /srv/my\\040data rw,relatime shared:1 - ext4 /dev/nbd0 rw
37 22 43:1 /sub /mnt rw - xfs /dev/nbd0p1 rw
38 22 43:32 / /other rw - ext4 /dev/nbd1 rw
39 22 43:0 / /srv/my\\040data rw - ext4 /dev/nbd0 rw
nonsense
";
        assert_eq!(
            mounts(&mountinfo::parse(text), &disk()),
            ["mounted on /mnt", "mounted on /srv/my data"]
        );
    }

    /// The disk of this machine that a file system is mounted from, if it is a plain one.
    #[test]
    fn a_real_mount_is_found() {
        let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let sources = own.lines().filter_map(|line| {
            line.split_once(" - /dev/").or_else(|| {
                let (_, rest) = line.split_once(" - ")?;
                rest.split(' ').nth(1)?.strip_prefix("/dev/").map(|name| (line, name))
            })
        });
        let plain = sources
            .map(|(_, name)| name)
            .find(|name| Path::new("/sys/block").join(name).join("dev").exists());
        let Some(name) = plain else {
            println!("skipped: no file system is mounted from a whole disk here");
            return;
        };
        let found = quick_holders(name);
        assert!(found.iter().any(|holder| holder.starts_with("mounted on /")), "{found:?}");
        assert_eq!(holders("no-such-disk"), Vec::<String>::new());
    }

    #[test]
    fn many_holders_are_counted() {
        let holders: Vec<String> = (1..=6).map(|n| format!("process {n} (x)")).collect();
        assert_eq!(in_words(&holders[..1]), "process 1 (x)");
        assert!(in_words(&holders).ends_with("process 4 (x) and 2 more"));
    }
}
