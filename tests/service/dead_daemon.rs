//! The daemon is killed while something runs on its device.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use twinblk::mountinfo;
use twinblk::service::guard::{Guard, guard};
use twinblk::service::{Estate, Note, Program, clear};

use super::alone::{alone, block_on, wait_until};
use super::disk::{Disk, Squatter};

/// A folder: this process is the daemon, or its guard, of this lab.
const DAEMON: &str = "TWINBLK_TEST_SERVICE_DAEMON";
const GUARD: &str = "TWINBLK_TEST_SERVICE_GUARD";
const WITHOUT_GUARD: &str = "TWINBLK_TEST_SERVICE_WITHOUT_GUARD";
const LIMIT: Duration = Duration::from_secs(10);

fn note(folder: &Path) -> Note {
    Note::new(folder.join("services"))
}

/// The service is a file that is there while it runs.
fn estate(disk: &Disk) -> Estate {
    let running = disk.path("running").display().to_string();
    let program = Program {
        start: Some(format!("touch {running}")),
        stop: Some(format!("rm {running}")),
        ..Program::default()
    };
    Estate {
        resource: "r0".to_owned(),
        file_systems: vec![disk.file_system()],
        programs: vec![program],
    }
}

fn this_program(test: &str, variable: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env(variable, value);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Not a test: the daemon, which starts what the note says, and waits to be killed.
#[test]
fn daemon_process() {
    let Some(folder) = std::env::var_os(DAEMON) else { return };
    let folder = Path::new(&folder);
    let estate = note(folder).read().expect("a note").remove("r0").expect("an estate");
    let _guard = std::env::var_os(WITHOUT_GUARD).is_none().then(|| {
        Guard::start(this_program("dead_daemon::guard_process", GUARD, folder)).expect("a guard")
    });
    block_on(async {
        estate.file_systems[0].perform().await.expect("mounted");
        estate.programs[0].perform().await.expect("started");
    });
    loop {
        std::thread::park();
    }
}

/// Not a test: the guard of that daemon.
#[test]
fn guard_process() {
    let Some(folder) = std::env::var_os(GUARD) else { return };
    let ended = Path::new(&folder).join("ended");
    let end_device = move |resource: &str| fs::write(&ended, resource).expect("written");
    guard(std::io::stdin().lock(), &note(Path::new(&folder)), end_device).expect("guarded");
}

/// Returns when everything runs.
fn start_daemon(disk: &Disk, estate: &Estate, with_guard: bool) -> Child {
    note(disk.folder.path()).hold(estate).expect("noted");
    let mut command = this_program("dead_daemon::daemon_process", DAEMON, disk.folder.path());
    if !with_guard {
        command.env(WITHOUT_GUARD, "1");
    }
    let daemon = command.spawn().expect("this program");
    wait_until("the service runs", LIMIT, || disk.path("running").exists());
    assert!(is_mounted(estate));
    daemon
}

fn is_mounted(estate: &Estate) -> bool {
    let mounts = mountinfo::read().expect("mountinfo");
    mountinfo::at(&mounts, &estate.file_systems[0].point).is_some()
}

#[test]
fn the_guard_stops_and_unmounts_what_a_killed_daemon_left() {
    alone("dead_daemon::the_guard_stops_and_unmounts_what_a_killed_daemon_left", || {
        let Some(disk) = Disk::new() else { return };
        let estate = estate(&disk);
        let mut daemon = start_daemon(&disk, &estate, true);
        let mut user = Squatter::new("trap '' TERM", &estate.file_systems[0].point);
        daemon.kill().expect("our child");
        daemon.wait().expect("our child");
        let note = note(disk.folder.path());
        wait_until("nothing is held", LIMIT, || note.read().is_ok_and(|held| held.is_empty()));
        assert!(!is_mounted(&estate) && !disk.is_in_use());
        assert!(!disk.path("running").exists(), "the stop command was run");
        assert!(!user.is_alive(), "who used it is ended");
        let ended = fs::read_to_string(disk.path("ended")).expect("the device was ended");
        assert_eq!(ended, "r0");
    });
}

#[test]
fn the_next_daemon_clears_what_was_left_without_a_guard() {
    alone("dead_daemon::the_next_daemon_clears_what_was_left_without_a_guard", || {
        let Some(disk) = Disk::new() else { return };
        let estate = estate(&disk);
        let mut daemon = start_daemon(&disk, &estate, false);
        daemon.kill().expect("our child");
        daemon.wait().expect("our child");
        assert!(is_mounted(&estate), "nobody was there to clear it");
        let note = note(disk.folder.path());
        let cleared = block_on(clear(&note, &[], |_| {}));
        assert!(cleared.len() == 1 && cleared[0].is_complete(), "{cleared:?}");
        assert!(!is_mounted(&estate) && !disk.path("running").exists());
        assert!(note.read().expect("a note").is_empty());
    });
}

#[test]
fn a_mount_that_nobody_noted_is_cleared_by_the_configuration() {
    alone("dead_daemon::a_mount_that_nobody_noted_is_cleared_by_the_configuration", || {
        let Some(disk) = Disk::new() else { return };
        let estate = estate(&disk);
        let note = note(disk.folder.path());
        let configured = std::slice::from_ref(&estate);
        assert!(block_on(clear(&note, configured, |_| {})).is_empty(), "nothing is mounted");
        block_on(estate.file_systems[0].perform()).expect("mounted");
        let cleared = block_on(clear(&note, configured, |_| {}));
        assert!(cleared.len() == 1 && cleared[0].is_complete(), "{cleared:?}");
        assert_eq!(cleared[0].stop_errors.len(), 1, "there was nothing to stop: {cleared:?}");
        assert!(!is_mounted(&estate));
    });
}
