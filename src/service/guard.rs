//! A small process that outlives the daemon: when the daemon dies without having stopped what runs on
//! its devices, the guard does so, because the other node is about to start it.
//!
//! Its standard input ends with the daemon, however it ended; then [`super::leftovers::clear`].

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use tokio::signal::unix::{SignalKind, signal};

use super::leftovers::{Cleared, Note, clear};

/// The daemon's end.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    /// `command` runs a program that calls [`guard`] with its standard input.
    pub fn start(mut command: Command) -> io::Result<Self> {
        // What ends the daemon's group must not end it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input ends it: with an empty note there is nothing to clear.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The guard's process: returns when `input` has ended and nothing of the note is left.
pub fn guard(
    mut input: impl Read,
    note: &Note,
    end_device: impl Fn(&str) + Clone + Send + 'static,
) -> io::Result<Vec<Cleared>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    // A service manager ends what is left of a service whose main process died; it then waits.
    let ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let _ignored: Vec<_> = ignored.into_iter().map(signal).collect::<Result<_, _>>()?;
    let mut ignored = [0; 64];
    loop {
        match input.read(&mut ignored) {
            Ok(0) => break,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    if matches!(note.read(), Ok(held) if held.is_empty()) {
        return Ok(Vec::new());
    }
    Ok(runtime.block_on(clear(note, &[], end_device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_end_does_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let note = Note::new(folder.path().join("services"));
        let cleared = guard(&b"anything"[..], &note, |_| panic!("no device")).expect("guarded");
        assert!(cleared.is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
    }
}
