//! What reading and writing metadata needs of a disk; a file, a block device, or memory in tests.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Random access with an explicit "make it durable".
pub trait Storage {
    /// Bytes of the device.
    fn size(&self) -> u64;
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Everything written before is on stable storage when this returns.
    fn sync(&mut self) -> io::Result<()>;
}

impl<S: Storage> Storage for &mut S {
    fn size(&self) -> u64 {
        S::size(self)
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        S::read_at(self, offset, bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        S::write_at(self, offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        S::sync(self)
    }
}

impl Storage for File {
    /// By seeking to the end: works for block devices too, whose `metadata().len()` is 0. A device
    /// that cannot tell counts as empty, which every check refuses.
    fn size(&self) -> u64 {
        let mut file: &Self = self;
        file.seek(SeekFrom::End(0)).unwrap_or(0)
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
