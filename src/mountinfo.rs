//! What the kernel says is mounted: `/proc/self/mountinfo`, read without touching a file system,
//! since one whose device is dead would make whoever asks it wait.
//!
//! ```text
//!   36 35 98:0 /root /mnt/my\040data rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue
//!   |  |  |    |     |               |                     |    |
//!   |  |  |    |     mount point     options               type source
//!   |  |  |    folder of the file system
//!   |  |  device of the file system
//!   |  the mount it lies on
//!   its number
//! ```

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::makedev;

const OWN: &str = "/proc/self/mountinfo";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u32,
    pub parent_id: u32,
    /// A `makedev` number. File systems over several disks, and those without any, have one that
    /// belongs to no disk.
    pub device: u64,
    pub point: PathBuf,
    pub options: String,
    pub kind: String,
    pub source: PathBuf,
}

/// Everything that this process sees, in the order it was mounted: of several on one point the last
/// is on top.
pub fn read() -> io::Result<Vec<Mount>> {
    read_from(Path::new(OWN))
}

/// Of another process: `/proc/PID/mountinfo`.
pub fn read_from(path: &Path) -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(path)?))
}

/// The mount that is seen at `point`, which is a path without symbolic links.
pub fn at<'a>(mounts: &'a [Mount], point: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.point == point)
}

/// Mounts below `point`, the deepest and latest first: the order in which they can be unmounted.
pub fn below<'a>(mounts: &'a [Mount], point: &Path) -> Vec<&'a Mount> {
    let is_below = |mount: &&Mount| mount.point != point && mount.point.starts_with(point);
    let mut found: Vec<&Mount> = mounts.iter().rev().filter(is_below).collect();
    found.sort_by_key(|mount| std::cmp::Reverse(mount.point.components().count()));
    found
}

/// Lines that are not understood are left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `43:0`
pub fn parse_device(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The kernel writes a space as `\040`.
pub fn unescaped(text: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text;
    while let [first, rest @ ..] = bytes {
        let code = match bytes {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(code.unwrap_or(*first));
        bytes = if code.is_some() { &bytes[4..] } else { rest };
    }
    OsString::from_vec(out)
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut word = || words.next();
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u32>().ok();
    let text = |word: &[u8]| unescaped(word).to_string_lossy().into_owned();
    let id = number(word()?)?;
    let parent_id = number(word()?)?;
    let device = parse_device(std::str::from_utf8(word()?).ok()?)?;
    let _root = word()?;
    let point = PathBuf::from(unescaped(word()?));
    let options = text(word()?);
    // Any number of words that say how it propagates, then a lone dash.
    while word()? != b"-" {}
    let kind = text(word()?);
    let source = PathBuf::from(unescaped(word()?));
    point.as_os_str().as_bytes().starts_with(b"/").then_some(Mount {
        id,
        parent_id,
        device,
        point,
        options,
        kind,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
36 22 43:0 / /srv/my\\040data rw,relatime shared:1 master:2 - ext4 /dev/nbd0 rw
37 36 0:51 /sub /srv/my\\040data/cache rw - tmpfs \\134 rw,size=4k
38 37 0:52 / /srv/my\\040data/cache/deep rw - fuse.x - rw
39 22 43:1 / /srv/my\\040data rw,noatime - xfs /dev/nbd1 rw
40 22 43:2 / /srv/my\\040database rw - xfs /dev/nbd2 rw
41 22 43 / /srv rw - xfs /dev/nbd2 rw
42 22 43:0 / /srv rw shared:1
nonsense
";

    #[test]
    fn lines_as_the_kernel_writes_them() {
        let mounts = parse(TEXT);
        assert_eq!(
            mounts.iter().map(|mount| mount.id).collect::<Vec<_>>(),
            [22, 36, 37, 38, 39, 40]
        );
        let first = &mounts[1];
        assert_eq!((first.parent_id, first.device), (22, makedev(43, 0)));
        assert_eq!(first.point, Path::new("/srv/my data"));
        assert_eq!((first.options.as_str(), first.kind.as_str()), ("rw,relatime", "ext4"));
        assert_eq!(first.source, Path::new("/dev/nbd0"));
        assert_eq!(mounts[2].source, Path::new("\\"));
        assert_eq!(mounts[3].source, Path::new("-"), "a source may be a dash");
    }

    #[test]
    fn of_several_on_one_point_the_last_is_seen() {
        let mounts = parse(TEXT);
        assert_eq!(at(&mounts, Path::new("/srv/my data")).map(|mount| mount.id), Some(39));
        assert_eq!(at(&mounts, Path::new("/srv")), None);
    }

    #[test]
    fn what_lies_below_is_named_deepest_first() {
        let mounts = parse(TEXT);
        let found = below(&mounts, Path::new("/srv/my data"));
        let points: Vec<_> = found.iter().map(|mount| mount.point.to_str().unwrap()).collect();
        assert_eq!(points, ["/srv/my data/cache/deep", "/srv/my data/cache"]);
    }

    #[test]
    fn escapes() {
        assert_eq!(unescaped(b"a\\040b\\134"), "a b\\");
        assert_eq!(unescaped(b"a\\04"), "a\\04");
        assert_eq!(unescaped("ü\\777".as_bytes()), "ü\\777");
        assert_eq!(unescaped(b"\\377").as_bytes(), [0xff], "a path need not be text");
    }

    #[test]
    fn device_numbers() {
        assert_eq!(parse_device("43:7\n"), Some(makedev(43, 7)));
        assert_eq!(parse_device("43"), None);
    }

    #[test]
    fn the_root_of_this_process_is_found() {
        let mounts = read().expect("mountinfo");
        assert!(at(&mounts, Path::new("/")).is_some(), "{mounts:?}");
    }
}
