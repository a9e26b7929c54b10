//! Whoever uses the file system when it is to go.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use super::alone::{alone, block_on, wait_until};
use super::disk::{Disk, Squatter};

#[test]
fn the_polite_and_the_stubborn_are_ended_and_named() {
    alone("in_the_way::the_polite_and_the_stubborn_are_ended_and_named", || {
        let Some(disk) = Disk::new() else { return };
        let step = disk.file_system();
        block_on(step.perform()).expect("mounted");
        let mut polite =
            Squatter::new("cd /; exec 7>\"$OLDPWD\"/file; cd \"$OLDPWD\"", &step.point);
        let mut stubborn = Squatter::new("trap '' TERM", &step.point);
        let mut stranger = Squatter::new("true", disk.folder.path());
        let done = block_on(step.undo()).expect("unmounted");
        assert!(done.lazily.is_none(), "{done:?}");
        for squatter in [&polite, &stubborn] {
            let is_named = |user: &twinblk::service::users::User| user.process == squatter.0.id();
            assert!(done.ended.iter().any(is_named), "{done:?}");
        }
        wait_until("they are gone", Duration::from_secs(2), || {
            !polite.is_alive() && !stubborn.is_alive()
        });
        assert!(stranger.is_alive(), "who is elsewhere is left alone");
        assert!(!disk.is_in_use());
    });
}

#[test]
fn the_daemon_itself_is_not_ended_but_let_go_of() {
    alone("in_the_way::the_daemon_itself_is_not_ended_but_let_go_of", || {
        let Some(disk) = Disk::new() else { return };
        let mut step = disk.file_system();
        step.unmount_limits.kill = Duration::from_millis(300);
        block_on(step.perform()).expect("mounted");
        let own = File::create(step.point.join("file")).expect("a file");
        let started = Instant::now();
        let done = block_on(step.undo()).expect("let go");
        let why = done.lazily.expect("the last resort");
        assert!(why.contains(&format!("process {}", std::process::id())), "{why}");
        assert!(why.contains("started this daemon"), "{why}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert!(done.ended.is_empty(), "{:?}", done.ended);
        assert!(!block_on(step.is_done()).expect("an answer"));
        assert!(disk.is_in_use(), "as long as somebody has a file of it open");
        drop(own);
        wait_until("the device is free", Duration::from_secs(5), || !disk.is_in_use());
    });
}

#[test]
fn a_loop_device_on_it_is_named() {
    alone("in_the_way::a_loop_device_on_it_is_named", || {
        let Some(disk) = Disk::new() else { return };
        let mut step = disk.file_system();
        step.unmount_limits.terminate = Duration::from_millis(100);
        step.unmount_limits.kill = Duration::from_millis(100);
        block_on(step.perform()).expect("mounted");
        let image = step.point.join("image");
        File::create(&image).and_then(|file| file.set_len(1 << 20)).expect("an image");
        let image = image.display().to_string();
        let inner = super::alone::must("losetup", &["--find", "--show", &image]);
        let done = block_on(step.undo()).expect("let go");
        super::alone::must("losetup", &["--detach", &inner]);
        assert_eq!(done.lazily, Some(format!("{inner} lies on it")));
        wait_until("the device is free", Duration::from_secs(5), || !disk.is_in_use());
        assert!(fs::read_dir(&step.point).is_ok_and(|mut entries| entries.next().is_none()));
    });
}
