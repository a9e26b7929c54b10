//! `track_file`: a number in a file.
//!
//! The file is read again and again rather than awaited by inotify: it is small, it may be replaced,
//! removed or not be there yet, and it may lie where inotify tells nothing (a network file system).

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Outlet, Reading};

/// How soon a change is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// Longer than any number; what follows is not read.
const TEXT_BYTES_MAX: u64 = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTracker {
    pub name: String,
    pub path: PathBuf,
    /// `init_file`.
    pub initial: Option<InitialContent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitialContent {
    pub value: i64,
    /// Otherwise only a missing file is written.
    pub overwrites: bool,
}

pub(super) async fn watch(file: FileTracker, tracker: usize, outlet: Outlet) {
    let FileTracker { name, path, initial } = file;
    if let Some(initial) = initial {
        let place = path.clone();
        let write = spawn_blocking(move || write_initial(&place, initial));
        match outlet.unless_stopping(write).await {
            None => return,
            Some(Ok(Err(error))) => {
                tracing::warn!("track_file {name}: {} not written: {error}", path.display());
            }
            Some(_) => {}
        }
    }
    let mut before = None;
    let mut was_empty = true;
    loop {
        let place = path.clone();
        // A file system may let it wait for ever: other watchers go on.
        let look = spawn_blocking(move || read(&place));
        let Some(looked) = outlet.unless_stopping(look).await else { return };
        let looked = looked.unwrap_or_default();
        // Whoever writes it truncates it first: nothing is 0 only when it lasts.
        let is_passing = looked.is_none() && !was_empty;
        was_empty = looked.is_none();
        let number = looked.unwrap_or_default();
        if before != Some(number) && !is_passing {
            before = Some(number);
            let text = format!("Track file {name} ({}) holds {number}", path.display());
            tracing::info!("{text}");
            outlet.tracker(tracker, Reading::Number(number), &text).await;
        }
        if outlet.unless_stopping(sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// A pipe in the place of the file must not stop the reader.
fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    options
}

/// `None` for a file that is not there, or is empty.
fn read(path: &Path) -> Option<i64> {
    let mut text = Vec::new();
    let file = open_options().read(true).open(path);
    let read = file.and_then(|file| file.take(TEXT_BYTES_MAX).read_to_end(&mut text));
    (read.is_ok() && !text.is_empty()).then(|| number(&text))
}

/// What the text begins with, as strtol would see it.
fn number(text: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_ascii_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return 0;
    }
    // Too many digits are a number beyond every limit.
    sign * digits[..end].parse::<i64>().unwrap_or(i64::MAX)
}

fn write_initial(path: &Path, initial: InitialContent) -> io::Result<()> {
    if !initial.overwrites && fs::exists(path)? {
        return Ok(());
    }
    let mut options = open_options();
    options.write(true).truncate(true);
    if initial.overwrites {
        options.create(true)
    } else {
        options.create_new(true)
    };
    let file = options.open(path)?;
    io::Write::write_all(&mut &file, format!("{}\n", initial.value).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("10", 10),
            (" -20\n", -20),
            ("+3 and more", 3),
            ("", 0),
            ("\n", 0),
            ("-", 0),
            ("ten", 0),
            ("99999999999999999999", i64::MAX),
            ("-99999999999999999999", -i64::MAX),
            ("7\u{fffd}", 7),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(number(&[0xff, b'1']), 0);
    }

    #[test]
    fn the_initial_content_spares_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weight");
        assert_eq!(read(&path), None);
        let write = |value, overwrites| {
            write_initial(&path, InitialContent { value, overwrites }).expect("written");
            read(&path)
        };
        assert_eq!(write(-5, false), Some(-5));
        assert_eq!(write(6, false), Some(-5));
        assert_eq!(write(7, true), Some(7));
    }
}
