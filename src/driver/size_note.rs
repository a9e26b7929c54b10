//! How large a disk with internal metadata was when it was last used. The metadata is found by the
//! end of the disk; one that grew while nobody used it has it somewhere else, and this small file is
//! all that tells where (DRBD's tools keep one for the same purpose). Losing it loses no data: with
//! the disk cut to its old size everything is as before.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where programs that do not say otherwise keep sockets, which end with the machine ...
const RUN_DIR: &str = "/run/twinblk";
/// ... and what must survive it.
const STATE_DIR: &str = "/var/lib/twinblk";

/// The note of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeNote(PathBuf);

impl SizeNote {
    pub fn of(run_dir: &Path, resource: &str) -> Self {
        let folder = if run_dir == Path::new(RUN_DIR) { Path::new(STATE_DIR) } else { run_dir };
        Self(folder.join(format!("{resource}.size")))
    }

    /// Bytes of `disk`, if the note is about it.
    pub fn read(&self, disk: &Path) -> Option<u64> {
        parse(&std::fs::read_to_string(&self.0).ok()?, disk)
    }

    /// Durably; nothing is written when it says so already.
    pub fn write(&self, disk: &Path, bytes: u64) -> io::Result<()> {
        if self.read(disk) == Some(bytes) {
            return Ok(());
        }
        let folder = self.0.parent().unwrap_or_else(|| Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let new = self.0.with_extension("size.new");
        let mut file = File::create(&new)?;
        file.write_all(format!("size {bytes}\ndisk {}\n", disk.display()).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &self.0)?;
        File::open(folder)?.sync_all()
    }

    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn parse(text: &str, disk: &Path) -> Option<u64> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let about = line("disk ").is_some_and(|path| path == disk.display().to_string());
    line("size ").filter(|_| about)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_about_one_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let note = SizeNote::of(&folder.path().join("new"), "r0");
        let disk = Path::new("/dev/sdb1");
        assert_eq!(note.read(disk), None);
        note.remove().expect("nothing to remove");
        note.write(disk, 4096).expect("written");
        note.write(disk, 8192).expect("written anew");
        assert_eq!((note.read(disk), note.read(Path::new("/dev/sdc1"))), (Some(8192), None));
        note.remove().expect("removed");
        assert_eq!((note.read(disk), parse("size x\ndisk /dev/sdb1", disk)), (None, None));
        assert_eq!(
            SizeNote::of(Path::new("/run/twinblk"), "r0").0.parent(),
            Some(Path::new(STATE_DIR))
        );
    }
}
