//! A node dies, leaves without a word, or its cable is pulled, in the middle of the writing.

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

/// The kernel takes over with every answered write; what the two differ in is copied back.
fn killed_primary(lab: &mut Lab) {
    let mut written = Written::default();
    for _ in 0..2 {
        let load = lab.load(Side::Twin, written);
        load.wait_for(300);
        lab.twin.kill();
        let (asked, result) = load.end_with_result();
        assert!(result.is_err(), "the device is gone");
        written = asked;
        lab.kernel.wait("the loss", |status| status.connection == "WFConnection");
        lab.primary(Side::Kernel);
        let mut device = lab.device(Side::Kernel);
        written.check(&mut *device);
        written.adopt(&mut *device);
        written.write_all(&mut *device, (0..100).map(|index| index * 31));
        lab.twin.start();
        lab.call(Side::Twin, &["up", RESOURCE]);
        lab.assert_equal();
        written.check(&mut *device);
        drop(device);
        lab.secondary(Side::Kernel);
        lab.primary(Side::Twin);
        written.check(&mut *lab.device(Side::Twin));
    }
    lab.secondary(Side::Twin);
}

/// The kernel goes on without an error; the twin gets what it missed.
fn killed_secondary(lab: &mut Lab) {
    lab.primary(Side::Kernel);
    let load = lab.load(Side::Kernel, Written::default());
    for _ in 0..2 {
        load.wait_for(300);
        lab.twin.kill();
        lab.kernel.wait("the loss", |status| status.connection == "WFConnection");
        load.wait_for(100);
        lab.twin.start();
        lab.call(Side::Twin, &["up", RESOURCE]);
        lab.twin.wait("the connection", |status| status.connection.as_str() >= "Connected");
    }
    load.wait_for(100);
    let written = load.end();
    lab.assert_equal();
    written.check(&mut *lab.device(Side::Kernel));
}

#[test]
fn a_killed_twin_comes_back() {
    in_guest(&["32M", "32M"], || {
        let mut lab = Lab::in_sync(Options::default(), Side::Twin);
        killed_primary(&mut lab);
        killed_secondary(&mut lab);
    });
}

/// The kernel's side leaves in every way it has while the twin is written to.
fn leaving_kernel(lab: &Lab) {
    lab.primary(Side::Twin);
    let load = lab.load(Side::Twin, Written::default());
    let ways: [(&[&str], &[&str]); 4] = [
        (&["disconnect", "--force", RESOURCE], &["connect", RESOURCE]),
        (&["disconnect", RESOURCE], &["connect", RESOURCE]),
        (&["down", RESOURCE], &["up", RESOURCE]),
        (&["detach", RESOURCE], &["attach", RESOURCE]),
    ];
    for (leave, back) in ways {
        load.wait_for(200);
        lab.kernel.succeed(leave);
        load.wait_for(100);
        lab.kernel.succeed(back);
    }
    load.wait_for(100);
    let written = load.end();
    lab.assert_equal();
    written.check(&mut *lab.device(Side::Twin));
    lab.secondary(Side::Twin);
}

/// Silence: both notice by their own clocks, the Primary goes on, and they find each other again.
#[test]
fn a_pulled_cable_is_noticed_and_mended() {
    in_guest(&["32M", "32M"], || {
        let lab = Lab::in_sync(Options::default(), Side::Kernel);
        let mut written = Written::default();
        for primary in Side::BOTH {
            if primary == Side::Twin {
                lab.secondary(Side::Kernel);
                lab.primary(Side::Twin);
            }
            let load = lab.load(primary, written);
            load.wait_for(100);
            lab.cut();
            lab.wait_apart();
            load.wait_for(100);
            lab.mend();
            lab.kernel.wait("the connection", |status| {
                status.connection == "Connected" || status.connection.starts_with("Sync")
            });
            load.wait_for(100);
            written = load.end();
            lab.assert_equal();
            written.check(&mut *lab.device(primary));
        }
    });
}

/// A Primary without a disk reads from and writes to the other's; its own disk gets what it missed.
fn diskless_primary(lab: &Lab) {
    let mut written = Written::default();
    for primary in Side::BOTH {
        lab.primary(primary);
        let load = lab.load(primary, written);
        load.wait_for(100);
        lab.call(primary, &["detach", RESOURCE]);
        lab.wait_for("Diskless", |kernel| {
            let own = if primary == Side::Kernel { &kernel.disk } else { &kernel.peer_disk };
            own == "Diskless"
        });
        load.wait_for(100);
        written = load.end();
        written.check(&mut *lab.device(primary));
        let before = lab.moved();
        lab.call(primary, &["attach", RESOURCE]);
        lab.assert_equal();
        assert!(lab.moved() > before, "what it missed came");
        written.check(&mut *lab.device(primary));
        lab.secondary(primary);
    }
}

#[test]
fn either_side_goes_on_without_the_other_and_without_its_disk() {
    in_guest(&["32M", "32M"], || {
        let lab = Lab::in_sync(Options::default(), Side::Kernel);
        lab.secondary(Side::Kernel);
        leaving_kernel(&lab);
        diskless_primary(&lab);
    });
}
