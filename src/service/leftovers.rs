//! What a daemon that died left running and mounted, and how it is cleared.
//!
//! Before a daemon starts or mounts anything it notes it in a file; after it stopped and unmounted
//! it, it takes it out. Whoever finds the note without its daemon undoes what it says: the guard at
//! the moment of the death, the next daemon at its start. A lock lets them do it one after another.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::error::ServiceError;
use super::file_system::FileSystem;
use super::program::Program;
use super::thread;
use super::unmount::Unmounted;

/// Longer than clearing takes anybody: stop commands, and the whole escalation of the unmount.
const LOCK_LIMIT: Duration = Duration::from_secs(120);
/// For the kernel to end a device.
const DEVICE_LIMIT: Duration = Duration::from_secs(15);
/// No note is longer: 64 resources with 16 KiB each.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// Everything that runs on top of one resource, in the order in which it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    pub resource: String,
    pub file_systems: Vec<FileSystem>,
    pub programs: Vec<Program>,
}

/// The file, by resource. In a folder that a reboot empties.
#[derive(Clone, Debug)]
pub struct Note {
    path: PathBuf,
}

/// What was found of a resource, and what became of it.
#[derive(Debug)]
pub struct Cleared {
    pub resource: String,
    pub stop_errors: Vec<ServiceError>,
    pub unmounted: Vec<Result<Unmounted, ServiceError>>,
}

impl Cleared {
    /// Nothing of it is left. A stop command may fail because there was nothing to stop.
    pub fn is_complete(&self) -> bool {
        let is_gone = |unmounted: &Result<Unmounted, ServiceError>| {
            unmounted.as_ref().is_ok_and(|how| how.lazily.is_none())
        };
        self.unmounted.iter().all(is_gone)
    }
}

impl Note {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// That of the daemon with this run directory.
    pub fn of(run_dir: &std::path::Path) -> Self {
        Self::new(run_dir.join("services"))
    }

    /// To be called before the first step upwards.
    pub fn hold(&self, estate: &Estate) -> io::Result<()> {
        let mut held = self.read()?;
        held.insert(estate.resource.clone(), estate.clone());
        self.write(&held)
    }

    /// To be called after the last step downwards.
    pub fn release(&self, resource: &str) -> io::Result<()> {
        let mut held = self.read()?;
        match held.remove(resource) {
            Some(_) => self.write(&held),
            None => Ok(()),
        }
    }

    pub fn read(&self) -> io::Result<BTreeMap<String, Estate>> {
        let mut text = String::new();
        match File::open(&self.path) {
            Ok(file) => {
                io::Read::read_to_string(&mut io::Read::take(file, NOTE_BYTES_MAX), &mut text)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        serde_json::from_str(&text).map_err(io::Error::from)
    }

    /// In one step, so that a death in the middle leaves the one or the other.
    fn write(&self, held: &BTreeMap<String, Estate>) -> io::Result<()> {
        if held.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let hidden = self.with_suffix("~");
        fs::write(&hidden, serde_json::to_string(held)?)?;
        fs::rename(hidden, &self.path)
    }

    /// What nobody can read must not keep the next service from being noted.
    fn put_aside(&self) {
        if let Err(error) = fs::rename(&self.path, self.with_suffix(".unreadable")) {
            tracing::error!(note = %self.path.display(), %error, "cannot put it aside");
        }
    }

    fn with_suffix(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(suffix);
        path.into()
    }

    /// Held by whoever clears, until it is dropped.
    async fn lock(&self) -> Option<File> {
        let path = self.with_suffix(".lock");
        let locked = thread::within(LOCK_LIMIT, move || {
            let file = File::create(path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok::<File, io::Error>(file)
        });
        match locked.await {
            Some(Ok(lock)) => Some(lock),
            Some(Err(error)) => {
                tracing::warn!(note = %self.path.display(), %error, "clearing without a lock");
                None
            }
            None => {
                tracing::warn!("somebody else has been clearing for too long: clearing beside it");
                None
            }
        }
    }
}

/// Undoes what the note says, and what is still mounted of `configured`. `end_device` makes the
/// resource's device fail what waits in it, since nobody will answer it any more: an unmount would
/// wait for it as long as the kernel does.
pub async fn clear(
    note: &Note,
    configured: &[Estate],
    end_device: impl Fn(&str) + Clone + Send + 'static,
) -> Vec<Cleared> {
    let _lock = note.lock().await;
    let mut held = note.read().unwrap_or_else(|error| {
        tracing::error!(note = %note.path.display(), %error, "cannot read what was left behind");
        note.put_aside();
        BTreeMap::new()
    });
    for estate in configured {
        if !held.contains_key(&estate.resource) && is_mounted(estate).await {
            held.insert(estate.resource.clone(), estate.clone());
        }
    }
    let mut all = Vec::new();
    for estate in held.values() {
        let resource = &estate.resource;
        tracing::warn!(resource, "left behind by a daemon that died: stopping and unmounting it");
        let (end, name) = (end_device.clone(), resource.clone());
        if thread::within(DEVICE_LIMIT, move || end(&name)).await.is_none() {
            tracing::warn!(resource, "the kernel does not end the device");
        }
        let cleared = clear_one(estate).await;
        if cleared.is_complete()
            && let Err(error) = note.release(resource)
        {
            tracing::warn!(resource, %error, "cannot take it out of the note");
        }
        all.push(cleared);
    }
    all
}

async fn clear_one(estate: &Estate) -> Cleared {
    let mut cleared = Cleared {
        resource: estate.resource.clone(),
        stop_errors: Vec::new(),
        unmounted: Vec::new(),
    };
    for program in estate.programs.iter().rev() {
        if let Err(why) = program.undo().await {
            cleared.stop_errors.push(why);
        }
    }
    for file_system in estate.file_systems.iter().rev() {
        let undone = file_system.undo().await;
        if let Err(error) = &undone {
            tracing::error!(resource = estate.resource, %error, hint = error.hint(), "left behind");
        }
        cleared.unmounted.push(undone);
    }
    cleared
}

async fn is_mounted(estate: &Estate) -> bool {
    for file_system in &estate.file_systems {
        if file_system.is_done().await.unwrap_or(false) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estate(resource: &str) -> Estate {
        let program = Program { stop: Some("true".to_owned()), ..Program::default() };
        Estate {
            resource: resource.to_owned(),
            file_systems: vec![FileSystem::new("/dev/none", "/srv/none")],
            programs: vec![program],
        }
    }

    #[test]
    fn a_note_holds_until_it_is_released() {
        let folder = tempfile::tempdir().expect("folder");
        let note = Note::new(folder.path().join("services"));
        note.release("r0").expect("nothing to release");
        note.hold(&estate("r0")).expect("held");
        note.hold(&estate("r1")).expect("held");
        note.release("r0").expect("released");
        let held = note.read().expect("a note");
        assert_eq!(held.into_values().collect::<Vec<_>>(), [estate("r1")]);
        note.release("r1").expect("released");
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0, "nothing left over");
    }

    #[test]
    fn a_note_that_cannot_be_read_is_an_error_and_clears_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("services");
        fs::write(&path, "{\"r0\": 7}").expect("garbage");
        let note = Note::new(&path);
        assert!(note.read().is_err() && note.hold(&estate("r0")).is_err());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let cleared = runtime.expect("a runtime").block_on(clear(&note, &[], |_| {}));
        assert!(cleared.is_empty() && !path.exists());
        assert!(note.with_suffix(".unreadable").exists(), "for the operator");
        note.hold(&estate("r0")).expect("held");
    }
}
