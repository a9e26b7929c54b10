//! From two empty disks to two equal ones, from either side, while the Primary is written to.

use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

fn first_sync(lab: &Lab, source: Side) {
    lab.wait_for("both Inconsistent", |kernel| kernel.disk == "Inconsistent");
    let (kernel, twin) = lab.states();
    assert_eq!(kernel.protocol, twin.protocol);
    lab.force_primary(source);
    let load = lab.load(source, Written::default());
    load.wait_for(300);
    let written = load.end();
    lab.assert_equal();
    written.check(&mut *lab.device(source));
    lab.secondary(source);
    lab.primary(source.other());
    written.check(&mut *lab.device(source.other()));
    lab.assert_equal();
}

#[test]
fn either_side_fills_the_other() {
    in_guest(&["32M", "32M"], || {
        let lab = Lab::connected(Options::default());
        first_sync(&lab, Side::Kernel);
        lab.secondary(Side::Twin);
        lab.begin_again();
        first_sync(&lab, Side::Twin);
    });
}
