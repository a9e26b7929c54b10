//! What a program writes. All of it is read, or the program would wait for ever; little is kept.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::unix::pipe::Receiver;

/// Of one run, as it comes; the rest is read and dropped.
const HANDED_BYTES_MAX: usize = 16 << 10;
/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 1 << 10;
/// With lines at their longest 8 KiB, which say why a program failed.
const KEPT_LINES_MAX: usize = 8;
/// Programs in the background whose output is still read. Each is a descriptor; more of them find
/// their output closed.
const BACKGROUND_MAX: usize = 64;

static BACKGROUND: AtomicUsize = AtomicUsize::new(0);

pub(super) struct Output<F> {
    /// Absent once nobody can write any more.
    reader: Option<Receiver>,
    on_line: F,
    handed_bytes_left: usize,
    line: Vec<u8>,
    kept: VecDeque<String>,
}

impl<F: FnMut(&str)> Output<F> {
    pub(super) fn new(reader: OwnedFd, on_line: F) -> io::Result<Self> {
        let reader = Receiver::from_owned_fd(reader)?;
        let (line, kept) = (Vec::new(), VecDeque::new());
        let handed_bytes_left = HANDED_BYTES_MAX;
        Ok(Self { reader: Some(reader), on_line, handed_bytes_left, line, kept })
    }

    /// Reads for as long as it is awaited.
    pub(super) async fn follow(&mut self) -> Infallible {
        self.closed().await;
        pending().await
    }

    /// Reads until nobody can write any more.
    pub(super) async fn closed(&mut self) {
        while let Some(reader) = &self.reader {
            let mut chunk = [0; 4096];
            let read = match reader.readable().await {
                Ok(()) => reader.try_read(&mut chunk),
                Err(error) => Err(error),
            };
            match read {
                Ok(length @ 1..) => self.take(&chunk[..length]),
                Err(error) if is_passing(&error) => {}
                Ok(0) | Err(_) => self.reader = None,
            }
        }
    }

    /// The program has ended: what it wrote is in the pipe already. The last lines are returned.
    pub(super) fn finish(mut self) -> Vec<String> {
        let mut chunk = [0; 4096];
        // A child in the background may write for ever: no more than a pipe holds.
        let mut left: usize = 64 << 10;
        while let Some(reader) = &self.reader
            && left > 0
        {
            // Past the runtime, which may not know yet that there is something to read.
            match rustix::io::read(reader, &mut chunk).map_err(io::Error::from) {
                Ok(0) => self.reader = None,
                Ok(length) => {
                    left = left.saturating_sub(length);
                    self.take(&chunk[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if !self.line.is_empty() {
            self.end_line();
        }
        if let Some(reader) = self.reader.take() {
            read_in_background(reader);
        }
        self.kept.into()
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.line.len() >= LINE_BYTES_MAX {
                self.end_line();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        let length = self.line.len() + 1;
        self.line.clear();
        if length <= self.handed_bytes_left {
            self.handed_bytes_left -= length;
            (self.on_line)(&line);
        } else {
            // No shorter line after one that was dropped: what is handed on has no holes.
            self.handed_bytes_left = 0;
        }
        if self.kept.len() == KEPT_LINES_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A service that a script has started may write to the script's output as long as it lives.
/// Closing that would kill it with its next line (SIGPIPE).
fn read_in_background(reader: Receiver) {
    if BACKGROUND.fetch_add(1, Ordering::Relaxed) >= BACKGROUND_MAX {
        BACKGROUND.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!(
            "{BACKGROUND_MAX} programs in the background still write to the output of the scripts \
             that started them; the output of one more is closed"
        );
        return;
    }
    let place = Place;
    tokio::spawn(async move {
        let _place = place;
        let mut output = Output {
            reader: Some(reader),
            on_line: |_: &str| {},
            handed_bytes_left: 0,
            line: Vec::new(),
            kept: VecDeque::new(),
        };
        output.closed().await;
    });
}

struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        BACKGROUND.fetch_sub(1, Ordering::Relaxed);
    }
}
