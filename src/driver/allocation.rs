//! What the backing file says about its holes, for `base:allocation`.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A run of bytes that is either data or a hole (which reads as zeroes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub length: u64,
    pub hole: bool,
}

/// The runs of `length` bytes at `offset`, at most `limit` of them: fewer may cover less than was
/// asked. A file that cannot tell is all data.
pub(super) fn runs(file: &File, offset: u64, length: u64, limit: usize) -> Vec<Run> {
    let end = offset + length;
    let mut runs = Vec::new();
    let mut at = offset;
    while at < end && runs.len() < limit {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.clamp(at, end),
            // No data behind this place.
            Err(Errno::NXIO) => end,
            Err(_) => at,
        };
        if data > at {
            runs.push(Run { length: data - at, hole: true });
            at = data;
            continue;
        }
        let hole = match seek(file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => hole.min(end),
            _ => end,
        };
        runs.push(Run { length: hole - at, hole: false });
        at = hole;
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_of_a_sparse_file() {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(1 << 20).expect("sparse");
        file.write_all_at(&[7; 65536], 262_144).expect("data in the middle");
        let all = runs(&file, 0, 1 << 20, 100);
        assert_eq!(all.iter().map(|run| run.length).sum::<u64>(), 1 << 20);
        if all.len() == 1 {
            println!("skipped: this file system does not tell holes");
            return;
        }
        assert_eq!(
            all,
            [
                Run { length: 262_144, hole: true },
                Run { length: 65536, hole: false },
                Run { length: (1 << 20) - 262_144 - 65536, hole: true },
            ]
        );
        assert_eq!(runs(&file, 270_336, 4096, 100), [Run { length: 4096, hole: false }]);
        assert_eq!(runs(&file, 0, 1 << 20, 1), [Run { length: 262_144, hole: true }]);
        assert_eq!(runs(&file, 500_000, 4096, 100), [Run { length: 4096, hole: true }]);
    }

    #[test]
    fn what_cannot_tell_is_all_data() {
        let (reader, _writer) = std::io::pipe().expect("pipe");
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        assert_eq!(runs(&file, 4096, 8192, 10), [Run { length: 8192, hole: false }]);
    }
}
