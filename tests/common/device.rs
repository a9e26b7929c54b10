//! The replicated device as its user sees it, through NBD or as /dev/drbd0: one interface.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::nbd::NbdClient;

pub trait Device: Send {
    fn size_bytes(&self) -> u64;
    fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
}

impl Device for NbdClient {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        Self::read(self, offset, length as u32)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::write(self, offset, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::flush(self)
    }
}

/// A block device past the page cache, which would hide what is on the disk.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    size_bytes: u64,
}

const ALIGNMENT: usize = 4096;

/// Memory that direct I/O takes. Fresh memory costs an emulated machine more than the I/O does, so
/// whoever moves much keeps it.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    begin: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let begin = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, begin }
    }

    fn bytes(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + length]
    }
}

impl BlockDevice {
    pub fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(writable).custom_flags(libc::O_DIRECT);
        let file = options.open(path)?;
        let size_bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        Ok(Self { file, size_bytes })
    }
}

impl Device for BlockDevice {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut memory = Aligned::new(length);
        self.file.read_exact_at(memory.bytes(length), offset)?;
        Ok(memory.bytes(length).to_vec())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut memory = Aligned::new(data.len());
        memory.bytes(data.len()).copy_from_slice(data);
        self.file.write_all_at(memory.bytes(data.len()), offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Bytes that are compared or copied at a time.
const PIECE: u64 = 1 << 20;

fn pieces(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size).step_by(PIECE as usize).map(move |at| (at, (size - at).min(PIECE) as usize))
}

/// 4 KiB blocks that differ below `size`.
pub fn differing_blocks(left: &Path, right: &Path, size: u64) -> Vec<u64> {
    let open = |path| BlockDevice::open(path, false).expect("a disk");
    let (left, right) = (open(left), open(right));
    let [mut one, mut other] = [(); 2].map(|()| Aligned::new(PIECE as usize));
    let mut differing = Vec::new();
    for (offset, length) in pieces(size) {
        let (one, other) = (one.bytes(length), other.bytes(length));
        left.file.read_exact_at(one, offset).expect("the left disk");
        right.file.read_exact_at(other, offset).expect("the right disk");
        if one == other {
            continue;
        }
        let blocks = one.chunks(4096).zip(other.chunks(4096)).enumerate();
        let unequal = blocks.filter(|(_, (one, other))| one != other);
        differing.extend(unequal.map(|(index, _)| offset / 4096 + index as u64));
    }
    differing
}

/// The whole of a disk onto another, its end last, where internal metadata is.
pub fn copy(source: &Path, target: &Path) {
    let source = BlockDevice::open(source, false).expect("a disk");
    let target = BlockDevice::open(target, true).expect("a disk");
    let mut memory = Aligned::new(PIECE as usize);
    for (offset, length) in pieces(source.size_bytes) {
        let piece = memory.bytes(length);
        source.file.read_exact_at(piece, offset).expect("the source");
        target.file.write_all_at(piece, offset).expect("the target");
    }
    target.file.sync_data().expect("the target");
}

/// Content of which nothing can be left out as zeroes.
pub fn fill(path: &Path) {
    let device = BlockDevice::open(path, true).expect("a disk");
    let mut memory = Aligned::new(PIECE as usize);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (offset, length) in pieces(device.size_bytes) {
        let piece = memory.bytes(length);
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        device.file.write_all_at(piece, offset).expect("a write");
    }
    device.file.sync_data().expect("a flush");
}

/// Reads, sends over loopback, writes, flushes: as a careful `dd | nc` would. What a resync is
/// measured by.
pub fn copy_over_tcp(source: &Path, target: &Path) {
    let source = BlockDevice::open(source, false).expect("a disk");
    let target = BlockDevice::open(target, true).expect("a disk");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let mut memory = Aligned::new(PIECE as usize);
            for (offset, length) in pieces(source.size_bytes) {
                let piece = memory.bytes(length);
                source.file.read_exact_at(piece, offset).expect("the source");
                stream.write_all(piece).expect("a receiver");
            }
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut memory = Aligned::new(PIECE as usize);
        for (offset, length) in pieces(source.size_bytes) {
            let piece = memory.bytes(length);
            stream.read_exact(piece).expect("a sender");
            target.file.write_all_at(piece, offset).expect("the target");
        }
        target.file.sync_data().expect("the target");
    });
}
