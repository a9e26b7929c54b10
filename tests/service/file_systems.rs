//! Mounted and unmounted in order.

use std::fs;

use twinblk::service::{ServiceError, Unmounted};

use super::alone::{alone, block_on, must};
use super::disk::Disk;

#[test]
fn mounted_and_unmounted_as_often_as_it_is_asked_for() {
    alone("file_systems::mounted_and_unmounted_as_often_as_it_is_asked_for", || {
        let Some(disk) = Disk::new() else { return };
        let step = disk.file_system();
        let mounted_options = || must("findmnt", &["-no", "OPTIONS", &disk.loop_device]);
        block_on(async {
            assert!(!step.is_done().await.expect("an answer"));
            assert_eq!(step.undo().await.expect("nothing to do"), Unmounted::default());
            for _ in 0..2 {
                step.perform().await.expect("mounted");
                assert!(step.is_done().await.expect("an answer"));
            }
            let options = mounted_options();
            assert!(options.contains("noatime") && options.contains("nodev"), "{options}");
            fs::write(step.point.join("row"), "1").expect("writable");
            for _ in 0..2 {
                assert_eq!(step.undo().await.expect("unmounted"), Unmounted::default());
                assert!(!step.is_done().await.expect("an answer"));
            }
            assert!(!disk.is_in_use());
            step.perform().await.expect("mounted again");
            assert_eq!(fs::read_to_string(step.point.join("row")).expect("kept"), "1");
            step.undo().await.expect("unmounted");
        });
    });
}

#[test]
fn what_somebody_else_mounted_there_is_left_alone() {
    alone("file_systems::what_somebody_else_mounted_there_is_left_alone", || {
        let Some(disk) = Disk::new() else { return };
        let step = disk.file_system();
        fs::create_dir_all(&step.point).expect("the point");
        let point = step.point.display().to_string();
        must("mount", &["-t", "tmpfs", "stranger", &point]);
        block_on(async {
            let error = step.perform().await.expect_err("occupied");
            assert!(matches!(error, ServiceError::Occupied { .. }), "{error:?}");
            assert!(error.to_string().contains("stranger"), "{error}");
            assert_eq!(error.hint(), format!("umount {point}"));
            assert_eq!(step.undo().await.expect("nothing of ours"), Unmounted::default());
        });
        assert_eq!(must("findmnt", &["-no", "SOURCE", &point]), "stranger");
    });
}

#[test]
fn a_disk_without_file_system_is_refused_with_the_words_of_mount() {
    alone("file_systems::a_disk_without_file_system_is_refused_with_the_words_of_mount", || {
        let Some(disk) = Disk::new() else { return };
        must("wipefs", &["-qa", &disk.loop_device]);
        let step = disk.file_system();
        let error = block_on(step.perform()).expect_err("nothing to mount");
        let said = error.to_string();
        assert!(said.contains("wrong fs type"), "{said}");
        assert!(error.hint().contains("dmesg"), "{}", error.hint());
        assert!(!block_on(step.is_done()).expect("an answer"));
    });
}

#[test]
fn what_is_mounted_below_goes_first() {
    alone("file_systems::what_is_mounted_below_goes_first", || {
        let Some(disk) = Disk::new() else { return };
        let step = disk.file_system();
        block_on(step.perform()).expect("mounted");
        for below in ["cache", "cache/deep"] {
            let below = step.point.join(below);
            fs::create_dir_all(&below).expect("a folder");
            must("mount", &["-t", "tmpfs", "none", &below.display().to_string()]);
        }
        assert_eq!(block_on(step.undo()).expect("unmounted"), Unmounted::default());
        assert!(!disk.is_in_use());
    });
}
